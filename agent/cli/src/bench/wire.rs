//! A connection as our client makes it, or as a client that nobody tuned makes it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tidelog_client::Endpoint;
use tidelog_proto::limits::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use tidelog_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidelog_proto::v1::producer_service_client::ProducerServiceClient;
use tonic::body::Body;
use tonic::transport::Channel;

use crate::failure::{Exit, Failure};

/// HTTP/2's default frame size, which foreign clients keep.
const STOCK_FRAME_BYTES: usize = 16 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel that may cut what it sends into small frames.
#[derive(Debug, Clone)]
pub struct Wire {
    channel: Channel,
    stock: bool,
}

impl Wire {
    /// Opens a connection of its own.
    pub async fn open(endpoint: &Endpoint, stock: bool) -> Result<Self, Failure> {
        let failed = |error: &dyn std::error::Error| {
            let cause = crate::stores::with_causes(error);
            Failure::new(Exit::Unavailable, format!("cannot connect to {endpoint}: {cause}"))
        };
        let mut options = tonic::transport::Endpoint::from_shared(endpoint.as_str().to_owned())
            .map_err(|error| failed(&error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        if !stock {
            // As in our client.
            options = options
                .max_frame_size(1024 * 1024)
                .initial_stream_window_size(4 * 1024 * 1024)
                .initial_connection_window_size(16 * 1024 * 1024);
        }
        let channel = options.connect().await.map_err(|error| failed(&error))?;
        Ok(Self { channel, stock })
    }

    /// The producer's stub.
    pub fn producer(&self) -> ProducerServiceClient<Self> {
        ProducerServiceClient::new(self.clone())
            .max_encoding_message_size(REQUEST_BYTES_MAX)
            .max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    /// The consumer's stub.
    pub fn consumer(&self) -> ConsumerServiceClient<Self> {
        ConsumerServiceClient::new(self.clone())
            .max_encoding_message_size(REQUEST_BYTES_MAX)
            .max_decoding_message_size(RESPONSE_BYTES_MAX)
    }
}

impl tower_service::Service<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as tower_service::Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let stock = self.stock;
        let cut = |body| if stock { Body::new(Cut { body, rest: Bytes::new() }) } else { body };
        self.channel.call(request.map(cut))
    }
}

/// A body in pieces of at most [`STOCK_FRAME_BYTES`]: each becomes a DATA frame.
struct Cut {
    body: Body,
    rest: Bytes,
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(STOCK_FRAME_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}
