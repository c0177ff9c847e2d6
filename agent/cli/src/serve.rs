//! Running an agent: the metadata node, the serving core, the gRPC front end and the admin port, in one process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidelog_agent::{Agent, Components, MeteredLog, MeteredStore, Metrics, Settings};
use tidelog_grpc::GrpcServer;
use tidelog_metadata_log::env::{Clock, Entropy, SystemClock};
use tidelog_metadata_node::{AgentCard, Metadata, Node, NodeConfig, NodeError, ObjectSnapshots, Role};
use tidelog_peer::{GrpcLeader, GrpcPeers, Leading, PeerServer};
use tidelog_types::{AgentInstance, ClusterId, ShardId};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Status};
use crate::failure::{Exit, Failure};
use crate::logging::LogArgs;
use crate::size::{parse_duration, parse_size};
use crate::stores::{ClusterStores, with_causes};

/// Flush interval where a PUT takes a millisecond or less, as in a local directory.
const NEAR_FLUSH_INTERVAL: Duration = Duration::from_millis(4);
/// How long the metadata may take after the front end is drained; what is left then is answered as unknown.
const NODE_STOP_MAX: Duration = Duration::from_secs(10);
/// How long open connections may take to close.
const CONNECTIONS_CLOSE_MAX: Duration = Duration::from_secs(5);

/// Settings of the serving part, the same for every role that serves.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Address for clients
    #[arg(long, env = "TIDELOG_LISTEN", default_value = "127.0.0.1:7070", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Address for /livez, /readyz, /metrics and /version
    #[arg(long, env = "TIDELOG_ADMIN_LISTEN", default_value = "127.0.0.1:7071", value_name = "ADDR")]
    pub admin_listen: SocketAddr,
    /// Address for the other agents of the cluster, and for nobody else: whoever reaches it can change all metadata. Port 0 takes a free one
    #[arg(long, env = "TIDELOG_PEER_LISTEN", default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub peer_listen: SocketAddr,
    /// Address at which the other agents reach this one's --peer-listen, as host:port, if it is not that address itself
    #[arg(long, env = "TIDELOG_ADVERTISE", value_name = "ADDR")]
    pub advertise: Option<String>,
    /// How long records wait for company before they are uploaded: each halving doubles the PUTs of a busy agent [default: 250ms, 4ms
    /// on local stores]
    #[arg(long, env = "TIDELOG_FLUSH_INTERVAL", value_parser = parse_duration, value_name = "DURATION")]
    pub flush_interval: Option<Duration>,
    /// Records are uploaded at once when there are this many bytes of them: 64KiB to 64MiB
    #[arg(long, env = "TIDELOG_FLUSH_BYTES", value_parser = parse_size, default_value = "8MiB", value_name = "SIZE")]
    pub flush_bytes: usize,
    /// Bytes of produce requests that may be in the agent at once, 32MiB or more; beyond that clients are told to wait
    #[arg(long, env = "TIDELOG_BUFFER_MEMORY", value_parser = parse_size, default_value = "128MiB", value_name = "SIZE")]
    pub buffer_memory: usize,
    /// Bytes of segments kept for readers
    #[arg(long, env = "TIDELOG_CACHE_MEMORY", value_parser = parse_size, default_value = "128MiB", value_name = "SIZE")]
    pub cache_memory: usize,
    /// How long a shutdown may take to write and acknowledge what is buffered
    #[arg(long, env = "TIDELOG_DRAIN", value_parser = parse_duration, default_value = "20s", value_name = "DURATION")]
    pub drain: Duration,
    /// How old connections become before clients are asked to make new ones, so that load spreads when agents are added: 1s to 24h,
    /// give or take a tenth
    #[arg(long, env = "TIDELOG_CONNECTION_AGE", value_parser = parse_duration, default_value = "10m", value_name = "DURATION")]
    pub connection_age: Duration,
    #[command(flatten)]
    pub log: LogArgs,
}

impl ServeArgs {
    /// Checks what one value alone cannot tell.
    pub fn check(&self) -> Result<(), Failure> {
        let within = |key: &str, text: String, ok: bool, allowed: &str| {
            if ok { Ok(()) } else { Err(Failure::usage(format!("{key} {text} is not allowed: {allowed}"))) }
        };
        if let Some(interval) = self.flush_interval {
            let ok = (Duration::from_millis(1)..=Duration::from_secs(10)).contains(&interval);
            within("--flush-interval", format!("{interval:?}"), ok, "1ms to 10s")?;
        }
        let bytes = self.flush_bytes;
        within("--flush-bytes", bytes.to_string(), (64 << 10..=64 << 20).contains(&bytes), "64KiB to 64MiB")?;
        if self.peer_listen.ip().is_unspecified() && self.advertise.is_none() {
            return Err(Failure::usage(format!(
                "--peer-listen {} tells nobody where this agent is: name an address that the other agents reach, or say it with --advertise",
                self.peer_listen
            )));
        }
        if let Some(advertise) = &self.advertise {
            let ok = advertise.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            within("--advertise", format!("{advertise:?}"), ok, "host:port, with a port of 1 to 65535")?;
        }
        // A request of 16 MiB has to fit, and the next ones beside it.
        within(
            "--buffer-memory",
            self.buffer_memory.to_string(),
            self.buffer_memory >= 32 << 20,
            "32MiB or more",
        )?;
        let age_ok = (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&self.connection_age);
        within("--connection-age", format!("{:?}", self.connection_age), age_ok, "1s to 24h")?;
        let drain_ok = (Duration::from_secs(1)..=Duration::from_secs(600)).contains(&self.drain);
        within("--drain", format!("{:?}", self.drain), drain_ok, "1s to 10m")
    }

