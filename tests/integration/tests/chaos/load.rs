//! Producers that note what they were told, and readers that note what they saw.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use tidelog_client::{
    Client, ClientOptions, ConsumerOptions, PartitionIndex, ProduceError, ProducerOptions, ProducerRecord,
    StartAt, TopicName,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The topic of all records.
pub const TOPIC: &str = "chaos";
/// Its partitions.
pub const PARTITIONS: u32 = 6;
const PRODUCERS: usize = 4;
/// Between two records of a producer.
const PACE: Duration = Duration::from_millis(4);

/// Values by partition and offset.
pub type Found = BTreeMap<(i32, i64), String>;

/// A client of the cluster.
pub async fn client(endpoint: &str) -> Client {
    let endpoint = endpoint.parse().expect("an endpoint");
    Client::connect(&[endpoint], ClientOptions::default()).await.expect("the balancer listens")
}

/// What the producers were told.
#[derive(Debug, Default)]
pub struct History {
    /// The value at each acknowledged place.
    pub acknowledged: Found,
    /// Values whose outcome is unknown: they may be there, once.
    pub unknown: Vec<String>,
    /// Records that were refused for good: they must not be there.
    pub refused: usize,
    /// Such values.
    refused_values: Vec<String>,
    /// Longest time without any acknowledgement.
    pub longest_pause: Duration,
}

/// Producers under way.
pub struct Producers {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<History>>,
}

impl Producers {
    /// Starts them, each with a producer id of its own and partitions that others write, too.
    pub fn start(client: &Client) -> Self {
        let stop = watch::Sender::new(false);
        let tasks = (0..PRODUCERS)
            .map(|number| tokio::spawn(produce(client.clone(), number, stop.subscribe())))
            .collect();
        Self { stop, tasks }
    }

    /// Stops them and waits for what is under way.
    pub async fn stop(self) -> History {
        self.stop.send_replace(true);
        let mut all = History::default();
        for task in self.tasks {
            let history = task.await.expect("no panic");
            for (place, value) in history.acknowledged {
                let earlier = all.acknowledged.insert(place, value);
                assert_eq!(earlier, None, "INV-4: the offset at {place:?} was given twice");
            }
            all.unknown.extend(history.unknown);
            all.refused += history.refused_values.len();
            all.refused_values.extend(history.refused_values);
            all.longest_pause = all.longest_pause.max(history.longest_pause);
        }
        all
    }
}

async fn produce(client: Client, producer: usize, stop: watch::Receiver<bool>) -> History {
    let sender = client.producer(ProducerOptions::default());
    let topic: TopicName = TOPIC.parse().expect("a name");
    let mut history = History::default();
    let (mut last_ack, mut under_way) = (Instant::now(), futures::stream::FuturesOrdered::new());
    for number in 0_u64.. {
        if *stop.borrow() {
            break;
        }
        let partition = i32::try_from((number as usize + producer) % PARTITIONS as usize).expect("few");
        let value = format!("producer {producer} partition {partition} record {number:08}");
        let mut record = ProducerRecord::new(topic.clone(), value.clone());
        record.partition = PartitionIndex::new(partition).ok();
        // Handed over one after the other: that is the order which holds.
        match sender.send(record).await {
            Ok(delivery) => under_way.push_back(async move { (value, delivery.await) }),
            Err(error) => history.told(value, Err(error), &mut last_ack),
        }
        // Up to a few dozen are under way.
        let pause = tokio::time::sleep(PACE);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause, if under_way.len() < 64 => break,
                Some((value, told)) = under_way.next() => history.told(value, told, &mut last_ack),
            }
        }
    }
    while let Some((value, told)) = under_way.next().await {
        history.told(value, told, &mut last_ack);
    }
    sender.close().await;
    history
}

impl History {
    fn told(
        &mut self,
        value: String,
        told: Result<tidelog_client::RecordMetadata, ProduceError>,
        last_ack: &mut Instant,
    ) {
        match told {
            Ok(written) => {
                self.longest_pause = self.longest_pause.max(last_ack.elapsed());
                *last_ack = Instant::now();
                let place = (written.partition.get(), written.offset.get());
                let earlier = self.acknowledged.insert(place, value);
                assert_eq!(earlier, None, "INV-4: the offset at {place:?} was given twice");
            }
            Err(error) => {
                println!("{value}: {error}");
                if error.outcome_unknown() {
                    self.unknown.push(value);
                } else {
                    self.refused_values.push(value);
                }
            }
        }
    }

