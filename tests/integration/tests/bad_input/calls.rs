//! gRPC calls whose bytes are the test's own, so that they can be wrong.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::Channel;

/// What a call came to: the code, and what was said about it.
pub type Said = (Code, String);

/// A message with its prefix: the compressed flag, and its length as told.
pub fn message(flag: u8, length: u32, bytes: &[u8]) -> Bytes {
    let mut message = vec![flag];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(bytes);
    message.into()
}

/// A message whose prefix is right.
pub fn plain(bytes: &[u8]) -> Bytes {
    message(0, u32::try_from(bytes.len()).expect("a test's message"), bytes)
}

/// Calls a method with a body as given.
pub async fn call(mut channel: Channel, method: &str, headers: &[(&str, &str)], body: Bytes) -> Said {
    let mut request = http::Request::post(format!("http://tidelog/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::new(Whole(Some(body)))).expect("a request");
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.expect("the server listens");
    let response = match channel.call(request).await {
        Ok(response) => response,
        Err(error) => return (Code::Unavailable, format!("no answer: {error:?}")),
    };
    let (parts, mut body) = response.into_parts();
    let mut trailers = parts.headers;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.map(Frame::into_trailers) {
            Ok(Ok(more)) => trailers.extend(more),
            Ok(Err(_data)) => {}
            Err(status) => return (status.code(), status.message().to_owned()),
        }
    }
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let code = text("grpc-status").parse().map_or(Code::Unknown, Code::from_i32);
    (code, text("grpc-message"))
}

/// A body in one piece.
struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}
