//! What is on its way to each partition, and what its answers mean. Decides; sends nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::{self, ErrorReason};
use tidelog_types::{Offset, ProducerStamp, Sequence};
use tokio::time::Instant;
use tonic::Code;

use super::batch::{BatchNumber, Identity, SealedBatch};
use super::queues::{Queues, Slot, Target};
use crate::error::ProduceError;

/// Batches of one idempotent producer that the service remembers per partition (Kafka's limit, too).
const IN_FLIGHT_IDEMPOTENT: usize = 5;
/// Batches in flight per partition where the service need not remember them.
const IN_FLIGHT: usize = 64;
/// One append takes further partitions while it is smaller than this.
const APPEND_BYTES: usize = 2 * 1024 * 1024;
/// Partitions in one append, below the service's limit.
const APPEND_PARTITIONS: usize = 1_000;
/// Bytes that may wait for their answers.
const IN_FLIGHT_BYTES: usize = 32 * 1024 * 1024;

/// One partition's batches that have left the queues.
#[derive(Debug)]
struct Lane {
    target: Arc<Target>,
    /// To be sent (again), in order, before anything from the queues.
    resend: VecDeque<SealedBatch>,
    /// Sent on the present stream, in order.
    in_flight: VecDeque<SealedBatch>,
    identity: Option<Identity>,
    next_sequence: Sequence,
}

/// An append that is ready to be sent.
#[derive(Debug)]
pub(super) struct Append {
    pub message: v1::ProduceStreamAppend,
    pub batches: Vec<(Slot, BatchNumber)>,
}

/// What the present stream has to do after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on.
    Continue,
    /// End: what failed has to be sent on a new stream, after a time.
    NewStream(Option<Duration>),
}

#[derive(Debug)]
pub(super) struct Lanes {
    queues: Arc<Mutex<Queues>>,
    lanes: BTreeMap<Slot, Lane>,
    /// Sent, without answer.
    appends: BTreeMap<u64, Vec<(Slot, BatchNumber)>>,
    next_append: u64,
    in_flight_bytes: usize,
    /// The partition to look at first, so that none waits for all others each time.
    cursor: Slot,
    idempotent: bool,
    /// For partitions that have none; `None`: to be asked for.
    pub identity: Option<Identity>,
    delivery_timeout: Duration,
    pub last_error: Option<Box<str>>,
}

impl Lanes {
    pub fn new(queues: Arc<Mutex<Queues>>, idempotent: bool, delivery_timeout: Duration) -> Self {
        Self {
            queues,
            lanes: BTreeMap::new(),
            appends: BTreeMap::new(),
            next_append: 0,
            in_flight_bytes: 0,
            cursor: Slot(0),
            idempotent,
            identity: None,
            delivery_timeout,
            last_error: None,
        }
    }

    /// Whether a producer id has to be asked for before anything can be sent.
    pub fn needs_identity(&self) -> bool {
        self.idempotent && self.identity.is_none()
    }

    /// Whether answers are owed.
    pub fn owes_answers(&self) -> bool {
        !self.appends.is_empty()
    }

    /// Whether there is anything to be sent again.
    pub fn has_resends(&self) -> bool {
        self.lanes.values().any(|lane| !lane.resend.is_empty())
    }

    /// The next append to send, if anything is ready and not too much is in flight. `all`: do not wait for more records.
    pub fn next_append(&mut self, now: Instant, all: bool) -> Option<Append> {
        if self.in_flight_bytes >= IN_FLIGHT_BYTES || self.needs_identity() {
            return None;
        }
        let resends = self.lanes.iter().filter(|(_, lane)| !lane.resend.is_empty()).map(|(slot, _)| *slot);
        let mut slots: Vec<Slot> = resends.collect();
        let ready = self.queues.lock().ready(self.cursor, now, all);
        slots.extend(ready.into_iter().filter(|slot| !slots.contains(slot)).collect::<Vec<_>>());
        let limit = if self.idempotent { IN_FLIGHT_IDEMPOTENT } else { IN_FLIGHT };
        let (mut partitions, mut batches, mut bytes) = (Vec::new(), Vec::new(), 0);
        for slot in slots {
            if self.lanes.get(&slot).is_some_and(|lane| lane.in_flight.len() >= limit) {
                continue;
            }
            if let Some((target, batch)) = self.next_batch(slot, now, all) {
                bytes += batch.bytes.len();
                batches.push((slot, batch.number));
                partitions.push(v1::ProducePartition {
                    topic: target.topic.to_string(),
                    partition: target.partition.get(),
                    topic_id: Some(target.id.0),
                    payload: Some(v1::produce_partition::Payload::Batch(batch.bytes.clone())),
                    stamp: None,
                });
                if let Some(lane) = self.lanes.get_mut(&slot) {
                    lane.in_flight.push_back(batch);
                }
                self.cursor = Slot(slot.0 + 1);
            }
            if bytes >= APPEND_BYTES || partitions.len() >= APPEND_PARTITIONS {
                break;
            }
        }
        if partitions.is_empty() {
            return None;
        }
        self.in_flight_bytes += bytes;
        self.next_append += 1;
        let message = v1::ProduceStreamAppend { client_sequence: self.next_append, partitions };
        Some(Append { message, batches })
    }

