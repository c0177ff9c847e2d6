//! Any bytes as a protobuf record set: an error that leaves nothing behind, or a batch that can be decoded.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidelog_record::{BatchLimits, transcode_records, verify_records};
use tidelog_types::TimestampMs;

const LIMITS: BatchLimits = BatchLimits { max_batch_bytes: 4 << 10, max_decompressed_bytes: 4 << 10 };

fuzz_target!(|set: &[u8]| {
    let mut out = b"before".to_vec();
    let result = transcode_records(set, TimestampMs(7), None, &LIMITS, &mut out);
    assert!(out.starts_with(b"before"));
    match result {
        Ok(header) => {
            let batch = Bytes::from(out).slice(6..);
            assert!(batch.len() <= LIMITS.max_batch_bytes as usize);
            assert_eq!(verify_records(&batch, &LIMITS), Ok(header));
        }
        Err(_) => assert_eq!(out.len(), 6),
    }
});
