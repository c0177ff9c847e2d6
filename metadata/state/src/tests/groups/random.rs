//! Random histories of a group.

use proptest::prelude::*;
use tidelog_types::TopicId;

use super::members::{Clients, in_the_way, some_assignment};
use super::{GROUP, fixed, join, leave, name, options, run};
use crate::command::Command;
use crate::entry::Entry;
use crate::group::Assignor;
use crate::group::command::{GroupChange, MemberOptions, MemberRun};
use crate::state::State;
use crate::tests::bed::{Bed, create};

#[derive(Debug, Clone)]
enum Step {
    Join {
        member: u8,
        wish: Wish,
    },
    Rejoin {
        pick: usize,
        wish: Wish,
    },
    Leave {
        pick: usize,
        permanently: bool,
    },
    Expire {
        pick: usize,
    },
    Learn {
        pick: usize,
    },
    LetGo {
        pick: usize,
        keep: usize,
    },
    Speak {
        pick: usize,
    },
    /// Learns, lets go and says so, all at once.
    Obey {
        pick: usize,
    },
    Commit {
        pick: usize,
        at: usize,
    },
    /// A word arrives, and perhaps comes once more.
    Deliver {
        pick: usize,
        again: bool,
    },
    Assign {
        seed: usize,
    },
    Create {
        topic: u8,
        partitions: u8,
    },
    Grow {
        topic: u8,
        partitions: u8,
    },
    Delete {
        topic: u8,
    },
    Roll,
}

#[derive(Debug, Clone, Copy)]
struct Wish {
    topics: u8,
    assignor: u8,
    instance: bool,
}

const TOPICS: [&str; 3] = ["x", "y", "z"];

impl Wish {
    fn options(self, member: &str) -> MemberOptions {
        let names: Vec<&str> = TOPICS
            .iter()
            .enumerate()
            .filter(|(n, _)| self.topics >> n & 1 == 1)
            .map(|(_, name)| *name)
            .collect();
        let base = if self.instance { fixed(&names, member) } else { options(&names) };
        let assignor = match self.assignor {
            0 => Assignor::Range,
            1 => Assignor::RoundRobin,
            2 => Assignor::Client,
            _ => Assignor::Sticky,
        };
        MemberOptions { assignor, ..base }
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    let topics = prop_oneof![3 => Just(7_u8), 1 => 0..8_u8];
    (topics, 0..8_u8, any::<bool>()).prop_map(|(topics, assignor, instance)| Wish {
        topics,
        assignor,
        instance,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let pick = || 0..12_usize;
    prop_oneof![
        6 => (0..5_u8, wish()).prop_map(|(member, wish)| Step::Join { member, wish }),
        2 => (pick(), wish()).prop_map(|(pick, wish)| Step::Rejoin { pick, wish }),
        2 => (pick(), any::<bool>()).prop_map(|(pick, permanently)| Step::Leave { pick, permanently }),
        2 => pick().prop_map(|pick| Step::Expire { pick }),
        20 => pick().prop_map(|pick| Step::Learn { pick }),
        10 => (pick(), 0..3_usize).prop_map(|(pick, keep)| Step::LetGo { pick, keep }),
        12 => pick().prop_map(|pick| Step::Speak { pick }),
        14 => pick().prop_map(|pick| Step::Obey { pick }),
        24 => (pick(), pick()).prop_map(|(pick, at)| Step::Commit { pick, at }),
        26 => (pick(), any::<bool>()).prop_map(|(pick, again)| Step::Deliver { pick, again }),
        3 => (1..20_usize).prop_map(|seed| Step::Assign { seed }),
        3 => (0..3_u8, 1..5_u8).prop_map(|(topic, partitions)| Step::Create { topic, partitions }),
        1 => (0..3_u8, 1..7_u8).prop_map(|(topic, partitions)| Step::Grow { topic, partitions }),
        1 => (0..3_u8).prop_map(|topic| Step::Delete { topic }),
        1 => Just(Step::Roll),
    ]
}

struct Walk {
    bed: Bed,
    clients: Clients,
    runs: u128,
}

impl Walk {
    fn new() -> Self {
        let mut bed = Bed::new();
        bed.topic("x", 4);
        Self { bed, clients: Clients::default(), runs: 0 }
    }

    fn topic(&self, n: u8) -> Option<TopicId> {
        let name = TOPICS[usize::from(n)].parse().expect("a name");
        Some(self.bed.state.topic_by_name(&name)?.id())
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Join { member, wish } => {
                self.runs += 1;
                let id = format!("m{member}");
                let (who, options) = (run(&id, self.runs), wish.options(&id));
                let result = self.bed.change(join(&who, options.clone()));
                if result.is_ok() {
                    self.clients.joined(who, options);
                } else {
                    assert!(in_the_way(&result), "{result:?}");
                }
            }
            Step::Rejoin { pick, wish } => {
                let Some(who) = self.clients.nth(*pick) else { return };
                let options = wish.options(who.member.as_str());
                if self.bed.change(join(&who, options.clone())).is_ok() {
                    self.clients.joined(who, options);
                }
            }
            Step::Leave { pick, permanently } => {
                let Some(who) = self.clients.nth(*pick) else { return };
                self.clients.end(&who);
                let _ = self.bed.change(GroupChange::Leave { who, permanently: *permanently });
            }
            Step::Expire { pick } => self.expire(*pick),
            Step::Learn { pick } => {
                let Some(who) = self.clients.nth(*pick) else { return };
                self.clients.learn(&self.bed, &who);
            }
            Step::LetGo { pick, keep } => {
                let Some(who) = self.clients.nth(*pick) else { return };
                self.clients.let_go(&who, *keep);
            }
            Step::Speak { pick } => {
                let Some(who) = self.clients.nth(*pick) else { return };
                self.clients.speak(&who);
            }
            Step::Obey { pick } => {
                let Some(who) = self.clients.nth(*pick) else { return };
                self.obey(&who);
            }
            Step::Commit { pick, at } => {
                let Some(who) = self.clients.nth(*pick) else { return };
                self.clients.commit(&who, *at);
            }
            Step::Deliver { pick, again } => {
                let Some(nth) = pick.checked_rem(self.clients.words.len()) else { return };
                let word = self.clients.words.swap_remove(nth);
                self.clients.deliver(&mut self.bed, &word);
                if *again {
                    self.clients.words.push(word);
                }
            }
            Step::Assign { seed } => {
                if let Some(assign) = some_assignment(&self.bed, *seed) {
                    self.bed.change(assign).expect("it makes sense");
                }
            }
            Step::Create { topic, partitions } => {
                self.bed.run(create(TOPICS[usize::from(*topic)], (*partitions).into()));
            }
            Step::Grow { topic, partitions } => {
                let Some(topic) = self.topic(*topic) else { return };
                self.bed.run(Command::AddPartitions { topic, partitions: (*partitions).into() });
            }
            Step::Delete { topic } => {
                let Some(topic) = self.topic(*topic) else { return };
                self.bed.run(Command::DeleteTopic { topic });
            }
            Step::Roll => self.bed.roll(None),
        }
        self.clients.check(&self.bed);
    }

    /// Time passes for a member; whoever takes part under that id has stopped before, as clients do.
    fn expire(&mut self, pick: usize) {
        let Some(group) = self.bed.state.group(&name(GROUP)) else { return };
        let Some(nth) = pick.checked_rem(group.members().len()) else { return };
        let Some((id, member)) = group.members().nth(nth) else { return };
        let who = MemberRun { member: id.clone(), incarnation: member.incarnation() };
        self.clients.end(&who);
        self.bed.expire(&who).expect("it is due");
    }

    /// Everybody hears everything and does what it is told.
    fn come_to_rest(&mut self) {
        for _ in 0..4 {
            if let Some(assign) = some_assignment(&self.bed, 1) {
                self.bed.change(assign).expect("it makes sense");
            }
            let all: Vec<_> = self.clients.live.keys().cloned().collect();
            for who in all {
                self.obey(&who);
                self.clients.check(&self.bed);
            }
        }
    }

    fn obey(&mut self, who: &MemberRun) {
        self.clients.learn(&self.bed, who);
        self.clients.let_go(who, 0);
        self.clients.speak(who);
        let word = self.clients.words.pop().expect("it was just said");
        self.clients.deliver(&mut self.bed, &word);
    }
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 300, ..ProptestConfig::default() }
}

/// What is rarely seen is never tested.
#[test]
fn random_histories_meet_what_matters() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut taken, mut stale, mut moves) = (0, 0, 0);
    for _ in 0..300 {
        let mut walk = Walk::new();
        let steps =
            proptest::collection::vec(step(), 1..150).new_tree(&mut runner).expect("nothing is filtered");
        steps.current().iter().for_each(|step| walk.take(step));
        taken += walk.clients.commits_taken;
        stale += walk.clients.commits_stale;
        moves += walk.clients.moves;
    }
    assert!(taken > 100 && stale > 30 && moves > 100, "{taken} taken, {stale} stale, {moves} moves");
}

