//! One process's part in the metadata log: boot, follow, take over, lead, snapshot, truncate.
//!
//! The protocol is section 2.3 of the design document; `metadata/DESIGN.md` tells it with the names used here. A
//! [`Node`] is one future, [`Node::run`], that owns everything and is driven by its handle, [`Metadata`]. It spawns
//! nothing, so that freezing that one future freezes the whole node, as a stopped process would be.
//!
//! It is not a consensus protocol of its own: the store's create-if-absent decides who wrote a place, and nothing here
//! relies on clocks, leases or locks for safety.
//!
//! Map: [`handle`] what the rest of the agent calls · `group_watch` who is woken by groups · [`config`] its settings · `node` boot and the choice of role ·
//! [`genesis`] the beginning of a cluster · `replica` reading the log · `follow` hearing from the leader · [`peers`] the seam for that · `served`, `tail` the leader's side of it · `election` taking over · `lead` committing · `maintenance` snapshots and truncation · `time` the leader's clock · [`snapshots`] where
//! they lie.

mod append;
pub mod config;
mod election;
mod follow;
pub mod genesis;
mod group_watch;
pub mod handle;
mod lead;
mod maintenance;
#[cfg(feature = "planted-mistakes")]
mod mistakes;
mod node;
pub mod peers;
mod proposals;
mod replica;
mod served;
pub mod snapshots;
mod tail;
mod time;

pub use config::{Mistake, NodeConfig};
pub use group_watch::{ChangedGroups, GroupWatch, GroupsWatch};
pub use handle::{Metadata, MetadataStats, PartitionWatch, ProposeError, ReadIndexError, Role};
pub use node::Node;
pub use peers::{AgentCard, FollowerSeen, FromLeader, Link, LinkError, Peers, ToLeader};
pub use replica::NodeError;
pub use served::Follower;
pub use snapshots::{ObjectSnapshots, SnapshotStore, SnapshotStoreError};
