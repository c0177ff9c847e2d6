//! The producer and the consumer against a service that fails at chosen moments.

mod fake;

use std::net::SocketAddr;
use std::time::Duration;

use fake::network::Network;
use fake::{Fake, Fate, PARTITIONS, TOPIC};
use futures::StreamExt;
use proptest::prelude::*;
use tidelog_client::{
    Client, ClientOptions, Compression, ConnectError, ConsumeError, ConsumerOptions, Offset, PartitionIndex,
    ProduceError, Producer, ProducerOptions, ProducerRecord, RecordMetadata, StartAt, TopicName,
};
use tidelog_proto::v1::ErrorReason;
use tidelog_record::{BatchLimits, DecodedBatch};

fn topic() -> TopicName {
    TopicName::new(TOPIC).expect("a name")
}

fn partition(number: i32) -> PartitionIndex {
    PartitionIndex::new(number).expect("in range")
}

async fn client(address: SocketAddr) -> Client {
    let endpoint = format!("http://{address}").parse().expect("an endpoint");
    Client::connect(&[endpoint], ClientOptions::default()).await.expect("the fake listens")
}

/// Each record a batch of its own, so that fates meet single records.
fn single() -> ProducerOptions {
    let mut options = ProducerOptions::default();
    options.batch_bytes = 1;
    options.linger = Duration::ZERO;
    options.compression = Compression::None;
    options
}

async fn send(producer: &Producer, number: i32, value: String) -> Result<RecordMetadata, ProduceError> {
    let mut record = ProducerRecord::new(topic(), value);
    record.partition = Some(partition(number));
    producer.send(record).await.expect("a record that fits").wait().await
}

/// Values of a partition with their offsets.
fn stored(fake: &Fake, number: i32) -> Vec<(i64, String)> {
    let log = fake.state.lock().logs.get(&number).cloned().unwrap_or_default();
    let mut values = Vec::new();
    for (base, batch) in log {
        let decoded = DecodedBatch::open(&batch, &BatchLimits::NONE).expect("validated");
        for record in decoded.records() {
            let record = record.expect("valid");
            let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
            values.push((base + i64::from(record.offset_delta), value));
        }
    }
    values
}

#[tokio::test]
async fn lost_answers_are_repeated_and_nothing_appears_twice() {
    let (fake, address) = Fake::start().await;
    let producer = client(address).await.producer(single());
    fake.fates([Fate::WriteAndBreak, Fate::Break, Fate::WriteAndClaimUnknown, Fate::WriteAndHint]);
    fake.fates([Fate::Write, Fate::Refuse(ErrorReason::StorageUnavailable)]);
    for number in 0..8 {
        let metadata = send(&producer, 0, format!("v{number}")).await.expect("acknowledged at last");
        assert_eq!(metadata.offset.get(), number);
    }
    let expected: Vec<(i64, String)> = (0..8).map(|number| (number, format!("v{number}"))).collect();
    assert_eq!(stored(&fake, 0), expected);
    assert!(fake.state.lock().streams >= 5);
    // One identity was enough: no outcome was given up.
    assert_eq!(fake.state.lock().next_producer, 1);
}

#[tokio::test]
async fn without_idempotence_a_lost_answer_is_an_unknown_outcome() {
    let (fake, address) = Fake::start().await;
    let mut options = single();
    options.idempotent = false;
    let producer = client(address).await.producer(options);
    fake.fates([Fate::WriteAndBreak, Fate::Refuse(ErrorReason::MetadataUnavailable)]);
    let lost = send(&producer, 0, "a".into()).await;
    assert!(matches!(lost, Err(ProduceError::OutcomeUnknown { .. })), "{lost:?}");
    // What was certainly not written is repeated.
    assert_eq!(send(&producer, 0, "b".into()).await.map(|metadata| metadata.offset.get()), Ok(1));
    assert_eq!(stored(&fake, 0), [(0, "a".to_owned()), (1, "b".to_owned())]);
}

