//! Fields of gRPC requests: sizes at their limits, places that do not exist, names that are none, extreme numbers.

use prost::Message;
use tidelog_integration::{Server, tidelog};
use tidelog_proto::limits::{FETCH_WAIT_MS_MAX, PARTITIONS_PER_REQUEST_MAX};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::produce_partition::Payload;
use tidelog_proto::v1::{
    AddPartitionsRequest, CreateTopicRequest, DeleteRecordsPartition, DeleteRecordsRequest,
    DeleteTopicRequest, ErrorReason, FetchPartition, FetchRequest, GetServerInfoRequest, GetTopicRequest,
    Header, InitProducerRequest, ListOffsetsPartition, ListOffsetsRequest, ListTopicsRequest,
    ProducePartition, ProduceRequest, ProducerIdentity, ProducerStamp, Record, RecordFormat,
    UpdateTopicRequest, delete_records_partition, delete_records_result, list_offsets_partition,
    list_offsets_result,
};
use tokio::time::{Duration, Instant};
use tonic::{Code, Status};

use crate::bed::{Bed, assert_error, entry, files, records, stamped, value};
use crate::calls::{call, plain};

/// Year 9999, its last millisecond.
const YEAR_9999_MS: i64 = 253_402_300_799_999;

/// The request as a whole failed for this reason.
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, reason: ErrorReason) {
    let error = ApiError::from_status(&answer.expect_err("refused"));
    assert_eq!((error.reason, error.code), (reason, reason.code()), "{error:?}");
    assert!(!error.message.is_empty(), "{error:?}");
}

#[tokio::test]
async fn empty_things_are_refused_or_kept_as_they_are() {
    let mut bed = Bed::new().await;
    bed.topic("empty", 1, &[]).await;
    assert_refused(bed.producer().produce(ProduceRequest::default()).await, ErrorReason::InvalidRequest);
    assert_refused(bed.consumer().fetch(FetchRequest::default()).await, ErrorReason::InvalidRequest);
    assert_refused(
        bed.admin().list_offsets(ListOffsetsRequest::default()).await,
        ErrorReason::InvalidRequest,
    );
    assert_refused(
        bed.admin().delete_records(DeleteRecordsRequest::default()).await,
        ErrorReason::InvalidRequest,
    );

    let nothing = ProducePartition { payload: None, ..entry("empty", 0, Payload::Batch(Vec::new().into())) };
    assert_error(&bed.produce(nothing).await.expect_err("no payload"), ErrorReason::InvalidRequest);
    assert_error(
        &bed.produce(records("empty", vec![])).await.expect_err("no record"),
        ErrorReason::CorruptBatch,
    );
    assert_error(
        &bed.produce_batch("empty", Vec::new()).await.expect_err("no byte"),
        ErrorReason::CorruptBatch,
    );
    let twice = vec![records("empty", vec![value("a")]), records("empty", vec![value("b")])];
    assert_refused(
        bed.producer().produce(ProduceRequest { partitions: twice }).await,
        ErrorReason::InvalidRequest,
    );

    // Null and empty are data, and differ.
    let headers = vec![
        Header { key: String::new(), value: None },
        Header { key: String::new(), value: Some(Vec::new().into()) },
    ];
    let sent = vec![
        Record { key: Some(Vec::new().into()), value: Some(Vec::new().into()), headers, ..Record::default() },
        Record::default(),
    ];
    let ack = bed.produce(records("empty", sent.clone())).await.expect("data");
    assert_eq!((ack.base_offset, ack.end_offset), (0, 2), "what was refused before took no offset");
    let found = bed.records("empty", 0, 0).await;
    for (found, sent) in found.iter().zip(&sent) {
        assert_eq!((&found.key, &found.value, &found.headers), (&sent.key, &sent.value, &sent.headers));
    }
    bed.is_well().await;
}

