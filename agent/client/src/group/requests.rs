//! Requests about groups that need no membership.

use tidelog_proto::v1;
use tidelog_types::{
    Generation, GroupName, GroupNameError, InstanceId, MemberId, Offset, PartitionIndex, TimestampMs,
    TopicId, TopicName,
};
use tonic::Response;

use super::commit::{OffsetCommit, commit_offsets, requests};
use super::error::CommitError;
use super::partition::{Identified, TopicPartition, from_wire, to_wire};
use crate::connection::Client;
use crate::error::RequestError;
use crate::request::{self, GroupClient, Repeat, call, with_deadline};

/// Partitions in one request: below the service's limit.
const PARTITIONS_MAX: usize = 1_000;

/// What a group does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupState {
    /// It has offsets and no members.
    Empty,
    /// Partitions are changing hands, or an assignment is awaited.
    Rebalancing,
    /// Each member owns what it is to own.
    Stable,
    /// Something that this version does not know.
    Other,
}

/// How a group shares its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupAssignor {
    /// As evenly as possible, and with few moves.
    Sticky,
    /// In runs of neighbouring partitions.
    Range,
    /// In turn.
    RoundRobin,
    /// As one of its members decides.
    Client,
    /// In a way that this version does not know.
    Other,
}

/// A group, shortly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its name.
    pub name: GroupName,
    /// What it does at the moment.
    pub state: GroupState,
    /// How many members it has.
    pub member_count: u32,
}

/// A group with its members and offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// What it does at the moment.
    pub state: GroupState,
    /// Its generation.
    pub generation: Generation,
    /// How it shares partitions.
    pub assignor: GroupAssignor,
    /// Its members by id.
    pub members: Vec<GroupMember>,
    /// Its committed offsets by topic and partition.
    pub offsets: Vec<CommittedOffset>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub member_id: MemberId,
    /// Its instance id, if its membership is static.
    pub instance_id: Option<InstanceId>,
    /// The client's name for people.
    pub client_id: String,
    /// The topics that it subscribes to, patterns resolved.
    pub topics: Vec<TopicName>,
    /// Its pattern; empty if it has none.
    pub topic_pattern: String,
    /// What it may own now.
    pub owned: Vec<TopicPartition>,
    /// What it was told to release and has not released yet.
    pub releasing: Vec<TopicPartition>,
    /// Whether it is a static member that has left and may come back.
    pub away: bool,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The partition.
    pub at: TopicPartition,
    /// The id of its topic.
    pub topic_id: TopicId,
    /// The next offset to read.
    pub offset: Offset,
    /// Words of whoever committed it.
    pub metadata: String,
    /// When it was committed.
    pub committed_at: TimestampMs,
}

impl Client {
    /// Lists all groups by name.
    pub async fn list_groups(&self) -> Result<Vec<GroupSummary>, RequestError> {
        let mut groups = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListGroupsRequest { page_size: 1_000, page_token };
            let page = self.group_request(Repeat::Always, request, async |mut service, request| {
                service.list_groups(request).await
            });
            let page = page.await?;
            for group in page.groups {
                groups.push(GroupSummary {
                    name: valid(GroupName::new(&group.group))?,
                    state: state(group.state),
                    member_count: u32::try_from(group.member_count).unwrap_or(0),
                });
            }
            if page.next_page_token.is_empty() {
                return Ok(groups);
            }
            page_token = page.next_page_token;
        }
    }

    /// Describes a group.
    pub async fn get_group(&self, name: &GroupName) -> Result<Group, RequestError> {
        let request = v1::GetGroupRequest { group: name.to_string() };
        let response = self.group_request(Repeat::Always, request, async |mut service, request| {
            service.get_group(request).await
        });
        let missing = || RequestError::Protocol("the group is missing".into());
        let group = response.await?.group.ok_or_else(missing)?;
        Ok(Group {
            name: valid(GroupName::new(&group.group))?,
            state: state(group.state),
            generation: Generation(group.generation),
            assignor: match v1::Assignor::try_from(group.assignor) {
                Ok(v1::Assignor::Unspecified | v1::Assignor::Sticky) => GroupAssignor::Sticky,
                Ok(v1::Assignor::Range) => GroupAssignor::Range,
                Ok(v1::Assignor::RoundRobin) => GroupAssignor::RoundRobin,
                Ok(v1::Assignor::Client) => GroupAssignor::Client,
                Err(_) => GroupAssignor::Other,
            },
            members: group.members.into_iter().map(member).collect::<Result<_, _>>()?,
            offsets: group.offsets.into_iter().map(committed).collect::<Result<_, _>>()?,
        })
    }

    /// Forgets a group and its offsets. Refused while it has members.
    pub async fn delete_group(&self, name: &GroupName) -> Result<(), RequestError> {
        let request = v1::DeleteGroupRequest { group: name.to_string() };
        self.group_request(Repeat::IfNotDone, request, async |mut service, request| {
            service.delete_group(request).await
        })
        .await?;
        Ok(())
    }

    /// What a group has committed, by topic and partition. A group that nobody knows has committed nothing.
    pub async fn group_offsets(&self, name: &GroupName) -> Result<Vec<CommittedOffset>, RequestError> {
        fetch_offsets(self, name, None).await
    }

    /// Commits offsets for a group that has no members, each partition once.
    pub async fn commit_group_offsets(
        &self,
        name: &GroupName,
        offsets: &[OffsetCommit],
    ) -> Result<(), CommitError> {
        let mut refused = Vec::new();
        for some in requests(offsets) {
            let wire = some.iter().map(|commit| v1::OffsetCommit {
                topic: commit.at.topic.to_string(),
                partition: commit.at.partition.get(),
                topic_id: None,
                offset: commit.offset.get(),
                metadata: commit.metadata.clone(),
            });
            let request = v1::CommitOffsetsRequest {
                group: name.to_string(),
                member: None,
                number: 0,
                generation: 0,
                offsets: wire.collect(),
            };
            let results = commit_offsets(self, request).await?;
            let errors =
                some.iter().zip(results).filter_map(|(commit, error)| Some((commit.at.clone(), error?)));
            refused.extend(errors);
        }
        if refused.is_empty() { Ok(()) } else { Err(CommitError::Partitions(refused)) }
    }

    pub(super) async fn group_request<Q: Clone, A>(
        &self,
        repeat: Repeat,
        message: Q,
        send: impl AsyncFn(GroupClient, tonic::Request<Q>) -> Result<Response<A>, tonic::Status>,
    ) -> Result<A, RequestError> {
        let limit = self.options().request_timeout;
        call(self, repeat, |channel| send(request::group(channel), with_deadline(message.clone(), limit)))
            .await
    }
}

