//! Offsets, partitions and timestamps.

use std::fmt;

use crate::{OutOfRange, TopicId};

/// The place of a record in its partition: 0 to 2^63 - 1, dense and rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(i64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);

    /// Checks and wraps an offset from outside.
    pub fn new(value: i64) -> Result<Self, OutOfRange> {
        if value < 0 {
            return Err(OutOfRange { what: "offset", value, low: 0, high: i64::MAX });
        }
        Ok(Self(value))
    }

    /// The offset as a number.
    pub fn get(self) -> i64 {
        self.0
    }

    /// The offset `records` later, or `None` beyond 2^63 - 1.
    pub fn checked_add(self, records: u32) -> Option<Self> {
        self.0.checked_add(i64::from(records)).map(Self)
    }

    /// How many offsets lie in `earlier..self`; 0 if `earlier` is not earlier.
    pub fn distance_from(self, earlier: Self) -> u64 {
        u64::try_from(self.0 - earlier.0).unwrap_or(0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a partition in its topic: 0 to 2^31 - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionIndex(u32);

impl PartitionIndex {
    /// Checks and wraps a partition number from outside.
    pub fn new(value: i32) -> Result<Self, OutOfRange> {
        u32::try_from(value).map(Self).map_err(|_| OutOfRange {
            what: "partition",
            value: value.into(),
            low: 0,
            high: i32::MAX.into(),
        })
    }

    /// The partition at a position in a list of partitions; `None` beyond 2^31 - 1.
    pub fn from_position(position: usize) -> Option<Self> {
        i32::try_from(position).ok().and_then(|value| Self::new(value).ok())
    }

    /// The partition as it goes over the wire.
    pub fn get(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }

    /// The partition as a position in a list of partitions.
    pub fn position(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic, by the id that a deleted and recreated topic does not share.
    pub topic: TopicId,
    /// The partition in it.
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Milliseconds since 1970-01-01 UTC; any value that a client sends is data, negative ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimestampMs(pub i64);

impl TimestampMs {
    /// This time plus `milliseconds`, at most the largest time there is.
    pub fn saturating_add_ms(self, milliseconds: i64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

impl fmt::Display for TimestampMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_partitions_check_their_range() {
        assert!(Offset::new(-1).is_err());
        assert_eq!(Offset::new(i64::MAX).map(Offset::get), Ok(i64::MAX));
        assert_eq!(Offset::new(i64::MAX).ok().and_then(|o| o.checked_add(1)), None);
        assert!(PartitionIndex::new(-1).is_err());
        assert_eq!(PartitionIndex::new(i32::MAX).map(PartitionIndex::get), Ok(i32::MAX));
    }
}
