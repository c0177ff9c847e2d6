//! What the stream, the handles and the tasks of one consumer share.

use std::fmt;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::builder::Options;
use super::commit::{CommitTicket, Commits, OffsetCommit};
use super::ledger::Ledger;
use super::partition::TopicPartition;
use crate::connection::Client;

/// See the module's documentation.
pub(super) struct Shared {
    pub client: Client,
    pub options: Options,
    pub ledger: Mutex<Ledger>,
    pub commits: Commits,
    /// The application came back for more.
    pub returned: Notify,
    /// There may be a step to carry out.
    pub stepping: Notify,
    /// What is owned has changed: the service should hear of it.
    pub beating: Notify,
    /// A session has begun.
    pub joined: Notify,
    /// Counts changes of the assignment.
    pub changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(client: Client, options: Options) -> Self {
        Self {
            client,
            options,
            ledger: Mutex::new(Ledger::new()),
            commits: Commits::default(),
            returned: Notify::new(),
            stepping: Notify::new(),
            beating: Notify::new(),
            joined: Notify::new(),
            changes: watch::Sender::new(0),
        }
    }

    /// Says that partitions came or went.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Ends when the session has.
    pub(super) async fn session_ended(&self) {
        loop {
            let ends = self.ledger.lock().ends();
            match ends {
                Some(ends) if Instant::now() >= ends => return,
                Some(ends) => tokio::time::sleep_until(ends).await,
                None => self.joined.notified().await,
            }
        }
    }

    /// Ends when the application has no record of these partitions in hand.
    pub(super) async fn hands_empty(&self, partitions: &[TopicPartition]) {
        loop {
            // Made before the question, so that an answer in between is not missed.
            let returned = self.returned.notified();
            if !self.ledger.lock().holds(partitions) {
                return;
            }
            returned.await;
        }
    }

    /// Commits offsets under the present membership.
    pub(super) fn commit(&self, offsets: impl IntoIterator<Item = OffsetCommit>) -> CommitTicket {
        let ledger = self.ledger.lock();
        match ledger.basis() {
            Ok(basis) => {
                let offsets = offsets.into_iter().map(|commit| {
                    let topic_id = ledger.topic_id(&commit.at);
                    (commit, topic_id)
                });
                self.commits.put(&basis, offsets)
            }
            Err(error) => CommitTicket::failed(error),
        }
    }

    /// Commits that up to which the application is through, in these partitions or in all.
    pub(super) fn commit_processed(&self, of: Option<&[TopicPartition]>) -> CommitTicket {
        let processed = self.ledger.lock().uncommitted_processed(of);
        self.commit(processed.into_iter().map(|(at, offset)| OffsetCommit::new(at, offset)))
    }

    /// Commits in intervals, for ever.
    pub(super) async fn commit_every(&self, interval: std::time::Duration) {
        loop {
            tokio::time::sleep(interval).await;
            if !self.ledger.lock().is_member() {
                continue;
            }
            if let Err(error) = self.commit_processed(None).wait().await {
                // The next time covers it; if the partitions are lost, the listener hears of it.
                tracing::debug!(%error, group = %self.options.group, "offsets were not committed");
            }
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("group", &self.options.group)
            .field("member_id", &self.options.member_id)
            .finish_non_exhaustive()
    }
}
