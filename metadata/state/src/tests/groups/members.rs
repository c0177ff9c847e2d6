//! Members that do what clients do, hear of things late, and record what they own.

use std::collections::{BTreeMap, BTreeSet};

use tidelog_types::{Generation, TopicPartition};

use super::{GROUP, by, flat, name, release, to_commit};
use crate::command::Refusal;
use crate::group::command::{
    GroupChange, GroupOutcome, GroupRefusal, MemberOptions, MemberRun, OffsetOutcome,
};
use crate::tests::bed::Bed;

/// A run of a member as it sees itself.
pub struct Client {
    pub who: MemberRun,
    pub options: MemberOptions,
    /// The generation of the last assignment that it saw.
    known: Generation,
    /// What that assignment lets it own.
    allowed: BTreeSet<TopicPartition>,
    /// What it reads at the moment.
    pub reads: BTreeSet<TopicPartition>,
    commits: u64,
}

/// A word on its way to the agent.
#[derive(Debug, Clone)]
pub enum Word {
    Owns {
        who: MemberRun,
        known: Generation,
        owned: BTreeSet<TopicPartition>,
    },
    /// Offset `step` for what it read, stamped with the generation that it knew then.
    Commits {
        who: MemberRun,
        known: Generation,
        number: u64,
        at: TopicPartition,
        step: i64,
    },
}

/// All clients, what is on its way, and an account of who owned what since when.
#[derive(Default)]
pub struct Clients {
    pub live: BTreeMap<MemberRun, Client>,
    pub words: Vec<Word>,
    /// When each run learned of each generation, as a count of steps.
    learned: BTreeMap<(MemberRun, Generation), u64>,
    /// Who owns a partition in the state, and since which step.
    owners: BTreeMap<TopicPartition, (MemberRun, u64)>,
    /// The last offset that was committed for a partition, and by the word of which step.
    committed: BTreeMap<TopicPartition, i64>,
    step: u64,
    pub commits_taken: u32,
    pub commits_stale: u32,
    pub moves: u32,
}

impl Clients {
    /// Begins a step: nobody else may read what somebody reads (INV-26).
    pub fn check(&mut self, bed: &Bed) {
        self.step += 1;
        let mut readers: BTreeMap<TopicPartition, &MemberRun> = BTreeMap::new();
        for client in self.live.values() {
            for at in &client.reads {
                let before = readers.insert(*at, &client.who);
                assert!(before.is_none(), "INV-26: {before:?} and {:?} read {at}", client.who);
            }
        }
        let group = bed.state.group(&name(GROUP));
        let mut owners = BTreeMap::new();
        for (at, slot) in group.into_iter().flat_map(|group| group.all_slots()) {
            let Some((id, member)) = slot.owner.and_then(|owner| group?.member_by_key(owner.member)) else {
                continue;
            };
            let who = MemberRun { member: id.clone(), incarnation: member.incarnation() };
            let since = match self.owners.remove(&at) {
                Some((before, since)) if before == who => since,
                Some(_) => {
                    self.moves += 1;
                    self.step
                }
                None => self.step,
            };
            owners.insert(at, (who, since));
        }
        self.owners = owners;
    }

    pub fn nth(&self, pick: usize) -> Option<MemberRun> {
        self.live.keys().nth(pick.checked_rem(self.live.len())?).cloned()
    }

    pub fn joined(&mut self, who: MemberRun, options: MemberOptions) {
        let client = self.live.entry(who.clone()).or_insert_with(|| Client {
            who,
            options: options.clone(),
            known: Generation::ZERO,
            allowed: BTreeSet::new(),
            reads: BTreeSet::new(),
            commits: 0,
        });
        client.options = options;
    }

    /// The client hears what it may own, and begins to read it.
    pub fn learn(&mut self, bed: &Bed, who: &MemberRun) {
        let (Some(client), Some(group)) = (self.live.get_mut(who), bed.state.group(&name(GROUP))) else {
            return;
        };
        let Some(member) = group.present(who) else { return };
        let part = group.part(member);
        if part.generation <= client.known {
            return;
        }
        client.known = part.generation;
        client.allowed = flat(&part.owned).into_iter().collect();
        client.reads.extend(client.allowed.iter().copied());
        self.learned.insert((who.clone(), part.generation), self.step);
    }

    /// The client stops reading what it may not own, or keeps some of it a little longer.
    pub fn let_go(&mut self, who: &MemberRun, keep: usize) {
        let Some(client) = self.live.get_mut(who) else { return };
        let too_much: Vec<TopicPartition> = client.reads.difference(&client.allowed).copied().collect();
        for at in too_much.into_iter().skip(keep) {
            client.reads.remove(&at);
        }
    }

