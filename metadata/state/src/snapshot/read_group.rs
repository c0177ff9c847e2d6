//! A consumer group from its records.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidelog_types::{CommitNumber, Generation, GroupName, LogIndex, TimestampMs, TopicId};

use super::SnapshotError;
use super::read::{OrField, ensure};
use crate::entry::EntryError;
use crate::group::command::MemberOptions;
use crate::group::offsets::{Committed, LastCommit};
use crate::group::subscription::Subscription;
use crate::group::{Asked, Assignor, Group, Member, MemberKey, Owner, Slot, convert};
use crate::limits::{
    GROUPS_PER_CLUSTER_MAX, MEMBERS_PER_GROUP_MAX, OFFSET_METADATA_BYTES_MAX, TOPICS_PER_SUBSCRIPTION_MAX,
};
use crate::state::State;
use crate::wire;

impl From<EntryError> for SnapshotError {
    fn from(error: EntryError) -> Self {
        match error {
            EntryError::Field { field } => Self::Field { field },
            other => Self::Payload(other.to_string()),
        }
    }
}

/// A group that is being read.
pub(super) struct GroupReader {
    name: GroupName,
    group: Group,
    subscriptions: Vec<Subscription>,
    instances: BTreeSet<tidelog_types::InstanceId>,
    asked: Option<Asked>,
    /// The record that began it.
    stated: wire::SnapshotGroup,
    next_generation: u64,
    /// What was read last: parts do not come back.
    part: u8,
}

impl GroupReader {
    pub(super) fn new(message: wire::SnapshotGroup, state: &State) -> Result<Self, SnapshotError> {
        let name = GroupName::new(&message.name).or_field("group.name")?;
        let rising = state.groups.get_max().is_none_or(|(last, _)| *last < name);
        ensure(rising && state.groups.len() < GROUPS_PER_CLUSTER_MAX, "groups are out of order or too many")?;
        let mut group = Group::new(TimestampMs(message.used_ms));
        group.generation = Generation(message.generation);
        group.assignor = convert::assignor(message.assignor).or_field("group.assignor")?;
        let asked = Asked {
            member: MemberKey(message.asked_member),
            generation: Generation(message.asked_generation),
        };
        let asked = Some(asked).filter(|asked| asked.member.0 > 0);
        let next_generation = state.next_generation;
        ensure(message.generation < next_generation, "a group has a generation from the future")?;
        ensure(
            message.asked_generation <= message.generation
                && (asked.is_some() || message.asked_generation == 0),
            "a group asked for an assignment that it does not wait for",
        )?;
        Ok(Self {
            name,
            group,
            subscriptions: Vec::new(),
            instances: BTreeSet::new(),
            asked,
            stated: message,
            next_generation,
            part: 0,
        })
    }

    fn part(&mut self, part: u8) -> Result<(), SnapshotError> {
        ensure(part >= self.part, "records of a group are out of order")?;
        self.part = part;
        Ok(())
    }

    pub(super) fn subscription(&mut self, message: &wire::SnapshotSubscription) -> Result<(), SnapshotError> {
        self.part(1)?;
        let list = convert::subscription(&message.topics)?;
        let fits = list.len() == message.topics.len() && list.len() <= TOPICS_PER_SUBSCRIPTION_MAX;
        ensure(fits, "a subscription has a topic twice or too many")?;
        let rising = self.subscriptions.last().is_none_or(|last| *last < list);
        ensure(rising, "subscriptions are out of order")?;
        self.subscriptions.push(list);
        Ok(())
    }

