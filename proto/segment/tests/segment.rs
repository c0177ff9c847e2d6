//! What is built is read, and nothing else is.

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use support::{AGENT, CLUSTER, batch, object, partition, plain_batches};
use tidelog_record::Compression;
use tidelog_segment::gather::CHUNKS_MAX;
use tidelog_segment::{
    BufferPool, Damage, FOOTER_BYTES, Footer, HEADER_BYTES, SegmentBatch, SegmentIndex, build, read_slice,
    verify,
};

const NAME: &str = "prefix/wal/00000000000000000042-00000000-0000-0000-0000-0000000000ab.seg";

#[test]
fn batches_lie_by_partition_in_the_order_in_which_they_came() {
    let batches = plain_batches();
    let built = build(CLUSTER, AGENT, &batches).expect("builds");
    let object: Bytes = built.chunks.concat().into();
    assert_eq!(object.len(), built.size_bytes as usize);
    let index = verify(NAME, &object).expect("is whole");
    assert_eq!((index.cluster, index.agent), (CLUSTER, AGENT));
    assert_eq!(index.slices, built.slices);
    let order: Vec<_> = index.slices.iter().map(|slice| slice.partition).collect();
    assert_eq!(order, [partition(3, 0), partition(7, 0), partition(7, 1), partition(300, i32::MAX)]);

    for slice in &index.slices {
        let expected: Vec<_> = batches.iter().filter(|batch| batch.partition == slice.partition).collect();
        let start = slice.position as usize;
        let bytes = object.slice(start..start + slice.length_bytes() as usize);
        let read: Result<Vec<_>, _> = read_slice(NAME, start as u64, bytes, slice.records()).collect();
        let read = read.expect("is whole");
        assert_eq!(read.len(), expected.len());
        let mut records = 0;
        for (read, batch) in read.iter().zip(expected) {
            assert_eq!((&read.bytes, read.records_before), (&batch.bytes, records));
            assert_eq!(object[read.position as usize..][..batch.bytes.len()], batch.bytes);
            records += u64::from(batch.records);
        }
    }
}

#[test]
fn nothing_is_copied_out_of_pooled_memory_and_it_comes_back() {
    let pool = BufferPool::new(1 << 16, 1);
    let mut buffer = pool.take();
    let lengths: Vec<_> = plain_batches()
        .iter()
        .map(|batch| {
            assert!(buffer.try_extend(&batch.bytes));
            batch.bytes.len()
        })
        .collect();
    let mut rest = buffer.freeze();
    let memory = rest.as_ptr_range();
    let mut batches = plain_batches();
    for (batch, length) in batches.iter_mut().zip(lengths) {
        batch.bytes = rest.split_to(length);
    }
    drop(rest);
    let built = build(CLUSTER, AGENT, &batches).expect("builds");
    drop(batches);
    let shared = built.chunks.iter().filter(|chunk| memory.contains(&chunk.as_ptr())).count();
    assert_eq!(shared, plain_batches().len());
    assert_eq!(Bytes::from(built.chunks.concat()), object(&plain_batches()));
    assert_eq!(pool.idle(), 0);
    drop(built);
    assert_eq!(pool.idle(), 1);
}

#[test]
fn very_many_batches_make_few_pieces() {
    let one = batch(partition(1, 0), 1, Compression::None);
    let batches: Vec<_> =
        (0..5000).map(|n| SegmentBatch { partition: partition(1, n % 50), ..one.clone() }).collect();
    let built = build(CLUSTER, AGENT, &batches).expect("builds");
    assert!(built.chunks.len() <= CHUNKS_MAX, "{}", built.chunks.len());
    let index = verify(NAME, &built.chunks.concat()).expect("is whole");
    assert_eq!(index.slices.iter().map(|slice| slice.records()).sum::<u64>(), 5000);
    assert!(build(CLUSTER, AGENT, &[]).is_none());
}

#[test]
fn an_index_is_read_from_the_end_of_the_object() {
    let object = object(&plain_batches());
    let size = object.len() as u64;
    let footer = Footer::read(NAME, &object[object.len() - FOOTER_BYTES..], size).expect("is whole");
    let index_at = footer.index_position as usize;
    let index = &object[index_at..index_at + footer.index_bytes as usize];
    assert_eq!(SegmentIndex::decode(NAME, &footer, index), verify(NAME, &object));
    // The store says another size: the object is not the one that was written.
    let error = Footer::read(NAME, &object, size + 1).expect_err("wrong size");
    assert_eq!(error.damage, Damage::Length { what: "object", found: size + 1, expected: size });
    assert!(error.to_string().contains(NAME), "{error}");
    assert!(SegmentIndex::decode(NAME, &footer, &index[1..]).is_err());
}

#[test]
fn every_flipped_byte_is_an_error_or_changes_nothing() {
    let batches = plain_batches();
    let good = object(&batches);
    let index = verify(NAME, &good).expect("is whole");
    // Where batches begin: their base offsets and partition leader epochs mean nothing.
    let mut starts = vec![HEADER_BYTES];
    for (length, _) in index.slices.iter().flat_map(|slice| &slice.batches) {
        starts.push(starts.last().expect("has one") + *length as usize);
    }
    let batches_end = starts.pop().expect("has one");
    let means_nothing = |position: usize| {
        let Some(start) = starts.iter().rev().find(|start| **start <= position) else { return false };
        position < batches_end && (position - start < 8 || (12..16).contains(&(position - start)))
    };
    for position in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.to_vec();
            bad[position] ^= flip;
            match verify(NAME, &bad) {
                Ok(read) => {
                    assert!(means_nothing(position), "byte {position} is covered by nothing");
                    assert_eq!(read, index);
                }
                Err(error) => {
                    assert!(!means_nothing(position), "byte {position}: {error}");
                    assert_eq!(error.object, NAME);
                }
            }
        }
    }
}

