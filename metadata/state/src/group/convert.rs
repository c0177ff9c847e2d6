//! Commands as messages, and back.

use std::sync::Arc;

use tidelog_types::{
    CommitNumber, Generation, GroupName, Incarnation, InstanceId, LogEpoch, LogIndex, MemberId, Offset,
    TopicName, TopicPartition,
};

use super::Assignor;
use super::command::{CommittedBy, GroupChange, GroupCommand, MemberOptions, MemberRun, OffsetCommit};
use super::subscription::Subscription;
use crate::convert::{InField, partition, uuid_bytes, uuid_from};
use crate::entry::EntryError;
use crate::wire;

impl From<&GroupCommand> for wire::GroupCommand {
    fn from(command: &GroupCommand) -> Self {
        use wire::group_command::Change as Wire;
        let change = match &command.change {
            GroupChange::Join { who, options, matched } => Wire::Join(wire::JoinGroup {
                who: Some(who.into()),
                options: Some((&**options).into()),
                matched: texts(matched),
            }),
            GroupChange::ResolvePattern { who, pattern, matched } => {
                Wire::ResolvePattern(wire::ResolvePattern {
                    who: Some(who.into()),
                    pattern: pattern.clone(),
                    matched: texts(matched),
                })
            }
            GroupChange::Leave { who, permanently } => {
                Wire::Leave(wire::LeaveGroup { who: Some(who.into()), permanently: *permanently })
            }
            GroupChange::Expire { who, renewed, epoch } => {
                Wire::Expire(wire::ExpireMember { who: Some(who.into()), renewed: renewed.0, epoch: epoch.0 })
            }
            GroupChange::Release { who, generation, partitions } => Wire::Release(wire::ReleasePartitions {
                who: Some(who.into()),
                generation: generation.0,
                partitions: lists(partitions),
            }),
            GroupChange::Assign { who, generation, members } => Wire::Assign(wire::AssignPartitions {
                who: Some(who.into()),
                generation: generation.0,
                members: members
                    .iter()
                    .map(|(member, partitions)| wire::MemberPartitions {
                        member: member.to_string(),
                        partitions: lists(partitions),
                    })
                    .collect(),
            }),
            GroupChange::Commit { by, offsets } => Wire::Commit(wire::CommitOffsets {
                who: by.as_ref().map(|by| (&by.who).into()),
                generation: by.as_ref().map_or(0, |by| by.generation.0),
                number: by.as_ref().map_or(0, |by| by.number.0),
                topics: offsets
                    .chunk_by(|a, b| a.partition.topic == b.partition.topic)
                    .map(topic_offsets)
                    .collect(),
            }),
            GroupChange::Delete => Wire::Delete(wire::DeleteGroup {}),
        };
        Self { group: command.group.to_string(), change: Some(change) }
    }
}

impl TryFrom<wire::GroupCommand> for GroupCommand {
    type Error = EntryError;

    fn try_from(message: wire::GroupCommand) -> Result<Self, EntryError> {
        use wire::group_command::Change as Wire;
        let change = match message.change.in_field("group.change")? {
            Wire::Join(join) => GroupChange::Join {
                who: run(join.who)?,
                options: Arc::new(join.options.in_field("join.options")?.try_into()?),
                matched: subscription(&join.matched)?,
            },
            Wire::ResolvePattern(resolve) => GroupChange::ResolvePattern {
                who: run(resolve.who)?,
                pattern: resolve.pattern,
                matched: subscription(&resolve.matched)?,
            },
            Wire::Leave(leave) => GroupChange::Leave { who: run(leave.who)?, permanently: leave.permanently },
            Wire::Expire(expire) => GroupChange::Expire {
                who: run(expire.who)?,
                renewed: LogIndex(expire.renewed),
                epoch: LogEpoch(expire.epoch),
            },
            Wire::Release(release) => GroupChange::Release {
                who: run(release.who)?,
                generation: Generation(release.generation),
                partitions: partitions(&release.partitions)?,
            },
            Wire::Assign(assign) => GroupChange::Assign {
                who: run(assign.who)?,
                generation: Generation(assign.generation),
                members: assign
                    .members
                    .iter()
                    .map(|given| {
                        let member = MemberId::new(&given.member).in_field("assign.member")?;
                        Ok((member, partitions(&given.partitions)?))
                    })
                    .collect::<Result<_, EntryError>>()?,
            },
            Wire::Commit(commit) => GroupChange::Commit {
                by: match commit.who {
                    None => None,
                    who => Some(CommittedBy {
                        who: run(who)?,
                        generation: Generation(commit.generation),
                        number: CommitNumber(commit.number),
                    }),
                },
                offsets: commit.topics.into_iter().map(offsets_of).collect::<Result<Vec<_>, _>>()?.concat(),
            },
            Wire::Delete(wire::DeleteGroup {}) => GroupChange::Delete,
        };
        Ok(Self { group: GroupName::new(&message.group).in_field("group.group")?, change })
    }
}

impl From<&MemberRun> for wire::MemberRun {
    fn from(who: &MemberRun) -> Self {
        Self { member: who.member.to_string(), incarnation: uuid_bytes(who.incarnation.0) }
    }
}

