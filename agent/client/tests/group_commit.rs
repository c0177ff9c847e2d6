//! Commits: in order, once, and in nobody else's name.

mod fake;

use std::time::Duration;

use fake::bed::{Bed, GROUP, Reading, at, group, offset, seconds};
use fake::group::CommitFate;
use futures::StreamExt;
use tidelog_client::{CommitError, GroupState, OffsetCommit, RequestError};
use tidelog_proto::v1::ErrorReason;

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_is_lost_takes_effect_once() {
    let bed = Bed::new(1);
    bed.fill(0, 4);
    let mut reading = Reading::of(bed.member("m").await.manual_commit().start());
    reading.take(4).await;
    let commit = |value| OffsetCommit::new(at(0), offset(value));
    bed.fake.groups.lock().commit_fates.extend([CommitFate::LoseAnswer, CommitFate::LoseAnswer]);
    reading.handle.commit_offsets([commit(3)]).await.expect("repeated until it is answered");
    reading.handle.commit_offsets([commit(2)]).await.expect("one can go back on purpose");
    assert_eq!(bed.committed(0), Some(2));
    let numbers: Vec<u64> = bed.fake.groups.lock().commits.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, [1, 1, 1, 2]);

    // Another incarnation counts anew.
    bed.fake.groups.lock().remove(GROUP, "m");
    seconds(1).await;
    reading.handle.commit_offsets([commit(4)]).await.expect("a member again");
    let groups = bed.fake.groups.lock();
    let (last, before) = (&groups.commits[4], &groups.commits[3]);
    assert_eq!(last.1, 1);
    assert_ne!(last.0, before.0);
}

#[tokio::test(start_paused = true)]
async fn commits_that_are_handed_over_are_done_in_order() {
    let bed = Bed::new(2);
    bed.fill(0, 50);
    bed.fill(1, 1);
    let mut reading = Reading::of(bed.member("m").await.manual_commit().start());
    reading.take(51).await;
    let handle = &reading.handle;
    bed.fake.groups.lock().commit_fates.extend([CommitFate::Unavailable; 3]);
    let mut tickets = Vec::new();
    for value in 1..=50 {
        tickets.push(handle.commit_offsets_async([OffsetCommit::new(at(0), offset(value))]));
    }
    tickets.push(handle.commit_offsets_async([OffsetCommit::new(at(1), offset(1))]));
    for ticket in tickets {
        ticket.wait().await.expect("committed");
    }
    assert_eq!((bed.committed(0), bed.committed(1)), (Some(50), Some(1)));
    // What waited for the first went together.
    assert!(bed.fake.groups.lock().commits.len() <= 2, "{:?}", bed.fake.groups.lock().commits);
}

#[tokio::test(start_paused = true)]
async fn words_of_the_application_come_back() {
    let bed = Bed::new(2);
    bed.fill(0, 3);
    let mut reading = Reading::of(bed.member("m").await.manual_commit().start());
    reading.take(3).await;
    let commit = OffsetCommit { metadata: "half of it".into(), ..OffsetCommit::new(at(0), offset(2)) };
    reading.handle.commit_offsets([commit]).await.expect("a member");
    let committed = reading.handle.committed(&[at(0), at(1)]).await.expect("answered");
    assert_eq!(committed.len(), 1);
    assert_eq!((committed[&at(0)].offset, committed[&at(0)].metadata.as_str()), (offset(2), "half of it"));
    bed.fake.append(0, "one more");
    bed.fake.append(1, "one more");
    reading.take(2).await;
    reading.handle.seek(&at(0), offset(1)).expect("assigned");
    reading.handle.pause(&at(0)).expect("assigned");
    let lag = reading.handle.lag().await.expect("answered");
    assert_eq!(lag, [(at(0), 3), (at(1), 0)].into());
}

