//! Records as a state: what each may say, and what must agree between them.

use std::sync::Arc;

use imbl::OrdMap;
use tidelog_types::{
    AgentInstance, ClusterId, LogEpoch, LogIndex, LogSeq, Place, ProducerId, SegmentId, TimestampMs, TopicId,
    TopicName,
};
use uuid::Uuid;

use super::SnapshotError;
use super::outcome::producer_epoch;
use super::read_group::GroupReader;
use super::read_partition::{ObjectTable, PartitionReader};
use crate::command::{Outcome, ProposalNumber};
use crate::config::TopicConfig;
use crate::digest::Digest;
use crate::entry::{EntryId, FEATURE_LEVEL};
use crate::producer::Producer;
use crate::slices::ObjectId;
use crate::state::{AgentMemory, Leader, State};
use crate::topic::{ObjectRecord, Topic};
use crate::wire;
use crate::wire::snapshot_record::Record;

/// Turns a range error, or an absent value, into one that names the field.
pub(super) trait OrField<T> {
    fn or_field(self, field: &'static str) -> Result<T, SnapshotError>;
}

impl<T, E> OrField<T> for Result<T, E> {
    fn or_field(self, field: &'static str) -> Result<T, SnapshotError> {
        self.map_err(|_| SnapshotError::Field { field })
    }
}

impl<T> OrField<T> for Option<T> {
    fn or_field(self, field: &'static str) -> Result<T, SnapshotError> {
        self.ok_or(SnapshotError::Field { field })
    }
}

/// Refuses what does not hold.
pub(super) fn ensure(holds: bool, otherwise: &'static str) -> Result<(), SnapshotError> {
    if holds { Ok(()) } else { Err(SnapshotError::Incoherent(otherwise)) }
}

/// Counters beyond this were not counted: at a million steps a second they take 146,000 years. Below it, `apply` can
/// count on without looking.
const COUNTER_MAX: u64 = 1 << 62;

fn counter(value: u64, field: &'static str) -> Result<u64, SnapshotError> {
    Some(value).filter(|value| *value <= COUNTER_MAX).or_field(field)
}

fn uuid(bytes: &[u8], field: &'static str) -> Result<Uuid, SnapshotError> {
    Uuid::from_slice(bytes).or_field(field)
}

fn uuid_if_any(bytes: &[u8], field: &'static str) -> Result<Option<Uuid>, SnapshotError> {
    if bytes.is_empty() { Ok(None) } else { uuid(bytes, field).map(Some) }
}

/// A topic whose partitions are being read.
struct OpenTopic {
    topic: Topic,
    partitions: u32,
}

/// An agent whose outcomes are being read.
struct OpenAgent {
    instance: AgentInstance,
    memory: AgentMemory,
    outcomes: u64,
}

/// Builds a state from records in their order.
#[derive(Default)]
pub(super) struct StateReader {
    state: Option<State>,
    /// Field number of the last record's part: parts do not come back.
    part: u8,
    objects: ObjectTable,
    topic: Option<OpenTopic>,
    partition: Option<PartitionReader>,
    agent: Option<OpenAgent>,
    group: Option<GroupReader>,
}

fn group(open: &mut Option<GroupReader>) -> Result<&mut GroupReader, SnapshotError> {
    open.as_mut().ok_or(SnapshotError::Incoherent("a record has no group"))
}

impl StateReader {
    pub(super) fn record(&mut self, record: wire::SnapshotRecord) -> Result<(), SnapshotError> {
        let record = record.record.or_field("record")?;
        let part = match &record {
            Record::Header(_) => 1,
            Record::Objects(_) => 2,
            Record::Producers(_) => 3,
            Record::Directory(_) => 4,
            Record::Topic(_) | Record::Partition(_) | Record::Slices(_) | Record::Windows(_) => 5,
            Record::Agent(_) | Record::Outcome(_) => 9,
            Record::Group(_)
            | Record::Subscription(_)
            | Record::Member(_)
            | Record::Owners(_)
            | Record::Offsets(_) => 11,
        };
        ensure(part >= self.part, "records are out of order")?;
        self.part = part;
        if let Record::Header(message) = record {
            ensure(self.state.is_none(), "it has two headers")?;
            self.state = Some(header(message)?);
            return Ok(());
        }
        let Some(state) = &mut self.state else {
            return Err(SnapshotError::Incoherent("it does not begin with a header"));
        };
        match record {
            Record::Header(_) => Ok(()),
            Record::Objects(message) => objects(state, &mut self.objects, message),
            Record::Producers(message) => producers(state, message),
            Record::Directory(message) => directory(state, message),
            Record::Topic(message) => {
                self.close_topic()?;
                self.open_topic(message)
            }
            Record::Partition(message) => {
                self.close_partition()?;
                self.partition = Some(PartitionReader::new(message)?);
                ensure(self.topic.is_some(), "a partition has no topic")
            }
            Record::Slices(message) => {
                let partition = self.partition.as_mut();
                partition
                    .ok_or(SnapshotError::Incoherent("slices have no partition"))?
                    .slices(message, &mut self.objects)
            }
            Record::Windows(message) => {
                let partition = self.partition.as_mut();
                partition
                    .ok_or(SnapshotError::Incoherent("windows have no partition"))?
                    .windows(message, &state.producers)
            }
            Record::Agent(message) => {
                self.close_topic()?;
                self.close_agent()?;
                self.open_agent(&message)
            }
            Record::Outcome(message) => self.outcome(message),
            Record::Group(message) => {
                self.close_topic()?;
                self.close_agent()?;
                self.close_group()?;
                self.group = Some(GroupReader::new(message, self.open()?)?);
                Ok(())
            }
            Record::Subscription(message) => group(&mut self.group)?.subscription(&message),
            Record::Member(message) => group(&mut self.group)?.member(message, state.index),
            Record::Owners(message) => group(&mut self.group)?.owners(&message, state),
            Record::Offsets(message) => group(&mut self.group)?.offsets(message, state),
        }
    }

