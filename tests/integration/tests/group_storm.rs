//! A group of many members over many partitions, on three agents, while members join and leave at random: no partition has two
//! owners (INV-26). How long it takes until each partition has one is printed.
//!
//! `TIDELOG_STORM=200,1000,20` says how many members, partitions, and seconds of coming and going (default 40,200,8).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidelog_client::{
    Client, ClientOptions, GroupConsumer, GroupHandle, GroupName, RebalanceListener, TopicName,
    TopicPartition,
};
use tidelog_integration::{Server, Stores, StoresKind};
use tokio::time::Instant;

const TOPIC: &str = "storm";

/// Who owns what, as the members themselves say.
#[derive(Debug, Default)]
struct Owners {
    owners: BTreeMap<TopicPartition, usize>,
    moves: usize,
}

struct Listener {
    member: usize,
    owners: Arc<Mutex<Owners>>,
}

impl Listener {
    fn release(&self, partitions: &[TopicPartition]) {
        let mut owners = self.owners.lock();
        for partition in partitions {
            let owner = owners.owners.remove(partition);
            assert_eq!(owner, Some(self.member), "INV-26: {partition:?} was not this member's");
        }
    }
}

#[tidelog_client::async_trait]
impl RebalanceListener for Listener {
    async fn on_assigned(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        let mut owners = self.owners.lock();
        for partition in partitions {
            let earlier = owners.owners.insert(partition.clone(), self.member);
            assert_eq!(earlier, None, "INV-26: {partition:?} goes to member {} too early", self.member);
            owners.moves += 1;
        }
    }

    async fn on_revoked(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        self.release(partitions);
    }

    async fn on_lost(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        self.release(partitions);
    }
}

struct Storm {
    clients: Vec<Client>,
    owners: Arc<Mutex<Owners>>,
    members: BTreeMap<usize, GroupConsumer>,
    next: usize,
    partitions: usize,
}

impl Storm {
    fn join(&mut self) {
        let member = self.next;
        self.next += 1;
        let listener = Listener { member, owners: Arc::clone(&self.owners) };
        let topic: TopicName = TOPIC.parse().expect("a name");
        let consumer = self.clients[member % self.clients.len()]
            .group_consumer(GroupName::new("storm").expect("a name"))
            .topics([topic])
            // The machine of the test is slow: none of them shall lose its session.
            .session_timeout(Duration::from_secs(120))
            .listener(listener)
            .start();
        self.members.insert(member, consumer);
    }

    /// Waits until every partition has an owner and the shares are even; returns how long that took.
    async fn settle(&self) -> Duration {
        let (started, members) = (Instant::now(), self.members.len());
        loop {
            let shares: Vec<usize> =
                self.members.values().map(|member| member.handle().assignment().len()).collect();
            let (least, most) = (shares.iter().min().copied(), shares.iter().max().copied());
            let even = most.zip(least).is_some_and(|(most, least)| most - least <= 1);
            let owned = self.owners.lock().owners.len();
            if owned == self.partitions && even && shares.iter().sum::<usize>() == self.partitions {
                return started.elapsed();
            }
            assert!(
                started.elapsed() < Duration::from_secs(240),
                "INV-19: {owned} of {} partitions have an owner, {members} members have {least:?} to {most:?}",
                self.partitions
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn sizes() -> (usize, usize, u64) {
    let text = std::env::var("TIDELOG_STORM").unwrap_or_else(|_| "40,200,8".into());
    let numbers: Vec<usize> = text.split(',').map(|number| number.parse().expect("a number")).collect();
    match numbers[..] {
        [members, partitions, seconds] => (members, partitions, seconds as u64),
        _ => panic!("TIDELOG_STORM is {text:?}, expected MEMBERS,PARTITIONS,SECONDS"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_and_no_partition_has_two_owners() {
    let (members, partitions, seconds) = sizes();
    let Some(stores) = Stores::new(StoresKind::MinioDynamoDb, "storm").await else { return };
    let (role, arguments) = stores.server();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (mut agents, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        agents.push(Server::start(role, &arguments, stores.directory()).await);
    }
    for number in 0..9 {
        let endpoint = agents[number % 3].endpoint().parse().expect("an endpoint");
        clients.push(Client::connect(&[endpoint], ClientOptions::default()).await.expect("it listens"));
    }
    let topic: TopicName = TOPIC.parse().expect("a name");
    let count = u32::try_from(partitions).expect("few");
    clients[0].create_topic(&topic, Some(count), Default::default()).await.expect("a new topic");

    let mut storm = Storm { clients, owners: Arc::default(), members: BTreeMap::new(), next: 0, partitions };
    (0..members).for_each(|_| storm.join());
    let first = storm.settle().await;
    let moves_first = storm.owners.lock().moves;

    let (started, mut noise, mut changes) = (Instant::now(), 88_172_645_463_325_252_u64, 0);
    while started.elapsed() < Duration::from_secs(seconds) {
        // Marsaglia's xorshift64.
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        if noise % 2 == 0 || storm.members.len() < members / 2 {
            storm.join();
        } else {
            let at = (noise >> 8) as usize % storm.members.len();
            let member = *storm.members.keys().nth(at).expect("it has that many");
            let consumer = storm.members.remove(&member).expect("it is there");
            // It leaves in its own time; others come and go meanwhile.
            drop(tokio::spawn(consumer.close()));
        }
        changes += 1;
        tokio::time::sleep(Duration::from_millis(50 + noise % 100)).await;
    }
    let last = storm.settle().await;
    let moves = storm.owners.lock().moves;
    println!(
        "{members} members, {partitions} partitions: stable {:.2} s after all joined ({moves_first} assignments); after {changes} of them came or \
         went in {seconds} s, {} members: stable {:.2} s later ({} assignments)",
        first.as_secs_f64(),
        storm.members.len(),
        last.as_secs_f64(),
        moves - moves_first,
    );
    for (_, member) in std::mem::take(&mut storm.members) {
        member.close().await.expect("nothing was read");
    }
    for agent in &mut agents {
        assert_eq!(agent.terminate().await, Some(0), "{}", agent.log());
    }
}
