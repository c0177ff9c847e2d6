//! Unary requests: a time limit, and repeats where they do no harm.

use std::time::Duration;

use tidelog_proto::limits::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::admin_service_client::AdminServiceClient;
use tidelog_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidelog_proto::v1::group_service_client::GroupServiceClient;
use tidelog_proto::v1::producer_service_client::ProducerServiceClient;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::backoff::Backoff;
use crate::connection::{Client, is_transport_error};
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

pub(crate) type GroupClient = GroupServiceClient<Channel>;

pub(crate) fn group(channel: Channel) -> GroupClient {
    GroupServiceClient::new(channel)
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

/// A request that may be repeated is given to so many agents in turn, if there are as many, before the time is over.
const ATTEMPTS: u32 = 3;

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
    // In a row, by an agent that answered.
    let mut refusals = 0;
    loop {
        let connection = match tokio::time::timeout_at(deadline, client.connection()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                let wait = backoff.next(None);
                if Instant::now() + wait >= deadline {
                    return Err(error.into());
                }
                tokio::time::sleep(wait).await;
                continue;
            }
            Err(_) => return Err(late(limit, true)),
        };
        let hedged = repeat == Repeat::Always && client.has_choice();
        let patience = if hedged { deadline.min(Instant::now() + limit / ATTEMPTS) } else { deadline };
        let status = match tokio::time::timeout_at(patience, send(connection.channel)).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => status,
            Err(_) if Instant::now() < deadline => {
                // A process that was stopped takes requests and answers none.
                client.give_up(connection.number);
                continue;
            }
            Err(_) => return Err(late(limit, repeat == Repeat::Always)),
        };
        let error = ApiError::from_status(&status);
        client.note(connection.number, &error);
        let broken = is_transport_error(&error);
        refusals = if broken { 0 } else { refusals + 1 };
        if refusals > 1 && error.code == Code::Unavailable && client.has_choice() {
            // Perhaps it is this agent alone that does not reach what all of them need.
            client.give_up(connection.number);
        }
        let passes = match error.code {
            Code::Unavailable => true,
            Code::ResourceExhausted => error.retry_after.is_some(),
            Code::Unknown | Code::Cancelled => broken,
            _ => false,
        };
        let harmless = repeat == Repeat::Always || !error.outcome_unknown() || was_never_sent(&status);
        let wait = backoff.next(error.retry_after);
        if !passes || !harmless || Instant::now() + wait >= deadline {
            return Err(RequestError::sort(error, repeat == Repeat::Always));
        }
        tracing::debug!(%error, ?wait, "request is repeated");
        tokio::time::sleep(wait).await;
    }
}

fn late(limit: Duration, did_nothing: bool) -> RequestError {
    let status = Status::deadline_exceeded(format!("no answer within {} ms", limit.as_millis()));
    RequestError::sort(ApiError::from_status(&status), did_nothing)
}

/// Whether a request failed because no connection could be made: an idle one had broken, and its agent is gone.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A request with the deadline that the service should keep, too.
pub(crate) fn with_deadline<T>(message: T, after: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(after);
    request
}
