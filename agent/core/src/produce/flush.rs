//! The task that turns what the collector gathers into segments and commits.
//!
//! Uploads run in parallel; commits are proposed strictly in the order in which their flushes were closed, and a flush
//! that carries on a session whose earlier commit is still undecided waits for that decision (INV-7).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use tidelog_metadata_node::{Metadata, ProposeError};
use tidelog_metadata_state::{Command, Outcome, Refusal};
use tidelog_types::{LogIndex, ProducerId, SegmentId, TopicPartition};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::collect::{ClosedFlush, Collector, OpenFlush};
use super::commit::{Arrival, PendingBatch, PlacedBatch, commit_of, results_of};
use super::error::ProduceError;
use super::request::SessionId;
use super::upload::{UploadError, Uploader};
use crate::cache::SegmentCache;
use crate::metrics::Metrics;

/// Uploads and commits; see the module's documentation.
#[derive(Debug)]
pub(crate) struct Flusher {
    pub collector: Arc<Collector>,
    pub uploader: Uploader,
    pub metadata: Metadata,
    pub cache: SegmentCache,
    pub metrics: Metrics,
    pub uploads_max: usize,
    pub upload_deadline: Duration,
    pub commit_deadline: Duration,
}

/// A flush after its upload.
#[derive(Debug)]
struct Uploaded {
    named_at: LogIndex,
    size_bytes: u32,
    batches: Vec<PlacedBatch>,
    /// Size of the buffer that the batches keep in memory.
    buffer_bytes: usize,
    segment: Result<SegmentId, UploadError>,
    at: Instant,
}

/// A flush after its commit.
struct Committed {
    segment: SegmentId,
    batches: Vec<PlacedBatch>,
    outcome: Result<Arc<Outcome>, ProposeError>,
    proposed: Instant,
}

/// What the flusher knows about the order of commits.
#[derive(Debug, Default)]
struct Order {
    /// How many undecided commits carry batches of each session.
    undecided: HashMap<SessionId, usize>,
    /// Producers of whose batches some were definitely not committed, and the arrivals that follow such a batch: the
    /// log would call these out of order, which is true but tells the producer less.
    broken: HashMap<(ProducerId, TopicPartition), Arrival>,
}

impl Flusher {
    /// Runs until `cancel`, then until everything that was taken is answered. If it ends in another way, nothing is
    /// taken any more.
    pub async fn run(self, cancel: CancellationToken) {
        let _closing = CloseOnDrop(Arc::clone(&self.collector));
        let uploading = Arc::new(AtomicUsize::new(0));
        let mut uploads: FuturesOrdered<AbortOnDropHandle<Option<Uploaded>>> = FuturesOrdered::new();
        let mut commits: FuturesUnordered<BoxFuture<'static, Committed>> = FuturesUnordered::new();
        let mut next_commit: Option<Uploaded> = None;
        let mut order = Order::default();
        let mut draining = false;
        loop {
            while uploading.load(Ordering::Acquire) < self.uploads_max
                && let Some(flush) = self.collector.take_due(Instant::now())
            {
                uploading.fetch_add(1, Ordering::AcqRel);
                let upload = tokio::spawn(self.upload(flush, Arc::clone(&uploading)));
                uploads.push_back(AbortOnDropHandle::new(upload));
            }
            if let Some(uploaded) = next_commit.take_if(|uploaded| !order.must_wait(&uploaded.batches))
                && let Some(mut commit) = self.propose(uploaded, &mut order).await
            {
                // Polled at once, because the order of first polls is the order of commits.
                match futures::poll!(&mut commit) {
                    std::task::Poll::Ready(committed) => self.finish(committed, &mut order),
                    std::task::Poll::Pending => commits.push(commit),
                }
            }
            if draining
                && uploads.is_empty()
                && commits.is_empty()
                && next_commit.is_none()
                && self.collector.is_empty()
            {
                return;
            }
            let has_slot = uploading.load(Ordering::Acquire) < self.uploads_max;
            let linger = self.collector.due_at().filter(|_| has_slot);
            tokio::select! {
                biased;
                Some(committed) = commits.next(), if !commits.is_empty() => self.finish(committed, &mut order),
                Some(uploaded) = uploads.next(), if next_commit.is_none() && !uploads.is_empty() => match uploaded {
                    Ok(uploaded) => next_commit = uploaded,
                    // A defect; its batches are answered as unknown because nobody is left to answer them.
                    Err(error) => tracing::error!(event = "upload_task_failed", %error),
                },
                () = self.collector.woken() => {}
                () = sleep_until(linger), if linger.is_some() => {}
                () = cancel.cancelled(), if !draining => {
                    draining = true;
                    self.collector.drain();
                }
            }
        }
    }

