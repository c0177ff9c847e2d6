//! What is kept in order when the metadata log misbehaves, and what idempotent producers get.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tidelog_agent::{
    Payload, ProduceBatch, ProduceError, ProduceRequest, ProduceSession, Reservation, Settings, TopicRef,
};
use tidelog_types::{ProducerEpoch, ProducerId, ProducerStamp, Sequence};

use crate::faults::{AwayLog, PutFault};
use crate::harness::{Stores, base, batch, name, stamped};

fn fast() -> Settings {
    Settings { flush_interval: Duration::from_millis(10), ..Settings::default() }
}

fn stamp(id: ProducerId, epoch: ProducerEpoch, sequence: i32) -> Option<ProducerStamp> {
    Some(ProducerStamp { id, epoch, base_sequence: Sequence::new(sequence).expect("in range") })
}

#[tokio::test(start_paused = true)]
async fn an_unknown_commit_fails_its_session_and_may_yet_take_effect_once() {
    let log = Arc::new(AwayLog::default());
    let stores = Stores::with_log(Arc::clone(&log) as _).await;
    let settings = Settings { commit_deadline: Duration::from_secs(2), ..fast() };
    let running = stores.start_with_topic(settings, 1).await;
    let session = ProduceSession::new();
    log.is_away.store(true, Ordering::Relaxed);
    let first = running.send_in(&session, vec![batch(0, &["first"])]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Uploaded meanwhile; its commit has to wait for the first one's outcome.
    let second = running.send_in(&session, vec![batch(0, &["second"])]).await;
    let first = first.await.remove(0);
    assert!(matches!(first, Err(ProduceError::Unknown { .. })), "{first:?}");
    assert_eq!(second.await[0], Err(ProduceError::EarlierAppendFailed), "INV-7");
    log.is_away.store(false, Ordering::Relaxed);
    let again = running.produce(batch(0, &["again"])).await;
    assert_eq!(base(&again), 1, "the first one took effect after all, behind whoever asked");
    let values = running.values(0).await;
    assert_eq!(values, [(0, "first".to_owned()), (1, "again".to_owned())]);
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_failure_leaves_alone_what_came_before_it_in_its_session() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 1).await;
    let session = ProduceSession::new();
    let first = running.send_in(&session, vec![batch(0, &["first"])]).await;
    let damaged = Payload::Encoded(Bytes::from_static(b"no batch"));
    let second = running.send_in(&session, vec![ProduceBatch { payload: damaged, ..batch(0, &["-"]) }]).await;
    let third = running.send_in(&session, vec![batch(0, &["third"])]).await;
    assert_eq!(base(&first.await[0]), 0, "it waited for its upload when the second one failed");
    assert!(matches!(second.await[0], Err(ProduceError::Corrupt(_))));
    assert_eq!(third.await[0], Err(ProduceError::EarlierAppendFailed), "INV-7");
    assert_eq!(running.values(0).await, [(0, "first".to_owned())]);
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_writes_what_came_before_it_on_sessions_that_go_on() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 1).await;
    let (agent, session) = (running.agent.clone(), ProduceSession::new());
    stores.segments.on_puts([PutFault::Slow(Duration::from_secs(1))]);
    let before = running.send_in(&session, vec![batch(0, &["before"])]).await;
    let stopping = tokio::spawn(running.stop());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (batches, reservation) = (vec![batch(0, &["after"])], Reservation::none());
    let after = agent.produce(ProduceRequest { session: Some(session), batches, reservation }).await;
    assert_eq!(after.await[0], Err(ProduceError::Draining));
    assert_eq!(base(&before.await[0]), 0);
    stopping.await.expect("no panic").expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn sessions_do_not_wait_for_each_other() {
    let log = Arc::new(AwayLog::default());
    let stores = Stores::with_log(Arc::clone(&log) as _).await;
    let running = stores.start_with_topic(fast(), 1).await;
    log.is_away.store(true, Ordering::Relaxed);
    let mut tickets = Vec::new();
    for n in 0..5 {
        let session = ProduceSession::new();
        tickets.push(running.send_in(&session, vec![batch(0, &[&n.to_string()])]).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let appends = running.metadata.stats().entries.load(Ordering::Relaxed);
    log.is_away.store(false, Ordering::Relaxed);
    for (n, ticket) in (0..).zip(tickets) {
        assert_eq!(base(&ticket.await[0]), n);
    }
    let entries = running.metadata.stats().entries.load(Ordering::Relaxed) - appends;
    assert_eq!(entries, 2, "one was in flight, the others went together");
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_gets_the_original_offset_also_from_another_agent() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 1).await;
    let (id, epoch) = running.agent.admin().init_producer(None).await.expect("allocated");
    let first = running.produce(stamped(0, &["a", "b"], stamp(id, epoch, 0))).await.expect("acknowledged");
    assert!(!first.duplicate);
    running.produce(batch(0, &["between"])).await.expect("acknowledged");
    let repeat = running.produce(stamped(0, &["a", "b"], stamp(id, epoch, 0))).await.expect("acknowledged");
    assert_eq!(
        (repeat.base_offset, repeat.end_offset, repeat.duplicate),
        (first.base_offset, first.end_offset, true)
    );
    let gap = running.produce(stamped(0, &["d"], stamp(id, epoch, 5))).await;
    assert!(
        matches!(gap, Err(ProduceError::OutOfOrderSequence { expected }) if expected.get() == 2),
        "{gap:?}"
    );
    running.crash().await;
    let other = stores.start(fast());
    let repeat = loop {
        match other.produce(stamped(0, &["a", "b"], stamp(id, epoch, 0))).await {
            // Nobody leads for a moment.
            Err(ProduceError::UnknownTopic { .. } | ProduceError::MetadataUnavailable { .. }) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            result => break result.expect("acknowledged"),
        }
    };
    assert!(repeat.duplicate && repeat.base_offset == first.base_offset);
    let (_, newer) = other.agent.admin().init_producer(Some((id, epoch))).await.expect("raised");
    let fenced = other.produce(stamped(0, &["x"], stamp(id, epoch, 2))).await;
    assert_eq!(fenced, Err(ProduceError::ProducerFenced { current: newer }));
    assert_eq!(other.values(0).await.len(), 3);
    other.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn batches_behind_a_lost_one_of_their_producer_are_not_called_out_of_order() {
    let stores = Stores::new().await;
    let settings = Settings { upload_deadline: Duration::from_secs(1), ..fast() };
    let running = stores.start_with_topic(settings, 1).await;
    let (id, epoch) = running.agent.admin().init_producer(None).await.expect("allocated");
    stores.segments.on_puts([PutFault::Stall]);
    let lost = running.send(vec![stamped(0, &["a"], stamp(id, epoch, 0))]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let behind = running.send(vec![stamped(0, &["b"], stamp(id, epoch, 1))]).await;
    assert!(matches!(lost.await[0], Err(ProduceError::StorageUnavailable { .. })));
    assert_eq!(behind.await[0], Err(ProduceError::EarlierAppendFailed));
    assert_eq!(base(&running.produce(stamped(0, &["a"], stamp(id, epoch, 0))).await), 0, "sent again");
    assert_eq!(base(&running.produce(stamped(0, &["b"], stamp(id, epoch, 1))).await), 1);
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_deleted_meanwhile_takes_nothing() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 1).await;
    stores.segments.on_puts([PutFault::Slow(Duration::from_secs(1))]);
    let ticket = running.send(vec![batch(0, &["late"])]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let topic = TopicRef { name: name("t"), id: None };
    running.agent.admin().delete_topic(&topic).await.expect("deleted");
    running.agent.admin().create_topic(&name("t"), 1, Vec::new()).await.expect("created again");
    assert!(
        matches!(ticket.await[0], Err(ProduceError::UnknownTopic { .. })),
        "the new topic is another one"
    );
    assert!(running.values(0).await.is_empty());
    running.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_sessions_on_many_threads_each_keep_their_order() {
    const SESSIONS: usize = 8;
    const APPENDS: usize = 100;
    let stores = Stores::new().await;
    let settings =
        Settings { flush_interval: Duration::from_millis(2), flush_bytes: 4096, ..Settings::default() };
    let running = stores.start_with_topic(settings, 2).await;
    let producing = (0..SESSIONS).map(|session| {
        let agent = running.agent.clone();
        tokio::spawn(async move {
            let handle = ProduceSession::new();
            let mut tickets = Vec::new();
            for n in 0..APPENDS {
                let batches = vec![batch(0, &[&format!("{session}:{n}")]), batch(1, &["x"])];
                let reservation = agent.budget().reserve(200).await.expect("room");
                let request = ProduceRequest { session: Some(handle.clone()), batches, reservation };
                tickets.push(agent.produce(request).await);
            }
            let mut offsets = Vec::new();
            for ticket in tickets {
                offsets.push(base(&ticket.await[0]));
            }
            offsets
        })
    });
    let offsets = futures::future::join_all(producing).await;
    let values = running.values(0).await;
    assert_eq!(values.len(), SESSIONS * APPENDS);
    assert!(values.iter().map(|(offset, _)| *offset).eq(0..(SESSIONS * APPENDS) as i64), "INV-4: dense");
    for (session, offsets) in offsets.into_iter().enumerate() {
        let offsets = offsets.expect("no panic");
        assert!(offsets.is_sorted(), "INV-7");
        for (n, offset) in offsets.into_iter().enumerate() {
            let at = usize::try_from(offset).expect("positive");
            assert_eq!(values[at], (offset, format!("{session}:{n}")), "INV-1");
        }
    }
    assert_eq!(running.agent.budget().used(), 0);
    running.stop().await.expect("a clean stop");
}
