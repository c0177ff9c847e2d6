//! What commits did to offsets, kept apart from the state machine and with no code of it.

use std::collections::BTreeMap;

use tidelog_metadata_state::{BatchOutcome, CommitSegment, Outcome, State};
use tidelog_types::{Offset, ProducerStamp, SegmentId, TopicId, TopicPartition};

use crate::oracle::Checked;

/// Offsets that were given.
#[derive(Debug, Default)]
pub struct Offsets {
    ends: BTreeMap<TopicPartition, i64>,
    /// Which segment holds the batch that begins at an offset, and how many records it has.
    values: BTreeMap<(TopicPartition, Offset), (SegmentId, u32)>,
    /// Where each stamped batch landed.
    stamped: BTreeMap<(TopicPartition, StampKey), Offset>,
}

/// A stamp in an order.
type StampKey = (i64, i16, i32);

fn key(stamp: ProducerStamp) -> StampKey {
    (stamp.id.get(), stamp.epoch.get(), stamp.base_sequence.get())
}

impl Offsets {
    /// Notes a commit with its outcome, and checks it.
    pub fn committed(&mut self, commit: &CommitSegment, outcome: &Outcome) -> Checked {
        let Outcome::SegmentCommitted(outcomes) = outcome else { return Ok(()) };
        for (slice, outcomes) in commit.slices.iter().zip(outcomes) {
            let at = slice.partition;
            for (batch, outcome) in slice.batches.iter().zip(outcomes) {
                let stamped = batch.producer.map(|stamp| (at, key(stamp)));
                let original = stamped.and_then(|stamped| self.stamped.get(&stamped).copied());
                match outcome {
                    BatchOutcome::Appended { base_offset } => {
                        let end = self.ends.entry(at).or_insert(0);
                        if base_offset.get() != *end {
                            return Err((
                                "INV-4",
                                format!("{at}: a batch got {base_offset}, the end was {end}"),
                            ));
                        }
                        if let Some(original) = original {
                            return Err((
                                "INV-8",
                                format!("{at}: {:?} landed at {original} and {base_offset}", batch.producer),
                            ));
                        }
                        *end += i64::from(batch.records);
                        self.values.insert((at, *base_offset), (commit.id, batch.records));
                        if let Some(stamped) = stamped {
                            self.stamped.insert(stamped, *base_offset);
                        }
                    }
                    BatchOutcome::Duplicate { base_offset } if original != Some(*base_offset) => {
                        return Err((
                            "INV-8",
                            format!(
                                "{at}: {:?} landed at {original:?}, its repeat got {base_offset}",
                                batch.producer
                            ),
                        ));
                    }
                    BatchOutcome::Duplicate { .. } | BatchOutcome::Refused(_) => {}
                }
            }
        }
        Ok(())
    }

    /// The topic's offsets are nobody's business any more.
    pub fn topic_deleted(&mut self, topic: TopicId) {
        self.ends.retain(|at, _| at.topic != topic);
        self.values.retain(|(at, _), _| at.topic != topic);
        self.stamped.retain(|(at, _), _| at.topic != topic);
    }

    /// Compares what a state says of offsets with what was given.
    pub fn check(&self, state: &State) -> Checked {
        for (at, end) in &self.ends {
            let Some(partition) = state.partition(*at) else {
                return Err(("INV-1", format!("{at} is gone")));
            };
            if partition.end().get() != *end {
                return Err((
                    "INV-4",
                    format!("{at} ends at {}, given were offsets up to {end}", partition.end()),
                ));
            }
            let mut expected = None;
            for slice in partition.slices().iter() {
                if expected.is_some_and(|expected| expected != slice.base_offset) {
                    return Err(("INV-4", format!("{at}: a gap before {}", slice.base_offset)));
                }
                expected = Some(slice.end_offset());
                let object = state.object(slice.object).map(|object| object.id);
                for ((_, base), (segment, _)) in
                    self.values.range((*at, slice.base_offset)..(*at, slice.end_offset()))
                {
                    if object != Some(*segment) {
                        return Err((
                            "INV-3",
                            format!("{at} offset {base} is in {object:?}, it was in {segment}"),
                        ));
                    }
                }
                if !self.values.contains_key(&(*at, slice.base_offset)) {
                    return Err((
                        "INV-3",
                        format!("{at}: a slice begins at {}, no batch does", slice.base_offset),
                    ));
                }
            }
            let first = partition.slices().first().map_or(partition.end(), |slice| slice.base_offset);
            if first > partition.log_start() || expected.is_some_and(|last| last != partition.end()) {
                return Err((
                    "INV-1",
                    format!("{at}: slices cover {first}.., the log starts at {}", partition.log_start()),
                ));
            }
        }
        Ok(())
    }
}