    fn upload(
        &self,
        flush: OpenFlush,
        uploading: Arc<AtomicUsize>,
    ) -> impl Future<Output = Option<Uploaded>> + use<> {
        let closed = Instant::now();
        self.metrics.stages().buffer.observe(closed.duration_since(flush.opened()).as_secs_f64());
        let deadline = closed + self.upload_deadline;
        let (uploader, metadata) = (self.uploader.clone(), self.metadata.clone());
        let (collector, put_stage) = (Arc::clone(&self.collector), self.metrics.stages().put.clone());
        async move {
            let slot = Slot { uploading, collector };
            let (cluster, named_at) = metadata.read(|state| (state.cluster(), state.index()));
            // Neither happens: topics were found, so there is a cluster, and a buffer is far below 4 GiB.
            let closed_flush = flush.close(cluster?, metadata.instance())?;
            let segment = uploader.upload(named_at, &closed_flush.payload, deadline).await;
            drop(slot);
            put_stage.observe(closed.elapsed().as_secs_f64());
            let ClosedFlush { size_bytes, batches, buffer_bytes, .. } = closed_flush;
            Some(Uploaded { named_at, size_bytes, batches, buffer_bytes, segment, at: Instant::now() })
        }
    }

    /// Proposes the commit of an uploaded flush, without the batches that must not be committed any more.
    async fn propose(&self, uploaded: Uploaded, order: &mut Order) -> Option<BoxFuture<'static, Committed>> {
        let Uploaded { named_at, size_bytes, mut batches, buffer_bytes, segment, at } = uploaded;
        let segment = match segment {
            Ok(segment) => segment,
            Err(error) => {
                tracing::error!(
                    event = "upload_failed",
                    object = error.object,
                    cause = error.cause,
                    "its batches are refused"
                );
                order.breaks(&batches, self.collector.next_arrival());
                refuse_all(&batches, || ProduceError::StorageUnavailable { cause: error.to_string() });
                return None;
            }
        };
        batches.retain(|placed| {
            let pending = &placed.pending;
            let stays = !pending.follows_a_failure() && !order.is_broken(pending);
            if !stays {
                pending.decide(Err(ProduceError::EarlierAppendFailed));
            }
            stays
        });
        order.forget_before(&batches);
        if batches.is_empty() {
            return None;
        }
        // Before the commit: a reader is woken the moment the commit is applied, and shall find the bytes here. Nobody
        // can ask for them earlier, because nothing refers to this segment (INV-6).
        self.cache.write_through(segment, &mut batches, buffer_bytes).await;
        order.add(&batches);
        let command = Command::CommitSegment(commit_of(named_at, segment, size_bytes, &batches));
        let metadata = self.metadata.clone();
        let deadline = Instant::now() + self.commit_deadline;
        let commit_stage = self.metrics.stages().commit.clone();
        Some(
            async move {
                let outcome = metadata.propose(command, deadline).await;
                commit_stage.observe(at.elapsed().as_secs_f64());
                Committed { segment, batches, outcome, proposed: Instant::now() }
            }
            .boxed(),
        )
    }

    /// Answers a flush whose commit was decided.
    fn finish(&self, committed: Committed, order: &mut Order) {
        let Committed { segment, batches, outcome, proposed } = committed;
        order.remove(&batches);
        match outcome.as_deref() {
            Ok(Outcome::SegmentCommitted(outcomes)) => {
                let results = results_of(&batches, outcomes);
                self.count(&batches, &results);
                for (placed, result) in batches.iter().zip(results) {
                    placed.pending.decide(result);
                }
            }
            Ok(Outcome::Refused(Refusal::BelowFloor { .. })) => self.go_on_below_floor(batches),
            Ok(Outcome::Refused(refusal)) => {
                tracing::error!(event = "commit_refused", %segment, %refusal, "its batches are refused");
                order.breaks(&batches, self.collector.next_arrival());
                refuse_all(&batches, || ProduceError::MetadataUnavailable { cause: refusal.to_string() });
            }
            Ok(other) => {
                tracing::error!(event = "commit_outcome", %segment, ?other, "no outcome of a commit");
                refuse_all(&batches, || ProduceError::Unknown {
                    cause: "the metadata gave another kind of outcome".to_owned(),
                });
            }
            Err(ProposeError::Unknown(cause)) => {
                refuse_all(&batches, || ProduceError::Unknown { cause: cause.clone() });
            }
            Err(error @ (ProposeError::Unavailable(_) | ProposeError::TooLarge { .. })) => {
                order.breaks(&batches, self.collector.next_arrival());
                refuse_all(&batches, || ProduceError::MetadataUnavailable { cause: error.to_string() });
            }
        }
        self.metrics.stages().ack.observe(proposed.elapsed().as_secs_f64());
    }

    /// The segment was too old to be referred to, which says nothing about whether an earlier repeat of the commit took
    /// effect. Stamped batches can be written again without harm; of the others nobody knows.
    fn go_on_below_floor(&self, batches: Vec<PlacedBatch>) {
        let (again, unknown): (Vec<_>, Vec<_>) =
            batches.into_iter().partition(|placed| placed.pending.stamp.is_some());
        tracing::warn!(event = "commit_below_floor", again = again.len(), unknown = unknown.len());
        refuse_all(&unknown, || ProduceError::Unknown {
            cause: "the segment fell below the collection floor".to_owned(),
        });
        self.collector.take_back(again);
    }

    fn count(&self, batches: &[PlacedBatch], results: &[Result<super::ProduceAck, ProduceError>]) {
        let mut decided = batches.iter().zip(results).peekable();
        while let Some((first, _)) = decided.peek().copied() {
            let topic = first.pending.partition.topic;
            let (mut records, mut bytes) = (0, 0);
            while let Some((placed, result)) =
                decided.next_if(|(placed, _)| placed.pending.partition.topic == topic)
            {
                if matches!(result, Ok(ack) if !ack.duplicate) {
                    records += u64::from(placed.pending.records);
                    bytes += placed.bytes.len() as u64;
                }
            }
            self.metrics.appended(topic, records, bytes, || Some(first.pending.topic.clone()));
        }
    }
}

