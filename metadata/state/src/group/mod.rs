//! Consumer groups: who shares the partitions of topics, who owns which, and how far the group has read.
//!
//! A partition has a *target*, the member that is to own it, and an *owner*. When the target changes, the owner keeps
//! the partition until it has released it, has left, or its time is over: then the target becomes the owner. So a
//! partition has at most one owner at any time (INV-26). How long a member's time lasts is not known here: the leader
//! counts it, and proposes what is due.
//!
//! Members, options and topics change at once; who is to own what is worked out once for each group and entry of the
//! log, after the entry's last command (`settle`), whatever number of members came and went in it.
//!
//! Map: this file a group, and how to ask it · [`command`] commands and outcomes · [`subscription`] lists of topics ·
//! `members` joining, leaving, releasing · `roster` the list of members · `settle` who is to own what · `assign` the ways to share ·
//! [`offsets`] commits · `convert` protobuf.

mod assign;
pub mod command;
pub(crate) mod convert;
mod members;
pub mod offsets;
mod roster;
mod settle;
pub mod subscription;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelog_types::{
    Generation, GroupName, Incarnation, LogIndex, MemberId, PartitionIndex, TimestampMs, TopicId,
    TopicPartition,
};

use command::MemberOptions;
use offsets::{Committed, LastCommit};
use subscription::Subscription;

use crate::state::State;

/// How partitions are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Assignor {
    /// Evenly, and each member keeps what it has as far as that allows.
    #[default]
    Sticky,
    /// Kafka's range assignor.
    Range,
    /// Kafka's round robin assignor.
    RoundRobin,
    /// A member decides.
    Client,
}

impl Assignor {
    /// All, in the order in which they win ties.
    pub const ALL: [Self; 4] = [Self::Sticky, Self::Range, Self::RoundRobin, Self::Client];
}

/// Number of a member, given at its first join: rising, never used twice. A static member keeps it when another process takes
/// its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey(pub u64);

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub(crate) members: BTreeMap<MemberId, Arc<Member>>,
    /// Ids of the members by their keys.
    pub(crate) keys: BTreeMap<MemberKey, MemberId>,
    pub(crate) generation: Generation,
    pub(crate) assignor: Assignor,
    pub(crate) asked: Option<Asked>,
    /// The subscribed topics, and those of which something is still owned.
    pub(crate) topics: BTreeMap<TopicId, Arc<Vec<Slot>>>,
    /// How many partitions have an owner that is not their target. Those with a target always have an owner.
    pub(crate) releasing: u32,
    pub(crate) offsets: BTreeMap<TopicId, Arc<BTreeMap<PartitionIndex, Committed>>>,
    /// When it last had members or took a commit, in log time; counts once there are no members.
    pub(crate) used: TimestampMs,
    /// What its members and offsets weigh, see [`crate::limits::GROUP_BYTES_PER_CLUSTER_MAX`].
    pub(crate) bytes: u64,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub(crate) key: MemberKey,
    pub(crate) incarnation: Incarnation,
    pub(crate) renewed: LogIndex,
    pub(crate) generation: Generation,
    pub(crate) options: Arc<MemberOptions>,
    pub(crate) subscription: Subscription,
    pub(crate) away: bool,
    pub(crate) last_commit: Option<LastCommit>,
}

/// A member that was asked for an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Who.
    pub member: MemberKey,
    /// For which generation.
    pub generation: Generation,
}

/// Who has a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Slot {
    pub target: Option<MemberKey>,
    pub owner: Option<Owner>,
    /// The generation at which the owner was told to release it; zero while it is not to.
    pub moved: Generation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub member: MemberKey,
    /// The generation at which it became the owner.
    pub since: Generation,
}

/// Partitions by topic, both rising.
pub type Partitions = BTreeMap<TopicId, Vec<PartitionIndex>>;

/// What a member has to do with partitions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// The generation at which it last changed.
    pub generation: Generation,
    /// What it may own.
    pub owned: Partitions,
    /// What it was told to release and has not released.
    pub releasing: Partitions,
    /// Whether it gets more as soon as others have released it.
    pub waiting: bool,
}

/// What a group does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// It has no members.
    Empty,
    /// Partitions are changing hands, or a member was asked for an assignment.
    Rebalancing,
    /// Each member owns what it is to own.
    Stable,
}

impl State {
    /// A group. The `Arc` lets a reader look at it after it has let go of the state.
    pub fn group(&self, name: &GroupName) -> Option<&Arc<Group>> {
        self.groups.get(name)
    }

    /// Groups by name, those after `after`.
    pub fn groups_after<'a>(
        &'a self,
        after: Option<&GroupName>,
    ) -> impl Iterator<Item = (&'a GroupName, &'a Arc<Group>)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, |name| Excluded(name.clone()));
        self.groups.range((from, Unbounded))
    }
}

impl Group {
    pub(crate) fn new(used: TimestampMs) -> Self {
        Self {
            members: BTreeMap::new(),
            keys: BTreeMap::new(),
            generation: Generation::ZERO,
            assignor: Assignor::default(),
            asked: None,
            topics: BTreeMap::new(),
            releasing: 0,
            offsets: BTreeMap::new(),
            used,
            bytes: 0,
        }
    }

