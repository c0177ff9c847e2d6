//! What the application can do with a consumer of a group while its stream is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelog_types::{Generation, GroupName, MemberId, Offset};

use super::commit::{CommitTicket, OffsetCommit};
use super::error::{CommitError, NotAssigned};
use super::partition::TopicPartition;
use super::requests::{CommittedOffset, fetch_offsets};
use super::shared::Shared;
use crate::admin::OffsetAt;
use crate::error::RequestError;

/// Commits, seeks, pauses and asks, from any task and from a [`crate::RebalanceListener`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GroupHandle {
    shared: Arc<Shared>,
}

impl GroupHandle {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    /// The group.
    pub fn group(&self) -> &GroupName {
        &self.shared.options.group
    }

    /// The id of this member.
    pub fn member_id(&self) -> &MemberId {
        &self.shared.options.member_id
    }

    /// The generation of the assignment that is known; 0 before the first one of a session, and without membership.
    pub fn generation(&self) -> Generation {
        self.shared.ledger.lock().owned().1
    }

    /// The partitions that are assigned, also those that are about to be revoked, by topic and number.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.ledger.lock().assignment()
    }

    /// Ends at the next change of the assignment after this was called: partitions came or went, or it was found where to begin with them.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.shared.changes.subscribe();
        async move {
            if changes.changed().await.is_err() {
                // The consumer is gone: nothing will change.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether all that this consumer is to own was given to it, and each partition was read up to the high watermark that it had when it
    /// was assigned.
    pub fn reached_end(&self) -> bool {
        self.shared.ledger.lock().reached_end()
    }

    /// The high watermark that a partition had when it was assigned.
    pub fn end_at_assignment(&self, at: &TopicPartition) -> Option<Offset> {
        self.shared.ledger.lock().end_at_assignment(at)
    }

    /// The offset of the next record that the stream yields of a partition; `None` if it is not assigned, or nobody says where to begin.
    pub fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.shared.ledger.lock().position(at)
    }

    /// Goes on at another offset. When it is committed, is decided as for records: with auto-commit when the next record is asked for.
    pub fn seek(&self, at: &TopicPartition, offset: Offset) -> Result<(), NotAssigned> {
        self.shared.ledger.lock().seek(at, offset)
    }

    /// Yields no more records of a partition until [`GroupHandle::resume`], or until it was revoked and assigned anew.
    pub fn pause(&self, at: &TopicPartition) -> Result<(), NotAssigned> {
        self.shared.ledger.lock().set_paused(at, true)
    }

    /// Ends [`GroupHandle::pause`].
    pub fn resume(&self, at: &TopicPartition) -> Result<(), NotAssigned> {
        self.shared.ledger.lock().set_paused(at, false)
    }

    /// Commits all that the stream has yielded, also the record that was yielded last, and waits until that is done.
    pub async fn commit(&self) -> Result<(), CommitError> {
        self.commit_async().wait().await
    }

    /// Hands over a commit of all that the stream has yielded. Commits are done in the order in which they are handed over.
    pub fn commit_async(&self) -> CommitTicket {
        let positions = self.shared.ledger.lock().uncommitted_positions();
        self.commit_offsets_async(positions.into_iter().map(|(at, offset)| OffsetCommit::new(at, offset)))
    }

    /// Commits these offsets, each the *next* one to read, and waits until that is done. Partitions that are not owned are refused.
    pub async fn commit_offsets(
        &self,
        offsets: impl IntoIterator<Item = OffsetCommit>,
    ) -> Result<(), CommitError> {
        self.commit_offsets_async(offsets).wait().await
    }

    /// Hands over a commit of these offsets.
    pub fn commit_offsets_async(&self, offsets: impl IntoIterator<Item = OffsetCommit>) -> CommitTicket {
        self.shared.commit(offsets)
    }

    /// What the group has committed for these partitions; those without are missing. Asks the service.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>, RequestError> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let asked = partitions.iter().map(|at| (at.clone(), None)).collect();
        let found = fetch_offsets(&self.shared.client, &self.shared.options.group, Some(&asked)).await?;
        Ok(found.into_iter().map(|offset| (offset.at.clone(), offset)).collect())
    }

    /// For each assigned partition that has a position: how many records the stream has yet to yield. Asks the service.
    pub async fn lag(&self) -> Result<BTreeMap<TopicPartition, u64>, RequestError> {
        let positions: Vec<(TopicPartition, Offset)> = {
            let ledger = self.shared.ledger.lock();
            let assigned = ledger.assignment().into_iter();
            assigned.filter_map(|at| ledger.position(&at).map(|position| (at, position))).collect()
        };
        let mut lags = BTreeMap::new();
        for some in positions.chunks(1_000) {
            let questions: Vec<_> =
                some.iter().map(|(at, _)| (at.topic.clone(), at.partition, OffsetAt::Latest)).collect();
            let ends = self.shared.client.list_offsets(&questions).await?;
            for ((at, position), end) in some.iter().zip(ends) {
                let lag = end?.offset.get().saturating_sub(position.get());
                lags.insert(at.clone(), u64::try_from(lag).unwrap_or(0));
            }
        }
        Ok(lags)
    }
}
