//! The state as records.

use std::io::{self, Write};

use super::RecordWriter;
use crate::convert::uuid_bytes;
use crate::entry::FEATURE_LEVEL;
use crate::producer::Windows;
use crate::slices::SliceLog;
use crate::state::{AgentMemory, State};
use crate::topic::{Partition, Topic};
use crate::wire;
use crate::wire::snapshot_record::Record;

/// Elements per record of a long list: a record stays below some 100 KiB.
pub(super) const CHUNK: usize = 4096;
/// Windows per record; a window is a message of its own.
const WINDOW_CHUNK: usize = 512;

/// Writes all records of a state, in the order that the format asks for.
pub(super) fn state<W: Write>(state: &State, out: &mut RecordWriter<W>) -> io::Result<()> {
    out.record(Record::Header(header(state)))?;
    objects(state, out)?;
    producers(state, out)?;
    for (name, topics) in &state.directories {
        let directory = wire::SnapshotDirectory { name: name.as_str().to_owned(), topics: *topics };
        out.record(Record::Directory(directory))?;
    }
    for known in state.topics.values() {
        topic(known, out)?;
    }
    for (instance, memory) in &state.agents {
        let agent = wire::SnapshotAgent {
            agent: uuid_bytes(instance.0),
            lowest_unresolved: memory.lowest_unresolved.0,
            last_index: memory.last_index.0,
            outcomes: memory.outcomes.len() as u64,
        };
        out.record(Record::Agent(agent))?;
        outcomes(memory, out)?;
    }
    state.groups.iter().try_for_each(|(name, group)| super::write_group::group(name, group, out))
}

fn header(state: &State) -> wire::SnapshotHeader {
    wire::SnapshotHeader {
        level: FEATURE_LEVEL.0,
        cluster_id: state.cluster.map(|id| uuid_bytes(id.0)).unwrap_or_default(),
        next_epoch: state.next.epoch.0,
        next_seq: state.next.seq.0,
        index: state.index.0,
        seal_id: state.seal.map(|id| uuid_bytes(id.0)).unwrap_or_default(),
        leader: state.leader.as_ref().map(|leader| uuid_bytes(leader.agent.0)).unwrap_or_default(),
        leader_address: state.leader.as_ref().map(|leader| leader.address.clone()).unwrap_or_default(),
        log_time_ms: state.log_time.0,
        digest: state.digest.0,
        snapshots: state.snapshots.iter().map(Into::into).collect(),
        truncated_below_epoch: state.truncated_below.epoch.0,
        truncated_below_seq: state.truncated_below.seq.0,
        closed_epochs: state.epoch_ends.keys().map(|epoch| epoch.0).collect(),
        closed_epoch_seals: state.epoch_ends.values().map(|seal| seal.0).collect(),
        floor: state.floor.0,
        next_topic: state.next_topic,
        next_producer: state.next_producer,
        next_object: state.next_object,
        next_generation: state.next_generation,
    }
}

fn objects<W: Write>(state: &State, out: &mut RecordWriter<W>) -> io::Result<()> {
    in_chunks(state.objects.iter(), CHUNK, |objects| {
        let mut message = wire::SnapshotObjects::default();
        let (mut number, mut committed) = (0, 0);
        let mut ids = Vec::with_capacity(objects.len() * 16);
        for (id, object) in objects {
            message.number_deltas.push(id.0 - number);
            number = id.0;
            message.named_at.push(object.named_at.0);
            ids.extend_from_slice(object.id.0.as_bytes());
            message.committed_deltas.push(object.committed.0.wrapping_sub(committed));
            committed = object.committed.0;
            message.size_bytes.push(object.size_bytes);
            message.references.push(object.references);
        }
        message.ids = ids.into();
        out.record(Record::Objects(message))
    })
}

fn producers<W: Write>(state: &State, out: &mut RecordWriter<W>) -> io::Result<()> {
    in_chunks(state.producers.iter(), CHUNK, |producers| {
        let mut message = wire::SnapshotProducers::default();
        let (mut previous, mut last_used) = (0, 0);
        for (id, producer) in producers {
            message.id_deltas.push(id.get() - previous);
            previous = id.get();
            message.epochs.push(producer.epoch.get().into());
            message.last_used_deltas.push(producer.last_used.0.wrapping_sub(last_used));
            last_used = producer.last_used.0;
        }
        out.record(Record::Producers(message))
    })
}

