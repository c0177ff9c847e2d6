//! What clients send, as the agent takes it.

use std::collections::BTreeSet;

use tidelog_agent::Groups;
use tidelog_agent::groups::Owned;
use tidelog_agent::groups::offsets::{NamedPartitions, OffsetToCommit};
use tidelog_metadata_state::group::Assignor;
use tidelog_metadata_state::group::command::{CommittedBy, MemberOptions, MemberRun};
use tidelog_metadata_state::group::subscription::Subscription;
use tidelog_metadata_state::limits::{
    OFFSET_METADATA_BYTES_MAX, REBALANCE_TIMEOUT_MS, SESSION_TIMEOUT_MS, TOPIC_PATTERN_BYTES_MAX,
    TOPICS_PER_SUBSCRIPTION_MAX, USER_DATA_BYTES_MAX,
};
use tidelog_proto::convert::group::{self, Identity, instance_id, member_id, named_partitions};
use tidelog_proto::convert::{self, InvalidField};
use tidelog_proto::limits::PARTITIONS_PER_REQUEST_MAX;
use tidelog_proto::v1::{self, ErrorReason};
use tidelog_types::{CommitNumber, Generation, GroupName, MemberId, PartitionIndex, TopicId, TopicPartition};

/// What holds if a member does not say.
const SESSION_TIMEOUT_MS_DEFAULT: u32 = 15_000;
const REBALANCE_TIMEOUT_MS_DEFAULT: u32 = 300_000;

/// A member: its group, and who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub group: GroupName,
    pub who: MemberRun,
}

impl TryFrom<Option<&v1::MemberIdentity>> for Member {
    type Error = InvalidField;

    fn try_from(identity: Option<&v1::MemberIdentity>) -> Result<Self, InvalidField> {
        let Identity { group, member, incarnation } = identity.try_into()?;
        Ok(Self { group, who: MemberRun { member, incarnation } })
    }
}

/// What a member wants.
pub(super) fn options(options: Option<v1::MemberOptions>) -> Result<MemberOptions, InvalidField> {
    let options = options.ok_or_else(|| InvalidField::missing("options"))?;
    checked_options(options).map_err(|invalid| invalid.within("options"))
}

fn checked_options(options: v1::MemberOptions) -> Result<MemberOptions, InvalidField> {
    at_most("topics", options.topics.len(), TOPICS_PER_SUBSCRIPTION_MAX, "names")?;
    at_most("topic_pattern", options.topic_pattern.len(), TOPIC_PATTERN_BYTES_MAX, "bytes")?;
    at_most("user_data", options.user_data.len(), USER_DATA_BYTES_MAX, "bytes")?;
    convert::client_id("client_id", &options.client_id)?;
    let names = options.topics.iter().enumerate();
    let names = names.map(|(position, name)| convert::topic_name(&format!("topics[{position}]"), name));
    let assignor = match v1::Assignor::try_from(options.assignor) {
        Ok(v1::Assignor::Unspecified | v1::Assignor::Sticky) => Assignor::Sticky,
        Ok(v1::Assignor::Range) => Assignor::Range,
        Ok(v1::Assignor::RoundRobin) => Assignor::RoundRobin,
        Ok(v1::Assignor::Client) => Assignor::Client,
        Err(_) => {
            let text = format!("{} is no assignor that is known", options.assignor);
            return Err(InvalidField::new("assignor", text));
        }
    };
    let session = ("session_timeout_ms", options.session_timeout_ms);
    let rebalance = ("rebalance_timeout_ms", options.rebalance_timeout_ms);
    Ok(MemberOptions {
        topics: Subscription::new(names.collect::<Result<Vec<_>, _>>()?),
        pattern: options.topic_pattern,
        assignor,
        session_timeout_ms: milliseconds(session, SESSION_TIMEOUT_MS, SESSION_TIMEOUT_MS_DEFAULT)?,
        rebalance_timeout_ms: milliseconds(rebalance, REBALANCE_TIMEOUT_MS, REBALANCE_TIMEOUT_MS_DEFAULT)?,
        instance: instance_id("instance_id", &options.instance_id)?,
        client_id: options.client_id,
        user_data: options.user_data,
    })
}

fn at_most(field: &str, found: usize, limit: usize, unit: &str) -> Result<(), InvalidField> {
    if found <= limit {
        return Ok(());
    }
    Err(InvalidField::new(field, format_args!("it has {found} {unit}, allowed are {limit}")))
}

