//! Any bytes as the records of a batch, with each codec: an error, or records that make the same batch again.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidelog_record::{
    BatchBuilder, BatchLimits, Compression, DecodedBatch, RecordRef, crc32c, records_to_protobuf,
    verify_records,
};
use tidelog_types::{Offset, TimestampMs};

/// Small, so that bombs are found by their limit and not by the fuzzer's.
const LIMITS: BatchLimits = BatchLimits { max_batch_bytes: 1 << 20, max_decompressed_bytes: 1 << 20 };

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (codec, count, records) = input;
    let Ok(codec) = Compression::from_code(codec % 5) else { return };
    let batch = batch(codec, i32::from(count) + 1, records);
    let Ok(decoded) = DecodedBatch::open(&batch, &LIMITS) else { return };
    let verified = verify_records(&batch, &LIMITS);
    let mut builder = BatchBuilder::new(Compression::None);
    let mut read = 0;
    for record in decoded.records() {
        let Ok(record) = record else {
            assert!(verified.is_err());
            return;
        };
        let headers: Vec<_> = record.headers.collect();
        let (key, value) = (record.key, record.value);
        builder
            .append(RecordRef { timestamp: record.timestamp, key, value, headers: &headers })
            .expect("small");
        read += 1;
    }
    assert_eq!(verified.map(|header| header.records), Ok(read));
    assert_eq!(read, u32::from(count) + 1);

    // What was read makes a batch with the same records.
    let again = builder.build().expect("has records");
    let again = DecodedBatch::open(&again, &BatchLimits::NONE).expect("was built here");
    assert!(decoded.records().eq(again.records()));
    let mut out = Vec::new();
    let written = records_to_protobuf(&batch, Offset::ZERO, Offset::ZERO, 1, &LIMITS, &mut out);
    assert_eq!(written, Ok(read));
    let owned = decoded.into_records(Offset::ZERO).expect("offsets fit");
    assert_eq!(owned.filter(Result::is_ok).count(), read as usize);
});

/// A batch with a good header, whose records are these bytes.
fn batch(codec: Compression, count: i32, records: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .append(RecordRef { timestamp: TimestampMs(1), key: None, value: None, headers: &[] })
        .expect("small");
    let mut batch = builder.build().expect("has a record")[..61].to_vec();
    batch.extend_from_slice(records);
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[22] = codec.code();
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}
