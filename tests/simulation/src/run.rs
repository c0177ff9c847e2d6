//! One run: a cluster begins, is disturbed, heals, and is looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidelog_metadata_log::env::Entropy;
use tidelog_metadata_node::{Mistake, genesis};
use tidelog_metadata_state::State;
use tidelog_types::AgentInstance;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::clock::SimClock;
use crate::log::SimLog;
use crate::workload::Client;
use crate::world::{NODES, OBSERVER, Violation, World};
use crate::{chaos, checks, process};

/// What a run is made of besides its seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A rule that all nodes break.
    pub mistake: Option<Mistake>,
    /// Print every event.
    pub verbose: bool,
}

/// What a run without violation saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Hash of all events (INV-25).
    pub trace: u64,
    /// How many events there were.
    pub events: u64,
    /// Epochs that began.
    pub epochs: u64,
    /// Entries in the log.
    pub entries: u64,
    /// Places that truncation left.
    pub places: usize,
    /// Places that it removed, those of them that were filled again, and those filled by a late seal.
    pub removed: u64,
    /// See `removed`.
    pub refilled: u64,
    /// See `removed`.
    pub late_seals: u64,
    /// Commands that were acknowledged, refused for good, or of unknown outcome.
    pub acknowledged: u64,
    /// See `acknowledged`.
    pub refused: u64,
    /// See `acknowledged`.
    pub unknown: u64,
    /// Linearizable reads.
    pub reads: u64,
    /// Links between nodes.
    pub links: u64,
    /// Proposals that followers handed on.
    pub handed_on: u64,
    /// Virtual time that passed.
    pub virtual_time: Duration,
}

/// What a run with a violation saw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}: {violation}\n  replay: {}", replay(*seed, *mistake))]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The rule that nodes broke on purpose.
    pub mistake: Option<Mistake>,
    /// What broke.
    pub violation: Violation,
}

fn replay(seed: u64, mistake: Option<Mistake>) -> String {
    let mistake = mistake.map_or_else(String::new, |mistake| format!("TIDELOG_SIM_MISTAKE={mistake:?} "));
    format!(
        "{mistake}TIDELOG_SIM_FIRST_SEED={seed} TIDELOG_SIM_SEEDS=1 TIDELOG_SIM_TRACE=1 \
         cargo test -p tidelog-simulation --test seeds -- --nocapture"
    )
}

const CLIENTS: usize = 5;
/// Each client has to get this many answers after the faults have ended …
const PROGRESS: u64 = 5;
/// … within this time.
const PROGRESS_TIME: Duration = Duration::from_secs(60);
/// Without clients, everything comes to rest within this time.
const REST_TIME: Duration = Duration::from_secs(60);
/// How long a cluster at rest is watched for writes.
const IDLE_TIME: Duration = Duration::from_secs(20);

/// Runs one seed.
pub fn simulate(seed: u64, options: Options) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    runtime.block_on(async {
        let world = World::new(seed, options.mistake, options.verbose);
        tokio::select! {
            biased;
            violation = world.violation() => Err(Failure { seed, mistake: options.mistake, violation }),
            report = script(&world) => Ok(report),
        }
    })
}

async fn script(world: &World) -> Report {
    begin(world).await;
    for machine in 0..NODES {
        process::start(world, machine);
    }
    let clients = start_clients(world);
    let disturbed = world.lock().dice.ms(10_000, 60_000);
    chaos::disturb(world, Instant::now() + disturbed).await;
    chaos::heal(world);
    progress(world, &clients).await;
    world.lock().clients_stop = true;
    for (client, _) in clients {
        // It ends by itself, or the run ends with a violation.
        let _ = client.await;
    }
    rest(world).await;
    boot_anew(world).await;
    idle(world).await;
    checks::sweep(world);
    let checked = {
        let inner = world.lock();
        inner.history.check(&inner.oracle)
    };
    world.check(checked);
    // Lets a violation that was found just now end the run.
    tokio::task::yield_now().await;
    report(world)
}

/// The genesis, over stores without faults.
async fn begin(world: &World) {
    let log = SimLog::new(world.clone(), OBSERVER, AgentInstance(uuid::Uuid::nil()));
    let entropy = Entropy::seeded(world.lock().dice.word());
    let objects = object_store::memory::InMemory::new();
    match genesis::initialise(&objects, &log, &SimClock::new(world.clone(), OBSERVER), &entropy).await {
        Ok(cluster) => world.lock().settings.cluster = cluster,
        Err(error) => world.violate("genesis", error.to_string()),
    }
}

