//! Commits, one request at a time and in order: what was asked for last counts.
//!
//! Requests of a member carry rising numbers, so that one that is repeated, or arrives late, takes effect once and undoes nothing. What is asked
//! for while a request is under way waits in one batch for the next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1;
use tidelog_types::{CommitNumber, GroupName, Offset, TopicId};
use tokio::sync::{Notify, watch};

use super::error::CommitError;
use super::identity::Identity;
use super::ledger::{Basis, Ledger};
use super::partition::TopicPartition;
use crate::connection::Client;
use crate::error::RequestError;
use crate::request::{self, Repeat, call, with_deadline};

/// Partitions in one request: below the service's limit.
const PARTITIONS_MAX: usize = 1_000;
/// Bytes of metadata in one request, unless a single offset has more: what is committed together has to fit into one entry of the metadata
/// log, of 64 KiB.
const METADATA_BYTES_MAX: usize = 32 * 1024;

/// An offset to commit: the next one to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The partition.
    pub at: TopicPartition,
    /// Whoever begins anew begins here.
    pub offset: Offset,
    /// Words of the application's own, at most 4,096 bytes.
    pub metadata: String,
}

impl OffsetCommit {
    /// An offset without metadata.
    pub fn new(at: TopicPartition, offset: Offset) -> Self {
        Self { at, offset, metadata: String::new() }
    }
}

/// Partitions that were refused; or why none was committed.
type Outcome = Result<BTreeMap<TopicPartition, ApiError>, CommitError>;
/// Empty until it is known.
type Answer = watch::Receiver<Option<Arc<Outcome>>>;

/// A commit that is on its way. It goes on whether or not anybody waits for it.
#[derive(Debug)]
pub struct CommitTicket {
    parts: Vec<(Answer, Vec<TopicPartition>)>,
    failed: Option<CommitError>,
}

impl CommitTicket {
    pub(super) fn failed(error: CommitError) -> Self {
        Self { parts: Vec::new(), failed: Some(error) }
    }

    /// Waits until the outcome is known.
    pub async fn wait(self) -> Result<(), CommitError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut refused = Vec::new();
        for (mut answer, partitions) in self.parts {
            let outcome = answer.wait_for(Option::is_some).await.map_err(|_| CommitError::Closed)?.clone();
            match outcome.as_deref() {
                Some(Ok(errors)) => {
                    let own =
                        partitions.into_iter().filter_map(|at| Some((at.clone(), errors.get(&at)?.clone())));
                    refused.extend(own);
                }
                Some(Err(error)) => return Err(error.clone()),
                None => return Err(CommitError::Closed),
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(CommitError::Partitions(refused)) }
    }
}

#[derive(Debug)]
struct Batch {
    basis: Basis,
    offsets: BTreeMap<TopicPartition, (Option<TopicId>, Offset, String)>,
    metadata_bytes: usize,
    answer: watch::Sender<Option<Arc<Outcome>>>,
}

impl Batch {
    fn has_room_for(&self, commit: &OffsetCommit) -> bool {
        let known = self.offsets.get(&commit.at).map(|(_, _, metadata)| metadata.len());
        let metadata_bytes = self.metadata_bytes - known.unwrap_or(0) + commit.metadata.len();
        let partitions = self.offsets.len() + usize::from(known.is_none());
        partitions == 1 || partitions <= PARTITIONS_MAX && metadata_bytes <= METADATA_BYTES_MAX
    }

    fn insert(&mut self, commit: OffsetCommit, topic_id: Option<TopicId>) {
        self.metadata_bytes += commit.metadata.len();
        let before = self.offsets.insert(commit.at, (topic_id, commit.offset, commit.metadata));
        self.metadata_bytes -= before.map_or(0, |(_, _, metadata)| metadata.len());
    }
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Batch>,
    under_way: Option<Answer>,
    closed: bool,
}

/// Commits that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Commits {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

