//! Any bytes as a segment, as an index behind right checksums, and as a slice: an error, or what agrees with the bytes.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidelog_record::crc32c;
use tidelog_segment::{FOOTER_BYTES, Footer, SegmentIndex, read_slice, verify};

fuzz_target!(|input: (u16, &[u8])| {
    let (split, bytes) = input;
    check(bytes);

    // The bytes as batches and an index, with a footer and checksums that fit.
    let (batches, index) = bytes.split_at((split as usize).min(bytes.len()));
    let mut object = [b"TLOGSEG1".as_slice(), batches].concat();
    let mut footer = [0; FOOTER_BYTES];
    footer[..8].copy_from_slice(&(object.len() as u64).to_le_bytes());
    footer[8..12].copy_from_slice(&(index.len() as u32).to_le_bytes());
    footer[12..16].copy_from_slice(&crc32c(index).to_le_bytes());
    footer[16] = 1;
    let own = crc32c(&footer[..20]);
    footer[20..24].copy_from_slice(&own.to_le_bytes());
    footer[24..].copy_from_slice(b"TLOGSEG1");
    object.extend_from_slice(index);
    object.extend_from_slice(&footer);
    let read = Footer::read("fuzz", &object, object.len() as u64).expect("was made to be right");
    let index = SegmentIndex::decode("fuzz", &read, index);
    let verified = check(&object);
    assert!(verified.is_none() || index.is_ok());
});

fn check(object: &[u8]) -> Option<SegmentIndex> {
    let _ = read_slice("fuzz", 8, Bytes::copy_from_slice(object), 1).count();
    let index = verify("fuzz", object).ok()?;
    for slice in &index.slices {
        let start = slice.position as usize;
        let bytes = Bytes::copy_from_slice(&object[start..start + slice.length_bytes() as usize]);
        let batches = read_slice("fuzz", start as u64, bytes, slice.records());
        assert!(batches.map(|batch| batch.map(|_| ())).collect::<Result<Vec<_>, _>>().is_ok());
    }
    Some(index)
}
