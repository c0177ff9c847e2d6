//! Nodes that reach each other over real connections, on stores in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use object_store::memory::InMemory;
use tidelog_agent::cluster::ClusterLink;
use tidelog_agent::groups::link::{BeatError, LeaderLink, LinkError as MembersError, MemberBeat};
use tidelog_metadata_log::env::{Clock, Entropy, SystemClock};
use tidelog_metadata_log::memory::MemoryLog;
use tidelog_metadata_node::{
    AgentCard, LinkError, Metadata, Node, NodeConfig, NodeError, ObjectSnapshots, Peers, ProposeError, Role,
    genesis,
};
use tidelog_metadata_state::group::command::MemberRun;
use tidelog_metadata_state::{Command, Leader, Outcome};
use tidelog_peer::{GrpcLeader, GrpcPeers, Leading, PeerServer};
use tidelog_types::{
    AgentInstance, ClusterId, GroupName, Incarnation, LogEpoch, LogSeq, MemberId, Place, ShardId, TopicName,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

fn card(instance: AgentInstance) -> AgentCard {
    AgentCard { instance, clients_at: "here:7070".into(), version: "1.2.3".into() }
}

/// A leader that knows the members of groups whose name has an even length.
#[derive(Debug)]
struct Even;

impl LeaderLink for Even {
    fn beat(
        &self,
        beats: Vec<MemberBeat>,
        _: Instant,
    ) -> BoxFuture<'_, Result<Vec<Result<(), BeatError>>, MembersError>> {
        let heard = |beat: &MemberBeat| match beat.group.as_str().len() % 2 {
            0 => Ok(()),
            _ => Err(BeatError::UnknownMember),
        };
        Box::pin(std::future::ready(Ok(beats.iter().map(heard).collect())))
    }
}

struct Stores {
    objects: Arc<InMemory>,
    log: MemoryLog,
    entropy: Entropy,
    cluster: ClusterId,
}

struct Running {
    metadata: Metadata,
    address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), NodeError>>,
    server: JoinHandle<()>,
}

impl Stores {
    async fn new() -> Self {
        let (objects, log, entropy) = (Arc::new(InMemory::new()), MemoryLog::new(), Entropy::seeded(7));
        let cluster =
            genesis::initialise(&*objects, &log, &SystemClock, &entropy).await.expect("empty stores");
        Self { objects, log, entropy, cluster }
    }

    async fn start(&self) -> Running {
        let server = PeerServer::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = server.address();
        let mut config = NodeConfig::new(self.cluster, AgentInstance(self.entropy.uuid()));
        config.address = address.to_string();
        let card = card(config.instance);
        let peers = GrpcPeers::new(self.cluster, card.clone());
        let snapshots = Arc::new(ObjectSnapshots::new(Arc::clone(&self.objects) as _, ShardId::ZERO));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (metadata, node) =
            Node::new(config, Arc::new(self.log.clone()), snapshots, clock, self.entropy.clone());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(node.with_peers(Arc::new(peers)).run(cancel.clone()));
        let (cluster, never) = (self.cluster, CancellationToken::new());
        let leading = Leading { cluster, card, metadata: metadata.clone(), members: Arc::new(Even) };
        let server = tokio::spawn(async move { server.run(leading, never).await.expect("it serves") });
        Running { metadata, address, cancel, task, server }
    }
}

impl Running {
    async fn create(&self, name: &str) -> Result<Outcome, ProposeError> {
        let name = TopicName::new(name).expect("a name");
        let command = Command::CreateTopic { name, partitions: 1, config: Vec::new() };
        let outcome = self.metadata.propose(command, Instant::now() + Duration::from_secs(30)).await?;
        Ok((*outcome).clone())
    }

    async fn create_in_the_end(&self, name: &str) {
        while let Err(error) = self.create(name).await {
            assert!(matches!(error, ProposeError::Unavailable(_)), "{error}");
        }
    }

    fn knows(&self, name: &str) -> bool {
        let name = TopicName::new(name).expect("a name");
        self.metadata.read(|state| state.topic_by_name(&name).is_some())
    }

    fn count(
        &self,
        of: impl Fn(&tidelog_metadata_node::MetadataStats) -> &std::sync::atomic::AtomicU64,
    ) -> u64 {
        of(self.metadata.stats()).load(Ordering::Relaxed)
    }

