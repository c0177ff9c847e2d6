//! Who is to own what, after members or topics have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use tidelog_types::{Generation, GroupName, MemberId, TopicId, TopicName, TopicPartition};

use super::assign::{Plan, Problem, range, round_robin, sticky};
use super::command::{GroupLimit, GroupRefusal, MemberRun};
use super::subscription::Subscription;
use super::{Asked, Assignor, Group, MemberKey, Owner, Slot};
use crate::apply::Effects;
use crate::command::Refusal;
use crate::limits::GROUP_PARTITIONS_PER_CLUSTER_MAX;
use crate::state::State;
use crate::topic::Topic;

impl State {
    /// Works out who is to own what in the groups whose members or topics an entry has changed.
    pub(crate) fn settle_groups(&mut self, effects: &mut Effects) {
        if effects.unsettled.is_empty() {
            return;
        }
        let (topics, names) = (self.topics.clone(), self.names.clone());
        for name in std::mem::take(&mut effects.unsettled) {
            let new = Generation(self.next_generation);
            let settled = self.edit_group(&name, |group| {
                let changed = group.settle(&Catalogue { topics: &topics, names: &names }, new);
                (changed, group.members.is_empty() && group.offsets.is_empty())
            });
            let Some((changed, idle)) = settled else { continue };
            if idle {
                self.close_group(&name);
            }
            self.next_generation += u64::from(changed);
            if changed || idle {
                // No outcome tells it, and replicas have to agree on it.
                for (_, slot) in self.groups.get(&name).into_iter().flat_map(|group| group.all_slots()) {
                    self.digest.word(slot.target.map_or(0, |member| member.0));
                    self.digest.word(slot.owner.map_or(0, |owner| owner.member.0));
                }
                effects.groups.insert(name);
            }
        }
    }

    /// The groups in which somebody subscribes to a topic.
    pub(crate) fn groups_of_topic<'a>(&'a self, name: &'a TopicName) -> impl Iterator<Item = &'a GroupName> {
        self.groups.iter().filter(|(_, group)| group.subscribes(name)).map(|(group, _)| group)
    }

    /// The groups that share the partitions of a topic.
    pub(crate) fn groups_sharing(&self, topic: TopicId) -> impl Iterator<Item = &GroupName> {
        self.groups.iter().filter(move |(_, group)| group.topics.contains_key(&topic)).map(|(group, _)| group)
    }

    /// Whether these many groups can share these many partitions more.
    pub(crate) fn check_group_partitions(&self, groups: usize, partitions: u32) -> Result<(), GroupRefusal> {
        let added = groups as u64 * u64::from(partitions);
        if added > 0 && self.group_partitions + added > GROUP_PARTITIONS_PER_CLUSTER_MAX {
            return Err(GroupRefusal::Full { limit: GroupLimit::Partitions });
        }
        Ok(())
    }

    /// Takes the assignment that a member was asked for.
    pub(super) fn assign_partitions(
        &mut self,
        name: &GroupName,
        who: &MemberRun,
        generation: Generation,
        members: &[(MemberId, Vec<TopicPartition>)],
    ) -> Result<(), Refusal> {
        let group = self.groups.get(name).ok_or(GroupRefusal::UnknownMember)?;
        let key = group.present(who).ok_or(GroupRefusal::UnknownMember)?.key;
        if group.asked != Some(Asked { member: key, generation }) {
            return Err(GroupRefusal::StaleGeneration { current: group.generation }.into());
        }
        let targets = group.given_targets(members, &self.topics).ok_or(Refusal::Malformed)?;
        let new = Generation(self.next_generation);
        self.next_generation += 1;
        self.edit_group(name, |group| {
            group.asked = None;
            let target = |topic, partition| targets.get(&(topic, partition)).copied();
            let changed = group.retarget(target, new);
            group.note_change(&changed, new);
        });
        Ok(())
    }
}

/// The topics of the cluster.
struct Catalogue<'a> {
    topics: &'a OrdMap<TopicId, Arc<Topic>>,
    names: &'a OrdMap<TopicName, TopicId>,
}

impl Catalogue<'_> {
    fn topic_of(&self, name: &TopicName) -> Option<(TopicId, usize)> {
        let topic = self.topics.get(self.names.get(name)?)?;
        Some((topic.id(), topic.partitions.len()))
    }
}

impl Group {
    /// Sets all targets anew, and gives what is free to its target. Returns whether anything changed.
    fn settle(&mut self, catalogue: &Catalogue<'_>, new: Generation) -> bool {
        self.assignor = self.vote();
        let problem = Problem::of(self, |name| catalogue.topic_of(name));
        let plan = match self.assignor {
            Assignor::Sticky => sticky::assign(&problem),
            Assignor::Range => range::assign(&problem),
            Assignor::RoundRobin => round_robin::assign(&problem),
            Assignor::Client => kept(&problem),
        };
        let mut changed = self.drop_deleted(catalogue);
        for topic in &problem.topics {
            let slots = self.topics.entry(topic.id).or_default();
            if slots.len() < topic.partitions.len() {
                Arc::make_mut(slots).resize(topic.partitions.len(), Slot::default());
            }
        }
        let planned: BTreeMap<TopicId, Vec<Option<usize>>> =
            problem.topics.iter().map(|topic| topic.id).zip(plan).collect();
        let target = |topic, partition| {
            let member: usize = (*planned.get(&topic)?.get(partition)?)?;
            Some(problem.members.get(member)?.key)
        };
        changed.append(&mut self.retarget(target, new));
        let idle = |topic: &TopicId, slots: &[Slot]| {
            !planned.contains_key(topic) && slots.iter().all(|slot| slot.owner.is_none())
        };
        self.topics.retain(|topic, slots| !idle(topic, slots));
        let asked = self.choose_asked(new);
        let changes = !changed.is_empty() || asked != self.asked;
        self.asked = asked;
        if changes {
            self.note_change(&changed, new);
        }
        changes
    }

