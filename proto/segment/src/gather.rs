//! Few enough chunks for one gathering write.

use bytes::{BufMut, Bytes, BytesMut};

/// Chunks that are handed to the store at most: what the kernel takes in one gathering write (`IOV_MAX` on Linux), and
/// each costs the HTTP client a poll.
pub const CHUNKS_MAX: usize = 1024;

/// At most [`CHUNKS_MAX`] chunks with the same bytes in the same order. If there are more, neighbours that are small are
/// copied together; large ones never are.
pub fn gather(chunks: Vec<Bytes>) -> Vec<Bytes> {
    if chunks.len() <= CHUNKS_MAX {
        return chunks;
    }
    let total: usize = chunks.iter().map(Bytes::len).sum();
    // A chunk of this size stands alone, and a group is closed when it has it. Of both together there are fewer than half
    // the maximum, and before each of them lies at most one group that was closed early.
    let large = total / (CHUNKS_MAX / 2 - 1) + 1;

    let mut gathered = Vec::with_capacity(CHUNKS_MAX);
    let mut small: Vec<Bytes> = Vec::new();
    let mut small_bytes = 0;
    for chunk in chunks {
        if chunk.len() >= large {
            flush(&mut small, &mut gathered);
            small_bytes = 0;
            gathered.push(chunk);
            continue;
        }
        small_bytes += chunk.len();
        small.push(chunk);
        if small_bytes >= large {
            flush(&mut small, &mut gathered);
            small_bytes = 0;
        }
    }
    flush(&mut small, &mut gathered);
    gathered
}

fn flush(small: &mut Vec<Bytes>, gathered: &mut Vec<Bytes>) {
    if small.len() <= 1 {
        gathered.append(small);
        return;
    }
    let mut joined = BytesMut::with_capacity(small.iter().map(Bytes::len).sum());
    for chunk in small.drain(..) {
        joined.put(chunk);
    }
    gathered.push(joined.freeze());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn bytes_stay_and_chunks_are_few(
            sizes in proptest::collection::vec(prop_oneof![0usize..20, 5_000usize..5_001], 0..4000),
        ) {
            let chunks: Vec<_> = sizes.iter().enumerate().map(|(n, size)| Bytes::from(vec![n as u8; *size])).collect();
            let few = chunks.len() <= CHUNKS_MAX;
            let expected = chunks.concat();
            let gathered = gather(chunks.clone());
            prop_assert!(gathered.len() <= CHUNKS_MAX, "{}", gathered.len());
            prop_assert_eq!(gathered.concat(), expected);
            if few {
                prop_assert_eq!(gathered, chunks);
            }
        }
    }

    #[test]
    fn large_chunks_are_not_copied() {
        let large = Bytes::from(vec![7; 1 << 20]);
        let mut chunks = vec![Bytes::from_static(b"small"); 3000];
        chunks[1500] = large.clone();
        let gathered = gather(chunks);
        assert!(gathered.iter().any(|chunk| chunk.as_ptr() == large.as_ptr()));
    }
}
