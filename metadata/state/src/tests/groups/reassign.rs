//! Partitions changing hands.

use super::{GROUP, flat, leave, name, options, release, run};
use crate::group::GroupState;
use crate::group::command::{GroupOutcome, GroupRefusal};
use crate::tests::bed::{Bed, at};
use crate::tests::coherence_groups::owners;

#[test]
fn nothing_moves_before_it_is_released() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 4);
    let (a, b) = (run("a", 1), run("b", 2));
    bed.join(&a, options(&["t"]));
    bed.join(&b, options(&["t"]));
    assert_eq!(bed.group().state(), GroupState::Rebalancing);
    assert_eq!(bed.owned(&a, topic), [0, 1]);
    assert_eq!(bed.owned(&b, topic), [] as [i32; 0]);
    assert!(bed.part(&b).waiting && !bed.part(&a).waiting);
    assert_eq!(flat(&bed.part(&a).releasing), [at(topic, 2), at(topic, 3)]);
    let key = bed.group().member(&a.member).expect("it is").key();
    assert_eq!(bed.group().releasing().into_iter().collect::<Vec<_>>(), [(key, bed.part(&a).generation)]);
    assert!(owners(bed.group()).iter().all(|(_, owner)| *owner == Some("a")));
    let known = bed.part(&a).generation.0;
    assert_eq!(bed.change(release(&a, known, &[at(topic, 3)])), Ok(GroupOutcome::Released(1)));
    assert_eq!(bed.owned(&b, topic), [3]);
    assert!(bed.part(&b).waiting);
    assert_eq!(
        bed.change(release(&a, known, &[at(topic, 3), at(topic, 2)])),
        Ok(GroupOutcome::Released(1)),
        "a repeat"
    );
    assert_eq!(bed.owned(&b, topic), [2, 3]);
    assert_eq!(bed.group().state(), GroupState::Stable);
    assert!(!bed.part(&b).waiting);
    assert_eq!(bed.part(&a).generation.0, known, "there is nothing new for the one that released them");
}

#[test]
fn only_what_a_member_was_told_to_release_counts() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    let (a, b) = (run("a", 1), run("b", 2));
    bed.join(&a, options(&["t"]));
    let before = bed.part(&a).generation.0;
    bed.join(&b, options(&["t"]));
    let nothing = Ok(GroupOutcome::Released(0));
    assert_eq!(bed.change(release(&a, u64::MAX, &[at(topic, 0)])), nothing, "it is to keep that");
    assert_eq!(bed.change(release(&b, u64::MAX, &[at(topic, 1)])), nothing, "that belongs to another");
    assert_eq!(bed.change(release(&a, u64::MAX, &[at(topic, 7)])), nothing, "there is no such partition");
    // A member that acts upon an assignment in which the partition was its own may be about to begin with it.
    assert_eq!(bed.change(release(&a, before, &[at(topic, 1)])), nothing);
    assert_eq!(bed.refusal(release(&run("a", 2), u64::MAX, &[at(topic, 1)])), GroupRefusal::UnknownMember);
    assert_eq!(bed.change(release(&a, before + 2, &[at(topic, 1)])), Ok(GroupOutcome::Released(1)));
}

#[test]
fn what_comes_back_is_not_released_by_a_late_word() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    let (a, b, c) = (run("a", 1), run("b", 2), run("c", 3));
    bed.join(&a, options(&["t"]));
    bed.join(&b, options(&["t"]));
    let told = bed.part(&a).generation.0;
    bed.change(leave(&b)).expect("leaving always works");
    assert_eq!(bed.owned(&a, topic), [0, 1], "what it has not released is its own again");
    let word = release(&a, told, &[at(topic, 1)]);
    assert_eq!(bed.change(word.clone()), Ok(GroupOutcome::Released(0)));
    // And then it is to go after all: the member may have begun to read it again.
    bed.join(&c, options(&["t"]));
    assert_eq!(flat(&bed.part(&a).releasing), [at(topic, 1)]);
    assert_eq!(bed.change(word), Ok(GroupOutcome::Released(0)));
    assert_eq!(bed.obey(&a), [at(topic, 1)]);
}

#[test]
fn the_time_to_release_counts_from_the_first_word() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    let (a, b, c) = (run("a", 1), run("b", 2), run("c", 3));
    bed.join(&a, options(&["t"]));
    bed.join(&b, options(&["t"]));
    let told = bed.part(&a).generation.0;
    // Another one is to get it meanwhile; the owner need not hear of that.
    bed.join(&c, options(&["t"]));
    bed.change(leave(&b)).expect("leaving always works");
    assert_eq!(flat(&bed.part(&a).releasing), [at(topic, 1)]);
    let since: Vec<u64> = bed.group().releasing().into_values().map(|told| told.0).collect();
    assert_eq!(since, [told]);
    assert_eq!(bed.change(release(&a, told, &[at(topic, 1)])), Ok(GroupOutcome::Released(1)));
    assert_eq!(bed.owned(&c, topic), [1]);
}

#[test]
fn a_member_that_expires_loses_what_it_has() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 3);
    let (a, b) = (run("a", 1), run("b", 2));
    bed.join(&a, options(&["t"]));
    bed.join(&b, options(&["t"]));
    assert_eq!(bed.owned(&b, topic), [] as [i32; 0]);
    bed.expire(&a).expect("it is due");
    assert_eq!(bed.owned(&b, topic), [0, 1, 2]);
    assert_eq!(bed.refusal(release(&a, u64::MAX, &[at(topic, 2)])), GroupRefusal::UnknownMember);
    assert_eq!(bed.state.group(&name(GROUP)).map(|group| group.members().len()), Some(1));
}
