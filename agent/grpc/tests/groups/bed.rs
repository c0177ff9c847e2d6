//! A server in this process.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use tidelog_agent::{Agent, Components, Metrics, Settings, TaskError};
use tidelog_grpc::{GrpcServer, ServerError};
use tidelog_metadata_log::env::{Clock, Entropy, SystemClock};
use tidelog_metadata_log::memory::MemoryLog;
use tidelog_metadata_node::{Node, NodeConfig, NodeError, ObjectSnapshots, genesis};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::group_service_client::GroupServiceClient;
use tidelog_proto::v1::{
    ErrorReason, JoinGroupRequest, MemberIdentity, MemberOptions, OffsetCommit, TopicPartitions,
};
use tidelog_types::{AgentInstance, ShardId, TopicName};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

pub struct Bed {
    pub client: GroupServiceClient<Channel>,
    cancel: CancellationToken,
    tasks: JoinHandle<Result<(), TaskError>>,
    node: (CancellationToken, JoinHandle<Result<(), NodeError>>),
    server: JoinHandle<Result<(), ServerError>>,
}

impl Bed {
    /// A server with a topic `t`.
    pub async fn new(partitions: u32) -> Self {
        Self::with(Settings::default(), partitions).await
    }

    pub async fn with(settings: Settings, partitions: u32) -> Self {
        let (store, entropy) = (Arc::new(InMemory::new()), Entropy::seeded(7));
        let log = Arc::new(MemoryLog::new());
        let cluster =
            genesis::initialise(&*store, &*log, &SystemClock, &entropy).await.expect("empty stores");
        let mut config = NodeConfig::new(cluster, AgentInstance(entropy.uuid()));
        config.exclusive = true;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let snapshots = Arc::new(ObjectSnapshots::new(Arc::clone(&store) as _, ShardId::ZERO));
        let (metadata, node) = Node::new(config, log, snapshots, Arc::clone(&clock), entropy.clone());
        let components = Components { store, metadata, clock, entropy, metrics: Metrics::new() };
        let (agent, tasks) = Agent::new(components, settings);
        let (cancel, cancel_node) = (CancellationToken::new(), CancellationToken::new());
        let tasks = tokio::spawn(tasks.run(cancel.clone()));
        let node = (cancel_node.clone(), tokio::spawn(node.run(cancel_node)));
        let server = GrpcServer::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let address = server.address().expect("it is bound");
        let server = tokio::spawn(server.run(agent.clone(), cluster, cancel.clone()));
        let channel = Channel::from_shared(format!("http://{address}")).expect("a URL");
        let channel = channel.connect().await.expect("the server listens");
        let name = TopicName::new("t").expect("a name");
        agent.admin().create_topic(&name, partitions, Vec::new()).await.expect("created");
        Self { client: GroupServiceClient::new(channel), cancel, tasks, node, server }
    }

    /// Begins to shut the agent down.
    pub fn drain(&self) {
        self.cancel.cancel();
    }

    pub async fn stop(self) {
        drop(self.client);
        self.cancel.cancel();
        self.server.await.expect("no panic").expect("a clean stop");
        self.tasks.await.expect("no panic").expect("a clean stop");
        self.node.0.cancel();
        self.node.1.await.expect("no panic").expect("a clean stop");
    }

    /// Joins by the unary call, and returns the generation.
    pub async fn join(&mut self, identity: &MemberIdentity) -> u64 {
        let request = JoinGroupRequest { member: Some(identity.clone()), options: Some(options(&["t"])) };
        let joined = self.client.join_group(request).await.expect("there is room").into_inner();
        joined.assignment.expect("an assignment").generation
    }
}

pub fn identity(member: &str, run: u8) -> MemberIdentity {
    MemberIdentity { group: "g".into(), member_id: member.into(), incarnation: vec![run; 16].into() }
}

pub fn options(topics: &[&str]) -> MemberOptions {
    MemberOptions {
        topics: topics.iter().map(ToString::to_string).collect(),
        session_timeout_ms: 10_000,
        ..MemberOptions::default()
    }
}

pub fn to_commit(partition: i32, offset: i64) -> OffsetCommit {
    OffsetCommit { topic: "t".into(), partition, offset, ..OffsetCommit::default() }
}

/// Partition numbers of topic `t`.
pub fn numbers(partitions: &[TopicPartitions]) -> Vec<i32> {
    partitions.iter().filter(|list| list.topic == "t").flat_map(|list| list.partitions.clone()).collect()
}

pub fn reason(status: &Status) -> ErrorReason {
    ApiError::from_status(status).reason
}

pub fn milliseconds(duration: u64) -> Duration {
    Duration::from_millis(duration)
}
