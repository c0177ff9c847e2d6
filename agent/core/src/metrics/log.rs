//! A decorator that times what the metadata log is asked.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tidelog_metadata_log::{Append, LogError, MetadataLog};
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};
use tokio::time::Instant;

use super::{HistogramFamily, latency};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpLabels {
    op: &'static str,
}

/// How long requests to the metadata log take, whatever became of them; cheap to clone, clones count together.
#[derive(Debug, Clone)]
pub struct LogMetrics {
    append: Histogram,
    read: Histogram,
    remove: Histogram,
}

impl LogMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let durations: HistogramFamily<OpLabels> =
            HistogramFamily::new_with_constructor(latency as fn() -> Histogram);
        let of = |op| durations.get_or_create_owned(&OpLabels { op });
        let metrics = Self { append: of("append"), read: of("read"), remove: of("remove") };
        registry.register(
            "metadata_request_duration_seconds",
            "Time until the metadata log answered",
            durations,
        );
        metrics
    }
}

/// A metadata log whose requests are timed.
#[derive(Debug)]
pub struct MeteredLog {
    inner: Arc<dyn MetadataLog>,
    metrics: LogMetrics,
}

impl MeteredLog {
    /// Times what is asked of `inner`.
    pub fn new(inner: Arc<dyn MetadataLog>, metrics: LogMetrics) -> Self {
        Self { inner, metrics }
    }
}

async fn timed<T>(durations: &Histogram, request: impl Future<Output = T>) -> T {
    let since = Instant::now();
    let answer = request.await;
    durations.observe(since.elapsed().as_secs_f64());
    answer
}

#[async_trait]
impl MetadataLog for MeteredLog {
    async fn append(&self, shard: ShardId, place: Place, bytes: Bytes) -> Append {
        timed(&self.metrics.append, self.inner.append(shard, place, bytes)).await
    }

    async fn read(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        timed(&self.metrics.read, self.inner.read(shard, epoch, from, limit)).await
    }

    async fn remove(&self, shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError> {
        timed(&self.metrics.remove, self.inner.remove(shard, epoch, seqs)).await
    }

    fn entry_bytes_max(&self) -> usize {
        self.inner.entry_bytes_max()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use tidelog_metadata_log::memory::MemoryLog;

    use super::super::Metrics;
    use super::*;

    #[tokio::test]
    async fn each_request_is_timed_and_answered_as_the_log_answers() {
        let metrics = Metrics::new();
        let log = MeteredLog::new(Arc::new(MemoryLog::new()), metrics.metadata_log().clone());
        let (shard, place) = (ShardId::ZERO, Place::begin_of(LogEpoch::ZERO));
        let first = Bytes::from_static(b"first");
        assert_eq!(log.append(shard, place, first.clone()).await, Append::Appended);
        let occupied = log.append(shard, place, Bytes::from_static(b"second")).await;
        assert_eq!(occupied, Append::Occupied(first.clone()));
        assert_eq!(log.read(shard, LogEpoch::ZERO, LogSeq::ZERO, 10).await, Ok(vec![first]));
        assert_eq!(log.remove(shard, LogEpoch::ZERO, &[LogSeq::ZERO]).await, Ok(()));
        assert_eq!(log.read(shard, LogEpoch::ZERO, LogSeq::ZERO, 10).await, Ok(Vec::new()));
        let text = metrics.encode();
        for (op, count) in [("append", 2), ("read", 2), ("remove", 1)] {
            let line = format!("tidelog_metadata_request_duration_seconds_count{{op=\"{op}\"}} {count}");
            assert!(text.contains(&line), "{line} is not in:\n{text}");
        }
    }
}
