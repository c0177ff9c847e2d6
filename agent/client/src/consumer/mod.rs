//! The consumer: a stream of records from partitions that the caller names.
//!
//! Map: [`start`] where it begins · [`feed`] the task that reads ahead and reconnects · this file, what the caller polls: it checks,
//! decompresses and decodes, in the caller's own task.

mod feed;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::{self, ErrorReason};
use tidelog_record::{BatchLimits, DecodedBatch, OwnedRecords, Record};
use tidelog_types::{Offset, PartitionIndex, TopicName};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;

pub use start::StartAt;

use crate::connection::Client;
use crate::error::{ConsumeError, RequestError};
use crate::record::{ConsumedRecord, Header};
use feed::{Event, Feed, Progress, Source};

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
    client: Client,
    options: ConsumerOptions,
    partitions: Vec<Position>,
    topic_ids: Vec<Option<u64>>,
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
        let partitions: Vec<Position> = begins
            .into_iter()
            .map(|begin| Position {
                topic: begin.topic,
                partition: begin.partition,
                next: begin.offset,
                log_start: begin.log_start,
                high_watermark: begin.high_watermark,
                high_watermark_at_start: begin.high_watermark,
                paused: false,
                failed: false,
            })
            .collect();
        let topic_ids = vec![None; partitions.len()];
        let (events, feed) = start_feed(self, &options, &partitions, &topic_ids);
        Ok(Consumer { client: self.clone(), options, partitions, topic_ids, events, feed, current: None })
    }
}

fn start_feed(
    client: &Client,
    options: &ConsumerOptions,
    partitions: &[Position],
    topic_ids: &[Option<u64>],
) -> (mpsc::Receiver<Event>, JoinHandle<()>) {
    let active = partitions.iter().zip(topic_ids).enumerate().filter(|(_, (at, _))| !at.paused && !at.failed);
    let sources: BTreeMap<(String, i32), Source> = active
        .map(|(position, (at, topic_id))| {
            let source = Source {
                position,
                topic: at.topic.clone(),
                partition: at.partition,
                next: at.next,
                topic_id: *topic_id,
            };
            ((at.topic.to_string(), at.partition.get()), source)
        })
        .collect();
    let (to_consumer, events) = mpsc::channel(EVENTS);
    let feed = Feed { client: client.clone(), options: options.clone(), sources, events: to_consumer };
    (events, tokio::spawn(feed.run()))
}

impl Consumer {
    /// Where all partitions stand, in the order in which they were named.
    pub fn positions(&self) -> &[Position] {
        &self.partitions
    }

    /// Where a partition stands.
    pub fn position(&self, topic: &TopicName, partition: PartitionIndex) -> Option<&Position> {
        self.partitions.iter().find(|at| at.topic == *topic && at.partition == partition)
    }

    /// Whether all partitions have reached the high watermark that they had when the consumer began.
    pub fn reached_start_watermarks(&self) -> bool {
        self.partitions.iter().all(|at| at.failed || at.next >= at.high_watermark_at_start)
    }

    /// Goes on at another offset. What was read ahead, of all partitions, is read again.
    pub fn seek(&mut self, topic: &TopicName, partition: PartitionIndex, offset: Offset) {
        self.change(topic, partition, |at| {
            at.next = offset;
            at.failed = false;
        });
    }

    /// Yields no more records of a partition until [`Consumer::resume`]. What was read ahead, of all partitions, is read again.
    pub fn pause(&mut self, topic: &TopicName, partition: PartitionIndex) {
        self.change(topic, partition, |at| at.paused = true);
    }

    /// Ends [`Consumer::pause`].
    pub fn resume(&mut self, topic: &TopicName, partition: PartitionIndex) {
        self.change(topic, partition, |at| at.paused = false);
    }

    fn change(&mut self, topic: &TopicName, partition: PartitionIndex, change: impl Fn(&mut Position)) {
        let named = |at: &&mut Position| at.topic == *topic && at.partition == partition;
        if let Some(at) = self.partitions.iter_mut().find(named) {
            change(at);
            self.restart();
        }
    }

    /// Begins a new feed where the stream stands.
    fn restart(&mut self) {
        self.feed.abort();
        self.current = None;
        (self.events, self.feed) = start_feed(&self.client, &self.options, &self.partitions, &self.topic_ids);
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
            self.restart();
            return Some(Err(error));
        }
    }

    /// Takes note of what the feed tells; what the caller has to know is returned.
    fn take(&mut self, event: Event) -> Option<ConsumeError> {
        match event {
            Event::Batches { position, batches, next, progress, memory } => {
                self.note(position, progress);
                // The feed is started anew with each change, so what it sends belongs to the positions here.
                self.current =
                    Some(Current { position, batches: batches.into(), records: None, next, _memory: memory });
                None
            }
            Event::Progress { position, progress } => {
                self.note(position, progress);
                None
            }
            Event::Failed { position, error } => {
                let at = self.partitions.get_mut(position)?;
                at.failed = true;
                Some(failure(at, error))
            }
            Event::Unavailable { after, cause } => Some(ConsumeError::Unavailable { after, cause }),
        }
    }

    fn note(&mut self, position: usize, progress: Progress) {
        if let Some(at) = self.partitions.get_mut(position) {
            at.log_start = Offset::new(progress.log_start).unwrap_or(at.log_start);
            at.high_watermark = Offset::new(progress.high_watermark).unwrap_or(at.high_watermark);
        }
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumedRecord, ConsumeError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(item) = this.next_of_current() {
                return Poll::Ready(Some(item));
            }
            match ready!(this.events.poll_recv(cx)) {
                Some(event) => {
                    if let Some(error) = this.take(event) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                None if this.nothing_left() => return Poll::Ready(None),
                None => {
                    // Only a defect ends the feed before its partitions do.
                    let message = "the consumer's task ended abnormally".to_owned();
                    this.partitions.iter_mut().for_each(|at| at.failed = true);
                    return Poll::Ready(Some(Err(RequestError::Protocol(message).into())));
                }
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

/// Checks and decompresses a batch.
fn open(batch: v1::RecordBatch, max_decompressed_bytes: u32) -> Result<OwnedRecords, String> {
    let limits = BatchLimits { max_decompressed_bytes, ..BatchLimits::NONE };
    let base = Offset::new(batch.base_offset).map_err(|error| error.to_string())?;
    let decoded = DecodedBatch::open(&batch.data, &limits).map_err(|error| error.to_string())?;
    decoded.into_records(base).map_err(|error| error.to_string())
}

fn delivered(at: &Position, record: Record) -> ConsumedRecord {
    let headers = record.headers.into_iter().map(|(key, value)| Header {
        // The decoder checked that names are UTF-8.
        key: String::from_utf8_lossy(&key).into_owned(),
        value,
    });
    ConsumedRecord {
        topic: at.topic.clone(),
        partition: at.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key,
        value: record.value,
        headers: headers.collect(),
    }
}

fn failure(at: &Position, error: ApiError) -> ConsumeError {
    let (topic, partition, offset) = (at.topic.clone(), at.partition, at.next);
    if error.reason == ErrorReason::OffsetOutOfRange {
        let told = |key| error.metadata.get(key).cloned().unwrap_or_else(|| "?".into());
        let (earliest, latest) = (told("earliest"), told("latest"));
        return ConsumeError::OffsetOutOfRange { topic, partition, offset, earliest, latest };
    }
    ConsumeError::Partition { topic, partition, offset, error: Box::new(error) }
}
