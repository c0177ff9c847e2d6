//! The connection of one membership to whichever agent answers: joins, sends heartbeats, hears assignments; reconnects under the same incarnation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelog_proto::status::ApiError;
use tidelog_proto::v1::session_request::Message as Say;
use tidelog_proto::v1::session_response::Message as Hear;
use tidelog_proto::v1::{self, ErrorReason};
use tidelog_types::{Generation, MemberId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::assignor::{Asked, Assignor};
use super::clock::SessionClock;
use super::error::GroupError;
use super::identity::Identity;
use super::partition::{TopicPartition, from_wire, to_wire};
use super::shared::Shared;
use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::request;

/// Heartbeat interval before the service has told one.
const INTERVAL: Duration = Duration::from_secs(1);
/// A stream that ended well so soon is not followed by the next at once.
const SHORT: Duration = Duration::from_secs(1);
/// Messages to the service that wait; when they are more, nobody takes them.
const OUTGOING: usize = 8;

/// Why a membership is over as far as the link knows.
#[derive(Debug)]
pub(super) enum End {
    /// The service does not know the member any more.
    Unknown,
    /// The service does not take the member, and would not the next time.
    Refused(ApiError),
}

/// See the module's documentation.
pub(super) struct Link {
    shared: Arc<Shared>,
    identity: Arc<Identity>,
    clock: SessionClock,
    interval: Duration,
    session_timeout: Duration,
    /// The assignment of a session that has to be confirmed first: its join was too long ago.
    unconfirmed: Option<v1::Assignment>,
    /// Since when the member's id belongs to somebody else.
    exists_since: Option<Instant>,
    backoff: Backoff,
    /// Whether the service was heard since the last failure.
    heard: bool,
}

type Shares = JoinHandle<(Asked, BTreeMap<MemberId, Vec<TopicPartition>>)>;

impl Link {
    pub(super) fn new(shared: &Arc<Shared>, identity: &Arc<Identity>) -> Self {
        let session_timeout = shared.options.session_timeout;
        Self {
            shared: Arc::clone(shared),
            identity: Arc::clone(identity),
            clock: SessionClock::new(session_timeout),
            interval: INTERVAL,
            session_timeout,
            unconfirmed: None,
            exists_since: None,
            backoff: Backoff::new(shared.client.options().entropy.clone()),
            heard: false,
        }
    }

    /// Keeps the membership alive until it is over.
    pub(super) async fn run(mut self) -> End {
        let mut failing_since = None;
        loop {
            let begun = Instant::now();
            let outcome = self.stream().await;
            self.clock.stream_ended();
            if std::mem::take(&mut self.heard) {
                self.backoff.reset();
                failing_since = None;
            }
            let Err(error) = outcome else {
                if begun.elapsed() < SHORT {
                    // An agent that always says to go elsewhere, where there is no other.
                    tokio::time::sleep(self.backoff.next(None)).await;
                }
                continue;
            };
            match error.reason {
                ErrorReason::UnknownMember => return End::Unknown,
                ErrorReason::MemberExists => {
                    let since = *self.exists_since.get_or_insert_with(Instant::now);
                    // Its session ends, unless it lives.
                    if since.elapsed() > 2 * self.shared.options.session_timeout {
                        return End::Refused(error);
                    }
                }
                _ if is_final(&error) => return End::Refused(error),
                _ => {}
            }
            let since = *failing_since.get_or_insert_with(Instant::now);
            let after = since.elapsed();
            if after >= self.shared.options.consumer.unavailable_after {
                failing_since = None;
                let problem = GroupError::Unavailable { after, cause: error.to_string() };
                self.shared.ledger.lock().report(problem);
            }
            let wait = self.backoff.next(error.retry_after);
            tracing::debug!(%error, ?wait, group = %self.identity.group, "member reconnects");
            tokio::time::sleep(wait).await;
        }
    }

    /// How long an answer may be outstanding before another agent is asked: short enough for several attempts within the session.
    fn patience(&self) -> Duration {
        (self.session_timeout / 3).max(2 * self.interval).min(self.session_timeout)
    }

    /// Opens a stream and uses it until it ends: well, if another one is to follow at once.
    async fn stream(&mut self) -> Result<(), ApiError> {
        let connection = match self.shared.client.connection().await {
            Ok(connection) => connection,
            Err(error) => return Err(ApiError::from_status(&Status::unavailable(error.to_string()))),
        };
        let was_member = self.shared.ledger.lock().is_member();
        if was_member {
            // A join would make a new member of one that was removed meanwhile, and nobody would notice.
            self.confirm(&connection).await?;
        }
        let (to_service, requests) = mpsc::channel(OUTGOING);
        let join = v1::SessionJoin {
            member: Some(self.identity.to_wire()),
            options: Some(self.shared.options.member_options(&self.shared.client.options().client_id)),
        };
        self.clock.joining(Instant::now());
        // The channel is new and has room.
        let _ = to_service.try_send(say(Say::Join(join)));
        let mut service = request::group(connection.channel.clone());
        let opened = service.session(ReceiverStream::new(requests));
        match tokio::time::timeout(self.patience(), opened).await {
            Ok(Ok(response)) => {
                self.exchange(&connection, to_service, response.into_inner(), was_member).await
            }
            Ok(Err(status)) => Err(self.broken(&connection, &status)),
            Err(_) => Err(self.broken(&connection, &silent())),
        }
    }

    /// Asks whether the service still knows the member.
    async fn confirm(&mut self, connection: &Connection) -> Result<(), ApiError> {
        let (owned, generation) = self.shared.ledger.lock().owned();
        let request = v1::HeartbeatRequest {
            member: Some(self.identity.to_wire()),
            owned: to_wire(owned.iter().map(|(at, id)| (at, *id))),
            known_generation: generation.0,
            max_wait_ms: 0,
        };
        let sent = Instant::now();
        let mut service = request::group(connection.channel.clone());
        let answer = service.heartbeat(request::with_deadline(request, self.patience()));
        match tokio::time::timeout(self.patience(), answer).await {
            Ok(Ok(_)) => {
                self.clock.answered_from(sent);
                self.prolong();
                Ok(())
            }
            Ok(Err(status)) => Err(self.broken(connection, &status)),
            Err(_) => Err(self.broken(connection, &silent())),
        }
    }

    /// Sends heartbeats and takes what comes until the stream ends.
    async fn exchange(
        &mut self,
        connection: &Connection,
        to_service: mpsc::Sender<v1::SessionRequest>,
        mut messages: Streaming<v1::SessionResponse>,
        was_member: bool,
    ) -> Result<(), ApiError> {
        let shared = Arc::clone(&self.shared);
        let begun = Instant::now();
        let given_up = shared.client.given_up(connection.number);
        tokio::pin!(given_up);
        // Heartbeats begin when the membership has.
        let mut next_beat = was_member.then_some(begun);
        let mut told = false;
        let mut shares: Option<Shares> = None;
        loop {
            let waiting_since = if told { self.clock.waiting_since() } else { Some(begun) };
            let silent_at = waiting_since.map(|since| since + self.patience());
            let message = tokio::select! {
                biased;
                message = messages.message() => message,
                // Somebody else found that the agent is no good.
                () = &mut given_up => return Ok(()),
                () = shared.beating.notified(), if next_beat.is_some() => {
                    next_beat = Some(self.beat(&to_service));
                    continue;
                }
                () = at(next_beat) => {
                    next_beat = Some(self.beat(&to_service));
                    continue;
                }
                shared_out = finished(&mut shares) => {
                    shares = None;
                    if let Some(answer) = self.answer(shared_out) {
                        let _ = to_service.try_send(say(Say::Assign(answer)));
                    }
                    continue;
                }
                () = at(silent_at) => return Err(self.broken(connection, &silent())),
            };
            let message = match message {
                Ok(Some(message)) => message.message,
                Ok(None) => {
                    // Only a leave ends it well.
                    let status = Status::unavailable("the agent has ended the session's stream");
                    return Err(self.broken(connection, &status));
                }
                Err(status) => return Err(self.broken(connection, &status)),
            };
            match message {
                Some(Hear::Assignment(assignment)) => {
                    (self.heard, self.exists_since, told) = (true, None, true);
                    let unconfirmed = self.assigned(assignment);
                    next_beat = if unconfirmed || next_beat.is_none() {
                        Some(Instant::now() + if unconfirmed { Duration::ZERO } else { self.interval })
                    } else {
                        next_beat
                    };
                }
                Some(Hear::HeartbeatAck(ack)) => {
                    self.clock.answered(ack.number);
                    self.prolong();
                    if let Some(assignment) = self.unconfirmed.take_if(|_| shared.ledger.lock().is_member()) {
                        self.take_over(&assignment);
                    }
                }
                Some(Hear::AssignmentRequest(request)) => shares = self.begin_shares(request),
                Some(Hear::Reconnect(_)) => {
                    shared.client.give_up(connection.number);
                    return Ok(());
                }
                // Commits go their own way; and what a newer service says.
                Some(Hear::Committed(_)) | None => {}
            }
        }
    }

    /// Sends a heartbeat. Returns when the next one is due.
    fn beat(&mut self, to_service: &mpsc::Sender<v1::SessionRequest>) -> Instant {
        let now = Instant::now();
        let (owned, generation) = self.shared.ledger.lock().owned();
        let heartbeat = v1::SessionHeartbeat {
            number: self.clock.beating(now),
            owned: to_wire(owned.iter().map(|(at, id)| (at, *id))),
            known_generation: generation.0,
        };
        // Without room the service takes nothing: this one has no answer, and that is noticed.
        let _ = to_service.try_send(say(Say::Heartbeat(heartbeat)));
        now + self.interval
    }

    /// Takes note of an assignment. Returns whether a heartbeat has to confirm it first.
    fn assigned(&mut self, told: v1::SessionAssignment) -> bool {
        let milliseconds = |value: i32| u64::try_from(value).ok().filter(|value| *value > 0);
        if let Some(interval) = milliseconds(told.heartbeat_interval_ms) {
            self.interval = Duration::from_millis(interval);
        }
        if let Some(timeout) = milliseconds(told.session_timeout_ms) {
            self.session_timeout = Duration::from_millis(timeout);
            self.clock.in_force(self.session_timeout);
        }
        self.prolong();
        let assignment = told.assignment.unwrap_or_default();
        if self.shared.ledger.lock().is_member() {
            self.take_over(&assignment);
            false
        } else {
            self.unconfirmed = Some(assignment);
            true
        }
    }

    fn take_over(&self, assignment: &v1::Assignment) {
        match from_wire(&assignment.partitions) {
            Ok(target) => {
                let generation = Generation(assignment.generation);
                self.shared.ledger.lock().assign(generation, target, assignment.waiting);
                self.shared.stepping.notify_one();
                self.shared.changed();
            }
            // Nothing is done under an assignment that cannot be read; the one before stays.
            Err(problem) => tracing::warn!(problem, group = %self.identity.group, "assignment is not valid"),
        }
    }

    /// Tells the ledger how long the session lasts.
    fn prolong(&self) {
        let Some(ends) = self.clock.ends() else { return };
        let mut ledger = self.shared.ledger.lock();
        let before = ledger.is_member();
        ledger.prolong(ends, Instant::now());
        if !before && ledger.is_member() {
            self.shared.joined.notify_one();
        }
    }

    /// Lets the application's assignor work, beside the heartbeats.
    fn begin_shares(&self, request: v1::AssignmentRequest) -> Option<Shares> {
        let Assignor::Own(assignor) = &self.shared.options.assignor else { return None };
        match Asked::from_wire(request) {
            Ok(asked) => {
                let assignor = Arc::clone(assignor);
                Some(tokio::task::spawn_blocking(move || {
                    let shares = assignor.assign(&asked.input);
                    (asked, shares)
                }))
            }
            Err(problem) => {
                tracing::warn!(problem, group = %self.identity.group, "request for an assignment is not valid");
                None
            }
        }
    }

    fn answer(
        &self,
        shares: Result<(Asked, BTreeMap<MemberId, Vec<TopicPartition>>), tokio::task::JoinError>,
    ) -> Option<v1::SessionAssign> {
        match shares {
            Ok((asked, shares)) => Some(asked.answer(shares)),
            Err(error) => {
                self.shared.ledger.lock().report(GroupError::Assignor(error.to_string()));
                None
            }
        }
    }

    /// Takes note of why a stream broke.
    fn broken(&self, connection: &Connection, status: &Status) -> ApiError {
        let error = ApiError::from_status(status);
        self.shared.client.note(connection.number, &error);
        error
    }
}

/// Whether joining again would fail again.
fn is_final(error: &ApiError) -> bool {
    matches!(
        error.code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

fn say(message: Say) -> v1::SessionRequest {
    v1::SessionRequest { message: Some(message) }
}

fn silent() -> Status {
    Status::unavailable("the agent does not answer")
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn finished(shares: &mut Option<Shares>) -> <Shares as Future>::Output {
    match shares {
        Some(shares) => shares.await,
        None => std::future::pending().await,
    }
}
