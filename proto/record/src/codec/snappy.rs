//! Snappy in the framing of xerial/snappy-java, which is what "snappy" means in Kafka.
//!
//! `82 "SNAPPY" 00 · version u32 · oldest compatible version u32`, then blocks, each `length u32 · raw snappy`; numbers
//! big-endian. Streams may follow each other, each with its header. Bytes without that header are one raw snappy block, as
//! in Java.

use snap::raw;

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// Uncompressed bytes per block, as in Java.
const BLOCK_BYTES: usize = 32 * 1024;

/// A byte of raw snappy makes at most 64 bytes (a copy of 64 takes two or three), so more is a lie, and nothing is
/// allocated for it.
const EXPANSION_MAX: usize = 64;

/// Why bytes could not be decompressed.
pub(super) enum Error {
    TooLarge,
    Damaged(String),
}

impl Error {
    fn damaged(reason: &str) -> Self {
        Self::Damaged(reason.to_owned())
    }
}

/// Decompresses to at most `limit` bytes.
pub(super) fn decompress(mut bytes: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let mut decoder = raw::Decoder::new();
    if !bytes.starts_with(&MAGIC) {
        decompress_block(&mut decoder, bytes, limit, &mut out)?;
        return Ok(out);
    }
    while !bytes.is_empty() {
        if bytes.starts_with(&MAGIC) {
            bytes =
                bytes.get(HEADER.len()..).ok_or_else(|| Error::damaged("stream ends inside its header"))?;
            continue;
        }
        let (length, rest) =
            bytes.split_first_chunk().ok_or_else(|| Error::damaged("stream ends inside a block's length"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, rest) =
            rest.split_at_checked(length).ok_or_else(|| Error::damaged("block is longer than its stream"))?;
        decompress_block(&mut decoder, block, limit, &mut out)?;
        bytes = rest;
    }
    Ok(out)
}

fn decompress_block(
    decoder: &mut raw::Decoder,
    block: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let length = raw::decompress_len(block).map_err(|error| Error::Damaged(error.to_string()))?;
    if length > block.len().saturating_mul(EXPANSION_MAX) {
        return Err(Error::damaged("block announces more than it can hold"));
    }
    let start = out.len();
    if length > limit - start {
        return Err(Error::TooLarge);
    }
    out.resize(start + length, 0);
    let written =
        decoder.decompress(block, &mut out[start..]).map_err(|error| Error::Damaged(error.to_string()))?;
    out.truncate(start + written);
    Ok(())
}

/// Compresses one stream after another with the same tables.
pub(crate) struct Compressor {
    encoder: raw::Encoder,
}

impl Compressor {
    pub(super) fn new() -> Self {
        Self { encoder: raw::Encoder::new() }
    }

    /// Appends a stream with these bytes.
    pub(super) fn compress(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), snap::Error> {
        out.extend_from_slice(&HEADER);
        for block in bytes.chunks(BLOCK_BYTES) {
            let length_at = out.len();
            let start = length_at + 4;
            out.resize(start + raw::max_compress_len(block.len()), 0);
            let written = self.encoder.compress(block, &mut out[start..])?;
            out.truncate(start + written);
            // A block is far below 4 GiB.
            out[length_at..start].copy_from_slice(&(written as u32).to_be_bytes());
        }
        Ok(())
    }
}
