//! Between the protobuf form of records (`tidelog.v1`) and batches, without a struct per record.
//!
//! This is the hot path of clients that send plain records: their bytes are walked once to learn the lengths, and copied once.

use tidelog_types::{Offset, ProducerStamp, TimestampMs};

use crate::compression::Compression;
use crate::decode::Records;
use crate::encode::{BodyWriter, HeaderValues, RecordLengths, timestamp_delta, write_header};
use crate::header::{BatchError, BatchHeader, HEADER_BYTES};
use crate::varint;

/// What a field of a protobuf message holds.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// 32 or 64 bits; no field here has such.
    Fixed,
}

/// Takes a field off the front: its number and content.
fn take_field<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Field<'a>), BatchError> {
    const MALFORMED: BatchError = BatchError::Records("not a protobuf message");
    let key = varint::take(bytes).ok_or(MALFORMED)?;
    let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0).ok_or(MALFORMED)?;
    let mut skip = |length: usize| -> Result<&'a [u8], BatchError> {
        let (field, rest) = bytes.split_at_checked(length).ok_or(MALFORMED)?;
        *bytes = rest;
        Ok(field)
    };
    match key & 7 {
        0 => varint::take(bytes).map(|value| (number, Field::Number(value))).ok_or(MALFORMED),
        1 => skip(8).map(|_| (number, Field::Fixed)),
        5 => skip(4).map(|_| (number, Field::Fixed)),
        2 => {
            let length = varint::take(bytes).and_then(|length| usize::try_from(length).ok()).ok_or(MALFORMED)?;
            let (field, rest) = bytes.split_at_checked(length).ok_or(MALFORMED)?;
            *bytes = rest;
            Ok((number, Field::Bytes(field)))
        }
        _ => Err(MALFORMED),
    }
}

const WRONG_TYPE: BatchError = BatchError::Records("a field has the wrong protobuf type");

/// The fields of a `tidelog.v1.Record`; the last of equal ones holds, as protobuf says.
#[derive(Default)]
struct Parsed<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    timestamp: Option<i64>,
    lengths: RecordLengths,
}

fn parse_record(mut bytes: &[u8]) -> Result<Parsed<'_>, BatchError> {
    let mut parsed = Parsed::default();
    while !bytes.is_empty() {
        match take_field(&mut bytes)? {
            (1, Field::Bytes(key)) => parsed.key = Some(key),
            (2, Field::Bytes(value)) => parsed.value = Some(value),
            (3, Field::Bytes(header)) => {
                let (key, value) = parse_header(header)?;
                parsed.lengths.add_header(key.len(), value.map(<[u8]>::len));
            }
            (4, Field::Number(timestamp)) => parsed.timestamp = Some(i64::from_ne_bytes(timestamp.to_ne_bytes())),
            (1..=4, _) => return Err(WRONG_TYPE),
            _ => {}
        }
    }
    parsed.lengths.key = parsed.key.map(<[u8]>::len);
    parsed.lengths.value = parsed.value.map(<[u8]>::len);
    Ok(parsed)
}

fn parse_header(mut bytes: &[u8]) -> Result<(&str, Option<&[u8]>), BatchError> {
    let (mut key, mut value) = ("", None);
    while !bytes.is_empty() {
        match take_field(&mut bytes)? {
            (1, Field::Bytes(name)) => {
                key = std::str::from_utf8(name).map_err(|_| BatchError::Records("a header's name is not UTF-8"))?;
            }
            (2, Field::Bytes(bytes)) => value = Some(bytes),
            (1 | 2, _) => return Err(WRONG_TYPE),
            _ => {}
        }
    }
    Ok((key, value))
}

