//! Segment objects: many partitions' record batches in one immutable object. The format stands in `FORMAT.md`.
//!
//! The crate lays bytes out and reads them back; it does no I/O. Offsets are no business of a segment: the metadata log gives them when
//! the segment is committed.
//!
//! Map: [`SegmentName`] keys · [`build`] and [`verify`] the format · [`BufferPool`] memory in which segments are collected · [`wire`] the index.

mod layout;
mod name;
mod pool;
pub mod wire;

pub use layout::{
    BuiltSegment, Damage, FOOTER_BYTES, HEADER_BYTES, SegmentBatch, SegmentError, SegmentIndex, SegmentSlice, build, verify,
};
pub use name::{FOLDER, SegmentName};
pub use pool::{BufferPool, PooledBuffer};
