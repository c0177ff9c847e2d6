//! Where a partition's records lie: slices, ordered by offset.
//!
//! There is one slice per partition and flush, so slices are most of what a cluster remembers: 40 bytes each, in
//! chunks that a clone of the state shares, so that a snapshot copies no slices.

use std::collections::VecDeque;
use std::sync::Arc;

use tidelog_types::{Offset, TimestampMs};

/// Number of a segment object among those that the state knows; short, because each slice carries one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u64);

/// A run of record batches of one partition that lie side by side in one object: offsets
/// `[base_offset, base_offset + records)`, bytes `[position, position + length)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// The object that holds it.
    pub object: ObjectId,
    /// Largest timestamp of its records.
    pub max_timestamp: TimestampMs,
    /// Where its bytes begin in the object.
    pub position: u32,
    /// How many bytes it has.
    pub length: u32,
    /// How many records it has.
    pub records: u32,
}

impl Slice {
    /// The offset after its last record.
    pub fn end_offset(&self) -> Offset {
        // Checked when the slice was appended.
        self.base_offset.checked_add(self.records).unwrap_or(self.base_offset)
    }
}

/// Slices per chunk: 2.5 KiB, what a change after a snapshot has to copy at most per partition.
const CHUNK_SLICES: usize = 64;

/// The slices of one partition, dense by offset. Cloning shares the chunks.
#[derive(Debug, Clone, Default)]
pub struct SliceLog {
    chunks: VecDeque<Arc<Vec<Slice>>>,
}

impl SliceLog {
    /// Appends a slice that begins where the last one ends. Returns whether it was merged into the last one, because
    /// their bytes lie side by side in the same object.
    pub fn push(&mut self, slice: Slice) -> bool {
        if let Some(chunk) = self.chunks.back_mut() {
            if let Some(last) = chunk.last() {
                debug_assert_eq!(last.end_offset(), slice.base_offset, "INV-4: offsets are dense");
                let side_by_side = last.object == slice.object
                    && last.position.checked_add(last.length) == Some(slice.position);
                let lengths =
                    last.length.checked_add(slice.length).zip(last.records.checked_add(slice.records));
                if let (true, Some((length, records))) = (side_by_side, lengths) {
                    if let Some(last) = Arc::make_mut(chunk).last_mut() {
                        last.length = length;
                        last.records = records;
                        last.max_timestamp = last.max_timestamp.max(slice.max_timestamp);
                    }
                    return true;
                }
            }
            if chunk.len() < CHUNK_SLICES {
                let chunk = Arc::make_mut(chunk);
                if chunk.len() == chunk.capacity() {
                    // Vec would round a full chunk's capacity up beyond its end.
                    chunk.reserve_exact(chunk.len().clamp(1, CHUNK_SLICES - chunk.len()));
                }
                chunk.push(slice);
                return false;
            }
        }
        self.chunks.push_back(Arc::new(vec![slice]));
        false
    }

    /// The first slice, if there is one.
    pub fn first(&self) -> Option<&Slice> {
        self.chunks.front().and_then(|chunk| chunk.first())
    }

    /// Removes and returns the first slice.
    pub fn pop_first(&mut self) -> Option<Slice> {
        let chunk = Arc::make_mut(self.chunks.front_mut()?);
        let first = chunk.remove(0);
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        Some(first)
    }

    /// The slices from the one that holds `offset` on, or from the first one after it.
    pub fn from_offset(&self, offset: Offset) -> impl Iterator<Item = &Slice> {
        let first_chunk = self
            .chunks
            .partition_point(|chunk| chunk.last().is_some_and(|slice| slice.end_offset() <= offset));
        self.chunks
            .range(first_chunk.min(self.chunks.len())..)
            .flat_map(|chunk| chunk.iter())
            .skip_while(move |slice| slice.end_offset() <= offset)
    }

    /// All slices by offset.
    pub fn iter(&self) -> impl Iterator<Item = &Slice> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// How many slices there are.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    /// Whether there is no slice.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

impl PartialEq for SliceLog {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SliceLog {}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(base: i64, object: u64, position: u32) -> Slice {
        Slice {
            base_offset: Offset::new(base).expect("not negative"),
            object: ObjectId(object),
            max_timestamp: TimestampMs(base),
            position,
            length: 100,
            records: 10,
        }
    }

    #[test]
    fn a_slice_costs_40_bytes() {
        assert_eq!(size_of::<Slice>(), 40);
    }

    #[test]
    fn lookup_finds_the_slice_that_holds_an_offset() {
        let mut log = SliceLog::default();
        for n in 0..1000 {
            assert!(!log.push(slice(n * 10, u64::try_from(n).expect("positive"), 0)));
        }
        assert_eq!(log.len(), 1000);
        for offset in [0, 9, 10, 639, 640, 641, 5_555, 9_999] {
            let found = log.from_offset(Offset::new(offset).expect("not negative")).next().copied();
            assert_eq!(found.map(|s| s.base_offset.get()), Some(offset / 10 * 10), "offset {offset}");
        }
        assert_eq!(log.from_offset(Offset::new(10_000).expect("not negative")).next(), None);
        for n in 0..500 {
            assert_eq!(log.pop_first().map(|s| s.base_offset.get()), Some(n * 10));
        }
        assert_eq!(log.from_offset(Offset::ZERO).next().map(|s| s.base_offset.get()), Some(5000));
        assert_eq!(log.len(), 500);
    }

    #[test]
    fn neighbours_in_one_object_count_once() {
        let mut log = SliceLog::default();
        assert!(!log.push(slice(0, 1, 0)));
        assert!(log.push(slice(10, 1, 100)));
        assert!(!log.push(slice(20, 1, 300)), "a gap in the bytes");
        assert!(!log.push(slice(30, 2, 400)), "another object");
        assert_eq!(log.len(), 3);
        assert_eq!(log.first().map(|s| (s.length, s.records, s.max_timestamp.0)), Some((200, 20, 10)));
    }

    #[test]
    fn a_clone_keeps_what_it_saw() {
        let mut log = SliceLog::default();
        for n in 0..100 {
            log.push(slice(n * 10, u64::try_from(n).expect("positive"), 0));
        }
        let before = log.clone();
        log.pop_first();
        log.push(slice(1000, 1000, 0));
        assert_eq!(before.len(), 100);
        assert_eq!(before.first().map(|s| s.base_offset.get()), Some(0));
        assert_eq!(log.len(), 100);
    }
}
