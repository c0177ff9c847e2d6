//! What can be wrong with an object that should be a segment.

use tidelog_record::BatchError;

/// Why bytes are no segment, or not the one that was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("segment {object} is damaged: {damage}")]
pub struct SegmentError {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub damage: Damage,
}

/// What is wrong with a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Too short, or cut off.
    #[error("{what} has {found} bytes, expected {expected}")]
    Length {
        /// Which part.
        what: &'static str,
        /// Bytes that are there.
        found: u64,
        /// Bytes that have to be there.
        expected: u64,
    },
    /// Not a segment, or of a version that this one does not read.
    #[error("{0}")]
    Format(&'static str),
    /// A batch in it is damaged.
    #[error("batch at byte {position}: {error}")]
    Batch {
        /// Where it begins in the object.
        position: u64,
        /// What is wrong with it.
        error: BatchError,
    },
    /// A slice holds more or fewer records than the metadata says.
    #[error("slice at byte {position} has {found} records, expected {expected}")]
    Records {
        /// Where the slice begins in the object.
        position: u64,
        /// Records in it.
        found: u64,
        /// What the metadata says.
        expected: u64,
    },
}

impl Damage {
    /// The error that names the object.
    pub(crate) fn of(self, object: &str) -> SegmentError {
        SegmentError { object: object.to_owned(), damage: self }
    }
}
