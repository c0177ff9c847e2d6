//! A member that does what clients do, and records what it owns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tidelog_agent::groups::error::GroupError;
use tidelog_agent::groups::watch::{Assignment, News};
use tidelog_agent::groups::{Groups, Owned};
use tidelog_metadata_state::group::command::{MemberOptions, MemberRun};
use tidelog_types::{Generation, TopicPartition};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{flat, group};

/// Who reads what at the moment, as the members themselves say (INV-26).
#[derive(Debug, Clone, Default)]
pub struct Readers(Arc<Mutex<BTreeMap<TopicPartition, MemberRun>>>);

impl Readers {
    fn begin(&self, who: &MemberRun, at: TopicPartition) {
        let before = self.0.lock().insert(at, who.clone());
        assert!(before.is_none(), "INV-26: {before:?} reads {at} when {who:?} begins");
    }

    fn end(&self, who: &MemberRun, at: TopicPartition) {
        let before = self.0.lock().remove(&at);
        assert_eq!(before.as_ref(), Some(who), "INV-26: somebody else reads {at}");
    }

    /// A member's process has ended without a word, and its session with it.
    pub fn forget(&self, member: &str) {
        self.0.lock().retain(|_, who| who.member.as_str() != member);
    }

    /// How many partitions each member reads.
    pub fn count(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for who in self.0.lock().values() {
            *counts.entry(who.member.to_string()).or_default() += 1;
        }
        counts
    }
}

/// A member's process: joins, reads what it is told to, sends heartbeats, and gives everything up when its time is over. It
/// goes to another agent when its own fails.
pub struct Client {
    pub who: MemberRun,
    pub readers: Readers,
    pub agents: Vec<Groups>,
    pub options: MemberOptions,
}

/// What a client knows.
struct Session {
    agent: usize,
    known: Generation,
    reads: BTreeSet<TopicPartition>,
    /// By its own clock, counted from when what was answered last was sent.
    ends: Instant,
}

impl Client {
    /// Runs until it is stopped; joins again whenever its session has ended.
    pub async fn run(mut self, mut stop: mpsc::Receiver<()>) {
        let mut runs = self.who.incarnation.0.as_u128();
        loop {
            let mut session = Session {
                agent: usize::try_from(runs).unwrap_or(0) % self.agents.len(),
                known: Generation::ZERO,
                reads: BTreeSet::new(),
                ends: Instant::now(),
            };
            let stopped = self.session(&mut session, &mut stop).await;
            for at in std::mem::take(&mut session.reads) {
                self.readers.end(&self.who, at);
            }
            if stopped {
                let _ = self.agents[session.agent].leave(&group(), &self.who, true).await;
                return;
            }
            runs += 1_000;
            self.who.incarnation = tidelog_types::Incarnation(uuid::Uuid::from_u128(runs));
        }
    }

    fn timeout(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.options.session_timeout_ms.into())
    }

    /// Returns whether it was told to stop; otherwise its session has ended.
    async fn session(&self, session: &mut Session, stop: &mut mpsc::Receiver<()>) -> bool {
        let interval = loop {
            let sent = Instant::now();
            let joined = self.agents[session.agent].join(&group(), &self.who, self.options.clone()).await;
            if let Ok(terms) = joined {
                session.ends = sent + self.timeout();
                break terms.heartbeat_interval;
            }
            tokio::select! {
                _ = stop.recv() => return true,
                () = tokio::time::sleep(super::seconds(1)) => session.agent = (session.agent + 1) % self.agents.len(),
            }
        };
        let mut beat_at = Instant::now();
        loop {
            if Instant::now() >= session.ends {
                return false;
            }
            let agent = self.agents[session.agent].clone();
            let watch = async {
                let mut watch = agent.watch(&group(), &self.who, session.known).await?;
                loop {
                    if let News::Assignment(assignment) = watch.next().await? {
                        return Ok::<Assignment, GroupError>(assignment);
                    }
                }
            };
            tokio::select! {
                biased;
                _ = stop.recv() => return true,
                () = sleep_until(session.ends) => return false,
                news = watch => match news {
                    Ok(assignment) => {
                        self.follow(session, &assignment);
                        beat_at = Instant::now();
                    }
                    // Only the leader's word ends a session; a replica may lag.
                    Err(_) => {
                        session.agent = (session.agent + 1) % self.agents.len();
                        tokio::time::sleep(super::seconds(1)).await;
                    }
                },
                () = sleep_until(beat_at) => {
                    beat_at = Instant::now() + interval;
                    match self.beat(session).await {
                        Ok(()) => {}
                        Err(GroupError::UnknownMember { .. }) => return false,
                        Err(_) => session.agent = (session.agent + 1) % self.agents.len(),
                    }
                }
            }
        }
    }

    async fn beat(&self, session: &mut Session) -> Result<(), GroupError> {
        let owned = Owned { partitions: session.reads.iter().copied().collect(), known: session.known };
        let sent = Instant::now();
        let agent = &self.agents[session.agent];
        let answer =
            tokio::time::timeout_at(session.ends, agent.heartbeat(&group(), &self.who, &owned)).await;
        match answer {
            Ok(Ok(())) => {
                session.ends = sent + self.timeout();
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(()),
        }
    }

    fn follow(&self, session: &mut Session, assignment: &Assignment) {
        let wanted: BTreeSet<TopicPartition> = flat(&assignment.partitions).into_iter().collect();
        for at in session.reads.difference(&wanted) {
            self.readers.end(&self.who, *at);
        }
        for at in wanted.difference(&session.reads) {
            self.readers.begin(&self.who, *at);
        }
        session.reads = wanted;
        session.known = assignment.generation;
    }
}
