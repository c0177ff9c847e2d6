//! The proposals that a node has accepted and not answered yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidelog_metadata_state::{Applied, BatchBuilder, Command, Outcome, Proposal, ProposalNumber};
use tidelog_types::{AgentInstance, LogIndex};
use tokio::sync::oneshot;

use crate::handle::ProposeError;

type Reply = oneshot::Sender<Result<Arc<Outcome>, ProposeError>>;

/// Proposals in the order in which they were made. Each is either queued, or in the one entry that is being appended.
#[derive(Debug)]
pub(crate) struct Proposals {
    agent: AgentInstance,
    next: ProposalNumber,
    queue: VecDeque<Queued>,
    in_entry: BTreeMap<ProposalNumber, Reply>,
}

#[derive(Debug)]
struct Queued {
    number: ProposalNumber,
    proposed_at: LogIndex,
    command: Command,
    reply: Reply,
}

/// Queued proposals beyond which a node takes up no more requests; the callers then wait in the request channel.
const QUEUED_MAX: usize = 4096;

impl Proposals {
    pub fn new(agent: AgentInstance) -> Self {
        Self { agent, next: ProposalNumber(1), queue: VecDeque::new(), in_entry: BTreeMap::new() }
    }

    pub fn accept(&mut self, command: Command, proposed_at: LogIndex, reply: Reply) {
        let number = self.next;
        self.next.0 += 1;
        if self.queue.len() == self.queue.capacity() {
            // While the store is away callers give up and others come, and what was asked for is large.
            self.queue.retain(|queued| !queued.reply.is_closed());
        }
        self.queue.push_back(Queued { number, proposed_at, command, reply });
    }

    pub fn has_room(&self) -> bool {
        self.queue.len() < QUEUED_MAX
    }

    pub fn is_queue_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Moves what fits from the queue into an entry. Those whose caller has gone are left out: nobody waits for them,
    /// and they have had no effect.
    pub fn fill(&mut self, builder: &mut BatchBuilder, entry_bytes_max: usize) {
        debug_assert!(self.in_entry.is_empty(), "one append in flight");
        let mut lowest_unresolved = None;
        while let Some(queued) = self.queue.pop_front() {
            if queued.reply.is_closed() {
                continue;
            }
            let proposal = Proposal {
                agent: self.agent,
                number: queued.number,
                lowest_unresolved: *lowest_unresolved.get_or_insert(queued.number),
                proposed_at: queued.proposed_at,
                command: queued.command,
            };
            match builder.push(proposal) {
                Ok(()) => {
                    self.in_entry.insert(queued.number, queued.reply);
                }
                Err((_, bytes)) if bytes > entry_bytes_max => {
                    // The caller may be gone; then nobody needs the answer.
                    let _ = queued.reply.send(Err(ProposeError::TooLarge { bytes, max: entry_bytes_max }));
                }
                Err((proposal, _)) => {
                    self.queue.push_front(Queued { command: proposal.command, ..queued });
                    return;
                }
            }
        }
    }

    /// The entry did not land and never will: its proposals are queued again, before all others.
    pub fn requeue(&mut self, entry: Vec<Proposal>) {
        for proposal in entry.into_iter().rev() {
            if let Some(reply) = self.in_entry.remove(&proposal.number) {
                self.queue.push_front(Queued {
                    number: proposal.number,
                    proposed_at: proposal.proposed_at,
                    command: proposal.command,
                    reply,
                });
            }
        }
        debug_assert!(self.in_entry.is_empty(), "all of the entry's proposals are queued again");
    }

    /// Answers those that an applied entry resolved.
    pub fn resolve(&mut self, applied: &Applied) {
        for (agent, number, outcome) in &applied.outcomes {
            if *agent == self.agent
                && let Some(reply) = self.in_entry.remove(number)
            {
                let _ = reply.send(Ok(Arc::clone(outcome)));
            }
        }
    }

    /// Answers all that are queued with an error: they had no effect.
    pub fn refuse_queued(&mut self, why: &str) {
        for queued in self.queue.drain(..) {
            let _ = queued.reply.send(Err(ProposeError::Unavailable(why.to_owned())));
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
        proposals.refuse_queued("away");
        assert!(matches!(first.try_recv(), Ok(Err(ProposeError::Unavailable(_)))), "it waited on");
    }
}
