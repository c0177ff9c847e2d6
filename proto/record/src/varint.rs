//! Variable-length numbers: base 128, low bits first, as Kafka and protobuf share them; signed ones zigzag in Kafka.

/// Most bytes of a 64-bit number.
pub(crate) const MAX_BYTES: usize = 10;

/// Maps small negative and positive numbers to small unsigned ones.
#[inline]
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Reverses [`zigzag`].
#[inline]
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Bytes that `value` takes, 1 to 10.
#[inline]
pub(crate) fn len(value: u64) -> usize {
    // 64 bits in groups of 7: ceil(bits / 7), with 9/64 for 1/7 (exact for 1 to 64 bits).
    let bits = 64 - (value | 1).leading_zeros() as usize;
    (bits * 9 + 64) / 64
}

/// Reads a number from the front of `bytes`, and moves `bytes` behind it. `None` if it does not end, or passes 64 bits.
// Some six calls per record, nearly all for one or two bytes.
#[inline(always)]
pub(crate) fn read(bytes: &mut &[u8]) -> Option<u64> {
    match **bytes {
        [first, ref rest @ ..] if first < 0x80 => {
            *bytes = rest;
            Some(u64::from(first))
        }
        [first, second, ref rest @ ..] if second < 0x80 => {
            *bytes = rest;
            Some(u64::from(first & 0x7f) | u64::from(second) << 7)
        }
        _ => read_long(bytes),
    }
}

#[cold]
fn read_long(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (position, &byte) in bytes.iter().enumerate().take(MAX_BYTES) {
        // The tenth byte has room for one bit.
        if position == MAX_BYTES - 1 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            *bytes = &bytes[position + 1..];
            return Some(value);
        }
    }
    None
}

/// Numbers and single bytes on the stack, at most `N` bytes, which go to their destination in one copy.
pub(crate) struct Row<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

/// Room for the longest row that is written anywhere: four numbers and two bytes.
pub(crate) type LongRow = Row<48>;
/// Room for a number and a byte.
pub(crate) type ShortRow = Row<16>;

impl<const N: usize> Row<N> {
    #[inline]
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    #[inline]
    pub(crate) fn byte(&mut self, byte: u8) -> &mut Self {
        self.bytes[self.len] = byte;
        self.len += 1;
        self
    }

    #[inline]
    pub(crate) fn number(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            // The low seven bits, and a mark that more follow.
            self.byte((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8)
    }

    #[inline]
    pub(crate) fn signed(&mut self, value: i64) -> &mut Self {
        self.number(zigzag(value))
    }

    /// Appends the row. Copying all `N` bytes and forgetting some takes a few instructions, copying as many as there are
    /// takes a call; but nothing is reallocated for bytes that will be forgotten.
    #[inline]
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        if out.capacity() - out.len() >= N {
            let end = out.len() + self.len;
            out.extend_from_slice(&self.bytes);
            out.truncate(end);
        } else {
            out.extend_from_slice(&self.bytes[..self.len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(value: u64, shift in 0u32..64, rest: Vec<u8>) {
            let value = value >> shift;
            let (mut tight, mut roomy) = (Vec::new(), Vec::with_capacity(16));
            ShortRow::new().number(value).append_to(&mut tight);
            ShortRow::new().number(value).append_to(&mut roomy);
            prop_assert_eq!(&tight, &roomy);
            prop_assert_eq!(tight.len(), len(value));
            let mut bytes = [tight, rest.clone()].concat();
            let mut view = bytes.as_slice();
            prop_assert_eq!(read(&mut view), Some(value));
            prop_assert_eq!(view, rest.as_slice());
            bytes.truncate(len(value) - 1);
            prop_assert_eq!(read(&mut bytes.as_slice()), None);
            prop_assert_eq!(unzigzag(zigzag(value.cast_signed())), value.cast_signed());
        }
    }

    #[test]
    fn lengths_at_the_edges() {
        assert_eq!((len(0), len(127), len(128), len(u64::MAX)), (1, 1, 2, 10));
        for bytes in 1..10u32 {
            assert_eq!(len((1 << (7 * bytes)) - 1), bytes as usize);
            assert_eq!(len(1 << (7 * bytes)), bytes as usize + 1);
        }
        // Eleven bytes, and ten with more than 64 bits.
        assert_eq!(read(&mut [0x80; 11].as_slice()), None);
        assert_eq!(read(&mut [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2].as_slice()), None);
        assert_eq!(
            [i64::MIN, -1, 0, 1, i64::MAX].map(|v| unzigzag(zigzag(v))),
            [i64::MIN, -1, 0, 1, i64::MAX]
        );
    }
}
