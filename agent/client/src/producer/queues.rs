//! Batches in the making, shared by those who send records and the task that sends batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidelog_metadata_log::env::Entropy;
use tidelog_record::{BatchBuilder, Compression, HEADER_BYTES};
use tidelog_types::{PartitionIndex, TimestampMs, TopicId, TopicName};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::batch::{BatchNumber, Delivery, OpenBatch, Outcome};
use super::lanes::take_where;
use crate::error::ProduceError;
use crate::partitioner::Partitioner;
use crate::record::ProducerRecord;

/// Builders kept for their memory.
const SPARE_BUILDERS: usize = 32;

/// Position of a partition in the producer's lists. Never reused: a topic that was deleted and created again gets others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub usize);

/// A partition as the producer knows it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub topic: TopicName,
    pub id: TopicId,
    pub partition: PartitionIndex,
    /// The topic's `max.message.bytes`.
    pub bytes_max: usize,
}

/// A topic as the service described it.
#[derive(Debug, Clone)]
pub(super) struct TopicView {
    pub id: TopicId,
    pub partition_count: u32,
    pub bytes_max: usize,
}

#[derive(Debug)]
struct Topic {
    view: TopicView,
    seen: Instant,
    slots: Vec<Slot>,
    /// Where records without key go until that partition's batch is complete.
    sticky: Option<Slot>,
}

#[derive(Debug)]
struct Queue {
    target: Arc<Target>,
    /// Complete, in order.
    full: VecDeque<OpenBatch>,
    open: Option<OpenBatch>,
}

/// What a record needs before it can be put into a batch.
#[derive(Debug)]
pub(super) enum Push {
    /// It is in a batch.
    Done {
        delivery: Delivery,
        /// Whether the sending task has something new to look at.
        wake: bool,
    },
    /// The topic has to be looked up first; the memory is given back to the caller.
    UnknownTopic(OwnedSemaphorePermit),
    Failed(ProduceError),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Queues {
    topics: BTreeMap<TopicName, Topic>,
    queues: Vec<Queue>,
    /// Those with batches.
    busy: BTreeSet<Slot>,
    /// All batches without an outcome, for those who wait for them.
    outstanding: BTreeMap<BatchNumber, watch::Receiver<Option<Outcome>>>,
    next_number: u64,
    /// Batches up to this number do not wait for more records.
    flush_to: Option<BatchNumber>,
    spare: Vec<BatchBuilder>,
    settings: Settings,
    pub closed: bool,
    /// Set when no record can be sent any more.
    pub fenced: Option<ProduceError>,
}

/// What the queues need of the producer's options.
#[derive(Debug)]
pub(super) struct Settings {
    pub batch_bytes: usize,
    pub compression: Compression,
    pub linger: Duration,
    pub topic_age_max: Duration,
    pub partitioner: Arc<dyn Partitioner>,
    pub entropy: Entropy,
}

impl Queues {
    pub fn new(settings: Settings) -> Self {
        Self {
            topics: BTreeMap::new(),
            queues: Vec::new(),
            busy: BTreeSet::new(),
            outstanding: BTreeMap::new(),
            next_number: 0,
            flush_to: None,
            spare: Vec::new(),
            settings,
            closed: false,
            fenced: None,
        }
    }

    /// What is known of a topic, if that is fresh.
    pub fn topic(&self, name: &TopicName, now: Instant) -> Option<&TopicView> {
        let topic = self.topics.get(name)?;
        (now.duration_since(topic.seen) < self.settings.topic_age_max).then_some(&topic.view)
    }

    /// Takes note of a topic as the service described it.
    pub fn learn(&mut self, name: &TopicName, view: TopicView, now: Instant) {
        let known = self.topics.get(name).filter(|topic| topic.view.id == view.id);
        let mut slots = known.map(|topic| topic.slots.clone()).unwrap_or_default();
        let sticky = known.and_then(|topic| topic.sticky);
        let same_limit = known.is_some_and(|topic| topic.view.bytes_max == view.bytes_max);
        for (position, slot) in slots.iter().enumerate() {
            if !same_limit && let Some(queue) = self.queues.get_mut(slot.0) {
                queue.target = Arc::new(target(name, &view, position));
            }
        }
        for position in slots.len()..view.partition_count as usize {
            slots.push(Slot(self.queues.len()));
            let target = Arc::new(target(name, &view, position));
            self.queues.push(Queue { target, full: VecDeque::new(), open: None });
        }
        self.topics.insert(name.clone(), Topic { view, seen: now, slots, sticky });
    }

