//! Reading slices: from the cache, or from the object store with as few requests as possible.
//!
//! Whatever comes from the object store is checked before it is cached or served: each batch's CRC, and that the slice
//! holds exactly the records that the metadata says (INV-22). A failed check is tried once more with a read of its own,
//! because what was damaged may have been the transfer; then it is an error that names the object.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, future};
use object_store::{GetOptions, ObjectStore, ObjectStoreExt};
use tokio::sync::Semaphore;

use super::plan::{PlannedSlice, ReadRange, coalesce};
use crate::batch::checked_batches;
use crate::budget::Budget;
use crate::cache::{CachedBatch, CachedBatches, SegmentCache, SliceKey};
use crate::metrics::CacheCounters;
use crate::settings::FetchLimits;

/// Why a slice could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// The object does not exist.
    Gone,
    /// The bytes are damaged.
    Corrupt(String),
    /// The store did not answer.
    Unavailable(String),
}

type SharedRead = Shared<BoxFuture<'static, Result<Bytes, ReadError>>>;

/// Reads slices; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    store: Arc<dyn ObjectStore>,
    cache: SegmentCache,
    counters: CacheCounters,
    tail: Pool,
    cold: Pool,
    deadline: Duration,
}

/// What reads of one kind may use together.
#[derive(Debug, Clone)]
struct Pool {
    reads: Arc<Semaphore>,
    /// Bytes that are being loaded.
    memory: Budget,
}

impl Pool {
    fn new(reads: usize, memory: usize) -> Self {
        Self { reads: Arc::new(Semaphore::new(reads.max(1))), memory: Budget::new(memory, Duration::ZERO) }
    }
}

impl Reader {
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cache: SegmentCache,
        counters: CacheCounters,
        limits: &FetchLimits,
        deadline: Duration,
    ) -> Self {
        let tail = Pool::new(limits.tail_reads, limits.load_memory);
        let cold = Pool::new(limits.cold_reads, limits.load_memory);
        Self { store, cache, counters, tail, cold, deadline }
    }

    /// Reads slices; the results are in the order of the slices.
    pub async fn read(&self, slices: &[PlannedSlice]) -> Vec<Result<CachedBatches, ReadError>> {
        let mut found: Vec<Option<Result<CachedBatches, ReadError>>> = Vec::with_capacity(slices.len());
        let mut missing = Vec::new();
        for (position, planned) in slices.iter().enumerate() {
            let cached = self.cached(planned).await;
            if cached.is_none() {
                missing.push((position, *planned));
            }
            found.push(cached.map(Ok));
        }
        if missing.is_empty() {
            return found.into_iter().flatten().collect();
        }
        let ranges = coalesce(&missing);
        let bytes: u64 = ranges.iter().map(|range| range.range.end - range.range.start).sum();
        let pool = if ranges.iter().all(|range| range.is_tail) { &self.tail } else { &self.cold };
        // Held until all of it is loaded, because the parts that came first wait in memory for the others.
        let _loading = pool.memory.reserve(usize::try_from(bytes).unwrap_or(usize::MAX)).await;
        let mut loads = Vec::new();
        for range in ranges {
            let shared = self.shared_read(&range);
            for member in &range.members {
                if let Some(planned) = slices.get(*member) {
                    let load = self.clone().load(*planned, range.range.start, shared.clone());
                    let member = *member;
                    loads.push(async move { (member, load.await) });
                }
            }
        }
        for (position, result) in future::join_all(loads).await {
            if let Some(place) = found.get_mut(position) {
                *place = Some(result);
            }
        }
        let never = || Err(ReadError::Unavailable("the slice was not read".to_owned()));
        found.into_iter().map(|result| result.unwrap_or_else(never)).collect()
    }

    async fn cached(&self, planned: &PlannedSlice) -> Option<CachedBatches> {
        if let Some(written) = self.cache.written(planned.segment).await
            && written.of_slice(&planned.slice).is_some()
        {
            self.counters.written_hit.inc();
            return Some(written);
        }
        let loaded = self.cache.loaded.get(&key_of(planned)).await;
        match &loaded {
            Some(_) => self.counters.loaded_hit.inc(),
            None => self.counters.miss.inc(),
        };
        loaded
    }

    /// A read that happens once, when the first of the slices in it asks for it; if all of them are being loaded by
    /// others already, it does not happen at all.
    fn shared_read(&self, range: &ReadRange) -> SharedRead {
        let (reader, object, bytes, is_tail) =
            (self.clone(), range.object, range.range.clone(), range.is_tail);
        async move { reader.get(&object, bytes, is_tail).await }.boxed().shared()
    }

    /// Loads a slice, or waits for whoever loads it already.
    async fn load(
        self,
        planned: PlannedSlice,
        start: u64,
        shared: SharedRead,
    ) -> Result<CachedBatches, ReadError> {
        let cache = self.cache.loaded.clone();
        let loading = async move {
            let whole = shared.await?;
            let from = usize::try_from(u64::from(planned.slice.position) - start).unwrap_or(usize::MAX);
            let range = from..from.saturating_add(planned.slice.length as usize);
            let (part, memory) =
                if range.end <= whole.len() { own_part(&whole, range) } else { (Bytes::new(), 0) };
            match batches_of(&planned, part, memory) {
                Ok(batches) => Ok(batches),
                Err(first) => self.load_again(&planned, first).await,
            }
        };
        cache.try_get_with(key_of(&planned), loading).await.map_err(|error| (*error).clone())
    }

    async fn load_again(&self, planned: &PlannedSlice, first: String) -> Result<CachedBatches, ReadError> {
        let object = planned.path();
        tracing::warn!(event = "slice_reread", %object, cause = first, "a slice failed its check and is read once more");
        let start = u64::from(planned.slice.position);
        let range = start..start + u64::from(planned.slice.length);
        let bytes = self.get(planned, range, planned.is_tail).await?;
        let memory = bytes.len();
        batches_of(planned, bytes, memory).map_err(|cause| {
            tracing::error!(event = "slice_corrupt", %object, cause, "what the object store holds is damaged");
            ReadError::Corrupt(cause)
        })
    }

    async fn get(
        &self,
        object: &PlannedSlice,
        range: std::ops::Range<u64>,
        is_tail: bool,
    ) -> Result<Bytes, ReadError> {
        let pool = if is_tail { &self.tail } else { &self.cold };
        let reading = async {
            let _permit =
                pool.reads.acquire().await.map_err(|closed| ReadError::Unavailable(closed.to_string()))?;
            let (path, end) = (object.path(), range.end);
            let options = GetOptions::new().with_range(Some(range));
            let read = async { self.store.get_opts(&path, options).await?.bytes().await };
            match read.await {
                Ok(bytes) => Ok(bytes),
                Err(error @ object_store::Error::NotFound { .. }) => Err(unanswered(error)),
                // Stores say in many ways that a range lies beyond the end, and that is damage, not an outage.
                Err(error) => match self.store.head(&path).await {
                    Ok(object) if object.size < end => Err(ReadError::Corrupt(format!(
                        "it has {} bytes, there should be {end}",
                        object.size
                    ))),
                    _ => Err(unanswered(error)),
                },
            }
        };
        let timed = tokio::time::timeout(self.deadline, reading).await;
        timed.unwrap_or_else(|_| Err(ReadError::Unavailable("no answer in time".to_owned())))
    }
}

