//! Sessions that break, end, and go on: a member keeps its partitions as long as its own clock allows, and not longer.

mod fake;

use std::collections::BTreeSet;
use std::time::Duration;

use fake::bed::{Bed, GROUP, Notes, Reading, at, offset, seconds};
use fake::network::HostState;
use futures::StreamExt;
use tidelog_client::{
    AssignmentInput, Assignor, ConsumeError, GroupError, MemberId, OffsetReset, TopicPartition,
};
use tidelog_proto::v1::ErrorReason;
use tokio::time::Instant;

const SESSION: Duration = Duration::from_secs(15);

#[tokio::test(start_paused = true)]
async fn streams_that_break_cost_nothing() {
    let bed = Bed::new(2);
    let notes = Notes::default();
    let mut reading = Reading::of(bed.member("m").await.listener(notes.listener("m")).start());
    seconds(1).await;
    assert_eq!(notes.take(), ["m assigned 0,1"]);
    let mut expected = 0;
    for hint in [false, true, false, true, false] {
        bed.fake.break_sessions.send(hint).expect("there is a session");
        for _ in 0..3 {
            bed.fake.append(0, "v");
            assert_eq!(reading.take(1).await, [(0, expected)]);
            expected += 1;
            seconds(2).await;
        }
    }
    assert_eq!(notes.take(), [""; 0], "the application hears nothing of it");
    let incarnations = bed.incarnations("m");
    assert_eq!(incarnations.len(), 6);
    assert_eq!(incarnations.iter().collect::<BTreeSet<_>>().len(), 1, "it is the same member all the time");
    reading.close().await.expect("committed");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_or_freezes_is_replaced_by_another() {
    let bed = Bed::new(1);
    let notes = Notes::default();
    let mut reading = Reading::of(bed.member("m").await.listener(notes.listener("m")).start());
    seconds(1).await;
    let mut expected = 0;
    for state in [HostState::Down, HostState::Frozen, HostState::Gone] {
        for host in ["a", "b"] {
            bed.network.set(host, state);
            bed.fake.append(0, "v");
            assert_eq!(reading.take(1).await, [(0, expected)], "{host} {state:?}");
            expected += 1;
            // Longer than a session: the heartbeats found another way.
            seconds(40).await;
            bed.network.set(host, HostState::Up);
        }
    }
    assert_eq!(notes.take(), ["m assigned 0"]);
    assert_eq!(bed.incarnations("m").iter().collect::<BTreeSet<_>>().len(), 1);
    reading.close().await.expect("committed");
}

#[tokio::test(start_paused = true)]
async fn without_answers_a_member_stops_before_its_partitions_go_to_others() {
    let bed = Bed::new(1);
    let notes = Notes::default();
    // It reaches `a` only; the other one only `b`.
    let client = bed.network.client(&["a"]).await;
    let mut cut_off = Bed::member_of(&client, "cut-off").listener(notes.listener("cut-off")).start();
    bed.fill(0, 1_000);
    assert!(cut_off.next().await.expect("goes on").is_ok());
    seconds(4).await;
    assert!(cut_off.next().await.expect("goes on").is_ok());
    bed.network.set("a", HostState::Frozen);
    let frozen = Instant::now();
    let other = bed.network.client(&["b"]).await;
    let mut other = Reading::of(Bed::member_of(&other, "other").listener(notes.listener("other")).start());
    // It has records at hand, and delivers them as long as it may.
    let mut delivered = 0;
    let stopped = loop {
        tokio::select! {
            biased;
            item = cut_off.next() => assert!(item.expect("goes on").is_ok()),
            () = seconds(1) => break Instant::now(),
        }
        delivered += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(delivered > 50 && delivered < 150, "{delivered}");
    let stopped_after = stopped - Duration::from_secs(1) - frozen;
    assert!(
        stopped_after <= SESSION && stopped_after > SESSION - Duration::from_secs(5),
        "{stopped_after:?}"
    );
    // Notes::listener has checked that nobody owned it twice; the order is the same.
    let first = other.take(1).await[0];
    assert_eq!(first.0, 0);
    let told = notes.take();
    assert_eq!(told[..2], ["cut-off assigned 0", "cut-off lost 0"]);
    assert_eq!(told[2..], ["other assigned 0"]);

    // When it is back, it is a member like any other, under another incarnation.
    bed.network.set("a", HostState::Up);
    let mut cut_off = Reading::of(cut_off);
    seconds(30).await;
    assert_eq!(cut_off.at_hand(), []);
    let incarnations = bed.incarnations("cut-off");
    assert_ne!(incarnations.first(), incarnations.last());
    other.close().await.expect("committed");
    seconds(5).await;
    assert_eq!(notes.take(), ["other revoked 0", "cut-off assigned 0"]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_answers_no_heartbeats_does_not_keep_a_session_alive() {
    let bed = Bed::new(1);
    let notes = Notes::default();
    let mut reading = Reading::of(bed.member("m").await.listener(notes.listener("m")).start());
    seconds(7).await;
    let since = Instant::now();
    // Connections work, streams are open: only what confirms the session is missing.
    bed.fake.groups.lock().deaf = true;
    while notes.lines.lock().len() < 2 {
        bed.fake.append(0, "v");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(notes.take(), ["m assigned 0", "m lost 0"]);
    // Counted from when the last one that was answered had been sent: at most an interval before.
    assert!(since.elapsed() <= SESSION && since.elapsed() > SESSION - Duration::from_secs(4));
    let read = reading.at_hand().len();
    seconds(60).await;
    // Its own clock is ahead of the service's: it says that nobody need wait for that.
    assert_eq!(bed.fake.groups.lock().leaves, [("m".to_owned(), false)]);
    assert_eq!((reading.at_hand().len(), notes.take().len()), (0, 0));
    bed.fake.groups.lock().deaf = false;
    assert_eq!(reading.take(1).await.len(), 1, "{read} before");
    assert_eq!(notes.take(), ["m assigned 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_removed_loses_everything_and_joins_anew() {
    let bed = Bed::new(1);
    bed.fill(0, 4);
    let notes = Notes::default();
    let mut consumer = bed.member("m").await.listener(notes.listener("m")).start();
    for _ in 0..2 {
        assert!(consumer.next().await.expect("goes on").is_ok());
    }
    bed.fake.groups.lock().remove(GROUP, "m");
    seconds(1).await;
    assert_eq!(notes.take(), ["m assigned 0", "m lost 0", "m assigned 0"]);
    // It begins where the group has committed: nowhere yet. What was processed since is processed again.
    assert_eq!(consumer.next().await.expect("goes on").expect("a record").offset, offset(0));
    // While its stream is broken it is noticed, too, although a join would make it a member.
    bed.network.set("a", HostState::Down);
    bed.network.set("b", HostState::Down);
    bed.fake.groups.lock().remove(GROUP, "m");
    seconds(2).await;
    bed.network.set("a", HostState::Up);
    seconds(2).await;
    assert_eq!(notes.take(), ["m lost 0", "m assigned 0"]);
    assert_eq!(bed.incarnations("m").iter().collect::<BTreeSet<_>>().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_has_begun_is_heard_to_its_end() {
    let bed = Bed::new(2);
    let notes = Notes::default();
    let slow = notes.listener("m").slow(Duration::from_secs(30));
    let reading = Reading::of(bed.member("m").await.listener(slow).start());
    seconds(10).await;
    // In the middle of on_assigned.
    bed.fake.groups.lock().remove(GROUP, "m");
    seconds(15).await;
    assert_eq!(notes.take(), ["m assigned 0,1"]);
    seconds(10).await;
    assert_eq!(notes.take(), ["m lost 0,1"]);
    // And in the middle of on_revoked: those partitions are not lost once more.
    seconds(70).await;
    assert_eq!(notes.take(), ["m assigned 0,1"]);
    let other = Reading::of(bed.member("other").await.start());
    seconds(10).await;
    assert_eq!(notes.take(), ["m revoked 1"]);
    bed.fake.groups.lock().remove(GROUP, "m");
    seconds(25).await;
    assert_eq!(notes.take(), ["m lost 0"]);
    drop((reading, other));
}

#[tokio::test(start_paused = true)]
async fn two_processes_with_one_id_do_not_share_it() {
    let bed = Bed::new(1);
    let mut first = Reading::of(bed.member("m").await.start());
    seconds(1).await;
    let mut second = bed.member("m").await.start();
    let error = second.next().await.expect("an item").expect_err("the id is taken");
    assert!(matches!(&error, GroupError::Refused(why) if why.reason == ErrorReason::MemberExists), "{error}");
    assert!(second.next().await.is_none(), "the stream is over");
    second.close().await.expect_err("it is no member");
    bed.fake.append(0, "v");
    assert_eq!(first.take(1).await, [(0, 0)]);
    // After a crash the id is free when the session is over.
    first.crash().await;
    let mut third = Reading::of(bed.member("m").await.start());
    let begin = Instant::now();
    assert_eq!(third.take(1).await, [(0, 0)]);
    assert!(begin.elapsed() > SESSION - Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_away_is_waited_for() {
    let bed = Bed::new(1);
    bed.fill(0, 1);
    let member = bed.member("m").await;
    bed.network.set("a", HostState::Down);
    bed.network.set("b", HostState::Down);
    let mut consumer = member.start();
    let begin = Instant::now();
    let error = consumer.next().await.expect("an item").expect_err("nobody is there");
    assert!(matches!(&error, GroupError::Unavailable { .. }), "{error}");
    assert!(begin.elapsed() >= Duration::from_secs(120));
    bed.network.set("b", HostState::Up);
    assert_eq!(consumer.next().await.expect("an item").expect("a record").offset, offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_join_that_takes_longer_than_a_session_is_confirmed_first() {
    let bed = Bed::new(1);
    bed.fill(0, 1);
    bed.fake.groups.lock().deaf = true;
    let mut reading = Reading::of(bed.member("m").await.start());
    seconds(6 * SESSION.as_secs()).await;
    bed.fake.groups.lock().deaf = false;
    assert_eq!(reading.take(1).await, [(0, 0)]);
    assert_eq!(bed.incarnations("m").iter().collect::<BTreeSet<_>>().len(), 1);
    assert!(bed.fake.groups.lock().heartbeats > 0);
}

fn all_to_the_last(group: &AssignmentInput) -> std::collections::BTreeMap<MemberId, Vec<TopicPartition>> {
    let all = group.topics.iter().flat_map(|(topic, partitions)| {
        partitions.iter().map(|partition| TopicPartition::new(topic.clone(), *partition))
    });
    let last = group.members.keys().next_back().expect("somebody has asked").clone();
    assert!(group.members.values().all(|member| member.user_data == "mine".as_bytes()));
    [(last, all.collect())].into()
}

#[tokio::test(start_paused = true)]
async fn an_application_can_share_the_partitions_itself() {
    let bed = Bed::new(3);
    let notes = Notes::default();
    let member = |client, id: &str| {
        let member = Bed::member_of(client, id).user_data("mine").listener(notes.listener(id));
        member.assignor(Assignor::Own(std::sync::Arc::new(all_to_the_last))).start()
    };
    let client = bed.client().await;
    let one = Reading::of(member(&client, "one"));
    seconds(1).await;
    assert_eq!(notes.take(), ["one assigned 0,1,2"]);
    let two = Reading::of(member(&client, "two"));
    seconds(2).await;
    assert_eq!(notes.take(), ["one revoked 0,1,2", "two assigned 0,1,2"]);
    two.close().await.expect("committed");
    seconds(2).await;
    assert_eq!(notes.take(), ["two revoked 0,1,2", "one assigned 0,1,2"]);
    drop(one);
}

#[tokio::test(start_paused = true)]
async fn an_assignor_that_panics_is_told() {
    let bed = Bed::new(1);
    let broken = |_: &AssignmentInput| panic!("as the test says");
    let member = bed.member("m").await.assignor(Assignor::Own(std::sync::Arc::new(broken)));
    let mut consumer = member.start();
    let error = consumer.next().await.expect("an item").expect_err("it panicked");
    assert!(matches!(&error, GroupError::Assignor(_)), "{error}");
    // Its session goes on nevertheless.
    seconds(60).await;
    assert_eq!(bed.incarnations("m").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_committed_offset_the_policy_decides() {
    let bed = Bed::new(1);
    bed.fill(0, 5);
    let client = bed.client().await;
    let member = |reset| Bed::member_of(&client, "m").offset_reset(reset).manual_commit().start();

    let mut latest = Reading::of(member(OffsetReset::Latest));
    seconds(1).await;
    bed.fake.append(0, "new");
    assert_eq!(latest.take(1).await, [(0, 5)]);
    latest.close().await.expect("left");

    let mut none = member(OffsetReset::None);
    let error = none.next().await.expect("an item").expect_err("nobody says where");
    assert!(matches!(&error, GroupError::NoOffset { partition, .. } if partition.get() == 0), "{error}");
    none.handle().seek(&at(0), offset(3)).expect("it is assigned");
    assert_eq!(none.next().await.expect("an item").expect("a record").offset, offset(3));
    none.close().await.expect("left");
}

#[tokio::test(start_paused = true)]
async fn a_committed_offset_that_is_gone_is_reset() {
    let bed = Bed::new(1);
    bed.fill(0, 9);
    bed.fake.state.lock().log_starts.insert(0, 4);
    let client = bed.client().await;
    let begin_at_0 = [tidelog_client::OffsetCommit::new(at(0), offset(0))];
    for (reset, first) in
        [(OffsetReset::Earliest, Some(4)), (OffsetReset::Latest, Some(9)), (OffsetReset::None, None)]
    {
        client
            .commit_group_offsets(&fake::bed::group(), &begin_at_0)
            .await
            .expect("the group has no members");
        let mut consumer = Bed::member_of(&client, "m").offset_reset(reset).manual_commit().start();
        match first {
            Some(first) => {
                let mut reading = Reading::of(consumer);
                seconds(1).await;
                assert_eq!(
                    reading.handle.position(&at(0)).map(|position| position.get()).max(Some(4)),
                    Some(9)
                );
                let expected: Vec<(i32, i64)> = (first..9).map(|offset| (0, offset)).collect();
                assert_eq!(reading.at_hand(), expected);
                reading.close().await.expect("left");
            }
            None => {
                let error = consumer.next().await.expect("an item").expect_err("it is gone");
                assert!(
                    matches!(&error, GroupError::Consume(ConsumeError::OffsetOutOfRange { .. })),
                    "{error}"
                );
                consumer.handle().seek(&at(0), offset(5)).expect("it is assigned");
                assert_eq!(consumer.next().await.expect("an item").expect("a record").offset, offset(5));
                consumer.close().await.expect("left");
            }
        }
    }
}