#[tokio::test]
async fn places_that_do_not_exist_are_named() {
    let mut bed = Bed::new().await;
    bed.topic("t", 2, &[]).await;
    bed.produce(records("t", vec![value("a")])).await.expect("sound");

    let far =
        bed.produce(entry("t", 7, Payload::Batch(Vec::new().into()))).await.expect_err("no such partition");
    assert_error(&far, ErrorReason::UnknownPartition);
    assert_eq!((far.metadata["partition"].as_str(), far.metadata["partition_count"].as_str()), ("7", "2"));
    for partition in [-1, i32::MIN] {
        let wrong = bed.produce(ProducePartition { partition, ..records("t", vec![value("a")]) }).await;
        assert_error(&wrong.expect_err("negative"), ErrorReason::InvalidRequest);
    }
    let other =
        bed.produce(ProducePartition { topic_id: Some(u64::MAX), ..records("t", vec![value("a")]) }).await;
    assert_error(&other.expect_err("another topic"), ErrorReason::TopicIdMismatch);

    for (topic, partition, offset, reason) in [
        ("nowhere", 0, 0, ErrorReason::UnknownTopic),
        ("t", -1, 0, ErrorReason::InvalidRequest),
        ("t", i32::MAX, 0, ErrorReason::UnknownPartition),
        ("t", 0, -1, ErrorReason::InvalidRequest),
        ("t", 0, i64::MIN, ErrorReason::InvalidRequest),
        ("t", 0, 2, ErrorReason::OffsetOutOfRange),
        ("t", 0, i64::MAX, ErrorReason::OffsetOutOfRange),
    ] {
        let fetched = bed.fetch(topic, partition, offset, RecordFormat::Batches).await;
        let error = fetched.error.unwrap_or_else(|| panic!("{topic}[{partition}] at {offset} is no place"));
        assert_error(&error, reason);
        assert!(fetched.batches.is_empty() && fetched.records.is_empty());
        if reason == ErrorReason::OffsetOutOfRange {
            assert_eq!((error.metadata["earliest"].as_str(), error.metadata["latest"].as_str()), ("0", "1"));
        }
    }

    use delete_records_partition::Before;
    for (topic, partition, before, reason) in [
        ("nowhere", 0, Some(Before::Offset(0)), ErrorReason::UnknownTopic),
        ("t", -1, Some(Before::Offset(0)), ErrorReason::InvalidRequest),
        ("t", 2, Some(Before::Offset(0)), ErrorReason::UnknownPartition),
        ("t", 0, Some(Before::Offset(-1)), ErrorReason::InvalidRequest),
        ("t", 0, Some(Before::Offset(i64::MAX)), ErrorReason::OffsetOutOfRange),
        ("t", 0, Some(Before::Position(99)), ErrorReason::InvalidRequest),
        ("t", 0, None, ErrorReason::InvalidRequest),
    ] {
        let entry = DeleteRecordsPartition { topic: topic.into(), partition, before, ..Default::default() };
        let answer = bed.admin().delete_records(DeleteRecordsRequest { partitions: vec![entry] }).await;
        match answer.expect("the request as a whole is sound").into_inner().results.remove(0).result {
            Some(delete_records_result::Result::Error(error)) => assert_error(&error, reason),
            other => panic!("{topic}[{partition}] before {before:?}: {other:?}"),
        }
    }

    use list_offsets_partition::At;
    for (topic, partition, at, expected) in [
        ("nowhere", 0, Some(At::Position(1)), Err(ErrorReason::UnknownTopic)),
        ("t", -1, Some(At::Position(1)), Err(ErrorReason::InvalidRequest)),
        ("t", 9, Some(At::Position(1)), Err(ErrorReason::UnknownPartition)),
        ("t", 0, Some(At::Position(0)), Err(ErrorReason::InvalidRequest)),
        ("t", 0, Some(At::Position(-7)), Err(ErrorReason::InvalidRequest)),
        ("t", 0, None, Err(ErrorReason::InvalidRequest)),
        ("t", 0, Some(At::TimestampMs(i64::MIN)), Ok(0)),
        ("t", 0, Some(At::TimestampMs(i64::MAX)), Ok(1)),
    ] {
        let entry = ListOffsetsPartition { topic: topic.into(), partition, at, ..Default::default() };
        let answer = bed.admin().list_offsets(ListOffsetsRequest { partitions: vec![entry] }).await;
        let result = answer.expect("the request as a whole is sound").into_inner().results.remove(0).result;
        match (result.expect("a result"), expected) {
            (list_offsets_result::Result::Error(error), Err(reason)) => assert_error(&error, reason),
            (list_offsets_result::Result::Found(found), Ok(offset)) => {
                assert_eq!(found.offset, offset, "{at:?}")
            }
            (result, expected) => panic!("{topic}[{partition}] at {at:?}: {result:?}, expected {expected:?}"),
        }
    }
    assert_eq!(bed.records("t", 0, 0).await.len(), 1, "nothing of this changed anything");
    bed.is_well().await;
}

