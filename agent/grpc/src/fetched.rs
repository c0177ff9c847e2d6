//! From batches that were read to the partitions of an answer.

use bytes::Bytes;
use tidelog_agent::{FetchError, FetchedBatch};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::{ErrorReason, FetchedPartition, RecordBatch, RecordFormat};
use tidelog_record::{BatchError, BatchLimits, records_to_protobuf};
use tidelog_types::Offset;

use crate::error;

/// What was stored is not refused for its size.
const LIMITS: BatchLimits =
    BatchLimits { max_batch_bytes: u32::MAX, max_decompressed_bytes: 32 * 1024 * 1024 };

/// Number of the field `records` of `FetchedRecordSet`.
const RECORDS_FIELD: u8 = 1;

/// What one answer may still hold. How much is read is bounded by the size of what is stored; as plain records it is of another size, and
/// may be a thousand times as large.
#[derive(Debug)]
pub(crate) struct Room {
    format: RecordFormat,
    bytes_left: usize,
    is_empty: bool,
}

/// Records of one partition as they are sent, and the offset behind the last one.
#[derive(Debug)]
struct Plain {
    records: Vec<u8>,
    next: Option<Offset>,
}

/// A partition that could not be read.
pub(crate) fn failed(topic: String, partition: i32, offset: i64, error: ApiError) -> FetchedPartition {
    FetchedPartition {
        topic,
        partition,
        next_offset: offset,
        error: Some(error.into()),
        ..Default::default()
    }
}

impl Room {
    /// For an answer of at most `max_bytes` of records, but for its first batch.
    pub fn new(format: RecordFormat, max_bytes: usize) -> Self {
        Self { format, bytes_left: max_bytes, is_empty: true }
    }

    /// A partition's part of the answer, in the form that was asked for: at most `max_bytes` of records. `from` is the first offset
    /// wanted.
    pub fn fetched(
        &mut self,
        topic: String,
        partition: i32,
        from: Offset,
        max_bytes: usize,
        result: Result<tidelog_agent::FetchedPartition, FetchError>,
    ) -> FetchedPartition {
        let read = match result {
            Ok(read) => read,
            Err(failure) => return failed(topic, partition, from.get(), error::fetch(&failure)),
        };
        let mut answer = FetchedPartition {
            topic,
            partition,
            topic_id: read.topic.0,
            log_start_offset: read.log_start.get(),
            high_watermark: read.high_watermark.get(),
            next_offset: read.next_offset.get(),
            ..FetchedPartition::default()
        };
        if self.format == RecordFormat::Batches {
            let batch =
                |batch: FetchedBatch| RecordBatch { base_offset: batch.base_offset.get(), data: batch.bytes };
            answer.batches = read.batches.into_iter().map(batch).collect();
            return answer;
        }
        match self.plain(&read.batches, from, max_bytes) {
            Ok(plain) => {
                answer.next_offset = plain.next.unwrap_or(from).get();
                answer.records = Bytes::from(plain.records);
                answer
            }
            // The producer's compression or records are malformed: the checksum held, so they were sent like this.
            Err(malformed) => {
                let text = format!(
                    "a batch cannot be decoded: {malformed}; fetch it as RECORD_FORMAT_BATCHES or skip it"
                );
                let error = ApiError::new(ErrorReason::StoredDataCorrupt, text);
                failed(answer.topic, partition, from.get(), error)
            }
        }
    }

