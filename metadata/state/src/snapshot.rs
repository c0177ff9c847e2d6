//! Snapshots: the whole state as bytes, and back.
//!
//! The format is drawn in `proto/tidelog/meta/v1/snapshot.proto`. Both directions stream record by record, so that neither
//! holds the state, its messages and its bytes all at once. What is read is checked as a whole: a snapshot that
//! contradicts itself is refused, not believed.

mod outcome;
mod read;
mod read_group;
mod read_partition;
mod write;
mod write_group;

use std::io::{Read, Write};

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use prost::Message;

use crate::entry::FEATURE_LEVEL;
use crate::state::State;
use crate::wire;

/// Why bytes are no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The frame is wrong: too short, no magic, unknown flags.
    #[error("not a metadata snapshot: {0}")]
    Frame(&'static str),
    /// A newer version wrote it, in another format.
    #[error("snapshot has format version {found}, this version reads {FORMAT_VERSION}")]
    Version {
        /// The version that it has.
        found: u8,
    },
    /// The checksum does not match.
    #[error("checksum is {computed:08x}, stored is {stored:08x}")]
    Checksum {
        /// Over the bytes that were read.
        computed: u32,
        /// In the bytes that were read.
        stored: u32,
    },
    /// It decompresses to more than a snapshot of its size can hold, or not at all.
    #[error("snapshot does not decompress to at most {max} bytes")]
    Compression {
        /// The limit.
        max: u64,
    },
    /// The payload has another number of records than the frame says.
    #[error("snapshot has {found} records, its frame says {stated}")]
    Records {
        /// How many were found before the payload ended, or went on.
        found: u64,
        /// How many there should be.
        stated: u64,
    },
    /// A record is no message of `tidelog.meta.v1`.
    #[error("record is malformed: {0}")]
    Payload(String),
    /// A record lacks something or has it out of range.
    #[error("field {field} is missing or out of range")]
    Field {
        /// Which one.
        field: &'static str,
    },
    /// Two parts of it contradict each other.
    #[error("snapshot contradicts itself: {0}")]
    Incoherent(&'static str),
    /// A newer version wrote it, and its meaning is another one.
    #[error("snapshot needs feature level {needed}, this version has {}", FEATURE_LEVEL.0)]
    Level {
        /// The level that it needs.
        needed: u32,
    },
}

const MAGIC: &[u8; 4] = b"TLS1";
/// The format of frame and records; meaning has the feature level.
const FORMAT_VERSION: u8 = 1;
const HEADER_BYTES: usize = 18;
const FLAG_ZSTD: u8 = 1;
/// Level 1: real states shrink about as far as with 3, in half the time.
const ZSTD_LEVEL: i32 = 1;
/// Largest window that the decompressor allocates, 4 MiB: eight times what level 1 uses.
const ZSTD_WINDOW_LOG_MAX: u32 = 22;

/// How large the records of a compressed payload may be. Real ones shrink to a quarter; what shrinks further than this
/// (large states made by a loop) is stored as it is.
fn records_bytes_max(payload_bytes: usize) -> u64 {
    (payload_bytes as u64).saturating_mul(64).saturating_add(1024 * 1024)
}

impl State {
    /// The bytes of a snapshot of this state.
    pub fn encode_snapshot(&self) -> Bytes {
        let compressed = compressed(self)
            .ok()
            .filter(|(records, payload)| records.bytes <= records_bytes_max(payload.len()));
        let (flags, records, payload) = match compressed {
            Some((records, payload)) => (FLAG_ZSTD, records, payload),
            None => {
                let mut plain = RecordWriter::new(Vec::new());
                // A Vec takes whatever is written to it.
                write::state(self, &mut plain).expect("writing to memory does not fail");
                (0, plain.written, plain.out)
            }
        };
        frame(flags, records.count, &payload)
    }

    /// Reads a snapshot back. Any bytes give a state that is coherent or an error, in memory bounded by their number.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(SnapshotError::Frame("shorter than its header"));
        };
        let [m0, m1, m2, m3, version, flags, c0, c1, c2, c3, count @ ..] = *header;
        if [m0, m1, m2, m3] != *MAGIC {
            return Err(SnapshotError::Frame("magic is not TLS1"));
        }
        if version != FORMAT_VERSION {
            return Err(SnapshotError::Version { found: version });
        }
        let (stored, computed) = (u32::from_le_bytes([c0, c1, c2, c3]), checksum(flags, count, payload));
        if stored != computed {
            return Err(SnapshotError::Checksum { computed, stored });
        }
        let records = u64::from_le_bytes(count);
        match flags {
            0 => read_records(payload, records, payload.len() as u64),
            FLAG_ZSTD => {
                let max = records_bytes_max(payload.len());
                let failed = |_| SnapshotError::Compression { max };
                let mut decoder = zstd::stream::read::Decoder::with_buffer(payload).map_err(failed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(failed)?;
                read_records(std::io::BufReader::with_capacity(64 * 1024, decoder), records, max)
            }
            _ => Err(SnapshotError::Frame("unknown flags")),
        }
    }
}

