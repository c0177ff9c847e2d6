//! What a member is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidelog_metadata_node::{GroupWatch, Metadata};
use tidelog_metadata_state::group::command::MemberRun;
use tidelog_metadata_state::group::{Group, Member, Partitions};
use tidelog_types::{Generation, GroupName, InstanceId, MemberId, PartitionIndex, TopicId, TopicName};
use tokio::time::Instant;

use super::error::GroupError;

/// Partitions of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPartitions {
    /// Its name.
    pub topic: TopicName,
    /// Its id.
    pub id: TopicId,
    /// The partitions, rising.
    pub partitions: Vec<PartitionIndex>,
}

/// What a member is to own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The generation at which it last changed; commits carry it.
    pub generation: Generation,
    /// Everything that the member may own now, by topic id.
    pub partitions: Vec<TopicPartitions>,
    /// Whether it gets more when others have released it.
    pub waiting: bool,
}

/// What a member has to know that is asked for an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentRequest {
    /// The generation that the answer has to carry.
    pub generation: Generation,
    /// All members by id.
    pub members: Vec<AssignmentMember>,
    /// All topics that somebody subscribes to, with all their partitions.
    pub topics: Vec<TopicPartitions>,
}

/// A member as an assignor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentMember {
    /// Its id.
    pub member: MemberId,
    /// Its instance id, if it is static.
    pub instance: Option<InstanceId>,
    /// What it subscribes to, pattern resolved.
    pub topics: Vec<TopicName>,
    /// What it owns at present, what it is to release included.
    pub owned: Vec<TopicPartitions>,
    /// Its own words.
    pub user_data: Bytes,
}

/// What is new for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Another assignment.
    Assignment(Assignment),
    /// It is asked for one.
    Asked(AssignmentRequest),
}

/// Follows what a member is told.
#[derive(Debug)]
pub struct MemberWatch {
    metadata: Metadata,
    group: GroupName,
    who: MemberRun,
    watch: GroupWatch,
    known: Generation,
    asked: Generation,
}

/// Gives ids their names. Topics that are gone by now are left out.
pub(super) fn named(metadata: &Metadata, partitions: Partitions) -> Vec<TopicPartitions> {
    metadata.read(|state| {
        let named = partitions.into_iter().filter_map(|(id, partitions)| {
            Some(TopicPartitions { topic: state.topic(id)?.name().clone(), id, partitions })
        });
        named.collect()
    })
}

impl MemberWatch {
    /// `known` is the generation of the last assignment that the member has seen.
    pub(super) fn new(metadata: Metadata, group: GroupName, who: MemberRun, known: Generation) -> Self {
        let watch = metadata.watch_group(&group);
        Self { metadata, group, who, watch, known, asked: Generation::ZERO }
    }

    /// Waits until there is something new. Fails once the member is not in the group any more. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Result<News, GroupError> {
        loop {
            if let Some(news) = self.look()? {
                return Ok(news);
            }
            self.watch.changed().await;
        }
    }

    /// Waits for an assignment other than the known one until `patience` is over, and returns the present one.
    pub async fn assignment(&mut self, patience: Duration) -> Result<Assignment, GroupError> {
        let until = Instant::now() + patience;
        loop {
            let (group, member) = self.member()?;
            if member.generation() > self.known || self.is_asked(&group, &member).is_some() {
                return Ok(self.tell(&group, &member));
            }
            if tokio::time::timeout_at(until, self.watch.changed()).await.is_err() {
                let (group, member) = self.member()?;
                return Ok(self.tell(&group, &member));
            }
        }
    }

    /// Whether the member is asked for an assignment at the moment.
    pub fn request(&self) -> Result<Option<AssignmentRequest>, GroupError> {
        let (group, member) = self.member()?;
        Ok(self.is_asked(&group, &member).map(|generation| self.question(&group, generation)))
    }

    fn look(&mut self) -> Result<Option<News>, GroupError> {
        let (group, member) = self.member()?;
        if member.generation() > self.known {
            let assignment = self.tell(&group, &member);
            self.known = assignment.generation;
            return Ok(Some(News::Assignment(assignment)));
        }
        match self.is_asked(&group, &member).filter(|generation| *generation > self.asked) {
            Some(generation) => {
                self.asked = generation;
                Ok(Some(News::Asked(self.question(&group, generation))))
            }
            None => Ok(None),
        }
    }

    fn member(&self) -> Result<(Arc<Group>, Member), GroupError> {
        let group = self.metadata.read(|state| state.group(&self.group).cloned());
        let found = group.and_then(|group| {
            let member = group.present(&self.who)?.clone();
            Some((group, member))
        });
        let (group, member) = (self.group.clone(), self.who.member.clone());
        found.ok_or(GroupError::UnknownMember { group, member })
    }

    fn is_asked(&self, group: &Group, member: &Member) -> Option<Generation> {
        group.asked().filter(|asked| asked.member == member.key()).map(|asked| asked.generation)
    }

    fn tell(&self, group: &Group, member: &Member) -> Assignment {
        let part = group.part(member);
        let partitions = named(&self.metadata, part.owned);
        Assignment { generation: part.generation, partitions, waiting: part.waiting }
    }

    fn question(&self, group: &Group, generation: Generation) -> AssignmentRequest {
        let mut parts = group.parts();
        let members = group.members().map(|(id, member)| {
            let part = parts.remove(&member.key()).unwrap_or_default();
            let mut owned: Partitions = part.owned;
            for (topic, partitions) in part.releasing {
                let list = owned.entry(topic).or_default();
                list.extend(partitions);
                list.sort_unstable();
            }
            AssignmentMember {
                member: id.clone(),
                instance: member.options().instance.clone(),
                topics: member.subscription().names().to_vec(),
                owned: named(&self.metadata, owned),
                user_data: member.options().user_data.clone(),
            }
        });
        let members: Vec<AssignmentMember> = members.collect();
        let all = |count: usize| (0..count).filter_map(PartitionIndex::from_position).collect();
        let topics: BTreeMap<TopicId, Vec<PartitionIndex>> =
            group.topics().map(|(topic, count)| (topic, all(count))).collect();
        let mut topics = named(&self.metadata, topics);
        // What nobody subscribes to any more may still be owned.
        let wanted =
            |topic: &TopicName| members.iter().any(|member| member.topics.binary_search(topic).is_ok());
        topics.retain(|topic| wanted(&topic.topic));
        AssignmentRequest { generation, members, topics }
    }
}
