//! Commits, one request at a time and in order: what was asked for last counts.
//!
//! Requests of a member carry rising numbers, so that one that is repeated, or arrives late, takes effect once and undoes nothing. What is asked
//! for while a request is under way waits in one batch for the next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1;
use tidelog_types::{CommitNumber, Offset, TopicId};
use tokio::sync::{Notify, watch};

use super::error::CommitError;
use super::ledger::{Basis, Ledger};
use super::partition::TopicPartition;
use crate::connection::Client;
use crate::error::RequestError;
use crate::request::{self, Repeat, call, with_deadline};
use tidelog_types::GroupName;

/// Partitions in one request: below the service's limit.
const PARTITIONS_MAX: usize = 1_000;

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
    answer: watch::Sender<Option<Arc<Outcome>>>,
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
            let fits = |batch: &&mut Batch| {
                let room = batch.offsets.len() < PARTITIONS_MAX || batch.offsets.contains_key(&commit.at);
                batch.basis == *basis && room
            };
            if waiting.batches.back_mut().filter(fits).is_none() {
                let answer = watch::Sender::new(None);
                let offsets = BTreeMap::new();
                waiting.batches.push_back(Batch { basis: basis.clone(), offsets, answer });
            }
            let Some(batch) = waiting.batches.back_mut() else { continue };
            let answer = batch.answer.subscribe();
            match parts.last_mut().filter(|(last, _)| last.same_channel(&answer)) {
                Some((_, partitions)) => partitions.push(commit.at.clone()),
                None => parts.push((answer, vec![commit.at.clone()])),
            }
            batch.offsets.insert(commit.at, (topic_id, commit.offset, commit.metadata));
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
        let mut last: (Option<Arc<super::identity::Identity>>, CommitNumber) = (None, CommitNumber(0));
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
