//! Kafka's record batch, version 2 (magic 2): the form in which Tidelog stores records and in which clients may send them.
//!
//! Bytes are as on Kafka's wire (<https://kafka.apache.org/documentation/#recordbatch>): a header of 61 bytes, then the
//! records, compressed as a whole. The CRC-32C covers all from the attributes on; the base offset and the partition
//! leader epoch lie before it. **Nobody here patches or believes those two**: readers take the base offset from the
//! metadata, so that a batch is stored and sent on exactly as it came. [`patch_base_offset`] is for clients that look
//! into the batch; [`restamp`] for producers whose identity changes while batches wait.
//!
//! What it is not: no I/O, no clock, no partitioner, no message formats 0 and 1, no control batches, no transactions. No
//! function panics on any bytes; memory is bounded by the bytes given and by [`BatchLimits`].
//!
//! Two stages of trust, because decompressing costs ten times more than all else:
//! * [`validate()`] checks frame, CRC and header. What it accepts can be stored and sent on.
//! * [`verify_records`] also decompresses and parses each record. What it accepts can be decoded.
//!
//! Timestamps: a batch keeps the difference of each record's timestamp to the first one's. Over the whole range of 64
//! bits that difference wraps, and so does the sum when reading, here as in Kafka's Java client: each timestamp comes
//! back as it was.
//!
//! Map: [`header`] the fixed 61 bytes · [`mod@validate`] the two stages · [`split`] batches one after another · [`decode`]
//! batch → records · [`encode`] records → batch · [`transcode`] protobuf records → batch, the hot path of produce ·
//! [`fetched`] batch → protobuf records, the hot path of fetch · [`mod@crc`] CRC-32C · `codec/` compression · `varint`,
//! `wire` numbers and fields.

mod codec;
pub mod crc;
pub mod decode;
pub mod encode;
mod error;
pub mod fetched;
pub mod header;
mod limits;
pub mod split;
pub mod transcode;
pub mod validate;
mod varint;
mod wire;

pub use crc::crc32c;
pub use decode::{DecodedBatch, Headers, OwnedRecords, Record, RecordView, Records};
pub use encode::{BatchBuilder, RecordRef};
pub use error::{BatchError, BatchErrorKind, RecordSetError};
pub use fetched::records_to_protobuf;
pub use header::{
    BatchHeader, Compression, HEADER_BYTES, TimestampType, UnknownCompression, patch_base_offset, restamp,
};
pub use limits::BatchLimits;
pub use split::{Batches, split_batches};
pub use transcode::transcode_records;
pub use validate::{validate, verify_records};
