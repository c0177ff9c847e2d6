//! The leader's side.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tidelog_metadata_node::Metadata;
use tidelog_types::ClusterId;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::MESSAGE_BYTES_MAX;
use crate::convert::{self, Start};
use crate::v1::peer_service_server::{PeerService, PeerServiceServer};
use crate::v1::{FollowRequest, FollowResponse};

/// Messages to one follower that wait for its connection; the log's end is kept elsewhere.
const QUEUED_MESSAGES: usize = 32;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take to say whom it follows.
const START_MAX: Duration = Duration::from_secs(5);

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
    pub async fn run(
        self,
        metadata: Metadata,
        cluster: ClusterId,
        cancel: CancellationToken,
    ) -> Result<(), PeerServerError> {
        let service = PeerServiceServer::new(Leading { metadata, cluster })
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

struct Leading {
    metadata: Metadata,
    cluster: ClusterId,
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
        if start.cluster != self.cluster {
            return Err(Status::permission_denied(format!(
                "this is an agent of cluster {}, not of {}",
                self.cluster, start.cluster
            )));
        }
        if start.leader != self.metadata.instance() {
            return Err(convert::to_status(tidelog_metadata_node::LinkError::NotLeader));
        }
        let follower = self.metadata.take_follower(start.from).map_err(convert::to_status)?;
        tracing::info!(event = "follower_came", follower = %start.follower, from = %start.from);

        let (wrong, told_wrong) = oneshot::channel();
        let to_leader =
            stream::unfold((requests, wrong, start.follower), async |(mut requests, wrong, follower)| {
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
            tracing::info!(event = "follower_went", follower = %start.follower, why = %end);
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
}
