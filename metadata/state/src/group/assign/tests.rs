//! Assignors against Kafka's own examples, against Kafka's algorithms written down naively, and against what they promise.

use proptest::prelude::*;
use tidelog_types::TopicId;

use super::{Candidate, Class, Held, Plan, Problem, Topic, range, round_robin, sticky};
use crate::group::MemberKey;

/// A problem in which member `m` subscribes to `subscriptions[m]`, and topic `t` has `counts[t]` partitions, all free.
fn problem(subscriptions: &[Vec<usize>], counts: &[usize]) -> Problem {
    let mut distinct: Vec<&Vec<usize>> = subscriptions.iter().collect();
    distinct.sort();
    distinct.dedup();
    let class_of = |subscription: &Vec<usize>| distinct.iter().position(|other| *other == subscription);
    let members = subscriptions.iter().zip(1..).map(|(subscription, key)| Candidate {
        key: MemberKey(key),
        class: class_of(subscription).expect("it is listed"),
    });
    let members: Vec<Candidate> = members.collect();
    let classes = distinct.iter().enumerate().map(|(number, subscription)| Class {
        topics: (0..counts.len()).map(|topic| subscription.contains(&topic)).collect(),
        members: (0..members.len()).filter(|member| members[*member].class == number).collect(),
    });
    let topics = counts
        .iter()
        .zip(1..)
        .map(|(count, id)| Topic { id: TopicId(id), partitions: vec![Held::default(); *count] });
    Problem { classes: classes.collect(), topics: topics.collect(), members }
}

/// Makes a plan what members have so far.
fn hold(problem: &mut Problem, plan: &Plan) {
    for (topic, plan) in problem.topics.iter_mut().zip(plan) {
        for (held, member) in topic.partitions.iter_mut().zip(plan) {
            *held = Held { target: *member, owner: *member };
        }
    }
}

/// The plan as each member sees it: `topic:partition` in order.
fn by_member(problem: &Problem, plan: &Plan) -> Vec<Vec<(usize, usize)>> {
    let mut lists = vec![Vec::new(); problem.members.len()];
    for (topic, plan) in plan.iter().enumerate() {
        for (partition, member) in plan.iter().enumerate() {
            if let Some(member) = member {
                lists[*member].push((topic, partition));
            }
        }
    }
    lists
}

fn all(topics: usize, members: usize) -> Vec<Vec<usize>> {
    vec![(0..topics).collect(); members]
}

/// The examples of Kafka's `RangeAssignorTest` and of the documentation of `RangeAssignor`.
#[test]
fn range_gives_what_kafka_gives() {
    let given = |subscriptions: &[Vec<usize>], counts: &[usize]| {
        let problem = problem(subscriptions, counts);
        by_member(&problem, &range::assign(&problem))
    };
    // "C0: [t0p0, t0p1, t1p0, t1p1], C1: [t0p2, t1p2]"
    assert_eq!(given(&all(2, 2), &[3, 3]), [vec![(0, 0), (0, 1), (1, 0), (1, 1)], vec![(0, 2), (1, 2)]]);
    // testOneConsumerOneTopic, testTwoConsumersOneTopicOnePartition, testTwoConsumersOneTopicTwoPartitions
    assert_eq!(given(&all(1, 1), &[3]), [vec![(0, 0), (0, 1), (0, 2)]]);
    assert_eq!(given(&all(1, 2), &[1]), [vec![(0, 0)], vec![]]);
    assert_eq!(given(&all(1, 2), &[2]), [vec![(0, 0)], vec![(0, 1)]]);
    // testMultipleConsumersMixedTopics
    let mixed = [vec![0], vec![0, 1], vec![0]];
    assert_eq!(given(&mixed, &[3, 2]), [vec![(0, 0)], vec![(0, 1), (1, 0), (1, 1)], vec![(0, 2)]]);
    // testOneStaticConsumerAndOneDynamicConsumerTwoTopicsSixPartitions orders members as `Problem` does.
    assert_eq!(given(&all(1, 3), &[7])[0].len(), 3);
}

