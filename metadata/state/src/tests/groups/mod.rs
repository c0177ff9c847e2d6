//! Consumer groups.
//!
//! Map: this file members and how they act · `membership` joining, leaving, expiring · `reassign` partitions changing hands · `client`
//! assignments made by members · `commits` offsets · `limits` · `damaged` snapshots · `speed` what joins cost · `members` and `random` random histories of members that
//! record what they own.

mod client;
mod commits;
mod damaged;
mod limits;
mod members;
mod membership;
mod random;
mod reassign;
mod speed;

use std::sync::Arc;

use bytes::Bytes;
use tidelog_types::{
    CommitNumber, Generation, GroupName, Incarnation, InstanceId, LogEpoch, LogIndex, MemberId, TopicId,
    TopicName, TopicPartition,
};
use uuid::Uuid;

use super::bed::{Bed, at, offset};
use crate::command::{Command, Outcome, Refusal};
use crate::group::command::{
    CommittedBy, GroupChange, GroupCommand, GroupOutcome, GroupRefusal, MemberOptions, MemberRun,
    OffsetCommit, OffsetOutcome,
};
use crate::group::subscription::Subscription;
use crate::group::{Assignor, Group, Part, Partitions};

pub fn name(group: &str) -> GroupName {
    GroupName::new(group).expect("a name")
}

pub fn id(member: &str) -> MemberId {
    MemberId::new(member).expect("an id")
}

/// The `n`-th run of a member.
pub fn run(member: &str, n: u128) -> MemberRun {
    MemberRun { member: id(member), incarnation: Incarnation(Uuid::from_u128(n)) }
}

pub fn topics(names: &[&str]) -> Subscription {
    Subscription::new(names.iter().map(|name| TopicName::new(name).expect("a name")))
}

pub fn options(names: &[&str]) -> MemberOptions {
    MemberOptions {
        topics: topics(names),
        pattern: String::new(),
        assignor: Assignor::Sticky,
        session_timeout_ms: 15_000,
        rebalance_timeout_ms: 300_000,
        instance: None,
        client_id: String::new(),
        user_data: Bytes::new(),
    }
}

pub fn fixed(names: &[&str], instance: &str) -> MemberOptions {
    let instance = Some(InstanceId::new(instance).expect("an id"));
    MemberOptions { instance, ..options(names) }
}

pub fn command(group: &str, change: GroupChange) -> Command {
    Command::Group(Box::new(GroupCommand { group: name(group), change }))
}

pub fn join(who: &MemberRun, options: MemberOptions) -> GroupChange {
    GroupChange::Join { who: who.clone(), options: Arc::new(options), matched: Subscription::default() }
}

pub fn leave(who: &MemberRun) -> GroupChange {
    GroupChange::Leave { who: who.clone(), permanently: false }
}

pub fn release(who: &MemberRun, known: u64, partitions: &[TopicPartition]) -> GroupChange {
    GroupChange::Release { who: who.clone(), generation: Generation(known), partitions: partitions.to_vec() }
}

pub fn to_commit(partition: TopicPartition, value: i64) -> OffsetCommit {
    OffsetCommit { partition, offset: offset(value), metadata: String::new() }
}

pub fn by(who: &MemberRun, generation: u64, number: u64) -> Option<CommittedBy> {
    let (generation, number) = (Generation(generation), CommitNumber(number));
    Some(CommittedBy { who: who.clone(), generation, number })
}

pub const GROUP: &str = "g";

