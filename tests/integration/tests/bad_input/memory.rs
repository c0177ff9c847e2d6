//! Sizes and bombs: what a request makes the agent hold is bounded, whatever it says and whatever it unfolds to.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidelog_proto::limits::{FETCH_BYTES_MAX, PARTITIONS_PER_REQUEST_MAX, REQUEST_BYTES_MAX};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::produce_partition::Payload;
use tidelog_proto::v1::subscribe_partition::Start;
use tidelog_proto::v1::{
    ErrorReason, FetchPartition, FetchRequest, FetchedRecordSet, ProduceRequest, RecordFormat,
    SubscribePartition, SubscribeRequest, produce_partition_result, subscribe_response,
};
use tidelog_record::Compression;
use tokio::time::{Duration, Instant};
use tonic::Code;

use crate::batches::batch;
use crate::bed::{Bed, MIB, assert_error, entry};
use crate::calls::{call, message, plain};
use prost::Message;

const PRODUCE: &str = "tidelog.v1.ProducerService/Produce";
const STREAM: &str = "tidelog.v1.ProducerService/ProduceStream";
const FETCH: &str = "tidelog.v1.ConsumerService/Fetch";

#[tokio::test]
async fn messages_over_the_limit_are_not_read() {
    let mut bed = Bed::new().await;
    bed.serves().await;
    let before = bed.resident();
    let zeros = vec![0; REQUEST_BYTES_MAX + 1];
    for method in [PRODUCE, STREAM, FETCH, "tidelog.v1.AdminService/CreateTopic"] {
        let (code, said) = call(bed.channel(), method, &[], plain(&zeros)).await;
        assert!(matches!(code, Code::OutOfRange | Code::ResourceExhausted), "{method}: {code:?} {said}");
        assert!(said.contains("16777216") || said.contains("limit"), "names the limit: {said}");
        // The length alone is enough.
        for length in [u32::MAX, 1 << 31, 1 << 25] {
            let (code, said) = call(bed.channel(), method, &[], message(0, length, b"x")).await;
            assert!(matches!(code, Code::OutOfRange | Code::ResourceExhausted), "{method}: {code:?} {said}");
        }
    }
    let grown = bed.resident_peak().saturating_sub(before);
    assert!(grown < 96 * MIB, "{} MiB for requests that are refused", grown / MIB);
    for api in ["produce", "fetch", "create_topic"] {
        assert_eq!(bed.calls(api, "out_of_range").await, 4.0, "{api}");
    }
    bed.is_well().await;
}

#[tokio::test]
async fn compressed_requests_are_not_decompressed() {
    let mut bed = Bed::new().await;
    bed.serves().await;
    let before = bed.resident();
    // Gzip of a record batch's codec: 8 MiB of zeros in some kilobytes, and the same once more.
    let bomb = batch(&[&vec![0; 8 * MIB as usize]], Compression::Gzip)[61..].to_vec();
    let nested = batch(&[&bomb.repeat(200)], Compression::Gzip)[61..].to_vec();
    for bytes in [bomb.as_slice(), nested.as_slice(), &[0x1f, 0x8b, 0xff]] {
        let length = u32::try_from(bytes.len()).expect("small");
        for method in [PRODUCE, STREAM, FETCH] {
            for encoding in ["gzip", "deflate", "zstd", "snappy", "x", ""] {
                let headers = [("grpc-encoding", encoding)];
                let (code, said) = call(bed.channel(), method, &headers, message(1, length, bytes)).await;
                assert!(
                    matches!(code, Code::Unimplemented | Code::Internal),
                    "{method} {encoding}: {code:?} {said}"
                );
                assert!(!said.is_empty());
            }
            // A flag without an encoding, and a flag that is none.
            for flag in [1, 2, 255] {
                let (code, said) = call(bed.channel(), method, &[], message(flag, length, bytes)).await;
                assert!(
                    matches!(code, Code::Unimplemented | Code::Internal),
                    "{method} {flag}: {code:?} {said}"
                );
            }
        }
    }
    let grown = bed.resident_peak().saturating_sub(before);
    assert!(grown < 32 * MIB, "{} MiB for requests that are refused", grown / MIB);
    bed.is_well().await;
}