impl Commits {
    /// Has offsets committed, after all that were handed over before.
    pub(super) fn put(
        &self,
        basis: &Basis,
        offsets: impl IntoIterator<Item = (OffsetCommit, Option<TopicId>)>,
    ) -> CommitTicket {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return CommitTicket::failed(CommitError::Closed);
        }
        let mut parts: Vec<(Answer, Vec<TopicPartition>)> = Vec::new();
        for (commit, topic_id) in offsets {
            let fits = |batch: &&mut Batch| batch.basis == *basis && batch.has_room_for(&commit);
            if waiting.batches.back_mut().filter(fits).is_none() {
                waiting.batches.push_back(Batch {
                    basis: basis.clone(),
                    offsets: BTreeMap::new(),
                    metadata_bytes: 0,
                    answer: watch::Sender::new(None),
                });
            }
            let Some(batch) = waiting.batches.back_mut() else { continue };
            let answer = batch.answer.subscribe();
            match parts.last_mut().filter(|(last, _)| last.same_channel(&answer)) {
                Some((_, partitions)) => partitions.push(commit.at.clone()),
                None => parts.push((answer, vec![commit.at.clone()])),
            }
            batch.insert(commit, topic_id);
        }
        self.wake.notify_one();
        CommitTicket { parts, failed: None }
    }

    /// Waits until all that was handed over until now has its outcome.
    pub(super) async fn flush(&self) {
        let answers: Vec<Answer> = {
            let waiting = self.waiting.lock();
            let batches = waiting.batches.iter().map(|batch| batch.answer.subscribe());
            waiting.under_way.iter().cloned().chain(batches).collect()
        };
        for mut answer in answers {
            // An error says that it will have none.
            let _ = answer.wait_for(Option::is_some).await;
        }
    }

    /// Takes no further commits; [`Commits::run`] ends when those that wait have their outcome.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    /// Sends what waits, until closed.
    pub(super) async fn run(&self, client: &Client, group: &GroupName, ledger: &Mutex<Ledger>) {
        let mut last: (Option<Arc<Identity>>, CommitNumber) = (None, CommitNumber(0));
        loop {
            let batch = {
                let mut waiting = self.waiting.lock();
                let batch = waiting.batches.pop_front();
                waiting.under_way = batch.as_ref().map(|batch| batch.answer.subscribe());
                if batch.is_none() && waiting.closed {
                    return;
                }
                batch
            };
            let Some(batch) = batch else {
                self.wake.notified().await;
                continue;
            };
            if last.0 != batch.basis.member {
                last = (batch.basis.member.clone(), CommitNumber(0));
            }
            last.1.0 += 1;
            let outcome = send(client, group, &batch, last.1).await;
            if let Ok(refused) = &outcome {
                let mut ledger = ledger.lock();
                for (at, (_, offset, _)) in batch.offsets.iter().filter(|(at, _)| !refused.contains_key(at)) {
                    ledger.committed(&batch.basis, at, *offset);
                }
            }
            batch.answer.send_replace(Some(Arc::new(outcome)));
        }
    }
}

async fn send(client: &Client, group: &GroupName, batch: &Batch, number: CommitNumber) -> Outcome {
    let member = batch.basis.member.as_ref();
    let offsets = batch.offsets.iter().map(|(at, (topic_id, offset, metadata))| v1::OffsetCommit {
        topic: at.topic.to_string(),
        partition: at.partition.get(),
        topic_id: topic_id.map(|id| id.0),
        offset: offset.get(),
        metadata: metadata.clone(),
    });
    let request = v1::CommitOffsetsRequest {
        group: group.to_string(),
        member: member.map(|member| member.to_wire()),
        number: if member.is_some() { number.0 } else { 0 },
        generation: if member.is_some() { batch.basis.generation.0 } else { 0 },
        offsets: offsets.collect(),
    };
    let results = commit_offsets(client, request).await?;
    let refused = batch.offsets.keys().zip(results).filter_map(|(at, error)| Some((at.clone(), error?)));
    Ok(refused.collect())
}

/// Cuts a list into requests that are small enough.
pub(super) fn requests(mut offsets: &[OffsetCommit]) -> Vec<&[OffsetCommit]> {
    let mut requests = Vec::new();
    while !offsets.is_empty() {
        let mut metadata_bytes = 0;
        let fits = |commit: &&OffsetCommit| {
            metadata_bytes += commit.metadata.len();
            metadata_bytes <= METADATA_BYTES_MAX
        };
        let count = offsets.iter().take(PARTITIONS_MAX).take_while(fits).count().max(1);
        let (request, rest) = offsets.split_at(count);
        requests.push(request);
        offsets = rest;
    }
    requests
}

