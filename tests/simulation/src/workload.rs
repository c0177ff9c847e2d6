//! Clients: what they ask, how they repeat it, and what they check of the answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelog_metadata_node::{Metadata, ProposeError};
use tidelog_metadata_state::{
    BatchCommit, BatchOutcome, BatchRefusal, Command, CommitSegment, Outcome, Refusal, SliceCommit, State,
};
use tidelog_types::{
    Offset, PartitionIndex, ProducerEpoch, ProducerId, ProducerStamp, SegmentId, Sequence, TopicId,
    TopicName, TopicPartition,
};
use tokio::time::{Instant, sleep, timeout};

use crate::history::Attempt;
use crate::world::{NODES, World};

/// Tries of one batch before a client gives up.
const TRIES: u32 = 8;

/// A client, with a producer of its own from time to time.
#[derive(Debug)]
pub struct Client {
    world: World,
    number: usize,
    /// The machine that it talks to.
    machine: usize,
    producer: Option<Producer>,
    think_ms: u64,
}

/// An idempotent producer as its client sees it.
#[derive(Debug)]
struct Producer {
    id: ProducerId,
    epoch: ProducerEpoch,
    /// The next sequence of each partition, and the last offset that was acknowledged.
    next: BTreeMap<TopicPartition, (Sequence, Option<Offset>)>,
}

type Answer = Result<Arc<Outcome>, ProposeError>;

impl Client {
    /// A client of the cluster.
    pub fn new(world: World, number: usize) -> Self {
        let think_ms = world.lock().dice.pick(&[5, 50, 200, 800]);
        Self { machine: number % NODES, world, number, producer: None, think_ms }
    }

    /// Asks and asks until clients are to stop. `progress` counts what was acknowledged.
    pub async fn run(mut self, progress: Arc<std::sync::atomic::AtomicU64>) {
        while !self.stopped() {
            let choice = self.world.lock().dice.below(100);
            let acknowledged = match choice {
                0..55 => self.commit().await,
                55..60 => self.init_producer().await,
                60..63 => self.create_topic().await,
                63..66 => self.change_topic().await,
                66..73 => self.delete_records().await,
                73..80 => self.watch().await,
                _ => self.read().await,
            };
            if acknowledged {
                progress.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            } else {
                // The next node may be able to do what this one cannot.
                self.machine = self.world.lock().dice.index(NODES);
            }
            let think = self.world.lock().dice.ms(0, self.think_ms);
            sleep(think).await;
        }
    }

    fn stopped(&self) -> bool {
        self.world.lock().clients_stop
    }

