//! What a consumer of a group owns, how far each partition is read, and whether it may be: decided here, without I/O.
//!
//! A partition of an assignment passes through [`Stage`]s. Whatever takes time on the way (looking up where to begin, the application's
//! listener, commits) is a [`Step`] that somebody else carries out and reports; assignments that arrive meanwhile change the stage at once where
//! no step is under way, and afterwards where one is. Records are delivered in one stage only, and only while the session lasts.
//!
//! Map: this file, what the session and the steps say · [`reading`] what the stream and the application say.

mod reading;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use tidelog_types::{Generation, Offset, TopicId};
use tokio::time::Instant;

use super::error::GroupError;
use super::identity::Identity;
use super::partition::{Identified, TopicPartition};

/// Errors that wait for the application; further ones are dropped, they repeat what it was not told yet.
const PROBLEMS_MAX: usize = 64;

/// Where a partition stands on its way through the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The service has given it; nothing was done with it yet.
    New,
    /// It is being looked up, and the listener told.
    Assigning,
    /// Records are delivered.
    Reading,
    /// The service wants it back; nothing was done about it yet.
    Doomed,
    /// The listener is told, and positions are committed.
    Revoking,
}

/// Something to carry out for partitions, and to report afterwards.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Tell the listener, commit, then [`Ledger::released`].
    Revoke(Vec<TopicPartition>),
    /// Look up where to begin ([`Ledger::placed`]), tell the listener, then [`Ledger::assigned`].
    Assign(Identified),
    /// Look up where to go on, because the position is not in the partition any more, then [`Ledger::placed`].
    Reset(Vec<TopicPartition>),
}

/// A partition of the consumer.
#[derive(Debug)]
struct Entry {
    topic_id: Option<TopicId>,
    stage: Stage,
    /// Whether the listener was told of it.
    announced: bool,
    /// What the stream yields next; not known before it was looked up.
    position: Option<Offset>,
    /// Up to where the application is through.
    processed: Option<Offset>,
    committed: Option<Offset>,
    /// The high watermark when it was assigned.
    end_at_assignment: Option<Offset>,
    paused: bool,
    /// An error has ended it until a seek.
    failed: bool,
    /// Its position has to be looked up anew, and whether that is under way.
    lost_place: bool,
    placing: bool,
}

/// Until when records may be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Membership {
    /// Not at all.
    None,
    /// Without a session, for partitions that the application itself has chosen.
    Unlimited,
    /// While the session lasts.
    Until(Instant),
}

/// Where to begin with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub at: TopicPartition,
    /// `None`: nobody says; the application has to seek.
    pub position: Option<Offset>,
    pub committed: Option<Offset>,
    pub end: Option<Offset>,
}

/// What the reading side has to do with a partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub at: TopicPartition,
    /// Read it from here; `None`: do not read it.
    pub from: Option<Offset>,
    pub topic_id: Option<TopicId>,
}

/// What became of a record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The application gets it.
    Deliver,
    /// It was read before something changed.
    Outdated,
    /// The session is over.
    Expired,
}

