//! Records as the client's users see them.

use bytes::Bytes;
use tidelog_types::{Offset, PartitionIndex, TimestampMs, TopicName};

/// A named annotation of a record. Several headers of one record may have the same name; their order is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name, may be empty.
    pub key: String,
    /// Value; `None` is null, which is not the same as empty.
    pub value: Option<Bytes>,
}

/// A record to produce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerRecord {
    /// Where to.
    pub topic: TopicName,
    /// The partition; `None` leaves it to the producer's partitioner.
    pub partition: Option<PartitionIndex>,
    /// Its time; `None`: when it is handed to the producer.
    pub timestamp: Option<TimestampMs>,
    /// Key; `None` is null.
    pub key: Option<Bytes>,
    /// Value; `None` is null, a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
}

impl ProducerRecord {
    /// A record without key and headers.
    pub fn new(topic: TopicName, value: impl Into<Bytes>) -> Self {
        Self {
            topic,
            partition: None,
            timestamp: None,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
        }
    }

    /// Sets the key.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Bytes that it takes in a batch, at most: its parts, and their lengths as varints.
    pub(crate) fn encoded_bytes_max(&self) -> usize {
        /// Record length, attributes, timestamp, offset, key length, value length, header count.
        const FIXED: usize = 5 + 1 + 10 + 5 + 5 + 5 + 5;
        let headers = self.headers.iter().map(|header| 10 + header.key.len() + length(header.value.as_ref()));
        FIXED + length(self.key.as_ref()) + length(self.value.as_ref()) + headers.sum::<usize>()
    }
}

fn length(bytes: Option<&Bytes>) -> usize {
    bytes.map_or(0, Bytes::len)
}

/// Where an acknowledged record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordMetadata {
    /// Its partition.
    pub partition: PartitionIndex,
    /// Its place in the partition.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: TimestampMs,
}

/// A record that was read. Key, value and header values are windows into the batch that they came in, and keep it in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Its topic.
    pub topic: TopicName,
    /// Its partition.
    pub partition: PartitionIndex,
    /// Its place in the partition.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: TimestampMs,
    /// Key; `None` is null.
    pub key: Option<Bytes>,
    /// Value; `None` is null, a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
}
