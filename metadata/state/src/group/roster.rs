//! The list of members, and what it weighs.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidelog_types::{Generation, InstanceId, LogIndex, MemberId, TimestampMs, TopicPartition};

use super::command::{GroupRefusal, MemberOptions, MemberRun};
use super::subscription::Subscription;
use super::{Group, Member, MemberKey, Owner, Slot};

/// Where a join finds its place.
pub(super) enum Seat {
    /// A new member.
    New,
    /// The same run goes on.
    Same,
    /// A static member that is away comes back, perhaps under another id: the one that it had.
    Away(MemberId),
}

impl Group {
    pub(super) fn seat(&self, who: &MemberRun, instance: Option<&InstanceId>) -> Result<Seat, GroupRefusal> {
        let has_instance =
            |(_, member): &(&MemberId, &Arc<Member>)| member.options.instance.as_ref() == instance;
        let by_instance = instance.and_then(|_| self.members.iter().find(has_instance));
        if let Some((id, namesake)) = by_instance
            && *id != who.member
        {
            // Its id may also belong to a third one.
            return if namesake.away && !self.members.contains_key(&who.member) {
                Ok(Seat::Away(id.clone()))
            } else {
                Err(GroupRefusal::MemberExists)
            };
        }
        match self.members.get(&who.member) {
            None => Ok(Seat::New),
            Some(member) if member.away && by_instance.is_some() => Ok(Seat::Away(who.member.clone())),
            Some(member) if member.incarnation == who.incarnation => Ok(Seat::Same),
            Some(_) => Err(GroupRefusal::MemberExists),
        }
    }

    /// Gives the partitions that a member was told to release, at or before a generation, to those that are to own them.
    pub(super) fn release(
        &mut self,
        key: MemberKey,
        known: Generation,
        partitions: &[TopicPartition],
        new: Generation,
    ) -> u32 {
        let mut released = 0;
        let mut changed = BTreeSet::new();
        for at in partitions {
            // One that came back to the member meanwhile is its own again, and it will hear of that.
            let counts = self.slot(*at).is_some_and(|slot| {
                let owned = slot.owner.is_some_and(|owner| owner.member == key);
                owned && slot.is_releasing() && slot.moved <= known
            });
            let slots = self.topics.get_mut(&at.topic).filter(|_| counts);
            let Some(slot) = slots.and_then(|slots| Arc::make_mut(slots).get_mut(at.partition.position()))
            else {
                continue;
            };
            slot.owner = slot.target.map(|member| Owner { member, since: new });
            slot.moved = Generation::ZERO;
            changed.extend(slot.target);
            released += 1;
        }
        if released > 0 {
            self.releasing -= released;
            self.note_change(&changed, new);
        }
        released
    }

    /// What a member owns it owns since now.
    pub(super) fn own_anew(&mut self, key: MemberKey, new: Generation) {
        for slots in self.topics.values_mut() {
            let is_own = |slot: &Slot| slot.owner.is_some_and(|owner| owner.member == key);
            if slots.iter().any(is_own) {
                let own = Arc::make_mut(slots).iter_mut().filter(|slot| is_own(slot));
                own.for_each(|slot| slot.owner = Some(Owner { member: key, since: new }));
            }
        }
    }

    /// The same subscription, in the memory of a member that has an equal one.
    pub(super) fn shared(&self, subscription: Subscription) -> Subscription {
        let equal = self.members.values().find(|member| member.subscription == subscription);
        equal.map_or(subscription, |member| member.subscription.clone())
    }

    pub(super) fn remove(&mut self, id: &MemberId, log_time: TimestampMs) {
        self.take(id);
        self.used = log_time;
    }

    pub(crate) fn insert(&mut self, id: MemberId, member: Arc<Member>) {
        self.bytes += member.weight(&id);
        self.keys.insert(member.key, id.clone());
        self.members.insert(id, member);
    }

    pub(super) fn take(&mut self, id: &MemberId) -> Option<Arc<Member>> {
        let member = self.members.remove(id)?;
        self.bytes -= member.weight(id);
        self.keys.remove(&member.key);
        Some(member)
    }

    /// A new generation begins, in which the part of these members is another one.
    pub(super) fn note_change<'a>(
        &mut self,
        changed: impl IntoIterator<Item = &'a MemberKey>,
        generation: Generation,
    ) {
        self.generation = generation;
        for key in changed {
            let Some(id) = self.keys.get(key) else { continue };
            if let Some(member) = self.members.get_mut(id) {
                Arc::make_mut(member).generation = generation;
            }
        }
    }

    /// What it weighs in all.
    pub(crate) fn weight(&self) -> u64 {
        self.bytes + GROUP_WEIGHT_BYTES
    }
}

/// What a group costs beside its members and offsets, about.
const GROUP_WEIGHT_BYTES: u64 = 512;
/// What a member costs beside its texts, about.
const MEMBER_WEIGHT_BYTES: u64 = 512;

pub(super) fn weight(id: &MemberId, options: &MemberOptions, subscription: &Subscription) -> u64 {
    let instance = options.instance.as_ref().map_or(0, |instance| instance.as_str().len());
    let texts = 2 * id.as_str().len()
        + options.pattern.len()
        + options.client_id.len()
        + options.user_data.len()
        + instance;
    // What the pattern matched is kept beside what was named.
    let resolved = if options.pattern.is_empty() { 0 } else { subscription.bytes() };
    MEMBER_WEIGHT_BYTES + texts as u64 + options.topics.bytes() + resolved
}

impl Member {
    pub(super) fn new(key: MemberKey, who: &MemberRun, options: &Arc<MemberOptions>) -> Self {
        Self {
            key,
            incarnation: who.incarnation,
            renewed: LogIndex(0),
            generation: Generation::ZERO,
            options: Arc::clone(options),
            subscription: Subscription::default(),
            away: false,
            last_commit: None,
        }
    }

    pub(crate) fn weight(&self, id: &MemberId) -> u64 {
        let outcomes = self.last_commit.as_ref().map_or(0, |last| last.outcomes.len() as u64);
        weight(id, &self.options, &self.subscription) + outcomes
    }
}
