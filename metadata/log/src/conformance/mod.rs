//! The suite that every [`MetadataLog`] has to pass, on the real service.
//!
//! It is public, so that a backend kept elsewhere can be held to the same promises. Each check returns a
//! [`BrokenPromise`] that names the promise and what was seen instead; nothing here panics.
//!
//! ```
//! # async fn example() -> Result<(), tidelog_metadata_log::conformance::BrokenPromise> {
//! use std::sync::Arc;
//! use tidelog_metadata_log::MemoryLog;
//! use tidelog_metadata_log::conformance::{Ground, run_all};
//!
//! let log = MemoryLog::new();
//! let ground = Ground::new(Arc::new(log.clone()), Arc::new(log));
//! run_all(&ground).await
//! # }
//! ```
//!
//! The ground on which the checks play has to be empty: they take epochs upwards from the first one and leave their
//! entries there.
//!
//! Map: this file, ground and verdict · [`places`] one writer · [`races`] many writers, lost replies ·
//! [`LostReplies`] the decorator that loses them.

mod lost_replies;
pub mod places;
pub mod races;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

use crate::{Append, LogError, MetadataLog};

pub use lost_replies::LostReplies;
pub use races::{Race, RaceReport};

/// What a backend promises. The names are what a failure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// An append to an absent place takes effect, exactly as given, and says so.
    CreatesIfAbsent,
    /// A taken place keeps its bytes for good.
    NeverOverwrites,
    /// `Occupied` hands over the bytes that the place holds.
    OccupiedHasTheBytes,
    /// Lengths from 1 to the maximum are taken, any other is refused without effect.
    BoundsEntries,
    /// Any byte values survive.
    KeepsEveryByte,
    /// A read ends at the first absent place, whatever lies behind it, and only there or at its limit.
    ReadEndsAtFirstAbsentPlace,
    /// Shards and epochs are apart.
    KeepsShardsAndEpochsApart,
    /// Removed places are absent and free, others untouched; removing an absent one is no error.
    RemovesExactly,
    /// A read sees every append answered before it began, also through another connection.
    ReadsAfterWrites,
    /// Of all appends to one place, exactly one takes effect.
    OneWinner,
    /// An append whose reply was lost is found out by repeating it.
    RepeatResolves,
    /// The store answers within the tries that the suite allows.
    Answers,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreatesIfAbsent => "an append to an absent place takes effect",
            Self::NeverOverwrites => "a taken place is never overwritten",
            Self::OccupiedHasTheBytes => "occupied hands over the bytes that the place holds",
            Self::BoundsEntries => {
                "entries of 1 to the maximum length are taken, others are refused without effect"
            }
            Self::KeepsEveryByte => "any byte values survive",
            Self::ReadEndsAtFirstAbsentPlace => "a read ends at the first absent place or at its limit",
            Self::KeepsShardsAndEpochsApart => "shards and epochs are apart",
            Self::RemovesExactly => "remove takes exactly the places named, absent ones are no error",
            Self::ReadsAfterWrites => "a read sees every append answered before it began",
            Self::OneWinner => "exactly one of all appends to a place takes effect",
            Self::RepeatResolves => "repeating an append of unknown outcome finds it out",
            Self::Answers => "the store answers",
        })
    }
}

/// A promise that the backend did not keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("broken promise: {promise}: {seen}")]
pub struct BrokenPromise {
    /// Which one.
    pub promise: Promise,
    /// What was seen instead.
    pub seen: String,
}

/// Tries of one append or read before the suite gives up on a store that does not answer.
const TRIES_MAX: u32 = 60;
/// Pause before the second try; it grows by as much with each further one, up to ten times.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Where the checks play: two handles to one log, and epochs that nobody else uses.
#[derive(Debug)]
pub struct Ground {
    one: Arc<dyn MetadataLog>,
    other: Arc<dyn MetadataLog>,
    shard: ShardId,
    next_epoch: AtomicU64,
}

impl Ground {
    /// The ground at shard 0 from epoch 0 on. `other` is a second handle to the same log, with a connection of its own
    /// if the backend has connections: what one wrote, the other must see.
    pub fn new(one: Arc<dyn MetadataLog>, other: Arc<dyn MetadataLog>) -> Self {
        Self::at(one, other, ShardId::ZERO, LogEpoch::ZERO)
    }

    /// The ground at `shard`, and its neighbour (`shard ^ 1`) where shards are told apart, from `first_epoch` on.
    pub fn at(
        one: Arc<dyn MetadataLog>,
        other: Arc<dyn MetadataLog>,
        shard: ShardId,
        first_epoch: LogEpoch,
    ) -> Self {
        Self { one, other, shard, next_epoch: AtomicU64::new(first_epoch.0) }
    }

