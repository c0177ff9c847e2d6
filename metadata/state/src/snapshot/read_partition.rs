//! A partition from its records, and the objects that its slices lie in.

use imbl::OrdMap;
use tidelog_types::{Offset, ProducerId, Sequence, TimestampMs};

use super::SnapshotError;
use super::outcome::producer_epoch;
use super::read::{OrField, ensure};
use crate::limits::PRODUCER_BATCHES_REMEMBERED;
use crate::producer::{Producer, Remembered, Window};
use crate::slices::{ObjectId, Slice};
use crate::topic::{ObjectRecord, Partition};
use crate::wire;

/// The objects, and how many slices were seen to refer to each.
#[derive(Default)]
pub(super) struct ObjectTable {
    objects: Vec<(ObjectId, ObjectRecord)>,
    seen: Vec<u32>,
}

impl ObjectTable {
    pub(super) fn push(&mut self, id: ObjectId, record: ObjectRecord) -> Result<(), SnapshotError> {
        ensure(self.objects.last().is_none_or(|(last, _)| *last < id), "objects are out of order")?;
        ensure(record.references > 0, "an object is kept though nothing refers to it")?;
        self.objects.push((id, record));
        self.seen.push(0);
        Ok(())
    }

    /// Counts a slice, which has to lie inside its object.
    fn refer(&mut self, slice: &Slice) -> Result<(), SnapshotError> {
        let at = self.objects.binary_search_by_key(&slice.object, |(id, _)| *id);
        let known = at.ok().and_then(|at| self.objects.get(at).zip(self.seen.get_mut(at)));
        let ((_, object), seen) =
            known.ok_or(SnapshotError::Incoherent("a slice lies in an unknown object"))?;
        let end = slice.position.checked_add(slice.length);
        ensure(end.is_some_and(|end| end <= object.size_bytes), "a slice ends beyond its object")?;
        ensure(*seen < object.references, "an object has more slices than references")?;
        *seen += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<OrdMap<ObjectId, ObjectRecord>, SnapshotError> {
        let all_seen =
            self.objects.iter().zip(&self.seen).all(|((_, object), seen)| object.references == *seen);
        ensure(all_seen, "an object has more references than slices")?;
        Ok(self.objects.into_iter().collect())
    }
}

/// A partition that is being read.
pub(super) struct PartitionReader {
    partition: Partition,
    /// Where the slices read so far end.
    slices_end: Offset,
    /// How many windows it has to have.
    windows: u64,
}

impl PartitionReader {
    pub(super) fn new(message: wire::SnapshotPartition) -> Result<Self, SnapshotError> {
        let log_start = Offset::new(message.log_start).or_field("partition.log_start")?;
        let end = Offset::new(message.end).or_field("partition.end")?;
        ensure(log_start <= end, "a partition ends before it starts")?;
        let first = (message.first_slice_before >= 0)
            .then(|| log_start.get().checked_sub(message.first_slice_before))
            .flatten()
            .or_field("partition.first_slice_before")?;
        let slices_end = Offset::new(first).or_field("partition.first_slice_before")?;
        Ok(Self {
            partition: Partition { log_start, end, ..Partition::default() },
            slices_end,
            windows: message.windows,
        })
    }

    pub(super) fn slices(
        &mut self,
        message: wire::SnapshotSlices,
        objects: &mut ObjectTable,
    ) -> Result<(), SnapshotError> {
        let count = message.object_deltas.len();
        let same = [
            message.positions.len(),
            message.lengths.len(),
            message.records.len(),
            message.max_timestamp_deltas.len(),
        ];
        ensure(same == [count; 4], "arrays of slices differ in length")?;
        let (mut object, mut timestamp) = (0_u64, 0_i64);
        let places = message.positions.into_iter().zip(message.lengths);
        let contents = message.records.into_iter().zip(message.max_timestamp_deltas);
        let slices = message.object_deltas.into_iter().zip(places).zip(contents);
        for ((object_delta, (position, length)), (records, timestamp_delta)) in slices {
            object = object.wrapping_add(object_delta.cast_unsigned());
            timestamp = timestamp.wrapping_add(timestamp_delta);
            ensure(length > 0 && records > 0, "a slice is empty")?;
            let slice = Slice {
                base_offset: self.slices_end,
                object: ObjectId(object),
                max_timestamp: TimestampMs(timestamp),
                position,
                length,
                records,
            };
            objects.refer(&slice)?;
            let end = slice.base_offset.checked_add(records).or_field("slices.records")?;
            ensure(end > self.partition.log_start, "a slice lies below the log start")?;
            let merged = self.partition.slices.push(slice);
            ensure(!merged, "two slices are one")?;
            self.partition.bytes += u64::from(length);
            self.slices_end = end;
        }
        Ok(())
    }

    pub(super) fn windows(
        &mut self,
        message: wire::SnapshotWindows,
        producers: &OrdMap<ProducerId, Producer>,
    ) -> Result<(), SnapshotError> {
        for window in message.windows {
            let id = ProducerId::new(window.producer).or_field("window.producer")?;
            let window = self.window(&window, id, producers)?;
            ensure(self.partition.windows.push_last(id, window), "windows are out of order")?;
        }
        Ok(())
    }

    fn window(
        &self,
        message: &wire::SnapshotWindow,
        id: ProducerId,
        producers: &OrdMap<ProducerId, Producer>,
    ) -> Result<Window, SnapshotError> {
        let producer = producers.get(&id).ok_or(SnapshotError::Incoherent("a window has no producer"))?;
        let epoch = producer_epoch(message.epoch.into(), "window.epoch")?;
        ensure(epoch <= producer.epoch, "a window is of a later epoch than its producer")?;
        let count = message.records.len();
        ensure((1..=PRODUCER_BATCHES_REMEMBERED).contains(&count), "a window has no batch or too many")?;
        ensure(message.base_offset_deltas.len() == count, "arrays of a window differ in length")?;
        let mut base_sequence = Sequence::new(message.base_sequence).or_field("window.base_sequence")?;
        let mut end = Offset::ZERO;
        let mut remembered = Vec::with_capacity(count);
        for (records, delta) in message.records.iter().zip(&message.base_offset_deltas) {
            ensure(*delta >= 0 && *records > 0, "batches of a window overlap or are empty")?;
            let base_offset = end.get().checked_add(*delta).or_field("window.base_offset_deltas")?;
            let base_offset = Offset::new(base_offset).or_field("window.base_offset_deltas")?;
            end = base_offset.checked_add(*records).or_field("window.records")?;
            remembered.push(Remembered { base_sequence, records: *records, base_offset });
            base_sequence = base_sequence.wrapping_add(*records);
        }
        ensure(end <= self.partition.end, "a window remembers batches beyond the partition's end")?;
        Ok(Window::restore(epoch, remembered))
    }

    pub(super) fn finish(self) -> Result<Partition, SnapshotError> {
        ensure(self.slices_end == self.partition.end, "the slices of a partition do not reach its end")?;
        ensure(
            self.partition.windows.len() as u64 == self.windows,
            "a partition lacks windows or has too many",
        )?;
        Ok(self.partition)
    }
}
