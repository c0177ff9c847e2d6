//! The fixed part of a batch.
//!
//! ```text
//! byte  0  base offset             i64   outside the CRC
//!       8  batch length            i32   bytes after this field
//!      12  partition leader epoch  i32   outside the CRC
//!      16  magic                   i8    2
//!      17  CRC-32C                 u32   of all from byte 21 on
//!      21  attributes              i16   bits 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon
//!      23  last offset delta       i32   records - 1
//!      27  base timestamp          i64   of the first record
//!      35  max timestamp           i64
//!      43  producer id             i64   -1: none
//!      51  producer epoch          i16
//!      53  base sequence           i32
//!      57  record count            i32
//!      61  records
//! ```
//! All numbers are big-endian.

use std::fmt;
use std::str::FromStr;

use tidelog_types::{Offset, ProducerEpoch, ProducerId, ProducerStamp, Sequence, TimestampMs};

use crate::BatchError;

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 61;

/// Bytes up to and with the length field, which the length does not count.
pub(crate) const LENGTH_END: usize = 12;
/// Where the CRC lies, and where what it covers begins.
pub(crate) const CRC_AT: usize = 17;
pub(crate) const CRC_FROM: usize = 21;

const CODEC_BITS: u16 = 0b111;
const LOG_APPEND_TIME_BIT: u16 = 1 << 3;
const TRANSACTIONAL_BIT: u16 = 1 << 4;
const CONTROL_BIT: u16 = 1 << 5;
const DELETE_HORIZON_BIT: u16 = 1 << 6;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy blocks in the framing of the Java library xerial/snappy-java.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard frames.
    Zstd,
}

impl Compression {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The code in the batch's attributes, 0 to 4.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The compression with this code; an error outside 0 to 4.
    pub fn from_code(code: u8) -> Result<Self, BatchError> {
        Self::ALL.get(usize::from(code)).copied().ok_or(BatchError::Codec(code))
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    /// Reads the name that `Display` writes.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|compression| compression.to_string() == name);
        named.ok_or_else(|| UnknownCompression(name.to_owned()))
    }
}

/// A name that is no compression's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compression {0:?} is unknown, allowed are none, gzip, snappy, lz4, zstd")]
pub struct UnknownCompression(pub String);

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// Whose time the records carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// Each record has its producer's time.
    CreateTime,
    /// All records have the batch's max timestamp, set by whoever appended.
    LogAppendTime,
}

