//! What can be asked of a group, and what comes of it.

use std::sync::Arc;

use bytes::Bytes;
use tidelog_types::{
    CommitNumber, Generation, GroupName, Incarnation, InstanceId, LogEpoch, LogIndex, MemberId, Offset,
    TopicPartition,
};

use super::Assignor;
use super::subscription::Subscription;
use crate::limits::{
    CLIENT_ID_BYTES_MAX, REBALANCE_TIMEOUT_MS, SESSION_TIMEOUT_MS, TOPIC_PATTERN_BYTES_MAX,
    TOPICS_PER_SUBSCRIPTION_MAX, USER_DATA_BYTES_MAX,
};

/// A change of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCommand {
    /// Which group.
    pub group: GroupName,
    /// What is to change.
    pub change: GroupChange,
}

/// One run of a member: its process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberRun {
    /// The member's id.
    pub member: MemberId,
    /// Tells it from other processes under the same id.
    pub incarnation: Incarnation,
}

/// How a group's partitions are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupChange {
    /// Becomes a member, or goes on as one with other options.
    Join {
        /// Who.
        who: MemberRun,
        /// What it wants.
        options: Arc<MemberOptions>,
        /// The topics that its pattern matches at present; nothing without a pattern.
        matched: Subscription,
    },
    /// Says which topics a member's pattern matches by now. Without effect if the member has another pattern.
    ResolvePattern {
        /// Whose.
        who: MemberRun,
        /// The pattern that was looked for.
        pattern: String,
        /// The topics that it matches.
        matched: Subscription,
    },
    /// Ends a membership; a static member's partitions stay reserved, unless `permanently`.
    Leave {
        /// Whose.
        who: MemberRun,
        /// Reserve nothing.
        permanently: bool,
    },
    /// Removes a member whose time is over. Refused if it has renewed its session since the proposer looked, or if the
    /// proposer does not lead any more: its successor may have given the member more time.
    Expire {
        /// Whom.
        who: MemberRun,
        /// [`super::Member::renewed`] as the proposer saw it.
        renewed: LogIndex,
        /// The epoch that the proposer leads.
        epoch: LogEpoch,
    },
    /// The member has let go of partitions. Those count that it was told to release, at or before `generation`.
    Release {
        /// Who.
        who: MemberRun,
        /// Generation of the assignment that the member acts upon.
        generation: Generation,
        /// What it let go of.
        partitions: Vec<TopicPartition>,
    },
    /// The assignment that a member was asked for. Members that are not named get nothing.
    Assign {
        /// Who assigns.
        who: MemberRun,
        /// What it was asked for.
        generation: Generation,
        /// Partitions of each member.
        members: Vec<(MemberId, Vec<TopicPartition>)>,
    },
    /// Commits offsets.
    Commit {
        /// The committing member; `None` only while the group has no members.
        by: Option<CommittedBy>,
        /// The offsets, at least one, each partition once.
        offsets: Vec<OffsetCommit>,
    },
    /// Forgets a group without members.
    Delete,
}

/// The member that commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedBy {
    /// Who.
    pub who: MemberRun,
    /// Generation under which the records were read.
    pub generation: Generation,
    /// Number of the commit; a repeat carries the same.
    pub number: CommitNumber,
}

/// An offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Whose.
    pub partition: TopicPartition,
    /// The next offset to read.
    pub offset: Offset,
    /// Words of the client, at most [`crate::limits::OFFSET_METADATA_BYTES_MAX`] bytes.
    pub metadata: String,
}

/// What a member wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberOptions {
    /// The topics that it names.
    pub topics: Subscription,
    /// Pattern of further topics; empty: none.
    pub pattern: String,
    /// How it wants partitions to be shared.
    pub assignor: Assignor,
    /// Milliseconds without heartbeats after which it is removed.
    pub session_timeout_ms: u32,
    /// Milliseconds that it may take to release partitions.
    pub rebalance_timeout_ms: u32,
    /// Its instance id, if it is a static member.
    pub instance: Option<InstanceId>,
    /// Its name for people.
    pub client_id: String,
    /// For the assignor of a client.
    pub user_data: Bytes,
}

