//! Where `consume` writes to: standard output, gathered into larger writes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use tidelog_client::{ConsumedRecord, Offset, OffsetCommit, TopicPartition};

use super::format::RecordFormat;
use crate::failure::Failure;
use crate::output::written;

/// Output is handed on when so much is gathered, or when no record is at hand.
const GATHER_BYTES: usize = 64 * 1024;

/// Whether anybody reads what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Somebody does, as far as it is known.
    Reads,
    /// The pipe is closed.
    Gone,
}

/// Records on their way to standard output, and how far each partition was written.
#[derive(Debug)]
pub struct Sink<W> {
    out: W,
    gathered: Vec<u8>,
    /// The offset after the last record in `gathered`.
    gathered_to: BTreeMap<TopicPartition, Offset>,
    /// The offset after the last record that was written.
    written_to: BTreeMap<TopicPartition, Offset>,
    /// Partitions of which more was written since somebody asked.
    news: BTreeSet<TopicPartition>,
}

impl<W: Write> Sink<W> {
    /// Writes to this.
    pub fn new(out: W) -> Self {
        let gathered = Vec::with_capacity(2 * GATHER_BYTES);
        Self {
            out,
            gathered,
            gathered_to: BTreeMap::new(),
            written_to: BTreeMap::new(),
            news: BTreeSet::new(),
        }
    }

    /// Gathers a record.
    pub fn put(&mut self, record: &ConsumedRecord, format: &RecordFormat) -> Result<(), Failure> {
        format.write(record, &mut self.gathered).map_err(|error| {
            Failure::failed(format!("cannot write {}[{}]: {error}", record.topic, record.partition))
        })?;
        if let Some(next) = record.offset.checked_add(1) {
            self.gathered_to.insert(TopicPartition::new(record.topic.clone(), record.partition), next);
        }
        Ok(())
    }

    /// Whether enough is gathered.
    pub fn is_full(&self) -> bool {
        self.gathered.len() >= GATHER_BYTES
    }

    /// Writes what is gathered.
    pub fn flush(&mut self) -> Result<Reader, Failure> {
        let result = self.out.write_all(&self.gathered).and_then(|()| self.out.flush());
        self.gathered.clear();
        let gathered = std::mem::take(&mut self.gathered_to);
        let reader = match &result {
            Ok(()) => {
                self.news.extend(gathered.keys().cloned());
                self.written_to.extend(gathered);
                Reader::Reads
            }
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Reader::Gone,
            Err(_) => Reader::Reads,
        };
        written(result).map(|()| reader)
    }

    /// Whether more was written since [`Sink::take_news`].
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// What to commit of partitions of which more was written since this was asked last.
    pub fn take_news(&mut self) -> Vec<OffsetCommit> {
        let news = std::mem::take(&mut self.news);
        let offsets = news.into_iter().filter_map(|at| {
            let offset = *self.written_to.get(&at)?;
            Some(OffsetCommit::new(at, offset))
        });
        offsets.collect()
    }

    /// What to commit of all partitions of which anything was written.
    pub fn all_written(&self) -> Vec<OffsetCommit> {
        self.written_to.iter().map(|(at, offset)| OffsetCommit::new(at.clone(), *offset)).collect()
    }

    /// Forgets how far these partitions were written: they belong to others.
    pub fn forget(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            self.written_to.remove(at);
            self.gathered_to.remove(at);
            self.news.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidelog_client::{PartitionIndex, TimestampMs, TopicName};

    use super::*;

    /// Takes so many bytes, then fails.
    struct Pipe(usize);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn record(partition: i32, offset: i64) -> ConsumedRecord {
        ConsumedRecord {
            topic: TopicName::new("t").expect("a name"),
            partition: PartitionIndex::new(partition).expect("in range"),
            offset: Offset::new(offset).expect("in range"),
            timestamp: TimestampMs(0),
            key: None,
            value: Some("value".into()),
            headers: Vec::new(),
        }
    }

    fn offsets(commits: &[OffsetCommit]) -> Vec<(i32, i64)> {
        commits.iter().map(|commit| (commit.at.partition.get(), commit.offset.get())).collect()
    }

    #[test]
    fn only_what_was_written_is_committed() {
        // Three records of six bytes, and not all of the next two.
        let mut sink = Sink::new(Pipe(20));
        for (partition, offset) in [(0, 4), (0, 5), (1, 9)] {
            sink.put(&record(partition, offset), &RecordFormat::Raw).expect("into memory");
        }
        assert!(!sink.has_news());
        assert_eq!(sink.flush(), Ok(Reader::Reads));
        assert!(sink.has_news());
        assert_eq!(offsets(&sink.take_news()), [(0, 6), (1, 10)]);
        sink.put(&record(0, 6), &RecordFormat::Raw).expect("into memory");
        assert_eq!(sink.flush(), Ok(Reader::Gone));
        assert_eq!(offsets(&sink.take_news()), []);
        assert_eq!(offsets(&sink.all_written()), [(0, 6), (1, 10)]);
    }

    #[test]
    fn partitions_of_others_are_not_committed() {
        let mut sink = Sink::new(Vec::new());
        sink.put(&record(0, 0), &RecordFormat::Raw).expect("into memory");
        sink.put(&record(1, 0), &RecordFormat::Raw).expect("into memory");
        sink.flush().expect("into memory");
        sink.put(&record(1, 1), &RecordFormat::Raw).expect("into memory");
        sink.forget(&[TopicPartition::new(
            TopicName::new("t").expect("a name"),
            PartitionIndex::new(1).expect("in range"),
        )]);
        sink.flush().expect("into memory");
        assert_eq!(offsets(&sink.take_news()), [(0, 1)]);
        assert_eq!(offsets(&sink.all_written()), [(0, 1)]);
    }
}
