//! What a segment says about itself.

use bytes::Bytes;
use prost::Message as _;
use tidelog_record::crc32c;
use tidelog_types::{AgentInstance, ClusterId, PartitionIndex, TopicId, TopicPartition};
use uuid::Uuid;

use crate::error::{Damage, SegmentError};
use crate::layout::{Footer, HEADER_BYTES};
use crate::wire;

/// The index of a segment, checked to be consistent in itself and with the footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    /// Cluster that it belongs to.
    pub cluster: ClusterId,
    /// Agent that wrote it.
    pub agent: AgentInstance,
    /// What lies in it, by position and by partition, without gaps from the header to the index.
    pub slices: Vec<SegmentSlice>,
}

/// The batches of one partition in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSlice {
    /// Whose records they are.
    pub partition: TopicPartition,
    /// Where the first batch begins in the object.
    pub position: u32,
    /// Length in bytes and number of records of each batch, in order; at least one batch.
    pub batches: Vec<(u32, u32)>,
}

impl SegmentSlice {
    /// Length of all batches in bytes.
    pub fn length_bytes(&self) -> u64 {
        self.batches.iter().map(|(length, _)| u64::from(*length)).sum()
    }

    /// Number of records in all batches.
    pub fn records(&self) -> u64 {
        self.batches.iter().map(|(_, records)| u64::from(*records)).sum()
    }
}

impl SegmentIndex {
    /// Reads the index from its bytes, those of the object that the footer tells. `object` names it in errors.
    pub fn decode(object: &str, footer: &Footer, bytes: &[u8]) -> Result<Self, SegmentError> {
        Self::parse(footer, bytes).map_err(|damage| damage.of(object))
    }

    pub(crate) fn parse(footer: &Footer, bytes: &[u8]) -> Result<Self, Damage> {
        let (found, expected) = (bytes.len() as u64, u64::from(footer.index_bytes));
        if found != expected {
            return Err(Damage::Length { what: "index", found, expected });
        }
        if footer.index_crc != crc32c(bytes) {
            return Err(Damage::Format("the index's checksum does not match"));
        }
        let message = wire::SegmentIndex::decode(bytes)
            .map_err(|_| Damage::Format("the index is no valid protobuf"))?;
        let id = |bytes: &[u8]| {
            Uuid::from_slice(bytes).map_err(|_| Damage::Format("an id in the index has not 16 bytes"))
        };
        let (cluster, agent) = (ClusterId(id(&message.cluster_id)?), AgentInstance(id(&message.agent)?));
        let slices = message.slices.into_iter().map(slice_from).collect::<Result<Vec<_>, _>>()?;

        let mut end = HEADER_BYTES as u64;
        for slice in &slices {
            if u64::from(slice.position) != end {
                return Err(Damage::Format("slices do not follow each other"));
            }
            end += slice.length_bytes();
        }
        if end != footer.index_position {
            return Err(Damage::Format("there are bytes between the last batch and the index"));
        }
        if !slices.is_sorted_by(|a, b| a.partition < b.partition) {
            return Err(Damage::Format("slices are not by rising partition"));
        }
        Ok(Self { cluster, agent, slices })
    }
}

fn slice_from(slice: wire::SliceIndex) -> Result<SegmentSlice, Damage> {
    if slice.lengths.len() != slice.records.len() {
        return Err(Damage::Format("a slice has not as many lengths as record counts"));
    }
    if slice.lengths.is_empty() || slice.lengths.contains(&0) || slice.records.contains(&0) {
        return Err(Damage::Format("a slice has no batches, or an empty one"));
    }
    let partition =
        PartitionIndex::new(slice.partition).map_err(|_| Damage::Format("a partition is negative"))?;
    Ok(SegmentSlice {
        partition: TopicPartition { topic: TopicId(slice.topic_id), partition },
        position: slice.position,
        batches: slice.lengths.into_iter().zip(slice.records).collect(),
    })
}

/// The bytes of the index of a segment with these slices.
pub(crate) fn encode(cluster: ClusterId, agent: AgentInstance, slices: &[SegmentSlice]) -> Vec<u8> {
    let slices = slices.iter().map(|slice| wire::SliceIndex {
        topic_id: slice.partition.topic.0,
        partition: slice.partition.partition.get(),
        position: slice.position,
        lengths: slice.batches.iter().map(|(length, _)| *length).collect(),
        records: slice.batches.iter().map(|(_, records)| *records).collect(),
    });
    let id = |uuid: Uuid| Bytes::copy_from_slice(uuid.as_bytes());
    wire::SegmentIndex { cluster_id: id(cluster.0), agent: id(agent.0), slices: slices.collect() }
        .encode_to_vec()
}
