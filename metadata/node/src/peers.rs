//! The seam for traffic between agents: how a follower hears from the leader and hands work on to it.
//!
//! Nothing here takes part in safety. What a leader streams is in the log already, and what is handed on to it takes
//! effect at most once, however often it is repeated; without any peers a node does the same work by the log alone, slower.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tidelog_metadata_state::{Leader, Proposal};
use tidelog_types::{AgentInstance, LogIndex, Place};
use tokio::sync::mpsc;

/// Message of a leader to one follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromLeader {
    /// An entry that was appended to the log.
    Entry {
        /// Its place; places come in their order, without gaps.
        place: Place,
        /// Its bytes, as in the log.
        bytes: Bytes,
    },
    /// The leader lives, and so does its connection to the log.
    Beat,
    /// All that was acknowledged before [`ToLeader::Confirm`] with this number was sent lies below this index. Entries
    /// up to there were sent before.
    Confirmed {
        /// Number of the question.
        number: u64,
        /// How many entries the leader had applied.
        index: LogIndex,
    },
    /// The leader cannot tell.
    Unconfirmed {
        /// Number of the question.
        number: u64,
    },
}

/// Message of a follower to its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToLeader {
    /// Commands of this agent, in their order. There is no answer: the follower sees them in the log.
    Propose(Vec<Proposal>),
    /// Asks how far a linearizable read has to see.
    Confirm {
        /// Rises with each question of a link.
        number: u64,
    },
    /// How many entries the follower has applied; for people, nothing depends on it.
    Position(LogIndex),
}

/// Who an agent is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCard {
    /// This run of it.
    pub instance: AgentInstance,
    /// Where clients reach it, as far as it knows.
    pub clients_at: String,
    /// Version of its program.
    pub version: String,
}

/// A follower as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerSeen {
    /// Who it is.
    pub card: AgentCard,
    /// How many entries it had applied when it last said so.
    pub applied: LogIndex,
}

/// A connection of a follower to its leader. Dropping it closes it.
pub struct Link {
    /// What the leader says, until the link ends; an error says how.
    pub from_leader: BoxStream<'static, Result<FromLeader, LinkError>>,
    /// What the follower says. Bounded; messages arrive in their order or not at all.
    pub to_leader: mpsc::Sender<ToLeader>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// Why there is no link, or not any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens at the leader's address, or the connection was reset: its process is most likely gone.
    #[error("the connection was refused or reset: {0}")]
    Refused(String),
    /// It does not answer, or not in a way that is understood.
    #[error("the connection failed: {0}")]
    Failed(String),
    /// The other agent does not lead, or leads no more.
    #[error("the other agent does not lead")]
    NotLeader,
    /// The leader no longer holds the entries that the follower needs next; the log does.
    #[error("the entries that follow are to be read from the log")]
    TooFarBehind,
}

/// Reaches the agents that lead.
pub trait Peers: fmt::Debug + Send + Sync {
    /// Connects to a leader, to hear of all entries from `from` on. The future and the link hold no locks and may be
    /// dropped at any time.
    fn connect(&self, leader: &Leader, from: Place) -> BoxFuture<'static, Result<Link, LinkError>>;
}
