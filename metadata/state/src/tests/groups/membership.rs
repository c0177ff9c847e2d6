//! Joining, leaving, expiring.

use super::{GROUP, fixed, id, join, leave, name, options, run, to_commit};
use crate::command::{Command, Outcome, Refusal};
use crate::entry::EntryBody;
use crate::group::command::{GroupChange, GroupOutcome, GroupRefusal, MemberOptions};
use crate::group::{Assignor, GroupState};
use crate::tests::bed::{Bed, OTHER_AGENT, at, proposal};

#[test]
fn the_first_member_gets_everything_at_once() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 3);
    let a = run("a", 1);
    bed.join(&a, options(&["t", "later"]));
    assert_eq!(bed.owned(&a, topic), [0, 1, 2]);
    assert_eq!(bed.group().state(), GroupState::Stable);
    assert!(!bed.part(&a).waiting);
    let before = bed.part(&a).generation;
    let later = bed.topic("later", 2);
    assert_eq!(bed.owned(&a, later), [0, 1], "a topic that comes later");
    assert!(bed.part(&a).generation > before);
    bed.run(Command::AddPartitions { topic: later, partitions: 4 });
    assert_eq!(bed.owned(&a, later), [0, 1, 2, 3]);
    bed.run(Command::DeleteTopic { topic });
    assert_eq!(bed.owned(&a, topic), [] as [i32; 0]);
}

#[test]
fn an_update_of_the_same_run_changes_what_it_gets() {
    let mut bed = Bed::new();
    let (t, u) = (bed.topic("t", 1), bed.topic("u", 1));
    let a = run("a", 1);
    bed.join(&a, options(&["t"]));
    let (generation, renewed) =
        (bed.part(&a).generation, bed.group().member(&a.member).expect("it is").renewed());
    bed.join(&a, options(&["t"]));
    assert_eq!(bed.part(&a).generation, generation, "nothing changed");
    assert!(
        bed.group().member(&a.member).expect("it is").renewed() > renewed,
        "but its session is another one"
    );
    bed.join(&a, options(&["u"]));
    assert_eq!(bed.owned(&a, u), [0]);
    assert_eq!(bed.obey(&a), [at(t, 0)], "it has to let go of what it does not want any more");
    assert_eq!(bed.group().state(), GroupState::Stable);
}

#[test]
fn ids_of_others_are_refused_until_their_session_ends() {
    let mut bed = Bed::new();
    let (first, second) = (run("a", 1), run("a", 2));
    bed.join(&first, options(&["t"]));
    assert_eq!(bed.refusal(join(&second, options(&["t"]))), GroupRefusal::MemberExists);
    bed.expire(&first).expect("it is due");
    bed.join(&second, options(&["t"]));
    bed.join(&run("b", 3), fixed(&["t"], "i"));
    assert_eq!(bed.refusal(join(&run("c", 4), fixed(&["t"], "i"))), GroupRefusal::MemberExists);
    bed.join(&run("c", 4), options(&["t"]));
    assert_eq!(bed.refusal(join(&run("c", 4), fixed(&["t"], "i"))), GroupRefusal::MemberExists);
}

#[test]
fn leaving_gives_partitions_to_others_at_once() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 4);
    let (a, b) = (run("a", 1), run("b", 2));
    bed.join(&a, options(&["t"]));
    bed.join(&b, options(&["t"]));
    bed.obey(&a);
    assert_eq!((bed.owned(&a, topic), bed.owned(&b, topic)), (vec![0, 1], vec![2, 3]));
    assert_eq!(bed.change(leave(&run("a", 9))), Ok(GroupOutcome::Left), "another run is no member");
    assert_eq!(bed.owned(&a, topic), [0, 1]);
    bed.change(leave(&a)).expect("leaving always works");
    assert_eq!(bed.owned(&b, topic), [0, 1, 2, 3]);
    assert_eq!(bed.change(leave(&a)), Ok(GroupOutcome::Left), "leaving twice is fine");
    bed.change(leave(&b)).expect("leaving always works");
    assert!(bed.state.group(&name(GROUP)).is_none(), "nothing is left of the group");
    assert_eq!(bed.change(leave(&b)), Ok(GroupOutcome::Left));
}

