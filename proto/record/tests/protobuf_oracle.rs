//! prost's generated code is the oracle for the protobuf that is read and written by hand.

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use support::{Header, Record, any_compression, any_record, any_timestamp, decode, encode, record, stamp};
use tidelog_record::{
    BatchErrorKind, BatchLimits, Compression, RecordSetError, records_to_protobuf, transcode_records,
    verify_records,
};
use tidelog_types::{Offset, TimestampMs};

const NOW: TimestampMs = TimestampMs(1_750_000_000_000);
const LIMITS: BatchLimits = BatchLimits { max_batch_bytes: 8 << 20, max_decompressed_bytes: 8 << 20 };

// The messages of tidelog.v1 that these bytes are.

#[derive(Clone, PartialEq, prost::Message)]
struct PbHeader {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    value: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbRecord {
    #[prost(bytes = "vec", optional, tag = "1")]
    key: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    value: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "3")]
    headers: Vec<PbHeader>,
    #[prost(int64, optional, tag = "4")]
    timestamp_ms: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbRecordSet {
    #[prost(message, repeated, tag = "1")]
    records: Vec<PbRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbFetchedRecord {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(int64, tag = "2")]
    timestamp_ms: i64,
    #[prost(bytes = "vec", optional, tag = "3")]
    key: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    value: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "5")]
    headers: Vec<PbHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbFetchedRecordSet {
    #[prost(message, repeated, tag = "1")]
    records: Vec<PbFetchedRecord>,
}

fn headers_to_pb(headers: &[Header]) -> Vec<PbHeader> {
    headers.iter().map(|(key, value)| PbHeader { key: key.clone(), value: value.clone() }).collect()
}

fn to_pb(record: &Record) -> PbRecord {
    PbRecord {
        key: record.key.clone(),
        value: record.value.clone(),
        headers: headers_to_pb(&record.headers),
        timestamp_ms: Some(record.timestamp),
    }
}

fn from_pb(record: PbRecord) -> Record {
    Record {
        timestamp: record.timestamp_ms.unwrap_or(NOW.0),
        key: record.key,
        value: record.value,
        headers: record.headers.into_iter().map(|h| (h.key, h.value)).collect(),
    }
}

/// Transcodes behind other bytes, and checks those, and that an error leaves nothing behind.
fn transcode(raw: &[u8]) -> Result<Bytes, RecordSetError> {
    let mut out = b"other".to_vec();
    let result = transcode_records(raw, NOW, None, &LIMITS, &mut out);
    let batch = Bytes::from(out);
    assert_eq!(&batch[..5], b"other");
    match result {
        Ok(header) => {
            let batch = batch.slice(5..);
            assert_eq!(verify_records(&batch, &LIMITS), Ok(header));
            Ok(batch)
        }
        Err(error) => {
            assert_eq!(batch.len(), 5);
            Err(error)
        }
    }
}

/// A protobuf field of any kind, with any number: most are unknown to the messages here.
fn any_field() -> impl Strategy<Value = Vec<u8>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..12);
    (1u64..12, 0u64..6, any::<u64>(), payload).prop_map(|(number, kind, value, payload)| {
        let mut field = Vec::new();
        prost::encoding::encode_varint(number << 3 | kind, &mut field);
        match kind {
            0 => prost::encoding::encode_varint(value, &mut field),
            1 => field.extend_from_slice(&value.to_le_bytes()),
            2 => {
                prost::encoding::encode_varint(payload.len() as u64, &mut field);
                field.extend_from_slice(&payload);
            }
            3 => prost::encoding::encode_varint(number << 3 | 4, &mut field),
            4 => {}
            _ => field.extend_from_slice(&(value as u32).to_le_bytes()),
        }
        field
    })
}

/// A message of pieces behind its tag and length.
fn nested(number: u32, pieces: Vec<Vec<u8>>) -> Vec<u8> {
    let body = pieces.concat();
    let mut message = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut message);
    prost::encoding::encode_varint(body.len() as u64, &mut message);
    message.extend_from_slice(&body);
    message
}

fn any_pieces(piece: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(piece, 0..5)
}

