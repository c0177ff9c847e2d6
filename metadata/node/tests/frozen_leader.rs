//! A leader that stands still at any await, wakes up when another leads, and must harm nothing (INV-10, INV-12).
//!
//! The leader's future is stopped at its n-th suspension, for every n from the moment at which it is given a command until it has
//! answered. Its log suspends before and after each call, as a store on a network does, so that each await of the commit path, of a
//! linearizable read, of a roll and of a snapshot is one of these points.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tidelog_metadata_log::env::{Clock, Entropy, SystemClock};
use tidelog_metadata_log::memory::MemoryLog;
use tidelog_metadata_log::{Append, LogError, MetadataLog};
use tidelog_metadata_node::{
    Metadata, Node, NodeConfig, NodeError, ObjectSnapshots, ProposeError, Role, genesis,
};
use tidelog_metadata_state::{Command, Entry, EntryBody, Outcome};
use tidelog_types::{AgentInstance, LogEpoch, LogSeq, Place, ShardId, TopicName};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A log that suspends its callers before and after each call.
#[derive(Debug, Clone)]
struct Slow(MemoryLog);

#[async_trait]
impl MetadataLog for Slow {
    async fn append(&self, shard: ShardId, place: Place, bytes: Bytes) -> Append {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let append = self.0.append(shard, place, bytes).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        append
    }

    async fn read(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let read = self.0.read(shard, epoch, from, limit).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        read
    }

    async fn remove(&self, shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.0.remove(shard, epoch, seqs).await
    }