    /// Forgets a topic, so that the next record looks it up.
    pub fn forget(&mut self, name: &TopicName) {
        if let Some(topic) = self.topics.get_mut(name) {
            topic.seen = topic.seen.checked_sub(self.settings.topic_age_max).unwrap_or(topic.seen);
        }
    }

    pub fn target(&self, slot: Slot) -> Option<Arc<Target>> {
        self.queues.get(slot.0).map(|queue| Arc::clone(&queue.target))
    }

    /// Puts a record into a batch.
    pub fn push(
        &mut self,
        record: &ProducerRecord,
        timestamp: TimestampMs,
        memory: OwnedSemaphorePermit,
        now: Instant,
    ) -> Push {
        if let Some(fenced) = &self.fenced {
            return Push::Failed(fenced.clone());
        }
        if self.closed {
            return Push::Failed(ProduceError::Closed);
        }
        if self.topic(&record.topic, now).is_none() {
            return Push::UnknownTopic(memory);
        }
        let slot = match self.choose(record) {
            Ok(slot) => slot,
            Err(error) => return Push::Failed(error),
        };
        let Some(queue) = self.queues.get_mut(slot.0) else { return Push::Failed(ProduceError::Closed) };
        let partition = queue.target.partition;
        let bytes_max = match self.settings.compression {
            Compression::None => queue.target.bytes_max,
            // What does not compress grows a little by the codec's framing.
            _ => queue.target.bytes_max - queue.target.bytes_max / 128,
        };
        let bytes_max = self.settings.batch_bytes.min(bytes_max);
        let (mut wake, mut memory) = (false, Some(memory));
        let fits =
            |open: &OpenBatch| open.builder.uncompressed_bytes() + record.encoded_bytes_max() <= bytes_max;
        if let Some(full) = queue.open.take_if(|open| !fits(open)) {
            queue.full.push_back(full);
            wake = true;
        }
        if queue.open.is_none()
            && let Some(memory) = memory.take()
        {
            let number = BatchNumber(self.next_number);
            self.next_number += 1;
            let compression = self.settings.compression;
            let builder = self.spare.pop().unwrap_or_else(|| BatchBuilder::new(compression));
            let batch = OpenBatch::new(number, builder, memory);
            self.outstanding.insert(number, batch.outcome());
            self.busy.insert(slot);
            queue.open = Some(batch);
            // The task has a new deadline to keep.
            wake = true;
        }
        let Some(open) = &mut queue.open else { return Push::Failed(ProduceError::Closed) };
        let delivery = match open.push(record, partition, timestamp, memory) {
            Ok(delivery) => delivery,
            Err(error) => {
                if let Some(empty) = queue.open.take_if(|open| open.builder.records() == 0) {
                    self.outstanding.remove(&empty.number);
                    self.spare.push(empty.builder);
                }
                return Push::Failed(error);
            }
        };
        if open.builder.uncompressed_bytes() + HEADER_BYTES >= bytes_max
            && let Some(full) = queue.open.take()
        {
            queue.full.push_back(full);
            wake = true;
            self.release_sticky(&record.topic, slot);
        }
        Push::Done { delivery, wake }
    }

    fn choose(&mut self, record: &ProducerRecord) -> Result<Slot, ProduceError> {
        let Some(topic) = self.topics.get_mut(&record.topic) else { return Err(ProduceError::Closed) };
        let count = topic.view.partition_count;
        let settings = &self.settings;
        let chosen = record.partition.or_else(|| {
            settings.partitioner.partition(
                &record.topic,
                record.key.as_deref(),
                record.value.as_deref(),
                count,
            )
        });
        if let Some(partition) = chosen {
            let slot = topic.slots.get(partition.position()).copied();
            return slot.ok_or_else(|| ProduceError::UnknownPartition {
                topic: record.topic.clone(),
                partition,
                partition_count: count,
            });
        }
        if let Some(sticky) = topic.sticky {
            return Ok(sticky);
        }
        let position = settings.entropy.below(count.into());
        let slot = topic.slots.get(usize::try_from(position).unwrap_or(0)).copied();
        topic.sticky = slot;
        slot.ok_or(ProduceError::Closed)
    }

