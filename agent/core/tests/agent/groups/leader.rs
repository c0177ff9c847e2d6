//! Signs of life on their way to the leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidelog_agent::groups::error::GroupError;
use tidelog_agent::groups::link::{BeatError, LeaderLink, LinkError, MemberBeat};
use tidelog_agent::groups::{Groups, Owned};
use tidelog_agent::{Settings, TopicRef};
use tidelog_types::Generation;
use tokio::time::{Instant, sleep};

use super::{group, numbers, options, run, seconds, told};
use crate::harness::{Stores, name};

type Answers = Result<Vec<Result<(), BeatError>>, LinkError>;

/// A link that can be broken, and counts.
#[derive(Debug)]
struct TestLink {
    to: Arc<dyn LeaderLink>,
    calls: AtomicUsize,
    beats: AtomicUsize,
    broken: Mutex<Option<LinkError>>,
}

impl TestLink {
    fn new(to: &Groups) -> Arc<Self> {
        let (calls, beats) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { to: to.leader_link(), calls, beats, broken: Mutex::new(None) })
    }
}

impl LeaderLink for TestLink {
    fn beat(&self, beats: Vec<MemberBeat>, deadline: Instant) -> BoxFuture<'_, Answers> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.beats.fetch_add(beats.len(), Ordering::Relaxed);
        let broken = self.broken.lock().clone();
        Box::pin(async move {
            match broken {
                Some(error) => Err(error),
                None => self.to.beat(beats, deadline).await,
            }
        })
    }
}

fn nothing() -> Owned {
    Owned { partitions: Vec::new(), known: Generation::ZERO }
}

#[tokio::test(start_paused = true)]
async fn one_call_carries_the_signs_of_life_of_many() {
    let stores = Stores::new().await;
    let leader = stores.start_shared(Settings::default());
    leader.agent.admin().create_topic(&name("t"), 1, Vec::new()).await.expect("created");
    for n in 0..50 {
        leader
            .agent
            .groups()
            .join(&group(), &run(&format!("m{n}"), n), options(&["t"]))
            .await
            .expect("there is room");
    }
    let other = stores.start_shared(Settings::default());
    let link = TestLink::new(leader.agent.groups());
    other.agent.groups().reach_leader_by(link.clone());
    let beats = (0..50).map(|n| {
        let groups = other.agent.groups().clone();
        async move { groups.heartbeat(&group(), &run(&format!("m{n}"), n), &nothing()).await }
    });
    let answers = futures::future::join_all(beats).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(link.beats.load(Ordering::Relaxed), 50);
    assert!(link.calls.load(Ordering::Relaxed) <= 3, "{link:?}");
    other.stop().await.expect("clean");
    leader.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn a_broken_way_to_the_leader_is_tried_again_until_the_session_is_over() {
    let stores = Stores::new().await;
    let leader = stores.start_shared(Settings::default());
    leader.agent.admin().create_topic(&name("t"), 1, Vec::new()).await.expect("created");
    let a = run("a", 1);
    leader.agent.groups().join(&group(), &a, options(&["t"])).await.expect("there is room");
    let other = stores.start_shared(Settings::default());
    let link = TestLink::new(leader.agent.groups());
    other.agent.groups().reach_leader_by(link.clone());
    // A leader without work would be taken for dead by an agent that cannot reach it.
    let admin = leader.agent.admin().clone();
    let work = tokio::spawn(async move {
        let topic = TopicRef { name: name("t"), id: None };
        loop {
            admin.update_topic(&topic, Vec::new()).await.expect("it leads");
            sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    *link.broken.lock() = Some(LinkError::Failed("no route".into()));
    let groups = other.agent.groups().clone();
    let who = a.clone();
    let beat = tokio::spawn(async move { groups.heartbeat(&group(), &who, &nothing()).await });
    sleep(seconds(3)).await;
    *link.broken.lock() = None;
    assert_eq!(beat.await.expect("no panic"), Ok(()), "it got through in the end");
    *link.broken.lock() = Some(LinkError::NotLeader);
    let started = Instant::now();
    let unheard = other.agent.groups().heartbeat(&group(), &a, &nothing()).await;
    assert!(matches!(unheard, Err(GroupError::MetadataUnavailable { .. })), "{unheard:?}");
    assert!((seconds(10)..seconds(11)).contains(&started.elapsed()), "{:?}", started.elapsed());
    sleep(seconds(2)).await;
    *link.broken.lock() = None;
    let late = other.agent.groups().heartbeat(&group(), &a, &nothing()).await;
    assert!(matches!(late, Err(GroupError::UnknownMember { .. })), "{late:?}");
    assert!(leader.metadata.leader().1, "it has led all the time");
    work.abort();
    other.stop().await.expect("clean");
    leader.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_says_that_a_member_lives() {
    let stores = Stores::new().await;
    let first = stores.start_shared(Settings::default());
    first.agent.admin().create_topic(&name("t"), 2, Vec::new()).await.expect("created");
    let a = run("a", 1);
    first.agent.groups().join(&group(), &a, options(&["t"])).await.expect("there is room");
    let second = stores.start_shared(Settings::default());
    sleep(seconds(1)).await;
    let beats = |who: &super::MemberRun| vec![MemberBeat { group: group(), who: who.clone() }];
    let deadline = || Instant::now() + seconds(5);
    let ask =
        async |link: Arc<dyn LeaderLink>, who: &super::MemberRun| link.beat(beats(who), deadline()).await;
    assert_eq!(ask(first.agent.groups().leader_link(), &a).await, Ok(vec![Ok(())]));
    let stranger = ask(first.agent.groups().leader_link(), &run("a", 2)).await;
    assert_eq!(stranger, Ok(vec![Err(BeatError::UnknownMember)]));
    assert_eq!(ask(second.agent.groups().leader_link(), &a).await, Err(LinkError::NotLeader));
    // The first one stands still while the second takes over, and does not know it yet when it is asked again.
    let stopped = first.pause();
    sleep(seconds(5)).await;
    second.agent.admin().create_topic(&name("u"), 1, Vec::new()).await.expect("the second one leads");
    assert!(first.metadata.leader().1, "it still believes that it leads");
    drop(stopped);
    let answer = ask(first.agent.groups().leader_link(), &a).await;
    assert!(matches!(answer, Err(LinkError::NotLeader | LinkError::Failed(_))), "{answer:?}");
    assert_eq!(ask(second.agent.groups().leader_link(), &a).await, Ok(vec![Ok(())]));
    assert_eq!(
        numbers(&told(&second, &a).await.partitions),
        [0, 1],
        "it has a whole session under the new leader"
    );
    sleep(seconds(9)).await;
    assert_eq!(numbers(&told(&second, &a).await.partitions), [0, 1]);
    sleep(seconds(2)).await;
    assert!(second.agent.groups().watch(&group(), &a, Generation::ZERO).await.is_err());
    second.stop().await.expect("clean");
    first.stop().await.expect("clean");
}