    fn close_group(&mut self) -> Result<(), SnapshotError> {
        let Some(group) = self.group.take() else { return Ok(()) };
        group.finish(self.open()?)
    }

    pub(super) fn finish(mut self) -> Result<State, SnapshotError> {
        self.close_topic()?;
        self.close_agent()?;
        self.close_group()?;
        let objects = self.objects.finish()?;
        let mut state = self.state.ok_or(SnapshotError::Incoherent("it does not begin with a header"))?;
        state.objects = objects;
        Ok(state)
    }

    fn open(&mut self) -> Result<&mut State, SnapshotError> {
        self.state.as_mut().ok_or(SnapshotError::Incoherent("it does not begin with a header"))
    }

    fn open_topic(&mut self, message: wire::SnapshotTopic) -> Result<(), SnapshotError> {
        let state = self.open()?;
        let id = TopicId(message.id);
        ensure(id.0 < state.next_topic, "a topic is newer than the next one")?;
        let rising = state.topics.get_max().is_none_or(|(last, _)| *last < id);
        ensure(rising, "topics are out of order")?;
        let name = TopicName::new(&message.name).or_field("topic.name")?;
        let used = state.directories.get(&name).copied().unwrap_or(0);
        let number = message.directory_number;
        ensure((1..=used).contains(&number), "a topic has a directory that was never given")?;
        let pairs = message
            .config
            .iter()
            .map(|pair| Ok((pair.key.as_str(), pair.value.as_deref().or_field("topic.config")?)))
            .collect::<Result<Vec<_>, SnapshotError>>()?;
        let topic = Topic {
            id,
            directory: if number == 1 { name.to_string() } else { format!("{name}~{number}") },
            name,
            created: TimestampMs(message.created_ms),
            config: TopicConfig::new(pairs).or_field("topic.config")?,
            partitions: Vec::new(),
        };
        self.topic = Some(OpenTopic { topic, partitions: message.partitions });
        Ok(())
    }

    fn close_partition(&mut self) -> Result<(), SnapshotError> {
        let Some(partition) = self.partition.take() else { return Ok(()) };
        let topic = self.topic.as_mut().ok_or(SnapshotError::Incoherent("a partition has no topic"))?;
        topic.topic.partitions.push(Arc::new(partition.finish()?));
        Ok(())
    }

