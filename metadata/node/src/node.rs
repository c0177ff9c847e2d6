//! The node: one future that boots, follows and leads.

use std::sync::Arc;
use std::time::Duration;

use tidelog_metadata_log::MetadataLog;
use tidelog_metadata_log::env::{Clock, Entropy};
use tidelog_metadata_state::{Outcome, State};
use tidelog_types::{AgentInstance, LogIndex, Place};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::append::{Appender, Backoff};
use crate::config::{Mistake, NodeConfig};
use crate::handle::{Metadata, MetadataStats, ProposeError, ReadIndexError, Request, Role, Shared};
use crate::peers::Peers;
use crate::proposals::Proposals;
use crate::replica::{NodeError, ReplicaError};
use crate::snapshots::SnapshotStore;
use crate::time::LeaderClock;

/// How long a request for a leader counts.
const LEADER_NEEDED: Duration = Duration::from_secs(5);

pub(crate) type ProposeResult = Result<Arc<Outcome>, ProposeError>;
pub(crate) type ConfirmReply = oneshot::Sender<Result<LogIndex, ReadIndexError>>;

/// One process's part in the metadata log. See the crate's documentation.
#[derive(Debug)]
pub struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) log: Arc<dyn MetadataLog>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Entropy,
    /// What a leader or candidate stamps entries with.
    pub(crate) leader_clock: LeaderClock,
    pub(crate) shared: Arc<Shared>,
    /// The replica of a booting node. Readers see it when it has caught up, so that what they see never goes back.
    pub(crate) booting: Option<State>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) proposals: Proposals,
    pub(crate) confirms: Vec<ConfirmReply>,
    pub(crate) lost_races: Backoff,
    /// How this node reaches others; without, it knows them by the log alone.
    pub(crate) peers: Option<Arc<dyn Peers>>,
    /// The last leader that this process had a link to.
    pub(crate) heard_from: Option<AgentInstance>,
    /// Somebody needs a leader until then.
    pub(crate) leader_needed_until: Instant,
    /// Outcomes of the node's own proposals that are still to come; held so that they are not left out as abandoned.
    pub(crate) own_outcomes: Vec<oneshot::Receiver<ProposeResult>>,
}

/// What a role ends with.
pub(crate) enum Turn {
    /// Follow the log.
    Follow,
    /// Lead the epoch whose Begin this node appended.
    Lead,
    /// Boot anew.
    Reboot,
    /// Stop.
    Stop,
}

impl Node {
    /// A node and its handle. Nothing happens before [`Node::run`].
    pub fn new(
        config: NodeConfig,
        log: Arc<dyn MetadataLog>,
        snapshots: Arc<dyn SnapshotStore>,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
    ) -> (Metadata, Self) {
        let (metadata, shared, requests) = Metadata::new(config.instance);
        let proposals = Proposals::new(config.instance);
        let lost_races = Backoff::new(config.witness_interval);
        let node = Self {
            config,
            log,
            snapshots,
            leader_clock: LeaderClock::unchecked(&*clock),
            clock,
            entropy,
            shared,
            booting: None,
            requests,
            proposals,
            confirms: Vec::new(),
            lost_races,
            peers: None,
            heard_from: None,
            leader_needed_until: Instant::now(),
            own_outcomes: Vec::new(),
        };
        (metadata, node)
    }

    /// Lets the node reach other agents.
    pub fn with_peers(mut self, peers: Arc<dyn Peers>) -> Self {
        self.peers = Some(peers);
        self
    }