/// What tests ask of group [`GROUP`].
impl Bed {
    pub fn change(&mut self, change: GroupChange) -> Result<GroupOutcome, Refusal> {
        match self.run(command(GROUP, change)) {
            Outcome::Group(outcome) => Ok(outcome),
            Outcome::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// A refusal that concerns the group.
    pub fn refusal(&mut self, change: GroupChange) -> GroupRefusal {
        match self.change(change) {
            Err(Refusal::Group(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    pub fn join(&mut self, who: &MemberRun, options: MemberOptions) {
        assert_eq!(self.change(join(who, options)), Ok(GroupOutcome::Joined));
    }

    pub fn group(&self) -> &Group {
        self.state.group(&name(GROUP)).expect("the group exists")
    }

    pub fn part(&self, who: &MemberRun) -> Part {
        let group = self.group();
        group.part(group.present(who).expect("it is a member"))
    }

    /// Releases whatever the member has to release, and returns what that was.
    pub fn obey(&mut self, who: &MemberRun) -> Vec<TopicPartition> {
        let part = self.part(who);
        let partitions = flat(&part.releasing);
        let released = u32::try_from(partitions.len()).expect("few");
        let outcome = self.change(release(who, part.generation.0, &partitions));
        assert_eq!(outcome, Ok(GroupOutcome::Released(released)));
        partitions
    }

    /// Expires a member as the leader would.
    pub fn expire(&mut self, who: &MemberRun) -> Result<GroupOutcome, Refusal> {
        let renewed = self.group().member(&who.member).expect("it is a member").renewed();
        let epoch = self.state.next().epoch;
        self.change(GroupChange::Expire { who: who.clone(), renewed, epoch })
    }

    pub fn commit_offsets(
        &mut self,
        by: Option<CommittedBy>,
        offsets: Vec<OffsetCommit>,
    ) -> Vec<OffsetOutcome> {
        match self.change(GroupChange::Commit { by, offsets }) {
            Ok(GroupOutcome::OffsetsCommitted(outcomes)) => outcomes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Partition numbers that a member owns of a topic.
    pub fn owned(&self, who: &MemberRun, topic: TopicId) -> Vec<i32> {
        numbers(&self.part(who).owned, topic)
    }
}

pub fn flat(partitions: &Partitions) -> Vec<TopicPartition> {
    let each = partitions.iter().flat_map(|(topic, list)| list.iter().map(|partition| (*topic, *partition)));
    each.map(|(topic, partition)| TopicPartition { topic, partition }).collect()
}

pub fn numbers(partitions: &Partitions, topic: TopicId) -> Vec<i32> {
    partitions.get(&topic).into_iter().flatten().map(|partition| partition.get()).collect()
}

/// Commands of every kind of change, with empty, smallest and largest values.
pub fn examples() -> Vec<Command> {
    let who = run(&"m".repeat(249), u128::MAX);
    let full = MemberOptions {
        topics: topics(&["a", "b"]),
        pattern: "a.*".into(),
        assignor: Assignor::Client,
        session_timeout_ms: u32::MAX,
        rebalance_timeout_ms: 0,
        client_id: "gr\u{fc}n".into(),
        user_data: Bytes::from_static(&[0, 255]),
        ..fixed(&[], "i")
    };
    let (first, last) = (at(TopicId(0), 0), at(TopicId(u64::MAX), i32::MAX));
    let with_metadata = |partition, metadata: &str| OffsetCommit {
        metadata: metadata.into(),
        ..to_commit(partition, i64::MAX)
    };
    let empty = MemberRun { member: id("m"), incarnation: Incarnation(Uuid::nil()) };
    let changes = vec![
        GroupChange::Join { who: who.clone(), options: Arc::new(full), matched: topics(&["b", "c"]) },
        join(&empty, options(&[])),
        join(&empty, MemberOptions { assignor: Assignor::Range, ..options(&["t"]) }),
        join(&empty, MemberOptions { assignor: Assignor::RoundRobin, ..options(&["t"]) }),
        GroupChange::ResolvePattern { who: who.clone(), pattern: "x".into(), matched: topics(&["x", "y"]) },
        GroupChange::ResolvePattern { who: who.clone(), pattern: String::new(), matched: topics(&[]) },
        GroupChange::Leave { who: who.clone(), permanently: true },
        leave(&empty),
        GroupChange::Expire { who: who.clone(), renewed: LogIndex(u64::MAX), epoch: LogEpoch(u64::MAX) },
        release(&who, u64::MAX, &[first, last, at(TopicId(0), 5)]),
        release(&who, 0, &[]),
        GroupChange::Assign {
            who: who.clone(),
            generation: Generation(u64::MAX),
            members: vec![(id("a"), vec![last, first]), (id("b"), Vec::new())],
        },
        GroupChange::Commit { by: None, offsets: Vec::new() },
        GroupChange::Commit {
            by: by(&who, u64::MAX, u64::MAX),
            offsets: vec![
                to_commit(first, 0),
                with_metadata(last, "words"),
                with_metadata(at(TopicId(u64::MAX), 3), ""),
                with_metadata(at(TopicId(0), 3), "\u{1f600}"),
            ],
        },
        GroupChange::Delete,
    ];
    let long_name = "g".repeat(249);
    changes.into_iter().map(|change| command(&long_name, change)).collect()
}

/// Adds groups in which every part holds something; the bed has the topics "orders" and "clicks".
pub fn enrich(bed: &mut Bed) {
    let topic = |bed: &Bed, name: &str| {
        bed.state.topic_by_name(&name.parse().expect("a name")).expect("it exists").id()
    };
    let (orders, clicks) = (topic(bed, "orders"), topic(bed, "clicks"));
    let (a, b, c) = (run("a", 1), run("b", 2), run("c", 3));
    bed.join(&a, fixed(&["orders"], "one"));
    let known = bed.part(&a).generation.0;
    let first = OffsetCommit { metadata: "words".into(), ..to_commit(at(orders, 0), 28) };
    let offsets = vec![first, to_commit(at(orders, 2), 3), to_commit(at(clicks, 0), 1)];
    bed.commit_offsets(by(&a, known, 7), offsets);
    let both =
        MemberOptions { pattern: "cl.*".into(), user_data: Bytes::from_static(b"!"), ..options(&["orders"]) };
    bed.change(GroupChange::Join { who: b, options: Arc::new(both), matched: topics(&["clicks"]) })
        .expect("there is room");
    bed.join(&c, fixed(&["orders", "nothing"], "three"));
    bed.obey(&a);
    bed.change(leave(&c)).expect("leaving always works");
    let mut other =
        |group: &str, change| assert!(matches!(bed.run(command(group, change)), Outcome::Group(_)));
    other("asks", join(&a, MemberOptions { assignor: Assignor::Client, ..options(&["clicks"]) }));
    let offsets = vec![to_commit(at(orders, 1), 0), to_commit(at(clicks, 0), 5)];
    other("only offsets", GroupChange::Commit { by: None, offsets });
    // One more member, for whom something is to be released.
    bed.join(&run("d", 4), options(&["orders"]));
    bed.change(leave(&run("c", 3))).expect("leaving always works");
}