    /// Compares it with what is there.
    pub fn check(&self, found: &Found) {
        for (place, value) in &self.acknowledged {
            assert_eq!(found.get(place), Some(value), "INV-1: at {place:?}");
        }
        let mut places: BTreeMap<&str, (i32, i64)> = BTreeMap::new();
        for (place, value) in found {
            let earlier = places.insert(value, *place);
            assert_eq!(earlier, None, "INV-8: {value} is there twice, also at {place:?}");
        }
        for value in &self.refused_values {
            assert!(!places.contains_key(value.as_str()), "INV-5: {value} was refused, and is there");
        }
        let told = self.acknowledged.len() + self.unknown.len();
        assert!(found.len() <= told, "there are {} records, told of were {told}", found.len());
        // Values name producer, partition and a rising number: within a partition each producer's are in order (INV-7).
        let mut last: BTreeMap<(i32, &str), &str> = BTreeMap::new();
        for ((partition, _), value) in found {
            let (producer, number) = value.split_once(" record ").expect("our own value");
            if let Some(before) = last.insert((*partition, producer), number) {
                assert!(before < number, "INV-7: {producer}: {number} comes after {before}");
            }
        }
        assert!(!self.acknowledged.is_empty(), "nothing was acknowledged");
    }
}

fn starts() -> Vec<(TopicName, PartitionIndex, StartAt)> {
    let topic: TopicName = TOPIC.parse().expect("a name");
    let partitions = (0..PARTITIONS).map(|number| i32::try_from(number).expect("few"));
    partitions
        .map(|number| (topic.clone(), PartitionIndex::new(number).expect("small"), StartAt::Earliest))
        .collect()
}

/// Somebody who reads along.
pub struct Reader {
    found: watch::Receiver<Found>,
    task: JoinHandle<()>,
}

impl Reader {
    /// Starts to read all partitions from the start.
    pub async fn start(client: &Client) -> Self {
        let mut consumer =
            client.consumer(&starts(), ConsumerOptions::default()).await.expect("the topic is there");
        let (sender, found) = watch::channel(Found::new());
        let task = tokio::spawn(async move {
            while let Some(record) = consumer.next().await {
                let record = record.unwrap_or_else(|error| panic!("the reader is told: {error}"));
                sender.send_modify(|found| note(found, &record));
            }
        });
        Self { found, task }
    }

    /// What it saw, once it has seen as many records as there are.
    pub async fn stop(mut self, records: usize) -> Found {
        let enough = self.found.wait_for(|found| found.len() >= records);
        let waited = tokio::time::timeout(Duration::from_secs(60), enough).await.map(|found| found.is_ok());
        self.task.abort();
        let found = self.found.borrow().clone();
        assert_eq!(waited, Ok(true), "INV-19: the reader saw {} of {records} records", found.len());
        found
    }
}

fn note(found: &mut Found, record: &tidelog_client::ConsumedRecord) {
    let value = String::from_utf8(record.value.clone().unwrap_or_default().to_vec()).expect("text");
    let (partition, offset) = (record.partition.get(), record.offset.get());
    // The last one of this partition so far: a gap or a repeat shows at once.
    let last =
        found.range((partition, 0)..=(partition, i64::MAX)).next_back().map(|((_, offset), _)| *offset);
    assert_eq!(offset, last.map_or(0, |last| last + 1), "INV-20: partition {partition}");
    found.insert((partition, offset), value);
}

/// Reads everything that is there.
pub async fn read_all(client: &Client) -> Found {
    let mut consumer =
        client.consumer(&starts(), ConsumerOptions::default()).await.expect("the topic is there");
    let mut found = Found::new();
    while !consumer.reached_start_watermarks() {
        match tokio::time::timeout(Duration::from_secs(60), consumer.next()).await {
            Ok(Some(record)) => note(&mut found, &record.expect("all agents are up")),
            other => panic!("INV-19: {} records came, then {other:?}", found.len()),
        }
    }
    found
}
