//! Looking at groups, and forgetting them.

use std::sync::Arc;

use tidelog_metadata_state::group::command::GroupChange;
use tidelog_metadata_state::group::{Assignor, GroupState};
use tidelog_types::{Generation, GroupName, InstanceId, MemberId, TopicName};

use super::Groups;
use super::error::GroupError;
use super::offsets::CommittedOffset;
use super::watch::{TopicPartitions, named};

/// A group, shortly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its name.
    pub name: GroupName,
    /// What it does.
    pub state: GroupState,
    /// How many members it has.
    pub members: usize,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: GroupName,
    /// What it does.
    pub state: GroupState,
    /// Its generation.
    pub generation: Generation,
    /// How it shares partitions.
    pub assignor: Assignor,
    /// Its members by id.
    pub members: Vec<MemberInfo>,
    /// Its committed offsets by topic and partition.
    pub offsets: Vec<CommittedOffset>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its id.
    pub member: MemberId,
    /// Its instance id, if it is static.
    pub instance: Option<InstanceId>,
    /// Its name for people.
    pub client_id: String,
    /// What it subscribes to, pattern resolved.
    pub topics: Vec<TopicName>,
    /// Its pattern; empty: none.
    pub pattern: String,
    /// What it may own now.
    pub owned: Vec<TopicPartitions>,
    /// What it has to release and has not released.
    pub releasing: Vec<TopicPartitions>,
    /// Whether it is a static member that has left and may come back.
    pub away: bool,
}

impl Groups {
    /// Lists groups by name, at most `limit`, those after `after`; and whether there are more.
    pub async fn list(
        &self,
        after: Option<&GroupName>,
        limit: usize,
    ) -> Result<(Vec<GroupSummary>, bool), GroupError> {
        self.confirm().await?;
        Ok(self.metadata.read(|state| {
            let mut following = state.groups_after(after);
            let page = following.by_ref().take(limit).map(|(name, group)| GroupSummary {
                name: name.clone(),
                state: group.state(),
                members: group.members().len(),
            });
            let page: Vec<GroupSummary> = page.collect();
            let has_more = following.next().is_some();
            (page, has_more)
        }))
    }

    /// Describes a group, as it is now.
    pub async fn describe(&self, name: &GroupName) -> Result<GroupInfo, GroupError> {
        self.confirm().await?;
        let group = self.metadata.read(|state| state.group(name).map(Arc::clone));
        let group = group.ok_or_else(|| GroupError::UnknownGroup { group: name.clone() })?;
        let mut parts = group.parts();
        let members = group.members().map(|(id, member)| {
            let part = parts.remove(&member.key()).unwrap_or_default();
            let options = member.options();
            MemberInfo {
                member: id.clone(),
                instance: options.instance.clone(),
                client_id: options.client_id.clone(),
                topics: member.subscription().names().to_vec(),
                pattern: options.pattern.clone(),
                owned: named(&self.metadata, part.owned),
                releasing: named(&self.metadata, part.releasing),
                away: member.is_away(),
            }
        });
        Ok(GroupInfo {
            name: name.clone(),
            state: group.state(),
            generation: group.generation(),
            assignor: group.assignor(),
            members: members.collect(),
            offsets: self.committed(&group),
        })
    }

    /// Forgets a group without members, and its offsets.
    pub async fn delete(&self, name: &GroupName) -> Result<(), GroupError> {
        self.propose(name, None, GroupChange::Delete).await.map(drop)
    }
}
