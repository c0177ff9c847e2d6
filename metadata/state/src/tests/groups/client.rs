//! Assignments that members make.

use tidelog_types::{Generation, MemberId, TopicPartition};

use super::{by, id, leave, options, release, run, to_commit};
use crate::command::{Command, Refusal};
use crate::group::command::{
    GroupChange, GroupOutcome, GroupRefusal, MemberOptions, MemberRun, OffsetOutcome,
};
use crate::group::{Assignor, GroupState};
use crate::tests::bed::{Bed, at};

fn wish() -> MemberOptions {
    MemberOptions { assignor: Assignor::Client, ..options(&["t"]) }
}

fn assign(
    who: &MemberRun,
    generation: Generation,
    members: Vec<(MemberId, Vec<TopicPartition>)>,
) -> GroupChange {
    GroupChange::Assign { who: who.clone(), generation, members }
}

/// The id of the member that is asked, and for which generation.
fn asked(bed: &Bed) -> Option<(String, Generation)> {
    let asked = bed.group().asked()?;
    let (id, _) = bed.group().member_by_key(asked.member)?;
    Some((id.to_string(), asked.generation))
}

#[test]
fn the_member_that_joined_first_decides() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 3);
    let (z, a) = (run("z", 1), run("a", 2));
    bed.join(&z, wish());
    let (who, first) = asked(&bed).expect("one is asked");
    assert_eq!(who, "z");
    assert_eq!(bed.group().state(), GroupState::Rebalancing);
    assert_eq!(bed.owned(&z, topic), [] as [i32; 0], "nothing is given away before it answers");
    bed.join(&a, wish());
    let (who, generation) = asked(&bed).expect("one is asked");
    assert_eq!(who, "z", "the one that joined first");
    assert!(generation > first);
    let stale = bed.refusal(assign(&z, first, Vec::new()));
    assert_eq!(stale, GroupRefusal::StaleGeneration { current: bed.group().generation() });
    let stale = bed.refusal(assign(&a, generation, Vec::new()));
    assert!(matches!(stale, GroupRefusal::StaleGeneration { .. }), "another one was asked");
    let given = vec![(id("a"), vec![at(topic, 1)]), (id("z"), vec![at(topic, 0)])];
    assert_eq!(bed.change(assign(&z, generation, given.clone())), Ok(GroupOutcome::Assigned));
    assert_eq!((bed.owned(&z, topic), bed.owned(&a, topic)), (vec![0], vec![1]), "and nobody has 2");
    assert_eq!(bed.group().state(), GroupState::Stable);
    let again = bed.refusal(assign(&z, generation, given));
    assert!(matches!(again, GroupRefusal::StaleGeneration { .. }), "it was answered");
}

#[test]
fn an_assignment_has_to_make_sense() {
    let mut bed = Bed::new();
    let (topic, other) = (bed.topic("t", 2), bed.topic("u", 1));
    let a = run("a", 1);
    bed.join(&a, wish());
    let (_, generation) = asked(&bed).expect("one is asked");
    for given in [
        vec![(id("b"), Vec::new())],
        vec![(id("a"), vec![at(topic, 2)])],
        vec![(id("a"), vec![at(other, 0)])],
        vec![(id("a"), vec![at(topic, 0), at(topic, 0)])],
    ] {
        assert_eq!(bed.change(assign(&a, generation, given)), Err(Refusal::Malformed));
    }
    assert!(asked(&bed).is_some(), "it can try again");
    bed.change(assign(&a, generation, vec![(id("a"), vec![at(topic, 1)])])).expect("it makes sense");
    assert_eq!(bed.owned(&a, topic), [1]);
}

#[test]
fn changes_are_asked_about_again_and_partitions_wait_for_release() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    let (a, b) = (run("a", 1), run("b", 2));
    bed.join(&a, wish());
    let (_, generation) = asked(&bed).expect("one is asked");
    bed.change(assign(&a, generation, vec![(id("a"), vec![at(topic, 0), at(topic, 1)])]))
        .expect("it makes sense");
    assert_eq!(asked(&bed), None);
    bed.join(&b, wish());
    assert_eq!(bed.owned(&a, topic), [0, 1], "all stays until there is an answer");
    let (who, generation) = asked(&bed).expect("one is asked");
    assert_eq!(who, "a");
    bed.change(assign(&a, generation, vec![(id("b"), vec![at(topic, 0), at(topic, 1)])]))
        .expect("it makes sense");
    assert_eq!(bed.owned(&b, topic), [] as [i32; 0]);
    let known = bed.part(&a).generation.0;
    assert_eq!(
        bed.commit_offsets(by(&a, known, 1), vec![to_commit(at(topic, 0), 1)]),
        [OffsetOutcome::Committed]
    );
    bed.change(release(&a, known, &[at(topic, 0), at(topic, 1)])).expect("it is a member");
    assert_eq!(bed.owned(&b, topic), [0, 1]);
    for (change, why) in [
        (Command::AddPartitions { topic, partitions: 3 }, "new partitions"),
        (Command::DeleteTopic { topic }, "a topic that is gone"),
    ] {
        let before = asked(&bed);
        bed.run(change);
        assert_ne!(asked(&bed), before, "{why}");
    }
}

#[test]
fn who_goes_is_not_asked_any_more() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    let (a, b, c) = (run("a", 1), run("b", 2), run("c", 3));
    bed.join(&a, wish());
    bed.join(&b, MemberOptions { assignor: Assignor::Client, ..super::fixed(&["t"], "i") });
    bed.join(&c, wish());
    assert_eq!(asked(&bed).map(|(who, _)| who).as_deref(), Some("a"));
    bed.expire(&a).expect("it is due");
    assert_eq!(asked(&bed).map(|(who, _)| who).as_deref(), Some("b"));
    bed.change(leave(&b)).expect("leaving always works");
    assert_eq!(asked(&bed).map(|(who, _)| who).as_deref(), Some("c"), "one that is away cannot answer");
    bed.join(&c, options(&["t"]));
    assert_eq!(bed.group().assignor(), Assignor::Sticky, "nobody that is here wants to decide");
    assert_eq!(asked(&bed), None);
    bed.change(GroupChange::Leave { who: b, permanently: true }).expect("leaving always works");
    assert_eq!(bed.owned(&c, topic), [0]);
}
