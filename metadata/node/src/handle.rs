//! What the rest of the agent calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tidelog_metadata_state::{Applied, Command, Leader, Outcome, Proposal, State};
use tidelog_types::{AgentInstance, LogIndex, TopicPartition};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::group_watch::GroupWatchers;
use crate::peers::FollowerSeen;
use crate::tail::Tail;

/// Proposals that wait to be taken up; beyond that, callers wait.
const QUEUE_PROPOSALS: usize = 1024;

/// Handle of a running node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metadata {
    pub(crate) shared: Arc<Shared>,
    pub(crate) requests: mpsc::Sender<Request>,
}

/// What a node and its handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub instance: AgentInstance,
    pub state: RwLock<State>,
    pub stats: MetadataStats,
    pub tail: Arc<Tail>,
    /// In an order, so that who is woken first does not depend on the process.
    watchers: Mutex<BTreeMap<TopicPartition, Vec<Arc<Notify>>>>,
    pub groups: GroupWatchers,
    role: watch::Sender<Role>,
}

#[derive(Debug)]
pub(crate) enum Request {
    Propose {
        command: Command,
        reply: oneshot::Sender<Result<Arc<Outcome>, ProposeError>>,
    },
    Confirm {
        reply: oneshot::Sender<Result<LogIndex, ReadIndexError>>,
    },
    /// Proposals of a follower, for the leadership that it listens to and no other.
    Forward {
        leadership: u64,
        proposals: Vec<Proposal>,
    },
    /// Somebody needs a leader, whoever it is.
    Lead,
}

/// What a node is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has not read the log yet, or reads it anew.
    Booting,
    /// It follows the log that somebody else writes, or nobody.
    Follower,
    /// It writes the log.
    Leader,
    /// It has stopped for good; the reason was logged.
    Stopped,
}

/// Why a proposal has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It had no effect and never will: nobody leads whom this node could reach, or the node is stopping.
    #[error("the metadata is unavailable: {0}")]
    Unavailable(String),
    /// The command is larger than an entry of the log can be. It had no effect.
    #[error("the command has {bytes} bytes, an entry of the metadata log holds {max}")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// What fits.
        max: usize,
    },
    /// It may have taken effect, or may still do so.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// Why a linearizable read is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the metadata cannot be confirmed to be current: {0}")]
pub struct ReadIndexError(pub String);

/// Counters since the start; all rise only.
#[derive(Debug, Default)]
pub struct MetadataStats {
    /// Appends sent to the store, repeats included.
    pub appends: AtomicU64,
    /// Entries that this node appended.
    pub entries: AtomicU64,
    /// Bytes of these entries.
    pub entry_bytes: AtomicU64,
    /// Appends whose outcome was unknown and that were repeated.
    pub unknown_appends: AtomicU64,
    /// Appends that found the place taken by another.
    pub conflicts: AtomicU64,
    /// Reads of the store.
    pub reads: AtomicU64,
    /// Entries applied, own and others'.
    pub applied: AtomicU64,
    /// Times that this node became leader.
    pub elections: AtomicU64,
    /// Snapshots written.
    pub snapshots: AtomicU64,
    /// Proposals handed on to a leader, repeats included.
    pub handed_on: AtomicU64,
    /// Proposals taken over from followers.
    pub taken_over: AtomicU64,
    /// Links to a leader that were established.
    pub links: AtomicU64,
}

impl MetadataStats {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

impl Metadata {
    pub(crate) fn new(instance: AgentInstance) -> (Self, Arc<Shared>, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(QUEUE_PROPOSALS);
        let shared = Arc::new(Shared {
            instance,
            state: RwLock::new(State::new()),
            stats: MetadataStats::default(),
            tail: Arc::new(Tail::new()),
            watchers: Mutex::new(BTreeMap::new()),
            groups: GroupWatchers::default(),
            role: watch::Sender::new(Role::Booting),
        });
        (Self { shared: Arc::clone(&shared), requests }, shared, receiver)
    }

    /// Has a command take effect at most once, and returns its outcome; that it was refused is an outcome too.
    ///
    /// Commands of one node take effect in the order in which this function was called and first polled. At `deadline`
    /// the caller stops waiting with [`ProposeError::Unknown`]; a command that was not on its way by then never will
    /// be. Dropping the future is the same as a deadline.
    ///
    /// A node that follows hands the command on to its leader, and to the next one if need be. When this function returns an
    /// outcome, this node's replica shows its effect.
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Arc<Outcome>, ProposeError> {
        let (reply, outcome) = oneshot::channel();
        let queued =
            tokio::time::timeout_at(deadline, self.requests.send(Request::Propose { command, reply })).await;
        match queued {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(ProposeError::Unavailable("the node has stopped".into())),
            Err(_) => return Err(ProposeError::Unavailable("the queue of proposals is full".into())),
        }
        match tokio::time::timeout_at(deadline, outcome).await {
            Ok(Ok(result)) => result,
            // The node answers whatever it did not append; silence means that it was stopped in the middle.
            Ok(Err(_)) => Err(ProposeError::Unknown("the node stopped before the outcome was known".into())),
            Err(_) => Err(ProposeError::Unknown("the deadline passed before the outcome was known".into())),
        }
    }