/// Sends one request; for each of its offsets why it was refused, or nothing.
pub(super) async fn commit_offsets(
    client: &Client,
    request: v1::CommitOffsetsRequest,
) -> Result<Vec<Option<ApiError>>, RequestError> {
    let limit = client.options().request_timeout;
    let asked = request.offsets.len();
    let response = call(client, Repeat::Always, |channel| {
        let request = with_deadline(request.clone(), limit);
        async move { request::group(channel).commit_offsets(request).await }
    });
    let results = response.await?.results;
    if results.len() != asked {
        return Err(RequestError::Protocol(format!("{} results for {asked} offsets", results.len())));
    }
    Ok(results.into_iter().map(|result| result.error.map(ApiError::from)).collect())
}

#[cfg(test)]
mod tests {
    use tidelog_types::{Generation, PartitionIndex, TopicName};

    use super::*;

    fn commit(partition: i32, offset: i64, metadata_bytes: usize) -> OffsetCommit {
        let topic = TopicName::new("t").expect("a name");
        let at = TopicPartition::new(topic, PartitionIndex::new(partition).expect("in range"));
        OffsetCommit {
            at,
            offset: Offset::new(offset).expect("in range"),
            metadata: "x".repeat(metadata_bytes),
        }
    }

    /// Sizes of the batches, and what the first one commits for partition 0.
    fn batches(commits: &Commits) -> (Vec<usize>, Option<i64>) {
        let waiting = commits.waiting.lock();
        let first = waiting.batches.front().and_then(|batch| batch.offsets.values().next());
        (
            waiting.batches.iter().map(|batch| batch.offsets.len()).collect(),
            first.map(|(_, offset, _)| offset.get()),
        )
    }

    #[test]
    fn what_waits_goes_together_as_far_as_it_fits() {
        let commits = Commits::default();
        let basis = |generation| Basis { member: None, generation: Generation(generation) };
        let put = |generation, offsets: Vec<OffsetCommit>| {
            commits.put(&basis(generation), offsets.into_iter().map(|commit| (commit, None)))
        };
        let _ = put(1, vec![commit(0, 1, 0), commit(1, 1, 0)]);
        let _ = put(1, vec![commit(0, 2, 0), commit(2, 1, 0)]);
        assert_eq!(batches(&commits), (vec![3], Some(2)), "the last word counts");
        // Another generation, other rights.
        let _ = put(2, vec![commit(0, 3, 0)]);
        assert_eq!(batches(&commits), (vec![3, 1], Some(2)));
        let ticket = put(3, (0..2_500).map(|partition| commit(partition, 1, 0)).collect());
        assert_eq!(batches(&commits).0, [3, 1, 1_000, 1_000, 500]);
        assert_eq!(
            ticket.parts.iter().map(|(_, partitions)| partitions.len()).collect::<Vec<_>>(),
            [1_000, 1_000, 500]
        );
        let _ = put(4, (0..20).map(|partition| commit(partition, 1, 4_096)).collect());
        assert_eq!(batches(&commits).0[5..], [8, 8, 4]);
        let _ = put(4, vec![commit(16, 2, 4_096), commit(17, 2, 0)]);
        assert_eq!(batches(&commits).0[5..], [8, 8, 4]);
    }

    #[test]
    fn requests_are_small_enough() {
        let sizes = |list: &[OffsetCommit]| requests(list).iter().map(|some| some.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(
            sizes(&(0..1_001).map(|partition| commit(partition, 1, 10)).collect::<Vec<_>>()),
            [1_000, 1]
        );
        assert_eq!(sizes(&(0..10).map(|partition| commit(partition, 1, 4_096)).collect::<Vec<_>>()), [8, 2]);
        assert_eq!(
            sizes(&[commit(0, 1, 100_000), commit(1, 1, 100_000)]),
            [1, 1],
            "the service refuses them"
        );
    }
}
