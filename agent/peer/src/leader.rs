//! Requests to the leader, for what is no entry of the metadata log.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidelog_agent::cluster::{AgentSeen, ClusterLink};
use tidelog_agent::groups::link::{BeatError, LeaderLink, LinkError, MemberBeat};
use tidelog_metadata_node::{AgentCard, Metadata};
use tidelog_metadata_state::Leader;
use tidelog_types::{AgentInstance, ClusterId, LogIndex};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::v1::peer_service_client::PeerServiceClient;
use crate::v1::{self, BeatResult};
use crate::{MESSAGE_BYTES_MAX, convert};

const CONNECT_MAX: Duration = Duration::from_millis(500);

/// Asks whoever leads, as this agent knows it.
#[derive(Debug, Clone)]
pub struct GrpcLeader {
    cluster: ClusterId,
    metadata: Metadata,
    /// The connection to the last leader that was asked.
    last: Arc<Mutex<Option<(Leader, Channel)>>>,
}

impl GrpcLeader {
    /// For an agent with this handle of its metadata.
    pub fn new(cluster: ClusterId, metadata: Metadata) -> Self {
        Self { cluster, metadata, last: Arc::default() }
    }

    fn leader(&self) -> Result<(PeerServiceClient<Channel>, v1::Leader), LinkError> {
        let (leader, leads) = self.metadata.leader();
        let leader = leader.filter(|leader| !leads && !leader.address.is_empty());
        let leader = leader.ok_or(LinkError::NotLeader)?;
        let named = v1::Leader {
            cluster_id: convert::bytes_of(self.cluster.0),
            leader: convert::bytes_of(leader.agent.0),
        };
        let mut last = self.last.lock();
        let channel = match &*last {
            Some((known, channel)) if *known == leader => channel.clone(),
            _ => {
                let wrong = |error| LinkError::Failed(format!("address {:?}: {error}", leader.address));
                let endpoint = Endpoint::from_shared(format!("http://{}", leader.address)).map_err(wrong)?;
                let channel = endpoint
                    .connect_timeout(CONNECT_MAX)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(Duration::from_secs(5))
                    .keep_alive_timeout(Duration::from_secs(5))
                    .connect_lazy();
                *last = Some((leader, channel.clone()));
                channel
            }
        };
        let client = PeerServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok((client, named))
    }
}

fn failed(status: &Status) -> LinkError {
    match status.code() {
        Code::FailedPrecondition => LinkError::NotLeader,
        code => LinkError::Failed(format!("{code:?}: {}", status.message())),
    }
}

async fn until<T>(
    deadline: Instant,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, LinkError> {
    match tokio::time::timeout_at(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failed(&status)),
        Err(_) => Err(LinkError::Failed("no answer in time".into())),
    }
}

impl LeaderLink for GrpcLeader {
    fn beat(
        &self,
        beats: Vec<MemberBeat>,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<Result<(), BeatError>>, LinkError>> {
        Box::pin(async move {
            let (mut client, leader) = self.leader()?;
            let beats = beats.iter().map(convert::to_beat).collect();
            let request = v1::BeatRequest { leader: Some(leader), beats };
            let response = until(deadline, client.beat(request)).await?;
            let results = response.results.into_iter().map(|result| match BeatResult::try_from(result) {
                Ok(BeatResult::Heard) => Ok(Ok(())),
                Ok(BeatResult::UnknownMember) => Ok(Err(BeatError::UnknownMember)),
                Ok(BeatResult::Expiring) => Ok(Err(BeatError::Expiring)),
                Ok(BeatResult::Unspecified) | Err(_) => {
                    Err(LinkError::Failed(format!("the leader answered {result}")))
                }
            });
            results.collect()
        })
    }
}

impl ClusterLink for GrpcLeader {
    fn agents(&self, deadline: Instant) -> BoxFuture<'_, Result<Vec<AgentSeen>, String>> {
        Box::pin(async move {
            let (mut client, leader) = self.leader().map_err(|error| error.to_string())?;
            let request = v1::ListAgentsRequest { leader: Some(leader) };
            let response =
                until(deadline, client.list_agents(request)).await.map_err(|error| error.to_string())?;
            let agents = response.agents.into_iter().map(|agent| {
                let instance = convert::id(&agent.instance, "instance")?;
                let card = AgentCard {
                    instance: AgentInstance(instance),
                    clients_at: agent.clients_at,
                    version: agent.version,
                };
                Ok(AgentSeen { card, applied: LogIndex(agent.applied) })
            });
            agents.collect::<Result<_, Status>>().map_err(|status| status.message().to_owned())
        })
    }
}
