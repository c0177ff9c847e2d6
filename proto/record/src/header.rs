//! The fixed header of a record batch v2, and what can be checked of a batch without decompressing it.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use tidelog_types::{ProducerEpoch, ProducerId, ProducerStamp, Sequence, TimestampMs};

use crate::compression::Compression;

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 61;
/// Bytes before the part that the batch length counts.
pub(crate) const LENGTH_END: usize = 12;
/// Where the part that the CRC covers begins.
pub(crate) const CRC_END: usize = 21;

const ATTRIBUTE_CODEC: u16 = 0b111;
const ATTRIBUTE_TRANSACTIONAL: u16 = 1 << 4;
const ATTRIBUTE_CONTROL: u16 = 1 << 5;

/// What a batch's header says. The base offset is left out: it lies outside the CRC, and the metadata knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Length of the whole batch in bytes.
    pub length: u32,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec of the records.
    pub compression: Compression,
    /// Number of records, 1 or more.
    pub records: u32,
    /// Timestamp that the records' deltas are based on.
    pub base_timestamp: TimestampMs,
    /// Largest timestamp of the records, as the producer says.
    pub max_timestamp: TimestampMs,
    /// Who sent it, if an idempotent producer did.
    pub producer: Option<ProducerStamp>,
}

/// Why bytes are no batch that a topic takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Too short for what it claims to be, or longer.
    #[error("record batch is cut off: {found} bytes, expected {expected}")]
    Length {
        /// Bytes that are there.
        found: usize,
        /// Bytes that its header, or the format, asks for.
        expected: usize,
    },
    /// A batch larger than its topic allows.
    #[error("record batch has {found} bytes, allowed are {max}")]
    TooLarge {
        /// Its size.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// Not version 2.
    #[error("record batch has magic {0}, only 2 is supported")]
    Magic(i8),
    /// The bytes are not what was sent.
    #[error("record batch has checksum {computed:08x}, its header says {stored:08x}")]
    Checksum {
        /// Over the bytes that are there.
        computed: u32,
        /// In the header.
        stored: u32,
    },
    /// A codec that does not exist.
    #[error("record batch has codec {0}, allowed are 0 to 4")]
    Codec(u16),
    /// Transactions and control batches do not exist here.
    #[error("record batch is {0}, which is not supported")]
    Unsupported(&'static str),
    /// The header contradicts itself.
    #[error("record batch header: {0}")]
    Header(&'static str),
    /// The records are not as the format says.
    #[error("records are malformed: {0}")]
    Records(&'static str),
    /// The records do not decompress, or to more than is allowed.
    #[error("records do not decompress to at most {max} bytes: {cause}")]
    Decompress {
        /// The limit.
        max: usize,
        /// What the codec said.
        cause: String,
    },
}

fn int<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], BatchError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>().copied())
        .ok_or(BatchError::Length { found: bytes.len(), expected: HEADER_BYTES })
}

/// Length in bytes of the batch that begins here, by its header.
pub fn batch_length(bytes: &[u8]) -> Result<usize, BatchError> {
    let counted = i32::from_be_bytes(int(bytes, 8)?);
    let length = usize::try_from(counted).ok().and_then(|counted| counted.checked_add(LENGTH_END));
    length.filter(|length| *length >= HEADER_BYTES).ok_or(BatchError::Header("batch length is too small"))
}

impl BatchHeader {
    /// Reads the header of the batch that begins here; checks that it makes sense, and not the CRC.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let length = batch_length(bytes)?;
        let magic = i8::from_be_bytes(int(bytes, 16)?);
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let attributes = u16::from_be_bytes(int(bytes, CRC_END)?);
        if attributes & ATTRIBUTE_TRANSACTIONAL != 0 {
            return Err(BatchError::Unsupported("part of a transaction"));
        }
        if attributes & ATTRIBUTE_CONTROL != 0 {
            return Err(BatchError::Unsupported("a control batch"));
        }
        let codec = attributes & ATTRIBUTE_CODEC;
        let compression = Compression::from_code(codec).ok_or(BatchError::Codec(codec))?;
        let last_offset_delta = i32::from_be_bytes(int(bytes, 23)?);
        let records = u32::try_from(i32::from_be_bytes(int(bytes, 57)?))
            .ok()
            .filter(|records| *records > 0)
            .ok_or(BatchError::Header("record count is not positive"))?;
        if i64::from(last_offset_delta) != i64::from(records) - 1 {
            return Err(BatchError::Header("last offset delta is not the record count less one"));
        }
        let (id, epoch, base_sequence) = (
            i64::from_be_bytes(int(bytes, 43)?),
            i16::from_be_bytes(int(bytes, 51)?),
            i32::from_be_bytes(int(bytes, 53)?),
        );
        let producer = if id == -1 {
            None
        } else {
            let stamp = ProducerId::new(id).and_then(|id| {
                Ok(ProducerStamp { id, epoch: ProducerEpoch::new(epoch)?, base_sequence: Sequence::new(base_sequence)? })
            });
            Some(stamp.map_err(|_| BatchError::Header("producer id, epoch or sequence is negative"))?)
        };
        Ok(Self {
            length: u32::try_from(length).map_err(|_| BatchError::Header("batch length is too large"))?,
            crc: u32::from_be_bytes(int(bytes, 17)?),
            compression,
            records,
            base_timestamp: TimestampMs(i64::from_be_bytes(int(bytes, 27)?)),
            max_timestamp: TimestampMs(i64::from_be_bytes(int(bytes, 35)?)),
            producer,
        })
    }
}

/// CRC-32C of a batch's covered part.
pub fn checksum(batch: &[u8]) -> u32 {
    let covered = batch.get(CRC_END..).unwrap_or_default();
    u32::try_from(crc_fast::checksum(Crc32Iscsi, covered)).unwrap_or(u32::MAX)
}

/// Checks that `bytes` are exactly one batch, undamaged, and of at most `bytes_max` bytes; decompresses nothing.
pub fn validate(bytes: &[u8], bytes_max: usize) -> Result<BatchHeader, BatchError> {
    if bytes.len() > bytes_max {
        return Err(BatchError::TooLarge { found: bytes.len(), max: bytes_max });
    }
    let expected = batch_length(bytes)?;
    if bytes.len() != expected {
        return Err(BatchError::Length { found: bytes.len(), expected });
    }
    let stored = u32::from_be_bytes(int(bytes, 17)?);
    let computed = checksum(bytes);
    if computed != stored {
        return Err(BatchError::Checksum { computed, stored });
    }
    BatchHeader::parse(bytes)
}
