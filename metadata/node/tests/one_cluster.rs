//! A node, and two nodes, on memory stores under virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::memory::InMemory;
use tidelog_metadata_log::MetadataLog;
use tidelog_metadata_log::env::{Clock, Entropy, SystemClock};
use tidelog_metadata_log::memory::MemoryLog;
use tidelog_metadata_node::{
    Metadata, Node, NodeConfig, NodeError, ObjectSnapshots, ProposeError, Role, SnapshotStore,
    SnapshotStoreError, genesis,
};
use tidelog_metadata_state::{Command, Outcome, Refusal};
use tidelog_types::{AgentInstance, ClusterId, LogEpoch, LogSeq, ShardId, TimestampMs, TopicName};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

struct Stores {
    objects: Arc<InMemory>,
    log: MemoryLog,
    entropy: Entropy,
    cluster: ClusterId,
}

struct Running {
    metadata: Metadata,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), NodeError>>,
}

impl Stores {
    async fn new() -> Self {
        let (objects, log, entropy) = (Arc::new(InMemory::new()), MemoryLog::new(), Entropy::seeded(7));
        let cluster =
            genesis::initialise(&*objects, &log, &SystemClock, &entropy).await.expect("empty stores");
        Self { objects, log, entropy, cluster }
    }

    fn start(&self, adjust: impl FnOnce(&mut NodeConfig)) -> Running {
        let mut config = NodeConfig::new(self.cluster, AgentInstance(self.entropy.uuid()));
        config.snapshots_inline = true;
        adjust(&mut config);
        let snapshots = Arc::new(ObjectSnapshots::new(Arc::clone(&self.objects) as _, ShardId::ZERO));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (metadata, node) =
            Node::new(config, Arc::new(self.log.clone()), snapshots, clock, self.entropy.clone());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(node.run(cancel.clone()));
        Running { metadata, cancel, task }
    }
}

impl Running {
    async fn create(&self, name: &str) -> Result<Outcome, ProposeError> {
        let name = TopicName::new(name).expect("a name");
        let command = Command::CreateTopic { name, partitions: 1, config: Vec::new() };
        let outcome = self.metadata.propose(command, Instant::now() + Duration::from_secs(60)).await?;
        Ok((*outcome).clone())
    }

    async fn confirm(&self) {
        self.metadata.confirm(Instant::now() + Duration::from_secs(60)).await.expect("the store answers");
    }

