//! What is remembered of idempotent producers, so that a repeated batch lands once (Kafka's KIP-98, with the state in
//! the log instead of in a broker's memory).

use tidelog_types::{Offset, ProducerEpoch, ProducerStamp, Sequence, TimestampMs};

use crate::command::BatchRefusal;
use crate::limits::PRODUCER_BATCHES_REMEMBERED;

/// A producer id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    pub(crate) epoch: ProducerEpoch,
    /// When it last got an id, an epoch or an offset, in log time.
    pub(crate) last_used: TimestampMs,
}

/// One batch of a producer that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub base_sequence: Sequence,
    pub records: u32,
    pub base_offset: Offset,
}

/// The last batches of one producer in one partition, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    epoch: ProducerEpoch,
    batches: [Option<Remembered>; PRODUCER_BATCHES_REMEMBERED],
}

/// What a producer's batch is, by its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The next one: append it.
    Next,
    /// Appended before, at this offset.
    Duplicate(Offset),
}

impl Window {
    pub(crate) fn new(epoch: ProducerEpoch) -> Self {
        Self { epoch, batches: [None; PRODUCER_BATCHES_REMEMBERED] }
    }

    pub(crate) fn restore(epoch: ProducerEpoch, remembered: impl IntoIterator<Item = Remembered>) -> Self {
        let mut window = Self::new(epoch);
        remembered.into_iter().for_each(|batch| window.push(batch));
        window
    }

    pub(crate) fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    pub(crate) fn remembered(&self) -> impl Iterator<Item = &Remembered> {
        self.batches.iter().flatten()
    }

    /// Where a batch of the producer's current epoch stands; `window` is what is known of it in the partition.
    pub(crate) fn place(
        window: Option<&Self>,
        stamp: ProducerStamp,
        records: u32,
    ) -> Result<Place, BatchRefusal> {
        let known = window.filter(|window| window.epoch == stamp.epoch);
        let mut expected = Sequence::ZERO;
        for batch in known.into_iter().flat_map(Self::remembered) {
            if batch.base_sequence == stamp.base_sequence && batch.records == records {
                return Ok(Place::Duplicate(batch.base_offset));
            }
            expected = batch.base_sequence.wrapping_add(batch.records);
        }
        if stamp.base_sequence == expected {
            return Ok(Place::Next);
        }
        Err(BatchRefusal::OutOfOrderSequence { expected })
    }

    pub(crate) fn push(&mut self, batch: Remembered) {
        if self.batches.iter().all(Option::is_some) {
            self.batches.rotate_left(1);
            if let Some(last) = self.batches.last_mut() {
                *last = Some(batch);
            }
        } else if let Some(free) = self.batches.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(batch);
        }
    }
}
