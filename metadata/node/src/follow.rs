//! Following: hearing from the leader, handing work on to it, and noticing when it is gone.
//!
//! While a link to the leader is alive, entries come through it and the log is not read at all. Without one the log
//! itself tells what goes on, and whether its leader lives.

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tidelog_metadata_state::{Entry, EntryError, Leader};
use tidelog_types::{AgentInstance, LogIndex};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::append::Backoff;
use crate::config::Mistake;
use crate::election::Election;
use crate::handle::{MetadataStats, Request};
use crate::node::{ConfirmReply, Node, Turn};
use crate::peers::{FromLeader, Link, LinkError, ToLeader};
use crate::replica::{LogEnd, ReplicaError};

/// Proposals that were handed on to nobody are kept this long while there is no leader.
const NO_LEADER_PATIENCE: Duration = Duration::from_secs(3);

/// A leader may be found in the log before it has found itself there: so often it is asked again before it is doubted.
const DENIALS_MAX: u32 = 5;

/// What a follower knows of its leader.
struct Following {
    link: LinkState,
    /// When a link may be tried again.
    connect_at: Instant,
    heard_at: Instant,
    /// Nobody listens where the leader was heard before.
    gone: bool,
    /// Who has said that it does not lead, and how often in a row, though the log says that it does.
    denied: Option<(AgentInstance, u32)>,
    /// The question that is on its way, and who waits for the answer.
    asked: Option<(u64, Vec<ConfirmReply>)>,
    questions: u64,
    /// What the leader was told last of how far this replica is.
    told: LogIndex,
    election_not_before: Instant,
    /// How long proposals may wait for that.
    patience: Duration,
}

enum LinkState {
    None,
    Connecting(Leader, BoxFuture<'static, Result<Link, LinkError>>),
    Up(Leader, Link),
}

enum Event {
    Cancelled,
    Request(Option<Request>),
    Connected(Result<Link, LinkError>),
    Heard(Result<FromLeader, LinkError>),
    Waited,
}

impl Following {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            link: LinkState::None,
            connect_at: now,
            heard_at: now,
            gone: false,
            denied: None,
            asked: None,
            questions: 0,
            told: LogIndex(0),
            election_not_before: now,
            patience: NO_LEADER_PATIENCE,
        }
    }

    fn hears(&self) -> bool {
        matches!(self.link, LinkState::Up(..))
    }

    fn is_connecting(&self) -> bool {
        matches!(self.link, LinkState::Connecting(..))
    }

    fn linked_to(&self) -> Option<AgentInstance> {
        match &self.link {
            LinkState::None => None,
            LinkState::Connecting(leader, _) | LinkState::Up(leader, _) => Some(leader.agent),
        }
    }

    async fn event(&mut self) -> Event {
        match &mut self.link {
            LinkState::None => std::future::pending().await,
            LinkState::Connecting(_, connecting) => Event::Connected(connecting.await),
            LinkState::Up(_, link) => {
                let heard = link.from_leader.next().await;
                Event::Heard(heard.unwrap_or_else(|| Err(LinkError::NotLeader)))
            }
        }
    }
}

impl Node {
    /// Follows the log until there is work that nobody does.
    pub(crate) async fn follow(&mut self, cancel: &CancellationToken) -> Result<Turn, ReplicaError> {
        let mut following = Following::new();
        let ended = self.follow_until(&mut following, cancel).await;
        self.drop_link(&mut following);
        ended
    }

    async fn follow_until(
        &mut self,
        following: &mut Following,
        cancel: &CancellationToken,
    ) -> Result<Turn, ReplicaError> {
        loop {
            self.tend_link(following);
            if following.hears() {
                self.hand_on(following);
                self.ask(following);
            } else if !following.is_connecting()
                && let Some(turn) = self.consider_leading(following, cancel).await?
            {
                return Ok(turn);
            }
            let wake = match &following.link {
                LinkState::Up(..) => following.heard_at + self.config.silence_max,
                // A candidate may have been elsewhere for longer than the pause: a wake in the past comes at once.
                LinkState::None if self.finds_itself(following) => following.connect_at,
                _ => Instant::now() + self.config.follow_interval,
            };
            let event = tokio::select! {
                biased;
                () = cancel.cancelled() => Event::Cancelled,
                event = following.event() => event,
                request = self.requests.recv(), if self.proposals.has_room() => Event::Request(request),
                () = tokio::time::sleep_until(wake) => Event::Waited,
            };
            // A link that is about to come would stand still while the log is read; it comes soon or not at all.
            let connecting = matches!(event, Event::Request(_)) && following.is_connecting();
            match event {
                Event::Cancelled | Event::Request(None) => return Ok(Turn::Stop),
                Event::Request(Some(request)) => {
                    self.accept(request);
                    self.take_waiting_requests();
                }
                Event::Connected(connected) => self.connected(following, connected),
                Event::Heard(heard) => self.heard(following, heard)?,
                Event::Waited if following.hears() => {
                    tracing::info!(event = "leader_silent");
                    self.drop_link(following);
                    following.connect_at = Instant::now() + self.config.witness_interval;
                }
                Event::Waited => {}
            }
            if !following.hears() && !connecting {
                self.read_on().await?;
            }
        }
    }

