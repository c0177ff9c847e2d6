//! The connection to the service, and its settings.
//!
//! Map: [`endpoint`] addresses · [`dial`] making connections · this file, which of several agents is in use.

mod dial;
mod endpoint;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidelog_metadata_log::env::{Clock, Entropy, SystemClock};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::ErrorReason;
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;

pub use dial::{ByteStream, Dial};
pub use endpoint::Endpoint;

use crate::error::ConnectError;

/// HTTP/2 frames that the server may send: 1 MiB instead of 16 KiB doubles what a CPU-second fetches.
const FRAME_BYTES: u32 = 1024 * 1024;

/// Settings of a [`Client`]. Fields may be changed after `default()`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Name for the service's logs and metrics, at most 249 bytes; need not be unique.
    pub client_id: String,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a request about topics, offsets or groups may take, repeats and new connections included.
    pub request_timeout: Duration,
    /// Largest HTTP/2 frame that the server may send, 16 KiB to 16 MiB; `None` leaves HTTP/2's default of 16 KiB.
    pub frame_bytes: Option<u32>,
    /// Timestamps of records that have none.
    pub clock: Arc<dyn Clock>,
    /// Jitter of waits, choice of agents and of sticky partitions, names of group members.
    pub entropy: Entropy,
    /// How connections are made; `None`: by TCP.
    pub dial: Option<Arc<dyn Dial>>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            client_id: String::new(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(15),
            frame_bytes: Some(FRAME_BYTES),
            clock: Arc::new(SystemClock),
            entropy: Entropy::from_os(),
            dial: None,
        }
    }
}

/// A connection to the service, from which producers, consumers and requests are made. Cheap to clone; clones share the connection, which is
/// made anew when it broke.
///
/// Any agent does for everything. Of several addresses one is chosen by lot, so that clients spread over the agents; when it fails, the others
/// are tried in turn. What was under way then goes on at the next one; the application notices only if none answers in time.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoints: Vec<Endpoint>,
    options: ClientOptions,
    current: Mutex<Current>,
    /// Held by whoever makes a connection: the others wait for it and share what came of it.
    connecting: tokio::sync::Mutex<()>,
    /// Number of the last connection that was given up.
    given_up: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Current {
    /// Number of the connection, so that whoever found one broken does not drop its successor.
    number: u64,
    channel: Option<Channel>,
    /// Position of the endpoint in use, or to try next.
    endpoint: usize,
    /// How often no endpoint answered, and what was said last.
    failures: u64,
    failure: Option<ConnectError>,
}

/// A connection in use.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) number: u64,
}

impl Client {
    /// Connects to one of the endpoints. Fails if none of them answers.
    pub async fn connect(endpoints: &[Endpoint], options: ClientOptions) -> Result<Self, ConnectError> {
        if endpoints.is_empty() {
            return Err(ConnectError::InvalidEndpoint { endpoint: String::new(), problem: "is missing" });
        }
        let lot = options.entropy.below(u64::try_from(endpoints.len()).unwrap_or(u64::MAX));
        let current = Current { endpoint: usize::try_from(lot).unwrap_or(0), ..Current::default() };
        let inner = Inner {
            endpoints: endpoints.to_vec(),
            options,
            current: Mutex::new(current),
            connecting: tokio::sync::Mutex::default(),
            given_up: watch::Sender::new(0),
        };
        let client = Self { inner: Arc::new(inner) };
        client.connection().await?;
        Ok(client)
    }

    /// The settings.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// Whether there are agents to choose from.
    pub(crate) fn has_choice(&self) -> bool {
        self.inner.endpoints.len() > 1
    }

    /// The present connection, or a new one.
    pub(crate) async fn connection(&self) -> Result<Connection, ConnectError> {
        let before = match self.inner.current.lock().present() {
            Ok(connection) => return Ok(connection),
            Err(failures) => failures,
        };
        let _one = self.inner.connecting.lock().await;
        let first = {
            let current = self.inner.current.lock();
            match current.present() {
                Ok(connection) => return Ok(connection),
                // It was tried while this one waited.
                Err(failures) if failures > before => {
                    if let Some(failure) = &current.failure {
                        return Err(failure.clone());
                    }
                }
                Err(_) => {}
            }
            current.endpoint
        };
        let outcome = dial::any(&self.inner.endpoints, first, &self.inner.options).await;
        let mut current = self.inner.current.lock();
        match outcome {
            Ok((endpoint, channel)) => {
                current.number += 1;
                current.endpoint = endpoint;
                current.channel = Some(channel.clone());
                Ok(Connection { channel, number: current.number })
            }
            Err(failure) => {
                current.failures += 1;
                current.failure = Some(failure.clone());
                Err(failure)
            }
        }
    }

    /// Says that a connection is no good: whoever asks next gets a new one, of another agent if several are known.
    pub(crate) fn give_up(&self, number: u64) {
        let mut current = self.inner.current.lock();
        if current.number == number && current.channel.take().is_some() {
            current.endpoint = (current.endpoint + 1) % self.inner.endpoints.len().max(1);
            self.inner.given_up.send_replace(number);
        }
    }

    /// Ends when somebody gives a connection up.
    pub(crate) async fn given_up(&self, number: u64) {
        let mut given_up = self.inner.given_up.subscribe();
        // The sender lives as long as the client.
        let _ = given_up.wait_for(|last| *last >= number).await;
    }

    /// Takes note of an error of a whole request or stream: it may say that the connection, or the agent behind it, is no good.
    pub(crate) fn note(&self, number: u64, error: &ApiError) {
        if is_transport_error(error) || error.reason == ErrorReason::Draining {
            self.give_up(number);
        }
    }
}

impl Current {
    /// The connection; without one, how often none could be made.
    fn present(&self) -> Result<Connection, u64> {
        match &self.channel {
            Some(channel) => Ok(Connection { channel: channel.clone(), number: self.number }),
            None => Err(self.failures),
        }
    }
}

/// Whether an error of a whole request is the connection's, and not the service's.
pub(crate) fn is_transport_error(error: &ApiError) -> bool {
    error.reason == ErrorReason::Unspecified
        && matches!(error.code, Code::Unavailable | Code::Unknown | Code::Cancelled)
}