    /// Batches as an encoded `FetchedRecordSet`. Stops where there is no room, and before a malformed batch, which is an error
    /// only where it comes first.
    fn plain(
        &mut self,
        batches: &[FetchedBatch],
        from: Offset,
        max_bytes: usize,
    ) -> Result<Plain, BatchError> {
        let room = max_bytes.min(self.bytes_left);
        let stored: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
        let mut plain = Plain { records: Vec::with_capacity(stored + stored / 8), next: None };
        for batch in batches {
            let before = plain.records.len();
            // Records are about as large as in a batch that is not compressed: what does not fit need not be decoded to see it.
            if !self.is_empty && before + batch.bytes.len() > room {
                break;
            }
            let written = records_to_protobuf(
                &batch.bytes,
                batch.base_offset,
                from,
                RECORDS_FIELD,
                &LIMITS,
                &mut plain.records,
            );
            match written {
                Ok(_) => {}
                Err(_) if plain.next.is_some() => break,
                Err(malformed) => return Err(malformed),
            }
            if !self.is_empty && plain.records.len() > room {
                plain.records.truncate(before);
                break;
            }
            self.is_empty = false;
            plain.next = batch.base_offset.checked_add(batch.records);
        }
        self.bytes_left = self.bytes_left.saturating_sub(plain.records.len());
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use tidelog_record::{BatchBuilder, Compression, RecordRef};
    use tidelog_types::{TimestampMs, TopicId};

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn offset(value: i64) -> Offset {
        Offset::new(value).expect("not negative")
    }

    /// One record whose value is `bytes` zeros.
    fn zeros(base_offset: i64, bytes: usize) -> FetchedBatch {
        let value = vec![0; bytes];
        let mut builder = BatchBuilder::new(Compression::Zstd);
        let record = RecordRef { timestamp: TimestampMs(0), key: None, value: Some(&value), headers: &[] };
        builder.append(record).expect("fits");
        let bytes = builder.build().expect("a record");
        FetchedBatch { base_offset: offset(base_offset), records: 1, bytes }
    }

    fn read(batches: Vec<FetchedBatch>) -> Result<tidelog_agent::FetchedPartition, FetchError> {
        let end = offset(i64::try_from(batches.len()).expect("few"));
        Ok(tidelog_agent::FetchedPartition {
            topic: TopicId(1),
            log_start: Offset::ZERO,
            high_watermark: end,
            next_offset: end,
            batches,
        })
    }

    fn room(mib: usize) -> Room {
        Room::new(RecordFormat::Records, mib * MIB)
    }

    #[test]
    fn small_batches_that_decompress_to_much_do_not_all_come_at_once() {
        let mut room = room(16);
        let mut plain = |n, max_bytes| {
            let read = read((0..8).map(|n| zeros(n, 5 * MIB)).collect());
            room.fetched("t".into(), n, Offset::ZERO, max_bytes, read)
        };
        let (first, second) = (plain(0, 11 * MIB), plain(1, usize::MAX));
        assert_eq!((first.next_offset, first.error), (2, None));
        assert!((10 * MIB..11 * MIB).contains(&first.records.len()));
        assert_eq!((second.next_offset, second.error), (1, None));
        assert!((5 * MIB..6 * MIB).contains(&second.records.len()));
        let third = plain(2, usize::MAX);
        assert_eq!((third.next_offset, third.error, third.records.len()), (0, None, 0), "the next answer's");
    }

    #[test]
    fn the_first_batch_comes_whatever_its_size_and_alone() {
        let mut room = room(1);
        let batches = vec![zeros(0, 5 * MIB), zeros(1, 1)];
        let first = room.fetched("t".into(), 0, Offset::ZERO, 1, read(batches));
        assert_eq!((first.next_offset, first.error), (1, None));
        assert!(first.records.len() > 5 * MIB);
        let second = room.fetched("t".into(), 1, Offset::ZERO, MIB, read(vec![zeros(0, 1)]));
        assert_eq!((second.next_offset, second.error, second.records.len()), (0, None, 0));
    }

    #[test]
    fn what_lies_before_a_malformed_batch_is_delivered() {
        let malformed = FetchedBatch { bytes: Bytes::from_static(b"malformed"), ..zeros(1, 1) };
        let plain = |from, batches| room(1).fetched("t".into(), 0, offset(from), MIB, read(batches));
        let before = plain(0, vec![zeros(0, 1), malformed.clone(), zeros(2, 1)]);
        assert_eq!((before.next_offset, before.error), (1, None));
        assert!(!before.records.is_empty());
        let at = plain(1, vec![malformed, zeros(2, 1)]);
        assert_eq!(at.next_offset, 1);
        assert!(at.error.is_some() && at.records.is_empty());
    }
}