    /// Takes part in the log until `cancel`, or until something happens that an operator has to look at. After
    /// `cancel` what was accepted is resolved first; to bound that, drop the future: whatever was not resolved is
    /// then answered as unknown.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), NodeError> {
        let ended = self.turns(&cancel).await;
        self.shared.set_role(Role::Stopped);
        let why = ended.as_ref().err().map_or_else(|| "the node is stopping".to_owned(), ToString::to_string);
        self.shared.tail.close();
        self.proposals.end(&why);
        self.refuse_confirms(&why);
        ended
    }

    async fn turns(&mut self, cancel: &CancellationToken) -> Result<(), NodeError> {
        let mut turn = Turn::Reboot;
        loop {
            turn = match turn {
                Turn::Reboot => {
                    self.shared.set_role(Role::Booting);
                    let booted = tokio::select! {
                        biased;
                        () = cancel.cancelled() => return Ok(()),
                        booted = self.boot() => booted,
                    };
                    booted?;
                    Turn::Follow
                }
                Turn::Follow => {
                    self.shared.set_role(Role::Follower);
                    match self.follow(cancel).await {
                        Ok(turn) => turn,
                        Err(ReplicaError::Fatal(error)) => return Err(error),
                        Err(error) => {
                            tracing::warn!(event = "replica_restart", %error);
                            Turn::Reboot
                        }
                    }
                }
                Turn::Lead => {
                    self.shared.set_role(Role::Leader);
                    match self.lead(cancel).await {
                        Ok(turn) => turn,
                        Err(ReplicaError::Fatal(error)) => return Err(error),
                        Err(error) => {
                            tracing::warn!(event = "leader_restart", %error);
                            Turn::Reboot
                        }
                    }
                }
                Turn::Stop => return Ok(()),
            };
        }
    }

    /// Loads a snapshot and catches up, however often the stores fail to answer.
    async fn boot(&mut self) -> Result<(), NodeError> {
        let mut pause = Backoff::new(self.config.retry_pause);
        loop {
            let booted = match self.load_snapshot().await {
                Ok(()) => self.catch_up().await.map(drop),
                Err(error) => Err(error),
            };
            match booted {
                Ok(()) => {
                    self.publish_booted();
                    return Ok(());
                }
                Err(ReplicaError::Fatal(error)) => return Err(error),
                Err(error) => tracing::warn!(event = "boot_retry", %error),
            }
            pause.wait(&self.entropy).await;
        }
    }

    pub(crate) fn publish_booted(&mut self) {
        if let Some(state) = self.booting.take() {
            *self.shared.state.write() = state;
            self.proposals.resolve_from(&self.shared.state.read());
            self.shared.wake_all();
        }
    }

    pub(crate) fn refuse_confirms(&mut self, why: &str) {
        for reply in self.confirms.drain(..) {
            let _ = reply.send(Err(ReadIndexError(why.to_owned())));
        }
    }

    /// Takes up a request: proposals are queued, confirms collected.
    pub(crate) fn accept(&mut self, request: Request) {
        match request {
            Request::Propose { command, reply } => {
                let proposed_at = self.shared.state.read().index();
                self.proposals.accept(command, proposed_at, reply);
            }
            Request::Confirm { reply } => self.confirms.push(reply),
            Request::Forward { leadership, proposals } => {
                // Of another leadership: the follower repeats them to whoever leads now.
                let present = self.shared.tail.leadership();
                if present == Some(leadership) || self.errs(Mistake::KeepForeignProposals) {
                    MetadataStats::add(&self.shared.stats.taken_over, proposals.len() as u64);
                    self.proposals.accept_followers(proposals);
                }
            }
            Request::Lead => self.leader_needed_until = Instant::now() + LEADER_NEEDED,
        }
    }

    /// Takes up all requests that wait in the channel already.
    pub(crate) fn take_waiting_requests(&mut self) {
        while self.proposals.has_room() {
            let Ok(request) = self.requests.try_recv() else { return };
            self.accept(request);
        }
    }

    pub(crate) fn appender(&self) -> Appender {
        Appender {
            log: Arc::clone(&self.log),
            shard: self.config.shard,
            shared: Arc::clone(&self.shared),
            entropy: self.entropy.clone(),
            retry_pause: self.config.retry_pause,
        }
    }

    pub(crate) fn next_place(&self) -> Place {
        self.booting.as_ref().map_or_else(|| self.shared.state.read().next(), State::next)
    }

    /// Whether this node breaks a rule on purpose.
    pub(crate) fn errs(&self, mistake: Mistake) -> bool {
        cfg!(feature = "planted-mistakes") && self.config.mistake == Some(mistake)
    }
}
