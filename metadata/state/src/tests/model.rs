//! An independent account of offsets and producers: it remembers everything, and is too simple to be wrong.

use std::collections::BTreeMap;

use tidelog_types::{Offset, ProducerEpoch, ProducerId, Sequence, TopicPartition};

use super::bed::offset;
use crate::command::{BatchCommit, BatchOutcome, BatchRefusal};
use crate::state::State;

/// A batch that was appended.
struct Sent {
    base_sequence: i64,
    records: u32,
    base_offset: Offset,
}

#[derive(Default)]
pub struct PartitionModel {
    pub log_start: i64,
    pub end: i64,
    sent: BTreeMap<(ProducerId, ProducerEpoch), Vec<Sent>>,
}

#[derive(Default)]
pub struct Model {
    pub partitions: BTreeMap<TopicPartition, PartitionModel>,
    pub producers: BTreeMap<ProducerId, ProducerEpoch>,
}

impl Model {
    /// The sequence that comes next: the number of records so far.
    pub fn expected(&self, at: TopicPartition, id: ProducerId, epoch: ProducerEpoch) -> i32 {
        let sent = self.partitions.get(&at).and_then(|partition| partition.sent.get(&(id, epoch)));
        let records: i64 = sent.into_iter().flatten().map(|sent| i64::from(sent.records)).sum();
        i32::try_from(records % (1 << 31)).expect("below 2^31")
    }

    /// Sequence and records of the batch that was appended `back` batches ago, 0 being the last.
    pub fn sent(
        &self,
        at: TopicPartition,
        id: ProducerId,
        epoch: ProducerEpoch,
        back: usize,
    ) -> Option<(i32, u32)> {
        let sent = self.partitions.get(&at)?.sent.get(&(id, epoch))?.iter().rev().nth(back)?;
        Some((i32::try_from(sent.base_sequence).ok()?, sent.records))
    }

    /// What has to come of a batch; `partitions` is how many the topic has, if it exists.
    pub fn commit(
        &mut self,
        at: TopicPartition,
        partitions: Option<u32>,
        batch: &BatchCommit,
    ) -> BatchOutcome {
        let refused = BatchOutcome::Refused;
        let Some(partitions) = partitions else { return refused(BatchRefusal::UnknownTopic) };
        if !self.partitions.contains_key(&at) {
            return refused(BatchRefusal::UnknownPartition { partitions });
        }
        if let Some(stamp) = batch.producer {
            let Some(current) = self.producers.get(&stamp.id).copied() else {
                return refused(BatchRefusal::UnknownProducer);
            };
            if stamp.epoch != current {
                return refused(if stamp.epoch < current {
                    BatchRefusal::ProducerFenced { current }
                } else {
                    BatchRefusal::UnknownProducer
                });
            }
            let sequence = stamp.base_sequence.get();
            for back in 0..5 {
                if self.sent(at, stamp.id, stamp.epoch, back) == Some((sequence, batch.records)) {
                    let sent = &self.partitions[&at].sent[&(stamp.id, stamp.epoch)];
                    return BatchOutcome::Duplicate { base_offset: sent[sent.len() - 1 - back].base_offset };
                }
            }
            let expected = self.expected(at, stamp.id, stamp.epoch);
            if sequence != expected {
                let expected = Sequence::new(expected).expect("a sequence");
                return refused(BatchRefusal::OutOfOrderSequence { expected });
            }
        }
        let partition = self.partitions.get_mut(&at).expect("it was looked up");
        let base_offset = offset(partition.end);
        partition.end += i64::from(batch.records);
        if let Some(stamp) = batch.producer {
            let base_sequence = stamp.base_sequence.get().into();
            let sent = Sent { base_sequence, records: batch.records, base_offset };
            partition.sent.entry((stamp.id, stamp.epoch)).or_default().push(sent);
        }
        BatchOutcome::Appended { base_offset }
    }

    /// Forgets what the state does not know any more, and compares the rest.
    pub fn follow(&mut self, state: &State) {
        self.partitions.retain(|at, _| state.partition(*at).is_some());
        for topic in state.topics.values() {
            for (at, partition) in topic.partitions() {
                let model = self.partitions.entry(at).or_default();
                assert_eq!(model.end, partition.end().get(), "end of {at}");
                assert_eq!(model.log_start, partition.log_start().get(), "log start of {at}");
            }
        }
        self.producers = state.producers.iter().map(|(id, producer)| (*id, producer.epoch)).collect();
        for partition in self.partitions.values_mut() {
            partition.sent.retain(|(id, _), _| self.producers.contains_key(id));
        }
    }
}
