//! Record batch v2: encode, validate and decode.
//!
//! A batch is Kafka's record batch of magic 2, byte for byte (Kafka's protocol documentation, "Record Batch"): a header of 61 bytes, then
//! records, compressed together or not at all. Its CRC-32C covers all from the attributes on, and neither the base offset nor the
//! partition leader epoch before them: readers take the base offset from the metadata and ignore both.
//!
//! The crate does no I/O and keeps no state. Decoders give a result or an error on any bytes, and allocate no more than a constant times
//! what they were given, or than a limit that the caller set.
//!
//! Map: [`header`] header, checksum, validation without decompressing · [`decode`](decode()) records of a batch · [`BatchBuilder`] writing ·
//! [`transcode`] between protobuf records and batches · [`Compression`] codecs.

mod compression;
mod decode;
mod encode;
pub mod header;
pub mod transcode;
mod varint;

pub use compression::Compression;
pub use decode::{Record, Records, decode, split_batches, verify_records};
pub use encode::{BatchBuilder, RecordRef};
pub use header::{BatchError, BatchHeader, HEADER_BYTES, batch_length, validate};
pub use transcode::{batch_to_records, records_to_batch};
