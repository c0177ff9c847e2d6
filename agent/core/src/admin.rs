//! Administration: topics, log starts, producer ids. Thin functions over the metadata.

use std::time::Duration;

use tidelog_metadata_node::{Metadata, ProposeError};
use tidelog_metadata_state::config::ConfigError;
use tidelog_metadata_state::group::command::GroupRefusal;
use tidelog_metadata_state::{Command, Outcome, Refusal, Topic};
use tidelog_types::{
    Offset, PartitionIndex, ProducerEpoch, ProducerId, TimestampMs, TopicId, TopicName, TopicPartition,
};
use tokio::time::Instant;

/// Why an administrative operation failed. All but [`AdminError::Unknown`] are definite: nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The name is taken.
    #[error("topic {topic} exists, with id {id}")]
    TopicExists {
        /// Its name.
        topic: TopicName,
        /// Its id.
        id: TopicId,
    },
    /// No such topic.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// Its name.
        topic: TopicName,
    },
    /// The topic of that name is another one than the caller means.
    #[error("topic {topic} is not the one with id {wanted}: that one was deleted")]
    TopicIdMismatch {
        /// Its name.
        topic: TopicName,
        /// The id that the caller means.
        wanted: TopicId,
        /// The id of the topic that has the name now.
        found: TopicId,
    },
    /// The topic has fewer partitions.
    #[error("topic {topic} has {partitions} partitions, there is no partition {partition}")]
    UnknownPartition {
        /// Its name.
        topic: TopicName,
        /// The partition that was meant.
        partition: PartitionIndex,
        /// How many there are.
        partitions: u32,
    },
    /// The number of partitions is not allowed.
    #[error("{asked} partitions are not possible, allowed are {low} to {high}")]
    PartitionCount {
        /// What was asked for.
        asked: u32,
        /// Lowest allowed, inclusive.
        low: u32,
        /// Highest allowed, inclusive.
        high: u32,
    },
    /// The cluster has as many partitions as it may.
    #[error("the cluster would have {asked} partitions, allowed are {high}")]
    ClusterPartitions {
        /// What it would have.
        asked: u64,
        /// What is allowed.
        high: u64,
    },
    /// The groups that subscribe to the topic share as many partitions as all groups together may.
    #[error(
        "the groups that subscribe to the topic share too many partitions, all groups together may share {high}"
    )]
    GroupPartitions {
        /// What is allowed.
        high: u64,
    },
    /// A configuration key or value is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The offset lies outside the partition.
    #[error("the offset is not in {earliest}..={latest}")]
    OffsetOutOfRange {
        /// Log start offset.
        earliest: Offset,
        /// High watermark.
        latest: Offset,
    },
    /// The producer id was never allocated, or has expired.
    #[error("the producer id is unknown or has expired")]
    UnknownProducer,
    /// A newer epoch of the producer exists.
    #[error("the producer is fenced: epoch {} exists", current.get())]
    ProducerFenced {
        /// The epoch that may send.
        current: ProducerEpoch,
    },
    /// The metadata log does not answer, or has no leader.
    #[error("the metadata is unavailable: {cause}")]
    MetadataUnavailable {
        /// Why.
        cause: String,
    },
    /// The request does not fit an entry of the metadata log.
    #[error("the request has {bytes} bytes as a metadata entry, allowed are {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What fits.
        max: usize,
    },
    /// It may have taken effect, or may yet do so.
    #[error("the outcome is unknown: {cause}")]
    Unknown {
        /// Why it is not known.
        cause: String,
    },
}

impl AdminError {
    /// When asking again makes sense, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::MetadataUnavailable { .. }).then_some(Duration::from_millis(500))
    }
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// How many partitions it has.
    pub partitions: u32,
    /// When it was created, in the cluster's time.
    pub created: TimestampMs,
    /// Its whole configuration.
    pub config: Vec<ConfigEntry>,
}

/// A configuration key of a topic and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The key.
    pub key: &'static str,
    /// The value that holds.
    pub value: String,
    /// Whether it was set, or is the default.
    pub is_set: bool,
}

/// A partition as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number.
    pub partition: PartitionIndex,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The offset that the next record will get.
    pub high_watermark: Offset,
    /// Bytes that its records occupy.
    pub bytes: u64,
}

/// A topic by name, and by id if it has to be a certain one of that name.
#[derive(Debug, Clone)]
pub struct TopicRef {
    /// The name.
    pub name: TopicName,
    /// The id, to be refused if the name belongs to another topic by now.
    pub id: Option<TopicId>,
}