#[tokio::test]
async fn numbers_out_of_range_are_refused() {
    let mut bed = Bed::new().await;
    bed.topic("t", 1, &[]).await;
    for partition_count in [0, -1, i32::MAX] {
        let topic = CreateTopicRequest {
            name: "n".into(),
            partition_count: Some(partition_count),
            ..Default::default()
        };
        assert_refused(bed.admin().create_topic(topic).await, ErrorReason::InvalidPartitionCount);
        let more = AddPartitionsRequest { name: "t".into(), partition_count, ..Default::default() };
        assert_refused(bed.admin().add_partitions(more).await, ErrorReason::InvalidPartitionCount);
    }
    for (key, value) in [
        ("max.message.bytes", "-1"),
        ("max.message.bytes", "0"),
        ("max.message.bytes", "8388609"),
        ("max.message.bytes", "1MiB"),
        ("cleanup.policy", "compact"),
        ("retention", "1"),
        ("", ""),
    ] {
        let config = [(key.to_owned(), value.to_owned())].into();
        let topic = CreateTopicRequest { name: "n".into(), partition_count: None, config };
        assert_refused(bed.admin().create_topic(topic).await, ErrorReason::InvalidTopicConfig);
        let set = [(key.to_owned(), value.to_owned())].into();
        let update = UpdateTopicRequest { name: "t".into(), set, ..Default::default() };
        assert_refused(bed.admin().update_topic(update).await, ErrorReason::InvalidTopicConfig);
    }
    let page = |page_size, token: &str| ListTopicsRequest { page_size, page_token: token.into() };
    assert_refused(bed.admin().list_topics(page(-1, "")).await, ErrorReason::InvalidRequest);
    assert_refused(bed.admin().list_topics(page(0, "../../etc")).await, ErrorReason::InvalidRequest);
    let pages = bed.admin().list_topics(page(i32::MAX, "")).await.expect("clamped").into_inner();
    assert_eq!(pages.topics.len(), 1);

    for (producer_id, producer_epoch, base_sequence) in
        [(-1, 0, 0), (i64::MIN, 0, 0), (0, -1, 0), (0, 32_768, 0), (0, 0, -1), (0, i32::MAX, i32::MIN)]
    {
        let stamp = Some(ProducerStamp { producer_id, producer_epoch, base_sequence });
        let wrong = ProducePartition { stamp, ..records("t", vec![value("a")]) };
        assert_error(&bed.produce(wrong).await.expect_err("out of range"), ErrorReason::InvalidRequest);
        let existing = Some(ProducerIdentity { producer_id, producer_epoch });
        if producer_id < 0 || !(0..32_768).contains(&producer_epoch) {
            let answer = bed.producer().init_producer(InitProducerRequest { existing }).await;
            assert_refused(answer, ErrorReason::InvalidRequest);
        }
    }
    bed.is_well().await;
}