#[test]
fn every_shorter_object_is_an_error() {
    let good = object(&plain_batches());
    for length in 0..good.len() {
        assert!(verify(NAME, &good[..length]).is_err(), "{length}");
    }
    assert!(verify(NAME, &[good.as_ref(), &[0]].concat()).is_err());
}

#[test]
fn a_slice_that_is_not_what_the_metadata_says_is_an_error() {
    let one = batch(partition(1, 0), 3, Compression::Lz4).bytes;
    let two = Bytes::from([one.as_ref(), &one].concat());
    let read = |bytes: Bytes, records| read_slice(NAME, 8, bytes, records).collect::<Result<Vec<_>, _>>();
    assert_eq!(read(two.clone(), 6).map(|batches| batches.len()), Ok(2));
    let error = read(two.clone(), 7).expect_err("one is missing");
    assert_eq!(error.damage, Damage::Records { position: 8, found: 6, expected: 7 });
    assert!(read(Bytes::new(), 1).is_err());

    // The first batch is read, the damaged second is an error with its place, and then it is over.
    let mut bad = two.to_vec();
    *bad.last_mut().expect("not empty") ^= 1;
    let results: Vec<_> = read_slice(NAME, 8, bad.into(), 6).collect();
    assert!(matches!(&results[..], [Ok(_), Err(error)] if error.object == NAME
        && matches!(error.damage, Damage::Batch { position, .. } if position == 8 + one.len() as u64)));
    assert!(read(two.slice(..two.len() - 1), 6).is_err());
}

/// An object with this index, its checksums right, and the batches of `plain_batches`.
fn with_index(change: impl FnOnce(&mut tidelog_segment::wire::SegmentIndex)) -> Vec<u8> {
    use prost::Message as _;
    let good = object(&plain_batches());
    let footer = Footer::read(NAME, &good, good.len() as u64).expect("is whole");
    let index_at = footer.index_position as usize;
    let index = &good[index_at..index_at + footer.index_bytes as usize];
    let mut message = tidelog_segment::wire::SegmentIndex::decode(index).expect("is protobuf");
    change(&mut message);
    let index = message.encode_to_vec();
    let mut tail = [0; FOOTER_BYTES];
    tail.copy_from_slice(&good[good.len() - FOOTER_BYTES..]);
    tail[8..12].copy_from_slice(&(index.len() as u32).to_le_bytes());
    tail[12..16].copy_from_slice(&tidelog_record::crc32c(&index).to_le_bytes());
    let own = tidelog_record::crc32c(&tail[..20]);
    tail[20..24].copy_from_slice(&own.to_le_bytes());
    [&good[..index_at], &index, &tail].concat()
}

#[test]
fn an_index_that_contradicts_itself_or_the_batches_is_an_error() {
    type Change = fn(&mut tidelog_segment::wire::SegmentIndex);
    assert!(verify(NAME, &with_index(|_| {})).is_ok());
    let changes: [(&str, Change); 11] = [
        ("no slices", |index| index.slices.clear()),
        ("short cluster id", |index| index.cluster_id = vec![1; 15].into()),
        ("long agent", |index| index.agent = vec![1; 17].into()),
        ("negative partition", |index| index.slices[0].partition = -1),
        ("swapped slices", |index| index.slices.swap(0, 1)),
        ("same partition twice", |index| index.slices[1].topic_id = index.slices[0].topic_id),
        ("overlap", |index| index.slices[1].position -= 1),
        ("fewer records than lengths", |index| index.slices[0].records.truncate(1)),
        ("another record count", |index| index.slices[0].records[0] += 1),
        ("another length", |index| index.slices[0].lengths[0] += 1),
        ("lengths that overflow", |index| index.slices[0].lengths = vec![u32::MAX; 2]),
    ];
    for (name, change) in changes {
        assert!(verify(NAME, &with_index(change)).is_err(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verify(NAME, &bytes).is_err());
        prop_assert!(Footer::read(NAME, &bytes, bytes.len() as u64).is_err());
        let bytes = Bytes::from(bytes);
        prop_assert!(read_slice(NAME, 0, bytes, 1).any(|batch| batch.is_err()));
    }

    #[test]
    fn any_index_behind_right_checksums_never_panics(
        index in proptest::collection::vec(any::<u8>(), 0..100),
        position in prop_oneof![Just(8u64), any::<u64>()],
        length in prop_oneof![Just(None), any::<u32>().prop_map(Some)],
    ) {
        let mut footer = [0; FOOTER_BYTES];
        footer[..8].copy_from_slice(&position.to_le_bytes());
        footer[8..12].copy_from_slice(&length.unwrap_or(index.len() as u32).to_le_bytes());
        footer[12..16].copy_from_slice(&tidelog_record::crc32c(&index).to_le_bytes());
        footer[16] = 1;
        let own = tidelog_record::crc32c(&footer[..20]);
        footer[20..24].copy_from_slice(&own.to_le_bytes());
        footer[24..].copy_from_slice(b"TLOGSEG1");
        let object = [b"TLOGSEG1".as_slice(), &index, &footer].concat();
        prop_assert!(verify(NAME, &object).is_err());
    }
}