/// How much was written.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    count: u64,
    bytes: u64,
}

/// Writes records, each behind its length.
struct RecordWriter<W> {
    out: W,
    buffer: Vec<u8>,
    written: Written,
}

impl<W: Write> RecordWriter<W> {
    fn new(out: W) -> Self {
        Self { out, buffer: Vec::new(), written: Written::default() }
    }

    fn record(&mut self, record: wire::snapshot_record::Record) -> std::io::Result<()> {
        let record = wire::SnapshotRecord { record: Some(record) };
        self.buffer.clear();
        record.encode_length_delimited(&mut self.buffer).map_err(std::io::Error::other)?;
        self.written.count += 1;
        self.written.bytes += self.buffer.len() as u64;
        self.out.write_all(&self.buffer)
    }
}

fn compressed(state: &State) -> std::io::Result<(Written, Vec<u8>)> {
    let mut writer = RecordWriter::new(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?);
    write::state(state, &mut writer)?;
    Ok((writer.written, writer.out.finish()?))
}

fn read_records(payload: impl Read, stated: u64, bytes_max: u64) -> Result<State, SnapshotError> {
    let failed = |_| SnapshotError::Compression { max: bytes_max };
    // One byte more than allowed, to see what is too long.
    let mut payload = payload.take(bytes_max.saturating_add(1));
    let mut reader = read::StateReader::default();
    let mut buffer = Vec::new();
    let mut found = 0;
    while let Some(length) = read_length(&mut payload).map_err(failed)? {
        buffer.clear();
        // Grows with what really comes, whatever length is stated.
        let read = payload.by_ref().take(length).read_to_end(&mut buffer).map_err(failed)?;
        if payload.limit() == 0 {
            return Err(SnapshotError::Compression { max: bytes_max });
        }
        if found == stated || read as u64 != length {
            return Err(SnapshotError::Records { found, stated });
        }
        let record =
            wire::SnapshotRecord::decode(&*buffer).map_err(|e| SnapshotError::Payload(e.to_string()))?;
        reader.record(record)?;
        found += 1;
    }
    if found != stated {
        return Err(SnapshotError::Records { found, stated });
    }
    reader.finish()
}

/// Reads a varint; `None` at the end of the payload.
fn read_length(payload: &mut impl Read) -> std::io::Result<Option<u64>> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        if payload.read(&mut byte)? == 0 {
            if shift == 0 {
                return Ok(None);
            }
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let [byte] = byte;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(Some(value));
        }
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

fn checksum(flags: u8, count: [u8; 8], payload: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(Crc32Iscsi);
    digest.update(&[FORMAT_VERSION, flags]);
    digest.update(&count);
    digest.update(payload);
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

/// Puts a frame around a payload.
fn frame(flags: u8, records: u64, payload: &[u8]) -> Bytes {
    let count = records.to_le_bytes();
    let mut framed = Vec::with_capacity(HEADER_BYTES + payload.len());
    framed.extend_from_slice(MAGIC);
    framed.extend_from_slice(&[FORMAT_VERSION, flags]);
    framed.extend_from_slice(&checksum(flags, count, payload).to_le_bytes());
    framed.extend_from_slice(&count);
    framed.extend_from_slice(payload);
    framed.into()
}

/// The records of a state.
#[cfg(test)]
pub(crate) fn records_of(state: &State) -> Vec<wire::SnapshotRecord> {
    let mut writer = RecordWriter::new(Vec::new());
    write::state(state, &mut writer).expect("writing to memory does not fail");
    let mut bytes = writer.out.as_slice();
    let mut records = Vec::new();
    while !bytes.is_empty() {
        records.push(wire::SnapshotRecord::decode_length_delimited(&mut bytes).expect("it was just written"));
    }
    records
}

/// A snapshot of any records, with a frame that is right.
#[cfg(test)]
pub(crate) fn forge(records: &[wire::SnapshotRecord]) -> Bytes {
    let payload: Vec<u8> = records.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
    frame(0, records.len() as u64, &payload)
}

/// A snapshot of any compressed payload, with a frame that is right.
#[cfg(test)]
pub(crate) fn forge_zstd(records: u64, payload: &[u8]) -> Bytes {
    frame(FLAG_ZSTD, records, payload)
}
