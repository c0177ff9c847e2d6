//! What holds in every state, whatever was applied.

use std::collections::BTreeMap;

use tidelog_types::Offset;

use crate::state::State;
use crate::topic::Partition;

/// Recomputes all that follows from something else, and compares.
pub fn assert_coherent(state: &State) {
    let mut references = BTreeMap::new();
    let mut partitions_total = 0;
    let mut directories = std::collections::BTreeSet::new();
    for (id, topic) in &state.topics {
        assert_eq!(*id, topic.id());
        assert_eq!(state.names.get(topic.name()), Some(id), "each topic is found by its name");
        assert!(id.0 < state.next_topic, "topic ids are never used twice");
        assert!(directories.insert(topic.directory().to_owned()), "directories are never used twice");
        assert!(state.directories.contains_key(topic.name()));
        partitions_total += u64::from(topic.partition_count());
        for (_, partition) in topic.partitions() {
            assert_partition(state, partition);
            for slice in partition.slices().iter() {
                *references.entry(slice.object).or_insert(0_u32) += 1;
                let object = state.object(slice.object).expect("a slice lies in a known object");
                assert!(slice.position + slice.length <= object.size_bytes);
            }
        }
    }
    assert_eq!(state.names.len(), state.topics.len());
    assert_eq!(state.partitions_total(), partitions_total);
    let kept: BTreeMap<_, _> = state.objects().map(|(id, object)| (id, object.references)).collect();
    assert_eq!(kept, references, "an object is kept as long as slices refer to it, and no longer");
    assert!(kept.keys().all(|id| id.0 < state.next_object));
    super::coherence_groups::assert_groups_coherent(state);
    for memory in state.agents.values() {
        assert!(memory.outcomes.keys().all(|number| *number >= memory.lowest_unresolved));
    }
}

fn assert_partition(state: &State, partition: &Partition) {
    assert!(partition.log_start() <= partition.end());
    let mut next: Option<Offset> = None;
    for slice in partition.slices().iter() {
        assert!(next.is_none_or(|next| next == slice.base_offset), "INV-4: offsets are dense");
        assert!(slice.end_offset() > partition.log_start(), "no slice lies below the log start");
        next = Some(slice.end_offset());
    }
    assert_eq!(next.unwrap_or(partition.end()), partition.end());
    let first = partition.slices().first().map_or(partition.end(), |slice| slice.base_offset);
    assert!(first <= partition.log_start(), "every offset from the log start on can be read");
    let bytes: u64 = partition.slices().iter().map(|slice| u64::from(slice.length)).sum();
    assert_eq!(partition.bytes(), bytes);
    for (id, window) in partition.windows.iter() {
        let producer = state.producers.get(&id).expect("a window is of a known producer");
        assert!(window.epoch() <= producer.epoch);
        assert!(window.remembered().all(|batch| batch.base_offset < partition.end()));
    }
}
