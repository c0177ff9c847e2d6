//! `tidelog.v1.ConsumerService`.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tidelog_agent::fetch::subscription::{Delivery, SubscribePartition};
use tidelog_agent::{
    Agent, FetchError, FetchPartition, FetchRequest, FetchedBatch, OffsetQuery, StartAt, Subscription,
};
use tidelog_proto::convert::{self, FetchBounds, InvalidField, PartitionRef, Position, check_entries};
use tidelog_proto::limits::HEARTBEAT_MS_MAX;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::consumer_service_server::ConsumerService;
use tidelog_proto::v1::{
    self, ErrorReason, FetchResponse, FetchedPartition, PartitionProgress, ReconnectHint, RecordBatch,
    RecordFormat, SubscribeHeartbeat, SubscribeRecords, SubscribeRequest, SubscribeResponse,
    subscribe_response,
};
use tidelog_record::{BatchError, BatchLimits, records_to_protobuf};
use tidelog_types::Offset;
use tonic::{Request, Response, Status};

use crate::error;
use crate::timed::timed;

/// What the records of one response may decompress to, before its last batch.
const DECOMPRESSED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What was stored is not refused for its size.
const LIMITS: BatchLimits =
    BatchLimits { max_batch_bytes: u32::MAX, max_decompressed_bytes: 32 * 1024 * 1024 };

/// Number of the field `records` of `FetchedRecordSet`.
const RECORDS_FIELD: u8 = 1;

/// Serves consume calls.
#[derive(Debug, Clone)]
pub(crate) struct Consuming {
    pub agent: Agent,
}

type ResponseStream = Pin<Box<dyn futures::Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ConsumerService for Consuming {
    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<FetchResponse>, Status> {
        timed(&self.agent, "fetch", async {
            if self.agent.draining().is_cancelled() {
                return Err(error::draining().into());
            }
            let request = request.into_inner();
            let bounds = FetchBounds::try_from(&request)?;
            check_entries(request.partitions.iter().map(|entry| (entry.topic.as_str(), entry.partition)))?;
            let (mut partitions, mut invalid) = (Vec::with_capacity(request.partitions.len()), Vec::new());
            for (position, entry) in request.partitions.iter().enumerate() {
                match fetch_partition(entry) {
                    Ok(partition) => partitions.push(partition),
                    Err(wrong) => {
                        invalid.push((position, wrong.within(format_args!("partitions[{position}]"))))
                    }
                }
            }
            let wanted: Vec<Offset> = partitions.iter().map(|partition| partition.offset).collect();
            let fetch = FetchRequest {
                partitions,
                min_bytes: bounds.min_bytes as usize,
                max_bytes: bounds.max_bytes as usize,
                // An answer that holds an error is not kept waiting.
                max_wait: if invalid.is_empty() { bounds.max_wait } else { Duration::ZERO },
            };
            let mut results = self.agent.fetch(fetch).await.into_iter().zip(wanted);
            let mut invalid = invalid.into_iter().peekable();
            let mut decompressed_left = DECOMPRESSED_BYTES_MAX;
            let answer = |(position, entry): (usize, v1::FetchPartition)| {
                if let Some((_, wrong)) = invalid.next_if(|(wrong, _)| *wrong == position) {
                    return failed(entry.topic, entry.partition, entry.offset, wrong.into());
                }
                match results.next() {
                    Some((result, from)) => fetched(
                        entry.topic,
                        entry.partition,
                        from,
                        result,
                        bounds.format,
                        &mut decompressed_left,
                    ),
                    None => failed(entry.topic, entry.partition, entry.offset, error::draining()),
                }
            };
            let partitions = request.partitions.into_iter().enumerate().map(answer).collect();
            Ok(FetchResponse { partitions })
        })
        .await
    }

    type SubscribeStream = ResponseStream;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        if self.agent.draining().is_cancelled() {
            return Err(error::draining().into());
        }
        let request = request.into_inner();
        convert::client_id("client_id", &request.client_id)?;
        let format = convert::record_format("format", request.format)?;
        let max_bytes = convert::fetch::max_bytes("max_bytes", request.max_bytes)?;
        check_entries(request.partitions.iter().map(|entry| (entry.topic.as_str(), entry.partition)))?;
        let mut partitions = Vec::with_capacity(request.partitions.len());
        for (position, entry) in request.partitions.iter().enumerate() {
            let within = |invalid: InvalidField| invalid.within(format_args!("partitions[{position}]"));
            partitions.push(subscribe_partition(entry).map_err(within)?);
        }
        let subscription = self.agent.subscribe(partitions, max_bytes as usize).await;
        let reading =
            Reading { agent: self.agent.clone(), subscription, format, begun: false, hinted: false };
        Ok(Response::new(Box::pin(futures::stream::unfold(reading, Reading::next))))
    }
}

