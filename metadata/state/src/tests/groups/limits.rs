//! How much there may be.

use bytes::Bytes;

use super::{command, id, join, options, run, to_commit};
use crate::command::{Command, Outcome, Refusal};
use crate::group::command::{
    GroupChange, GroupLimit, GroupOutcome, GroupRefusal, MemberOptions, OffsetCommit,
};
use crate::group::subscription::Subscription;
use crate::limits::{
    GROUP_BYTES_PER_CLUSTER_MAX, GROUP_PARTITIONS_PER_CLUSTER_MAX, GROUPS_PER_CLUSTER_MAX,
    MEMBERS_PER_GROUP_MAX,
};
use crate::tests::bed::{Bed, at, create};

/// Runs a command in the state directly: the bed's checks after each entry would take all day.
fn run_unchecked(bed: &mut Bed, command: Command) -> Outcome {
    bed.state.run_for_test(&command)
}

fn full(limit: GroupLimit) -> Outcome {
    Outcome::Refused(Refusal::Group(GroupRefusal::Full { limit }))
}

#[test]
fn a_group_takes_so_many_members() {
    let mut bed = Bed::new();
    let mut add =
        |n: usize| run_unchecked(&mut bed, command("g", join(&run(&format!("m{n}"), 1), options(&[]))));
    for n in 0..MEMBERS_PER_GROUP_MAX {
        assert_eq!(add(n), Outcome::Group(GroupOutcome::Joined));
    }
    assert_eq!(add(MEMBERS_PER_GROUP_MAX), full(GroupLimit::Members));
    assert_eq!(add(7), Outcome::Group(GroupOutcome::Joined), "who is one already goes on");
    let other = command("h", join(&run("m", 1), options(&[])));
    assert_eq!(run_unchecked(&mut bed, other), Outcome::Group(GroupOutcome::Joined));
}

#[test]
fn a_cluster_takes_so_many_groups() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    for n in 0..GROUPS_PER_CLUSTER_MAX {
        let outcome = run_unchecked(&mut bed, command(&format!("g{n}"), join(&run("m", 1), options(&["t"]))));
        assert_eq!(outcome, Outcome::Group(GroupOutcome::Joined));
    }
    let one_more = command("one more", join(&run("m", 1), options(&["t"])));
    assert_eq!(run_unchecked(&mut bed, one_more), full(GroupLimit::Groups));
    let offsets = vec![to_commit(at(topic, 0), 1)];
    let commit = command("one more", GroupChange::Commit { by: None, offsets });
    assert_eq!(run_unchecked(&mut bed, commit), full(GroupLimit::Groups));
}

#[test]
fn groups_share_so_many_partitions() {
    let mut bed = Bed::new();
    bed.topic("t", 10_000);
    bed.run(command("waits", join(&run("m", 1), options(&["later"]))));
    let fit = usize::try_from(GROUP_PARTITIONS_PER_CLUSTER_MAX / 10_000).expect("few");
    for n in 0..fit {
        let outcome = run_unchecked(&mut bed, command(&format!("g{n}"), join(&run("m", 1), options(&["t"]))));
        assert_eq!(outcome, Outcome::Group(GroupOutcome::Joined));
    }
    assert_eq!(
        run_unchecked(&mut bed, command("h", join(&run("m", 1), options(&["t"])))),
        full(GroupLimit::Partitions)
    );
    assert_eq!(run_unchecked(&mut bed, create("later", 1)), full(GroupLimit::Partitions));
    assert!(matches!(run_unchecked(&mut bed, create("unasked", 1)), Outcome::TopicCreated(_)));
    let another = command("g0", join(&run("n", 1), options(&["t"])));
    assert_eq!(run_unchecked(&mut bed, another), Outcome::Group(GroupOutcome::Joined), "no partition more");
}

#[test]
fn groups_take_so_many_bytes() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    let wide = |bytes| MemberOptions { user_data: vec![0; bytes].into(), ..options(&[]) };
    let (a, b) = (run("a", 1), run("b", 1));
    bed.join(&a, wide(4_096));
    // As if others had filled the rest.
    let spare = 1_000;
    let filled = GROUP_BYTES_PER_CLUSTER_MAX - bed.state.group_bytes - spare;
    bed.state.group_bytes += filled;
    assert_eq!(run_unchecked(&mut bed, command("g", join(&b, wide(1_000)))), full(GroupLimit::Bytes));
    assert_eq!(
        run_unchecked(&mut bed, command("g", join(&a, wide(4_095)))),
        Outcome::Group(GroupOutcome::Joined)
    );
    let metadata = OffsetCommit { metadata: "x".repeat(1_001), ..to_commit(at(topic, 0), 1) };
    let commit = command("other", GroupChange::Commit { by: None, offsets: vec![metadata] });
    assert_eq!(run_unchecked(&mut bed, commit), full(GroupLimit::Bytes));
    bed.state.group_bytes -= filled;
    super::super::coherence::assert_coherent(&bed.state);
}

#[test]
fn options_have_their_limits() {
    let mut bed = Bed::new();
    let topics =
        |count: usize| Subscription::new((0..count).map(|n| format!("t{n}").parse().expect("a name")));
    let good = options(&[]);
    for (ok, options) in [
        (true, MemberOptions { topics: topics(1_000), ..good.clone() }),
        (false, MemberOptions { topics: topics(1_001), ..good.clone() }),
        (true, MemberOptions { pattern: "x".repeat(1_000), ..good.clone() }),
        (false, MemberOptions { pattern: "x".repeat(1_001), ..good.clone() }),
        (true, MemberOptions { session_timeout_ms: 1_000, ..good.clone() }),
        (false, MemberOptions { session_timeout_ms: 999, ..good.clone() }),
        (false, MemberOptions { session_timeout_ms: 1_800_001, ..good.clone() }),
        (true, MemberOptions { rebalance_timeout_ms: 3_600_000, ..good.clone() }),
        (false, MemberOptions { rebalance_timeout_ms: 3_600_001, ..good.clone() }),
        (false, MemberOptions { client_id: "x".repeat(250), ..good.clone() }),
        (false, MemberOptions { user_data: Bytes::from(vec![0; 4_097]), ..good.clone() }),
    ] {
        let outcome = bed.change(join(&run("a", 1), options));
        assert_eq!(outcome, if ok { Ok(GroupOutcome::Joined) } else { Err(Refusal::Malformed) });
    }
    let matched = topics(1_000);
    let wish = MemberOptions { pattern: ".*".into(), topics: super::topics(&["other"]), ..good };
    let too_many = GroupChange::Join { who: run("a", 1), options: wish.into(), matched };
    assert_eq!(bed.change(too_many), Err(Refusal::Malformed), "pattern and names together");
    assert_eq!(bed.group().member(&id("a")).map(|member| member.subscription().len()), Some(0));
}
