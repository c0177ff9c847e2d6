//! The producer: batches records by partition, and sends the batches, several at a time, until they are acknowledged.
//!
//! Map: [`queues`] batches that take records · [`batch`] one of them, from first record to outcome · [`lanes`] what is on its way, and what
//! answers mean · [`session`] the task that talks to the service · [`options`] settings.
//!
//! A batch that was stamped keeps its stamp for as long as it may have been written. Once a batch is given up (refused, or out of time), the
//! sequences of its partition have a gap, or may have; the partition then goes on with a new producer id, the others keep theirs. A batch
//! reported as unknown may therefore still appear later, once, behind later ones.

mod batch;
mod lanes;
mod options;
mod queues;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidelog_record::{Compression, HEADER_BYTES};
use tidelog_types::TopicName;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use batch::Delivery;
pub use options::ProducerOptions;

use crate::connection::Client;
use crate::error::{ProduceError, RequestError};
use crate::record::ProducerRecord;
use lanes::Lanes;
use queues::{Push, Queues, Settings, TopicView};
use session::{Session, Shared};

/// After this time a topic is looked up again, to notice new partitions.
const TOPIC_AGE_MAX: Duration = Duration::from_secs(60);
/// `max.message.bytes` if the service does not say.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Sends records. Share it behind an `Arc`, or by reference. End it with [`Producer::close`]: what is dropped unflushed may be lost.
#[derive(Debug)]
pub struct Producer {
    client: Client,
    shared: Arc<Shared>,
    memory: Arc<Semaphore>,
    buffer_bytes: usize,
    compression: Compression,
    task: Mutex<Option<JoinHandle<()>>>,
    /// One look-up of a topic at a time.
    looking_up: tokio::sync::Mutex<()>,
}

impl Client {
    /// A producer on this client's connection. Has to be called in a tokio runtime.
    pub fn producer(&self, options: ProducerOptions) -> Producer {
        let settings = Settings {
            batch_bytes: options.batch_bytes,
            compression: options.compression,
            linger: options.linger,
            topic_age_max: TOPIC_AGE_MAX,
            partitioner: Arc::clone(&options.partitioner),
            entropy: self.options().entropy.clone(),
        };
        let queues = Arc::new(Mutex::new(Queues::new(settings)));
        let shared = Arc::new(Shared {
            queues: Arc::clone(&queues),
            wake: Notify::new(),
            starved: AtomicUsize::new(0),
        });
        let buffer_bytes = options.buffer_bytes.clamp(1, u32::MAX as usize);
        let compression = options.compression;
        let lanes = Lanes::new(queues, options.idempotent, options.delivery_timeout);
        let session = Session { client: self.clone(), shared: Arc::clone(&shared), lanes, options };
        Producer {
            client: self.clone(),
            shared,
            memory: Arc::new(Semaphore::new(buffer_bytes)),
            buffer_bytes,
            compression,
            task: Mutex::new(Some(tokio::spawn(session.run()))),
            looking_up: tokio::sync::Mutex::default(),
        }
    }
}

impl Producer {
    /// Hands a record over: looks its topic up if need be, waits for memory if too much is unacknowledged, and returns while the record is on its
    /// way. Records of one partition are written in the order in which they were handed over.
    pub async fn send(&self, mut record: ProducerRecord) -> Result<Delivery, ProduceError> {
        let limit = self.message_bytes_max(&record.topic).await?;
        let size = HEADER_BYTES + record.encoded_bytes();
        // Compressed, it may be smaller; that shows when its batch is complete.
        if self.compression == Compression::None && size > limit || size > self.buffer_bytes {
            let limit = limit.min(self.buffer_bytes);
            return Err(ProduceError::TooLarge { topic: record.topic, size, limit });
        }
        let mut memory = self.reserve(size).await?;
        let timestamp = *record.timestamp.get_or_insert_with(|| self.client.options().clock.now());
        loop {
            let pushed = self.shared.queues.lock().push(&record, timestamp, memory, Instant::now());
            match pushed {
                Push::Done { delivery, wake } => {
                    if wake {
                        self.shared.wake.notify_one();
                    }
                    return Ok(delivery);
                }
                Push::UnknownTopic(returned) => {
                    memory = returned;
                    self.message_bytes_max(&record.topic).await?;
                }
                Push::Failed(error) => return Err(error),
            }
        }
    }

