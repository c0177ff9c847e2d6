//! The ledger as the stream and the application see it.

use std::task::Waker;

use tidelog_types::Offset;
use tokio::time::Instant;

use super::{Basis, Change, Entry, Ledger, Membership, PROBLEMS_MAX, Stage, Verdict};
use crate::group::error::{CommitError, GroupError, NotAssigned};
use crate::group::partition::TopicPartition;
use crate::record::ConsumedRecord;

impl Entry {
    /// Whether it belongs to the application: it knows of it, or is about to.
    fn is_assigned(&self) -> bool {
        !matches!(self.stage, Stage::New)
    }

    fn is_read(&self) -> bool {
        self.stage == Stage::Reading && !self.paused && !self.failed && !self.lost_place
    }
}

impl Ledger {
    // The stream.

    /// Wakes this one when there is something for the stream.
    pub(in crate::group) fn listen(&mut self, reader: &Waker) {
        match &mut self.reader {
            Some(known) => known.clone_from(reader),
            None => self.reader = Some(reader.clone()),
        }
    }

    pub(super) fn wake_reader(&self) {
        if let Some(reader) = &self.reader {
            reader.wake_by_ref();
        }
    }

    /// The application asks for more: it is through with what it had. Returns whether it had a record.
    pub(in crate::group) fn came_back(&mut self) -> bool {
        for at in std::mem::take(&mut self.touched) {
            if let Some(entry) = self.entries.get_mut(&at) {
                entry.processed = entry.position;
            }
        }
        self.in_hand.take().is_some()
    }

    /// What the reading side has to change before it reads on.
    pub(in crate::group) fn take_changes(&mut self) -> Vec<Change> {
        let dirty = std::mem::take(&mut self.dirty);
        let changes = dirty.into_iter().map(|at| {
            let entry = self.entries.get(&at).filter(|entry| entry.is_read());
            let entry = entry.filter(|_| self.membership != Membership::None);
            let (from, topic_id) =
                (entry.and_then(|entry| entry.position), entry.and_then(|entry| entry.topic_id));
            Change { at, from, topic_id }
        });
        changes.collect()
    }

    /// Decides on a record that was read. If it is delivered, the application has it in hand.
    pub(in crate::group) fn deliver(&mut self, record: &ConsumedRecord, now: Instant) -> Verdict {
        match self.membership {
            Membership::Until(until) if now >= until => return Verdict::Expired,
            Membership::None => return Verdict::Outdated,
            Membership::Until(_) | Membership::Unlimited => {}
        }
        let at = TopicPartition::new(record.topic.clone(), record.partition);
        if self.dirty.contains(&at) {
            return Verdict::Outdated;
        }
        let Some(entry) = self.entries.get_mut(&at) else { return Verdict::Outdated };
        let next = record.offset.checked_add(1);
        if !entry.is_read() || entry.position != Some(record.offset) || next.is_none() {
            return Verdict::Outdated;
        }
        entry.position = next;
        self.touched.insert(at.clone());
        self.in_hand = Some(at);
        Verdict::Deliver
    }

    /// An error has ended the reading of a partition. Returns whether it concerns the application.
    pub(in crate::group) fn failed(&mut self, at: &TopicPartition) -> bool {
        let known = !self.dirty.contains(at);
        match self.entries.get_mut(at) {
            Some(entry) if known && entry.is_read() => {
                entry.failed = true;
                true
            }
            _ => false,
        }
    }

    /// The position of a partition is not in it any more: it is looked up anew. Returns whether that concerns anybody.
    pub(in crate::group) fn lost_place(&mut self, at: &TopicPartition) -> bool {
        let known = !self.dirty.contains(at);
        match self.entries.get_mut(at) {
            Some(entry) if known && entry.is_read() => {
                entry.lost_place = true;
                self.dirty.insert(at.clone());
                true
            }
            _ => false,
        }
    }

