//! Bytes that are no good batch: damaged, contradictory, too large, made to blow up.

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use support::{Record, any_compression, any_record, any_timestamp, decode, encode, record, stamp};
use tidelog_record::{
    BatchError, BatchErrorKind, BatchLimits, Compression, DecodedBatch, crc32c, records_to_protobuf,
    split_batches, validate, verify_records,
};
use tidelog_types::Offset;

const LIMITS: BatchLimits = BatchLimits { max_batch_bytes: 1 << 20, max_decompressed_bytes: 1 << 20 };

/// Makes the CRC right after a change.
fn seal(batch: &mut [u8]) {
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// The batch with `bytes` written at `at`, and a right CRC.
fn changed(batch: &Bytes, at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    seal(&mut batch);
    batch.into()
}

/// A batch with the header of a good one and these bytes for its records.
fn with_records(compression: Compression, count: i32, records: &[u8]) -> Bytes {
    let mut batch = encode(Compression::None, None, &[record(0, "x")])[..61].to_vec();
    batch.extend_from_slice(records);
    let length = i32::try_from(batch.len() - 12).expect("small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[22] = compression.code();
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    seal(&mut batch);
    batch.into()
}

fn sample() -> Vec<Record> {
    (0..3).map(|n| record(1_700_000_000_000 + n, "some value that is a little longer")).collect()
}

#[test]
fn every_flipped_byte_is_an_error_or_changes_nothing() {
    for compression in Compression::ALL {
        let good = encode(compression, Some(stamp(3, 1, 0)), &sample());
        for position in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.to_vec();
                bad[position] ^= flip;
                let ignored = position < 8 || (12..16).contains(&position);
                match decode(&bad.into()) {
                    Ok(records) => {
                        assert_eq!(records, sample());
                        assert!(ignored, "byte {position} is neither covered nor ignored");
                    }
                    Err(_) => assert!(!ignored, "byte {position} should be ignored"),
                }
            }
        }
    }
}

#[test]
fn every_shorter_and_longer_batch_is_an_error() {
    let good = encode(Compression::None, None, &sample());
    for length in 0..good.len() {
        let cut = good.slice(..length);
        assert!(matches!(validate(&cut, &LIMITS), Err(BatchError::Truncated { .. })), "{length}");
    }
    let longer = [good.as_ref(), &[0]].concat();
    assert_eq!(validate(&longer, &LIMITS), Err(BatchError::Trailing(1)));
}

#[test]
fn header_fields_out_of_range_have_names() {
    use BatchErrorKind::{Corrupt, TooLarge, Unsupported};
    let good = encode(Compression::None, Some(stamp(3, 1, 0)), &sample());
    let cases: [(&str, usize, &[u8], BatchErrorKind); 20] = [
        ("length 0", 8, &0i32.to_be_bytes(), Corrupt),
        ("length -1", 8, &(-1i32).to_be_bytes(), Corrupt),
        ("length 48", 8, &48i32.to_be_bytes(), Corrupt),
        ("length 100 MiB", 8, &(100i32 << 20).to_be_bytes(), Corrupt),
        ("length max", 8, &i32::MAX.to_be_bytes(), Corrupt),
        ("magic 0", 16, &[0], Unsupported),
        ("magic 1", 16, &[1], Unsupported),
        ("magic 3", 16, &[3], Unsupported),
        ("magic -1", 16, &[0xff], Unsupported),
        ("codec 5", 22, &[5], Unsupported),
        ("log append time", 22, &[0x08], Unsupported),
        ("transactional", 22, &[0x10], Unsupported),
        ("control", 22, &[0x20], Unsupported),
        ("delete horizon", 22, &[0x40], Unsupported),
        ("undefined bit 7", 22, &[0x80], Unsupported),
        ("undefined bit 15", 21, &[0x80], Unsupported),
        ("last offset delta", 23, &3i32.to_be_bytes(), Corrupt),
        ("producer id -2", 43, &(-2i64).to_be_bytes(), Corrupt),
        ("producer epoch -1", 51, &(-1i16).to_be_bytes(), Corrupt),
        ("base sequence -1", 53, &(-1i32).to_be_bytes(), Corrupt),
    ];
    for (name, at, bytes, kind) in cases {
        let bad = changed(&good, at, bytes);
        assert_eq!(validate(&bad, &LIMITS).map_err(|e| e.kind()), Err(kind), "{name}");
        assert!(decode(&bad).is_err(), "{name}");
    }
    for count in [0, -1, i32::MIN] {
        let mut bad = changed(&good, 57, &i32::to_be_bytes(count)).to_vec();
        bad[23..27].copy_from_slice(&count.wrapping_sub(1).to_be_bytes());
        seal(&mut bad);
        assert_eq!(validate(&bad, &LIMITS), Err(BatchError::Count(count)));
    }
    let small = BatchLimits { max_batch_bytes: good.len() as u32 - 1, ..LIMITS };
    assert_eq!(validate(&good, &small).map_err(|e| e.kind()), Err(TooLarge));
    assert!(validate(&good, &BatchLimits { max_batch_bytes: good.len() as u32, ..LIMITS }).is_ok());
}

#[test]
fn records_that_do_not_fit_the_header_are_errors() {
    let batch = encode(Compression::None, None, &sample());
    let records = &batch[61..];
    for count in [1, 2, 4, i32::MAX] {
        for compression in Compression::ALL {
            let sealed = with_records(compression, count, records);
            assert!(validate(&sealed, &LIMITS).is_ok(), "the fast check does not look inside");
            let error = verify_records(&sealed, &LIMITS).expect_err("count or compression is wrong");
            assert_eq!(error.kind(), BatchErrorKind::Corrupt);
        }
    }
    assert!(verify_records(&with_records(Compression::None, 3, records), &LIMITS).is_ok());
}

