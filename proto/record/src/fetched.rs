//! From a batch to protobuf records: the hot path of fetch for clients that want plain records.
//!
//! The output is a field of messages like `tidelog.v1.FetchedRecord`:
//! `int64 offset = 1; int64 timestamp_ms = 2; optional bytes key = 3; optional bytes value = 4; repeated Header headers = 5`.
//! As proto3 has it, an offset or timestamp of 0 is left out; a key or value is left out if it is null, not if it is empty.

use bytes::Bytes;
use tidelog_types::Offset;

use crate::varint::{self, LongRow, ShortRow};
use crate::wire::Tag;
use crate::{BatchError, BatchLimits, DecodedBatch, Headers};

const OFFSET: Tag = Tag::varint(1);
const TIMESTAMP: Tag = Tag::varint(2);
const KEY: Tag = Tag::bytes(3);
const VALUE: Tag = Tag::bytes(4);
const HEADER: Tag = Tag::bytes(5);

const HEADER_NAME: Tag = Tag::bytes(1);
const HEADER_VALUE: Tag = Tag::bytes(2);

/// Appends to `out` the batch's records from `from_offset` on, each as one entry of the repeated message field `field`
/// (1 to 15) of the message that is being written. Returns how many.
///
/// `base_offset` is the true offset of the batch's first record. The batch is checked as by [`crate::validate()`]. On an
/// error `out` is as it was.
pub fn records_to_protobuf(
    batch: &Bytes,
    base_offset: Offset,
    from_offset: Offset,
    field: u8,
    limits: &BatchLimits,
    out: &mut Vec<u8>,
) -> Result<u32, BatchError> {
    let decoded = DecodedBatch::open(batch, limits)?;
    let last_delta = decoded.header().last_offset_delta();
    base_offset.checked_add(last_delta).ok_or(BatchError::OffsetsExhausted)?;
    let start = out.len();
    let result = write_records(&decoded, base_offset, from_offset, field, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn write_records(
    decoded: &DecodedBatch,
    base_offset: Offset,
    from_offset: Offset,
    field: u8,
    out: &mut Vec<u8>,
) -> Result<u32, BatchError> {
    let entry_tag = Tag::bytes(u32::from(field));
    let mut written = 0;
    for record in decoded.records() {
        let record = record?;
        // No overflow: the last record's offset was checked.
        let offset = base_offset.checked_add(record.offset_delta).ok_or(BatchError::OffsetsExhausted)?;
        if offset < from_offset {
            continue;
        }
        let offset = offset.get().cast_unsigned();
        let timestamp = record.timestamp.0.cast_unsigned();
        let entry_bytes = number_bytes(offset)
            + number_bytes(timestamp)
            + optional_bytes(record.key)
            + optional_bytes(record.value)
            + headers_bytes(record.headers.clone());

        let mut row = LongRow::new();
        row.number(entry_tag.0).number(entry_bytes as u64);
        write_number(OFFSET, offset, &mut row);
        write_number(TIMESTAMP, timestamp, &mut row);
        out.reserve(entry_bytes + 2 * varint::MAX_BYTES);
        row.append_to(out);
        write_optional(KEY, record.key, out);
        write_optional(VALUE, record.value, out);
        write_headers(record.headers, out);
        written += 1;
    }
    Ok(written)
}

/// Bytes of a number field with a tag of one byte.
#[inline]
fn number_bytes(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint::len(value) }
}

#[inline]
fn write_number(tag: Tag, value: u64, row: &mut LongRow) {
    if value != 0 {
        row.number(tag.0).number(value);
    }
}

#[inline]
fn delimited_bytes(length: usize) -> usize {
    1 + varint::len(length as u64) + length
}

#[inline]
fn write_delimited_start(tag: Tag, length: usize, out: &mut Vec<u8>) {
    ShortRow::new().number(tag.0).number(length as u64).append_to(out);
}

#[inline]
fn optional_bytes(value: Option<&[u8]>) -> usize {
    value.map_or(0, |bytes| delimited_bytes(bytes.len()))
}

#[inline]
fn write_optional(tag: Tag, value: Option<&[u8]>, out: &mut Vec<u8>) {
    if let Some(bytes) = value {
        write_delimited_start(tag, bytes.len(), out);
        out.extend_from_slice(bytes);
    }
}

/// A header's name as an optional field: empty names are left out.
fn name_field(name: &str) -> Option<&[u8]> {
    Some(name.as_bytes()).filter(|bytes| !bytes.is_empty())
}

fn header_bytes(name: &str, value: Option<&[u8]>) -> usize {
    optional_bytes(name_field(name)) + optional_bytes(value)
}

fn headers_bytes(headers: Headers<'_>) -> usize {
    headers.map(|(name, value)| delimited_bytes(header_bytes(name, value))).sum()
}

fn write_headers(headers: Headers<'_>, out: &mut Vec<u8>) {
    for (name, value) in headers {
        write_delimited_start(HEADER, header_bytes(name, value), out);
        write_optional(HEADER_NAME, name_field(name), out);
        write_optional(HEADER_VALUE, value, out);
    }
}
