//! From a batch to its records.

use std::iter::FusedIterator;

use bytes::Bytes;
use tidelog_types::TimestampMs;

use crate::header::HEADER_BYTES;
use crate::{BatchError, BatchHeader, BatchLimits, Compression, TimestampType, codec, validate, varint};

/// A batch that passed [`validate`], with its records decompressed. Whether each record parses shows while iterating.
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
        Records::new(&self.header, &self.records)
    }

    /// A key, value or header value of one of [`records`](Self::records) as `Bytes` that share this batch's memory.
    ///
    /// # Panics
    /// If `part` is not a part of this batch.
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.records.slice_ref(part)
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
    next: u32,
    count: u32,
    base_timestamp: TimestampMs,
    /// The timestamp of all records, if it is not theirs.
    append_time: Option<TimestampMs>,
}

impl<'a> Records<'a> {
    /// Records of the batch with this header, from its decompressed bytes.
    pub(crate) fn new(header: &BatchHeader, records: &'a [u8]) -> Self {
        let append_time = match header.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        };
        let (count, base_timestamp) = (header.records, header.base_timestamp);
        Self { rest: records, next: 0, count, base_timestamp, append_time }
    }

    fn read(&mut self) -> Result<RecordView<'a>, &'static str> {
        if self.rest.is_empty() {
            return Err("missing, the header counts more records than there are");
        }
        let length = signed(&mut self.rest)?;
        let length = usize::try_from(length).map_err(|_| "length is negative")?;
        let (mut body, rest) = self.rest.split_at_checked(length).ok_or("longer than its batch")?;
        self.rest = rest;

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

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.next;
        if record == self.count {
            if self.rest.is_empty() {
                return None;
            }
            self.rest = &[];
            return Some(Err(BatchError::Record { record, what: "not counted by the header" }));
        }
        let result = self.read();
        match result {
            Ok(_) => self.next += 1,
            Err(_) => (self.next, self.rest) = (self.count, &[]),
        }
        Some(result.map_err(|what| BatchError::Record { record, what }))
    }
}

impl FusedIterator for Records<'_> {}

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
