//! How far groups have read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidelog_types::{CommitNumber, GroupName, Offset, PartitionIndex, TimestampMs, TopicId, TopicPartition};

use super::command::{CommittedBy, GroupLimit, GroupRefusal, OffsetCommit, OffsetOutcome};
use super::{Group, Member};
use crate::command::Refusal;
use crate::limits::{
    DESTRUCTION_MARGIN_MS, GROUP_BYTES_PER_CLUSTER_MAX, GROUP_OFFSETS_EXPIRY_MS, GROUPS_PER_CLUSTER_MAX,
    OFFSET_METADATA_BYTES_MAX,
};
use crate::state::State;

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: Offset,
    /// Words of the client.
    pub metadata: Box<str>,
    /// When it was committed, in log time.
    pub committed_at: TimestampMs,
}

/// The last commit of a member: a repeat gets what the first one got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastCommit {
    pub number: CommitNumber,
    pub outcomes: Arc<[OffsetOutcome]>,
}

/// What an offset costs beside its metadata, about.
const OFFSET_WEIGHT_BYTES: u64 = 64;

impl Committed {
    pub(crate) fn weight(&self) -> u64 {
        OFFSET_WEIGHT_BYTES + self.metadata.len() as u64
    }
}

impl Group {
    /// Its committed offsets by topic and partition.
    pub fn offsets(&self) -> impl Iterator<Item = (TopicPartition, &Committed)> {
        self.offsets.iter().flat_map(|(topic, offsets)| {
            offsets.iter().map(|(partition, committed)| {
                (TopicPartition { topic: *topic, partition: *partition }, committed)
            })
        })
    }

    /// A committed offset.
    pub fn offset(&self, at: TopicPartition) -> Option<&Committed> {
        self.offsets.get(&at.topic)?.get(&at.partition)
    }

    /// Whether a member may commit for a partition under a generation.
    fn may_commit(&self, member: &Member, by: &CommittedBy, at: TopicPartition) -> bool {
        let owner = self.slot(at).and_then(|slot| slot.owner).filter(|owner| owner.member == member.key);
        owner.is_some_and(|owner| (owner.since..=member.generation).contains(&by.generation))
    }

    pub(crate) fn commit(&mut self, at: TopicPartition, committed: Committed) {
        self.bytes += committed.weight();
        let offsets = Arc::make_mut(self.offsets.entry(at.topic).or_default());
        if let Some(before) = offsets.insert(at.partition, committed) {
            self.bytes -= before.weight();
        }
    }

    fn forget_topic(&mut self, topic: TopicId) {
        let forgotten = self.offsets.remove(&topic).unwrap_or_default();
        self.bytes -= forgotten.values().map(Committed::weight).sum::<u64>();
    }
}

impl State {
    pub(super) fn commit_offsets(
        &mut self,
        name: &GroupName,
        by: Option<&CommittedBy>,
        offsets: &[OffsetCommit],
    ) -> Result<Arc<[OffsetOutcome]>, Refusal> {
        let partitions: BTreeSet<TopicPartition> = offsets.iter().map(|offset| offset.partition).collect();
        let fits = |offset: &OffsetCommit| offset.metadata.len() <= OFFSET_METADATA_BYTES_MAX;
        if offsets.is_empty() || partitions.len() != offsets.len() || !offsets.iter().all(fits) {
            return Err(Refusal::Malformed);
        }
        if by.is_some_and(|by| by.number == CommitNumber(0)) {
            return Err(Refusal::Malformed);
        }
        let group = self.groups.get(name);
        let all = |outcome| Ok(vec![outcome; offsets.len()].into());
        let member = match by {
            Some(by) => match group.and_then(|group| Some((by, group.present(&by.who)?))) {
                Some(member) => Some(member),
                None => return all(OffsetOutcome::UnknownMember),
            },
            None if group.is_some_and(|group| !group.members.is_empty()) => {
                return all(OffsetOutcome::GroupNotEmpty);
            }
            None => None,
        };
        if let Some((by, member)) = member
            && let Some(last) = member.last_commit.as_ref().filter(|last| by.number <= last.number)
        {
            if by.number == last.number && last.outcomes.len() == offsets.len() {
                return Ok(Arc::clone(&last.outcomes));
            }
            return all(OffsetOutcome::Superseded);
        }
        let outcomes: Arc<[OffsetOutcome]> = offsets
            .iter()
            .map(|offset| {
                let at = offset.partition;
                let owned = member
                    .is_none_or(|(by, member)| group.is_some_and(|group| group.may_commit(member, by, at)));
                match self.topic(at.topic) {
                    None => OffsetOutcome::UnknownTopic,
                    Some(topic) if topic.partition(at.partition).is_none() => OffsetOutcome::UnknownPartition,
                    Some(_) if owned => OffsetOutcome::Committed,
                    Some(_) => OffsetOutcome::StaleGeneration,
                }
            })
            .collect();
        let taken =
            || offsets.iter().zip(&*outcomes).filter(|(_, outcome)| **outcome == OffsetOutcome::Committed);
        self.check_room_for_offsets(name, taken().map(|(offset, _)| offset))?;
        if taken().next().is_some() {
            self.open_group(name);
        }
        let log_time = self.log_time;
        self.edit_group(name, |group| {
            for (offset, _) in taken() {
                let committed = Committed {
                    offset: offset.offset,
                    metadata: offset.metadata.as_str().into(),
                    committed_at: log_time,
                };
                group.commit(offset.partition, committed);
            }
            group.used = log_time;
            if let Some(by) = by
                && let Some(mut member) = group.take(&by.who.member)
            {
                let outcomes = Arc::clone(&outcomes);
                Arc::make_mut(&mut member).last_commit = Some(LastCommit { number: by.number, outcomes });
                group.insert(by.who.member.clone(), member);
            }
        });
        Ok(outcomes)
    }

