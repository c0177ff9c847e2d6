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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ApiError;

    #[test]
    fn an_entry_names_a_partition() {
        let entry =
            v1::FetchPartition { topic: "t".into(), partition: 2, topic_id: Some(9), ..Default::default() };
        let read = PartitionRef::try_from(&entry).expect("valid");
        assert_eq!((read.topic.as_str(), read.topic_id, read.partition.get()), ("t", Some(TopicId(9)), 2));
        let negative = v1::FetchPartition { partition: -1, ..entry.clone() };
        assert_eq!(
            PartitionRef::try_from(&negative).map_err(|invalid| invalid.field),
            Err("partition".into())
        );
        let nameless = v1::FetchPartition { topic: String::new(), ..entry };
        assert_eq!(PartitionRef::try_from(&nameless).map_err(|invalid| invalid.field), Err("topic".into()));
        let deleted = v1::DeleteTopicRequest { name: "a/b".into(), topic_id: None };
        assert_eq!(TopicRef::try_from(&deleted).map_err(|invalid| invalid.field), Err("name".into()));
    }

    #[test]
    fn a_start_is_required_and_checked() {
        use v1::subscribe_partition::Start;
        let read = |start: Option<Start>| {
            Position::try_from(&v1::SubscribePartition { start, ..Default::default() })
        };
        for position in [
            Position::Offset(Offset::ZERO),
            Position::Timestamp(TimestampMs(-1)),
            Position::Earliest,
            Position::Latest,
        ] {
            assert_eq!(read(Some(position.into())), Ok(position));
        }
        for bad in [None, Some(Start::Offset(-1)), Some(Start::Position(0)), Some(Start::Position(3))] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lookups_and_deletions_name_a_place() {
        use v1::{delete_records_partition::Before, list_offsets_partition::At};
        let lookup = |at| Position::try_from(&v1::ListOffsetsPartition { at, ..Default::default() });
        assert_eq!(lookup(Some(At::Position(1))), Ok(Position::Earliest));
        assert_eq!(lookup(Some(At::TimestampMs(5))), Ok(Position::Timestamp(TimestampMs(5))));
        assert!(lookup(None).is_err() && lookup(Some(At::Position(0))).is_err());
        let deletion =
            |before| Position::try_from(&v1::DeleteRecordsPartition { before, ..Default::default() });
        assert_eq!(deletion(Some(Before::Position(2))), Ok(Position::Latest));
        assert_eq!(deletion(Some(Before::Offset(0))), Ok(Position::Offset(Offset::ZERO)));
        // Nothing said is not "everything".
        assert!(deletion(None).is_err() && deletion(Some(Before::Offset(-1))).is_err());
    }

    #[test]
    fn a_request_names_some_partitions_once() {
        assert!(check_entries([("t", 0)].into_iter()).is_ok());
        assert!(check_entries([("t", 0), ("t", 1), ("u", 0)].into_iter()).is_ok());
        let twice = check_entries([("t", 0), ("u", 0), ("t", 0)].into_iter()).expect_err("twice");
        assert_eq!(twice.field, "partitions[2]");
        assert!(check_entries([].into_iter()).is_err());
        let many = vec![("t", 0); PARTITIONS_PER_REQUEST_MAX + 1];
        let error = ApiError::from(check_entries(many.into_iter()).expect_err("too many"));
        assert_eq!((error.reason, error.metadata["limit"].as_str()), (ErrorReason::RequestTooLarge, "2000"));
    }
}
