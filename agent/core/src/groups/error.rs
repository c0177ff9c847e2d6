//! Why an operation on a group failed.

use std::time::Duration;

use tidelog_metadata_node::ProposeError;
use tidelog_metadata_state::group::command::{GroupLimit, GroupRefusal};
use tidelog_metadata_state::{Outcome, Refusal};
use tidelog_types::{Generation, GroupName, MemberId, PartitionIndex, TopicId, TopicName};

use super::pattern::PatternError;

/// Why an operation on a group failed. All but [`GroupError::Unknown`] are definite: nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// No such group.
    #[error("group {group} does not exist")]
    UnknownGroup {
        /// Its name.
        group: GroupName,
    },
    /// No such member under this incarnation.
    #[error(
        "member {member} is not in group {group} under this incarnation: its session has expired, or it has left"
    )]
    UnknownMember {
        /// Name of the group.
        group: GroupName,
        /// The member's id.
        member: MemberId,
    },
    /// The member id or the instance id belongs to another run.
    #[error(
        "member {member} of group {group}, or its instance id, belongs to a process whose session has not expired"
    )]
    MemberExists {
        /// Name of the group.
        group: GroupName,
        /// The member's id.
        member: MemberId,
    },
    /// There is no room.
    #[error("the limit of {} {limit} is reached", limit.value())]
    Full {
        /// Which limit.
        limit: GroupLimit,
    },
    /// The group has members.
    #[error("group {group} has {members} members")]
    NotEmpty {
        /// Its name.
        group: GroupName,
        /// How many.
        members: u32,
    },
    /// The assignment was not asked for, or not any more.
    #[error("the assignment is for another generation, the present one is {current}")]
    StaleGeneration {
        /// The present one.
        current: Generation,
    },
    /// The pattern of topics is no regular expression.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The request contradicts itself, or something in it is out of range.
    #[error("the request contradicts itself: {0}")]
    Malformed(&'static str),
    /// The metadata log does not answer, or has no leader.
    #[error("the metadata is unavailable: {cause}")]
    MetadataUnavailable {
        /// Why.
        cause: String,
    },
    /// The request does not fit an entry of the metadata log.
    #[error("the request has {bytes} bytes as a metadata entry, allowed are {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What fits.
        max: usize,
    },
    /// It may have taken effect, or may yet do so. All operations on groups can be repeated.
    #[error("the outcome is unknown: {cause}")]
    Unknown {
        /// Why it is not known.
        cause: String,
    },
}

/// Why one offset was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffsetError {
    /// No such topic.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// Its name.
        topic: TopicName,
    },
    /// The topic of that name is another one.
    #[error("topic {topic} is not the one with id {wanted}: that one was deleted")]
    TopicIdMismatch {
        /// Its name.
        topic: TopicName,
        /// The id that the caller means.
        wanted: TopicId,
        /// The id of the topic that has the name now.
        found: TopicId,
    },
    /// The topic has fewer partitions.
    #[error("topic {topic} has {partitions} partitions, there is no partition {partition}")]
    UnknownPartition {
        /// Its name.
        topic: TopicName,
        /// The partition that was meant.
        partition: PartitionIndex,
        /// How many there are.
        partitions: u32,
    },
    /// The member does not own the partition, or came to own it after the generation of the commit.
    #[error("the member does not own the partition under that generation, the present one is {current}")]
    StaleGeneration {
        /// The group's present generation.
        current: Generation,
    },
    /// It concerns the whole commit.
    #[error(transparent)]
    Group(#[from] GroupError),
}

impl GroupError {
    /// When asking again makes sense, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::MetadataUnavailable { .. } => Some(Duration::from_millis(500)),
            // The other one may be about to expire.
            Self::MemberExists { .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    pub(super) fn unproposed(error: ProposeError) -> Self {
        match error {
            ProposeError::Unavailable(cause) => Self::MetadataUnavailable { cause },
            ProposeError::TooLarge { bytes, max } => Self::TooLarge { bytes, max },
            ProposeError::Unknown(cause) => Self::Unknown { cause },
        }
    }

    pub(super) fn unexpected(outcome: &Outcome) -> Self {
        tracing::error!(event = "group_outcome", ?outcome, "another kind of outcome than the command has");
        Self::Unknown { cause: "the metadata gave another kind of outcome".to_owned() }
    }

    /// `member` is whom the command was about, if it was about one.
    pub(super) fn refused(refusal: &Refusal, group: &GroupName, member: Option<&MemberId>) -> Self {
        let group = group.clone();
        match (refusal, member.cloned()) {
            (Refusal::Group(GroupRefusal::UnknownGroup), _) => Self::UnknownGroup { group },
            (Refusal::Group(GroupRefusal::UnknownMember), Some(member)) => {
                Self::UnknownMember { group, member }
            }
            (Refusal::Group(GroupRefusal::MemberExists), Some(member)) => {
                Self::MemberExists { group, member }
            }
            (Refusal::Group(GroupRefusal::Full { limit }), _) => Self::Full { limit: *limit },
            (Refusal::Group(GroupRefusal::NotEmpty { members }), _) => {
                Self::NotEmpty { group, members: *members }
            }
            (Refusal::Group(GroupRefusal::StaleGeneration { current }), _) => {
                Self::StaleGeneration { current: *current }
            }
            (Refusal::Malformed, _) => Self::Malformed("a value is out of range, or is given twice"),
            _ => Self::Unknown { cause: refusal.to_string() },
        }
    }
}