#[tokio::test]
async fn a_refused_batch_does_not_take_the_later_ones_with_it() {
    let (fake, address) = Fake::start().await;
    let producer = client(address).await.producer(single());
    fake.fates([Fate::Write, Fate::Refuse(ErrorReason::CorruptBatch)]);
    let mut deliveries = Vec::new();
    for number in 0..8 {
        let mut record = ProducerRecord::new(topic(), format!("v{number}"));
        record.partition = Some(partition(0));
        deliveries.push(producer.send(record).await.expect("fits"));
    }
    let outcomes = futures::future::join_all(deliveries.into_iter().map(IntoFuture::into_future)).await;
    let refused: Vec<usize> = outcomes
        .iter()
        .enumerate()
        .filter(|(_, outcome)| outcome.is_err())
        .map(|(number, _)| number)
        .collect();
    assert_eq!(refused, [1]);
    assert!(
        matches!(&outcomes[1], Err(ProduceError::Refused(error)) if error.reason == ErrorReason::CorruptBatch)
    );
    let values: Vec<String> = stored(&fake, 0).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["v0", "v2", "v3", "v4", "v5", "v6", "v7"]);
}

#[tokio::test]
async fn an_expired_identity_is_replaced() {
    let (fake, address) = Fake::start().await;
    let producer = client(address).await.producer(single());
    fake.fates([Fate::Write, Fate::Refuse(ErrorReason::UnknownProducer)]);
    for number in 0..3 {
        send(&producer, 1, format!("v{number}")).await.expect("acknowledged");
    }
    assert_eq!(fake.state.lock().next_producer, 2);
    assert_eq!(stored(&fake, 1).len(), 3);
}

#[tokio::test]
async fn an_expired_identity_does_not_hide_an_unknown_outcome() {
    let (fake, address) = Fake::start().await;
    let producer = client(address).await.producer(single());
    fake.fates([Fate::WriteAndBreak, Fate::Refuse(ErrorReason::UnknownProducer)]);
    let outcome = send(&producer, 0, "once".into()).await;
    assert!(matches!(outcome, Err(ProduceError::OutcomeUnknown { .. })), "{outcome:?}");
    assert_eq!(stored(&fake, 0).len(), 1, "not written again under another identity");
    assert!(send(&producer, 0, "next".into()).await.is_ok());
}

#[tokio::test]
async fn what_may_be_written_keeps_its_stamp_when_the_identity_changes() {
    let (fake, address) = Fake::start().await;
    let producer = client(address).await.producer(single());
    fake.fates([Fate::WriteAndSilence, Fate::WriteAndBreak, Fate::Refuse(ErrorReason::CorruptBatch)]);
    let mut deliveries = Vec::new();
    for number in 0..3 {
        let mut record = ProducerRecord::new(topic(), format!("v{number}"));
        record.partition = Some(partition(0));
        deliveries.push(producer.send(record).await.expect("fits"));
        // Both are in flight before the stream breaks.
        tokio::time::sleep(Duration::from_millis(if number == 0 { 20 } else { 0 })).await;
    }
    let outcomes = futures::future::join_all(deliveries.into_iter().map(IntoFuture::into_future)).await;
    assert!(matches!(outcomes[0], Err(ProduceError::OutcomeUnknown { .. })), "{outcomes:?}");
    let offsets: Vec<_> =
        outcomes[1..].iter().map(|outcome| outcome.clone().map(|at| at.offset.get())).collect();
    assert_eq!(offsets, [Ok(1), Ok(2)]);
    let values: Vec<String> = stored(&fake, 0).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["v0", "v1", "v2"]);
}

#[tokio::test]
async fn answers_in_another_order_do_not_change_that_of_the_records() {
    let (fake, address) = Fake::start().await;
    let producer = client(address).await.producer(single());
    fake.fates([Fate::RefuseLate]);
    let mut deliveries = Vec::new();
    for number in 0..4 {
        let mut record = ProducerRecord::new(topic(), format!("v{number}"));
        record.partition = Some(partition(0));
        deliveries.push(producer.send(record).await.expect("fits"));
    }
    for (number, delivery) in (0..).zip(deliveries) {
        assert_eq!(delivery.wait().await.map(|at| at.offset.get()), Ok(number));
    }
    let values: Vec<String> = stored(&fake, 0).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["v0", "v1", "v2", "v3"]);
}

#[tokio::test]
async fn a_fenced_producer_sends_no_more() {
    let (fake, address) = Fake::start().await;
    let producer = client(address).await.producer(single());
    fake.fates([Fate::Refuse(ErrorReason::ProducerFenced)]);
    assert!(matches!(send(&producer, 0, "a".into()).await, Err(ProduceError::Fenced(_))));
    assert!(matches!(producer.send(ProducerRecord::new(topic(), "b")).await, Err(ProduceError::Fenced(_))));
    producer.close().await;
    assert!(stored(&fake, 0).is_empty());
}

