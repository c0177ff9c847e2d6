//! Counters prove the cost: N flushes of 50 partitions make N PUTs and at most N metadata appends, and an idle agent
//! makes none for a minute.

use std::time::Duration;

use tidelog_integration::{Server, Stores, StoresKind};

const PARTITIONS: usize = 50;
const ROUNDS: usize = 20;

async fn puts(server: &Server) -> f64 {
    server.metric("tidelog_object_store_requests_total", &["op=\"put\""]).await
}

async fn appends(server: &Server) -> f64 {
    server.metric("tidelog_metadata_appends_total", &[]).await
}

async fn flushes(server: &Server) -> f64 {
    server.metric("tidelog_produce_stage_seconds_count", &["stage=\"put\""]).await
}

async fn cost(kind: StoresKind) {
    let Some(stores) = Stores::new(kind, "cost").await else { return };
    let server = Server::on(&stores).await;
    server.run(&["topic", "create", "wide", "--partitions", &PARTITIONS.to_string()], "").await.ok();
    // Records without key go to one partition at a time; a key a partition reaches all of them.
    let rows: String = (0..PARTITIONS * 40).map(|n| format!("key-{n}:value {n}\n")).collect();
    server.run(&["produce", "wide", "--key-delimiter", ":"], rows.clone()).await.ok();

    let (puts_before, appends_before, flushes_before) =
        (puts(&server).await, appends(&server).await, flushes(&server).await);
    for _ in 0..ROUNDS {
        server.run(&["produce", "wide", "--key-delimiter", ":"], rows.clone()).await.ok();
    }
    let flushed = flushes(&server).await - flushes_before;
    assert!(flushed >= ROUNDS as f64, "{ROUNDS} productions one after the other made {flushed} flushes");
    assert_eq!(
        puts(&server).await - puts_before,
        flushed,
        "one PUT a flush, whatever the number of partitions"
    );
    // Each run of the client asks for a producer id as well, which is one entry.
    let appended = appends(&server).await - appends_before;
    assert!(
        appended <= flushed + ROUNDS as f64,
        "{appended} appends for {flushed} flushes and {ROUNDS} producers"
    );

    let timed = server.metric("tidelog_metadata_request_duration_seconds_count", &["op=\"append\""]).await;
    assert_eq!(timed, appends(&server).await, "each append is timed once");

    let idle = (puts(&server).await, appends(&server).await);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((puts(&server).await, appends(&server).await), idle, "an idle agent writes nothing");
}

#[tokio::test]
async fn embedded() {
    cost(StoresKind::Embedded).await;
}

#[tokio::test]
async fn minio_and_dynamodb_local() {
    cost(StoresKind::MinioDynamoDb).await;
}
