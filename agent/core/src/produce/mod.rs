//! Appending records: batches of all partitions gather in one segment, the segment is uploaded, its commit gives the
//! batches their offsets, and only then they are acknowledged (INV-2).
//!
//! Map: [`request`] what a front end hands over and gets back · [`error`] · `collect` gathering · `flush` the task that
//! uploads and commits · `upload` one segment's upload · `commit` from segment to command, from outcome to answers.

mod collect;
mod commit;
pub mod error;
mod flush;
pub mod request;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use tidelog_metadata_log::env::Clock;
use tidelog_metadata_node::{Metadata, ProposeError};
use tidelog_metadata_state::{Command, Outcome, Refusal};
use tidelog_record::HEADER_BYTES;
use tidelog_types::{TopicName, TopicPartition};
use tokio::time::Instant;

pub(crate) use collect::Collector;
pub(crate) use commit::PlacedBatch;
pub use error::ProduceError;
pub(crate) use flush::Flusher;
pub use request::{
    Payload, ProduceAck, ProduceBatch, ProduceRequest, ProduceResult, ProduceSession, ProduceTicket,
};
pub(crate) use upload::{Uploader, segment_path};

use crate::batch::{Checked, check, transcode};
use crate::budget::Budget;
use collect::{BatchBytes, Gathered};
use commit::{Arrival, PendingBatch};
use request::Answers;

/// Takes produce requests; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Producer {
    pub metadata: Metadata,
    pub collector: Arc<Collector>,
    pub budget: Budget,
    pub clock: Arc<dyn Clock>,
    pub auto_create: Option<u32>,
    pub admin_deadline: Duration,
}

/// What is kept of a batch on its way, besides its bytes: itself, where it lies, and its share of the request's answers.
const BOOKKEEPING_BYTES: usize = 2 * size_of::<PendingBatch>() + 96;

/// Memory for the batches of a request's plain records, so that it does not grow while they are written: as batches they
/// are about as large as in protobuf.
fn scratch_bytes(batches: &[ProduceBatch]) -> usize {
    let of_batch = |batch: &ProduceBatch| match &batch.payload {
        Payload::Encoded(_) => 0,
        Payload::Records { set, .. } => HEADER_BYTES + set.len() + set.len() / 16,
    };
    batches.iter().map(of_batch).sum()
}

/// A topic as a batch needs to know it.
struct Target {
    at: TopicPartition,
    batch_bytes_max: usize,
}

/// A batch that may be gathered.
struct Prepared {
    at: TopicPartition,
    checked: Checked,
    bytes: BatchBytes,
}

impl Producer {
    /// Takes a request. Requests that are taken one after the other get their places in that order; the ticket may be
    /// waited for later. This waits itself only if a topic is not known here.
    pub async fn take(&self, request: ProduceRequest) -> ProduceTicket {
        let ProduceRequest { session, batches, reservation } = request;
        let mut targets = self.look_up(&batches);
        if targets.iter().any(|target| matches!(target, Err(ProduceError::UnknownTopic { .. }))) {
            let failures = self.learn_topics(&batches, &targets).await;
            targets = self.look_up(&batches);
            for (target, failure) in targets.iter_mut().zip(failures) {
                if let (Err(ProduceError::UnknownTopic { .. }), Some(failure)) = (&target, failure) {
                    *target = Err(failure);
                }
            }
        }
        // Records become batches here and not in the segment's buffer, because that would keep all other producers waiting:
        // the copy that this costs is a tenth of the work.
        let mut scratch = Vec::with_capacity(scratch_bytes(&batches));
        let prepared: Vec<Result<Prepared, ProduceError>> = targets
            .into_iter()
            .zip(&batches)
            .map(|(target, batch)| self.prepare(target?, batch, &mut scratch))
            .collect();
        let early = prepared.iter().map(|prepared| prepared.as_ref().err().cloned().map(Err)).collect();
        // Tiny batches need more memory for what is known of them than for themselves. Who has got this far is not refused for
        // that; the next request is.
        let bookkeeping = self.budget.try_reserve(batches.len() * BOOKKEEPING_BYTES).ok();
        let (answers, ticket) = Answers::new(early, reservation, bookkeeping);
        let mut gathered = Vec::with_capacity(batches.len());
        for (position, (prepared, batch)) in prepared.into_iter().zip(batches).enumerate() {
            let session = session.as_ref().map(|session| (session.clone(), session.next_turn()));
            match prepared {
                Ok(Prepared { at, checked, bytes }) => {
                    let pending = PendingBatch {
                        arrival: Arrival::default(),
                        topic: batch.topic,
                        partition: at,
                        records: checked.records,
                        max_timestamp: checked.max_timestamp,
                        stamp: checked.stamp,
                        session,
                        answers: Arc::clone(&answers),
                        position,
                    };
                    gathered.push(Gathered { pending, bytes });
                }
                Err(_) => {
                    if let Some((session, turn)) = session {
                        session.fail_at(&batch.topic, batch.partition, turn);
                    }
                }
            }
        }
        self.collector.gather(gathered, &scratch);
        ticket
    }