    /// Looks at this node's replica of the state. The closure runs under a lock that `apply` needs: keep it short.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.shared.state.read())
    }

    /// Makes reads linearizable: after it returns, [`Metadata::read`] sees everything that was acknowledged before
    /// it was called, by any agent.
    pub async fn confirm(&self, deadline: Instant) -> Result<LogIndex, ReadIndexError> {
        let (reply, confirmed) = oneshot::channel();
        let queued = tokio::time::timeout_at(deadline, self.requests.send(Request::Confirm { reply })).await;
        if !matches!(queued, Ok(Ok(()))) {
            return Err(ReadIndexError("the node has stopped or its queue is full".into()));
        }
        match tokio::time::timeout_at(deadline, confirmed).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ReadIndexError("the node has stopped".into())),
            Err(_) => Err(ReadIndexError("the deadline passed".into())),
        }
    }

    /// Says that a leader is needed, for work that is no command: if none can be heard, this node tries to become one.
    /// To be repeated every few seconds while it is so.
    pub fn need_leader(&self) {
        // A node with a full queue has reasons enough to look for one.
        let _ = self.requests.try_send(Request::Lead);
    }

    /// Who leads as far as this node knows, and whether that is this node.
    pub fn leader(&self) -> (Option<Leader>, bool) {
        (self.read(|state| state.leader().cloned()), *self.shared.role.borrow() == Role::Leader)
    }

    /// The other agents that follow this node at the moment.
    pub fn followers_seen(&self) -> Vec<FollowerSeen> {
        self.shared.tail.followers_seen()
    }

    /// How many other agents follow this node at the moment.
    pub fn followers(&self) -> usize {
        self.shared.tail.followers()
    }

    /// Watches partitions for a new end or log start, from now on.
    pub fn watch(&self, partitions: impl IntoIterator<Item = TopicPartition>) -> PartitionWatch {
        let notify = Arc::new(Notify::new());
        let partitions: Vec<TopicPartition> = partitions.into_iter().collect();
        let mut watchers = self.shared.watchers.lock();
        for partition in &partitions {
            watchers.entry(*partition).or_default().push(Arc::clone(&notify));
        }
        drop(watchers);
        PartitionWatch { shared: Arc::clone(&self.shared), partitions, notify }
    }

    /// The node's role, now and as it changes.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.shared.role.subscribe()
    }

    /// The counters.
    pub fn stats(&self) -> &MetadataStats {
        &self.shared.stats
    }

    /// This run of this process.
    pub fn instance(&self) -> AgentInstance {
        self.shared.instance
    }
}

impl Shared {
    /// Wakes those who watch the partitions and groups that an entry changed.
    pub(crate) fn wake(&self, applied: &Applied) {
        self.groups.wake(&applied.groups);
        let watchers = self.watchers.lock();
        if watchers.is_empty() {
            return;
        }
        for partition in &applied.changed {
            watchers.get(partition).into_iter().flatten().for_each(|notify| notify.notify_one());
        }
    }

    /// Wakes everyone, after the state was replaced as a whole.
    pub(crate) fn wake_all(&self) {
        self.watchers.lock().values().flatten().for_each(|notify| notify.notify_one());
        self.groups.wake_all();
    }

    pub(crate) fn set_role(&self, role: Role) {
        self.role.send_if_modified(|current| std::mem::replace(current, role) != role);
    }
}

/// Tells when one of some partitions has changed.
#[derive(Debug)]
pub struct PartitionWatch {
    shared: Arc<Shared>,
    partitions: Vec<TopicPartition>,
    notify: Arc<Notify>,
}

impl PartitionWatch {
    /// Returns once a partition has changed since the watch was made, or since this function last returned. It may
    /// return without a change; look again at what you wait for.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for PartitionWatch {
    fn drop(&mut self) {
        let mut watchers = self.shared.watchers.lock();
        for partition in &self.partitions {
            if let Some(notifies) = watchers.get_mut(partition) {
                notifies.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
                if notifies.is_empty() {
                    watchers.remove(partition);
                }
            }
        }
    }
}