    /// The next batch of a partition, stamped: one to be sent again, else one from the queues.
    fn next_batch(&mut self, slot: Slot, now: Instant, all: bool) -> Option<(Arc<Target>, SealedBatch)> {
        let target = self.queues.lock().target(slot)?;
        let lane = self.lanes.entry(slot).or_insert_with(|| Lane {
            target: Arc::clone(&target),
            resend: VecDeque::new(),
            in_flight: VecDeque::new(),
            identity: None,
            next_sequence: Sequence::ZERO,
        });
        lane.target = target;
        if lane.identity.is_none() {
            lane.identity = self.identity;
        }
        let next_sequence = lane.next_sequence;
        let stamp =
            lane.identity.map(|(id, epoch)| ProducerStamp { id, epoch, base_sequence: next_sequence });
        if let Some(mut batch) = lane.resend.pop_front() {
            // What may have been written has to keep its stamp, or it could appear twice.
            let outdated = !batch.maybe_written && batch.identity() != lane.identity;
            if let Some(stamp) = stamp.filter(|_| outdated) {
                if let Err(error) = batch.restamp(stamp) {
                    let number = batch.number;
                    batch.fail(error.into());
                    self.queues.lock().resolved(number);
                    return None;
                }
                lane.next_sequence = next_sequence.wrapping_add(batch.records);
            }
            return Some((Arc::clone(&lane.target), batch));
        }
        loop {
            let open = self.queues.lock().take(slot, now, all)?;
            let number = open.number;
            let (builder, sealed) = open.seal(stamp, lane.target.bytes_max, &lane.target.topic);
            let mut queues = self.queues.lock();
            queues.give_back(builder);
            let Some(sealed) = sealed else {
                queues.resolved(number);
                continue;
            };
            lane.next_sequence = next_sequence.wrapping_add(sealed.records);
            return Some((Arc::clone(&lane.target), sealed));
        }
    }

    /// An append is on its way.
    pub fn sent(&mut self, number: u64, batches: Vec<(Slot, BatchNumber)>) {
        self.appends.insert(number, batches);
    }

    /// Takes an answer.
    pub fn answered(&mut self, result: v1::ProduceStreamResult) -> Next {
        let Some(batches) = self.appends.remove(&result.client_sequence) else { return Next::Continue };
        let mut next = Next::Continue;
        if batches.len() != result.results.len() {
            // Not an answer to what was sent: nothing is known.
            self.last_error = Some("the answer has another number of results than the append".into());
            batches.into_iter().for_each(|(slot, number)| self.unanswered(slot, number));
            return Next::NewStream(None);
        }
        for ((slot, number), result) in batches.into_iter().zip(result.results) {
            use v1::produce_partition_result::Result as Outcome;
            let error = match result.result {
                Some(Outcome::Ack(ack)) => match Offset::new(ack.base_offset) {
                    Ok(base) => {
                        self.acknowledged(slot, number, base);
                        continue;
                    }
                    Err(error) => ApiError::new(ErrorReason::Internal, error),
                },
                Some(Outcome::Error(error)) => error.into(),
                None => ApiError::new(ErrorReason::Internal, "a result is missing"),
            };
            let wait = self.failed(slot, number, error);
            next = match next {
                Next::Continue => Next::NewStream(wait),
                Next::NewStream(before) => Next::NewStream(before.max(wait)),
            };
        }
        next
    }

    fn acknowledged(&mut self, slot: Slot, number: BatchNumber, base: Offset) {
        if let Some(batch) = self.take_in_flight(slot, number) {
            batch.resolve(Ok(base));
            self.queues.lock().resolved(number);
        }
    }

    /// Takes note that a batch failed, and returns how long the service asks to wait.
    fn failed(&mut self, slot: Slot, number: BatchNumber, error: ApiError) -> Option<Duration> {
        let mut batch = self.take_in_flight(slot, number)?;
        let wait = error.retry_after;
        if error.reason != ErrorReason::EarlierAppendFailed {
            self.last_error = Some(error.to_string().into());
        }
        batch.maybe_written |= error.outcome_unknown();
        let again = match error.reason {
            // Never written now, and never before if no earlier attempt is in doubt: a new identity starts afresh.
            ErrorReason::UnknownProducer | ErrorReason::OutOfOrderSequence if !batch.maybe_written => {
                self.renounce(slot, batch.identity());
                true
            }
            ErrorReason::EarlierAppendFailed => true,
            ErrorReason::ProducerFenced => {
                self.queues.lock().fenced = Some(ProduceError::Fenced(Box::new(error.clone())));
                false
            }
            // Without a stamp, a repeat could write it twice.
            _ if error.outcome_unknown() => self.idempotent,
            _ => {
                error.code == Code::Unavailable
                    || error.code == Code::ResourceExhausted && error.retry_after.is_some()
            }
        };
        if again {
            let Some(lane) = self.lanes.get_mut(&slot) else { return wait };
            let place = lane.resend.partition_point(|other| other.number < batch.number);
            lane.resend.insert(place, batch);
            return wait;
        }
        if matches!(error.code, Code::NotFound) {
            self.forget_topic(slot);
        }
        let error = match error.reason {
            ErrorReason::ProducerFenced => ProduceError::Fenced(Box::new(error)),
            _ if error.outcome_unknown() => ProduceError::OutcomeUnknown { cause: error.to_string().into() },
            _ => ProduceError::Refused(Box::new(error)),
        };
        self.give_up(slot, batch, error);
        wait
    }

