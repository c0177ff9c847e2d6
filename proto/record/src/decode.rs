//! From a batch to its records.

use std::iter::FusedIterator;

use bytes::{Buf, Bytes};
use tidelog_types::{Offset, TimestampMs};

use crate::header::HEADER_BYTES;
use crate::{BatchError, BatchHeader, BatchLimits, Compression, TimestampType, codec, validate, varint};

/// A batch that passed [`validate()`], with its records decompressed. Whether each record parses shows while iterating.
#[derive(Debug, Clone)]
pub struct DecodedBatch {
    header: BatchHeader,
    records: Bytes,
}

impl DecodedBatch {
    /// Checks the batch, CRC included, and decompresses its records; uncompressed ones are not copied.
    pub fn open(batch: &Bytes, limits: &BatchLimits) -> Result<Self, BatchError> {
        let header = validate(batch, limits)?;
        let limit = limits.max_decompressed_bytes;
        let records = match header.compression {
            Compression::None if batch.len() - HEADER_BYTES > limit as usize => {
                return Err(BatchError::DecompressedTooLarge { limit });
            }
            Compression::None => batch.slice(HEADER_BYTES..),
            codec => Bytes::from(codec::decompress(codec, &batch[HEADER_BYTES..], limit)?),
        };
        Ok(Self { header, records })
    }

    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The records in order. Yields exactly as many as the header says, or an error last.
    pub fn records(&self) -> Records<'_> {
        Records { rest: &self.records, progress: Progress::new(&self.header) }
    }

    /// The same records with their offsets and as owners of their parts; `base_offset` is the true offset of the first one.
    /// Nothing is copied, so a record that is kept keeps the whole batch in memory.
    pub fn into_records(self, base_offset: Offset) -> Result<OwnedRecords, BatchError> {
        base_offset.checked_add(self.header.last_offset_delta()).ok_or(BatchError::OffsetsExhausted)?;
        Ok(OwnedRecords { rest: self.records, base_offset, progress: Progress::new(&self.header) })
    }
}

/// A record, borrowed from its batch. Null (`None`) and empty are different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its position in the batch: its offset is the batch's base offset plus this.
    pub offset_delta: u32,
    /// Its timestamp.
    pub timestamp: TimestampMs,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers in the producer's order, repeated names included.
    pub headers: Headers<'a>,
}

/// The headers of a record: an iterator of names and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Headers<'a> {
    /// Reads the next header off the front, whatever `left` says.
    fn read(&mut self) -> Result<(&'a str, Option<&'a [u8]>), &'static str> {
        let name = nullable(&mut self.rest)?.ok_or("header name is null, which is not allowed")?;
        let name = std::str::from_utf8(name).map_err(|_| "header name is not UTF-8")?;
        Ok((name, nullable(&mut self.rest)?))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // All of them were read once when the record was.
        self.read().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// Iterator over the records of a batch; ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
    progress: Progress,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.progress.next(&mut self.rest)
    }
}

impl FusedIterator for Records<'_> {}

/// A record that shares the memory of its batch. Null (`None`) and empty are different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: TimestampMs,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Names and values of its headers in the producer's order, repeated names included. The names are UTF-8.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Iterator over the records of a batch that owns the batch's memory; ends after the first error.
#[derive(Debug, Clone)]
pub struct OwnedRecords {
    rest: Bytes,
    base_offset: Offset,
    progress: Progress,
}

impl Iterator for OwnedRecords {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.rest.as_ref();
        let view = match self.progress.next(&mut rest)? {
            Ok(view) => view,
            Err(error) => return Some(Err(error)),
        };
        let share = |part: &[u8]| self.rest.slice_ref(part);
        // No overflow: the last record's offset was checked.
        let offset = self.base_offset.checked_add(view.offset_delta).unwrap_or(self.base_offset);
        let headers = view.headers.map(|(name, value)| (share(name.as_bytes()), value.map(share)));
        let record = Record {
            offset,
            timestamp: view.timestamp,
            key: view.key.map(share),
            value: view.value.map(share),
            headers: headers.collect(),
        };
        let read = self.rest.len() - rest.len();
        self.rest.advance(read);
        Some(Ok(record))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // One more for the error that may come last.
        (0, Some((self.progress.count - self.progress.next) as usize + 1))
    }
}

impl FusedIterator for OwnedRecords {}

/// How far the records of a batch were read.
#[derive(Debug, Clone)]
struct Progress {
    next: u32,
    count: u32,
    base_timestamp: TimestampMs,
    /// The timestamp of all records, if it is not theirs.
    append_time: Option<TimestampMs>,
    /// All was read, or an error was found.
    is_done: bool,
}

impl Progress {
    fn new(header: &BatchHeader) -> Self {
        let append_time = match header.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        };
        let (count, base_timestamp) = (header.records, header.base_timestamp);
        Self { next: 0, count, base_timestamp, append_time, is_done: false }
    }

    fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Result<RecordView<'a>, BatchError>> {
        if self.is_done {
            return None;
        }
        let record = self.next;
        let result = match (record == self.count, rest.is_empty()) {
            (true, true) => {
                self.is_done = true;
                return None;
            }
            (true, false) => Err("not counted by the header"),
            (false, true) => Err("missing, the header counts more records than there are"),
            (false, false) => self.read(rest),
        };
        match result {
            Ok(_) => self.next += 1,
            Err(_) => self.is_done = true,
        }
        Some(result.map_err(|what| BatchError::Record { record, what }))
    }

    fn read<'a>(&self, rest: &mut &'a [u8]) -> Result<RecordView<'a>, &'static str> {
        let length = signed(rest)?;
        let length = usize::try_from(length).map_err(|_| "length is negative")?;
        let (mut body, behind) = rest.split_at_checked(length).ok_or("longer than its batch")?;
        *rest = behind;

        // The attributes of records are unused in this format; Kafka ignores them too.
        body = body.split_first().ok_or("ends before its attributes")?.1;
        let timestamp_delta = signed(&mut body)?;
        if signed(&mut body)? != i64::from(self.next) {
            return Err("offset delta is not its position in the batch");
        }
        let key = nullable(&mut body)?;
        let value = nullable(&mut body)?;
        let count = signed(&mut body)?;
        let left = usize::try_from(count).map_err(|_| "number of headers is negative")?;
        let headers = Headers { rest: body, left };
        let mut walk = headers.clone();
        for _ in 0..left {
            walk.read()?;
        }
        if !walk.rest.is_empty() {
            return Err("bytes after its last header");
        }
        let timestamp = TimestampMs(self.base_timestamp.0.wrapping_add(timestamp_delta));
        let timestamp = self.append_time.unwrap_or(timestamp);
        Ok(RecordView { offset_delta: self.next, timestamp, key, value, headers })
    }
}

#[inline]
fn signed(bytes: &mut &[u8]) -> Result<i64, &'static str> {
    varint::read(bytes).map(varint::unzigzag).ok_or("ends inside a number, or the number passes 64 bits")
}

/// Bytes behind their length; -1 means null.
#[inline]
fn nullable<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    let length = signed(bytes)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| "length of a field is below -1")?;
    let (field, rest) = bytes.split_at_checked(length).ok_or("field is longer than its record")?;
    *bytes = rest;
    Ok(Some(field))
}