/// Without a flusher, nobody would ever answer what is gathered.
struct CloseOnDrop(Arc<Collector>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Counts an upload as running until it is dropped, whatever ends it.
struct Slot {
    uploading: Arc<AtomicUsize>,
    collector: Arc<Collector>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.uploading.fetch_sub(1, Ordering::AcqRel);
        self.collector.wake();
    }
}

fn refuse_all(batches: &[PlacedBatch], why: impl Fn() -> ProduceError) {
    for placed in batches {
        placed.pending.decide(Err(why()));
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Order {
    /// The sessions of batches that only this agent keeps in order; a stamped batch is kept in order by the log.
    fn sessions(batches: &[PlacedBatch]) -> impl Iterator<Item = SessionId> {
        let unstamped = batches.iter().filter(|placed| placed.pending.stamp.is_none());
        unstamped.filter_map(|placed| placed.pending.session.as_ref()).map(|(session, _)| session.id())
    }

    fn must_wait(&self, batches: &[PlacedBatch]) -> bool {
        !self.undecided.is_empty()
            && Self::sessions(batches).any(|session| self.undecided.contains_key(&session))
    }

    fn add(&mut self, batches: &[PlacedBatch]) {
        for session in Self::sessions(batches) {
            *self.undecided.entry(session).or_insert(0) += 1;
        }
    }

    fn remove(&mut self, batches: &[PlacedBatch]) {
        for session in Self::sessions(batches) {
            if let Some(count) = self.undecided.get_mut(&session) {
                *count -= 1;
                if *count == 0 {
                    self.undecided.remove(&session);
                }
            }
        }
    }

    /// Notes that batches were definitely not committed: of the same producer and partition, what arrived before
    /// `until` follows them.
    fn breaks(&mut self, batches: &[PlacedBatch], until: Arrival) {
        for pending in batches.iter().map(|placed| &placed.pending) {
            if let Some(stamp) = pending.stamp {
                self.broken.insert((stamp.id, pending.partition), until);
            }
        }
    }

    fn is_broken(&self, pending: &PendingBatch) -> bool {
        let until = pending.stamp.and_then(|stamp| self.broken.get(&(stamp.id, pending.partition)));
        until.is_some_and(|until| pending.arrival < *until)
    }

    /// Flushes come in order of arrival: what ends before this one has done its work.
    fn forget_before(&mut self, batches: &[PlacedBatch]) {
        if self.broken.is_empty() {
            return;
        }
        if let Some(first) = batches.iter().map(|placed| placed.pending.arrival).min() {
            self.broken.retain(|_, until| *until > first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Answers;
    use super::*;
    use crate::budget::Reservation;
    use crate::produce::ProduceTicket;
    use bytes::Bytes;
    use object_store::memory::InMemory;
    use tidelog_metadata_log::env::{Entropy, SystemClock};
    use tidelog_metadata_log::memory::MemoryLog;
    use tidelog_metadata_node::{Node, NodeConfig, ObjectSnapshots};
    use tidelog_types::{
        AgentInstance, ClusterId, PartitionIndex, ProducerEpoch, ProducerStamp, Sequence, ShardId,
        TimestampMs, TopicId, TopicName,
    };

    fn flusher() -> Flusher {
        let (store, entropy) = (Arc::new(InMemory::new()), Entropy::seeded(1));
        let config = NodeConfig::new(ClusterId(entropy.uuid()), AgentInstance(entropy.uuid()));
        let snapshots = Arc::new(ObjectSnapshots::new(Arc::clone(&store) as _, ShardId::ZERO));
        let log = Arc::new(MemoryLog::new());
        let (metadata, _) = Node::new(config, log, snapshots, Arc::new(SystemClock), entropy.clone());
        Flusher {
            collector: Arc::new(Collector::new(Duration::from_secs(1), 1024, 1)),
            uploader: Uploader { store, entropy, try_max: Duration::from_secs(1) },
            metadata,
            cache: SegmentCache::new(0),
            metrics: Metrics::new(),
            uploads_max: 1,
            upload_deadline: Duration::from_secs(1),
            commit_deadline: Duration::from_secs(1),
        }
    }

    fn placed(producer: Option<i64>) -> (PlacedBatch, ProduceTicket) {
        let (answers, ticket) = Answers::new(vec![None], Reservation::none(), None);
        let stamp = producer.map(|id| ProducerStamp {
            id: ProducerId::new(id).expect("in range"),
            epoch: ProducerEpoch::ZERO,
            base_sequence: Sequence::ZERO,
        });
        let partition = PartitionIndex::new(0).expect("in range");
        let pending = PendingBatch {
            arrival: Arrival(0),
            topic: TopicName::new("t").expect("a name"),
            partition: TopicPartition { topic: TopicId(1), partition },
            records: 1,
            max_timestamp: TimestampMs(0),
            stamp,
            session: None,
            answers,
            position: 0,
        };
        (PlacedBatch { pending, object_position: 8, bytes: Bytes::from_static(b"batch") }, ticket)
    }

    #[tokio::test]
    async fn below_the_floor_only_stamped_batches_are_written_again() {
        let flusher = flusher();
        let (stamped, mut again) = placed(Some(7));
        let (plain, unknown) = placed(None);
        let floor = LogIndex(10);
        let committed = Committed {
            segment: SegmentId(flusher.uploader.entropy.uuid()),
            batches: vec![stamped, plain],
            outcome: Ok(Arc::new(Outcome::Refused(Refusal::BelowFloor { floor }))),
            proposed: Instant::now(),
        };
        flusher.finish(committed, &mut Order::default());
        assert!(matches!(unknown.await[0], Err(ProduceError::Unknown { .. })));
        assert!(futures::poll!(&mut again).is_pending());
        assert!(!flusher.collector.is_empty());
        // Nobody runs the flusher: what it would have written is definitely not written.
        flusher.collector.close();
        assert_eq!(again.await[0], Err(ProduceError::Draining));
    }

    #[tokio::test]
    async fn a_small_flush_gives_its_buffer_back_before_its_commit() {
        let flusher = flusher();
        let pool = tidelog_segment::BufferPool::new(1024, 1);
        let mut buffer = pool.take();
        assert!(buffer.try_extend(b"batch"));
        let (batch, _ticket) = placed(None);
        let mut batches = [PlacedBatch { bytes: buffer.freeze(), ..batch }];
        assert_eq!(pool.idle(), 0);
        let segment = SegmentId(flusher.uploader.entropy.uuid());
        flusher.cache.write_through(segment, &mut batches, 1024).await;
        assert_eq!(pool.idle(), 1);
        assert_eq!(batches[0].bytes, b"batch"[..]);
    }

    #[tokio::test]
    async fn a_stopped_flusher_takes_nothing_with_it_unanswered() {
        let flusher = flusher();
        let collector = Arc::clone(&flusher.collector);
        let running = tokio::spawn(flusher.run(CancellationToken::new()));
        let (waiting, ticket) = placed(None);
        collector.take_back(vec![waiting]);
        tokio::task::yield_now().await;
        running.abort();
        assert_eq!(ticket.await[0], Err(ProduceError::Draining));
    }
}
