//! Batches that lie one after another, as in a segment's slice.

use bytes::Bytes;

use crate::{BatchError, BatchHeader};

/// Takes a concatenation of batches apart by their headers alone. CRCs are not checked: see [`crate::validate()`].
pub fn split_batches(bytes: Bytes) -> Batches {
    Batches { rest: bytes }
}

/// Iterator of [`split_batches`]; ends after the first error.
#[derive(Debug, Clone)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    fn split_first(&mut self) -> Result<(BatchHeader, Bytes), BatchError> {
        let header = BatchHeader::parse(&self.rest)?;
        let size = header.size_bytes as usize;
        if size > self.rest.len() {
            return Err(BatchError::Truncated { have: self.rest.len(), needed: size });
        }
        Ok((header, self.rest.split_to(size)))
    }
}

impl Iterator for Batches {
    type Item = Result<(BatchHeader, Bytes), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let first = self.split_first();
        if first.is_err() {
            self.rest = Bytes::new();
        }
        Some(first)
    }
}

impl std::iter::FusedIterator for Batches {}
