//! Batches as the tests of this crate make them.

use bytes::Bytes;
use tidelog_record::{BatchBuilder, Compression, RecordRef};
use tidelog_segment::SegmentBatch;
use tidelog_types::{
    AgentInstance, ClusterId, PartitionIndex, ProducerEpoch, ProducerId, ProducerStamp, Sequence,
    TimestampMs, TopicId, TopicPartition,
};
use uuid::Uuid;

pub const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
pub const AGENT: AgentInstance = AgentInstance(Uuid::from_u128(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20));

pub fn partition(topic: u64, partition: i32) -> TopicPartition {
    let partition = PartitionIndex::new(partition).expect("in range");
    TopicPartition { topic: TopicId(topic), partition }
}

/// A batch of `records` records that say where they are.
pub fn batch(partition: TopicPartition, records: u32, compression: Compression) -> SegmentBatch {
    let mut builder = BatchBuilder::new(compression);
    for n in 0..records {
        let value = format!("record {n} of {partition}");
        let record = RecordRef {
            timestamp: TimestampMs(1_750_000_000_000 + i64::from(n)),
            key: (n % 2 == 0).then_some(b"key".as_slice()),
            value: Some(value.as_bytes()),
            headers: &[("source", Some(b"golden")), ("source", None)],
        };
        builder.append(record).expect("fits");
    }
    builder.stamp(ProducerStamp {
        id: ProducerId::new(17).expect("in range"),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::ZERO,
    });
    SegmentBatch { partition, records, bytes: builder.build().expect("has records") }
}

/// Batches of four partitions, not in their order.
#[allow(dead_code, reason = "not every test needs it")]
pub fn plain_batches() -> Vec<SegmentBatch> {
    let places = [(7, 1, 1), (3, 0, 2), (7, 0, 3), (3, 0, 1), (300, 2_147_483_647, 2), (7, 1, 4)];
    places.map(|(topic, index, records)| batch(partition(topic, index), records, Compression::None)).to_vec()
}

/// The object.
#[allow(dead_code, reason = "not every test needs it")]
pub fn object(batches: &[SegmentBatch]) -> Bytes {
    tidelog_segment::build(CLUSTER, AGENT, batches).expect("builds").chunks.concat().into()
}