#[test]
fn records_with_hostile_numbers_are_errors() {
    // Zigzag: 1 is -1, 3 is -2, fe ff ff ff 0f is the largest i32.
    let cases: [(&str, &[u8]); 14] = [
        ("no bytes", &[]),
        ("empty record", &[0]),
        ("negative length", &[1]),
        ("length beyond the batch", &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0]),
        ("length without end", &[0xff; 12]),
        ("only attributes", &[2, 0]),
        ("offset delta 1", &[12, 0, 0, 2, 1, 1, 0]),
        ("offset delta -1", &[12, 0, 0, 1, 1, 1, 0]),
        ("key length -2", &[12, 0, 0, 0, 3, 1, 0]),
        ("key beyond the record", &[12, 0, 0, 0, 4, 1, 0]),
        ("value beyond the record", &[12, 0, 0, 0, 1, 4, 0]),
        ("more headers than bytes", &[20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f]),
        ("negative header count", &[12, 0, 0, 0, 1, 1, 1]),
        ("bytes after the headers", &[14, 0, 0, 0, 1, 1, 0, 0]),
    ];
    for (name, records) in cases {
        let batch = with_records(Compression::None, 1, records);
        let error = verify_records(&batch, &LIMITS).expect_err(name);
        assert!(matches!(error, BatchError::Record { record: 0, .. }), "{name}: {error}");
    }
    let null_name = with_records(Compression::None, 1, &[16, 0, 0, 0, 1, 1, 2, 1, 1]);
    let bad_name = with_records(Compression::None, 1, &[18, 0, 0, 0, 1, 1, 2, 2, 0xff, 1]);
    for batch in [null_name, bad_name] {
        assert!(matches!(verify_records(&batch, &LIMITS), Err(BatchError::Record { .. })));
    }
    assert_eq!(
        verify_records(&with_records(Compression::None, 1, &[12, 0, 0, 0, 1, 1, 0]), &LIMITS)
            .map(|h| h.records),
        Ok(1)
    );
}

#[test]
fn bombs_stop_at_the_limit() {
    let zeros = Record { timestamp: 0, key: None, value: Some(vec![0; 8 << 20]), headers: vec![] };
    for compression in Compression::ALL {
        let batch = encode(compression, None, std::slice::from_ref(&zeros));
        let limits = BatchLimits { max_batch_bytes: u32::MAX, ..LIMITS };
        let error = DecodedBatch::open(&batch, &limits).map(|_| ()).expect_err("too large");
        assert_eq!(error, BatchError::DecompressedTooLarge { limit: 1 << 20 }, "{compression}");
        // The limit itself is allowed.
        let exactly = BatchLimits { max_decompressed_bytes: (8 << 20) + 13, ..limits };
        assert!(DecodedBatch::open(&batch, &exactly).is_ok(), "{compression}");
        let less = BatchLimits { max_decompressed_bytes: (8 << 20) + 12, ..limits };
        assert!(DecodedBatch::open(&batch, &less).is_err(), "{compression}");
    }
}

#[test]
fn snappy_blocks_that_announce_too_much_are_refused_before_memory_is_taken() {
    let mut stream = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    // Five bytes of raw snappy that say they are 4 GiB.
    stream.extend_from_slice(&[0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    let batch = with_records(Compression::Snappy, 1, &stream);
    let error = DecodedBatch::open(&batch, &BatchLimits::NONE).map(|_| ()).expect_err("refused");
    assert_eq!(error.kind(), BatchErrorKind::Corrupt, "{error}");
}

#[test]
fn raw_snappy_and_several_streams_are_read_as_in_java() {
    let records = [12, 0, 0, 0, 1, 1, 0];
    let raw = snap::raw::Encoder::new().compress_vec(&records).expect("compresses");
    let read = |bytes: &[u8]| {
        verify_records(&with_records(Compression::Snappy, 1, bytes), &LIMITS).map(|h| h.records)
    };
    assert_eq!(read(&raw), Ok(1));

    let (front, back) = records.split_at(3);
    let mut streams = Vec::new();
    for part in [front, back] {
        let block = snap::raw::Encoder::new().compress_vec(part).expect("compresses");
        streams.extend_from_slice(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0");
        streams.push(block.len() as u8);
        streams.extend_from_slice(&block);
    }
    assert_eq!(read(&streams), Ok(1));
    assert!(read(&streams[..streams.len() - 1]).is_err());
    assert!(read(&streams[..20]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_give_an_error_or_records(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        let _ = validate(&bytes, &LIMITS);
        let _ = split_batches(bytes.clone()).count();
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn any_records_bytes_behind_a_right_crc(
        compression in any_compression(),
        count in 1..10i32,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let batch = with_records(compression, count, &bytes);
        let _ = decode(&batch);
        let mut out = vec![1, 2, 3];
        if records_to_protobuf(&batch, Offset::ZERO, Offset::ZERO, 1, &LIMITS, &mut out).is_err() {
            prop_assert_eq!(out, [1, 2, 3]);
        }
    }

    #[test]
    fn good_records_with_a_few_bad_bytes_behind_a_right_crc(
        compression in any_compression(),
        records in proptest::collection::vec(any_record(any_timestamp()), 1..4),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut batch = encode(compression, None, &records).to_vec();
        for (at, byte) in changes {
            let at = at.index(batch.len());
            batch[at] = byte;
        }
        seal(&mut batch);
        let _ = decode(&batch.into());
    }
}
