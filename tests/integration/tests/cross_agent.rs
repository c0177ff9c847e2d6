//! What other agents uploaded is read once by each agent, however many consumers want it.

use std::time::Duration;

use futures::StreamExt;
use tidelog_client::{
    Client, ClientOptions, ConsumerOptions, PartitionIndex, ProducerOptions, ProducerRecord, StartAt,
    TopicName,
};
use tidelog_integration::{Server, Stores, StoresKind};

const CONSUMERS: usize = 100;
const PARTITIONS: u32 = 4;
/// Each round is a segment or two.
const ROUNDS: usize = 40;
const RECORDS: usize = ROUNDS * 8;
const RECORD_BYTES: usize = 16 * 1024;

async fn client(server: &Server) -> Client {
    let endpoint = server.endpoint().parse().expect("an endpoint");
    Client::connect(&[endpoint], ClientOptions::default()).await.expect("it listens")
}

async fn requests(server: &Server, op: &str) -> f64 {
    server.metric("tidelog_object_store_requests_total", &[&format!("op=\"{op}\"")]).await
}

async fn consume(client: Client, topic: TopicName) -> usize {
    let partitions = (0..PARTITIONS).map(|number| {
        let partition = PartitionIndex::new(i32::try_from(number).expect("few")).expect("small");
        (topic.clone(), partition, StartAt::Earliest)
    });
    let mut options = ConsumerOptions::default();
    // A hundred of them read in one process.
    options.prefetch_bytes = 256 * 1024;
    options.message_bytes = 256 * 1024;
    let mut consumer = client.consumer(&partitions.collect::<Vec<_>>(), options).await.expect("it is there");
    let mut bytes = 0;
    for _ in 0..RECORDS {
        let record = tokio::time::timeout(Duration::from_secs(120), consumer.next()).await;
        let record = record.expect("INV-19: it goes on").expect("it does not end").expect("no error");
        bytes += record.value.map_or(0, |value| value.len());
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_agent_reads_what_others_uploaded_once() {
    let Some(stores) = Stores::new(StoresKind::MinioDynamoDb, "cross-agent").await else { return };
    let (role, mut arguments) = stores.server();
    arguments.extend(["--flush-interval".into(), "50ms".into()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut agents = Vec::new();
    for _ in 0..3 {
        agents.push(Server::start(role, &arguments, stores.directory()).await);
    }
    let topic: TopicName = "read".parse().expect("a name");
    let writer = client(&agents[0]).await;
    writer.create_topic(&topic, Some(PARTITIONS), Default::default()).await.expect("a new topic");
    let uploads_before = requests(&agents[0], "put").await;
    let mut reads_before = Vec::new();
    for agent in &agents {
        reads_before.push(requests(agent, "get").await);
    }

    // Read along, while it is written, and later again from the start.
    let mut consumers = Vec::new();
    for number in 0..CONSUMERS {
        let reader = client(&agents[number % 3]).await;
        consumers.push(tokio::spawn(consume(reader, topic.clone())));
    }
    let producer = writer.producer(ProducerOptions::default());
    let mut noise = 1_u64;
    for _ in 0..ROUNDS {
        let mut deliveries = Vec::new();
        for number in 0..RECORDS / ROUNDS {
            // Marsaglia's xorshift64: nothing that compresses.
            let value: Vec<u8> = std::iter::repeat_with(|| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise.to_le_bytes()[3]
            })
            .take(RECORD_BYTES)
            .collect();
            let mut record = ProducerRecord::new(topic.clone(), value);
            let partition = i32::try_from(number % PARTITIONS as usize).expect("few");
            record.partition = PartitionIndex::new(partition).ok();
            deliveries.push(producer.send(record).await.expect("taken"));
        }
        for delivery in deliveries {
            delivery.await.expect("acknowledged");
        }
    }
    producer.close().await;
    let mut consumed = 0;
    for consumer in consumers {
        consumed += consumer.await.expect("no error");
    }
    assert_eq!(consumed, CONSUMERS * RECORDS * RECORD_BYTES);
    let once_more = client(&agents[1]).await;
    assert_eq!(consume(once_more, topic.clone()).await, RECORDS * RECORD_BYTES);

    let segments = requests(&agents[0], "put").await - uploads_before;
    let mut reads = Vec::new();
    for (agent, before) in agents.iter().zip(&reads_before) {
        reads.push(requests(agent, "get").await - before);
    }
    println!(
        "{CONSUMERS} consumers read {:.0} MiB from {segments} segments through 3 agents: GETs {reads:?}, {:.4} a MiB consumed",
        consumed as f64 / 1048576.0,
        reads.iter().sum::<f64>() / (consumed as f64 / 1048576.0),
    );
    assert_eq!(reads[0], 0.0, "the agent that uploaded them has them");
    for reads in &reads[1..] {
        assert!(*reads > 0.0, "the others have to read them");
        // Partitions lie side by side in a segment: a reader of all wants all of it, at once or in a few pieces.
        assert!(*reads <= 2.0 * segments, "{reads} reads of {segments} segments");
    }
    for agent in &mut agents {
        assert_eq!(agent.terminate().await, Some(0));
    }
}
