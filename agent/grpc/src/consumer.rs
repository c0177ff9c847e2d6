//! `tidelog.v1.ConsumerService`.

use std::pin::Pin;
use std::time::Duration;

use tidelog_agent::fetch::subscription::{Delivery, SubscribePartition};
use tidelog_agent::{Agent, FetchPartition, FetchRequest, OffsetQuery, StartAt, Subscription};
use tidelog_proto::convert::{self, FetchBounds, InvalidField, PartitionRef, Position, check_entries};
use tidelog_proto::limits::HEARTBEAT_MS_MAX;
use tidelog_proto::v1::consumer_service_server::ConsumerService;
use tidelog_proto::v1::{
    self, FetchResponse, PartitionProgress, ReconnectHint, RecordFormat, SubscribeHeartbeat,
    SubscribeRecords, SubscribeRequest, SubscribeResponse, subscribe_response,
};
use tidelog_types::Offset;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::age::{Leave, Left};
use crate::error;
use crate::fetched::{Room, failed};
use crate::timed::timed;

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
            let wanted: Vec<(Offset, usize)> =
                partitions.iter().map(|partition| (partition.offset, partition.max_bytes)).collect();
            let fetch = FetchRequest {
                partitions,
                min_bytes: bounds.min_bytes as usize,
                max_bytes: bounds.max_bytes as usize,
                // An answer that holds an error is not kept waiting.
                max_wait: if invalid.is_empty() { bounds.max_wait } else { Duration::ZERO },
            };
            let mut results = self.agent.fetch(fetch).await.into_iter().zip(wanted);
            let mut invalid = invalid.into_iter().peekable();
            let mut room = Room::new(bounds.format, bounds.max_bytes as usize);
            let answer = |(position, entry): (usize, v1::FetchPartition)| {
                if let Some((_, wrong)) = invalid.next_if(|(wrong, _)| *wrong == position) {
                    return failed(entry.topic, entry.partition, entry.offset, wrong.into());
                }
                match results.next() {
                    Some((result, (from, max_bytes))) => {
                        room.fetched(entry.topic, entry.partition, from, max_bytes, result)
                    }
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
        let leave = Leave::new(&self.agent, request.extensions());
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
        let reading = Reading {
            agent: self.agent.clone(),
            subscription,
            format,
            max_bytes: max_bytes as usize,
            leave,
            begun: false,
            hinted: false,
        };
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

/// A subscription on its way to the client.
struct Reading {
    agent: Agent,
    subscription: Subscription,
    format: RecordFormat,
    /// Most bytes of records in one message.
    max_bytes: usize,
    leave: Leave,
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
        match self.leave.now() {
            Some(Left::Hint(hint)) => {
                let message = Some(Message::Reconnect(hint));
                return Some((Ok(SubscribeResponse { message }), self));
            }
            Some(Left::Closed) => return Some((Err(error::draining().into()), self.finish())),
            None => {}
        }
        let before: Vec<_> = self.subscription.progress();
        let deliveries = self.subscription.next(self.wait_max()).await;
        if deliveries.is_empty() {
            return Some(self.heartbeat());
        }
        let mut room = Room::new(self.format, self.max_bytes);
        let mut partitions = Vec::with_capacity(deliveries.len());
        for Delivery { topic, partition, result } in deliveries {
            let at = before.iter().find(|at| at.partition == partition && at.topic == topic);
            let from = at.map_or(Offset::ZERO, |at| at.next_offset);
            let read_to = result.as_ref().ok().map(|read| read.next_offset.get());
            let answer = room.fetched(topic.to_string(), partition.get(), from, usize::MAX, result);
            if read_to.is_some_and(|read_to| read_to != answer.next_offset) {
                // Less became plain records than was read, or nothing because they are malformed.
                let next = Offset::new(answer.next_offset).ok().filter(|_| answer.error.is_none());
                self.subscription.read_on(&topic, partition, next);
            }
            // What did not fit this message has nothing to say until a later one. The first partition always fits.
            if answer.error.is_some() || answer.next_offset != from.get() {
                partitions.push(answer);
            }
        }
        let message = Message::Records(SubscribeRecords { partitions });
        Some((Ok(SubscribeResponse { message: Some(message) }), self))
    }

    /// How long nothing may be sent: until the next heartbeat is due, or the client is to be told to go.
    fn wait_max(&self) -> Duration {
        Duration::from_millis(HEARTBEAT_MS_MAX).min(self.leave.at().saturating_duration_since(Instant::now()))
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
