//! Splitting input into lines, with bounded memory and without changing a byte.

use bytes::{Bytes, BytesMut};

/// A line is longer than a record may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Splits what is fed to it at each `\n`, which belongs to no line. All other bytes are kept, `\r` too. What follows the last `\n` is a line if it
/// is not empty.
#[derive(Debug)]
pub struct LineSplitter {
    /// Bytes of a line, at most.
    limit: usize,
    /// The beginning of a line whose end has not come yet.
    begun: BytesMut,
}

impl LineSplitter {
    /// A splitter of lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, begun: BytesMut::new() }
    }

    /// Takes the next piece of input, and appends the lines that it completes to `lines`. An error stands for the line behind those.
    pub fn feed(&mut self, mut piece: Bytes, lines: &mut Vec<Bytes>) -> Result<(), TooLong> {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let rest = piece.split_to(end);
            let _newline = piece.split_to(1);
            let line = if self.begun.is_empty() {
                rest
            } else {
                self.begun.extend_from_slice(&rest);
                self.begun.split().freeze()
            };
            if line.len() > self.limit {
                return Err(TooLong);
            }
            lines.push(line);
        }
        if self.begun.len() + piece.len() > self.limit {
            return Err(TooLong);
        }
        self.begun.extend_from_slice(&piece);
        Ok(())
    }

    /// The last line, if it has no newline.
    pub fn finish(&mut self) -> Option<Bytes> {
        (!self.begun.is_empty()).then(|| self.begun.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]], limit: usize) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut splitter = LineSplitter::new(limit);
        let mut lines = Vec::new();
        for piece in pieces {
            splitter.feed(Bytes::copy_from_slice(piece), &mut lines)?;
        }
        lines.extend(splitter.finish());
        Ok(lines.into_iter().map(Vec::from).collect())
    }

    #[test]
    fn lines_keep_every_byte_but_the_newline() {
        let lines = split(&[b"a\r\n\n\xff\0b\nlast"], 10).expect("short");
        assert_eq!(lines, [b"a\r".to_vec(), b"".to_vec(), b"\xff\0b".to_vec(), b"last".to_vec()]);
        assert_eq!(split(&[b""], 10), Ok(vec![]));
        assert_eq!(split(&[b"\n"], 10), Ok(vec![vec![]]));
        assert_eq!(split(&[b"a\n"], 10), split(&[b"a"], 10));
    }

    #[test]
    fn lines_longer_than_allowed_are_refused_before_they_are_kept() {
        assert!(split(&[b"12345\n"], 5).is_ok());
        assert_eq!(split(&[b"123456\n"], 5), Err(TooLong));
        assert_eq!(split(&[b"123", b"456"], 5), Err(TooLong));
        let mut splitter = LineSplitter::new(1000);
        let mut lines = Vec::new();
        let fed = (0..1_000).map(|_| splitter.feed(Bytes::from_static(&[b'x'; 100]), &mut lines));
        assert_eq!(fed.take_while(Result::is_ok).count(), 10);
    }

    proptest! {
        #[test]
        fn how_the_input_is_cut_does_not_matter(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            size in 1_usize..20,
        ) {
            let pieces: Vec<&[u8]> = input.chunks(size).collect();
            let lines = split(&pieces, 1000).expect("short");
            prop_assert_eq!(&lines, &split(&[&input], 1000).expect("short"));
            let mut joined = lines.join(&b'\n');
            if input.ends_with(b"\n") {
                joined.push(b'\n');
            }
            prop_assert_eq!(joined, input);
        }
    }
}
