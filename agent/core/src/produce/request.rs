//! What a front end hands over, and what it gets back.

use std::collections::HashSet;
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
    /// Spares the lock as long as nothing has failed.
    any_failed: AtomicBool,
    failed: Mutex<HashSet<(TopicName, PartitionIndex)>>,
}

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
        let failed = Mutex::new(HashSet::new());
        Self { inner: Arc::new(SessionState { id, any_failed: AtomicBool::new(false), failed }) }
    }

    /// Notes that an append to a partition failed, also one that the front end refused itself.
    pub fn fail(&self, topic: &TopicName, partition: PartitionIndex) {
        self.inner.failed.lock().insert((topic.clone(), partition));
        self.inner.any_failed.store(true, Ordering::Release);
    }

    /// Whether an append to a partition has failed.
    pub fn has_failed(&self, topic: &TopicName, partition: PartitionIndex) -> bool {
        self.inner.any_failed.load(Ordering::Acquire)
            && self.inner.failed.lock().contains(&(topic.clone(), partition))
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
    fn a_session_fails_per_partition() {
        let session = ProduceSession::new();
        let topic = TopicName::new("t").expect("a name");
        let partition = |n| PartitionIndex::new(n).expect("in range");
        assert!(!session.has_failed(&topic, partition(0)));
        session.clone().fail(&topic, partition(0));
        assert!(session.has_failed(&topic, partition(0)));
        assert!(!session.has_failed(&topic, partition(1)));
    }
}