/// The examples of Kafka's `RoundRobinAssignorTest` and of the documentation of `RoundRobinAssignor`.
#[test]
fn round_robin_gives_what_kafka_gives() {
    let given = |subscriptions: &[Vec<usize>], counts: &[usize]| {
        let problem = problem(subscriptions, counts);
        by_member(&problem, &round_robin::assign(&problem))
    };
    // "C0: [t0p0, t0p2, t1p1], C1: [t0p1, t1p0, t1p2]"
    assert_eq!(given(&all(2, 2), &[3, 3]), [vec![(0, 0), (0, 2), (1, 1)], vec![(0, 1), (1, 0), (1, 2)]]);
    // "t0, t1, t2 with 1, 2, and 3 partitions; C0 is subscribed to t0; C1 to t0, t1; and C2 to t0, t1, t2":
    // "C0: [t0p0], C1: [t1p0], C2: [t1p1, t2p0, t2p1, t2p2]"
    let uneven = [vec![0], vec![0, 1], vec![0, 1, 2]];
    assert_eq!(
        given(&uneven, &[1, 2, 3]),
        [vec![(0, 0)], vec![(1, 0)], vec![(1, 1), (2, 0), (2, 1), (2, 2)]]
    );
    // testMultipleConsumersMixedTopics
    let mixed = [vec![0], vec![0, 1], vec![0]];
    assert_eq!(given(&mixed, &[3, 2]), [vec![(0, 0)], vec![(0, 1), (1, 0), (1, 1)], vec![(0, 2)]]);
}

/// Kafka's loop, word for word: a circular iterator over the members.
fn round_robin_naively(subscriptions: &[Vec<usize>], counts: &[usize]) -> Plan {
    let mut turn = 0;
    let mut plan = Vec::new();
    for (topic, count) in counts.iter().enumerate() {
        let mut of_topic = Vec::new();
        for _ in 0..*count {
            if !subscriptions.iter().any(|subscription| subscription.contains(&topic)) {
                of_topic.push(None);
                continue;
            }
            while !subscriptions[turn % subscriptions.len()].contains(&topic) {
                turn += 1;
            }
            of_topic.push(Some(turn % subscriptions.len()));
            turn += 1;
        }
        plan.push(of_topic);
    }
    plan
}

/// Kafka's arithmetic, word for word: member `i` of `m` gets from `n/m * i + min(i, n%m)` on `n/m + (i + 1 > n%m ? 0 : 1)`.
fn range_naively(subscriptions: &[Vec<usize>], counts: &[usize]) -> Plan {
    let mut plan = Vec::new();
    for (topic, n) in counts.iter().copied().enumerate() {
        let subscribes = |member: &usize| subscriptions[*member].contains(&topic);
        let members: Vec<usize> = (0..subscriptions.len()).filter(subscribes).collect();
        let mut of_topic = vec![None; n];
        let m = members.len();
        for (i, member) in members.into_iter().enumerate() {
            let start = n / m * i + i.min(n % m);
            let length = n / m + usize::from(i < n % m);
            of_topic[start..start + length].fill(Some(member));
        }
        plan.push(of_topic);
    }
    plan
}

type Input = (Vec<Vec<usize>>, Vec<usize>);

/// Members with subscriptions that often are equal, topics of 0 to 12 partitions.
fn inputs() -> impl Strategy<Value = Input> {
    let counts = proptest::collection::vec(0..13_usize, 1..6);
    counts.prop_flat_map(|counts| {
        let topics = counts.len();
        let some = proptest::sample::subsequence((0..topics).collect::<Vec<_>>(), 0..=topics);
        let one = prop_oneof![2 => Just((0..topics).collect::<Vec<_>>()), 1 => some];
        (proptest::collection::vec(one, 1..8), Just(counts))
    })
}

fn loads(problem: &Problem, plan: &Plan) -> Vec<usize> {
    by_member(problem, plan).iter().map(Vec::len).collect()
}

/// Each partition goes to a subscriber if there is one, and to nobody else.
fn assert_complete(problem: &Problem, plan: &Plan) {
    for (topic, known) in problem.topics.iter().enumerate() {
        assert_eq!(plan[topic].len(), known.partitions.len());
        let subscribers = problem.subscribers(topic);
        for member in &plan[topic] {
            match member {
                Some(member) => assert!(subscribers.contains(member)),
                None => assert!(subscribers.is_empty(), "{topic} is left to nobody"),
            }
        }
    }
}

