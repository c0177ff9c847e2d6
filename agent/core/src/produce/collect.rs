//! Where batches of all partitions gather until their segment is uploaded.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use object_store::PutPayload;
use parking_lot::{Mutex, MutexGuard};
use tidelog_metadata_state::config::MAX_MESSAGE_BYTES_HIGH;
use tidelog_metadata_state::limits::SLICES_PER_SEGMENT_MAX;
use tidelog_segment::{BufferPool, PooledBuffer, SegmentBatch};
use tidelog_types::{AgentInstance, ClusterId, TopicPartition};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::commit::{Arrival, COMMIT_BYTES_MAX, PendingBatch, PlacedBatch, commit_bytes};
use super::error::ProduceError;

/// Bytes copied before others that wait for the lock have their turn: some 50 µs.
const COPIED_AT_ONCE_BYTES: usize = 512 * 1024;

/// Gathers batches; what is due is taken by the flusher.
#[derive(Debug)]
pub(crate) struct Collector {
    state: Mutex<State>,
    wake: Notify,
    pool: BufferPool,
    flush_interval: Duration,
    flush_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    open: Option<OpenFlush>,
    /// Full ones, oldest first; the byte budget bounds them.
    closed: VecDeque<OpenFlush>,
    arrivals: Arrival,
    is_draining: bool,
}

/// A segment that is being filled.
#[derive(Debug)]
pub(crate) struct OpenFlush {
    opened: Instant,
    buffer: PooledBuffer,
    batches: Vec<(PendingBatch, usize)>,
    partitions: HashSet<TopicPartition>,
    commit_bytes: usize,
}

/// A segment that is ready to be uploaded.
#[derive(Debug)]
pub(crate) struct ClosedFlush {
    pub payload: PutPayload,
    pub size_bytes: u32,
    /// In the order of their bytes.
    pub batches: Vec<PlacedBatch>,
    /// Size of the buffer that the batches keep in memory, filled or not.
    pub buffer_bytes: usize,
}

/// Where the bytes of a batch are.
#[derive(Debug)]
pub(crate) enum BatchBytes {
    /// As they were sent.
    Sent(Bytes),
    /// In the request's scratch memory.
    Scratch(Range<usize>),
}

/// A checked batch to gather.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub pending: PendingBatch,
    pub bytes: BatchBytes,
}

impl Collector {
    /// A collector whose flushes are due after `flush_interval` or at `flush_bytes`; `buffers_idle_max` buffers are kept
    /// for the next ones.
    pub fn new(flush_interval: Duration, flush_bytes: usize, buffers_idle_max: usize) -> Self {
        // Any batch that a topic may take fits an empty buffer.
        let buffer_bytes = flush_bytes.max(MAX_MESSAGE_BYTES_HIGH as usize);
        let pool = BufferPool::new(buffer_bytes, buffers_idle_max);
        Self { state: Mutex::new(State::default()), wake: Notify::new(), pool, flush_interval, flush_bytes }
    }

