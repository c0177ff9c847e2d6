//! Committing and reading offsets.

use std::sync::Arc;

use tidelog_metadata_state::group::command::{
    CommittedBy, GroupChange, GroupOutcome, OffsetCommit, OffsetOutcome,
};
use tidelog_metadata_state::{Outcome, Topic};
use tidelog_types::{
    GroupName, MemberId, Offset, PartitionIndex, TimestampMs, TopicId, TopicName, TopicPartition,
};

use super::Groups;
use super::error::{GroupError, OffsetError};

/// An offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// Name of the topic.
    pub topic: TopicName,
    /// Its id, if it has to be a certain topic of that name.
    pub topic_id: Option<TopicId>,
    /// Number of the partition.
    pub partition: PartitionIndex,
    /// The next offset to read.
    pub offset: Offset,
    /// Words of the client.
    pub metadata: String,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Name of the topic.
    pub topic: TopicName,
    /// Its id.
    pub topic_id: TopicId,
    /// Number of the partition.
    pub partition: PartitionIndex,
    /// The next offset to read.
    pub offset: Offset,
    /// Words of the client.
    pub metadata: String,
    /// When it was committed, in the cluster's time.
    pub committed_at: TimestampMs,
}

/// Partitions as requests name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPartitions {
    /// Name of the topic; not needed if the id is given.
    pub topic: Option<TopicName>,
    /// Its id; not needed if the name is given.
    pub topic_id: Option<TopicId>,
    /// Numbers of the partitions.
    pub partitions: Vec<PartitionIndex>,
}

/// A result for each offset.
pub type CommitResults = Vec<Result<(), OffsetError>>;

impl Groups {
    /// Commits offsets; the results are in the order of the offsets. Without a member (`by`) the group must have none.
    pub async fn commit(
        &self,
        group: &GroupName,
        by: Option<CommittedBy>,
        offsets: Vec<OffsetToCommit>,
    ) -> Result<CommitResults, GroupError> {
        let member = by.as_ref().map(|by| by.who.member.clone());
        let mut topics: Vec<Result<TopicId, OffsetError>> = self.resolve_all(&offsets);
        if topics.iter().any(Result::is_err) {
            // What is not known here may have been created elsewhere a moment ago.
            self.confirm().await?;
            topics = self.resolve_all(&offsets);
        }
        let to_commit = offsets.iter().zip(&topics).zip(0..).map(|((offset, topic), position)| {
            // An unknown one stays in the command under an id that no topic has, so that a repeat has as many as the first try.
            let topic = topic.as_ref().map_or(TopicId(u64::MAX - position), |id| *id);
            OffsetCommit {
                partition: TopicPartition { topic, partition: offset.partition },
                offset: offset.offset,
                metadata: offset.metadata.clone(),
            }
        });
        let change = GroupChange::Commit { by, offsets: to_commit.collect() };
        let outcome = self.propose(group, member.as_ref(), change).await?;
        let Outcome::Group(GroupOutcome::OffsetsCommitted(outcomes)) = &*outcome else {
            return Err(GroupError::unexpected(&outcome));
        };
        let taken = outcomes.iter().filter(|outcome| **outcome == OffsetOutcome::Committed).count();
        self.metrics.committed(taken);
        let results = outcomes.iter().zip(offsets).zip(topics).map(|((outcome, offset), topic)| {
            topic?;
            self.result(group, member.as_ref(), *outcome, offset)
        });
        Ok(results.collect())
    }

    fn resolve_all(&self, offsets: &[OffsetToCommit]) -> Vec<Result<TopicId, OffsetError>> {
        self.metadata.read(|state| {
            let resolve = |offset: &OffsetToCommit| {
                let topic = offset.topic.clone();
                let found = state.topic_by_name(&topic).map(Topic::id);
                match (found, offset.topic_id) {
                    (None, _) => Err(OffsetError::UnknownTopic { topic }),
                    (Some(found), Some(wanted)) if found != wanted => {
                        Err(OffsetError::TopicIdMismatch { topic, wanted, found })
                    }
                    (Some(found), _) => Ok(found),
                }
            };
            offsets.iter().map(resolve).collect()
        })
    }