/// Nobody has two more than somebody who could take one of them.
fn assert_balanced(problem: &Problem, plan: &Plan) {
    let loads = loads(problem, plan);
    for (topic, plan) in plan.iter().enumerate() {
        for giver in plan.iter().flatten() {
            for taker in problem.subscribers(topic) {
                assert!(
                    loads[*giver] <= loads[taker] + 1,
                    "{loads:?}: topic {topic} from {giver} to {taker}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn range_and_round_robin_are_kafkas((subscriptions, counts) in inputs()) {
        let problem = problem(&subscriptions, &counts);
        prop_assert_eq!(range::assign(&problem), range_naively(&subscriptions, &counts));
        prop_assert_eq!(round_robin::assign(&problem), round_robin_naively(&subscriptions, &counts));
        assert_complete(&problem, &range::assign(&problem));
        assert_complete(&problem, &round_robin::assign(&problem));
    }

    /// From nothing, and again after members came, went and changed their minds.
    #[test]
    fn sticky_is_balanced_and_at_rest((before, counts) in inputs(), after in proptest::collection::vec(any::<prop::sample::Index>(), 1..10)) {
        let mut problem = problem(&before, &counts);
        let plan = sticky::assign(&problem);
        assert_complete(&problem, &plan);
        assert_balanced(&problem, &plan);
        hold(&mut problem, &plan);
        prop_assert_eq!(&sticky::assign(&problem), &plan, "nothing moves without need");
        // Other members take the places: position `n` has the subscription of any of those before.
        let others: Vec<Vec<usize>> = after.iter().map(|index| before[index.index(before.len())].clone()).collect();
        let mut next = self::problem(&others, &counts);
        let kept: Plan = plan
            .iter()
            .map(|plan| plan.iter().map(|member| member.filter(|member| *member < others.len())).collect())
            .collect();
        hold(&mut next, &kept);
        let plan = sticky::assign(&next);
        assert_complete(&next, &plan);
        assert_balanced(&next, &plan);
    }

    /// With one subscription for all no even assignment keeps more: each member keeps at most `q`, and `r` of them one more.
    #[test]
    fn sticky_moves_as_little_as_possible(
        count in 0..60_usize,
        members in 1..9_usize,
        held in proptest::collection::vec(proptest::option::of(0..9_usize), 60),
    ) {
        let mut problem = problem(&all(1, members), &[count]);
        let held: Vec<Option<usize>> =
            held.into_iter().take(count).map(|member| member.filter(|member| *member < members)).collect();
        hold(&mut problem, &vec![held.clone()]);
        let plan = sticky::assign(&problem);
        let (q, r) = (count / members, count % members);
        let loads = loads(&problem, &plan);
        prop_assert!(loads.iter().all(|load| *load == q || *load == q + 1));
        let had = |member: usize| held.iter().filter(|held| **held == Some(member)).count();
        let most: usize = (0..members).map(|member| had(member).min(q)).sum();
        let extra = (0..members).filter(|member| had(*member) > q).count().min(r);
        let kept = held.iter().zip(&plan[0]).filter(|(held, member)| held.is_some() && held == member).count();
        prop_assert_eq!(kept, most + extra);
    }
}

#[test]
fn a_partition_goes_back_to_whoever_has_not_released_it() {
    // Member 0 still owns what member 1, who has left, was to get.
    let mut problem = problem(&all(1, 3), &[6]);
    let owners = [0, 0, 0, 1, 2, 2];
    for (held, owner) in problem.topics[0].partitions.iter_mut().zip(owners) {
        *held = Held { target: Some(owner), owner: Some(owner) };
    }
    problem.topics[0].partitions[2] = Held { target: None, owner: Some(0) };
    problem.topics[0].partitions[3] = Held { target: Some(1), owner: Some(0) };
    let plan = sticky::assign(&problem);
    assert_eq!(loads(&problem, &plan), [2, 2, 2]);
    assert_eq!(plan[0], [Some(0), Some(0), Some(1), Some(1), Some(2), Some(2)]);
    // With nobody else below it, it keeps the partition.
    problem.topics[0].partitions[0].owner = None;
    problem.topics[0].partitions[0].target = Some(1);
    let plan = sticky::assign(&problem);
    assert_eq!(plan[0][2], Some(0), "{plan:?}");
}

#[test]
fn what_few_can_read_goes_to_them_first() {
    // Member 1 alone reads topic 1; member 0 has to take all of topic 0.
    let problem = problem(&[vec![0], vec![0, 1]], &[4, 4]);
    assert_eq!(loads(&problem, &sticky::assign(&problem)), [4, 4]);
}
