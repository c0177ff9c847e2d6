//! Consumer groups: a stream of records from a share of topics' partitions, and the offsets up to which a group has read.
//!
//! A [`GroupConsumer`] becomes a member of its group in the background. The service tells it which partitions to own; it owns them until it
//! has given them back, which it does only after the application was told ([`RebalanceListener`]) and, with auto-commit, what was processed is
//! committed. Partitions that stay are read on meanwhile.
//!
//! # What is delivered
//!
//! Records of owned partitions only. Each partition begins at the offset that the group has committed, or where [`OffsetReset`] says. A member
//! whose heartbeats are not answered for a session timeout, counted from when it *sent* the last one that was, stops at once: its
//! partitions are lost ([`RebalanceListener::on_lost`]), and it joins anew. Until then it reconnects, to any agent, and keeps what it has.
//!
//! # What is committed
//!
//! Auto-commit commits what the application has taken and come back for more after: a record counts as processed when the next one is asked for.
//! So each record is processed at least once. Adapters that ask ahead (`buffered`, `chunks`, `peekable`) count what they took as processed; with
//! them commit by hand. [`GroupConsumer::close`] does not count the record that was taken last, as it cannot know; after processing it,
//! [`GroupHandle::commit`] does.
//!
//! ```no_run
//! # async fn example(client: tidelog_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use futures::StreamExt as _;
//! use tidelog_client::{GroupName, OffsetReset, TopicName};
//!
//! let group = client.group_consumer(GroupName::new("billing")?);
//! let mut consumer = group.topics([TopicName::new("orders")?]).offset_reset(OffsetReset::Earliest).start();
//! while let Some(record) = consumer.next().await {
//!     println!("{:?}", record?.value);
//! }
//! consumer.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Map
//!
//! [`GroupConsumerBuilder`] settings · [`GroupConsumer`] the stream · [`GroupHandle`] what else an application can do · [`RebalanceListener`] what it
//! is told · [`PartitionAssignor`] sharing by its own rules · methods of [`crate::Client`] what needs no membership. Inside: `ledger` what is owned and
//! how far it is read, without I/O · `clock` how long a session lasts · `session` the task, one membership after the other · `link` its connection
//! to an agent · `steps` taking partitions and giving them back · `commit` commits in order · `requests`, `partition`, `identity`, `error` what the
//! names say.

mod assignor;
mod builder;
mod clock;
mod commit;
mod error;
mod handle;
mod identity;
mod ledger;
mod link;
mod listener;
mod partition;
mod requests;
mod session;
mod shared;
mod steps;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use assignor::{AssignmentInput, AssignmentMember, Assignor, PartitionAssignor};
pub use builder::{GroupConsumerBuilder, OffsetReset};
pub use commit::{CommitTicket, OffsetCommit};
pub use error::{CommitError, GroupError, NotAssigned};
pub use handle::GroupHandle;
pub use listener::RebalanceListener;
pub use partition::TopicPartition;
pub use requests::{CommittedOffset, Group, GroupAssignor, GroupMember, GroupState, GroupSummary};

use crate::consumer::{Begin, Consumer};
use crate::error::{ConsumeError, RequestError};
use crate::record::ConsumedRecord;
use ledger::{Change, Verdict};
use shared::Shared;
use steps::is_gone;

/// A stream of records of the partitions that a group gives to this consumer: of each partition by rising offset, partitions mixed. Pending while
/// there is nothing; it ends when it is closed or the group does not take it. An error of one partition is yielded once and ends the
/// reading of that partition until a seek. End it with [`GroupConsumer::close`]: when it is dropped, the group waits for the end of its session.
#[derive(Debug)]
pub struct GroupConsumer {
    shared: Arc<Shared>,
    handle: GroupHandle,
    reader: Consumer,
    session: JoinHandle<Result<(), CommitError>>,
    committer: JoinHandle<()>,
    auto_commit: Option<JoinHandle<()>>,
    leave: watch::Sender<bool>,
}

impl GroupConsumer {
    fn start(shared: Arc<Shared>) -> Self {
        let (leave, told_leave) = watch::channel(false);
        let own = Arc::clone(&shared);
        let committer = tokio::spawn(async move {
            own.commits.run(&own.client, &own.options.group, &own.ledger).await;
        });
        let auto_commit = shared.options.auto_commit.map(|interval| {
            let own = Arc::clone(&shared);
            tokio::spawn(async move { own.commit_every(interval).await })
        });
        Self {
            handle: GroupHandle::new(&shared),
            reader: Consumer::idle(&shared.client, shared.options.consumer.clone()),
            session: tokio::spawn(session::run(Arc::clone(&shared), told_leave)),
            committer,
            auto_commit,
            leave,
            shared,
        }
    }

