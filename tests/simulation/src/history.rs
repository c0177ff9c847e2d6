//! What clients did and were told, and whether it agrees with the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelog_metadata_node::ProposeError;
use tidelog_metadata_state::Outcome;
use tidelog_types::{LogIndex, SegmentId, TopicId, TopicName};

use crate::oracle::{Checked, Committed, Oracle};

/// A command that can be told from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attempt {
    /// The commit of a segment.
    Segment(SegmentId),
    /// The creation of a topic of this name.
    Topic(TopicName),
}

/// What a client was told about a command.
#[derive(Debug, Clone)]
enum Told {
    Outcome(Arc<Outcome>),
    Never,
    Unknown,
}

/// All that clients were told.
#[derive(Debug)]
pub struct History {
    told: BTreeMap<Attempt, Told>,
    /// What a linearizable read that begins now has to see.
    floor: LogIndex,
    /// Topics that were created, and with how many partitions; some may be gone.
    pub topics: Vec<(TopicId, u32)>,
    /// Acknowledged commands.
    pub acknowledged: u64,
    /// Commands of unknown outcome.
    pub unknown: u64,
    /// Commands that were refused for good.
    pub refused: u64,
    /// Linearizable reads.
    pub reads: u64,
}

fn committed<'a>(oracle: &'a Oracle, attempt: &Attempt) -> Option<&'a Committed> {
    match attempt {
        Attempt::Segment(id) => oracle.segment(*id),
        Attempt::Topic(name) => oracle.topic(name),
    }
}

impl Default for History {
    /// Nobody was told anything.
    fn default() -> Self {
        Self {
            told: BTreeMap::new(),
            floor: LogIndex(0),
            topics: Vec::new(),
            acknowledged: 0,
            unknown: 0,
            refused: 0,
            reads: 0,
        }
    }
}

impl History {
    /// What a linearizable read that begins now has to see.
    pub fn floor(&self) -> LogIndex {
        self.floor
    }

    /// Somebody has seen the log up to `index`, and knows that it is there to stay.
    pub fn seen(&mut self, index: LogIndex) {
        self.floor = self.floor.max(index);
    }

    /// A client was told something about a command. What it was told has to be true already.
    pub fn told(
        &mut self,
        oracle: &Oracle,
        attempt: Attempt,
        answer: &Result<Arc<Outcome>, ProposeError>,
    ) -> Checked {
        let told = match answer {
            Ok(outcome) => {
                self.acknowledged += 1;
                let Some(committed) = committed(oracle, &attempt) else {
                    return Err(("INV-2", format!("{attempt:?} was acknowledged before it was in the log")));
                };
                if committed.outcome != *outcome {
                    let right = &committed.outcome;
                    return Err((
                        "INV-1",
                        format!("{attempt:?} was acknowledged with {outcome:?}, the log says {right:?}"),
                    ));
                }
                self.seen(committed.index);
                Told::Outcome(Arc::clone(outcome))
            }
            Err(ProposeError::Unavailable(_) | ProposeError::TooLarge { .. }) => {
                self.refused += 1;
                Told::Never
            }
            Err(ProposeError::Unknown(_)) => {
                self.unknown += 1;
                Told::Unknown
            }
        };
        self.told.insert(attempt.clone(), told);
        self.check_one(oracle, &attempt)
    }

    fn check_one(&self, oracle: &Oracle, attempt: &Attempt) -> Checked {
        let committed = committed(oracle, attempt);
        match (self.told.get(attempt), committed) {
            (Some(Told::Never), Some(committed)) => Err((
                "INV-5",
                format!("{attempt:?} was said to have failed, and is in the log at {}", committed.index),
            )),
            (Some(Told::Outcome(_)), None) => {
                Err(("INV-1", format!("{attempt:?} was acknowledged and is not in the log")))
            }
            (Some(Told::Outcome(outcome)), Some(committed)) if *outcome != committed.outcome => Err((
                "INV-1",
                format!(
                    "{attempt:?} was acknowledged with {outcome:?}, the log says {:?}",
                    committed.outcome
                ),
            )),
            // Unknown: both are right, and the oracle sees to it that it is there at most once.
            _ => Ok(()),
        }
    }

    /// Everything that was told is true in the end.
    pub fn check(&self, oracle: &Oracle) -> Checked {
        self.told.keys().try_for_each(|attempt| self.check_one(oracle, attempt))
    }
}
