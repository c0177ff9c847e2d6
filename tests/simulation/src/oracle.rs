//! What really happened to the log: each entry as it took effect in the store, and whether it may be there.
//!
//! The oracle applies the entries itself, so that for every moment it knows the one right state. What commits did it
//! keeps a second time in its own simple [`Offsets`], which shares no code with the state machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tidelog_metadata_state::{Command, Entry, EntryBody, Outcome, ProposalNumber, Refusal, State};
use tidelog_types::{AgentInstance, LogEpoch, LogIndex, LogSeq, Place, SegmentId, TimestampMs, TopicName};

use crate::offsets::Offsets;

/// What a check finds: the invariant that is broken, and how.
pub type Checked = Result<(), (&'static str, String)>;

/// A candidate's clock may be off by a minute; a second more is rounding.
const CLOCK_TOLERANCE_MS: i64 = 61_000;

/// What became of a command that can be told from all others.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The log's length with the entry that holds it.
    pub index: LogIndex,
    /// Its outcome.
    pub outcome: Arc<Outcome>,
    proposal: (AgentInstance, ProposalNumber),
}

/// The true log.
#[derive(Debug)]
pub struct Oracle {
    /// The right state after each entry; the first one is the empty state.
    states: Vec<State>,
    /// Places that hold an entry now.
    places: BTreeMap<Place, Bytes>,
    /// What each place held first, removed or not.
    first: BTreeMap<Place, Bytes>,
    /// Removed places that the seal of a candidate that lost has filled again: the ends of dead branches.
    late_seals: BTreeSet<Place>,
    /// Removed places that are filled again, by whatever.
    refilled: BTreeSet<Place>,
    removed: u64,
    /// Where each sealed epoch ended.
    seals: BTreeMap<LogEpoch, LogSeq>,
    /// The newest snapshot that a Begin named ends here.
    snapshot_end: Place,
    offsets: Offsets,
    segments: BTreeMap<SegmentId, Committed>,
    topics: BTreeMap<TopicName, Committed>,
    outcomes: BTreeMap<(AgentInstance, ProposalNumber), Arc<Outcome>>,
}

impl Default for Oracle {
    /// The empty log.
    fn default() -> Self {
        Self {
            states: vec![State::new()],
            places: BTreeMap::new(),
            first: BTreeMap::new(),
            late_seals: BTreeSet::new(),
            refilled: BTreeSet::new(),
            removed: 0,
            seals: BTreeMap::new(),
            snapshot_end: Place::begin_of(LogEpoch::ZERO),
            offsets: Offsets::default(),
            segments: BTreeMap::new(),
            topics: BTreeMap::new(),
            outcomes: BTreeMap::new(),
        }
    }
}

