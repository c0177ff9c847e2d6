//! Topics, offsets and the service itself.

use std::collections::BTreeMap;

use tidelog_proto::v1::{self, OffsetPosition};
use tidelog_types::{Offset, PartitionIndex, TimestampMs, TopicId, TopicName};
use tonic::Response;

use crate::connection::Client;
use crate::error::RequestError;
use crate::request::{self, Repeat, call, with_deadline};

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// Its id, which a topic of the same name created later does not share.
    pub id: TopicId,
    /// How many partitions it has, 1 or more, numbered from 0.
    pub partition_count: u32,
    /// The settings that were made; the others have the defaults in [`ServerInfo::config_keys`].
    pub config: BTreeMap<String, String>,
    /// When it was created.
    pub created: TimestampMs,
}

/// What a partition holds: offsets from `log_start` inclusive to `high_watermark` exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub partition: PartitionIndex,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The offset that the next record will get.
    pub high_watermark: Offset,
    /// Bytes of its batches.
    pub size_bytes: u64,
}

/// A place to look for in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first offset that can be read.
    Earliest,
    /// The offset that the next record will get.
    Latest,
    /// The first record whose timestamp is this or later.
    Time(TimestampMs),
}

/// A place that was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundOffset {
    /// The offset; by time, if no record is so late, the high watermark.
    pub offset: Offset,
    /// By time: the record's timestamp; `None` if there is no such record.
    pub timestamp: Option<TimestampMs>,
}

/// Where records are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteBefore {
    /// All before this offset.
    Offset(Offset),
    /// All that is there.
    Latest,
}

/// What an agent is and takes.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerInfo {
    /// Version of the agent.
    pub version: String,
    /// Id of the cluster: a UUID as text.
    pub cluster_id: String,
    /// Id of this run of the agent: a UUID as text.
    pub agent_instance: String,
    /// How much it takes at once.
    pub limits: v1::ServerLimits,
    /// What it can do beyond the contract.
    pub features: Vec<String>,
    /// The configuration that a topic can have.
    pub config_keys: Vec<v1::TopicConfigKey>,
}

impl ServerInfo {
    /// Whether topics appear when something is produced to them.
    pub fn auto_creates_topics(&self) -> bool {
        self.features.iter().any(|feature| feature == "auto-create-topics")
    }

    /// The default of a topic's configuration key.
    pub fn config_default(&self, key: &str) -> Option<&str> {
        self.config_keys.iter().find(|known| known.name == key).map(|known| known.default_value.as_str())
    }
}

/// The agents of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Id of the cluster: a UUID.
    pub cluster_id: String,
    /// Instance id of the agent that answered.
    pub answered_by: String,
    /// Epoch of the metadata log.
    pub epoch: u64,
    /// Entries of the metadata log that the agent that answered has applied.
    pub applied: u64,
    /// Number of topics.
    pub topics: u32,
    /// Number of partitions of all topics.
    pub partitions: u64,
    /// The leader first; only the agent that answered if there is no leader that it reaches.
    pub agents: Vec<ClusterAgent>,
    /// Why `agents` is not complete.
    pub incomplete_reason: Option<String>,
}

/// An agent of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterAgent {
    /// Id of this run of it: a UUID.
    pub instance: String,
    /// Where it listens for clients.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Entries of the metadata log that it had applied when the leader heard last of it.
    pub applied: u64,
    /// Whether it leads the metadata log.
    pub leads: bool,
}

impl Client {
    /// Creates a topic. `partition_count` `None` leaves it to the service: 1.
    pub async fn create_topic(
        &self,
        name: &TopicName,
        partition_count: Option<u32>,
        config: BTreeMap<String, String>,
    ) -> Result<Topic, RequestError> {
        let request = v1::CreateTopicRequest {
            name: name.to_string(),
            partition_count: partition_count.map(saturating),
            config,
        };
        let response = self
            .admin(Repeat::IfNotDone, request, async |mut admin, request| admin.create_topic(request).await);
        topic(response.await?.topic)
    }

