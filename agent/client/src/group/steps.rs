//! Carries out what the ledger says is to be done with partitions: tells the listener, commits, looks up where to begin.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelog_proto::status::ApiError;
use tidelog_proto::v1::ErrorReason;
use tidelog_types::Offset;
use tokio::sync::watch;

use super::builder::OffsetReset;
use super::error::{CommitError, GroupError};
use super::handle::GroupHandle;
use super::ledger::{Place, Step};
use super::partition::{Identified, TopicPartition};
use super::requests::fetch_offsets;
use super::shared::Shared;
use crate::admin::{FoundOffset, OffsetAt};
use crate::backoff::Backoff;
use crate::error::{ConsumeError, RequestError};

/// Places asked about in one request: below the service's limit.
const PLACES_MAX: usize = 1_000;

/// See the module's documentation.
pub(super) struct Steps {
    shared: Arc<Shared>,
    handle: GroupHandle,
    /// Set when the session is over: what has begun is finished without waiting for the service or the application.
    over: watch::Receiver<bool>,
}

impl Steps {
    pub(super) fn new(shared: &Arc<Shared>, over: watch::Receiver<bool>) -> Self {
        Self { shared: Arc::clone(shared), handle: GroupHandle::new(shared), over }
    }

    /// Carries out steps until the session is over, or the consumer is closed and everything given back. Returns why the last commit of a closing
    /// consumer failed.
    pub(super) async fn run(mut self) -> Result<(), CommitError> {
        let mut last = Ok(());
        loop {
            if self.is_over() {
                return last;
            }
            let step = self.shared.ledger.lock().next_step();
            match step {
                Some(Step::Revoke(partitions)) => {
                    let closing = self.shared.ledger.lock().is_closing();
                    let committed = self.revoke(&partitions).await;
                    if closing {
                        last = last.and(committed);
                    }
                }
                Some(Step::Assign(partitions)) => self.assign(&partitions).await,
                Some(Step::Reset(partitions)) => self.reset(&partitions).await,
                None => {
                    let done = {
                        let ledger = self.shared.ledger.lock();
                        ledger.is_closing() && ledger.is_empty()
                    };
                    if done {
                        return last;
                    }
                    let shared = Arc::clone(&self.shared);
                    tokio::select! {
                        biased;
                        () = self.wait_over() => {}
                        () = shared.stepping.notified() => {}
                    }
                }
            }
            self.shared.changed();
        }
    }

    fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    async fn wait_over(&mut self) {
        // Without a sender nobody will say it.
        if self.over.wait_for(|over| *over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn revoke(&mut self, partitions: &[TopicPartition]) -> Result<(), CommitError> {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = self.wait_over() => return Ok(()),
            () = shared.hands_empty(partitions) => {}
        }
        let known = shared.ledger.lock().announced(partitions);
        if !known.is_empty() {
            tracing::debug!(group = %shared.options.group, partitions = ?known, "partitions are revoked");
            shared.options.listener.on_revoked(&self.handle, &known).await;
        }
        let committed = self.commit(partitions).await;
        // Commits that the listener has handed over and not waited for.
        tokio::select! {
            biased;
            () = self.wait_over() => {}
            () = shared.commits.flush() => {}
        }
        shared.ledger.lock().released(partitions);
        shared.beating.notify_one();
        committed
    }

    /// With auto-commit: commits what the application is through with. Tries as long as the session lasts, when closing only once.
    async fn commit(&mut self, partitions: &[TopicPartition]) -> Result<(), CommitError> {
        let shared = Arc::clone(&self.shared);
        if shared.options.auto_commit.is_none() {
            return Ok(());
        }
        let mut backoff = Backoff::new(shared.client.options().entropy.clone());
        loop {
            let ticket = shared.commit_processed(Some(partitions));
            let error = tokio::select! {
                biased;
                () = self.wait_over() => return Err(CommitError::NotMember),
                outcome = ticket.wait() => match outcome {
                    Ok(()) => return Ok(()),
                    // Topics that were deleted: nothing is left to go on with.
                    Err(CommitError::Partitions(refused)) if refused.iter().all(|(_, error)| is_gone(error)) => {
                        return Ok(());
                    }
                    Err(error) => error,
                },
            };
            tracing::debug!(%error, group = %shared.options.group, "offsets were not committed");
            let passing = matches!(&error, CommitError::Request(error) if is_passing(error));
            if !passing || shared.ledger.lock().is_closing() {
                return Err(error);
            }
            let wait = backoff.next(None);
            tokio::select! {
                biased;
                () = self.wait_over() => return Err(error),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn assign(&mut self, partitions: &Identified) {
        let shared = Arc::clone(&self.shared);
        if let Some(committed) = self.committed(partitions).await {
            self.place(partitions.keys(), &committed).await;
        }
        if !self.is_over() && !shared.ledger.lock().unwanted(partitions.keys()) {
            let partitions: Vec<TopicPartition> = partitions.keys().cloned().collect();
            tracing::debug!(group = %shared.options.group, ?partitions, "partitions are assigned");
            shared.ledger.lock().announcing(&partitions);
            shared.options.listener.on_assigned(&self.handle, &partitions).await;
        }
        let mut ledger = shared.ledger.lock();
        let nowhere = ledger.assigned(partitions.keys());
        if !self.is_over() {
            for TopicPartition { topic, partition } in nowhere {
                ledger.report(GroupError::NoOffset { topic, partition });
            }
        }
    }

    async fn reset(&mut self, partitions: &[TopicPartition]) {
        self.place(partitions.iter(), &BTreeMap::new()).await;
    }

    /// The committed offsets; `None` if it makes no sense any more to ask.
    async fn committed(&mut self, partitions: &Identified) -> Option<BTreeMap<TopicPartition, Offset>> {
        let shared = Arc::clone(&self.shared);
        let mut backoff = Backoff::new(shared.client.options().entropy.clone());
        loop {
            let asked = fetch_offsets(&shared.client, &shared.options.group, Some(partitions));
            let error = tokio::select! {
                biased;
                () = self.given_up(partitions.keys()) => return None,
                answer = asked => match answer {
                    Ok(offsets) => return Some(offsets.into_iter().map(|found| (found.at, found.offset)).collect()),
                    Err(error) => error,
                },
            };
            if !is_passing(&error) {
                self.give_up_on(partitions.keys(), &error);
                return None;
            }
            self.wait_to_repeat(&mut backoff, &error, partitions.keys()).await?;
        }
    }

    /// Looks up where to begin with these partitions.
    async fn place<'a>(
        &mut self,
        partitions: impl Iterator<Item = &'a TopicPartition> + Clone,
        committed: &BTreeMap<TopicPartition, Offset>,
    ) {
        let shared = Arc::clone(&self.shared);
        let questions: Vec<_> = partitions
            .clone()
            .flat_map(|at| {
                [OffsetAt::Earliest, OffsetAt::Latest].map(|end| (at.topic.clone(), at.partition, end))
            })
            .collect();
        let mut ends = Vec::with_capacity(questions.len());
        let mut backoff = Backoff::new(shared.client.options().entropy.clone());
        // Two places for each partition: none is torn apart, as the limit is even.
        for some in questions.chunks(PLACES_MAX) {
            let found = loop {
                let error = tokio::select! {
                    biased;
                    () = self.given_up(partitions.clone()) => return,
                    answer = shared.client.list_offsets(some) => match answer {
                        Ok(found) => break found,
                        Err(error) => error,
                    },
                };
                if !is_passing(&error) {
                    return self.give_up_on(partitions.clone(), &error);
                }
                if self.wait_to_repeat(&mut backoff, &error, partitions.clone()).await.is_none() {
                    return;
                }
            };
            ends.extend(found);
        }
        let mut ledger = shared.ledger.lock();
        for (at, ends) in partitions.zip(ends.chunks(2)) {
            let committed = committed.get(at).copied();
            match position(ends, committed, shared.options.reset) {
                Ok((position, end)) => {
                    ledger.placed(Place { at: at.clone(), position, committed, end: Some(end) });
                }
                // The topic was deleted; the group will say so.
                Err(RequestError::NotFound(error)) if is_gone(&error) && shared.options.is_member() => {
                    ledger.not_placed(at);
                }
                Err(error) => {
                    ledger.not_placed(at);
                    ledger.report(ConsumeError::Request(error).into());
                }
            }
        }
    }

    /// Does not read these partitions, and says why.
    fn give_up_on<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>, error: &RequestError) {
        let mut ledger = self.shared.ledger.lock();
        partitions.for_each(|at| ledger.not_placed(at));
        ledger.report(ConsumeError::Request(error.clone()).into());
    }

    /// Ends when the session is over, or the service wants all of these partitions back.
    async fn given_up<'a>(&mut self, partitions: impl Iterator<Item = &'a TopicPartition> + Clone) {
        let shared = Arc::clone(&self.shared);
        let mut changes = shared.changes.subscribe();
        loop {
            if self.is_over() || shared.ledger.lock().unwanted(partitions.clone()) {
                return;
            }
            tokio::select! {
                biased;
                () = self.wait_over() => return,
                _ = changes.changed() => {}
            }
        }
    }

    async fn wait_to_repeat<'a>(
        &mut self,
        backoff: &mut Backoff,
        error: &RequestError,
        partitions: impl Iterator<Item = &'a TopicPartition> + Clone,
    ) -> Option<()> {
        let wait = backoff.next(None);
        tracing::debug!(%error, ?wait, "looking up offsets is repeated");
        tokio::select! {
            biased;
            () = self.given_up(partitions) => None,
            () = tokio::time::sleep(wait) => Some(()),
        }
    }
}