    fn forget_topic(&mut self, slot: Slot) {
        if let Some(lane) = self.lanes.get(&slot) {
            self.queues.lock().forget(&lane.target.topic);
        }
    }

    /// Ends a batch that was stamped: the partition's sequences have a gap now, or may have, so it goes on with another identity.
    fn give_up(&mut self, slot: Slot, batch: SealedBatch, error: ProduceError) {
        self.renounce(slot, batch.identity());
        let number = batch.number;
        batch.fail(error);
        self.queues.lock().resolved(number);
    }

    /// Stops using an identity for a partition. Each partition counts for itself, so the others go on with it.
    fn renounce(&mut self, slot: Slot, identity: Option<Identity>) {
        let Some(lane) = self.lanes.get_mut(&slot) else { return };
        if identity.is_none() || lane.identity != identity {
            return;
        }
        lane.identity = None;
        lane.next_sequence = Sequence::ZERO;
        if self.identity == identity {
            self.identity = None;
        }
    }

    fn take_in_flight(&mut self, slot: Slot, number: BatchNumber) -> Option<SealedBatch> {
        let lane = self.lanes.get_mut(&slot)?;
        let position = lane.in_flight.iter().position(|batch| batch.number == number)?;
        let batch = lane.in_flight.remove(position)?;
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(batch.bytes.len());
        Some(batch)
    }

    fn unanswered(&mut self, slot: Slot, number: BatchNumber) {
        let Some(lane) = self.lanes.get_mut(&slot) else { return };
        if let Some(batch) = lane.in_flight.iter_mut().find(|batch| batch.number == number) {
            batch.maybe_written = true;
        }
    }

    /// The stream is over: what has no answer is to be sent again, or its outcome is unknown.
    pub fn stream_ended(&mut self) {
        for (slot, number) in std::mem::take(&mut self.appends).into_values().flatten() {
            self.unanswered(slot, number);
        }
        self.in_flight_bytes = 0;
        let cause = self.last_error.clone().unwrap_or_else(|| "the connection broke".into());
        for lane in self.lanes.values_mut() {
            let back = std::mem::take(&mut lane.in_flight);
            for batch in back {
                if batch.maybe_written && !self.idempotent {
                    let number = batch.number;
                    batch.resolve(Err(ProduceError::OutcomeUnknown { cause: cause.clone() }));
                    self.queues.lock().resolved(number);
                    continue;
                }
                let place = lane.resend.partition_point(|other| other.number < batch.number);
                lane.resend.insert(place, batch);
            }
        }
    }

    /// Ends all batches whose time is over; if the producer is fenced, also those that would still have to be sent.
    pub fn expire(&mut self, now: Instant) {
        let fenced = self.queues.lock().fenced.clone();
        let timeout = self.delivery_timeout;
        let late = |begun: Instant| now.duration_since(begun) >= timeout;
        let over = |begun: Instant| fenced.is_some() || late(begun);
        let timed_out = || ProduceError::TimedOut { after: timeout, cause: self.last_error.clone() };
        let error = fenced.clone().unwrap_or_else(timed_out);
        let mut ended = Vec::new();
        for (slot, lane) in &mut self.lanes {
            // A late answer to these finds no batch, and is ignored.
            for mut batch in take_where(&mut lane.in_flight, |batch| late(batch.begun)) {
                batch.maybe_written = true;
                self.in_flight_bytes = self.in_flight_bytes.saturating_sub(batch.bytes.len());
                ended.push((*slot, batch));
            }
            let resend = take_where(&mut lane.resend, |batch| over(batch.begun));
            ended.extend(resend.into_iter().map(|batch| (*slot, batch)));
        }
        for (slot, batch) in ended {
            self.give_up(slot, batch, error.clone());
        }
        self.queues.lock().fail_where(over, &error);
    }
}

/// Takes out what `wanted` holds for; the others keep their order.
pub(super) fn take_where<T>(queue: &mut VecDeque<T>, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
    if !queue.iter().any(&mut wanted) {
        return Vec::new();
    }
    let (taken, kept) = std::mem::take(queue).into_iter().partition(wanted);
    *queue = kept;
    taken.into()
}
