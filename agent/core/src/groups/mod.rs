//! Consumer groups: membership, who owns what, offsets.
//!
//! What has to survive lies in the metadata log (`tidelog_metadata_state::group`). Not in the log are the members' signs of life:
//! the leader alone counts them. Any agent serves any member; it brings the signs of life of its members to the leader, and
//! tells its members what they are to own as soon as its own replica shows it.
//!
//! Map: this file [`Groups`], what front ends call · [`watch`] what a member is told · [`offsets`] commits · [`describe`] looking at
//! groups · [`error`] · [`link`] the seam to a leader elsewhere · `beats` collects signs of life · `coordinator` the leader's
//! part, `deadlines` how it counts · `resolver`, `pattern` topics by pattern · `metrics`.

mod beats;
mod coordinator;
mod deadlines;
pub mod describe;
pub mod error;
pub mod link;
mod metrics;
pub mod offsets;
mod pattern;
mod resolver;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use tidelog_metadata_node::Metadata;
use tidelog_metadata_state::group::command::{GroupChange, GroupCommand, MemberOptions, MemberRun};
use tidelog_metadata_state::group::subscription::Subscription;
use tidelog_metadata_state::{Command, Outcome};
use tidelog_types::{Generation, GroupName, MemberId, TopicPartition};
use tokio::time::Instant;

use beats::{Beats, NotHeard};
use coordinator::Coordinator;
use error::GroupError;
use link::{BeatError, LeaderLink, MemberBeat};
use metrics::GroupMetrics;
use pattern::Pattern;
use resolver::Resolver;
use watch::MemberWatch;

use crate::metrics::Metrics;
use crate::supervise::Task;

/// Members beat about five times within their session timeout.
const BEATS_PER_SESSION: u32 = 5;
/// Often enough, and seldom enough that ten thousand members are little work.
const BEAT_INTERVAL_MAX: Duration = Duration::from_secs(3);
const BEAT_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// How long a sign of life is tried to be brought to the leader.
const BEAT_DEADLINE_MAX: Duration = Duration::from_secs(10);

/// Consumer groups, for front ends; cheap to clone.
#[derive(Debug, Clone)]
pub struct Groups {
    metadata: Metadata,
    beats: Beats,
    coordinator: Coordinator,
    metrics: GroupMetrics,
    deadline: Duration,
}

/// How a membership is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How often to send heartbeats.
    pub heartbeat_interval: Duration,
    /// How long the member may be silent.
    pub session_timeout: Duration,
}

/// What a member says of itself in a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// All partitions that it owns, those included that it is about to release.
    pub partitions: Vec<TopicPartition>,
    /// Generation of the assignment that it acts upon; zero: it has seen none.
    pub known: Generation,
}

impl Groups {
    /// Groups, and the tasks that have to run for them.
    pub(crate) fn new(metadata: Metadata, metrics: &Metrics, deadline: Duration) -> (Self, Vec<Task>) {
        let metrics = GroupMetrics::new(metrics, metadata.clone());
        let coordinator = Coordinator::new(metadata.clone(), metrics.clone());
        let (beats, courier) = Beats::new(metadata.clone(), coordinator.clone());
        let resolver = Resolver { metadata: metadata.clone(), coordinator: coordinator.clone() };
        let counting = coordinator.clone();
        let tasks = vec![
            Task::new("group-coordinator", move |cancel| counting.run(cancel)),
            Task::new("group-beats", move |cancel| courier.run(cancel)),
            Task::new("group-patterns", move |cancel| resolver.run(cancel)),
        ];
        (Self { metadata, beats, coordinator, metrics, deadline }, tasks)
    }

    /// How this agent reaches a leader that is another agent; to be given once. Without it members cannot live on this
    /// agent while another one leads.
    pub fn reach_leader_by(&self, link: Arc<dyn LeaderLink>) {
        self.beats.reach_leader_by(link);
    }

    /// Takes up signs of life that other agents bring, if this agent leads.
    pub fn leader_link(&self) -> Arc<dyn LeaderLink> {
        Arc::new(self.coordinator.clone())
    }

    /// Becomes a member, or goes on as one with other options.
    pub async fn join(
        &self,
        group: &GroupName,
        who: &MemberRun,
        options: MemberOptions,
    ) -> Result<Terms, GroupError> {
        let terms = Terms::of(&options);
        let matched = self.matched(&options)?;
        let change = GroupChange::Join { who: who.clone(), options: Arc::new(options), matched };
        self.propose(group, Some(&who.member), change).await?;
        Ok(terms)
    }

    /// The topics that a pattern matches as far as this replica knows; the leader keeps that up to date.
    fn matched(&self, options: &MemberOptions) -> Result<Subscription, GroupError> {
        if options.pattern.is_empty() {
            return Ok(Subscription::default());
        }
        let pattern = Pattern::new(&options.pattern)?;
        let names: Vec<_> =
            self.metadata.read(|state| state.topics_after(None).map(|topic| topic.name().clone()).collect());
        Ok(pattern.resolve(&options.topics, names.iter()))
    }

