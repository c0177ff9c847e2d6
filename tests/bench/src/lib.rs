//! Criterion benches of codec, CRC, segment building and apply, and what they share.
//!
//! Map: [`flushes`] commits of many partitions, as agents propose them · [`records`] records to be encoded.

pub mod flushes;
pub mod records;
