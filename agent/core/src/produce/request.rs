//! What a front end hands over, and what it gets back.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tidelog_types::{Offset, PartitionIndex, ProducerStamp, TopicId, TopicName};
use tokio::sync::oneshot;

use super::error::ProduceError;
use crate::budget::Reservation;

/// Batches to append. Each succeeds or fails alone.
#[derive(Debug)]
pub struct ProduceRequest {
    /// The stream or connection whose order has to be kept; none for a request that stands alone.
    pub session: Option<ProduceSession>,
    /// The batches. Those of one partition get offsets in this order.
    pub batches: Vec<ProduceBatch>,
    /// The bytes that the request occupies; given back when all its batches are answered.
    pub reservation: Reservation,
}

/// A batch for one partition.
#[derive(Debug, Clone)]
pub struct ProduceBatch {
    /// The topic's name.
    pub topic: TopicName,
    /// The topic's id, to be refused if the name belongs to another topic by now.
    pub topic_id: Option<TopicId>,
    /// The partition.
    pub partition: PartitionIndex,
    /// The records.
    pub payload: Payload,
}

/// Records in one of the forms in which they arrive.
#[derive(Debug, Clone)]
pub enum Payload {
    /// One record batch v2. Its stamp, if it has one, is inside.
    Encoded(Bytes),
    /// The bytes of a protobuf `tidelog.v1.RecordSet`.
    Records {
        /// The message's bytes.
        set: Bytes,
        /// Makes the append idempotent.
        stamp: Option<ProducerStamp>,
    },
}

/// Where acknowledged records are: offsets `[base_offset, end_offset)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceAck {
    /// The topic's id.
    pub topic: TopicId,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset after the last record.
    pub end_offset: Offset,
    /// Whether the records had been written before, under the same stamp.
    pub duplicate: bool,
}

/// What became of one batch.
pub type ProduceResult = Result<ProduceAck, ProduceError>;

/// A stream or connection of a client, on which appends to one partition take effect in order: once one has failed,
/// all later ones to that partition fail too. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProduceSession {
    inner: Arc<SessionState>,
}

#[derive(Debug)]
struct SessionState {
    id: SessionId,
    next_turn: AtomicU64,
    /// Spares the lock as long as nothing has failed.
    any_failed: AtomicBool,
    failures: Mutex<Failures>,
}

/// Where an append stands in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn(u64);

/// The first failure of each partition. What came before it is none of its business: it may still be on its way.
#[derive(Debug, Default)]
struct Failures {
    first: HashMap<(TopicName, PartitionIndex), Turn>,
    /// From here on everything fails, because failures of too many partitions would have to be remembered.
    of_all: Option<Turn>,
}

/// Partitions whose failure a session remembers; their names are the client's to choose.
const FAILED_PARTITIONS_MAX: usize = 10_000;

/// Tells the sessions of one process apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(u64);

static NEXT_SESSION: AtomicU64 = AtomicU64::new(0);

impl Default for ProduceSession {
    fn default() -> Self {
        Self::new()
    }
}

impl ProduceSession {
    /// A session in which nothing has failed.
    pub fn new() -> Self {
        let id = SessionId(NEXT_SESSION.fetch_add(1, Ordering::Relaxed));
        let (next_turn, any_failed, failures) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::default());
        Self { inner: Arc::new(SessionState { id, next_turn, any_failed, failures }) }
    }

    /// Notes that an append to a partition failed that the front end refused itself: all that come after this call fail,
    /// too.
    pub fn fail(&self, topic: &TopicName, partition: PartitionIndex) {
        self.fail_at(topic, partition, self.next_turn());
    }

    /// The turn of the next append.
    pub(crate) fn next_turn(&self) -> Turn {
        Turn(self.inner.next_turn.fetch_add(1, Ordering::Relaxed))
    }

    /// Notes that the append of a turn failed.
    pub(crate) fn fail_at(&self, topic: &TopicName, partition: PartitionIndex, turn: Turn) {
        let mut failures = self.inner.failures.lock();
        let Failures { first, of_all } = &mut *failures;
        let key = (topic.clone(), partition);
        if first.len() < FAILED_PARTITIONS_MAX || first.contains_key(&key) {
            let first = first.entry(key).or_insert(turn);
            *first = turn.min(*first);
        } else {
            *of_all = Some(of_all.map_or(turn, |first| first.min(turn)));
        }
        drop(failures);
        self.inner.any_failed.store(true, Ordering::Release);
    }

    /// Whether an append to a partition has failed that came before a turn.
    pub(crate) fn failed_before(&self, topic: &TopicName, partition: PartitionIndex, turn: Turn) -> bool {
        if !self.inner.any_failed.load(Ordering::Acquire) {
            return false;
        }
        let failures = self.inner.failures.lock();
        let first = failures.first.get(&(topic.clone(), partition));
        first.into_iter().chain(&failures.of_all).any(|first| *first < turn)
    }

    pub(crate) fn id(&self) -> SessionId {
        self.inner.id
    }
}

/// The results of a request, once all its batches are decided, in their order. Dropping it changes nothing about
/// the request: what was handed over is written.
#[derive(Debug)]
pub struct ProduceTicket {
    results: oneshot::Receiver<Vec<ProduceResult>>,
    batches: usize,
}

