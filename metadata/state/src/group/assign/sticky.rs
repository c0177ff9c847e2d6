//! As even as possible, and each member keeps what it has as far as that allows.
//!
//! Three steps: each member keeps what it was to own; what is free goes to whoever has least; then members give to
//! others until nobody could take a partition from somebody who has two more (Kafka calls this balanced). Each gift
//! makes the sum of the squares of the loads smaller, so this ends.
//!
//! With one subscription for all, loads differ by one at most, and no assignment like that moves fewer partitions: gifts go
//! from the fullest to the emptiest, and only while their loads differ by more than one.

use std::collections::BTreeSet;

use super::{Held, Plan, Problem};

/// Steps after which the last part stops, even if not all is even yet: with many different subscriptions looking for
/// gifts could take seconds otherwise. A thousand partitions and two hundred members with one subscription take fewer
/// than two thousand.
const STEPS_MAX: usize = 4_000_000;

pub(in crate::group) fn assign(problem: &Problem) -> Plan {
    let mut work = Work::new(problem);
    work.keep();
    work.deal();
    work.level();
    work.plan
}

/// A partition that a member has; those that it does not own yet come last, and are given away first.
type Item = (bool, usize, usize);

struct Work<'a> {
    problem: &'a Problem,
    plan: Plan,
    /// Partitions of each member.
    loads: Vec<usize>,
    /// Per class, its members by load.
    by_load: Vec<BTreeSet<(usize, usize)>>,
    steps: usize,
}

impl<'a> Work<'a> {
    fn new(problem: &'a Problem) -> Self {
        Self {
            problem,
            plan: problem.topics.iter().map(|topic| vec![None; topic.partitions.len()]).collect(),
            loads: vec![0; problem.members.len()],
            by_load: Vec::new(),
            steps: 0,
        }
    }

    fn keep(&mut self) {
        let problem = self.problem;
        for (topic, (known, plan)) in problem.topics.iter().zip(&mut self.plan).enumerate() {
            for (held, planned) in known.partitions.iter().zip(plan) {
                let fits = |member: &usize| problem.subscribes(*member, topic);
                *planned = held.target.filter(fits);
                if let Some(load) = planned.and_then(|member| self.loads.get_mut(member)) {
                    *load += 1;
                }
            }
        }
        self.by_load = problem
            .classes
            .iter()
            .map(|class| class.members.iter().map(|member| (self.load(*member), *member)).collect())
            .collect();
    }

    /// Gives what is free to whoever has least; topics with few subscribers first, because others can make up for it.
    fn deal(&mut self) {
        let problem = self.problem;
        let mut topics: Vec<(usize, usize, Vec<usize>)> = (0..problem.topics.len())
            .map(|topic| {
                let classes = problem.classes.iter().enumerate().filter(|(_, class)| class.has(topic));
                let subscribers = classes.clone().map(|(_, class)| class.members.len()).sum();
                (subscribers, topic, classes.map(|(class, _)| class).collect())
            })
            .collect();
        topics.sort_unstable();
        for (_, topic, classes) in topics {
            let Some(known) = problem.topics.get(topic) else { continue };
            for (partition, held) in known.partitions.iter().enumerate() {
                if self.planned(topic, partition).is_some() {
                    continue;
                }
                let least = classes.iter().filter_map(|class| self.by_load.get(*class)?.first()).min();
                let Some((least, emptiest)) = least.copied() else { continue };
                // Whoever owns it still need not release it.
                let owner = held
                    .owner
                    .filter(|owner| self.load(*owner) <= least && problem.subscribes(*owner, topic));
                self.set(topic, partition, owner.unwrap_or(emptiest));
            }
        }
    }

    fn level(&mut self) {
        let mut items = self.items();
        loop {
            let mut givers: BTreeSet<(usize, usize)> =
                self.loads.iter().enumerate().map(|(member, load)| (*load, member)).collect();
            let mut given = false;
            while let Some((load, giver)) = givers.pop_last() {
                if self.steps > STEPS_MAX {
                    return;
                }
                let Some((position, taker)) = self.gift(load, items.get(giver)) else { continue };
                let Some(item) = items.get_mut(giver).map(|items| items.remove(position)) else { continue };
                let (_, topic, partition) = item;
                let in_line = givers.remove(&(self.load(taker), taker));
                self.set(topic, partition, taker);
                let item = (!self.owns(taker, topic, partition), topic, partition);
                if let Some(items) = items.get_mut(taker) {
                    items.insert(items.partition_point(|other| *other < item), item);
                }
                if in_line {
                    givers.insert((self.load(taker), taker));
                }
                givers.insert((self.load(giver), giver));
                given = true;
            }
            // Who had nobody to give to may have somebody now.
            if !given {
                return;
            }
        }
    }

    /// Which of a member's partitions should go to whom.
    fn gift(&mut self, load: usize, items: Option<&Vec<Item>>) -> Option<(usize, usize)> {
        let items = items?;
        self.steps += self.by_load.len();
        let mut takers: Vec<(usize, usize, usize)> = self
            .by_load
            .iter()
            .enumerate()
            .filter_map(|(class, members)| members.first().map(|(least, member)| (*least, *member, class)))
            .filter(|(least, _, _)| least + 2 <= load)
            .collect();
        takers.sort_unstable();
        for (_, taker, class) in takers {
            let class = self.problem.classes.get(class)?;
            let position = items.iter().rposition(|(_, topic, _)| class.has(*topic));
            self.steps += position.map_or(items.len(), |position| items.len() - position);
            if let Some(position) = position {
                return Some((position, taker));
            }
        }
        None
    }

    fn items(&self) -> Vec<Vec<Item>> {
        let mut items: Vec<Vec<Item>> = vec![Vec::new(); self.loads.len()];
        for (topic, plan) in self.plan.iter().enumerate() {
            for (partition, member) in plan.iter().enumerate() {
                let Some(member) = *member else { continue };
                let item = (!self.owns(member, topic, partition), topic, partition);
                if let Some(items) = items.get_mut(member) {
                    items.push(item);
                }
            }
        }
        items.iter_mut().for_each(|items| items.sort_unstable());
        items
    }

    fn owns(&self, member: usize, topic: usize, partition: usize) -> bool {
        self.held(topic, partition).owner == Some(member)
    }

    fn held(&self, topic: usize, partition: usize) -> Held {
        let topic = self.problem.topics.get(topic);
        topic.and_then(|topic| topic.partitions.get(partition)).copied().unwrap_or_default()
    }

    fn load(&self, member: usize) -> usize {
        self.loads.get(member).copied().unwrap_or(0)
    }

    fn planned(&self, topic: usize, partition: usize) -> Option<usize> {
        *self.plan.get(topic)?.get(partition)?
    }

    /// Gives a partition to a member, perhaps from another.
    fn set(&mut self, topic: usize, partition: usize, member: usize) {
        let Some(planned) = self.plan.get_mut(topic).and_then(|plan| plan.get_mut(partition)) else { return };
        if let Some(before) = planned.replace(member) {
            self.change_load(before, |load| load.saturating_sub(1));
        }
        self.change_load(member, |load| load + 1);
    }

    fn change_load(&mut self, member: usize, change: impl Fn(usize) -> usize) {
        let before = self.load(member);
        let class = self.problem.members.get(member).map_or(0, |member| member.class);
        if let (Some(load), Some(by_load)) = (self.loads.get_mut(member), self.by_load.get_mut(class)) {
            *load = change(before);
            by_load.remove(&(before, member));
            by_load.insert((*load, member));
        }
    }
}