    /// Lets records without key go to another partition, now that this one's batch is complete.
    fn release_sticky(&mut self, topic: &TopicName, slot: Slot) {
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.sticky.take_if(|sticky| *sticky == slot);
        }
    }

    /// The partitions that have a batch to send now, from `from` on and then from the beginning.
    pub fn ready(&self, from: Slot, now: Instant, all: bool) -> Vec<Slot> {
        let ordered = self.busy.range(from..).chain(self.busy.range(..from));
        ordered.copied().filter(|slot| self.is_ready(*slot, now, all)).collect()
    }

    fn is_ready(&self, slot: Slot, now: Instant, all: bool) -> bool {
        self.queues.get(slot.0).is_some_and(|queue| {
            !queue.full.is_empty() || queue.open.as_ref().is_some_and(|open| self.is_due(open, now, all))
        })
    }

    fn is_due(&self, open: &OpenBatch, now: Instant, all: bool) -> bool {
        let flushed = self.flush_to.is_some_and(|to| open.number <= to);
        all || self.closed || flushed || now.duration_since(open.begun) >= self.settings.linger
    }

    /// When the next batch that takes records is to be sent as it is.
    pub fn next_due(&self) -> Option<Instant> {
        let open = self.busy.iter().filter_map(|slot| self.queues.get(slot.0)?.open.as_ref());
        open.map(|open| open.begun + self.settings.linger).min()
    }

    /// Takes the next batch of a partition that is ready.
    pub fn take(&mut self, slot: Slot, now: Instant, all: bool) -> Option<OpenBatch> {
        if !self.is_ready(slot, now, all) {
            return None;
        }
        let queue = self.queues.get_mut(slot.0)?;
        let batch = queue.full.pop_front().or_else(|| queue.open.take());
        let topic = queue.target.topic.clone();
        if queue.full.is_empty() && queue.open.is_none() {
            self.busy.remove(&slot);
        }
        self.release_sticky(&topic, slot);
        batch
    }

    /// Ends all batches that were begun at a time for which `over` holds: they were never sent.
    pub fn fail_where(&mut self, over: impl Fn(Instant) -> bool, error: &ProduceError) {
        let slots: Vec<Slot> = self.busy.iter().copied().collect();
        for slot in slots {
            let Some(queue) = self.queues.get_mut(slot.0) else { continue };
            let full = take_where(&mut queue.full, |batch| over(batch.begun));
            for batch in full.into_iter().chain(queue.open.take_if(|batch| over(batch.begun))) {
                self.outstanding.remove(&batch.number);
                batch.fail(error.clone());
            }
            if queue.full.is_empty() && queue.open.is_none() {
                self.busy.remove(&slot);
            }
        }
    }

    /// Keeps a builder for its memory.
    pub fn give_back(&mut self, builder: BatchBuilder) {
        if self.spare.len() < SPARE_BUILDERS {
            self.spare.push(builder);
        }
    }

    /// A batch has its outcome.
    pub fn resolved(&mut self, number: BatchNumber) {
        self.outstanding.remove(&number);
    }

    /// Whether all batches have their outcome.
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Makes all batches that there are now ready, and returns what to wait for.
    pub fn flush(&mut self) -> Vec<watch::Receiver<Option<Outcome>>> {
        self.flush_to = self.next_number.checked_sub(1).map(BatchNumber);
        self.outstanding.values().cloned().collect()
    }
}

fn target(name: &TopicName, view: &TopicView, position: usize) -> Target {
    Target {
        topic: name.clone(),
        id: view.id,
        // A topic has at most 2^31 - 1 partitions: the count came over the wire as a positive 32-bit number.
        partition: PartitionIndex::from_position(position).expect("counted with 31 bits"),
        bytes_max: view.bytes_max,
    }
}
