//! The consumer: a stream of records from partitions that the caller names.
//!
//! Map: [`start`] where it begins · [`feed`] the task that reads ahead and reconnects · this file, what the caller polls: it checks,
//! decompresses and decodes ([`decode`]) in the caller's own task.

mod decode;
mod feed;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tidelog_proto::v1;
use tidelog_record::OwnedRecords;
use tidelog_types::{Offset, PartitionIndex, TopicId, TopicName};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;

pub use start::{Begin, StartAt};

use crate::connection::Client;
use crate::error::{ConsumeError, RequestError};
use crate::record::ConsumedRecord;
use decode::{delivered, failure, open};
use feed::{Changes, Event, Feed, Key, Lease, Source};

/// Events between the feed and the consumer; the bytes in them are bounded on their own.
const EVENTS: usize = 64;

/// Settings of a [`Consumer`]. Fields may be changed after `default()`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConsumerOptions {
    /// Bytes of batches, as they came, that are read ahead; one message more is received.
    pub prefetch_bytes: usize,
    /// Bytes of batches in one message of the service.
    pub message_bytes: u32,
    /// Most bytes that one batch may decompress to; a larger one is an error.
    pub decompressed_bytes_max: u32,
    /// How long the service may be away until the stream says so.
    pub unavailable_after: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            prefetch_bytes: 16 * 1024 * 1024,
            message_bytes: 4 * 1024 * 1024,
            decompressed_bytes_max: 64 * 1024 * 1024,
            unavailable_after: Duration::from_secs(120),
        }
    }
}

/// Where a partition of a consumer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionIndex,
    /// The offset of the next record that the stream yields.
    pub next: Offset,
    /// The first offset that can be read, as last heard.
    pub log_start: Offset,
    /// The offset that the next record will get, as last heard.
    pub high_watermark: Offset,
    /// The high watermark when the consumer began.
    pub high_watermark_at_start: Offset,
    /// Whether [`Consumer::pause`] holds it back.
    pub paused: bool,
    /// Whether an error ended it.
    pub failed: bool,
}

/// A stream of records: of each partition by rising offset, without gap or repeat, also over reconnections; partitions are mixed. An error of one
/// partition is yielded once and ends that partition; the stream ends when none is left.
#[derive(Debug)]
pub struct Consumer {
    options: ConsumerOptions,
    partitions: Vec<Position>,
    /// Those under which the partitions are read, in the same order.
    leases: Vec<Lease>,
    leased: u64,
    changes: Arc<Changes>,
    events: mpsc::Receiver<Event>,
    feed: JoinHandle<()>,
    current: Option<Current>,
}

/// Batches of one partition that are being walked through.
#[derive(Debug)]
struct Current {
    position: usize,
    batches: VecDeque<v1::RecordBatch>,
    /// Of the batch that was taken out last.
    records: Option<OwnedRecords>,
    next: Offset,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Client {
    /// A consumer of these partitions, each at most once. Fails if one of them cannot be looked up. Has to be called in a tokio runtime.
    pub async fn consumer(
        &self,
        assignments: &[(TopicName, PartitionIndex, StartAt)],
        options: ConsumerOptions,
    ) -> Result<Consumer, ConsumeError> {
        let begins = start::resolve(self, assignments).await?;
        let mut consumer = Consumer::idle(self, options);
        consumer.add(begins.into_iter().map(|begin| (begin, None)));
        Ok(consumer)
    }
}

impl Consumer {
    /// A consumer without partitions.
    pub(crate) fn idle(client: &Client, options: ConsumerOptions) -> Self {
        let (to_consumer, events) = mpsc::channel(EVENTS);
        let changes = Arc::new(Changes::default());
        let feed = Feed {
            client: client.clone(),
            options: options.clone(),
            sources: BTreeMap::new(),
            changes: Arc::clone(&changes),
            events: to_consumer,
        };
        Self {
            options,
            partitions: Vec::new(),
            leases: Vec::new(),
            leased: 0,
            changes,
            events,
            feed: tokio::spawn(feed.run()),
            current: None,
        }
    }

