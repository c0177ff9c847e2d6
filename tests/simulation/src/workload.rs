//! Clients: what they ask, how they repeat it, and what they check of the answers.

use std::sync::Arc;
use std::time::Duration;

use tidelog_metadata_node::{Metadata, ProposeError};
use tidelog_metadata_state::{Command, Outcome, Refusal, State};
use tidelog_types::{Offset, PartitionIndex, TopicId, TopicName, TopicPartition};
use tokio::time::{Instant, sleep, timeout};

use crate::history::Attempt;
use crate::produce::Producer;
use crate::world::{NODES, World};

/// A client, with a producer of its own from time to time.
#[derive(Debug)]
pub struct Client {
    pub(crate) world: World,
    number: usize,
    /// The machine that it talks to.
    pub(crate) machine: usize,
    pub(crate) producer: Option<Producer>,
    think_ms: u64,
}

pub(crate) type Answer = Result<Arc<Outcome>, ProposeError>;

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

    pub(crate) fn stopped(&self) -> bool {
        self.world.lock().clients_stop
    }

    pub(crate) async fn node(&mut self) -> Metadata {
        loop {
            if let Some(node) = self.world.node(self.machine) {
                return node;
            }
            self.machine = (self.machine + 1) % NODES;
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn propose(&mut self, command: Command, attempt: Option<Attempt>) -> Answer {
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

    pub(crate) fn some_partition(&self) -> Option<TopicPartition> {
        let (topic, partitions) = self.some_topic()?;
        let position = self.world.lock().dice.index(partitions as usize);
        Some(TopicPartition { topic, partition: PartitionIndex::from_position(position)? })
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
