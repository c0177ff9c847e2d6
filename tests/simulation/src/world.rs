//! Everything that the nodes of one run share, and the one lock around it.
//!
//! The lock is never held across an await, nor while a node's own lock is taken from the outside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use tidelog_metadata_node::{Metadata, Mistake};
use tidelog_types::{AgentInstance, ClusterId, LogIndex, TimestampMs};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dice::Dice;
use crate::faults::{Fate, Profile, Stop};
use crate::history::History;
use crate::oracle::Oracle;
use crate::trace::Trace;

/// Nodes that take part all the time.
pub const NODES: usize = 3;
/// The machine on which fresh nodes boot to be compared; nobody proposes anything there.
pub const OBSERVER: usize = NODES;

/// True time at the start of every run; any will do.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// One run's world; cheap to clone.
#[derive(Debug, Clone)]
pub struct World {
    inner: Arc<Mutex<Inner>>,
    violated: Arc<Notify>,
    started: Instant,
}

/// What the lock guards.
#[derive(Debug)]
pub struct Inner {
    /// All random decisions.
    pub dice: Dice,
    /// What happened.
    pub trace: Trace,
    /// The seed's faults.
    pub profile: Profile,
    /// How a node is configured, apart from its identity.
    pub settings: Settings,
    /// Faults rest at the moment.
    pub calm: bool,
    /// Nobody reaches the stores.
    pub outage: bool,
    /// The nodes' machines, the observer's last.
    pub machines: Vec<Machine>,
    /// What really happened to the log.
    pub oracle: Oracle,
    /// What clients were told.
    pub history: History,
    /// Snapshots by name, as the store holds them.
    pub snapshots: BTreeMap<String, Bytes>,
    /// Requests on their way to a store.
    pub on_their_way: usize,
    /// Clock probes, snapshot writes and appends that reached a store.
    pub writes: u64,
    /// Links between nodes that were established.
    pub links: u64,
    /// Proposals that nodes which have ended since had handed on to leaders.
    pub handed_on: u64,
    /// Clients make no more calls.
    pub clients_stop: bool,
    /// What broke first.
    pub violation: Option<Violation>,
}

/// What all nodes of a run have in common.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterId,
    /// Entries per epoch.
    pub roll_entries: u64,
    /// See [`tidelog_metadata_node::NodeConfig::follow_interval`].
    pub follow_interval: Duration,
    /// See [`tidelog_metadata_node::NodeConfig::witness_interval`].
    pub witness_interval: Duration,
    /// Whether nodes reach each other; without, they know of each other by the log alone.
    pub peers: bool,
    /// The rule that all nodes break.
    pub mistake: Option<Mistake>,
}

/// Whether a machine reaches the stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Both ways.
    Up,
    /// Neither way.
    Down,
    /// There, and not back.
    RepliesLost,
}

/// A machine and the process on it.
#[derive(Debug)]
pub struct Machine {
    /// Handle of the node, while its process lives.
    pub node: Option<Metadata>,
    /// The process's instance; a restarted one has another.
    pub instance: AgentInstance,
    /// How much of the log its replica has shown.
    pub shown: LogIndex,
    /// The process stands still.
    pub frozen_until: Option<Instant>,
    /// The process is to die.
    pub dying: bool,
    /// Asks the process to stop.
    pub cancel: CancellationToken,
    /// Wakes the process when one of these changes.
    pub waker: Option<Waker>,
    /// Its connection to the stores.
    pub link: Link,
    /// Other machines do not reach it, nor it them.
    pub apart: bool,
    /// Work that others brought, which its process is to take up.
    pub visitors: Visitors,
    /// How far its wall clock is ahead of true time.
    pub skew_ms: i64,
}

/// Work that others brought to a process.
#[derive(Default)]
pub struct Visitors(pub Vec<BoxFuture<'static, ()>>);

impl std::fmt::Debug for Visitors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} visitors", self.0.len())
    }
}

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} at {:.3} s: {what}", at.as_secs_f64())]
pub struct Violation {
    /// Its id in the list of invariants, or the rule of the design that it stands for.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
    /// When, in virtual time.
    pub at: Duration,
}

