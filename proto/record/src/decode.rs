//! Reading the records of a batch.

use std::ops::Range;

use bytes::Bytes;
use tidelog_types::{Offset, TimestampMs};

use crate::compression::Compression;
use crate::header::{BatchError, BatchHeader, HEADER_BYTES, batch_length};
use crate::varint;

/// A record of a batch. Key, value and headers are windows into the batch's decompressed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: TimestampMs,
    /// Key; `None` is null.
    pub key: Option<Bytes>,
    /// Value; `None` is null.
    pub value: Option<Bytes>,
    /// Headers in order; names are text.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// The records of one batch, decompressed, to be walked through.
#[derive(Debug, Clone)]
pub struct Records {
    bytes: Bytes,
    position: usize,
    header: BatchHeader,
    base_offset: Offset,
    next: u32,
}

/// Opens a batch whose bytes were validated. `decompressed_max` bounds what its records may decompress to.
pub fn decode(batch: &Bytes, base_offset: Offset, decompressed_max: usize) -> Result<Records, BatchError> {
    let header = BatchHeader::parse(batch)?;
    if batch.len() < HEADER_BYTES {
        return Err(BatchError::Length { found: batch.len(), expected: HEADER_BYTES });
    }
    let body = batch.slice(HEADER_BYTES..);
    let bytes = match header.compression {
        Compression::None => body,
        codec => codec.decompress(&body, decompressed_max)?.into(),
    };
    Ok(Records { bytes, position: 0, header, base_offset, next: 0 })
}

/// Checks that the records of a validated batch are as the format says, and as many as its header says.
pub fn verify_records(batch: &Bytes, decompressed_max: usize) -> Result<(), BatchError> {
    let mut records = decode(batch, Offset::ZERO, decompressed_max)?;
    while records.next_spans()?.is_some() {}
    Ok(())
}

/// Where the parts of one record lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spans {
    pub offset: Offset,
    pub timestamp: TimestampMs,
    pub key: Option<Range<usize>>,
    pub value: Option<Range<usize>>,
    pub header_count: usize,
    pub headers: Range<usize>,
}

impl Records {
    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The next record's parts; `None` after the last.
    pub(crate) fn next_spans(&mut self) -> Result<Option<Spans>, BatchError> {
        let malformed = BatchError::Records;
        let mut rest = self.bytes.get(self.position..).unwrap_or_default();
        if self.next == self.header.records {
            return if rest.is_empty() { Ok(None) } else { Err(malformed("there is more than the header counts")) };
        }
        let before = rest.len();
        let length = take_length(&mut rest)?.ok_or(malformed("a record without length"))?;
        let start = self.position + before - rest.len();
        let mut record = rest.get(..length).ok_or(malformed("a record is cut off"))?;
        let end = start + length;
        let at = |rest: &[u8]| end - rest.len();
        record = record.get(1..).ok_or(malformed("a record without attributes"))?;
        let delta = varint::take_signed(&mut record).ok_or(malformed("a record without timestamp"))?;
        let offset_delta = varint::take_signed(&mut record).ok_or(malformed("a record without offset"))?;
        if offset_delta != i64::from(self.next) {
            return Err(malformed("offsets are not 0, 1, 2 and so on"));
        }
        let nullable = |record: &mut &[u8]| -> Result<Option<Range<usize>>, BatchError> {
            let Some(length) = take_length(record)? else { return Ok(None) };
            let from = at(record);
            *record = record.get(length..).ok_or(malformed("a field is cut off"))?;
            Ok(Some(from..from + length))
        };
        let key = nullable(&mut record)?;
        let value = nullable(&mut record)?;
        let header_count = take_length(&mut record)?.ok_or(malformed("a negative number of headers"))?;
        let headers = at(record);
        for _ in 0..header_count {
            let key = nullable(&mut record)?.ok_or(malformed("a header without name"))?;
            let name = self.bytes.get(key).unwrap_or_default();
            if std::str::from_utf8(name).is_err() {
                return Err(malformed("a header's name is not UTF-8"));
            }
            nullable(&mut record)?;
        }
        if !record.is_empty() {
            return Err(malformed("a record is longer than its fields"));
        }
        let timestamp = self.header.base_timestamp.0.checked_add(delta).ok_or(malformed("a timestamp overflows"))?;
        let offset = self.base_offset.checked_add(self.next).ok_or(malformed("an offset overflows"))?;
        self.position = end;
        self.next += 1;
        Ok(Some(Spans { offset, timestamp: TimestampMs(timestamp), key, value, header_count, headers: headers..end }))
    }

    /// The headers in a range that [`Records::next_spans`] has checked.
    pub(crate) fn headers(
        bytes: &Bytes,
        spans: &Spans,
    ) -> impl Iterator<Item = (Range<usize>, Option<Range<usize>>)> {
        let (bytes, mut position, end) = (bytes.clone(), spans.headers.start, spans.headers.end);
        let field = move |position: &mut usize| {
            let mut rest = bytes.get(*position..end)?;
            let length = take_length(&mut rest).ok()?;
            let from = end - rest.len();
            *position = from + length.unwrap_or(0);
            Some(length.map(|length| from..from + length))
        };
        (0..spans.header_count).map_while(move |_| {
            let key = field(&mut position)??;
            let value = field(&mut position)?;
            Some((key, value))
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let spans = match self.next_spans() {
            Ok(spans) => spans?,
            Err(error) => {
                // Nothing can be told apart behind a malformed record.
                self.next = self.header.records;
                self.position = self.bytes.len();
                return Some(Err(error));
            }
        };
        let window = |range: &Range<usize>| self.bytes.slice(range.clone());
        Some(Ok(Record {
            offset: spans.offset,
            timestamp: spans.timestamp,
            key: spans.key.as_ref().map(window),
            value: spans.value.as_ref().map(window),
            headers: Self::headers(&self.bytes, &spans)
                .map(|(key, value)| (window(&key), value.as_ref().map(window)))
                .collect(),
        }))
    }
}

/// A zigzag length: `None` for -1; an error for other negative ones.
fn take_length(bytes: &mut &[u8]) -> Result<Option<usize>, BatchError> {
    match varint::take_signed(bytes) {
        Some(-1) => Ok(None),
        Some(length) => usize::try_from(length).map(Some).map_err(|_| BatchError::Records("a length is negative")),
        None => Err(BatchError::Records("a length is cut off")),
    }
}

/// The batches that lie one after the other in `bytes`, by their headers' lengths; nothing else is checked.
pub fn split_batches(mut bytes: Bytes) -> impl Iterator<Item = Result<Bytes, BatchError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let length = match batch_length(&bytes) {
            Ok(length) if length <= bytes.len() => length,
            Ok(expected) => {
                let found = std::mem::take(&mut bytes).len();
                return Some(Err(BatchError::Length { found, expected }));
            }
            Err(error) => {
                bytes.clear();
                return Some(Err(error));
            }
        };
        Some(Ok(bytes.split_to(length)))
    })
}
