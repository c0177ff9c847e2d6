//! What is counted of groups.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use tidelog_metadata_node::{ChangedGroups, Metadata};
use tidelog_types::{GroupName, TopicId};

use crate::metrics::Metrics;

/// Pairs of group and topic with a label of their own; the others are added up under `other`.
const LAGS_MAX: usize = 1_000;

/// Counters of groups; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupMetrics {
    members: Gauge,
    changes: Counter,
    commits: Counter,
}

impl GroupMetrics {
    pub fn new(metrics: &Metrics, metadata: Metadata) -> Self {
        let counted = Self::default();
        metrics.register(
            "group_members",
            "Members of all groups, on the agent that leads",
            counted.members.clone(),
        );
        metrics.register(
            "group_rebalances",
            "Entries of the metadata log that changed the members or owners of a group, on the agent that leads",
            counted.changes.clone(),
        );
        metrics.register("group_commits", "Offsets committed through this agent", counted.commits.clone());
        metrics.register_collector(Box::new(LagCollector { metadata }));
        counted
    }

    pub fn members(&self, members: usize) {
        self.members.set(i64::try_from(members).unwrap_or(i64::MAX));
    }

    pub fn changed(&self, changed: &ChangedGroups) {
        if let ChangedGroups::Some(groups) = changed {
            self.changes.inc_by(groups.len() as u64);
        }
    }

    pub fn committed(&self, offsets: usize) {
        self.commits.inc_by(offsets as u64);
    }
}

/// How far groups are behind, computed when it is asked for. Only the agent that leads tells it, so that adding up over
/// all agents counts each group once.
#[derive(Debug)]
struct LagCollector {
    metadata: Metadata,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct LagLabels {
    group: String,
    topic: String,
}

impl LagCollector {
    fn lags(&self) -> BTreeMap<LagLabels, u64> {
        let mut lags = BTreeMap::new();
        let mut last: Option<GroupName> = None;
        // Group by group, so that the state is never held for long.
        while let Some((name, group)) = self.metadata.read(|state| {
            state.groups_after(last.as_ref()).next().map(|(name, group)| (name.clone(), group.clone()))
        }) {
            let mut topics: BTreeMap<TopicId, u64> = BTreeMap::new();
            self.metadata.read(|state| {
                for (at, committed) in group.offsets() {
                    let Some(partition) = state.partition(at) else { continue };
                    // What was deleted before it was read is not to be read any more.
                    let next = committed.offset.max(partition.log_start());
                    let behind = partition.end().get().saturating_sub(next.get());
                    *topics.entry(at.topic).or_default() += u64::try_from(behind).unwrap_or(0);
                }
            });
            for (topic, lag) in topics {
                let topic =
                    self.metadata.read(|state| state.topic(topic).map(|topic| topic.name().to_string()));
                let Some(topic) = topic else { continue };
                let labels = if lags.len() < LAGS_MAX {
                    LagLabels { group: name.to_string(), topic }
                } else {
                    LagLabels { group: "other".to_owned(), topic: "other".to_owned() }
                };
                *lags.entry(labels).or_default() += lag;
            }
            last = Some(name);
        }
        lags
    }
}

impl Collector for LagCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (_, leads) = self.metadata.leader();
        if !leads {
            return Ok(());
        }
        let help = "Records of a topic that a group has yet to read, on the agent that leads";
        let mut family = encoder.encode_descriptor("group_lag_records", help, None, MetricType::Gauge)?;
        for (labels, lag) in self.lags() {
            let lag = ConstGauge::new(i64::try_from(lag).unwrap_or(i64::MAX));
            lag.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
