//! The task that keeps a subscription alive: it reads ahead within a bound, and reconnects where it stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::{self, ErrorReason, RecordFormat};
use tidelog_types::{Offset, PartitionIndex, TopicName};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tonic::Code;

use super::ConsumerOptions;
use crate::backoff::Backoff;
use crate::connection::Client;
use crate::request;

/// The service sends at least a heartbeat every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Number of a time for which a partition is read: what was read before a seek, or before the partition was given up and taken again, has
/// another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease(pub u64);

/// What the feed tells the consumer.
#[derive(Debug)]
pub(super) enum Event {
    /// Batches of one partition.
    Batches {
        lease: Lease,
        batches: Vec<v1::RecordBatch>,
        /// The offset after the last record.
        next: Offset,
        progress: Progress,
        /// Returns the read-ahead's bytes when the consumer is through.
        memory: Option<OwnedSemaphorePermit>,
    },
    /// Nothing new, but where the partition stands.
    Progress { lease: Lease, progress: Progress },
    /// The partition delivers no more.
    Failed { lease: Lease, error: ApiError },
    /// Nobody has answered for long; the feed goes on trying.
    Unavailable { after: Duration, cause: String },
}

/// What a partition holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub log_start: i64,
    pub high_watermark: i64,
}

/// A partition that is read.
#[derive(Debug)]
pub(super) struct Source {
    pub lease: Lease,
    /// The offset to read from next.
    pub next: Offset,
    /// As the service told, so that a topic created later under this name is noticed.
    pub topic_id: Option<u64>,
}

/// A partition as the service names it.
pub(super) type Key = (String, i32);

/// How the service names a partition.
pub(super) fn key(topic: &TopicName, partition: PartitionIndex) -> Key {
    (topic.to_string(), partition.get())
}

/// What the consumer wants changed and the feed has not taken note of yet. The feed goes on with what is not named.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The last word on each partition: read it like this, or not at all.
    wanted: Mutex<BTreeMap<Key, Option<Source>>>,
    wake: Notify,
}

