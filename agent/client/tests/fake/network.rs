//! A network in memory, whose hosts crash, freeze and come back when a test says so. Unlike with sockets, a runtime with paused time sees
//! that bytes are under way, and does not jump ahead meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidelog_client::{ByteStream, Client, ClientOptions, Dial, Endpoint};
use tidelog_metadata_log::env::Entropy;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::Fake;

/// Bytes under way in each direction.
const PIPE_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    Up,
    /// Takes connections and bytes, and does nothing with them: a process that was stopped.
    Frozen,
    /// Answers nothing, not even attempts to connect: a host that was unplugged.
    Gone,
    /// Refuses connections, and has reset those that there were.
    Down,
}

#[derive(Debug)]
struct Host {
    state: watch::Sender<HostState>,
    incoming: mpsc::Sender<DuplexStream>,
    /// Connections that were made.
    connections: usize,
}

#[derive(Debug, Clone, Default)]
pub struct Network {
    hosts: Arc<Mutex<BTreeMap<String, Host>>>,
    clients: Arc<AtomicU64>,
}

impl Network {
    /// Lets a host serve what the fake knows. Hosts of one fake are agents of one cluster.
    pub fn serve(&self, host: &str, fake: &Fake) {
        let (incoming, accepted) = mpsc::channel(16);
        let accepted = ReceiverStream::new(accepted).map(Ok::<_, io::Error>);
        tokio::spawn(fake.router().serve_with_incoming(accepted));
        let state = watch::Sender::new(HostState::Up);
        self.hosts.lock().insert(host.to_owned(), Host { state, incoming, connections: 0 });
    }

    pub fn set(&self, host: &str, state: HostState) {
        self.hosts.lock()[host].state.send_replace(state);
    }

    pub fn connections(&self, host: &str) -> usize {
        self.hosts.lock()[host].connections
    }

    /// A client that knows these hosts. Each has random numbers of its own.
    pub async fn client(&self, hosts: &[&str]) -> Client {
        let seed = self.clients.fetch_add(1, Ordering::Relaxed);
        self.try_client(hosts, seed).await.expect("a host is up")
    }

    pub async fn try_client(
        &self,
        hosts: &[&str],
        seed: u64,
    ) -> Result<Client, tidelog_client::ConnectError> {
        let mut options = ClientOptions::default();
        options.dial = Some(Arc::new(self.clone()));
        options.entropy = Entropy::seeded(seed);
        let endpoints: Vec<Endpoint> =
            hosts.iter().map(|host| host.parse().expect("a host is an endpoint")).collect();
        Client::connect(&endpoints, options).await
    }
}

impl Dial for Network {
    fn dial(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        let name = endpoint.as_str().trim_start_matches("http://").split(':').next().unwrap_or_default();
        let mut hosts = self.hosts.lock();
        let Some(host) = hosts.get_mut(name).filter(|host| *host.state.borrow() != HostState::Down) else {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        };
        if *host.state.borrow() == HostState::Gone {
            return Box::pin(std::future::pending());
        }
        host.connections += 1;
        let (near, middle) = tokio::io::duplex(PIPE_BYTES);
        let (beyond, far) = tokio::io::duplex(PIPE_BYTES);
        tokio::spawn(cable(middle, beyond, host.state.subscribe()));
        let incoming = host.incoming.clone();
        Box::pin(async move {
            incoming.send(far).await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(Box::new(near) as Box<dyn ByteStream>)
        })
    }
}

/// Carries bytes while the host is up.
async fn cable(mut near: DuplexStream, mut far: DuplexStream, mut state: watch::Receiver<HostState>) {
    let carrying = tokio::io::copy_bidirectional(&mut near, &mut far);
    tokio::pin!(carrying);
    loop {
        let now = *state.borrow_and_update();
        tokio::select! {
            biased;
            changed = state.changed() => if changed.is_err() { return },
            _ = &mut carrying, if now == HostState::Up => return,
            () = std::future::ready(()), if now == HostState::Down => return,
        }
    }
}
