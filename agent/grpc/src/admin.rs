//! `tidelog.v1.AdminService`.

use std::collections::BTreeMap;

use tidelog_agent::{Agent, AgentSeen, OffsetQuery, OffsetWanted, TopicInfo, TopicRef};
use tidelog_metadata_state::config::{KEYS, MAX_MESSAGE_BYTES_HIGH};
use tidelog_metadata_state::limits::PARTITIONS_PER_TOPIC_MAX;
use tidelog_proto::convert::entry::check_count;
use tidelog_proto::convert::{self, InvalidField, PartitionRef, Position, check_entries};
use tidelog_proto::limits;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::admin_service_server::AdminService;
use tidelog_proto::v1::{
    AddPartitionsRequest, AddPartitionsResponse, ClusterAgent, CreateTopicRequest, CreateTopicResponse,
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsResult,
    DeleteTopicRequest, DeleteTopicResponse, DescribeClusterRequest, DescribeClusterResponse, ErrorReason,
    FoundOffset, GetServerInfoRequest, GetServerInfoResponse, GetTopicRequest, GetTopicResponse,
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsResult, ListTopicsRequest,
    ListTopicsResponse, Partition, ServerLimits, Topic, TopicConfigKey, UpdateTopicRequest,
    UpdateTopicResponse, delete_records_result, list_offsets_result,
};
use tidelog_types::name::TOPIC_NAME_MAX;
use tidelog_types::{ClusterId, Offset, TopicName};
use tonic::{Request, Response, Status};

use crate::error;
use crate::timed::timed;

/// Serves administrative calls.
#[derive(Debug, Clone)]
pub(crate) struct Administering {
    pub agent: Agent,
    pub cluster: ClusterId,
}

impl Administering {
    async fn call<T>(
        &self,
        api: &'static str,
        call: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<Response<T>, Status> {
        timed(&self.agent, api, async {
            if self.agent.draining().is_cancelled() {
                return Err(error::draining().into());
            }
            call.await.map_err(Into::into)
        })
        .await
    }
}

impl Administering {
    async fn delete_before(
        &self,
        entry: &DeleteRecordsPartition,
        position: usize,
    ) -> Result<Offset, ApiError> {
        let within = |invalid: InvalidField| invalid.within(format_args!("partitions[{position}]"));
        let at = PartitionRef::try_from(entry).map_err(within)?;
        let before = match Position::try_from(entry).map_err(within)? {
            Position::Offset(offset) => Some(offset),
            Position::Latest => None,
            // Nothing lies before the log start, whatever it is.
            Position::Earliest | Position::Timestamp(_) => Some(Offset::ZERO),
        };
        let topic = TopicRef { name: at.topic, id: at.topic_id };
        let deleted = self.agent.admin().delete_records(&topic, at.partition, before).await;
        deleted.map_err(|failed| error::admin(&failed))
    }
}

#[tonic::async_trait]
impl AdminService for Administering {
    async fn create_topic(
        &self,
        request: Request<CreateTopicRequest>,
    ) -> Result<Response<CreateTopicResponse>, Status> {
        let request = request.into_inner();
        self.call("create_topic", async {
            let name = convert::topic_name("name", &request.name)?;
            let partitions = partition_count(request.partition_count.unwrap_or(1))?;
            let config = request.config.into_iter().collect();
            let created = self.agent.admin().create_topic(&name, partitions, config).await;
            let topic = created.map_err(|failed| error::admin(&failed))?;
            Ok(CreateTopicResponse { topic: Some(topic_message(&topic)) })
        })
        .await
    }

    async fn get_topic(
        &self,
        request: Request<GetTopicRequest>,
    ) -> Result<Response<GetTopicResponse>, Status> {
        let request = request.into_inner();
        self.call("get_topic", async {
            let topic = TopicRef { name: convert::topic_name("name", &request.name)?, id: None };
            let found = self.agent.admin().topic(&topic).await;
            let (topic, partitions) = found.map_err(|failed| error::admin(&failed))?;
            let partitions = partitions.iter().map(|partition| Partition {
                partition: partition.partition.get(),
                log_start_offset: partition.log_start.get(),
                high_watermark: partition.high_watermark.get(),
                size_bytes: partition.bytes,
            });
            Ok(GetTopicResponse { topic: Some(topic_message(&topic)), partitions: partitions.collect() })
        })
        .await
    }

