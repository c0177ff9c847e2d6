//! Limits that the caller sets.

/// How large a batch may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Largest batch in bytes as stored, header included (Kafka's `max.message.bytes`).
    pub max_batch_bytes: u32,
    /// Most bytes that the records of one batch may have after decompression.
    pub max_decompressed_bytes: u32,
}

impl BatchLimits {
    /// No limit but that of the format (2^31 - 1 bytes); for batches whose size is already known to be sane.
    pub const NONE: Self =
        Self { max_batch_bytes: i32::MAX.cast_unsigned(), max_decompressed_bytes: i32::MAX.cast_unsigned() };
}

impl Default for BatchLimits {
    /// Kafka's default of 1 MiB and 12 bytes, and 32 MiB after decompression.
    fn default() -> Self {
        Self { max_batch_bytes: 1024 * 1024 + 12, max_decompressed_bytes: 32 * 1024 * 1024 }
    }
}
