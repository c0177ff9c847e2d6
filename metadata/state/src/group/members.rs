//! Joining, leaving, releasing.

use std::sync::Arc;

use tidelog_types::{Generation, GroupName, LogEpoch, LogIndex, TopicPartition};

use super::command::{
    GroupChange, GroupCommand, GroupLimit, GroupOutcome, GroupRefusal, MemberOptions, MemberRun,
};
use super::roster::{Seat, weight};
use super::subscription::Subscription;
use super::{Group, Member, MemberKey};
use crate::apply::Effects;
use crate::command::Refusal;
use crate::limits::{
    GROUP_BYTES_PER_CLUSTER_MAX, GROUP_PARTITIONS_PER_CLUSTER_MAX, GROUPS_PER_CLUSTER_MAX,
    MEMBERS_PER_GROUP_MAX, TOPICS_PER_SUBSCRIPTION_MAX,
};
use crate::state::State;

impl State {
    pub(crate) fn change_group(
        &mut self,
        command: &GroupCommand,
        effects: &mut Effects,
    ) -> Result<GroupOutcome, Refusal> {
        let name = &command.group;
        let outcome = match &command.change {
            GroupChange::Join { who, options, matched } => {
                self.join_group(name, who, options, matched)?;
                effects.members_changed(name);
                GroupOutcome::Joined
            }
            GroupChange::ResolvePattern { who, pattern, matched } => {
                self.resolve_pattern(name, who, pattern, matched)?;
                effects.members_changed(name);
                GroupOutcome::PatternResolved
            }
            GroupChange::Leave { who, permanently } => {
                self.leave_group(name, who, *permanently);
                effects.members_changed(name);
                GroupOutcome::Left
            }
            GroupChange::Expire { who, renewed, epoch } => {
                self.expire_member(name, who, *renewed, *epoch)?;
                effects.members_changed(name);
                GroupOutcome::Expired
            }
            GroupChange::Release { who, generation, partitions } => {
                let released = self.release_partitions(name, who, *generation, partitions)?;
                if released > 0 {
                    effects.groups.insert(name.clone());
                }
                GroupOutcome::Released(released)
            }
            GroupChange::Assign { who, generation, members } => {
                self.assign_partitions(name, who, *generation, members)?;
                effects.groups.insert(name.clone());
                GroupOutcome::Assigned
            }
            GroupChange::Commit { by, offsets } => {
                GroupOutcome::OffsetsCommitted(self.commit_offsets(name, by.as_ref(), offsets)?)
            }
            GroupChange::Delete => {
                self.delete_group(name)?;
                effects.groups.insert(name.clone());
                GroupOutcome::Deleted
            }
        };
        Ok(outcome)
    }

    fn join_group(
        &mut self,
        name: &GroupName,
        who: &MemberRun,
        options: &Arc<MemberOptions>,
        matched: &Subscription,
    ) -> Result<(), Refusal> {
        let subscription = options.topics.union(matched);
        let patternless_match = options.pattern.is_empty() && !matched.is_empty();
        if !options.is_sound() || patternless_match || subscription.len() > TOPICS_PER_SUBSCRIPTION_MAX {
            return Err(Refusal::Malformed);
        }
        let group = self.groups.get(name);
        let seat = group.map_or(Ok(Seat::New), |group| group.seat(who, options.instance.as_ref()))?;
        self.check_room(name, &seat, who, options, &subscription)?;
        self.open_group(name);
        let renewed = self.index;
        let new = Generation(self.next_generation);
        self.next_generation += u64::from(!matches!(seat, Seat::Same));
        self.edit_group(name, |group| {
            let before = match &seat {
                Seat::New => None,
                Seat::Same => group.take(&who.member),
                Seat::Away(id) => group.take(id),
            };
            let subscription = group.shared(subscription);
            let mut member = before.unwrap_or_else(|| Arc::new(Member::new(MemberKey(new.0), who, options)));
            let known = Arc::make_mut(&mut member);
            if known.incarnation != who.incarnation {
                known.incarnation = who.incarnation;
                known.last_commit = None;
            }
            if !matches!(seat, Seat::Same) {
                known.generation = new;
                group.generation = new;
            }
            // What it finds it owns from now on, or what its predecessor sent late would count.
            if matches!(seat, Seat::Away(_)) {
                group.own_anew(known.key, new);
            }
            known.renewed = renewed;
            known.away = false;
            known.options = Arc::clone(options);
            if options.topics == subscription {
                Arc::make_mut(&mut known.options).topics = subscription.clone();
            }
            known.subscription = subscription;
            group.insert(who.member.clone(), member);
        });
        Ok(())
    }