    fn close_topic(&mut self) -> Result<(), SnapshotError> {
        self.close_partition()?;
        let Some(OpenTopic { mut topic, partitions }) = self.topic.take() else { return Ok(()) };
        ensure(topic.partition_count() == partitions, "a topic lacks partitions or has too many")?;
        topic.partitions.shrink_to_fit();
        let state = self.open()?;
        state.partitions_total += u64::from(partitions);
        let namesake = state.names.insert(topic.name.clone(), topic.id);
        ensure(namesake.is_none(), "two topics have one name")?;
        state.topics.insert(topic.id, Arc::new(topic));
        Ok(())
    }

    fn open_agent(&mut self, message: &wire::SnapshotAgent) -> Result<(), SnapshotError> {
        let instance = AgentInstance(uuid(&message.agent, "agent.agent")?);
        let state = self.open()?;
        let rising = state.agents.get_max().is_none_or(|(last, _)| *last < instance);
        ensure(rising, "agents are out of order")?;
        let last_index = LogIndex(message.last_index);
        ensure(last_index < state.index, "an agent proposed something after the last entry")?;
        let memory = AgentMemory {
            lowest_unresolved: ProposalNumber(message.lowest_unresolved),
            last_index,
            outcomes: OrdMap::new(),
        };
        self.agent = Some(OpenAgent { instance, memory, outcomes: message.outcomes });
        Ok(())
    }

    fn outcome(&mut self, message: wire::SnapshotOutcome) -> Result<(), SnapshotError> {
        let Some(OpenAgent { memory, .. }) = &mut self.agent else {
            return Err(SnapshotError::Incoherent("an outcome has no agent"));
        };
        let number = ProposalNumber(message.number);
        let rising = memory.outcomes.get_max().is_none_or(|(last, _)| *last < number);
        ensure(rising, "outcomes are out of order")?;
        ensure(number >= memory.lowest_unresolved, "an outcome is older than its agent's lowest unresolved")?;
        let outcome = Outcome::try_from(message.outcome.or_field("outcome.outcome")?)?;
        memory.outcomes.insert(number, Arc::new(outcome));
        Ok(())
    }