fn milliseconds(
    (field, value): (&str, i32),
    allowed: std::ops::RangeInclusive<u32>,
    default: u32,
) -> Result<u32, InvalidField> {
    if value == 0 {
        return Ok(default);
    }
    let found = u32::try_from(value).ok().filter(|value| allowed.contains(value));
    found.ok_or_else(|| {
        let (low, high) = (allowed.start(), allowed.end());
        InvalidField::new(field, format_args!("it is {value}, allowed are {low} to {high} and 0"))
    })
}

fn each<'a>(
    named: &'a [NamedPartitions],
    ids: Vec<Option<TopicId>>,
) -> impl Iterator<Item = (Option<TopicId>, PartitionIndex)> + 'a {
    let lists = named.iter().zip(ids);
    lists.flat_map(|(named, id)| named.partitions.iter().map(move |partition| (id, *partition)))
}

fn core(named: Vec<group::NamedPartitions>) -> Vec<NamedPartitions> {
    let one = |group::NamedPartitions { topic, topic_id, partitions }| NamedPartitions {
        topic,
        topic_id,
        partitions,
    };
    named.into_iter().map(one).collect()
}

/// What a member says that it owns. Topics that are gone are nobody's.
pub(super) fn owned(
    groups: &Groups,
    partitions: &[v1::TopicPartitions],
    known_generation: u64,
) -> Result<Owned, InvalidField> {
    let named = core(named_partitions("owned", partitions)?);
    let ids = groups.located(&named);
    let partitions = each(&named, ids)
        .filter_map(|(topic, partition)| Some(TopicPartition { topic: topic?, partition }))
        .collect();
    Ok(Owned { partitions, known: Generation(known_generation) })
}

/// The assignment that a member gives.
pub(super) fn given(
    groups: &Groups,
    members: &[v1::MemberAssignment],
) -> Result<Vec<(MemberId, Vec<TopicPartition>)>, InvalidField> {
    let mut ids_seen = BTreeSet::new();
    let mut given = Vec::with_capacity(members.len());
    for (position, assignment) in members.iter().enumerate() {
        let within = |invalid: InvalidField| invalid.within(format_args!("members[{position}]"));
        let id = member_id("member_id", &assignment.member_id).map_err(within)?;
        if !ids_seen.insert(id.clone()) {
            return Err(within(InvalidField::new("member_id", "is there twice")));
        }
        let named = core(named_partitions("partitions", &assignment.partitions).map_err(within)?);
        let ids = groups.located(&named);
        // One that is not known is refused with everything else that makes no sense.
        let unknown = TopicId(u64::MAX);
        let partitions = each(&named, ids)
            .map(|(topic, partition)| TopicPartition { topic: topic.unwrap_or(unknown), partition });
        given.push((id, partitions.collect()));
    }
    Ok(given)
}

/// Partitions of which the offsets are wanted; none: all.
pub(super) fn wanted(
    partitions: &[v1::TopicPartitions],
) -> Result<Option<Vec<NamedPartitions>>, InvalidField> {
    if partitions.is_empty() {
        return Ok(None);
    }
    Ok(Some(core(named_partitions("partitions", partitions)?)))
}

/// Who commits.
pub(super) fn committed_by(
    who: MemberRun,
    number: u64,
    generation: u64,
) -> Result<CommittedBy, InvalidField> {
    if number == 0 {
        return Err(InvalidField::new("number", "it is 0, allowed are 1 and more"));
    }
    Ok(CommittedBy { who, generation: Generation(generation), number: CommitNumber(number) })
}

/// The offsets to commit: what is sound goes on, the rest is answered as it is.
pub(super) struct Offsets {
    pub sound: Vec<OffsetToCommit>,
    /// For each entry what is wrong with it, if anything is.
    pub invalid: Vec<Option<InvalidField>>,
}

pub(super) fn offsets(entries: Vec<v1::OffsetCommit>) -> Result<Offsets, InvalidField> {
    if entries.is_empty() {
        return Err(InvalidField::new("offsets", "there are none"));
    }
    if entries.len() > PARTITIONS_PER_REQUEST_MAX {
        let text = format!("there are {}, allowed are {PARTITIONS_PER_REQUEST_MAX}", entries.len());
        return Err(InvalidField {
            reason: ErrorReason::RequestTooLarge,
            ..InvalidField::new("offsets", text)
        });
    }
    let mut seen = BTreeSet::new();
    let mut offsets =
        Offsets { sound: Vec::with_capacity(entries.len()), invalid: Vec::with_capacity(entries.len()) };
    for (position, entry) in entries.into_iter().enumerate() {
        if !seen.insert((entry.topic.clone(), entry.partition)) {
            let field = format!("offsets[{position}].partition");
            return Err(InvalidField::new(&field, "this partition is there twice"));
        }
        match offset(entry) {
            Ok(sound) => {
                offsets.sound.push(sound);
                offsets.invalid.push(None);
            }
            Err(invalid) => offsets.invalid.push(Some(invalid.within(format_args!("offsets[{position}]")))),
        }
    }
    Ok(offsets)
}

