//! What is remembered of idempotent producers, so that a repeated batch lands once (Kafka's KIP-98, with the state in
//! the log instead of in a broker's memory).

use tidelog_types::{Offset, ProducerEpoch, ProducerId, ProducerStamp, Sequence, TimestampMs};

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

/// The last batches of one producer in one partition, oldest first. There is one per producer and partition, so it is
/// kept at 72 bytes: batches follow each other without a gap in their sequences, which leaves one sequence to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    base_offsets: [Offset; PRODUCER_BATCHES_REMEMBERED],
    records: [u32; PRODUCER_BATCHES_REMEMBERED],
    /// Sequence of the oldest batch.
    base_sequence: Sequence,
    epoch: ProducerEpoch,
    /// How many batches there are; the slots behind them are zero.
    count: u8,
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
        Self {
            base_offsets: [Offset::ZERO; PRODUCER_BATCHES_REMEMBERED],
            records: [0; PRODUCER_BATCHES_REMEMBERED],
            base_sequence: Sequence::ZERO,
            epoch,
            count: 0,
        }
    }

    pub(crate) fn restore(epoch: ProducerEpoch, remembered: impl IntoIterator<Item = Remembered>) -> Self {
        let mut window = Self::new(epoch);
        remembered.into_iter().for_each(|batch| window.push(batch));
        window
    }

    pub(crate) fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    pub(crate) fn remembered(&self) -> impl Iterator<Item = Remembered> {
        let mut base_sequence = self.base_sequence;
        let batches = self.base_offsets.into_iter().zip(self.records).take(self.count.into());
        batches.map(move |(base_offset, records)| {
            let batch = Remembered { base_sequence, records, base_offset };
            base_sequence = base_sequence.wrapping_add(records);
            batch
        })
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

    /// Remembers a batch that was appended, and forgets the oldest if there are too many.
    pub(crate) fn push(&mut self, batch: Remembered) {
        if usize::from(self.count) == PRODUCER_BATCHES_REMEMBERED {
            let [oldest, ..] = self.records;
            self.base_sequence = self.base_sequence.wrapping_add(oldest);
            self.base_offsets.rotate_left(1);
            self.records.rotate_left(1);
            self.count -= 1;
        }
        if self.count == 0 {
            self.base_sequence = batch.base_sequence;
        }
        let slot = usize::from(self.count);
        if let (Some(base_offset), Some(records)) =
            (self.base_offsets.get_mut(slot), self.records.get_mut(slot))
        {
            (*base_offset, *records) = (batch.base_offset, batch.records);
            self.count += 1;
        }
        debug_assert_eq!(self.remembered().last(), Some(batch), "sequences have no gaps");
    }
}

/// The windows of one partition by producer, as sorted arrays: most partitions have few, and the few lines of memory
/// that a lookup touches are what it costs. New producers have the largest ids, so they go to the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    ids: Vec<ProducerId>,
    windows: Vec<Window>,
}

impl Windows {
    pub(crate) fn get(&self, id: ProducerId) -> Option<&Window> {
        self.ids.binary_search(&id).ok().and_then(|at| self.windows.get(at))
    }

    /// Remembers a batch of a producer's epoch; with it an earlier epoch is forgotten.
    pub(crate) fn push(&mut self, id: ProducerId, epoch: ProducerEpoch, batch: Remembered) {
        let at = self.ids.binary_search(&id).unwrap_or_else(|at| {
            self.ids.insert(at, id);
            self.windows.insert(at, Window::new(epoch));
            at
        });
        let Some(window) = self.windows.get_mut(at) else { return };
        if window.epoch != epoch {
            *window = Window::new(epoch);
        }
        window.push(batch);
    }

    /// Adds the window of a producer whose id is above all others; returns whether it is.
    pub(crate) fn push_last(&mut self, id: ProducerId, window: Window) -> bool {
        let rising = self.ids.last().is_none_or(|last| *last < id);
        if rising {
            self.ids.push(id);
            self.windows.push(window);
        }
        rising
    }

    /// Forgets producers.
    pub(crate) fn remove(&mut self, gone: impl Fn(ProducerId) -> bool) {
        let mut ids = self.ids.iter();
        self.windows.retain(|_| ids.next().is_some_and(|id| !gone(*id)));
        self.ids.retain(|id| !gone(*id));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ProducerId, &Window)> {
        self.ids.iter().copied().zip(&self.windows)
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: i64) -> ProducerId {
        ProducerId::new(value).expect("an id")
    }

    fn batch(sequence: i32) -> Remembered {
        let base_sequence = Sequence::new(sequence).expect("a sequence");
        Remembered {
            base_sequence,
            records: 10,
            base_offset: Offset::new(sequence.into()).expect("an offset"),
        }
    }

    #[test]
    fn a_window_costs_72_bytes() {
        assert_eq!(size_of::<Window>(), 72);
    }

    #[test]
    fn a_window_remembers_the_last_five() {
        let mut window = Window::new(ProducerEpoch::ZERO);
        for n in 0..12 {
            window.push(batch(n * 10));
            let remembered: Vec<_> = window.remembered().collect();
            let expected: Vec<_> = ((n - 4).max(0)..=n).map(|n| batch(n * 10)).collect();
            assert_eq!(remembered, expected);
            assert_eq!(Window::restore(ProducerEpoch::ZERO, remembered), window);
        }
    }

    #[test]
    fn windows_are_found_whatever_came_first() {
        let mut windows = Windows::default();
        for n in [5, 1, 9, 3, 7, 1, 9] {
            let known = windows.get(id(n)).map_or(0, |window| window.remembered().count());
            windows.push(id(n), ProducerEpoch::ZERO, batch(i32::try_from(known).expect("few") * 10));
        }
        let ids: Vec<i64> = windows.iter().map(|(id, _)| id.get()).collect();
        assert_eq!(ids, [1, 3, 5, 7, 9]);
        assert_eq!(windows.get(id(9)).map(|window| window.remembered().count()), Some(2));
        assert_eq!(windows.get(id(4)), None);
        windows.remove(|id| id.get() % 3 == 0);
        assert_eq!(windows.iter().map(|(id, _)| id.get()).collect::<Vec<_>>(), [1, 5, 7]);
        assert_eq!(windows.get(id(1)).map(|window| window.remembered().count()), Some(2));
        assert!(!windows.push_last(id(7), Window::new(ProducerEpoch::ZERO)));
        assert!(windows.push_last(id(8), Window::new(ProducerEpoch::ZERO)));
        assert_eq!(windows.len(), 4);
    }
}
