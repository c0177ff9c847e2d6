//! Members that come, go, crash and are cut off, in an order that a seed decides: no partition has two owners, nothing that is committed
//! was not processed, and in the end everything was.

mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fake::bed::{Bed, GROUP, Reading, seconds};
use fake::group::CommitFate;
use fake::network::HostState;
use parking_lot::Mutex;
use tidelog_client::{GroupHandle, InstanceId, RebalanceListener, TopicPartition};
use tidelog_metadata_log::env::Entropy;

const PARTITIONS: i32 = 5;
const MEMBERS: [&str; 4] = ["m0", "m1", "m2", "m3"];

/// Who owns what, as the members themselves know it. A session can end while a listener is busy; so what counts is not when a member hears
/// that it owns nothing more, but what it reads.
#[derive(Debug, Clone, Default)]
struct Owners {
    owners: Arc<Mutex<BTreeMap<TopicPartition, &'static str>>>,
    violations: Arc<Mutex<Vec<String>>>,
    assigned: Arc<Mutex<usize>>,
    lost: Arc<Mutex<usize>>,
}

impl Owners {
    fn reads(&self, member: &'static str, at: TopicPartition) {
        let owner = self.owners.lock().get(&at).copied();
        if owner != Some(member) {
            self.violations.lock().push(format!("INV-26: {member} reads {at}, which belongs to {owner:?}"));
        }
    }
}

struct Watch {
    member: &'static str,
    owners: Owners,
    /// How long each call takes.
    pause: Duration,
}

#[tidelog_client::async_trait]
impl RebalanceListener for Watch {
    async fn on_assigned(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        *self.owners.assigned.lock() += 1;
        self.owners.owners.lock().extend(partitions.iter().map(|at| (at.clone(), self.member)));
        tokio::time::sleep(self.pause).await;
    }

    async fn on_revoked(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        tokio::time::sleep(self.pause).await;
        self.owners.owners.lock().retain(|at, owner| *owner != self.member || !partitions.contains(at));
    }

    async fn on_lost(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        *self.owners.lost.lock() += 1;
        self.owners.owners.lock().retain(|at, owner| *owner != self.member || !partitions.contains(at));
        tokio::time::sleep(self.pause).await;
    }
}

