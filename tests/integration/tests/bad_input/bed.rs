//! A server of a test's own, clients of it, and the question whether it is still well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use tidelog_integration::{Server, Stores, StoresKind};
use tidelog_proto::v1::admin_service_client::AdminServiceClient;
use tidelog_proto::v1::consumer_service_client::ConsumerServiceClient;
use tidelog_proto::v1::produce_partition::Payload;
use tidelog_proto::v1::produce_partition_result::Result as Answer;
use tidelog_proto::v1::producer_service_client::ProducerServiceClient;
use tidelog_proto::v1::{
    self, CreateTopicRequest, ErrorReason, FetchPartition, FetchRequest, FetchedPartition, FetchedRecord,
    FetchedRecordSet, ProduceAck, ProducePartition, ProduceRequest, ProducerStamp, Record, RecordFormat,
    RecordSet,
};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Bytes of a MiB.
pub const MIB: u64 = 1024 * 1024;

/// How long others may wait while somebody misbehaves, before a test fails. Not a measure: machines are slow at times.
const SERVED_WITHIN: Duration = Duration::from_secs(15);

/// An embedded server and its directory.
pub struct Bed {
    stores: Stores,
    pub server: Server,
}

impl Bed {
    /// Starts `tidelog dev` on a fresh directory.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same with further arguments.
    pub async fn with(arguments: &[&str]) -> Self {
        let stores = Stores::new(StoresKind::Embedded, "bad-input").await.expect("embedded needs no service");
        let (role, own) = stores.server();
        let all: Vec<&str> = own.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        let server = Server::start(role, &all, stores.directory()).await;
        Self { stores, server }
    }

    /// Where its data is.
    pub fn data(&self) -> PathBuf {
        self.stores.directory().join("data")
    }

    /// A connection of its own.
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(self.server.endpoint())
            .expect("a URL")
            .timeout(Duration::from_secs(60))
            .connect_lazy()
    }

    pub fn producer(&self) -> ProducerServiceClient<Channel> {
        ProducerServiceClient::new(self.channel()).max_encoding_message_size(usize::MAX)
    }

    pub fn consumer(&self) -> ConsumerServiceClient<Channel> {
        ConsumerServiceClient::new(self.channel())
            .max_encoding_message_size(usize::MAX)
            .max_decoding_message_size(usize::MAX)
    }

    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel()).max_encoding_message_size(usize::MAX)
    }

    /// Creates a topic with settings.
    pub async fn topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let config: BTreeMap<String, String> =
            config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let topic = CreateTopicRequest { name: name.into(), partition_count: Some(partitions), config };
        self.admin().create_topic(topic).await.expect("a sound topic");
    }

    /// Produces to one partition, and returns what became of it.
    pub async fn produce(&self, entry: ProducePartition) -> Result<ProduceAck, v1::Error> {
        let answer = self.producer().produce(ProduceRequest { partitions: vec![entry] }).await;
        let mut results = answer.expect("the request as a whole is sound").into_inner().results;
        assert_eq!(results.len(), 1);
        match results.remove(0).result.expect("a result") {
            Answer::Ack(ack) => Ok(ack),
            Answer::Error(error) => Err(error),
        }
    }

    /// Produces a batch to partition 0.
    pub async fn produce_batch(
        &self,
        topic: &str,
        batch: impl Into<bytes::Bytes>,
    ) -> Result<ProduceAck, v1::Error> {
        self.produce(entry(topic, 0, Payload::Batch(batch.into()))).await
    }

    /// Fetches what is at an offset of a partition, without waiting.
    pub async fn fetch(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        format: RecordFormat,
    ) -> FetchedPartition {
        let partitions =
            vec![FetchPartition { topic: topic.into(), partition, offset, ..FetchPartition::default() }];
        let request =
            FetchRequest { partitions, min_bytes: Some(0), format: format.into(), ..FetchRequest::default() };
        let fetched = self.consumer().fetch(request).await.expect("the request as a whole is sound");
        fetched.into_inner().partitions.remove(0)
    }

    /// All records from an offset on that one answer holds.
    pub async fn records(&self, topic: &str, partition: i32, offset: i64) -> Vec<FetchedRecord> {
        let fetched = self.fetch(topic, partition, offset, RecordFormat::Records).await;
        assert_eq!(fetched.error, None);
        FetchedRecordSet::decode(fetched.records).expect("records").records
    }

    /// Calls of an API that ended with a code, as the metrics tell.
    pub async fn calls(&self, api: &str, code: &str) -> f64 {
        let labels = [format!("api=\"{api}\""), format!("code=\"{code}\"")];
        let labels = [labels[0].as_str(), labels[1].as_str()];
        self.server.metric("tidelog_request_duration_seconds_count", &labels).await
    }

    /// Resident memory of the server in bytes.
    pub fn resident(&self) -> u64 {
        status_kib(self.server.pid(), "VmRSS:") * 1024
    }

    /// The most that it ever was.
    pub fn resident_peak(&self) -> u64 {
        status_kib(self.server.pid(), "VmHWM:") * 1024
    }

    /// Others are served: on a new connection something is written and read back, soon.
    pub async fn serves(&self) {
        let writing = async {
            let ack = self.produce(records("canary", vec![value("sings")])).await.expect("others are served");
            let found = self.records("canary", 0, ack.base_offset).await;
            assert_eq!(found[0].value.as_deref(), Some(b"sings".as_slice()));
        };
        tokio::time::timeout(SERVED_WITHIN, writing).await.expect("others are served soon");
    }

    /// It runs, serves others, and nothing in it panicked.
    pub async fn is_well(&mut self) {
        if let Some(status) = self.server.exited(Duration::ZERO).await {
            panic!("the server ended with {status}: {}", self.server.log());
        }
        self.serves().await;
        assert_eq!(self.server.http("/livez").await.map(|(status, _)| status), Some(200));
        assert_calm(&self.server);
    }
}

/// Nothing in the server panicked.
pub fn assert_calm(server: &Server) {
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
}

fn status_kib(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the server runs");
    let line = status.lines().find(|line| line.starts_with(key)).expect("the kernel tells it");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of KiB")
}

/// An entry of a produce request.
pub fn entry(topic: &str, partition: i32, payload: Payload) -> ProducePartition {
    ProducePartition { topic: topic.into(), partition, payload: Some(payload), ..ProducePartition::default() }
}

/// An entry for partition 0 with plain records.
pub fn records(topic: &str, records: Vec<Record>) -> ProducePartition {
    entry(topic, 0, Payload::Records(RecordSet { records }.encode_to_vec().into()))
}

/// The same, stamped.
pub fn stamped(topic: &str, producer_id: i64, producer_epoch: i32, base_sequence: i32) -> ProducePartition {
    let stamp = Some(ProducerStamp { producer_id, producer_epoch, base_sequence });
    ProducePartition { stamp, ..records(topic, vec![value("stamped")]) }
}

/// A record with a value.
pub fn value(text: &str) -> Record {
    Record { value: Some(text.as_bytes().to_vec().into()), ..Record::default() }
}

/// The error has this reason, the code that belongs to it, and says something.
pub fn assert_error(error: &v1::Error, reason: ErrorReason) {
    assert_eq!((error.reason(), Code::from_i32(error.code)), (reason, reason.code()), "{error:?}");
    assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error:?}");
}

/// Every file below a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("a directory of the test's own") {
            let path = entry.expect("readable").path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
