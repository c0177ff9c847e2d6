//! The agent: its parts put together.

use std::sync::{Arc, OnceLock};

use object_store::ObjectStore;
use tidelog_metadata_log::env::{Clock, Entropy};
use tidelog_metadata_node::{AgentCard, Metadata};
use tidelog_types::{PartitionIndex, TopicId, TopicName};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::budget::Budget;
use crate::cache::SegmentCache;
use crate::cluster::{self, ClusterLink, ClusterView};
use crate::fetch::{
    FetchError, FetchRequest, FetchResponse, Fetcher, FoundOffset, OffsetQuery, OffsetWanted, Reader,
    SubscribePartition, Subscription,
};
use crate::groups::Groups;
use crate::metrics::Metrics;
use crate::produce::{Collector, Flusher, ProduceRequest, ProduceResult, ProduceTicket, Producer, Uploader};
use crate::settings::Settings;
use crate::supervise::{AgentTasks, Task};

/// What an agent runs on.
#[derive(Debug, Clone)]
pub struct Components {
    /// Where segments lie; a prefix, if there is one, is the caller's business.
    pub store: Arc<dyn ObjectStore>,
    /// The metadata.
    pub metadata: Metadata,
    /// Wall clock: timestamps of records that come without one.
    pub clock: Arc<dyn Clock>,
    /// Names of segments, jitter.
    pub entropy: Entropy,
    /// Where things are counted.
    pub metrics: Metrics,
}

/// The serving part of an agent, for front ends; cheap to clone.
#[derive(Debug, Clone)]
pub struct Agent {
    producer: Producer,
    fetcher: Fetcher,
    admin: Admin,
    groups: Groups,
    card: AgentCard,
    others: Arc<OnceLock<Arc<dyn ClusterLink>>>,
    budget: Budget,
    metrics: Metrics,
    settings: Arc<Settings>,
    draining: CancellationToken,
}

impl Agent {
    /// An agent and the tasks that have to run for it.
    pub fn new(components: Components, settings: Settings) -> (Self, AgentTasks) {
        let Components { store, metadata, clock, entropy, metrics } = components;
        let draining = CancellationToken::new();
        let budget = Budget::new(
            settings.buffer_memory,
            settings.flush_interval.max(std::time::Duration::from_millis(50)),
        );
        metrics.watch_agent(metadata.clone(), budget.clone());
        let cache = SegmentCache::new(settings.cache_memory);
        let collector = Arc::new(Collector::new(
            settings.flush_interval,
            settings.flush_bytes,
            settings.uploads_in_flight + 2,
        ));
        let flusher = Flusher {
            collector: Arc::clone(&collector),
            uploader: Uploader { store: Arc::clone(&store), entropy, try_max: settings.upload_try },
            metadata: metadata.clone(),
            cache: cache.clone(),
            metrics: metrics.clone(),
            uploads_max: settings.uploads_in_flight.max(1),
            upload_deadline: settings.upload_deadline,
            commit_deadline: settings.commit_deadline,
        };
        let producer = Producer {
            metadata: metadata.clone(),
            collector,
            budget: budget.clone(),
            clock,
            auto_create: settings.auto_create_topics.then_some(settings.auto_create_partitions),
            admin_deadline: settings.admin_deadline,
        };
        let counters = metrics.cache().clone();
        let fetcher = Fetcher {
            metadata: metadata.clone(),
            reader: Reader::new(store, cache, counters, &settings.fetch, settings.read_deadline),
            limits: settings.fetch.clone(),
            confirm_deadline: settings.admin_deadline,
            draining: draining.clone(),
        };
        let admin = Admin::new(metadata.clone(), settings.admin_deadline);
        let card = AgentCard {
            instance: metadata.instance(),
            clients_at: settings.clients_at.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (groups, mut tasks) = Groups::new(metadata, &metrics, settings.admin_deadline);
        tasks.push(Task::new("flusher", move |cancel| flusher.run(cancel)));
        let tasks = AgentTasks::new(tasks, draining.clone(), settings.drain_deadline);
        let settings = Arc::new(settings);
        let others = Arc::default();
        (Self { producer, fetcher, admin, groups, card, others, budget, metrics, settings, draining }, tasks)
    }

    /// The bytes that produce requests may occupy: reserved before a request's body is read.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Takes batches to append. Requests taken one after the other get their places in that order; the results come
    /// with the ticket. This itself waits only if a topic is not known here.
    pub async fn produce(&self, request: ProduceRequest) -> ProduceTicket {
        self.producer.take(request).await
    }

    /// Appends batches and waits for their results.
    pub async fn produce_and_wait(&self, request: ProduceRequest) -> Vec<ProduceResult> {
        self.produce(request).await.await
    }

    /// Reads records, and waits for some if there are not enough.
    pub async fn fetch(&self, request: FetchRequest) -> FetchResponse {
        self.fetcher.fetch(request).await
    }

    /// Begins to read partitions on and on, at most `max_bytes` at a time.
    pub async fn subscribe(&self, partitions: Vec<SubscribePartition>, max_bytes: usize) -> Subscription {
        Subscription::begin(self.fetcher.clone(), partitions, max_bytes).await
    }

    /// Finds offsets: ends of partitions, or by time. Sees everything that was acknowledged before, by any agent. The
    /// results are in the order of the queries.
    pub async fn find_offsets(&self, wanted: &[OffsetWanted]) -> Vec<Result<FoundOffset, FetchError>> {
        self.fetcher.find_offsets(wanted).await
    }

    /// Finds one offset, as [`Agent::find_offsets`] does.
    pub async fn find_offset(
        &self,
        topic: &TopicName,
        topic_id: Option<TopicId>,
        partition: PartitionIndex,
        query: OffsetQuery,
    ) -> Result<FoundOffset, FetchError> {
        self.fetcher.confirm().await?;
        self.fetcher.find_offset(&OffsetWanted { topic: topic.clone(), topic_id, partition, query }).await
    }

    /// Administrative operations.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Who this agent is.
    pub fn card(&self) -> &AgentCard {
        &self.card
    }

    /// How this agent asks a leader that is another agent about the cluster; to be given once.
    pub fn ask_leader_by(&self, link: Arc<dyn ClusterLink>) {
        // A second one would be a mistake of the caller; the first keeps working.
        let _ = self.others.set(link);
    }

    /// The cluster as this agent and its leader know it.
    pub async fn cluster(&self) -> ClusterView {
        let deadline = Instant::now() + self.settings.admin_deadline;
        let link = self.others.get().map(|link| &**link);
        cluster::look(self.metadata(), &self.card, link, deadline).await
    }

    /// Consumer groups.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The metadata, for readiness and server information.
    pub fn metadata(&self) -> &Metadata {
        &self.producer.metadata
    }

    /// Cancelled when the agent shuts down: streams and long polls end.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }
}
