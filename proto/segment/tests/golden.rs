//! Objects that version 1 wrote, which every later version reads.
//!
//! `TIDELOG_GOLDEN=write cargo test -p tidelog-segment --test golden` writes them: for a new version under a new name, never
//! over an old one.

mod support;

use std::path::PathBuf;

use bytes::Bytes;
use support::{AGENT, CLUSTER, batch, object, partition, plain_batches};
use tidelog_record::{BatchLimits, Compression, DecodedBatch};
use tidelog_segment::{SegmentBatch, read_slice, verify};

fn golden(name: &str, today: &[u8]) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var("TIDELOG_GOLDEN").is_ok_and(|value| value == "write") {
        assert!(!path.exists(), "{} exists, and golden files do not change", path.display());
        std::fs::write(&path, today).expect("the folder can be written");
    }
    std::fs::read(&path).expect("the golden file is there").into()
}

/// Batch by batch, the records of what was written are those of what is read.
fn assert_holds(object: &Bytes, batches: &[SegmentBatch]) {
    let index = verify("golden", object).expect("is whole");
    assert_eq!((index.cluster, index.agent), (CLUSTER, AGENT));
    let mut sorted: Vec<_> = batches.iter().collect();
    sorted.sort_by_key(|batch| batch.partition);
    let mut expected = sorted.into_iter();
    for slice in &index.slices {
        let start = slice.position as usize;
        let bytes = object.slice(start..start + slice.length_bytes() as usize);
        for read in read_slice("golden", start as u64, bytes, slice.records()) {
            let read = read.expect("is whole");
            let batch = expected.next().expect("no batch too many");
            assert_eq!((slice.partition, read.header.records), (batch.partition, batch.records));
            let open = |bytes| DecodedBatch::open(bytes, &BatchLimits::default()).expect("decodes");
            let (read, written) = (open(&read.bytes), open(&batch.bytes));
            assert_eq!(read.header().producer, written.header().producer);
            assert!(read.records().eq(written.records()), "the records are the same");
        }
    }
    assert!(expected.next().is_none(), "no batch is missing");
}

#[test]
fn version_1_is_read_and_written_byte_by_byte() {
    let batches = plain_batches();
    let today = object(&batches);
    let golden = golden("v1-plain.seg", &today);
    assert_holds(&golden, &batches);
    assert_eq!(golden, today);
}

#[test]
fn version_1_with_every_codec_is_read() {
    let codecs = Compression::ALL.into_iter().zip(0..);
    let batches: Vec<_> = codecs.map(|(codec, index)| batch(partition(1, index), 40, codec)).collect();
    assert_holds(&golden("v1-codecs.seg", &object(&batches)), &batches);
}
