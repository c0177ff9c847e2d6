//! Consumer groups as records.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tidelog_types::{GroupName, PartitionIndex, TopicId};

use super::RecordWriter;
use super::write::{CHUNK, in_chunks};
use crate::group::command::MemberOptions;
use crate::group::offsets::{Committed, TopicOffsets};
use crate::group::subscription::Subscription;
use crate::group::{Group, Member, Slot, convert};
use crate::wire;
use crate::wire::snapshot_record::Record;
use tidelog_types::MemberId;

/// Offsets per record: each may have metadata of 4 KiB, which are rare.
const OFFSETS_CHUNK: usize = 512;

pub(super) fn group<W: Write>(name: &GroupName, group: &Group, out: &mut RecordWriter<W>) -> io::Result<()> {
    let lists = group.members.values().flat_map(|member| [&member.options.topics, &member.subscription]);
    let mut numbers: BTreeMap<&Subscription, u64> = lists.map(|list| (list, 0)).collect();
    numbers.values_mut().zip(0..).for_each(|(number, next)| *number = next);
    out.record(Record::Group(wire::SnapshotGroup {
        name: name.to_string(),
        generation: group.generation.0,
        assignor: wire::Assignor::from(group.assignor).into(),
        asked_member: group.asked.map_or(0, |asked| asked.member.0),
        asked_generation: group.asked.map_or(0, |asked| asked.generation.0),
        used_ms: group.used.0,
        subscriptions: numbers.len() as u64,
        members: group.members.len() as u64,
        partitions: group.partition_count(),
        offsets: group.offsets.values().map(|offsets| offsets.len() as u64).sum(),
    }))?;
    for list in numbers.keys() {
        out.record(Record::Subscription(wire::SnapshotSubscription { topics: convert::texts(list) }))?;
    }
    for (id, known) in &group.members {
        out.record(Record::Member(member(id, known, &numbers)))?;
    }
    for (topic, slots) in &group.topics {
        let mut first = 0;
        in_chunks(slots.iter(), CHUNK, |slots| {
            let record = owners(*topic, first, slots);
            first += slots.len() as u64;
            out.record(Record::Owners(record))
        })?;
    }
    for (topic, of_topic) in &group.offsets {
        offsets(*topic, of_topic, out)?;
    }
    Ok(())
}

fn member(id: &MemberId, member: &Member, numbers: &BTreeMap<&Subscription, u64>) -> wire::SnapshotMember {
    let number = |list: &Subscription| numbers.get(list).copied().unwrap_or_default();
    let who = crate::group::command::MemberRun { member: id.clone(), incarnation: member.incarnation };
    let without_topics = MemberOptions { topics: Subscription::default(), ..(*member.options).clone() };
    wire::SnapshotMember {
        who: Some((&who).into()),
        key: member.key.0,
        renewed: member.renewed.0,
        generation: member.generation.0,
        options: Some((&without_topics).into()),
        topics: number(&member.options.topics),
        subscription: number(&member.subscription),
        away: member.away,
        last_commit: member.last_commit.as_ref().map(|last| wire::SnapshotCommit {
            number: last.number.0,
            outcomes: last
                .outcomes
                .iter()
                .map(|outcome| wire::OffsetOutcome::from(*outcome).into())
                .collect(),
        }),
    }
}

fn owners(topic: TopicId, first: u64, slots: &[&Slot]) -> wire::SnapshotOwners {
    wire::SnapshotOwners {
        topic: topic.0,
        first,
        targets: slots.iter().map(|slot| slot.target.map_or(0, |key| key.0)).collect(),
        owners: slots.iter().map(|slot| slot.owner.map_or(0, |owner| owner.member.0)).collect(),
        since: slots.iter().map(|slot| slot.owner.map_or(0, |owner| owner.since.0)).collect(),
        moved: slots.iter().map(|slot| slot.moved.0).collect(),
    }
}

fn offsets<W: Write>(topic: TopicId, offsets: &TopicOffsets, out: &mut RecordWriter<W>) -> io::Result<()> {
    in_chunks(offsets.iter(), OFFSETS_CHUNK, |offsets: &[(&PartitionIndex, &Committed)]| {
        let mut committed_at = 0;
        let committed_deltas = offsets.iter().map(|(_, committed)| {
            let delta = committed.committed_at.0.wrapping_sub(committed_at);
            committed_at = committed.committed_at.0;
            delta
        });
        let committed_deltas = committed_deltas.collect();
        let with_metadata =
            offsets.iter().zip(0..).filter(|((_, committed), _)| !committed.metadata.is_empty());
        let metadata = with_metadata.map(|((_, committed), position)| wire::OffsetMetadata {
            position,
            text: committed.metadata.to_string(),
        });
        let of_topic = wire::TopicOffsets {
            topic: topic.0,
            partitions: offsets.iter().map(|(partition, _)| partition.get()).collect(),
            offsets: offsets.iter().map(|(_, committed)| committed.offset.get()).collect(),
            metadata: metadata.collect(),
        };
        out.record(Record::Offsets(wire::SnapshotOffsets { offsets: Some(of_topic), committed_deltas }))
    })
}