    pub(super) fn member(
        &mut self,
        message: wire::SnapshotMember,
        index: LogIndex,
    ) -> Result<(), SnapshotError> {
        self.part(2)?;
        let who = convert::run(message.who)?;
        let rising = self.group.members.last_key_value().is_none_or(|(last, _)| *last < who.member);
        ensure(rising, "members are out of order")?;
        ensure(self.group.members.len() < MEMBERS_PER_GROUP_MAX, "a group has too many members")?;
        let list = |number: u64| {
            let list = usize::try_from(number).ok().and_then(|number| self.subscriptions.get(number));
            list.cloned().ok_or(SnapshotError::Incoherent("a member has an unknown subscription"))
        };
        let options = MemberOptions::try_from(message.options.or_field("member.options")?)?;
        ensure(options.topics.is_empty(), "a member's topics are listed in its options")?;
        let options = MemberOptions { topics: list(message.topics)?, ..options };
        let subscription = list(message.subscription)?;
        ensure(options.is_sound(), "a member's options are out of range")?;
        let resolved = options.topics.names().iter().all(|name| subscription.contains(name));
        let more = subscription.len() > options.topics.len();
        ensure(
            resolved && (!more || !options.pattern.is_empty()),
            "a member subscribes to what it does not want",
        )?;
        if let Some(instance) = &options.instance {
            ensure(self.instances.insert(instance.clone()), "two members have one instance id")?;
        }
        ensure(!message.away || options.instance.is_some(), "a member is away without being static")?;
        let key = MemberKey(message.key);
        let known = key.0 > 0 && key.0 < self.next_generation;
        ensure(known && !self.group.keys.contains_key(&key), "a member's key is nobody's or another one's")?;
        ensure(
            message.generation >= key.0 && message.generation <= self.group.generation.0,
            "a member's generation is not one of its group",
        )?;
        ensure(message.renewed < index.0, "a member joined after the last entry")?;
        let last_commit = message.last_commit.map(last_commit).transpose()?;
        let member = Member {
            key,
            incarnation: who.incarnation,
            renewed: LogIndex(message.renewed),
            generation: Generation(message.generation),
            options: Arc::new(options),
            subscription,
            away: message.away,
            last_commit,
        };
        self.group.insert(who.member, Arc::new(member));
        Ok(())
    }

    pub(super) fn owners(
        &mut self,
        message: &wire::SnapshotOwners,
        state: &State,
    ) -> Result<(), SnapshotError> {
        self.part(3)?;
        let topic = TopicId(message.topic);
        let rising = self.group.topics.last_key_value().is_none_or(|(last, _)| *last <= topic);
        ensure(rising, "owners are out of order")?;
        let count = message.targets.len();
        let same = [message.owners.len(), message.since.len(), message.moved.len()];
        ensure(same == [count; 3] && count > 0, "arrays of owners differ in length")?;
        let before = self.group.topics.entry(topic).or_default();
        ensure(message.first == before.len() as u64, "owners have gaps")?;
        let slots = Arc::make_mut(before);
        let owners = message.owners.iter().zip(&message.since).zip(&message.moved);
        for (target, ((owner, since), moved)) in message.targets.iter().zip(owners) {
            let member = |key: u64| Some(MemberKey(key)).filter(|_| key > 0);
            let owner = member(*owner).map(|member| Owner { member, since: Generation(*since) });
            let slot = Slot { target: member(*target), owner, moved: Generation(*moved) };
            let known = |key: MemberKey| self.group.keys.contains_key(&key);
            let both = [slot.target, slot.owner.map(|owner| owner.member)];
            ensure(both.into_iter().flatten().all(known), "a partition belongs to an unknown member")?;
            ensure(
                slot.owner.is_some() || (*since == 0 && slot.target.is_none()),
                "a partition lacks its owner",
            )?;
            ensure((*moved > 0) == slot.is_releasing(), "a partition is released by mistake")?;
            let newest = (*since).max(*moved);
            ensure(newest <= self.group.generation.0, "a partition has a generation from the future")?;
            ensure(slot.owner.is_none() || *since > 0, "a partition has an owner since ever")?;
            self.group.releasing += u32::from(slot.is_releasing());
            slots.push(slot);
        }
        let exists = state.topic(topic).is_some_and(|topic| slots.len() <= topic.partitions.len());
        ensure(exists, "a group shares partitions that there are not")
    }

