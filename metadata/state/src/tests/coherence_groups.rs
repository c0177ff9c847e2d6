//! What holds of groups in every state.

use std::collections::BTreeSet;

use tidelog_types::{TopicId, TopicPartition};

use crate::group::{Assignor, Group};
use crate::state::State;

/// Recomputes all that follows from something else, and compares.
pub fn assert_groups_coherent(state: &State) {
    let weights: u64 = state.groups.values().map(|group| group.weight()).sum();
    assert_eq!(state.group_bytes, weights);
    let partitions: u64 = state.groups.values().map(|group| group.partition_count()).sum();
    assert_eq!(state.group_partitions, partitions);
    for group in state.groups.values() {
        assert_members(state, group);
        assert_owners(state, group);
        assert_offsets(state, group);
        assert!(group.members().len() > 0 || group.offsets().next().is_some(), "something is left of it");
        assert!(group.generation().0 < state.next_generation);
    }
}

fn assert_members(state: &State, group: &Group) {
    let keys: Vec<_> = group.keys.iter().map(|(key, id)| (*key, id.clone())).collect();
    let mut expected: Vec<_> = group.members().map(|(id, member)| (member.key(), id.clone())).collect();
    expected.sort();
    assert_eq!(keys, expected);
    let mut instances = BTreeSet::new();
    for (_, member) in group.members() {
        assert!(member.renewed() < state.index());
        assert!(member.generation() <= group.generation() && member.generation().0 >= member.key().0);
        let instance = member.options().instance.as_ref();
        assert!(instance.is_some() || !member.is_away());
        assert!(instance.is_none_or(|instance| instances.insert(instance.clone())), "instances are unique");
    }
    if let Some(asked) = group.asked() {
        assert_eq!(group.assignor(), Assignor::Client);
        let (_, member) = group.member_by_key(asked.member).expect("a member was asked");
        assert!(!member.is_away() && member.options().assignor == Assignor::Client);
    }
}

fn assert_owners(state: &State, group: &Group) {
    let mut releasing = 0;
    for (at, slot) in group.all_slots() {
        let topic = state.topic(at.topic).expect("topics that are gone are shared by nobody");
        assert!(topic.partition(at.partition).is_some());
        for key in [slot.target, slot.owner.map(|owner| owner.member)].into_iter().flatten() {
            assert!(group.keys.contains_key(&key), "members that are gone have nothing");
        }
        if let Some((_, target)) = slot.target.and_then(|target| group.member_by_key(target)) {
            assert!(target.subscription().contains(topic.name()), "nobody gets what it does not want");
            assert!(slot.owner.is_some(), "what is free goes to its target at once");
        }
        assert_eq!(slot.moved.0 > 0, slot.is_releasing());
        assert!(slot.moved <= group.generation());
        assert!(slot.owner.is_none_or(|owner| owner.since <= group.generation()));
        if slot.is_releasing() {
            releasing += 1;
            let (_, owner) =
                slot.owner.and_then(|owner| group.member_by_key(owner.member)).expect("an owner");
            assert!(!owner.is_away(), "who is away has released what it has to");
        }
    }
    assert_eq!(group.releasing, releasing);
    let subscribed: BTreeSet<TopicId> = group
        .members()
        .flat_map(|(_, member)| member.subscription().names())
        .filter_map(|name| state.topic_by_name(name).map(|topic| topic.id()))
        .collect();
    for topic in &subscribed {
        let count = state.topic(*topic).map_or(0, |topic| topic.partitions.len());
        assert_eq!(group.slots(*topic).len(), count, "all partitions are shared");
        let all_meant = group.slots(*topic).iter().all(|slot| slot.target.is_some());
        assert!(group.assignor() == Assignor::Client || all_meant, "nothing is left to nobody");
    }
    assert!(!group.members.is_empty() || group.topics.is_empty());
}

fn assert_offsets(state: &State, group: &Group) {
    let mut weight = 0;
    for (at, committed) in group.offsets() {
        assert!(state.partition(at).is_some(), "offsets go with their topic");
        weight += committed.weight();
    }
    weight += group.members.iter().map(|(id, member)| member.weight(id)).sum::<u64>();
    assert_eq!(group.bytes, weight);
}

/// Who owns each partition.
pub fn owners(group: &Group) -> Vec<(TopicPartition, Option<&str>)> {
    let name = |key| group.member_by_key(key).map(|(id, _)| id.as_str());
    group.all_slots().map(|(at, slot)| (at, slot.owner.and_then(|owner| name(owner.member)))).collect()
}
