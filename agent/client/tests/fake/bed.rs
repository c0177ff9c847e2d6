//! What tests of groups share: a cluster in memory, consumers that are read in the background, and a listener that takes notes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tidelog_client::{
    Client, CommitError, ConsumedRecord, GroupConsumer, GroupConsumerBuilder, GroupError, GroupHandle,
    GroupName, MemberId, Offset, OffsetReset, PartitionIndex, RebalanceListener, TopicName, TopicPartition,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::network::Network;
use super::{Fake, TOPIC};

pub const GROUP: &str = "g";

pub fn group() -> GroupName {
    GroupName::new(GROUP).expect("a name")
}

pub fn at(partition: i32) -> TopicPartition {
    let topic = TopicName::new(TOPIC).expect("a name");
    TopicPartition::new(topic, PartitionIndex::new(partition).expect("in range"))
}

pub fn offset(value: i64) -> Offset {
    Offset::new(value).expect("in range")
}

pub async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

/// A cluster with agents `a` and `b`.
pub struct Bed {
    pub fake: Fake,
    pub network: Network,
}

impl Bed {
    pub fn new(partitions: i32) -> Self {
        let (fake, network) = (Fake::new(), Network::default());
        fake.groups.lock().topics = [(TOPIC.to_owned(), partitions)].into();
        network.serve("a", &fake);
        network.serve("b", &fake);
        Self { fake, network }
    }

    pub async fn client(&self) -> Client {
        self.network.client(&["a", "b"]).await
    }

    /// A member that reads the topic from its beginning.
    pub async fn member(&self, id: &str) -> GroupConsumerBuilder {
        Self::member_of(&self.client().await, id)
    }

    pub fn member_of(client: &Client, id: &str) -> GroupConsumerBuilder {
        client
            .group_consumer(group())
            .topics([TopicName::new(TOPIC).expect("a name")])
            .member_id(MemberId::new(id).expect("an id"))
            .offset_reset(OffsetReset::Earliest)
    }

    /// Writes records `0` to `count - 1` to a partition that is empty.
    pub fn fill(&self, partition: i32, count: i64) {
        (0..count).for_each(|number| self.fake.append(partition, &format!("{partition}/{number}")));
    }

    pub fn committed(&self, partition: i32) -> Option<i64> {
        let groups = self.fake.groups.lock();
        groups.groups.get(GROUP)?.offsets.get(&(TOPIC.to_owned(), partition)).map(|(offset, _)| *offset)
    }

    pub fn owner(&self, partition: i32) -> Option<String> {
        let groups = self.fake.groups.lock();
        groups.groups.get(GROUP)?.owners.get(&(TOPIC.to_owned(), partition)).map(|(owner, _)| owner.clone())
    }

    /// Incarnations under which a member has joined, repeats included.
    pub fn incarnations(&self, id: &str) -> Vec<Vec<u8>> {
        let groups = self.fake.groups.lock();
        groups.joins.iter().filter(|(member, _)| member == id).map(|(_, run)| run.clone()).collect()
    }
}

/// Notes of all members of a bed.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    pub lines: Arc<Mutex<Vec<String>>>,
    owners: Arc<Mutex<BTreeMap<TopicPartition, String>>>,
}

impl Notes {
    pub fn note(&self, line: impl Into<String>) {
        self.lines.lock().push(line.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock())
    }

    pub fn listener(&self, member: &str) -> Listener {
        Listener { member: member.to_owned(), notes: self.clone(), pause: Duration::ZERO }
    }

    fn begins(&self, member: &str, partitions: &[TopicPartition]) {
        for at in partitions {
            // Ends its session's task: who waits for records notices.
            let other = self.owners.lock().insert(at.clone(), member.to_owned());
            assert_eq!(other, None, "INV-26: {at} has two owners, {member} is the second");
        }
    }

    fn ends(&self, member: &str, partitions: &[TopicPartition]) {
        for at in partitions {
            assert_eq!(self.owners.lock().remove(at).as_deref(), Some(member), "{at}");
        }
    }
}

/// Takes notes, and watches that no partition has two owners.
pub struct Listener {
    member: String,
    notes: Notes,
    /// How long each call takes.
    pub pause: Duration,
}

impl Listener {
    pub fn slow(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    async fn note(&self, what: &str, partitions: &[TopicPartition]) {
        let named: Vec<String> = partitions.iter().map(|at| at.partition.to_string()).collect();
        self.notes.note(format!("{} {what} {}", self.member, named.join(",")));
        tokio::time::sleep(self.pause).await;
    }
}

#[tidelog_client::async_trait]
impl RebalanceListener for Listener {
    async fn on_assigned(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        self.notes.begins(&self.member, partitions);
        self.note("assigned", partitions).await;
    }

    async fn on_revoked(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        self.note("revoked", partitions).await;
        self.notes.ends(&self.member, partitions);
    }

    async fn on_lost(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        self.notes.ends(&self.member, partitions);
        self.note("lost", partitions).await;
    }
}

/// A consumer that a task reads.
pub struct Reading {
    pub records: mpsc::UnboundedReceiver<Result<ConsumedRecord, GroupError>>,
    pub handle: GroupHandle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<GroupConsumer>,
}

impl Reading {
    pub fn of(consumer: GroupConsumer) -> Self {
        Self::watched(consumer, |_| {})
    }

    /// Shows each record to `watch` as soon as the stream yields it.
    #[expect(clippy::disallowed_methods, reason = "the tests' records are few")]
    pub fn watched(mut consumer: GroupConsumer, watch: impl Fn(&ConsumedRecord) + Send + 'static) -> Self {
        let (to_test, records) = mpsc::unbounded_channel();
        let (stop, mut stopped) = oneshot::channel();
        let handle = consumer.handle().clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    _ = &mut stopped => return consumer,
                    item = consumer.next() => match item {
                        Some(item) => {
                            item.iter().for_each(&watch);
                            let _ = to_test.send(item);
                        }
                        None => return consumer,
                    }
                }
            }
        });
        Self { records, handle, stop, task }
    }

    /// The next item.
    pub async fn next(&mut self) -> Result<ConsumedRecord, GroupError> {
        self.records.recv().await.expect("the stream goes on")
    }

    /// So many records as partition and offset.
    pub async fn take(&mut self, count: usize) -> Vec<(i32, i64)> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let record = self.next().await.expect("a record");
            taken.push((record.partition.get(), record.offset.get()));
        }
        taken
    }

    /// What was read until now, without waiting.
    pub fn at_hand(&mut self) -> Vec<(i32, i64)> {
        let mut taken = Vec::new();
        while let Ok(item) = self.records.try_recv() {
            let record = item.expect("a record");
            taken.push((record.partition.get(), record.offset.get()));
        }
        taken
    }

    /// Ends the reading and gives the consumer back.
    pub async fn stop(self) -> GroupConsumer {
        let _ = self.stop.send(());
        self.task.await.expect("no panic")
    }

    pub async fn close(self) -> Result<(), CommitError> {
        self.stop().await.close().await
    }

    /// Ends it as a crash does.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}
