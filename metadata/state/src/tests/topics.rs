//! Topics: life, names, limits, configuration.

use tidelog_types::{PartitionIndex, TopicId, TopicName};

use super::bed::{Bed, append_one, at, create};
use crate::command::{BatchOutcome, BatchRefusal, Command, Outcome, Refusal};
use crate::config::ConfigError;
use crate::limits::{PARTITIONS_PER_CLUSTER_MAX, PARTITIONS_PER_TOPIC_MAX};

fn create_with(name: &str, config: &[(&str, &str)]) -> Command {
    let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Command::CreateTopic { name: TopicName::new(name).expect("a name"), partitions: 1, config }
}

fn update(topic: TopicId, changes: &[(&str, Option<&str>)]) -> Command {
    let config = changes.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
    Command::UpdateTopic { topic, config }
}

#[test]
fn a_name_that_is_used_again_gets_another_id_and_directory() {
    let mut bed = Bed::new();
    let mut directories = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = bed.topic("orders", 2);
        append_one(&mut bed, at(id, 1), 5);
        directories.push(bed.state.topic(id).expect("it was created").directory().to_owned());
        ids.push(id);
        assert_eq!(bed.run(create("orders", 1)), Outcome::Refused(Refusal::TopicExists { topic: id }));
        assert_eq!(bed.run(Command::DeleteTopic { topic: id }), Outcome::TopicDeleted);
        assert!(bed.state.topic(id).is_none());
        assert_eq!(bed.state.objects().count(), 0, "its objects went with it");
        assert_eq!(bed.state.partitions_total(), 0);
    }
    assert_eq!(directories, ["orders", "orders~2", "orders~3"]);
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert_eq!(bed.topic("orders~2".split('~').next().expect("a name"), 1), TopicId(4));
}

#[test]
fn a_deleted_topic_takes_nothing_any_more() {
    let mut bed = Bed::new();
    let (old, partition) = (bed.topic("orders", 1), 0);
    bed.run(Command::DeleteTopic { topic: old });
    let new = bed.topic("orders", 1);
    let refused = [BatchOutcome::Refused(BatchRefusal::UnknownTopic)];
    assert_eq!(bed.append(at(old, partition), vec![super::bed::batch(1)]), refused);
    assert_eq!(bed.state.partition(at(new, partition)).map(|p| p.end().get()), Some(0));
    let unknown = Outcome::Refused(Refusal::UnknownTopic);
    assert_eq!(bed.run(Command::DeleteTopic { topic: old }), unknown);
    assert_eq!(bed.run(Command::AddPartitions { topic: old, partitions: 5 }), unknown);
    assert_eq!(bed.run(update(old, &[])), unknown);
    assert_eq!(bed.run(Command::DeleteRecords { partition: at(old, 0), before: None }), unknown);
}

#[test]
fn partitions_have_limits() {
    let mut bed = Bed::new();
    let count =
        |asked, low| Outcome::Refused(Refusal::PartitionCount { asked, low, high: PARTITIONS_PER_TOPIC_MAX });
    for asked in [0, PARTITIONS_PER_TOPIC_MAX + 1, u32::MAX] {
        assert_eq!(bed.run(create("t", asked)), count(asked, 1));
    }
    let topic = bed.topic("t", 3);
    for asked in [0, 1, 3, PARTITIONS_PER_TOPIC_MAX + 1] {
        assert_eq!(bed.run(Command::AddPartitions { topic, partitions: asked }), count(asked, 4));
    }
    append_one(&mut bed, at(topic, 2), 9);
    assert_eq!(bed.run(Command::AddPartitions { topic, partitions: 7 }), Outcome::PartitionsAdded);
    assert_eq!(bed.state.topic(topic).map(crate::Topic::partition_count), Some(7));
    assert_eq!(bed.state.partition(at(topic, 2)).map(|p| p.end().get()), Some(9));
    assert_eq!(bed.state.partition(at(topic, 6)).map(|p| p.end().get()), Some(0));
    assert_eq!(bed.state.partition(at(topic, 7)), None);
    let beyond =
        Refusal::UnknownPartition { partitions: 7, asked: PartitionIndex::new(7).expect("in range") };
    assert_eq!(
        bed.run(Command::DeleteRecords { partition: at(topic, 7), before: None }),
        Outcome::Refused(beyond)
    );
    let refused = [BatchOutcome::Refused(BatchRefusal::UnknownPartition { partitions: 7 })];
    assert_eq!(bed.append(at(topic, 7), vec![super::bed::batch(1)]), refused);
}

