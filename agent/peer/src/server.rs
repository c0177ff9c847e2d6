//! The leader's side.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tidelog_agent::cluster::{AgentSeen, agents_of_leader};
use tidelog_agent::groups::link::{BeatError, LeaderLink, LinkError as MembersError};
use tidelog_metadata_node::{AgentCard, LinkError, Metadata};
use tidelog_types::{AgentInstance, ClusterId};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::MESSAGE_BYTES_MAX;
use crate::convert::{self, Start};
use crate::v1::peer_service_server::{PeerService, PeerServiceServer};
use crate::v1::{
    self, BeatRequest, BeatResponse, BeatResult, FollowRequest, FollowResponse, ListAgentsRequest,
    ListAgentsResponse,
};

/// Messages to one follower that wait for its connection; the log's end is kept elsewhere.
const QUEUED_MESSAGES: usize = 32;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take to say whom it follows.
const START_MAX: Duration = Duration::from_secs(5);

/// How long members' signs of life may wait for the log's confirmation.
const BEAT_MAX: Duration = Duration::from_secs(3);

/// Why the server could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum PeerServerError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address} for other agents: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The transport failed.
    #[error("the server for other agents failed")]
    Transport(#[from] tonic::transport::Error),
}

/// A bound server for other agents.
#[derive(Debug)]
pub struct PeerServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl PeerServer {
    /// Binds the address, so that a taken one is found before anything is started.
    pub async fn bind(address: SocketAddr) -> Result<Self, PeerServerError> {
        let listen = |source| PeerServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address })
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `cancel`; open links are dropped then.
    pub async fn run(self, leading: Leading, cancel: CancellationToken) -> Result<(), PeerServerError> {
        let service = PeerServiceServer::new(leading)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let sockets = TcpListenerStream::new(self.listener).inspect(|accepted| {
            if let Ok(socket) = accepted {
                // Entries are small and somebody waits for each; without it they are merely slower.
                let _ = socket.set_nodelay(true);
            }
        });
        let serving = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(service)
            .serve_with_incoming(sockets);
        tokio::select! {
            served = serving => served.map_err(Into::into),
            () = cancel.cancelled() => Ok(()),
        }
    }
}

/// What an agent does for the others when it leads.
#[derive(Debug, Clone)]
pub struct Leading {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Who it is.
    pub card: AgentCard,
    /// Its metadata.
    pub metadata: Metadata,
    /// Counts the signs of life of members.
    pub members: Arc<dyn LeaderLink>,
}

impl Leading {
    fn check(&self, cluster: ClusterId, leader: AgentInstance) -> Result<(), Status> {
        if cluster != self.cluster {
            return Err(Status::permission_denied(format!(
                "this is an agent of cluster {}, not of {cluster}",
                self.cluster
            )));
        }
        if leader != self.metadata.instance() {
            return Err(convert::to_status(LinkError::NotLeader));
        }
        Ok(())
    }

    fn check_named(&self, leader: Option<v1::Leader>) -> Result<(), Status> {
        let leader = leader.ok_or_else(|| Status::invalid_argument("leader is missing"))?;
        let cluster = ClusterId(convert::id(&leader.cluster_id, "cluster_id")?);
        self.check(cluster, AgentInstance(convert::id(&leader.leader, "leader")?))
    }
}

#[tonic::async_trait]
impl PeerService for Leading {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(START_MAX, requests.message())
            .await
            .map_err(|_| Status::deadline_exceeded("there was no first message"))??;
        let start: Start =
            first.ok_or_else(|| Status::invalid_argument("there is no first message"))?.try_into()?;
        self.check(start.cluster, start.leader)?;
        if start.follower.instance == start.leader {
            return Err(Status::invalid_argument("an agent cannot follow itself"));
        }
        let instance = start.follower.instance;
        let follower = self.metadata.take_follower(start.from, start.follower).map_err(convert::to_status)?;
        tracing::info!(event = "follower_came", follower = %instance, from = %start.from);

        let (wrong, told_wrong) = oneshot::channel();
        let to_leader =
            stream::unfold((requests, wrong, instance), async |(mut requests, wrong, follower)| {
                let read = match requests.message().await {
                    Ok(request) => convert::from_request(request?, follower),
                    Err(status) => Err(status),
                };
                match read {
                    Ok(message) => Some((message, (requests, wrong, follower))),
                    Err(status) => {
                        // The first message that cannot be read ends the link.
                        let _ = wrong.send(status);
                        None
                    }
                }
            });
        let (from_leader, messages) = mpsc::channel(QUEUED_MESSAGES);
        let serving = async move {
            let end = follower.serve(to_leader, from_leader).await;
            tracing::info!(event = "follower_went", follower = %instance, why = %end);
            end
        };
        let serving = tokio::spawn(serving);
        let end = async move {
            let end = serving.await;
            let wrong = told_wrong.await.ok();
            Err(match (wrong, end) {
                (Some(status), _) => status,
                (None, Ok(end)) => convert::to_status(end),
                (None, Err(panicked)) => Status::internal(panicked.to_string()),
            })
        };
        let responses = ReceiverStream::new(messages)
            .map(|message| Ok(convert::to_response(message)))
            .chain(stream::once(end));
        Ok(Response::new(Box::pin(responses)))
    }

    async fn beat(&self, request: Request<BeatRequest>) -> Result<Response<BeatResponse>, Status> {
        let request = request.into_inner();
        self.check_named(request.leader)?;
        let beats = request.beats.iter().map(convert::from_beat).collect::<Result<_, _>>()?;
        let heard = self.members.beat(beats, Instant::now() + BEAT_MAX).await;
        let heard = heard.map_err(|error| match error {
            MembersError::NotLeader => convert::to_status(LinkError::NotLeader),
            MembersError::Failed(why) => Status::unavailable(why),
        })?;
        let result = |heard| match heard {
            Ok(()) => BeatResult::Heard,
            Err(BeatError::UnknownMember) => BeatResult::UnknownMember,
            Err(BeatError::Expiring) => BeatResult::Expiring,
        };
        let results = heard.into_iter().map(|heard| result(heard).into()).collect();
        Ok(Response::new(BeatResponse { results }))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        self.check_named(request.into_inner().leader)?;
        let agents = agents_of_leader(&self.metadata, &self.card);
        let agents = agents.ok_or_else(|| convert::to_status(LinkError::NotLeader))?;
        let agent = |AgentSeen { card, applied }| v1::Agent {
            instance: convert::bytes_of(card.instance.0),
            clients_at: card.clients_at,
            version: card.version,
            applied: applied.0,
        };
        Ok(Response::new(ListAgentsResponse { agents: agents.into_iter().map(agent).collect() }))
    }
}
