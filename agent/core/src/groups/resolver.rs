//! Keeps what members subscribe to by pattern in line with the topics that there are: runs in every agent, and acts in the
//! one that leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use tidelog_metadata_node::Metadata;
use tidelog_metadata_state::Command;
use tidelog_metadata_state::group::command::{GroupChange, GroupCommand, MemberRun};
use tidelog_metadata_state::group::subscription::Subscription;
use tidelog_types::{GroupName, TopicName};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::coordinator::Coordinator;
use super::pattern::Pattern;

/// How often it looks whether other topics match.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a change is waited for; what was missed is found again the next time.
const DEADLINE: Duration = Duration::from_secs(10);
/// Changes that are proposed at a time.
const PROPOSALS_MAX: usize = 64;

pub(crate) struct Resolver {
    pub metadata: Metadata,
    pub coordinator: Coordinator,
}

/// What is known of patterns from one look to the next.
#[derive(Debug, Default)]
struct Known {
    /// [`tidelog_metadata_state::State::topic_counts`] when the names were taken.
    counts: Option<(u64, usize)>,
    names: Vec<TopicName>,
    /// Members join with good patterns only, but perhaps through an agent of another version: `None` is none.
    patterns: BTreeMap<String, Option<Pattern>>,
    /// By what is named and by pattern.
    matched: BTreeMap<(Subscription, String), Subscription>,
}

impl Resolver {
    /// Looks again and again until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let mut known = Known::default();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let groups = self.coordinator.patterned();
            if groups.is_empty() {
                known = Known::default();
                continue;
            }
            let changes = self.changes(groups, &mut known);
            let proposed = futures::stream::iter(changes)
                .for_each_concurrent(PROPOSALS_MAX, |command| self.propose(command));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = proposed => {}
            }
        }
    }

    async fn propose(&self, command: Command) {
        // That it was refused is fine: the member has gone, or has another pattern by now.
        if let Err(error) = self.metadata.propose(command, Instant::now() + DEADLINE).await {
            tracing::warn!(event = "pattern_unresolved", %error);
        }
    }

    /// What is to be proposed for members whose patterns match others by now.
    fn changes(&self, groups: BTreeSet<GroupName>, known: &mut Known) -> Vec<Command> {
        known.look(&self.metadata);
        let mut used = BTreeSet::new();
        let mut changes = Vec::new();
        for name in groups {
            let Some(group) = self.metadata.read(|state| state.group(&name).cloned()) else { continue };
            for (id, member) in group.members().filter(|(_, member)| !member.options().pattern.is_empty()) {
                let (named, pattern) = (&member.options().topics, &member.options().pattern);
                used.insert(pattern.clone());
                let Some(matched) = known.matched(named, pattern) else { continue };
                if named.union(&matched) == *member.subscription() {
                    continue;
                }
                let who = MemberRun { member: id.clone(), incarnation: member.incarnation() };
                let change = GroupChange::ResolvePattern { who, pattern: pattern.clone(), matched };
                changes.push(Command::Group(Box::new(GroupCommand { group: name.clone(), change })));
            }
        }
        known.matched.retain(|(_, pattern), _| used.contains(pattern));
        known.patterns.retain(|pattern, _| used.contains(pattern));
        changes
    }
}

impl Known {
    fn look(&mut self, metadata: &Metadata) {
        let counts = metadata.read(|state| state.topic_counts());
        if self.counts != Some(counts) {
            self.counts = Some(counts);
            self.names =
                metadata.read(|state| state.topics_after(None).map(|topic| topic.name().clone()).collect());
            self.matched.clear();
        }
    }

    fn matched(&mut self, named: &Subscription, pattern: &str) -> Option<Subscription> {
        let key = (named.clone(), pattern.to_owned());
        if let Some(found) = self.matched.get(&key) {
            return Some(found.clone());
        }
        let compiled = self.patterns.entry(key.1.clone()).or_insert_with(|| Pattern::new(pattern).ok());
        let found = compiled.as_ref()?.resolve(named, self.names.iter());
        self.matched.insert(key, found.clone());
        Some(found)
    }
}
