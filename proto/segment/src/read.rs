//! From the bytes of a segment to its batches.

use std::iter::FusedIterator;

use bytes::Bytes;
use tidelog_record::{BatchHeader, BatchLimits, Batches, split_batches, validate};

use crate::error::{Damage, SegmentError};
use crate::index::SegmentIndex;
use crate::layout::{Footer, HEADER_BYTES, MAGIC};

/// Reads a whole segment: header, footer, index, and every batch with its checksum and against the index. `object` names it
/// in errors.
///
/// To see what is in a segment without reading all of it: its last 32 bytes with [`Footer::read`], then the bytes that
/// those tell with [`SegmentIndex::decode`].
pub fn verify(object: &str, segment: &[u8]) -> Result<SegmentIndex, SegmentError> {
    check(segment).map_err(|damage| damage.of(object))
}

fn check(segment: &[u8]) -> Result<SegmentIndex, Damage> {
    if !segment.starts_with(MAGIC) {
        return Err(Damage::Format("it does not begin with TLOGSEG1"));
    }
    let footer = Footer::parse(segment, segment.len() as u64)?;
    let index_at = footer.index_position as usize;
    // The footer was checked to describe an object of this length, and the index to begin where the slices end: nothing
    // below can lie outside. If it did, that would be damage, not a panic.
    let index_bytes = segment.get(index_at..index_at + footer.index_bytes as usize).unwrap_or_default();
    let index = SegmentIndex::parse(&footer, index_bytes)?;
    let mut position = HEADER_BYTES;
    for (length, records) in index.slices.iter().flat_map(|slice| &slice.batches) {
        let end = position + *length as usize;
        let batch = segment.get(position..end).unwrap_or_default();
        let header = validate(batch, &BatchLimits::NONE)
            .map_err(|error| Damage::Batch { position: position as u64, error })?;
        if header.records != *records {
            return Err(Damage::Format("a batch has another number of records than the index says"));
        }
        position = end;
    }
    Ok(index)
}

/// Takes the bytes of a slice, or of slices side by side, apart into batches, and verifies the CRC of each.
///
/// `position` is where the bytes begin in the object, and `records` how many they hold as the metadata says: if that is
/// wrong, an error comes after the last batch.
pub fn read_slice(object: &str, position: u64, bytes: Bytes, records: u64) -> SliceBatches<'_> {
    SliceBatches {
        object,
        position,
        batches: split_batches(bytes),
        read_bytes: 0,
        read_records: 0,
        expected_records: Some(records),
    }
}

/// A batch in a segment, its CRC verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// Where it begins in the object, in bytes.
    pub position: u64,
    /// Records before it in the slice: its base offset is the slice's base offset plus this.
    pub records_before: u64,
    /// Its header. The base offset in it means nothing.
    pub header: BatchHeader,
    /// Its bytes as they are stored.
    pub bytes: Bytes,
}

/// Iterator of [`read_slice`]; ends after the first error.
#[derive(Debug, Clone)]
pub struct SliceBatches<'a> {
    object: &'a str,
    position: u64,
    batches: Batches,
    read_bytes: u64,
    read_records: u64,
    /// `None` after the end.
    expected_records: Option<u64>,
}

impl SliceBatches<'_> {
    fn read(&mut self, expected: u64) -> Result<Option<StoredBatch>, Damage> {
        let position = self.position + self.read_bytes;
        // Each batch was held against the limits of its topic when it was accepted.
        let next = self.batches.next().map(|split| {
            let (_, bytes) = split?;
            Ok((validate(&bytes, &BatchLimits::NONE)?, bytes))
        });
        match next.transpose().map_err(|error| Damage::Batch { position, error })? {
            Some((header, bytes)) => {
                let records_before = self.read_records;
                self.read_bytes += u64::from(header.size_bytes);
                self.read_records += u64::from(header.records);
                Ok(Some(StoredBatch { position, records_before, header, bytes }))
            }
            None if self.read_records == expected => Ok(None),
            None => Err(Damage::Records { position: self.position, found: self.read_records, expected }),
        }
    }
}

impl Iterator for SliceBatches<'_> {
    type Item = Result<StoredBatch, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let expected = self.expected_records?;
        let next = self.read(expected).map_err(|damage| damage.of(self.object));
        if !matches!(next, Ok(Some(_))) {
            self.expected_records = None;
        }
        next.transpose()
    }
}

impl FusedIterator for SliceBatches<'_> {}
