//! What is sent: encoded once, and sent again and again, so that the load costs little to make.

use bytes::Bytes;
use prost::Message as _;
use tidelog_client::{Compression, TimestampMs};
use tidelog_metadata_log::env::Entropy;
use tidelog_proto::v1;
use tidelog_record::{BatchBuilder, RecordRef};

use crate::failure::Failure;

/// Form in which records travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Form {
    /// Encoded batches, as our client sends and asks for.
    #[default]
    Batch,
    /// Plain records, as any language can.
    Records,
}

/// What is in the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Content {
    /// Random bytes, which do not compress.
    #[default]
    Random,
    /// Repeated words, which do.
    Text,
}

/// Values of records: `count` of `size` bytes each, all different.
pub fn values(content: Content, size: usize, count: usize, entropy: &Entropy) -> Vec<Vec<u8>> {
    const WORDS: [&str; 16] = [
        "delayed",
        "arrival",
        "origin",
        "flight",
        "distance",
        "departure",
        "carrier",
        "airport",
        "weather",
        "minutes",
        "cancelled",
        "taxi",
        "runway",
        "gate",
        "seat",
        "crew",
    ];
    let value = |_| {
        let mut value = Vec::with_capacity(size + 16);
        while value.len() < size {
            let random = entropy.next_u64();
            match content {
                Content::Random => value.extend_from_slice(&random.to_le_bytes()),
                Content::Text => {
                    let word = usize::try_from(random % 16).unwrap_or(0);
                    value.extend_from_slice(WORDS.get(word).copied().unwrap_or_default().as_bytes());
                    value.push(b' ');
                }
            }
        }
        value.truncate(size);
        value
    };
    (0..count).map(value).collect()
}

/// The values as the payload of one partition.
pub fn encode(
    form: Form,
    values: &[Vec<u8>],
    compression: Compression,
    now: TimestampMs,
) -> Result<v1::produce_partition::Payload, Failure> {
    match form {
        Form::Batch => {
            let mut builder = BatchBuilder::new(compression);
            for value in values {
                let record = RecordRef { timestamp: now, key: None, value: Some(value), headers: &[] };
                builder.append(record).map_err(|error| Failure::usage(error.to_string()))?;
            }
            let batch = builder.build().map_err(|error| Failure::usage(error.to_string()))?;
            Ok(v1::produce_partition::Payload::Batch(batch))
        }
        Form::Records => {
            let records = values.iter().map(|value| v1::Record {
                value: Some(Bytes::copy_from_slice(value)),
                timestamp_ms: Some(now.0),
                ..v1::Record::default()
            });
            let set = v1::RecordSet { records: records.collect() };
            Ok(v1::produce_partition::Payload::Records(set.encode_to_vec().into()))
        }
    }
}

/// Bytes of a payload on the wire.
pub fn wire_bytes(payload: &v1::produce_partition::Payload) -> usize {
    match payload {
        v1::produce_partition::Payload::Batch(bytes) | v1::produce_partition::Payload::Records(bytes) => {
            bytes.len()
        }
    }
}