fn offset(entry: v1::OffsetCommit) -> Result<OffsetToCommit, InvalidField> {
    at_most("metadata", entry.metadata.len(), OFFSET_METADATA_BYTES_MAX, "bytes")?;
    Ok(OffsetToCommit {
        topic: convert::topic_name("topic", &entry.topic)?,
        topic_id: entry.topic_id.map(TopicId),
        partition: convert::partition_index("partition", entry.partition)?,
        offset: convert::offset("offset", entry.offset)?,
        metadata: entry.metadata,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> v1::MemberOptions {
        v1::MemberOptions { topics: vec!["t".into()], ..v1::MemberOptions::default() }
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let found = options(Some(fine())).expect("it is fine");
        assert_eq!((found.session_timeout_ms, found.rebalance_timeout_ms), (15_000, 300_000));
        assert_eq!((found.assignor, found.instance), (Assignor::Sticky, None));
        let all = v1::MemberOptions {
            assignor: v1::Assignor::Client.into(),
            session_timeout_ms: 1_000,
            rebalance_timeout_ms: 3_600_000,
            instance_id: "i".into(),
            ..fine()
        };
        let found = options(Some(all)).expect("it is fine");
        assert_eq!((found.session_timeout_ms, found.rebalance_timeout_ms), (1_000, 3_600_000));
        assert_eq!(found.assignor, Assignor::Client);
    }

    #[test]
    fn options_out_of_range_are_named() {
        assert_eq!(options(None).map_err(|invalid| invalid.field), Err("options".into()));
        for (wrong, field) in [
            (v1::MemberOptions { topics: vec!["a".into(), "..".into()], ..fine() }, "options.topics[1]"),
            (v1::MemberOptions { topics: vec!["t".into(); 1_001], ..fine() }, "options.topics"),
            (v1::MemberOptions { topic_pattern: "x".repeat(1_001), ..fine() }, "options.topic_pattern"),
            (v1::MemberOptions { assignor: 9, ..fine() }, "options.assignor"),
            (v1::MemberOptions { session_timeout_ms: 999, ..fine() }, "options.session_timeout_ms"),
            (v1::MemberOptions { session_timeout_ms: -1, ..fine() }, "options.session_timeout_ms"),
            (v1::MemberOptions { rebalance_timeout_ms: 3_600_001, ..fine() }, "options.rebalance_timeout_ms"),
            (v1::MemberOptions { instance_id: "a b".into(), ..fine() }, "options.instance_id"),
            (v1::MemberOptions { client_id: "x".repeat(250), ..fine() }, "options.client_id"),
            (v1::MemberOptions { user_data: vec![0; 4_097].into(), ..fine() }, "options.user_data"),
        ] {
            assert_eq!(options(Some(wrong)).map_err(|invalid| invalid.field), Err(field.into()));
        }
    }

    #[test]
    fn offsets_fail_one_by_one_unless_they_contradict_each_other() {
        let entry = |partition, offset| v1::OffsetCommit {
            topic: "t".into(),
            partition,
            offset,
            ..Default::default()
        };
        let found =
            offsets(vec![entry(0, 5), entry(-1, 5), entry(1, -1), entry(2, i64::MAX)]).expect("answered");
        let wrong: Vec<Option<&str>> = found
            .invalid
            .iter()
            .map(|invalid| invalid.as_ref().map(|invalid| invalid.field.as_str()))
            .collect();
        assert_eq!(wrong, [None, Some("offsets[1].partition"), Some("offsets[2].offset"), None]);
        assert_eq!(found.sound.len(), 2);
        let long = v1::OffsetCommit { metadata: "x".repeat(4_097), ..entry(0, 0) };
        assert!(offsets(vec![long]).expect("answered").invalid[0].is_some());
        assert!(offsets(Vec::new()).is_err());
        let many = |count| (0..count).map(|partition| entry(partition, 0)).collect();
        assert!(offsets(many(2_000)).is_ok());
        let too_many = offsets(many(2_001)).map(|_| ()).map_err(|invalid| invalid.reason);
        assert_eq!(too_many, Err(ErrorReason::RequestTooLarge));
        let twice = offsets(vec![entry(0, 1), entry(0, 2)]);
        assert_eq!(twice.map(|_| ()).map_err(|invalid| invalid.field), Err("offsets[1].partition".into()));
    }
}
