//! Entries that name a topic or a partition, and a place in it.

use std::collections::BTreeSet;

use tidelog_types::{Offset, PartitionIndex, TimestampMs, TopicId, TopicName};

use super::{InvalidField, offset, partition_index, topic_name};
use crate::limits::PARTITIONS_PER_REQUEST_MAX;
use crate::v1::{self, ErrorReason};

/// The topic that a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRef {
    /// Its name.
    pub name: TopicName,
    /// Its id; `None` if any topic of that name is meant.
    pub id: Option<TopicId>,
}

/// The partition that an entry of a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRef {
    /// Name of its topic.
    pub topic: TopicName,
    /// Id of its topic; `None` if any topic of that name is meant.
    pub topic_id: Option<TopicId>,
    /// Its number in the topic.
    pub partition: PartitionIndex,
}

macro_rules! topic_ref_from {
    ($($message:ident),*) => {$(
        impl TryFrom<&v1::$message> for TopicRef {
            type Error = InvalidField;

            fn try_from(request: &v1::$message) -> Result<Self, InvalidField> {
                Ok(Self { name: topic_name("name", &request.name)?, id: request.topic_id.map(TopicId) })
            }
        }
    )*};
}

topic_ref_from!(UpdateTopicRequest, DeleteTopicRequest, AddPartitionsRequest);

macro_rules! partition_ref_from {
    ($($message:ident),*) => {$(
        impl TryFrom<&v1::$message> for PartitionRef {
            type Error = InvalidField;

            fn try_from(entry: &v1::$message) -> Result<Self, InvalidField> {
                Ok(Self {
                    topic: topic_name("topic", &entry.topic)?,
                    topic_id: entry.topic_id.map(TopicId),
                    partition: partition_index("partition", entry.partition)?,
                })
            }
        }
    )*};
}

partition_ref_from!(
    ProducePartition,
    FetchPartition,
    SubscribePartition,
    ListOffsetsPartition,
    DeleteRecordsPartition
);

/// A place in a partition, as requests name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// This offset.
    Offset(Offset),
    /// The first record whose timestamp is this or later.
    Timestamp(TimestampMs),
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
}

impl TryFrom<&v1::SubscribePartition> for Position {
    type Error = InvalidField;

    fn try_from(entry: &v1::SubscribePartition) -> Result<Self, InvalidField> {
        use v1::subscribe_partition::Start;
        match entry.start.as_ref().ok_or_else(|| InvalidField::missing("start"))? {
            Start::Offset(value) => offset("offset", *value).map(Self::Offset),
            Start::TimestampMs(time) => Ok(Self::Timestamp(TimestampMs(*time))),
            Start::Position(position) => end(*position),
        }
    }
}

impl TryFrom<&v1::ListOffsetsPartition> for Position {
    type Error = InvalidField;

    fn try_from(entry: &v1::ListOffsetsPartition) -> Result<Self, InvalidField> {
        use v1::list_offsets_partition::At;
        match entry.at.as_ref().ok_or_else(|| InvalidField::missing("at"))? {
            At::TimestampMs(time) => Ok(Self::Timestamp(TimestampMs(*time))),
            At::Position(position) => end(*position),
        }
    }
}

impl TryFrom<&v1::DeleteRecordsPartition> for Position {
    type Error = InvalidField;

    /// Never [`Position::Timestamp`].
    fn try_from(entry: &v1::DeleteRecordsPartition) -> Result<Self, InvalidField> {
        use v1::delete_records_partition::Before;
        match entry.before.as_ref().ok_or_else(|| InvalidField::missing("before"))? {
            Before::Offset(value) => offset("offset", *value).map(Self::Offset),
            Before::Position(position) => end(*position),
        }
    }
}

impl From<Position> for v1::subscribe_partition::Start {
    fn from(position: Position) -> Self {
        match position {
            Position::Offset(offset) => Self::Offset(offset.get()),
            Position::Timestamp(time) => Self::TimestampMs(time.0),
            Position::Earliest => Self::Position(v1::OffsetPosition::Earliest.into()),
            Position::Latest => Self::Position(v1::OffsetPosition::Latest.into()),
        }
    }
}

fn end(position: i32) -> Result<Position, InvalidField> {
    match v1::OffsetPosition::try_from(position) {
        Ok(v1::OffsetPosition::Earliest) => Ok(Position::Earliest),
        Ok(v1::OffsetPosition::Latest) => Ok(Position::Latest),
        Ok(v1::OffsetPosition::Unspecified) | Err(_) => {
            let allowed = "allowed are OFFSET_POSITION_EARLIEST and OFFSET_POSITION_LATEST";
            Err(InvalidField::new("position", format_args!("position {position} is unknown, {allowed}")))
        }
    }
}

/// Checks the list of a request's entries, each given as topic and partition: some, not too many, none twice.
pub fn check_entries<'a>(entries: impl ExactSizeIterator<Item = (&'a str, i32)>) -> Result<(), InvalidField> {
    check_count(entries.len())?;
    if entries.len() == 1 {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    for (position, entry) in entries.enumerate() {
        if !seen.insert(entry) {
            let field = format!("partitions[{position}]");
            return Err(InvalidField::new(&field, "names a partition that an entry before it names"));
        }
    }
    Ok(())
}

/// Checks how many entries a request has, where a partition may be named several times.
pub fn check_count(entries: usize) -> Result<(), InvalidField> {
    match entries {
        0 => Err(InvalidField::new("partitions", "is empty, at least one entry is needed")),
        1..=PARTITIONS_PER_REQUEST_MAX => Ok(()),
        _ => {
            let text = format!("has {entries} entries, allowed are 1 to {PARTITIONS_PER_REQUEST_MAX}");
            Err(InvalidField {
                reason: ErrorReason::RequestTooLarge,
                ..InvalidField::new("partitions", text)
            })
        }
    }
}