    pub(super) fn offsets(
        &mut self,
        message: wire::SnapshotOffsets,
        state: &State,
    ) -> Result<(), SnapshotError> {
        self.part(4)?;
        let offsets = convert::offsets_of(message.offsets.or_field("offsets.offsets")?)?;
        let same = offsets.len() == message.committed_deltas.len() && !offsets.is_empty();
        ensure(same, "arrays of offsets differ in length")?;
        let mut committed_at = 0_i64;
        for (offset, delta) in offsets.into_iter().zip(message.committed_deltas) {
            committed_at = committed_at.wrapping_add(delta);
            let at = offset.partition;
            ensure(state.partition(at).is_some(), "an offset belongs to no partition")?;
            ensure(offset.metadata.len() <= OFFSET_METADATA_BYTES_MAX, "an offset's metadata are too long")?;
            let topics_rise = self.group.offsets.last_key_value().is_none_or(|(last, _)| *last <= at.topic);
            let before = self.group.offsets.get(&at.topic).and_then(|offsets| offsets.last_key_value());
            let rising = before.is_none_or(|(last, _)| *last < at.partition);
            ensure(topics_rise && rising, "offsets are out of order")?;
            let committed = Committed {
                offset: offset.offset,
                metadata: offset.metadata.into(),
                committed_at: TimestampMs(committed_at),
            };
            self.group.commit(at, committed);
        }
        Ok(())
    }

    pub(super) fn finish(mut self, state: &mut State) -> Result<(), SnapshotError> {
        let (group, stated) = (&mut self.group, &self.stated);
        let offsets: u64 = group.offsets.values().map(|offsets| offsets.len() as u64).sum();
        let found =
            [self.subscriptions.len() as u64, group.members.len() as u64, group.partition_count(), offsets];
        let all = [stated.subscriptions, stated.members, stated.partitions, stated.offsets];
        ensure(found == all, "a group lacks records or has too many")?;
        ensure(!group.members.is_empty() || offsets > 0, "a group is kept though nothing is left of it")?;
        ensure(
            !group.members.is_empty() || group.topics.is_empty(),
            "a group without members shares partitions",
        )?;
        group.asked = self.asked;
        check_asked(group)?;
        check_owners(group, state)?;
        state.group_bytes += group.weight();
        state.group_partitions += group.partition_count();
        state.groups.insert(self.name, Arc::new(self.group));
        Ok(())
    }
}

fn check_asked(group: &Group) -> Result<(), SnapshotError> {
    let Some(asked) = group.asked else { return Ok(()) };
    let member = group.member_by_key(asked.member).filter(|(_, member)| {
        !member.away && member.options.assignor == Assignor::Client && group.assignor == Assignor::Client
    });
    ensure(member.is_some(), "a group asked nobody for an assignment")
}

/// Whether members have what they may have, and what is shared has a target.
fn check_owners(group: &Group, state: &State) -> Result<(), SnapshotError> {
    let lists: BTreeSet<&Subscription> = group.members.values().map(|member| &member.subscription).collect();
    let subscribed = lists.into_iter().flat_map(|list| list.names());
    for topic in subscribed.filter_map(|name| state.topic_by_name(name)) {
        let slots = group.slots(topic.id());
        let all_meant = slots.iter().all(|slot| slot.target.is_some());
        let shared = slots.len() == topic.partitions.len();
        ensure(
            shared && (all_meant || group.assignor == Assignor::Client),
            "a group leaves partitions to nobody",
        )?;
    }
    for (at, slot) in group.all_slots() {
        let member = |key: MemberKey| group.member_by_key(key).map(|(_, member)| member);
        if let Some(target) = slot.target.and_then(member) {
            let topic = state.topic(at.topic);
            let wanted = topic.is_some_and(|topic| target.subscription.contains(topic.name()));
            ensure(wanted, "a member has a topic to which it does not subscribe")?;
        }
        let owner = slot.owner.and_then(|owner| member(owner.member)).filter(|_| slot.is_releasing());
        ensure(owner.is_none_or(|owner| !owner.away), "a member that is away has yet to release something")?;
    }
    Ok(())
}

fn last_commit(message: wire::SnapshotCommit) -> Result<LastCommit, SnapshotError> {
    ensure(message.number > 0 && !message.outcomes.is_empty(), "a member's last commit is none")?;
    let outcomes = message.outcomes.into_iter().map(super::outcome::offset_outcome);
    Ok(LastCommit { number: CommitNumber(message.number), outcomes: outcomes.collect::<Result<_, _>>()? })
}
