//! Who is who in consumer groups.

use tidelog_types::group::{GROUP_NAME_MAX, GroupNameError};
use tidelog_types::{GroupName, Incarnation, InstanceId, MemberId, PartitionIndex, TopicId, TopicName};

use super::{InvalidField, partition_index, topic_name};
use crate::status::ApiError;
use crate::v1::{self, ErrorReason};

/// Longest name of a group, member or instance, as errors give it.
pub(super) const LIMIT: usize = GROUP_NAME_MAX;

fn invalid_name(field: &str, error: &GroupNameError) -> InvalidField {
    InvalidField { reason: ErrorReason::InvalidGroupName, ..InvalidField::new(field, error) }
}

/// A group's name.
pub fn group_name(field: &str, name: &str) -> Result<GroupName, InvalidField> {
    GroupName::new(name).map_err(|error| invalid_name(field, &error))
}

/// A member's id.
pub fn member_id(field: &str, id: &str) -> Result<MemberId, InvalidField> {
    MemberId::new(id).map_err(|error| invalid_name(field, &error))
}

/// The instance id of a static member; empty: none.
pub fn instance_id(field: &str, id: &str) -> Result<Option<InstanceId>, InvalidField> {
    if id.is_empty() {
        return Ok(None);
    }
    InstanceId::new(id).map(Some).map_err(|error| invalid_name(field, &error))
}

/// Who a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its group.
    pub group: GroupName,
    /// Its id.
    pub member: MemberId,
    /// Which run of it.
    pub incarnation: Incarnation,
}

impl TryFrom<Option<&v1::MemberIdentity>> for Identity {
    type Error = InvalidField;

    fn try_from(identity: Option<&v1::MemberIdentity>) -> Result<Self, InvalidField> {
        let identity = identity.ok_or_else(|| InvalidField::missing("member"))?;
        let incarnation: Result<[u8; 16], _> = identity.incarnation.as_ref().try_into();
        let incarnation = incarnation.map_err(|_| {
            let found = identity.incarnation.len();
            InvalidField::new("member.incarnation", format_args!("it has {found} bytes, allowed are 16"))
        })?;
        Ok(Self {
            group: group_name("member.group", &identity.group)?,
            member: member_id("member.member_id", &identity.member_id)?,
            incarnation: Incarnation(uuid::Uuid::from_bytes(incarnation)),
        })
    }
}

/// Partitions of a topic that is named, or given by its id, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPartitions {
    /// Its name.
    pub topic: Option<TopicName>,
    /// Its id.
    pub topic_id: Option<TopicId>,
    /// Numbers of partitions.
    pub partitions: Vec<PartitionIndex>,
}

impl TryFrom<&v1::TopicPartitions> for NamedPartitions {
    type Error = InvalidField;

    fn try_from(message: &v1::TopicPartitions) -> Result<Self, InvalidField> {
        let topic = match message.topic.as_str() {
            "" if message.topic_id > 0 => None,
            name => Some(topic_name("topic", name)?),
        };
        let partitions = message.partitions.iter().map(|number| partition_index("partitions", *number));
        Ok(Self {
            topic,
            topic_id: Some(TopicId(message.topic_id)).filter(|id| id.0 > 0),
            partitions: partitions.collect::<Result<_, _>>()?,
        })
    }
}

/// A list of them.
pub fn named_partitions(
    field: &str,
    messages: &[v1::TopicPartitions],
) -> Result<Vec<NamedPartitions>, InvalidField> {
    let each = messages.iter().enumerate().map(|(position, message)| {
        NamedPartitions::try_from(message)
            .map_err(|invalid| invalid.within(format_args!("{field}[{position}]")))
    });
    each.collect()
}

/// Adds what errors about names say.
pub(super) fn describe(error: ApiError, field: &str) -> ApiError {
    error.with("field", field).with("limit", LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> v1::MemberIdentity {
        v1::MemberIdentity { group: "g".into(), member_id: "m".into(), incarnation: vec![7; 16].into() }
    }

    #[test]
    fn identities_are_checked_field_by_field() {
        let good = Identity::try_from(Some(&identity())).expect("it is fine");
        assert_eq!((good.group.as_str(), good.member.as_str()), ("g", "m"));
        assert_eq!(good.incarnation.0.as_bytes(), &[7; 16]);
        for (identity, field) in [
            (None, "member"),
            (Some(v1::MemberIdentity { group: "a\0".into(), ..identity() }), "member.group"),
            (Some(v1::MemberIdentity { member_id: "a b".into(), ..identity() }), "member.member_id"),
            (
                Some(v1::MemberIdentity { incarnation: vec![7; 15].into(), ..identity() }),
                "member.incarnation",
            ),
        ] {
            let invalid = Identity::try_from(identity.as_ref()).expect_err("something is wrong");
            assert_eq!(invalid.field, field);
        }
    }

    #[test]
    fn wrong_names_say_what_is_allowed() {
        let invalid = group_name("group", &"x".repeat(250)).expect_err("too long");
        let error = ApiError::from(invalid);
        assert_eq!(error.reason, ErrorReason::InvalidGroupName);
        assert_eq!((error.metadata["field"].as_str(), error.metadata["limit"].as_str()), ("group", "249"));
        assert_eq!(instance_id("instance_id", ""), Ok(None));
        assert!(instance_id("instance_id", "/").is_err());
    }

    #[test]
    fn partitions_have_a_name_or_an_id() {
        let message = v1::TopicPartitions { topic: "t".into(), topic_id: 0, partitions: vec![0, 5] };
        let named = NamedPartitions::try_from(&message).expect("it is fine");
        assert_eq!((named.topic.map(|name| name.to_string()), named.topic_id), (Some("t".into()), None));
        let by_id = v1::TopicPartitions { topic: String::new(), topic_id: 3, ..message.clone() };
        assert_eq!(NamedPartitions::try_from(&by_id).map(|named| named.topic_id), Ok(Some(TopicId(3))));
        let neither = v1::TopicPartitions { topic_id: 0, ..by_id };
        let invalid = named_partitions("owned", &[message.clone(), neither]).expect_err("neither");
        assert_eq!(invalid.field, "owned[1].topic");
        let negative = v1::TopicPartitions { partitions: vec![0, -1], ..message };
        assert_eq!(
            named_partitions("owned", &[negative]).map_err(|invalid| invalid.field),
            Err("owned[0].partitions".into())
        );
    }
}
