//! Leading an epoch: group commit with one append in flight, linearizable reads, roll.

use std::pin::Pin;

use bytes::Bytes;
use tidelog_metadata_log::LogError;
use tidelog_metadata_state::{BatchBuilder, Command, Entry, EntryBody, EntryId, SnapshotRef};
use tidelog_types::Place;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::append::Landed;
use crate::config::Mistake;
use crate::handle::{ReadIndexError, Request};
use crate::node::{ConfirmReply, Node, Turn};
use crate::replica::ReplicaError;
use crate::time::LeaderClock;

pub(crate) type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One epoch as its leader sees it.
pub(crate) struct Term {
    /// The place of the Begin that opened it.
    begin: Place,
    pub entries: u64,
    pub bytes: u64,
    in_flight: Option<InFlight>,
    confirming: Option<Task<Result<bool, LogError>>>,
    /// The readers that the confirmation under way will answer.
    confirming_for: Vec<ConfirmReply>,
    /// Readers that asked while an append was in flight wait for it: others may have seen its entry already.
    behind_append: Vec<ConfirmReply>,
    pub snapshot: Option<Task<Snapshot>>,
    pub snapshot_ready: Option<Snapshot>,
    pub truncation: Option<Task<Option<Place>>>,
    expiry_at: Instant,
    /// When to tell followers that this leader lives.
    beat_at: Instant,
    /// When to look for a successor if nothing else would tell of one.
    look_at: Instant,
    /// Since when the log was asked whether this node still leads, without an answer; errors are none.
    unanswered_since: Option<Instant>,
    /// The next epoch has begun: nothing new is started, and what is in flight will find its place sealed.
    deposed: bool,
}

/// A snapshot that was written, and the clock if it was found right meanwhile.
pub(crate) type Snapshot = (SnapshotRef, Option<LeaderClock>);

struct InFlight {
    place: Place,
    entry: Entry,
    bytes: Bytes,
    since: Instant,
    append: Task<Landed>,
}

/// Waits for a task, or for ever if there is none.
async fn finished<T>(task: &mut Option<Task<T>>) -> T {
    match task {
        Some(running) => {
            let result = running.await;
            *task = None;
            result
        }
        None => std::future::pending().await,
    }
}

enum Event {
    Cancelled,
    Landed(Landed),
    Confirmed(Result<bool, LogError>),
    Snapshot(Snapshot),
    Truncated(Option<Place>),
    Request(Option<Request>),
    Expiry,
    Beat,
    Quiet,
}

impl Node {
    /// Leads the epoch whose Begin this node has applied, until it is deposed or asked to stop.
    pub(crate) async fn lead(&mut self, cancel: &CancellationToken) -> Result<Turn, ReplicaError> {
        // What was handed on to leaders before comes first.
        self.proposals.recall();
        self.shared.tail.open(self.next_place());
        let ended = self.lead_until(cancel).await;
        self.shared.tail.close();
        if !self.errs(Mistake::KeepForeignProposals) {
            self.proposals.drop_followers();
        }
        ended
    }

    async fn lead_until(&mut self, cancel: &CancellationToken) -> Result<Turn, ReplicaError> {
        let mut term = self.new_term();
        let mut stopping = false;
        term.behind_append.append(&mut self.confirms);
        loop {
            if !term.deposed {
                self.start_append(&mut term);
                self.start_confirm(&mut term);
                self.start_snapshot(&mut term);
            }
            let idle = term.in_flight.is_none();
            if idle && term.deposed {
                return Ok(self.step_down(term));
            }
            if idle && stopping && self.proposals.is_queue_empty() && term.confirming.is_none() {
                if !self.config.exclusive {
                    // Whoever has work takes over at once, without looking for signs of life first.
                    self.seal().await?;
                }
                return Ok(Turn::Stop);
            }
            if idle && let Some(snapshot) = term.snapshot_ready.take() {
                if !self.roll(&mut term, snapshot).await? {
                    return Ok(self.step_down(term));
                }
                continue;
            }
            match self.next_event(&mut term, cancel, stopping).await {
                Event::Cancelled => stopping = true,
                Event::Landed(landed) => self.landed(&mut term, landed)?,
                Event::Confirmed(confirmed) => self.confirmed(&mut term, confirmed),
                Event::Snapshot(snapshot) => term.snapshot_ready = Some(snapshot),
                Event::Truncated(below) => self.truncated(below),
                Event::Request(None) => stopping = true,
                Event::Request(Some(request)) => {
                    self.accept(request);
                    self.take_waiting_requests();
                }
                Event::Expiry => self.propose_expiry(&mut term),
                Event::Beat => self.beat(&mut term),
                Event::Quiet if self.errs(Mistake::NeverLookForSuccessor) => {
                    term.look_at = Instant::now() + self.config.follow_interval;
                }
                Event::Quiet => self.look_for_successor(&mut term),
            }
            if term.in_flight.is_some() && !self.errs(Mistake::ConfirmBeforeAppendResolves) {
                if term.behind_append.len() + self.confirms.len() > term.behind_append.capacity() {
                    // While the store is away readers give up and others come.
                    term.behind_append.retain(|reply| !reply.is_closed());
                }
                term.behind_append.append(&mut self.confirms);
            }
        }
    }