/// Two bytes of a message can become a struct of a hundred: as many as are allowed, and no more, may be made.
#[tokio::test]
async fn a_request_of_empty_entries_does_not_unfold() {
    let mut bed = Bed::new().await;
    bed.serves().await;
    let before = bed.resident();
    let empty = [0x0a, 0].repeat(REQUEST_BYTES_MAX / 2 - 8);
    // The first message of a stream is its configuration; then an append of empty entries.
    let entries = [0x12, 0].repeat(REQUEST_BYTES_MAX / 2 - 8);
    let mut append = vec![0x12];
    prost::encoding::encode_varint(entries.len() as u64, &mut append);
    append.extend_from_slice(&entries);
    let stream = Bytes::from([plain(b"\x0a\x00"), plain(&append)].concat());
    let strings = [0x22, 0].repeat(REQUEST_BYTES_MAX / 2 - 8);
    let rows = [
        (PRODUCE, plain(&empty)),
        (STREAM, stream),
        (FETCH, plain(&empty)),
        ("tidelog.v1.ConsumerService/Subscribe", plain(&empty)),
        ("tidelog.v1.AdminService/ListOffsets", plain(&empty)),
        ("tidelog.v1.AdminService/DeleteRecords", plain(&empty)),
        ("tidelog.v1.AdminService/UpdateTopic", plain(&strings)),
    ];
    for (method, body) in rows {
        let (code, said) = call(bed.channel(), method, &[], body).await;
        let fits = matches!(code, Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted);
        let peak = bed.resident_peak();
        println!("{method}: {code:?} {said}; peak {} MiB", peak / MIB);
        assert!(fits && !said.is_empty(), "{method}: {code:?} {said}");
        assert!(peak - before < 128 * MIB, "{method} unfolds to {} MiB", (peak - before) / MIB);
    }
    bed.is_well().await;
}

/// Partitions of one topic, each with a batch that is small and decompresses to almost the most that a batch may.
async fn bombs(bed: &Bed, topic: &str, partitions: i32, compression: Compression) -> Bytes {
    bed.topic(topic, partitions, &[]).await;
    let bomb = Bytes::from(batch(&[&vec![0; 30 * MIB as usize]], compression));
    assert!(bomb.len() < 64 * 1024, "{} bytes", bomb.len());
    let partitions =
        (0..partitions).map(|partition| entry(topic, partition, Payload::Batch(bomb.clone()))).collect();
    let answer = bed.producer().produce(ProduceRequest { partitions }).await.expect("sound").into_inner();
    for result in answer.results {
        assert!(matches!(result.result, Some(produce_partition_result::Result::Ack(_))), "{result:?}");
    }
    bomb
}

#[tokio::test]
async fn batches_that_decompress_to_much_are_delivered_piece_by_piece() {
    let mut bed = Bed::new().await;
    let partitions = 24;
    bombs(&bed, "bombs", partitions, Compression::Zstd).await;
    let before = bed.resident();

    // 24 partitions of 30 MiB each in one request: one answer holds one of them, because that is more than an answer should hold.
    let mut left: BTreeMap<i32, i64> = (0..partitions).map(|partition| (partition, 0)).collect();
    let mut rounds = 0;
    while !left.is_empty() {
        let wanted = left.iter().map(|(partition, offset)| FetchPartition {
            topic: "bombs".into(),
            partition: *partition,
            offset: *offset,
            ..FetchPartition::default()
        });
        let request =
            FetchRequest { partitions: wanted.collect(), min_bytes: Some(0), ..FetchRequest::default() };
        let answer = bed.consumer().fetch(request).await.expect("sound").into_inner().partitions;
        let delivered = answer.iter().filter(|partition| !partition.records.is_empty()).count();
        assert_eq!(delivered, 1, "batches in an answer that may hold {} MiB", FETCH_BYTES_MAX as u64 / MIB);
        for partition in answer {
            assert_eq!(partition.error, None);
            if !partition.records.is_empty() {
                assert_eq!(partition.next_offset, 1);
                left.remove(&partition.partition);
            }
        }
        rounds += 1;
        assert!(rounds <= partitions, "a round without progress");
    }
    let grown = bed.resident_peak().saturating_sub(before);
    println!("{rounds} fetches, grown by {} MiB", grown / MIB);
    // An answer: decompressed, as records, and as the message that is sent, in buffers that grow by doubling.
    assert!(grown < 320 * MIB, "{} MiB for answers of 30 MiB", grown / MIB);
    bed.is_well().await;
}

