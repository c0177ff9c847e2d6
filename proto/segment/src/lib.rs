//! Segment objects: the record batches of many partitions in one immutable object of the store.
//!
//! A segment is `header · batches, grouped by partition · index · footer`; `FORMAT.md` beside this crate draws it byte by
//! byte. Offsets are no business of a segment: the metadata log gives them when the segment is committed. The index says
//! without offsets what lies where, for the day on which only the objects are left.
//!
//! What it is not: no I/O, no clock, no compression. It lays bytes out and reads them back. Every read verifies checksums,
//! and damage is an error that names the object, never data and never a gap.
//!
//! Map, in the order of a record's life: [`pool`] the memory in which batches wait · [`mod@build`] batches → pieces to
//! upload · [`mod@gather`] few enough pieces · [`name`] the object's key · [`layout`] header and footer · [`index`] what
//! lies where · [`read`] bytes → batches · [`wire`] the index as protobuf.

pub mod build;
mod error;
pub mod gather;
pub mod index;
pub mod layout;
pub mod name;
pub mod pool;
pub mod read;
pub mod wire;

pub use build::{BuiltSegment, SegmentBatch, build};
pub use error::{Damage, SegmentError};
pub use index::{SegmentIndex, SegmentSlice};
pub use layout::{FOOTER_BYTES, Footer, HEADER_BYTES};
pub use name::{FOLDER, SegmentName};
pub use pool::{BufferPool, PooledBuffer};
pub use read::{SliceBatches, StoredBatch, read_slice, verify};
