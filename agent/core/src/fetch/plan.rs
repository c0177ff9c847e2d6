//! Which slices to read for a request: decisions over the metadata, no I/O.

use object_store::path::Path;
use tidelog_metadata_state::{Partition, Slice, State};
use tidelog_types::{LogIndex, Offset, PartitionIndex, SegmentId, TopicId, TopicName, TopicPartition};

use super::error::FetchError;
use crate::produce::segment_path;

/// Objects committed within this much log time before the newest entry count as the tail.
const TAIL_MS: i64 = 60_000;

/// A slice and the object that it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedSlice {
    pub slice: Slice,
    pub named_at: LogIndex,
    pub segment: SegmentId,
    /// Whether it is among the newest.
    pub is_tail: bool,
}

impl PlannedSlice {
    pub fn path(&self) -> Path {
        segment_path(self.named_at, self.segment)
    }
}

/// A partition as it stands, and the slices to read from it.
#[derive(Debug, Clone)]
pub(crate) struct PartitionPlan {
    pub at: TopicPartition,
    pub log_start: Offset,
    pub end: Offset,
    pub slices: Vec<PlannedSlice>,
    /// Bytes from the offset on in these slices, estimated for the first one.
    pub bytes: usize,
}

impl PartitionPlan {
    /// Whether all that there is from an offset on was planned.
    pub fn reaches_end(&self, offset: Offset) -> bool {
        self.slices.last().map_or(offset, |planned| planned.slice.end_offset()) >= self.end
    }

    pub fn out_of_range(&self) -> FetchError {
        FetchError::OffsetOutOfRange { earliest: self.log_start, latest: self.end }
    }
}

/// Finds a partition by its topic's name.
pub(crate) fn find<'a>(
    state: &'a State,
    topic: &TopicName,
    id: Option<TopicId>,
    partition: PartitionIndex,
) -> Result<(TopicPartition, &'a Partition), FetchError> {
    let found =
        state.topic_by_name(topic).ok_or_else(|| FetchError::UnknownTopic { topic: topic.clone() })?;
    if let Some(wanted) = id.filter(|wanted| *wanted != found.id()) {
        return Err(FetchError::TopicIdMismatch { topic: topic.clone(), wanted, found: found.id() });
    }
    let looked_at = found.partition(partition).ok_or_else(|| FetchError::UnknownPartition {
        topic: topic.clone(),
        partition,
        partitions: found.partition_count(),
    })?;
    Ok((TopicPartition { topic: found.id(), partition }, looked_at))
}

/// The slices that hold `bytes_max` bytes from `offset` on, at least one if there is any, at most `slices_max`.
pub(crate) fn plan_partition(
    state: &State,
    at: TopicPartition,
    partition: &Partition,
    offset: Offset,
    bytes_max: usize,
    slices_max: usize,
) -> PartitionPlan {
    let mut plan = PartitionPlan {
        at,
        log_start: partition.log_start(),
        end: partition.end(),
        slices: Vec::new(),
        bytes: 0,
    };
    if offset < plan.log_start || offset >= plan.end {
        return plan;
    }
    let tail_since = state.log_time().saturating_add_ms(-TAIL_MS);
    for slice in partition.slices().from_offset(offset) {
        if plan.slices.len() >= slices_max || plan.bytes >= bytes_max && !plan.slices.is_empty() {
            break;
        }
        // INV-14: the state drops an object's record with the last slice that refers to it, never before.
        let Some(object) = state.object(slice.object) else { break };
        plan.slices.push(PlannedSlice {
            slice: *slice,
            named_at: object.named_at,
            segment: object.id,
            is_tail: object.committed >= tail_since,
        });
        plan.bytes += bytes_from(slice, offset);
    }
    plan
}

/// Bytes of a slice from an offset on, as if all its records were of one size.
fn bytes_from(slice: &Slice, offset: Offset) -> usize {
    let wanted = slice.end_offset().distance_from(offset.max(slice.base_offset));
    let bytes = u64::from(slice.length) * wanted / u64::from(slice.records.max(1));
    usize::try_from(bytes.max(1)).unwrap_or(usize::MAX)
}

/// A run of slices of one object that one read brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadRange {
    pub object: PlannedSlice,
    pub range: std::ops::Range<u64>,
    /// Positions of its slices in the list that was given.
    pub members: Vec<usize>,
    pub is_tail: bool,
}

/// Bytes between two slices that are read along rather than asked for in two requests: what a network store transfers
/// in the time of a request.
const GAP_BYTES_MAX: u64 = 256 * 1024;
/// Longest range of one read.
const RANGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Joins slices of the same object that lie near each other.
pub(crate) fn coalesce(slices: &[(usize, PlannedSlice)]) -> Vec<ReadRange> {
    let mut sorted: Vec<&(usize, PlannedSlice)> = slices.iter().collect();
    sorted.sort_by_key(|(_, planned)| (planned.named_at, planned.segment, planned.slice.position));
    let mut ranges: Vec<ReadRange> = Vec::new();
    for (member, planned) in sorted {
        let start = u64::from(planned.slice.position);
        let end = start + u64::from(planned.slice.length);
        match ranges.last_mut() {
            Some(last)
                if last.object.segment == planned.segment
                    && start <= last.range.end + GAP_BYTES_MAX
                    && end - last.range.start <= RANGE_BYTES_MAX =>
            {
                last.range.end = last.range.end.max(end);
                last.members.push(*member);
                last.is_tail |= planned.is_tail;
            }
            _ => ranges.push(ReadRange {
                object: *planned,
                range: start..end,
                members: vec![*member],
                is_tail: planned.is_tail,
            }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidelog_metadata_state::ObjectId;
    use tidelog_types::TimestampMs;
    use uuid::Uuid;

    fn planned(segment: u128, position: u32, length: u32) -> PlannedSlice {
        let slice = Slice {
            base_offset: Offset::ZERO,
            object: ObjectId(1),
            max_timestamp: TimestampMs(0),
            position,
            length,
            records: 10,
        };
        PlannedSlice {
            slice,
            named_at: LogIndex(1),
            segment: SegmentId(Uuid::from_u128(segment)),
            is_tail: false,
        }
    }

    #[test]
    fn near_slices_of_one_object_are_one_read() {
        let slices = [planned(1, 1000, 100), planned(2, 0, 50), planned(1, 0, 1000), planned(1, 500_000, 10)];
        let ranges = coalesce(&slices.into_iter().enumerate().collect::<Vec<_>>());
        let summary: Vec<_> = ranges.iter().map(|r| (r.range.clone(), r.members.clone())).collect();
        assert_eq!(summary, [(0..1100, vec![2, 0]), (500_000..500_010, vec![3]), (0..50, vec![1])]);
    }

    #[test]
    fn a_range_is_bounded() {
        let mib = 1024 * 1024;
        let slices: Vec<_> = (0..20).map(|n| (n as usize, planned(1, n * mib, mib))).collect();
        let ranges = coalesce(&slices);
        assert_eq!(ranges.iter().map(|r| r.members.len()).collect::<Vec<_>>(), [16, 4]);
    }

    #[test]
    fn the_rest_of_a_slice_is_estimated() {
        let slice = planned(1, 0, 1000).slice;
        let offset = |n| Offset::new(n).expect("not negative");
        assert_eq!(bytes_from(&slice, offset(0)), 1000);
        assert_eq!(bytes_from(&slice, offset(9)), 100);
    }
}
