//! The Rust client of Tidelog: producer, consumer, and requests about topics and offsets.
//!
//! It is a library for any tokio program; it knows nothing of an agent's inside. It speaks `tidelog.v1` over gRPC and sends records as encoded
//! batches, which is the cheapest form for the service.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use futures::StreamExt as _;
//! use tidelog_client::{Client, ClientOptions, ConsumerOptions, PartitionIndex, ProducerOptions, ProducerRecord, StartAt, TopicName};
//!
//! let client = Client::connect(&["127.0.0.1:7070".parse()?], ClientOptions::default()).await?;
//! let topic = TopicName::new("orders")?;
//!
//! let producer = client.producer(ProducerOptions::default());
//! let delivery = producer.send(ProducerRecord::new(topic.clone(), "hello").key("customer-1")).await?;
//! let written = delivery.await?;
//! producer.close().await;
//!
//! let from = (topic, written.partition, StartAt::Earliest);
//! let mut consumer = client.consumer(&[from], ConsumerOptions::default()).await?;
//! while let Some(record) = consumer.next().await {
//!     println!("{:?}", record?.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Map: [`Client`] connection and its settings · [`Producer`] batching, idempotence, repeats · [`Consumer`] a stream of records of partitions that
//! the caller names · [`group`] consumers that share partitions, and committed offsets · the other methods of [`Client`] topics, offsets, the
//! service · [`partitioner`] which partition a key goes to · [`error`] errors, told apart by what the caller does next.

mod admin;
mod backoff;
mod connection;
mod consumer;
pub mod error;
pub mod group;
pub mod partitioner;
mod producer;
mod record;
mod request;

pub use tidelog_record::Compression;
pub use tidelog_types::{
    Generation, GroupName, InstanceId, MemberId, Offset, PartitionIndex, TimestampMs, TopicId, TopicName,
};
/// For implementations of [`RebalanceListener`].
pub use tonic::async_trait;

pub use admin::{Cluster, ClusterAgent, DeleteBefore, FoundOffset, OffsetAt, Partition, ServerInfo, Topic};
pub use connection::{ByteStream, Client, ClientOptions, Dial, Endpoint};
pub use consumer::{Begin, Consumer, ConsumerOptions, Position, StartAt};
pub use error::{ConnectError, ConsumeError, ProduceError, RequestError};
pub use group::{
    AssignmentInput, AssignmentMember, Assignor, CommitError, CommitTicket, CommittedOffset, Group,
    GroupAssignor, GroupConsumer, GroupConsumerBuilder, GroupError, GroupHandle, GroupMember, GroupState,
    GroupSummary, NotAssigned, OffsetCommit, OffsetReset, PartitionAssignor, RebalanceListener,
    TopicPartition,
};
pub use partitioner::{KeyPartitioner, Partitioner};
pub use producer::{Delivery, Producer, ProducerOptions};
pub use record::{ConsumedRecord, Header, ProducerRecord, RecordMetadata};
