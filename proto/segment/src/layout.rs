//! The fixed parts of a segment: its first 8 and its last 32 bytes.

use tidelog_record::crc32c;

use crate::error::{Damage, SegmentError};

/// Bytes before the first batch.
pub const HEADER_BYTES: usize = 8;
/// Bytes behind the index.
pub const FOOTER_BYTES: usize = 32;

/// The header, and the footer's end.
pub(crate) const MAGIC: &[u8; 8] = b"TLOGSEG1";
const VERSION: u16 = 1;

/// Where the footer's own checksum and its magic begin.
const OWN_CRC_AT: usize = 20;
const MAGIC_AT: usize = 24;

/// The end of a segment, which says where the index lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Where the index begins, in bytes from the object's start. The batches end there.
    pub index_position: u64,
    /// Length of the index in bytes. The footer follows it.
    pub index_bytes: u32,
    /// CRC-32C of the index.
    pub index_crc: u32,
}

impl Footer {
    /// Reads the footer of an object of `object_bytes` bytes. `tail` is its end, 32 bytes or more.
    pub fn read(object: &str, tail: &[u8], object_bytes: u64) -> Result<Self, SegmentError> {
        Self::parse(tail, object_bytes).map_err(|damage| damage.of(object))
    }

    pub(crate) fn parse(tail: &[u8], object_bytes: u64) -> Result<Self, Damage> {
        let too_short =
            Damage::Length { what: "footer", found: tail.len() as u64, expected: FOOTER_BYTES as u64 };
        let footer = tail.last_chunk::<FOOTER_BYTES>().ok_or(too_short)?;
        if footer[MAGIC_AT..] != *MAGIC {
            return Err(Damage::Format("it does not end with TLOGSEG1"));
        }
        if u32_at(footer, OWN_CRC_AT) != crc32c(&footer[..OWN_CRC_AT]) {
            return Err(Damage::Format("the footer's checksum does not match"));
        }
        if footer[16..18] != VERSION.to_le_bytes() {
            return Err(Damage::Format("its version is not 1"));
        }
        if footer[18..20] != [0, 0] {
            return Err(Damage::Format("the footer has reserved bytes that are not 0"));
        }
        let index_position = u64::from(u32_at(footer, 0)) | u64::from(u32_at(footer, 4)) << 32;
        let parsed = Self { index_position, index_bytes: u32_at(footer, 8), index_crc: u32_at(footer, 12) };
        let expected = parsed.object_bytes();
        if expected != Some(object_bytes) {
            let expected = expected.unwrap_or(u64::MAX);
            return Err(Damage::Length { what: "object", found: object_bytes, expected });
        }
        if index_position < HEADER_BYTES as u64 {
            return Err(Damage::Format("the index begins inside the header"));
        }
        Ok(parsed)
    }

    /// Length of the whole object, if it has one.
    pub(crate) fn object_bytes(&self) -> Option<u64> {
        self.index_position.checked_add(u64::from(self.index_bytes) + FOOTER_BYTES as u64)
    }

    pub(crate) fn to_bytes(self) -> [u8; FOOTER_BYTES] {
        let mut footer = [0; FOOTER_BYTES];
        footer[..8].copy_from_slice(&self.index_position.to_le_bytes());
        footer[8..12].copy_from_slice(&self.index_bytes.to_le_bytes());
        footer[12..16].copy_from_slice(&self.index_crc.to_le_bytes());
        footer[16..18].copy_from_slice(&VERSION.to_le_bytes());
        let own = crc32c(&footer[..OWN_CRC_AT]);
        footer[OWN_CRC_AT..MAGIC_AT].copy_from_slice(&own.to_le_bytes());
        footer[MAGIC_AT..].copy_from_slice(MAGIC);
        footer
    }
}

fn u32_at(footer: &[u8; FOOTER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]])
}