#[test]
fn a_static_member_finds_its_partitions_again() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 4);
    let (a, b) = (run("a", 1), run("b", 2));
    bed.join(&a, fixed(&["t"], "one"));
    bed.join(&b, options(&["t"]));
    bed.obey(&a);
    let generation = bed.part(&a).generation;
    bed.change(leave(&a)).expect("leaving always works");
    assert!(bed.group().present(&a).is_none());
    assert_eq!(bed.owned(&b, topic), [2, 3], "they are reserved");
    assert!(bed.group().member(&a.member).expect("it is away").is_away());
    // Another process, under another id, with the same instance id.
    let again = run("a2", 3);
    bed.join(&again, fixed(&["t"], "one"));
    assert_eq!(bed.owned(&again, topic), [0, 1]);
    assert!(bed.part(&again).generation > generation);
    assert_eq!(bed.group().members().len(), 2);
    // What the old process sent late does not count, even if it has the new one's name and incarnation.
    let late = bed.commit_offsets(super::by(&again, generation.0, 1), vec![to_commit(at(topic, 0), 5)]);
    assert_eq!(late, [crate::group::command::OffsetOutcome::StaleGeneration]);
    bed.change(GroupChange::Leave { who: again.clone(), permanently: true }).expect("leaving always works");
    assert_eq!(bed.owned(&b, topic), [0, 1, 2, 3]);
}

#[test]
fn who_is_away_releases_at_once_and_is_removed_in_the_end() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 4);
    let (a, b, c) = (run("a", 1), run("b", 2), run("c", 3));
    bed.join(&a, fixed(&["t"], "one"));
    bed.join(&b, options(&["t"]));
    assert_eq!(bed.owned(&b, topic), [] as [i32; 0]);
    bed.change(leave(&a)).expect("leaving always works");
    assert_eq!(bed.owned(&b, topic), [2, 3], "it has stopped reading what it was to release");
    bed.join(&c, options(&["t"]));
    bed.obey(&b);
    let d = run("d", 4);
    bed.join(&d, options(&["t"]));
    let owned = [&b, &c, &d].map(|who| bed.owned(who, topic).len());
    assert_eq!(owned, [1, 1, 1], "nobody waits for one that is away");
    bed.expire(&a).expect("it is due");
    let owned = [&b, &c, &d].map(|who| bed.owned(who, topic).len());
    assert_eq!(owned.iter().sum::<usize>(), 4);
    assert!(bed.group().member(&id("a")).is_none());
}

#[test]
fn a_stale_expiry_removes_nobody() {
    let mut bed = Bed::new();
    let a = run("a", 1);
    bed.join(&a, options(&["t"]));
    let (renewed, epoch) = (bed.group().member(&a.member).expect("it is").renewed(), bed.state.next().epoch);
    let expire = |who, renewed, epoch| GroupChange::Expire { who, renewed, epoch };
    bed.join(&a, options(&["t"]));
    assert_eq!(bed.refusal(expire(a.clone(), renewed, epoch)), GroupRefusal::Renewed);
    let renewed = bed.group().member(&a.member).expect("it is").renewed();
    assert_eq!(bed.refusal(expire(run("a", 2), renewed, epoch)), GroupRefusal::UnknownMember);
    // Another leader may have given the member more time.
    bed.roll(None);
    assert_eq!(bed.refusal(expire(a.clone(), renewed, epoch)), GroupRefusal::Renewed);
    assert_eq!(bed.change(expire(a.clone(), renewed, epoch.next())), Ok(GroupOutcome::Expired));
    assert_eq!(bed.refusal(expire(a, renewed, epoch.next())), GroupRefusal::UnknownMember);
}

#[test]
fn the_group_uses_what_most_members_ask_for() {
    let mut bed = Bed::new();
    bed.topic("t", 4);
    let with = |assignor| MemberOptions { assignor, ..options(&["t"]) };
    bed.join(&run("a", 1), with(Assignor::RoundRobin));
    assert_eq!(bed.group().assignor(), Assignor::RoundRobin);
    bed.join(&run("b", 2), with(Assignor::Range));
    assert_eq!(bed.group().assignor(), Assignor::Range, "the first in the list of those with as many");
    bed.join(&run("c", 3), with(Assignor::RoundRobin));
    assert_eq!(bed.group().assignor(), Assignor::RoundRobin);
    // Those that are away do not vote.
    bed.join(&run("d", 4), MemberOptions { assignor: Assignor::Range, ..fixed(&["t"], "i") });
    assert_eq!(bed.group().assignor(), Assignor::Range);
    bed.change(leave(&run("d", 4))).expect("leaving always works");
    assert_eq!(bed.group().assignor(), Assignor::RoundRobin);
}

