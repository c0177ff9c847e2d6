//! A running digest of all outcomes. Two replicas that applied the same entries and differ in it differ in what they
//! know, and the one that is not the leader stops.
//!
//! The step is the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over `digest + word`; it guards against
//! mistakes, not against forgery.

use crate::command::{BatchOutcome, BatchRefusal, Outcome, Refusal};
use crate::group::command::{GroupOutcome, GroupRefusal, OffsetOutcome};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Digest(pub u64);

impl Digest {
    pub(crate) fn word(&mut self, word: u64) {
        let mut z = self.0.wrapping_add(word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = z ^ (z >> 31);
    }

    fn signed(&mut self, word: i64) {
        self.word(u64::from_ne_bytes(word.to_ne_bytes()));
    }

    pub(crate) fn outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::TopicCreated(topic) => {
                self.word(1);
                self.word(topic.0);
            }
            Outcome::TopicUpdated => self.word(2),
            Outcome::PartitionsAdded => self.word(3),
            Outcome::TopicDeleted => self.word(4),
            Outcome::RecordsDeleted { log_start } => {
                self.word(5);
                self.signed(log_start.get());
            }
            Outcome::ProducerReady { id, epoch } => {
                self.word(6);
                self.signed(id.get());
                self.signed(epoch.get().into());
            }
            Outcome::SegmentCommitted(slices) => {
                self.word(7);
                slices.iter().flatten().for_each(|batch| self.batch(*batch));
            }
            Outcome::ProducersExpired(count) => {
                self.word(8);
                self.word((*count).into());
            }
            Outcome::TruncationNoted => self.word(9),
            Outcome::Refused(refusal) => {
                self.word(10);
                self.word(refusal_code(refusal));
            }
            Outcome::Group(outcome) => {
                self.word(11);
                self.group(outcome);
            }
            Outcome::OffsetsExpired(count) => {
                self.word(12);
                self.word((*count).into());
            }
        }
    }

    fn group(&mut self, outcome: &GroupOutcome) {
        match outcome {
            GroupOutcome::Joined => self.word(1),
            GroupOutcome::PatternResolved => self.word(2),
            GroupOutcome::Left => self.word(3),
            GroupOutcome::Expired => self.word(4),
            GroupOutcome::Released(count) => {
                self.word(5);
                self.word((*count).into());
            }
            GroupOutcome::Assigned => self.word(6),
            GroupOutcome::OffsetsCommitted(outcomes) => {
                self.word(7);
                outcomes.iter().for_each(|outcome| {
                    self.word(match outcome {
                        OffsetOutcome::Committed => 1,
                        OffsetOutcome::UnknownTopic => 2,
                        OffsetOutcome::UnknownPartition => 3,
                        OffsetOutcome::UnknownMember => 4,
                        OffsetOutcome::StaleGeneration => 5,
                        OffsetOutcome::Superseded => 6,
                        OffsetOutcome::GroupNotEmpty => 7,
                    });
                });
            }
            GroupOutcome::Deleted => self.word(8),
        }
    }

    fn batch(&mut self, batch: BatchOutcome) {
        match batch {
            BatchOutcome::Appended { base_offset } => {
                self.word(1);
                self.signed(base_offset.get());
            }
            BatchOutcome::Duplicate { base_offset } => {
                self.word(2);
                self.signed(base_offset.get());
            }
            BatchOutcome::Refused(refusal) => {
                self.word(3);
                self.word(match refusal {
                    BatchRefusal::UnknownTopic => 1,
                    BatchRefusal::UnknownPartition { .. } => 2,
                    BatchRefusal::OffsetsExhausted => 3,
                    BatchRefusal::OutOfOrderSequence { .. } => 4,
                    BatchRefusal::ProducerFenced { .. } => 5,
                    BatchRefusal::UnknownProducer => 6,
                });
            }
        }
    }
}

fn refusal_code(refusal: &Refusal) -> u64 {
    match refusal {
        Refusal::TopicExists { .. } => 1,
        Refusal::UnknownTopic => 2,
        Refusal::UnknownPartition { .. } => 3,
        Refusal::PartitionCount { .. } => 4,
        Refusal::ClusterPartitions { .. } => 5,
        Refusal::Config(_) => 6,
        Refusal::OffsetOutOfRange { .. } => 7,
        Refusal::UnknownProducer => 8,
        Refusal::ProducerFenced { .. } => 9,
        Refusal::BelowFloor { .. } => 10,
        Refusal::Superseded => 11,
        Refusal::Malformed => 12,
        Refusal::Group(refusal) => match refusal {
            GroupRefusal::UnknownGroup => 13,
            GroupRefusal::UnknownMember => 14,
            GroupRefusal::MemberExists => 15,
            GroupRefusal::Full { .. } => 16,
            GroupRefusal::NotEmpty { .. } => 17,
            GroupRefusal::StaleGeneration { .. } => 18,
            GroupRefusal::Renewed => 19,
        },
    }
}
