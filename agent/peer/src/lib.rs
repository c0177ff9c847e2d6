//! Traffic between the agents of a cluster: followers listen to the leader, and hand their work on to it.
//!
//! It is gRPC of a package of its own, `tidelog.peer.v1`, on a port of its own that no client is to reach: whoever does can change all
//! metadata. What it means is said in `tidelog-metadata-node`, whose seam `Peers` it fills; nothing here takes part in safety.
//!
//! Map: [`PeerServer`] the leader's side · [`GrpcPeers`] the follower's side · [`GrpcLeader`] requests to whoever leads · `convert` messages to and from the node's types.

mod client;
mod convert;
mod leader;
mod server;

/// Messages and stubs, generated from `proto/tidelog/peer/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
mod v1 {
    tonic::include_proto!("tidelog.peer.v1");
}

pub use client::GrpcPeers;
pub use leader::GrpcLeader;
pub use server::{Leading, PeerServer, PeerServerError};

/// Largest message. 64 proposals go together, each smaller than an entry of the log, which holds 256 KiB at most.
const MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;