#[tokio::test]
async fn a_subscription_unfolds_no_more_than_a_fetch() {
    let mut bed = Bed::new().await;
    let partitions = 24;
    bombs(&bed, "bombs", partitions, Compression::Zstd).await;
    // And many of them in one partition.
    let bomb = bombs(&bed, "row", 1, Compression::Zstd).await;
    for _ in 1..partitions {
        bed.produce_batch("row", bomb.clone()).await.expect("sound");
    }
    let before = bed.resident();
    for (topic, wanted) in [("bombs", (0..partitions).collect::<Vec<_>>()), ("row", vec![0])] {
        let subscribe = |partition: i32| SubscribePartition {
            topic: topic.into(),
            partition,
            start: Some(Start::Offset(0)),
            ..SubscribePartition::default()
        };
        let request = SubscribeRequest {
            partitions: wanted.into_iter().map(subscribe).collect(),
            ..SubscribeRequest::default()
        };
        let mut stream = bed.consumer().subscribe(request).await.expect("sound").into_inner();
        let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
        let mut found = 0;
        while found < partitions {
            let response = stream.message().await.expect("it goes on").expect("it does not end");
            let Some(subscribe_response::Message::Records(records)) = response.message else { continue };
            assert_eq!(
                records.partitions.len(),
                1,
                "{topic}: a message has one batch, and says nothing of others"
            );
            for partition in records.partitions {
                assert_eq!(partition.error, None);
                let records = FetchedRecordSet::decode(partition.records).expect("records").records;
                assert_eq!(records.len(), 1);
                for record in records {
                    let next = offsets.entry(partition.partition).or_default();
                    assert_eq!(record.offset, *next, "INV-20: nothing skipped, nothing twice");
                    assert_eq!(record.value.map(|value| value.len()), Some(30 * MIB as usize));
                    *next += 1;
                    found += 1;
                }
                assert_eq!(Some(&partition.next_offset), offsets.get(&partition.partition));
            }
        }
    }
    let grown = bed.resident_peak().saturating_sub(before);
    println!("grown by {} MiB", grown / MIB);
    // One message that is sent, and the next one.
    assert!(grown < 384 * MIB, "{} MiB for messages of 30 MiB", grown / MIB);
    bed.is_well().await;
}

/// What decompresses to more than a batch may is an error for who wants records, and whole for who wants batches.
#[tokio::test]
async fn a_batch_that_decompresses_to_too_much_is_an_error() {
    let mut bed = Bed::new().await;
    let before = bed.resident();
    for (topic, compression) in [
        ("gzip", Compression::Gzip),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
    ] {
        let bomb = batch(&[&vec![0; 160 * MIB as usize]], compression);
        bed.topic(topic, 1, &[("max.message.bytes", "8388608")]).await;
        if bomb.len() as u64 > 8 * MIB {
            // Snappy does not compress so well.
            continue;
        }
        let ack = bed.produce_batch(topic, bomb.clone()).await.expect("small as it is sent");
        let fetched = bed.fetch(topic, 0, ack.base_offset, RecordFormat::Records).await;
        assert_error(&fetched.error.expect("too much"), ErrorReason::StoredDataCorrupt);
        let fetched = bed.fetch(topic, 0, ack.base_offset, RecordFormat::Batches).await;
        assert!(fetched.error.is_none() && fetched.batches[0].data == bomb);
    }
    let grown = bed.resident_peak().saturating_sub(before);
    println!("grown by {} MiB", grown / MIB);
    assert!(grown < 224 * MIB, "{} MiB where 32 are allowed", grown / MIB);
    bed.is_well().await;
}

