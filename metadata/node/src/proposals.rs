//! The proposals that a node has accepted and not answered yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidelog_metadata_state::{Applied, BatchBuilder, Command, Outcome, Proposal, ProposalNumber, State};
use tidelog_types::{AgentInstance, LogIndex};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::handle::ProposeError;

type Reply = oneshot::Sender<Result<Arc<Outcome>, ProposeError>>;

/// Proposals in the order in which they were made. Each is queued, or in the one entry that is being appended, or was handed on
/// to a leader and may take effect there.
#[derive(Debug)]
pub(crate) struct Proposals {
    agent: AgentInstance,
    next: ProposalNumber,
    queue: VecDeque<Waiting>,
    in_entry: BTreeMap<ProposalNumber, Reply>,
    handed_on: BTreeMap<ProposalNumber, Queued>,
    /// Whose link they were handed on to.
    handed_to: Option<AgentInstance>,
}

#[derive(Debug)]
enum Waiting {
    Own(Queued),
    /// Of a follower, who repeats it elsewhere if this node does not get to it.
    Followers(Proposal),
}

#[derive(Debug)]
struct Queued {
    number: ProposalNumber,
    proposed_at: LogIndex,
    command: Command,
    reply: Reply,
    /// It was handed on to a leader that may give it effect yet.
    may_land: bool,
    since: Instant,
}

impl Queued {
    fn proposal(&self, agent: AgentInstance, lowest_unresolved: ProposalNumber) -> Proposal {
        Proposal {
            agent,
            number: self.number,
            lowest_unresolved,
            proposed_at: self.proposed_at,
            command: self.command.clone(),
        }
    }
}

/// Queued proposals beyond which a node takes up no more requests; the callers then wait in the request channel.
const QUEUED_MAX: usize = 4096;
/// Proposals in one message to a leader.
const HANDED_ON_TOGETHER: usize = 64;

impl Proposals {
    pub fn new(agent: AgentInstance) -> Self {
        Self {
            agent,
            next: ProposalNumber(1),
            queue: VecDeque::new(),
            in_entry: BTreeMap::new(),
            handed_on: BTreeMap::new(),
            handed_to: None,
        }
    }

    pub fn accept(&mut self, command: Command, proposed_at: LogIndex, reply: Reply) {
        let number = self.next;
        self.next.0 += 1;
        if self.queue.len() == self.queue.capacity() {
            // While the store is away callers give up and others come, and what was asked for is large.
            self.forget_abandoned();
        }
        let since = Instant::now();
        self.queue.push_back(Waiting::Own(Queued {
            number,
            proposed_at,
            command,
            reply,
            may_land: false,
            since,
        }));
    }

    /// Takes up a follower's proposals.
    pub fn accept_followers(&mut self, proposals: Vec<Proposal>) {
        self.queue.extend(proposals.into_iter().map(Waiting::Followers));
    }

    pub fn has_room(&self) -> bool {
        self.queue.len() < QUEUED_MAX
    }

    pub fn is_queue_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether somebody waits for an outcome that needs a leader.
    pub fn is_waiting(&mut self) -> bool {
        self.forget_abandoned();
        !self.queue.is_empty() || !self.handed_on.is_empty()
    }

    /// Those whose callers have gone: nobody waits for them. What may land yet is refused then, as superseded, once a later
    /// proposal of this agent has taken effect.
    fn forget_abandoned(&mut self) {
        self.queue.retain(|waiting| !matches!(waiting, Waiting::Own(queued) if queued.reply.is_closed()));
        self.handed_on.retain(|_, queued| !queued.reply.is_closed());
    }