    /// Reads the log to its end, for want of a leader that tells it.
    async fn read_on(&mut self) -> Result<(), ReplicaError> {
        let caught_up = self.catch_up().await;
        self.answer_confirms_by_reading(&caught_up);
        match caught_up {
            // The store is away: what is asked of this node meanwhile is refused, not kept.
            Err(error @ (ReplicaError::Log(_) | ReplicaError::Snapshot(_))) => {
                self.proposals.refuse_queued(&error.to_string(), Duration::ZERO);
                tracing::warn!(event = "follow_retry", %error);
                Ok(())
            }
            other => other.map(|_: LogEnd| ()),
        }
    }

    /// A follower that has read to the log's end, by a read that began after it was asked, has seen all that was
    /// acknowledged before.
    fn answer_confirms_by_reading(&mut self, caught_up: &Result<LogEnd, ReplicaError>) {
        match caught_up {
            Ok(_) => {
                let index = self.shared.state.read().index();
                for reply in self.confirms.drain(..) {
                    let _ = reply.send(Ok(index));
                }
            }
            Err(error) => self.refuse_confirms(&error.to_string()),
        }
    }

    /// Connects to the leader if there is one elsewhere, and lets go of one that leads no more.
    fn tend_link(&mut self, following: &mut Following) {
        let Some(peers) = self.peers.clone() else { return };
        let leader = self.shared.state.read().leader().cloned();
        // Between two epochs there is none: the one that is heard most likely rolls.
        let Some(leader) = leader else { return };
        if following.linked_to().is_some_and(|linked| linked != leader.agent) {
            self.drop_link(following);
            following.connect_at = Instant::now();
            following.gone = false;
        }
        let elsewhere = leader.agent != self.config.instance && !leader.address.is_empty();
        if elsewhere && following.linked_to().is_none() && Instant::now() >= following.connect_at {
            let connecting = peers.connect(&leader, self.next_place());
            let patience = self.config.silence_max;
            let bounded = async move {
                let silent = |_| Err(LinkError::Failed("no answer".into()));
                tokio::time::timeout(patience, connecting).await.unwrap_or_else(silent)
            };
            following.link = LinkState::Connecting(leader, Box::pin(bounded));
        }
    }

    /// Whether the leader that the log names has said that it does not lead, but may just not have noticed yet: it is asked
    /// again in a moment, and not doubted before.
    fn finds_itself(&self, following: &Following) -> bool {
        following.denied.is_some_and(|(agent, denials)| {
            let state = self.shared.state.read();
            let leads =
                state.leader().is_some_and(|leader| leader.agent == agent && !leader.address.is_empty());
            leads && agent != self.config.instance && denials < DENIALS_MAX
        })
    }

    fn connected(&mut self, following: &mut Following, connected: Result<Link, LinkError>) {
        let LinkState::Connecting(leader, _) = std::mem::replace(&mut following.link, LinkState::None) else {
            return;
        };
        following.heard_at = Instant::now();
        match connected {
            Ok(link) => {
                MetadataStats::add(&self.shared.stats.links, 1);
                tracing::debug!(event = "leader_linked", leader = %leader.agent);
                self.heard_from = Some(leader.agent);
                following.gone = false;
                following.told = LogIndex(0);
                following.link = LinkState::Up(leader, link);
            }
            Err(error) => {
                following.gone =
                    matches!(error, LinkError::Refused(_)) && self.heard_from == Some(leader.agent);
                following.connect_at = Instant::now() + self.config.follow_interval;
                following.denied = match (error == LinkError::NotLeader, following.denied) {
                    (false, _) => None,
                    (true, Some((agent, denials))) if agent == leader.agent => Some((agent, denials + 1)),
                    (true, _) => Some((leader.agent, 1)),
                };
                if self.finds_itself(following) {
                    following.connect_at = Instant::now() + self.config.retry_pause;
                }
                tracing::debug!(event = "leader_not_linked", leader = %leader.agent, address = leader.address, %error);
            }
        }
    }