fn fetch_partition(entry: &v1::FetchPartition) -> Result<FetchPartition, InvalidField> {
    let PartitionRef { topic, topic_id, partition } = entry.try_into()?;
    Ok(FetchPartition {
        topic,
        topic_id,
        partition,
        offset: convert::offset("offset", entry.offset)?,
        max_bytes: convert::fetch::max_bytes("max_bytes", entry.max_bytes)? as usize,
    })
}

fn subscribe_partition(entry: &v1::SubscribePartition) -> Result<SubscribePartition, InvalidField> {
    let PartitionRef { topic, topic_id, partition } = entry.try_into()?;
    let start = match Position::try_from(entry)? {
        Position::Offset(offset) => StartAt::Offset(offset),
        Position::Timestamp(time) => StartAt::Found(OffsetQuery::AtTime(time)),
        Position::Earliest => StartAt::Found(OffsetQuery::Earliest),
        Position::Latest => StartAt::Found(OffsetQuery::Latest),
    };
    Ok(SubscribePartition { topic, topic_id, partition, start })
}

/// A partition that could not be read.
fn failed(topic: String, partition: i32, offset: i64, error: ApiError) -> FetchedPartition {
    FetchedPartition {
        topic,
        partition,
        next_offset: offset,
        error: Some(error.into()),
        ..Default::default()
    }
}

/// A partition's part of an answer, in the form that was asked for. `from` is the first offset wanted.
fn fetched(
    topic: String,
    partition: i32,
    from: Offset,
    result: Result<tidelog_agent::FetchedPartition, FetchError>,
    format: RecordFormat,
    decompressed_left: &mut usize,
) -> FetchedPartition {
    let read = match result {
        Ok(read) => read,
        Err(failure) => return failed(topic, partition, from.get(), error::fetch(&failure)),
    };
    let mut answer = FetchedPartition {
        topic,
        partition,
        topic_id: read.topic.0,
        log_start_offset: read.log_start.get(),
        high_watermark: read.high_watermark.get(),
        next_offset: read.next_offset.get(),
        ..FetchedPartition::default()
    };
    if format == RecordFormat::Batches {
        let batch =
            |batch: FetchedBatch| RecordBatch { base_offset: batch.base_offset.get(), data: batch.bytes };
        answer.batches = read.batches.into_iter().map(batch).collect();
        return answer;
    }
    match plain(read.batches, from, decompressed_left) {
        Ok((records, next)) => {
            answer.next_offset = next.unwrap_or(from).get();
            answer.records = records;
            answer
        }
        // The producer's compression or records are malformed: the checksum held, so they were sent like this.
        Err(malformed) => {
            let text = format!(
                "a batch cannot be decoded: {malformed}; fetch it as RECORD_FORMAT_BATCHES or skip it"
            );
            failed(answer.topic, partition, from.get(), ApiError::new(ErrorReason::StoredDataCorrupt, text))
        }
    }
}

/// Batches as an encoded `FetchedRecordSet`, and the offset behind the last record. Stops where the budget is used up, and
/// before a malformed batch, which is an error only where it comes first.
fn plain(
    batches: Vec<FetchedBatch>,
    from: Offset,
    decompressed_left: &mut usize,
) -> Result<(Bytes, Option<Offset>), BatchError> {
    let bytes: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
    let mut records = Vec::with_capacity(bytes + bytes / 8);
    let mut next = None;
    for batch in batches {
        if *decompressed_left == 0 {
            break;
        }
        let before = records.len();
        match records_to_protobuf(&batch.bytes, batch.base_offset, from, RECORDS_FIELD, &LIMITS, &mut records)
        {
            Ok(_) => {}
            Err(_) if next.is_some() => break,
            Err(malformed) => return Err(malformed),
        }
        *decompressed_left = decompressed_left.saturating_sub(records.len() - before);
        next = batch.base_offset.checked_add(batch.records);
    }
    Ok((records.into(), next))
}

/// A subscription on its way to the client.
struct Reading {
    agent: Agent,
    subscription: Subscription,
    format: RecordFormat,
    begun: bool,
    hinted: bool,
}

