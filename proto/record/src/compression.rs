//! The codecs of record batches, bounded on the way out.
//!
//! Framing as Kafka's Java client writes it: gzip members, snappy in xerial blocks, LZ4 frames, zstd frames. Snappy without xerial's
//! framing is read as well.

use std::io::{Read, Write};

use crate::header::BatchError;

/// Codec of a batch's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy in xerial's framing.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// RFC 8878.
    Zstd,
}

const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// Version and lowest compatible version, both 1.
const XERIAL_VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

impl Compression {
    /// All codecs.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    pub(crate) fn from_code(code: u16) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    pub(crate) fn code(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The name that Kafka's configuration uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// Appends the compressed form of `records` to `out`.
    pub(crate) fn compress(self, records: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            Self::None => out.extend_from_slice(records),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(records)?;
                encoder.finish()?;
            }
            Self::Snappy => compress_xerial(records, out)?,
            Self::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
                encoder.write_all(records)?;
                encoder.finish().map_err(std::io::Error::other)?;
            }
            Self::Zstd => zstd::stream::copy_encode(records, out, 3)?,
        }
        Ok(())
    }

    /// The decompressed form of `bytes`, which has at most `max` bytes. Memory grows with what is really there, not with what a
    /// header claims.
    pub(crate) fn decompress(self, bytes: &[u8], max: usize) -> Result<Vec<u8>, BatchError> {
        let failed = |cause: String| BatchError::Decompress { max, cause };
        let reader: Box<dyn Read + '_> = match self {
            Self::None => Box::new(bytes),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
            Self::Snappy => return decompress_snappy(bytes, max),
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(bytes)),
            Self::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(bytes).map_err(|error| failed(error.to_string()))?;
                // 8 MiB, what a standard decoder has to accept; a frame may ask for gigabytes.
                decoder.window_log_max(23).map_err(|error| failed(error.to_string()))?;
                Box::new(decoder)
            }
        };
        let mut out = Vec::new();
        let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        reader.take(limit).read_to_end(&mut out).map_err(|error| failed(error.to_string()))?;
        if out.len() > max {
            return Err(failed("there is more".into()));
        }
        Ok(out)
    }
}

fn compress_xerial(records: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    out.extend_from_slice(XERIAL_MAGIC);
    out.extend_from_slice(&XERIAL_VERSIONS);
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(XERIAL_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).map_err(std::io::Error::other)?;
        let length = u32::try_from(compressed.len()).map_err(std::io::Error::other)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(())
}

fn decompress_snappy(bytes: &[u8], max: usize) -> Result<Vec<u8>, BatchError> {
    let failed = |cause: String| BatchError::Decompress { max, cause };
    let mut out = Vec::new();
    let mut block = |compressed: &[u8]| {
        let length = snap::raw::decompress_len(compressed).map_err(|error| failed(error.to_string()))?;
        // Snappy shrinks at most 64-fold or so: a block that claims more lies, and would have memory set aside for it.
        if length > max - out.len() || length / 128 > compressed.len() {
            return Err(failed(format!("a block claims {length} bytes")));
        }
        let start = out.len();
        out.resize(start + length, 0);
        let written = snap::raw::Decoder::new()
            .decompress(compressed, &mut out[start..])
            .map_err(|error| failed(error.to_string()))?;
        out.truncate(start + written);
        Ok(())
    };
    let Some(mut rest) = bytes.strip_prefix(XERIAL_MAGIC).and_then(|rest| rest.get(XERIAL_VERSIONS.len()..)) else {
        block(bytes)?;
        return Ok(out);
    };
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (compressed, after) =
            after.split_at_checked(length).ok_or_else(|| failed("a block is cut off".into()))?;
        block(compressed)?;
        rest = after;
    }
    if rest.is_empty() { Ok(out) } else { Err(failed("a block is cut off".into())) }
}
