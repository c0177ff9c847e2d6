//! The crate `kafka-protocol` reads what is written here, and the other way round.

mod support;

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;
use proptest::prelude::*;
use support::{Record, any_compression, any_record, decode, encode, stamp};
use tidelog_record::{BatchLimits, Compression, verify_records};

const MODEST_TIMES: std::ops::Range<i64> = -10_000_000_000_000..253_402_300_800_000;

fn their_codec(compression: Compression) -> theirs::Compression {
    match compression {
        Compression::None => theirs::Compression::None,
        Compression::Gzip => theirs::Compression::Gzip,
        Compression::Snappy => theirs::Compression::Snappy,
        Compression::Lz4 => theirs::Compression::Lz4,
        Compression::Zstd => theirs::Compression::Zstd,
    }
}

/// Their headers are a map: no name twice.
fn without_duplicates(mut record: Record) -> Record {
    let mut seen = std::collections::BTreeSet::new();
    record.headers.retain(|(name, _)| seen.insert(name.clone()));
    record
}

fn to_theirs(position: usize, record: &Record) -> theirs::Record {
    let headers: IndexMap<_, _> = record
        .headers
        .iter()
        .map(|(name, value)| (StrBytes::from_string(name.clone()), value.clone().map(Bytes::from)))
        .collect();
    theirs::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 5,
        producer_id: 77,
        producer_epoch: 2,
        timestamp_type: theirs::TimestampType::Creation,
        offset: 1000 + position as i64,
        sequence: 40 + position as i32,
        timestamp: record.timestamp,
        key: record.key.clone().map(Bytes::from),
        value: record.value.clone().map(Bytes::from),
        headers,
    }
}

fn from_theirs(record: &theirs::Record) -> Record {
    Record {
        timestamp: record.timestamp,
        key: record.key.as_ref().map(|b| b.to_vec()),
        value: record.value.as_ref().map(|b| b.to_vec()),
        headers: record
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.as_ref().map(|b| b.to_vec())))
            .collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn they_read_ours(
        compression in any_compression(),
        records in proptest::collection::vec(any_record(MODEST_TIMES).prop_map(without_duplicates), 1..20),
    ) {
        let mut batch = encode(compression, Some(stamp(77, 2, 40)), &records);
        let set = theirs::RecordBatchDecoder::decode(&mut batch).expect("they read it");
        prop_assert!(batch.is_empty());
        prop_assert_eq!(set.records.len(), records.len());
        for (position, (record, read)) in records.iter().zip(&set.records).enumerate() {
            prop_assert_eq!(&from_theirs(read), record);
            prop_assert_eq!(read.offset, position as i64);
            prop_assert_eq!(read.sequence, 40 + position as i32);
            prop_assert_eq!((read.producer_id, read.producer_epoch), (77, 2));
        }
    }

    #[test]
    fn we_read_theirs(
        compression in any_compression(),
        records in proptest::collection::vec(any_record(MODEST_TIMES).prop_map(without_duplicates), 1..20),
    ) {
        let written: Vec<_> = records.iter().enumerate().map(|(n, record)| to_theirs(n, record)).collect();
        let mut batch = BytesMut::new();
        let options = theirs::RecordEncodeOptions { version: 2, compression: their_codec(compression) };
        theirs::RecordBatchEncoder::encode(&mut batch, &written, &options).expect("they write it");
        let batch = batch.freeze();
        let header = verify_records(&batch, &BatchLimits::default()).expect("verifies");
        prop_assert_eq!(header.compression, compression);
        prop_assert_eq!(header.producer, Some(stamp(77, 2, 40)));
        prop_assert_eq!((header.stored_base_offset, header.partition_leader_epoch), (1000, 5));
        prop_assert_eq!(decode(&batch).expect("decodes"), records);
    }
}