#[tokio::test]
async fn the_delivery_timeout_tells_unknown_from_unsent() {
    let (fake, address) = Fake::start().await;
    let mut options = single();
    options.delivery_timeout = Duration::from_millis(300);
    options.answer_timeout = Duration::from_secs(60);
    let producer = client(address).await.producer(options);
    fake.fates([Fate::Silence]);
    let outcome = send(&producer, 0, "silent".into()).await;
    assert!(matches!(outcome, Err(ProduceError::OutcomeUnknown { .. })), "{outcome:?}");
    fake.fates(std::iter::repeat_n(Fate::Refuse(ErrorReason::StorageUnavailable), 1000));
    let outcome = send(&producer, 0, "refused".into()).await;
    let told = matches!(&outcome, Err(ProduceError::TimedOut { cause: Some(cause), .. }) if &**cause == "as the test says");
    assert!(told, "{outcome:?}");
}

#[tokio::test]
async fn memory_is_bounded_and_waiting_for_it_does_not_linger() {
    let (fake, address) = Fake::start().await;
    let mut options = ProducerOptions::default();
    options.linger = Duration::from_secs(3600);
    options.buffer_bytes = 10_000;
    let producer = client(address).await.producer(options);
    for number in 0..100 {
        let sent = producer.send(ProducerRecord::new(topic(), vec![b'x'; 1000]).key(format!("k{number}")));
        let sent = tokio::time::timeout(Duration::from_secs(10), sent)
            .await
            .expect("goes on when memory comes back");
        drop(sent.expect("fits"));
    }
    producer.close().await;
    assert_eq!(stored(&fake, 0).len() + stored(&fake, 1).len(), 100);
    let client = client(address).await;
    let mut options = ProducerOptions::default();
    options.buffer_bytes = 10_000;
    let refused = client.producer(options).send(ProducerRecord::new(topic(), vec![0; 20_000])).await;
    assert!(matches!(refused, Err(ProduceError::TooLarge { limit: 10_000, .. })), "{refused:?}");
}

#[tokio::test]
async fn records_larger_than_the_topic_allows_are_named_and_those_at_the_limit_are_sent() {
    let (fake, address) = Fake::start().await;
    let producer = client(address).await.producer(single());
    let limit = producer.message_bytes_max(&topic()).await.expect("known");
    assert_eq!(limit, 1024 * 1024);
    // Header, length of 3 bytes, attributes, timestamp, offset, null key, value length of 3 bytes, headers.
    let overhead = 61 + 3 + 1 + 1 + 1 + 1 + 3 + 1;
    let at_limit = send(&producer, 0, "x".repeat(limit - overhead)).await;
    assert!(at_limit.is_ok(), "{at_limit:?}");
    let beyond = producer.send(ProducerRecord::new(topic(), "x".repeat(limit - overhead + 1))).await;
    assert!(matches!(&beyond, Err(ProduceError::TooLarge { size, .. }) if *size == limit + 1), "{beyond:?}");
    assert!(send(&producer, 0, "goes on".into()).await.is_ok());
    assert_eq!(stored(&fake, 0).len(), 2);
}

#[tokio::test]
async fn unknown_topics_and_partitions_are_named() {
    let (_fake, address) = Fake::start().await;
    let producer = client(address).await.producer(ProducerOptions::default());
    let nowhere = producer.send(ProducerRecord::new(TopicName::new("nowhere").expect("a name"), "v")).await;
    assert!(matches!(nowhere, Err(ProduceError::Topic { .. })), "{nowhere:?}");
    let mut record = ProducerRecord::new(topic(), "v");
    record.partition = Some(partition(PARTITIONS));
    let outside = producer.send(record).await;
    assert!(matches!(outside, Err(ProduceError::UnknownPartition { partition_count: 2, .. })), "{outside:?}");
}

