//! Reading records: long polls over the replica of the metadata, batches from the cache or the object store.
//!
//! Answers hold batches as they are stored, as slices of what is cached: nothing is copied or patched. The base offset
//! stands beside each batch, because the one inside is the producer's.
//!
//! Map: `Fetcher` the long poll · `plan` which slices · `read` their bytes · [`subscription`] reading on and on ·
//! `offsets` finding offsets by time · [`error`].

pub mod error;
mod offsets;
mod plan;
mod read;
pub mod subscription;

use std::time::Duration;

use bytes::Bytes;
use tidelog_metadata_node::Metadata;
use tidelog_types::{Offset, PartitionIndex, TopicId, TopicName, TopicPartition};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use error::FetchError;
pub use offsets::{FoundOffset, OffsetQuery, OffsetWanted};
pub(crate) use read::Reader;
pub use subscription::{Delivery, Progress, StartAt, SubscribePartition, Subscription};

use crate::settings::FetchLimits;
use plan::{PartitionPlan, PlannedSlice, find, plan_partition};
use read::ReadError;

/// What to read.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// Where to read. If not all fits, the earlier ones come first.
    pub partitions: Vec<FetchPartition>,
    /// Bytes to wait for; 0 never waits.
    pub min_bytes: usize,
    /// Most bytes in the answer; the first batch is delivered even if it is larger.
    pub max_bytes: usize,
    /// How long to wait for `min_bytes`.
    pub max_wait: Duration,
}

/// Where to read in one partition.
#[derive(Debug, Clone)]
pub struct FetchPartition {
    /// The topic's name.
    pub topic: TopicName,
    /// The topic's id, to be refused if the name belongs to another topic by now.
    pub topic_id: Option<TopicId>,
    /// The partition.
    pub partition: PartitionIndex,
    /// The first offset wanted.
    pub offset: Offset,
    /// Most bytes from this partition.
    pub max_bytes: usize,
}

/// What was read from one partition.
#[derive(Debug, Clone)]
pub struct FetchedPartition {
    /// The topic's id.
    pub topic: TopicId,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The offset that the next record will get.
    pub high_watermark: Offset,
    /// Where to read on.
    pub next_offset: Offset,
    /// Batches by rising offset. The first one may begin before the offset that was asked for.
    pub batches: Vec<FetchedBatch>,
}

/// A batch as stored.
#[derive(Debug, Clone)]
pub struct FetchedBatch {
    /// Offset of its first record; the one inside `bytes` is not meaningful.
    pub base_offset: Offset,
    /// How many records it has.
    pub records: u32,
    /// One record batch v2.
    pub bytes: Bytes,
}

/// The results of a fetch, in the order of the request's partitions.
pub type FetchResponse = Vec<Result<FetchedPartition, FetchError>>;

/// Partitions planned under one hold of the metadata's lock, which applying entries needs.
const PLANNED_AT_ONCE: usize = 128;

/// Serves fetches; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    pub metadata: Metadata,
    pub reader: Reader,
    pub limits: FetchLimits,
    /// How long a confirmed read of the metadata may take.
    pub confirm_deadline: Duration,
    /// Once cancelled, nobody waits any more.
    pub draining: CancellationToken,
}

/// How far beyond the known end an offset lies decides whether the metadata has to be asked.
enum Planned {
    Plan(PartitionPlan),
    Failed(FetchError),
    /// The offset lies beyond what this replica knows; there may be more by now.
    Beyond,
}

impl Planned {
    /// Whether the metadata has to be confirmed before this is told: others may have changed it a moment ago.
    fn may_be_outdated(&self) -> bool {
        match self {
            Self::Plan(_) => false,
            Self::Failed(error) => error.may_be_outdated(),
            Self::Beyond => true,
        }
    }
}

impl Fetcher {
    /// Reads, and waits for records if there are not enough.
    pub async fn fetch(&self, mut request: FetchRequest) -> FetchResponse {
        let surplus = request.partitions.len().saturating_sub(self.limits.partitions_max);
        request.partitions.truncate(self.limits.partitions_max);
        request.max_bytes = request.max_bytes.clamp(1, self.limits.bytes_max);
        request.min_bytes = request.min_bytes.min(request.max_bytes);
        let deadline = Instant::now() + request.max_wait.min(self.limits.wait_max);
        let plans = self.wait(&request, deadline).await;
        let mut response = self.read(&request, plans).await;
        let too_many = FetchError::TooManyPartitions { max: self.limits.partitions_max };
        response.extend(std::iter::repeat_n(Err(too_many), surplus));
        response
    }

