//! `tidelog.v1.ProducerService`.

use std::pin::Pin;

use futures::stream::{FuturesUnordered, StreamExt};
use tidelog_agent::{
    Agent, Payload, ProduceBatch, ProduceRequest, ProduceResult, ProduceSession, ProduceTicket, Reservation,
};
use tidelog_proto::convert::{self, InvalidField, PartitionRef, check_entries};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::produce_partition_result::Result as Answer;
use tidelog_proto::v1::producer_service_server::ProducerService;
use tidelog_proto::v1::{
    self, InitProducerRequest, InitProducerResponse, ProducePartition, ProducePartitionResult,
    ProduceResponse, ProduceStreamAppend, ProduceStreamRequest, ProduceStreamResponse, ProduceStreamResult,
    ReconnectHint, produce_partition, produce_stream_request, produce_stream_response,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::admission::Reservations;
use crate::age::{Leave, Left};
use crate::error;
use crate::timed::timed;

/// Appends of one stream that are not answered yet; then it is read no further.
const STREAM_IN_FLIGHT_MAX: usize = 1024;

/// Serves produce calls.
#[derive(Debug, Clone)]
pub(crate) struct Producing {
    pub agent: Agent,
}

type ResponseStream = Pin<Box<dyn futures::Stream<Item = Result<ProduceStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ProducerService for Producing {
    async fn produce(
        &self,
        request: Request<v1::ProduceRequest>,
    ) -> Result<Response<ProduceResponse>, Status> {
        timed(&self.agent, "produce", async {
            let reservation = reservation(request.extensions());
            let entries = request.into_inner().partitions;
            check_open(&self.agent)?;
            let Checked { names, batches, invalid } = check(entries)?;
            let request = ProduceRequest { session: None, batches, reservation };
            let results = self.agent.produce_and_wait(request).await;
            Ok(ProduceResponse { results: answer(names, results, invalid) })
        })
        .await
    }

    type ProduceStreamStream = ResponseStream;

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceStreamRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        let reservations = request.extensions().get::<Reservations>().cloned().unwrap_or_default();
        let leave = Leave::new(&self.agent, request.extensions());
        let mut requests = request.into_inner();
        check_open(&self.agent)?;
        let first = requests.message().await?.and_then(|request| request.message);
        drop(reservations.next());
        match first {
            Some(produce_stream_request::Message::Config(config)) => {
                convert::client_id("config.client_id", &config.client_id)?;
            }
            _ => {
                return Err(
                    InvalidField::new("config", "the first message has to be the configuration").into()
                );
            }
        }
        let stream = AppendStream {
            agent: self.agent.clone(),
            session: ProduceSession::new(),
            requests: Some(requests),
            reservations,
            in_flight: FuturesUnordered::new(),
            leave,
            hinted: false,
            ended: None,
        };
        Ok(Response::new(Box::pin(futures::stream::unfold(stream, AppendStream::next))))
    }

    async fn init_producer(
        &self,
        request: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        timed(&self.agent, "init_producer", async {
            check_open(&self.agent)?;
            let existing = request.into_inner().existing;
            let existing = existing
                .map(|identity| {
                    convert::producer_identity(&identity).map_err(|invalid| invalid.within("existing"))
                })
                .transpose()?;
            let ready = self.agent.admin().init_producer(existing).await;
            let producer = ready.map_err(|failed| Status::from(error::admin(&failed)))?;
            Ok(InitProducerResponse { producer: Some(producer.into()) })
        })
        .await
    }
}

fn reservation(extensions: &http::Extensions) -> Reservation {
    extensions.get::<Reservations>().map_or_else(Reservation::none, Reservations::next)
}

fn check_open(agent: &Agent) -> Result<(), Status> {
    if agent.draining().is_cancelled() { Err(error::draining().into()) } else { Ok(()) }
}

/// Topic and partition of an entry as it was sent, for its answer.
type Name = (String, i32);

/// The entries of an append: what is sound goes on, the rest is answered as it is.
struct Checked {
    names: Vec<Name>,
    /// The sound entries, in order.
    batches: Vec<ProduceBatch>,
    /// For each entry what is wrong with it, if anything is.
    invalid: Vec<Option<InvalidField>>,
}

fn check(entries: Vec<ProducePartition>) -> Result<Checked, InvalidField> {
    check_entries(entries.iter().map(|entry| (entry.topic.as_str(), entry.partition)))?;
    let mut checked = Checked {
        names: Vec::with_capacity(entries.len()),
        batches: Vec::with_capacity(entries.len()),
        invalid: Vec::with_capacity(entries.len()),
    };
    for (position, entry) in entries.into_iter().enumerate() {
        match batch(&entry) {
            Ok(batch) => {
                checked.batches.push(batch);
                checked.invalid.push(None);
            }
            Err(invalid) => {
                checked.invalid.push(Some(invalid.within(format_args!("partitions[{position}]"))));
            }
        }
        checked.names.push((entry.topic, entry.partition));
    }
    Ok(checked)
}

fn batch(entry: &ProducePartition) -> Result<ProduceBatch, InvalidField> {
    let PartitionRef { topic, topic_id, partition } = entry.try_into()?;
    let stamp =
        entry.stamp.as_ref().map(|stamp| stamp.try_into().map_err(|e: InvalidField| e.within("stamp")));
    let payload = match (&entry.payload, stamp.transpose()?) {
        (None, _) => return Err(InvalidField::missing("payload")),
        (Some(produce_partition::Payload::Batch(_)), Some(_)) => {
            return Err(InvalidField::new("stamp", "is not allowed beside a batch, which has its own"));
        }
        (Some(produce_partition::Payload::Batch(bytes)), None) => Payload::Encoded(bytes.clone()),
        (Some(produce_partition::Payload::Records(set)), stamp) => {
            Payload::Records { set: set.clone(), stamp }
        }
    };
    Ok(ProduceBatch { topic, topic_id, partition, payload })
}