    fn close_agent(&mut self) -> Result<(), SnapshotError> {
        let Some(OpenAgent { instance, memory, outcomes }) = self.agent.take() else { return Ok(()) };
        ensure(memory.outcomes.len() as u64 == outcomes, "an agent lacks outcomes or has too many")?;
        self.open()?.agents.insert(instance, memory);
        Ok(())
    }
}

fn header(message: wire::SnapshotHeader) -> Result<State, SnapshotError> {
    // Before anything else: the fields of a newer level may mean something else.
    if message.level > FEATURE_LEVEL.0 || message.level == 0 {
        return Err(SnapshotError::Level { needed: message.level });
    }
    let place = |epoch, seq, field| -> Result<Place, SnapshotError> {
        Ok(Place::new(LogEpoch(counter(epoch, field)?), LogSeq(counter(seq, field)?)))
    };
    let next = place(message.next_epoch, message.next_seq, "header.next")?;
    let cluster = uuid_if_any(&message.cluster_id, "header.cluster_id")?.map(ClusterId);
    let seal = uuid_if_any(&message.seal_id, "header.seal_id")?.map(EntryId);
    let leader = uuid_if_any(&message.leader, "header.leader")?.map(AgentInstance);
    let (epoch_zero, first) = (next.epoch == LogEpoch::ZERO, next.seq == LogSeq::ZERO);
    ensure(cluster.is_none() == (epoch_zero && first), "the cluster has its id from the genesis on")?;
    ensure(seal.is_some() == (first && !epoch_zero), "a seal lies between epochs and nowhere else")?;
    ensure(leader.is_some() == (!first && !epoch_zero), "an epoch has a leader, and nothing else has")?;
    let floor = LogIndex(message.floor);
    let index = LogIndex(counter(message.index, "header.index")?);
    ensure(floor <= index, "the collection floor lies in the future")?;
    let mut state = State::new();
    state.cluster = cluster;
    state.next = next;
    state.index = index;
    state.seal = seal;
    state.leader = leader.map(|agent| Leader { agent, address: message.leader_address });
    state.log_time = TimestampMs(message.log_time_ms);
    state.digest = Digest(message.digest);
    state.snapshots = message.snapshots.into_iter().map(Into::into).collect();
    let pairs = state.snapshots.windows(2);
    let rising = pairs.into_iter().all(|pair| matches!(pair, [older, newer] if older.next <= newer.next));
    ensure(rising, "its list of snapshots is out of order")?;
    ensure(state.snapshots.iter().all(|older| older.next < next), "it knows a snapshot from the future")?;
    state.truncated_below =
        place(message.truncated_below_epoch, message.truncated_below_seq, "header.truncated_below")?;
    ensure(state.truncated_below <= next, "the log was truncated beyond its end")?;
    let seals = &message.closed_epoch_seals;
    ensure(message.closed_epochs.len() == seals.len(), "closed epochs and their seals differ in number")?;
    for (epoch, seal) in message.closed_epochs.into_iter().zip(seals) {
        let rising = state.epoch_ends.get_max().is_none_or(|(last, _)| last.0 < epoch);
        ensure(rising && epoch < next.epoch.0, "closed epochs are out of order")?;
        ensure(*seal > 0, "a seal stands at the first place of an epoch")?;
        state.epoch_ends.insert(LogEpoch(epoch), LogSeq(*seal));
    }
    state.floor = floor;
    state.next_topic = counter(message.next_topic, "header.next_topic")?;
    let next_producer = u64::try_from(message.next_producer).or_field("header.next_producer")?;
    counter(next_producer, "header.next_producer")?;
    state.next_producer = message.next_producer;
    state.next_object = counter(message.next_object, "header.next_object")?;
    state.next_generation = counter(message.next_generation, "header.next_generation")?;
    ensure(state.next_generation > 0, "generations begin with 1")?;
    Ok(state)
}

fn objects(
    state: &State,
    table: &mut ObjectTable,
    message: wire::SnapshotObjects,
) -> Result<(), SnapshotError> {
    let count = message.number_deltas.len();
    let same = [
        message.named_at.len(),
        message.committed_deltas.len(),
        message.size_bytes.len(),
        message.references.len(),
    ];
    let (ids, rest) = message.ids.as_chunks::<16>();
    ensure(
        same == [count; 4] && ids.len() == count && rest.is_empty(),
        "arrays of objects differ in length",
    )?;
    let (mut number, mut committed) = (0_u64, 0_i64);
    for (i, id) in ids.iter().enumerate() {
        let (Some(delta), Some(named_at), Some(committed_delta), Some(size_bytes), Some(references)) = (
            message.number_deltas.get(i),
            message.named_at.get(i),
            message.committed_deltas.get(i),
            message.size_bytes.get(i),
            message.references.get(i),
        ) else {
            continue;
        };
        number = number.checked_add(*delta).or_field("objects.number_deltas")?;
        ensure(number < state.next_object, "an object is newer than the next one")?;
        committed = committed.wrapping_add(*committed_delta);
        let record = ObjectRecord {
            named_at: LogIndex(*named_at),
            id: SegmentId(Uuid::from_bytes(*id)),
            committed: TimestampMs(committed),
            size_bytes: *size_bytes,
            references: *references,
        };
        table.push(ObjectId(number), record)?;
    }
    Ok(())
}

fn producers(state: &mut State, message: wire::SnapshotProducers) -> Result<(), SnapshotError> {
    let count = message.id_deltas.len();
    let same = message.epochs.len() == count && message.last_used_deltas.len() == count;
    ensure(same, "arrays of producers differ in length")?;
    let (mut id, mut last_used) = (0_i64, 0_i64);
    let epochs = message.epochs.into_iter().zip(message.last_used_deltas);
    for (delta, (epoch, last_used_delta)) in message.id_deltas.into_iter().zip(epochs) {
        id = id.checked_add(delta).or_field("producers.id_deltas")?;
        let producer = ProducerId::new(id).or_field("producers.id_deltas")?;
        ensure(id < state.next_producer, "a producer is newer than the next one")?;
        let rising = state.producers.get_max().is_none_or(|(last, _)| *last < producer);
        ensure(rising, "producers are out of order")?;
        last_used = last_used.wrapping_add(last_used_delta);
        let epoch = producer_epoch(epoch.into(), "producers.epochs")?;
        state.producers.insert(producer, Producer { epoch, last_used: TimestampMs(last_used) });
    }
    Ok(())
}

fn directory(state: &mut State, message: wire::SnapshotDirectory) -> Result<(), SnapshotError> {
    let name = TopicName::new(&message.name).or_field("directory.name")?;
    ensure(message.topics > 0, "a name was never used")?;
    ensure(state.directories.insert(name, message.topics).is_none(), "a name is listed twice")
}
