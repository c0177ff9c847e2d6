//! When the time of which member is over: what the leader counts. Pure; the present is a parameter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidelog_metadata_state::group::command::MemberRun;
use tidelog_metadata_state::group::{Group, Member};
use tidelog_types::{Generation, GroupName, LogIndex, MemberId};
use tokio::time::Instant;

/// The clocks of all members.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    groups: BTreeMap<GroupName, BTreeMap<MemberId, MemberClock>>,
    /// Each member at most once, at or before the moment at which its time is over.
    due: BTreeSet<(Instant, GroupName, MemberId)>,
}

#[derive(Debug)]
struct MemberClock {
    who: MemberRun,
    renewed: LogIndex,
    session_timeout: Duration,
    session_ends: Instant,
    /// What it has to release it was told at that generation, and has to have released by then.
    release_ends: Option<(Generation, Instant)>,
    /// It was asked for an assignment, and has to have answered by then.
    answer_ends: Option<Instant>,
    /// Its removal was proposed, and the outcome is not known.
    expiring: bool,
    /// Where it stands in `due`; nowhere while a proposal is under way.
    due: Option<Instant>,
}

/// A member whose time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Overdue {
    pub group: GroupName,
    pub who: MemberRun,
    pub renewed: LogIndex,
    pub why: Why,
}

/// What a member has failed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It sent no heartbeats.
    Silent,
    /// It did not release partitions.
    KeepsPartitions,
    /// It did not give the assignment that it was asked for.
    GivesNoAssignment,
}

/// What is known of a member that says that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Live,
    Expiring,
    Unknown,
}

impl MemberClock {
    /// A session that begins now.
    fn new(id: &MemberId, member: &Member, now: Instant) -> Self {
        let session_timeout = Duration::from_millis(member.options().session_timeout_ms.into());
        Self {
            who: MemberRun { member: id.clone(), incarnation: member.incarnation() },
            renewed: member.renewed(),
            session_timeout,
            session_ends: now + session_timeout,
            release_ends: None,
            answer_ends: None,
            expiring: false,
            due: None,
        }
    }

    /// A member that has joined again has a new session; what it has to release it has to release all the same.
    fn renew(&mut self, id: &MemberId, member: &Member, now: Instant) {
        if self.renewed != member.renewed() {
            let (release_ends, answer_ends) = (self.release_ends, self.answer_ends);
            *self = Self { release_ends, answer_ends, ..Self::new(id, member, now) };
        }
    }

    /// It was told to release something at that generation, or was asked for an assignment: until `ends`, if that is new.
    fn rebalance(&mut self, told: Option<Generation>, asked: bool, ends: Instant) {
        let waiting_for = self.release_ends.filter(|(since, _)| Some(*since) == told);
        self.release_ends = waiting_for.or(told.map(|since| (since, ends)));
        // Asked again because others came or went: its time goes on.
        self.answer_ends = asked.then(|| self.answer_ends.unwrap_or(ends));
    }

    fn ends(&self) -> (Instant, Why) {
        let release = self.release_ends.map(|(_, at)| (at, Why::KeepsPartitions));
        let answer = self.answer_ends.map(|at| (at, Why::GivesNoAssignment));
        let session = (self.session_ends, Why::Silent);
        [release, answer]
            .into_iter()
            .flatten()
            .fold(session, |first, next| if next.0 < first.0 { next } else { first })
    }
}

impl Deadlines {
    /// Takes over a group as it is now; `None` if there is none.
    pub fn sync(&mut self, name: &GroupName, group: Option<&Group>, now: Instant) {
        let mut before = self.groups.remove(name).unwrap_or_default();
        for (member, clock) in &before {
            if let Some(due) = clock.due {
                self.due.remove(&(due, name.clone(), member.clone()));
            }
        }
        let Some(group) = group.filter(|group| group.members().len() > 0) else { return };
        let releasing = group.releasing();
        let mut clocks = BTreeMap::new();
        for (id, member) in group.members() {
            let known = before.remove(id).filter(|clock| clock.who.incarnation == member.incarnation());
            let mut clock = known.unwrap_or_else(|| MemberClock::new(id, member, now));
            clock.renew(id, member, now);
            clock.rebalance(
                releasing.get(&member.key()).copied(),
                group.asked().is_some_and(|asked| asked.member == member.key()),
                now + Duration::from_millis(member.options().rebalance_timeout_ms.into()),
            );
            if !clock.expiring {
                clock.due = Some(clock.ends().0);
            }
            if let Some(due) = clock.due {
                self.due.insert((due, name.clone(), id.clone()));
            }
            clocks.insert(id.clone(), clock);
        }
        self.groups.insert(name.clone(), clocks);
    }

    /// A member says that it lives: its session begins anew.
    pub fn beat(&mut self, group: &GroupName, who: &MemberRun, now: Instant) {
        if let Some(clock) = self.clock_mut(group, who).filter(|clock| !clock.expiring) {
            // Its place in `due` may be too early from now on; that is found out when it comes up.
            clock.session_ends = now + clock.session_timeout;
        }
    }

    /// What is known of a member.
    pub fn standing(&self, group: &GroupName, who: &MemberRun) -> Standing {
        let clock = self.groups.get(group).and_then(|members| members.get(&who.member));
        match clock.filter(|clock| clock.who.incarnation == who.incarnation) {
            Some(clock) if clock.expiring => Standing::Expiring,
            Some(_) => Standing::Live,
            None => Standing::Unknown,
        }
    }

    /// When somebody's time may be over.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _, _)| *at)
    }

    /// The members whose time is over, at most `limit`. From now on they count as expiring.
    pub fn overdue(&mut self, now: Instant, limit: usize) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        while overdue.len() < limit && self.next().is_some_and(|next| next <= now) {
            let Some((_, group, member)) = self.due.pop_first() else { break };
            let Some(clock) = self.groups.get_mut(&group).and_then(|members| members.get_mut(&member)) else {
                continue;
            };
            let (ends, why) = clock.ends();
            clock.due = Some(ends).filter(|ends| *ends > now && !clock.expiring);
            if let Some(due) = clock.due {
                self.due.insert((due, group, member));
                continue;
            }
            clock.expiring = true;
            overdue.push(Overdue { group, who: clock.who.clone(), renewed: clock.renewed, why });
        }
        overdue
    }

    /// A member's removal is to be proposed again at `at`: it is not known what came of the last time, or it was refused.
    pub fn again(&mut self, group: &GroupName, who: &MemberRun, at: Instant) {
        let Some(clock) = self.clock_mut(group, who).filter(|clock| clock.expiring) else { return };
        if let Some(before) = clock.due.replace(at) {
            self.due.remove(&(before, group.clone(), who.member.clone()));
        }
        self.due.insert((at, group.clone(), who.member.clone()));
    }

    fn clock_mut(&mut self, group: &GroupName, who: &MemberRun) -> Option<&mut MemberClock> {
        let clock = self.groups.get_mut(group)?.get_mut(&who.member)?;
        Some(clock).filter(|clock| clock.who.incarnation == who.incarnation)
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.groups.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
#[path = "deadlines_tests.rs"]
mod tests;
