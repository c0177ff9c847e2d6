//! Behind a balancer that balances connections, load spreads to agents that come later, because connections grow old; producers and
//! consumers notice nothing.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tidelog_client::{
    Client, ClientOptions, ConsumerOptions, PartitionIndex, ProducerOptions, ProducerRecord, StartAt,
    TopicName,
};
use tidelog_integration::{Balancer, BalancerKind, Server, Stores, StoresKind};
use tokio::time::Instant;

const CLIENTS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_spreads_to_agents_that_come_later() {
    let Some(stores) = Stores::new(StoresKind::MinioDynamoDb, "spread").await else { return };
    let (role, mut arguments) = stores.server();
    arguments.extend(["--flush-interval", "20ms", "--connection-age", "2s"].map(String::from));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut agents = Vec::new();
    for _ in 0..3 {
        agents.push(Server::start(role, &arguments, stores.directory()).await);
    }
    let balancer = Balancer::start(
        BalancerKind::HaproxyLayer4,
        [&agents[0], &agents[1], &agents[2]],
        stores.directory(),
    )
    .await;
    for late in [1, 2] {
        assert_eq!(agents[late].terminate().await, Some(0));
    }

    let topic: TopicName = "spread".parse().expect("a name");
    let partition = PartitionIndex::new(0).expect("small");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let endpoint = balancer.endpoint().parse().expect("an endpoint");
        clients.push(Client::connect(&[endpoint], ClientOptions::default()).await.expect("it listens"));
    }
    clients[0].create_topic(&topic, Some(1), Default::default()).await.expect("a new topic");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut producers = Vec::new();
    for client in &clients {
        let (producer, stop) = (client.producer(ProducerOptions::default()), Arc::clone(&stop));
        let topic = topic.clone();
        producers.push(tokio::spawn(async move {
            let mut sent = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let delivery = producer.send(ProducerRecord::new(topic.clone(), "record")).await;
                delivery.expect("taken").await.expect("acknowledged");
                sent += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            producer.close().await;
            sent
        }));
    }
    let from = (topic.clone(), partition, StartAt::Earliest);
    let mut consumer = clients[0].consumer(&[from], ConsumerOptions::default()).await.expect("it is there");

    for late in [1, 2] {
        agents[late].start_again(role, &arguments, stores.directory());
        agents[late].ready().await.expect("it starts");
    }
    let appends = async |agent: &Server| {
        agent.metric("tidelog_request_duration_seconds_count", &["api=\"produce_stream\""]).await
    };
    let end = Instant::now() + Duration::from_secs(60);
    while appends(&agents[1]).await == 0.0 || appends(&agents[2]).await == 0.0 {
        assert!(Instant::now() < end, "agents that came later got no appends");
        // What is read keeps up meanwhile.
        consumer.next().await.expect("it goes on").expect("no error reaches the application");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut sent = 0;
    for producer in producers {
        sent += producer.await.expect("no error reached the application");
    }
    let mut last = None;
    while last.is_none_or(|last| last + 1 < sent) {
        let record = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await;
        let Ok(Some(record)) = record else { continue };
        last = Some(record.expect("no error reaches the application").offset.get());
    }
    assert_eq!(last.map(|last| last + 1), Some(sent), "each record once");
    for agent in &mut agents {
        assert_eq!(agent.terminate().await, Some(0), "{}", agent.log());
    }
    balancer.stop().await;
}
