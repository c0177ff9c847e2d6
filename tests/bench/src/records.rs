//! Records to be encoded: lines of JSON that compress about as well as events of a web shop do.

use tidelog_record::{BatchBuilder, Compression, RecordRef};
use tidelog_types::TimestampMs;

/// Time of the first record; the others follow at intervals of a millisecond.
pub const FIRST_TIME: TimestampMs = TimestampMs(1_800_000_000_000);

const KEY: &[u8] = b"customer-0000017";

/// Values of `value_bytes` bytes each, `bytes` bytes in all, the same on every call.
pub fn values(value_bytes: usize, bytes: usize) -> Vec<Vec<u8>> {
    // Numerical Recipes' generator; only to have something that does not repeat.
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut value = || {
        let mut text = String::with_capacity(value_bytes + 64);
        while text.len() < value_bytes {
            text += &format!("{{\"order\":{},\"price\":{},\"state\":\"shipped\"}},", next(), next() % 10_000);
        }
        text.truncate(value_bytes);
        text.into_bytes()
    };
    (0..bytes / value_bytes).map(|_| value()).collect()
}

/// A batch of records with these values and a key.
pub fn builder(compression: Compression, values: &[Vec<u8>]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(compression);
    for (value, n) in values.iter().zip(0..) {
        let timestamp = FIRST_TIME.saturating_add_ms(n);
        builder
            .append(RecordRef { timestamp, key: Some(KEY), value: Some(value), headers: &[] })
            .expect("far below 2 GiB");
    }
    builder
}

/// The protobuf encoding of a `tidelog.v1.RecordSet` of records with these values, a key, and as many headers each.
pub fn record_set(values: &[Vec<u8>], headers: usize) -> Vec<u8> {
    let mut set = Vec::new();
    let mut record = Vec::new();
    for value in values {
        record.clear();
        bytes_field(1, KEY, &mut record);
        bytes_field(2, value, &mut record);
        for _ in 0..headers {
            let mut header = Vec::new();
            bytes_field(1, b"traceparent", &mut header);
            bytes_field(2, b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", &mut header);
            bytes_field(3, &header, &mut record);
        }
        bytes_field(1, &record, &mut set);
    }
    set
}

fn bytes_field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}
