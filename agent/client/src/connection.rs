//! The connection to the service, and its settings.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidelog_metadata_log::env::{Clock, Entropy, SystemClock};
use tonic::transport::{Channel, Endpoint as TonicEndpoint};

use crate::error::ConnectError;

/// Default port of an agent.
const DEFAULT_PORT: u16 = 7070;
/// Bytes in flight per stream; enough for real round trips.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes in flight per connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// HTTP/2 frames that the server may send: 1 MiB instead of 16 KiB doubles what a CPU-second fetches.
const FRAME_BYTES: u32 = 1024 * 1024;

/// Address of an agent: `http://HOST:PORT`. The scheme may be left out, and the port is 7070 unless given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = ConnectError;

    fn from_str(text: &str) -> Result<Self, ConnectError> {
        let invalid = |problem| ConnectError::InvalidEndpoint { endpoint: text.to_owned(), problem };
        if text.starts_with("https://") {
            return Err(invalid("asks for TLS, which this version does not speak"));
        }
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: tonic::codegen::http::Uri = full.parse().map_err(|_| invalid("is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(invalid("has another scheme than http"));
        }
        let authority = uri.authority().ok_or_else(|| invalid("names no host"))?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(invalid("names no host"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid("has a path"));
        }
        if authority.as_str().ends_with(':') {
            return Err(invalid("has no port behind its colon"));
        }
        let has_port = authority.as_str().len() > authority.host().len();
        if has_port && authority.port_u16().is_none() {
            return Err(invalid("has a port that is none"));
        }
        let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
        Ok(Self(format!("http://{}:{port}", authority.host())))
    }
}

/// Settings of a [`Client`]. Fields may be changed after `default()`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Name for the service's logs and metrics, at most 249 bytes; need not be unique.
    pub client_id: String,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a request about topics or offsets may take, repeats included.
    pub request_timeout: Duration,
    /// Largest HTTP/2 frame that the server may send, 16 KiB to 16 MiB; `None` leaves HTTP/2's default of 16 KiB.
    pub frame_bytes: Option<u32>,
    /// Timestamps of records that have none.
    pub clock: Arc<dyn Clock>,
    /// Jitter of waits, choice of sticky partitions.
    pub entropy: Entropy,
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
        }
    }
}

/// A connection to the service, from which producers, consumers and requests are made. Cheap to clone; clones share the connection, which is
/// made anew when it broke.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoints: Vec<Endpoint>,
    options: ClientOptions,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    /// Number of the connection, so that whoever found one broken does not drop its successor.
    number: u64,
    channel: Option<Channel>,
    /// Position of the endpoint to try next.
    next: usize,
}

/// A connection in use.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) number: u64,
}

impl Client {
    /// Connects to the first of the endpoints that answers; later connections go to any of them.
    pub async fn connect(endpoints: &[Endpoint], options: ClientOptions) -> Result<Self, ConnectError> {
        if endpoints.is_empty() {
            return Err(ConnectError::InvalidEndpoint { endpoint: String::new(), problem: "is missing" });
        }
        let inner = Inner { endpoints: endpoints.to_vec(), options, current: Mutex::default() };
        let client = Self { inner: Arc::new(inner) };
        client.connection().await?;
        Ok(client)
    }

    /// The settings.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// The present connection, or a new one.
    pub(crate) async fn connection(&self) -> Result<Connection, ConnectError> {
        let mut error = None;
        for _ in 0..self.inner.endpoints.len() {
            let endpoint = {
                let current = self.inner.current.lock();
                if let Some(channel) = &current.channel {
                    return Ok(Connection { channel: channel.clone(), number: current.number });
                }
                self.inner.endpoints[current.next % self.inner.endpoints.len()].clone()
            };
            match open(&endpoint, &self.inner.options).await {
                Ok(channel) => {
                    let mut current = self.inner.current.lock();
                    current.number += 1;
                    current.channel = Some(channel.clone());
                    return Ok(Connection { channel, number: current.number });
                }
                Err(failed) => {
                    self.inner.current.lock().next += 1;
                    error = Some(failed);
                }
            }
        }
        // The loop ran at least once: `connect` refuses an empty list.
        Err(error.unwrap_or(ConnectError::InvalidEndpoint { endpoint: String::new(), problem: "is missing" }))
    }

    /// Says that a connection is no good: whoever asks next gets a new one, of another agent if several are known.
    pub(crate) fn give_up(&self, number: u64) {
        let mut current = self.inner.current.lock();
        if current.number == number && current.channel.take().is_some() {
            current.next += 1;
        }
    }
}

async fn open(endpoint: &Endpoint, options: &ClientOptions) -> Result<Channel, ConnectError> {
    let unreachable = |cause: String| ConnectError::Unreachable { endpoint: endpoint.to_string(), cause };
    let tonic = TonicEndpoint::from_shared(endpoint.as_str().to_owned())
        .map_err(|error| unreachable(cause(&error)))?
        .connect_timeout(options.connect_timeout)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(options.frame_bytes)
        .tcp_nodelay(true)
        // Finds hosts that vanished; below the idle limits of common balancers (60 s).
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    // The connector's own limit does not cover name resolution.
    match tokio::time::timeout(options.connect_timeout, tonic.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(unreachable(cause(&error))),
        Err(_) => {
            Err(ConnectError::TimedOut { endpoint: endpoint.to_string(), after: options.connect_timeout })
        }
    }
}

/// The innermost cause: tonic says "transport error", what it wraps says why.
fn cause(error: &tonic::transport::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_completed_or_refused() {
        for (text, full) in [
            ("http://127.0.0.1:7070", "http://127.0.0.1:7070"),
            ("localhost", "http://localhost:7070"),
            ("log.example:80/", "http://log.example:80"),
            ("http://[::1]:9", "http://[::1]:9"),
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(full.to_owned()), "{text}");
        }
        for text in [
            "",
            "http://",
            "https://h:1",
            "ftp://h",
            "http://h:99999",
            "http://h:",
            "h/p",
            "a b",
            "http://u@h",
            ":1",
        ] {
            let error = text.parse::<Endpoint>().expect_err(text);
            assert!(matches!(&error, ConnectError::InvalidEndpoint { .. }), "{text}: {error}");
        }
    }
}