    fn entry_bytes_max(&self) -> usize {
        self.0.entry_bytes_max()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// How many suspensions are left until a process stands still; negative: it does not.
#[derive(Debug, Default)]
struct Freezer {
    left: AtomicI64,
    waker: Mutex<Option<Waker>>,
}

impl Freezer {
    fn freeze_after(&self, suspensions: i64) {
        self.left.store(suspensions, Ordering::SeqCst);
    }

    fn is_frozen(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn thaw(&self) {
        self.left.store(-1, Ordering::SeqCst);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }
}

struct Process {
    run: Pin<Box<dyn Future<Output = Result<(), NodeError>> + Send>>,
    freezer: Arc<Freezer>,
}

impl Future for Process {
    type Output = Result<(), NodeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.freezer.is_frozen() {
            *self.freezer.waker.lock() = Some(context.waker().clone());
            return Poll::Pending;
        }
        let polled = self.run.as_mut().poll(context);
        // This poll has ended at an await; the next one may not come for long.
        let left = self.freezer.left.load(Ordering::SeqCst);
        if left > 0 {
            self.freezer.left.store(left - 1, Ordering::SeqCst);
        }
        polled
    }
}

struct Cluster {
    objects: Arc<InMemory>,
    log: Slow,
    entropy: Entropy,
    cluster: tidelog_types::ClusterId,
}

impl Cluster {
    async fn new() -> Self {
        let (objects, log, entropy) = (Arc::new(InMemory::new()), MemoryLog::new(), Entropy::seeded(7));
        let cluster =
            genesis::initialise(&*objects, &log, &SystemClock, &entropy).await.expect("empty stores");
        Self { objects, log: Slow(log), entropy, cluster }
    }

    fn start(&self, roll_entries: u64) -> (Metadata, Arc<Freezer>) {
        let mut config = NodeConfig::new(self.cluster, AgentInstance(self.entropy.uuid()));
        config.snapshots_inline = true;
        config.roll_entries = roll_entries;
        let snapshots = Arc::new(ObjectSnapshots::new(Arc::clone(&self.objects) as _, ShardId::ZERO));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (metadata, node) =
            Node::new(config, Arc::new(self.log.clone()), snapshots, clock, self.entropy.clone());
        let freezer = Arc::new(Freezer::default());
        freezer.thaw();
        let run = Box::pin(node.run(CancellationToken::new()));
        let process = Process { run, freezer: Arc::clone(&freezer) };
        // It ends with the test's runtime.
        drop(tokio::spawn(process));
        (metadata, freezer)
    }

    /// Each entry of an epoch is its leader's: here nobody hands anything on, so every command is one of the leader's own.
    async fn check_log(&self, suspension: i64) {
        for epoch in (1..).map(LogEpoch) {
            let entries = self.log.0.read(ShardId::ZERO, epoch, LogSeq::ZERO, 1_000).await.expect("memory");
            let mut entries = entries.iter().map(|bytes| Entry::decode(bytes).expect("an entry").body);
            let Some(EntryBody::Begin(begin)) = entries.next() else { return };
            for body in entries {
                let EntryBody::Batch(proposals) = body else { continue };
                for proposal in proposals {
                    let (agent, leader) = (proposal.agent, begin.leader);
                    assert_eq!(
                        agent, leader,
                        "INV-10, frozen at {suspension}: committed in epoch {}",
                        epoch.0
                    );
                }
            }
        }
    }
}

fn deadline(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

async fn create(metadata: &Metadata, name: &str, patience: u64) -> Result<Arc<Outcome>, ProposeError> {
    let name = TopicName::new(name).expect("a name");
    let command = Command::CreateTopic { name, partitions: 1, config: Vec::new() };
    metadata.propose(command, deadline(patience)).await
}

fn knows(metadata: &Metadata, name: &str) -> bool {
    let name = TopicName::new(name).expect("a name");
    metadata.read(|state| state.topic_by_name(&name).is_some())
}

/// One run; returns whether the leader was frozen at all before it was done.
async fn freeze_at(suspension: i64, roll_entries: u64) -> bool {
    let cluster = Cluster::new().await;
    let (first, freezer) = cluster.start(roll_entries);
    let (second, _) = cluster.start(5_000);
    while create(&first, "before", 10).await.is_err() {}
    assert_eq!(*first.role().borrow(), Role::Leader);

    freezer.freeze_after(suspension);
    // A command, and a read that was asked before anybody else did anything.
    let (writer, reader) = (first.clone(), first.clone());
    let old = tokio::spawn(async move { create(&writer, "old", 120).await });
    let early = tokio::spawn(async move {
        // While the append is in flight: the read waits for it, then asks the log.
        tokio::time::sleep(Duration::from_millis(1)).await;
        reader.confirm(deadline(120)).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let was_frozen = freezer.is_frozen();
    if !was_frozen {
        // It was done before; it shall not stand still later on.
        freezer.thaw();
    } else {
        // Longer than any time-out; the other one takes over and works.
        while create(&second, "new", 10).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(*second.role().borrow(), Role::Leader, "frozen at {suspension}");
        // Asked after "new" was acknowledged, while the old leader still stands: it must not answer from before.
        let reader = first.clone();
        let late = tokio::spawn(async move {
            let confirmed = reader.confirm(deadline(120)).await;
            (confirmed, knows(&reader, "new"))
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
        freezer.thaw();
        let (confirmed, sees_new) = late.await.expect("no panic");
        assert!(confirmed.is_err() || sees_new, "INV-12, frozen at {suspension}: {confirmed:?}");
    }
    let told = old.await.expect("no panic");
    early.await.expect("no panic").ok();
    // Whatever it was told is what everybody sees, and stays so.
    tokio::time::sleep(Duration::from_secs(5)).await;
    second.confirm(deadline(60)).await.expect("the store answers");
    match &told {
        Ok(outcome) => {
            assert!(matches!(**outcome, Outcome::TopicCreated(_)), "{outcome:?}");
            assert!(knows(&second, "old"), "INV-2, frozen at {suspension}: acknowledged and not there");
        }
        Err(ProposeError::Unavailable(_)) => {
            assert!(!knows(&second, "old"), "INV-5, frozen at {suspension}: refused and there");
        }
        Err(ProposeError::Unknown(_)) => {}
        Err(error) => panic!("{error}"),
    }
    first.confirm(deadline(60)).await.expect("the store answers");
    let [ours, theirs] = [&first, &second].map(|node| node.read(|state| (state.index(), state.digest())));
    assert_eq!(ours, theirs, "frozen at {suspension}: both know the same log");
    cluster.check_log(suspension).await;
    was_frozen
}

async fn every_suspension(roll_entries: u64) {
    let mut suspension = 1;
    while freeze_at(suspension, roll_entries).await {
        suspension += 1;
    }
    println!("frozen at each of {} suspensions", suspension - 1);
    // A commit has its request, two at the append, and the confirmation's request and two.
    assert!(
        suspension > 5,
        "the leader was done after {suspension} suspensions: it was not frozen where it matters"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_frozen_anywhere_in_a_commit_harms_nothing() {
    every_suspension(5_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_frozen_anywhere_in_a_roll_harms_nothing() {
    every_suspension(1).await;
}
