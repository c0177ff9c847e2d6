//! What an agent counts and times, for Prometheus.
//!
//! Names are stable. Labels are bounded: topics beyond [`TOPICS_MAX`] share the label `other`.
//!
//! Map: [`Metrics`] the registry and the handles · [`store`] a decorator that counts what the object store is asked · [`log`] one that times
//! what the metadata log is asked.

pub mod log;
pub mod store;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use tidelog_metadata_node::Metadata;
use tidelog_types::{TopicId, TopicName};

use crate::budget::Budget;

pub use log::{LogMetrics, MeteredLog};
pub use store::{MeteredStore, StoreMetrics};

/// Topics with a label of their own.
pub const TOPICS_MAX: usize = 1_000;

pub(crate) type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

/// From 0.25 ms to 16 s: what lies between a cached read and a deadline.
pub(crate) fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 17))
}

/// The agent's metrics; cheap to clone, clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Mutex<Registry>,
    requests: HistogramFamily<RequestLabels>,
    records: Family<TopicLabels, Counter>,
    /// The counters of topics by id, so that counting formats no name.
    topics: RwLock<HashMap<TopicId, Counter>>,
    produced_bytes: Counter,
    stages: Stages,
    store: StoreMetrics,
    log: LogMetrics,
    cache: CacheCounters,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    api: &'static str,
    protocol: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabels {
    topic: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    tier: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// How long a flush spends in each of its stages.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    /// From its first byte until it is closed.
    pub buffer: Histogram,
    /// From then until the segment is durable; waiting for its turn included.
    pub put: Histogram,
    /// From then until the commit has its outcome.
    pub commit: Histogram,
    /// From then until everybody is answered.
    pub ack: Histogram,
}

/// Where reads found their bytes.
#[derive(Debug, Clone)]
pub(crate) struct CacheCounters {
    pub written_hit: Counter,
    pub loaded_hit: Counter,
    pub miss: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that have counted nothing yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tidelog");
        let requests = HistogramFamily::new_with_constructor(latency as fn() -> Histogram);
        let requests = registered(
            &mut registry,
            "request_duration_seconds",
            "Time until a request was answered",
            requests,
        );
        let records = registered(&mut registry, "produce_records", "Records appended", Family::default());
        let produced_bytes = registered(
            &mut registry,
            "produce_bytes",
            "Bytes of record batches appended",
            Counter::default(),
        );
        let stage_family: HistogramFamily<StageLabels> =
            Family::new_with_constructor(latency as fn() -> Histogram);
        let stages = Stages {
            buffer: stage_family.get_or_create_owned(&StageLabels { stage: "buffer" }),
            put: stage_family.get_or_create_owned(&StageLabels { stage: "put" }),
            commit: stage_family.get_or_create_owned(&StageLabels { stage: "commit" }),
            ack: stage_family.get_or_create_owned(&StageLabels { stage: "ack" }),
        };
        registry.register("produce_stage_seconds", "Time that a flush spends in each stage", stage_family);
        let cache_family: Family<CacheLabels, Counter> = Family::default();
        let cache_counter = |tier, result| cache_family.get_or_create_owned(&CacheLabels { tier, result });
        let cache = CacheCounters {
            written_hit: cache_counter("written", "hit"),
            loaded_hit: cache_counter("loaded", "hit"),
            miss: cache_counter("loaded", "miss"),
        };
        registry.register("cache_requests", "Reads of slices, by where they were found", cache_family);
        let build = Info::new(BuildLabels { version: env!("CARGO_PKG_VERSION") });
        registry.register("build", "What is running", build);
        let store = StoreMetrics::new(&mut registry);
        let log = LogMetrics::new(&mut registry);
        let inner = Inner {
            registry: Mutex::new(registry),
            requests,
            records,
            topics: RwLock::new(HashMap::new()),
            produced_bytes,
            stages,
            store,
            log,
            cache,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The metrics of the object store, for [`MeteredStore`].
    pub fn object_store(&self) -> &StoreMetrics {
        &self.inner.store
    }

    /// The metrics of the metadata log, for [`MeteredLog`].
    pub fn metadata_log(&self) -> &LogMetrics {
        &self.inner.log
    }

    /// Notes a request that a front end has answered. `code` is the protocol's name of the result. The labels are texts of
    /// the program, never of a client, so that their number is bounded.
    pub fn request(&self, api: &'static str, protocol: &'static str, code: &'static str, took: Duration) {
        let labels = RequestLabels { api, protocol, code };
        self.inner.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Registers another metric, e.g. of a front end, under `tidelog_<name>`.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.inner.registry.lock().register(name, help, metric);
    }

    /// Registers what is computed when it is asked for.
    pub(crate) fn register_collector(&self, collector: Box<dyn Collector>) {
        self.inner.registry.lock().register_collector(collector);
    }

    /// All metrics in the text format that Prometheus scrapes (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.inner.registry.lock());
        text
    }

