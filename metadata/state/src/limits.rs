//! Limits of the metadata. Each is part of what `apply` decides, so raising one needs a new feature level.

/// Most partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 10_000;

/// Most partitions of all topics together: at 64 B a slice and a slice per partition and flush, retention decides the
/// memory, but each partition costs some 200 B even when empty.
pub const PARTITIONS_PER_CLUSTER_MAX: u64 = 200_000;

/// Most slices in one segment, so that its commit fits an entry of the metadata log.
pub const SLICES_PER_SEGMENT_MAX: usize = 2_000;

/// How many of a producer's last batches per partition are remembered to recognise repeats (Kafka's number: a producer
/// may have five requests in flight).
pub const PRODUCER_BATCHES_REMEMBERED: usize = 5;

/// A producer that sent nothing for this long is forgotten (Kafka's `producer.id.expiration.ms`).
pub const PRODUCER_EXPIRY_MS: i64 = 24 * 60 * 60 * 1000;

/// Destructive commands act as if it were this much earlier, against clocks that run fast.
pub const DESTRUCTION_MARGIN_MS: i64 = 60 * 60 * 1000;
