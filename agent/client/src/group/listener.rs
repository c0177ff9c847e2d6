//! What the application is told of its partitions.

use tonic::async_trait;

use super::handle::GroupHandle;
use super::partition::TopicPartition;

/// Hears of partitions that come and go. One call at a time, never cut short; heartbeats go on meanwhile, and so does the reading of partitions
/// that a call is not about. A call that lasts longer than the rebalance timeout costs the membership if others wait for its end.
///
/// Implemented with `#[tidelog_client::async_trait]`; calls that are left out do nothing.
#[async_trait]
pub trait RebalanceListener: Send + Sync + 'static {
    /// Partitions were assigned, and it was looked up where to begin: at what was committed, or as the reset policy says. Their first record
    /// comes after this returns, so this is the place for a [`GroupHandle::seek`].
    async fn on_assigned(&self, group: &GroupHandle, partitions: &[TopicPartition]) {
        let _ = (group, partitions);
    }

    /// Partitions are about to go to other members. Nothing more is delivered of them, and no record of them is in the application's hands: it
    /// has asked for the next one since. They are still owned, so that commits succeed; what is committed here is where the next
    /// owner begins. They are given up after this returns, and with auto-commit after the positions were committed.
    async fn on_revoked(&self, group: &GroupHandle, partitions: &[TopicPartition]) {
        let _ = (group, partitions);
    }

    /// Partitions are gone: the session has ended, and others may own them already. Commits for them fail. A record of them may still be in the
    /// application's hands.
    async fn on_lost(&self, group: &GroupHandle, partitions: &[TopicPartition]) {
        let _ = (group, partitions);
    }
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoListener;

#[async_trait]
impl RebalanceListener for NoListener {}