/// More than fits the buffers at once: who does not fit is told to wait, and memory stays within its bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_buffers_are_bounded_and_recover() {
    const CALLS: usize = 24;
    let mut bed = Bed::with(&["--buffer-memory", "32MiB", "--cache-memory", "16MiB"]).await;
    bed.topic("full", 16, &[]).await;
    let before = bed.resident();
    let one = Bytes::from(batch(&[&vec![1; 1_000_000]], Compression::None));
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let (mut producer, one) = (bed.producer(), one.clone());
        calls.push(tokio::spawn(async move {
            let entries = (0..16).map(|partition| entry("full", partition, Payload::Batch(one.clone())));
            producer.produce(ProduceRequest { partitions: entries.collect() }).await
        }));
    }
    let (mut written, mut refused) = (0, 0);
    for call in calls {
        match call.await.expect("no panic") {
            Ok(answer) => {
                for result in answer.into_inner().results {
                    assert!(
                        matches!(result.result, Some(produce_partition_result::Result::Ack(_))),
                        "{result:?}"
                    );
                    written += 1;
                }
            }
            Err(status) => {
                let error = ApiError::from_status(&status);
                assert_eq!(
                    (error.code, error.reason),
                    (Code::ResourceExhausted, ErrorReason::BufferFull),
                    "{error:?}"
                );
                assert!(error.retry_after.is_some_and(|wait| wait > Duration::ZERO), "{error:?}");
                refused += 1;
            }
        }
    }
    assert_eq!(bed.calls("produce", "resource_exhausted").await, f64::from(refused));
    let grown = bed.resident_peak().saturating_sub(before);
    println!("{written} batches written, {refused} calls refused, grown by {} MiB", grown / MIB);
    assert!(written >= 16 && refused >= 1, "{written} batches written, {refused} calls refused");
    // Requests, segments on their way, the cache, and what the transport holds of calls that are refused.
    assert!(grown < 256 * MIB, "{} MiB with buffers of 32", grown / MIB);
    // Every byte was given back: a request of half of them fits again.
    let entries = (0..16).map(|partition| entry("full", partition, Payload::Batch(one.clone()))).collect();
    let again = bed
        .producer()
        .produce(ProduceRequest { partitions: entries })
        .await
        .expect("room again")
        .into_inner();
    assert_eq!(again.results.len(), 16);
    bed.is_well().await;
}

/// Calls that announce 16 MiB and never send them hold no room for ever.
#[tokio::test]
async fn announced_bytes_that_never_come_are_given_back() {
    use crate::frames::{DATA, Frames};
    let mut bed = Bed::with(&["--buffer-memory", "32MiB"]).await;
    let mut attackers = Vec::new();
    for _ in 0..2 {
        let mut attacker = Frames::connect(bed.server.port()).await;
        for stream in [1, 3] {
            attacker.open(stream, PRODUCE).await;
            let announced = message(0, u32::try_from(REQUEST_BYTES_MAX).expect("small"), b"x");
            attacker.write(DATA, 0, stream, &announced).await;
        }
        attackers.push(attacker);
    }
    let started = Instant::now();
    // Pings are answered, so the connections look alive.
    let reading: Vec<_> = attackers
        .into_iter()
        .map(|mut attacker| tokio::spawn(async move { attacker.read_for(Duration::from_secs(40)).await }))
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let entry = || crate::bed::records("canary", vec![crate::bed::value("sings")]);
    loop {
        match bed.producer().produce(ProduceRequest { partitions: vec![entry()] }).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "nobody can write while somebody holds the buffers"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("room again after {:?}", started.elapsed());
    reading.iter().for_each(tokio::task::JoinHandle::abort);
    bed.is_well().await;
}

#[tokio::test]
async fn too_many_partitions_are_one_error() {
    let mut bed = Bed::new().await;
    let entries = (0..=i32::try_from(PARTITIONS_PER_REQUEST_MAX).expect("few"))
        .map(|partition| entry("t", partition, Payload::Batch(Bytes::new())));
    let status =
        bed.producer().produce(ProduceRequest { partitions: entries.collect() }).await.expect_err("too many");
    let error = ApiError::from_status(&status);
    assert_eq!(
        (error.reason, error.metadata["limit"].as_str()),
        (ErrorReason::RequestTooLarge, "2000"),
        "{error:?}"
    );
    bed.is_well().await;
}