    fn result(
        &self,
        group: &GroupName,
        member: Option<&MemberId>,
        outcome: OffsetOutcome,
        offset: OffsetToCommit,
    ) -> Result<(), OffsetError> {
        let (topic, partition) = (offset.topic, offset.partition);
        match outcome {
            OffsetOutcome::Committed => Ok(()),
            OffsetOutcome::UnknownTopic => Err(OffsetError::UnknownTopic { topic }),
            OffsetOutcome::UnknownPartition => {
                let known = |topic: &Topic| topic.partition_count();
                let partitions = self.metadata.read(|state| state.topic_by_name(&topic).map_or(0, known));
                Err(OffsetError::UnknownPartition { topic, partition, partitions })
            }
            OffsetOutcome::UnknownMember => {
                let group = group.clone();
                Err(match member.cloned() {
                    Some(member) => GroupError::UnknownMember { group, member }.into(),
                    None => GroupError::UnknownGroup { group }.into(),
                })
            }
            OffsetOutcome::StaleGeneration => {
                let current = self.metadata.read(|state| state.group(group).map(|group| group.generation()));
                Err(OffsetError::StaleGeneration { current: current.unwrap_or_default() })
            }
            OffsetOutcome::Superseded => {
                let why = "the number of the commit is not above that of a commit that took effect before";
                Err(GroupError::Malformed(why).into())
            }
            OffsetOutcome::GroupNotEmpty => {
                let members =
                    self.metadata.read(|state| state.group(group).map_or(0, |group| group.members().len()));
                let members = u32::try_from(members).unwrap_or(u32::MAX);
                Err(GroupError::NotEmpty { group: group.clone(), members }.into())
            }
        }
    }

    /// The ids of the topics of these partitions as far as this replica knows them.
    pub fn located(&self, named: &[NamedPartitions]) -> Vec<Option<TopicId>> {
        self.metadata.read(|state| {
            let locate = |named: &NamedPartitions| {
                let by_name = named.topic.as_ref().and_then(|name| state.topic_by_name(name)).map(Topic::id);
                match (&named.topic, named.topic_id) {
                    (None, id) => id,
                    (Some(_), Some(id)) => by_name.filter(|found| *found == id),
                    (Some(_), None) => by_name,
                }
            };
            named.iter().map(locate).collect()
        })
    }

    /// The committed offsets of some partitions, or of all (`None`), by topic and partition. Sees every commit that was
    /// acknowledged before. A group that there is not has none.
    pub async fn offsets(
        &self,
        group: &GroupName,
        wanted: Option<&[NamedPartitions]>,
    ) -> Result<Vec<CommittedOffset>, GroupError> {
        self.confirm().await?;
        let Some(group) = self.metadata.read(|state| state.group(group).map(Arc::clone)) else {
            return Ok(Vec::new());
        };
        let Some(wanted) = wanted else { return Ok(self.committed(&group)) };
        let topics = self.located(wanted);
        Ok(self.metadata.read(|state| {
            let located =
                wanted.iter().zip(topics).filter_map(|(wanted, id)| Some((state.topic(id?)?, wanted)));
            let each = located.flat_map(|(topic, wanted)| {
                wanted.partitions.iter().map(move |partition| (topic, *partition))
            });
            let found = each.filter_map(|(topic, partition)| {
                let committed = group.offset(TopicPartition { topic: topic.id(), partition })?;
                Some(told(topic, partition, committed))
            });
            let mut found: Vec<CommittedOffset> = found.collect();
            found.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
            found.dedup_by(|a, b| (a.topic_id, a.partition) == (b.topic_id, b.partition));
            found
        }))
    }

    pub(super) fn committed(&self, group: &tidelog_metadata_state::group::Group) -> Vec<CommittedOffset> {
        let mut found: Vec<CommittedOffset> = self.metadata.read(|state| {
            let each = group.offsets();
            each.filter_map(|(at, committed)| Some(told(state.topic(at.topic)?, at.partition, committed)))
                .collect()
        });
        found.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        found
    }
}

fn told(
    topic: &Topic,
    partition: PartitionIndex,
    committed: &tidelog_metadata_state::group::offsets::Committed,
) -> CommittedOffset {
    CommittedOffset {
        topic: topic.name().clone(),
        topic_id: topic.id(),
        partition,
        offset: committed.offset,
        metadata: committed.metadata.to_string(),
        committed_at: committed.committed_at,
    }
}
