//! From an uploaded segment to its commit, and from the commit's outcome to the answers: decisions only, no I/O.

use std::sync::Arc;

use bytes::Bytes;
use tidelog_metadata_state::{BatchCommit, BatchOutcome, CommitSegment, SliceCommit};
use tidelog_types::{LogIndex, ProducerStamp, SegmentId, TimestampMs, TopicName, TopicPartition};

use super::error::ProduceError;
use super::request::{Answers, ProduceAck, ProduceResult, ProduceSession, Turn};
use crate::cache::CachedBatch;

/// What an entry of the metadata log needs per slice and per batch of a commit in bytes: the numbers of a `SliceCommit` as
/// protobuf, for batches below 256 MiB. A batch can need 3 more, if its timestamp is far from that of its neighbour.
const SLICE_COMMIT_BYTES: usize = 32;
const BATCH_COMMIT_BYTES: usize = 16;
const STAMP_COMMIT_BYTES: usize = 32;

/// Most bytes of a commit: an entry holds 64 KiB on the backend with the lowest cap, and shares it with its frame.
pub(crate) const COMMIT_BYTES_MAX: usize = 48 * 1024;

/// How much a batch adds to the commit's size, at most.
pub(crate) fn commit_bytes(is_new_slice: bool, is_stamped: bool) -> usize {
    BATCH_COMMIT_BYTES
        + if is_new_slice { SLICE_COMMIT_BYTES } else { 0 }
        + if is_stamped { STAMP_COMMIT_BYTES } else { 0 }
}

/// Position of a batch among all that the agent took, rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Arrival(pub u64);

/// A batch on its way, and whom to tell what became of it.
#[derive(Debug)]
pub(crate) struct PendingBatch {
    pub arrival: Arrival,
    pub topic: TopicName,
    pub partition: TopicPartition,
    pub records: u32,
    pub max_timestamp: TimestampMs,
    pub stamp: Option<ProducerStamp>,
    /// Its session, and where it stands in it.
    pub session: Option<(ProduceSession, Turn)>,
    pub answers: Arc<Answers>,
    /// Position of the batch in its request.
    pub position: usize,
}

impl PendingBatch {
    /// Answers the batch. A failure fails its session.
    pub fn decide(&self, result: ProduceResult) {
        if result.is_err()
            && let Some((session, turn)) = &self.session
        {
            session.fail_at(&self.topic, self.partition.partition, *turn);
        }
        self.answers.decide(self.position, result);
    }

    /// Whether an earlier batch of its session failed.
    pub fn follows_a_failure(&self) -> bool {
        self.session.as_ref().is_some_and(|(session, turn)| {
            session.failed_before(&self.topic, self.partition.partition, *turn)
        })
    }

    /// What a batch's outcome in the log means for whoever sent it.
    fn result(&self, outcome: BatchOutcome) -> ProduceResult {
        let (base_offset, duplicate) = match outcome {
            BatchOutcome::Appended { base_offset } => (base_offset, false),
            BatchOutcome::Duplicate { base_offset } => (base_offset, true),
            BatchOutcome::Refused(refusal) => {
                return Err(ProduceError::refused(refusal, &self.topic, self.partition.partition));
            }
        };
        // The state machine has checked the sum before it gave the offsets.
        let end_offset = base_offset.checked_add(self.records).ok_or(ProduceError::OffsetsExhausted)?;
        Ok(ProduceAck { topic: self.partition.topic, base_offset, end_offset, duplicate })
    }
}

/// A batch where it lies in its segment.
#[derive(Debug)]
pub(crate) struct PlacedBatch {
    pub pending: PendingBatch,
    /// Where it begins in the object.
    pub object_position: u32,
    pub bytes: Bytes,
}

impl PlacedBatch {
    /// The batch as it is cached.
    pub fn cached(&self) -> CachedBatch {
        let bytes = self.bytes.clone();
        CachedBatch { position: self.object_position, records: self.pending.records, bytes }
    }

    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }
}

/// The commit of some batches of a segment, which are given in the order of their bytes. Batches that were left out
/// leave gaps; a slice ends before each.
pub(crate) fn commit_of(
    named_at: LogIndex,
    id: SegmentId,
    size_bytes: u32,
    batches: &[PlacedBatch],
) -> CommitSegment {
    let mut slices: Vec<SliceCommit> = Vec::new();
    let mut end_of_last = 0;
    for placed in batches {
        let pending = &placed.pending;
        let batch = BatchCommit {
            length: placed.length(),
            records: pending.records,
            max_timestamp: pending.max_timestamp,
            producer: pending.stamp,
        };
        match slices.last_mut() {
            Some(slice) if slice.partition == pending.partition && placed.object_position == end_of_last => {
                slice.batches.push(batch);
            }
            _ => slices.push(SliceCommit {
                partition: pending.partition,
                position: placed.object_position,
                batches: vec![batch],
            }),
        }
        end_of_last = placed.object_position.saturating_add(placed.length());
    }
    CommitSegment { named_at, id, size_bytes, slices }
}

/// What became of the batches, in their order, from the outcomes of [`commit_of`]'s command.
pub(crate) fn results_of(batches: &[PlacedBatch], outcomes: &[Vec<BatchOutcome>]) -> Vec<ProduceResult> {
    let mut flat = outcomes.iter().flatten();
    let unanswered =
        || ProduceError::Unknown { cause: "the commit's outcome names fewer batches".to_owned() };
    batches.iter().map(|placed| placed.pending.result(*flat.next().ok_or_else(unanswered)?)).collect()
}