    /// The client says what it owns; the word may arrive late, twice or never.
    pub fn speak(&mut self, who: &MemberRun) {
        let Some(client) = self.live.get(who) else { return };
        self.words.push(Word::Owns { who: who.clone(), known: client.known, owned: client.reads.clone() });
    }

    /// The client commits for something that it reads.
    pub fn commit(&mut self, who: &MemberRun, pick: usize) {
        let Some(client) = self.live.get_mut(who) else { return };
        let Some(nth) = pick.checked_rem(client.reads.len()) else { return };
        let Some(at) = client.reads.iter().nth(nth).copied() else { return };
        client.commits += 1;
        let (known, number) = (client.known, client.commits);
        self.words.push(Word::Commits {
            who: who.clone(),
            known,
            number,
            at,
            step: i64::try_from(self.step).expect("few"),
        });
    }

    /// An agent acts upon a word.
    pub fn deliver(&mut self, bed: &mut Bed, word: &Word) {
        match word {
            Word::Owns { who, known, owned } => {
                let Some(group) = bed.state.group(&name(GROUP)) else { return };
                let Some(member) = group.present(who) else { return };
                let gone: Vec<TopicPartition> = flat(&group.part(member).releasing)
                    .into_iter()
                    .filter(|at| !owned.contains(at))
                    .collect();
                let outcome = bed.change(release(who, known.0, &gone));
                assert!(matches!(outcome, Ok(GroupOutcome::Released(_))), "{outcome:?}");
            }
            Word::Commits { who, known, number, at, step } => {
                let before =
                    bed.state.group(&name(GROUP)).and_then(|group| group.member(&who.member)).and_then(
                        |member| {
                            member
                                .last_commit
                                .as_ref()
                                .filter(|_| member.incarnation() == who.incarnation)
                                .map(|last| last.number.0)
                        },
                    );
                let outcomes = bed.commit_offsets(by(who, known.0, *number), vec![to_commit(*at, *step)]);
                let owned_since =
                    self.owners.get(at).filter(|(owner, _)| owner == who).map(|(_, since)| *since);
                let learned = self.learned.get(&(who.clone(), *known)).copied();
                // It read the partition as what it still is: its own, without anybody else in between.
                let valid = owned_since.is_some_and(|since| learned.is_some_and(|learned| learned >= since));
                let is_present =
                    bed.state.group(&name(GROUP)).is_some_and(|group| group.present(who).is_some());
                let outcome = outcomes[0];
                if before.is_some_and(|before| before >= *number) && is_present {
                    return; // A repeat: neither counts nor changes anything; tested elsewhere.
                }
                if valid && is_present && bed.state.partition(*at).is_some() {
                    assert_eq!(outcome, OffsetOutcome::Committed, "{word:?}");
                    self.committed.insert(*at, *step);
                    self.commits_taken += 1;
                } else {
                    assert_ne!(outcome, OffsetOutcome::Committed, "INV-18: {word:?}");
                    self.commits_stale += u32::from(is_present);
                }
            }
        }
        self.assert_committed(bed);
    }

    /// What was committed, and nothing else, is there.
    pub fn assert_committed(&mut self, bed: &Bed) {
        self.committed.retain(|at, _| bed.state.partition(*at).is_some());
        let group = bed.state.group(&name(GROUP));
        let found: BTreeMap<TopicPartition, i64> = group
            .into_iter()
            .flat_map(|group| group.offsets())
            .map(|(at, committed)| (at, committed.offset.get()))
            .collect();
        assert_eq!(found, self.committed);
    }

    /// The client stops for good, as one does whose session has ended.
    pub fn end(&mut self, who: &MemberRun) {
        self.live.remove(who);
    }
}

/// Whether a join was refused because others are in the way.
pub fn in_the_way(result: &Result<GroupOutcome, Refusal>) -> bool {
    *result == Err(Refusal::Group(GroupRefusal::MemberExists))
}

/// An assignment that gives all partitions of subscribed topics to members in some order.
pub fn some_assignment(bed: &Bed, seed: usize) -> Option<GroupChange> {
    let group = bed.state.group(&name(GROUP))?;
    let asked = group.asked()?;
    let (id, member) = group.member_by_key(asked.member)?;
    let who = MemberRun { member: id.clone(), incarnation: member.incarnation() };
    let mut members: BTreeMap<_, Vec<TopicPartition>> = BTreeMap::new();
    for (n, (at, _)) in group.all_slots().enumerate() {
        let topic = bed.state.topic(at.topic)?;
        let fitting: Vec<_> =
            group.members().filter(|(_, member)| member.subscription().contains(topic.name())).collect();
        let Some(pick) = (seed * (n + 1)).checked_rem(fitting.len() + 1) else { continue };
        if let Some((id, _)) = fitting.get(pick) {
            members.entry((*id).clone()).or_default().push(at);
        }
    }
    Some(GroupChange::Assign { who, generation: asked.generation, members: members.into_iter().collect() })
}