/// Whether asking again may help.
fn is_passing(error: &RequestError) -> bool {
    matches!(error, RequestError::Connect(_) | RequestError::Unavailable(_) | RequestError::OutcomeUnknown(_))
}

/// Whether a partition does not exist any more.
pub(super) fn is_gone(error: &ApiError) -> bool {
    matches!(
        error.reason,
        ErrorReason::UnknownTopic | ErrorReason::UnknownPartition | ErrorReason::TopicIdMismatch
    )
}

/// Where to begin in a partition with these ends (log start, high watermark), and its high watermark.
fn position(
    ends: &[Result<FoundOffset, RequestError>],
    committed: Option<Offset>,
    reset: OffsetReset,
) -> Result<(Option<Offset>, Offset), RequestError> {
    let [start, end] = ends else {
        return Err(RequestError::Protocol("an offset is missing".into()));
    };
    let (start, end) = (start.clone()?.offset, end.clone()?.offset);
    // A committed offset that is not there any more shows when it is read.
    let position = committed.or(match reset {
        OffsetReset::Earliest => Some(start),
        OffsetReset::Latest => Some(end),
        OffsetReset::None => None,
    });
    Ok((position, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_offsets_come_before_the_policy() {
        let at = |value| Offset::new(value).expect("in range");
        let ends = [3, 9].map(|value| Ok(FoundOffset { offset: at(value), timestamp: None }));
        let begin = |committed, reset| position(&ends, committed, reset).map(|(position, _)| position);
        assert_eq!(begin(None, OffsetReset::Earliest), Ok(Some(at(3))));
        assert_eq!(begin(None, OffsetReset::Latest), Ok(Some(at(9))));
        assert_eq!(begin(None, OffsetReset::None), Ok(None));
        for reset in [OffsetReset::Earliest, OffsetReset::Latest, OffsetReset::None] {
            assert_eq!(begin(Some(at(5)), reset), Ok(Some(at(5))));
        }
        assert!(position(&ends[..1], None, OffsetReset::Earliest).is_err());
    }
}
