//! Writing batches.

use bytes::Bytes;
use tidelog_types::{ProducerStamp, TimestampMs};

use crate::compression::Compression;
use crate::header::{BatchError, CRC_END, HEADER_BYTES, LENGTH_END, checksum};
use crate::varint::{self, zigzag};

/// A record, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its timestamp.
    pub timestamp: TimestampMs,
    /// Key; `None` is null.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is null.
    pub value: Option<&'a [u8]>,
    /// Headers in order.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Writes the fields of one record one after the other, without knowing them all at once.
pub(crate) struct BodyWriter<'a> {
    pub out: &'a mut Vec<u8>,
}

fn nullable_length(value: Option<usize>) -> usize {
    value.map_or(1, |length| varint::length(zigzag(signed(length))) + length)
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Lengths of a record's parts, from which its own follows.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct RecordLengths {
    pub key: Option<usize>,
    pub value: Option<usize>,
    pub header_count: usize,
    /// Bytes of all headers with their own lengths.
    pub headers: usize,
}

impl RecordLengths {
    pub fn add_header(&mut self, key: usize, value: Option<usize>) {
        self.header_count += 1;
        self.headers += nullable_length(Some(key)) + nullable_length(value);
    }
}

impl BodyWriter<'_> {
    /// Writes all before the headers; the headers have to follow.
    pub fn record(
        &mut self,
        timestamp_delta: i64,
        offset_delta: u32,
        lengths: RecordLengths,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) {
        let header_count = zigzag(signed(lengths.header_count));
        let length = 1
            + varint::length(zigzag(timestamp_delta))
            + varint::length(zigzag(offset_delta.into()))
            + nullable_length(lengths.key)
            + nullable_length(lengths.value)
            + varint::length(header_count)
            + lengths.headers;
        varint::put(self.out, zigzag(signed(length)));
        self.out.push(0);
        varint::put(self.out, zigzag(timestamp_delta));
        varint::put(self.out, zigzag(offset_delta.into()));
        self.nullable(key);
        self.nullable(value);
        varint::put(self.out, header_count);
    }

    pub fn nullable(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => {
                varint::put(self.out, zigzag(signed(bytes.len())));
                self.out.extend_from_slice(bytes);
            }
            None => varint::put(self.out, zigzag(-1)),
        }
    }
}

/// What the header of a finished batch says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeaderValues {
    pub compression: Compression,
    pub records: u32,
    pub base_timestamp: TimestampMs,
    pub max_timestamp: TimestampMs,
    pub producer: Option<ProducerStamp>,
}

/// Writes the header of a batch whose records already stand behind it, checksum last.
pub(crate) fn write_header(batch: &mut [u8], values: HeaderValues) -> Result<(), BatchError> {
    let counted = i32::try_from(batch.len() - LENGTH_END).map_err(|_| BatchError::Header("batch is too large"))?;
    let last = i32::try_from(values.records - 1).map_err(|_| BatchError::Header("too many records"))?;
    let (id, epoch, sequence) = values.producer.map_or((-1, -1, -1), |stamp| {
        (stamp.id.get(), stamp.epoch.get(), stamp.base_sequence.get())
    });
    let mut put = |at: usize, bytes: &[u8]| batch[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0_i64.to_be_bytes());
    put(8, &counted.to_be_bytes());
    put(12, &(-1_i32).to_be_bytes());
    put(16, &2_i8.to_be_bytes());
    put(21, &values.compression.code().to_be_bytes());
    put(23, &last.to_be_bytes());
    put(27, &values.base_timestamp.0.to_be_bytes());
    put(35, &values.max_timestamp.0.to_be_bytes());
    put(43, &id.to_be_bytes());
    put(51, &epoch.to_be_bytes());
    put(53, &sequence.to_be_bytes());
    put(57, &(last + 1).to_be_bytes());
    let crc = checksum(batch);
    batch[CRC_END - 4..CRC_END].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

/// Collects records for one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    compression: Compression,
    /// Room for the header, then the records, uncompressed.
    buffer: Vec<u8>,
    records: u32,
    base_timestamp: TimestampMs,
    max_timestamp: TimestampMs,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            buffer: vec![0; HEADER_BYTES],
            records: 0,
            base_timestamp: TimestampMs(0),
            max_timestamp: TimestampMs(0),
        }
    }

    /// Adds a record behind the others.
    pub fn push(&mut self, record: RecordRef<'_>) -> Result<(), BatchError> {
        if self.records == 0 {
            (self.base_timestamp, self.max_timestamp) = (record.timestamp, record.timestamp);
        }
        let delta = timestamp_delta(record.timestamp, self.base_timestamp)?;
        let mut lengths = RecordLengths {
            key: record.key.map(<[u8]>::len),
            value: record.value.map(<[u8]>::len),
            ..RecordLengths::default()
        };
        for (key, value) in record.headers {
            lengths.add_header(key.len(), value.map(<[u8]>::len));
        }
        let mut writer = BodyWriter { out: &mut self.buffer };
        writer.record(delta, self.records, lengths, record.key, record.value);
        for (key, value) in record.headers {
            writer.nullable(Some(key.as_bytes()));
            writer.nullable(*value);
        }
        self.records += 1;
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        Ok(())
    }

    /// How many records it has.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Its size if it were not compressed, in bytes.
    pub fn uncompressed_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The batch; `None` if it has no records. The builder is empty afterwards and keeps its memory.
    pub fn build(&mut self, producer: Option<ProducerStamp>) -> Result<Option<Bytes>, BatchError> {
        if self.records == 0 {
            return Ok(None);
        }
        let mut batch = if self.compression == Compression::None {
            self.buffer.clone()
        } else {
            let mut batch = vec![0; HEADER_BYTES];
            batch.reserve(self.buffer.len() / 2);
            self.compression
                .compress(&self.buffer[HEADER_BYTES..], &mut batch)
                .map_err(|error| BatchError::Decompress { max: self.buffer.len(), cause: error.to_string() })?;
            batch
        };
        let values = HeaderValues {
            compression: self.compression,
            records: self.records,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer,
        };
        write_header(&mut batch, values)?;
        self.buffer.truncate(HEADER_BYTES);
        self.records = 0;
        Ok(Some(batch.into()))
    }
}

/// A record's timestamp as the difference from its batch's.
pub(crate) fn timestamp_delta(timestamp: TimestampMs, base: TimestampMs) -> Result<i64, BatchError> {
    timestamp.0.checked_sub(base.0).ok_or(BatchError::Records("timestamps of one batch are more than 2^63 ms apart"))
}