    /// Takes the batches of one request, which get their places among all others here.
    pub fn gather(&self, batches: Vec<Gathered>, scratch: &[u8]) {
        let mut state = self.state.lock();
        let (mut wakes, mut copied) = (false, 0);
        for Gathered { pending, bytes } in batches {
            let bytes = match &bytes {
                BatchBytes::Sent(bytes) => bytes,
                BatchBytes::Scratch(range) => scratch.get(range.clone()).unwrap_or_default(),
            };
            if copied + bytes.len() > COPIED_AT_ONCE_BYTES && copied > 0 {
                copied = 0;
                // Whoever waits goes first.
                MutexGuard::bump(&mut state);
            }
            copied += bytes.len();
            if state.is_draining {
                pending.decide(Err(ProduceError::Draining));
            } else {
                wakes |= self.add(&mut state, pending, bytes);
            }
        }
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Takes batches that have to be uploaded once more, also while draining.
    pub fn take_back(&self, batches: Vec<PlacedBatch>) {
        let mut state = self.state.lock();
        for PlacedBatch { pending, bytes, .. } in batches {
            self.add(&mut state, pending, &bytes);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Appends a batch; returns whether the flusher has to look.
    fn add(&self, state: &mut State, mut pending: PendingBatch, bytes: &[u8]) -> bool {
        if pending.follows_a_failure() {
            pending.decide(Err(ProduceError::EarlierAppendFailed));
            return false;
        }
        pending.arrival = state.arrivals;
        state.arrivals.0 += 1;
        let full = state.open.take_if(|open| !open.has_room(&pending, bytes.len(), self.flush_bytes));
        let mut wakes = full.is_some() || state.open.is_none();
        state.closed.extend(full);
        let open = state.open.get_or_insert_with(|| OpenFlush::new(self.pool.take()));
        if let Err(pending) = open.append(pending, bytes) {
            // Unreachable: the buffer was sized for the largest batch. An answer is better than a lost batch.
            pending.decide(Err(ProduceError::TooLarge { bytes: bytes.len(), max: self.pool.buffer_bytes() }));
        }
        if let Some(full) = state.open.take_if(|open| open.buffer.len() >= self.flush_bytes) {
            state.closed.push_back(full);
            wakes = true;
        }
        wakes
    }

    /// The oldest flush that is full or has waited long enough.
    pub fn take_due(&self, now: Instant) -> Option<OpenFlush> {
        let mut state = self.state.lock();
        if let Some(closed) = state.closed.pop_front() {
            return Some(closed);
        }
        let is_draining = state.is_draining;
        state.open.take_if(|open| is_draining || open.opened + self.flush_interval <= now)
    }

    /// When the next flush is due.
    pub fn due_at(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.open.as_ref().map(|open| open.opened + self.flush_interval)
    }

    /// Returns when there may be something new to do.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Refuses everything from now on; what is here is due at once.
    pub fn drain(&self) {
        self.state.lock().is_draining = true;
        self.wake.notify_one();
    }

    /// Refuses everything from now on, and what is here too: none of it was uploaded, so it is definitely not written.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.is_draining = true;
        let closed = std::mem::take(&mut state.closed);
        let left: Vec<OpenFlush> = closed.into_iter().chain(state.open.take()).collect();
        drop(state);
        for (pending, _) in left.iter().flat_map(|flush| &flush.batches) {
            pending.decide(Err(ProduceError::Draining));
        }
    }

    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.open.is_none() && state.closed.is_empty()
    }

    /// The arrival of the next batch.
    pub fn next_arrival(&self) -> Arrival {
        self.state.lock().arrivals
    }
}

impl OpenFlush {
    fn new(buffer: PooledBuffer) -> Self {
        Self {
            opened: Instant::now(),
            buffer,
            batches: Vec::new(),
            partitions: HashSet::new(),
            commit_bytes: 0,
        }
    }

    /// When its first byte came.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    fn has_room(&self, pending: &PendingBatch, bytes: usize, flush_bytes: usize) -> bool {
        let is_new = !self.partitions.contains(&pending.partition);
        let slices = self.partitions.len() + usize::from(is_new);
        slices <= SLICES_PER_SEGMENT_MAX
            && self.commit_bytes + commit_bytes(is_new, pending.stamp.is_some()) <= COMMIT_BYTES_MAX
            && self.buffer.len() + bytes <= flush_bytes.max(bytes)
    }

    fn append(&mut self, pending: PendingBatch, bytes: &[u8]) -> Result<(), PendingBatch> {
        if !self.buffer.try_extend(bytes) {
            return Err(pending);
        }
        let is_new = self.partitions.insert(pending.partition);
        self.commit_bytes += commit_bytes(is_new, pending.stamp.is_some());
        self.batches.push((pending, bytes.len()));
        Ok(())
    }

    /// Lays the batches out by partition. Nothing is copied: the object is put together from pieces of the buffer.
    /// `None` beyond 4 GiB, which no buffer holds.
    pub fn close(self, cluster: ClusterId, agent: AgentInstance) -> Option<ClosedFlush> {
        let buffer_bytes = self.buffer.len() + self.buffer.remaining();
        let mut rest = self.buffer.freeze();
        let mut batches: Vec<(PendingBatch, Bytes)> =
            self.batches.into_iter().map(|(pending, length)| (pending, rest.split_to(length))).collect();
        batches.sort_by_key(|(pending, _)| (pending.partition, pending.arrival));
        let layout: Vec<SegmentBatch> = batches
            .iter()
            .map(|(pending, bytes)| SegmentBatch {
                partition: pending.partition,
                records: pending.records,
                bytes: bytes.clone(),
            })
            .collect();
        let built = tidelog_segment::build(cluster, agent, &layout)?;
        let positions = built.slices.iter().flat_map(|slice| {
            slice.batches.iter().scan(slice.position, |next, (length, _)| {
                let position = *next;
                *next = position.saturating_add(*length);
                Some(position)
            })
        });
        let placed = batches
            .into_iter()
            .zip(positions)
            .map(|((pending, bytes), object_position)| PlacedBatch { pending, object_position, bytes });
        let batches = placed.collect();
        let payload = built.chunks.into_iter().collect();
        Some(ClosedFlush { payload, size_bytes: built.size_bytes, batches, buffer_bytes })
    }
}