/// Administrative operations; cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    metadata: Metadata,
    deadline: Duration,
}

impl Admin {
    pub(crate) fn new(metadata: Metadata, deadline: Duration) -> Self {
        Self { metadata, deadline }
    }

    /// Creates a topic with partitions `0..partitions`.
    pub async fn create_topic(
        &self,
        name: &TopicName,
        partitions: u32,
        config: Vec<(String, String)>,
    ) -> Result<TopicInfo, AdminError> {
        let command = Command::CreateTopic { name: name.clone(), partitions, config };
        self.propose(command, name, None).await?;
        self.here(&TopicRef { name: name.clone(), id: None })
    }

    /// Describes a topic and its partitions, as they are now.
    pub async fn topic(&self, topic: &TopicRef) -> Result<(TopicInfo, Vec<PartitionInfo>), AdminError> {
        self.confirm().await?;
        self.metadata.read(|state| {
            let found = resolve(state.topic_by_name(&topic.name), topic)?;
            let partitions = found.partitions().map(|(at, partition)| PartitionInfo {
                partition: at.partition,
                log_start: partition.log_start(),
                high_watermark: partition.end(),
                bytes: partition.bytes(),
            });
            Ok((info(found), partitions.collect()))
        })
    }

    /// Lists topics by name, at most `limit`, those after `after`; and whether there are more.
    pub async fn topics(
        &self,
        after: Option<&TopicName>,
        limit: usize,
    ) -> Result<(Vec<TopicInfo>, bool), AdminError> {
        self.confirm().await?;
        Ok(self.metadata.read(|state| {
            let mut following = state.topics_after(after);
            let page: Vec<TopicInfo> = following.by_ref().take(limit).map(info).collect();
            let has_more = following.next().is_some();
            (page, has_more)
        }))
    }

    /// Changes a topic's configuration: `(key, Some(value))` sets, `(key, None)` returns to the default.
    pub async fn update_topic(
        &self,
        topic: &TopicRef,
        config: Vec<(String, Option<String>)>,
    ) -> Result<TopicInfo, AdminError> {
        let id = self.resolve(topic).await?;
        self.propose(Command::UpdateTopic { topic: id, config }, &topic.name, None).await?;
        self.here(&TopicRef { name: topic.name.clone(), id: Some(id) })
    }

    /// Deletes a topic with all its records.
    pub async fn delete_topic(&self, topic: &TopicRef) -> Result<(), AdminError> {
        let id = self.resolve(topic).await?;
        self.propose(Command::DeleteTopic { topic: id }, &topic.name, None).await?;
        Ok(())
    }

    /// Grows a topic to `partitions` partitions in all.
    pub async fn add_partitions(&self, topic: &TopicRef, partitions: u32) -> Result<TopicInfo, AdminError> {
        let id = self.resolve(topic).await?;
        self.propose(Command::AddPartitions { topic: id, partitions }, &topic.name, None).await?;
        self.here(&TopicRef { name: topic.name.clone(), id: Some(id) })
    }

    /// Deletes the records before an offset, or all (`None`); returns the log start offset.
    pub async fn delete_records(
        &self,
        topic: &TopicRef,
        partition: PartitionIndex,
        before: Option<Offset>,
    ) -> Result<Offset, AdminError> {
        let id = self.resolve(topic).await?;
        let at = TopicPartition { topic: id, partition };
        let command = Command::DeleteRecords { partition: at, before };
        match &*self.propose(command, &topic.name, Some(partition)).await? {
            Outcome::RecordsDeleted { log_start } => Ok(*log_start),
            other => Err(unexpected(other)),
        }
    }

    /// Allocates the id of an idempotent producer, or raises the epoch of an existing one.
    pub async fn init_producer(
        &self,
        existing: Option<(ProducerId, ProducerEpoch)>,
    ) -> Result<(ProducerId, ProducerEpoch), AdminError> {
        let command = Command::InitProducer { existing };
        let outcome = self.metadata.propose(command, self.deadline()).await.map_err(unproposed)?;
        match &*outcome {
            Outcome::ProducerReady { id, epoch } => Ok((*id, *epoch)),
            Outcome::Refused(Refusal::UnknownProducer) => Err(AdminError::UnknownProducer),
            Outcome::Refused(Refusal::ProducerFenced { current }) => {
                Err(AdminError::ProducerFenced { current: *current })
            }
            other => Err(unexpected(other)),
        }
    }

