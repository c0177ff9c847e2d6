//! Conversions between entries and their protobuf messages.

use bytes::Bytes;
use tidelog_types::{
    AgentInstance, ClusterId, LogEpoch, LogIndex, LogSeq, Offset, PartitionIndex, Place, ProducerEpoch,
    ProducerId, ProducerStamp, SegmentId, Sequence, TimestampMs, TopicId, TopicName, TopicPartition,
};
use uuid::Uuid;

use crate::command::{BatchCommit, Command, CommitSegment, Proposal, ProposalNumber, SliceCommit};
use crate::entry::{Begin, Entry, EntryBody, EntryError, EntryId, FeatureLevel, SnapshotRef};
use crate::wire;

pub(crate) fn uuid_bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

pub(crate) fn uuid_from(bytes: &[u8], field: &'static str) -> Result<Uuid, EntryError> {
    Uuid::from_slice(bytes).map_err(|_| EntryError::Field { field })
}

/// Turns a range error, or an absent value, into one that names the field.
pub(crate) trait InField<T> {
    fn in_field(self, field: &'static str) -> Result<T, EntryError>;
}

impl<T, E> InField<T> for Result<T, E> {
    fn in_field(self, field: &'static str) -> Result<T, EntryError> {
        self.map_err(|_| EntryError::Field { field })
    }
}

impl<T> InField<T> for Option<T> {
    fn in_field(self, field: &'static str) -> Result<T, EntryError> {
        self.ok_or(EntryError::Field { field })
    }
}

impl From<&Entry> for wire::Entry {
    fn from(entry: &Entry) -> Self {
        use wire::entry::Body;
        let body = match &entry.body {
            EntryBody::Genesis { cluster } => {
                Body::Genesis(wire::Genesis { cluster_id: uuid_bytes(cluster.0) })
            }
            EntryBody::Begin(begin) => Body::Begin(wire::Begin {
                seal_id: uuid_bytes(begin.seal.0),
                agent: uuid_bytes(begin.leader.0),
                address: begin.address.clone(),
                snapshot: begin.snapshot.as_ref().map(Into::into),
                digest: begin.digest,
            }),
            EntryBody::Seal => Body::Seal(wire::Seal {}),
            EntryBody::Batch(proposals) => {
                Body::Batch(wire::Batch { proposals: proposals.iter().map(Into::into).collect() })
            }
        };
        Self { level: entry.level.0, id: uuid_bytes(entry.id.0), time_ms: entry.time.0, body: Some(body) }
    }
}

impl TryFrom<wire::Entry> for Entry {
    type Error = EntryError;

    fn try_from(message: wire::Entry) -> Result<Self, EntryError> {
        use wire::entry::Body;
        let body = match message.body.in_field("body")? {
            Body::Genesis(genesis) => EntryBody::Genesis {
                cluster: ClusterId(uuid_from(&genesis.cluster_id, "genesis.cluster_id")?),
            },
            Body::Begin(begin) => EntryBody::Begin(Begin {
                seal: EntryId(uuid_from(&begin.seal_id, "begin.seal_id")?),
                leader: AgentInstance(uuid_from(&begin.agent, "begin.agent")?),
                address: begin.address,
                snapshot: begin.snapshot.map(Into::into),
                digest: begin.digest,
            }),
            Body::Seal(wire::Seal {}) => EntryBody::Seal,
            Body::Batch(batch) => EntryBody::Batch(
                batch.proposals.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            ),
        };
        Ok(Self {
            level: FeatureLevel(message.level),
            id: EntryId(uuid_from(&message.id, "id")?),
            time: TimestampMs(message.time_ms),
            body,
        })
    }
}

impl From<&SnapshotRef> for wire::SnapshotRef {
    fn from(snapshot: &SnapshotRef) -> Self {
        Self { next_epoch: snapshot.next.epoch.0, next_seq: snapshot.next.seq.0, name: snapshot.name.clone() }
    }
}

impl From<wire::SnapshotRef> for SnapshotRef {
    fn from(message: wire::SnapshotRef) -> Self {
        let next = Place::new(LogEpoch(message.next_epoch), LogSeq(message.next_seq));
        Self { next, name: message.name }
    }
}

impl From<&Proposal> for wire::Proposal {
    fn from(proposal: &Proposal) -> Self {
        Self {
            agent: uuid_bytes(proposal.agent.0),
            number: proposal.number.0,
            lowest_unresolved: proposal.lowest_unresolved.0,
            proposed_at: proposal.proposed_at.0,
            command: Some((&proposal.command).into()),
        }
    }
}

impl TryFrom<wire::Proposal> for Proposal {
    type Error = EntryError;

