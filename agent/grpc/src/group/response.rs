//! What the agent says, as clients get it.

use tidelog_agent::groups::describe::{GroupInfo, GroupSummary, MemberInfo};
use tidelog_agent::groups::error::{GroupError, OffsetError};
use tidelog_agent::groups::offsets::{CommitResults, CommittedOffset};
use tidelog_agent::groups::watch::{Assignment, AssignmentMember, AssignmentRequest, TopicPartitions};
use tidelog_metadata_state::group::{Assignor, GroupState};
use tidelog_proto::convert::InvalidField;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1;
use tidelog_types::TopicName;

use crate::error;

pub(super) fn partitions(partitions: Vec<TopicPartitions>) -> Vec<v1::TopicPartitions> {
    let message = |of_topic: TopicPartitions| v1::TopicPartitions {
        topic: of_topic.topic.to_string(),
        topic_id: of_topic.id.0,
        partitions: of_topic.partitions.iter().map(|partition| partition.get()).collect(),
    };
    partitions.into_iter().map(message).collect()
}

pub(super) fn assignment(assignment: Assignment) -> v1::Assignment {
    v1::Assignment {
        generation: assignment.generation.0,
        partitions: partitions(assignment.partitions),
        waiting: assignment.waiting,
    }
}

pub(super) fn assignment_request(request: AssignmentRequest) -> v1::AssignmentRequest {
    let member = |member: AssignmentMember| v1::AssignmentMember {
        member_id: member.member.to_string(),
        topics: names(&member.topics),
        owned: partitions(member.owned),
        user_data: member.user_data,
        instance_id: member.instance.map(|instance| instance.to_string()).unwrap_or_default(),
    };
    v1::AssignmentRequest {
        generation: request.generation.0,
        members: request.members.into_iter().map(member).collect(),
        topics: partitions(request.topics),
    }
}

fn names(topics: &[TopicName]) -> Vec<String> {
    topics.iter().map(ToString::to_string).collect()
}

/// A result for each offset of a commit, in order.
pub(super) fn commit_results(
    invalid: Vec<Option<InvalidField>>,
    committed: Result<CommitResults, GroupError>,
) -> Vec<v1::OffsetCommitResult> {
    let (results, failed) = match committed {
        Ok(results) => (results, None),
        Err(failed) => (Vec::new(), Some(failed)),
    };
    let mut results = results.into_iter();
    let result = |invalid: Option<InvalidField>| {
        let error: Option<ApiError> = match (invalid, &failed) {
            (Some(invalid), _) => Some(invalid.into()),
            (None, Some(failed)) => Some(error::group(failed)),
            (None, None) => match results.next() {
                Some(Ok(())) => None,
                Some(Err(OffsetError::Group(failed))) => Some(error::group(&failed)),
                Some(Err(failed)) => Some(error::offset(&failed)),
                None => Some(error::draining()),
            },
        };
        v1::OffsetCommitResult { error: error.map(Into::into) }
    };
    invalid.into_iter().map(result).collect()
}

pub(super) fn offset(committed: CommittedOffset) -> v1::CommittedOffset {
    v1::CommittedOffset {
        topic: committed.topic.to_string(),
        topic_id: committed.topic_id.0,
        partition: committed.partition.get(),
        offset: committed.offset.get(),
        metadata: committed.metadata,
        committed_at_ms: committed.committed_at.0,
    }
}

fn state(state: GroupState) -> i32 {
    let state = match state {
        GroupState::Empty => v1::GroupState::Empty,
        GroupState::Rebalancing => v1::GroupState::Rebalancing,
        GroupState::Stable => v1::GroupState::Stable,
    };
    state.into()
}

pub(super) fn summary(group: &GroupSummary) -> v1::GroupSummary {
    v1::GroupSummary {
        group: group.name.to_string(),
        state: state(group.state),
        member_count: i32::try_from(group.members).unwrap_or(i32::MAX),
    }
}

pub(super) fn group(group: GroupInfo) -> v1::Group {
    let assignor = match group.assignor {
        Assignor::Sticky => v1::Assignor::Sticky,
        Assignor::Range => v1::Assignor::Range,
        Assignor::RoundRobin => v1::Assignor::RoundRobin,
        Assignor::Client => v1::Assignor::Client,
    };
    v1::Group {
        group: group.name.to_string(),
        state: state(group.state),
        generation: group.generation.0,
        assignor: assignor.into(),
        members: group.members.into_iter().map(member).collect(),
        offsets: group.offsets.into_iter().map(offset).collect(),
    }
}

fn member(member: MemberInfo) -> v1::GroupMember {
    v1::GroupMember {
        member_id: member.member.to_string(),
        instance_id: member.instance.map(|instance| instance.to_string()).unwrap_or_default(),
        client_id: member.client_id,
        topics: names(&member.topics),
        owned: partitions(member.owned),
        releasing: partitions(member.releasing),
        away: member.away,
        topic_pattern: member.pattern,
    }
}