    /// Describes a topic and all its partitions, from 0.
    pub async fn get_topic(&self, name: &TopicName) -> Result<(Topic, Vec<Partition>), RequestError> {
        let request = v1::GetTopicRequest { name: name.to_string() };
        let response =
            self.admin(Repeat::Always, request, async |mut admin, request| admin.get_topic(request).await);
        let response = response.await?;
        let partitions = response.partitions.into_iter().map(|partition| {
            Ok(Partition {
                partition: valid(PartitionIndex::new(partition.partition))?,
                log_start: valid(Offset::new(partition.log_start_offset))?,
                high_watermark: valid(Offset::new(partition.high_watermark))?,
                size_bytes: partition.size_bytes,
            })
        });
        let partitions = partitions.collect::<Result<Vec<_>, RequestError>>()?;
        Ok((topic(response.topic)?, partitions))
    }

    /// Lists all topics by name.
    pub async fn list_topics(&self) -> Result<Vec<Topic>, RequestError> {
        let mut topics = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListTopicsRequest { page_size: 1000, page_token };
            let page = self
                .admin(Repeat::Always, request, async |mut admin, request| admin.list_topics(request).await);
            let page = page.await?;
            for listed in page.topics {
                topics.push(topic(Some(listed))?);
            }
            if page.next_page_token.is_empty() {
                return Ok(topics);
            }
            page_token = page.next_page_token;
        }
    }

    /// Changes a topic's configuration: `None` returns a key to its default.
    pub async fn update_topic(
        &self,
        name: &TopicName,
        changes: BTreeMap<String, Option<String>>,
    ) -> Result<Topic, RequestError> {
        let mut request = v1::UpdateTopicRequest { name: name.to_string(), ..Default::default() };
        for (key, value) in changes {
            match value {
                Some(value) => {
                    request.set.insert(key, value);
                }
                None => request.unset.push(key),
            }
        }
        let response =
            self.admin(Repeat::Always, request, async |mut admin, request| admin.update_topic(request).await);
        topic(response.await?.topic)
    }

    /// Deletes a topic with all its records. `id`: refuse if the name belongs to another topic by now.
    pub async fn delete_topic(&self, name: &TopicName, id: Option<TopicId>) -> Result<(), RequestError> {
        let request = v1::DeleteTopicRequest { name: name.to_string(), topic_id: id.map(|id| id.0) };
        self.admin(Repeat::IfNotDone, request, async |mut admin, request| admin.delete_topic(request).await)
            .await?;
        Ok(())
    }

    /// Raises the number of partitions of a topic to `partition_count`.
    pub async fn add_partitions(
        &self,
        name: &TopicName,
        partition_count: u32,
    ) -> Result<Topic, RequestError> {
        let request = v1::AddPartitionsRequest {
            name: name.to_string(),
            topic_id: None,
            partition_count: saturating(partition_count),
        };
        let response = self.admin(Repeat::IfNotDone, request, async |mut admin, request| {
            admin.add_partitions(request).await
        });
        topic(response.await?.topic)
    }

    /// Finds offsets; one result for each place asked for, in the same order.
    pub async fn list_offsets(
        &self,
        places: &[(TopicName, PartitionIndex, OffsetAt)],
    ) -> Result<Vec<Result<FoundOffset, RequestError>>, RequestError> {
        use v1::list_offsets_partition::At;
        let partitions = places.iter().map(|(topic, partition, at)| v1::ListOffsetsPartition {
            topic: topic.to_string(),
            partition: partition.get(),
            topic_id: None,
            at: Some(match at {
                OffsetAt::Earliest => At::Position(OffsetPosition::Earliest.into()),
                OffsetAt::Latest => At::Position(OffsetPosition::Latest.into()),
                OffsetAt::Time(time) => At::TimestampMs(time.0),
            }),
        });
        let request = v1::ListOffsetsRequest { partitions: partitions.collect() };
        let response =
            self.admin(Repeat::Always, request, async |mut admin, request| admin.list_offsets(request).await);
        let results = response.await?.results.into_iter().map(|result| match result.result {
            Some(v1::list_offsets_result::Result::Found(found)) => Ok(FoundOffset {
                offset: valid(Offset::new(found.offset))?,
                timestamp: found.timestamp_ms.map(TimestampMs),
            }),
            Some(v1::list_offsets_result::Result::Error(error)) => {
                Err(RequestError::sort(error.into(), true))
            }
            None => Err(RequestError::Protocol("a result is missing".into())),
        });
        counted(results.collect(), places.len())
    }

    /// Deletes the records at the beginning of partitions; for each partition its log start offset afterwards.
    pub async fn delete_records(
        &self,
        places: &[(TopicName, PartitionIndex, DeleteBefore)],
    ) -> Result<Vec<Result<Offset, RequestError>>, RequestError> {
        use v1::delete_records_partition::Before;
        let partitions = places.iter().map(|(topic, partition, before)| v1::DeleteRecordsPartition {
            topic: topic.to_string(),
            partition: partition.get(),
            topic_id: None,
            before: Some(match before {
                DeleteBefore::Offset(offset) => Before::Offset(offset.get()),
                DeleteBefore::Latest => Before::Position(OffsetPosition::Latest.into()),
            }),
        });
        let request = v1::DeleteRecordsRequest { partitions: partitions.collect() };
        let response = self.admin(Repeat::IfNotDone, request, async |mut admin, request| {
            admin.delete_records(request).await
        });
        let results = response.await?.results.into_iter().map(|result| match result.result {
            Some(v1::delete_records_result::Result::LogStartOffset(offset)) => valid(Offset::new(offset)),
            Some(v1::delete_records_result::Result::Error(error)) => {
                Err(RequestError::sort(error.into(), false))
            }
            None => Err(RequestError::Protocol("a result is missing".into())),
        });
        counted(results.collect(), places.len())
    }

    /// Tells which agents there are, who leads, and how far each is.
    pub async fn describe_cluster(&self) -> Result<Cluster, RequestError> {
        let request = v1::DescribeClusterRequest {};
        let response = self
            .admin(Repeat::Always, request, async |mut admin, request| admin.describe_cluster(request).await);
        let cluster = response.await?;
        let agent = |agent: v1::ClusterAgent| ClusterAgent {
            leads: agent.agent_instance == cluster.leader,
            instance: agent.agent_instance,
            address: agent.address,
            version: agent.version,
            applied: agent.applied,
        };
        Ok(Cluster {
            agents: cluster.agents.into_iter().map(agent).collect(),
            cluster_id: cluster.cluster_id,
            answered_by: cluster.answered_by,
            epoch: cluster.epoch,
            applied: cluster.applied,
            incomplete_reason: Some(cluster.incomplete_reason).filter(|reason| !reason.is_empty()),
            topics: u32::try_from(cluster.topic_count).unwrap_or(0),
            partitions: u64::try_from(cluster.partition_count).unwrap_or(0),
        })
    }

    /// Tells what the agent is and what it takes.
    pub async fn server_info(&self) -> Result<ServerInfo, RequestError> {
        let request = v1::GetServerInfoRequest {};
        let response = self
            .admin(Repeat::Always, request, async |mut admin, request| admin.get_server_info(request).await);
        let info = response.await?;
        Ok(ServerInfo {
            version: info.version,
            cluster_id: info.cluster_id,
            agent_instance: info.agent_instance,
            limits: info.limits.ok_or_else(|| RequestError::Protocol("the limits are missing".into()))?,
            features: info.features,
            config_keys: info.topic_config_keys,
        })
    }

    async fn admin<Q: Clone, A>(
        &self,
        repeat: Repeat,
        message: Q,
        send: impl AsyncFn(AdminClient, tonic::Request<Q>) -> Result<Response<A>, tonic::Status>,
    ) -> Result<A, RequestError> {
        let limit = self.options().request_timeout;
        call(self, repeat, |channel| send(request::admin(channel), with_deadline(message.clone(), limit)))
            .await
    }
}

type AdminClient = v1::admin_service_client::AdminServiceClient<tonic::transport::Channel>;

/// What is more than the wire can say is too much anyway; the service says so.
fn saturating(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn valid<T>(checked: Result<T, impl std::fmt::Display>) -> Result<T, RequestError> {
    checked.map_err(|error| RequestError::Protocol(error.to_string()))
}

fn counted<T>(results: Vec<T>, expected: usize) -> Result<Vec<T>, RequestError> {
    if results.len() != expected {
        return Err(RequestError::Protocol(format!("{} results for {expected} questions", results.len())));
    }
    Ok(results)
}

fn topic(topic: Option<v1::Topic>) -> Result<Topic, RequestError> {
    let topic = topic.ok_or_else(|| RequestError::Protocol("the topic is missing".into()))?;
    let partition_count = u32::try_from(topic.partition_count).ok().filter(|count| *count > 0);
    Ok(Topic {
        name: valid(TopicName::new(&topic.name))?,
        id: TopicId(topic.id),
        partition_count: partition_count
            .ok_or_else(|| RequestError::Protocol("a topic without partitions".into()))?,
        config: topic.config,
        created: TimestampMs(topic.create_time_ms),
    })
}
