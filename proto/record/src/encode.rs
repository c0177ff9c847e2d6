//! From records to a batch.

use bytes::Bytes;
use tidelog_types::{ProducerStamp, TimestampMs};

use crate::codec::Compressor;
use crate::header::{HEADER_BYTES, NewHeader, write};
use crate::varint::{self, LongRow, ShortRow, zigzag};
use crate::{BatchError, BatchHeader, Compression};

/// A record to append; null (`None`) and empty are different.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    /// Its timestamp; any value.
    pub timestamp: TimestampMs,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Collects records into one batch after another, with the same buffers.
#[derive(Debug)]
pub struct BatchBuilder {
    compressor: Compressor,
    producer: Option<ProducerStamp>,
    /// Room for a header, then the records, uncompressed.
    raw: Vec<u8>,
    records: u32,
    times: Times,
}

impl BatchBuilder {
    /// A builder of batches that are compressed like this.
    pub fn new(compression: Compression) -> Self {
        let compressor = Compressor::new(compression);
        Self { compressor, producer: None, raw: vec![0; HEADER_BYTES], records: 0, times: Times::default() }
    }

    /// Stamps the batch that is built next, and no later one.
    pub fn stamp(&mut self, producer: ProducerStamp) {
        self.producer = Some(producer);
    }

    /// Appends a record. On an error nothing is appended.
    pub fn append(&mut self, record: RecordRef<'_>) -> Result<(), BatchError> {
        let times = self.times.with(self.records, record.timestamp);
        let headers = record.headers.iter().copied();
        let shape = RecordShape {
            timestamp_delta: times.delta(record.timestamp),
            offset_delta: self.records,
            key: record.key,
            value: record.value,
            header_count: record.headers.len(),
            header_bytes: headers.clone().map(|(name, value)| header_bytes(name, value)).sum(),
        };
        let body_bytes = shape.body_bytes();
        let limit = i32::MAX.cast_unsigned();
        let size = self.raw.len() as u64 + record_bytes(body_bytes) as u64;
        if size > u64::from(limit) || self.records == limit {
            return Err(BatchError::TooLarge { size, limit });
        }
        shape.write(body_bytes, &mut self.raw);
        for (name, value) in headers {
            write_header(name, value, &mut self.raw);
        }
        self.records += 1;
        self.times = times;
        Ok(())
    }

    /// Records that were appended since the last batch.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Whether no record was appended since the last batch.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Size in bytes that the batch would have if it were not compressed.
    pub fn uncompressed_bytes(&self) -> usize {
        self.raw.len()
    }

    /// Builds the batch and starts the next one. An error if there are no records.
    pub fn build(&mut self) -> Result<Bytes, BatchError> {
        if self.compressor.compression() == Compression::None {
            // Handed over as it is; the next batch will probably be as large.
            self.fill_in()?;
            let mut next = Vec::with_capacity(self.raw.len());
            next.resize(HEADER_BYTES, 0);
            let batch = std::mem::replace(&mut self.raw, next);
            self.clear();
            return Ok(Bytes::from(batch));
        }
        let mut batch = Vec::new();
        self.build_into(&mut batch)?;
        Ok(Bytes::from(batch))
    }

    /// Like [`build`](Self::build), but appends the batch to `out`, so that no memory is allocated per batch.
    pub fn build_into(&mut self, out: &mut Vec<u8>) -> Result<BatchHeader, BatchError> {
        let start = out.len();
        let built = self.compress_into(out);
        match built {
            Ok(_) => self.clear(),
            Err(_) => out.truncate(start),
        }
        built
    }

    fn compress_into(&mut self, out: &mut Vec<u8>) -> Result<BatchHeader, BatchError> {
        let start = out.len();
        if self.compressor.compression() == Compression::None {
            let header = self.fill_in()?;
            out.extend_from_slice(&self.raw);
            return Ok(header);
        }
        out.extend_from_slice(&[0; HEADER_BYTES]);
        self.compressor.compress(&self.raw[HEADER_BYTES..], out)?;
        let header = self.new_header()?;
        write(&mut out[start..], &header)
    }

