//! Positions in the metadata log.

use std::fmt;

/// Shard of the metadata log. This version runs shard 0 only; the number is in every key from the first day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The only shard of this version.
    pub const ZERO: Self = Self(0);
}

/// Epoch of the metadata log: each has one leader. Dense and rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogEpoch(pub u64);

impl LogEpoch {
    /// The epoch that holds nothing but the cluster's genesis and its seal.
    pub const ZERO: Self = Self(0);

    /// The epoch after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Position inside an epoch, from 0, dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogSeq(pub u64);

impl LogSeq {
    /// The place where each epoch begins.
    pub const ZERO: Self = Self(0);

    /// The place after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A place in one shard's log. Ordered by epoch, then by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The epoch.
    pub epoch: LogEpoch,
    /// The position in it.
    pub seq: LogSeq,
}

impl Place {
    /// The place at `(epoch, seq)`.
    pub fn new(epoch: LogEpoch, seq: LogSeq) -> Self {
        Self { epoch, seq }
    }

    /// The first place of an epoch.
    pub fn begin_of(epoch: LogEpoch) -> Self {
        Self { epoch, seq: LogSeq::ZERO }
    }

    /// The next place in the same epoch.
    pub fn next(self) -> Self {
        Self { epoch: self.epoch, seq: self.seq.next() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.epoch.0, self.seq.0)
    }
}

/// How many entries of the log were applied before one, counted over all epochs from the genesis: the age of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
