//! What is encoded is decoded, with every codec.

mod support;

use proptest::prelude::*;
use support::{any_compression, any_record, any_timestamp, append, decode, encode, record, stamp};
use tidelog_record::{
    BatchBuilder, BatchError, BatchHeader, BatchLimits, Compression, DecodedBatch, patch_base_offset,
    restamp, split_batches, validate, verify_records,
};
use tidelog_types::{Offset, TimestampMs};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_codec(
        compression in any_compression(),
        records in proptest::collection::vec(any_record(any_timestamp()), 1..20),
        producer in proptest::option::of((0..=i64::MAX, 0..=i16::MAX, 0..=i32::MAX)),
    ) {
        let producer = producer.map(|(id, epoch, sequence)| stamp(id, epoch, sequence));
        let batch = encode(compression, producer, &records);
        let header = verify_records(&batch, &BatchLimits::default()).expect("verifies");
        prop_assert_eq!(header.records as usize, records.len());
        prop_assert_eq!(header.compression, compression);
        prop_assert_eq!(header.producer, producer);
        prop_assert_eq!(header.size_bytes as usize, batch.len());
        prop_assert_eq!(header.base_timestamp.0, records[0].timestamp);
        prop_assert_eq!(Some(header.max_timestamp.0), records.iter().map(|r| r.timestamp).max());
        prop_assert_eq!(decode(&batch).expect("decodes"), records);
    }
}

#[test]
fn null_and_empty_stay_different_and_headers_keep_order_and_duplicates() {
    let mut records = vec![record(1, "a"), record(2, "b"), record(3, "c")];
    (records[0].key, records[0].value) = (None, Some(vec![]));
    (records[1].key, records[1].value) = (Some(vec![]), None);
    records[2].headers = [("b", None), ("a", Some(vec![])), ("b", Some(vec![1])), ("", None)]
        .map(|(n, v)| (n.to_owned(), v))
        .to_vec();
    for compression in Compression::ALL {
        assert_eq!(decode(&encode(compression, None, &records)), Ok(records.clone()), "{compression}");
    }
}

#[test]
fn timestamps_of_any_distance_come_back() {
    // Year 9999, and both ends: the differences wrap.
    let times = [0, -1, 253_402_300_799_999, i64::MIN, i64::MAX, i64::MIN, 1];
    let records = times.map(|time| record(time, "x"));
    for first in 0..records.len() {
        let mut records = records.clone();
        records.rotate_left(first);
        let batch = encode(Compression::None, None, &records);
        assert_eq!(decode(&batch), Ok(records.to_vec()));
        assert_eq!(
            validate(&batch, &BatchLimits::default()).map(|h| h.max_timestamp),
            Ok(TimestampMs(i64::MAX))
        );
    }
}

#[test]
fn a_builder_is_used_again_and_its_stamp_is_not() {
    for compression in Compression::ALL {
        let mut builder = BatchBuilder::new(compression);
        assert_eq!(builder.build(), Err(BatchError::Count(0)));
        builder.stamp(stamp(7, 1, 5));
        append(&mut builder, &record(1, "first"));
        let first = builder.build().expect("builds");
        assert!(builder.is_empty());
        append(&mut builder, &record(9, "second"));
        append(&mut builder, &record(-9, "third"));
        let mut out = b"before".to_vec();
        let header = builder.build_into(&mut out).expect("builds");
        assert_eq!((header.records, header.producer), (2, None));
        let second = bytes::Bytes::from(out).slice(6..);
        assert_eq!(decode(&first), Ok(vec![record(1, "first")]));
        assert_eq!(decode(&second), Ok(vec![record(9, "second"), record(-9, "third")]));
    }
}

#[test]
fn uncompressed_size_is_known_before_building() {
    let mut builder = BatchBuilder::new(Compression::None);
    append(&mut builder, &record(1, &"x".repeat(200)));
    let size = builder.uncompressed_bytes();
    assert_eq!(builder.build().map(|batch| batch.len()), Ok(size));
}

#[test]
fn a_patched_base_offset_leaves_the_crc_right() {
    let mut batch = encode(Compression::Zstd, None, &[record(5, "x")]).to_vec();
    let offset = Offset::new(1 << 40).expect("in range");
    assert_eq!(patch_base_offset(&mut batch, offset), Some(()));
    assert_eq!(validate(&batch, &BatchLimits::default()).map(|h| h.stored_base_offset), Ok(1 << 40));
    assert_eq!(patch_base_offset(&mut batch[..60], offset), None);
}

#[test]
fn a_restamped_batch_is_the_one_that_would_have_been_built() {
    for compression in Compression::ALL {
        let plain = encode(compression, None, &[record(5, "x")]);
        let stamped = encode(compression, Some(stamp(1 << 40, 3, 9)), &[record(5, "x")]);
        let mut batch = plain.to_vec();
        assert_eq!(restamp(&mut batch, Some(stamp(1 << 40, 3, 9))), Ok(()));
        assert_eq!(batch, stamped);
        assert_eq!(restamp(&mut batch, None), Ok(()));
        assert_eq!(batch, plain);
        assert!(restamp(&mut batch[..60], None).is_err());
        assert_eq!(compression.to_string().parse(), Ok(compression));
    }
    assert!("brotli".parse::<Compression>().is_err());
}

#[test]
fn owned_records_are_the_borrowed_ones() {
    let records: Vec<_> = (0..5).map(|n| record(n, &format!("value {n}"))).collect();
    for compression in Compression::ALL {
        let batch = encode(compression, None, &records);
        let open = || DecodedBatch::open(&batch, &BatchLimits::default()).expect("decodes");
        let base = Offset::new(1000).expect("in range");
        let owned: Result<Vec<_>, _> = open().into_records(base).expect("offsets fit").collect();
        for (position, (owned, record)) in owned.expect("decodes").into_iter().zip(&records).enumerate() {
            assert_eq!(owned.offset.get(), 1000 + position as i64);
            assert_eq!(owned.timestamp.0, record.timestamp);
            assert_eq!(
                (owned.key.as_deref(), owned.value.as_deref()),
                (record.key.as_deref(), record.value.as_deref())
            );
            assert_eq!(owned.headers, [("h".into(), Some("v".into()))]);
            if compression == Compression::None {
                assert!(
                    batch.as_ptr_range().contains(&owned.value.expect("has a value").as_ptr()),
                    "not copied"
                );
            }
        }
        let last = Offset::new(i64::MAX - 3).expect("in range");
        assert!(open().into_records(last).is_err());
    }
}

#[test]
fn batches_one_after_another_are_split() {
    let batches: Vec<_> =
        (1..5).map(|n| encode(Compression::Lz4, None, &vec![record(n, "v"); n as usize])).collect();
    let joined = batches.concat();
    let split: Result<Vec<_>, _> = split_batches(joined.clone().into()).collect();
    let split = split.expect("splits");
    assert_eq!(split.iter().map(|(header, _)| header.records).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(split.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), batches);

    // Cut anywhere inside, all batches before the cut come, then an error, then nothing.
    for cut in 0..joined.len() {
        let results: Vec<_> = split_batches(joined[..cut].to_vec().into()).collect();
        let whole = batches
            .iter()
            .scan(0, |end, b| {
                *end += b.len();
                Some(*end)
            })
            .filter(|end| *end <= cut);
        let whole: Vec<_> = whole.collect();
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), whole.len());
        let at_an_end = cut == 0 || whole.last() == Some(&cut);
        assert_eq!(results.iter().filter(|r| r.is_err()).count(), usize::from(!at_an_end));
    }
    assert!(BatchHeader::parse(&joined[..60]).is_err());
}
