//! Memory, sizes, shutdown, and what can be asked for by mistake.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidelog_agent::metrics::store::StoreOp;
use tidelog_agent::{
    AdminError, Payload, ProduceBatch, ProduceError, ProduceRequest, Settings, TaskError, TopicRef,
};
use tidelog_types::{ProducerStamp, Sequence, TopicId};
use tokio::time::Instant;

use crate::faults::{AwayLog, PutFault};
use crate::harness::{Stores, base, batch, encoded, name, partition, stamped};

fn fast() -> Settings {
    Settings { flush_interval: Duration::from_millis(10), ..Settings::default() }
}

#[tokio::test(start_paused = true)]
async fn memory_is_refused_and_comes_back_whatever_happens() {
    let stores = Stores::new().await;
    let settings = Settings { buffer_memory: 64 * 1024, upload_deadline: Duration::from_secs(2), ..fast() };
    let running = stores.start_with_topic(settings, 1).await;
    *stores.segments.all_puts.lock() = Some(PutFault::Stall);
    let mut tickets = Vec::new();
    let refused = loop {
        match running.agent.budget().try_reserve(1024) {
            Ok(reservation) => {
                let batches = vec![batch(0, &["x"; 50])];
                tickets.push(
                    running.agent.produce(ProduceRequest { session: None, batches, reservation }).await,
                );
            }
            Err(refused) => break refused,
        }
        assert!(tickets.len() <= 64, "INV-21");
    };
    assert!(tickets.len() > 32, "{}", tickets.len());
    assert!(refused.retry_after > Duration::ZERO);
    // Half of the clients go away; what they sent stays accounted for until it is decided.
    let used = running.agent.budget().used();
    assert!(used > 60 * 1024, "{used}");
    tickets.truncate(20);
    assert_eq!(running.agent.budget().used(), used);
    for ticket in tickets {
        assert!(matches!(ticket.await[0], Err(ProduceError::StorageUnavailable { .. })));
    }
    assert_eq!(running.agent.budget().used(), 0);
    *stores.segments.all_puts.lock() = None;
    assert_eq!(base(&running.produce(batch(0, &["after"])).await), 0, "it drains and goes on");
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn batches_are_as_large_as_their_topic_says() {
    let stores = Stores::new().await;
    let running = stores.start(fast());
    let config = vec![("max.message.bytes".to_owned(), "1024".to_owned())];
    running.agent.admin().create_topic(&name("t"), 1, config).await.expect("created");
    let value = "x".repeat(1024);
    let fits = encoded(&[&value[..900]], None);
    let over = encoded(&[&value], None);
    assert!(fits.len() <= 1024 && over.len() > 1024);
    let payload = |payload| ProduceBatch { payload, ..batch(0, &["x"]) };
    assert_eq!(base(&running.produce(payload(Payload::Encoded(fits))).await), 0);
    let refused = running.produce(payload(Payload::Encoded(over.clone()))).await;
    assert_eq!(refused, Err(ProduceError::TooLarge { bytes: over.len(), max: 1024 }));
    let set = record_set(&[value.as_bytes()]);
    let refused = running.produce(payload(Payload::Records { set, stamp: None })).await;
    assert!(matches!(refused, Err(ProduceError::TooLarge { max: 1024, .. })), "{refused:?}");
    running.stop().await.expect("a clean stop");
}

/// The protobuf bytes of a `RecordSet` of values, which are shorter than 16 KiB.
fn record_set(values: &[&[u8]]) -> Bytes {
    let varint = |n: usize| [0x80 | (n & 0x7f) as u8, (n >> 7) as u8];
    let mut set = Vec::new();
    for value in values {
        let mut record = vec![0x12];
        record.extend(varint(value.len()));
        record.extend_from_slice(value);
        set.push(0x0a);
        set.extend(varint(record.len()));
        set.extend(record);
    }
    set.into()
}

#[tokio::test(start_paused = true)]
async fn records_become_batches_and_garbage_does_not() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 2).await;
    let records = |at, set: Bytes| ProduceBatch {
        partition: partition(at),
        payload: Payload::Records { set, stamp: None },
        ..batch(0, &["x"])
    };
    let sent = vec![
        records(0, record_set(&[b"a", b"b"])),
        records(0, Bytes::new()),
        records(1, record_set(&[b"c"])),
        records(1, Bytes::from_static(b"\xff\xff\xff garbage")),
        ProduceBatch { payload: Payload::Encoded(Bytes::from_static(b"garbage")), ..batch(0, &["x"]) },
        ProduceBatch { payload: Payload::Encoded(flipped(encoded(&["d"], None))), ..batch(0, &["x"]) },
    ];
    let results = running.send(sent).await.await;
    assert_eq!((base(&results[0]), base(&results[2])), (0, 0));
    for refused in [1, 3, 4, 5] {
        let result = &results[refused];
        assert!(matches!(result, Err(ProduceError::Corrupt(_))), "{refused}: {result:?}");
    }
    assert_eq!(running.values(0).await, [(0, "a".to_owned()), (1, "b".to_owned())]);
    assert_eq!(running.values(1).await, [(0, "c".to_owned())]);
    running.stop().await.expect("a clean stop");
}

