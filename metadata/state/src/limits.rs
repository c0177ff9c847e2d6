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

/// Most members of a group, those that are away included.
pub const MEMBERS_PER_GROUP_MAX: usize = 1_000;

/// Most groups. Each is looked at when a topic comes or goes.
pub const GROUPS_PER_CLUSTER_MAX: usize = 10_000;

/// Most topics that a member subscribes to, by name and pattern together.
pub const TOPICS_PER_SUBSCRIPTION_MAX: usize = 1_000;

/// Most partitions of all groups together, each counted in each group that shares it: at 40 B each, and because creating a
/// topic shares it anew in each group that waits for it.
pub const GROUP_PARTITIONS_PER_CLUSTER_MAX: u64 = 2_000_000;

/// Most bytes of all groups together: texts and opaque data that clients choose, and about what holds them. All agents keep
/// them in memory.
pub const GROUP_BYTES_PER_CLUSTER_MAX: u64 = 256 * 1024 * 1024;

/// Longest pattern of topics, in bytes.
pub const TOPIC_PATTERN_BYTES_MAX: usize = 1_000;

/// Longest name of a client, in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 249;

/// Most bytes that a member gives to the assignor of a client.
pub const USER_DATA_BYTES_MAX: usize = 4_096;

/// Most bytes of metadata beside a committed offset (Kafka's `offset.metadata.max.bytes`).
pub const OFFSET_METADATA_BYTES_MAX: usize = 4_096;

/// Milliseconds without heartbeats after which a member is removed (Kafka's `group.max.session.timeout.ms`).
pub const SESSION_TIMEOUT_MS: std::ops::RangeInclusive<u32> = 1_000..=1_800_000;

/// Milliseconds that a member may take to release partitions, or to answer with an assignment.
pub const REBALANCE_TIMEOUT_MS: std::ops::RangeInclusive<u32> = 1_000..=3_600_000;

/// A group that had no members and took no commit for this long is forgotten (Kafka's `offsets.retention.minutes`).
pub const GROUP_OFFSETS_EXPIRY_MS: i64 = 7 * 24 * 60 * 60 * 1000;
