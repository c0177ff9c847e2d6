//! Three agents behind a load balancer, under load, while agents are killed, frozen and restarted: nothing that was
//! acknowledged is lost, doubled or out of order, whoever reads along sees every record once, and two consumer groups process
//! every record once.
//!
//! `TIDELOG_CHAOS_SECONDS` says how long each balancer is tried (default 30); for the long run:
//!
//! ```text
//! cargo build -p tidelog && TIDELOG_CHAOS_SECONDS=300 cargo test -p tidelog-integration --test chaos -- --nocapture
//! ```

mod cluster;
mod groups;
mod load;

use std::time::Duration;

use tidelog_integration::BalancerKind;

use crate::cluster::{Cluster, Event};
use crate::groups::Group;
use crate::load::{Producers, Reader, TOPIC, client, read_all};

fn seconds() -> Duration {
    let text = std::env::var("TIDELOG_CHAOS_SECONDS").ok();
    Duration::from_secs(text.map_or(30, |text| text.parse().expect("TIDELOG_CHAOS_SECONDS is a number")))
}

/// Which agent meets what, in turn: each meets each, whoever happens to lead.
const EVENTS: [Event; 4] = [Event::Kill, Event::Freeze, Event::Restart, Event::FreezeShortly];

async fn survives(kind: BalancerKind, name: &str) {
    let Some(mut cluster) = Cluster::start(kind, name).await else { return };
    let client = client(&cluster.endpoint()).await;
    let topic = TOPIC.parse().expect("a name");
    client.create_topic(&topic, Some(load::PARTITIONS), Default::default()).await.expect("a new topic");
    let producers = Producers::start(&client);
    let reader = Reader::start(&client).await;
    let groups = ["first", "second"].map(|name| Group::start(&client, name));
    let started = tokio::time::Instant::now();
    let mut events = 0;
    while started.elapsed() < seconds() {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let (agent, event) = (events % 3, EVENTS[(events / 3 + events) % EVENTS.len()]);
        cluster.strike(agent, event).await;
        events += 1;
    }
    cluster.heal().await;
    let history = producers.stop().await;
    let found = read_all(&client).await;
    let read_along = reader.stop(found.len()).await;
    println!(
        "{kind:?}: {} events, {} records acknowledged, {} of unknown outcome, {} errors, longest pause {:.1} s; {}",
        events,
        history.acknowledged.len(),
        history.unknown.len(),
        history.refused,
        history.longest_pause.as_secs_f64(),
        cluster.summary().await,
    );
    history.check(&found);
    assert_eq!(read_along, found, "INV-20: who reads along sees every record once and in order");
    for group in groups {
        group.stop(&found).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_behind_haproxy_come_and_go() {
    survives(BalancerKind::Haproxy, "chaos-haproxy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_behind_nginx_come_and_go() {
    survives(BalancerKind::Nginx, "chaos-nginx").await;
}