    async fn list_topics(
        &self,
        request: Request<ListTopicsRequest>,
    ) -> Result<Response<ListTopicsResponse>, Status> {
        let request = request.into_inner();
        self.call("list_topics", async {
            let page_size = convert::page_size(request.page_size)?;
            // The token is the last name of the page before: it means the same whatever was created or deleted since.
            let after = match request.page_token.as_str() {
                "" => None,
                token => Some(
                    TopicName::new(token)
                        .map_err(|_| InvalidField::new("page_token", "is not one of ours"))?,
                ),
            };
            let page = self.agent.admin().topics(after.as_ref(), page_size).await;
            let (topics, has_more) = page.map_err(|failed| error::admin(&failed))?;
            let next_page_token = topics.last().filter(|_| has_more).map(|topic| topic.name.to_string());
            Ok(ListTopicsResponse {
                topics: topics.iter().map(topic_message).collect(),
                next_page_token: next_page_token.unwrap_or_default(),
            })
        })
        .await
    }

    async fn update_topic(
        &self,
        request: Request<UpdateTopicRequest>,
    ) -> Result<Response<UpdateTopicResponse>, Status> {
        let request = request.into_inner();
        self.call("update_topic", async {
            let topic = topic_ref(convert::TopicRef::try_from(&request)?);
            if let Some(both) = request.unset.iter().find(|key| request.set.contains_key(*key)) {
                let text = format!("{both:?} is in set as well");
                return Err(InvalidField::new("unset", text).into());
            }
            let set = request.set.into_iter().map(|(key, value)| (key, Some(value)));
            let changes = set.chain(request.unset.into_iter().map(|key| (key, None))).collect();
            let updated = self.agent.admin().update_topic(&topic, changes).await;
            let topic = updated.map_err(|failed| error::admin(&failed))?;
            Ok(UpdateTopicResponse { topic: Some(topic_message(&topic)) })
        })
        .await
    }

    async fn delete_topic(
        &self,
        request: Request<DeleteTopicRequest>,
    ) -> Result<Response<DeleteTopicResponse>, Status> {
        let request = request.into_inner();
        self.call("delete_topic", async {
            let topic = topic_ref(convert::TopicRef::try_from(&request)?);
            self.agent.admin().delete_topic(&topic).await.map_err(|failed| error::admin(&failed))?;
            Ok(DeleteTopicResponse {})
        })
        .await
    }

    async fn add_partitions(
        &self,
        request: Request<AddPartitionsRequest>,
    ) -> Result<Response<AddPartitionsResponse>, Status> {
        let request = request.into_inner();
        self.call("add_partitions", async {
            let topic = topic_ref(convert::TopicRef::try_from(&request)?);
            let partitions = partition_count(request.partition_count)?;
            let grown = self.agent.admin().add_partitions(&topic, partitions).await;
            let topic = grown.map_err(|failed| error::admin(&failed))?;
            Ok(AddPartitionsResponse { topic: Some(topic_message(&topic)) })
        })
        .await
    }

    async fn list_offsets(
        &self,
        request: Request<ListOffsetsRequest>,
    ) -> Result<Response<ListOffsetsResponse>, Status> {
        let request = request.into_inner();
        self.call("list_offsets", async {
            check_count(request.partitions.len())?;
            let wanted: Vec<Result<OffsetWanted, InvalidField>> = request
                .partitions
                .iter()
                .enumerate()
                .map(|(position, entry)| {
                    offset_wanted(entry)
                        .map_err(|invalid| invalid.within(format_args!("partitions[{position}]")))
                })
                .collect();
            let sound: Vec<OffsetWanted> =
                wanted.iter().filter_map(|wanted| wanted.as_ref().ok().cloned()).collect();
            let mut found = self.agent.find_offsets(&sound).await.into_iter();
            let mut results = Vec::with_capacity(wanted.len());
            for (entry, wanted) in request.partitions.into_iter().zip(wanted) {
                let answer = match wanted {
                    Err(invalid) => Err(ApiError::from(invalid)),
                    Ok(_) => match found.next() {
                        Some(found) => found.map_err(|failed| error::fetch(&failed)),
                        None => Err(error::draining()),
                    },
                };
                let result = match answer {
                    Ok(found) => list_offsets_result::Result::Found(FoundOffset {
                        offset: found.offset.get(),
                        timestamp_ms: found.timestamp.map(|time| time.0),
                    }),
                    Err(failed) => list_offsets_result::Result::Error(failed.into()),
                };
                let (topic, partition) = (entry.topic, entry.partition);
                results.push(ListOffsetsResult { topic, partition, result: Some(result) });
            }
            Ok(ListOffsetsResponse { results })
        })
        .await
    }

    async fn delete_records(
        &self,
        request: Request<DeleteRecordsRequest>,
    ) -> Result<Response<DeleteRecordsResponse>, Status> {
        let request = request.into_inner();
        self.call("delete_records", async {
            check_entries(request.partitions.iter().map(|entry| (entry.topic.as_str(), entry.partition)))?;
            let mut results = Vec::with_capacity(request.partitions.len());
            for (position, entry) in request.partitions.into_iter().enumerate() {
                let result = match self.delete_before(&entry, position).await {
                    Ok(log_start) => delete_records_result::Result::LogStartOffset(log_start.get()),
                    Err(failed) => delete_records_result::Result::Error(failed.into()),
                };
                let (topic, partition) = (entry.topic, entry.partition);
                results.push(DeleteRecordsResult { topic, partition, result: Some(result) });
            }
            Ok(DeleteRecordsResponse { results })
        })
        .await
    }

