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
use object_store::{GetOptions, ObjectStore};
use tokio::sync::Semaphore;

use super::plan::{PlannedSlice, ReadRange, coalesce};
use crate::batch::{check, length_of};
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
    tail: Arc<Semaphore>,
    cold: Arc<Semaphore>,
    deadline: Duration,
}

impl Reader {
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cache: SegmentCache,
        counters: CacheCounters,
        limits: &FetchLimits,
        deadline: Duration,
    ) -> Self {
        let tail = Arc::new(Semaphore::new(limits.tail_reads.max(1)));
        let cold = Arc::new(Semaphore::new(limits.cold_reads.max(1)));
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
        let mut loads = Vec::new();
        for range in coalesce(&missing) {
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
            let part = if range.end <= whole.len() { own_part(&whole, range) } else { Bytes::new() };
            match batches_of(&planned, part) {
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
        batches_of(planned, bytes).map_err(|cause| {
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
                pool.acquire().await.map_err(|closed| ReadError::Unavailable(closed.to_string()))?;
            let options = GetOptions::new().with_range(Some(range));
            let got = self.store.get_opts(&object.path(), options).await.map_err(unanswered)?;
            got.bytes().await.map_err(unanswered)
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

/// Part of what was read. A small part is copied, because it would keep all of it in memory.
fn own_part(whole: &Bytes, range: std::ops::Range<usize>) -> Bytes {
    let part = whole.slice(range);
    if part.len() < whole.len() / 2 { Bytes::copy_from_slice(&part) } else { part }
}

/// The batches of a slice, checked.
fn batches_of(planned: &PlannedSlice, bytes: Bytes) -> Result<CachedBatches, String> {
    let slice = &planned.slice;
    let memory = bytes.len();
    if memory != slice.length as usize {
        return Err(format!(
            "{memory} bytes were read at {}, there should be {}",
            slice.position, slice.length
        ));
    }
    let mut batches = Vec::new();
    let (mut rest, mut position, mut records) = (bytes, slice.position, 0_u64);
    while !rest.is_empty() {
        let damaged = |error| format!("batch at {position}: {error}");
        let length = length_of(&rest).map_err(damaged)?;
        if length > rest.len() {
            return Err(format!("the batch at {position} is longer than its slice"));
        }
        let bytes = rest.split_to(length);
        let in_batch = check(&bytes, length).map_err(damaged)?.records;
        batches.push(CachedBatch { position, records: in_batch, bytes });
        records += u64::from(in_batch);
        // Cannot overflow: position + length of the slice fits, which the state machine has checked.
        position = position.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
    }
    if records != u64::from(slice.records) {
        return Err(format!(
            "the slice at {} has {records} records, there should be {}",
            slice.position, slice.records
        ));
    }
    Ok(CachedBatches::new(batches, memory))
}
