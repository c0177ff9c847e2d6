//! How long the metadata is without a leader: killed, frozen, and in a rolling restart. The times are printed, not asserted.
//!
//! `TIDELOG_FAILOVERS` says how often the leader is killed (default 5; 30 for figures that are worth quoting).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidelog_client::{Client, ClientOptions, Producer, ProducerOptions, ProducerRecord, TopicName};
use tidelog_integration::{Server, Stores, StoresKind};
use tokio::time::Instant;

fn failovers() -> usize {
    let text = std::env::var("TIDELOG_FAILOVERS").ok();
    text.map_or(5, |text| text.parse().expect("TIDELOG_FAILOVERS is a number"))
}

struct Agents {
    stores: Stores,
    servers: Vec<Server>,
    role: &'static str,
    arguments: Vec<String>,
}

impl Agents {
    async fn start(name: &str) -> Option<Self> {
        let stores = Stores::new(StoresKind::MinioDynamoDb, name).await?;
        let (role, mut arguments) = stores.server();
        arguments.extend(["--flush-interval", "20ms"].map(String::from));
        let mut agents = Self { stores, servers: Vec::new(), role, arguments };
        for _ in 0..3 {
            let arguments: Vec<&str> = agents.arguments.iter().map(String::as_str).collect();
            agents.servers.push(Server::start(role, &arguments, agents.stores.directory()).await);
        }
        Some(agents)
    }

    async fn client(&self, agents: &[usize]) -> Client {
        let endpoints: Vec<_> = agents
            .iter()
            .map(|agent| self.servers[*agent].endpoint().parse().expect("an endpoint"))
            .collect();
        Client::connect(&endpoints, ClientOptions::default()).await.expect("it listens")
    }

    /// The agent that leads. Somebody has to have something to do.
    async fn leader(&self) -> usize {
        loop {
            for (agent, server) in self.servers.iter().enumerate() {
                if server.metric("tidelog_metadata_leading", &[]).await == 1.0 {
                    return agent;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until all others listen to the leader.
    async fn settle(&self) -> usize {
        loop {
            let leader = self.leader().await;
            if self.servers[leader].metric("tidelog_metadata_followers", &[]).await == 2.0 {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn start_again(&mut self, agent: usize) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.servers[agent].start_again(self.role, &arguments, self.stores.directory());
        self.servers[agent].ready().await.expect("it starts");
    }

    async fn stop(mut self) {
        for server in &mut self.servers {
            assert_eq!(server.terminate().await, Some(0), "{}", server.log());
        }
    }
}

async fn send(producer: &Producer, topic: &TopicName) -> Duration {
    let started = Instant::now();
    let delivery = producer.send(ProducerRecord::new(topic.clone(), "record")).await;
    delivery.expect("taken").await.expect("no error reaches the application");
    started.elapsed()
}

fn percentiles(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1].as_secs_f64();
    println!("{what}: {} times, p50 {:.2} s, p99 {:.2} s, max {:.2} s", times.len(), at(50), at(99), at(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_gone_is_replaced() {
    let Some(mut agents) = Agents::start("failover").await else { return };
    let topic: TopicName = "failover".parse().expect("a name");
    let client = agents.client(&[0, 1, 2]).await;
    client.create_topic(&topic, Some(1), Default::default()).await.expect("a new topic");
    let mut killed = Vec::new();
    let mut frozen = Vec::new();
    for round in 0..2 * failovers() {
        let leader = agents.settle().await;
        // A client of an agent that goes on: what it waits for is the next leader.
        let producer = agents.client(&[(leader + 1) % 3]).await.producer(ProducerOptions::default());
        send(&producer, &topic).await;
        if round < failovers() {
            agents.servers[leader].kill().await;
            killed.push(send(&producer, &topic).await);
            agents.start_again(leader).await;
        } else {
            agents.servers[leader].signal("STOP").await;
            frozen.push(send(&producer, &topic).await);
            agents.servers[leader].signal("CONT").await;
        }
        producer.close().await;
    }
    percentiles("leader killed, until the next acknowledge", killed);
    percentiles("leader frozen, until the next acknowledge", frozen);
    agents.settle().await;
    agents.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_goes_unnoticed() {
    let Some(mut agents) = Agents::start("rolling").await else { return };
    let topic: TopicName = "rolling".parse().expect("a name");
    let client = agents.client(&[0, 1, 2]).await;
    client.create_topic(&topic, Some(4), Default::default()).await.expect("a new topic");
    let leader = agents.settle().await;
    for (agent, server) in agents.servers.iter().enumerate() {
        // Any agent knows them all, once it and the others have found the leader.
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let said = server.run(&["cluster", "describe", "--format", "json"], "").await.ok().text();
            let described = said.matches("\"instance\"").count() == 3
                && said.matches("\"leads\":true").count() == 1
                && agents.servers.iter().all(|server| said.contains(&format!("127.0.0.1:{}", server.port())));
            if described {
                break;
            }
            assert!(Instant::now() < end, "agent {agent}, leader {leader}: {said}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        server.run(&["status"], "").await.ok();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    for _ in 0..4 {
        let producer = agents.client(&[0, 1, 2]).await.producer(ProducerOptions::default());
        let (stop, topic) = (Arc::clone(&stop), topic.clone());
        load.push(tokio::spawn(async move {
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                times.push(send(&producer, &topic).await);
            }
            producer.close().await;
            times
        }));
    }
    for agent in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(agents.servers[agent].terminate().await, Some(0), "{}", agents.servers[agent].log());
        agents.start_again(agent).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for producer in load {
        times.extend(producer.await.expect("no error reaches the application"));
    }
    percentiles("rolling restart of three agents, acknowledge", times);
    agents.stop().await;
}
