//! Consumer groups that read along: each record is processed once per group, and no partition has two owners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tidelog_client::{Client, GroupHandle, GroupName, OffsetReset, RebalanceListener, TopicPartition};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::load::{Found, TOPIC};

const MEMBERS: usize = 2;
/// Longer than an agent stands still.
const SESSION_TIMEOUT: Duration = Duration::from_secs(12);
/// Records between two commits of a member.
const COMMIT_EVERY: usize = 50;

/// What a group has done, as a database beside the log would know it.
#[derive(Debug, Default)]
struct Done {
    processed: Found,
    /// Records that came again, and were recognised by their offsets.
    repeats: usize,
    owners: BTreeMap<TopicPartition, usize>,
    moves: usize,
}

/// A group under way.
pub struct Group {
    name: &'static str,
    done: Arc<Mutex<Done>>,
    stop: watch::Sender<bool>,
    members: Vec<JoinHandle<()>>,
}

/// Notes who owns what (INV-26).
struct Owners {
    member: usize,
    done: Arc<Mutex<Done>>,
}

impl Owners {
    fn release(&self, partitions: &[TopicPartition]) {
        let mut done = self.done.lock();
        for partition in partitions {
            let owner = done.owners.remove(partition);
            assert_eq!(owner, Some(self.member), "INV-26: {partition:?} was not this member's");
        }
    }
}

#[tidelog_client::async_trait]
impl RebalanceListener for Owners {
    async fn on_assigned(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        let mut done = self.done.lock();
        for partition in partitions {
            let earlier = done.owners.insert(partition.clone(), self.member);
            assert_eq!(earlier, None, "INV-26: {partition:?} goes to member {} too early", self.member);
            done.moves += 1;
        }
    }

    async fn on_revoked(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        self.release(partitions);
    }

    async fn on_lost(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        self.release(partitions);
    }
}

impl Group {
    /// Starts its members.
    pub fn start(client: &Client, name: &'static str) -> Self {
        let done = Arc::new(Mutex::new(Done::default()));
        let stop = watch::Sender::new(false);
        let members = (0..MEMBERS)
            .map(|member| {
                let member =
                    Member { client: client.clone(), group: name, number: member, done: Arc::clone(&done) };
                tokio::spawn(member.run(stop.subscribe()))
            })
            .collect();
        Self { name, done, stop, members }
    }

    /// Waits until it has processed everything, and compares that with what is there.
    pub async fn stop(self, found: &Found) {
        let end = tokio::time::Instant::now() + Duration::from_secs(90);
        loop {
            let processed = self.done.lock().processed.len();
            if processed >= found.len() {
                break;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "INV-19: group {} has processed {processed} of {} records",
                self.name,
                found.len()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.stop.send_replace(true);
        for member in self.members {
            member.await.expect("no panic");
        }
        let done = self.done.lock();
        assert!(done.processed == *found, "INV-20: group {} has processed something else", self.name);
        assert_eq!(done.owners, BTreeMap::new(), "all was given back");
        println!(
            "group {}: {} records processed, {} came again and were recognised, {} times a partition was assigned",
            self.name,
            done.processed.len(),
            done.repeats,
            done.moves,
        );
    }
}

struct Member {
    client: Client,
    group: &'static str,
    number: usize,
    done: Arc<Mutex<Done>>,
}

impl Member {
    async fn run(self, mut stop: watch::Receiver<bool>) {
        let listener = Owners { member: self.number, done: Arc::clone(&self.done) };
        let mut consumer = self
            .client
            .group_consumer(GroupName::new(self.group).expect("a name"))
            .topics([TOPIC.parse().expect("a name")])
            .offset_reset(OffsetReset::Earliest)
            .session_timeout(SESSION_TIMEOUT)
            .manual_commit()
            .listener(listener)
            .start();
        let mut since_commit = 0;
        loop {
            let record = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                record = consumer.next() => record,
            };
            let record =
                record.expect("it does not end").unwrap_or_else(|error| panic!("a member is told: {error}"));
            self.process(&record);
            since_commit += 1;
            if since_commit == COMMIT_EVERY {
                since_commit = 0;
                // After processing; one that fails is made up for by the next, or by the dedup check.
                drop(consumer.handle().commit_async());
            }
        }
        // What it covers may be delivered again; here nobody is left to.
        let _ = consumer.close().await;
    }

    fn process(&self, record: &tidelog_client::ConsumedRecord) {
        let (partition, offset) = (record.partition.get(), record.offset.get());
        let value = String::from_utf8(record.value.clone().unwrap_or_default().to_vec()).expect("text");
        let mut done = self.done.lock();
        let last = done.processed.range((partition, 0)..=(partition, i64::MAX)).next_back();
        let next = last.map_or(0, |((_, offset), _)| offset + 1);
        if offset < next {
            let earlier = &done.processed[&(partition, offset)];
            assert_eq!(*earlier, value, "INV-3: partition {partition}, offset {offset}");
            done.repeats += 1;
            return;
        }
        assert_eq!(offset, next, "INV-20: partition {partition}: records were skipped");
        done.processed.insert((partition, offset), value);
    }
}
