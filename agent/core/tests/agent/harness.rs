//! A cluster of one agent on memory stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tidelog_agent::metrics::store::StoreOp;
use tidelog_agent::{
    Agent, Components, FetchError, FetchPartition, FetchRequest, FetchedPartition, MeteredStore, Metrics,
    Payload, ProduceBatch, ProduceRequest, ProduceResult, ProduceSession, ProduceTicket, Reservation,
    Settings, TaskError,
};
use tidelog_metadata_log::MetadataLog;
use tidelog_metadata_log::env::{Clock, Entropy, SystemClock};
use tidelog_metadata_log::memory::MemoryLog;
use tidelog_metadata_node::{Metadata, Node, NodeConfig, NodeError, ObjectSnapshots, genesis};
use tidelog_record::{BatchBuilder, BatchLimits, Compression, DecodedBatch, RecordRef};
use tidelog_types::{
    AgentInstance, ClusterId, Offset, PartitionIndex, ProducerStamp, ShardId, TimestampMs, TopicName,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::faults::FaultStore;

/// The machine's clock, plus what a test adds.
#[derive(Debug, Default)]
pub struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> TimestampMs {
        SystemClock.now().saturating_add_ms(self.0.load(Ordering::Relaxed))
    }
}

/// Stores that outlive agents.
pub struct Stores {
    clock: Arc<TestClock>,
    meta: Arc<InMemory>,
    pub segments: Arc<FaultStore>,
    pub log: Arc<dyn MetadataLog>,
    entropy: Entropy,
    cluster: ClusterId,
}

pub struct Running {
    pub agent: Agent,
    pub metadata: Metadata,
    pub metrics: Metrics,
    cancel_agent: CancellationToken,
    cancel_node: CancellationToken,
    tasks: JoinHandle<Result<(), TaskError>>,
    node: JoinHandle<Result<(), NodeError>>,
    gate: Arc<Gate>,
}

/// Lets a future stand still, as a process does that is stopped.
#[derive(Debug, Default)]
struct Gate {
    closed: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Gate {
    async fn guard<T>(self: Arc<Self>, run: impl Future<Output = T>) -> T {
        let mut run = std::pin::pin!(run);
        std::future::poll_fn(|context| {
            if self.closed.load(Ordering::Relaxed) {
                *self.waker.lock() = Some(context.waker().clone());
                return Poll::Pending;
            }
            run.as_mut().poll(context)
        })
        .await
    }
}

/// While it is held, a node stands still.
pub struct Paused(Arc<Gate>);

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.closed.store(false, Ordering::Relaxed);
        if let Some(waker) = self.0.waker.lock().take() {
            waker.wake();
        }
    }
}

impl Stores {
    pub async fn new() -> Self {
        Self::with_log(Arc::new(MemoryLog::new())).await
    }

    pub async fn with_log(log: Arc<dyn MetadataLog>) -> Self {
        let (meta, entropy) = (Arc::new(InMemory::new()), Entropy::seeded(7));
        let cluster = genesis::initialise(&*meta, &*log, &SystemClock, &entropy).await.expect("empty stores");
        let segments = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
        Self { clock: Arc::default(), meta, segments, log, entropy, cluster }
    }

    /// Lets time pass, for tasks and for the wall clock.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.clock.0.fetch_add(i64::try_from(time.as_millis()).expect("short"), Ordering::Relaxed);
    }

    pub fn start(&self, settings: Settings) -> Running {
        self.start_one(settings, true)
    }

    /// An agent that shares the stores with others.
    pub fn start_shared(&self, settings: Settings) -> Running {
        self.start_one(settings, false)
    }

    fn start_one(&self, settings: Settings, exclusive: bool) -> Running {
        let mut config = NodeConfig::new(self.cluster, AgentInstance(self.entropy.uuid()));
        config.snapshots_inline = true;
        config.exclusive = exclusive;
        let snapshots = Arc::new(ObjectSnapshots::new(Arc::clone(&self.meta) as _, ShardId::ZERO));
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        let log = Arc::clone(&self.log);
        let (metadata, node) = Node::new(config, log, snapshots, Arc::clone(&clock), self.entropy.clone());
        let metrics = Metrics::new();
        let store =
            Arc::new(MeteredStore::new(Arc::clone(&self.segments) as _, metrics.object_store().clone()));
        let components = Components {
            store,
            metadata: metadata.clone(),
            clock,
            entropy: self.entropy.clone(),
            metrics: metrics.clone(),
        };
        let (agent, tasks) = Agent::new(components, settings);
        let (cancel_agent, cancel_node) = (CancellationToken::new(), CancellationToken::new());
        let tasks = tokio::spawn(tasks.run(cancel_agent.clone()));
        let gate = Arc::new(Gate::default());
        let node = tokio::spawn(Arc::clone(&gate).guard(node.run(cancel_node.clone())));
        Running { agent, metadata, metrics, cancel_agent, cancel_node, tasks, node, gate }
    }

    /// An agent with the given settings and one topic `t`.
    pub async fn start_with_topic(&self, settings: Settings, partitions: u32) -> Running {
        let running = self.start(settings);
        running.agent.admin().create_topic(&name("t"), partitions, Vec::new()).await.expect("created");
        running
    }
}

