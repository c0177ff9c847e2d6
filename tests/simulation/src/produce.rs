//! The part of a client that produces: segments, stamped batches, and what it does when it does not know.

use std::collections::BTreeMap;

use tidelog_metadata_node::ProposeError;
use tidelog_metadata_state::{
    BatchCommit, BatchOutcome, BatchRefusal, Command, CommitSegment, Outcome, SliceCommit, State,
};
use tidelog_types::{Offset, ProducerEpoch, ProducerId, ProducerStamp, SegmentId, Sequence, TopicPartition};
use tokio::time::sleep;

use crate::history::Attempt;
use crate::workload::{Answer, Client};
use crate::world::NODES;

/// Tries of one batch before a client gives up.
const TRIES: u32 = 8;

/// An idempotent producer as its client sees it.
#[derive(Debug)]
pub(crate) struct Producer {
    id: ProducerId,
    epoch: ProducerEpoch,
    /// The next sequence of each partition, and the last offset that was acknowledged.
    next: BTreeMap<TopicPartition, (Sequence, Option<Offset>)>,
}

impl Client {
    /// Commits a segment, and repeats what it does not know the end of, as a producer does: through another node, in
    /// another segment, under the same stamps.
    pub(crate) async fn commit(&mut self) -> bool {
        let slices = self.segment();
        if slices.is_empty() {
            return false;
        }
        let stamped = slices[0].batches[0].producer.is_some();
        let mut repeats_of_acknowledged = u32::from(self.world.lock().dice.chance(1_000));
        for _ in 0..TRIES {
            match self.commit_once(&slices).await {
                Ok(outcome) => {
                    self.acknowledged(&slices, &outcome);
                    if repeats_of_acknowledged == 0 || self.stopped() || self.producer.is_none() {
                        return true;
                    }
                    // A reply may be lost behind the node that got it, too.
                    repeats_of_acknowledged -= 1;
                }
                Err(ProposeError::Unavailable(_)) => {}
                Err(ProposeError::Unknown(_)) if stamped => {}
                Err(_) => return false,
            }
            if self.stopped() {
                break;
            }
            self.machine = self.world.lock().dice.index(NODES);
            let pause = self.world.lock().dice.ms(5, 400);
            sleep(pause).await;
        }
        if stamped {
            // What became of the batches is unknown, so the sequence cannot go on.
            self.producer = None;
        }
        false
    }

    async fn commit_once(&mut self, slices: &[SliceCommit]) -> Answer {
        let node = self.node().await;
        let named_at = node.read(State::index);
        let id = SegmentId(self.world.lock().dice.uuid());
        let command = Command::CommitSegment(CommitSegment {
            named_at,
            id,
            size_bytes: 1 << 20,
            slices: slices.to_vec(),
        });
        self.propose(command, Some(Attempt::Segment(id))).await
    }

    /// The slices of a new segment.
    fn segment(&mut self) -> Vec<SliceCommit> {
        let stamped = self.producer.is_some() && self.world.lock().dice.chance(8_000);
        let wanted = self.world.lock().dice.between(1, 3);
        let mut partitions: Vec<TopicPartition> = (0..wanted).filter_map(|_| self.some_partition()).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let mut position = 0;
        let mut slices = Vec::new();
        for partition in partitions {
            let first = position;
            let mut sequence = self.next_sequence(partition).0;
            let mut batches = Vec::new();
            let wanted = self.world.lock().dice.pick(&[1, 1, 1, 2]);
            for _ in 0..wanted {
                let records = self.world.lock().dice.pick(&[1, 1, 3, 50]);
                let stamp = |producer: &Producer| ProducerStamp {
                    id: producer.id,
                    epoch: producer.epoch,
                    base_sequence: sequence,
                };
                let producer = self.producer.as_ref().filter(|_| stamped).map(stamp);
                let max_timestamp = self.world.true_time();
                batches.push(BatchCommit { length: 100, records, max_timestamp, producer });
                position += 100;
                sequence = sequence.wrapping_add(records);
            }
            slices.push(SliceCommit { partition, position: first, batches });
        }
        slices
    }

    fn next_sequence(&self, at: TopicPartition) -> (Sequence, Option<Offset>) {
        let known = self.producer.as_ref().and_then(|producer| producer.next.get(&at).copied());
        known.unwrap_or((Sequence::ZERO, None))
    }

    fn acknowledged(&mut self, slices: &[SliceCommit], outcome: &Outcome) {
        let Outcome::SegmentCommitted(outcomes) = outcome else {
            self.world.violate("INV-1", format!("a sound segment got {outcome:?}"));
            return;
        };
        for (slice, outcomes) in slices.iter().zip(outcomes) {
            for (batch, outcome) in slice.batches.iter().zip(outcomes) {
                self.batch_acknowledged(slice.partition, batch, *outcome);
            }
        }
    }

    fn batch_acknowledged(&mut self, at: TopicPartition, batch: &BatchCommit, outcome: BatchOutcome) {
        let Some(stamp) = batch.producer else { return };
        let (next, last) = self.next_sequence(at);
        let Some(producer) = &mut self.producer else { return };
        match outcome {
            BatchOutcome::Appended { base_offset } | BatchOutcome::Duplicate { base_offset } => {
                // Only a repeat of what was acknowledged before may lie lower.
                let is_new = stamp.base_sequence == next;
                if is_new && last.is_some_and(|last| base_offset <= last) {
                    self.world.violate("INV-7", format!("{at}: {stamp:?} got {base_offset} after {last:?}"));
                } else if is_new {
                    producer.next.insert(at, (next.wrapping_add(batch.records), Some(base_offset)));
                }
            }
            BatchOutcome::Refused(BatchRefusal::UnknownTopic | BatchRefusal::UnknownPartition { .. }) => {}
            BatchOutcome::Refused(refusal) => {
                self.world
                    .violate("INV-8", format!("{at}: {stamp:?}, expected {next:?}, was refused: {refusal}"));
            }
        }
    }

    pub(crate) async fn init_producer(&mut self) -> bool {
        let existing = self.producer.take().filter(|_| self.world.lock().dice.chance(5_000));
        let existing = existing.map(|producer| (producer.id, producer.epoch));
        match self.propose(Command::InitProducer { existing }, None).await.as_deref() {
            Ok(Outcome::ProducerReady { id, epoch }) => {
                self.producer = Some(Producer { id: *id, epoch: *epoch, next: BTreeMap::new() });
                true
            }
            // An earlier repeat, whose end this client did not learn, cannot be: it forgets its id when in doubt.
            Ok(other) => {
                self.world.violate("INV-8", format!("the producer {existing:?} was refused: {other:?}"));
                false
            }
            Err(_) => false,
        }
    }
}
