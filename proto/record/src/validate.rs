//! Checks of a batch that came from outside: without looking into the records, and with.

use bytes::Bytes;

use crate::header::{CRC_FROM, size_of_batch};
use crate::{BatchError, BatchHeader, BatchLimits, DecodedBatch, TimestampType};

/// Checks that `bytes` is exactly one batch that may be stored: size, format, CRC, header, and nothing that Tidelog does
/// not support. Does not decompress, so nothing is known about the records themselves.
pub fn validate(bytes: &[u8], limits: &BatchLimits) -> Result<BatchHeader, BatchError> {
    let limit = limits.max_batch_bytes;
    if bytes.len() > limit as usize {
        return Err(BatchError::TooLarge { size: bytes.len() as u64, limit });
    }
    let size = size_of_batch(bytes)? as usize;
    if bytes.len() < size {
        return Err(BatchError::Truncated { have: bytes.len(), needed: size });
    }
    if bytes.len() > size {
        return Err(BatchError::Trailing(bytes.len() - size));
    }

    // Before the fields, so that damage is called damage and not by what the damaged field happens to say.
    let stored = u32::from_be_bytes([bytes[17], bytes[18], bytes[19], bytes[20]]);
    let computed = crate::crc32c(&bytes[CRC_FROM..]);
    if stored != computed {
        return Err(BatchError::Crc { stored, computed });
    }

    let header = BatchHeader::parse(bytes)?;
    if header.is_control() {
        return Err(BatchError::Unsupported("a control batch"));
    }
    if header.is_transactional() {
        return Err(BatchError::Unsupported("part of a transaction"));
    }
    // Kafka refuses this one from producers too; the other is set by brokers when they compact.
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(BatchError::Unsupported("stamped with log append time"));
    }
    if header.has_delete_horizon() {
        return Err(BatchError::Unsupported("stamped with a delete horizon"));
    }
    if header.undefined_attributes() != 0 {
        return Err(BatchError::Unsupported("marked with undefined attribute bits"));
    }
    Ok(header)
}

/// Checks all that [`validate()`] does, and that the records decompress within the limit, parse, fill the batch and have
/// offset deltas 0, 1, 2, ...
pub fn verify_records(batch: &Bytes, limits: &BatchLimits) -> Result<BatchHeader, BatchError> {
    let decoded = DecodedBatch::open(batch, limits)?;
    for record in decoded.records() {
        record?;
    }
    Ok(*decoded.header())
}
