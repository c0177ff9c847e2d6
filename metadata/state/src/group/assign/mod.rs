//! How partitions are shared among members: pure functions over positions.
//!
//! Map: this file the question and its answer · [`sticky`], [`range`], [`round_robin`] three ways to answer it.

pub(super) mod range;
pub(super) mod round_robin;
pub(super) mod sticky;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use tidelog_types::{TopicId, TopicName};

use super::subscription::Subscription;
use super::{Group, MemberKey};

/// Members and topics of a group, by position.
#[derive(Debug)]
pub(super) struct Problem {
    /// Static members by instance id, then the others by id, as Kafka orders them.
    pub members: Vec<Candidate>,
    /// Members by their subscription; usually there is one class.
    pub classes: Vec<Class>,
    /// The topics that exist and that somebody subscribes to, by name.
    pub topics: Vec<Topic>,
}

#[derive(Debug)]
pub(super) struct Candidate {
    pub key: MemberKey,
    pub class: usize,
}

/// Members with the same subscription.
#[derive(Debug)]
pub(super) struct Class {
    /// For each topic, whether it is subscribed.
    pub topics: Vec<bool>,
    /// The members, rising.
    pub members: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub id: TopicId,
    /// One for each partition.
    pub partitions: Vec<Held>,
}

/// Who has a partition so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    /// The member that was to own it.
    pub target: Option<usize>,
    /// The member that owns it.
    pub owner: Option<usize>,
}

/// For each topic and partition, the member that is to own it.
pub(super) type Plan = Vec<Vec<Option<usize>>>;

impl Problem {
    /// `topic_of` gives the id and the number of partitions of the topic of a name.
    pub fn of(group: &Group, topic_of: impl Fn(&TopicName) -> Option<(TopicId, usize)>) -> Self {
        let mut members: Vec<_> = group.members.iter().collect();
        members.sort_by_key(|(id, member)| {
            let instance = member.options.instance.as_ref();
            (instance.is_none(), instance, *id)
        });
        let mut numbers: BTreeMap<&Subscription, usize> = BTreeMap::new();
        let mut classes: Vec<Vec<usize>> = Vec::new();
        let mut candidates = Vec::with_capacity(members.len());
        for (position, (_, member)) in members.into_iter().enumerate() {
            let class = *numbers.entry(&member.subscription).or_insert_with(|| {
                classes.push(Vec::new());
                classes.len() - 1
            });
            if let Some(class) = classes.get_mut(class) {
                class.push(position);
            }
            candidates.push(Candidate { key: member.key, class });
        }
        let names: BTreeSet<&TopicName> = numbers.keys().flat_map(|names| names.names()).collect();
        let positions: BTreeMap<MemberKey, usize> =
            candidates.iter().enumerate().map(|(position, member)| (member.key, position)).collect();
        let mut topics = Vec::new();
        let mut topic_positions = BTreeMap::new();
        for name in names {
            let Some((id, count)) = topic_of(name) else { continue };
            topic_positions.insert(name, topics.len());
            let mut partitions = vec![Held::default(); count];
            for (held, slot) in partitions.iter_mut().zip(group.slots(id)) {
                held.target = slot.target.and_then(|key| positions.get(&key)).copied();
                held.owner = slot.owner.and_then(|owner| positions.get(&owner.member)).copied();
            }
            topics.push(Topic { id, partitions });
        }
        let mut subscribed = vec![Vec::new(); classes.len()];
        for (subscription, class) in numbers {
            let mut of_class = vec![false; topics.len()];
            for position in subscription.names().iter().filter_map(|name| topic_positions.get(name)) {
                if let Some(topic) = of_class.get_mut(*position) {
                    *topic = true;
                }
            }
            if let Some(topics) = subscribed.get_mut(class) {
                *topics = of_class;
            }
        }
        let classes =
            subscribed.into_iter().zip(classes).map(|(topics, members)| Class { topics, members }).collect();
        Self { members: candidates, classes, topics }
    }

    /// Whether a member subscribes to a topic.
    pub fn subscribes(&self, member: usize, topic: usize) -> bool {
        let class = self.members.get(member).and_then(|member| self.classes.get(member.class));
        class.is_some_and(|class| class.has(topic))
    }

    /// The members that subscribe to a topic, rising.
    pub fn subscribers(&self, topic: usize) -> Vec<usize> {
        let mut members: Vec<usize> = self
            .classes
            .iter()
            .filter(|class| class.has(topic))
            .flat_map(|class| class.members.iter().copied())
            .collect();
        members.sort_unstable();
        members
    }
}

impl Class {
    pub fn has(&self, topic: usize) -> bool {
        self.topics.get(topic).copied().unwrap_or(false)
    }
}
