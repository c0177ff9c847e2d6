//! Making connections: to the first of several addresses that answers, by TCP or by what a test puts in its place.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint as TonicEndpoint};

use super::{ClientOptions, Endpoint};
use crate::error::ConnectError;

/// Bytes in flight per stream; enough for real round trips.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes in flight per connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// An address that has not answered after this time gets company by the next one.
const NEXT_AFTER: Duration = Duration::from_millis(300);

/// Makes the byte streams of a client's connections. Without one they are TCP; a simulated network brings its own.
pub trait Dial: Send + Sync + fmt::Debug + 'static {
    /// Connects to an address, perhaps a second time: a connection that broke is made anew.
    fn dial(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>>;
}

/// A connection's bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for T {}

/// Connects to the first of the addresses that answers, asked in turn from `first` on. Returns its position.
pub(super) async fn any(
    endpoints: &[Endpoint],
    first: usize,
    options: &ClientOptions,
) -> Result<(usize, Channel), ConnectError> {
    let mut left = (0..endpoints.len()).map(|step| (first + step) % endpoints.len());
    let mut attempts = FuturesUnordered::new();
    let mut error = ConnectError::InvalidEndpoint { endpoint: String::new(), problem: "is missing" };
    loop {
        if let Some((position, endpoint)) = left.next().and_then(|at| Some((at, endpoints.get(at)?))) {
            attempts.push(async move { (position, open(endpoint, options).await) });
        } else if attempts.is_empty() {
            return Err(error);
        }
        let patience = tokio::time::sleep(NEXT_AFTER);
        tokio::select! {
            biased;
            Some((position, outcome)) = attempts.next() => match outcome {
                Ok(channel) => return Ok((position, channel)),
                Err(failed) => error = failed,
            },
            () = patience, if left.len() > 0 => {}
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
    let connecting = async {
        match &options.dial {
            Some(dial) => {
                tonic.connect_with_connector(Dialer { dial: Arc::clone(dial), to: endpoint.clone() }).await
            }
            None => tonic.connect().await,
        }
    };
    // The connector's own limit does not cover name resolution.
    match tokio::time::timeout(options.connect_timeout, connecting).await {
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

/// A [`Dial`] as tonic takes it.
struct Dialer {
    dial: Arc<dyn Dial>,
    to: Endpoint,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Box<dyn ByteStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialling = self.dial.dial(&self.to);
        Box::pin(async move { Ok(TokioIo::new(dialling.await?)) })
    }
}
