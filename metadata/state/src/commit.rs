//! Committing segments: where offsets are given.

use std::sync::Arc;

use tidelog_types::{TimestampMs, TopicPartition};

use crate::command::{BatchCommit, BatchOutcome, BatchRefusal, CommitSegment, Outcome, Refusal, SliceCommit};
use crate::limits::SLICES_PER_SEGMENT_MAX;
use crate::producer::{Place, Remembered, Window};
use crate::slices::{ObjectId, Slice};
use crate::state::State;
use crate::topic::{ObjectRecord, Partition};

impl CommitSegment {
    /// Whether every batch has records and bytes, and lies inside the object.
    fn is_sound(&self) -> bool {
        let inside = |slice: &SliceCommit| {
            let bytes = slice.batches.iter().try_fold(slice.position, |end, batch| {
                let counted = batch.length > 0 && batch.records > 0;
                end.checked_add(batch.length).filter(|_| counted)
            });
            bytes.is_some_and(|end| end <= self.size_bytes) && !slice.batches.is_empty()
        };
        self.slices.len() <= SLICES_PER_SEGMENT_MAX && self.slices.iter().all(inside)
    }
}

impl State {
    pub(crate) fn commit_segment(
        &mut self,
        commit: &CommitSegment,
        changed: &mut Vec<TopicPartition>,
    ) -> Result<Outcome, Refusal> {
        if commit.named_at < self.floor {
            return Err(Refusal::BelowFloor { floor: self.floor });
        }
        if !commit.is_sound() {
            return Err(Refusal::Malformed);
        }
        let object = ObjectId(self.next_object);
        let mut references = 0;
        let outcomes = commit
            .slices
            .iter()
            .map(|slice| {
                let (outcomes, new_slices) = self.commit_slice(object, slice);
                references += new_slices;
                if new_slices > 0 {
                    changed.push(slice.partition);
                }
                outcomes
            })
            .collect();
        if references > 0 {
            self.next_object += 1;
            let record = ObjectRecord {
                named_at: commit.named_at,
                id: commit.id,
                committed: self.log_time,
                size_bytes: commit.size_bytes,
                references,
            };
            self.objects.insert(object, record);
        }
        Ok(Outcome::SegmentCommitted(outcomes))
    }

    /// Appends the batches of one partition; returns their outcomes and how many slices came into being.
    fn commit_slice(&mut self, object: ObjectId, slice: &SliceCommit) -> (Vec<BatchOutcome>, u32) {
        let refuse_all = |refusal| (vec![BatchOutcome::Refused(refusal); slice.batches.len()], 0);
        let Some(topic) = self.topics.get_mut(&slice.partition.topic) else {
            return refuse_all(BatchRefusal::UnknownTopic);
        };
        let topic = Arc::make_mut(topic);
        let partitions = topic.partition_count();
        let Some(partition) = topic.partitions.get_mut(slice.partition.partition.position()) else {
            return refuse_all(BatchRefusal::UnknownPartition { partitions });
        };
        let partition = Arc::make_mut(partition);
        let mut position = slice.position;
        let mut new_slices = 0;
        let outcomes = slice
            .batches
            .iter()
            .map(|batch| {
                let at = position;
                position += batch.length;
                match self.producers.place(partition, batch, self.log_time) {
                    Ok(Place::Duplicate(base_offset)) => BatchOutcome::Duplicate { base_offset },
                    Ok(Place::Next) => append(partition, object, at, batch, &mut new_slices),
                    Err(refusal) => BatchOutcome::Refused(refusal),
                }
            })
            .collect();
        (outcomes, new_slices)
    }

    /// Drops one slice's reference to an object; the last one takes the object's record with it.
    pub(crate) fn release(&mut self, object: ObjectId) {
        let Some(record) = self.objects.get_mut(&object) else { return };
        record.references -= 1;
        if record.references == 0 {
            self.objects.remove(&object);
        }
    }
}

trait Producers {
    fn place(
        &mut self,
        partition: &Partition,
        batch: &BatchCommit,
        now: TimestampMs,
    ) -> Result<Place, BatchRefusal>;
}

impl Producers for imbl::OrdMap<tidelog_types::ProducerId, crate::producer::Producer> {
    /// Whether a batch is the next of its producer in the partition; batches without producer always are.
    fn place(
        &mut self,
        partition: &Partition,
        batch: &BatchCommit,
        now: TimestampMs,
    ) -> Result<Place, BatchRefusal> {
        let Some(stamp) = batch.producer else { return Ok(Place::Next) };
        let producer = self.get_mut(&stamp.id).ok_or(BatchRefusal::UnknownProducer)?;
        if stamp.epoch < producer.epoch {
            return Err(BatchRefusal::ProducerFenced { current: producer.epoch });
        }
        if stamp.epoch > producer.epoch {
            return Err(BatchRefusal::UnknownProducer);
        }
        producer.last_used = now;
        Window::place(partition.windows.get(stamp.id), stamp, batch.records)
    }
}

fn append(
    partition: &mut Partition,
    object: ObjectId,
    position: u32,
    batch: &BatchCommit,
    new_slices: &mut u32,
) -> BatchOutcome {
    let base_offset = partition.end;
    let Some(end) = base_offset.checked_add(batch.records) else {
        return BatchOutcome::Refused(BatchRefusal::OffsetsExhausted);
    };
    let merged = partition.slices.push(Slice {
        base_offset,
        object,
        max_timestamp: batch.max_timestamp,
        position,
        length: batch.length,
        records: batch.records,
    });
    *new_slices += u32::from(!merged);
    partition.end = end;
    partition.bytes += u64::from(batch.length);
    if let Some(stamp) = batch.producer {
        let remembered =
            Remembered { base_sequence: stamp.base_sequence, records: batch.records, base_offset };
        partition.windows.push(stamp.id, stamp.epoch, remembered);
    }
    BatchOutcome::Appended { base_offset }
}
