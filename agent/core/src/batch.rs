//! Record batches as the agent looks at them: the one place that calls the codec.

use bytes::Bytes;
use tidelog_record::{BatchError, BatchHeader, batch_length, decode, records_to_batch, validate};
use tidelog_types::{Offset, ProducerStamp, TimestampMs};

use crate::produce::ProduceError;

/// Most bytes that the records of one batch may decompress to.
const DECOMPRESSED_BYTES_MAX: usize = 32 * 1024 * 1024;

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
    validate(bytes, bytes_max).map(Checked::from)
}

/// Length of the batch that begins here, which may be more than there is.
pub(crate) fn length_of(bytes: &[u8]) -> Result<usize, BatchError> {
    batch_length(bytes)
}

/// Appends to `out` the batch of an encoded `tidelog.v1.RecordSet`. On an error `out` is as before.
pub(crate) fn transcode(
    set: &[u8],
    stamp: Option<ProducerStamp>,
    now: TimestampMs,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<Checked, BatchError> {
    records_to_batch(set, now, stamp, bytes_max, out).map(Checked::from)
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
    for (position, record) in (0_u32..).zip(decode(batch, Offset::ZERO, DECOMPRESSED_BYTES_MAX)?) {
        let timestamp = record?.timestamp;
        if timestamp >= time && u64::from(position) >= skip {
            return Ok(Some((position, timestamp)));
        }
    }
    Ok(None)
}

/// What a producer is told about a batch that was not taken.
pub(crate) fn not_taken(error: BatchError, max: usize) -> ProduceError {
    match error {
        BatchError::TooLarge { found, .. } => ProduceError::TooLarge { bytes: found, max },
        BatchError::Magic(_) | BatchError::Unsupported(_) => ProduceError::Unsupported(error.to_string()),
        other => ProduceError::Corrupt(other.to_string()),
    }
}