    /// Sets the target of each partition, and gives what has no owner to its target. What belongs to somebody who has left
    /// has none; nor has what would be taken from a static member that is away, for it has stopped reading. Returns whose part
    /// is another one now.
    fn retarget(
        &mut self,
        target: impl Fn(TopicId, usize) -> Option<MemberKey>,
        new: Generation,
    ) -> BTreeSet<MemberKey> {
        let away: BTreeSet<MemberKey> =
            self.members.values().filter(|member| member.away).map(|member| member.key).collect();
        let keys = &self.keys;
        let mut changed = BTreeSet::new();
        self.releasing = 0;
        for (topic, slots) in &mut self.topics {
            for partition in 0..slots.len() {
                let Some(before) = slots.get(partition).copied() else { continue };
                let target = target(*topic, partition);
                let stays = |owner: &Owner| {
                    keys.contains_key(&owner.member)
                        && (target == Some(owner.member) || !away.contains(&owner.member))
                };
                let kept = before.owner.filter(stays);
                let owner = kept.or(target.map(|member| Owner { member, since: new }));
                let mut slot = Slot { target, owner, moved: Generation::ZERO };
                if slot.is_releasing() {
                    slot.moved = if before.is_releasing() { before.moved } else { new };
                    self.releasing += 1;
                }
                if slot == before {
                    continue;
                }
                // An owner that is neither has been told to release it before.
                changed.extend([before.target, slot.target].into_iter().flatten());
                if let Some(place) = Arc::make_mut(slots).get_mut(partition) {
                    *place = slot;
                }
            }
        }
        changed
    }

    /// Drops the topics that are gone. Returns who had to do with them.
    fn drop_deleted(&mut self, catalogue: &Catalogue<'_>) -> BTreeSet<MemberKey> {
        let mut changed = BTreeSet::new();
        self.topics.retain(|topic, slots| {
            let exists = catalogue.topics.contains_key(topic);
            if !exists {
                changed.extend(slots.iter().filter_map(|slot| slot.target));
                changed.extend(slots.iter().filter_map(|slot| slot.owner).map(|owner| owner.member));
            }
            exists
        });
        changed
    }

    /// Whether somebody subscribes to a topic.
    fn subscribes(&self, name: &TopicName) -> bool {
        let mut last: Option<&Subscription> = None;
        self.members.values().any(|member| {
            // Most members share one subscription.
            let seen = last == Some(&member.subscription);
            last = Some(&member.subscription);
            !seen && member.subscription.contains(name)
        })
    }

    /// The targets that a client chose; `None` if it names members, topics or partitions that there are not, topics that the
    /// member does not subscribe to, or a partition twice.
    fn given_targets(
        &self,
        members: &[(MemberId, Vec<TopicPartition>)],
        topics: &OrdMap<TopicId, Arc<Topic>>,
    ) -> Option<BTreeMap<(TopicId, usize), MemberKey>> {
        let mut targets = BTreeMap::new();
        for (id, partitions) in members {
            let member = self.member(id)?;
            for at in partitions {
                self.slot(*at)?;
                if !member.subscription.contains(topics.get(&at.topic)?.name()) {
                    return None;
                }
                if targets.insert((at.topic, at.partition.position()), member.key).is_some() {
                    return None;
                }
            }
        }
        Some(targets)
    }

    /// What most members ask for that are here; of several with as many, the first.
    fn vote(&self) -> Assignor {
        let wishes = |assignor: &Assignor| {
            let here = self.members.values().filter(|member| !member.away);
            here.filter(|member| member.options.assignor == *assignor).count()
        };
        let most = Assignor::ALL.into_iter().rev().max_by_key(wishes);
        most.filter(|assignor| wishes(assignor) > 0).unwrap_or(self.assignor)
    }

    /// The member to ask for an assignment: of those that are here and want to be asked, the one that joined first.
    fn choose_asked(&self, generation: Generation) -> Option<Asked> {
        let wants = |key: &&MemberKey| {
            self.member_by_key(**key)
                .is_some_and(|(_, member)| !member.away && member.options.assignor == Assignor::Client)
        };
        let member = *self.keys.keys().find(wants).filter(|_| self.assignor == Assignor::Client)?;
        Some(Asked { member, generation })
    }
}

/// Everybody is to own what it was to own, as far as it still subscribes to it.
fn kept(problem: &Problem) -> Plan {
    let topics = problem.topics.iter().enumerate();
    topics
        .map(|(topic, known)| {
            let fits = |member: &usize| problem.subscribes(*member, topic);
            known.partitions.iter().map(|held| held.target.filter(fits)).collect()
        })
        .collect()
}
