//! Collects the signs of life of the members that this agent serves, and brings them to the leader.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidelog_metadata_node::Metadata;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::coordinator::Coordinator;
use super::link::{BeatError, LeaderLink, LinkError, MemberBeat};

/// From the start of one call to the start of the next: each costs a read of the metadata log.
const CALL_INTERVAL: Duration = Duration::from_millis(100);
/// How long one call may take; those who wait longer are asked about again.
const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// Signs of life in one call.
const CALL_BEATS_MAX: usize = 10_000;
/// Signs of life that wait to be collected; beyond that, their senders wait.
const QUEUE_MAX: usize = 4_096;

/// Where members' signs of life go; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Beats {
    queue: mpsc::Sender<Waiting>,
    remote: Arc<OnceLock<Arc<dyn LeaderLink>>>,
}

#[derive(Debug)]
struct Waiting {
    beat: MemberBeat,
    deadline: Instant,
    reply: oneshot::Sender<Result<(), NotHeard>>,
}

/// Why a sign of life does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotHeard {
    /// The leader says so.
    Refused(BeatError),
    /// No leader has answered in time.
    Unavailable(String),
}

/// The task that brings them to the leader.
pub(crate) struct BeatCourier {
    queue: mpsc::Receiver<Waiting>,
    remote: Arc<OnceLock<Arc<dyn LeaderLink>>>,
    local: Coordinator,
    metadata: Metadata,
}

impl Beats {
    pub fn new(metadata: Metadata, local: Coordinator) -> (Self, BeatCourier) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let remote = Arc::new(OnceLock::new());
        let beats = Self { queue: sender, remote: Arc::clone(&remote) };
        (beats, BeatCourier { queue, remote, local, metadata })
    }

    /// How to reach a leader that is another agent. Only the first link that is given counts.
    pub fn reach_leader_by(&self, link: Arc<dyn LeaderLink>) {
        // A second one would be a mistake of the caller; the first keeps working.
        let _ = self.remote.set(link);
    }

    /// Tells the leader that a member lives, and waits until it has confirmed that.
    pub async fn beat(&self, beat: MemberBeat, deadline: Instant) -> Result<(), NotHeard> {
        let unavailable = |why: &str| NotHeard::Unavailable(why.to_owned());
        let (reply, heard) = oneshot::channel();
        let queued = self.queue.send(Waiting { beat, deadline, reply });
        match tokio::time::timeout_at(deadline, queued).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(unavailable("the agent is stopping")),
            Err(_) => return Err(unavailable("too many heartbeats wait for the leader")),
        }
        match tokio::time::timeout_at(deadline, heard).await {
            Ok(Ok(heard)) => heard,
            Ok(Err(_)) => Err(unavailable("the agent is stopping")),
            Err(_) => Err(unavailable("the leader has not answered in time")),
        }
    }
}

impl BeatCourier {
    /// Collects and calls until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut called_at: Option<Instant> = None;
        loop {
            if waiting.is_empty() {
                let first = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    first = self.queue.recv() => first,
                };
                let Some(first) = first else { return };
                waiting.push(first);
            }
            if let Some(called_at) = called_at {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep_until(called_at + CALL_INTERVAL) => {}
                }
            }
            while waiting.len() < CALL_BEATS_MAX
                && let Ok(another) = self.queue.try_recv()
            {
                waiting.push(another);
            }
            called_at = Some(Instant::now());
            waiting.retain(|one| !one.reply.is_closed());
            let answered = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                answered = self.call(&waiting) => answered,
            };
            match answered {
                Ok(answers) => {
                    for (one, answer) in waiting.drain(..).zip(answers) {
                        let _ = one.reply.send(answer.map_err(NotHeard::Refused));
                    }
                }
                Err(error) => {
                    tracing::debug!(event = "beats_unheard", %error, waiting = waiting.len());
                    // Whoever can wait is asked about again; the others have given up by themselves.
                    let now = Instant::now();
                    for one in waiting.extract_if(.., |one| one.deadline <= now) {
                        let _ = one.reply.send(Err(NotHeard::Unavailable(error.to_string())));
                    }
                }
            }
        }
    }

    async fn call(&self, waiting: &[Waiting]) -> Result<Vec<Result<(), BeatError>>, LinkError> {
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        let beats = waiting.iter().map(|one| one.beat.clone()).collect();
        let deadline = Instant::now() + CALL_DEADLINE;
        let (leader, leads) = self.metadata.leader();
        if leader.is_none() {
            self.metadata.need_leader();
        }
        let link: &dyn LeaderLink = match self.remote.get() {
            Some(remote) if !leads => &**remote,
            _ => &self.local,
        };
        let answers = tokio::time::timeout_at(deadline, link.beat(beats, deadline)).await;
        let answers = answers.unwrap_or_else(|_| Err(LinkError::Failed("no answer in time".to_owned())));
        if answers.is_err() {
            // The leader may be gone. Signs of life are no commands, so nobody else would notice.
            self.metadata.need_leader();
        }
        answers.and_then(|answers| {
            let all = answers.len() == waiting.len();
            all.then_some(answers).ok_or_else(|| LinkError::Failed("it answered something else".to_owned()))
        })
    }
}
