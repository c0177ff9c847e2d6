//! The task that keeps a subscription alive: it reads ahead within a bound, and reconnects where it stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelog_proto::status::ApiError;
use tidelog_proto::v1::{self, ErrorReason, RecordFormat};
use tidelog_types::{Offset, PartitionIndex, TopicName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tonic::Code;

use super::ConsumerOptions;
use crate::backoff::Backoff;
use crate::connection::Client;
use crate::request;

/// The service sends at least a heartbeat every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// What the feed tells the consumer. `position` is that of the partition in the consumer's list.
#[derive(Debug)]
pub(super) enum Event {
    /// Batches of one partition.
    Batches {
        position: usize,
        batches: Vec<v1::RecordBatch>,
        /// The offset after the last record.
        next: Offset,
        progress: Progress,
        /// Returns the read-ahead's bytes when the consumer is through.
        memory: Option<OwnedSemaphorePermit>,
    },
    /// Nothing new, but where the partition stands.
    Progress { position: usize, progress: Progress },
    /// The partition delivers no more.
    Failed { position: usize, error: ApiError },
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
    pub position: usize,
    pub topic: TopicName,
    pub partition: PartitionIndex,
    /// The offset to read from next.
    pub next: Offset,
    /// As the service told, so that a topic created later under this name is noticed.
    pub topic_id: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Feed {
    pub client: Client,
    pub options: ConsumerOptions,
    /// Those that have not failed, by what the service calls them.
    pub sources: BTreeMap<(String, i32), Source>,
    pub events: mpsc::Sender<Event>,
}

/// Why a stream ended.
enum End {
    /// The consumer is gone, or nothing is left to read.
    Over,
    /// Another stream goes on at once.
    Again,
    Broken(ApiError),
}

impl Feed {
    /// Reads until the consumer is gone or every partition has failed.
    pub async fn run(mut self) {
        let memory = Arc::new(Semaphore::new(self.options.prefetch_bytes.clamp(1, u32::MAX as usize)));
        let mut backoff = Backoff::new(self.client.options().entropy.clone());
        let mut failing_since = None;
        while !self.sources.is_empty() {
            let mut heard = false;
            let error = match self.stream(&memory, &mut heard).await {
                End::Over => return,
                End::Again => continue,
                End::Broken(error) => error,
            };
            if heard {
                backoff.reset();
                failing_since = None;
            }
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
        loop {
            let message = tokio::select! {
                biased;
                () = self.events.closed() => return End::Over,
                message = tokio::time::timeout(SILENCE_MAX, messages.message()) => message,
            };
            let message = match message {
                Ok(Ok(Some(message))) => message.message,
                Ok(Ok(None)) => return if self.sources.is_empty() { End::Over } else { End::Again },
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
        let partitions = self.sources.values().map(|source| v1::SubscribePartition {
            topic: source.topic.to_string(),
            partition: source.partition.get(),
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
                let event = Event::Failed { position: source.position, error };
                self.sources.remove(&key);
                if self.events.send(event).await.is_err() {
                    return Some(End::Over);
                }
                continue;
            }
            source.topic_id.get_or_insert(fetched.topic_id);
            let progress =
                Progress { log_start: fetched.log_start_offset, high_watermark: fetched.high_watermark };
            let position = source.position;
            let event = if fetched.batches.is_empty() {
                Event::Progress { position, progress }
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
                Event::Batches { position, batches: fetched.batches, next, progress, memory }
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
            let event = Event::Progress { position: source.position, progress };
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
