//! The cluster's knowledge as a pure, deterministic state machine, fed by the entries of the metadata log.
//!
//! [`State::apply`] is the only function that changes it. No clock, random number, floating point, thread or
//! iteration order of a hash map reaches it: time comes inside entries. Every replica that applies the same entries
//! gives every command the same [`Outcome`]; a refusal is an outcome, not an error. It does no I/O: who writes, reads
//! and orders entries is the business of `tidelog-metadata-node`.
//!
//! Map: [`entry`] entries and their bytes · [`command`] commands and outcomes · [`state`] what is known, and how to ask
//! it · [`apply`] and `commit` how it changes · [`snapshot`] it as bytes · [`topic`], [`slices`], [`producer`], [`group`] its parts · [`config`] topic
//! configuration · [`limits`] · `convert`, [`wire`] protobuf.

pub mod apply;
pub mod command;
mod commit;
pub mod config;
mod convert;
mod digest;
pub mod entry;
pub mod group;
pub mod limits;
pub mod producer;
pub mod slices;
pub mod snapshot;
pub mod state;
#[cfg(test)]
mod tests;
pub mod topic;
pub mod wire;

pub use apply::{Applied, ApplyError};
pub use command::{
    BatchCommit, BatchOutcome, BatchRefusal, Command, CommitSegment, Outcome, Proposal, ProposalNumber,
    Refusal, SliceCommit,
};
pub use entry::{
    BatchBuilder, Begin, Entry, EntryBody, EntryError, EntryId, FEATURE_LEVEL, FeatureLevel, SnapshotRef,
};
pub use slices::{ObjectId, Slice};
pub use snapshot::SnapshotError;
pub use state::{Leader, State};
pub use topic::{ObjectRecord, Partition, Topic};
