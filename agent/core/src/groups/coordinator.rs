//! The coordinator: runs in every agent, and acts in the one that leads.
//!
//! It counts how long members may be silent, may hold on to what they are to release, and may think about an assignment;
//! when the time is over it proposes to remove them. Counting starts afresh whenever an agent begins to lead, so that a change
//! of leaders never shortens a session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tidelog_metadata_node::{ChangedGroups, Metadata, ProposeError};
use tidelog_metadata_state::group::Group;
use tidelog_metadata_state::group::command::{
    GroupChange, GroupCommand, GroupOutcome, GroupRefusal, MemberRun,
};
use tidelog_metadata_state::{Command, Outcome, Refusal};
use tidelog_types::GroupName;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::deadlines::{Deadlines, Overdue, Standing};
use super::link::{BeatError, LeaderLink, LinkError, MemberBeat};
use super::metrics::GroupMetrics;

/// Removals that are proposed at a time; more are due a moment later.
const EXPIRIES_MAX: usize = 256;
/// How long the outcome of a removal is waited for before it is proposed again.
const EXPIRY_DEADLINE: Duration = Duration::from_secs(10);
/// Between one try to remove a member and the next.
const EXPIRY_PAUSE: Duration = Duration::from_millis(200);

/// Handle of the coordinator; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Coordinator {
    metadata: Metadata,
    term: Arc<Mutex<Option<Term>>>,
    metrics: GroupMetrics,
}

/// One time of leading.
#[derive(Debug, Default)]
struct Term {
    /// Which one: how often this node had become leader.
    number: u64,
    deadlines: Deadlines,
    /// Groups that have members with patterns.
    patterned: BTreeSet<GroupName>,
}

/// What came of a proposal to remove a member.
struct Tried {
    term: u64,
    group: GroupName,
    who: MemberRun,
    outcome: Result<Arc<Outcome>, ProposeError>,
}

impl Coordinator {
    pub fn new(metadata: Metadata, metrics: GroupMetrics) -> Self {
        Self { metadata, term: Arc::default(), metrics }
    }

    /// Which time of leading this is, if this node leads.
    fn leading(&self) -> Option<u64> {
        let (_, leads) = self.metadata.leader();
        leads.then(|| self.metadata.stats().elections.load(Ordering::Relaxed))
    }

    /// Begins or ends counting as this node begins or ends to lead. Returns which time of leading it is.
    fn enter_term(&self) -> Option<u64> {
        let leading = self.leading();
        let mut term = self.term.lock();
        if term.as_ref().map(|term| term.number) != leading {
            *term = leading.map(|number| Term { number, ..Term::default() });
            if let Some(term) = &mut *term {
                self.sync(term, ChangedGroups::All);
            }
        }
        leading
    }

    fn sync(&self, term: &mut Term, changed: ChangedGroups) {
        let names = match changed {
            ChangedGroups::Some(names) => names,
            ChangedGroups::All => {
                *term = Term { number: term.number, ..Term::default() };
                self.metadata.read(|state| state.groups_after(None).map(|(name, _)| name.clone()).collect())
            }
        };
        let now = Instant::now();
        for name in names {
            let group = self.metadata.read(|state| state.group(&name).cloned());
            term.deadlines.sync(&name, group.as_deref(), now);
            if group.is_some_and(|group| has_patterns(&group)) {
                term.patterned.insert(name);
            } else {
                term.patterned.remove(&name);
            }
        }
        self.metrics.members(term.deadlines.members());
    }