    fn knows(&self, name: &str) -> bool {
        let name = TopicName::new(name).expect("a name");
        self.metadata.read(|state| state.topic_by_name(&name).is_some())
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.expect("no panic").expect("a clean stop");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let stores = Stores::new().await;
    let node = stores.start(|config| config.exclusive = true);
    assert!(matches!(node.create("a").await, Ok(Outcome::TopicCreated(_))));
    assert!(matches!(node.create("a").await, Ok(Outcome::Refused(Refusal::TopicExists { .. }))));
    assert_eq!(*node.metadata.role().borrow(), Role::Leader);
    node.task.abort();

    let node = stores.start(|config| config.exclusive = true);
    node.confirm().await;
    assert!(node.knows("a"));
    assert!(matches!(node.create("b").await, Ok(Outcome::TopicCreated(_))));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_writes_nothing() {
    let stores = Stores::new().await;
    let node = stores.start(|_| ());
    node.create("a").await.expect("nobody else leads");
    let (places, objects) = (stores.log.occupied_places(), stores.objects.clone());
    let count = |store: Arc<InMemory>| async move {
        use futures::TryStreamExt;
        object_store::ObjectStore::list(&*store, None).try_collect::<Vec<_>>().await.expect("memory").len()
    };
    let before = count(Arc::clone(&objects)).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(stores.log.occupied_places(), places);
    assert_eq!(count(objects).await, before);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn group_commit_puts_what_waits_into_one_entry() {
    let stores = Stores::new().await;
    let node = stores.start(|config| config.exclusive = true);
    node.create("first").await.expect("leads");
    let before = stores.log.occupied_places();
    let names: Vec<String> = (0..100).map(|n| format!("t{n}")).collect();
    let created = futures::future::join_all(names.iter().map(|name| node.create(name))).await;
    assert!(created.iter().all(|outcome| matches!(outcome, Ok(Outcome::TopicCreated(_)))));
    let entries = stores.log.occupied_places() - before;
    assert!(entries <= 2, "100 commands took {entries} entries");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rolls_leave_a_short_log_that_boots() {
    let stores = Stores::new().await;
    let roll = |config: &mut NodeConfig| {
        config.exclusive = true;
        config.roll_entries = 10;
    };
    let node = stores.start(roll);
    for n in 0..200 {
        node.create(&format!("t{n}")).await.expect("leads");
    }
    let epoch = node.metadata.read(|state| state.next().epoch);
    assert!(epoch > LogEpoch(10), "rolled to {epoch:?}");
    // Per closed epoch its first place, its seal and the place below stay.
    let most = usize::try_from(epoch.0).expect("small") * 4 + 40;
    assert!(stores.log.occupied_places() < most, "{} places", stores.log.occupied_places());
    let state = node.metadata.read(Clone::clone);
    assert!(state.older_snapshots().len() <= 3, "snapshots are forgotten: {:?}", state.older_snapshots());
    node.stop().await;

    let node = stores.start(roll);
    node.confirm().await;
    assert!((0..200).all(|n| node.knows(&format!("t{n}"))));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_node_takes_over_only_from_a_silent_one() {
    let stores = Stores::new().await;
    let (first, second) = (stores.start(|_| ()), stores.start(|_| ()));
    first.create("a").await.expect("nobody leads yet");
    second.confirm().await;
    assert!(second.knows("a"), "a follower reads what was acknowledged before");
    first.task.abort();
    assert!(matches!(second.create("b").await, Ok(Outcome::TopicCreated(_))));
    assert_eq!(*second.metadata.role().borrow(), Role::Leader);
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_started_by_mistake_is_refused_while_the_first_works_and_harms_nothing() {
    let stores = Stores::new().await;
    let (first, second) = (stores.start(|_| ()), stores.start(|_| ()));
    let busy = async {
        for n in 0..400 {
            first.create(&format!("first{n}")).await.expect("the leader works");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let intruder = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        second.create("intruder").await
    };
    let ((), refused) = tokio::join!(busy, intruder);
    assert!(matches!(refused, Err(ProposeError::Unavailable(_))), "{refused:?}");
    assert!(!first.knows("intruder"));
    first.confirm().await;
    second.confirm().await;
    assert_eq!(first.metadata.read(Clone::clone), second.metadata.read(Clone::clone));
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_refused_often_takes_over_as_fast_as_any() {
    let stores = Stores::new().await;
    let (first, second) = (stores.start(|_| ()), stores.start(|_| ()));
    first.create("first").await.expect("nobody leads yet");
    let busy = async {
        for n in 0..6_000 {
            first.create(&format!("first{n}")).await.expect("the leader works");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let refused = async {
        for _ in 0..100 {
            assert!(matches!(second.create("second").await, Err(ProposeError::Unavailable(_))));
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        biased;
        () = busy => panic!("it was to be busy for longer"),
        () = refused => {}
    }
    first.task.abort();
    let gone = Instant::now();
    while second.create("second").await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(gone.elapsed() < Duration::from_secs(2), "{:?}", gone.elapsed());
    second.stop().await;
}

/// A snapshot store that does not answer a few times.
#[derive(Debug)]
struct AwaySnapshots(ObjectSnapshots, AtomicU32);

#[async_trait]
impl SnapshotStore for AwaySnapshots {
    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), SnapshotStoreError> {
        self.0.write(name, bytes).await
    }

    async fn read(&self, name: &str) -> Result<Bytes, SnapshotStoreError> {
        self.0.read(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), SnapshotStoreError> {
        self.0.delete(name).await
    }

    async fn store_time(&self, probe: Uuid) -> Result<TimestampMs, SnapshotStoreError> {
        if self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(SnapshotStoreError::Store("away".into()));
        }
        self.0.store_time(probe).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_alone_leads_in_the_end_without_being_asked() {
    let Stores { objects, log, entropy, cluster } = Stores::new().await;
    let mut config = NodeConfig::new(cluster, AgentInstance(entropy.uuid()));
    config.exclusive = true;
    let snapshots = Arc::new(AwaySnapshots(ObjectSnapshots::new(objects, ShardId::ZERO), AtomicU32::new(3)));
    let (metadata, node) = Node::new(config, Arc::new(log), snapshots, Arc::new(SystemClock), entropy);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(node.run(cancel.clone()));
    let mut role = metadata.role();
    let leads = tokio::time::timeout(Duration::from_secs(30), role.wait_for(|role| *role == Role::Leader));
    assert!(leads.await.is_ok(), "an agent waits for this before it takes requests");
    cancel.cancel();
    task.await.expect("no panic").expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn stores_of_two_clusters_do_not_mix() {
    let (one, other) = (Stores::new().await, Stores::new().await);
    let mixed = genesis::recognise(&*one.objects, &other.log).await;
    // Both were seeded alike, so their ids are equal unless the seed is advanced.
    assert!(mixed.is_ok());
    let third = MemoryLog::new();
    let objects = InMemory::new();
    genesis::initialise(&objects, &third, &SystemClock, &Entropy::seeded(8)).await.expect("empty stores");
    assert!(matches!(
        genesis::recognise(&*one.objects, &third).await,
        Err(genesis::GenesisError::Mismatch { .. })
    ));
    assert!(matches!(
        genesis::recognise(&InMemory::new(), &third).await,
        Err(genesis::GenesisError::StorageMissing { .. })
    ));
    let node = one.start(|config| config.cluster = ClusterId(Entropy::seeded(9).uuid()));
    assert!(matches!(node.task.await.expect("no panic"), Err(NodeError::OtherCluster { .. })));
    let first = one.log.read(ShardId::ZERO, LogEpoch::ZERO, LogSeq::ZERO, 10).await.expect("memory");
    assert_eq!(first.len(), 1, "nothing was written");
}

#[tokio::test(start_paused = true)]
async fn a_log_without_genesis_is_refused() {
    let stores = Stores::new().await;
    let empty = Stores { log: MemoryLog::new(), ..stores };
    let node = empty.start(|_| ());
    assert_eq!(node.task.await.expect("no panic"), Err(NodeError::NotInitialised));
    assert_eq!(empty.log.occupied_places(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_fit_an_entry_is_refused_alone() {
    let stores = Stores::new().await;
    let node = stores.start(|config| config.exclusive = true);
    let name = TopicName::new("huge").expect("a name");
    let config = (0..200_000).map(|n| ("max.message.bytes".to_owned(), n.to_string())).collect();
    let huge = Command::CreateTopic { name, partitions: 1, config };
    let deadline = Instant::now() + Duration::from_secs(10);
    assert!(matches!(node.metadata.propose(huge, deadline).await, Err(ProposeError::TooLarge { .. })));
    assert!(matches!(node.create("small").await, Ok(Outcome::TopicCreated(_))));
    node.stop().await;
}
