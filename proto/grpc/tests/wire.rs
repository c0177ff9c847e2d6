//! The two fields that the Rust code sees as bytes are on the wire what the contract says. The judge is `prost-reflect`, which encodes and decodes
//! by the contract's descriptor and knows nothing of the generated code.

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value};
use tidelog_proto::FILE_DESCRIPTOR_SET;
use tidelog_proto::v1;

fn dynamic(message: &str, bytes: &[u8]) -> DynamicMessage {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("a descriptor set");
    let descriptor = pool.get_message_by_name(&format!("tidelog.v1.{message}")).expect("the message exists");
    DynamicMessage::decode(descriptor, bytes).expect("valid on the wire")
}

fn records() -> v1::RecordSet {
    let header = |key: &str, value: Option<&'static [u8]>| v1::Header {
        key: key.into(),
        value: value.map(Bytes::from_static),
    };
    let full = v1::Record {
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::from_static(&[0xff, 0])),
        headers: vec![header("a", Some(b"1")), header("a", None), header("", Some(b""))],
        timestamp_ms: Some(-1),
    };
    let empty = v1::Record {
        key: Some(Bytes::new()),
        value: Some(Bytes::new()),
        headers: vec![],
        timestamp_ms: Some(0),
    };
    v1::RecordSet { records: vec![full, empty, v1::Record::default()] }
}

fn fetched() -> v1::FetchedRecordSet {
    let convert = |(offset, record): (i64, v1::Record)| v1::FetchedRecord {
        offset,
        timestamp_ms: record.timestamp_ms.unwrap_or(7),
        key: record.key,
        value: record.value,
        headers: record.headers,
    };
    v1::FetchedRecordSet { records: (i64::MAX - 3..).zip(records().records).map(convert).collect() }
}

#[test]
fn raw_records_of_a_producer_are_the_contracts_record_set() {
    let ours = v1::ProducePartition {
        topic: "t".into(),
        partition: 3,
        topic_id: None,
        stamp: Some(v1::ProducerStamp { producer_id: 1, producer_epoch: 2, base_sequence: 3 }),
        payload: Some(v1::produce_partition::Payload::Records(records().encode_to_vec().into())),
    };
    let theirs = dynamic("ProducePartition", &ours.encode_to_vec());
    assert_eq!(theirs.unknown_fields().count(), 0);
    let inner = theirs.get_field_by_name("records").expect("the field exists").into_owned();
    let Value::Message(inner) = inner else { panic!("records are no message: {inner:?}") };
    assert_eq!(inner.descriptor().full_name(), "tidelog.v1.RecordSet");
    assert_eq!(inner.unknown_fields().count(), 0);
    assert_eq!(inner.transcode_to::<v1::RecordSet>().expect("transcodes"), records());

    // And back: what a foreign client encodes arrives as these bytes.
    let read = v1::ProducePartition::decode(theirs.encode_to_vec().as_slice()).expect("decodes");
    let Some(v1::produce_partition::Payload::Records(raw)) = read.payload else { panic!("no raw records") };
    assert_eq!(v1::RecordSet::decode(raw).expect("decodes"), records());
}

#[test]
fn raw_records_for_a_consumer_are_the_contracts_record_set() {
    let ours = v1::FetchedPartition {
        next_offset: 9,
        records: fetched().encode_to_vec().into(),
        ..Default::default()
    };
    let theirs = dynamic("FetchedPartition", &ours.encode_to_vec());
    let inner = theirs.get_field_by_name("records").expect("the field exists").into_owned();
    let Value::Message(inner) = inner else { panic!("records are no message: {inner:?}") };
    assert_eq!(inner.descriptor().full_name(), "tidelog.v1.FetchedRecordSet");
    assert_eq!(inner.transcode_to::<v1::FetchedRecordSet>().expect("transcodes"), fetched());

    let read = v1::FetchedPartition::decode(theirs.encode_to_vec().as_slice()).expect("decodes");
    assert_eq!(v1::FetchedRecordSet::decode(read.records).expect("decodes"), fetched());
}

#[test]
fn null_and_empty_stay_apart() {
    let read = v1::RecordSet::decode(records().encode_to_vec().as_slice()).expect("decodes");
    assert_eq!(read.records[1].key, Some(Bytes::new()));
    assert_eq!(read.records[2].key, None);
    assert_eq!(read.records[0].headers[1].value, None);
    assert_eq!(read.records[0].headers[2].value, Some(Bytes::new()));
    assert_eq!(read.records[1].timestamp_ms, Some(0));
    assert_eq!(read.records[2].timestamp_ms, None);
}

#[test]
fn no_records_may_be_an_empty_set_or_none() {
    // A foreign server may send an empty message where ours sends nothing; both read as no records.
    let mut theirs = dynamic("FetchedPartition", &[]);
    assert!(!theirs.has_field_by_name("records"));
    let empty = dynamic("FetchedRecordSet", &[]);
    theirs.set_field_by_name("records", Value::Message(empty));
    let encoded = theirs.encode_to_vec();
    assert_eq!(encoded, [8 << 3 | 2, 0]);
    assert_eq!(v1::FetchedPartition::decode(encoded.as_slice()).expect("decodes"), Default::default());

    // In a oneof the empty set is still the chosen form.
    let entry = v1::ProducePartition {
        payload: Some(v1::produce_partition::Payload::Records(Bytes::new())),
        ..Default::default()
    };
    assert_eq!(v1::ProducePartition::decode(entry.encode_to_vec().as_slice()).expect("decodes"), entry);
}

#[test]
fn raw_records_are_not_copied_out_of_the_message() {
    let entry = v1::ProducePartition {
        payload: Some(v1::produce_partition::Payload::Records(vec![b'x'; 100].into())),
        ..Default::default()
    };
    let message = Bytes::from(v1::ProduceRequest { partitions: vec![entry] }.encode_to_vec());
    let mut read = v1::ProduceRequest::decode(message.clone()).expect("decodes");
    let Some(v1::produce_partition::Payload::Records(raw)) = read.partitions.remove(0).payload else {
        panic!("no raw records")
    };
    assert!(message.as_ptr_range().contains(&raw.as_ptr()));
}

/// Others build and read these messages by hand, from these numbers.
#[test]
fn record_field_numbers_are_fixed() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("a descriptor set");
    let numbers = |message: &str| {
        let descriptor = pool.get_message_by_name(&format!("tidelog.v1.{message}")).expect("exists");
        descriptor.fields().map(|f| format!("{}={}", f.name(), f.number())).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(numbers("Header"), "key=1 value=2");
    assert_eq!(numbers("Record"), "key=1 value=2 headers=3 timestamp_ms=4");
    assert_eq!(numbers("RecordSet"), "records=1");
    assert_eq!(numbers("FetchedRecord"), "offset=1 timestamp_ms=2 key=3 value=4 headers=5");
    assert_eq!(numbers("FetchedRecordSet"), "records=1");
    assert_eq!(numbers("RecordBatch"), "base_offset=1 data=2");
}