#[tokio::test]
async fn names_that_are_no_topics_reach_no_store() {
    let mut bed = Bed::new().await;
    let long = "x".repeat(10 * 1024);
    let just_too_long = "x".repeat(250);
    let wrong = [
        "",
        ".",
        "..",
        "/",
        "a/b",
        "../../../../tmp/x",
        "a\0b",
        "\0",
        &long,
        &just_too_long,
        "a\u{202e}gpj.exe",
        "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
        "caf\u{e9}",
        "cafe\u{301}",
        "a b",
        " a",
        "a\n",
        "a%2fb",
        "a\\b",
        "a*",
        "a:b",
        "\u{feff}a",
    ];
    for name in wrong {
        let topic = CreateTopicRequest { name: name.into(), ..Default::default() };
        assert_refused(bed.admin().create_topic(topic).await, ErrorReason::InvalidTopicName);
        let get = GetTopicRequest { name: name.into() };
        assert_refused(bed.admin().get_topic(get).await, ErrorReason::InvalidTopicName);
        let delete = DeleteTopicRequest { name: name.into(), topic_id: None };
        assert_refused(bed.admin().delete_topic(delete).await, ErrorReason::InvalidTopicName);
        // This server creates topics that are produced to.
        let produced = bed.produce(records(name, vec![value("a")])).await;
        assert_error(&produced.expect_err("no name"), ErrorReason::InvalidTopicName);
        let fetched = bed.fetch(name, 0, 0, RecordFormat::Records).await;
        assert_error(&fetched.error.expect("no name"), ErrorReason::InvalidTopicName);
    }
    // Bytes that are no UTF-8 are no protobuf.
    let (code, said) =
        call(bed.channel(), "tidelog.v1.AdminService/CreateTopic", &[], plain(b"\x0a\x02\xff\xfe")).await;
    assert!(matches!(code, Code::InvalidArgument | Code::Internal), "{code:?} {said}");
    assert!(!said.is_empty());

    // Odd ones that are names.
    let longest = "y".repeat(249);
    for name in ["...", "-", "_", "..a", "a..", "CON", "meta", "wal", "A", "a", &longest] {
        bed.topic(name, 1, &[]).await;
        bed.produce(records(name, vec![value(name)])).await.expect("a topic");
        assert_eq!(bed.records(name, 0, 0).await[0].value.as_deref(), Some(name.as_bytes()));
    }
    let twin = CreateTopicRequest { name: "a".into(), ..Default::default() };
    assert_refused(bed.admin().create_topic(twin).await, ErrorReason::TopicExists);

    let (data, mut seen) = (bed.data(), 0);
    for path in files(&data) {
        let key = path.strip_prefix(&data).expect("below it").to_str().expect("ASCII").to_owned();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        assert!(key.chars().all(allowed) && !key.contains(".."), "{key:?}");
        assert!(
            !key.contains("yyy") && !key.contains("xxx") && !key.contains("CON"),
            "{key:?} has a client's name in it"
        );
        seen += 1;
    }
    assert!(seen > 10, "{seen} files");
    bed.is_well().await;
}

#[tokio::test]
async fn timestamps_are_data() {
    let mut bed = Bed::new().await;
    let times = [0, -1, i64::MIN, YEAR_9999_MS, i64::MAX, 1];
    let sent = times.map(|time| Record { timestamp_ms: Some(time), ..value("t") });
    bed.produce(records("times", sent.to_vec())).await.expect("data");
    let found: Vec<i64> = bed.records("times", 0, 0).await.iter().map(|record| record.timestamp_ms).collect();
    assert_eq!(found, times);
    // Nothing was retired for its age.
    let topic =
        bed.admin().get_topic(GetTopicRequest { name: "times".into() }).await.expect("there").into_inner();
    assert_eq!((topic.partitions[0].log_start_offset, topic.partitions[0].high_watermark), (0, 6));
    bed.is_well().await;
}