    /// The largest batch that a topic takes, and with that about the largest record, in bytes. Looks the topic up, and creates it where the
    /// service creates topics on demand.
    pub async fn message_bytes_max(&self, topic: &TopicName) -> Result<usize, ProduceError> {
        if let Some(view) = self.shared.queues.lock().topic(topic, Instant::now()) {
            return Ok(view.bytes_max);
        }
        let _one = self.looking_up.lock().await;
        if let Some(view) = self.shared.queues.lock().topic(topic, Instant::now()) {
            return Ok(view.bytes_max);
        }
        let looked_up = self.look_up(topic).await;
        let view = looked_up.map_err(|cause| ProduceError::Topic { topic: topic.clone(), cause })?;
        let bytes_max = view.bytes_max;
        self.shared.queues.lock().learn(topic, view, Instant::now());
        Ok(bytes_max)
    }

    async fn look_up(&self, name: &TopicName) -> Result<TopicView, RequestError> {
        const KEY: &str = "max.message.bytes";
        let info = self.client.server_info().await?;
        let found = match self.client.get_topic(name).await {
            Err(error) if error.is_unknown_topic() && info.auto_creates_topics() => {
                match self.client.create_topic(name, None, Default::default()).await {
                    // Somebody else was faster, or this was repeated.
                    Ok(_) | Err(RequestError::Conflict(_) | RequestError::OutcomeUnknown(_)) => {}
                    Err(error) => return Err(error),
                }
                self.client.get_topic(name).await?
            }
            found => found?,
        };
        let (topic, partitions) = found;
        let setting = topic.config.get(KEY).map(String::as_str).or_else(|| info.config_default(KEY));
        Ok(TopicView {
            id: topic.id,
            // Not the number that the answer claims: nothing is allocated for what was not received.
            partition_count: u32::try_from(partitions.len()).unwrap_or(u32::MAX).min(topic.partition_count),
            bytes_max: setting.and_then(|value| value.parse().ok()).unwrap_or(MESSAGE_BYTES_MAX),
        })
    }

    /// Takes memory for a record; while some wait for it, what is there is sent without lingering.
    async fn reserve(&self, size: usize) -> Result<OwnedSemaphorePermit, ProduceError> {
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        if let Ok(memory) = Arc::clone(&self.memory).try_acquire_many_owned(permits) {
            return Ok(memory);
        }
        let _starved = Starved::new(&self.shared);
        self.shared.wake.notify_one();
        Arc::clone(&self.memory).acquire_many_owned(permits).await.map_err(|_| ProduceError::Closed)
    }

    /// Sends all records that were handed over until now without waiting for more, and waits until each has its outcome. The outcomes are in
    /// the deliveries.
    pub async fn flush(&self) {
        let outstanding = self.shared.queues.lock().flush();
        self.shared.wake.notify_one();
        for mut outcome in outstanding {
            // An error says that it will have none; its delivery tells that, too.
            let _ = outcome.wait_for(Option::is_some).await;
        }
    }

    /// Flushes, takes no further records, and ends the task.
    pub async fn close(&self) {
        self.shared.queues.lock().closed = true;
        self.shared.wake.notify_one();
        let task = self.task.lock().take();
        if let Some(task) = task
            && let Err(error) = task.await
            && error.is_panic()
        {
            tracing::error!(%error, "the producer's task ended abnormally");
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

/// Counts one who waits for memory.
struct Starved<'a>(&'a Shared);

impl<'a> Starved<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.starved.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Starved<'_> {
    fn drop(&mut self) {
        self.0.starved.fetch_sub(1, Ordering::Relaxed);
    }
}