    fn try_from(message: wire::Proposal) -> Result<Self, EntryError> {
        Ok(Self {
            agent: AgentInstance(uuid_from(&message.agent, "proposal.agent")?),
            number: ProposalNumber(message.number),
            lowest_unresolved: ProposalNumber(message.lowest_unresolved),
            proposed_at: LogIndex(message.proposed_at),
            command: message.command.in_field("proposal.command")?.try_into()?,
        })
    }
}

impl From<&Command> for wire::proposal::Command {
    fn from(command: &Command) -> Self {
        match command {
            Command::CreateTopic { name, partitions, config } => Self::CreateTopic(wire::CreateTopic {
                name: name.as_str().to_owned(),
                partitions: *partitions,
                config: config.iter().map(|(key, value)| pair(key, Some(value))).collect(),
            }),
            Command::UpdateTopic { topic, config } => Self::UpdateTopic(wire::UpdateTopic {
                topic: topic.0,
                config: config.iter().map(|(key, value)| pair(key, value.as_ref())).collect(),
            }),
            Command::AddPartitions { topic, partitions } => {
                Self::AddPartitions(wire::AddPartitions { topic: topic.0, partitions: *partitions })
            }
            Command::DeleteTopic { topic } => Self::DeleteTopic(wire::DeleteTopic { topic: topic.0 }),
            Command::DeleteRecords { partition, before } => Self::DeleteRecords(wire::DeleteRecords {
                topic: partition.topic.0,
                partition: partition.partition.get(),
                before: before.map(Offset::get),
            }),
            Command::InitProducer { existing } => Self::InitProducer(wire::InitProducer {
                id: existing.map(|(id, _)| id.get()),
                epoch: existing.map_or(0, |(_, epoch)| epoch.get().into()),
            }),
            Command::CommitSegment(commit) => Self::CommitSegment(commit.into()),
            Command::ExpireProducers { proposer_time } => {
                Self::ExpireProducers(wire::ExpireProducers { proposer_time_ms: proposer_time.0 })
            }
            Command::NoteTruncation { below } => Self::NoteTruncation(wire::NoteTruncation {
                below_epoch: below.epoch.0,
                below_seq: below.seq.0,
            }),
            Command::Group(command) => Self::Group((&**command).into()),
            Command::ExpireOffsets { proposer_time } => {
                Self::ExpireOffsets(wire::ExpireOffsets { proposer_time_ms: proposer_time.0 })
            }
        }
    }
}

fn pair(key: &str, value: Option<&String>) -> wire::ConfigPair {
    wire::ConfigPair { key: key.to_owned(), value: value.cloned() }
}

impl TryFrom<wire::proposal::Command> for Command {
    type Error = EntryError;

