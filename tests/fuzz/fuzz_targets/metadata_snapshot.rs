//! Any bytes as a snapshot of the metadata, also behind a right checksum: an error, or a state that is kept as it is and
//! goes on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidelog_metadata_state::{Entry, EntryBody, EntryId, FEATURE_LEVEL, State};
use tidelog_record::crc32c;
use tidelog_types::TimestampMs;
use uuid::Uuid;

fuzz_target!(|payload: &[u8]| {
    check(payload);
    check(&framed(0, payload));
    check(&framed(1, payload));
});

/// With as many records as there are lengths of records.
fn framed(flags: u8, payload: &[u8]) -> Vec<u8> {
    let (mut records, mut rest) = (0_u64, payload);
    while flags == 0 && !rest.is_empty() {
        // One or two bytes of length; longer records are counted wrong, and refused.
        let (length, skip) = match *rest {
            [low, high, ..] if low >= 0x80 => (usize::from(low & 0x7f) | usize::from(high) << 7, 2),
            [low, ..] => (usize::from(low), 1),
            [] => break,
        };
        records += 1;
        rest = rest.get(skip + length..).unwrap_or_default();
    }
    let count = records.max(1).to_le_bytes();
    let sealed = [&[1, flags], count.as_slice(), payload].concat();
    [b"TLS1".as_slice(), &[1, flags], &crc32c(&sealed).to_le_bytes(), &count, payload].concat()
}

fn check(bytes: &[u8]) {
    let Ok(mut state) = State::decode_snapshot(bytes) else { return };
    let kept = state.encode_snapshot();
    assert_eq!(State::decode_snapshot(&kept).as_ref(), Ok(&state));
    let _ = (state.removable_places(), state.has_expired_producers(TimestampMs(i64::MAX)));
    for body in [EntryBody::Batch(Vec::new()), EntryBody::Seal] {
        let entry = Entry { level: FEATURE_LEVEL, id: EntryId(Uuid::nil()), time: TimestampMs(1), body };
        let _ = state.apply(state.next(), &entry);
    }
}