    /// Moves what fits from the queue into an entry. Those whose caller has gone are left out: nobody waits for them,
    /// and they have had no effect.
    pub fn fill(&mut self, builder: &mut BatchBuilder, entry_bytes_max: usize) {
        debug_assert!(self.in_entry.is_empty(), "one append in flight");
        debug_assert!(self.handed_on.is_empty(), "a leader hands nothing on");
        let mut lowest_unresolved = None;
        while let Some(waiting) = self.queue.pop_front() {
            let (proposal, own) = match waiting {
                Waiting::Own(queued) if queued.reply.is_closed() => continue,
                Waiting::Own(queued) => {
                    let lowest = *lowest_unresolved.get_or_insert(queued.number);
                    let Queued { number, proposed_at, command, reply, may_land, since } = queued;
                    let agent = self.agent;
                    let proposal =
                        Proposal { agent, number, lowest_unresolved: lowest, proposed_at, command };
                    (proposal, Some((reply, may_land, since)))
                }
                Waiting::Followers(proposal) => (proposal, None),
            };
            match (builder.push(proposal), own) {
                (Ok(()), None) => {}
                (Ok(()), Some((reply, ..))) => {
                    let number = builder.last().expect("it was just added").number;
                    self.in_entry.insert(number, reply);
                }
                (Err((_, bytes)), own) if bytes > entry_bytes_max => {
                    if let Some((reply, ..)) = own {
                        // The caller may be gone; then nobody needs the answer.
                        let _ = reply.send(Err(ProposeError::TooLarge { bytes, max: entry_bytes_max }));
                    }
                }
                (Err((proposal, _)), own) => {
                    self.queue.push_front(match own {
                        None => Waiting::Followers(proposal),
                        Some((reply, may_land, since)) => Waiting::Own(Queued {
                            number: proposal.number,
                            proposed_at: proposal.proposed_at,
                            command: proposal.command,
                            reply,
                            may_land,
                            since,
                        }),
                    });
                    return;
                }
            }
        }
    }

    /// The entry did not land and never will: its proposals are queued again, before all others; those of followers are
    /// theirs to repeat.
    pub fn requeue(&mut self, entry: Vec<Proposal>) {
        let since = Instant::now();
        for proposal in entry.into_iter().rev().filter(|proposal| proposal.agent == self.agent) {
            if let Some(reply) = self.in_entry.remove(&proposal.number) {
                self.queue.push_front(Waiting::Own(Queued {
                    number: proposal.number,
                    proposed_at: proposal.proposed_at,
                    command: proposal.command,
                    reply,
                    may_land: false,
                    since,
                }));
            }
        }
        debug_assert!(self.in_entry.is_empty(), "all of the entry's own proposals are queued again");
    }

    /// This node leads no more: what followers handed on they repeat elsewhere.
    pub fn drop_followers(&mut self) {
        self.queue.retain(|waiting| matches!(waiting, Waiting::Own(_)));
    }

    /// The next proposals for the leader, in their order.
    pub fn hand_on(&mut self, leader: AgentInstance, entry_bytes_max: usize) -> Vec<Proposal> {
        self.forget_abandoned();
        self.handed_to = Some(leader);
        let mut proposals = Vec::new();
        while proposals.len() < HANDED_ON_TOGETHER
            && let Some(Waiting::Own(mut queued)) = self.queue.pop_front()
        {
            let lowest = self.handed_on.keys().next().copied().unwrap_or(queued.number);
            let proposal = queued.proposal(self.agent, lowest);
            let bytes = BatchBuilder::entry_bytes(&proposal);
            if bytes > entry_bytes_max {
                let _ = queued.reply.send(Err(ProposeError::TooLarge { bytes, max: entry_bytes_max }));
                continue;
            }
            proposals.push(proposal);
            queued.may_land = true;
            self.handed_on.insert(queued.number, queued);
        }
        proposals
    }

    /// The link is gone: what was handed on and is not in the log is queued again, before all others. It may land yet.
    pub fn recall(&mut self) {
        for (_, queued) in std::mem::take(&mut self.handed_on).into_iter().rev() {
            self.queue.push_front(Waiting::Own(queued));
        }
    }

    /// An epoch has begun. If another agent leads it, what the last leader was handed and did not commit it never will:
    /// its epoch is sealed, and a link does not outlive a leadership.
    pub fn epoch_begun(&mut self, leader: AgentInstance) {
        if self.handed_to.is_some_and(|handed_to| handed_to != leader) {
            self.handed_to = None;
            self.recall();
            for waiting in &mut self.queue {
                if let Waiting::Own(queued) = waiting {
                    queued.may_land = false;
                }
            }
        }
    }