#[test]
fn the_cluster_has_a_limit_of_partitions() {
    let mut bed = Bed::new();
    let topics = PARTITIONS_PER_CLUSTER_MAX / u64::from(PARTITIONS_PER_TOPIC_MAX);
    let full: Vec<TopicId> =
        (0..topics).map(|n| bed.topic(&format!("t{n}"), PARTITIONS_PER_TOPIC_MAX)).collect();
    let beyond = Refusal::ClusterPartitions {
        asked: PARTITIONS_PER_CLUSTER_MAX + 1,
        high: PARTITIONS_PER_CLUSTER_MAX,
    };
    assert_eq!(bed.run(create("one-more", 1)), Outcome::Refused(beyond));
    bed.run(Command::DeleteTopic { topic: full[0] });
    assert!(matches!(bed.run(create("one-more", 1)), Outcome::TopicCreated(_)));
}

#[test]
fn configuration_is_taken_whole_or_not_at_all() {
    let mut bed = Bed::new();
    let refusal = |outcome| match outcome {
        Outcome::Refused(Refusal::Config(error)) => error,
        other => panic!("{other:?}"),
    };
    let unknown = refusal(bed.run(create_with("t", &[("retention.hours", "1")])));
    assert_eq!(unknown, ConfigError::UnknownKey { key: "retention.hours".into() });
    let compact = refusal(bed.run(create_with("t", &[("cleanup.policy", "compact")])));
    assert!(compact.to_string().contains("not supported"), "{compact}");
    assert_eq!(bed.state.topics_after(None).count(), 0);
    assert!(
        !bed.state.directories.contains_key(&TopicName::new("t").expect("a name")),
        "no directory is lost"
    );

    let Outcome::TopicCreated(topic) = bed.run(create_with("t", &[("max.message.bytes", "2048")])) else {
        panic!("it is allowed");
    };
    let bytes = |bed: &Bed| bed.state.topic(topic).map(|t| t.config().max_message_bytes());
    assert_eq!(bytes(&bed), Some(2048));
    let half = update(topic, &[("max.message.bytes", Some("4096")), ("nonsense", Some("1"))]);
    refusal(bed.run(half));
    assert_eq!(bytes(&bed), Some(2048), "the good half of a refused change is not taken either");
    assert_eq!(bed.run(update(topic, &[("max.message.bytes", Some("4096"))])), Outcome::TopicUpdated);
    assert_eq!(bytes(&bed), Some(4096));
    assert_eq!(bed.run(update(topic, &[("max.message.bytes", None)])), Outcome::TopicUpdated);
    assert_eq!(bytes(&bed), Some(1024 * 1024));
}

#[test]
fn topics_are_listed_by_name_from_any_name_on() {
    let mut bed = Bed::new();
    for name in ["c", "a", "d", "b"] {
        bed.topic(name, 1);
    }
    let listed = |after: Option<&str>| -> Vec<String> {
        let after = after.map(|name| TopicName::new(name).expect("a name"));
        bed.state.topics_after(after.as_ref()).map(|topic| topic.name().to_string()).collect()
    };
    assert_eq!(listed(None), ["a", "b", "c", "d"]);
    assert_eq!(listed(Some("b")), ["c", "d"]);
    assert_eq!(listed(Some("bb")), ["c", "d"]);
    assert_eq!(listed(Some("d")), [""; 0]);
}