fn flipped(batch: Bytes) -> Bytes {
    let mut bytes = batch.to_vec();
    *bytes.last_mut().expect("not empty") ^= 1;
    bytes.into()
}

#[tokio::test(start_paused = true)]
async fn a_full_segment_does_not_wait_and_a_large_request_becomes_several() {
    let stores = Stores::new().await;
    let settings =
        Settings { flush_bytes: 64 * 1024, flush_interval: Duration::from_secs(3600), ..Settings::default() };
    let running = stores.start_with_topic(settings, 4).await;
    let value = "x".repeat(16 * 1024);
    let puts = running.puts();
    let sent = (0..16).map(|n| batch(n % 4, &[&value])).collect();
    let ticket = running.send(sent).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(running.puts() - puts >= 4, "full ones go at once");
    let since = Instant::now();
    running.stop().await.expect("a clean stop");
    assert!(since.elapsed() < Duration::from_secs(1));
    let bases: Vec<i64> = ticket.await.iter().map(base).collect();
    assert_eq!(bases, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3], "in the order of the request");
}

#[tokio::test(start_paused = true)]
async fn a_flush_is_closed_before_its_commit_is_too_large() {
    let log = Arc::new(AwayLog { entry_bytes_max: 64 * 1024, ..AwayLog::default() });
    let stores = Stores::with_log(log).await;
    let running = stores.start_with_topic(fast(), 3_000).await;
    let sent = (0..3_000).map(|n| batch(n, &["x"])).collect();
    for result in running.send(sent).await.await {
        assert_eq!(base(&result), 0);
    }
    // Many batches of one partition need as much room as many partitions.
    let sent = (0..10_000).map(|_| batch(0, &["x"])).collect();
    let results = running.send(sent).await.await;
    assert_eq!(base(results.last().expect("results")), 10_000);
    // Stamps in many partitions need the most.
    let (id, epoch) = running.agent.admin().init_producer(None).await.expect("allocated");
    let stamp = |n| Some(ProducerStamp { id, epoch, base_sequence: Sequence::new(n).expect("in range") });
    let sent = (1..2_500).flat_map(|at| (0..3).map(move |n| stamped(at, &["x"], stamp(n)))).collect();
    for (n, result) in running.send(sent).await.await.iter().enumerate() {
        assert_eq!(base(result), 1 + i64::try_from(n % 3).expect("small"));
    }
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_acknowledges_what_it_has_and_takes_no_more() {
    let stores = Stores::new().await;
    let settings = Settings { flush_interval: Duration::from_secs(3600), ..Settings::default() };
    let running = stores.start_with_topic(settings.clone(), 1).await;
    let buffered = running.send(vec![batch(0, &["buffered"])]).await;
    let agent = running.agent.clone();
    running.stop().await.expect("a clean stop");
    assert_eq!(base(&buffered.await[0]), 0);
    let request = ProduceRequest {
        session: None,
        batches: vec![batch(0, &["late"])],
        reservation: agent.budget().try_reserve(10).expect("all is free"),
    };
    assert_eq!(agent.produce_and_wait(request).await, [Err(ProduceError::Draining)]);
    assert_eq!(agent.budget().used(), 0);
    let again = stores.start(settings);
    again.agent.admin().topics(None, 1).await.expect("ready");
    assert_eq!(again.values(0).await, [(0, "buffered".to_owned())]);
    again.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_is_bounded() {
    let stores = Stores::new().await;
    let settings = Settings { drain_deadline: Duration::from_secs(3), ..fast() };
    let running = stores.start_with_topic(settings, 1).await;
    *stores.segments.all_puts.lock() = Some(PutFault::Stall);
    let stuck = running.send(vec![batch(0, &["stuck"])]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let since = Instant::now();
    assert_eq!(running.stop().await, Err(TaskError::DrainDeadline { deadline: Duration::from_secs(3) }));
    assert!(since.elapsed() < Duration::from_secs(4));
    assert!(matches!(stuck.await[0], Err(ProduceError::Unknown { .. })));
}

#[tokio::test(start_paused = true)]
async fn topics_are_created_on_demand_only_where_that_is_wanted() {
    let stores = Stores::new().await;
    let settings = Settings { auto_create_topics: true, auto_create_partitions: 2, ..fast() };
    let running = stores.start(settings);
    let results = running.send(vec![batch(0, &["a"]), batch(1, &["b"]), batch(2, &["c"])]).await.await;
    assert_eq!((base(&results[0]), base(&results[1])), (0, 0));
    assert!(matches!(results[2], Err(ProduceError::UnknownPartition { partitions: 2, .. })));
    // Who means a certain topic does not mean a new one.
    let mut meant = batch(0, &["a"]);
    (meant.topic, meant.topic_id) = (name("other"), Some(TopicId(77)));
    assert!(matches!(running.produce(meant).await, Err(ProduceError::UnknownTopic { .. })));
    let mut mistaken = batch(0, &["a"]);
    mistaken.topic_id = Some(TopicId(77));
    assert!(matches!(running.produce(mistaken).await, Err(ProduceError::TopicIdMismatch { .. })));
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn administration_says_what_was_wrong() {
    let stores = Stores::new().await;
    let running = stores.start(fast());
    let admin = running.agent.admin();
    let topic = admin.create_topic(&name("t"), 3, Vec::new()).await.expect("created");
    assert_eq!((topic.partitions, topic.name.as_str()), (3, "t"));
    let t = TopicRef { name: name("t"), id: Some(topic.id) };
    let nope = TopicRef { name: name("nope"), id: None };
    let stale = TopicRef { name: name("t"), id: Some(TopicId(99)) };
    assert!(
        matches!(admin.create_topic(&name("t"), 1, Vec::new()).await, Err(AdminError::TopicExists { id, .. }) if id == topic.id)
    );
    assert!(matches!(
        admin.create_topic(&name("u"), 0, Vec::new()).await,
        Err(AdminError::PartitionCount { low: 1, .. })
    ));
    let wrong = vec![("cleanup.policy".to_owned(), "compact".to_owned())];
    assert!(matches!(admin.create_topic(&name("u"), 1, wrong).await, Err(AdminError::Config(_))));
    assert!(matches!(admin.topic(&nope).await, Err(AdminError::UnknownTopic { .. })));
    assert!(matches!(admin.delete_topic(&stale).await, Err(AdminError::TopicIdMismatch { .. })));
    let grown = admin.add_partitions(&t, 5).await.expect("grown");
    assert_eq!(grown.partitions, 5);
    assert!(matches!(admin.add_partitions(&t, 4).await, Err(AdminError::PartitionCount { .. })));
    let set = vec![("max.message.bytes".to_owned(), Some("2048".to_owned()))];
    let updated = admin.update_topic(&t, set).await.expect("updated");
    let entry = updated.config.iter().find(|entry| entry.key == "max.message.bytes").expect("a key");
    assert_eq!((entry.value.as_str(), entry.is_set), ("2048", true));
    let out = admin.delete_records(&t, partition(0), Some(crate::harness::offset(1))).await;
    assert!(matches!(out, Err(AdminError::OffsetOutOfRange { .. })), "{out:?}");
    assert!(matches!(
        admin.delete_records(&t, partition(9), None).await,
        Err(AdminError::UnknownPartition { .. })
    ));
    for n in 0..5 {
        admin.create_topic(&name(&format!("more-{n}")), 1, Vec::new()).await.expect("created");
    }
    let (page, has_more) = admin.topics(Some(&name("more-2")), 2).await.expect("listed");
    assert_eq!(page.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["more-3", "more-4"]);
    assert!(has_more);
    admin.delete_topic(&t).await.expect("deleted");
    let (page, has_more) = admin.topics(Some(&name("more-4")), 2).await.expect("listed");
    assert!(page.is_empty() && !has_more);
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_counted_under_stable_names() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 1).await;
    running.produce(batch(0, &["a", "b", "c"])).await.expect("acknowledged");
    running.fetch(0, 0).await.expect("readable");
    running.metrics.request("Produce", "grpc", "OK", Duration::from_millis(3));
    let _held = running.agent.budget().try_reserve(640).expect("fits");
    let text = running.metrics.encode();
    for line in [
        "tidelog_produce_records_total{topic=\"t\"} 3",
        "tidelog_produce_bytes_total ",
        "tidelog_produce_stage_seconds_count{stage=\"buffer\"} 1",
        "tidelog_produce_stage_seconds_count{stage=\"put\"} 1",
        "tidelog_produce_stage_seconds_count{stage=\"commit\"} 1",
        "tidelog_produce_stage_seconds_count{stage=\"ack\"} 1",
        "tidelog_object_store_requests_total{op=\"put\",class=\"a\"} 1",
        "tidelog_object_store_request_duration_seconds_count{op=\"put\",outcome=\"ok\"} 1",
        "tidelog_cache_requests_total{tier=\"written\",result=\"hit\"} 1",
        "tidelog_request_duration_seconds_count{api=\"Produce\",protocol=\"grpc\",code=\"OK\"} 1",
        "tidelog_buffer_bytes 640",
        "tidelog_metadata_appends_total ",
        "tidelog_metadata_conflicts_total 0",
        "tidelog_build_info{version=\"0.1.0\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    assert_eq!(running.metrics.object_store().requests(StoreOp::List), 0, "an agent needs no right to list");
    running.stop().await.expect("a clean stop");
}
