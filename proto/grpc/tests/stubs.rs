//! Client and server stubs speak with each other, errors included. The client calls the server in memory, through the same codec as
//! over a socket.

use std::pin::Pin;
use std::time::Duration;

use prost::Message as _;
use tidelog_proto::convert::{FetchBounds, check_entries};
use tidelog_proto::limits::REQUEST_BYTES_MAX;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidelog_proto::v1::consumer_service_server::{ConsumerService, ConsumerServiceServer};
use tidelog_proto::v1::subscribe_response::Message;
use tidelog_proto::v1::{self, ErrorReason};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status};

/// Answers each entry with one record at the offset that was asked for.
struct Echo;

fn record_at(entry: &v1::FetchPartition) -> v1::FetchedPartition {
    let record = v1::FetchedRecord { offset: entry.offset, ..Default::default() };
    v1::FetchedPartition {
        topic: entry.topic.clone(),
        partition: entry.partition,
        next_offset: entry.offset + 1,
        records: v1::FetchedRecordSet { records: vec![record] }.encode_to_vec().into(),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl ConsumerService for Echo {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let request = request.into_inner();
        FetchBounds::try_from(&request)?;
        check_entries(request.partitions.iter().map(|entry| (entry.topic.as_str(), entry.partition)))?;
        Ok(Response::new(v1::FetchResponse {
            partitions: request.partitions.iter().map(record_at).collect(),
        }))
    }

    async fn subscribe(
        &self,
        _: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let heartbeat =
            v1::SubscribeResponse { message: Some(Message::Heartbeat(v1::SubscribeHeartbeat::default())) };
        let draining = ApiError::new(ErrorReason::Draining, "the agent is shutting down");
        let end = draining.retry_after(Duration::from_millis(1500)).into();
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(heartbeat), Err(end)]))))
    }
}

fn client() -> ConsumerServiceClient<ConsumerServiceServer<Echo>> {
    ConsumerServiceClient::new(ConsumerServiceServer::new(Echo).max_decoding_message_size(REQUEST_BYTES_MAX))
}

#[tokio::test]
async fn records_come_back_raw() {
    let entry = v1::FetchPartition { topic: "t".into(), offset: 41, ..Default::default() };
    let request = v1::FetchRequest { partitions: vec![entry], ..Default::default() };
    let mut response = client().fetch(request).await.expect("it answers").into_inner();
    let partition = response.partitions.remove(0);
    assert_eq!(partition.next_offset, 42);
    let records = v1::FetchedRecordSet::decode(partition.records).expect("decodes").records;
    assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [41]);
}

#[tokio::test]
async fn a_refusal_names_the_field() {
    let status = client().fetch(v1::FetchRequest::default()).await.expect_err("nothing was asked for");
    let error = ApiError::from_status(&status);
    assert_eq!((error.code, error.reason), (Code::InvalidArgument, ErrorReason::InvalidRequest));
    assert_eq!(error.violations, [("partitions".into(), "is empty, at least one entry is needed".into())]);
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn a_stream_ends_with_a_reason() {
    let mut stream =
        client().subscribe(v1::SubscribeRequest::default()).await.expect("it opens").into_inner();
    let first = stream.next().await.expect("a message").expect("no error");
    assert!(matches!(first.message, Some(Message::Heartbeat(_))));
    let status = stream.next().await.expect("an end").expect_err("it ends with an error");
    let error = ApiError::from_status(&status);
    assert_eq!((error.code, error.reason), (Code::Unavailable, ErrorReason::Draining));
    assert_eq!(error.retry_after, Some(Duration::from_millis(1500)));
}