    fn check_room_for_offsets<'a>(
        &self,
        name: &GroupName,
        offsets: impl Iterator<Item = &'a OffsetCommit>,
    ) -> Result<(), GroupRefusal> {
        let group = self.groups.get(name);
        let mut added = 0;
        let mut any = false;
        for offset in offsets {
            any = true;
            let before = group.and_then(|group| group.offset(offset.partition)).map_or(0, Committed::weight);
            let after = OFFSET_WEIGHT_BYTES + offset.metadata.len() as u64;
            added += after.saturating_sub(before);
        }
        if any && group.is_none() && self.groups.len() >= GROUPS_PER_CLUSTER_MAX {
            return Err(GroupRefusal::Full { limit: GroupLimit::Groups });
        }
        if added > 0 && self.group_bytes + added > GROUP_BYTES_PER_CLUSTER_MAX {
            return Err(GroupRefusal::Full { limit: GroupLimit::Bytes });
        }
        Ok(())
    }

    pub(super) fn delete_group(&mut self, name: &GroupName) -> Result<(), GroupRefusal> {
        let group = self.groups.get(name).ok_or(GroupRefusal::UnknownGroup)?;
        if !group.members.is_empty() {
            let members = u32::try_from(group.members.len()).unwrap_or(u32::MAX);
            return Err(GroupRefusal::NotEmpty { members });
        }
        self.close_group(name);
        Ok(())
    }

    /// Drops the offsets of a topic that is gone. Returns the groups that are left without anything.
    pub(crate) fn forget_topic_offsets(&mut self, topic: TopicId) -> Vec<GroupName> {
        let having: Vec<GroupName> = self
            .groups
            .iter()
            .filter(|(_, group)| group.offsets.contains_key(&topic))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &having {
            self.edit_group(name, |group| group.forget_topic(topic));
        }
        having
    }

    /// Forgets groups that had no members for long. Returns their names.
    pub(crate) fn expire_offsets(&mut self, proposer_time: TimestampMs) -> Vec<GroupName> {
        let expired: Vec<GroupName> = self.expired_groups(proposer_time).cloned().collect();
        for name in &expired {
            self.close_group(name);
        }
        expired
    }

    /// Whether [`crate::Command::ExpireOffsets`], proposed at `now`, would forget a group.
    pub fn has_expired_offsets(&self, now: TimestampMs) -> bool {
        self.expired_groups(now).next().is_some()
    }

    fn expired_groups(&self, proposer_time: TimestampMs) -> impl Iterator<Item = &GroupName> {
        let now = self.log_time.min(proposer_time);
        let cutoff = now.saturating_add_ms(-(DESTRUCTION_MARGIN_MS + GROUP_OFFSETS_EXPIRY_MS));
        let expired = move |group: &Group| group.members.is_empty() && group.used < cutoff;
        self.groups.iter().filter(move |(_, group)| expired(group)).map(|(name, _)| name)
    }
}

/// Offsets of one topic.
pub(crate) type TopicOffsets = BTreeMap<PartitionIndex, Committed>;
