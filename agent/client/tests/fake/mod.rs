//! A service in memory that keeps the contract's promises, and breaks connections where a test says so: what a real agent cannot be made to do
//! at a chosen moment.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod bed;
pub mod group;
mod group_service;
pub mod network;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::admin_service_server::{AdminService, AdminServiceServer};
use tidelog_proto::v1::consumer_service_server::{ConsumerService, ConsumerServiceServer};
use tidelog_proto::v1::group_service_server::GroupServiceServer;
use tidelog_proto::v1::producer_service_server::{ProducerService, ProducerServiceServer};
use tidelog_proto::v1::{self, ErrorReason};
use tidelog_record::{BatchBuilder, BatchHeader, BatchLimits, Compression, RecordRef, validate};
use tidelog_types::TimestampMs;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

/// What happens to the next append, in turn; `Write` once all are used up.
#[derive(Debug, Clone)]
pub enum Fate {
    /// Written and acknowledged.
    Write,
    /// Written, and the stream breaks before the answer.
    WriteAndBreak,
    /// Not written, and the stream breaks.
    Break,
    /// Refused for this reason.
    Refuse(ErrorReason),
    /// Written, answered as unknown.
    WriteAndClaimUnknown,
    /// Written and acknowledged, with the hint to reconnect.
    WriteAndHint,
    /// Neither written nor answered.
    Silence,
    /// Written and not answered.
    WriteAndSilence,
    /// Not written, and said so only behind the next answer: answers may come in any order.
    RefuseLate,
}

#[derive(Debug, Default)]
pub struct State {
    /// Stored batches of each partition, with their base offsets.
    pub logs: BTreeMap<i32, Vec<(i64, Bytes)>>,
    /// The first offset that can be read of each partition; 0 unless said.
    pub log_starts: BTreeMap<i32, i64>,
    /// Stamps in the order in which they came, repeats included.
    pub stamps: Vec<(i64, i32, u32)>,
    pub fates: VecDeque<Fate>,
    /// Streams of Subscribe break after so many messages, in turn.
    pub breaks: VecDeque<usize>,
    pub streams: usize,
    /// Batches sent to consumers.
    pub sent: usize,
    pub next_producer: i64,
    /// Topics that were created, in turn.
    pub created: Vec<String>,
    /// Base sequence and record count to base offset, of each producer and partition.
    seen: BTreeMap<(i64, i32), BTreeMap<i32, i64>>,
    /// The next sequence of each producer in each partition.
    expected: BTreeMap<(i64, i32), i32>,
}

#[derive(Debug, Clone)]
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    pub groups: Arc<Mutex<group::Groups>>,
    /// Breaks the streams of sessions; `true` only hints that they should go elsewhere.
    pub break_sessions: broadcast::Sender<bool>,
    changed: watch::Sender<()>,
}

pub const TOPIC: &str = "t";
pub const PARTITIONS: i32 = 2;