    /// Says that a member lives and what it owns. What it was told to release and does not own any more goes to others.
    /// Returns when both is done; the session lasts from when the member *sent* this.
    pub async fn heartbeat(
        &self,
        group: &GroupName,
        who: &MemberRun,
        owned: &Owned,
    ) -> Result<(), GroupError> {
        let session_timeout = self.session_timeout(group, who).await?;
        let deadline = Instant::now() + session_timeout.min(BEAT_DEADLINE_MAX);
        let beat = MemberBeat { group: group.clone(), who: who.clone() };
        let (beat, released) = tokio::join!(self.beats.beat(beat, deadline), self.release(group, who, owned));
        let unknown = || self.unknown_member(group, who);
        match beat {
            Ok(()) => released,
            Err(NotHeard::Refused(BeatError::UnknownMember)) => Err(unknown()),
            Err(NotHeard::Refused(BeatError::Expiring)) => {
                let cause = "the member is being removed".to_owned();
                Err(GroupError::MetadataUnavailable { cause })
            }
            Err(NotHeard::Unavailable(cause)) => Err(GroupError::MetadataUnavailable { cause }),
        }
    }

    /// The member may have joined through another agent a moment ago, so that it is not known here yet.
    async fn session_timeout(&self, group: &GroupName, who: &MemberRun) -> Result<Duration, GroupError> {
        let here = || {
            self.metadata.read(|state| {
                let member = state.group(group)?.present(who)?;
                Some(Duration::from_millis(member.options().session_timeout_ms.into()))
            })
        };
        if let Some(timeout) = here() {
            return Ok(timeout);
        }
        self.confirm().await?;
        here().ok_or_else(|| self.unknown_member(group, who))
    }

    /// Hands on what a member was told to release and does not own any more.
    async fn release(&self, group: &GroupName, who: &MemberRun, owned: &Owned) -> Result<(), GroupError> {
        let Some(found) = self.metadata.read(|state| state.group(group).cloned()) else { return Ok(()) };
        let Some(member) = found.present(who) else { return Ok(()) };
        // While nobody has to release anything there is nothing to look for.
        if !found.releasing().contains_key(&member.key()) {
            return Ok(());
        }
        let kept: std::collections::BTreeSet<&TopicPartition> = owned.partitions.iter().collect();
        let told = found.part(member).releasing;
        let each = told.into_iter().flat_map(|(topic, partitions)| {
            partitions.into_iter().map(move |partition| TopicPartition { topic, partition })
        });
        let partitions: Vec<TopicPartition> = each.filter(|at| !kept.contains(at)).collect();
        if partitions.is_empty() {
            return Ok(());
        }
        let change = GroupChange::Release { who: who.clone(), generation: owned.known, partitions };
        self.propose(group, Some(&who.member), change).await.map(drop)
    }

    /// Follows what a member is told; `known` is the generation of the last assignment that it has seen.
    pub async fn watch(
        &self,
        group: &GroupName,
        who: &MemberRun,
        known: Generation,
    ) -> Result<MemberWatch, GroupError> {
        self.session_timeout(group, who).await?;
        Ok(MemberWatch::new(self.metadata.clone(), group.clone(), who.clone(), known))
    }

    /// Ends a membership. Leaving a group that one is not a member of succeeds.
    pub async fn leave(
        &self,
        group: &GroupName,
        who: &MemberRun,
        permanently: bool,
    ) -> Result<(), GroupError> {
        let change = GroupChange::Leave { who: who.clone(), permanently };
        self.propose(group, Some(&who.member), change).await.map(drop)
    }

    /// Gives the assignment that a member was asked for.
    pub async fn assign(
        &self,
        group: &GroupName,
        who: &MemberRun,
        generation: Generation,
        members: Vec<(MemberId, Vec<TopicPartition>)>,
    ) -> Result<(), GroupError> {
        let change = GroupChange::Assign { who: who.clone(), generation, members };
        self.propose(group, Some(&who.member), change).await.map(drop)
    }

    fn unknown_member(&self, group: &GroupName, who: &MemberRun) -> GroupError {
        GroupError::UnknownMember { group: group.clone(), member: who.member.clone() }
    }

    async fn propose(
        &self,
        group: &GroupName,
        member: Option<&MemberId>,
        change: GroupChange,
    ) -> Result<Arc<Outcome>, GroupError> {
        let command = Command::Group(Box::new(GroupCommand { group: group.clone(), change }));
        let deadline = Instant::now() + self.deadline;
        let outcome = self.metadata.propose(command, deadline).await.map_err(GroupError::unproposed)?;
        match &*outcome {
            Outcome::Refused(refusal) => Err(GroupError::refused(refusal, group, member)),
            _ => Ok(outcome),
        }
    }

    async fn confirm(&self) -> Result<(), GroupError> {
        let confirmed = self.metadata.confirm(Instant::now() + self.deadline).await;
        confirmed.map(drop).map_err(|error| GroupError::MetadataUnavailable { cause: error.to_string() })
    }
}

impl Terms {
    fn of(options: &MemberOptions) -> Self {
        let session_timeout = Duration::from_millis(options.session_timeout_ms.into());
        let interval = session_timeout / BEATS_PER_SESSION;
        Self { heartbeat_interval: interval.clamp(BEAT_INTERVAL_MIN, BEAT_INTERVAL_MAX), session_timeout }
    }
}
