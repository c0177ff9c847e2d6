//! The task that sends a producer's batches: one stream after the other, until the producer is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::{self, ErrorReason};
use tidelog_types::{ProducerEpoch, ProducerId};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::lanes::{Lanes, Next};
use super::options::ProducerOptions;
use super::queues::Queues;
use crate::backoff::Backoff;
use crate::connection::{Client, Connection};
use crate::error::{ConnectError, ProduceError};
use crate::request::{self, Repeat, call, with_deadline};

/// How often the delivery timeout is looked at.
const EXPIRY_CHECK: Duration = Duration::from_millis(250);

/// What senders and the task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub queues: Arc<Mutex<Queues>>,
    /// Something changed that the task should look at.
    pub wake: Notify,
    /// How many wait for memory: what is there is sent without waiting for more.
    pub starved: AtomicUsize,
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    /// Nothing is left to send, and nothing will come.
    Closed,
    /// Another stream goes on at once.
    Again,
    /// Another stream goes on after a time, which the service may have asked for.
    Wait(Option<Duration>),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Session {
    pub client: Client,
    pub shared: Arc<Shared>,
    pub lanes: Lanes,
    pub options: ProducerOptions,
}

impl Session {
    /// Sends until the producer is closed and everything has its outcome.
    pub async fn run(mut self) {
        let _ended = Ended(Arc::clone(&self.shared));
        let mut backoff = Backoff::new(self.client.options().entropy.clone());
        loop {
            let end = match self.stream(&mut backoff).await {
                Ok(end) => end,
                Err(error) => {
                    self.lanes.last_error = Some(error.to_string().into());
                    End::Wait(error.retry_after)
                }
            };
            self.lanes.stream_ended();
            self.lanes.expire(Instant::now());
            if self.is_done() {
                return;
            }
            match end {
                End::Closed => return,
                End::Again => {}
                End::Wait(asked) => {
                    let wait = backoff.next(asked);
                    tracing::debug!(?wait, error = self.lanes.last_error.as_deref(), "producer tries again");
                    let until = Instant::now() + wait;
                    while Instant::now() < until {
                        tokio::time::sleep_until(until.min(Instant::now() + EXPIRY_CHECK)).await;
                        self.lanes.expire(Instant::now());
                    }
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        let queues = self.shared.queues.lock();
        queues.closed && queues.is_idle()
    }

    /// Waits until there is something to send; `false` if nothing will come.
    async fn work(&mut self) -> bool {
        loop {
            let notified = self.shared.wake.notified();
            if self.is_done() {
                return false;
            }
            if self.lanes.has_resends() || !self.shared.queues.lock().is_idle() {
                return true;
            }
            notified.await;
        }
    }

    /// Opens a stream and uses it until it ends.
    async fn stream(&mut self, backoff: &mut Backoff) -> Result<End, ApiError> {
        if !self.work().await {
            return Ok(End::Closed);
        }
        let connection = self.client.connection().await.map_err(unavailable)?;
        if self.lanes.needs_identity() {
            self.identify().await?;
        }
        let (to_service, requests) = mpsc::channel(4);
        let config = v1::ProduceStreamConfig { client_id: self.client.options().client_id.clone() };
        let opening =
            v1::ProduceStreamRequest { message: Some(v1::produce_stream_request::Message::Config(config)) };
        // The channel is new and has room.
        let _ = to_service.try_send(opening);
        let mut service = request::producer(connection.channel.clone());
        let opened = service.produce_stream(ReceiverStream::new(requests));
        let answers = match tokio::time::timeout(self.options.answer_timeout, opened).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(self.broken(&connection, ApiError::from_status(&status))),
            Err(_) => return Err(self.broken(&connection, silent())),
        };
        self.exchange(&connection, to_service, answers, backoff).await
    }

    /// Sends appends and takes answers until the stream ends.
    async fn exchange(
        &mut self,
        connection: &Connection,
        to_service: mpsc::Sender<v1::ProduceStreamRequest>,
        mut answers: tonic::Streaming<v1::ProduceStreamResponse>,
        backoff: &mut Backoff,
    ) -> Result<End, ApiError> {
        let shared = Arc::clone(&self.shared);
        let mut to_service = Some(to_service);
        let mut pending = None;
        // Set once the stream shall end: nothing more is sent, what was sent is answered.
        let mut end = None;
        let mut heard = Instant::now();
        loop {
            let now = Instant::now();
            if end.is_none() && pending.is_none() {
                let all = shared.starved.load(Ordering::Relaxed) > 0;
                pending = self.lanes.next_append(now, all);
                if pending.is_none() && self.lanes.needs_identity() {
                    end = Some(End::Again);
                }
            }
            if end.is_none() && self.is_done() {
                end = Some(End::Closed);
            }
            if let Some(why) = end.take_if(|_| !self.lanes.owes_answers()) {
                return Ok(why);
            }
            if end.is_some() {
                to_service = None;
            }
            let due = shared.queues.lock().next_due().filter(|due| *due > now);
            let deadline = due.unwrap_or(now + EXPIRY_CHECK).min(now + EXPIRY_CHECK);
            tokio::select! {
                biased;
                answer = answers.message() => {
                    heard = Instant::now();
                    let message = match answer {
                        Ok(Some(answer)) => answer.message,
                        Ok(None) => return Ok(if self.lanes.owes_answers() { End::Wait(None) } else { End::Again }),
                        Err(status) => return Err(self.broken(connection, ApiError::from_status(&status))),
                    };
                    match message {
                        Some(v1::produce_stream_response::Message::Result(result)) => {
                            match self.lanes.answered(result) {
                                Next::Continue => backoff.reset(),
                                Next::NewStream(wait) => end = Some(merge(end, End::Wait(wait))),
                            }
                        }
                        Some(v1::produce_stream_response::Message::Reconnect(_)) => {
                            self.client.give_up(connection.number);
                            end = Some(end.unwrap_or(End::Again));
                        }
                        // From a newer service.
                        None => {}
                    }
                }
                room = reserve(to_service.as_ref()), if pending.is_some() && end.is_none() => {
                    let Some(append) = pending.take() else { continue };
                    match room {
                        Some(room) => {
                            if !self.lanes.owes_answers() {
                                heard = Instant::now();
                            }
                            self.lanes.sent(append.message.client_sequence, append.batches);
                            let message = Some(v1::produce_stream_request::Message::Append(append.message));
                            room.send(v1::ProduceStreamRequest { message });
                        }
                        // The stream is over; its answers say why. The append was not sent.
                        None => end = Some(End::Wait(None)),
                    }
                }
                () = shared.wake.notified(), if pending.is_none() && end.is_none() => {}
                () = tokio::time::sleep_until(deadline) => {
                    self.lanes.expire(Instant::now());
                    if self.lanes.owes_answers() && heard.elapsed() > self.options.answer_timeout {
                        return Err(self.broken(connection, silent()));
                    }
                }
            }
        }
    }

    /// Asks for a producer id.
    async fn identify(&mut self) -> Result<(), ApiError> {
        let limit = self.client.options().request_timeout;
        let asked = call(&self.client, Repeat::Always, |channel| async move {
            let message = v1::InitProducerRequest { existing: None };
            request::producer(channel).init_producer(with_deadline(message, limit)).await
        });
        let response = asked.await.map_err(|error| ApiError::new(ErrorReason::MetadataUnavailable, error))?;
        let identity = response.producer.and_then(|producer| {
            let epoch = i16::try_from(producer.producer_epoch).ok()?;
            Some((ProducerId::new(producer.producer_id).ok()?, ProducerEpoch::new(epoch).ok()?))
        });
        let missing =
            || ApiError::new(ErrorReason::Internal, "the answer to InitProducer has no valid identity");
        self.lanes.identity = Some(identity.ok_or_else(missing)?);
        Ok(())
    }

    /// Takes note of why a stream broke.
    fn broken(&mut self, connection: &Connection, error: ApiError) -> ApiError {
        self.client.note(connection.number, &error);
        error
    }
}

/// However the task ends, nobody waits for it any longer.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut queues = self.0.queues.lock();
        queues.closed = true;
        queues.fail_where(|_| true, &ProduceError::Closed);
    }
}

async fn reserve(
    sender: Option<&mpsc::Sender<v1::ProduceStreamRequest>>,
) -> Option<mpsc::Permit<'_, v1::ProduceStreamRequest>> {
    match sender {
        Some(sender) => sender.reserve().await.ok(),
        None => std::future::pending().await,
    }
}

/// Of two reasons to end a stream, the one that waits longer.
fn merge(before: Option<End>, now: End) -> End {
    match (before, now) {
        (Some(End::Wait(before)), End::Wait(now)) => End::Wait(before.max(now)),
        (_, now) => now,
    }
}

fn unavailable(error: ConnectError) -> ApiError {
    ApiError::from_status(&tonic::Status::unavailable(error.to_string()))
}

fn silent() -> ApiError {
    ApiError::from_status(&tonic::Status::unavailable("the service does not answer"))
}