    fn heard(
        &mut self,
        following: &mut Following,
        heard: Result<FromLeader, LinkError>,
    ) -> Result<(), ReplicaError> {
        following.heard_at = Instant::now();
        match heard {
            Ok(FromLeader::Entry { place, bytes }) => {
                let next = self.next_place();
                if place == next {
                    // What came damaged over the network is not damaged in the log, which is read then.
                    match Entry::decode(&bytes) {
                        Ok(_) | Err(EntryError::Level { .. }) => self.apply_bytes(place, &bytes)?,
                        Err(error) => {
                            tracing::warn!(event = "leader_garbled", %place, %error);
                            self.drop_link(following);
                            following.connect_at = Instant::now() + self.config.witness_interval;
                        }
                    }
                } else if place > next {
                    tracing::warn!(event = "leader_skipped", %place, %next);
                    self.drop_link(following);
                }
            }
            Ok(FromLeader::Beat) => self.tell_position(following),
            Ok(FromLeader::Confirmed { number, index }) => {
                if let Some((_, replies)) = following.asked.take_if(|(asked, _)| *asked == number) {
                    let reached = self.shared.state.read().index();
                    if reached < index {
                        // Entries came before the answer, or the link would have been dropped.
                        tracing::warn!(event = "leader_skipped", %reached, %index);
                        self.confirms.extend(replies);
                        self.drop_link(following);
                        return Ok(());
                    }
                    for reply in replies {
                        let _ = reply.send(Ok(index));
                    }
                }
            }
            Ok(FromLeader::Unconfirmed { number }) => {
                if following.asked.as_ref().is_some_and(|(asked, _)| *asked == number) {
                    // It cannot reach the log; perhaps this node can.
                    self.drop_link(following);
                    following.connect_at = Instant::now() + self.config.witness_interval;
                }
            }
            Err(error) => {
                tracing::debug!(event = "leader_lost", %error);
                self.drop_link(following);
                following.connect_at = Instant::now();
                if error == LinkError::NotLeader {
                    // The log tells who leads instead; if it is the same one, it does not know yet.
                    following.connect_at += self.config.follow_interval;
                }
            }
        }
        Ok(())
    }

    /// Tells the leader how far this replica is, for those who look at the cluster.
    fn tell_position(&self, following: &mut Following) {
        let LinkState::Up(_, link) = &following.link else { return };
        let applied = self.shared.state.read().index();
        if applied != following.told && link.to_leader.try_send(ToLeader::Position(applied)).is_ok() {
            following.told = applied;
        }
    }

    /// Lets go of the link. What was handed on may have got through.
    fn drop_link(&mut self, following: &mut Following) {
        following.link = LinkState::None;
        self.proposals.recall();
        if self.errs(Mistake::RenumberRepeats) {
            self.proposals.renumber();
        }
        if self.errs(Mistake::RefuseWhatMayLand) {
            self.proposals.believe_lost();
        }
        if let Some((_, replies)) = following.asked.take() {
            self.confirms.extend(replies);
        }
    }

    /// Hands what is queued on to the leader.
    fn hand_on(&mut self, following: &mut Following) {
        let LinkState::Up(leader, link) = &following.link else { return };
        while !self.proposals.is_queue_empty()
            && let Ok(permit) = link.to_leader.try_reserve()
        {
            let proposals = self.proposals.hand_on(leader.agent, self.log.entry_bytes_max());
            if proposals.is_empty() {
                return;
            }
            MetadataStats::add(&self.shared.stats.handed_on, proposals.len() as u64);
            permit.send(ToLeader::Propose(proposals));
        }
    }

    /// Asks the leader how far readers have to see; one question at a time serves all who came before it.
    fn ask(&mut self, following: &mut Following) {
        if self.errs(Mistake::AnswerWithoutAsking) {
            self.answer_confirms_by_reading(&Ok(LogEnd::Open));
        }
        let LinkState::Up(_, link) = &following.link else { return };
        if following.asked.is_some() || self.confirms.is_empty() {
            return;
        }
        let number = following.questions + 1;
        if link.to_leader.try_send(ToLeader::Confirm { number }).is_ok() {
            following.questions = number;
            following.asked = Some((number, std::mem::take(&mut self.confirms)));
        }
    }

    /// Takes over if there is work to do and nobody who does it.
    async fn consider_leading(
        &mut self,
        following: &mut Following,
        cancel: &CancellationToken,
    ) -> Result<Option<Turn>, ReplicaError> {
        // A node that has the stores for itself leads without being asked: nobody may ask it before it does.
        let needed =
            self.config.exclusive || self.proposals.is_waiting() || Instant::now() < self.leader_needed_until;
        if !needed {
            return Ok(None);
        }
        if cancel.is_cancelled() {
            return Ok(Some(Turn::Stop));
        }
        if self.finds_itself(following) {
            return Ok(None);
        }
        if Instant::now() < following.election_not_before {
            self.proposals.refuse_queued("another agent leads, or nobody yet", following.patience);
            return Ok(None);
        }
        match self.elect(following.gone, cancel).await? {
            Election::Won => return Ok(Some(Turn::Lead)),
            Election::Stopped => return Ok(Some(Turn::Stop)),
            Election::LeaderLives => {
                self.proposals.refuse_queued("another agent leads, and cannot be reached", Duration::ZERO);
                // That is no lost race. Were it one, the pauses of a node that is asked now and then would have
                // become long by the time when the leader is gone.
                self.lost_races = Backoff::new(self.config.witness_interval);
                following.election_not_before = Instant::now() + self.config.witness_interval;
                following.patience = Duration::ZERO;
            }
            Election::Lost(why) => {
                tracing::info!(event = "election_lost", why);
                self.proposals.refuse_queued(&why, NO_LEADER_PATIENCE);
                following.election_not_before = Instant::now() + self.lost_races.next(&self.entropy);
                following.patience = NO_LEADER_PATIENCE;
            }
        }
        following.gone = false;
        Ok(None)
    }
}
