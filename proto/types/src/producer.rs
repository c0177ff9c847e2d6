//! Identity of idempotent producers, as in Kafka (KIP-98).

use std::fmt;

use crate::OutOfRange;

/// Id of an idempotent producer: 0 to 2^63 - 1, allocated rising by the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(i64);

impl ProducerId {
    /// Checks and wraps an id from outside.
    pub fn new(value: i64) -> Result<Self, OutOfRange> {
        if value < 0 {
            return Err(OutOfRange { what: "producer id", value, low: 0, high: i64::MAX });
        }
        Ok(Self(value))
    }

    /// The id as a number.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Epoch of a producer id: 0 to 2^15 - 1. A producer with an older epoch is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerEpoch(i16);

impl ProducerEpoch {
    /// The first epoch of each id.
    pub const ZERO: Self = Self(0);

    /// Checks and wraps an epoch from outside.
    pub fn new(value: i16) -> Result<Self, OutOfRange> {
        if value < 0 {
            return Err(OutOfRange {
                what: "producer epoch",
                value: value.into(),
                low: 0,
                high: i16::MAX.into(),
            });
        }
        Ok(Self(value))
    }

    /// The epoch as a number.
    pub fn get(self) -> i16 {
        self.0
    }

    /// The next epoch, or `None` when this id is used up.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

/// Number of a record in what one producer sends to one partition: 0 to 2^31 - 1, then 0 again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(i32);

impl Sequence {
    /// The first sequence of each producer epoch in each partition.
    pub const ZERO: Self = Self(0);

    /// Checks and wraps a sequence from outside.
    pub fn new(value: i32) -> Result<Self, OutOfRange> {
        if value < 0 {
            return Err(OutOfRange { what: "sequence", value: value.into(), low: 0, high: i32::MAX.into() });
        }
        Ok(Self(value))
    }

    /// The sequence as a number.
    pub fn get(self) -> i32 {
        self.0
    }

    /// The sequence `records` later; after 2^31 - 1 comes 0.
    pub fn wrapping_add(self, records: u32) -> Self {
        let sum = (u64::from(self.0.unsigned_abs()) + u64::from(records)) % (1 << 31);
        Self(i32::try_from(sum).unwrap_or(0))
    }
}

/// What an idempotent producer stamps on a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerStamp {
    /// Who sends.
    pub id: ProducerId,
    /// Which incarnation of it.
    pub epoch: ProducerEpoch,
    /// Sequence of the batch's first record.
    pub base_sequence: Sequence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_to_zero() {
        let last = Sequence::new(i32::MAX).expect("in range");
        assert_eq!(last.wrapping_add(1), Sequence::ZERO);
        assert_eq!(last.wrapping_add(3).get(), 2);
        assert_eq!(Sequence::ZERO.wrapping_add(5).get(), 5);
        assert!(Sequence::new(-1).is_err());
    }

    #[test]
    fn epochs_end() {
        assert_eq!(ProducerEpoch::new(i16::MAX).ok().and_then(ProducerEpoch::next), None);
        assert_eq!(ProducerEpoch::ZERO.next().map(ProducerEpoch::get), Some(1));
    }
}