    /// Reads partitions from now on, besides those that are read. With the topic's id it is an error if the name belongs to another topic by
    /// now.
    pub(crate) fn add(&mut self, begins: impl IntoIterator<Item = (Begin, Option<TopicId>)>) {
        let mut changes = Vec::new();
        for (begin, topic_id) in begins {
            self.remove(&begin.topic, begin.partition);
            self.partitions.push(Position {
                topic: begin.topic,
                partition: begin.partition,
                next: begin.offset,
                log_start: begin.log_start,
                high_watermark: begin.high_watermark,
                high_watermark_at_start: begin.high_watermark,
                paused: false,
                failed: false,
            });
            self.leases.push(Lease(0));
            changes.extend(self.lease(self.partitions.len() - 1, topic_id));
        }
        self.changes.put(changes);
    }

    /// Reads a partition no more.
    pub(crate) fn remove(&mut self, topic: &TopicName, partition: PartitionIndex) {
        let Some(position) = self.find(topic, partition) else { return };
        self.changes.put([(feed::key(topic, partition), None)]);
        self.partitions.remove(position);
        self.leases.remove(position);
        self.current = self.current.take().filter(|current| current.position != position);
        if let Some(current) = &mut self.current
            && current.position > position
        {
            current.position -= 1;
        }
    }

    /// Where all partitions stand, in the order in which they were named.
    pub fn positions(&self) -> &[Position] {
        &self.partitions
    }

    /// Where a partition stands.
    pub fn position(&self, topic: &TopicName, partition: PartitionIndex) -> Option<&Position> {
        self.find(topic, partition).and_then(|position| self.partitions.get(position))
    }

    /// Whether all partitions have reached the high watermark that they had when the consumer began.
    pub fn reached_start_watermarks(&self) -> bool {
        self.partitions.iter().all(|at| at.failed || at.next >= at.high_watermark_at_start)
    }

    /// Goes on at another offset. What was read ahead of the partition is dropped.
    pub fn seek(&mut self, topic: &TopicName, partition: PartitionIndex, offset: Offset) {
        self.change(topic, partition, |at| {
            at.next = offset;
            at.failed = false;
        });
    }

    /// Yields no more records of a partition until [`Consumer::resume`]. What was read ahead of it is dropped, and read again then.
    pub fn pause(&mut self, topic: &TopicName, partition: PartitionIndex) {
        self.change(topic, partition, |at| at.paused = true);
    }

    /// Ends [`Consumer::pause`].
    pub fn resume(&mut self, topic: &TopicName, partition: PartitionIndex) {
        self.change(topic, partition, |at| at.paused = false);
    }

    fn find(&self, topic: &TopicName, partition: PartitionIndex) -> Option<usize> {
        self.partitions.iter().position(|at| at.partition == partition && at.topic == *topic)
    }

    fn change(&mut self, topic: &TopicName, partition: PartitionIndex, change: impl Fn(&mut Position)) {
        let Some(position) = self.find(topic, partition) else { return };
        if let Some(at) = self.partitions.get_mut(position) {
            change(at);
            self.renew(position, None);
        }
    }

    /// Reads a partition from where it stands, if it is to be read; what was read of it before no longer counts.
    fn renew(&mut self, position: usize, topic_id: Option<TopicId>) {
        let change = self.lease(position, topic_id);
        self.changes.put(change);
        self.current = self.current.take().filter(|current| current.position != position);
    }

    fn lease(&mut self, position: usize, topic_id: Option<TopicId>) -> Option<(Key, Option<Source>)> {
        let (at, lease) = (self.partitions.get(position)?, self.leases.get_mut(position)?);
        self.leased += 1;
        *lease = Lease(self.leased);
        let source = Source { lease: *lease, next: at.next, topic_id: topic_id.map(|id| id.0) };
        let read = !at.paused && !at.failed;
        Some((feed::key(&at.topic, at.partition), read.then_some(source)))
    }

