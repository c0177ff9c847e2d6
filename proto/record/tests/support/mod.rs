//! Records as the tests of this crate make them.

use bytes::Bytes;
use proptest::prelude::*;
use tidelog_record::{BatchBuilder, BatchError, BatchLimits, Compression, DecodedBatch, RecordRef};
use tidelog_types::{ProducerEpoch, ProducerId, ProducerStamp, Sequence, TimestampMs};

/// A header: name and value.
pub type Header = (String, Option<Vec<u8>>);

/// A record that owns its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

/// A record with this value, one header, and `timestamp`.
#[allow(dead_code, reason = "not every test needs it")]
pub fn record(timestamp: i64, value: &str) -> Record {
    let headers = vec![("h".to_owned(), Some(b"v".to_vec()))];
    Record { timestamp, key: Some(b"key".to_vec()), value: Some(value.as_bytes().to_vec()), headers }
}

/// One batch with these records.
#[allow(dead_code, reason = "not every test needs it")]
pub fn encode(compression: Compression, producer: Option<ProducerStamp>, records: &[Record]) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    if let Some(stamp) = producer {
        builder.stamp(stamp);
    }
    for record in records {
        append(&mut builder, record);
    }
    builder.build().expect("records build a batch")
}

/// Appends a record.
#[allow(dead_code, reason = "not every test needs it")]
pub fn append(builder: &mut BatchBuilder, record: &Record) {
    let headers: Vec<_> =
        record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    let record = RecordRef {
        timestamp: TimestampMs(record.timestamp),
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    };
    builder.append(record).expect("the record fits");
}

/// The records of a batch.
#[allow(dead_code, reason = "not every test needs it")]
pub fn decode(batch: &Bytes) -> Result<Vec<Record>, BatchError> {
    let decoded = DecodedBatch::open(batch, &BatchLimits::default())?;
    let mut records = Vec::new();
    for record in decoded.records() {
        let record = record?;
        assert_eq!(record.offset_delta as usize, records.len());
        records.push(Record {
            timestamp: record.timestamp.0,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
                .collect(),
        });
    }
    Ok(records)
}

/// A producer's stamp.
#[allow(dead_code, reason = "not every test needs it")]
pub fn stamp(id: i64, epoch: i16, sequence: i32) -> ProducerStamp {
    ProducerStamp {
        id: ProducerId::new(id).expect("id in range"),
        epoch: ProducerEpoch::new(epoch).expect("epoch in range"),
        base_sequence: Sequence::new(sequence).expect("sequence in range"),
    }
}

fn bytes_or_null() -> impl Strategy<Value = Option<Vec<u8>>> {
    // Lengths around 64 and 8192 take one byte more in zigzag; constant ones compress.
    proptest::option::of(prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..100),
        (any::<u8>(), 0usize..20_000).prop_map(|(byte, length)| vec![byte; length]),
    ])
}

/// Timestamps of all sizes.
#[allow(dead_code, reason = "not every test needs it")]
pub fn any_timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(0),
        Just(-1),
        Just(i64::MIN),
        Just(i64::MAX),
        1_700_000_000_000i64..1_800_000_000_000,
        any::<i64>()
    ]
}

/// Any record with such a timestamp.
#[allow(dead_code, reason = "not every test needs it")]
pub fn any_record(timestamp: impl Strategy<Value = i64>) -> impl Strategy<Value = Record> {
    let headers = proptest::collection::vec((".{0,8}", bytes_or_null()), 0..4);
    (timestamp, bytes_or_null(), bytes_or_null(), headers)
        .prop_map(|(timestamp, key, value, headers)| Record { timestamp, key, value, headers })
}

/// Any codec.
#[allow(dead_code, reason = "not every test needs it")]
pub fn any_compression() -> impl Strategy<Value = Compression> {
    proptest::sample::select(Compression::ALL.to_vec())
}