    fn look_up(&self, batches: &[ProduceBatch]) -> Vec<Result<Target, ProduceError>> {
        self.metadata.read(|state| {
            let look_up = |batch: &ProduceBatch| {
                let unknown = || ProduceError::UnknownTopic { topic: batch.topic.clone() };
                let topic = state.topic_by_name(&batch.topic).ok_or_else(unknown)?;
                if let Some(wanted) = batch.topic_id.filter(|wanted| *wanted != topic.id()) {
                    let name = batch.topic.clone();
                    return Err(ProduceError::TopicIdMismatch { topic: name, wanted, found: topic.id() });
                }
                if topic.partition(batch.partition).is_none() {
                    return Err(ProduceError::UnknownPartition {
                        topic: batch.topic.clone(),
                        partition: batch.partition,
                        partitions: topic.partition_count(),
                    });
                }
                let at = TopicPartition { topic: topic.id(), partition: batch.partition };
                Ok(Target { at, batch_bytes_max: topic.config().max_message_bytes() as usize })
            };
            batches.iter().map(look_up).collect()
        })
    }

    /// Finds out about topics that are not known here: others may have created them a moment ago, or they are created
    /// now. Returns why that failed, per batch.
    async fn learn_topics(
        &self,
        batches: &[ProduceBatch],
        targets: &[Result<Target, ProduceError>],
    ) -> Vec<Option<ProduceError>> {
        let deadline = Instant::now() + self.admin_deadline;
        if let Err(error) = self.metadata.confirm(deadline).await {
            let unavailable = ProduceError::MetadataUnavailable { cause: error.to_string() };
            return vec![Some(unavailable); batches.len()];
        }
        let mut failures = vec![None; batches.len()];
        let Some(partitions) = self.auto_create else { return failures };
        for ((batch, target), failure) in batches.iter().zip(targets).zip(&mut failures) {
            let is_unknown =
                matches!(target, Err(ProduceError::UnknownTopic { .. })) && batch.topic_id.is_none();
            if is_unknown && self.metadata.read(|state| state.topic_by_name(&batch.topic).is_none()) {
                let wanted = partitions;
                *failure = self.create(&batch.topic, wanted, deadline).await.err();
            }
        }
        failures
    }

    async fn create(
        &self,
        topic: &TopicName,
        partitions: u32,
        deadline: Instant,
    ) -> Result<(), ProduceError> {
        let command = Command::CreateTopic { name: topic.clone(), partitions, config: Vec::new() };
        match self.metadata.propose(command, deadline).await {
            Ok(outcome) => match &*outcome {
                Outcome::TopicCreated(_) | Outcome::Refused(Refusal::TopicExists { .. }) => Ok(()),
                Outcome::Refused(refusal) => {
                    Err(ProduceError::AutoCreate { topic: topic.clone(), cause: refusal.to_string() })
                }
                _ => Err(ProduceError::AutoCreate {
                    topic: topic.clone(),
                    cause: "unexpected outcome".to_owned(),
                }),
            },
            // The records themselves were not written, whatever becomes of the topic.
            Err(ProposeError::Unavailable(cause) | ProposeError::Unknown(cause)) => {
                Err(ProduceError::MetadataUnavailable { cause })
            }
            Err(error @ ProposeError::TooLarge { .. }) => {
                Err(ProduceError::AutoCreate { topic: topic.clone(), cause: error.to_string() })
            }
        }
    }

    /// Checks a batch, or makes one of records behind the others in `scratch`.
    fn prepare(
        &self,
        target: Target,
        batch: &ProduceBatch,
        scratch: &mut Vec<u8>,
    ) -> Result<Prepared, ProduceError> {
        let max = target.batch_bytes_max;
        let (checked, bytes) = match &batch.payload {
            Payload::Encoded(bytes) => (check(bytes, max), BatchBytes::Sent(bytes.clone())),
            Payload::Records { set, stamp } => {
                let from = scratch.len();
                let checked = transcode(set, *stamp, self.clock.now(), max, scratch);
                (checked, BatchBytes::Scratch(from..scratch.len()))
            }
        };
        Ok(Prepared { at: target.at, checked: checked?, bytes })
    }
}