    /// Whether nothing can come before the caller changes something.
    fn nothing_left(&self) -> bool {
        self.partitions.iter().all(|at| at.failed || at.paused)
    }

    /// The next record of the batches at hand; `None` if they are finished.
    fn next_of_current(&mut self) -> Option<Result<ConsumedRecord, ConsumeError>> {
        loop {
            let current = self.current.as_mut()?;
            let at = self.partitions.get_mut(current.position)?;
            let problem = if let Some(record) = current.records.as_mut().and_then(Iterator::next) {
                match record {
                    // The first batch may begin before the offset that was asked for.
                    Ok(record) if record.offset < at.next => continue,
                    Ok(record) => match record.offset.checked_add(1) {
                        Some(next) if record.offset == at.next => {
                            at.next = next;
                            return Some(Ok(delivered(at, record)));
                        }
                        _ => format!("the next record has offset {}", record.offset),
                    },
                    Err(error) => error.to_string(),
                }
            } else if let Some(batch) = current.batches.pop_front() {
                match open(batch, self.options.decompressed_bytes_max) {
                    Ok(records) => {
                        current.records = Some(records);
                        continue;
                    }
                    Err(problem) => problem,
                }
            } else if at.next < current.next {
                format!("the service went on to offset {} without sending it", current.next)
            } else {
                self.current = None;
                return None;
            };
            at.failed = true;
            let error = ConsumeError::Corrupt {
                topic: at.topic.clone(),
                partition: at.partition,
                offset: at.next,
                problem,
            };
            let position = current.position;
            self.renew(position, None);
            return Some(Err(error));
        }
    }

    /// Takes note of what the feed tells; what the caller has to know is returned.
    fn take(&mut self, event: Event) -> Option<ConsumeError> {
        let (lease, progress) = match &event {
            Event::Batches { lease, progress, .. } | Event::Progress { lease, progress } => {
                (*lease, Some(*progress))
            }
            Event::Failed { lease, .. } => (*lease, None),
            Event::Unavailable { after, cause } => {
                return Some(ConsumeError::Unavailable { after: *after, cause: cause.clone() });
            }
        };
        // Read before a change: it no longer counts.
        let position = self.leases.iter().position(|held| *held == lease)?;
        let at = self.partitions.get_mut(position)?;
        if let Some(progress) = progress {
            at.log_start = Offset::new(progress.log_start).unwrap_or(at.log_start);
            at.high_watermark = Offset::new(progress.high_watermark).unwrap_or(at.high_watermark);
        }
        match event {
            Event::Batches { batches, next, memory, .. } => {
                self.current =
                    Some(Current { position, batches: batches.into(), records: None, next, _memory: memory });
                None
            }
            Event::Failed { error, .. } => {
                at.failed = true;
                Some(failure(at, error))
            }
            Event::Progress { .. } | Event::Unavailable { .. } => None,
        }
    }

    /// The next record or error; pending also while there is nothing to read.
    pub(crate) fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<ConsumedRecord, ConsumeError>> {
        loop {
            if let Some(item) = self.next_of_current() {
                return Poll::Ready(item);
            }
            match ready!(self.events.poll_recv(cx)) {
                Some(event) => {
                    if let Some(error) = self.take(event) {
                        return Poll::Ready(Err(error));
                    }
                }
                None => {
                    // Only a defect ends the feed before the consumer.
                    let message = "the consumer's task ended abnormally".to_owned();
                    self.partitions.iter_mut().for_each(|at| at.failed = true);
                    return Poll::Ready(Err(RequestError::Protocol(message).into()));
                }
            }
        }
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumedRecord, ConsumeError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.nothing_left() && this.feed.is_finished() {
            return Poll::Ready(None);
        }
        match this.poll_item(cx) {
            Poll::Ready(item) => Poll::Ready(Some(item)),
            Poll::Pending if this.nothing_left() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.feed.abort();
    }
}
