//! The narrow seam between the metadata and whatever stores it.
//!
//! A metadata log is a set of *places* `(shard, epoch, seq)`. A place is written at most once and never overwritten;
//! that is all the protocol above asks of a store. Nothing else in the program knows which backend it runs on.
//!
//! Map: [`MetadataLog`] the seam · [`memory`] a backend for tests and `--memory` · [`conformance`] the suite that every
//! backend has to pass · [`finding`] what a probe of a store says · [`mod@env`] clock and random numbers as parameters.
//!
//! It is not the protocol: who may append what and where, elections and truncation lie above this seam.

pub mod conformance;
pub mod env;
pub mod finding;
pub mod memory;

pub use finding::{Check, Finding, Verdict};
pub use memory::MemoryLog;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

/// What became of an [`MetadataLog::append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Append {
    /// The place holds our bytes, durably.
    Appended,
    /// The place was taken before. These are the bytes that it holds, durably; they may be our own, from an earlier
    /// try of which we did not learn the end.
    Occupied(Bytes),
    /// Nobody knows: the bytes may be there, may come to be there later, or may not. The only way to find out is to
    /// repeat the very same append until the place is seen occupied. Errors, time-outs, throttling, and "exists"
    /// followed by "not found" all end here.
    Unknown(LogError),
}

/// Why a store did not answer; it never says anything about what the store holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} at {target}: {cause}")]
pub struct LogError {
    /// What was tried: `append`, `read` or `remove`.
    pub operation: &'static str,
    /// Where: shard and place, and the backend's own name for it.
    pub target: String,
    /// What the store said, in its words.
    pub cause: String,
    /// Whether the same call may succeed later (time-outs, throttling, connection errors), or an operator has to mend
    /// something first (permissions, a missing table).
    pub retryable: bool,
}

/// Refuses an entry whose length no append may have, in the same words for every backend: 1 to `bytes_max` are allowed.
///
/// A backend calls it before it asks its store, so a refused append certainly had no effect. Its error is not
/// retryable, because the very same bytes will be refused again.
pub fn check_entry_length(target: &str, length: usize, bytes_max: usize) -> Result<(), LogError> {
    if (1..=bytes_max).contains(&length) {
        return Ok(());
    }
    Err(LogError {
        operation: "append",
        target: target.to_owned(),
        cause: format!("the entry is {length} bytes long, allowed are 1 to {bytes_max}"),
        retryable: false,
    })
}

/// A log of entries at write-once places.
///
/// Implementations must keep these promises, which the conformance suite checks:
/// * Of all appends ever made to one place, exactly one takes effect. All others see `Occupied` with its bytes, or
///   `Unknown`.
/// * `Appended` and `Occupied` are told only of bytes that survive the loss of every process and of power.
/// * Reads are strongly consistent: an entry whose append had been answered before the read began is returned. A read
///   ends at the first absent place whatever lies behind it, and "could not be read now" is never taken as absent.
/// * The backend itself repeats no append (an SDK's retry would turn a success into a refusal), and bounds each request
///   to its store in time (a few seconds). An append is at most two of them; a read is one per batch that it needs.
/// * Dropping a future may leave the call in effect or not: the same as `Unknown`.
#[async_trait]
pub trait MetadataLog: Send + Sync + fmt::Debug + 'static {
    /// Creates the entry at `place` if nothing is there. `bytes` are 1 to [`MetadataLog::entry_bytes_max`] long; others
    /// are refused without effect, as [`Append::Unknown`] with an error that is not retryable.
    async fn append(&self, shard: ShardId, place: Place, bytes: Bytes) -> Append;

    /// Reads entries of `epoch` from `from` on: the entries at `from`, `from + 1`, … up to the first absent place, at
    /// most `limit` of them (1 or more). Fewer than `limit` means that the next place was absent when it was read.
    async fn read(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError>;

    /// Removes the entries at `seqs`; absent ones are no error. Only the truncation rule of the protocol may call it.
    async fn remove(&self, shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError>;

    /// Longest entry that [`MetadataLog::append`] takes, in bytes.
    fn entry_bytes_max(&self) -> usize;

    /// Name of the backend and what it writes to, for logs and errors, without secrets.
    fn describe(&self) -> String;
}