    /// Two neighbouring epochs of which nobody took the first before.
    fn fresh_epoch(&self) -> LogEpoch {
        LogEpoch(self.next_epoch.fetch_add(2, Ordering::Relaxed))
    }

    /// Appends, and repeats while the outcome is unknown.
    async fn append(&self, place: Place, bytes: &Bytes) -> Result<Append, BrokenPromise> {
        settle(&*self.one, self.shard, place, bytes).await
    }

    /// Appends to an absent place, as the first step of a check about something else.
    async fn put(&self, place: Place, bytes: &Bytes) -> Result<(), BrokenPromise> {
        match self.append(place, bytes).await? {
            Append::Appended => Ok(()),
            // An unknown outcome before may have been our own success.
            Append::Occupied(existing) if existing == *bytes => Ok(()),
            Append::Occupied(existing) => broken(
                Promise::CreatesIfAbsent,
                format!("place {place} should be absent and holds {}", show(&existing)),
            ),
            Append::Unknown(error) => broken(Promise::Answers, error.to_string()),
        }
    }

    /// Reads through the handle that did not write.
    async fn read(&self, epoch: LogEpoch, from: LogSeq, limit: usize) -> Result<Vec<Bytes>, BrokenPromise> {
        read(&*self.other, self.shard, epoch, from, limit).await
    }

    /// What the place holds, seen through the handle that did not write.
    async fn look(&self, place: Place) -> Result<Option<Bytes>, BrokenPromise> {
        Ok(self.read(place.epoch, place.seq, 1).await?.into_iter().next())
    }
}

/// All checks, with a race of 8 writers for 20 places. Longer races are [`races::race`]'s arguments.
pub async fn run_all(ground: &Ground) -> Result<(), BrokenPromise> {
    places::creates_if_absent(ground).await?;
    places::keeps_every_byte(ground).await?;
    places::bounds_entries(ground).await?;
    places::read_ends_at_first_absent_place(ground).await?;
    places::read_crosses_batches(ground).await?;
    places::keeps_shards_and_epochs_apart(ground).await?;
    places::removes_exactly(ground).await?;
    places::reads_after_writes(ground).await?;
    races::repeat_resolves(ground).await?;
    races::race(ground, Race { writers: 8, rounds: 20 }).await?;
    Ok(())
}

/// Appends, and repeats the very same append while its outcome is unknown, as a leader does.
async fn settle(
    log: &dyn MetadataLog,
    shard: ShardId,
    place: Place,
    bytes: &Bytes,
) -> Result<Append, BrokenPromise> {
    settle_counting(log, shard, place, bytes).await.map(|(outcome, _)| outcome)
}

/// The same, and how many outcomes were unknown before.
async fn settle_counting(
    log: &dyn MetadataLog,
    shard: ShardId,
    place: Place,
    bytes: &Bytes,
) -> Result<(Append, usize), BrokenPromise> {
    let mut last = None;
    for attempt in 0..TRIES_MAX {
        match log.append(shard, place, bytes.clone()).await {
            Append::Unknown(error) if error.retryable => last = Some(error),
            outcome => return Ok((outcome, attempt as usize)),
        }
        tokio::time::sleep(RETRY_PAUSE * attempt.min(10)).await;
    }
    gave_up(last)
}

async fn read(
    log: &dyn MetadataLog,
    shard: ShardId,
    epoch: LogEpoch,
    from: LogSeq,
    limit: usize,
) -> Result<Vec<Bytes>, BrokenPromise> {
    let mut last = None;
    for attempt in 0..TRIES_MAX {
        match log.read(shard, epoch, from, limit).await {
            Err(error) if error.retryable => last = Some(error),
            Err(error) => return broken(Promise::Answers, error.to_string()),
            Ok(entries) => return Ok(entries),
        }
        tokio::time::sleep(RETRY_PAUSE * attempt.min(10)).await;
    }
    gave_up(last)
}

fn gave_up<T>(last: Option<LogError>) -> Result<T, BrokenPromise> {
    let last = last.map_or_else(String::new, |error| error.to_string());
    broken(Promise::Answers, format!("{TRIES_MAX} tries without an answer, the last: {last}"))
}

fn broken<T>(promise: Promise, seen: String) -> Result<T, BrokenPromise> {
    Err(BrokenPromise { promise, seen })
}

fn expect_that(promise: Promise, holds: bool, seen: impl FnOnce() -> String) -> Result<(), BrokenPromise> {
    if holds { Ok(()) } else { broken(promise, seen()) }
}

/// Bytes in a message: the first ones, and how many there are.
fn show(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(24)];
    format!("{} bytes \"{}\"", bytes.len(), head.escape_ascii())
}

/// A list of entries in a message.
fn show_all(entries: &[Bytes]) -> String {
    let first: Vec<_> = entries.iter().take(6).map(|entry| show(entry)).collect();
    format!("{} entries [{}]", entries.len(), first.join(", "))
}