struct World {
    bed: Bed,
    owners: Owners,
    dice: Entropy,
    members: BTreeMap<&'static str, Reading>,
    /// What the application has seen of each partition.
    processed: BTreeMap<i32, BTreeSet<i64>>,
    written: BTreeMap<i32, i64>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            bed: Bed::new(PARTITIONS),
            owners: Owners::default(),
            dice: Entropy::seeded(seed),
            members: BTreeMap::new(),
            processed: BTreeMap::new(),
            written: BTreeMap::new(),
        }
    }

    fn write(&mut self) {
        let partition = i32::try_from(self.dice.below(5)).expect("small");
        for _ in 0..self.dice.below(20) {
            let next = self.written.entry(partition).or_default();
            self.bed.fake.append(partition, &next.to_string());
            *next += 1;
        }
    }

    async fn start(&mut self, id: &'static str) {
        let hosts: &[&str] =
            [&["a", "b"][..], &["a"], &["b"]][usize::try_from(self.dice.below(3)).expect("small")];
        let seed = self.dice.next_u64();
        // Nobody is there at the moment: the next time perhaps.
        let Ok(client) = self.bed.network.try_client(hosts, seed).await else { return };
        let pause = Duration::from_millis(self.dice.below(3) * self.dice.below(4_000));
        let mut member = Bed::member_of(&client, id)
            .listener(Watch { member: id, owners: self.owners.clone(), pause })
            .session_timeout(Duration::from_secs(6))
            .auto_commit_every(Duration::from_millis(500 + self.dice.below(3_000)));
        if id == "m3" {
            member = member.instance_id(InstanceId::new("i").expect("an id"));
        }
        let owners = self.owners.clone();
        let reading = Reading::watched(member.start(), move |record| {
            owners.reads(id, TopicPartition::new(record.topic.clone(), record.partition));
        });
        self.members.insert(id, reading);
    }

    /// Takes note of what was read, and that commits do not run ahead of it.
    fn look(&mut self) {
        for reading in self.members.values_mut() {
            for (partition, offset) in reading.at_hand() {
                self.processed.entry(partition).or_default().insert(offset);
            }
        }
        for partition in 0..PARTITIONS {
            let processed = self.processed.entry(partition).or_default();
            let committed = self.bed.committed(partition).unwrap_or(0);
            let missing = (0..committed).find(|offset| !processed.contains(offset));
            assert_eq!(missing, None, "{partition} was committed up to {committed}");
        }
        assert_eq!(*self.owners.violations.lock(), [""; 0]);
    }

    async fn step(&mut self) {
        let id = MEMBERS[usize::try_from(self.dice.below(4)).expect("small")];
        let host = ["a", "b"][usize::try_from(self.dice.below(2)).expect("small")];
        match self.dice.below(12) {
            0..4 => match self.members.remove(id) {
                None => self.start(id).await,
                Some(reading) if self.dice.below(2) == 0 => {
                    // What it has read counts; afterwards nobody asks it any more.
                    self.members.insert(id, reading);
                    self.look();
                    if let Some(reading) = self.members.remove(id) {
                        reading.crash().await;
                    }
                }
                Some(mut reading) => {
                    let at_hand = reading.at_hand();
                    for (partition, offset) in at_hand {
                        self.processed.entry(partition).or_default().insert(offset);
                    }
                    // A close that cannot reach anybody fails; the session ends by itself.
                    let _ = reading.close().await;
                }
            },
            4 => self.bed.network.set(host, HostState::Down),
            5 => self.bed.network.set(host, HostState::Frozen),
            6..8 => ["a", "b"].iter().for_each(|host| self.bed.network.set(host, HostState::Up)),
            8 => drop(self.bed.fake.break_sessions.send(self.dice.below(2) == 0)),
            9 => {
                let deaf = self.dice.below(2) == 0;
                self.bed.fake.groups.lock().deaf = deaf;
            }
            10 => {
                let fate = [CommitFate::LoseAnswer, CommitFate::Unavailable]
                    [usize::try_from(self.dice.below(2)).expect("small")];
                self.bed.fake.groups.lock().commit_fates.extend([fate; 3]);
            }
            _ => self.bed.fake.groups.lock().rebalance(GROUP),
        }
    }

    async fn heal(&mut self) {
        ["a", "b"].iter().for_each(|host| self.bed.network.set(host, HostState::Up));
        {
            let mut groups = self.bed.fake.groups.lock();
            groups.deaf = false;
            groups.commit_fates.clear();
        }
        if self.members.is_empty() {
            self.start("m0").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_each_record_is_processed_and_no_partition_has_two_owners() {
    let (mut assigned, mut lost) = (0, 0);
    for seed in 0..12 {
        let mut world = World::new(seed);
        for _ in 0..80 {
            world.write();
            world.step().await;
            let pause = Duration::from_millis(world.dice.below(2_500));
            tokio::time::sleep(pause).await;
            world.look();
        }
        world.heal().await;
        seconds(120).await;
        world.look();
        for (partition, written) in &world.written {
            let processed = &world.processed[partition];
            assert_eq!(i64::try_from(processed.len()), Ok(*written), "seed {seed}: partition {partition}");
            assert_eq!(
                world.bed.committed(*partition).unwrap_or(0),
                *written,
                "seed {seed}: partition {partition}"
            );
        }
        assigned += *world.owners.assigned.lock();
        lost += *world.owners.lost.lock();
        for reading in std::mem::take(&mut world.members).into_values() {
            reading.crash().await;
        }
    }
    // A run in which nothing happens shows nothing.
    assert!(assigned > 60 && lost > 12, "{assigned} assigned, {lost} lost");
}