    /// Whether there is room for one that joins. Partitions are counted as they were after the last entry, so that members
    /// that join within one entry can exceed their limit a little.
    fn check_room(
        &self,
        name: &GroupName,
        seat: &Seat,
        who: &MemberRun,
        options: &MemberOptions,
        subscription: &Subscription,
    ) -> Result<(), Refusal> {
        let full = |limit| Err(Refusal::Group(GroupRefusal::Full { limit }));
        let group = self.groups.get(name);
        if group.is_none() && self.groups.len() >= GROUPS_PER_CLUSTER_MAX {
            return full(GroupLimit::Groups);
        }
        let members = group.map_or(0, |group| group.members.len());
        if matches!(seat, Seat::New) && members >= MEMBERS_PER_GROUP_MAX {
            return full(GroupLimit::Members);
        }
        let replaced = match seat {
            Seat::New => None,
            Seat::Same => group.and_then(|group| group.members.get_key_value(&who.member)),
            Seat::Away(id) => group.and_then(|group| group.members.get_key_value(id)),
        };
        let before = replaced.map_or(0, |(id, member)| member.weight(id));
        let after = weight(&who.member, options, subscription);
        if after > before && self.group_bytes + after - before > GROUP_BYTES_PER_CLUSTER_MAX {
            return full(GroupLimit::Bytes);
        }
        let added: u64 = subscription
            .names()
            .iter()
            .filter_map(|name| self.topic_by_name(name))
            .filter(|topic| group.is_none_or(|group| !group.topics.contains_key(&topic.id())))
            .map(|topic| u64::from(topic.partition_count()))
            .sum();
        if added > 0 && self.group_partitions + added > GROUP_PARTITIONS_PER_CLUSTER_MAX {
            return full(GroupLimit::Partitions);
        }
        Ok(())
    }

    fn resolve_pattern(
        &mut self,
        name: &GroupName,
        who: &MemberRun,
        pattern: &str,
        matched: &Subscription,
    ) -> Result<(), Refusal> {
        let group = self.groups.get(name).ok_or(GroupRefusal::UnknownMember)?;
        let member = group.members.get(&who.member).ok_or(GroupRefusal::UnknownMember)?;
        // One that is away gets new topics as well: it is to find what others would not leave to it.
        if member.incarnation != who.incarnation || member.options.pattern != pattern || pattern.is_empty() {
            return Err(GroupRefusal::UnknownMember.into());
        }
        let options = Arc::clone(&member.options);
        let subscription = options.topics.union(matched);
        if subscription.len() > TOPICS_PER_SUBSCRIPTION_MAX {
            return Err(Refusal::Malformed);
        }
        self.check_room(name, &Seat::Same, who, &options, &subscription)?;
        self.edit_group(name, |group| {
            let Some(mut member) = group.take(&who.member) else { return };
            Arc::make_mut(&mut member).subscription = group.shared(subscription);
            group.insert(who.member.clone(), member);
        });
        Ok(())
    }

    fn leave_group(&mut self, name: &GroupName, who: &MemberRun, permanently: bool) {
        let Some(group) = self.groups.get_mut(name) else { return };
        let Some(member) = group.member(&who.member) else { return };
        if member.incarnation != who.incarnation {
            return;
        }
        let stays = member.options.instance.is_some() && !permanently;
        let log_time = self.log_time;
        self.edit_group(name, |group| {
            if stays && let Some(member) = group.members.get_mut(&who.member) {
                Arc::make_mut(member).away = true;
            } else {
                group.remove(&who.member, log_time);
            }
        });
    }

    fn expire_member(
        &mut self,
        name: &GroupName,
        who: &MemberRun,
        renewed: LogIndex,
        epoch: LogEpoch,
    ) -> Result<(), Refusal> {
        let group = self.groups.get(name).ok_or(GroupRefusal::UnknownMember)?;
        let member = group.member(&who.member).filter(|member| member.incarnation == who.incarnation);
        let member = member.ok_or(GroupRefusal::UnknownMember)?;
        if member.renewed != renewed || self.next.epoch != epoch {
            return Err(GroupRefusal::Renewed.into());
        }
        let log_time = self.log_time;
        self.edit_group(name, |group| group.remove(&who.member, log_time));
        Ok(())
    }

    fn release_partitions(
        &mut self,
        name: &GroupName,
        who: &MemberRun,
        generation: Generation,
        partitions: &[TopicPartition],
    ) -> Result<u32, Refusal> {
        let group = self.groups.get(name).ok_or(GroupRefusal::UnknownMember)?;
        let key = group.present(who).ok_or(GroupRefusal::UnknownMember)?.key;
        let new = Generation(self.next_generation);
        let released =
            self.edit_group(name, |group| group.release(key, generation, partitions, new)).unwrap_or(0);
        self.next_generation += u64::from(released > 0);
        Ok(released)
    }

    /// Makes a group if there is none of that name.
    pub(super) fn open_group(&mut self, name: &GroupName) {
        if !self.groups.contains_key(name) {
            let group = Group::new(self.log_time);
            self.group_bytes += group.weight();
            self.groups.insert(name.clone(), Arc::new(group));
        }
    }

    /// Changes a group, and counts what all groups weigh and share.
    pub(super) fn edit_group<R>(
        &mut self,
        name: &GroupName,
        edit: impl FnOnce(&mut Group) -> R,
    ) -> Option<R> {
        let group = Arc::make_mut(self.groups.get_mut(name)?);
        let (weight, partitions) = (group.weight(), group.partition_count());
        let result = edit(group);
        self.group_bytes = self.group_bytes + group.weight() - weight;
        self.group_partitions = self.group_partitions + group.partition_count() - partitions;
        Some(result)
    }

    /// Forgets a group.
    pub(super) fn close_group(&mut self, name: &GroupName) {
        let Some(group) = self.groups.remove(name) else { return };
        self.group_bytes -= group.weight();
        self.group_partitions -= group.partition_count();
    }
}