impl Running {
    /// Shuts down the agent and its node.
    pub async fn stop(self) -> Result<(), TaskError> {
        self.cancel_agent.cancel();
        let ended = self.tasks.await.expect("no panic");
        self.cancel_node.cancel();
        self.node.await.expect("no panic").expect("a clean stop");
        ended
    }

    /// Stops the node where it is.
    pub fn pause(&self) -> Paused {
        self.gate.closed.store(true, Ordering::Relaxed);
        Paused(Arc::clone(&self.gate))
    }

    /// Ends everything at once, as a crash does.
    pub async fn crash(self) {
        self.tasks.abort();
        self.node.abort();
        let _ = self.tasks.await;
        let _ = self.node.await;
    }

    pub async fn send(&self, batches: Vec<ProduceBatch>) -> ProduceTicket {
        self.agent.produce(ProduceRequest { session: None, batches, reservation: Reservation::none() }).await
    }

    pub async fn send_in(&self, session: &ProduceSession, batches: Vec<ProduceBatch>) -> ProduceTicket {
        let session = Some(session.clone());
        self.agent.produce(ProduceRequest { session, batches, reservation: Reservation::none() }).await
    }

    pub async fn produce(&self, batch: ProduceBatch) -> ProduceResult {
        self.send(vec![batch]).await.await.pop().expect("one result")
    }

    pub async fn fetch(&self, partition: i32, offset: i64) -> Result<FetchedPartition, FetchError> {
        self.fetch_with(vec![at(partition, offset)], Duration::ZERO).await.pop().expect("one result")
    }

    pub async fn fetch_with(
        &self,
        partitions: Vec<FetchPartition>,
        max_wait: Duration,
    ) -> Vec<Result<FetchedPartition, FetchError>> {
        self.agent.fetch(FetchRequest { partitions, min_bytes: 1, max_bytes: usize::MAX, max_wait }).await
    }

    /// All values of a partition, with their offsets, read from the start.
    pub async fn values(&self, partition: i32) -> Vec<(i64, String)> {
        let mut values = Vec::new();
        let mut next = 0;
        loop {
            let read = self.fetch(partition, next).await.expect("readable");
            if read.batches.is_empty() {
                assert_eq!(read.high_watermark.get(), next, "INV-20: read to the end");
                return values;
            }
            values.extend(values_of(&read).into_iter().filter(|(offset, _)| *offset >= next));
            next = read.next_offset.get();
        }
    }

    pub fn puts(&self) -> u64 {
        self.metrics.object_store().requests(StoreOp::Put)
    }

    pub fn gets(&self) -> u64 {
        self.metrics.object_store().requests(StoreOp::Get)
    }

    pub fn appends(&self) -> u64 {
        self.metadata.stats().appends.load(Ordering::Relaxed)
    }
}

pub fn values_of(read: &FetchedPartition) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    for batch in &read.batches {
        let decoded = DecodedBatch::open(&batch.bytes, &BatchLimits::NONE).expect("a batch");
        for record in decoded.records() {
            let record = record.expect("a record");
            let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
            values.push((batch.base_offset.get() + i64::from(record.offset_delta), value));
        }
    }
    values
}

pub fn name(name: &str) -> TopicName {
    TopicName::new(name).expect("a topic name")
}

pub fn partition(index: i32) -> PartitionIndex {
    PartitionIndex::new(index).expect("in range")
}

pub fn offset(value: i64) -> Offset {
    Offset::new(value).expect("in range")
}

/// The encoded batch of some values, whose timestamps are 1000, 1001 and so on.
pub fn encoded(values: &[&str], stamp: Option<ProducerStamp>) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for (timestamp, value) in (1000..).zip(values) {
        let timestamp = TimestampMs(timestamp);
        builder
            .append(RecordRef { timestamp, key: None, value: Some(value.as_bytes()), headers: &[] })
            .expect("fits");
    }
    if let Some(stamp) = stamp {
        builder.stamp(stamp);
    }
    builder.build().expect("records")
}

/// A batch for a partition of topic `t`.
pub fn batch(at: i32, values: &[&str]) -> ProduceBatch {
    stamped(at, values, None)
}

pub fn stamped(at: i32, values: &[&str], stamp: Option<ProducerStamp>) -> ProduceBatch {
    ProduceBatch {
        topic: name("t"),
        topic_id: None,
        partition: partition(at),
        payload: Payload::Encoded(encoded(values, stamp)),
    }
}

pub fn at(index: i32, from: i64) -> FetchPartition {
    FetchPartition {
        topic: name("t"),
        topic_id: None,
        partition: partition(index),
        offset: offset(from),
        max_bytes: usize::MAX,
    }
}

/// Base offset of an acknowledged batch.
pub fn base(result: &ProduceResult) -> i64 {
    result.as_ref().expect("acknowledged").base_offset.get()
}