impl MemberOptions {
    /// Whether everything lies within its limits.
    pub(crate) fn is_sound(&self) -> bool {
        self.topics.len() <= TOPICS_PER_SUBSCRIPTION_MAX
            && self.pattern.len() <= TOPIC_PATTERN_BYTES_MAX
            && SESSION_TIMEOUT_MS.contains(&self.session_timeout_ms)
            && REBALANCE_TIMEOUT_MS.contains(&self.rebalance_timeout_ms)
            && self.client_id.len() <= CLIENT_ID_BYTES_MAX
            && self.user_data.len() <= USER_DATA_BYTES_MAX
    }
}

/// What came of a [`GroupChange`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupOutcome {
    /// It is a member.
    Joined,
    /// The pattern's topics were noted.
    PatternResolved,
    /// It is no member any more.
    Left,
    /// It was removed.
    Expired,
    /// This many of the partitions have changed hands, or have become free.
    Released(u32),
    /// The assignment was taken.
    Assigned,
    /// What came of each offset, in the order of the command.
    OffsetsCommitted(Arc<[OffsetOutcome]>),
    /// The group is gone.
    Deleted,
}

/// What came of one offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetOutcome {
    /// It was committed.
    Committed,
    /// The topic does not exist (any more).
    UnknownTopic,
    /// The topic has fewer partitions.
    UnknownPartition,
    /// The group has no such member under this incarnation.
    UnknownMember,
    /// The member does not own the partition, or came to own it after the generation of the commit.
    StaleGeneration,
    /// A commit with a higher number took effect before, or one with this number and other partitions.
    Superseded,
    /// No member was given, and the group has members.
    GroupNotEmpty,
}

/// Why a group was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GroupRefusal {
    /// There is no such group.
    #[error("the group does not exist")]
    UnknownGroup,
    /// There is no such member under this incarnation.
    #[error("the member is not in the group under this incarnation")]
    UnknownMember,
    /// The member id or the instance id belongs to another run, whose session lasts.
    #[error("the member id or instance id belongs to a process whose session has not expired")]
    MemberExists,
    /// There is no room.
    #[error("the limit of {} {limit} is reached", limit.value())]
    Full {
        /// Which limit.
        limit: GroupLimit,
    },
    /// The group has members.
    #[error("the group has {members} members")]
    NotEmpty {
        /// How many.
        members: u32,
    },
    /// The assignment belongs to another generation.
    #[error("the assignment was not asked for, the present generation is {current}")]
    StaleGeneration {
        /// The present one.
        current: Generation,
    },
    /// The member has renewed its session, or another agent leads by now.
    #[error("the member's session was renewed")]
    Renewed,
}

/// What can be full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupLimit {
    /// Members of a group.
    Members,
    /// Groups of the cluster.
    Groups,
    /// Partitions of all groups together.
    Partitions,
    /// Bytes of all groups together.
    Bytes,
}

impl GroupLimit {
    /// The most that is allowed.
    pub fn value(self) -> u64 {
        use crate::limits::{
            GROUP_BYTES_PER_CLUSTER_MAX, GROUP_PARTITIONS_PER_CLUSTER_MAX, GROUPS_PER_CLUSTER_MAX,
            MEMBERS_PER_GROUP_MAX,
        };
        match self {
            Self::Members => MEMBERS_PER_GROUP_MAX as u64,
            Self::Groups => GROUPS_PER_CLUSTER_MAX as u64,
            Self::Partitions => GROUP_PARTITIONS_PER_CLUSTER_MAX,
            Self::Bytes => GROUP_BYTES_PER_CLUSTER_MAX,
        }
    }
}

impl std::fmt::Display for GroupLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Members => "members in a group",
            Self::Groups => "groups in the cluster",
            Self::Partitions => "partitions in all groups",
            Self::Bytes => "bytes in all groups",
        })
    }
}