    /// The generation of its last change of targets or owners; [`Generation::ZERO`] if it never had members.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// How it shares partitions.
    pub fn assignor(&self) -> Assignor {
        self.assignor
    }

    /// The member that was asked for an assignment and has not answered.
    pub fn asked(&self) -> Option<Asked> {
        self.asked
    }

    /// What it does.
    pub fn state(&self) -> GroupState {
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.releasing > 0 || self.asked.is_some() {
            GroupState::Rebalancing
        } else {
            GroupState::Stable
        }
    }

    /// Its members by id.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (&MemberId, &Member)> {
        self.members.iter().map(|(id, member)| (id, member.as_ref()))
    }

    /// A member.
    pub fn member(&self, id: &MemberId) -> Option<&Member> {
        self.members.get(id).map(Arc::as_ref)
    }

    /// The member with a key.
    pub fn member_by_key(&self, key: MemberKey) -> Option<(&MemberId, &Member)> {
        let id = self.keys.get(&key)?;
        Some((id, self.member(id)?))
    }

    /// A member, if it takes part under this incarnation and is not away.
    pub fn present(&self, who: &command::MemberRun) -> Option<&Member> {
        self.member(&who.member).filter(|member| member.incarnation == who.incarnation && !member.away)
    }

    /// The topics that it shares, and how many partitions of each it knows.
    pub fn topics(&self) -> impl Iterator<Item = (TopicId, usize)> {
        self.topics.iter().map(|(topic, slots)| (*topic, slots.len()))
    }

    /// The part of each member, by key; O(partitions).
    pub fn parts(&self) -> BTreeMap<MemberKey, Part> {
        let part = |member: &Arc<Member>| Part { generation: member.generation, ..Part::default() };
        let mut parts: BTreeMap<MemberKey, Part> =
            self.members.values().map(|member| (member.key, part(member))).collect();
        for (at, slot) in self.all_slots() {
            if let Some(owner) = slot.owner
                && let Some(part) = parts.get_mut(&owner.member)
            {
                part.take(at, slot);
            }
            if slot.is_releasing()
                && let Some(part) = slot.target.and_then(|target| parts.get_mut(&target))
            {
                part.waiting = true;
            }
        }
        parts
    }

    /// The part of one member; O(partitions).
    pub fn part(&self, member: &Member) -> Part {
        let mut part = Part { generation: member.generation, ..Part::default() };
        for (at, slot) in self.all_slots() {
            if slot.owner.is_some_and(|owner| owner.member == member.key) {
                part.take(at, slot);
            }
            part.waiting |= slot.is_releasing() && slot.target == Some(member.key);
        }
        part
    }

    /// The members that have to release something, each with the generation at which it was first told to release what it
    /// still has; O(partitions).
    pub fn releasing(&self) -> BTreeMap<MemberKey, Generation> {
        let mut members = BTreeMap::new();
        if self.releasing > 0 {
            for (_, slot) in self.all_slots().filter(|(_, slot)| slot.is_releasing()) {
                let Some(owner) = slot.owner else { continue };
                let told = members.entry(owner.member).or_insert(slot.moved);
                *told = slot.moved.min(*told);
            }
        }
        members
    }

    pub(crate) fn slots(&self, topic: TopicId) -> &[Slot] {
        self.topics.get(&topic).map_or(&[], |slots| slots.as_slice())
    }

    pub(crate) fn slot(&self, at: TopicPartition) -> Option<&Slot> {
        self.slots(at.topic).get(at.partition.position())
    }

    pub(crate) fn all_slots(&self) -> impl Iterator<Item = (TopicPartition, &Slot)> {
        self.topics.iter().flat_map(|(topic, slots)| {
            slots.iter().enumerate().filter_map(|(position, slot)| {
                let partition = PartitionIndex::from_position(position)?;
                Some((TopicPartition { topic: *topic, partition }, slot))
            })
        })
    }

    /// How many partitions it shares.
    pub(crate) fn partition_count(&self) -> u64 {
        self.topics.values().map(|slots| slots.len() as u64).sum()
    }
}

impl Part {
    fn take(&mut self, at: TopicPartition, slot: &Slot) {
        let list = if slot.is_releasing() { &mut self.releasing } else { &mut self.owned };
        list.entry(at.topic).or_default().push(at.partition);
    }
}

impl Slot {
    /// Whether it has an owner that is to let go of it.
    pub fn is_releasing(&self) -> bool {
        self.owner.is_some_and(|owner| self.target != Some(owner.member))
    }
}

impl Member {
    /// Its key.
    pub fn key(&self) -> MemberKey {
        self.key
    }

    /// Which run of it this is.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The log index of its last join; whoever wants to end its session has to know it.
    pub fn renewed(&self) -> LogIndex {
        self.renewed
    }

    /// The generation at which its part last changed.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What it wants.
    pub fn options(&self) -> &Arc<MemberOptions> {
        &self.options
    }

    /// The topics that it subscribes to, pattern resolved.
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// Whether it is a static member that has left and may come back.
    pub fn is_away(&self) -> bool {
        self.away
    }
}
