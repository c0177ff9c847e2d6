//! The `tidelog.v1` gRPC contract in Rust: what is generated from `proto/tidelog/v1`, and what both sides need to speak it.
//!
//! It holds no I/O and no policy: the services are implemented in `tidelog-grpc`, and called in `tidelog-client`. The stubs are behind the
//! features `server` and `client`, without a transport.
//!
//! Map: [`v1`] messages and stubs · [`convert`] numbers and names from outside into the types of `tidelog-types`, with
//! errors that name the field · [`status`] errors to and from [`tonic::Status`] and [`v1::Error`] · [`limits`] message sizes ·
//! [`FILE_DESCRIPTOR_SET`] for reflection.
//!
//! Two fields are `bytes` here though the contract says message: [`v1::produce_partition::Payload::Records`], a [`v1::RecordSet`], and
//! [`v1::FetchedPartition::records`], a [`v1::FetchedRecordSet`]. On the wire that is the same. It saves the hot path a struct per record;
//! others call `decode` and `encode_to_vec` of those messages. What such bytes hold is unchecked: also that header keys are UTF-8.

pub mod convert;
pub mod limits;
pub mod status;

/// Messages and stubs, generated from `proto/tidelog/v1`.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("tidelog.v1");
}

/// The contract as an encoded `google.protobuf.FileDescriptorSet`, as server reflection takes it.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("tidelog.v1");
