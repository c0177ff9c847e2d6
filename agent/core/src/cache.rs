//! Slices of segments in memory, for readers.
//!
//! A slice is cached as the batches that lie in it, each checked once: when it was uploaded by this agent, or when it was
//! loaded. What is in here needs no further check. There are two tiers: segments that this agent wrote, as a whole, and
//! slices that were loaded. Neither is a write buffer: only slices that the metadata refers to are ever looked up, so
//! nothing is read from here before it is durable (INV-6).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use tidelog_metadata_state::Slice;
use tidelog_types::SegmentId;

use crate::produce::PlacedBatch;

/// A batch of a slice.
#[derive(Debug, Clone)]
pub(crate) struct CachedBatch {
    /// Where it begins in the object.
    pub position: u32,
    /// How many records it has.
    pub records: u32,
    /// Its bytes as stored.
    pub bytes: Bytes,
}

/// Checked batches of one object, by position.
#[derive(Debug, Clone)]
pub(crate) struct CachedBatches {
    batches: Arc<[CachedBatch]>,
    weight: u32,
}

/// Memory that an entry needs besides its bytes.
const ENTRY_BYTES: usize = 160;
/// A whole buffer stays in memory with any part of it; a segment that fills less of its buffers than a half is copied.
const FILLED_AT_LEAST: usize = 2;

impl CachedBatches {
    /// Batches that lie in `memory` bytes that stay in memory with them.
    pub fn new(batches: Vec<CachedBatch>, memory: usize) -> Self {
        let memory = memory + ENTRY_BYTES + batches.len() * size_of::<CachedBatch>();
        Self { batches: batches.into(), weight: u32::try_from(memory).unwrap_or(u32::MAX) }
    }

    /// The batches of a slice; `None` if not all of it is here.
    pub fn of_slice(&self, slice: &Slice) -> Option<&[CachedBatch]> {
        let end = slice.position.checked_add(slice.length)?;
        let first = self.batches.partition_point(|batch| batch.position < slice.position);
        let after = self.batches.partition_point(|batch| batch.position < end);
        let batches = self.batches.get(first..after)?;
        let (begin, last) = (batches.first()?, batches.last()?);
        let last_end = last.position as usize + last.bytes.len();
        (begin.position == slice.position && last_end == end as usize).then_some(batches)
    }
}

/// Where a slice lies; the name of a loaded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SliceKey {
    pub segment: SegmentId,
    pub position: u32,
    pub length: u32,
}

/// The two tiers; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SegmentCache {
    written: Cache<SegmentId, CachedBatches>,
    pub loaded: Cache<SliceKey, CachedBatches>,
}

impl SegmentCache {
    /// Caches that hold `memory` bytes together. Each tier has its half, so that reading old slices does not drive out the
    /// newest ones.
    pub fn new(memory: usize) -> Self {
        let each = memory as u64 / 2;
        // Least recently used: the default policy keeps what was used often, and would turn away the newest segments and the
        // slices that a catching-up reader is in the middle of.
        let written = Cache::builder()
            .max_capacity(each)
            .weigher(|_: &SegmentId, cached: &CachedBatches| cached.weight)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let loaded = Cache::builder()
            .max_capacity(each)
            .weigher(|_: &SliceKey, cached: &CachedBatches| cached.weight)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { written, loaded }
    }

    /// Keeps the batches of a segment that was just uploaded. `buffers` is the memory that they keep alive. Batches that
    /// are copied give their buffers back at once: the commit that they still wait for may take long.
    pub async fn write_through(&self, segment: SegmentId, batches: &mut [PlacedBatch], buffers: usize) {
        let bytes: usize = batches.iter().map(|placed| placed.bytes.len()).sum();
        let cached = if bytes >= buffers / FILLED_AT_LEAST {
            CachedBatches::new(batches.iter().map(PlacedBatch::cached).collect(), buffers)
        } else {
            let mut copy = BytesMut::with_capacity(bytes);
            batches.iter().for_each(|placed| copy.extend_from_slice(&placed.bytes));
            let mut copy = copy.freeze();
            batches.iter_mut().for_each(|placed| placed.bytes = copy.split_to(placed.bytes.len()));
            CachedBatches::new(batches.iter().map(PlacedBatch::cached).collect(), bytes)
        };
        self.written.insert(segment, cached).await;
    }

    /// The batches of a segment that this agent wrote, if they are still here.
    pub async fn written(&self, segment: SegmentId) -> Option<CachedBatches> {
        self.written.get(&segment).await
    }
}
