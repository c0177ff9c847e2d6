//! Topics and their partitions.

use std::sync::Arc;

use tidelog_types::{LogIndex, TopicPartition};
use tidelog_types::{Offset, PartitionIndex, SegmentId, TimestampMs, TopicId, TopicName};

use crate::config::TopicConfig;
use crate::producer::Windows;
use crate::slices::{Slice, SliceLog};

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub(crate) id: TopicId,
    pub(crate) name: TopicName,
    pub(crate) directory: String,
    pub(crate) created: TimestampMs,
    pub(crate) config: TopicConfig,
    pub(crate) partitions: Vec<Arc<Partition>>,
}

impl Topic {
    /// Its id.
    pub fn id(&self) -> TopicId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &TopicName {
        &self.name
    }

    /// Name of its directory in the archive: the topic's name, or `name~2` for the second topic of that name; never
    /// used twice.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// When it was created, in log time.
    pub fn created(&self) -> TimestampMs {
        self.created
    }

    /// Its configuration.
    pub fn config(&self) -> &TopicConfig {
        &self.config
    }

    /// How many partitions it has.
    pub fn partition_count(&self) -> u32 {
        u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)
    }

    /// One of its partitions.
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        self.partitions.get(index.position()).map(Arc::as_ref)
    }

    /// Its partitions, from 0.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &Partition)> {
        self.partitions.iter().enumerate().filter_map(|(position, partition)| {
            let index = PartitionIndex::from_position(position)?;
            Some((TopicPartition { topic: self.id, partition: index }, partition.as_ref()))
        })
    }
}

/// A partition: offsets `[log_start, end)` and where they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub(crate) log_start: Offset,
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    pub(crate) slices: SliceLog,
    pub(crate) windows: Windows,
}

impl Default for Partition {
    fn default() -> Self {
        Self {
            log_start: Offset::ZERO,
            end: Offset::ZERO,
            bytes: 0,
            slices: SliceLog::default(),
            windows: Windows::default(),
        }
    }
}

impl Partition {
    /// The first offset that can be read. It only rises.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The offset that the next record will get: all below are committed (the high watermark).
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Bytes of its live slices.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its slices, by offset.
    pub fn slices(&self) -> &SliceLog {
        &self.slices
    }

    /// The slices to look through for the first record at or after a time, from the first that can hold one on.
    /// Timestamps are the clients' and need not rise, so later slices may not hold any.
    pub fn slices_from_time(&self, time: TimestampMs) -> impl Iterator<Item = &Slice> {
        self.slices
            .iter()
            .filter(move |slice| slice.max_timestamp >= time && slice.end_offset() > self.log_start)
    }
}

/// A segment object that live slices refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectRecord {
    /// First half of its name.
    pub named_at: LogIndex,
    /// Second half of its name.
    pub id: SegmentId,
    /// When it was committed, in log time: the append time of all its records.
    pub committed: TimestampMs,
    /// Its size in bytes.
    pub size_bytes: u32,
    /// How many slices refer to it; with the last one the record goes.
    pub(crate) references: u32,
}