    /// Plans until there is enough to read, something failed, or the time is over.
    async fn wait(
        &self,
        request: &FetchRequest,
        deadline: Instant,
    ) -> Vec<Result<PartitionPlan, FetchError>> {
        let mut confirmed: Option<Result<(), FetchError>> = None;
        let mut watch = None;
        loop {
            let planned = self.plan(request);
            if confirmed.is_none() && planned.iter().any(Planned::may_be_outdated) {
                confirmed = Some(self.confirm().await);
                continue;
            }
            let plans: Vec<Result<PartitionPlan, FetchError>> = planned
                .into_iter()
                .zip(&request.partitions)
                .map(|(planned, wanted)| match planned {
                    Planned::Plan(plan) => Ok(plan),
                    Planned::Failed(error) if error.may_be_outdated() => {
                        confirmed.clone().unwrap_or(Ok(())).and(Err(error))
                    }
                    Planned::Failed(error) => Err(error),
                    Planned::Beyond => Err(self.beyond(wanted, &confirmed)),
                })
                .collect();
            let enough: usize = plans.iter().flatten().map(|plan| plan.bytes).sum();
            let is_over = Instant::now() >= deadline || self.draining.is_cancelled();
            // A partition of which there is more than was planned will not give more by waiting.
            let is_full = plans.iter().zip(&request.partitions).any(|(plan, wanted)| match plan {
                Ok(plan) => !plan.reaches_end(wanted.offset),
                Err(_) => true,
            });
            if enough >= request.min_bytes || is_over || is_full {
                return plans;
            }
            let Some(watch) = &watch else {
                // Made before the next look, so that nothing that happens after that look is missed.
                watch = Some(self.metadata.watch(plans.iter().flatten().map(|plan| plan.at)));
                continue;
            };
            tokio::select! {
                biased;
                () = watch.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = self.draining.cancelled() => {}
            }
        }
    }

    fn plan(&self, request: &FetchRequest) -> Vec<Planned> {
        let mut planned = Vec::with_capacity(request.partitions.len());
        let (mut bytes_left, mut slices_left) = (request.max_bytes, self.limits.slices_max);
        for some in request.partitions.chunks(PLANNED_AT_ONCE) {
            self.metadata.read(|state| {
                for wanted in some {
                    let found = find(state, &wanted.topic, wanted.topic_id, wanted.partition);
                    let (at, partition) = match found {
                        Ok(found) => found,
                        Err(error) => {
                            planned.push(Planned::Failed(error));
                            continue;
                        }
                    };
                    if wanted.offset > partition.end() {
                        planned.push(Planned::Beyond);
                        continue;
                    }
                    // Once the answer is full, partitions are still looked up, for their ends.
                    let slices_max = if bytes_left == 0 { 0 } else { slices_left };
                    let bytes_max = bytes_left.min(wanted.max_bytes);
                    let plan = plan_partition(state, at, partition, wanted.offset, bytes_max, slices_max);
                    if wanted.offset < plan.log_start {
                        planned.push(Planned::Failed(plan.out_of_range()));
                        continue;
                    }
                    bytes_left = bytes_left.saturating_sub(plan.bytes);
                    slices_left -= plan.slices.len();
                    planned.push(Planned::Plan(plan));
                }
            });
        }
        planned
    }

    fn beyond(&self, wanted: &FetchPartition, confirmed: &Option<Result<(), FetchError>>) -> FetchError {
        if let Some(Err(error)) = confirmed {
            return error.clone();
        }
        self.metadata.read(|state| match find(state, &wanted.topic, wanted.topic_id, wanted.partition) {
            Ok((_, partition)) => {
                FetchError::OffsetOutOfRange { earliest: partition.log_start(), latest: partition.end() }
            }
            Err(error) => error,
        })
    }

    pub(crate) async fn confirm(&self) -> Result<(), FetchError> {
        match self.metadata.confirm(Instant::now() + self.confirm_deadline).await {
            Ok(_) => Ok(()),
            Err(error) => Err(FetchError::MetadataUnavailable { cause: error.to_string() }),
        }
    }

    async fn read(
        &self,
        request: &FetchRequest,
        plans: Vec<Result<PartitionPlan, FetchError>>,
    ) -> FetchResponse {
        let mut results = self.read_planned(&plans).await;
        let is_gone = |read: &PartitionRead| matches!(read.failed, Some((_, ReadError::Gone)));
        if results.iter().any(is_gone) {
            // The object may have been replaced and collected since the plan was made: then the current metadata does not name
            // it any more. If it still does, the object is lost.
            let confirmed = self.confirm().await;
            let planned = self.plan(request);
            let replans: Vec<Result<PartitionPlan, FetchError>> = planned
                .into_iter()
                .zip(&request.partitions)
                .zip(&results)
                .zip(&plans)
                .map(|(((planned, wanted), before), old)| match planned {
                    _ if !is_gone(before) => old.clone(),
                    Planned::Plan(plan) => confirmed.clone().map(|()| plan),
                    Planned::Failed(error) => Err(error),
                    Planned::Beyond => Err(self.beyond(wanted, &None)),
                })
                .collect();
            results = self.read_planned(&replans).await;
            return self.assemble(request, replans, results);
        }
        self.assemble(request, plans, results)
    }