impl Oracle {
    /// The right state now.
    pub fn state(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    /// The right state after the first `index` entries, if there are so many.
    pub fn state_at(&self, index: LogIndex) -> Option<&State> {
        self.states.get(usize::try_from(index.0).ok()?)
    }

    /// Whether whoever has seen `index` entries has seen all that `floor` entries say. A seal says nothing to readers:
    /// until the next epoch begins, a leader that does not know it yet answers as well as one that does.
    pub fn covers(&self, index: LogIndex, floor: LogIndex) -> bool {
        let ends_with_seal = self.state_at(floor).is_some_and(|state| state.open_seal().is_some());
        index.0 + u64::from(ends_with_seal) >= floor.0
    }

    /// What a place holds.
    pub fn place(&self, place: Place) -> Option<&Bytes> {
        self.places.get(&place)
    }

    /// How many places were removed, how many of them filled again, and by how many late seals.
    pub fn rarities(&self) -> (u64, u64, u64) {
        (self.removed, self.refilled.len() as u64, self.late_seals.len() as u64)
    }

    /// How many places hold an entry.
    pub fn occupied_places(&self) -> usize {
        self.places.len()
    }

    /// What became of the commit of a segment.
    pub fn segment(&self, id: SegmentId) -> Option<&Committed> {
        self.segments.get(&id)
    }

    /// What became of the creation of a topic; the simulation uses each name once.
    pub fn topic(&self, name: &TopicName) -> Option<&Committed> {
        self.topics.get(name)
    }

    /// The store's own checks of what the state keeps about offsets.
    pub fn check_offsets(&self) -> Checked {
        self.offsets.check(self.state())
    }

    /// Create-if-absent as it takes effect; returns what is there if the place is taken.
    pub fn append(
        &mut self,
        place: Place,
        bytes: &Bytes,
        writer: AgentInstance,
        now: TimestampMs,
        snapshot_exists: impl Fn(&str) -> bool,
    ) -> (Option<Bytes>, Checked) {
        if let Some(existing) = self.places.get(&place) {
            return (Some(existing.clone()), Ok(()));
        }
        self.places.insert(place, bytes.clone());
        if self.first.contains_key(&place) {
            self.refilled.insert(place);
        }
        let checked = match self.first.get(&place) {
            Some(first) if first == bytes => Ok(()),
            Some(_) => self.refilled(place, bytes),
            None => {
                self.first.insert(place, bytes.clone());
                self.landed(place, bytes, writer, now, snapshot_exists)
            }
        };
        (None, checked)
    }

    fn landed(
        &mut self,
        place: Place,
        bytes: &Bytes,
        writer: AgentInstance,
        now: TimestampMs,
        snapshot_exists: impl Fn(&str) -> bool,
    ) -> Checked {
        let next = self.state().next();
        if place != next {
            return Err(("INV-10", format!("{writer} appended at {place}, the log's end is {next}")));
        }
        let entry = Entry::decode(bytes).map_err(|e| ("INV-22", format!("entry at {place}: {e}")))?;
        if entry.time > now.saturating_add_ms(CLOCK_TOLERANCE_MS) {
            let ahead = entry.time.0 - now.0;
            return Err((
                "INV-11",
                format!("the entry at {place} is stamped {ahead} ms ahead of the store's clock"),
            ));
        }
        self.check_writer(place, &entry, writer)?;
        match &entry.body {
            EntryBody::Seal => drop(self.seals.insert(place.epoch, place.seq)),
            EntryBody::Begin(begin) => {
                if let Some(snapshot) = &begin.snapshot {
                    if !snapshot_exists(&snapshot.name) {
                        return Err((
                            "DESIGN 2.3",
                            format!("begin at {place} names {}, which is not there", snapshot.name),
                        ));
                    }
                    self.snapshot_end = self.snapshot_end.max(snapshot.next);
                }
            }
            EntryBody::Genesis { .. } | EntryBody::Batch(_) => {}
        }
        let mut state = self.state().clone();
        let applied = state
            .apply(place, &entry)
            .map_err(|e| ("INV-10", format!("entry at {place} by {writer}: {e}")))?;
        self.states.push(state);
        if let EntryBody::Batch(proposals) = entry.body {
            for (proposal, (_, _, outcome)) in proposals.iter().zip(applied.outcomes) {
                self.proposed(place, (proposal.agent, proposal.number), &proposal.command, outcome)?;
            }
        }
        Ok(())
    }

    /// Ordinary entries are their epoch's leader's; a Begin is the leader's own.
    fn check_writer(&self, place: Place, entry: &Entry, writer: AgentInstance) -> Checked {
        let leader = match &entry.body {
            EntryBody::Batch(_) => self.state().leader().map(|leader| leader.agent),
            EntryBody::Begin(begin) => Some(begin.leader),
            EntryBody::Genesis { .. } | EntryBody::Seal => return Ok(()),
        };
        if leader == Some(writer) {
            return Ok(());
        }
        Err(("INV-10", format!("{writer} appended at {place} in the epoch of {leader:?}")))
    }

    fn proposed(
        &mut self,
        place: Place,
        proposal: (AgentInstance, ProposalNumber),
        command: &Command,
        outcome: Arc<Outcome>,
    ) -> Checked {
        if let Some(first) = self.outcomes.get(&proposal) {
            // Copies of a proposal may still be on their way to a leader when its agent has given it up, and says so with its next one. They
            // have no effect; whether anybody was told so who waited for the first outcome is seen where clients are told.
            if *first == outcome || *outcome == Outcome::Refused(Refusal::Superseded) {
                return Ok(());
            }
            return Err((
                "INV-8",
                format!("{proposal:?} at {place} has the outcome {outcome:?} after {first:?}"),
            ));
        }
        self.outcomes.insert(proposal, Arc::clone(&outcome));
        let index = self.state().index();
        let committed = || Committed { index, outcome: Arc::clone(&outcome), proposal };
        let twice = match command {
            Command::CommitSegment(commit) => {
                self.offsets.committed(commit, &outcome)?;
                self.segments.insert(commit.id, committed())
            }
            Command::CreateTopic { name, .. } => self.topics.insert(name.clone(), committed()),
            Command::NoteTruncation { below } => {
                self.check_truncated(*below)?;
                None
            }
            Command::DeleteTopic { topic } => {
                if matches!(*outcome, Outcome::TopicDeleted) {
                    self.offsets.topic_deleted(*topic);
                }
                None
            }
            _ => None,
        };
        match twice {
            Some(first) => Err((
                "INV-5",
                format!("a command of {:?} is at {place} a second time as {proposal:?}", first.proposal),
            )),
            None => Ok(()),
        }
    }

    /// The truncation rule: only below the snapshot of some Begin, only in an epoch that has a successor, and never
    /// its first place, its seal or the place just below the seal.
    pub fn may_remove(&self, epoch: LogEpoch, seq: LogSeq) -> Checked {
        let place = Place::new(epoch, seq);
        let refuse = |why: &str| Err(("DESIGN 2.3 truncation", format!("{place} is to be removed, {why}")));
        if seq == LogSeq::ZERO {
            return refuse("the first place of its epoch");
        }
        if !self.first.contains_key(&Place::begin_of(epoch.next())) {
            return refuse("its epoch is open");
        }
        match self.seals.get(&epoch) {
            Some(seal) if seq.0 + 1 == seal.0 => return refuse("just below the seal"),
            Some(seal) if seq == *seal => return refuse("the seal"),
            Some(seal) if seq > *seal => return refuse("behind the seal"),
            _ => {}
        }
        if place >= self.snapshot_end {
            return refuse(&format!(
                "no begin names a snapshot above it, the newest ends at {}",
                self.snapshot_end
            ));
        }
        Ok(())
    }

    /// A truncation that the log calls finished has left nothing that it could remove. Places that were filled again
    /// stay: they are rare, and nobody reads them.
    fn check_truncated(&self, below: Place) -> Checked {
        let left = self.places.range(..below).map(|(place, _)| place);
        let mut left = left.filter(|place| !self.refilled.contains(*place));
        match left.find(|place| self.may_remove(place.epoch, place.seq).is_ok()) {
            Some(place) => Err((
                "DESIGN 2.3 truncation",
                format!("{place} is there, all below {below} is said to be gone"),
            )),
            None => Ok(()),
        }
    }

    /// Removes a place.
    pub fn remove(&mut self, place: Place) {
        self.removed += u64::from(self.places.remove(&place).is_some());
    }

    /// A removed place may be filled again by a request that was very long on its way: by the same entry, or by the
    /// seal of a candidate that lost. Anything else means that a leader put two entries in one place.
    fn refilled(&mut self, place: Place, bytes: &Bytes) -> Checked {
        if matches!(Entry::decode(bytes), Ok(Entry { body: EntryBody::Seal, .. })) {
            self.late_seals.insert(place);
            return Ok(());
        }
        Err(("INV-3", format!("{place} was removed and got another entry")))
    }

    /// Whether a replica that claims to have applied `index` entries, to stand at `next` and to have this digest has
    /// applied the log and nothing else.
    pub fn check_replica(&self, index: LogIndex, next: Place, digest: u64) -> Checked {
        if let Some(right) = self.state_at(index)
            && right.next() == next
            && right.digest() == digest
        {
            return Ok(());
        }
        // It may have met a late seal, which it has to leave again when it sees which seal the next Begin names.
        let before = index.0.checked_sub(1).and_then(|before| self.state_at(LogIndex(before)));
        if let Some(before) = before
            && self.late_seals.contains(&before.next())
            && next == Place::begin_of(before.next().epoch.next())
        {
            return Ok(());
        }
        let right = self.state_at(index).map(|state| (state.next(), state.digest()));
        Err((
            "INV-3",
            format!(
                "a replica stands after {index} entries at {next} with digest {digest:016x}, right is {right:?}"
            ),
        ))
    }
}