impl World {
    /// The world of one seed.
    pub fn new(seed: u64, mistake: Option<Mistake>, verbose: bool) -> Self {
        let mut dice = Dice::new(seed);
        let profile = Profile::draw(&mut dice);
        let settings = Settings {
            cluster: ClusterId(dice.uuid()),
            roll_entries: dice.pick(&[4, 10, 25, 60]),
            follow_interval: Duration::from_millis(dice.pick(&[100, 250])),
            witness_interval: Duration::from_millis(dice.pick(&[200, 500])),
            peers: dice.chance(8_000),
            mistake,
        };
        let machines = (0..=NODES)
            .map(|_| Machine {
                node: None,
                instance: AgentInstance(uuid::Uuid::nil()),
                shown: LogIndex(0),
                frozen_until: None,
                dying: false,
                cancel: CancellationToken::new(),
                waker: None,
                link: Link::Up,
                apart: false,
                visitors: Visitors::default(),
                skew_ms: 0,
            })
            .collect();
        let inner = Inner {
            dice,
            trace: Trace::new(verbose),
            profile,
            settings,
            calm: true,
            outage: false,
            machines,
            oracle: Oracle::default(),
            history: History::default(),
            snapshots: BTreeMap::new(),
            on_their_way: 0,
            writes: 0,
            links: 0,
            handed_on: 0,
            clients_stop: false,
            violation: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)), violated: Arc::default(), started: Instant::now() }
    }

    /// Takes the lock.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// True wall-clock time, which the stores' clocks show.
    pub fn true_time(&self) -> TimestampMs {
        let elapsed = i64::try_from(self.elapsed().as_millis()).unwrap_or(i64::MAX);
        TimestampMs(EPOCH_MS).saturating_add_ms(elapsed)
    }

    /// Notes an event.
    pub fn note(&self, numbers: &[u64], words: impl FnOnce() -> String) {
        let at = self.elapsed();
        self.lock().trace.event(at, numbers, words);
    }

    /// Notes that an invariant is broken; the first one ends the run.
    pub fn violate(&self, invariant: &'static str, what: String) {
        self.violate_in(&mut self.lock(), invariant, what);
    }

    /// [`World::violate`] for whoever has the lock.
    pub fn violate_in(&self, inner: &mut Inner, invariant: &'static str, what: String) {
        let at = self.elapsed();
        inner.trace.event(at, &[u64::MAX], || format!("VIOLATION of {invariant}: {what}"));
        inner.violation.get_or_insert(Violation { invariant, what, at });
        self.violated.notify_one();
    }

    /// [`World::violate`] if a check has found something.
    pub fn check(&self, found: Result<(), (&'static str, String)>) {
        if let Err((invariant, what)) = found {
            self.violate(invariant, what);
        }
    }

    /// Returns once an invariant is broken.
    pub async fn violation(&self) -> Violation {
        loop {
            if let Some(violation) = self.lock().violation.clone() {
                return violation;
            }
            self.violated.notified().await;
        }
    }

    /// What a call of a node to a store meets.
    pub fn fate(&self, machine: usize) -> Fate {
        let mut inner = self.lock();
        let profile = if inner.calm || machine == OBSERVER { inner.profile.calm() } else { inner.profile };
        let link = if inner.outage { Link::Down } else { inner.machines[machine].link };
        Fate::draw(&mut inner.dice, &profile, link)
    }

    /// Where requests are duplicated, seals are more often: seals of candidates that lost, landing in places that
    /// were removed meanwhile, are the rarest thing that the protocol has a rule for.
    pub fn repeat_seal(&self, fate: &mut Fate) {
        let mut inner = self.lock();
        if !inner.calm && inner.profile.duplicate > 0 && inner.dice.chance(3_000) {
            let late_ms_max = inner.profile.late_ms_max;
            fate.second = Some(inner.dice.ms(200, late_ms_max));
        }
    }

    /// Has something befall the node that asks, at this very point of its program.
    pub async fn befall(&self, machine: usize, instance: AgentInstance, stop: Option<Stop>) {
        let Some(stop) = stop else { return };
        let calls_itself = self.lock().machines[machine].instance == instance;
        if calls_itself {
            match stop {
                Stop::Freeze(time) => self.freeze(machine, time),
                Stop::Crash => self.crash(machine),
            }
            // The process is looked at from outside before it goes on.
            tokio::task::yield_now().await;
        }
    }

    /// Stops a process for a while.
    pub fn freeze(&self, machine: usize, time: Duration) {
        self.note(&[1, machine as u64, time.as_millis() as u64], || {
            format!("node {machine} stands still for {} ms", time.as_millis())
        });
        let until = Instant::now() + time;
        let mut inner = self.lock();
        let frozen = &mut inner.machines[machine].frozen_until;
        *frozen = Some(frozen.map_or(until, |other| other.max(until)));
        inner.machines[machine].wake();
    }

    /// Kills a process.
    pub fn crash(&self, machine: usize) {
        self.note(&[2, machine as u64], || format!("node {machine} dies"));
        let mut inner = self.lock();
        inner.machines[machine].dying = true;
        inner.machines[machine].wake();
    }

    /// The node that runs on a machine.
    pub fn node(&self, machine: usize) -> Option<Metadata> {
        self.lock().machines[machine].node.clone()
    }
}

impl Machine {
    /// Has the process looked at again.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
