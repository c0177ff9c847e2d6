//! Kafka's `RangeAssignor`: per topic, runs of neighbouring partitions.

use super::{Plan, Problem};

/// Of each topic's `n` partitions, its `m` subscribers get `n / m` each, in order, and the first `n % m` one more.
/// Topics with as many partitions and the same subscribers are therefore shared alike.
pub(in crate::group) fn assign(problem: &Problem) -> Plan {
    problem
        .topics
        .iter()
        .enumerate()
        .map(|(topic, known)| {
            let subscribers = problem.subscribers(topic);
            let count = known.partitions.len();
            let (each, extra) = (count.checked_div(subscribers.len()), count.checked_rem(subscribers.len()));
            let (Some(each), Some(extra)) = (each, extra) else { return vec![None; count] };
            let runs = subscribers.iter().enumerate().flat_map(|(position, member)| {
                let length = each + usize::from(position < extra);
                std::iter::repeat_n(Some(*member), length)
            });
            runs.collect()
        })
        .collect()
}