    fn settings(&self, near: bool, auto_create_topics: bool, entropy: &Entropy) -> Settings {
        let interval = if near { NEAR_FLUSH_INTERVAL } else { Duration::from_millis(250) };
        Settings {
            flush_interval: self.flush_interval.unwrap_or(interval),
            flush_bytes: self.flush_bytes,
            buffer_memory: self.buffer_memory,
            cache_memory: self.cache_memory,
            drain_deadline: self.drain,
            clients_at: self.listen.to_string(),
            // Clients of several agents that were started together do not all come back together.
            connection_age: self.connection_age * 9 / 10
                + Duration::from_millis(entropy.below(millis(self.connection_age) / 5 + 1)),
            auto_create_topics,
            ..Settings::default()
        }
    }
}

/// The ports of an agent, bound before anything else is done, so that a taken one is found first.
#[derive(Debug)]
pub struct Ports {
    grpc: GrpcServer,
    admin: Admin,
    peers: PeerServer,
}

impl Ports {
    /// Binds them.
    pub async fn bind(args: &ServeArgs) -> Result<Self, Failure> {
        let grpc = GrpcServer::bind(args.listen).await.map_err(|error| {
            Failure::new(Exit::Conflict, format!("{}; choose another with --listen", with_causes(&error)))
        })?;
        let admin = Admin::bind(args.admin_listen).await?;
        let peers = PeerServer::bind(args.peer_listen).await.map_err(|error| {
            Failure::new(
                Exit::Conflict,
                format!("{}; choose another with --peer-listen", with_causes(&error)),
            )
        })?;
        for address in [args.listen, args.admin_listen, args.peer_listen]
            .iter()
            .filter(|address| !address.ip().is_loopback())
        {
            eprintln!(
                "WARNING: {address} is reachable from other machines, and there is no authentication: whoever reaches it reads and \
                 writes everything"
            );
        }
        Ok(Self { grpc, admin, peers })
    }

    /// Where clients connect.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.address()
    }

    /// Where probes connect.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

struct AgentStatus {
    agent: Agent,
    metadata: Metadata,
}

impl Status for AgentStatus {
    fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        match *self.metadata.role().borrow() {
            Role::Booting => reasons.push("the metadata is being read".to_owned()),
            Role::Stopped => reasons.push("the metadata node has stopped".to_owned()),
            Role::Follower | Role::Leader => {}
        }
        if self.agent.draining().is_cancelled() {
            reasons.push("the agent is shutting down".to_owned());
        }
        reasons
    }

    fn metrics(&self) -> String {
        self.agent.metrics().encode()
    }
}