impl Reading {
    async fn next(mut self) -> Option<(Result<SubscribeResponse, Status>, Self)> {
        use subscribe_response::Message;
        if self.hinted {
            self.hinted = false;
            return self
                .agent
                .draining()
                .is_cancelled()
                .then(|| (Err(error::draining().into()), self.finish()));
        }
        if !self.begun {
            self.begun = true;
            return Some(self.heartbeat());
        }
        if self.agent.draining().is_cancelled() {
            self.hinted = true;
            let hint = Message::Reconnect(ReconnectHint { closes_in_ms: 0 });
            return Some((Ok(SubscribeResponse { message: Some(hint) }), self));
        }
        if self.subscription.is_finished() {
            return None;
        }
        let before: Vec<_> = self.subscription.progress();
        let deliveries = self.subscription.next(Duration::from_millis(HEARTBEAT_MS_MAX)).await;
        if deliveries.is_empty() {
            return Some(self.heartbeat());
        }
        let mut decompressed_left = DECOMPRESSED_BYTES_MAX;
        let mut partitions = Vec::with_capacity(deliveries.len());
        for Delivery { topic, partition, result } in deliveries {
            let at = before.iter().find(|at| at.partition == partition && at.topic == topic);
            let from = at.map_or(Offset::ZERO, |at| at.next_offset);
            let read_to = result.as_ref().ok().map(|read| read.next_offset.get());
            let (topic_name, format) = (topic.to_string(), self.format);
            let answer = fetched(topic_name, partition.get(), from, result, format, &mut decompressed_left);
            if read_to.is_some_and(|read_to| read_to != answer.next_offset) {
                // Less became plain records than was read, or nothing because they are malformed.
                let next = Offset::new(answer.next_offset).ok().filter(|_| answer.error.is_none());
                self.subscription.read_on(&topic, partition, next);
            }
            partitions.push(answer);
        }
        let message = Message::Records(SubscribeRecords { partitions });
        Some((Ok(SubscribeResponse { message: Some(message) }), self))
    }

    /// Ends the stream at the next turn.
    fn finish(mut self) -> Self {
        self.hinted = false;
        self.begun = true;
        self
    }

    fn heartbeat(self) -> (Result<SubscribeResponse, Status>, Self) {
        let partitions = self
            .subscription
            .progress()
            .into_iter()
            .map(|at| PartitionProgress {
                topic: at.topic.to_string(),
                partition: at.partition.get(),
                topic_id: at.topic_id.0,
                log_start_offset: at.log_start.get(),
                high_watermark: at.high_watermark.get(),
                next_offset: at.next_offset.get(),
            })
            .collect();
        let message = subscribe_response::Message::Heartbeat(SubscribeHeartbeat { partitions });
        (Ok(SubscribeResponse { message: Some(message) }), self)
    }
}

#[cfg(test)]
mod tests {
    use tidelog_record::{BatchBuilder, Compression, RecordRef};
    use tidelog_types::{TimestampMs, TopicId};

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn offset(value: i64) -> Offset {
        Offset::new(value).expect("not negative")
    }

    /// One record whose value is `bytes` zeros.
    fn zeros(base_offset: i64, bytes: usize) -> FetchedBatch {
        let value = vec![0; bytes];
        let mut builder = BatchBuilder::new(Compression::Zstd);
        let record = RecordRef { timestamp: TimestampMs(0), key: None, value: Some(&value), headers: &[] };
        builder.append(record).expect("fits");
        let bytes = builder.build().expect("a record");
        FetchedBatch { base_offset: offset(base_offset), records: 1, bytes }
    }

    fn read(batches: Vec<FetchedBatch>) -> Result<tidelog_agent::FetchedPartition, FetchError> {
        let end = offset(i64::try_from(batches.len()).expect("few"));
        Ok(tidelog_agent::FetchedPartition {
            topic: TopicId(1),
            log_start: Offset::ZERO,
            high_watermark: end,
            next_offset: end,
            batches,
        })
    }

    #[test]
    fn small_batches_that_decompress_to_much_do_not_all_come_at_once() {
        let partition = || read((0..8).map(|n| zeros(n, 10 * MIB)).collect());
        let mut left = DECOMPRESSED_BYTES_MAX;
        let mut plain =
            |n| fetched("t".into(), n, Offset::ZERO, partition(), RecordFormat::Records, &mut left);
        let (first, second) = (plain(0), plain(1));
        assert_eq!((first.next_offset, first.error), (4, None));
        assert!(first.records.len() < 41 * MIB);
        assert_eq!((second.next_offset, second.error), (0, None), "the next answer's");
        assert!(second.records.is_empty());
    }

    #[test]
    fn what_lies_before_a_malformed_batch_is_delivered() {
        let malformed = FetchedBatch { bytes: Bytes::from_static(b"malformed"), ..zeros(1, 1) };
        let plain = |from, batches| {
            let mut left = DECOMPRESSED_BYTES_MAX;
            fetched("t".into(), 0, offset(from), read(batches), RecordFormat::Records, &mut left)
        };
        let before = plain(0, vec![zeros(0, 1), malformed.clone(), zeros(2, 1)]);
        assert_eq!((before.next_offset, before.error), (1, None));
        assert!(!before.records.is_empty());
        let at = plain(1, vec![malformed, zeros(2, 1)]);
        assert_eq!(at.next_offset, 1);
        assert!(at.error.is_some() && at.records.is_empty());
    }
}