    /// Answers those that an applied entry resolved.
    pub fn resolve(&mut self, applied: &Applied) {
        for (agent, number, outcome) in &applied.outcomes {
            if *agent == self.agent {
                self.resolve_one(*number, outcome);
            }
        }
    }

    /// Answers those that a replica which was replaced as a whole has outcomes for.
    pub fn resolve_from(&mut self, state: &State) {
        let handed_on = self.handed_on.keys();
        let queued = self.queue.iter().filter_map(|waiting| match waiting {
            Waiting::Own(queued) => Some(&queued.number),
            Waiting::Followers(_) => None,
        });
        let numbers: Vec<ProposalNumber> = handed_on.chain(queued).copied().collect();
        for number in numbers {
            if let Some(outcome) = state.outcome(self.agent, number) {
                let outcome = Arc::clone(outcome);
                self.resolve_one(number, &outcome);
            }
        }
    }

    fn resolve_one(&mut self, number: ProposalNumber, outcome: &Arc<Outcome>) {
        let reply = match (self.in_entry.remove(&number), self.handed_on.remove(&number)) {
            (Some(reply), _) => Some(reply),
            (None, Some(queued)) => Some(queued.reply),
            // It was handed on and recalled.
            (None, None) => self.take_queued(number).map(|queued| queued.reply),
        };
        if let Some(reply) = reply {
            let _ = reply.send(Ok(Arc::clone(outcome)));
        }
    }

    fn take_queued(&mut self, number: ProposalNumber) -> Option<Queued> {
        let is_it = |waiting: &Waiting| matches!(waiting, Waiting::Own(queued) if queued.number == number);
        let at = self.queue.iter().position(is_it)?;
        match self.queue.remove(at)? {
            Waiting::Own(queued) => Some(queued),
            Waiting::Followers(_) => None,
        }
    }

    /// Answers with an error all that are queued, had no effect and will have none, and have waited for `patience` or longer.
    pub fn refuse_queued(&mut self, why: &str, patience: Duration) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.queue) {
            match waiting {
                Waiting::Own(queued) if !queued.may_land && now - queued.since >= patience => {
                    let _ = queued.reply.send(Err(ProposeError::Unavailable(why.to_owned())));
                }
                other => self.queue.push_back(other),
            }
        }
    }

    /// See [`crate::Mistake::RenumberRepeats`].
    pub fn renumber(&mut self) {
        for waiting in &mut self.queue {
            if let Waiting::Own(queued) = waiting {
                queued.number = self.next;
                self.next.0 += 1;
            }
        }
    }

    /// See [`crate::Mistake::RefuseWhatMayLand`].
    pub fn believe_lost(&mut self) {
        for waiting in &mut self.queue {
            if let Waiting::Own(queued) = waiting {
                queued.may_land = false;
            }
        }
    }

    /// The node ends: what may land yet is of unknown outcome, all else had none.
    pub fn end(&mut self, why: &str) {
        self.recall();
        self.refuse_queued(why, Duration::ZERO);
        for waiting in self.queue.drain(..) {
            if let Waiting::Own(queued) = waiting {
                let _ = queued.reply.send(Err(ProposeError::Unknown(why.to_owned())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidelog_types::TimestampMs;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn those_whose_callers_have_gone_do_not_pile_up() {
        let mut proposals = Proposals::new(AgentInstance(Uuid::nil()));
        let command = Command::ExpireProducers { proposer_time: TimestampMs(0) };
        let mut propose = || {
            let (reply, outcome) = oneshot::channel();
            proposals.accept(command.clone(), LogIndex(0), reply);
            (outcome, proposals.queue.len())
        };
        let (mut first, _) = propose();
        let longest = (0..10_000).map(|_| propose().1).max();
        assert!(longest.is_some_and(|longest| longest <= 8), "{longest:?}");
        proposals.refuse_queued("away", Duration::ZERO);
        assert!(matches!(first.try_recv(), Ok(Err(ProposeError::Unavailable(_)))), "it waited on");
    }
}
