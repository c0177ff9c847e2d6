//! `kill -9` of the agent at random moments under load, on the embedded store: every acknowledged record is there at its
//! offset, no offset holds two values, and a restart is ready soon.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;
use tidelog_integration::{Server, Stores, StoresKind, free_port};
use tidelog_proto::v1::admin_service_client::AdminServiceClient;
use tidelog_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidelog_proto::v1::produce_partition::Payload;
use tidelog_proto::v1::producer_service_client::ProducerServiceClient;
use tidelog_proto::v1::{
    CreateTopicRequest, FetchPartition, FetchRequest, FetchedRecordSet, ProducePartition, ProduceRequest,
    Record, RecordFormat, RecordSet, produce_partition_result,
};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

const PRODUCERS: usize = 8;
const PARTITIONS: usize = 4;

fn kills() -> u32 {
    std::env::var("TIDELOG_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

/// What a producer was told, and what it was not.
#[derive(Default)]
struct History {
    /// `(partition, offset)` of each acknowledged value.
    acknowledged: BTreeMap<(i32, i64), String>,
    /// Values whose outcome is unknown: they may be there, once.
    unknown: Vec<String>,
    refused: u64,
}

/// Produces unique values one by one, until told to end, through whatever restarts happen.
async fn produce(channel: Channel, producer: usize, end: tokio::sync::watch::Receiver<bool>) -> History {
    let mut client = ProducerServiceClient::new(channel);
    let mut history = History::default();
    for number in 0_u64.. {
        if *end.borrow() {
            break;
        }
        let value = format!("producer {producer} record {number}");
        let partition = i32::try_from(producer % PARTITIONS).expect("few partitions");
        let record = Record { value: Some(value.clone().into_bytes().into()), ..Record::default() };
        let records = RecordSet { records: vec![record] }.encode_to_vec();
        let entry = ProducePartition {
            topic: "killed".into(),
            partition,
            payload: Some(Payload::Records(records.into())),
            ..ProducePartition::default()
        };
        let request = ProduceRequest { partitions: vec![entry] };
        match client.produce(request).await {
            Ok(response) => match response.into_inner().results.pop().and_then(|result| result.result) {
                Some(produce_partition_result::Result::Ack(ack)) => {
                    let earlier = history.acknowledged.insert((partition, ack.base_offset), value);
                    assert_eq!(earlier, None, "INV-4: offset {} was given twice", ack.base_offset);
                }
                Some(produce_partition_result::Result::Error(error)) => {
                    if error.code == tonic::Code::DeadlineExceeded as i32 {
                        history.unknown.push(value);
                    } else {
                        history.refused += 1;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                None => panic!("an answer without a result"),
            },
            // The connection broke, or nobody listened: nobody knows.
            Err(_) => {
                history.unknown.push(value);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    history
}

async fn read_all(channel: Channel) -> BTreeMap<(i32, i64), String> {
    let mut client = ConsumerServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut found = BTreeMap::new();
    for partition in 0..i32::try_from(PARTITIONS).expect("few partitions") {
        let mut offset = 0;
        loop {
            let request = FetchRequest {
                partitions: vec![FetchPartition {
                    topic: "killed".into(),
                    partition,
                    offset,
                    ..Default::default()
                }],
                min_bytes: Some(0),
                format: RecordFormat::Records.into(),
                ..FetchRequest::default()
            };
            let fetched =
                client.fetch(request).await.expect("the agent is up").into_inner().partitions.remove(0);
            assert_eq!(fetched.error, None);
            let records = FetchedRecordSet::decode(fetched.records).expect("records").records;
            for record in &records {
                assert_eq!(record.offset, offset, "INV-4: offsets are dense");
                offset += 1;
                let value =
                    String::from_utf8(record.value.clone().unwrap_or_default().to_vec()).expect("text");
                found.insert((partition, record.offset), value);
            }
            if offset >= fetched.high_watermark {
                break;
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_kill_9() {
    let stores = Stores::new(StoresKind::Embedded, "kill").await.expect("embedded needs no service");
    let (role, arguments) = stores.server();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let port = free_port();
    let mut server = Server::start_on(port, role, &arguments, stores.directory()).await;
    let endpoint = Endpoint::from_shared(server.endpoint()).expect("a URL").timeout(Duration::from_secs(10));
    let channel = endpoint.connect_lazy();
    let topic = CreateTopicRequest {
        name: "killed".into(),
        partition_count: Some(i32::try_from(PARTITIONS).expect("few partitions")),
        ..CreateTopicRequest::default()
    };
    AdminServiceClient::new(channel.clone()).create_topic(topic).await.expect("a fresh store");

    let (end, ended) = tokio::sync::watch::channel(false);
    let producers: Vec<_> =
        (0..PRODUCERS).map(|n| tokio::spawn(produce(endpoint.connect_lazy(), n, ended.clone()))).collect();
    let mut ready = Vec::new();
    // Moments spread over the commit cycle without a random number: multiples of an irrational fraction.
    let started = Instant::now();
    for round in 0..kills() {
        let pause = 20.0 + (f64::from(round) * 0.618_034).fract() * 180.0;
        tokio::time::sleep(Duration::from_micros((pause * 1000.0) as u64)).await;
        server.kill().await;
        server = Server::start_on(port, role, &arguments, stores.directory()).await;
        ready.push(server.ready_after());
    }
    end.send(true).expect("the producers listen");
    let mut acknowledged = BTreeMap::new();
    let (mut unknown, mut refused) = (Vec::new(), 0);
    for producer in producers {
        let history = producer.await.expect("no producer panicked");
        for (place, value) in history.acknowledged {
            assert_eq!(acknowledged.insert(place, value), None, "INV-3: {place:?} was acknowledged twice");
        }
        unknown.extend(history.unknown);
        refused += history.refused;
    }

    let found = read_all(channel).await;
    for (place, value) in &acknowledged {
        assert_eq!(found.get(place), Some(value), "INV-1: acknowledged at {place:?}");
    }
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    found.values().for_each(|value| *times.entry(value).or_default() += 1);
    assert!(times.values().all(|count| *count == 1), "INV-5: a value is there twice");
    ready.sort_unstable();
    println!(
        "{} kills in {:?}: {} acknowledged, {} unknown, {refused} refused, {} found; restart to ready p50 {:?} max {:?}",
        kills(),
        started.elapsed(),
        acknowledged.len(),
        unknown.len(),
        found.len(),
        ready[ready.len() / 2],
        ready[ready.len() - 1],
    );
    assert!(acknowledged.len() > kills() as usize, "there was load");
}