    async fn node(&mut self) -> Metadata {
        loop {
            if let Some(node) = self.world.node(self.machine) {
                return node;
            }
            self.machine = (self.machine + 1) % NODES;
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn propose(&mut self, command: Command, attempt: Option<Attempt>) -> Answer {
        let node = self.node().await;
        let patience = self.world.lock().dice.ms(300, 6_000);
        let answer = node.propose(command, Instant::now() + patience).await;
        let (number, machine) = (self.number, self.machine);
        let told = match &answer {
            Ok(_) => 0,
            Err(ProposeError::Unavailable(_)) => 1,
            Err(ProposeError::TooLarge { .. }) => 2,
            Err(ProposeError::Unknown(_)) => 3,
        };
        self.world.note(&[12, number as u64, machine as u64, told], || {
            let what = attempt.as_ref().map_or_else(String::new, |attempt| format!("{attempt:?}: "));
            match &answer {
                Ok(outcome) => format!("client {number} is told by node {machine}: {what}{outcome:?}"),
                Err(error) => format!("client {number} is told by node {machine}: {what}{error}"),
            }
        });
        if let Some(attempt) = attempt {
            let checked = {
                let mut inner = self.world.lock();
                let inner = &mut *inner;
                inner.history.told(&inner.oracle, attempt, &answer)
            };
            self.world.check(checked);
        }
        answer
    }

    fn some_topic(&self) -> Option<(TopicId, u32)> {
        let mut inner = self.world.lock();
        let topics = inner.history.topics.len();
        if topics == 0 {
            return None;
        }
        // The first topic is the busiest.
        let chosen = if inner.dice.chance(5_000) { 0 } else { inner.dice.index(topics) };
        inner.history.topics.get(chosen).copied()
    }

    fn some_partition(&self) -> Option<TopicPartition> {
        let (topic, partitions) = self.some_topic()?;
        let position = self.world.lock().dice.index(partitions as usize);
        Some(TopicPartition { topic, partition: PartitionIndex::from_position(position)? })
    }

    /// Commits a segment, and repeats what it does not know the end of, as a producer does: through another node, in
    /// another segment, under the same stamps.
    async fn commit(&mut self) -> bool {
        let slices = self.segment();
        if slices.is_empty() {
            return false;
        }
        let stamped = slices[0].batches[0].producer.is_some();
        let mut repeats_of_acknowledged = u32::from(self.world.lock().dice.chance(1_000));
        for _ in 0..TRIES {
            match self.commit_once(&slices).await {
                Ok(outcome) => {
                    self.acknowledged(&slices, &outcome);
                    if repeats_of_acknowledged == 0 || self.stopped() || self.producer.is_none() {
                        return true;
                    }
                    // A reply may be lost behind the node that got it, too.
                    repeats_of_acknowledged -= 1;
                }
                Err(ProposeError::Unavailable(_)) => {}
                Err(ProposeError::Unknown(_)) if stamped => {}
                Err(_) => return false,
            }
            if self.stopped() {
                break;
            }
            self.machine = self.world.lock().dice.index(NODES);
            let pause = self.world.lock().dice.ms(5, 400);
            sleep(pause).await;
        }
        if stamped {
            // What became of the batches is unknown, so the sequence cannot go on.
            self.producer = None;
        }
        false
    }

    async fn commit_once(&mut self, slices: &[SliceCommit]) -> Answer {
        let node = self.node().await;
        let named_at = node.read(State::index);
        let id = SegmentId(self.world.lock().dice.uuid());
        let command = Command::CommitSegment(CommitSegment {
            named_at,
            id,
            size_bytes: 1 << 20,
            slices: slices.to_vec(),
        });
        self.propose(command, Some(Attempt::Segment(id))).await
    }

    /// The slices of a new segment.
    fn segment(&mut self) -> Vec<SliceCommit> {
        let stamped = self.producer.is_some() && self.world.lock().dice.chance(8_000);
        let wanted = self.world.lock().dice.between(1, 3);
        let mut partitions: Vec<TopicPartition> = (0..wanted).filter_map(|_| self.some_partition()).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let mut position = 0;
        let mut slices = Vec::new();
        for partition in partitions {
            let first = position;
            let mut sequence = self.next_sequence(partition).0;
            let mut batches = Vec::new();
            let wanted = self.world.lock().dice.pick(&[1, 1, 1, 2]);
            for _ in 0..wanted {
                let records = self.world.lock().dice.pick(&[1, 1, 3, 50]);
                let stamp = |producer: &Producer| ProducerStamp {
                    id: producer.id,
                    epoch: producer.epoch,
                    base_sequence: sequence,
                };
                let producer = self.producer.as_ref().filter(|_| stamped).map(stamp);
                let max_timestamp = self.world.true_time();
                batches.push(BatchCommit { length: 100, records, max_timestamp, producer });
                position += 100;
                sequence = sequence.wrapping_add(records);
            }
            slices.push(SliceCommit { partition, position: first, batches });
        }
        slices
    }

    fn next_sequence(&self, at: TopicPartition) -> (Sequence, Option<Offset>) {
        let known = self.producer.as_ref().and_then(|producer| producer.next.get(&at).copied());
        known.unwrap_or((Sequence::ZERO, None))
    }

    fn acknowledged(&mut self, slices: &[SliceCommit], outcome: &Outcome) {
        let Outcome::SegmentCommitted(outcomes) = outcome else {
            self.world.violate("INV-1", format!("a sound segment got {outcome:?}"));
            return;
        };
        for (slice, outcomes) in slices.iter().zip(outcomes) {
            for (batch, outcome) in slice.batches.iter().zip(outcomes) {
                self.batch_acknowledged(slice.partition, batch, *outcome);
            }
        }
    }

    fn batch_acknowledged(&mut self, at: TopicPartition, batch: &BatchCommit, outcome: BatchOutcome) {
        let Some(stamp) = batch.producer else { return };
        let (next, last) = self.next_sequence(at);
        let Some(producer) = &mut self.producer else { return };
        match outcome {
            BatchOutcome::Appended { base_offset } | BatchOutcome::Duplicate { base_offset } => {
                // Only a repeat of what was acknowledged before may lie lower.
                let is_new = stamp.base_sequence == next;
                if is_new && last.is_some_and(|last| base_offset <= last) {
                    self.world.violate("INV-7", format!("{at}: {stamp:?} got {base_offset} after {last:?}"));
                } else if is_new {
                    producer.next.insert(at, (next.wrapping_add(batch.records), Some(base_offset)));
                }
            }
            BatchOutcome::Refused(BatchRefusal::UnknownTopic | BatchRefusal::UnknownPartition { .. }) => {}
            BatchOutcome::Refused(refusal) => {
                self.world
                    .violate("INV-8", format!("{at}: {stamp:?}, expected {next:?}, was refused: {refusal}"));
            }
        }
    }

    async fn init_producer(&mut self) -> bool {
        let existing = self.producer.take().filter(|_| self.world.lock().dice.chance(5_000));
        let existing = existing.map(|producer| (producer.id, producer.epoch));
        match self.propose(Command::InitProducer { existing }, None).await.as_deref() {
            Ok(Outcome::ProducerReady { id, epoch }) => {
                self.producer = Some(Producer { id: *id, epoch: *epoch, next: BTreeMap::new() });
                true
            }
            // An earlier repeat, whose end this client did not learn, cannot be: it forgets its id when in doubt.
            Ok(other) => {
                self.world.violate("INV-8", format!("the producer {existing:?} was refused: {other:?}"));
                false
            }
            Err(_) => false,
        }
    }

    async fn create_topic(&mut self) -> bool {
        let (name, partitions) = {
            let mut inner = self.world.lock();
            (format!("topic-{:016x}", inner.dice.word()), inner.dice.pick(&[1, 2, 4]))
        };
        let Ok(name) = TopicName::new(&name) else { return false };
        if self.world.lock().history.topics.len() >= 6 {
            return true;
        }
        let command = Command::CreateTopic { name: name.clone(), partitions, config: Vec::new() };
        match self.propose(command, Some(Attempt::Topic(name))).await.as_deref() {
            Ok(Outcome::TopicCreated(id)) => {
                self.world.lock().history.topics.push((*id, partitions));
                true
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }

    async fn change_topic(&mut self) -> bool {
        let Some((topic, partitions)) = self.some_topic() else { return false };
        let first = self.world.lock().history.topics.first().map(|(topic, _)| *topic);
        let (choice, bytes) = {
            let mut inner = self.world.lock();
            (inner.dice.below(3), inner.dice.between(1_024, 100_000))
        };
        let command = match choice {
            0 if first != Some(topic) => {
                self.world.lock().history.topics.retain(|(known, _)| *known != topic);
                Command::DeleteTopic { topic }
            }
            1 => Command::AddPartitions { topic, partitions: partitions + 1 },
            _ => Command::UpdateTopic {
                topic,
                config: vec![("max.message.bytes".into(), Some(bytes.to_string()))],
            },
        };
        self.propose(command, None).await.is_ok()
    }

    async fn delete_records(&mut self) -> bool {
        let Some(partition) = self.some_partition() else { return false };
        let node = self.node().await;
        let end =
            node.read(|state| state.partition(partition).map(tidelog_metadata_state::topic::Partition::end));
        let Some(end) = end else { return true };
        let before = self.world.lock().dice.below(end.get().unsigned_abs() + 1);
        let before = i64::try_from(before).ok().and_then(|before| Offset::new(before).ok());
        match self.propose(Command::DeleteRecords { partition, before }, None).await.as_deref() {
            // This node had seen the end, so every log that follows has it.
            Ok(Outcome::Refused(refusal @ Refusal::OffsetOutOfRange { .. })) => {
                self.world.violate("INV-1", format!("{partition}: records were there before, now {refusal}"));
                false
            }
            Ok(Outcome::RecordsDeleted { log_start }) if before.is_some_and(|before| *log_start < before) => {
                self.world.violate(
                    "INV-17",
                    format!("{partition}: log start is {log_start} after deleting up to {before:?}"),
                );
                false
            }
            answer => answer.is_ok(),
        }
    }

    /// A linearizable read: it sees what anyone was told before it began.
    async fn read(&mut self) -> bool {
        let node = self.node().await;
        let (floor, patience, delay) = {
            let mut inner = self.world.lock();
            let patience = inner.dice.ms(300, 4_000);
            let delay = if inner.dice.chance(3_000) { inner.dice.ms(1, 3_000) } else { Duration::ZERO };
            (inner.history.floor(), patience, delay)
        };
        let Ok(index) = node.confirm(Instant::now() + patience).await else { return false };
        let machine = self.machine;
        self.world.note(&[13, machine as u64, index.0], || {
            format!("node {machine} confirms {index}, asked for is {floor}")
        });
        if !self.world.lock().oracle.covers(index, floor) {
            self.world.violate(
                "INV-12",
                format!("node {machine} confirmed {index}, {floor} had been seen before it was asked"),
            );
        }
        sleep(delay).await;
        let seen = node.read(State::index);
        if seen < index {
            self.world.violate("INV-12", format!("node {machine} confirmed {index} and then showed {seen}"));
        }
        let mut inner = self.world.lock();
        inner.history.seen(index);
        inner.history.reads += 1;
        true
    }

    /// A consumer at the end of a partition: it has to be woken when there is more.
    async fn watch(&mut self) -> bool {
        let Some(partition) = self.some_partition() else { return false };
        let node = self.node().await;
        let end = |state: &State| {
            state.partition(partition).map(|partition| (partition.log_start(), partition.end()))
        };
        let watch = node.watch([partition]);
        let before = node.read(end);
        let patience = self.world.lock().dice.ms(100, 2_000);
        let woken = timeout(patience, watch.changed()).await.is_ok();
        let after = node.read(end);
        // A partition that was not there before is for the next look at the topic.
        if !woken && before.is_some() && before != after {
            self.world.violate(
                "INV-19",
                format!("{partition} went from {before:?} to {after:?} and nobody was woken"),
            );
        }
        true
    }
}
