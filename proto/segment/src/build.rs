//! From batches to the pieces of an object.

use bytes::Bytes;
use tidelog_record::crc32c;
use tidelog_types::{AgentInstance, ClusterId, TopicPartition};

use crate::gather::gather;
use crate::index::{self, SegmentSlice};
use crate::layout::{Footer, HEADER_BYTES, MAGIC};

/// A batch to be put into a segment.
#[derive(Debug, Clone)]
pub struct SegmentBatch {
    /// Whose records they are.
    pub partition: TopicPartition,
    /// How many.
    pub records: u32,
    /// The batch.
    pub bytes: Bytes,
}

/// A segment ready to be uploaded.
#[derive(Debug, Clone)]
pub struct BuiltSegment {
    /// Its bytes, in order, in at most [`CHUNKS_MAX`](crate::gather::CHUNKS_MAX) pieces. Batches share their memory with
    /// what was given, unless there are very many.
    pub chunks: Vec<Bytes>,
    /// Its size in bytes.
    pub size_bytes: u32,
    /// What lies in it, by position and by partition.
    pub slices: Vec<SegmentSlice>,
}

/// Lays out batches as a segment: by partition, those of one partition in the order in which they are given. `None` if
/// there are none, or if they are more than 4 GiB.
pub fn build(cluster: ClusterId, agent: AgentInstance, batches: &[SegmentBatch]) -> Option<BuiltSegment> {
    if batches.is_empty() {
        return None;
    }
    let mut sorted: Vec<&SegmentBatch> = batches.iter().collect();
    // Keeps the order inside a partition, and costs next to nothing if they are sorted.
    sorted.sort_by_key(|batch| batch.partition);

    let mut chunks = Vec::with_capacity(sorted.len() + 2);
    chunks.push(Bytes::from_static(MAGIC));
    let mut slices: Vec<SegmentSlice> = Vec::new();
    let mut position = HEADER_BYTES;
    for batch in sorted {
        let entry = (u32::try_from(batch.bytes.len()).ok()?, batch.records);
        match slices.last_mut() {
            Some(slice) if slice.partition == batch.partition => slice.batches.push(entry),
            _ => slices.push(SegmentSlice {
                partition: batch.partition,
                position: u32::try_from(position).ok()?,
                batches: vec![entry],
            }),
        }
        position += batch.bytes.len();
        chunks.push(batch.bytes.clone());
    }

    let mut tail = index::encode(cluster, agent, &slices);
    let footer = Footer {
        index_position: position as u64,
        index_bytes: u32::try_from(tail.len()).ok()?,
        index_crc: crc32c(&tail),
    };
    let size_bytes = u32::try_from(footer.object_bytes()?).ok()?;
    tail.extend_from_slice(&footer.to_bytes());
    chunks.push(Bytes::from(tail));
    Some(BuiltSegment { chunks: gather(chunks), size_bytes, slices })
}
