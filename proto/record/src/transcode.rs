//! From protobuf records to a batch, in one pass over the bytes: the hot path of produce.
//!
//! The input is a `tidelog.v1.RecordSet`. No struct is made of it: each record's fields are found, its size computed, and
//! its bytes copied once, to where the batch is built.

use tidelog_types::{ProducerStamp, TimestampMs};

use crate::encode::{RecordShape, Times, header_bytes, record_bytes, write_header};
use crate::header::{HEADER_BYTES, NewHeader, write};
use crate::wire::{self, Tag};
use crate::{BatchHeader, BatchLimits, Compression, RecordSetError};

const SET_RECORD: Tag = Tag::bytes(1);

const RECORD_KEY: Tag = Tag::bytes(1);
const RECORD_VALUE: Tag = Tag::bytes(2);
const RECORD_HEADER: Tag = Tag::bytes(3);
const RECORD_TIMESTAMP: Tag = Tag::varint(4);

const HEADER_NAME: Tag = Tag::bytes(1);
const HEADER_VALUE: Tag = Tag::bytes(2);

/// Appends to `out` one uncompressed batch with the records of `raw`, the protobuf encoding of a `RecordSet`.
///
/// Records without a timestamp get `now`. As protobuf demands, fields may come in any order, the last one of a kind wins,
/// and unknown ones are skipped. On an error `out` is as it was.
///
/// `out` grows by at most `limits.max_batch_bytes`: with that much capacity left, it is not reallocated.
pub fn transcode_records(
    raw: &[u8],
    now: TimestampMs,
    producer: Option<ProducerStamp>,
    limits: &BatchLimits,
    out: &mut Vec<u8>,
) -> Result<BatchHeader, RecordSetError> {
    let start = out.len();
    let result = transcode(raw, now, producer, limits, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn transcode(
    mut raw: &[u8],
    now: TimestampMs,
    producer: Option<ProducerStamp>,
    limits: &BatchLimits,
    out: &mut Vec<u8>,
) -> Result<BatchHeader, RecordSetError> {
    let start = out.len();
    let limit = limits.max_batch_bytes.min(i32::MAX.cast_unsigned());
    let too_large = RecordSetError::TooLarge { limit };
    let end_max = start.saturating_add(limit as usize);
    if (limit as usize) < HEADER_BYTES {
        return Err(too_large);
    }
    // A record takes about as many bytes in either encoding.
    out.reserve(raw.len().clamp(HEADER_BYTES, limit as usize));
    out.extend_from_slice(&[0; HEADER_BYTES]);

    let mut times = Times::default();
    let mut records = 0;
    while !raw.is_empty() {
        let tag = wire::tag(&mut raw).map_err(RecordSetError::Malformed)?;
        if tag != SET_RECORD {
            wire::skip_unknown(tag, 1, &mut raw).map_err(RecordSetError::Malformed)?;
            continue;
        }
        let message = wire::delimited(&mut raw).map_err(RecordSetError::Malformed)?;
        let fields =
            RecordFields::read(message).map_err(|what| RecordSetError::Record { record: records, what })?;
        let timestamp = fields.timestamp.unwrap_or(now);
        times = times.with(records, timestamp);
        let shape = RecordShape {
            timestamp_delta: times.delta(timestamp),
            offset_delta: records,
            key: fields.key,
            value: fields.value,
            header_count: fields.header_count,
            header_bytes: fields.header_bytes,
        };
        let body_bytes = shape.body_bytes();
        if record_bytes(body_bytes) > end_max.saturating_sub(out.len()) {
            return Err(too_large);
        }
        shape.write(body_bytes, out);
        if fields.header_count > 0 {
            write_headers(message, out).map_err(|what| RecordSetError::Record { record: records, what })?;
        }
        records += 1;
    }
    if records == 0 {
        return Err(RecordSetError::Empty);
    }

    let header = NewHeader {
        compression: Compression::None,
        base_timestamp: times.base,
        max_timestamp: times.max,
        producer,
        records,
    };
    write(&mut out[start..], &header).map_err(|_| too_large)
}

/// Where the fields of a `Record` message lie.
#[derive(Default)]
struct RecordFields<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    timestamp: Option<TimestampMs>,
    header_count: usize,
    /// Bytes that the headers will have in the batch.
    header_bytes: usize,
}

impl<'a> RecordFields<'a> {
    #[inline]
    fn read(mut message: &'a [u8]) -> Result<Self, &'static str> {
        let mut fields = Self::default();
        while !message.is_empty() {
            match wire::tag(&mut message)? {
                RECORD_KEY => fields.key = Some(wire::delimited(&mut message)?),
                RECORD_VALUE => fields.value = Some(wire::delimited(&mut message)?),
                RECORD_HEADER => {
                    let (name, value) = read_header(wire::delimited(&mut message)?)?;
                    fields.header_count += 1;
                    fields.header_bytes += header_bytes(name, value);
                }
                RECORD_TIMESTAMP => {
                    fields.timestamp = Some(TimestampMs(wire::number(&mut message)?.cast_signed()));
                }
                tag => wire::skip_unknown(tag, 4, &mut message)?,
            }
        }
        Ok(fields)
    }
}

/// Walks once more over a record that has headers, and copies them: they come after all else in a batch, and before
/// anything in protobuf.
fn write_headers(mut message: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    while !message.is_empty() {
        match wire::tag(&mut message)? {
            RECORD_HEADER => {
                let (name, value) = read_header(wire::delimited(&mut message)?)?;
                write_header(name, value, out);
            }
            RECORD_KEY | RECORD_VALUE => {
                wire::delimited(&mut message)?;
            }
            RECORD_TIMESTAMP => {
                wire::number(&mut message)?;
            }
            tag => wire::skip_unknown(tag, 4, &mut message)?,
        }
    }
    Ok(())
}

fn read_header(mut message: &[u8]) -> Result<(&str, Option<&[u8]>), &'static str> {
    let mut name = "";
    let mut value = None;
    while !message.is_empty() {
        match wire::tag(&mut message)? {
            HEADER_NAME => {
                let bytes = wire::delimited(&mut message)?;
                name = std::str::from_utf8(bytes).map_err(|_| "header name is not UTF-8")?;
            }
            HEADER_VALUE => value = Some(wire::delimited(&mut message)?),
            tag => wire::skip_unknown(tag, 2, &mut message)?,
        }
    }
    Ok((name, value))
}
