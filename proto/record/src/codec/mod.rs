//! Compression of records, as Kafka's Java client writes and reads it.

mod snappy;

use std::fmt;
use std::io::{self, Read, Write};

use crate::{BatchError, Compression};

/// First bytes of an LZ4 frame. Kafka knows no other (the decoder would also take legacy frames).
const LZ4_MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();

/// Kafka's default level.
const ZSTD_LEVEL: i32 = 3;

/// Decompresses to at most `limit` bytes. Memory grows with what really comes out, not with what the bytes announce.
pub(crate) fn decompress(codec: Compression, bytes: &[u8], limit: u32) -> Result<Vec<u8>, BatchError> {
    let failed = |reason: String| BatchError::Decompress { codec, reason };
    let mut reader: Box<dyn Read + '_> = match codec {
        Compression::None => Box::new(bytes),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(bytes)),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(bytes).map_err(|e| failed(e.to_string()))?)
        }
        Compression::Lz4 => return lz4(bytes, limit),
        Compression::Snappy => {
            return snappy::decompress(bytes, limit as usize).map_err(|error| match error {
                snappy::Error::TooLarge => BatchError::DecompressedTooLarge { limit },
                snappy::Error::Damaged(reason) => failed(reason),
            });
        }
    };
    read_up_to(&mut reader, bytes.len(), limit, failed)
}

fn lz4(bytes: &[u8], limit: u32) -> Result<Vec<u8>, BatchError> {
    let failed = |reason: String| BatchError::Decompress { codec: Compression::Lz4, reason };
    if !bytes.starts_with(&LZ4_MAGIC) {
        return Err(failed("no frame begins here".to_owned()));
    }
    let mut decoder = lz4_flex::frame::FrameDecoder::new(bytes);
    let records = read_up_to(&mut decoder, bytes.len(), limit, failed)?;
    // The decoder stops at the first frame's end, as Kafka's does, which would not notice what follows.
    match decoder.into_inner().len() {
        0 => Ok(records),
        rest => Err(failed(format!("{rest} bytes after the frame"))),
    }
}

/// Reads all, growing by what was read; an error above `limit` bytes.
fn read_up_to(
    reader: &mut dyn Read,
    compressed_bytes: usize,
    limit: u32,
    failed: impl Fn(String) -> BatchError,
) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::with_capacity(compressed_bytes.saturating_mul(2).min(limit as usize));
    // One byte more than allowed tells "exactly the limit" from "more".
    let read = reader.take(u64::from(limit) + 1).read_to_end(&mut out);
    read.map_err(|error| failed(error.to_string()))?;
    if out.len() > limit as usize {
        return Err(BatchError::DecompressedTooLarge { limit });
    }
    Ok(out)
}

/// Compresses one batch after another and keeps what is expensive to set up.
pub(crate) enum Compressor {
    None,
    Gzip,
    Snappy(Box<snappy::Compressor>),
    Lz4,
    /// Set up at the first use, because that can fail.
    Zstd(Option<zstd::bulk::Compressor<'static>>),
}

impl Compressor {
    pub(crate) fn new(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip,
            Compression::Snappy => Self::Snappy(Box::new(snappy::Compressor::new())),
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd(None),
        }
    }

    pub(crate) fn compression(&self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Gzip => Compression::Gzip,
            Self::Snappy(_) => Compression::Snappy,
            Self::Lz4 => Compression::Lz4,
            Self::Zstd(_) => Compression::Zstd,
        }
    }

    /// Appends the compressed records to `out`.
    pub(crate) fn compress(&mut self, records: &[u8], out: &mut Vec<u8>) -> Result<(), BatchError> {
        let codec = self.compression();
        let failed = |reason: String| BatchError::Compress { codec, reason };
        match self {
            Self::None => {
                out.extend_from_slice(records);
                Ok(())
            }
            Self::Gzip => gzip(records, out).map_err(|e| failed(e.to_string())),
            Self::Snappy(compressor) => compressor.compress(records, out).map_err(|e| failed(e.to_string())),
            Self::Lz4 => lz4_frame(records, out).map_err(failed),
            Self::Zstd(compressor) => zstd_frame(compressor, records, out).map_err(|e| failed(e.to_string())),
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compressor({})", self.compression())
    }
}

fn gzip(records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    encoder.write_all(records)?;
    encoder.finish().map(|_| ())
}

/// Independent blocks of 64 KiB: Kafka's Java reader refuses linked ones.
fn lz4_frame(records: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(records).map_err(|e| e.to_string())?;
    encoder.finish().map(|_| ()).map_err(|e| e.to_string())
}

fn zstd_frame(
    compressor: &mut Option<zstd::bulk::Compressor<'static>>,
    records: &[u8],
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let compressor = match compressor {
        Some(compressor) => compressor,
        none => none.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
    };
    let start = out.len();
    // The library writes into initialised memory behind what is there.
    out.resize(start + zstd::zstd_safe::compress_bound(records.len()), 0);
    let written = compressor.compress_to_buffer(records, &mut out[start..]);
    out.truncate(start + *written.as_ref().unwrap_or(&0));
    written.map(|_| ())
}
