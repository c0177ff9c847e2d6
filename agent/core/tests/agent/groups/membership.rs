//! Joining, silence, leaving.

use std::sync::Arc;

use tidelog_agent::Settings;
use tidelog_agent::groups::error::GroupError;
use tidelog_agent::groups::watch::News;
use tidelog_metadata_state::group::Assignor;
use tidelog_metadata_state::group::command::MemberOptions;
use tidelog_types::{Generation, TopicPartition};
use tokio::time::{Instant, sleep, sleep_until};

use super::{cling, fixed, flat, group, numbers, obey, options, run, seconds, told};
use crate::harness::{Stores, name};

#[tokio::test(start_paused = true)]
async fn a_member_owns_what_nobody_else_does() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 4).await;
    let groups = running.agent.groups();
    let (a, b) = (run("a", 1), run("b", 2));
    let terms = groups.join(&group(), &a, options(&["t"])).await.expect("there is room");
    assert_eq!((terms.heartbeat_interval, terms.session_timeout), (seconds(2), seconds(10)));
    assert_eq!(numbers(&told(&running, &a).await.partitions), [0, 1, 2, 3]);
    groups.join(&group(), &b, options(&["t"])).await.expect("there is room");
    let first = told(&running, &b).await;
    assert!(first.partitions.is_empty() && first.waiting);
    // It hears of it as soon as the other one lets go.
    let mut watch = groups.watch(&group(), &b, first.generation).await.expect("a member");
    let waiting = tokio::spawn(async move { watch.next().await });
    obey(&running, &a).await;
    let Ok(News::Assignment(assignment)) = waiting.await.expect("no panic") else { panic!("an assignment") };
    assert_eq!(numbers(&assignment.partitions), [2, 3]);
    assert!(!assignment.waiting && assignment.generation > first.generation);
    assert_eq!(numbers(&told(&running, &a).await.partitions), [0, 1]);
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn the_silent_are_removed_when_their_time_is_over_and_not_before() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 4).await;
    let groups = running.agent.groups();
    let (a, b) = (run("a", 1), run("b", 2));
    let started = Instant::now();
    groups.join(&group(), &a, options(&["t"])).await.expect("there is room");
    groups.join(&group(), &b, options(&["t"])).await.expect("there is room");
    obey(&running, &a).await;
    let mut watch = groups.watch(&group(), &b, told(&running, &b).await.generation).await.expect("a member");
    for second in (2..=20).step_by(2) {
        sleep_until(started + seconds(second)).await;
        obey(&running, &a).await;
        if second < 10 {
            assert_eq!(numbers(&told(&running, &b).await.partitions), [2, 3], "after {second} s");
        }
    }
    assert_eq!(numbers(&told(&running, &a).await.partitions), [0, 1, 2, 3]);
    assert!(matches!(watch.next().await, Err(GroupError::UnknownMember { .. })));
    let gone = groups.watch(&group(), &b, Generation::ZERO).await.expect_err("it was removed");
    assert!(matches!(gone, GroupError::UnknownMember { .. }));
    // Under the same id a new run begins anew.
    groups.join(&group(), &run("b", 3), options(&["t"])).await.expect("there is room");
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_counts_from_when_it_arrives() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 1).await;
    let groups = running.agent.groups();
    let a = run("a", 1);
    groups.join(&group(), &a, options(&["t"])).await.expect("there is room");
    sleep(seconds(9)).await;
    obey(&running, &a).await;
    sleep(seconds(9)).await;
    assert_eq!(numbers(&told(&running, &a).await.partitions), [0]);
    sleep(seconds(2)).await;
    assert!(groups.watch(&group(), &a, Generation::ZERO).await.is_err());
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn who_keeps_what_it_is_to_release_is_removed() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 4).await;
    let groups = running.agent.groups();
    let (a, b) = (run("a", 1), run("b", 2));
    groups.join(&group(), &a, options(&["t"])).await.expect("there is room");
    let all: Vec<TopicPartition> = flat(&told(&running, &a).await.partitions);
    groups.join(&group(), &b, options(&["t"])).await.expect("there is room");
    let started = Instant::now();
    for second in (2..60).step_by(2) {
        sleep_until(started + seconds(second)).await;
        cling(&running, &a, &all).await;
        cling(&running, &b, &[]).await;
        assert!(told(&running, &b).await.partitions.is_empty(), "after {second} s");
    }
    sleep_until(started + seconds(61)).await;
    assert_eq!(numbers(&told(&running, &b).await.partitions), [0, 1, 2, 3]);
    assert!(groups.watch(&group(), &a, Generation::ZERO).await.is_err());
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_from_before_the_assignment_releases_nothing() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 2).await;
    let groups = running.agent.groups();
    let (a, b) = (run("a", 1), run("b", 2));
    groups.join(&group(), &a, options(&["t"])).await.expect("there is room");
    groups.join(&group(), &b, options(&["t"])).await.expect("there is room");
    // It says that it owns nothing, for it has not heard of anything: it may be about to begin.
    let early = tidelog_agent::groups::Owned { partitions: Vec::new(), known: Generation::ZERO };
    groups.heartbeat(&group(), &a, &early).await.expect("a member");
    assert!(told(&running, &b).await.partitions.is_empty());
    obey(&running, &a).await;
    assert_eq!(numbers(&told(&running, &b).await.partitions), [1]);
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn leaving_is_at_once_and_a_static_member_has_its_place_kept() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 4).await;
    let groups = running.agent.groups();
    let (a, b) = (run("a", 1), run("b", 2));
    groups.join(&group(), &a, fixed("one")).await.expect("there is room");
    groups.join(&group(), &b, options(&["t"])).await.expect("there is room");
    obey(&running, &a).await;
    let second = groups.join(&group(), &run("c", 3), fixed("one")).await.expect_err("it is taken");
    assert!(matches!(second, GroupError::MemberExists { .. }));
    assert_eq!(second.retry_after(), Some(seconds(1)));
    groups.leave(&group(), &a, false).await.expect("leaving works");
    assert!(groups.watch(&group(), &a, Generation::ZERO).await.is_err());
    sleep(seconds(5)).await;
    obey(&running, &b).await;
    assert_eq!(numbers(&told(&running, &b).await.partitions), [2, 3], "they are kept");
    groups.join(&group(), &run("c", 3), fixed("one")).await.expect("its successor");
    assert_eq!(numbers(&told(&running, &run("c", 3)).await.partitions), [0, 1]);
    groups.leave(&group(), &run("c", 3), false).await.expect("leaving works");
    for _ in 0..6 {
        sleep(seconds(2)).await;
        obey(&running, &b).await;
    }
    assert_eq!(numbers(&told(&running, &b).await.partitions), [0, 1, 2, 3], "not for ever");
    groups.leave(&group(), &b, false).await.expect("leaving works");
    groups.leave(&group(), &b, false).await.expect("leaving twice works");
    assert!(matches!(groups.describe(&group()).await, Err(GroupError::UnknownGroup { .. })));
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_for_an_assignment_answers_or_is_removed() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 3).await;
    let groups = running.agent.groups();
    let (a, b) = (run("a", 1), run("b", 2));
    let wish = || MemberOptions { assignor: Assignor::Client, user_data: "mine".into(), ..options(&["t"]) };
    groups.join(&group(), &a, wish()).await.expect("there is room");
    groups.join(&group(), &b, wish()).await.expect("there is room");
    let mut watch = groups.watch(&group(), &a, Generation::ZERO).await.expect("a member");
    let (mut asked, mut known) = (None, Generation::ZERO);
    while asked.is_none() {
        match watch.next().await.expect("a member") {
            News::Assignment(assignment) => known = assignment.generation,
            News::Asked(request) => asked = Some(request),
        }
    }
    let asked = asked.expect("it was asked");
    assert!(known > Generation::ZERO);
    assert_eq!(numbers(&asked.topics), [0, 1, 2]);
    let members: Vec<(&str, &[u8])> =
        asked.members.iter().map(|member| (member.member.as_str(), &*member.user_data)).collect();
    assert_eq!(members, [("a", &b"mine"[..]), ("b", b"mine")]);
    let all = flat(&asked.topics);
    let given = vec![(b.member.clone(), all[..2].to_vec())];
    let other = groups.assign(&group(), &b, asked.generation, given.clone()).await;
    assert!(matches!(other, Err(GroupError::StaleGeneration { .. })), "another one was asked: {other:?}");
    groups.assign(&group(), &a, asked.generation, given.clone()).await.expect("it makes sense");
    assert_eq!(numbers(&told(&running, &b).await.partitions), [0, 1]);
    let again = groups.assign(&group(), &a, asked.generation, given).await;
    assert!(matches!(again, Err(GroupError::StaleGeneration { .. })), "{again:?}");
    // Asked again, because somebody comes: no answer.
    groups.join(&group(), &run("c", 3), wish()).await.expect("there is room");
    for _ in 0..31 {
        sleep(seconds(2)).await;
        for who in [&a, &b, &run("c", 3)] {
            let owned = tidelog_agent::groups::Owned { partitions: Vec::new(), known: Generation::ZERO };
            let _ = groups.heartbeat(&group(), who, &owned).await;
        }
    }
    let members = groups.describe(&group()).await.expect("it exists").members;
    let ids: Vec<&str> = members.iter().map(|member| member.member.as_str()).collect();
    assert_eq!(ids, ["b", "c"]);
    let request = groups.watch(&group(), &b, Generation::ZERO).await.expect("a member").request();
    assert!(request.expect("a member").is_some(), "now the other one is asked");
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn patterns_follow_the_topics() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 2).await;
    let groups = running.agent.groups();
    let a = run("a", 1);
    let wish = |pattern: &str| MemberOptions { pattern: pattern.into(), ..options(&[]) };
    let nonsense = groups.join(&group(), &a, wish("t(")).await.expect_err("no expression");
    assert!(matches!(nonsense, GroupError::Pattern(_)), "{nonsense}");
    groups.join(&group(), &a, wish("t|logs-.*")).await.expect("there is room");
    assert_eq!(numbers(&told(&running, &a).await.partitions), [0, 1]);
    let admin = running.agent.admin();
    let created = admin.create_topic(&name("logs-x"), 1, Vec::new()).await.expect("created");
    admin.create_topic(&name("clicks"), 1, Vec::new()).await.expect("created");
    let mut watch = groups.watch(&group(), &a, told(&running, &a).await.generation).await.expect("a member");
    let started = Instant::now();
    let Ok(News::Assignment(assignment)) = watch.next().await else { panic!("an assignment") };
    assert!(started.elapsed() <= seconds(2));
    let topics: Vec<&str> = assignment.partitions.iter().map(|topic| topic.topic.as_str()).collect();
    assert_eq!(topics, ["t", "logs-x"]);
    let ids = assignment.partitions.iter().map(|topic| topic.id);
    assert!(ids.into_iter().any(|id| id == created.id));
    let described = groups.describe(&group()).await.expect("it exists");
    let member = described.members.first().expect("one");
    assert_eq!(member.pattern, "t|logs-.*");
    assert_eq!(member.topics, [name("logs-x"), name("t")]);
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_returns_when_something_is_new_and_in_the_end_anyway() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 2).await;
    let groups = Arc::new(running.agent.groups().clone());
    let a = run("a", 1);
    groups.join(&group(), &a, options(&["t"])).await.expect("there is room");
    let known = told(&running, &a).await.generation;
    let started = Instant::now();
    let mut watch = groups.watch(&group(), &a, known).await.expect("a member");
    let same = watch.assignment(seconds(5)).await.expect("a member");
    assert_eq!((same.generation, started.elapsed()), (known, seconds(5)));
    let mut watch = groups.watch(&group(), &a, known).await.expect("a member");
    let waiting = tokio::spawn(async move { watch.assignment(seconds(60)).await });
    sleep(seconds(1)).await;
    groups.join(&group(), &run("b", 2), options(&["t"])).await.expect("there is room");
    let other = waiting.await.expect("no panic").expect("a member");
    assert_eq!(numbers(&other.partitions), [0]);
    let mut watch = groups.watch(&group(), &a, Generation::ZERO).await.expect("a member");
    assert_eq!(watch.assignment(seconds(5)).await.expect("a member"), other, "at once");
    running.stop().await.expect("clean");
}