impl Changes {
    /// All at once: the service gets one request for them.
    pub(super) fn put(&self, changes: impl IntoIterator<Item = (Key, Option<Source>)>) {
        self.wanted.lock().extend(changes);
        self.wake.notify_one();
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Feed {
    pub client: Client,
    pub options: ConsumerOptions,
    /// Those that have not failed, by what the service calls them.
    pub sources: BTreeMap<Key, Source>,
    pub changes: Arc<Changes>,
    pub events: mpsc::Sender<Event>,
}

/// Why a stream ended.
enum End {
    /// The consumer is gone.
    Over,
    /// Another stream goes on at once, if there is anything to read.
    Again,
    Broken(ApiError),
}

impl Feed {
    /// Reads until the consumer is gone.
    pub async fn run(mut self) {
        let memory = Arc::new(Semaphore::new(self.options.prefetch_bytes.clamp(1, u32::MAX as usize)));
        let mut backoff = Backoff::new(self.client.options().entropy.clone());
        let mut failing_since = None;
        loop {
            self.take_changes();
            if self.sources.is_empty() {
                tokio::select! {
                    biased;
                    () = self.events.closed() => return,
                    () = self.changes.wake.notified() => continue,
                }
            }
            let mut heard = false;
            let end = self.stream(&memory, &mut heard).await;
            // Also if the stream then ended for a good reason: the service is not away.
            if heard {
                backoff.reset();
                failing_since = None;
            }
            let error = match end {
                End::Over => return,
                End::Again => continue,
                End::Broken(error) => error,
            };
            let since = *failing_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.options.unavailable_after {
                failing_since = None;
                let event = Event::Unavailable { after: since.elapsed(), cause: error.to_string() };
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
            let wait = backoff.next(error.retry_after);
            tracing::debug!(%error, ?wait, "consumer reconnects");
            tokio::select! {
                biased;
                () = self.events.closed() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Whether anything changed.
    fn take_changes(&mut self) -> bool {
        let wanted = std::mem::take(&mut *self.changes.wanted.lock());
        let any = !wanted.is_empty();
        for (key, source) in wanted {
            let before = self.sources.remove(&key);
            if let Some(mut source) = source {
                source.topic_id = source.topic_id.or(before.and_then(|before| before.topic_id));
                self.sources.insert(key, source);
            }
        }
        any
    }

    /// Opens a stream where the last one stopped and reads it to its end.
    async fn stream(&mut self, memory: &Arc<Semaphore>, heard: &mut bool) -> End {
        let connection = match self.client.connection().await {
            Ok(connection) => connection,
            Err(error) => {
                return End::Broken(ApiError::from_status(&tonic::Status::unavailable(error.to_string())));
            }
        };
        let mut service = request::consumer(connection.channel.clone());
        let opened = tokio::time::timeout(SILENCE_MAX, service.subscribe(self.request())).await;
        let mut messages = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return self.broken(connection.number, &status),
            Err(_) => return self.broken(connection.number, &silent()),
        };
        let given_up = self.client.clone();
        let given_up = given_up.given_up(connection.number);
        tokio::pin!(given_up);
        loop {
            let message = tokio::select! {
                biased;
                () = self.events.closed() => return End::Over,
                () = self.changes.wake.notified() => {
                    if self.take_changes() {
                        return End::Again;
                    }
                    continue;
                }
                // Somebody else found that its agent is no good.
                () = &mut given_up => return End::Again,
                message = tokio::time::timeout(SILENCE_MAX, messages.message()) => message,
            };
            let message = match message {
                Ok(Ok(Some(message))) => message.message,
                Ok(Ok(None)) => return End::Again,
                Ok(Err(status)) => return self.broken(connection.number, &status),
                Err(_) => return self.broken(connection.number, &silent()),
            };
            *heard = true;
            let end = match message {
                Some(v1::subscribe_response::Message::Records(records)) => {
                    self.records(records, memory).await
                }
                Some(v1::subscribe_response::Message::Heartbeat(heartbeat)) => {
                    self.heartbeat(heartbeat).await
                }
                Some(v1::subscribe_response::Message::Reconnect(_)) => {
                    self.client.give_up(connection.number);
                    Some(End::Again)
                }
                // From a newer service.
                None => None,
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn request(&self) -> v1::SubscribeRequest {
        let partitions = self.sources.iter().map(|((topic, partition), source)| v1::SubscribePartition {
            topic: topic.clone(),
            partition: *partition,
            topic_id: source.topic_id,
            start: Some(v1::subscribe_partition::Start::Offset(source.next.get())),
        });
        v1::SubscribeRequest {
            partitions: partitions.collect(),
            format: RecordFormat::Batches.into(),
            max_bytes: i32::try_from(self.options.message_bytes).ok(),
            client_id: self.client.options().client_id.clone(),
        }
    }

    async fn records(&mut self, records: v1::SubscribeRecords, memory: &Arc<Semaphore>) -> Option<End> {
        for fetched in records.partitions {
            let key = (fetched.topic, fetched.partition);
            // What was not asked for, or failed already.
            let Some(source) = self.sources.get_mut(&key) else { continue };
            if let Some(error) = fetched.error {
                let error = ApiError::from(error);
                if is_passing(&error) {
                    return Some(End::Broken(error));
                }
                let event = Event::Failed { lease: source.lease, error };
                self.sources.remove(&key);
                if self.events.send(event).await.is_err() {
                    return Some(End::Over);
                }
                continue;
            }
            source.topic_id.get_or_insert(fetched.topic_id);
            let progress =
                Progress { log_start: fetched.log_start_offset, high_watermark: fetched.high_watermark };
            let lease = source.lease;
            let event = if fetched.batches.is_empty() {
                Event::Progress { lease, progress }
            } else {
                let Ok(next) = Offset::new(fetched.next_offset) else {
                    let error = ApiError::new(ErrorReason::Internal, "the service sent a negative offset");
                    return Some(End::Broken(error));
                };
                source.next = next;
                let bytes: usize = fetched.batches.iter().map(|batch| batch.data.len()).sum();
                let permits = u32::try_from(bytes.min(self.options.prefetch_bytes)).unwrap_or(u32::MAX);
                let memory = Arc::clone(memory);
                let memory = tokio::select! {
                    biased;
                    () = self.events.closed() => return Some(End::Over),
                    memory = memory.acquire_many_owned(permits) => memory.ok(),
                };
                Event::Batches { lease, batches: fetched.batches, next, progress, memory }
            };
            if self.events.send(event).await.is_err() {
                return Some(End::Over);
            }
        }
        None
    }

    async fn heartbeat(&mut self, heartbeat: v1::SubscribeHeartbeat) -> Option<End> {
        for told in heartbeat.partitions {
            let Some(source) = self.sources.get_mut(&(told.topic, told.partition)) else { continue };
            source.topic_id.get_or_insert(told.topic_id);
            let progress = Progress { log_start: told.log_start_offset, high_watermark: told.high_watermark };
            let event = Event::Progress { lease: source.lease, progress };
            if self.events.send(event).await.is_err() {
                return Some(End::Over);
            }
        }
        None
    }

    /// A stream that ended with an error: the connection's, or the service's.
    fn broken(&self, connection: u64, status: &tonic::Status) -> End {
        let error = ApiError::from_status(status);
        self.client.note(connection, &error);
        End::Broken(error)
    }
}

/// Whether a partition's error may be gone at the next attempt.
fn is_passing(error: &ApiError) -> bool {
    matches!(error.code, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted)
        || error.code == Code::ResourceExhausted && error.retry_after.is_some()
}

fn silent() -> tonic::Status {
    tonic::Status::unavailable("the service does not answer")
}