/// Runs an agent on initialised stores until SIGTERM or SIGINT, or until a part of it fails. `ready` is called when clients can come.
pub async fn serve(
    args: &ServeArgs,
    ports: Ports,
    stores: ClusterStores,
    cluster: ClusterId,
    auto_create_topics: bool,
    ready: impl FnOnce(&Ports),
) -> Result<(), Failure> {
    let entropy = Entropy::from_os();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::new();
    let store: Arc<dyn object_store::ObjectStore> =
        Arc::new(MeteredStore::new(Arc::clone(&stores.data), metrics.object_store().clone()));
    let log = Arc::new(MeteredLog::new(Arc::clone(&stores.log), metrics.metadata_log().clone()));
    let mut config = NodeConfig::new(cluster, AgentInstance(entropy.uuid()));
    config.exclusive = stores.exclusive;
    config.address = args.advertise.clone().unwrap_or_else(|| ports.peers.address().to_string());
    let snapshots = Arc::new(ObjectSnapshots::new(Arc::clone(&store), ShardId::ZERO));
    let settings = args.settings(stores.near, auto_create_topics, &entropy);
    tracing::info!(
        event = "start",
        version = env!("CARGO_PKG_VERSION"),
        %cluster,
        instance = %config.instance,
        listen = %args.listen,
        admin_listen = %args.admin_listen,
        peer_listen = %ports.peers.address(),
        advertise = config.address,
        metadata = stores.log.describe(),
        exclusive = config.exclusive,
        flush_interval_ms = millis(settings.flush_interval),
        connection_age_ms = millis(settings.connection_age),
        flush_bytes = settings.flush_bytes,
        buffer_memory = settings.buffer_memory,
        cache_memory = settings.cache_memory,
        auto_create_topics,
        "effective configuration"
    );

    let node_cancel = CancellationToken::new();
    let (metadata, node) = Node::new(config, log, snapshots, Arc::clone(&clock), entropy.clone());
    let card = AgentCard {
        instance: metadata.instance(),
        clients_at: settings.clients_at.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let node = node.with_peers(Arc::new(GrpcPeers::new(cluster, card)));
    let mut node = tokio::spawn(node.run(node_cancel.clone()));
    let mut role = metadata.role();
    let leads_alone = stores.exclusive;
    tokio::select! {
        biased;
        ended = &mut node => return Err(node_failure(ended)),
        // On stores of its own it leads at once: the first client finds it ready to write.
        _ = role.wait_for(|role| *role == Role::Leader || (*role == Role::Follower && !leads_alone)) => {}
    }

    let components = Components { store, metadata: metadata.clone(), clock, entropy, metrics };
    let (agent, tasks) = Agent::new(components, settings);
    let (tasks_cancel, front_cancel) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = tokio::spawn(tasks.run(tasks_cancel.clone()));
    ready(&ports);
    // Where nobody else can be, nobody is let in.
    let leader = Arc::new(GrpcLeader::new(cluster, metadata.clone()));
    agent.groups().reach_leader_by(Arc::clone(&leader) as _);
    agent.ask_leader_by(leader);
    let leading = Leading {
        cluster,
        card: agent.card().clone(),
        metadata: metadata.clone(),
        members: agent.groups().leader_link(),
    };
    let peers = (!leads_alone).then(|| ports.peers.run(leading, CancellationToken::new()));
    let mut peers = tokio::spawn(async move {
        match peers {
            Some(serving) => serving.await,
            None => std::future::pending().await,
        }
    });
    let mut grpc = tokio::spawn(ports.grpc.run(agent.clone(), cluster, front_cancel.clone()));
    let status = Arc::new(AgentStatus { agent: agent.clone(), metadata });
    let mut admin = tokio::spawn(ports.admin.run(status, CancellationToken::new()));
    tracing::info!(event = "ready");

    let stopped = tokio::select! {
        biased;
        signalled = signalled() => signalled.map(|()| None),
        ended = &mut node => Ok(Some(node_failure(ended))),
        ended = &mut tasks => Ok(Some(Failure::failed(text(ended)))),
        ended = &mut grpc => Ok(Some(Failure::failed(text(ended)))),
        ended = &mut peers => Ok(Some(Failure::failed(text(ended)))),
        ended = &mut admin => Ok(Some(Failure::failed(text(ended)))),
    }?;
    tracing::info!(event = "stopping");
    // A second signal ends the process at once.
    let again = tokio::spawn(async {
        if signalled().await.is_ok() {
            std::process::exit(Exit::Interrupted as i32);
        }
    });
    tasks_cancel.cancel();
    let drained = if tasks.is_finished() { None } else { Some((&mut tasks).await) };
    front_cancel.cancel();
    if !grpc.is_finished() {
        // Clients that keep their connections open do not keep the process.
        let _ = tokio::time::timeout(CONNECTIONS_CLOSE_MAX, &mut grpc).await;
    }
    node_cancel.cancel();
    if !node.is_finished() {
        let _ = tokio::time::timeout(NODE_STOP_MAX, &mut node).await;
    }
    again.abort();
    admin.abort();
    peers.abort();
    tracing::info!(event = "stopped");
    match (stopped, drained) {
        (Some(failure), _) => Err(failure),
        (None, Some(Ok(Err(error)))) => Err(Failure::failed(error.to_string())),
        (None, Some(Err(error))) => Err(Failure::failed(error.to_string())),
        (None, _) => Ok(()),
    }
}

/// What ended a part that should have run on.
fn text<E: std::error::Error>(ended: Result<Result<(), E>, JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "a part of the agent ended on its own".to_owned(),
        Ok(Err(error)) => with_causes(&error),
        Err(panicked) => panicked.to_string(),
    }
}

fn node_failure(ended: Result<Result<(), NodeError>, JoinError>) -> Failure {
    let exit = match &ended {
        Ok(Err(NodeError::OtherCluster { .. })) => Exit::Conflict,
        _ => Exit::Failure,
    };
    Failure::new(exit, text(ended))
}

async fn signalled() -> Result<(), Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Time since a start, as the banner tells it.
pub fn seconds_since(start: Instant) -> String {
    format!("{:.1}s", start.elapsed().as_secs_f64())
}
