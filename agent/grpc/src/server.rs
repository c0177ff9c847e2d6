//! The gRPC server: sockets, HTTP/2 settings, services.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use prometheus_client::metrics::counter::Counter;
use tidelog_agent::Agent;
use tidelog_proto::FILE_DESCRIPTOR_SET;
use tidelog_proto::limits::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use tidelog_proto::v1::admin_service_server::AdminServiceServer;
use tidelog_proto::v1::consumer_service_server::ConsumerServiceServer;
use tidelog_proto::v1::group_service_server::GroupServiceServer;
use tidelog_proto::v1::producer_service_server::ProducerServiceServer;
use tidelog_types::ClusterId;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::Server;
use tower::{Layer, Service};

use crate::admin::Administering;
use crate::admission::{Call, admit};
use crate::age::GRACE;
use crate::connections::{CONNECTIONS_PER_ADDRESS_MAX, Connections};
use crate::consumer::Consuming;
use crate::gather::Gathering;
use crate::group::Grouping;
use crate::producer::Producing;
use crate::timed::{api_of, refusals};

/// Offered to clients for what they send; what they offer decides about what they get. 16 KiB, the default, costs two thirds of the
/// throughput.
const FRAME_BYTES: u32 = 1024 * 1024;
/// Windows for round trips to other zones: 4 MiB a stream at 10 ms are 400 MiB/s.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const STREAMS_PER_CONNECTION_MAX: u32 = 100;
/// Streams of one connection that are refused or reset because its client broke the rules, before the connection is ended. A client that opens
/// streams before it knows the cap breaks them, too.
const RULES_BROKEN_MAX: usize = 1024;
/// Requests that carry no records name 2,000 partitions at most, in 600 KB. Two bytes of a request can become a struct of a hundred.
const BARE_REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Headers of one request: names and a few details, no more.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// Balancers drop connections that are silent for 60 s (ALB) or 350 s (NLB).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the server could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
    /// A defect: the contract that is compiled in cannot be read.
    #[error("the service descriptor is malformed")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A bound server.
#[derive(Debug)]
pub struct GrpcServer {
    listener: TcpListener,
}

impl GrpcServer {
    /// Binds the address, so that a taken one is found before anything is started.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServerError> {
        let listener =
            TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
        Ok(Self { listener })
    }

    /// The address that it is bound to.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until `cancel`, then takes no new connections and ends when the open calls have.
    pub async fn run(
        self,
        agent: Agent,
        cluster: ClusterId,
        cancel: CancellationToken,
    ) -> Result<(), ServerError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", tonic_health::ServingStatus::Serving).await;
        for name in [
            "tidelog.v1.ProducerService",
            "tidelog.v1.ConsumerService",
            "tidelog.v1.GroupService",
            "tidelog.v1.AdminService",
        ] {
            health.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        }
        let unhealthy = {
            let draining = agent.draining().clone();
            async move {
                draining.cancelled().await;
                health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
            }
        };
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let producing = ProducerServiceServer::new(Producing { agent: agent.clone() })
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(RESPONSE_BYTES_MAX);
        let consuming = ConsumerServiceServer::new(Consuming { agent: agent.clone() })
            .max_decoding_message_size(BARE_REQUEST_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        let grouping = GroupServiceServer::new(Grouping { agent: agent.clone() })
            .max_decoding_message_size(BARE_REQUEST_BYTES_MAX)
            .max_encoding_message_size(RESPONSE_BYTES_MAX);
        let administering = AdminServiceServer::new(Administering { agent: agent.clone(), cluster })
            .max_decoding_message_size(BARE_REQUEST_BYTES_MAX)
            .max_encoding_message_size(RESPONSE_BYTES_MAX);
        let router = Server::builder()
            .max_frame_size(FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_max_local_error_reset_streams(Some(RULES_BROKEN_MAX))
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_connection_age(agent.settings().connection_age)
            .max_connection_age_grace(GRACE)
            .layer(Admission { agent: agent.clone() })
            .add_service(producing)
            .add_service(consuming)
            .add_service(grouping)
            .add_service(administering)
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let connections = Connections::new(CONNECTIONS_PER_ADDRESS_MAX);
        let refused: Counter = Counter::default();
        agent.metrics().register(
            "connections_refused",
            "Connections from addresses that have as many as they may",
            refused.clone(),
        );
        let sockets = TcpListenerStream::new(self.listener).filter_map(move |accepted| {
            let connection = accepted.map(|socket| gathering(socket, &connections));
            if let Ok(None) = connection {
                refused.inc();
            }
            async {
                if connection.is_err() {
                    // Out of descriptors, most likely: the next try would fail as fast.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                connection.transpose()
            }
        });
        let serving = router.serve_with_incoming_shutdown(sockets, cancel.cancelled_owned());
        tokio::select! {
            served = serving => served.map_err(Into::into),
            () = async { unhealthy.await; std::future::pending().await } => Ok(()),
        }
    }
}

/// The connection of a socket; `None` if it is closed again at once.
fn gathering(socket: TcpStream, connections: &Connections) -> Option<Gathering<TcpStream>> {
    // Who has gone already is noticed later.
    let place = match socket.peer_addr() {
        Ok(peer) => Some(connections.enter(peer.ip())?),
        Err(_) => None,
    };
    // What is gathered is complete: nothing is gained by waiting for more in the kernel. If it fails, it is slower.
    let _ = socket.set_nodelay(true);
    Some(Gathering::new(socket).holding(place))
}

/// Admits produce calls by the bytes that they bring, lets no message of any call stall, and notes what is refused.
#[derive(Debug, Clone)]
struct Admission {
    agent: Agent,
}

impl<S> Layer<S> for Admission {
    type Service = Admitting<S>;

    fn layer(&self, inner: S) -> Admitting<S> {
        Admitting { inner, agent: self.agent.clone() }
    }
}

#[derive(Debug, Clone)]
struct Admitting<S> {
    inner: S,
    agent: Agent,
}

impl<S, B> Service<http::Request<Body>> for Admitting<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let api = api_of(request.uri().path());
        let call = match api {
            "produce" => Call::Unary,
            "produce_stream" => Call::Stream,
            _ => Call::Bare,
        };
        let request = admit(request, self.agent.budget(), call);
        Box::pin(refusals(self.agent.metrics().clone(), api, self.inner.call(request)))
    }
}