fn topic<W: Write>(topic: &Topic, out: &mut RecordWriter<W>) -> io::Result<()> {
    let number = topic.directory.strip_prefix(topic.name.as_str()).and_then(|rest| rest.strip_prefix('~'));
    let pair =
        |(key, value): (&str, &str)| wire::ConfigPair { key: key.to_owned(), value: Some(value.to_owned()) };
    out.record(Record::Topic(wire::SnapshotTopic {
        id: topic.id.0,
        name: topic.name.as_str().to_owned(),
        directory_number: number.and_then(|number| number.parse().ok()).unwrap_or(1),
        created_ms: topic.created.0,
        config: topic.config.overrides().map(pair).collect(),
        partitions: topic.partition_count(),
    }))?;
    topic.partitions.iter().try_for_each(|known| partition(known, out))
}

fn partition<W: Write>(partition: &Partition, out: &mut RecordWriter<W>) -> io::Result<()> {
    let first = partition.slices.first().map_or(partition.end, |slice| slice.base_offset);
    out.record(Record::Partition(wire::SnapshotPartition {
        log_start: partition.log_start.get(),
        first_slice_before: partition.log_start.get() - first.get(),
        end: partition.end.get(),
        windows: partition.windows.len() as u64,
    }))?;
    slices(&partition.slices, out)?;
    windows(&partition.windows, out)
}

fn slices<W: Write>(slices: &SliceLog, out: &mut RecordWriter<W>) -> io::Result<()> {
    in_chunks(slices.iter(), CHUNK, |slices| {
        let mut message = wire::SnapshotSlices::default();
        let (mut object, mut timestamp) = (0, 0);
        for slice in slices {
            // Wrapping: the reader adds up the same way.
            message.object_deltas.push(slice.object.0.wrapping_sub(object).cast_signed());
            object = slice.object.0;
            message.positions.push(slice.position);
            message.lengths.push(slice.length);
            message.records.push(slice.records);
            message.max_timestamp_deltas.push(slice.max_timestamp.0.wrapping_sub(timestamp));
            timestamp = slice.max_timestamp.0;
        }
        out.record(Record::Slices(message))
    })
}

fn windows<W: Write>(windows: &Windows, out: &mut RecordWriter<W>) -> io::Result<()> {
    in_chunks(windows.iter(), WINDOW_CHUNK, |windows| {
        let windows = windows.iter().map(|(producer, window)| {
            let mut end = 0;
            let base_offset_deltas = window.remembered().map(|batch| {
                let delta = batch.base_offset.get() - end;
                end = batch.base_offset.get() + i64::from(batch.records);
                delta
            });
            wire::SnapshotWindow {
                producer: producer.get(),
                epoch: window.epoch().get().into(),
                base_offset_deltas: base_offset_deltas.collect(),
                base_sequence: window.remembered().next().map_or(0, |batch| batch.base_sequence.get()),
                records: window.remembered().map(|batch| batch.records).collect(),
            }
        });
        out.record(Record::Windows(wire::SnapshotWindows { windows: windows.collect() }))
    })
}

fn outcomes<W: Write>(memory: &AgentMemory, out: &mut RecordWriter<W>) -> io::Result<()> {
    memory.outcomes.iter().try_for_each(|(number, outcome)| {
        let outcome = wire::SnapshotOutcome { number: number.0, outcome: Some((&**outcome).into()) };
        out.record(Record::Outcome(outcome))
    })
}

/// Hands the items on in groups of at most `size`.
pub(super) fn in_chunks<T>(
    items: impl Iterator<Item = T>,
    size: usize,
    mut write: impl FnMut(&[T]) -> io::Result<()>,
) -> io::Result<()> {
    let mut chunk = Vec::new();
    for item in items {
        chunk.push(item);
        if chunk.len() == size {
            write(&chunk)?;
            chunk.clear();
        }
    }
    if chunk.is_empty() { Ok(()) } else { write(&chunk) }
}