/// Records of fields in any order, repeated, unknown, now and then of a wrong type.
fn any_record_set() -> impl Strategy<Value = Vec<u8>> {
    let header = any_pieces(any_field()).prop_map(|fields| nested(3, fields));
    let record = any_pieces(prop_oneof![3 => any_field(), 1 => header]).prop_map(|fields| nested(1, fields));
    any_pieces(prop_oneof![1 => any_field(), 8 => record]).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn odd_messages_are_read_as_prost_reads_them(raw in any_record_set()) {
        match (PbRecordSet::decode(raw.as_slice()), transcode(&raw)) {
            (Ok(set), Err(RecordSetError::Empty)) => prop_assert!(set.records.is_empty()),
            (Ok(set), Ok(batch)) => {
                let expected: Vec<_> = set.records.into_iter().map(from_pb).collect();
                prop_assert_eq!(decode(&batch).expect("decodes"), expected);
            }
            (Err(_), Err(_)) => {}
            (theirs, ours) => prop_assert!(false, "prost {:?}, here {:?}", theirs, ours),
        }
    }

    #[test]
    fn any_bytes_give_what_prost_gives(raw in proptest::collection::vec(any::<u8>(), 0..60)) {
        let theirs = PbRecordSet::decode(raw.as_slice()).is_ok();
        let ours = transcode(&raw);
        prop_assert_eq!(theirs, matches!(ours, Ok(_) | Err(RecordSetError::Empty)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn records_become_the_batch_that_the_builder_builds(
        records in proptest::collection::vec(any_record(any_timestamp()), 1..20),
        stamped: bool,
    ) {
        let producer = stamped.then(|| stamp(9, 3, 21));
        let raw = PbRecordSet { records: records.iter().map(to_pb).collect() }.encode_to_vec();
        let mut out = Vec::new();
        let header = transcode_records(&raw, NOW, producer, &LIMITS, &mut out).expect("transcodes");
        prop_assert_eq!(header.producer, producer);
        prop_assert_eq!(Bytes::from(out), encode(Compression::None, producer, &records));
    }

    #[test]
    fn batches_become_what_prost_would_write(
        compression in any_compression(),
        records in proptest::collection::vec(any_record(any_timestamp()), 1..20),
        base in prop_oneof![0..100i64, 0..i64::MAX - 20],
        skip in 0..25i64,
    ) {
        let batch = encode(compression, None, &records);
        let base_offset = Offset::new(base).expect("in range");
        let from_offset = Offset::new(base.saturating_add(skip)).expect("in range");
        let expected: Vec<_> = records
            .iter()
            .zip(base..)
            .skip(skip as usize)
            .map(|(record, offset)| PbFetchedRecord {
                offset,
                timestamp_ms: record.timestamp,
                key: record.key.clone(),
                value: record.value.clone(),
                headers: headers_to_pb(&record.headers),
            })
            .collect();
        let mut out = Vec::new();
        let written = records_to_protobuf(&batch, base_offset, from_offset, 1, &LIMITS, &mut out).expect("written");
        prop_assert_eq!(written as usize, expected.len());
        prop_assert_eq!(out, PbFetchedRecordSet { records: expected }.encode_to_vec());
    }
}

#[test]
fn a_record_without_timestamp_gets_the_time_of_arrival() {
    let set = PbRecordSet {
        records: vec![PbRecord::default(), PbRecord { timestamp_ms: Some(0), ..PbRecord::default() }],
    };
    let batch = transcode(&set.encode_to_vec()).expect("transcodes");
    let times: Vec<_> = decode(&batch).expect("decodes").iter().map(|r| r.timestamp).collect();
    assert_eq!(times, [NOW.0, 0]);
}

#[test]
fn an_empty_set_is_refused() {
    assert_eq!(transcode(&[]), Err(RecordSetError::Empty));
    // Only an unknown field.
    assert_eq!(transcode(&[0x78, 0]), Err(RecordSetError::Empty));
}

#[test]
fn errors_name_the_record() {
    let set = PbRecordSet { records: vec![to_pb(&record(1, "a")), to_pb(&record(2, "b"))] };
    let mut raw = set.encode_to_vec();
    // A third record whose header name is not UTF-8.
    raw.extend_from_slice(&[0x0a, 5, 0x1a, 3, 0x0a, 1, 0xff]);
    assert_eq!(transcode(&raw), Err(RecordSetError::Record { record: 2, what: "header name is not UTF-8" }));
}

#[test]
fn the_limit_is_exact_and_no_byte_is_written_beyond_it() {
    let set = PbRecordSet { records: (0..50).map(|n| to_pb(&record(n, &"v".repeat(100)))).collect() };
    let raw = set.encode_to_vec();
    let size = transcode(&raw).expect("transcodes").len() as u32;
    let mut out = Vec::with_capacity(size as usize);
    let capacity = out.capacity();
    for limit in [0, 1, 60, 61, 62, size - 1] {
        let limits = BatchLimits { max_batch_bytes: limit, ..LIMITS };
        let result = transcode_records(&raw, NOW, None, &limits, &mut out);
        assert_eq!(result, Err(RecordSetError::TooLarge { limit }));
    }
    let limits = BatchLimits { max_batch_bytes: size, ..LIMITS };
    assert!(transcode_records(&raw, NOW, None, &limits, &mut out).is_ok());
    assert_eq!(out.capacity(), capacity, "a buffer with room for the limit is not reallocated");
}

#[test]
fn deeply_nested_groups_are_refused() {
    let nested = [vec![0x7b; 100_000], vec![0x7c; 100_000]].concat();
    assert!(matches!(transcode(&nested), Err(RecordSetError::Malformed(_))));
}

#[test]
fn offsets_do_not_pass_their_end() {
    let batch = encode(Compression::None, None, &[record(1, "a"), record(2, "b")]);
    let mut out = Vec::new();
    let mut from = |base| {
        let base = Offset::new(base).expect("in range");
        records_to_protobuf(&batch, base, base, 1, &LIMITS, &mut out).map_err(|e| e.kind())
    };
    assert_eq!(from(i64::MAX - 1), Ok(2));
    assert_eq!(from(i64::MAX), Err(BatchErrorKind::Corrupt));
}