    fn try_from(message: wire::proposal::Command) -> Result<Self, EntryError> {
        use wire::proposal::Command as Wire;
        Ok(match message {
            Wire::CreateTopic(create) => Self::CreateTopic {
                name: TopicName::new(&create.name).in_field("create_topic.name")?,
                partitions: create.partitions,
                config: create
                    .config
                    .into_iter()
                    .map(|pair| Ok((pair.key, pair.value.in_field("create_topic.config.value")?)))
                    .collect::<Result<_, EntryError>>()?,
            },
            Wire::UpdateTopic(update) => Self::UpdateTopic {
                topic: TopicId(update.topic),
                config: update.config.into_iter().map(|pair| (pair.key, pair.value)).collect(),
            },
            Wire::AddPartitions(add) => {
                Self::AddPartitions { topic: TopicId(add.topic), partitions: add.partitions }
            }
            Wire::DeleteTopic(delete) => Self::DeleteTopic { topic: TopicId(delete.topic) },
            Wire::DeleteRecords(delete) => Self::DeleteRecords {
                partition: partition(delete.topic, delete.partition)?,
                before: delete.before.map(Offset::new).transpose().in_field("delete_records.before")?,
            },
            Wire::InitProducer(init) => {
                Self::InitProducer { existing: init.id.map(|id| producer(id, init.epoch)).transpose()? }
            }
            Wire::CommitSegment(commit) => Self::CommitSegment(commit.try_into()?),
            Wire::ExpireProducers(expire) => {
                Self::ExpireProducers { proposer_time: TimestampMs(expire.proposer_time_ms) }
            }
            Wire::NoteTruncation(note) => {
                Self::NoteTruncation { below: Place::new(LogEpoch(note.below_epoch), LogSeq(note.below_seq)) }
            }
            Wire::Group(command) => Self::Group(Box::new(command.try_into()?)),
            Wire::ExpireOffsets(expire) => {
                Self::ExpireOffsets { proposer_time: TimestampMs(expire.proposer_time_ms) }
            }
        })
    }
}

pub(crate) fn partition(topic: u64, partition: i32) -> Result<TopicPartition, EntryError> {
    let partition = PartitionIndex::new(partition).in_field("partition")?;
    Ok(TopicPartition { topic: TopicId(topic), partition })
}

pub(crate) fn producer(id: i64, epoch: i32) -> Result<(ProducerId, ProducerEpoch), EntryError> {
    let epoch = i16::try_from(epoch).in_field("producer.epoch")?;
    Ok((ProducerId::new(id).in_field("producer.id")?, ProducerEpoch::new(epoch).in_field("producer.epoch")?))
}

impl From<&CommitSegment> for wire::CommitSegment {
    fn from(commit: &CommitSegment) -> Self {
        Self {
            named_at: commit.named_at.0,
            id: uuid_bytes(commit.id.0),
            size_bytes: commit.size_bytes,
            slices: commit.slices.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::CommitSegment> for CommitSegment {
    type Error = EntryError;

    fn try_from(message: wire::CommitSegment) -> Result<Self, EntryError> {
        Ok(Self {
            named_at: LogIndex(message.named_at),
            id: SegmentId(uuid_from(&message.id, "commit_segment.id")?),
            size_bytes: message.size_bytes,
            slices: message.slices.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&SliceCommit> for wire::SliceCommit {
    fn from(slice: &SliceCommit) -> Self {
        let mut previous = 0_i64;
        let max_timestamp_deltas = slice
            .batches
            .iter()
            .map(|batch| {
                // Wrapping, because clients choose timestamps: adding it back up wraps the same way.
                let delta = batch.max_timestamp.0.wrapping_sub(previous);
                previous = batch.max_timestamp.0;
                delta
            })
            .collect();
        let producers = slice
            .batches
            .iter()
            .zip(0..)
            .filter_map(|(batch, position)| {
                batch.producer.map(|stamp| wire::BatchProducer {
                    batch: position,
                    id: stamp.id.get(),
                    epoch: stamp.epoch.get().into(),
                    base_sequence: stamp.base_sequence.get(),
                })
            })
            .collect();
        Self {
            topic: slice.partition.topic.0,
            partition: slice.partition.partition.get(),
            position: slice.position,
            lengths: slice.batches.iter().map(|batch| batch.length).collect(),
            records: slice.batches.iter().map(|batch| batch.records).collect(),
            max_timestamp_deltas,
            producers,
        }
    }
}

impl TryFrom<wire::SliceCommit> for SliceCommit {
    type Error = EntryError;

    fn try_from(message: wire::SliceCommit) -> Result<Self, EntryError> {
        let same_length = message.lengths.len() == message.records.len()
            && message.lengths.len() == message.max_timestamp_deltas.len();
        if !same_length {
            return Err(EntryError::Field { field: "slice.lengths" });
        }
        let mut timestamp = 0_i64;
        let mut batches: Vec<BatchCommit> = message
            .lengths
            .into_iter()
            .zip(message.records)
            .zip(message.max_timestamp_deltas)
            .map(|((length, records), delta)| {
                timestamp = timestamp.wrapping_add(delta);
                BatchCommit { length, records, max_timestamp: TimestampMs(timestamp), producer: None }
            })
            .collect();
        for stamp in message.producers {
            let (id, epoch) = producer(stamp.id, stamp.epoch)?;
            let base_sequence = Sequence::new(stamp.base_sequence).in_field("producer.base_sequence")?;
            let position = usize::try_from(stamp.batch).in_field("producer.batch")?;
            let batch = batches.get_mut(position).in_field("producer.batch")?;
            batch.producer = Some(ProducerStamp { id, epoch, base_sequence });
        }
        Ok(Self {
            partition: partition(message.topic, message.partition)?,
            position: message.position,
            batches,
        })
    }
}