#[tokio::test(start_paused = true)]
async fn who_has_lost_a_partition_cannot_commit_it() {
    let bed = Bed::new(2);
    bed.fill(0, 3);
    bed.fill(1, 3);
    let client = bed.client().await;
    let mut one = Reading::of(Bed::member_of(&client, "one").manual_commit().start());
    one.take(6).await;
    let mut two = Reading::of(Bed::member_of(&client, "two").manual_commit().start());
    two.take(3).await;
    let both = [OffsetCommit::new(at(0), offset(3)), OffsetCommit::new(at(1), offset(2))];
    let error = one.handle.commit_offsets(both).await.expect_err("1 belongs to the other one");
    assert!(error.lost_partitions(), "{error}");
    match &error {
        CommitError::Partitions(refused) => {
            assert_eq!(refused.len(), 1);
            assert_eq!((&refused[0].0, refused[0].1.reason), (&at(1), ErrorReason::StaleGeneration));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((bed.committed(0), bed.committed(1)), (Some(3), None));
}

#[tokio::test(start_paused = true)]
async fn who_is_no_member_commits_nothing() {
    let bed = Bed::new(1);
    bed.fake.groups.lock().deaf = true;
    let consumer = bed.member("m").await.start();
    seconds(1).await;
    let outcome = consumer.handle().commit_offsets([OffsetCommit::new(at(0), offset(0))]).await;
    assert_eq!(outcome, Err(CommitError::NotMember));
    let handle = consumer.handle().clone();
    bed.fake.groups.lock().deaf = false;
    consumer.close().await.expect("nothing to commit");
    let outcome = handle.commit_offsets([OffsetCommit::new(at(0), offset(0))]).await;
    assert!(matches!(outcome, Err(CommitError::NotMember | CommitError::Closed)), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn giving_back_waits_for_the_commit() {
    let bed = Bed::new(1);
    bed.fill(0, 3);
    let mut one = Reading::of(bed.member("one").await.start());
    one.take(3).await;
    // The service cannot commit for a while; heartbeats work.
    bed.fake.groups.lock().commit_fates.extend([CommitFate::Unavailable; 100]);
    let two = Reading::of(bed.member("two").await.start());
    seconds(1).await;
    {
        let mut groups = bed.fake.groups.lock();
        groups.groups.get_mut(GROUP).expect("it exists").prefer("two");
        groups.rebalance(GROUP);
    }
    seconds(40).await;
    assert_eq!((bed.owner(0).as_deref(), bed.committed(0)), (Some("one"), None));
    bed.fake.groups.lock().commit_fates.clear();
    seconds(5).await;
    assert_eq!((bed.owner(0).as_deref(), bed.committed(0)), (Some("two"), Some(3)));
    let mut two = two;
    assert_eq!(two.at_hand(), [], "nothing comes twice");
}

#[tokio::test(start_paused = true)]
async fn a_close_that_cannot_commit_says_so_in_time() {
    let bed = Bed::new(1);
    bed.fill(0, 3);
    let mut reading = Reading::of(bed.member("m").await.start());
    reading.take(3).await;
    bed.fake.groups.lock().commit_fates.extend([CommitFate::Unavailable; 1_000]);
    let closing = tokio::time::timeout(Duration::from_secs(60), reading.close());
    let outcome = closing.await.expect("it is bounded");
    assert!(matches!(outcome, Err(CommitError::Request(RequestError::Unavailable(_)))), "{outcome:?}");
    assert_eq!((bed.owner(0), bed.committed(0)), (None, None));
}

#[tokio::test(start_paused = true)]
async fn seek_and_pause_hold_what_they_say() {
    let bed = Bed::new(2);
    bed.fill(0, 5);
    bed.fill(1, 5);
    let mut consumer = bed.member("m").await.manual_commit().start();
    assert!(consumer.next().await.expect("goes on").is_ok());
    consumer.handle().pause(&at(1)).expect("assigned");
    consumer.handle().seek(&at(0), offset(3)).expect("assigned");
    for expected in [3, 4] {
        let record = consumer.next().await.expect("goes on").expect("a record");
        assert_eq!((record.partition.get(), record.offset), (0, offset(expected)));
    }
    let handle = consumer.handle().clone();
    let began = handle.position(&at(1)).expect("it has one").get();
    handle.resume(&at(1)).expect("assigned");
    for expected in began..5 {
        let record = consumer.next().await.expect("goes on").expect("a record");
        assert_eq!((record.partition.get(), record.offset), (1, offset(expected)));
    }
    assert!(handle.reached_end());
    assert_eq!(handle.end_at_assignment(&at(1)), Some(offset(5)));
    assert!(handle.seek(&at(7), offset(0)).is_err());
}

#[tokio::test(start_paused = true)]
async fn groups_are_listed_described_and_deleted() {
    let bed = Bed::new(2);
    let client = bed.client().await;
    assert_eq!(client.list_groups().await, Ok(Vec::new()));
    let other = tidelog_client::GroupName::new("another group").expect("a name");
    let commits = [0, 1].map(|partition| OffsetCommit::new(at(partition), offset(7)));
    client.commit_group_offsets(&other, &commits).await.expect("it has no members");
    let member = bed.member("m").await.start();
    seconds(1).await;

    let listed = client.list_groups().await.expect("answered");
    let listed: Vec<_> =
        listed.iter().map(|group| (group.name.as_str(), group.state, group.member_count)).collect();
    assert_eq!(listed, [("another group", GroupState::Empty, 0), ("g", GroupState::Stable, 1)]);
    let described = client.get_group(&group()).await.expect("it exists");
    assert_eq!(described.members.len(), 1);
    assert_eq!(described.members[0].owned, [at(0), at(1)]);
    let offsets = client.group_offsets(&other).await.expect("answered");
    assert_eq!(offsets.iter().map(|found| found.offset).collect::<Vec<_>>(), [offset(7), offset(7)]);

    let refused = client.commit_group_offsets(&group(), &commits).await.expect_err("it has a member");
    assert!(matches!(&refused, CommitError::Partitions(refused) if refused.len() == 2), "{refused}");
    let refused = client.delete_group(&group()).await;
    assert!(
        matches!(&refused, Err(RequestError::Conflict(error)) if error.reason == ErrorReason::GroupNotEmpty)
    );
    client.delete_group(&other).await.expect("it has no members");
    assert!(matches!(client.get_group(&other).await, Err(RequestError::NotFound(_))));
    assert_eq!(client.group_offsets(&other).await, Ok(Vec::new()));
    drop(member);
}