type Clients = Vec<(JoinHandle<()>, Arc<AtomicU64>)>;

fn start_clients(world: &World) -> Clients {
    (0..CLIENTS)
        .map(|number| {
            let progress = Arc::new(AtomicU64::new(0));
            (tokio::spawn(Client::new(world.clone(), number).run(Arc::clone(&progress))), progress)
        })
        .collect()
}

/// After the faults have ended, every client gets answers.
async fn progress(world: &World, clients: &Clients) {
    let since: Vec<u64> = clients.iter().map(|(_, progress)| progress.load(Ordering::Relaxed)).collect();
    let end = Instant::now() + PROGRESS_TIME;
    loop {
        sleep(Duration::from_millis(100)).await;
        let made = clients.iter().zip(&since).map(|((_, now), since)| now.load(Ordering::Relaxed) - since);
        let made: Vec<u64> = made.collect();
        if made.iter().all(|made| *made >= PROGRESS) {
            return;
        }
        if Instant::now() > end {
            world.violate(
                "INV-19",
                format!("after heal the clients were answered {made:?} times in {PROGRESS_TIME:?}"),
            );
            return;
        }
    }
}

/// Waits until no request is on its way any more and all nodes know the whole log, which has stopped growing.
async fn rest(world: &World) {
    let end = Instant::now() + REST_TIME;
    let mut still_since = Instant::now();
    let mut writes = world.lock().writes;
    loop {
        sleep(Duration::from_millis(250)).await;
        let (now, on_their_way) = {
            let inner = world.lock();
            (inner.writes, inner.on_their_way)
        };
        let current = (0..NODES).all(|machine| checks::is_current(world, machine));
        if now != writes || on_their_way > 0 || !current {
            writes = now;
            still_since = Instant::now();
        }
        if still_since.elapsed() > Duration::from_secs(3) {
            return;
        }
        if Instant::now() > end {
            let current: Vec<bool> = (0..NODES).map(|machine| checks::is_current(world, machine)).collect();
            world.violate("INV-19", format!("no rest after {REST_TIME:?}: {on_their_way} requests on their way, nodes current: {current:?}"));
            return;
        }
    }
}

/// A fresh node comes to the same state as those that were there all the time.
async fn boot_anew(world: &World) {
    while world.node(OBSERVER).is_some() {
        sleep(Duration::from_millis(100)).await;
    }
    process::start(world, OBSERVER);
    let Some(node) = world.node(OBSERVER) else { return };
    let confirmed = node.confirm(Instant::now() + Duration::from_secs(20)).await;
    let right = world.lock().oracle.state().clone();
    for machine in 0..=NODES {
        let same = world.node(machine).is_some_and(|node| node.read(|state| *state == right));
        if !same {
            world.violate(
                "INV-3",
                format!("node {machine} did not come to the state of the log ({confirmed:?})"),
            );
        }
    }
    world.crash(OBSERVER);
}

/// An idle cluster writes nothing.
async fn idle(world: &World) {
    let before = world.lock().writes;
    sleep(IDLE_TIME).await;
    let after = world.lock().writes;
    if before != after {
        world.violate(
            "DESIGN 2.3",
            format!("an idle cluster wrote {} times in {IDLE_TIME:?}", after - before),
        );
    }
}

fn report(world: &World) -> Report {
    let virtual_time = world.elapsed();
    let inner = world.lock();
    let state: &State = inner.oracle.state();
    let still_handed_on = inner
        .machines
        .iter()
        .filter_map(|machine| machine.node.as_ref())
        .map(|node| node.stats().handed_on.load(Ordering::Relaxed))
        .sum::<u64>();
    let (removed, refilled, late_seals) = inner.oracle.rarities();
    Report {
        removed,
        refilled,
        late_seals,
        trace: inner.trace.hash(),
        events: inner.trace.events(),
        epochs: state.next().epoch.0,
        entries: state.index().0,
        places: inner.oracle.occupied_places(),
        acknowledged: inner.history.acknowledged,
        refused: inner.history.refused,
        unknown: inner.history.unknown,
        reads: inner.history.reads,
        links: inner.links,
        handed_on: inner.handed_on + still_handed_on,
        virtual_time,
    }
}