    async fn read_planned(&self, plans: &[Result<PartitionPlan, FetchError>]) -> Vec<PartitionRead> {
        let slices: Vec<PlannedSlice> =
            plans.iter().flatten().flat_map(|plan| plan.slices.iter().copied()).collect();
        let mut batches = self.reader.read(&slices).await.into_iter();
        let mut read_of = |plan: &PartitionPlan| {
            let mut read = PartitionRead::default();
            for (planned, result) in plan.slices.iter().zip(batches.by_ref().take(plan.slices.len())) {
                match result {
                    Ok(batches) if read.failed.is_none() => read.slices.push((*planned, batches)),
                    Err(error) if read.failed.is_none() => read.failed = Some((*planned, error)),
                    // What lies behind a failed slice would leave a gap.
                    _ => {}
                }
            }
            read
        };
        plans.iter().map(|plan| plan.as_ref().map(&mut read_of).unwrap_or_default()).collect()
    }

    fn assemble(
        &self,
        request: &FetchRequest,
        plans: Vec<Result<PartitionPlan, FetchError>>,
        reads: Vec<PartitionRead>,
    ) -> FetchResponse {
        let mut bytes_left = request.max_bytes;
        let mut is_empty = true;
        plans
            .into_iter()
            .zip(reads)
            .zip(&request.partitions)
            .map(|((plan, read), wanted)| {
                let plan = plan?;
                let bytes_max = bytes_left.min(wanted.max_bytes);
                let batches = read.batches(wanted.offset, bytes_max, is_empty);
                if batches.is_empty()
                    && let Some((planned, error)) = read.failed.filter(|_| read.slices.is_empty())
                {
                    return Err(failed(&planned, error));
                }
                is_empty &= batches.is_empty();
                bytes_left -= batches.iter().map(|batch| batch.bytes.len()).sum::<usize>().min(bytes_left);
                let last_end = batches.last().and_then(|batch| batch.base_offset.checked_add(batch.records));
                Ok(FetchedPartition {
                    topic: plan.at.topic,
                    log_start: plan.log_start,
                    high_watermark: plan.end,
                    next_offset: last_end.unwrap_or(wanted.offset),
                    batches,
                })
            })
            .collect()
    }
}

/// What was read for one partition.
#[derive(Debug, Default)]
struct PartitionRead {
    slices: Vec<(PlannedSlice, crate::cache::CachedBatches)>,
    failed: Option<(PlannedSlice, ReadError)>,
}

impl PartitionRead {
    /// The batches from `offset` on that fit; the first one even if it does not, if the answer is empty so far.
    fn batches(&self, offset: Offset, bytes_max: usize, is_empty: bool) -> Vec<FetchedBatch> {
        let mut batches: Vec<FetchedBatch> = Vec::new();
        let mut bytes = 0;
        for (planned, cached) in &self.slices {
            let mut base = Some(planned.slice.base_offset);
            for batch in cached.of_slice(&planned.slice).unwrap_or_default() {
                let Some(base_offset) = base else { return batches };
                base = base_offset.checked_add(batch.records);
                if base.is_some_and(|end| end <= offset) {
                    continue;
                }
                bytes += batch.bytes.len();
                if bytes > bytes_max && !(is_empty && batches.is_empty()) {
                    return batches;
                }
                batches.push(FetchedBatch {
                    base_offset,
                    records: batch.records,
                    bytes: batch.bytes.clone(),
                });
            }
        }
        batches
    }
}

fn failed(planned: &PlannedSlice, error: ReadError) -> FetchError {
    match error {
        ReadError::Gone => {
            let object = planned.path().to_string();
            tracing::error!(
                event = "object_lost",
                object,
                "the metadata refers to an object that does not exist"
            );
            FetchError::Corrupt {
                object,
                cause: "it does not exist although the metadata refers to it".to_owned(),
            }
        }
        ReadError::Corrupt(cause) => FetchError::Corrupt { object: planned.path().to_string(), cause },
        ReadError::Unavailable(cause) => FetchError::StorageUnavailable { cause },
    }
}

/// A partition by its topic's name, for those that watch it.
pub(crate) fn partition_of(
    metadata: &Metadata,
    topic: &TopicName,
    id: Option<TopicId>,
    partition: PartitionIndex,
) -> Result<(TopicPartition, Offset, Offset), FetchError> {
    metadata.read(|state| {
        find(state, topic, id, partition).map(|(at, found)| (at, found.log_start(), found.end()))
    })
}
