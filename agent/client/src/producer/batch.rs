//! A batch on its way from the first record to the acknowledgement.

use bytes::{Bytes, BytesMut};
use tidelog_record::{BatchBuilder, BatchError, RecordRef, restamp};
use tidelog_types::{
    Offset, PartitionIndex, ProducerEpoch, ProducerId, ProducerStamp, TimestampMs, TopicName,
};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::error::ProduceError;
use crate::record::{ProducerRecord, RecordMetadata};

/// What became of a batch: the offset of its first record.
pub(super) type Outcome = Result<Offset, ProduceError>;

/// Number of a batch in its producer, rising in the order in which batches of one partition were begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchNumber(pub u64);

/// Who sends, as the service knows it.
pub(super) type Identity = (ProducerId, ProducerEpoch);

/// A batch that takes records.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub number: BatchNumber,
    pub builder: BatchBuilder,
    pub begun: Instant,
    outcome: watch::Sender<Option<Outcome>>,
    memory: OwnedSemaphorePermit,
}

/// A record's way to its acknowledgement. May be dropped; the record is sent all the same.
#[derive(Debug)]
#[must_use = "only the delivery says whether the record was written"]
pub struct Delivery {
    outcome: watch::Receiver<Option<Outcome>>,
    partition: PartitionIndex,
    position: u32,
    timestamp: TimestampMs,
}

impl OpenBatch {
    pub fn new(number: BatchNumber, builder: BatchBuilder, memory: OwnedSemaphorePermit) -> Self {
        Self { number, builder, begun: Instant::now(), outcome: watch::Sender::new(None), memory }
    }

    /// Adds a record; on an error the batch is as before.
    pub fn push(
        &mut self,
        record: &ProducerRecord,
        partition: PartitionIndex,
        timestamp: TimestampMs,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<Delivery, ProduceError> {
        let headers: Vec<_> =
            record.headers.iter().map(|header| (header.key.as_str(), header.value.as_deref())).collect();
        let position = self.builder.records();
        self.builder.append(RecordRef {
            timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        })?;
        if let Some(memory) = memory {
            self.memory.merge(memory);
        }
        Ok(Delivery { outcome: self.outcome.subscribe(), partition, position, timestamp })
    }

    pub fn outcome(&self) -> watch::Receiver<Option<Outcome>> {
        self.outcome.subscribe()
    }

    /// Tells all of its records that it failed.
    pub fn fail(self, error: ProduceError) {
        self.outcome.send_replace(Some(Err(error)));
    }

    /// Encodes it, and gives the builder back for the next one. Without a batch it could not be encoded, and its records have been told so.
    pub fn seal(
        mut self,
        stamp: Option<ProducerStamp>,
        bytes_max: usize,
        topic: &TopicName,
    ) -> (BatchBuilder, Option<SealedBatch>) {
        let records = self.builder.records();
        if let Some(stamp) = stamp {
            self.builder.stamp(stamp);
        }
        let error = match self.builder.build() {
            Ok(bytes) if bytes.len() <= bytes_max => {
                let sealed = SealedBatch {
                    number: self.number,
                    bytes,
                    records,
                    begun: self.begun,
                    stamp,
                    maybe_written: false,
                    outcome: self.outcome,
                    _memory: self.memory,
                };
                return (self.builder, Some(sealed));
            }
            Ok(bytes) => ProduceError::TooLarge { topic: topic.clone(), size: bytes.len(), limit: bytes_max },
            Err(error) => error.into(),
        };
        self.outcome.send_replace(Some(Err(error)));
        (self.builder, None)
    }
}

/// A batch that is complete and encoded.
#[derive(Debug)]
pub(super) struct SealedBatch {
    pub number: BatchNumber,
    pub bytes: Bytes,
    pub records: u32,
    pub begun: Instant,
    /// What is stamped into `bytes`.
    pub stamp: Option<ProducerStamp>,
    /// An attempt to send it ended without an answer that says it was not written.
    pub maybe_written: bool,
    outcome: watch::Sender<Option<Outcome>>,
    _memory: OwnedSemaphorePermit,
}

impl SealedBatch {
    pub fn identity(&self) -> Option<Identity> {
        self.stamp.map(|stamp| (stamp.id, stamp.epoch))
    }

    /// Puts another stamp on it. Copies it only if an attempt to send it still holds it.
    pub fn restamp(&mut self, stamp: ProducerStamp) -> Result<(), BatchError> {
        let bytes = std::mem::take(&mut self.bytes).try_into_mut();
        let mut bytes = bytes.unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
        let restamped = restamp(&mut bytes, Some(stamp));
        self.bytes = bytes.freeze();
        restamped?;
        self.stamp = Some(stamp);
        Ok(())
    }

    /// Tells all of its records.
    pub fn resolve(self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }

    /// Tells all of its records that it failed: for good if that is certain.
    pub fn fail(self, error: ProduceError) {
        let error = if self.maybe_written && !error.outcome_unknown() {
            ProduceError::OutcomeUnknown { cause: error.to_string().into() }
        } else {
            error
        };
        self.resolve(Err(error));
    }
}

impl Delivery {
    /// Waits until the record is durable, or until it is known what else became of it.
    pub async fn wait(mut self) -> Result<RecordMetadata, ProduceError> {
        let unknown = |cause: &str| ProduceError::OutcomeUnknown { cause: cause.into() };
        let outcome = match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => return Err(unknown("the producer was dropped before it was flushed")),
        };
        let base = outcome.ok_or_else(|| unknown("no outcome"))??;
        let offset = base.checked_add(self.position).ok_or_else(|| unknown("the offset overflows"))?;
        Ok(RecordMetadata { partition: self.partition, offset, timestamp: self.timestamp })
    }

    /// The partition that was chosen.
    pub fn partition(&self) -> PartitionIndex {
        self.partition
    }
}

impl IntoFuture for Delivery {
    type Output = Result<RecordMetadata, ProduceError>;
    type IntoFuture = futures::future::BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.wait())
    }
}
