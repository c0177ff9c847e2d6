//! What can be wrong with bytes that should be a batch or a record set.

use tidelog_types::OutOfRange;

use crate::header::Compression;

/// Why bytes are no batch that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are fewer bytes than the header has or announces.
    #[error("batch has {have} bytes, its header says {needed}")]
    Truncated {
        /// Bytes that are there.
        have: usize,
        /// Bytes that should be.
        needed: usize,
    },
    /// There are bytes after the batch.
    #[error("{0} bytes after the batch")]
    Trailing(usize),
    /// The length field is smaller than a header.
    #[error("batch length is {0}, allowed are 49 to 2147483635")]
    Length(i32),
    /// The batch is larger than the caller allows, or larger than the format can say.
    #[error("batch has {size} bytes, allowed are {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit.
        limit: u32,
    },
    /// Another message format.
    #[error("batch has magic {0}, only 2 is supported")]
    Magic(i8),
    /// The bytes are not what their writer wrote.
    #[error("batch has CRC-32C {computed:08x}, its header says {stored:08x}")]
    Crc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A batch without records, or with a negative number of them.
    #[error("batch has a record count of {0}, allowed are 1 to 2147483647")]
    Count(i32),
    /// The offsets are not dense.
    #[error("batch of {records} records has last offset delta {delta}, it must be one less")]
    LastOffsetDelta {
        /// What the header says.
        delta: i32,
        /// Records in the batch.
        records: u32,
    },
    /// An unknown codec.
    #[error("batch has compression codec {0}, allowed are 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd")]
    Codec(u8),
    /// A kind of batch that is not supported.
    #[error("batch is {0}, which is not supported")]
    Unsupported(&'static str),
    /// The producer's id, epoch or sequence.
    #[error(transparent)]
    Producer(#[from] OutOfRange),
    /// The compressed bytes are damaged.
    #[error("batch cannot be decompressed with {codec}: {reason}")]
    Decompress {
        /// The codec of the batch.
        codec: Compression,
        /// What the codec says.
        reason: String,
    },
    /// Decompressed, the records are larger than allowed.
    #[error("batch has more than {limit} bytes after decompression, which is the limit")]
    DecompressedTooLarge {
        /// The limit in bytes.
        limit: u32,
    },
    /// The codec could not compress.
    #[error("batch cannot be compressed with {codec}: {reason}")]
    Compress {
        /// The codec that was asked for.
        codec: Compression,
        /// What the codec says.
        reason: String,
    },
    /// A record is damaged.
    #[error("record {record} of the batch: {what}")]
    Record {
        /// Its position in the batch, from 0.
        record: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The offsets would pass 2^63 - 1.
    #[error("offsets of the batch end beyond 9223372036854775807")]
    OffsetsExhausted,
}

/// What the sender of a refused batch should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchErrorKind {
    /// The bytes are damaged or contradict themselves.
    Corrupt,
    /// The batch is larger than allowed, before or after decompression.
    TooLarge,
    /// The batch is of a kind that is not supported.
    Unsupported,
}

impl BatchError {
    /// The kind of this error.
    pub fn kind(&self) -> BatchErrorKind {
        match self {
            Self::TooLarge { .. } | Self::DecompressedTooLarge { .. } => BatchErrorKind::TooLarge,
            Self::Magic(_) | Self::Codec(_) | Self::Unsupported(_) => BatchErrorKind::Unsupported,
            _ => BatchErrorKind::Corrupt,
        }
    }
}

/// Why bytes are no protobuf `RecordSet` that can be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordSetError {
    /// A set without records.
    #[error("record set is empty, at least one record is needed")]
    Empty,
    /// Damaged protobuf, outside of any record.
    #[error("record set is no valid protobuf: {0}")]
    Malformed(&'static str),
    /// Damaged protobuf or forbidden content in a record.
    #[error("record {record} of the set: {what}")]
    Record {
        /// Its position in the set, from 0.
        record: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// As a batch the set would be larger than allowed.
    #[error("record set has more than {limit} bytes as a batch, which is the limit")]
    TooLarge {
        /// The limit in bytes.
        limit: u32,
    },
}
