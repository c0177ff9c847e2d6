//! Consumer groups.
//!
//! Map: `client` a member that does what clients do, and records what it owns · `membership` joining, silence, leaving · `sharing`
//! partitions changing hands, also when leaders change · `offsets` commits and descriptions · `leader` signs of life on
//! their way to the leader.

mod client;
mod leader;
mod membership;
mod offsets;
mod sharing;

use std::time::Duration;

use bytes::Bytes;
use tidelog_agent::groups::Owned;
use tidelog_agent::groups::watch::{Assignment, News, TopicPartitions};
use tidelog_metadata_state::group::Assignor;
use tidelog_metadata_state::group::command::{MemberOptions, MemberRun};
use tidelog_metadata_state::group::subscription::Subscription;
use tidelog_types::{Generation, GroupName, Incarnation, InstanceId, MemberId, TopicPartition};
use uuid::Uuid;

use crate::harness::{Running, name};

pub fn group() -> GroupName {
    GroupName::new("g").expect("a name")
}

pub fn run(member: &str, n: u128) -> MemberRun {
    let member = MemberId::new(member).expect("an id");
    MemberRun { member, incarnation: Incarnation(Uuid::from_u128(n)) }
}

pub fn options(topics: &[&str]) -> MemberOptions {
    MemberOptions {
        topics: Subscription::new(topics.iter().map(|topic| name(topic))),
        pattern: String::new(),
        assignor: Assignor::Sticky,
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        instance: None,
        client_id: "test".into(),
        user_data: Bytes::new(),
    }
}

pub fn fixed(instance: &str) -> MemberOptions {
    MemberOptions { instance: Some(InstanceId::new(instance).expect("an id")), ..options(&["t"]) }
}

/// Partition numbers of topic `t`.
pub fn numbers(partitions: &[TopicPartitions]) -> Vec<i32> {
    let of_t = partitions.iter().filter(|topic| topic.topic.as_str() == "t");
    of_t.flat_map(|topic| &topic.partitions).map(|partition| partition.get()).collect()
}

pub fn flat(partitions: &[TopicPartitions]) -> Vec<TopicPartition> {
    let each = partitions.iter().flat_map(|topic| topic.partitions.iter().map(move |p| (topic.id, *p)));
    each.map(|(topic, partition)| TopicPartition { topic, partition }).collect()
}

/// What a member is told at the moment.
pub async fn told(running: &Running, who: &MemberRun) -> Assignment {
    let mut watch = running.agent.groups().watch(&group(), who, Generation::ZERO).await.expect("a member");
    match watch.next().await.expect("a member") {
        News::Assignment(assignment) => assignment,
        News::Asked(asked) => panic!("{asked:?}"),
    }
}

/// A heartbeat of a member that acts upon what it is told at the moment.
pub async fn obey(running: &Running, who: &MemberRun) {
    let assignment = told(running, who).await;
    let owned = Owned { partitions: flat(&assignment.partitions), known: assignment.generation };
    running.agent.groups().heartbeat(&group(), who, &owned).await.expect("a member");
}

/// A heartbeat of a member that lets go of nothing.
pub async fn cling(running: &Running, who: &MemberRun, partitions: &[TopicPartition]) {
    let owned = Owned { partitions: partitions.to_vec(), known: Generation(u64::MAX) };
    running.agent.groups().heartbeat(&group(), who, &owned).await.expect("a member");
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
