//! Which partition a record goes to.

use std::fmt;

use tidelog_types::{PartitionIndex, TopicName};

/// Chooses partitions for records that name none.
pub trait Partitioner: Send + Sync + fmt::Debug + 'static {
    /// The partition of a record with this key and value, from 0 to `partition_count - 1`; `None` leaves it to the producer, which fills a
    /// batch for one partition before it goes on to another ("sticky"). Called once per record, by one caller at a time.
    fn partition(
        &self,
        topic: &TopicName,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        partition_count: u32,
    ) -> Option<PartitionIndex>;
}

/// Kafka's default: records with a key go where the key's murmur2 hash says, so that a key lands where a Kafka client puts it; records without
/// key are left to the producer.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyPartitioner;

impl Partitioner for KeyPartitioner {
    fn partition(
        &self,
        _topic: &TopicName,
        key: Option<&[u8]>,
        _value: Option<&[u8]>,
        partition_count: u32,
    ) -> Option<PartitionIndex> {
        let positive = murmur2(key?) & 0x7fff_ffff;
        PartitionIndex::from_position(positive.checked_rem(partition_count)? as usize)
    }
}

/// The hash of `org.apache.kafka.common.utils.Utils.murmur2`: MurmurHash2 of 32 bits with Kafka's seed, words read as little-endian.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const MULTIPLIER: u32 = 0x5bd1_e995;
    // Kafka's lengths are 32 bits, and larger keys do not exist: batches are smaller.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut mixed = word.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        mixed = mixed.wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 24;
        mixed = mixed.wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kafka() {
        // From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn keys_choose_and_their_absence_does_not() {
        let topic = TopicName::new("t").expect("a name");
        let chosen = |key, count| KeyPartitioner.partition(&topic, key, None, count);
        assert_eq!(chosen(None, 3), None);
        assert_eq!(chosen(Some(b"k".as_slice()), 1).map(PartitionIndex::get), Some(0));
        // toPositive(-973932308) = 1173551340
        assert_eq!(chosen(Some(b"21".as_slice()), 7).map(PartitionIndex::get), Some(1_173_551_340 % 7));
        // An empty key is a key.
        assert!(chosen(Some(b"".as_slice()), 5).is_some());
    }
}