fn unanswered(error: object_store::Error) -> ReadError {
    match error {
        object_store::Error::NotFound { .. } => ReadError::Gone,
        other => ReadError::Unavailable(other.to_string()),
    }
}

fn key_of(planned: &PlannedSlice) -> SliceKey {
    SliceKey { segment: planned.segment, position: planned.slice.position, length: planned.slice.length }
}

/// Part of what was read, and how much it keeps in memory. A small part is copied, because it would keep all of it.
fn own_part(whole: &Bytes, range: std::ops::Range<usize>) -> (Bytes, usize) {
    let part = whole.slice(range);
    if part.len() < whole.len() / 2 {
        (Bytes::copy_from_slice(&part), part.len())
    } else {
        (part, whole.len())
    }
}

/// The batches of a slice, checked; they lie in `memory` bytes.
fn batches_of(planned: &PlannedSlice, bytes: Bytes, memory: usize) -> Result<CachedBatches, String> {
    let slice = &planned.slice;
    if bytes.len() != slice.length as usize {
        return Err(format!(
            "{} bytes were read at {}, there should be {}",
            bytes.len(),
            slice.position,
            slice.length
        ));
    }
    let mut batches = Vec::new();
    let (mut position, mut records) = (slice.position, 0_u64);
    for checked in checked_batches(bytes) {
        let (checked, bytes) = checked.map_err(|error| format!("batch at {position}: {error}"))?;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        batches.push(CachedBatch { position, records: checked.records, bytes });
        records += u64::from(checked.records);
        // Cannot overflow: position + length of the slice fits, which the state machine has checked.
        position = position.saturating_add(length);
    }
    if records != u64::from(slice.records) {
        return Err(format!(
            "the slice at {} has {records} records, there should be {}",
            slice.position, slice.records
        ));
    }
    Ok(CachedBatches::new(batches, memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_counts_what_it_keeps_in_memory() {
        let whole = Bytes::from(vec![7; 100]);
        let (large, memory) = own_part(&whole, 10..70);
        assert_eq!((large.as_ptr(), memory), (whole[10..].as_ptr(), 100));
        let (small, memory) = own_part(&whole, 10..30);
        assert!(small.as_ptr() != whole[10..].as_ptr());
        assert_eq!((small.len(), memory), (20, 20));
    }
}
