//! Record batches as the agent looks at them: the one place that calls the codec.

use bytes::Bytes;
use tidelog_record::{
    BatchError, BatchErrorKind, BatchHeader, BatchLimits, DecodedBatch, RecordSetError, transcode_records, validate,
};
use tidelog_types::{ProducerStamp, TimestampMs};

use crate::produce::ProduceError;

/// Most bytes that the records of one batch may decompress to.
const DECOMPRESSED_BYTES_MAX: u32 = 32 * 1024 * 1024;

fn limits(bytes_max: usize) -> BatchLimits {
    let max_batch_bytes = u32::try_from(bytes_max).unwrap_or(u32::MAX);
    BatchLimits { max_batch_bytes, max_decompressed_bytes: DECOMPRESSED_BYTES_MAX }
}

/// What the metadata has to know of a batch that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    pub records: u32,
    pub max_timestamp: TimestampMs,
    pub stamp: Option<ProducerStamp>,
}

impl From<BatchHeader> for Checked {
    fn from(header: BatchHeader) -> Self {
        Self { records: header.records, max_timestamp: header.max_timestamp, stamp: header.producer }
    }
}

/// Checks that `bytes` are exactly one undamaged batch of at most `bytes_max` bytes. Decompresses nothing.
pub(crate) fn check(bytes: &[u8], bytes_max: usize) -> Result<Checked, BatchError> {
    validate(bytes, &limits(bytes_max)).map(Checked::from)
}

/// Length of the batch that begins here, which may be more than there is.
pub(crate) fn length_of(bytes: &[u8]) -> Result<usize, BatchError> {
    BatchHeader::parse(bytes).map(|header| header.size_bytes as usize)
}

/// Appends to `out` the batch of an encoded `tidelog.v1.RecordSet`. On an error `out` is as before.
pub(crate) fn transcode(
    set: &[u8],
    stamp: Option<ProducerStamp>,
    now: TimestampMs,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<Checked, RecordSetError> {
    transcode_records(set, now, stamp, &limits(bytes_max), out).map(Checked::from)
}

/// The first record of a batch whose timestamp is `time` or later, after the first `skip` records: its position in the
/// batch, and its timestamp.
pub(crate) fn first_at_or_after(
    batch: &Bytes,
    time: TimestampMs,
    skip: u64,
) -> Result<Option<(u32, TimestampMs)>, BatchError> {
    if BatchHeader::parse(batch)?.max_timestamp < time {
        return Ok(None);
    }
    let decoded = DecodedBatch::open(batch, &limits(batch.len()))?;
    for (position, record) in (0_u32..).zip(decoded.records()) {
        let timestamp = record?.timestamp;
        if timestamp >= time && u64::from(position) >= skip {
            return Ok(Some((position, timestamp)));
        }
    }
    Ok(None)
}

/// What a producer is told about a batch that was not taken.
pub(crate) fn not_taken(error: BatchError, bytes: usize, max: usize) -> ProduceError {
    match error.kind() {
        BatchErrorKind::TooLarge => ProduceError::TooLarge { bytes, max },
        BatchErrorKind::Unsupported => ProduceError::Unsupported(error.to_string()),
        BatchErrorKind::Corrupt => ProduceError::Corrupt(error.to_string()),
    }
}

/// What a producer is told about records that were not taken.
pub(crate) fn set_not_taken(error: RecordSetError, bytes: usize, max: usize) -> ProduceError {
    match error {
        RecordSetError::TooLarge { .. } => ProduceError::TooLarge { bytes, max },
        other => ProduceError::Corrupt(other.to_string()),
    }
}