#[tokio::test]
async fn nobody_listening_is_told_with_the_address() {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("free").local_addr().expect("bound");
    let endpoint = format!("http://{free}").parse().expect("an endpoint");
    let error = Client::connect(&[endpoint], ClientOptions::default()).await.expect_err("nobody listens");
    assert!(
        matches!(&error, ConnectError::Unreachable { endpoint, .. } if endpoint.contains(&free.port().to_string()))
    );
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_given_up_in_time() {
    // Listens, and never accepts: the connection is made, the HTTP/2 handshake is not answered.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("free");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("an endpoint");
    let mut options = ClientOptions::default();
    options.request_timeout = Duration::from_millis(300);
    let begin = tokio::time::Instant::now();
    if let Ok(client) = Client::connect(&[endpoint], options).await {
        client.server_info().await.expect_err("nobody answers");
    }
    assert!(begin.elapsed() < Duration::from_secs(8));
}

async fn consumer(address: SocketAddr) -> tidelog_client::Consumer {
    let assignments: Vec<_> =
        (0..PARTITIONS).map(|number| (topic(), partition(number), StartAt::Earliest)).collect();
    client(address).await.consumer(&assignments, ConsumerOptions::default()).await.expect("known partitions")
}

#[tokio::test]
async fn seek_and_pause_hold_what_they_say() {
    let (_fake, address) = Fake::start().await;
    let producer = client(address).await.producer(single());
    for number in 0..5 {
        send(&producer, 0, format!("a{number}")).await.expect("acknowledged");
        send(&producer, 1, format!("b{number}")).await.expect("acknowledged");
    }
    let mut consumer = consumer(address).await;
    consumer.pause(&topic(), partition(1));
    consumer.seek(&topic(), partition(0), Offset::new(3).expect("in range"));
    let mut offsets = Vec::new();
    while consumer.position(&topic(), partition(0)).is_some_and(|at| at.next.get() < 5) {
        let record = consumer.next().await.expect("more").expect("a record");
        assert_eq!(record.partition, partition(0));
        offsets.push(record.offset.get());
    }
    assert_eq!(offsets, [3, 4]);
    consumer.resume(&topic(), partition(1));
    for expected in 0..5 {
        let record = consumer.next().await.expect("more").expect("a record");
        assert_eq!((record.partition, record.offset.get()), (partition(1), expected));
    }
    assert!(consumer.reached_start_watermarks());
}

#[tokio::test(start_paused = true)]
async fn what_is_read_ahead_of_one_partition_outlives_changes_of_another() {
    let (fake, network) = (Fake::new(), Network::default());
    network.serve("a", &fake);
    let client = network.client(&["a"]).await;
    let producer = client.producer(single());
    for number in 0..5 {
        send(&producer, 0, format!("a{number}")).await.expect("acknowledged");
        send(&producer, 1, format!("b{number}")).await.expect("acknowledged");
    }
    let all: Vec<_> = (0..PARTITIONS).map(|number| (topic(), partition(number), StartAt::Earliest)).collect();
    let mut consumer = client.consumer(&all, ConsumerOptions::default()).await.expect("known partitions");
    // With paused time this ends when everything is read ahead, and nothing is under way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.state.lock().sent, 10);
    consumer.seek(&topic(), partition(0), Offset::new(3).expect("in range"));
    let mut offsets = [Vec::new(), Vec::new()];
    for _ in 0..7 {
        let record = consumer.next().await.expect("more").expect("a record");
        offsets[record.partition.position()].push(record.offset.get());
    }
    assert_eq!(offsets, [vec![3, 4], vec![0, 1, 2, 3, 4]]);
    assert_eq!(fake.state.lock().sent, 12);
}

/// A consumer once said that the service had not answered for two minutes, because the streams that it had heard in between had all
/// ended for good reasons, and only those that broke were looked at.
#[tokio::test(start_paused = true)]
async fn a_service_that_was_heard_since_is_not_away() {
    let (fake, network) = (Fake::new(), Network::default());
    network.serve("a", &fake);
    let client = network.client(&["a"]).await;
    let producer = client.producer(single());
    for number in 0..3 {
        send(&producer, 0, format!("a{number}")).await.expect("acknowledged");
    }
    // One that breaks after a record, one that lives until the seek, one that breaks at once, one that lives.
    fake.state.lock().breaks.extend([1, usize::MAX, 0]);
    let from = (topic(), partition(0), StartAt::Earliest);
    let mut consumer = client.consumer(&[from], ConsumerOptions::default()).await.expect("a known partition");
    for expected in 0..3 {
        assert_eq!(consumer.next().await.expect("more").expect("a record").offset.get(), expected);
    }
    tokio::time::sleep(ConsumerOptions::default().unavailable_after + Duration::from_secs(1)).await;
    consumer.seek(&topic(), partition(0), Offset::ZERO);
    for expected in 0..3 {
        assert_eq!(consumer.next().await.expect("more").expect("it was heard since").offset.get(), expected);
    }
    assert_eq!(fake.state.lock().streams, 4 + 1, "the producer's and the consumer's");
}

#[tokio::test]
async fn damage_and_gaps_are_errors() {
    let (fake, address) = Fake::start().await;
    let producer = client(address).await.producer(single());
    for number in 0..3 {
        send(&producer, 0, format!("v{number}")).await.expect("acknowledged");
    }
    {
        let mut state = fake.state.lock();
        let log = state.logs.get_mut(&0).expect("written");
        let mut damaged = log[1].1.to_vec();
        *damaged.last_mut().expect("not empty") ^= 1;
        log[1].1 = damaged.into();
    }
    let mut reading = consumer(address).await;
    assert_eq!(reading.next().await.map(|record| record.map(|record| record.offset.get())), Some(Ok(0)));
    let error = reading.next().await.expect("an item").expect_err("damaged");
    assert!(matches!(&error, ConsumeError::Corrupt { offset, .. } if offset.get() == 1), "{error}");
    // Behind the damage the partition can be read on, if the caller says so.
    reading.seek(&topic(), partition(0), Offset::new(2).expect("in range"));
    assert_eq!(reading.next().await.map(|record| record.map(|record| record.offset.get())), Some(Ok(2)));
    // A batch that is missing is noticed, too.
    fake.state.lock().logs.get_mut(&0).expect("written").remove(1);
    let mut reading = consumer(address).await;
    assert!(reading.next().await.expect("an item").is_ok());
    let error = reading.next().await.expect("an item").expect_err("a gap");
    assert!(
        matches!(&error, ConsumeError::Corrupt { problem, .. } if problem.contains("offset 2")),
        "{error}"
    );
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Write),
        1 => Just(Fate::WriteAndBreak),
        1 => Just(Fate::Break),
        1 => Just(Fate::WriteAndClaimUnknown),
        1 => Just(Fate::WriteAndHint),
        1 => Just(Fate::Refuse(ErrorReason::StorageUnavailable)),
        1 => Just(Fate::Refuse(ErrorReason::MetadataUnavailable)),
        1 => Just(Fate::RefuseLate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever fails on the way: each record is acknowledged, stored once, in order, at the offset that was told; and a consumer whose streams
    /// break at any message gets each record once, in order.
    #[test]
    fn nothing_is_lost_repeated_or_reordered(
        fates in proptest::collection::vec(any_fate(), 0..20),
        breaks in proptest::collection::vec(0_usize..6, 0..12),
    ) {
        const RECORDS: i64 = 40;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let (fake, address) = Fake::start().await;
            fake.fates(fates);
            fake.state.lock().breaks.extend(breaks);
            let producer = client(address).await.producer(single());
            let mut deliveries = Vec::new();
            for number in 0..RECORDS {
                let mut record = ProducerRecord::new(topic(), format!("v{number}"));
                record.partition = Some(partition(i32::try_from(number % 2).expect("small")));
                deliveries.push(producer.send(record).await.expect("fits"));
            }
            for (number, delivery) in (0..).zip(deliveries) {
                let metadata = delivery.wait().await.expect("acknowledged at last");
                assert_eq!(metadata.offset.get(), number / 2);
            }
            producer.close().await;
            for parity in 0..2 {
                let expected: Vec<_> = (0..RECORDS / 2).map(|n| (n, format!("v{}", 2 * n + i64::from(parity)))).collect();
                assert_eq!(stored(&fake, parity), expected);
            }
            let mut consumer = consumer(address).await;
            let mut next = [0_i64; 2];
            for _ in 0..RECORDS {
                let record = consumer.next().await.expect("more").expect("a record");
                let expected = &mut next[record.partition.position()];
                assert_eq!(record.offset.get(), *expected);
                *expected += 1;
            }
            assert!(consumer.reached_start_watermarks());
            // It resumed where it stopped: nothing was sent twice.
            assert_eq!(i64::try_from(fake.state.lock().sent), Ok(RECORDS));
        });
    }
}