#[test]
fn what_happens_in_one_entry_is_worked_out_once() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 100);
    let before = bed.state.next_generation;
    let joins = (1..=10).map(|n| {
        let who = run(&format!("m{n}"), n.into());
        proposal(OTHER_AGENT, n, 1, super::command(GROUP, join(&who, options(&["t"]))))
    });
    let applied = bed.apply(EntryBody::Batch(joins.collect()));
    assert_eq!(applied.groups.into_iter().collect::<Vec<_>>(), [name(GROUP)]);
    assert_eq!(bed.state.next_generation - before, 11, "one for each member and one for the assignment");
    for n in 1..=10 {
        let who = run(&format!("m{n}"), n);
        assert_eq!(bed.owned(&who, topic).len(), 10, "nobody had to release anything");
    }
}

#[test]
fn whoever_comes_goes_or_changes_is_told_of() {
    let mut bed = Bed::new();
    bed.topic("t", 1);
    let (a, again) = (run("a", 1), run("b", 2));
    let steps = [
        join(&a, fixed(&["t"], "one")),
        join(&a, fixed(&["t"], "one")),
        leave(&a),
        join(&again, fixed(&["t"], "one")),
        GroupChange::Leave { who: again.clone(), permanently: true },
    ];
    for (step, number) in steps.into_iter().zip(1..) {
        let proposal = proposal(OTHER_AGENT, number, 1, super::command(GROUP, step));
        let applied = bed.apply(EntryBody::Batch(vec![proposal]));
        assert_eq!(applied.groups.into_iter().collect::<Vec<_>>(), [name(GROUP)], "step {number}");
    }
}

#[test]
fn groups_are_deleted_without_members_only() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    assert_eq!(bed.refusal(GroupChange::Delete), GroupRefusal::UnknownGroup);
    let a = run("a", 1);
    bed.join(&a, options(&["t"]));
    let generation = bed.part(&a).generation.0;
    bed.commit_offsets(super::by(&a, generation, 1), vec![to_commit(at(topic, 0), 1)]);
    assert_eq!(bed.refusal(GroupChange::Delete), GroupRefusal::NotEmpty { members: 1 });
    bed.change(leave(&a)).expect("leaving always works");
    assert_eq!(bed.group().state(), GroupState::Empty);
    assert_eq!(bed.change(GroupChange::Delete), Ok(GroupOutcome::Deleted));
    assert!(bed.state.group(&name(GROUP)).is_none());
    // Generations go on from where they were.
    bed.join(&a, options(&["t"]));
    assert!(bed.part(&a).generation.0 > generation);
}

#[test]
fn patterns_are_resolved_by_those_who_can() {
    let mut bed = Bed::new();
    let (t1, t2) = (bed.topic("t1", 2), bed.topic("t2", 2));
    let a = run("a", 1);
    let wish = MemberOptions { pattern: "t.".into(), ..options(&["u"]) };
    let matched = super::topics(&["t1"]);
    bed.change(GroupChange::Join { who: a.clone(), options: wish.into(), matched }).expect("there is room");
    assert_eq!(bed.owned(&a, t1), [0, 1]);
    let resolve = |who, pattern: &str, names: &[&str]| GroupChange::ResolvePattern {
        who,
        pattern: pattern.into(),
        matched: super::topics(names),
    };
    assert_eq!(bed.refusal(resolve(a.clone(), "other", &[])), GroupRefusal::UnknownMember);
    assert_eq!(bed.refusal(resolve(run("a", 2), "t.", &[])), GroupRefusal::UnknownMember);
    assert_eq!(bed.change(resolve(a.clone(), "t.", &["t1", "t2"])), Ok(GroupOutcome::PatternResolved));
    assert_eq!(bed.owned(&a, t2), [0, 1]);
    assert_eq!(
        bed.group().member(&a.member).expect("it is").subscription(),
        &super::topics(&["t1", "t2", "u"])
    );
    bed.change(resolve(a.clone(), "t.", &["t2"])).expect("it has that pattern");
    assert_eq!(bed.obey(&a), [at(t1, 0), at(t1, 1)]);
    // What matches without a pattern is a contradiction.
    let without =
        GroupChange::Join { who: a, options: options(&["u"]).into(), matched: super::topics(&["t1"]) };
    assert_eq!(bed.change(without), Err(Refusal::Malformed));
    assert!(matches!(bed.run(Command::DeleteTopic { topic: t2 }), Outcome::TopicDeleted));
}
