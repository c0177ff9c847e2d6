//! Reading partitions on and on.

use std::time::Duration;

use tidelog_types::{Offset, PartitionIndex, TopicId, TopicName};

use super::offsets::{OffsetQuery, OffsetWanted};
use super::{FetchError, FetchPartition, FetchRequest, FetchedPartition, Fetcher, partition_of};

/// Where to begin reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At an offset.
    Offset(Offset),
    /// Where this query leads when the subscription begins.
    Found(OffsetQuery),
}

/// A partition to subscribe to.
#[derive(Debug, Clone)]
pub struct SubscribePartition {
    /// The topic's name.
    pub topic: TopicName,
    /// The topic's id, to be refused if the name belongs to another topic by now.
    pub topic_id: Option<TopicId>,
    /// The partition.
    pub partition: PartitionIndex,
    /// Where to begin.
    pub start: StartAt,
}

impl SubscribePartition {
    fn query(&self) -> Option<OffsetWanted> {
        let StartAt::Found(query) = self.start else { return None };
        let (topic, topic_id, partition) = (self.topic.clone(), self.topic_id, self.partition);
        Some(OffsetWanted { topic, topic_id, partition, query })
    }
}

/// Where a partition of a subscription stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The topic's name.
    pub topic: TopicName,
    /// The topic's id.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The offset that the next record will get.
    pub high_watermark: Offset,
    /// The offset that is delivered next.
    pub next_offset: Offset,
}

/// News of one partition.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The topic's name.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionIndex,
    /// What was read, or why nothing more will be: a partition that failed is not read any further.
    pub result: Result<FetchedPartition, FetchError>,
}

/// Reads some partitions on and on, each until it fails. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    fetcher: Fetcher,
    partitions: Vec<FetchPartition>,
    failed: Vec<Delivery>,
    max_bytes: usize,
}

impl Subscription {
    /// Begins; partitions that cannot be begun with are the first to be delivered, as failures.
    pub(crate) async fn begin(
        fetcher: Fetcher,
        partitions: Vec<SubscribePartition>,
        max_bytes: usize,
    ) -> Self {
        let queries: Vec<OffsetWanted> = partitions.iter().filter_map(SubscribePartition::query).collect();
        let mut found =
            if queries.is_empty() { Vec::new() } else { fetcher.find_offsets(&queries).await }.into_iter();
        let mut subscription = Self { fetcher, partitions: Vec::new(), failed: Vec::new(), max_bytes };
        let is_unknown = |wanted: &SubscribePartition| {
            matches!(wanted.start, StartAt::Offset(_)) && subscription.topic_of(wanted).is_err()
        };
        // Others may have created a topic a moment ago.
        let confirmed =
            if partitions.iter().any(is_unknown) { subscription.fetcher.confirm().await } else { Ok(()) };
        for wanted in partitions {
            let start = match wanted.start {
                StartAt::Found(_) => found.next().map(|found| found.map(|found| (found.topic, found.offset))),
                StartAt::Offset(offset) => {
                    let found = subscription.topic_of(&wanted).map(|topic| (topic, offset));
                    Some(found.or_else(|unknown| confirmed.clone().and(Err(unknown))))
                }
            };
            let SubscribePartition { topic, partition, .. } = wanted;
            match start {
                Some(Ok((topic_id, offset))) => subscription.partitions.push(FetchPartition {
                    topic,
                    topic_id: Some(topic_id),
                    partition,
                    offset,
                    max_bytes: usize::MAX,
                }),
                Some(Err(error)) => {
                    subscription.failed.push(Delivery { topic, partition, result: Err(error) })
                }
                // There are as many results as queries.
                None => {}
            }
        }
        subscription
    }

    fn topic_of(&self, wanted: &SubscribePartition) -> Result<TopicId, FetchError> {
        let found = partition_of(&self.fetcher.metadata, &wanted.topic, wanted.topic_id, wanted.partition);
        found.map(|(at, _, _)| at.topic)
    }

    /// Whether no partition is left to read.
    pub fn is_finished(&self) -> bool {
        self.partitions.is_empty() && self.failed.is_empty()
    }

    /// What there is to read next, after at most `max_wait`; empty if there was nothing. If dropped before it returns,
    /// nothing is lost.
    pub async fn next(&mut self, max_wait: Duration) -> Vec<Delivery> {
        if !self.failed.is_empty() {
            return std::mem::take(&mut self.failed);
        }
        if self.partitions.is_empty() {
            return Vec::new();
        }
        let request = FetchRequest {
            partitions: self.partitions.clone(),
            min_bytes: 1,
            max_bytes: self.max_bytes,
            max_wait,
        };
        let mut results = self.fetcher.fetch(request).await.into_iter();
        let mut deliveries = Vec::new();
        let mut delivered_bytes = false;
        self.partitions.retain_mut(|wanted| {
            let Some(result) = results.next() else { return true };
            let stays = result.is_ok();
            if let Ok(read) = &result {
                wanted.offset = read.next_offset;
                delivered_bytes |= !read.batches.is_empty();
            }
            if !matches!(&result, Ok(read) if read.batches.is_empty()) {
                deliveries.push(Delivery {
                    topic: wanted.topic.clone(),
                    partition: wanted.partition,
                    result,
                });
            }
            stays
        });
        if delivered_bytes && !self.partitions.is_empty() {
            // The first ones are served first; each shall have its turn.
            self.partitions.rotate_left(1);
        }
        deliveries
    }

    /// Reads a partition from `offset` on, because not all that was delivered could be passed on; or not any more, if there
    /// is none.
    pub fn read_on(&mut self, topic: &TopicName, partition: PartitionIndex, offset: Option<Offset>) {
        self.partitions.retain_mut(|wanted| {
            if wanted.partition != partition || wanted.topic != *topic {
                return true;
            }
            wanted.offset = offset.unwrap_or(wanted.offset);
            offset.is_some()
        });
    }

    /// Where the partitions stand that have not failed.
    pub fn progress(&self) -> Vec<Progress> {
        let standing = |wanted: &FetchPartition| {
            let found =
                partition_of(&self.fetcher.metadata, &wanted.topic, wanted.topic_id, wanted.partition);
            let (at, log_start, high_watermark) = found.ok()?;
            Some(Progress {
                topic: wanted.topic.clone(),
                topic_id: at.topic,
                partition: wanted.partition,
                log_start,
                high_watermark,
                next_offset: wanted.offset,
            })
        };
        self.partitions.iter().filter_map(standing).collect()
    }
}
