//! Unary requests: a time limit, and repeats where they do no harm.

use std::time::Duration;

use tidelog_proto::limits::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::ErrorReason;
use tidelog_proto::v1::admin_service_client::AdminServiceClient;
use tidelog_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidelog_proto::v1::producer_service_client::ProducerServiceClient;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::backoff::Backoff;
use crate::connection::Client;
use crate::error::RequestError;

pub(crate) fn admin(channel: Channel) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel)
        .max_encoding_message_size(REQUEST_BYTES_MAX)
        .max_decoding_message_size(RESPONSE_BYTES_MAX)
}

pub(crate) fn producer(channel: Channel) -> ProducerServiceClient<Channel> {
    ProducerServiceClient::new(channel)
        .max_encoding_message_size(REQUEST_BYTES_MAX)
        .max_decoding_message_size(RESPONSE_BYTES_MAX)
}

pub(crate) fn consumer(channel: Channel) -> ConsumerServiceClient<Channel> {
    ConsumerServiceClient::new(channel)
        .max_encoding_message_size(REQUEST_BYTES_MAX)
        .max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// Whether repeating a request does harm if it had been done already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It does none, e.g. a read: repeated also when the outcome is not known.
    Always,
    /// Repeated only when it was certainly not done.
    IfNotDone,
}

/// What an error of a whole request says about the connection.
pub(crate) fn is_transport_error(error: &ApiError) -> bool {
    error.reason == ErrorReason::Unspecified
        && matches!(error.code, Code::Unavailable | Code::Unknown | Code::Cancelled)
}

/// Sends a request until it is answered, refused for good, or the client's time limit is over. `send` makes one attempt.
pub(crate) async fn call<T, F>(
    client: &Client,
    repeat: Repeat,
    mut send: impl FnMut(Channel) -> F,
) -> Result<T, RequestError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let limit = client.options().request_timeout;
    let deadline = Instant::now() + limit;
    let mut backoff = Backoff::new(client.options().entropy.clone());
    loop {
        let connection = client.connection().await?;
        let error = match tokio::time::timeout_at(deadline, send(connection.channel)).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => ApiError::from_status(&status),
            Err(_) => {
                let message = format!("no answer within {} ms", limit.as_millis());
                let status = Status::deadline_exceeded(message);
                return Err(RequestError::sort(ApiError::from_status(&status), repeat == Repeat::Always));
            }
        };
        let broken = is_transport_error(&error);
        if broken || error.reason == ErrorReason::Draining {
            client.give_up(connection.number);
        }
        let passes = match error.code {
            Code::Unavailable => true,
            Code::ResourceExhausted => error.retry_after.is_some(),
            Code::Unknown | Code::Cancelled => broken,
            _ => false,
        };
        let harmless = repeat == Repeat::Always || !error.outcome_unknown();
        let wait = backoff.next(error.retry_after);
        if !passes || !harmless || Instant::now() + wait >= deadline {
            return Err(RequestError::sort(error, repeat == Repeat::Always));
        }
        tracing::debug!(%error, ?wait, "request is repeated");
        tokio::time::sleep(wait).await;
    }
}

/// A request with the deadline that the service should keep, too.
pub(crate) fn with_deadline<T>(message: T, after: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(after);
    request
}
