//! Partitions by name, and how they go over the wire.

use std::collections::BTreeMap;
use std::fmt;

use tidelog_proto::v1;
use tidelog_types::{PartitionIndex, TopicId, TopicName};

/// One partition of one topic, by the topic's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition in it.
    pub partition: PartitionIndex,
}

impl TopicPartition {
    /// A partition of a topic.
    pub fn new(topic: TopicName, partition: PartitionIndex) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// Partitions with the ids of their topics, if these are known.
pub(super) type Identified = BTreeMap<TopicPartition, Option<TopicId>>;

/// Reads what the service names; an error says what is wrong.
pub(super) fn from_wire(lists: &[v1::TopicPartitions]) -> Result<Identified, String> {
    let mut found = Identified::new();
    for list in lists {
        let topic = TopicName::new(&list.topic).map_err(|error| error.to_string())?;
        let id = (list.topic_id > 0).then_some(TopicId(list.topic_id));
        for partition in &list.partitions {
            let partition = PartitionIndex::new(*partition).map_err(|error| error.to_string())?;
            found.insert(TopicPartition::new(topic.clone(), partition), id);
        }
    }
    Ok(found)
}

/// Names partitions for the service, those of one topic together.
pub(super) fn to_wire<'a>(
    partitions: impl IntoIterator<Item = (&'a TopicPartition, Option<TopicId>)>,
) -> Vec<v1::TopicPartitions> {
    let mut topics: BTreeMap<(&TopicName, Option<TopicId>), Vec<i32>> = BTreeMap::new();
    for (at, id) in partitions {
        topics.entry((&at.topic, id)).or_default().push(at.partition.get());
    }
    let lists = topics.into_iter().map(|((topic, id), partitions)| v1::TopicPartitions {
        topic: topic.to_string(),
        topic_id: id.map_or(0, |id| id.0),
        partitions,
    });
    lists.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(
            TopicName::new(topic).expect("a name"),
            PartitionIndex::new(partition).expect("in range"),
        )
    }

    #[test]
    fn partitions_go_both_ways() {
        let all: Identified =
            [(at("a", 0), Some(TopicId(7))), (at("a", 3), Some(TopicId(7))), (at("b", 0), None)].into();
        let wire = to_wire(all.iter().map(|(at, id)| (at, *id)));
        assert_eq!(wire.len(), 2);
        assert_eq!((wire[0].topic_id, wire[0].partitions.as_slice()), (7, [0, 3].as_slice()));
        assert_eq!(from_wire(&wire), Ok(all));
        assert_eq!(at("a", 3).to_string(), "a[3]");
    }

    #[test]
    fn what_no_service_says_is_refused() {
        let list = |topic: &str, partition| v1::TopicPartitions {
            topic: topic.into(),
            topic_id: 1,
            partitions: vec![partition],
        };
        assert!(from_wire(&[list("a/b", 0)]).is_err());
        assert!(from_wire(&[list("a", -1)]).is_err());
    }
}