fn answer(
    names: Vec<Name>,
    results: Vec<ProduceResult>,
    invalid: Vec<Option<InvalidField>>,
) -> Vec<ProducePartitionResult> {
    let mut results = results.into_iter();
    let answer = |((topic, partition), invalid): (Name, Option<InvalidField>)| {
        let result = match invalid {
            Some(invalid) => Some(Answer::Error(ApiError::from(invalid).into())),
            None => results.next().map(|result| match result {
                Ok(ack) => Answer::Ack(v1::ProduceAck {
                    base_offset: ack.base_offset.get(),
                    end_offset: ack.end_offset.get(),
                    duplicate: ack.duplicate,
                }),
                Err(failed) => Answer::Error(error::produce(&failed).into()),
            }),
        };
        ProducePartitionResult { topic, partition, result }
    };
    names.into_iter().zip(invalid).map(answer).collect()
}

type Answering = Pin<Box<dyn Future<Output = ProduceStreamResult> + Send>>;

/// A produce stream: reads appends and answers them, until the client ends it, or the agent does.
struct AppendStream {
    agent: Agent,
    session: ProduceSession,
    /// Gone once the client has ended its side.
    requests: Option<Streaming<ProduceStreamRequest>>,
    reservations: Reservations,
    in_flight: FuturesUnordered<Answering>,
    leave: Leave,
    hinted: bool,
    ended: Option<Result<(), Status>>,
}

impl AppendStream {
    async fn next(mut self) -> Option<(Result<ProduceStreamResponse, Status>, Self)> {
        use produce_stream_response::Message;
        loop {
            if self.in_flight.is_empty()
                && let Some(ended) = self.ended.take()
            {
                self.ended = Some(Ok(()));
                self.requests = None;
                return ended.err().map(|status| (Err(status), self));
            }
            let reads = self.ended.is_none() && self.in_flight.len() < STREAM_IN_FLIGHT_MAX;
            let draining = self.agent.draining().clone();
            let requests = &mut self.requests;
            tokio::select! {
                biased;
                Some(result) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    let response = ProduceStreamResponse { message: Some(Message::Result(result)) };
                    return Some((Ok(response), self));
                }
                () = draining.cancelled(), if !self.hinted => {
                    self.hinted = true;
                    self.ended.get_or_insert_with(|| Err(error::draining().into()));
                    let wait = i64::try_from(self.agent.settings().drain_deadline.as_millis()).unwrap_or(i64::MAX);
                    let hint = Message::Reconnect(ReconnectHint { closes_in_ms: wait });
                    return Some((Ok(ProduceStreamResponse { message: Some(hint) }), self));
                }
                left = self.leave.next(), if self.ended.is_none() => match left {
                    Left::Hint(hint) => {
                        let message = Some(Message::Reconnect(hint));
                        return Some((Ok(ProduceStreamResponse { message }), self));
                    }
                    Left::Closed => self.ended = Some(Err(error::draining().into())),
                },
                request = next_request(requests), if reads => match request {
                    Ok(Some(request)) => self.take(request).await,
                    Ok(None) => self.ended = Some(Ok(())),
                    Err(status) => self.ended = Some(Err(status)),
                },
            }
        }
    }

    async fn take(&mut self, request: ProduceStreamRequest) {
        let reservation = self.reservations.next();
        let Some(produce_stream_request::Message::Append(append)) = request.message else {
            let text = "every message after the first has to be an append";
            self.ended = Some(Err(InvalidField::new("append", text).into()));
            return;
        };
        let ProduceStreamAppend { client_sequence, partitions } = append;
        let started = Instant::now();
        let checked = match check(partitions.clone()) {
            Ok(checked) => checked,
            Err(invalid) if partitions.is_empty() => {
                self.ended = Some(Err(invalid.within("append").into()));
                return;
            }
            Err(invalid) => {
                let error = ApiError::from(invalid);
                let results = partitions.into_iter().map(|entry| self.refuse(entry, &error)).collect();
                let result = ProduceStreamResult { client_sequence, results };
                self.in_flight.push(Box::pin(std::future::ready(result)));
                return;
            }
        };
        let Checked { names, batches, invalid } = checked;
        for ((topic, partition), _) in names.iter().zip(&invalid).filter(|(_, invalid)| invalid.is_some()) {
            self.fail(topic, *partition);
        }
        let request = ProduceRequest { session: Some(self.session.clone()), batches, reservation };
        let ticket: ProduceTicket = self.agent.produce(request).await;
        let metrics = self.agent.metrics().clone();
        self.in_flight.push(Box::pin(async move {
            let results = answer(names, ticket.await, invalid);
            metrics.request("produce_stream", "grpc", "ok", started.elapsed());
            ProduceStreamResult { client_sequence, results }
        }));
    }

    /// What fails an append as a whole fails each of its partitions.
    fn refuse(&self, entry: ProducePartition, error: &ApiError) -> ProducePartitionResult {
        self.fail(&entry.topic, entry.partition);
        let result = Some(Answer::Error(error.clone().into()));
        ProducePartitionResult { topic: entry.topic, partition: entry.partition, result }
    }

    /// What comes after a failed append to a partition on this stream must fail, too.
    fn fail(&self, topic: &str, partition: i32) {
        let name = convert::topic_name("topic", topic);
        if let (Ok(topic), Ok(partition)) = (name, convert::partition_index("partition", partition)) {
            self.session.fail(&topic, partition);
        }
    }
}

async fn next_request(
    requests: &mut Option<Streaming<ProduceStreamRequest>>,
) -> Result<Option<ProduceStreamRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}
