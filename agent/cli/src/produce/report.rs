//! What became of the records that were sent.

use std::collections::BTreeMap;

use tidelog_client::{Delivery, ProduceError, RecordMetadata, TopicName};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::topic::counted;

/// What the service answered.
#[derive(Debug, Default)]
pub struct Report {
    /// Records that are durable.
    pub acknowledged: u64,
    /// Records that may be durable.
    pub unknown: u64,
    /// Records that are not.
    pub failed: u64,
    /// The first error.
    pub error: Option<ProduceError>,
    /// Lowest and highest offset, and how many, by partition.
    ranges: BTreeMap<i32, (i64, i64, u64)>,
}

impl Report {
    /// Takes deliveries in the order in which they were sent. The first that fails cancels `stop`.
    pub async fn collect(mut deliveries: mpsc::Receiver<Delivery>, stop: CancellationToken) -> Self {
        let mut report = Self::default();
        while let Some(delivery) = deliveries.recv().await {
            match delivery.wait().await {
                Ok(metadata) => report.acknowledge(metadata),
                Err(error) => {
                    if error.outcome_unknown() {
                        report.unknown += 1;
                    } else {
                        report.failed += 1;
                    }
                    report.error.get_or_insert(error);
                    stop.cancel();
                }
            }
        }
        report
    }

    fn acknowledge(&mut self, metadata: RecordMetadata) {
        self.acknowledged += 1;
        let offset = metadata.offset.get();
        let range = self.ranges.entry(metadata.partition.get()).or_insert((offset, offset, 0));
        *range = (range.0.min(offset), range.1.max(offset), range.2 + 1);
    }

    /// One line for each partition: `t[0] offset 7`, or `t[0] offsets 7 to 9`; and how many records if other producers' lie between.
    pub fn lines(&self, topic: &TopicName) -> Vec<String> {
        let line = |(partition, (low, high, count)): (&i32, &(i64, i64, u64))| {
            let place =
                if low == high { format!("offset {low}") } else { format!("offsets {low} to {high}") };
            let between =
                if high.abs_diff(*low) + 1 == *count { String::new() } else { format!(", {count} of them") };
            format!("{topic}[{partition}] {place}{between}")
        };
        self.ranges.iter().map(line).collect()
    }

    /// How many were acknowledged, in words. `read`: how many there were.
    pub fn summary(&self, read: u64) -> String {
        if self.acknowledged == read {
            return format!("{} acknowledged", counted(read, "record"));
        }
        let unknown = match self.unknown {
            0 => String::new(),
            unknown => format!(", {unknown} may have been written"),
        };
        format!("{} of {} acknowledged{unknown}", self.acknowledged, counted(read, "record"))
    }
}

#[cfg(test)]
mod tests {
    use tidelog_client::{Offset, PartitionIndex, TimestampMs};

    use super::*;

    #[test]
    fn ranges_and_counts_are_told() {
        let mut report = Report::default();
        for (partition, offset) in [(0, 5), (1, 0), (1, 1), (1, 2), (2, 3), (2, 9)] {
            report.acknowledge(RecordMetadata {
                partition: PartitionIndex::new(partition).expect("in range"),
                offset: Offset::new(offset).expect("in range"),
                timestamp: TimestampMs(0),
            });
        }
        let topic = TopicName::new("t").expect("a name");
        let lines = ["t[0] offset 5", "t[1] offsets 0 to 2", "t[2] offsets 3 to 9, 2 of them"];
        assert_eq!(report.lines(&topic), lines);
        assert_eq!(report.summary(6), "6 records acknowledged");
        report.unknown = 1;
        assert_eq!(report.summary(8), "6 of 8 records acknowledged, 1 may have been written");
    }
}