    async fn until(&self, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !done(self) {
            assert!(Instant::now() < end, "it does not come to that");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_follower_works_through_its_leader_and_reads_no_log() {
    let stores = Stores::new().await;
    let first = stores.start().await;
    first.create_in_the_end("a").await;
    let second = stores.start().await;
    second.until(|second| second.knows("a") && second.count(|stats| &stats.links) == 1).await;
    first.until(|first| first.metadata.followers() == 1).await;
    let reads = second.count(|stats| &stats.reads);
    for n in 0..50 {
        let outcome = second.create(&format!("b{n}")).await.expect("the leader takes it");
        assert!(matches!(outcome, Outcome::TopicCreated(_)), "{outcome:?}");
        assert!(second.knows(&format!("b{n}")), "its own replica shows it");
        first.create(&format!("c{n}")).await.expect("it leads");
        second.metadata.confirm(Instant::now() + Duration::from_secs(30)).await.expect("the leader answers");
        assert!(second.knows(&format!("c{n}")), "a linearizable read");
    }
    assert_eq!(second.count(|stats| &stats.reads), reads, "all came through the link");
    assert_eq!(second.count(|stats| &stats.appends), 0);
    assert_eq!(second.count(|stats| &stats.handed_on), 50);
    assert_eq!(first.metadata.read(Clone::clone), second.metadata.read(Clone::clone));
}

#[tokio::test]
async fn a_leader_that_stops_hands_over() {
    let stores = Stores::new().await;
    let (first, second) = (stores.start().await, stores.start().await);
    first.create_in_the_end("a").await;
    second.until(|second| second.count(|stats| &stats.links) == 1).await;
    first.cancel.cancel();
    first.task.await.expect("no panic").expect("a clean stop");
    assert!(first.metadata.read(|state| state.open_seal().is_some()), "it seals its epoch");
    second.create("b").await.expect("nobody else leads, and nothing has to be waited for");
    assert_eq!(*second.metadata.role().borrow(), Role::Leader);
}

#[tokio::test]
async fn what_was_handed_to_a_leader_that_died_takes_effect_once() {
    let stores = Stores::new().await;
    let (first, second) = (stores.start().await, stores.start().await);
    first.create_in_the_end("a").await;
    second.until(|second| second.count(|stats| &stats.links) == 1).await;
    let creating = async {
        for n in 0..200 {
            // Refused would mean that a repeat was taken for another command.
            let outcome = second.create(&format!("b{n}")).await;
            match outcome {
                Ok(outcome) => assert!(matches!(outcome, Outcome::TopicCreated(_)), "{outcome:?}"),
                Err(error) => assert!(matches!(error, ProposeError::Unavailable(_)), "{error}"),
            }
        }
    };
    let dying = async {
        second.until(|second| second.knows("b20")).await;
        first.task.abort();
        first.server.abort();
    };
    tokio::join!(creating, dying);
    assert!(second.knows("b199"));
    assert_eq!(*second.metadata.role().borrow(), Role::Leader);
}

#[tokio::test]
async fn links_that_make_no_sense_are_refused() {
    let stores = Stores::new().await;
    let running = stores.start().await;
    running.create_in_the_end("a").await;
    let next = running.metadata.read(tidelog_metadata_state::State::next);
    let leader = Leader { agent: running.metadata.instance(), address: running.address.to_string() };
    let me = AgentInstance(Uuid::from_u128(1));
    let ours = GrpcPeers::new(stores.cluster, card(me));
    ours.connect(&leader, next).await.expect("it leads");
    let theirs = GrpcPeers::new(ClusterId(Uuid::from_u128(2)), card(me)).connect(&leader, next).await;
    let said = theirs.expect_err("another cluster").to_string();
    assert!(said.contains("of cluster"), "{said}");
    let other = Leader { agent: me, ..leader.clone() };
    assert_eq!(ours.connect(&other, next).await.expect_err("another run"), LinkError::NotLeader);
    let past = Place::new(LogEpoch(0), LogSeq(1));
    assert_eq!(ours.connect(&leader, past).await.expect_err("long gone"), LinkError::TooFarBehind);
    let nobody = Leader { address: "127.0.0.1:1".into(), ..leader.clone() };
    assert!(matches!(ours.connect(&nobody, next).await, Err(LinkError::Refused(_))));
    let nowhere = Leader { address: "no address".into(), ..leader };
    assert!(matches!(ours.connect(&nowhere, next).await, Err(LinkError::Failed(_))));
}

#[tokio::test]
async fn followers_ask_the_leader_for_what_is_no_entry() {
    let stores = Stores::new().await;
    let (first, second) = (stores.start().await, stores.start().await);
    first.create_in_the_end("a").await;
    second.until(|second| second.knows("a") && second.count(|stats| &stats.links) == 1).await;
    let soon = || Instant::now() + Duration::from_secs(20);
    let beat = |group: &str| MemberBeat {
        group: GroupName::new(group).expect("a name"),
        who: MemberRun {
            member: MemberId::new("m").expect("a name"),
            incarnation: Incarnation(Uuid::from_u128(5)),
        },
    };
    let leader = GrpcLeader::new(stores.cluster, second.metadata.clone());
    let heard = leader.beat(vec![beat("even"), beat("odd")], soon()).await.expect("the leader answers");
    assert_eq!(heard, [Ok(()), Err(BeatError::UnknownMember)]);
    // How far followers are comes with the next sign of life.
    first.until(|first| first.metadata.followers_seen().iter().all(|seen| seen.applied.0 > 0)).await;
    let agents = leader.agents(soon()).await.expect("the leader answers");
    let applied = first.metadata.read(tidelog_metadata_state::State::index);
    let seen: Vec<_> = agents.iter().map(|agent| (agent.card.clone(), agent.applied)).collect();
    let instances = [&first, &second].map(|running| running.metadata.instance());
    assert_eq!(seen, instances.map(|instance| (card(instance), applied)));
    // The leader itself has nobody to ask.
    let itself = GrpcLeader::new(stores.cluster, first.metadata.clone());
    assert_eq!(itself.beat(vec![beat("even")], soon()).await, Err(MembersError::NotLeader));
    let other = GrpcLeader::new(ClusterId(Uuid::from_u128(2)), second.metadata.clone());
    assert!(other.agents(soon()).await.expect_err("another cluster").contains("of cluster"));
}