    pub(crate) fn watch_agent(&self, metadata: Metadata, budget: Budget) {
        self.inner.registry.lock().register_collector(Box::new(AgentCollector { metadata, budget }));
    }

    pub(crate) fn stages(&self) -> &Stages {
        &self.inner.stages
    }

    pub(crate) fn cache(&self) -> &CacheCounters {
        &self.inner.cache
    }

    /// Counts what was appended to a topic; `name` is asked for once per topic.
    pub(crate) fn appended(
        &self,
        topic: TopicId,
        records: u64,
        bytes: u64,
        name: impl FnOnce() -> Option<TopicName>,
    ) {
        self.inner.produced_bytes.inc_by(bytes);
        if let Some(counter) = self.inner.topics.read().get(&topic) {
            counter.inc_by(records);
            return;
        }
        let mut topics = self.inner.topics.write();
        let label = match name() {
            Some(name) if topics.len() < TOPICS_MAX => name.as_str().to_owned(),
            _ => "other".to_owned(),
        };
        let is_other = label == "other";
        let counter = self.inner.records.get_or_create_owned(&TopicLabels { topic: label });
        counter.inc_by(records);
        if !is_other {
            topics.insert(topic, counter);
        }
    }
}

fn registered<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// Reads the counters that others keep, when they are asked for.
#[derive(Debug)]
struct AgentCollector {
    metadata: Metadata,
    budget: Budget,
}

impl Collector for AgentCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = self.metadata.stats();
        let counters: [(&str, &str, &AtomicU64); 12] = [
            ("metadata_appends", "Appends sent to the metadata log, repeats included", &stats.appends),
            ("metadata_entries", "Entries appended to the metadata log", &stats.entries),
            ("metadata_entry_bytes", "Bytes of these entries", &stats.entry_bytes),
            (
                "metadata_unknown_appends",
                "Appends of unknown outcome, which were repeated",
                &stats.unknown_appends,
            ),
            ("metadata_conflicts", "Appends that found their place taken", &stats.conflicts),
            ("metadata_reads", "Reads of the metadata log", &stats.reads),
            ("metadata_applied", "Entries applied", &stats.applied),
            ("metadata_elections", "Times that this agent became leader", &stats.elections),
            ("metadata_snapshots", "Snapshots written", &stats.snapshots),
            ("metadata_handed_on", "Commands handed on to a leader, repeats included", &stats.handed_on),
            ("metadata_taken_over", "Commands taken over from followers", &stats.taken_over),
            ("metadata_links", "Links to a leader that were established", &stats.links),
        ];
        for (name, help, counter) in counters {
            let counter = ConstCounter::new(counter.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let (epoch, index) = self.metadata.read(|state| (state.next().epoch.0, state.index().0));
        let (_, leads) = self.metadata.leader();
        let of = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let gauges = [
            ("metadata_leading", "1 if this agent leads the metadata log, else 0", usize::from(leads)),
            ("metadata_followers", "Agents that listen to this one", self.metadata.followers()),
            ("metadata_epoch", "Epoch that this agent knows of", of(epoch)),
            ("metadata_index", "Entries of the metadata log that are applied here", of(index)),
            ("buffer_bytes", "Bytes of produce requests in the agent", self.budget.used()),
            ("buffer_limit_bytes", "Bytes of produce requests that may be in the agent", self.budget.limit()),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
