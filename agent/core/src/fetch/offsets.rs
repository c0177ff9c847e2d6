//! Finding offsets: the ends of a partition, or by time.

use futures::StreamExt;
use tidelog_types::{Offset, PartitionIndex, TimestampMs, TopicId, TopicName};

use super::plan::{PlannedSlice, find};
use super::{FetchError, Fetcher, failed};
use crate::batch::first_at_or_after;

/// What offset to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetQuery {
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
    /// That of the first record whose timestamp is this or later.
    AtTime(TimestampMs),
}

/// Where to find an offset.
#[derive(Debug, Clone)]
pub struct OffsetWanted {
    /// The topic's name.
    pub topic: TopicName,
    /// The topic's id, to be refused if the name belongs to another topic by now.
    pub topic_id: Option<TopicId>,
    /// The partition.
    pub partition: PartitionIndex,
    /// What to find.
    pub query: OffsetQuery,
}

/// An offset that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundOffset {
    /// The topic's id.
    pub topic: TopicId,
    /// The offset. By time, if no record is so late: the high watermark.
    pub offset: Offset,
    /// By time: the record's timestamp, if there is such a record.
    pub timestamp: Option<TimestampMs>,
}

/// Queries answered at the same time.
const QUERIES_AT_ONCE: usize = 16;

/// Slices looked through between two looks at the metadata.
const SLICES_AT_ONCE: usize = 4;

impl Fetcher {
    /// Finds offsets, as of now: whatever was acknowledged before is counted. The results are in the order of the queries.
    pub async fn find_offsets(&self, wanted: &[OffsetWanted]) -> Vec<Result<FoundOffset, FetchError>> {
        if let Err(error) = self.confirm().await {
            return vec![Err(error); wanted.len()];
        }
        // A few at a time: each may read slices.
        let finding = wanted.iter().cloned().map(|wanted| async move { self.find_offset(&wanted).await });
        let finding = futures::stream::iter(finding);
        finding.buffered(QUERIES_AT_ONCE).collect().await
    }

    /// Finds an offset as this replica knows it.
    pub async fn find_offset(&self, wanted: &OffsetWanted) -> Result<FoundOffset, FetchError> {
        let OffsetWanted { topic, topic_id: id, partition, query } = wanted;
        let (id, partition) = (*id, *partition);
        let ends = self.metadata.read(|state| {
            find(state, topic, id, partition).map(|(at, found)| (at.topic, found.log_start(), found.end()))
        });
        let (topic_id, log_start, end) = ends?;
        match *query {
            OffsetQuery::Earliest => Ok(FoundOffset { topic: topic_id, offset: log_start, timestamp: None }),
            OffsetQuery::Latest => Ok(FoundOffset { topic: topic_id, offset: end, timestamp: None }),
            OffsetQuery::AtTime(time) => {
                let found = self.find_time(topic, topic_id, partition, time).await?;
                let none = FoundOffset { topic: topic_id, offset: end, timestamp: None };
                Ok(found.map_or(none, |(offset, timestamp)| FoundOffset {
                    topic: topic_id,
                    offset,
                    timestamp: Some(timestamp),
                }))
            }
        }
    }

    async fn find_time(
        &self,
        topic: &TopicName,
        id: TopicId,
        partition: PartitionIndex,
        time: TimestampMs,
    ) -> Result<Option<(Offset, TimestampMs)>, FetchError> {
        let mut from = Offset::ZERO;
        loop {
            let candidates: Result<(Offset, Vec<PlannedSlice>), FetchError> = self.metadata.read(|state| {
                let (_, found) = find(state, topic, Some(id), partition)?;
                let planned = found
                    .slices_from_time(time)
                    .filter(|slice| slice.base_offset >= from)
                    .filter_map(|slice| {
                        let object = state.object(slice.object)?;
                        let (named_at, segment) = (object.named_at, object.id);
                        Some(PlannedSlice { slice: *slice, named_at, segment, is_tail: false })
                    });
                Ok((found.log_start(), planned.take(SLICES_AT_ONCE).collect()))
            });
            let (log_start, candidates) = candidates?;
            let Some(last) = candidates.last() else { return Ok(None) };
            from = last.slice.end_offset();
            for planned in &candidates {
                let mut read = self.reader.read(std::slice::from_ref(planned)).await;
                let batches = match read.pop() {
                    Some(Ok(batches)) => batches,
                    Some(Err(error)) => return Err(failed(planned, error)),
                    None => continue,
                };
                let mut base = planned.slice.base_offset;
                for batch in batches.of_slice(&planned.slice).unwrap_or_default() {
                    let skip = log_start.distance_from(base);
                    let found = first_at_or_after(&batch.bytes, time, skip).map_err(|cause| {
                        FetchError::Corrupt { object: planned.path().to_string(), cause: cause.to_string() }
                    })?;
                    if let Some((index, timestamp)) = found
                        && let Some(offset) = base.checked_add(index)
                    {
                        return Ok(Some((offset, timestamp)));
                    }
                    let Some(next) = base.checked_add(batch.records) else { return Ok(None) };
                    base = next;
                }
            }
        }
    }
}