    /// What can be done besides reading.
    pub fn handle(&self) -> &GroupHandle {
        &self.handle
    }

    /// Gives all partitions back (the listener is told, and with auto-commit what was processed is committed) and leaves the group. A static
    /// member's partitions wait for its return. Fails if the last commit did; what it covers is delivered again.
    pub async fn close(self) -> Result<(), CommitError> {
        self.finish(false).await
    }

    /// The same, and a static member does not come back: its partitions go to others at once.
    pub async fn close_permanently(self) -> Result<(), CommitError> {
        self.finish(true).await
    }

    async fn finish(mut self, permanently: bool) -> Result<(), CommitError> {
        self.leave.send_replace(permanently);
        self.shared.ledger.lock().close();
        self.shared.returned.notify_waiters();
        self.shared.stepping.notify_one();
        self.shared.changed();
        let closed = match (&mut self.session).await {
            Ok(closed) => closed,
            Err(error) => {
                tracing::error!(%error, "the group consumer's task ended abnormally");
                Err(CommitError::Closed)
            }
        };
        // What the application has handed over is still committed.
        self.shared.commits.close();
        let _ = (&mut self.committer).await;
        closed
    }

    /// Reads on as the ledger says.
    fn apply(&mut self, changes: Vec<Change>) {
        let mut begins = Vec::new();
        for Change { at: TopicPartition { topic, partition }, from, topic_id } in changes {
            match from {
                None => self.reader.remove(&topic, partition),
                Some(offset) => {
                    // Where the partition ends shows when it is read.
                    let begin = Begin { topic, partition, offset, log_start: offset, high_watermark: offset };
                    begins.push((begin, topic_id));
                }
            }
        }
        if !begins.is_empty() {
            self.reader.add(begins);
        }
    }

    /// What an error of the reading side means here; `None`: nothing to the application.
    fn sort(&self, error: ConsumeError) -> Option<GroupError> {
        let mut ledger = self.shared.ledger.lock();
        match &error {
            ConsumeError::OffsetOutOfRange { topic, partition, .. } => {
                let at = TopicPartition::new(topic.clone(), *partition);
                if self.shared.options.reset == OffsetReset::None {
                    return ledger.failed(&at).then_some(error.into());
                }
                if ledger.lost_place(&at) {
                    tracing::debug!(%error, "the position is looked up anew");
                    self.shared.stepping.notify_one();
                }
                None
            }
            ConsumeError::Partition { topic, partition, error: cause, .. } => {
                let at = TopicPartition::new(topic.clone(), *partition);
                let concerns = ledger.failed(&at);
                // The topic was deleted; the group will say so.
                (concerns && !(is_gone(cause) && self.shared.options.is_member())).then_some(error.into())
            }
            ConsumeError::Corrupt { topic, partition, .. } => {
                let at = TopicPartition::new(topic.clone(), *partition);
                ledger.failed(&at).then_some(error.into())
            }
            ConsumeError::Request(RequestError::Protocol(_)) => {
                // The reading task has a defect, and will not come back.
                ledger.end();
                Some(error.into())
            }
            ConsumeError::Request(_) | ConsumeError::Unavailable { .. } => Some(error.into()),
        }
    }
}

impl Stream for GroupConsumer {
    type Item = Result<ConsumedRecord, GroupError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.shared.ledger.lock().came_back() {
            this.shared.returned.notify_waiters();
        }
        loop {
            let changes = {
                let mut ledger = this.shared.ledger.lock();
                ledger.listen(cx.waker());
                if let Some(problem) = ledger.next_problem() {
                    return Poll::Ready(Some(Err(problem)));
                }
                if ledger.has_ended() {
                    return Poll::Ready(None);
                }
                ledger.take_changes()
            };
            this.apply(changes);
            match this.reader.poll_item(cx) {
                Poll::Ready(Ok(record)) => {
                    match this.shared.ledger.lock().deliver(&record, Instant::now()) {
                        Verdict::Deliver => return Poll::Ready(Some(Ok(record))),
                        Verdict::Outdated => {}
                        // The session's task is about to notice, and wakes this one.
                        Verdict::Expired => return Poll::Pending,
                    }
                }
                Poll::Ready(Err(error)) => {
                    if let Some(error) = this.sort(error) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.session.abort();
        self.committer.abort();
        if let Some(auto_commit) = &self.auto_commit {
            auto_commit.abort();
        }
    }
}