#[tokio::test]
async fn fetches_are_clamped() {
    let mut bed = Bed::new().await;
    bed.topic("t", 1, &[]).await;
    bed.produce(records("t", vec![value("a")])).await.expect("sound");
    let fetch = |partitions: Vec<FetchPartition>| FetchRequest { partitions, ..Default::default() };
    let one = || vec![FetchPartition { topic: "t".into(), ..Default::default() }];

    for wrong in [
        FetchRequest { min_bytes: Some(-1), ..fetch(one()) },
        FetchRequest { max_bytes: Some(0), ..fetch(one()) },
        FetchRequest { max_bytes: Some(-1), ..fetch(one()) },
        FetchRequest { max_wait_ms: Some(-1), ..fetch(one()) },
        FetchRequest { format: 99, ..fetch(one()) },
    ] {
        assert_refused(bed.consumer().fetch(wrong).await, ErrorReason::InvalidRequest);
    }
    // A wait of 24 days for 2 GiB ends when there is as much as the answer may hold.
    let greedy = FetchRequest {
        min_bytes: Some(i32::MAX),
        max_bytes: Some(1),
        max_wait_ms: Some(i32::MAX),
        ..fetch(one())
    };
    let started = Instant::now();
    let fetched = bed.consumer().fetch(greedy).await.expect("clamped").into_inner();
    assert!(!fetched.partitions[0].records.is_empty());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // Otherwise when the time is over.
    let patient = FetchRequest { min_bytes: Some(i32::MAX), max_wait_ms: Some(300), ..fetch(one()) };
    let started = Instant::now();
    let fetched = bed.consumer().fetch(patient).await.expect("clamped").into_inner();
    assert!(!fetched.partitions[0].records.is_empty());
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    // That time has a limit of its own, and clients are told.
    let info = bed.admin().get_server_info(GetServerInfoRequest {}).await.expect("there").into_inner();
    assert_eq!(
        info.limits.expect("limits").fetch_wait_ms_max,
        i32::try_from(FETCH_WAIT_MS_MAX).expect("small")
    );

    let many = |count: usize| -> Vec<FetchPartition> {
        let partition = |n| FetchPartition { topic: "t".into(), partition: n, ..Default::default() };
        (0..i32::try_from(count).expect("few")).map(partition).collect()
    };
    let all = FetchRequest { min_bytes: Some(0), ..fetch(many(PARTITIONS_PER_REQUEST_MAX)) };
    let fetched = bed.consumer().fetch(all).await.expect("as many as allowed").into_inner().partitions;
    assert_eq!(fetched.len(), PARTITIONS_PER_REQUEST_MAX);
    assert!(fetched[0].error.is_none());
    for missing in &fetched[1..] {
        assert_error(missing.error.as_ref().expect("no such partition"), ErrorReason::UnknownPartition);
    }
    let more = fetch(many(PARTITIONS_PER_REQUEST_MAX + 1));
    assert_refused(bed.consumer().fetch(more).await, ErrorReason::RequestTooLarge);
    bed.is_well().await;
}

#[tokio::test]
async fn sequences_that_do_not_follow_are_refused() {
    let mut bed = Bed::new().await;
    bed.topic("s", 2, &[]).await;
    let unknown = bed.produce(stamped("s", 77_777, 0, 0)).await.expect_err("never allocated");
    assert_error(&unknown, ErrorReason::UnknownProducer);
    let never = Some(ProducerIdentity { producer_id: 77_777, producer_epoch: 0 });
    let answer = bed.producer().init_producer(InitProducerRequest { existing: never }).await;
    assert_refused(answer, ErrorReason::UnknownProducer);

    let answer = bed.producer().init_producer(InitProducerRequest::default()).await.expect("sound");
    let ProducerIdentity { producer_id: id, producer_epoch: epoch } =
        answer.into_inner().producer.expect("one");
    let early = bed.produce(stamped("s", id, epoch, 5)).await.expect_err("a gap");
    assert_error(&early, ErrorReason::OutOfOrderSequence);
    assert_eq!(early.metadata["expected_sequence"], "0");
    for sequence in 0..3 {
        bed.produce(stamped("s", id, epoch, sequence)).await.expect("the next one");
    }
    let gap = bed.produce(stamped("s", id, epoch, 9)).await.expect_err("a gap");
    assert_error(&gap, ErrorReason::OutOfOrderSequence);
    assert_eq!(gap.metadata["expected_sequence"], "3");
    let last = bed.produce(stamped("s", id, epoch, i32::MAX)).await.expect_err("a gap");
    assert_error(&last, ErrorReason::OutOfOrderSequence);
    // Other bytes under the same stamp: the first ones stay.
    let again = ProducePartition {
        stamp: stamped("s", id, epoch, 1).stamp,
        ..records("s", vec![value("other bytes")])
    };
    let duplicate = bed.produce(again).await.expect("a duplicate");
    assert_eq!((duplicate.duplicate, duplicate.base_offset), (true, 1));

    let existing = Some(ProducerIdentity { producer_id: id, producer_epoch: epoch });
    let raised = bed.producer().init_producer(InitProducerRequest { existing }).await.expect("sound");
    let raised = raised.into_inner().producer.expect("one");
    assert!(raised.producer_epoch > epoch);
    let fenced = bed.produce(stamped("s", id, epoch, 3)).await.expect_err("an old epoch");
    assert_error(&fenced, ErrorReason::ProducerFenced);
    assert_eq!(fenced.metadata["current_epoch"], raised.producer_epoch.to_string());
    let answer = bed.producer().init_producer(InitProducerRequest { existing }).await;
    assert_refused(answer, ErrorReason::ProducerFenced);

    let found = bed.records("s", 0, 0).await;
    assert_eq!(found.len(), 3, "nothing that was refused is there");
    assert!(found.iter().all(|record| record.value.as_deref() == Some(b"stamped".as_slice())));
    bed.is_well().await;
}

