//! Where a consumer begins.

use tidelog_types::{Offset, PartitionIndex, TimestampMs, TopicName};

use crate::admin::{FoundOffset, OffsetAt};
use crate::connection::Client;
use crate::error::RequestError;

/// Where to begin reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record that can be read.
    Earliest,
    /// At what comes next.
    Latest,
    /// At an offset.
    Offset(Offset),
    /// So many records before what comes next, or at the first one if there are fewer.
    FromEnd(u64),
    /// At the first record whose timestamp is this or later, or at what comes next if there is none.
    Time(TimestampMs),
}

/// A place that [`StartAt`] means, with the offsets that its partition had when it was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionIndex,
    /// The offset that was meant; an offset that was given as such need not be in the partition.
    pub offset: Offset,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The offset that the next record will get.
    pub high_watermark: Offset,
}

impl Client {
    /// Finds the offsets that these places mean at present, in the same order. Fails if one of them cannot be looked up.
    pub async fn find_starts(
        &self,
        places: &[(TopicName, PartitionIndex, StartAt)],
    ) -> Result<Vec<Begin>, RequestError> {
        resolve(self, places).await
    }
}

/// Finds the offsets at which to begin.
pub(super) async fn resolve(
    client: &Client,
    assignments: &[(TopicName, PartitionIndex, StartAt)],
) -> Result<Vec<Begin>, RequestError> {
    let mut questions = Vec::with_capacity(3 * assignments.len());
    for (topic, partition, start) in assignments {
        let mut ask = |at| questions.push((topic.clone(), *partition, at));
        ask(OffsetAt::Earliest);
        ask(match start {
            StartAt::Time(time) => OffsetAt::Time(*time),
            _ => OffsetAt::Earliest,
        });
        // Asked last, so that it lies behind the others.
        ask(OffsetAt::Latest);
    }
    let mut answers = Vec::with_capacity(questions.len());
    // Below the service's limit of partitions per request.
    for some in questions.chunks(999) {
        answers.extend(client.list_offsets(some).await?);
    }
    let begins = assignments.iter().zip(answers.chunks(3)).map(|((topic, partition, start), answers)| {
        let offset = |position: usize| -> Result<Offset, RequestError> {
            let missing = || RequestError::Protocol("an offset is missing".into());
            let found: &Result<FoundOffset, RequestError> = answers.get(position).ok_or_else(missing)?;
            Ok(found.clone()?.offset)
        };
        let (log_start, found, high_watermark) = (offset(0)?, offset(1)?, offset(2)?);
        let begin = match start {
            StartAt::Earliest => log_start,
            StartAt::Latest => high_watermark,
            StartAt::Offset(offset) => *offset,
            StartAt::FromEnd(records) => from_end(log_start, high_watermark, *records),
            StartAt::Time(_) => found,
        };
        Ok(Begin { topic: topic.clone(), partition: *partition, offset: begin, log_start, high_watermark })
    });
    begins.collect()
}

fn from_end(log_start: Offset, high_watermark: Offset, records: u64) -> Offset {
    let back = i64::try_from(records).unwrap_or(i64::MAX);
    Offset::new(high_watermark.get().saturating_sub(back)).map_or(log_start, |offset| offset.max(log_start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_end_stops_at_the_log_start() {
        let at = |value| Offset::new(value).expect("in range");
        assert_eq!(from_end(at(3), at(10), 4), at(6));
        assert_eq!(from_end(at(3), at(10), 0), at(10));
        assert_eq!(from_end(at(3), at(10), 8), at(3));
        assert_eq!(from_end(at(0), at(10), u64::MAX), at(0));
    }
}
