//! From what the service sends to what the caller gets.

use tidelog_proto::status::ApiError;
use tidelog_proto::v1::{self, ErrorReason};
use tidelog_record::{BatchLimits, DecodedBatch, OwnedRecords, Record};
use tidelog_types::Offset;

use super::Position;
use crate::error::ConsumeError;
use crate::record::{ConsumedRecord, Header};

/// Checks and decompresses a batch.
pub(super) fn open(batch: v1::RecordBatch, max_decompressed_bytes: u32) -> Result<OwnedRecords, String> {
    let limits = BatchLimits { max_decompressed_bytes, ..BatchLimits::NONE };
    let base = Offset::new(batch.base_offset).map_err(|error| error.to_string())?;
    let decoded = DecodedBatch::open(&batch.data, &limits).map_err(|error| error.to_string())?;
    decoded.into_records(base).map_err(|error| error.to_string())
}

/// A record as the caller gets it.
pub(super) fn delivered(at: &Position, record: Record) -> ConsumedRecord {
    let headers = record.headers.into_iter().map(|(key, value)| Header {
        // The decoder checked that names are UTF-8.
        key: String::from_utf8_lossy(&key).into_owned(),
        value,
    });
    ConsumedRecord {
        topic: at.topic.clone(),
        partition: at.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key,
        value: record.value,
        headers: headers.collect(),
    }
}

/// Why the service refuses a partition.
pub(super) fn failure(at: &Position, error: ApiError) -> ConsumeError {
    let (topic, partition, offset) = (at.topic.clone(), at.partition, at.next);
    if error.reason == ErrorReason::OffsetOutOfRange {
        let told = |key| error.metadata.get(key).cloned().unwrap_or_else(|| "?".into());
        let (earliest, latest) = (told("earliest"), told("latest"));
        return ConsumeError::OffsetOutOfRange { topic, partition, offset, earliest, latest };
    }
    ConsumeError::Partition { topic, partition, offset, error: Box::new(error) }
}
