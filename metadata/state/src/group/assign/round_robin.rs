//! Kafka's `RoundRobinAssignor`: all partitions dealt out in turn.

use super::{Plan, Problem};

/// All partitions, by topic name and number, are given in turn to the members; a member that does not subscribe to the
/// topic is passed over and has lost its turn.
pub(in crate::group) fn assign(problem: &Problem) -> Plan {
    let mut next = 0;
    problem
        .topics
        .iter()
        .enumerate()
        .map(|(topic, known)| {
            let subscribers = problem.subscribers(topic);
            known
                .partitions
                .iter()
                .map(|_| {
                    let at = subscribers.partition_point(|member| *member < next);
                    let member = subscribers.get(at).or_else(|| subscribers.first()).copied()?;
                    next = member + 1;
                    Some(member)
                })
                .collect()
        })
        .collect()
}