    async fn describe_cluster(
        &self,
        _request: Request<DescribeClusterRequest>,
    ) -> Result<Response<DescribeClusterResponse>, Status> {
        self.call("describe_cluster", async {
            let view = self.agent.cluster().await;
            let agent = |AgentSeen { card, applied }| ClusterAgent {
                agent_instance: card.instance.to_string(),
                address: card.clients_at,
                version: card.version,
                applied: applied.0,
            };
            Ok(DescribeClusterResponse {
                cluster_id: self.cluster.to_string(),
                answered_by: view.asked.instance.to_string(),
                leader: view.leader.map_or_else(String::new, |leader| leader.to_string()),
                epoch: view.epoch.0,
                applied: view.applied.0,
                agents: view.agents.into_iter().map(agent).collect(),
                incomplete_reason: view.incomplete.unwrap_or_default(),
                topic_count: i32::try_from(view.topics).unwrap_or(i32::MAX),
                partition_count: i64::try_from(view.partitions).unwrap_or(i64::MAX),
            })
        })
        .await
    }

    async fn get_server_info(
        &self,
        _request: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        let count = |limit: usize| i32::try_from(limit).unwrap_or(i32::MAX);
        let small = |limit: u32| i32::try_from(limit).unwrap_or(i32::MAX);
        let keys = KEYS.iter().map(|key| TopicConfigKey {
            name: key.name.to_owned(),
            default_value: key.default.to_owned(),
            allowed: key.allowed.to_owned(),
            description: key.doc.to_owned(),
        });
        let auto_creates = self.agent.settings().auto_create_topics;
        Ok(Response::new(GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: self.cluster.to_string(),
            agent_instance: self.agent.metadata().instance().to_string(),
            limits: Some(ServerLimits {
                request_bytes_max: count(limits::REQUEST_BYTES_MAX),
                fetch_bytes_max: count(limits::FETCH_BYTES_MAX),
                batch_bytes_max: small(MAX_MESSAGE_BYTES_HIGH),
                partitions_per_request_max: count(limits::PARTITIONS_PER_REQUEST_MAX),
                partitions_per_topic_max: small(PARTITIONS_PER_TOPIC_MAX),
                topic_name_bytes_max: count(TOPIC_NAME_MAX),
                fetch_wait_ms_max: small(limits::FETCH_WAIT_MS_MAX),
                page_size_max: count(limits::PAGE_SIZE_MAX),
            }),
            features: auto_creates.then(|| "auto-create-topics".to_owned()).into_iter().collect(),
            topic_config_keys: keys.collect(),
        }))
    }
}

/// Too few partitions are an error of their own, as too many are.
fn partition_count(count: i32) -> Result<u32, ApiError> {
    convert::partition_count("partition_count", count).map_err(|_| {
        let text = format!("{count} partitions, allowed are 1 to {PARTITIONS_PER_TOPIC_MAX}");
        ApiError::new(ErrorReason::InvalidPartitionCount, &text)
            .with("low", 1)
            .with("limit", PARTITIONS_PER_TOPIC_MAX)
            .violation("partition_count", text)
    })
}

fn topic_ref(topic: convert::TopicRef) -> TopicRef {
    TopicRef { name: topic.name, id: topic.id }
}

fn topic_message(topic: &TopicInfo) -> Topic {
    let set = topic.config.iter().filter(|entry| entry.is_set);
    let config: BTreeMap<String, String> =
        set.map(|entry| (entry.key.to_owned(), entry.value.clone())).collect();
    Topic {
        name: topic.name.to_string(),
        id: topic.id.0,
        partition_count: i32::try_from(topic.partitions).unwrap_or(i32::MAX),
        config,
        create_time_ms: topic.created.0,
    }
}

fn offset_wanted(entry: &ListOffsetsPartition) -> Result<OffsetWanted, InvalidField> {
    let PartitionRef { topic, topic_id, partition } = PartitionRef::try_from(entry)?;
    let query = match Position::try_from(entry)? {
        Position::Timestamp(time) => OffsetQuery::AtTime(time),
        Position::Earliest => OffsetQuery::Earliest,
        Position::Latest => OffsetQuery::Latest,
        // Cannot be said in this request.
        Position::Offset(_) => return Err(InvalidField::missing("at")),
    };
    Ok(OffsetWanted { topic, topic_id, partition, query })
}