    /// The id of a topic. One that is not known here may have been created elsewhere a moment ago.
    async fn resolve(&self, topic: &TopicRef) -> Result<TopicId, AdminError> {
        let here =
            || self.metadata.read(|state| resolve(state.topic_by_name(&topic.name), topic).map(Topic::id));
        if let Ok(id) = here() {
            return Ok(id);
        }
        self.confirm().await?;
        here()
    }

    fn here(&self, topic: &TopicRef) -> Result<TopicInfo, AdminError> {
        self.metadata.read(|state| resolve(state.topic_by_name(&topic.name), topic).map(info))
    }

    async fn confirm(&self) -> Result<(), AdminError> {
        let confirmed = self.metadata.confirm(self.deadline()).await;
        confirmed.map(drop).map_err(|error| AdminError::MetadataUnavailable { cause: error.to_string() })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.deadline
    }

    async fn propose(
        &self,
        command: Command,
        topic: &TopicName,
        partition: Option<PartitionIndex>,
    ) -> Result<std::sync::Arc<Outcome>, AdminError> {
        let outcome = self.metadata.propose(command, self.deadline()).await.map_err(unproposed)?;
        match &*outcome {
            Outcome::Refused(refusal) => Err(refused(refusal, topic, partition)),
            _ => Ok(outcome),
        }
    }
}

fn resolve<'a>(found: Option<&'a Topic>, wanted: &TopicRef) -> Result<&'a Topic, AdminError> {
    let topic = found.ok_or_else(|| AdminError::UnknownTopic { topic: wanted.name.clone() })?;
    match wanted.id {
        Some(id) if id != topic.id() => {
            Err(AdminError::TopicIdMismatch { topic: wanted.name.clone(), wanted: id, found: topic.id() })
        }
        _ => Ok(topic),
    }
}

fn info(topic: &Topic) -> TopicInfo {
    let config = topic.config();
    let set: Vec<&'static str> = config.overrides().map(|(key, _)| key).collect();
    let entries = tidelog_metadata_state::config::KEYS.iter().map(|key| ConfigEntry {
        key: key.name,
        value: config.get(key.name).unwrap_or(key.default).to_owned(),
        is_set: set.contains(&key.name),
    });
    TopicInfo {
        id: topic.id(),
        name: topic.name().clone(),
        partitions: topic.partition_count(),
        created: topic.created(),
        config: entries.collect(),
    }
}

fn unproposed(error: ProposeError) -> AdminError {
    match error {
        ProposeError::Unavailable(cause) => AdminError::MetadataUnavailable { cause },
        ProposeError::TooLarge { bytes, max } => AdminError::TooLarge { bytes, max },
        ProposeError::Unknown(cause) => AdminError::Unknown { cause },
    }
}

fn unexpected(outcome: &Outcome) -> AdminError {
    tracing::error!(event = "admin_outcome", ?outcome, "another kind of outcome than the command has");
    AdminError::Unknown { cause: "the metadata gave another kind of outcome".to_owned() }
}

fn refused(refusal: &Refusal, topic: &TopicName, partition: Option<PartitionIndex>) -> AdminError {
    match refusal {
        Refusal::TopicExists { topic: id } => AdminError::TopicExists { topic: topic.clone(), id: *id },
        Refusal::UnknownTopic => AdminError::UnknownTopic { topic: topic.clone() },
        Refusal::UnknownPartition { partitions, asked } => AdminError::UnknownPartition {
            topic: topic.clone(),
            partition: partition.unwrap_or(*asked),
            partitions: *partitions,
        },
        Refusal::PartitionCount { asked, low, high } => {
            AdminError::PartitionCount { asked: *asked, low: *low, high: *high }
        }
        Refusal::ClusterPartitions { asked, high } => {
            AdminError::ClusterPartitions { asked: *asked, high: *high }
        }
        Refusal::Config(error) => AdminError::Config(error.clone()),
        Refusal::OffsetOutOfRange { start, end } => {
            AdminError::OffsetOutOfRange { earliest: *start, latest: *end }
        }
        Refusal::UnknownProducer => AdminError::UnknownProducer,
        Refusal::ProducerFenced { current } => AdminError::ProducerFenced { current: *current },
        Refusal::Group(GroupRefusal::Full { limit }) => AdminError::GroupPartitions { high: limit.value() },
        Refusal::BelowFloor { .. } | Refusal::Malformed | Refusal::Superseded | Refusal::Group(_) => {
            AdminError::Unknown { cause: refusal.to_string() }
        }
    }
}