/// Appends to `out` one uncompressed batch of the records in an encoded `tidelog.v1.RecordSet`. Records without timestamp get `now`. On
/// an error `out` is as before. The batch has at most `bytes_max` bytes.
pub fn records_to_batch(
    mut record_set: &[u8],
    now: TimestampMs,
    producer: Option<ProducerStamp>,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<BatchHeader, BatchError> {
    let start = out.len();
    let written = append_records(&mut record_set, now, bytes_max, start, out).and_then(|values| {
        let batch = out.get_mut(start..).unwrap_or_default();
        write_header(batch, HeaderValues { producer, ..values })?;
        BatchHeader::parse(batch)
    });
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn append_records(
    record_set: &mut &[u8],
    now: TimestampMs,
    bytes_max: usize,
    start: usize,
    out: &mut Vec<u8>,
) -> Result<HeaderValues, BatchError> {
    out.resize(start + HEADER_BYTES, 0);
    let mut records = 0_u32;
    let (mut base, mut max) = (now, now);
    while !record_set.is_empty() {
        let bytes = match take_field(record_set)? {
            (1, Field::Bytes(bytes)) => bytes,
            (1, _) => return Err(WRONG_TYPE),
            _ => continue,
        };
        let parsed = parse_record(bytes)?;
        let timestamp = parsed.timestamp.map_or(now, TimestampMs);
        if records == 0 {
            (base, max) = (timestamp, timestamp);
        }
        max = max.max(timestamp);
        let mut writer = BodyWriter { out };
        writer.record(timestamp_delta(timestamp, base)?, records, parsed.lengths, parsed.key, parsed.value);
        if parsed.lengths.header_count > 0 {
            copy_headers(bytes, &mut writer)?;
        }
        records = records.checked_add(1).ok_or(BatchError::Header("too many records"))?;
        let found = out.len() - start;
        if found > bytes_max {
            return Err(BatchError::TooLarge { found: found + record_set.len(), max: bytes_max });
        }
    }
    if records == 0 {
        return Err(BatchError::Header("no records"));
    }
    Ok(HeaderValues {
        compression: Compression::None,
        records,
        base_timestamp: base,
        max_timestamp: max,
        producer: None,
    })
}

fn copy_headers(mut record: &[u8], writer: &mut BodyWriter<'_>) -> Result<(), BatchError> {
    while !record.is_empty() {
        if let (3, Field::Bytes(header)) = take_field(&mut record)? {
            let (key, value) = parse_header(header)?;
            writer.nullable(Some(key.as_bytes()));
            writer.nullable(value);
        }
    }
    Ok(())
}

/// Appends to `out` the records of a batch from `from` on, as entries of field 1 of a `tidelog.v1.FetchedRecordSet`. Returns how many.
pub fn batch_to_records(records: Records, from: Offset, out: &mut Vec<u8>) -> Result<u32, BatchError> {
    let mut records = records;
    let mut written = 0;
    while let Some(spans) = records.next_spans()? {
        if spans.offset < from {
            continue;
        }
        let bytes = records.bytes();
        let headers = || Records::headers(bytes, &spans);
        let offset = u64::from_ne_bytes(spans.offset.get().to_ne_bytes());
        let timestamp = u64::from_ne_bytes(spans.timestamp.0.to_ne_bytes());
        let header_length = |key: usize, value: Option<usize>| field_length(key) + value.map_or(0, field_length);
        let length = number_length(offset)
            + number_length(timestamp)
            + spans.key.as_ref().map_or(0, |range| field_length(range.len()))
            + spans.value.as_ref().map_or(0, |range| field_length(range.len()))
            + headers()
                .map(|(key, value)| field_length(header_length(key.len(), value.map(|range| range.len()))))
                .sum::<usize>();
        put_prefix(out, 1, length);
        put_number(out, 1, offset);
        put_number(out, 2, timestamp);
        for (number, range) in [(3, &spans.key), (4, &spans.value)] {
            if let Some(range) = range {
                put_prefix(out, number, range.len());
                out.extend_from_slice(&bytes[range.clone()]);
            }
        }
        for (key, value) in headers() {
            put_prefix(out, 5, header_length(key.len(), value.as_ref().map(ExactSizeIterator::len)));
            put_prefix(out, 1, key.len());
            out.extend_from_slice(&bytes[key]);
            if let Some(value) = value {
                put_prefix(out, 2, value.len());
                out.extend_from_slice(&bytes[value]);
            }
        }
        written += 1;
    }
    Ok(written)
}

/// Bytes of a length-delimited field with a number below 16.
fn field_length(length: usize) -> usize {
    1 + varint::length(length as u64) + length
}

/// Bytes of a number's field; none if it is 0, which is what an absent one means.
fn number_length(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint::length(value) }
}

fn put_prefix(out: &mut Vec<u8>, number: u8, length: usize) {
    out.push(number << 3 | 2);
    varint::put(out, length as u64);
}

fn put_number(out: &mut Vec<u8>, number: u8, value: u64) {
    if value != 0 {
        out.push(number << 3);
        varint::put(out, value);
    }
}
