//! Offsets.

use tidelog_types::{TimestampMs, TopicId};

use super::{by, leave, name, options, run, to_commit};
use crate::command::{Command, Outcome, Refusal};
use crate::group::command::OffsetOutcome::{
    Committed, GroupNotEmpty, StaleGeneration, Superseded, UnknownMember, UnknownPartition, UnknownTopic,
};
use crate::group::command::{GroupChange, OffsetCommit};
use crate::limits::{DESTRUCTION_MARGIN_MS, GROUP_OFFSETS_EXPIRY_MS, OFFSET_METADATA_BYTES_MAX};
use crate::tests::bed::{Bed, at};

fn committed(bed: &Bed, at: tidelog_types::TopicPartition) -> Option<i64> {
    bed.state.group(&name(super::GROUP))?.offset(at).map(|committed| committed.offset.get())
}

#[test]
fn each_partition_has_its_own_outcome() {
    let mut bed = Bed::new();
    let (topic, other) = (bed.topic("t", 2), bed.topic("u", 1));
    let a = run("a", 1);
    bed.join(&a, options(&["t"]));
    let known = bed.part(&a).generation.0;
    let offsets = vec![
        to_commit(at(topic, 1), 7),
        to_commit(at(topic, 2), 7),
        to_commit(at(TopicId(99), 0), 7),
        to_commit(at(other, 0), 7),
    ];
    let outcomes = bed.commit_offsets(by(&a, known, 1), offsets);
    assert_eq!(outcomes, [Committed, UnknownPartition, UnknownTopic, StaleGeneration]);
    assert_eq!(committed(&bed, at(topic, 1)), Some(7));
    assert_eq!(committed(&bed, at(other, 0)), None);
    let found = bed.group().offset(at(topic, 1)).expect("it was committed");
    assert_eq!(found.committed_at, bed.time);
    // Going back is allowed.
    bed.commit_offsets(by(&a, known, 2), vec![to_commit(at(topic, 1), 3)]);
    assert_eq!(committed(&bed, at(topic, 1)), Some(3));
}

#[test]
fn a_repeat_gets_the_first_outcome_and_changes_nothing() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    let a = run("a", 1);
    bed.join(&a, options(&["t"]));
    let known = bed.part(&a).generation.0;
    let first = vec![to_commit(at(topic, 0), 5), to_commit(at(topic, 9), 5)];
    let outcomes = bed.commit_offsets(by(&a, known, 4), first.clone());
    assert_eq!(outcomes, [Committed, UnknownPartition]);
    assert_eq!(bed.commit_offsets(by(&a, known, 4), first.clone()), outcomes);
    bed.commit_offsets(by(&a, known, 5), vec![to_commit(at(topic, 0), 6)]);
    // The first one arrives once more: it must not undo the second.
    assert_eq!(bed.commit_offsets(by(&a, known, 4), first), [Superseded, Superseded]);
    let other = vec![to_commit(at(topic, 0), 1), to_commit(at(topic, 1), 1)];
    assert_eq!(
        bed.commit_offsets(by(&a, known, 5), other),
        [Superseded, Superseded],
        "another one under that number"
    );
    assert_eq!(committed(&bed, at(topic, 0)), Some(6));
    // The same run may join again; its numbers go on.
    bed.join(&a, options(&["t"]));
    assert_eq!(bed.commit_offsets(by(&a, known, 5), vec![to_commit(at(topic, 0), 9)]), [Committed]);
    assert_eq!(committed(&bed, at(topic, 0)), Some(6), "it was a repeat");
}

#[test]
fn commits_from_before_a_partition_was_owned_do_not_count() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    let (a, b) = (run("a", 1), run("b", 2));
    bed.join(&a, options(&["t"]));
    let first = bed.part(&a).generation.0;
    bed.join(&b, options(&["t"]));
    // While it is to release the partition, it owns it: what it has read it may commit.
    assert_eq!(bed.commit_offsets(by(&a, first, 1), vec![to_commit(at(topic, 1), 5)]), [Committed]);
    let known = bed.part(&b).generation.0;
    assert_eq!(bed.commit_offsets(by(&b, known, 1), vec![to_commit(at(topic, 1), 0)]), [StaleGeneration]);
    bed.obey(&a);
    let offsets = || vec![to_commit(at(topic, 1), 6)];
    assert_eq!(bed.commit_offsets(by(&a, bed.part(&a).generation.0, 2), offsets()), [StaleGeneration]);
    assert_eq!(
        bed.commit_offsets(by(&b, known, 2), offsets()),
        [StaleGeneration],
        "it did not know that it owns it"
    );
    assert_eq!(bed.commit_offsets(by(&b, bed.part(&b).generation.0, 3), offsets()), [Committed]);
    // It comes back to the first one, whose late word must not count.
    let while_b = bed.part(&a).generation.0;
    bed.change(leave(&b)).expect("leaving always works");
    assert_eq!(bed.owned(&a, topic), [0, 1]);
    let late = vec![to_commit(at(topic, 1), 5), to_commit(at(topic, 0), 2)];
    assert_eq!(bed.commit_offsets(by(&a, while_b, 3), late), [StaleGeneration, Committed]);
    assert_eq!(committed(&bed, at(topic, 1)), Some(6));
    assert_eq!(
        bed.commit_offsets(by(&a, u64::MAX, 4), offsets()),
        [StaleGeneration],
        "no such generation yet"
    );
    assert_eq!(bed.commit_offsets(by(&run("a", 9), while_b, 9), offsets()), [UnknownMember]);
    bed.expire(&a).expect("it is due");
    assert_eq!(bed.commit_offsets(by(&a, while_b, 9), offsets()), [UnknownMember]);
}