proptest! {
    #![proptest_config(cases())]

    /// INV-26 and INV-18 as the clients themselves see it; and in the end each partition has a reader.
    #[test]
    fn owners_never_overlap_and_stale_commits_never_land(steps in proptest::collection::vec(step(), 1..150)) {
        let mut walk = Walk::new();
        for step in &steps {
            walk.take(step);
        }
        walk.come_to_rest();
        let Some(group) = walk.bed.state.group(&name(GROUP)) else { return Ok(()) };
        prop_assert_eq!(group.releasing, 0, "all have what they are to have");
        for (id, member) in group.members() {
            let who = MemberRun { member: id.clone(), incarnation: member.incarnation() };
            if let Some(client) = walk.clients.live.get(&who) {
                let owned = super::flat(&group.part(member).owned).into_iter().collect();
                prop_assert_eq!(&client.reads, &owned);
            }
        }
    }

    #[test]
    fn replicas_agree_also_from_a_snapshot(steps in proptest::collection::vec(step(), 1..80), cut in any::<prop::sample::Index>()) {
        let mut walk = Walk::new();
        for step in &steps {
            walk.take(step);
        }
        let entries = &walk.bed.entries;
        let cut = cut.index(entries.len() + 1);
        let mut replica = State::new();
        for (n, (place, entry)) in entries.iter().enumerate() {
            if n == cut {
                let bytes = replica.encode_snapshot();
                let restored = State::decode_snapshot(&bytes);
                prop_assert_eq!(restored.as_ref(), Ok(&replica), "it comes back whole");
                replica = restored.expect("it was just compared");
                prop_assert_eq!(replica.encode_snapshot(), bytes, "equal states have equal bytes");
            }
            let entry = Entry::decode(&entry.encode()).expect("it was encoded");
            replica.apply(*place, &entry).expect("it was applied before");
        }
        prop_assert_eq!(&replica, &walk.bed.state);
    }
}

#[test]
fn leaving_never_fails() {
    let mut bed = Bed::new();
    assert!(bed.change(leave(&run("nobody", 1))).is_ok());
}