impl Fake {
    pub async fn start() -> (Self, SocketAddr) {
        let fake = Self::new();
        let listener =
            tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has free ports");
        let address = listener.local_addr().expect("bound");
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(fake.router().serve_with_incoming(incoming));
        (fake, address)
    }

    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            groups: Arc::default(),
            break_sessions: broadcast::Sender::new(4),
            changed: watch::Sender::new(()),
        }
    }

    fn router(&self) -> Router {
        tonic::transport::Server::builder()
            .add_service(AdminServiceServer::new(self.clone()))
            .add_service(ProducerServiceServer::new(self.clone()).max_decoding_message_size(16 << 20))
            .add_service(ConsumerServiceServer::new(self.clone()))
            .add_service(GroupServiceServer::new(self.clone()))
    }

    pub fn fates(&self, fates: impl IntoIterator<Item = Fate>) {
        self.state.lock().fates.extend(fates);
    }

    pub fn high_watermark(&self, partition: i32) -> i64 {
        let state = self.state.lock();
        state.logs.get(&partition).and_then(|log| log.last()).map_or(0, |(base, batch)| {
            base + i64::from(BatchHeader::parse(batch).expect("validated").records)
        })
    }

    fn log_start(&self, partition: i32) -> i64 {
        self.state.lock().log_starts.get(&partition).copied().unwrap_or(0)
    }

    /// Writes a record as somebody else would.
    pub fn append(&self, partition: i32, value: &str) {
        let mut builder = BatchBuilder::new(Compression::None);
        let record =
            RecordRef { timestamp: TimestampMs(0), key: None, value: Some(value.as_bytes()), headers: &[] };
        builder.append(record).expect("fits");
        let batch = builder.build().expect("a batch");
        self.write(partition, &batch).expect("a valid batch");
    }

    /// Writes a batch as an idempotent log does.
    fn write(&self, partition: i32, batch: &Bytes) -> Result<i64, ErrorReason> {
        let header = validate(batch, &BatchLimits::NONE).map_err(|_| ErrorReason::CorruptBatch)?;
        let base = self.high_watermark(partition);
        let mut state = self.state.lock();
        if let Some(stamp) = header.producer {
            let (key, sequence) = ((stamp.id.get(), partition), stamp.base_sequence.get());
            state.stamps.push((stamp.id.get(), sequence, header.records));
            if let Some(original) = state.seen.entry(key).or_default().get(&sequence) {
                return Ok(*original);
            }
            let expected = state.expected.entry(key).or_insert(0);
            if *expected != sequence {
                return Err(ErrorReason::OutOfOrderSequence);
            }
            *expected = stamp.base_sequence.wrapping_add(header.records).get();
            state.seen.entry(key).or_default().insert(sequence, base);
        }
        state.logs.entry(partition).or_default().push((base, batch.clone()));
        drop(state);
        self.changed.send_replace(());
        Ok(base)
    }

    fn answer(&self, part: &v1::ProducePartition, fate: &Fate) -> v1::ProducePartitionResult {
        use v1::produce_partition_result::Result as Outcome;
        let Some(v1::produce_partition::Payload::Batch(batch)) = &part.payload else {
            panic!("the client sends batches")
        };
        let written = match fate {
            Fate::Refuse(reason) => Err(*reason),
            Fate::RefuseLate => Err(ErrorReason::StorageUnavailable),
            Fate::WriteAndClaimUnknown => {
                let _ = self.write(part.partition, batch);
                Err(ErrorReason::OutcomeUnknown)
            }
            _ => self.write(part.partition, batch),
        };
        let result = match written {
            Ok(base_offset) => {
                Outcome::Ack(v1::ProduceAck { base_offset, end_offset: base_offset + 1, duplicate: false })
            }
            Err(reason) => {
                let error = ApiError::new(reason, "as the test says");
                Outcome::Error(error.retry_after(Duration::from_millis(1)).into())
            }
        };
        v1::ProducePartitionResult {
            topic: part.topic.clone(),
            partition: part.partition,
            result: Some(result),
        }
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ProducerService for Fake {
    async fn produce(&self, _: Request<v1::ProduceRequest>) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(Status::unimplemented("the client streams"))
    }

    type ProduceStreamStream = Messages<v1::ProduceStreamResponse>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        use v1::produce_stream_request::Message as Question;
        use v1::produce_stream_response::Message as Answer;
        self.state.lock().streams += 1;
        let mut questions = request.into_inner();
        let (answers, stream) = mpsc::channel(64);
        let fake = self.clone();
        tokio::spawn(async move {
            // Partitions that have failed on this stream.
            let mut failed = std::collections::BTreeSet::new();
            let mut late = Vec::new();
            while let Some(Ok(question)) = questions.next().await {
                let Some(Question::Append(append)) = question.message else { continue };
                let fate = fake.state.lock().fates.pop_front().unwrap_or(Fate::Write);
                if matches!(fate, Fate::Silence) {
                    continue;
                }
                if matches!(fate, Fate::Break) {
                    let _ = answers.send(Err(Status::unavailable("broken"))).await;
                    return;
                }
                let results: Vec<_> = append
                    .partitions
                    .iter()
                    .map(|part| {
                        let blocked = Fate::Refuse(ErrorReason::EarlierAppendFailed);
                        let result = fake
                            .answer(part, if failed.contains(&part.partition) { &blocked } else { &fate });
                        if matches!(result.result, Some(v1::produce_partition_result::Result::Error(_))) {
                            failed.insert(part.partition);
                        }
                        result
                    })
                    .collect();
                if matches!(fate, Fate::WriteAndSilence) {
                    continue;
                }
                if matches!(fate, Fate::WriteAndBreak) {
                    let _ = answers.send(Err(Status::unavailable("broken"))).await;
                    return;
                }
                let result = v1::ProduceStreamResult { client_sequence: append.client_sequence, results };
                let answer = v1::ProduceStreamResponse { message: Some(Answer::Result(result)) };
                if matches!(fate, Fate::RefuseLate) {
                    late.push(answer);
                    continue;
                }
                for answer in std::iter::once(answer).chain(late.drain(..)) {
                    if answers.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
                if matches!(fate, Fate::WriteAndHint) {
                    let hint = Answer::Reconnect(v1::ReconnectHint { closes_in_ms: 1000 });
                    let _ = answers.send(Ok(v1::ProduceStreamResponse { message: Some(hint) })).await;
                }
            }
            // The client has closed its side: what is owed is answered.
            for answer in late {
                let _ = answers.send(Ok(answer)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let mut state = self.state.lock();
        state.next_producer += 1;
        let producer = v1::ProducerIdentity { producer_id: state.next_producer, producer_epoch: 0 };
        Ok(Response::new(v1::InitProducerResponse { producer: Some(producer) }))
    }
}

#[tonic::async_trait]
impl ConsumerService for Fake {
    async fn fetch(&self, _: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        Err(Status::unimplemented("the client subscribes"))
    }

    type SubscribeStream = Messages<v1::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let (messages, stream) = mpsc::channel(1);
        let fake = self.clone();
        self.state.lock().streams += 1;
        let mut left = self.state.lock().breaks.pop_front().unwrap_or(usize::MAX);
        tokio::spawn(async move {
            let mut changed = fake.changed.subscribe();
            let mut next: BTreeMap<i32, i64> = BTreeMap::new();
            for partition in &request.partitions {
                let Some(v1::subscribe_partition::Start::Offset(offset)) = partition.start else {
                    panic!("an offset")
                };
                let start = fake.log_start(partition.partition);
                if (start..=fake.high_watermark(partition.partition)).contains(&offset) {
                    next.insert(partition.partition, offset);
                    continue;
                }
                let error = ApiError::new(ErrorReason::OffsetOutOfRange, "not there");
                let fetched = v1::FetchedPartition {
                    topic: TOPIC.into(),
                    partition: partition.partition,
                    error: Some(error.into()),
                    ..Default::default()
                };
                let records = v1::SubscribeRecords { partitions: vec![fetched] };
                let message = Some(v1::subscribe_response::Message::Records(records));
                let _ = messages.send(Ok(v1::SubscribeResponse { message })).await;
            }
            loop {
                changed.mark_unchanged();
                for (partition, next) in &mut next {
                    let log = fake.state.lock().logs.get(partition).cloned().unwrap_or_default();
                    for (base, data) in log {
                        let end = base + i64::from(BatchHeader::parse(&data).expect("validated").records);
                        if end <= *next {
                            continue;
                        }
                        if left == 0 {
                            let _ = messages.send(Err(Status::unavailable("broken"))).await;
                            return;
                        }
                        left -= 1;
                        fake.state.lock().sent += 1;
                        *next = end;
                        let fetched = v1::FetchedPartition {
                            topic: TOPIC.into(),
                            partition: *partition,
                            topic_id: 1,
                            high_watermark: fake.high_watermark(*partition),
                            next_offset: end,
                            batches: vec![v1::RecordBatch { base_offset: base, data }],
                            ..Default::default()
                        };
                        let records = v1::SubscribeRecords { partitions: vec![fetched] };
                        let message = Some(v1::subscribe_response::Message::Records(records));
                        if messages.send(Ok(v1::SubscribeResponse { message })).await.is_err() {
                            return;
                        }
                    }
                }
                match tokio::time::timeout(Duration::from_secs(15), changed.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => {
                        let heartbeat = v1::SubscribeHeartbeat { partitions: Vec::new() };
                        let message = Some(v1::subscribe_response::Message::Heartbeat(heartbeat));
                        if messages.send(Ok(v1::SubscribeResponse { message })).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

#[tonic::async_trait]
impl AdminService for Fake {
    async fn describe_cluster(
        &self,
        _: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let name = request.into_inner().name;
        let mut state = self.state.lock();
        if state.created.contains(&name) {
            return Err(ApiError::new(ErrorReason::TopicExists, "it exists").into());
        }
        state.created.push(name.clone());
        let topic = v1::Topic { name, id: 7, partition_count: 1, ..Default::default() };
        Ok(Response::new(v1::CreateTopicResponse { topic: Some(topic) }))
    }

    async fn get_topic(
        &self,
        request: Request<v1::GetTopicRequest>,
    ) -> Result<Response<v1::GetTopicResponse>, Status> {
        if request.get_ref().name != TOPIC {
            return Err(ApiError::new(ErrorReason::UnknownTopic, "no such topic").into());
        }
        let topic =
            v1::Topic { name: TOPIC.into(), id: 1, partition_count: PARTITIONS, ..Default::default() };
        let partitions = (0..PARTITIONS).map(|partition| v1::Partition { partition, ..Default::default() });
        Ok(Response::new(v1::GetTopicResponse { topic: Some(topic), partitions: partitions.collect() }))
    }

    async fn list_topics(
        &self,
        _: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn update_topic(
        &self,
        _: Request<v1::UpdateTopicRequest>,
    ) -> Result<Response<v1::UpdateTopicResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn delete_topic(
        &self,
        _: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn add_partitions(
        &self,
        _: Request<v1::AddPartitionsRequest>,
    ) -> Result<Response<v1::AddPartitionsResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let results = request.into_inner().partitions.into_iter().map(|asked| {
            use v1::list_offsets_partition::At;
            let latest = asked.at == Some(At::Position(v1::OffsetPosition::Latest.into()));
            let partition = asked.partition;
            let offset = if latest { self.high_watermark(partition) } else { self.log_start(partition) };
            let found = v1::FoundOffset { offset, timestamp_ms: None };
            let result = Some(v1::list_offsets_result::Result::Found(found));
            v1::ListOffsetsResult { topic: asked.topic, partition: asked.partition, result }
        });
        Ok(Response::new(v1::ListOffsetsResponse { results: results.collect() }))
    }

    async fn delete_records(
        &self,
        _: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn get_server_info(
        &self,
        _: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let limits = Some(v1::ServerLimits::default());
        Ok(Response::new(v1::GetServerInfoResponse { limits, ..Default::default() }))
    }
}