#[tokio::test]
async fn agents_create_no_topic_by_themselves() {
    let directory = tempfile::tempdir().expect("a directory");
    let storage = format!("file://{}", directory.path().join("data").display());
    let arguments = ["--storage", &storage, "--metadata", "storage"];
    tidelog(None, &[&["init"], arguments.as_slice()].concat(), Vec::new()).await.ok();
    let server = Server::start("agent", &arguments, directory.path()).await;
    let channel = tonic::transport::Endpoint::from_shared(server.endpoint()).expect("a URL").connect_lazy();
    let mut producer =
        tidelog_proto::v1::producer_service_client::ProducerServiceClient::new(channel.clone());
    let request = ProduceRequest { partitions: vec![records("nowhere", vec![value("a")])] };
    let answer = producer.produce(request).await.expect("the request as a whole is sound").into_inner();
    let Some(tidelog_proto::v1::produce_partition_result::Result::Error(error)) = &answer.results[0].result
    else {
        panic!("{answer:?}");
    };
    assert_error(error, ErrorReason::UnknownTopic);
    assert_eq!(error.metadata["topic"], "nowhere");
    let mut admin = tidelog_proto::v1::admin_service_client::AdminServiceClient::new(channel);
    assert!(
        admin.list_topics(ListTopicsRequest::default()).await.expect("there").into_inner().topics.is_empty()
    );
    assert_refused(
        admin.get_topic(GetTopicRequest { name: "nowhere".into() }).await,
        ErrorReason::UnknownTopic,
    );
    let delete = DeleteTopicRequest { name: "nowhere".into(), topic_id: None };
    assert_refused(admin.delete_topic(delete).await, ErrorReason::UnknownTopic);
    crate::bed::assert_calm(&server);
}

#[tokio::test]
async fn bytes_that_are_no_protobuf_are_refused() {
    let mut bed = Bed::new().await;
    let groups = [0x7b_u8; 100_000];
    let valid = ProduceRequest { partitions: vec![records("t", vec![value("a")])] }.encode_to_vec();
    let cut = &valid[..valid.len() - 3];
    let rows: [(&str, &[u8]); 5] = [
        ("a group in a group in a group", &groups),
        ("a length beyond the end", b"\x0a\xff\xff\xff\xff\x0f"),
        ("a varint of eleven bytes", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ("a message that was cut", cut),
        ("zeros", &[0; 1000]),
    ];
    for method in [
        "tidelog.v1.ProducerService/Produce",
        "tidelog.v1.ProducerService/ProduceStream",
        "tidelog.v1.ProducerService/InitProducer",
        "tidelog.v1.ConsumerService/Fetch",
        "tidelog.v1.ConsumerService/Subscribe",
        "tidelog.v1.AdminService/CreateTopic",
        "tidelog.v1.AdminService/ListOffsets",
    ] {
        for (what, bytes) in rows {
            let (code, said) = call(bed.channel(), method, &[], plain(bytes)).await;
            let fits = matches!(code, Code::InvalidArgument | Code::Internal | Code::OutOfRange);
            assert!(fits && !said.is_empty(), "{method} with {what}: {code:?} {said:?}");
        }
        let (code, said) = call(bed.channel(), method, &[], bytes::Bytes::new()).await;
        assert!(!matches!(code, Code::Ok | Code::Unknown), "{method} without a message: {code:?} {said:?}");
    }
    let (code, _) = call(bed.channel(), "tidelog.v1.ProducerService/Nothing", &[], plain(b"")).await;
    assert_eq!(code, Code::Unimplemented);
    let (code, _) = call(bed.channel(), "../../etc/passwd", &[], plain(b"")).await;
    assert_eq!(code, Code::Unimplemented);
    // What was refused is seen, under the names of the service alone.
    assert_eq!(bed.calls("other", "unimplemented").await, 2.0);
    for api in ["produce", "init_producer", "fetch", "subscribe", "create_topic", "list_offsets"] {
        assert!(bed.calls(api, "internal").await >= 3.0, "{api}");
    }
    bed.is_well().await;
}