    fn new_term(&mut self) -> Term {
        let next = self.next_place();
        let mut term = Term {
            begin: Place::begin_of(next.epoch),
            entries: 0,
            bytes: 0,
            in_flight: None,
            confirming: None,
            confirming_for: Vec::new(),
            behind_append: Vec::new(),
            snapshot: None,
            snapshot_ready: None,
            truncation: None,
            expiry_at: Instant::now() + self.config.expiry_interval,
            beat_at: Instant::now(),
            look_at: Instant::now() + self.config.follow_interval,
            unanswered_since: None,
            deposed: false,
        };
        self.start_truncation(&mut term);
        term
    }

    async fn next_event(&mut self, term: &mut Term, cancel: &CancellationToken, stopping: bool) -> Event {
        // Nobody else can have taken over from a node that has the stores for itself.
        let quiet = !self.config.exclusive && term.in_flight.is_none() && term.confirming.is_none();
        let append = async {
            match &mut term.in_flight {
                Some(in_flight) => in_flight.append.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let has_room = self.proposals.has_room();
        let followed = self.shared.tail.followers() > 0;
        tokio::select! {
            biased;
            () = cancel.cancelled(), if !stopping => Event::Cancelled,
            landed = append => Event::Landed(landed),
            confirmed = finished(&mut term.confirming) => Event::Confirmed(confirmed),
            snapshot = finished(&mut term.snapshot) => Event::Snapshot(snapshot),
            below = finished(&mut term.truncation) => Event::Truncated(below),
            request = self.requests.recv(), if has_room && !stopping => Event::Request(request),
            () = tokio::time::sleep_until(term.expiry_at) => Event::Expiry,
            () = tokio::time::sleep_until(term.beat_at), if followed => Event::Beat,
            () = tokio::time::sleep_until(term.look_at), if quiet => Event::Quiet,
        }
    }

    /// Puts what is queued into an entry and sends it off, if none is under way.
    fn start_append(&mut self, term: &mut Term) {
        if term.in_flight.is_some() || self.proposals.is_queue_empty() {
            return;
        }
        let entry_bytes_max = self.log.entry_bytes_max();
        let mut builder = BatchBuilder::new(entry_bytes_max);
        self.proposals.fill(&mut builder, entry_bytes_max);
        if builder.is_empty() {
            return;
        }
        let (entry, bytes) = builder.finish(EntryId(self.entropy.uuid()), self.entry_time());
        let place = self.next_place();
        let appender = self.appender();
        let sent = bytes.clone();
        #[cfg(feature = "planted-mistakes")]
        let append: Task<Landed> = {
            let mistake = self.config.mistake;
            Box::pin(async move { appender.append_mistaken(place, sent, mistake).await })
        };
        #[cfg(not(feature = "planted-mistakes"))]
        let append: Task<Landed> = Box::pin(async move { appender.append(place, sent).await });
        if self.errs(Mistake::AcknowledgeEarly) {
            // Outcomes computed on a copy, told before anything is durable.
            if let Ok(applied) = self.shared.state.read().clone().apply(place, &entry) {
                self.proposals.resolve(&applied);
            }
        }
        if self.errs(Mistake::StreamEarly) {
            self.shared.tail.push(place, bytes.clone());
        }
        term.in_flight = Some(InFlight { place, entry, bytes, since: Instant::now(), append });
    }

    fn landed(&mut self, term: &mut Term, landed: Landed) -> Result<(), ReplicaError> {
        let Some(InFlight { place, entry, bytes, since: _, append: _ }) = term.in_flight.take() else {
            return Ok(());
        };
        term.look_at = Instant::now() + self.config.follow_interval;
        term.unanswered_since = None;
        match landed {
            Landed::Own => {
                self.apply(place, &entry, &bytes)?;
                term.entries += 1;
                term.bytes += bytes.len() as u64;
            }
            Landed::Other(found) => {
                if let EntryBody::Batch(proposals) = entry.body {
                    self.proposals.requeue(proposals);
                }
                if self.errs(Mistake::RepeatWithNewId) {
                    // It does not know its own bytes again, and says what would be true if they were another's.
                    self.proposals.refuse_queued("another entry stands there", std::time::Duration::ZERO);
                }
                self.apply_bytes(place, &found)?;
                if self.shared.state.read().open_seal().is_none() {
                    return Err(ReplicaError::StartOver(format!(
                        "place {place} of this leader's epoch holds another entry"
                    )));
                }
                tracing::info!(event = "deposed", %place);
                term.deposed = true;
            }
            #[cfg(feature = "planted-mistakes")]
            Landed::GivenUp => {
                if let EntryBody::Batch(proposals) = entry.body {
                    self.proposals.requeue(proposals);
                    self.proposals.refuse_queued("the store did not answer", std::time::Duration::ZERO);
                }
            }
        }
        // The append that these readers waited for is resolved.
        self.confirms.append(&mut term.behind_append);
        Ok(())
    }

    /// One strongly consistent read of the next epoch's first place, begun after they asked, serves all who wait.
    fn start_confirm(&mut self, term: &mut Term) {
        if term.in_flight.is_none() {
            self.confirms.append(&mut term.behind_append);
        }
        if term.confirming.is_some() || self.confirms.is_empty() {
            return;
        }
        term.confirming_for = std::mem::take(&mut self.confirms);
        self.look_for_successor(term);
    }

    /// Reads whether the next epoch has begun: for those who asked, and when nothing else would tell a leader without
    /// work that another node leads by now. Its replica would stay as it is, and its readers would wait for ever.
    fn look_for_successor(&self, term: &mut Term) {
        term.unanswered_since.get_or_insert_with(Instant::now);
        if self.errs(Mistake::SkipConfirm) || self.errs(Mistake::SkipSuccessorCheck) {
            term.confirming = Some(Box::pin(std::future::ready(Ok(false))));
            return;
        }
        let log = std::sync::Arc::clone(&self.log);
        let (shard, epoch) = (self.config.shard, term.begin.epoch);
        term.confirming = Some(Box::pin(Self::has_successor(log, shard, epoch)));
    }

    fn confirmed(&mut self, term: &mut Term, confirmed: Result<bool, LogError>) {
        term.look_at = Instant::now() + self.config.follow_interval;
        let index = self.shared.state.read().index();
        let answer = match confirmed {
            Ok(false) => {
                term.unanswered_since = None;
                Ok(index)
            }
            Ok(true) => {
                term.deposed = true;
                // They are asked again as a follower, who reads the log to its end.
                self.confirms.append(&mut term.confirming_for);
                return;
            }
            Err(error) => Err(ReadIndexError(error.to_string())),
        };
        for reply in term.confirming_for.drain(..) {
            let _ = reply.send(answer.clone());
        }
    }

    /// Tells followers that this leader lives, unless the stores keep it waiting: then another may do better.
    fn beat(&mut self, term: &mut Term) {
        let now = Instant::now();
        term.beat_at = now + self.config.beat_interval;
        let appending = term.in_flight.as_ref().map(|in_flight| in_flight.since);
        let waits = [appending, term.unanswered_since];
        let stalled = waits.into_iter().flatten().any(|since| now - since >= self.config.stall_max);
        if !stalled && !term.deposed {
            self.shared.tail.beat();
        }
    }

    fn step_down(&mut self, mut term: Term) -> Turn {
        self.confirms.append(&mut term.confirming_for);
        self.confirms.append(&mut term.behind_append);
        Turn::Follow
    }

    /// Closes this node's own epoch and opens the next, which names a new snapshot; then what lies below that may go.
    /// Returns false if another node opened it.
    async fn roll(&mut self, term: &mut Term, (snapshot, clock): Snapshot) -> Result<bool, ReplicaError> {
        self.leader_clock = clock.unwrap_or(self.leader_clock);
        if self.errs(Mistake::TruncateOpenEpoch) {
            let below = snapshot.next;
            let seqs: Vec<_> = (1..below.seq.0).map(tidelog_types::LogSeq).collect();
            self.log.remove(self.config.shard, below.epoch, &seqs).await?;
        }
        let named = if self.errs(Mistake::NameOlderSnapshot) {
            self.shared.state.read().older_snapshots().last().cloned().or(Some(snapshot))
        } else {
            Some(snapshot)
        };
        if !self.seal().await? || !self.begin(named).await? {
            return Ok(false);
        }
        let behind_append = std::mem::take(&mut term.behind_append);
        let (confirming, confirming_for) = (term.confirming.take(), std::mem::take(&mut term.confirming_for));
        *term = self.new_term();
        term.behind_append = behind_append;
        // A read of the old epoch's successor would find our own Begin: these readers are asked anew.
        drop(confirming);
        self.confirms.extend(confirming_for);
        Ok(true)
    }

    /// Proposes to forget idle producers and groups, if there are any.
    fn propose_expiry(&mut self, term: &mut Term) {
        term.expiry_at = Instant::now() + self.config.expiry_interval;
        let proposer_time = self.clock.now();
        if self.shared.state.read().has_expired_producers(proposer_time) {
            self.propose_own(Command::ExpireProducers { proposer_time });
        }
        if self.shared.state.read().has_expired_offsets(proposer_time) {
            self.propose_own(Command::ExpireOffsets { proposer_time });
        }
    }

    /// Queues a command of the node itself; nobody waits for its outcome.
    pub(crate) fn propose_own(&mut self, command: Command) {
        let (reply, outcome) = oneshot::channel();
        self.accept(Request::Propose { command, reply });
        self.own_outcomes.push(outcome);
        self.own_outcomes
            .retain_mut(|outcome| matches!(outcome.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
    }
}
