//! Writing and reading segments.

use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use prost::Message;
use tidelog_record::{BatchError, BatchLimits, validate};
use tidelog_types::{AgentInstance, ClusterId, PartitionIndex, TopicId, TopicPartition};
use uuid::Uuid;

use crate::wire;

/// Bytes before the first batch.
pub const HEADER_BYTES: usize = 8;
/// Bytes behind the index.
pub const FOOTER_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"TLOGSEG1";
const VERSION: u16 = 1;
/// Where the footer's own checksum begins.
const FOOTER_CRC: usize = 20;
/// More pieces than this are copied together where they are small: each piece costs a system call or a copy further down.
const CHUNKS_MAX: usize = 512;
/// Pieces below this are copied rather than passed on.
const SMALL_CHUNK_BYTES: usize = 16 * 1024;

/// Why bytes are no segment, or not the one that was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("segment {object} is damaged: {damage}")]
pub struct SegmentError {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub damage: Damage,
}

/// What is wrong with a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Too short, or cut off.
    #[error("it has {found} bytes, expected {expected}")]
    Length {
        /// Bytes that are there.
        found: usize,
        /// Bytes that have to be there.
        expected: usize,
    },
    /// Not a segment, or of a version that this one does not read.
    #[error("{0}")]
    Format(&'static str),
    /// A batch in it is damaged.
    #[error("batch at byte {position}: {error}")]
    Batch {
        /// Where it begins.
        position: usize,
        /// What is wrong with it.
        error: BatchError,
    },
}

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

/// The batches of one partition in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSlice {
    /// Whose records they are.
    pub partition: TopicPartition,
    /// Where the first batch begins in the object.
    pub position: u32,
    /// Length in bytes and number of records of each batch, in order.
    pub batches: Vec<(u32, u32)>,
}

/// A segment ready to be uploaded.
#[derive(Debug, Clone)]
pub struct BuiltSegment {
    /// Its bytes, in order. Batches that lay side by side in memory are one piece.
    pub chunks: Vec<Bytes>,
    /// Its size in bytes.
    pub size_bytes: u32,
    /// What lies in it, by position.
    pub slices: Vec<SegmentSlice>,
}

/// Lays out batches, which must be sorted by partition, as a segment. Copies no batch unless there are very many small ones. `None` if they
/// are more than 4 GiB.
pub fn build(cluster: ClusterId, agent: AgentInstance, batches: &[SegmentBatch]) -> Option<BuiltSegment> {
    debug_assert!(batches.is_sorted_by_key(|batch| batch.partition), "batches of a partition lie side by side");
    let mut chunks = Chunks::default();
    chunks.push(Bytes::from_static(MAGIC));
    let mut slices: Vec<SegmentSlice> = Vec::new();
    let mut position = HEADER_BYTES;
    for batch in batches {
        let length = u32::try_from(batch.bytes.len()).ok()?;
        match slices.last_mut() {
            Some(slice) if slice.partition == batch.partition => slice.batches.push((length, batch.records)),
            _ => slices.push(SegmentSlice {
                partition: batch.partition,
                position: u32::try_from(position).ok()?,
                batches: vec![(length, batch.records)],
            }),
        }
        position += batch.bytes.len();
        chunks.push(batch.bytes.clone());
    }
    let index = encode_index(cluster, agent, &slices);
    let mut tail = BytesMut::with_capacity(index.len() + FOOTER_BYTES);
    tail.extend_from_slice(&index);
    tail.extend_from_slice(&footer(position, &index)?);
    let size_bytes = u32::try_from(position + tail.len()).ok()?;
    chunks.push(tail.freeze());
    Some(BuiltSegment { chunks: chunks.finish(), size_bytes, slices })
}

/// Pieces of a segment; those that lie side by side in memory become one.
#[derive(Default)]
struct Chunks {
    all: Vec<Bytes>,
}

impl Chunks {
    fn push(&mut self, next: Bytes) {
        self.all.push(next);
    }

    fn finish(self) -> Vec<Bytes> {
        if self.all.len() <= CHUNKS_MAX {
            return self.all;
        }
        let mut merged = Vec::new();
        let mut small = BytesMut::new();
        for chunk in self.all {
            if chunk.len() < SMALL_CHUNK_BYTES {
                small.extend_from_slice(&chunk);
                continue;
            }
            if !small.is_empty() {
                merged.push(small.split().freeze());
            }
            merged.push(chunk);
        }
        if !small.is_empty() {
            merged.push(small.freeze());
        }
        merged
    }
}

fn encode_index(cluster: ClusterId, agent: AgentInstance, slices: &[SegmentSlice]) -> Vec<u8> {
    let slices = slices
        .iter()
        .map(|slice| wire::SliceIndex {
            topic_id: slice.partition.topic.0,
            partition: slice.partition.partition.get(),
            position: slice.position,
            lengths: slice.batches.iter().map(|(length, _)| *length).collect(),
            records: slice.batches.iter().map(|(_, records)| *records).collect(),
        })
        .collect();
    let id = |uuid: Uuid| Bytes::copy_from_slice(uuid.as_bytes());
    wire::SegmentIndex { cluster_id: id(cluster.0), agent: id(agent.0), slices }.encode_to_vec()
}