/// The committed offsets of these partitions, or of all.
pub(super) async fn fetch_offsets(
    client: &Client,
    group: &GroupName,
    partitions: Option<&Identified>,
) -> Result<Vec<CommittedOffset>, RequestError> {
    let lists = match partitions {
        None => vec![Vec::new()],
        Some(partitions) => {
            let all: Vec<_> = partitions.iter().map(|(at, id)| (at, *id)).collect();
            all.chunks(PARTITIONS_MAX).map(|some| to_wire(some.iter().copied())).collect()
        }
    };
    let mut found = Vec::new();
    for partitions in lists {
        let request = v1::FetchOffsetsRequest { group: group.to_string(), partitions };
        let response = client.group_request(Repeat::Always, request, async |mut service, request| {
            service.fetch_offsets(request).await
        });
        for offset in response.await?.offsets {
            found.push(committed(offset)?);
        }
    }
    Ok(found)
}

fn committed(offset: v1::CommittedOffset) -> Result<CommittedOffset, RequestError> {
    let partition = valid(PartitionIndex::new(offset.partition))?;
    Ok(CommittedOffset {
        at: TopicPartition::new(valid(TopicName::new(&offset.topic))?, partition),
        topic_id: TopicId(offset.topic_id),
        offset: valid(Offset::new(offset.offset))?,
        metadata: offset.metadata,
        committed_at: TimestampMs(offset.committed_at_ms),
    })
}

fn member(member: v1::GroupMember) -> Result<GroupMember, RequestError> {
    let partitions = |list: &[v1::TopicPartitions]| -> Result<Vec<TopicPartition>, RequestError> {
        Ok(from_wire(list).map_err(RequestError::Protocol)?.into_keys().collect())
    };
    let instance_id: Result<Option<InstanceId>, GroupNameError> =
        Some(&member.instance_id).filter(|id| !id.is_empty()).map(|id| InstanceId::new(id)).transpose();
    Ok(GroupMember {
        member_id: valid(MemberId::new(&member.member_id))?,
        instance_id: valid(instance_id)?,
        owned: partitions(&member.owned)?,
        releasing: partitions(&member.releasing)?,
        topics: member.topics.iter().map(|name| valid(TopicName::new(name))).collect::<Result<_, _>>()?,
        client_id: member.client_id,
        topic_pattern: member.topic_pattern,
        away: member.away,
    })
}

fn state(state: i32) -> GroupState {
    match v1::GroupState::try_from(state) {
        Ok(v1::GroupState::Empty) => GroupState::Empty,
        Ok(v1::GroupState::Rebalancing) => GroupState::Rebalancing,
        Ok(v1::GroupState::Stable) => GroupState::Stable,
        Ok(v1::GroupState::Unspecified) | Err(_) => GroupState::Other,
    }
}

fn valid<T>(checked: Result<T, impl std::fmt::Display>) -> Result<T, RequestError> {
    checked.map_err(|error| RequestError::Protocol(error.to_string()))
}