pub(crate) fn run(message: Option<wire::MemberRun>) -> Result<MemberRun, EntryError> {
    let message = message.in_field("who")?;
    Ok(MemberRun {
        member: MemberId::new(&message.member).in_field("who.member")?,
        incarnation: Incarnation(uuid_from(&message.incarnation, "who.incarnation")?),
    })
}

impl From<&MemberOptions> for wire::MemberOptions {
    fn from(options: &MemberOptions) -> Self {
        Self {
            topics: texts(&options.topics),
            pattern: options.pattern.clone(),
            assignor: wire::Assignor::from(options.assignor).into(),
            session_timeout_ms: options.session_timeout_ms,
            rebalance_timeout_ms: options.rebalance_timeout_ms,
            instance: options.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
            client_id: options.client_id.clone(),
            user_data: options.user_data.clone(),
        }
    }
}

impl TryFrom<wire::MemberOptions> for MemberOptions {
    type Error = EntryError;

    fn try_from(message: wire::MemberOptions) -> Result<Self, EntryError> {
        let instance = Some(message.instance).filter(|instance| !instance.is_empty());
        Ok(Self {
            topics: subscription(&message.topics)?,
            pattern: message.pattern,
            assignor: assignor(message.assignor).in_field("options.assignor")?,
            session_timeout_ms: message.session_timeout_ms,
            rebalance_timeout_ms: message.rebalance_timeout_ms,
            instance: instance
                .map(|instance| InstanceId::new(&instance))
                .transpose()
                .in_field("options.instance")?,
            client_id: message.client_id,
            // A copy: what comes from the log is a part of its entry, which would stay in memory with it.
            user_data: bytes::Bytes::copy_from_slice(&message.user_data),
        })
    }
}

impl From<Assignor> for wire::Assignor {
    fn from(assignor: Assignor) -> Self {
        match assignor {
            Assignor::Sticky => Self::Sticky,
            Assignor::Range => Self::Range,
            Assignor::RoundRobin => Self::RoundRobin,
            Assignor::Client => Self::Client,
        }
    }
}

pub(crate) fn assignor(value: i32) -> Option<Assignor> {
    match wire::Assignor::try_from(value).ok()? {
        wire::Assignor::Unspecified => None,
        wire::Assignor::Sticky => Some(Assignor::Sticky),
        wire::Assignor::Range => Some(Assignor::Range),
        wire::Assignor::RoundRobin => Some(Assignor::RoundRobin),
        wire::Assignor::Client => Some(Assignor::Client),
    }
}

pub(crate) fn texts(subscription: &Subscription) -> Vec<String> {
    subscription.names().iter().map(|name| name.as_str().to_owned()).collect()
}

pub(crate) fn subscription(names: &[String]) -> Result<Subscription, EntryError> {
    let names = names.iter().map(|name| TopicName::new(name).in_field("topics"));
    Ok(Subscription::new(names.collect::<Result<Vec<_>, _>>()?))
}

fn lists(partitions: &[TopicPartition]) -> Vec<wire::PartitionList> {
    let list = |of_topic: &[TopicPartition]| wire::PartitionList {
        topic: of_topic.first().map_or(0, |at| at.topic.0),
        partitions: of_topic.iter().map(|at| at.partition.get()).collect(),
    };
    partitions.chunk_by(|a, b| a.topic == b.topic).map(list).collect()
}

fn partitions(lists: &[wire::PartitionList]) -> Result<Vec<TopicPartition>, EntryError> {
    let each = lists.iter().flat_map(|list| list.partitions.iter().map(|number| (list.topic, *number)));
    each.map(|(topic, number)| partition(topic, number)).collect()
}

fn topic_offsets(offsets: &[OffsetCommit]) -> wire::TopicOffsets {
    let metadata = offsets.iter().zip(0..).filter(|(offset, _)| !offset.metadata.is_empty());
    wire::TopicOffsets {
        topic: offsets.first().map_or(0, |offset| offset.partition.topic.0),
        partitions: offsets.iter().map(|offset| offset.partition.partition.get()).collect(),
        offsets: offsets.iter().map(|offset| offset.offset.get()).collect(),
        metadata: metadata
            .map(|(offset, position)| wire::OffsetMetadata { position, text: offset.metadata.clone() })
            .collect(),
    }
}

pub(crate) fn offsets_of(message: wire::TopicOffsets) -> Result<Vec<OffsetCommit>, EntryError> {
    if message.partitions.len() != message.offsets.len() {
        return Err(EntryError::Field { field: "offsets.partitions" });
    }
    let each = message.partitions.into_iter().zip(message.offsets);
    let mut offsets = each
        .map(|(number, offset)| {
            Ok(OffsetCommit {
                partition: partition(message.topic, number)?,
                offset: Offset::new(offset).in_field("offsets.offsets")?,
                metadata: String::new(),
            })
        })
        .collect::<Result<Vec<_>, EntryError>>()?;
    for metadata in message.metadata {
        let position = usize::try_from(metadata.position).in_field("offsets.metadata")?;
        offsets.get_mut(position).in_field("offsets.metadata")?.metadata = metadata.text;
    }
    Ok(offsets)
}