/// The fixed part of a batch, checked to be consistent in itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The base offset as it stands in the bytes: whatever the producer wrote. The true one is in the metadata.
    pub stored_base_offset: i64,
    /// Size of the whole batch in bytes, from the base offset to the last record; at least 61.
    pub size_bytes: u32,
    /// Partition leader epoch as it stands in the bytes; has no meaning here.
    pub partition_leader_epoch: i32,
    /// CRC-32C of all bytes from the attributes on, as it stands in the bytes.
    pub crc: u32,
    /// How the records are compressed.
    pub compression: Compression,
    /// All attribute bits.
    attributes: u16,
    /// Timestamp of the first record.
    pub base_timestamp: TimestampMs,
    /// Largest timestamp of the records, as the producer says.
    pub max_timestamp: TimestampMs,
    /// Identity and sequence, if an idempotent producer sent it.
    pub producer: Option<ProducerStamp>,
    /// Number of records, 1 to 2^31 - 1.
    pub records: u32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`. All fields are checked, but neither the CRC nor whether the records are
    /// there.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let size_bytes = size_of_batch(bytes)?;
        let mut fields = Fields(bytes);
        let stored_base_offset = i64::from_be_bytes(fields.take()?);
        let _length: [u8; 4] = fields.take()?;
        let partition_leader_epoch = i32::from_be_bytes(fields.take()?);
        let _magic: [u8; 1] = fields.take()?;
        let crc = u32::from_be_bytes(fields.take()?);
        let attributes = u16::from_be_bytes(fields.take()?);
        let last_offset_delta = i32::from_be_bytes(fields.take()?);
        let base_timestamp = TimestampMs(i64::from_be_bytes(fields.take()?));
        let max_timestamp = TimestampMs(i64::from_be_bytes(fields.take()?));
        let producer_id = i64::from_be_bytes(fields.take()?);
        let producer_epoch = i16::from_be_bytes(fields.take()?);
        let base_sequence = i32::from_be_bytes(fields.take()?);
        let count = i32::from_be_bytes(fields.take()?);

        let compression = Compression::from_code((attributes & CODEC_BITS) as u8)?;
        let records = u32::try_from(count).ok().filter(|&n| n > 0).ok_or(BatchError::Count(count))?;
        if last_offset_delta != count - 1 {
            return Err(BatchError::LastOffsetDelta { delta: last_offset_delta, records });
        }
        // As in Kafka, -1 as id means none, whatever epoch and sequence say.
        let producer = match producer_id {
            -1 => None,
            id => Some(ProducerStamp {
                id: ProducerId::new(id)?,
                epoch: ProducerEpoch::new(producer_epoch)?,
                base_sequence: Sequence::new(base_sequence)?,
            }),
        };
        Ok(Self {
            stored_base_offset,
            size_bytes,
            partition_leader_epoch,
            crc,
            compression,
            attributes,
            base_timestamp,
            max_timestamp,
            producer,
            records,
        })
    }

    /// Whose time the records carry.
    pub fn timestamp_type(&self) -> TimestampType {
        match self.attributes & LOG_APPEND_TIME_BIT {
            0 => TimestampType::CreateTime,
            _ => TimestampType::LogAppendTime,
        }
    }

    /// Offset of the last record minus that of the first.
    pub fn last_offset_delta(&self) -> u32 {
        self.records - 1
    }

    /// Whether the batch is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch holds markers of transactions and no records of a producer.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether the base timestamp is the time from which on tombstones may go (only brokers set this).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    /// Attribute bits that no version of the format defines.
    pub(crate) fn undefined_attributes(&self) -> u16 {
        const DEFINED: u16 =
            CODEC_BITS | LOG_APPEND_TIME_BIT | TRANSACTIONAL_BIT | CONTROL_BIT | DELETE_HORIZON_BIT;
        self.attributes & !DEFINED
    }
}

/// Size in bytes of the batch at the front of `bytes`, of which the header must be there, the rest need not.
pub(crate) fn size_of_batch(bytes: &[u8]) -> Result<u32, BatchError> {
    let truncated = BatchError::Truncated { have: bytes.len(), needed: HEADER_BYTES };
    let header = bytes.get(..HEADER_BYTES).ok_or(truncated.clone())?;
    // Formats 0 and 1 have their magic at the same place, so it decides before all else.
    let magic = header[16].cast_signed();
    if magic != 2 {
        return Err(BatchError::Magic(magic));
    }
    let length = i32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let least = HEADER_BYTES - LENGTH_END;
    u32::try_from(length)
        .ok()
        .filter(|&length| length as usize >= least)
        .and_then(|length| length.checked_add(LENGTH_END as u32))
        .filter(|&size| size <= i32::MAX.cast_unsigned())
        .ok_or(BatchError::Length(length))
}

/// Big-endian fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let truncated = BatchError::Truncated { have: self.0.len(), needed: N };
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(truncated)?;
        self.0 = rest;
        Ok(*field)
    }
}

/// What a header that is written says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewHeader {
    pub(crate) compression: Compression,
    pub(crate) base_timestamp: TimestampMs,
    pub(crate) max_timestamp: TimestampMs,
    pub(crate) producer: Option<ProducerStamp>,
    pub(crate) records: u32,
}

/// Fills in the header of the batch that is all of `batch`: room for it at the front, the records already behind it. Base
/// offset is 0, partition leader epoch -1, as clients send it.
pub(crate) fn write(batch: &mut [u8], header: &NewHeader) -> Result<BatchHeader, BatchError> {
    let too_large = BatchError::TooLarge { size: batch.len() as u64, limit: i32::MAX.cast_unsigned() };
    let size = i32::try_from(batch.len()).map_err(|_| too_large)?;
    let count = i32::try_from(header.records).map_err(|_| BatchError::Count(i32::MAX))?;
    let mut bytes = [0; HEADER_BYTES];
    let length = size - LENGTH_END as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    bytes[16] = 2;
    bytes[21..23].copy_from_slice(&u16::from(header.compression.code()).to_be_bytes());
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[27..35].copy_from_slice(&header.base_timestamp.0.to_be_bytes());
    bytes[35..43].copy_from_slice(&header.max_timestamp.0.to_be_bytes());
    write_stamp(&mut bytes, header.producer);
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    let truncated = BatchError::Truncated { have: batch.len(), needed: HEADER_BYTES };
    batch.get_mut(..HEADER_BYTES).ok_or(truncated)?.copy_from_slice(&bytes);
    seal(batch);
    BatchHeader::parse(batch)
}

/// Computes the CRC of a batch and writes it where it belongs.
fn seal(batch: &mut [u8]) {
    let crc = crate::crc32c(&batch[CRC_FROM..]);
    batch[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
}

/// Puts another producer's stamp on a batch, or takes it off, and makes the CRC right again. The batch must have passed
/// [`crate::validate()`]: damage in it would be sealed. An error, and no change, if it is shorter than a header.
pub fn restamp(batch: &mut [u8], producer: Option<ProducerStamp>) -> Result<(), BatchError> {
    let truncated = BatchError::Truncated { have: batch.len(), needed: HEADER_BYTES };
    let header = batch.get_mut(..HEADER_BYTES).ok_or(truncated)?;
    write_stamp(header, producer);
    seal(batch);
    Ok(())
}

fn write_stamp(header: &mut [u8], producer: Option<ProducerStamp>) {
    let (id, epoch, sequence) = match producer {
        Some(stamp) => (stamp.id.get(), stamp.epoch.get(), stamp.base_sequence.get()),
        None => (-1, -1, -1),
    };
    header[43..51].copy_from_slice(&id.to_be_bytes());
    header[51..53].copy_from_slice(&epoch.to_be_bytes());
    header[53..57].copy_from_slice(&sequence.to_be_bytes());
}

/// Writes the true base offset into a batch, for clients that look there. The CRC does not cover it and stays right.
/// `None`, and no change, if `batch` is shorter than a header.
pub fn patch_base_offset(batch: &mut [u8], base_offset: Offset) -> Option<()> {
    let header = batch.get_mut(..HEADER_BYTES)?;
    header[..8].copy_from_slice(&base_offset.get().to_be_bytes());
    Some(())
}
