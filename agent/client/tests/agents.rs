//! Several agents behind one client: it spreads over them, and goes on with another when one fails.

mod fake;

use std::time::Duration;

use fake::network::{HostState, Network};
use fake::{Fake, PARTITIONS, TOPIC};
use futures::StreamExt;
use tidelog_client::{
    ConnectError, ConsumerOptions, PartitionIndex, ProducerOptions, ProducerRecord, RequestError, StartAt,
    TopicName,
};
use tokio::time::Instant;

const ALL: [&str; 3] = ["a", "b", "c"];

fn topic() -> TopicName {
    TopicName::new(TOPIC).expect("a name")
}

fn cluster() -> (Fake, Network) {
    let (fake, network) = (Fake::new(), Network::default());
    ALL.iter().for_each(|host| network.serve(host, &fake));
    (fake, network)
}

/// The host that has a connection and had none before.
fn in_use(network: &Network) -> &'static str {
    let used: Vec<&str> = ALL.into_iter().filter(|host| network.connections(host) > 0).collect();
    assert_eq!(used.len(), 1, "{used:?}");
    used[0]
}

#[tokio::test(start_paused = true)]
async fn clients_spread_over_the_agents() {
    let (_fake, network) = cluster();
    for seed in 0..60 {
        network.try_client(&ALL, seed).await.expect("all are up");
    }
    for host in ALL {
        assert!(network.connections(host) > 5, "{host}: {}", network.connections(host));
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_costs_a_reconnect_and_no_error() {
    let (fake, network) = cluster();
    let client = network.client(&ALL).await;
    for number in 0..10 {
        // Whichever it uses, and whichever it turns to.
        let name = TopicName::new(&format!("t{number}")).expect("a name");
        let down = ALL[number % 3];
        network.set(down, HostState::Down);
        // A connection at rest has to notice that it broke.
        tokio::time::sleep(Duration::from_millis(10)).await;
        // Not a read: were it not known that nothing was sent, this would be an unknown outcome.
        client.create_topic(&name, None, Default::default()).await.expect("two others are up");
        network.set(down, HostState::Up);
    }
    assert_eq!(fake.state.lock().created.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn hosts_that_are_gone_are_passed_over_when_connecting() {
    let (_fake, network) = cluster();
    network.set("a", HostState::Gone);
    network.set("b", HostState::Gone);
    for seed in 0..10 {
        let begin = Instant::now();
        network.try_client(&ALL, seed).await.expect("one is up");
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_frozen_agent_does_not_answer_another_one_does() {
    let (_fake, network) = cluster();
    network.set("a", HostState::Frozen);
    network.set("b", HostState::Frozen);
    for seed in 0..10 {
        let client = network.try_client(&ALL, seed).await.expect("they take connections");
        client.server_info().await.expect("one of them answers");
    }
    // What changes something is not repeated: it may have been done.
    let client = network.client(&["a"]).await;
    let topic = TopicName::new("new").expect("a name");
    let outcome = client.create_topic(&topic, None, Default::default()).await;
    assert!(matches!(outcome, Err(RequestError::OutcomeUnknown(_))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn all_dead_is_told_after_the_deadline_and_one_that_returns_is_found() {
    let (_fake, network) = cluster();
    let client = network.client(&ALL).await;
    ALL.iter().for_each(|host| network.set(host, HostState::Down));
    let begin = Instant::now();
    let error = client.get_topic(&topic()).await.expect_err("nobody is there");
    assert!(matches!(error, RequestError::Connect(ConnectError::Unreachable { .. })), "{error}");
    let limit = client.options().request_timeout;
    assert!(begin.elapsed() > limit / 2 && begin.elapsed() <= limit, "{:?}", begin.elapsed());

    let returns = async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        network.set("b", HostState::Up);
    };
    let topic = topic();
    let (found, ()) = tokio::join!(client.get_topic(&topic), returns);
    found.expect("it came back in time");
    assert!(network.try_client(&["a", "c"], 1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn producers_and_consumers_go_on_with_another_agent() {
    let (fake, network) = cluster();
    let client = network.client(&ALL).await;
    let producer = client.producer(ProducerOptions::default());
    let partitions = (0..PARTITIONS).map(|number| PartitionIndex::new(number).expect("in range"));
    let assignments: Vec<_> = partitions.map(|partition| (topic(), partition, StartAt::Earliest)).collect();
    let mut consumer =
        client.consumer(&assignments, ConsumerOptions::default()).await.expect("known partitions");
    let mut dead = in_use(&network);
    for number in 0..20 {
        if number % 5 == 4 {
            network.set(dead, HostState::Up);
            dead = ALL[number % 3];
            network.set(dead, HostState::Down);
        }
        let record = ProducerRecord::new(topic(), format!("v{number}"));
        producer.send(record).await.expect("fits").wait().await.expect("acknowledged");
        let read = consumer.next().await.expect("more").expect("a record");
        assert_eq!(read.value.as_deref(), Some(format!("v{number}").as_bytes()));
    }
    producer.close().await;
    assert_eq!(fake.high_watermark(0) + fake.high_watermark(1), 20);
}