/// Offsets to commit, and in whose name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Basis {
    /// `None`: without membership.
    pub member: Option<Arc<Identity>>,
    pub generation: Generation,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: BTreeMap<TopicPartition, Entry>,
    /// What the service wants this consumer to own.
    target: Identified,
    generation: Generation,
    /// Whether there was an assignment in this session, and whether more will come.
    informed: bool,
    waiting: bool,
    member: Option<Arc<Identity>>,
    membership: Membership,
    closing: bool,
    /// The partition of the record that the application has taken and not come back from.
    in_hand: Option<TopicPartition>,
    /// Partitions whose position moved since the application came back last.
    touched: BTreeSet<TopicPartition>,
    /// Partitions that the reading side has to be told about.
    dirty: BTreeSet<TopicPartition>,
    problems: VecDeque<GroupError>,
    ended: bool,
    reader: Option<Waker>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            target: Identified::new(),
            generation: Generation::ZERO,
            informed: false,
            waiting: false,
            member: None,
            membership: Membership::None,
            closing: false,
            in_hand: None,
            touched: BTreeSet::new(),
            dirty: BTreeSet::new(),
            problems: VecDeque::new(),
            ended: false,
            reader: None,
        }
    }

    // What the session says.

    /// Partitions that the application has chosen itself; there is no session.
    pub(super) fn choose(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.membership = Membership::Unlimited;
        self.take_over(Generation::ZERO, partitions.into_iter().map(|at| (at, None)).collect(), false);
    }

    /// A session under this identity begins; it owns nothing yet.
    pub(super) fn begin(&mut self, member: Arc<Identity>) {
        self.member = Some(member);
        self.generation = Generation::ZERO;
    }

    /// The session lasts until then. One that has ended stays so.
    pub(super) fn prolong(&mut self, until: Instant, now: Instant) {
        match self.membership {
            Membership::None if self.member.is_some() && until > now => {
                self.membership = Membership::Until(until);
            }
            Membership::Until(before) if now < before => {
                self.membership = Membership::Until(before.max(until));
            }
            _ => {}
        }
    }

    pub(super) fn is_member(&self) -> bool {
        self.membership != Membership::None
    }

    /// When the session ends as things stand.
    pub(super) fn ends(&self) -> Option<Instant> {
        match self.membership {
            Membership::Until(until) => Some(until),
            Membership::None | Membership::Unlimited => None,
        }
    }

    /// Takes an assignment over. An older one than is known is ignored: an agent may lag behind another.
    pub(super) fn assign(&mut self, generation: Generation, target: Identified, waiting: bool) {
        if generation >= self.generation {
            self.take_over(generation, target, waiting);
        }
    }

    fn take_over(&mut self, generation: Generation, target: Identified, waiting: bool) {
        self.generation = generation;
        self.waiting = waiting;
        self.informed = true;
        if self.closing {
            return;
        }
        self.target = target;
        self.follow_target();
    }

    /// Brings the partitions with which nothing is under way in line with the target.
    fn follow_target(&mut self) {
        let Self { entries, target, dirty, .. } = self;
        entries.retain(|at, entry| {
            let wanted = target.get(at) == Some(&entry.topic_id);
            match entry.stage {
                // Nobody knows of it yet.
                Stage::New => return wanted,
                Stage::Reading if !wanted => entry.stage = Stage::Doomed,
                Stage::Doomed if wanted => entry.stage = Stage::Reading,
                _ => return true,
            }
            dirty.insert(at.clone());
            true
        });
        for (at, topic_id) in target {
            entries.entry(at.clone()).or_insert_with(|| Entry::new(*topic_id));
        }
        self.wake_reader();
    }

    /// All that is owned, also what is about to be released, and the generation of the last assignment that was taken note of.
    pub(super) fn owned(&self) -> (Identified, Generation) {
        let owned = self.entries.iter().map(|(at, entry)| (at.clone(), entry.topic_id));
        (owned.collect(), self.generation)
    }

    /// Delivers nothing more of this session, whatever comes.
    pub(super) fn suspend(&mut self) {
        self.membership = Membership::None;
        self.dirty.extend(self.entries.keys().cloned());
        self.wake_reader();
    }

    /// Forgets the session with all that was owned. Returns the partitions of which the listener knows.
    pub(super) fn lose(&mut self) -> Vec<TopicPartition> {
        self.suspend();
        self.member = None;
        (self.informed, self.waiting) = (false, false);
        self.target.clear();
        self.in_hand = None;
        self.touched.clear();
        let entries = std::mem::take(&mut self.entries);
        entries.into_iter().filter(|(_, entry)| entry.announced).map(|(at, _)| at).collect()
    }

    /// Gives everything back. What the application has in hand does not count as processed.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.in_hand = None;
        self.touched.clear();
        self.target.clear();
        self.follow_target();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    // Steps.

    /// What to carry out next: what others wait for first.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        let revoke = self.advance(Stage::Doomed, Stage::Revoking);
        if !revoke.is_empty() {
            return Some(Step::Revoke(revoke.into_keys().collect()));
        }
        let assign = self.advance(Stage::New, Stage::Assigning);
        if !assign.is_empty() {
            return Some(Step::Assign(assign));
        }
        let lost = self.entries.iter_mut().filter(|(_, entry)| entry.lost_place && !entry.placing);
        let lost = lost.filter(|(_, entry)| entry.stage == Stage::Reading).map(|(at, entry)| {
            entry.placing = true;
            at.clone()
        });
        Some(lost.collect::<Vec<_>>()).filter(|lost| !lost.is_empty()).map(Step::Reset)
    }

    fn advance(&mut self, from: Stage, to: Stage) -> Identified {
        let found = self.entries.iter_mut().filter(|(_, entry)| entry.stage == from);
        found
            .map(|(at, entry)| {
                entry.stage = to;
                (at.clone(), entry.topic_id)
            })
            .collect()
    }

    /// Whether all of these were taken back while they were being assigned.
    pub(super) fn unwanted<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> bool {
        partitions.into_iter().all(|at| !self.target.contains_key(at))
    }

    /// It was found where to begin.
    pub(super) fn placed(&mut self, place: Place) {
        let Some(entry) = self.entries.get_mut(&place.at) else { return };
        if entry.stage == Stage::Reading && !entry.lost_place {
            // The application was faster: it has sought.
            return;
        }
        (entry.lost_place, entry.placing) = (false, false);
        entry.position = place.position;
        entry.processed = place.position;
        entry.committed = place.committed.or(entry.committed);
        entry.end_at_assignment = place.end.or(entry.end_at_assignment);
        self.dirty.insert(place.at);
        self.wake_reader();
    }

    /// It could not be found where to begin: nothing is read until a seek.
    pub(super) fn not_placed(&mut self, at: &TopicPartition) {
        if let Some(entry) = self.entries.get_mut(at) {
            (entry.failed, entry.lost_place, entry.placing) = (true, false, false);
        }
    }

    /// The listener is about to be told of these.
    pub(super) fn announcing<'a>(&mut self, partitions: impl IntoIterator<Item = &'a TopicPartition>) {
        for at in partitions {
            if let Some(entry) = self.entries.get_mut(at) {
                entry.announced = true;
            }
        }
    }

    /// Those of which the listener knows.
    pub(super) fn announced(&self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        let known = partitions.iter().filter(|at| self.entries.get(at).is_some_and(|entry| entry.announced));
        known.cloned().collect()
    }

    /// [`Step::Assign`] is done. Returns the partitions for which nobody says where to begin.
    pub(super) fn assigned<'a>(
        &mut self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
    ) -> Vec<TopicPartition> {
        let mut without_position = Vec::new();
        for at in partitions {
            let Some(entry) = self.entries.get_mut(at) else { continue };
            entry.stage = Stage::Reading;
            if entry.position.is_none() && !entry.failed && self.target.contains_key(at) {
                without_position.push(at.clone());
            }
            self.dirty.insert(at.clone());
        }
        self.follow_target();
        without_position
    }

    /// [`Step::Revoke`] is done: the next heartbeat tells it. What the service wants back in this consumer begins anew.
    pub(super) fn released(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            self.entries.remove(at);
            self.touched.remove(at);
            self.dirty.insert(at.clone());
        }
        self.follow_target();
    }

    /// Whether the application has a record of one of these in hand.
    pub(super) fn holds(&self, partitions: &[TopicPartition]) -> bool {
        self.in_hand.as_ref().is_some_and(|at| partitions.contains(at))
    }
}

impl Entry {
    fn new(topic_id: Option<TopicId>) -> Self {
        Self {
            topic_id,
            stage: Stage::New,
            announced: false,
            position: None,
            processed: None,
            committed: None,
            end_at_assignment: None,
            paused: false,
            failed: false,
            lost_place: false,
            placing: false,
        }
    }
}
