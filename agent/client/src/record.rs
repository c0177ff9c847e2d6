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

    /// Bytes that it takes as the first record of a batch, exactly.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|header| field_bytes(header.key.len()) + nullable_bytes(header.value.as_ref()));
        // Attributes, and differences of timestamp and offset to the first record's, which are 0.
        let body = 3
            + nullable_bytes(self.key.as_ref())
            + nullable_bytes(self.value.as_ref())
            + length_bytes(self.headers.len())
            + headers.sum::<usize>();
        length_bytes(body) + body
    }

    /// Bytes that it takes in a batch, at most: the differences have up to 10 and 5 bytes, and may lengthen the length.
    pub(crate) fn encoded_bytes_max(&self) -> usize {
        self.encoded_bytes() + 9 + 4 + 1
    }
}

/// Bytes of a length as a varint, zigzag-encoded.
fn length_bytes(length: usize) -> usize {
    let bits = u64::BITS - ((length as u64 * 2) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

fn field_bytes(length: usize) -> usize {
    length_bytes(length) + length
}

fn nullable_bytes(bytes: Option<&Bytes>) -> usize {
    bytes.map_or(1, |bytes| field_bytes(bytes.len()))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidelog_record::{BatchBuilder, Compression, HEADER_BYTES, RecordRef};

    use super::*;

    fn encoded(records: &[ProducerRecord]) -> usize {
        let mut builder = BatchBuilder::new(Compression::None);
        for record in records {
            let headers: Vec<_> =
                record.headers.iter().map(|header| (header.key.as_str(), header.value.as_deref())).collect();
            let record = RecordRef {
                timestamp: record.timestamp.unwrap_or(TimestampMs(0)),
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &headers,
            };
            builder.append(record).expect("fits");
        }
        builder.uncompressed_bytes()
    }

    fn bytes() -> impl Strategy<Value = Option<Bytes>> {
        let lengths = prop_oneof![0_usize..200, 8_150_usize..8_300];
        proptest::option::of(lengths.prop_map(|length| Bytes::from(vec![7; length])))
    }

    proptest! {
        #[test]
        fn sizes_are_known_before_encoding(
            key in bytes(),
            value in bytes(),
            headers in proptest::collection::vec(("[a-z]{0,70}", bytes()), 0..70),
            timestamp in any::<i64>(),
        ) {
            let mut record = ProducerRecord::new(TopicName::new("t").expect("a name"), Bytes::new());
            (record.key, record.value) = (key, value);
            record.headers = headers.into_iter().map(|(key, value)| Header { key, value }).collect();
            let alone = encoded(std::slice::from_ref(&record));
            prop_assert_eq!(alone, HEADER_BYTES + record.encoded_bytes());
            let later = ProducerRecord { timestamp: Some(TimestampMs(timestamp)), ..record.clone() };
            let both = encoded(&[record.clone(), later]);
            prop_assert!(both - alone <= record.encoded_bytes_max());
        }
    }
}