fn footer(index_position: usize, index: &[u8]) -> Option<[u8; FOOTER_BYTES]> {
    let mut footer = [0; FOOTER_BYTES];
    footer[..8].copy_from_slice(&u64::try_from(index_position).ok()?.to_le_bytes());
    footer[8..12].copy_from_slice(&u32::try_from(index.len()).ok()?.to_le_bytes());
    footer[12..16].copy_from_slice(&crc32c(index).to_le_bytes());
    footer[16..18].copy_from_slice(&VERSION.to_le_bytes());
    let own = crc32c(&footer[..FOOTER_CRC]);
    footer[FOOTER_CRC..FOOTER_CRC + 4].copy_from_slice(&own.to_le_bytes());
    footer[FOOTER_CRC + 4..].copy_from_slice(MAGIC);
    Some(footer)
}

fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(Crc32Iscsi, bytes)).unwrap_or(u32::MAX)
}

/// What a segment says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    /// Cluster that it belongs to.
    pub cluster: ClusterId,
    /// Agent that wrote it.
    pub agent: AgentInstance,
    /// What lies in it, by position.
    pub slices: Vec<SegmentSlice>,
}

/// Reads a whole segment: header, footer, index, and every batch's checksum. `object` names it in errors.
pub fn verify(object: &str, segment: &[u8]) -> Result<SegmentIndex, SegmentError> {
    check(segment).map_err(|damage| SegmentError { object: object.to_owned(), damage })
}

fn check(segment: &[u8]) -> Result<SegmentIndex, Damage> {
    let shortest = HEADER_BYTES + FOOTER_BYTES;
    let too_short = Damage::Length { found: segment.len(), expected: shortest };
    let (rest, footer) = segment.split_last_chunk::<FOOTER_BYTES>().ok_or(too_short.clone())?;
    if rest.get(..HEADER_BYTES).ok_or(too_short)? != MAGIC || footer[FOOTER_CRC + 4..] != *MAGIC {
        return Err(Damage::Format("magic is not TLOGSEG1"));
    }
    let number = |at: usize| footer[at..].first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if number(FOOTER_CRC) != crc32c(&footer[..FOOTER_CRC]) {
        return Err(Damage::Format("the footer's checksum does not match"));
    }
    if u16::from_le_bytes([footer[16], footer[17]]) != VERSION {
        return Err(Damage::Format("its version is not 1"));
    }
    let index_length = usize::try_from(number(8)).unwrap_or(usize::MAX);
    let (batches, index) = rest
        .len()
        .checked_sub(index_length)
        .and_then(|position| rest.split_at_checked(position))
        .ok_or(Damage::Format("the index is longer than the object"))?;
    let position = footer.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if usize::try_from(position) != Ok(batches.len()) {
        return Err(Damage::Format("the index is not where the footer says"));
    }
    if number(12) != crc32c(index) {
        return Err(Damage::Format("the index's checksum does not match"));
    }
    let index = decode_index(index)?;
    let mut end = HEADER_BYTES;
    for slice in &index.slices {
        if usize::try_from(slice.position) != Ok(end) {
            return Err(Damage::Format("slices do not follow each other"));
        }
        for (length, records) in &slice.batches {
            let length = usize::try_from(*length).unwrap_or(usize::MAX);
            let batch = batches
                .get(end..end.saturating_add(length))
                .ok_or(Damage::Length { found: batches.len(), expected: end.saturating_add(length) })?;
            let header = validate(batch, &BatchLimits::NONE).map_err(|error| Damage::Batch { position: end, error })?;
            if header.records != *records {
                return Err(Damage::Format("a batch has another number of records than the index says"));
            }
            end += length;
        }
    }
    if end != batches.len() {
        return Err(Damage::Format("there are bytes between the last batch and the index"));
    }
    Ok(index)
}

fn decode_index(bytes: &[u8]) -> Result<SegmentIndex, Damage> {
    const MALFORMED: Damage = Damage::Format("the index is malformed");
    let message = wire::SegmentIndex::decode(bytes).map_err(|_| MALFORMED)?;
    let id = |bytes: &[u8]| Uuid::from_slice(bytes).map_err(|_| MALFORMED);
    let slices = message
        .slices
        .into_iter()
        .map(|slice| {
            if slice.lengths.len() != slice.records.len() || slice.lengths.is_empty() {
                return Err(MALFORMED);
            }
            let partition = PartitionIndex::new(slice.partition).map_err(|_| MALFORMED)?;
            Ok(SegmentSlice {
                partition: TopicPartition { topic: TopicId(slice.topic_id), partition },
                position: slice.position,
                batches: slice.lengths.into_iter().zip(slice.records).collect(),
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(SegmentIndex { cluster: ClusterId(id(&message.cluster_id)?), agent: AgentInstance(id(&message.agent)?), slices })
}
