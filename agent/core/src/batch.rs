//! Record batches as the agent looks at them: the one place that calls the codec.

use bytes::Bytes;
use tidelog_record::{
    BatchError, BatchErrorKind, BatchHeader, BatchLimits, DecodedBatch, RecordSetError, split_batches,
    transcode_records, validate,
};
use tidelog_types::{ProducerStamp, TimestampMs};

use crate::produce::ProduceError;

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

fn limits(max_batch_bytes: usize) -> BatchLimits {
    BatchLimits {
        max_batch_bytes: u32::try_from(max_batch_bytes).unwrap_or(u32::MAX),
        ..BatchLimits::default()
    }
}

/// Checks that `bytes` are exactly one undamaged batch of at most `bytes_max` bytes. Decompresses nothing.
pub(crate) fn check(bytes: &[u8], bytes_max: usize) -> Result<Checked, ProduceError> {
    validate(bytes, &limits(bytes_max)).map(Checked::from).map_err(|error| match error.kind() {
        BatchErrorKind::TooLarge => ProduceError::TooLarge { bytes: bytes.len(), max: bytes_max },
        BatchErrorKind::Unsupported => ProduceError::Unsupported(error.to_string()),
        BatchErrorKind::Corrupt => ProduceError::Corrupt(error.to_string()),
    })
}

/// The batches that lie one after the other in `bytes`, each checked.
pub(crate) fn checked_batches(bytes: Bytes) -> impl Iterator<Item = Result<(Checked, Bytes), BatchError>> {
    split_batches(bytes).map(|split| {
        let (header, batch) = split?;
        validate(&batch, &BatchLimits::NONE)?;
        Ok((header.into(), batch))
    })
}

/// Appends to `out` the batch of an encoded `tidelog.v1.RecordSet`. On an error `out` is as before.
pub(crate) fn transcode(
    set: &[u8],
    stamp: Option<ProducerStamp>,
    now: TimestampMs,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<Checked, ProduceError> {
    // Records are about as long in a batch as in the set.
    out.reserve(bytes_max.min(set.len() + set.len() / 16 + 128));
    transcode_records(set, now, stamp, &limits(bytes_max), out).map(Checked::from).map_err(
        |error| match error {
            RecordSetError::TooLarge { .. } => ProduceError::TooLarge { bytes: set.len(), max: bytes_max },
            other => ProduceError::Corrupt(other.to_string()),
        },
    )
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
    let stored = BatchLimits { max_batch_bytes: BatchLimits::NONE.max_batch_bytes, ..BatchLimits::default() };
    for record in DecodedBatch::open(batch, &stored)?.records() {
        let record = record?;
        if record.timestamp >= time && u64::from(record.offset_delta) >= skip {
            return Ok(Some((record.offset_delta, record.timestamp)));
        }
    }
    Ok(None)
}