#[test]
fn without_a_member_only_empty_groups_take_commits() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    assert_eq!(bed.commit_offsets(None, vec![to_commit(at(TopicId(9), 0), 1)]), [UnknownTopic]);
    assert!(bed.state.group(&name(super::GROUP)).is_none(), "no group for nothing");
    assert_eq!(bed.commit_offsets(None, vec![to_commit(at(topic, 0), 1)]), [Committed]);
    assert_eq!(committed(&bed, at(topic, 0)), Some(1));
    let a = run("a", 1);
    bed.join(&a, options(&[]));
    assert_eq!(bed.commit_offsets(None, vec![to_commit(at(topic, 0), 2)]), [GroupNotEmpty]);
    bed.change(leave(&a)).expect("leaving always works");
    assert_eq!(bed.commit_offsets(None, vec![to_commit(at(topic, 0), 2)]), [Committed]);
    assert_eq!(committed(&bed, at(topic, 0)), Some(2));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    let malformed = Err(Refusal::Malformed);
    let mut commit = |by, offsets| bed.change(GroupChange::Commit { by, offsets });
    assert_eq!(commit(None, Vec::new()), malformed);
    assert_eq!(commit(None, vec![to_commit(at(topic, 0), 1), to_commit(at(topic, 0), 2)]), malformed);
    let metadata = |bytes| OffsetCommit { metadata: "x".repeat(bytes), ..to_commit(at(topic, 0), 1) };
    assert_eq!(commit(None, vec![metadata(OFFSET_METADATA_BYTES_MAX + 1)]), malformed);
    assert!(commit(None, vec![metadata(OFFSET_METADATA_BYTES_MAX)]).is_ok());
    assert_eq!(commit(by(&run("a", 1), 1, 0), vec![to_commit(at(topic, 0), 1)]), malformed);
}

#[test]
fn offsets_go_with_their_topic() {
    let mut bed = Bed::new();
    let (topic, other) = (bed.topic("t", 1), bed.topic("u", 1));
    let a = run("a", 1);
    bed.join(&a, options(&["t", "u"]));
    let known = bed.part(&a).generation.0;
    bed.commit_offsets(by(&a, known, 1), vec![to_commit(at(topic, 0), 1), to_commit(at(other, 0), 1)]);
    bed.run(Command::DeleteTopic { topic });
    let again = bed.topic("t", 1);
    assert_eq!(committed(&bed, at(again, 0)), None);
    assert_eq!(committed(&bed, at(other, 0)), Some(1));
    bed.change(leave(&a)).expect("leaving always works");
    bed.run(Command::DeleteTopic { topic: other });
    assert!(bed.state.group(&name(super::GROUP)).is_none(), "nothing is left of it");
}

#[test]
fn groups_that_nobody_uses_expire() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    let a = run("a", 1);
    bed.join(&a, options(&["t"]));
    let known = bed.part(&a).generation.0;
    bed.commit_offsets(by(&a, known, 1), vec![to_commit(at(topic, 0), 1)]);
    let expire = |bed: &mut Bed, after_ms: i64| {
        bed.time = bed.time.saturating_add_ms(after_ms);
        let proposer_time = bed.time;
        let expected = bed.state.has_expired_offsets(proposer_time);
        match bed.run(Command::ExpireOffsets { proposer_time }) {
            Outcome::OffsetsExpired(count) => {
                assert!(expected == (count > 0) || count == 1, "what is due is proposed");
                count
            }
            other => panic!("{other:?}"),
        }
    };
    let limit = GROUP_OFFSETS_EXPIRY_MS + DESTRUCTION_MARGIN_MS;
    assert_eq!(expire(&mut bed, 2 * limit), 0, "it has members");
    bed.change(leave(&a)).expect("leaving always works");
    assert_eq!(expire(&mut bed, limit), 0, "not longer than the limit");
    // A commit without member counts as use.
    bed.commit_offsets(None, vec![to_commit(at(topic, 0), 2)]);
    assert_eq!(expire(&mut bed, limit), 0);
    // A clock that runs ahead of log time does not count.
    let ahead = TimestampMs(i64::MAX);
    assert_eq!(bed.run(Command::ExpireOffsets { proposer_time: ahead }), Outcome::OffsetsExpired(0));
    assert_eq!(expire(&mut bed, 1), 1);
    assert!(bed.state.group(&name(super::GROUP)).is_none());
}
