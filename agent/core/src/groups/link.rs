//! The seam through which an agent tells the leader which members live.

use std::fmt;

use futures::future::BoxFuture;
use tidelog_metadata_state::group::command::MemberRun;
use tidelog_types::GroupName;
use tokio::time::Instant;

/// A sign of life of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberBeat {
    /// Its group.
    pub group: GroupName,
    /// Which run of which member.
    pub who: MemberRun,
}

/// Why a sign of life does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BeatError {
    /// The group has no such member under this incarnation; it has left or was removed.
    #[error("the member is not in the group under this incarnation")]
    UnknownMember,
    /// The leader is about to remove the member, and does not know yet what comes of that.
    #[error("the member is being removed")]
    Expiring,
}

/// Why no sign of life of a call counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The agent that was asked does not lead.
    #[error("the agent does not lead")]
    NotLeader,
    /// The leader could not be reached, did not answer in time, or could not confirm that it still leads.
    #[error("the leader does not answer: {0}")]
    Failed(String),
}

/// Tells the leader which members live.
///
/// `Ok(())` for a beat promises: this leader received it and led the cluster after that, and whoever leads until the member's
/// session timeout has passed, counted from when the beat was *sent*, will not remove the member for silence. Hence the
/// leader confirms, after it received the beats and before it answers, that nobody else has taken over.
pub trait LeaderLink: fmt::Debug + Send + Sync {
    /// Hands on signs of life; the answers are in the order of the beats. Beats can be repeated without harm. Dropping the
    /// future is allowed at any time.
    fn beat(
        &self,
        beats: Vec<MemberBeat>,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<Result<(), BeatError>>, LinkError>>;
}
