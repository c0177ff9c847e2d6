//! Appending: what it costs, in which order it happens, and what becomes of it when the object store misbehaves.

use std::time::Duration;

use tidelog_agent::{ProduceError, ProduceSession, Settings};
use tokio::time::Instant;

use crate::faults::PutFault;
use crate::harness::{Stores, base, batch, name};

fn fast() -> Settings {
    Settings { flush_interval: Duration::from_millis(10), ..Settings::default() }
}

#[tokio::test(start_paused = true)]
async fn flushes_of_fifty_partitions_cost_one_put_and_at_most_one_append_each() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 50).await;
    let (puts, appends) = (running.puts(), running.appends());
    const FLUSHES: u64 = 20;
    for round in 0..FLUSHES {
        let text = format!("round {round}");
        let sent = (0..50).map(|partition| batch(partition, &[&text, "x"])).collect();
        for result in running.send(sent).await.await {
            assert_eq!(base(&result), i64::try_from(round).expect("small") * 2);
        }
    }
    assert_eq!(running.puts() - puts, FLUSHES);
    assert!(running.appends() - appends <= FLUSHES, "{} appends", running.appends() - appends);
    assert_eq!(stores.segments.segments().await.len() as u64, FLUSHES);
    for partition in [0, 17, 49] {
        let values = running.values(partition).await;
        assert_eq!(values.len() as u64, FLUSHES * 2);
        assert_eq!(values[2], (2, "round 1".to_owned()));
    }
    assert_eq!(running.gets(), 0, "what was written here is read from memory");
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn an_idle_agent_asks_nothing_of_the_stores() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 1).await;
    assert_eq!(base(&running.produce(batch(0, &["a"])).await), 0);
    let (puts, gets, appends) = (running.puts(), running.gets(), running.appends());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((running.puts(), running.gets(), running.appends()), (puts, gets, appends));
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn the_first_byte_waits_for_the_flush_interval_and_no_longer() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let since = Instant::now();
    running.produce(batch(0, &["a"])).await.expect("acknowledged");
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_millis(300), "{took:?}");
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_there_after_a_crash_and_a_restart() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 1).await;
    for n in 0..10 {
        assert_eq!(base(&running.produce(batch(0, &[&format!("{n}")])).await), n);
    }
    running.crash().await;
    let again = stores.start(fast());
    again.agent.admin().topics(None, 10).await.expect("ready");
    let values = again.values(0).await;
    assert_eq!(values, (0..10).map(|n| (n, n.to_string())).collect::<Vec<_>>());
    assert!(again.gets() > 0);
    again.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn refusals_are_per_batch() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 1).await;
    let mut unknown = batch(0, &["a"]);
    unknown.topic = name("nope");
    let results = running.send(vec![unknown, batch(7, &["b"]), batch(0, &["c"])]).await.await;
    assert!(matches!(&results[0], Err(ProduceError::UnknownTopic { topic }) if *topic == name("nope")));
    assert!(matches!(&results[1], Err(ProduceError::UnknownPartition { partitions: 1, .. })));
    assert_eq!(base(&results[2]), 0);
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_put_that_fails_before_or_after_its_effect_is_one_copy() {
    for fault in [PutFault::ErrorBefore, PutFault::ErrorAfter, PutFault::Conflict] {
        let stores = Stores::new().await;
        let running = stores.start_with_topic(fast(), 1).await;
        stores.segments.on_puts([fault.clone()]);
        assert_eq!(base(&running.produce(batch(0, &["a"])).await), 0, "{fault:?}");
        assert_eq!(stores.segments.segments().await.len(), 1, "{fault:?}");
        assert_eq!(running.values(0).await, [(0, "a".to_owned())], "{fault:?}");
        running.stop().await.expect("a clean stop");
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_others_hold_is_not_ours() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 1).await;
    stores.segments.on_puts([PutFault::Foreign]);
    assert_eq!(base(&running.produce(batch(0, &["a"])).await), 0);
    assert_eq!(stores.segments.segments().await.len(), 2, "the other object stays as it is");
    running.crash().await;
    let again = stores.start(fast());
    again.agent.admin().topics(None, 10).await.expect("ready");
    assert_eq!(again.values(0).await, [(0, "a".to_owned())]);
    again.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_is_a_definite_error_within_the_deadline() {
    for fault in [PutFault::Stall, PutFault::ErrorBefore] {
        let stores = Stores::new().await;
        let running = stores.start_with_topic(fast(), 1).await;
        *stores.segments.all_puts.lock() = Some(fault.clone());
        let since = Instant::now();
        let result = running.produce(batch(0, &["a"])).await;
        assert!(matches!(result, Err(ProduceError::StorageUnavailable { .. })), "{fault:?}: {result:?}");
        assert!(since.elapsed() <= Duration::from_secs(21));
        *stores.segments.all_puts.lock() = None;
        assert_eq!(base(&running.produce(batch(0, &["b"])).await), 0, "nothing of it was committed");
        assert_eq!(running.values(0).await, [(0, "b".to_owned())]);
        running.stop().await.expect("a clean stop");
    }
}

#[tokio::test(start_paused = true)]
async fn commits_keep_the_order_of_flushes_when_uploads_overtake_each_other() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 1).await;
    stores.segments.on_puts([PutFault::Slow(Duration::from_secs(2)), PutFault::None, PutFault::None]);
    let mut tickets = Vec::new();
    for n in 0..3 {
        tickets.push(running.send(vec![batch(0, &[&n.to_string()])]).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (n, ticket) in (0..3).zip(tickets) {
        assert_eq!(base(&ticket.await[0]), n, "INV-7");
    }
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_a_session_appends_no_more_to_that_partition() {
    let stores = Stores::new().await;
    let settings = Settings { upload_deadline: Duration::from_secs(1), ..fast() };
    let running = stores.start_with_topic(settings, 2).await;
    let (session, other) = (ProduceSession::new(), ProduceSession::new());
    stores.segments.on_puts([PutFault::Stall]);
    let lost = running.send_in(&session, vec![batch(0, &["lost"])]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // These are uploaded while the first one stalls, and must not be committed.
    let later = running.send_in(&session, vec![batch(0, &["later"]), batch(1, &["beside"])]).await;
    let others = running.send_in(&other, vec![batch(0, &["other"])]).await;
    assert!(matches!(&lost.await[0], Err(ProduceError::StorageUnavailable { .. })));
    let later = later.await;
    assert_eq!(later[0], Err(ProduceError::EarlierAppendFailed));
    assert_eq!(base(&later[1]), 0);
    assert_eq!(base(&others.await[0]), 0);
    let at_once = running.send_in(&session, vec![batch(0, &["even later"])]).await.await;
    assert_eq!(at_once[0], Err(ProduceError::EarlierAppendFailed));
    assert_eq!(running.values(0).await, [(0, "other".to_owned())]);
    running.stop().await.expect("a clean stop");
}