    /// Tells the application of an error.
    pub(in crate::group) fn report(&mut self, problem: GroupError) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push_back(problem);
        }
        self.wake_reader();
    }

    pub(in crate::group) fn next_problem(&mut self) -> Option<GroupError> {
        self.problems.pop_front()
    }

    /// Nothing will come any more.
    pub(in crate::group) fn end(&mut self) {
        self.ended = true;
        self.wake_reader();
    }

    pub(in crate::group) fn has_ended(&self) -> bool {
        self.ended
    }

    // The application.

    /// The partitions that are assigned.
    pub(in crate::group) fn assignment(&self) -> Vec<TopicPartition> {
        let assigned = self.entries.iter().filter(|(_, entry)| entry.is_assigned());
        assigned.map(|(at, _)| at.clone()).collect()
    }

    pub(in crate::group) fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.entries.get(at).and_then(|entry| entry.position)
    }

    pub(in crate::group) fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<(), NotAssigned> {
        self.change(at, |entry| {
            entry.position = Some(offset);
            (entry.failed, entry.lost_place, entry.placing) = (false, false, false);
        })?;
        self.touched.insert(at.clone());
        Ok(())
    }

    pub(in crate::group) fn set_paused(
        &mut self,
        at: &TopicPartition,
        paused: bool,
    ) -> Result<(), NotAssigned> {
        self.change(at, |entry| entry.paused = paused)
    }

    fn change(&mut self, at: &TopicPartition, change: impl FnOnce(&mut Entry)) -> Result<(), NotAssigned> {
        let entry = self.entries.get_mut(at).filter(|entry| entry.is_assigned());
        change(entry.ok_or_else(|| NotAssigned(at.clone()))?);
        self.dirty.insert(at.clone());
        self.wake_reader();
        Ok(())
    }

    /// Whether everything that is there for this consumer was read, as far as it was there when its partitions were assigned.
    pub(in crate::group) fn reached_end(&self) -> bool {
        let at_end = |entry: &Entry| {
            entry.failed
                || entry.stage == Stage::Reading
                    && entry
                        .position
                        .zip(entry.end_at_assignment)
                        .is_some_and(|(position, end)| position >= end)
        };
        self.informed && !self.waiting && self.entries.values().all(at_end)
    }

    /// The high watermark that a partition had when it was assigned.
    pub(in crate::group) fn end_at_assignment(&self, at: &TopicPartition) -> Option<Offset> {
        self.entries.get(at).and_then(|entry| entry.end_at_assignment)
    }

    // Commits.

    /// In whose name commits are made now.
    pub(in crate::group) fn basis(&self) -> Result<Basis, CommitError> {
        match self.membership {
            Membership::None => Err(CommitError::NotMember),
            Membership::Unlimited => Ok(Basis { member: None, generation: self.generation }),
            Membership::Until(_) => Ok(Basis { member: self.member.clone(), generation: self.generation }),
        }
    }

    /// Where the stream stands in all partitions, as far as that is not committed.
    pub(in crate::group) fn uncommitted_positions(&self) -> Vec<(TopicPartition, Offset)> {
        self.uncommitted(|entry| entry.position)
    }

    /// Up to where the application is through in these partitions, or all of them, as far as that is not committed.
    pub(in crate::group) fn uncommitted_processed(
        &self,
        of: Option<&[TopicPartition]>,
    ) -> Vec<(TopicPartition, Offset)> {
        let mut offsets = self.uncommitted(|entry| entry.processed);
        if let Some(of) = of {
            offsets.retain(|(at, _)| of.contains(at));
        }
        offsets
    }

    fn uncommitted(&self, offset: impl Fn(&Entry) -> Option<Offset>) -> Vec<(TopicPartition, Offset)> {
        let offsets = self.entries.iter().filter_map(|(at, entry)| {
            let offset = offset(entry).filter(|offset| Some(*offset) != entry.committed)?;
            Some((at.clone(), offset))
        });
        offsets.collect()
    }

    pub(in crate::group) fn topic_id(&self, at: &TopicPartition) -> Option<tidelog_types::TopicId> {
        self.entries.get(at).and_then(|entry| entry.topic_id)
    }

    /// An offset was committed in this name.
    pub(in crate::group) fn committed(&mut self, basis: &Basis, at: &TopicPartition, offset: Offset) {
        if basis.member == self.member
            && let Some(entry) = self.entries.get_mut(at)
        {
            entry.committed = Some(offset);
        }
    }
}