    /// Drops what was appended since the last batch, and the stamp.
    pub fn clear(&mut self) {
        self.raw.truncate(HEADER_BYTES);
        self.records = 0;
        self.producer = None;
    }

    fn fill_in(&mut self) -> Result<BatchHeader, BatchError> {
        let header = self.new_header()?;
        write(&mut self.raw, &header)
    }

    fn new_header(&self) -> Result<NewHeader, BatchError> {
        if self.records == 0 {
            return Err(BatchError::Count(0));
        }
        Ok(NewHeader {
            compression: self.compressor.compression(),
            base_timestamp: self.times.base,
            max_timestamp: self.times.max,
            producer: self.producer,
            records: self.records,
        })
    }
}

/// Timestamps of a batch that grows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) base: TimestampMs,
    pub(crate) max: TimestampMs,
}

impl Default for Times {
    fn default() -> Self {
        Self { base: TimestampMs(0), max: TimestampMs(i64::MIN) }
    }
}

impl Times {
    /// These times after one more record, which comes after `records` others.
    #[inline]
    pub(crate) fn with(self, records: u32, timestamp: TimestampMs) -> Self {
        match records {
            0 => Self { base: timestamp, max: timestamp },
            _ => Self { base: self.base, max: self.max.max(timestamp) },
        }
    }

    /// What a record keeps of its timestamp. It wraps, and so does its addition in every reader.
    #[inline]
    pub(crate) fn delta(self, timestamp: TimestampMs) -> i64 {
        timestamp.0.wrapping_sub(self.base.0)
    }
}

/// All of a record but its headers' content.
pub(crate) struct RecordShape<'a> {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: u32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) header_count: usize,
    /// Sum of [`header_bytes`].
    pub(crate) header_bytes: usize,
}

impl RecordShape<'_> {
    /// Bytes of the record after its length.
    #[inline]
    pub(crate) fn body_bytes(&self) -> usize {
        1 + varint::len(zigzag(self.timestamp_delta))
            + varint::len(zigzag(i64::from(self.offset_delta)))
            + nullable_bytes(self.key)
            + nullable_bytes(self.value)
            + varint::len(zigzag(self.header_count as i64))
            + self.header_bytes
    }

    /// Appends the record up to its headers, which must follow by [`write_header`].
    #[inline]
    pub(crate) fn write(&self, body_bytes: usize, out: &mut Vec<u8>) {
        let mut row = LongRow::new();
        row.signed(body_bytes as i64)
            .byte(0)
            .signed(self.timestamp_delta)
            .signed(i64::from(self.offset_delta))
            .signed(self.key.map_or(-1, |key| key.len() as i64));
        // One growth at most for the whole record, and not a byte more than it has: `out` may be a buffer of fixed size.
        out.reserve(record_bytes(body_bytes));
        row.append_to(out);
        out.extend_from_slice(self.key.unwrap_or_default());
        write_nullable(self.value, out);
        write_length(self.header_count as i64, out);
    }
}

/// Bytes of a record with its length.
#[inline]
pub(crate) fn record_bytes(body_bytes: usize) -> usize {
    varint::len(zigzag(body_bytes as i64)) + body_bytes
}

/// Bytes of a header in a record.
#[inline]
pub(crate) fn header_bytes(name: &str, value: Option<&[u8]>) -> usize {
    nullable_bytes(Some(name.as_bytes())) + nullable_bytes(value)
}

/// Appends a header of a record.
#[inline]
pub(crate) fn write_header(name: &str, value: Option<&[u8]>, out: &mut Vec<u8>) {
    write_nullable(Some(name.as_bytes()), out);
    write_nullable(value, out);
}

#[inline]
fn nullable_bytes(field: Option<&[u8]>) -> usize {
    field.map_or(1, |bytes| varint::len(zigzag(bytes.len() as i64)) + bytes.len())
}

#[inline]
fn write_nullable(field: Option<&[u8]>, out: &mut Vec<u8>) {
    match field {
        None => write_length(-1, out),
        Some(bytes) => {
            write_length(bytes.len() as i64, out);
            out.extend_from_slice(bytes);
        }
    }
}

#[inline]
fn write_length(length: i64, out: &mut Vec<u8>) {
    ShortRow::new().signed(length).append_to(out);
}
