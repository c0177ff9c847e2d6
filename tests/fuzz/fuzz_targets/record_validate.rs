//! Any bytes as a batch or as several: an error, or a header that agrees with them.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidelog_record::{BatchHeader, BatchLimits, crc32c, split_batches, validate};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Behind a right CRC, which no fuzzer guesses.
    if bytes.len() >= 21 {
        let mut sealed = bytes.to_vec();
        let crc = crc32c(&sealed[21..]);
        sealed[17..21].copy_from_slice(&crc.to_be_bytes());
        check(&sealed);
    }
    let split: Vec<_> = split_batches(Bytes::copy_from_slice(bytes)).filter_map(Result::ok).collect();
    let joined: Vec<u8> = split.iter().flat_map(|(_, batch)| batch.iter().copied()).collect();
    assert!(bytes.starts_with(&joined));
});

fn check(bytes: &[u8]) {
    if let Ok(header) = validate(bytes, &BatchLimits::default()) {
        assert_eq!(header.size_bytes as usize, bytes.len());
        assert!(header.records > 0 && !header.is_control() && !header.is_transactional());
        assert_eq!(BatchHeader::parse(bytes), Ok(header));
    }
}