    /// Counts until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let mut role = self.metadata.role();
        let watch = self.metadata.watch_groups();
        let mut tried: FuturesUnordered<BoxFuture<'static, Tried>> = FuturesUnordered::new();
        loop {
            let leading = self.enter_term();
            if leading.is_none() {
                self.metrics.members(0);
            }
            if let Some(term) = leading {
                tried.extend(
                    self.overdue(EXPIRIES_MAX - tried.len()).into_iter().map(|one| self.remove(term, one)),
                );
            }
            let next = if tried.len() < EXPIRIES_MAX { self.next_deadline() } else { None };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                changed = role.changed() => if changed.is_err() { return },
                changed = watch.changed() => self.groups_changed(changed),
                Some(tried) = tried.next(), if !tried.is_empty() => self.tried(tried),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    fn groups_changed(&self, changed: ChangedGroups) {
        self.metrics.changed(&changed);
        if self.enter_term().is_some()
            && let Some(term) = &mut *self.term.lock()
        {
            self.sync(term, changed);
        }
    }

    fn overdue(&self, limit: usize) -> Vec<Overdue> {
        let mut term = self.term.lock();
        term.as_mut().map(|term| term.deadlines.overdue(Instant::now(), limit)).unwrap_or_default()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.term.lock().as_ref()?.deadlines.next()
    }

    /// Proposes to remove a member; without effect if this node does not lead any more when it comes to that. The epoch is
    /// one that this node leads, or a later leader would take its word.
    fn remove(&self, term: u64, overdue: Overdue) -> BoxFuture<'static, Tried> {
        let Overdue { group, who, renewed, why } = overdue;
        tracing::info!(event = "member_overdue", %group, member = %who.member, ?why);
        let metadata = self.metadata.clone();
        let own_epoch = metadata.read(|state| {
            let leads = state.leader().is_some_and(|leader| leader.agent == metadata.instance());
            leads.then_some(state.next().epoch)
        });
        Box::pin(async move {
            let Some(epoch) = own_epoch else {
                let outcome = Err(ProposeError::Unavailable("this agent does not lead".into()));
                return Tried { term, group, who, outcome };
            };
            let change = GroupChange::Expire { who: who.clone(), renewed, epoch };
            let command = Command::Group(Box::new(GroupCommand { group: group.clone(), change }));
            let outcome = metadata.propose(command, Instant::now() + EXPIRY_DEADLINE).await;
            Tried { term, group, who, outcome }
        })
    }

    fn tried(&self, tried: Tried) {
        let Tried { term: number, group, who, outcome } = tried;
        let removed = outcome.as_ref().is_ok_and(|outcome| {
            matches!(
                &**outcome,
                Outcome::Group(GroupOutcome::Expired)
                    | Outcome::Refused(Refusal::Group(GroupRefusal::UnknownMember))
            )
        });
        let mut term = self.term.lock();
        let Some(term) = term.as_mut().filter(|term| term.number == number) else { return };
        self.sync(term, ChangedGroups::Some([group.clone()].into()));
        // Refused because it has joined again, or because the epoch is another one; or not known.
        if !removed {
            term.deadlines.again(&group, &who, Instant::now() + EXPIRY_PAUSE);
        }
    }

    /// Takes up signs of life. See [`LeaderLink`] for what the answers promise.
    async fn beat(
        &self,
        beats: Vec<MemberBeat>,
        deadline: Instant,
    ) -> Result<Vec<Result<(), BeatError>>, LinkError> {
        let number = self.enter_term().ok_or(LinkError::NotLeader)?;
        let now = Instant::now();
        if let Some(term) = &mut *self.term.lock() {
            for beat in &beats {
                term.deadlines.beat(&beat.group, &beat.who, now);
            }
        }
        // Begun after they were received: nobody else has been counting meanwhile.
        let confirmed = self.metadata.confirm(deadline).await;
        confirmed.map_err(|error| LinkError::Failed(error.to_string()))?;
        if self.enter_term() != Some(number) {
            return Err(LinkError::NotLeader);
        }
        let mut term = self.term.lock();
        let term = term.as_mut().filter(|term| term.number == number).ok_or(LinkError::NotLeader)?;
        let answers = beats.iter().map(|beat| {
            if term.deadlines.standing(&beat.group, &beat.who) == Standing::Unknown {
                // It may have joined a moment ago.
                self.sync(term, ChangedGroups::Some([beat.group.clone()].into()));
            }
            match term.deadlines.standing(&beat.group, &beat.who) {
                Standing::Live => Ok(()),
                Standing::Expiring => Err(BeatError::Expiring),
                Standing::Unknown => Err(BeatError::UnknownMember),
            }
        });
        Ok(answers.collect())
    }

    /// The groups that have members with patterns, if this node leads.
    pub fn patterned(&self) -> BTreeSet<GroupName> {
        self.enter_term();
        self.term.lock().as_ref().map(|term| term.patterned.clone()).unwrap_or_default()
    }
}

fn has_patterns(group: &Group) -> bool {
    group.members().any(|(_, member)| !member.options().pattern.is_empty())
}

/// The coordinator of this very agent.
impl LeaderLink for Coordinator {
    fn beat(
        &self,
        beats: Vec<MemberBeat>,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<Result<(), BeatError>>, LinkError>> {
        Box::pin(self.beat(beats, deadline))
    }
}