impl Future for ProduceTicket {
    type Output = Vec<ProduceResult>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let batches = self.batches;
        Pin::new(&mut self.results).poll(cx).map(|answered| {
            answered.unwrap_or_else(|_| {
                let cause = "the agent stopped before the outcome was known".to_owned();
                vec![Err(ProduceError::Unknown { cause }); batches]
            })
        })
    }
}

/// The answering side of a [`ProduceTicket`]: collects the results of a request's batches.
#[derive(Debug)]
pub(crate) struct Answers {
    state: Mutex<AnswersState>,
}

#[derive(Debug)]
struct AnswersState {
    results: Vec<Option<ProduceResult>>,
    missing: usize,
    reply: Option<oneshot::Sender<Vec<ProduceResult>>>,
    /// Held until the last batch is answered, also if nobody waits any more.
    reservation: Option<(Reservation, Option<Reservation>)>,
}

impl Answers {
    /// For a request with `results.len()` batches, some of which are decided already. `bookkeeping` is the memory that they
    /// need besides their bytes.
    pub fn new(
        results: Vec<Option<ProduceResult>>,
        reservation: Reservation,
        bookkeeping: Option<Reservation>,
    ) -> (Arc<Self>, ProduceTicket) {
        let (reply, receiver) = oneshot::channel();
        let batches = results.len();
        let missing = results.iter().filter(|result| result.is_none()).count();
        let state = AnswersState {
            results,
            missing,
            reply: Some(reply),
            reservation: Some((reservation, bookkeeping)),
        };
        let answers = Arc::new(Self { state: Mutex::new(state) });
        if missing == 0 {
            answers.state.lock().finish();
        }
        (answers, ProduceTicket { results: receiver, batches })
    }

    /// Decides one batch; the first decision holds.
    pub fn decide(&self, position: usize, result: ProduceResult) {
        let mut state = self.state.lock();
        if let Some(open @ None) = state.results.get_mut(position) {
            *open = Some(result);
            state.missing -= 1;
            if state.missing == 0 {
                state.finish();
            }
        }
    }
}

impl AnswersState {
    fn finish(&mut self) {
        self.reservation = None;
        if let Some(reply) = self.reply.take() {
            // Whoever asked may be gone.
            let _ = reply.send(std::mem::take(&mut self.results).into_iter().flatten().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use std::time::Duration;

    fn lost() -> ProduceResult {
        Err(ProduceError::Draining)
    }

    #[tokio::test]
    async fn the_reservation_comes_back_with_the_last_answer() {
        let budget = Budget::new(1024, Duration::ZERO);
        let reservation = budget.try_reserve(512).expect("fits");
        let (answers, ticket) = Answers::new(vec![None, Some(lost()), None], reservation, None);
        answers.decide(0, Err(ProduceError::UnknownProducer));
        answers.decide(0, lost());
        assert_eq!(budget.used(), 512);
        answers.decide(2, lost());
        assert_eq!(budget.used(), 0);
        assert_eq!(ticket.await, vec![Err(ProduceError::UnknownProducer), lost(), lost()]);
    }

    #[tokio::test]
    async fn silence_is_an_unknown_outcome() {
        let (answers, ticket) = Answers::new(vec![None], Reservation::none(), None);
        drop(answers);
        assert!(matches!(ticket.await.as_slice(), [Err(ProduceError::Unknown { .. })]));
    }

    #[test]
    fn a_session_fails_per_partition_from_a_turn_on() {
        let session = ProduceSession::new();
        let topic = TopicName::new("t").expect("a name");
        let partition = |n| PartitionIndex::new(n).expect("in range");
        let turns = [session.next_turn(), session.next_turn(), session.next_turn()];
        let failed = |n| turns.map(|turn| session.failed_before(&topic, partition(n), turn));
        assert_eq!(failed(0), [false; 3]);
        session.clone().fail_at(&topic, partition(0), turns[1]);
        assert_eq!(failed(0), [false, false, true]);
        assert_eq!(failed(1), [false; 3]);
        session.fail_at(&topic, partition(0), turns[2]);
        session.fail_at(&topic, partition(0), turns[0]);
        assert_eq!(failed(0), [false, true, true]);
        session.fail(&topic, partition(1));
        assert_eq!(failed(1), [false; 3]);
        assert!(session.failed_before(&topic, partition(1), session.next_turn()));
    }

    #[test]
    fn a_session_does_not_remember_failures_without_bound() {
        let session = ProduceSession::new();
        let partition = PartitionIndex::new(0).expect("in range");
        let topic = |n: usize| TopicName::new(&format!("t{n}")).expect("a name");
        let early = session.next_turn();
        for n in 0..2 * FAILED_PARTITIONS_MAX {
            session.fail(&topic(n), partition);
        }
        assert_eq!(session.inner.failures.lock().first.len(), FAILED_PARTITIONS_MAX);
        let unheard_of = topic(usize::MAX);
        assert!(session.failed_before(&unheard_of, partition, session.next_turn()));
        assert!(!session.failed_before(&unheard_of, partition, early));
    }
}
