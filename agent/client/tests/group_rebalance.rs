//! Partitions that come and go: in which order the application, the commits and the service hear of it.

mod fake;

use std::time::Duration;

use fake::TOPIC;
use fake::bed::{Bed, Notes, Reading, at, offset, seconds};
use futures::{FutureExt, StreamExt};
use tidelog_client::{GroupHandle, RebalanceListener, TopicPartition};

fn owners(bed: &Bed, partitions: i32) -> Vec<String> {
    (0..partitions).map(|partition| bed.owner(partition).unwrap_or_default()).collect()
}

#[tokio::test(start_paused = true)]
async fn reading_goes_on_where_the_group_has_committed() {
    let bed = Bed::new(2);
    bed.fill(0, 3);
    bed.fill(1, 3);
    let mut reading = Reading::of(bed.member("m").await.start());
    let mut first = reading.take(6).await;
    first.sort_unstable();
    assert_eq!(first, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    // The task has asked for the next one: all six are processed.
    seconds(1).await;
    assert_eq!((bed.committed(0), bed.committed(1)), (None, None), "it is not time yet");
    seconds(5).await;
    assert_eq!((bed.committed(0), bed.committed(1)), (Some(3), Some(3)));
    reading.close().await.expect("committed");

    bed.fake.append(1, "new");
    let mut reading = Reading::of(bed.member("m").await.start());
    assert_eq!(reading.take(1).await, [(1, 3)]);
    reading.close().await.expect("committed");
    assert_eq!(bed.committed(1), Some(4));
}

#[tokio::test(start_paused = true)]
async fn a_second_member_gets_its_share_after_it_was_given_back() {
    let bed = Bed::new(4);
    (0..4).for_each(|partition| bed.fill(partition, 5));
    let notes = Notes::default();
    let mut one = Reading::of(bed.member("one").await.listener(notes.listener("one")).start());
    assert_eq!(one.take(20).await.len(), 20);
    assert_eq!(notes.take(), ["one assigned 0,1,2,3"]);

    let mut two = Reading::of(bed.member("two").await.listener(notes.listener("two")).start());
    seconds(2).await;
    let told = notes.take();
    assert_eq!(told, ["one revoked 2,3", "two assigned 2,3"], "no call about those that stay");
    assert_eq!(owners(&bed, 4), ["one", "one", "two", "two"]);
    // What was processed was committed before it changed hands: nothing comes twice.
    assert_eq!((bed.committed(2), bed.committed(3)), (Some(5), Some(5)));
    (0..4).for_each(|partition| bed.fake.append(partition, "more"));
    seconds(1).await;
    let (mut first, mut second) = (one.at_hand(), two.at_hand());
    first.sort_unstable();
    second.sort_unstable();
    assert_eq!((first, second), (vec![(0, 5), (1, 5)], vec![(2, 5), (3, 5)]));

    two.close().await.expect("committed");
    seconds(2).await;
    assert_eq!(notes.take(), ["two revoked 2,3", "one assigned 2,3"]);
    assert_eq!(owners(&bed, 4), ["one", "one", "one", "one"]);
    one.close().await.expect("committed");
    assert_eq!(notes.take(), ["one revoked 0,1,2,3"]);
    assert_eq!(owners(&bed, 4), ["", "", "", ""]);
}

#[tokio::test(start_paused = true)]
async fn partitions_that_stay_are_read_on_while_others_change_hands() {
    let bed = Bed::new(2);
    let notes = Notes::default();
    let slow = notes.listener("one").slow(Duration::from_secs(60));
    let mut one = Reading::of(bed.member("one").await.listener(slow).start());
    seconds(61).await;
    let mut two = Reading::of(bed.member("two").await.listener(notes.listener("two")).start());
    seconds(1).await;
    assert_eq!(notes.take(), ["one assigned 0,1", "one revoked 1"]);
    // The listener is still busy with partition 1.
    bed.fake.append(0, "during");
    bed.fake.append(1, "for the other");
    assert_eq!(one.take(1).await, [(0, 0)]);
    assert_eq!(owners(&bed, 2), ["one", "one"], "given back only when the listener has returned");
    assert_eq!(two.at_hand(), []);
    seconds(60).await;
    assert_eq!(notes.take(), ["two assigned 1"]);
    assert_eq!(two.take(1).await, [(1, 0)]);
    assert_eq!(one.at_hand(), []);
}

#[tokio::test(start_paused = true)]
async fn a_record_in_hand_is_waited_for() {
    let bed = Bed::new(1);
    bed.fill(0, 3);
    let notes = Notes::default();
    let mut one = bed.member("one").await.listener(notes.listener("one")).start();
    let first = one.next().await.expect("goes on").expect("a record");
    assert_eq!(first.offset, offset(0));
    let two = Reading::of(bed.member("two").await.listener(notes.listener("two")).start());
    seconds(1).await;
    bed.fake.groups.lock().groups.get_mut(fake::bed::GROUP).expect("it exists").prefer("two");
    bed.fake.groups.lock().rebalance(fake::bed::GROUP);
    seconds(200).await;
    assert_eq!(notes.take(), ["one assigned 0"], "the application is busy with a record of it");
    assert_eq!(bed.owner(0).as_deref(), Some("one"));
    // It comes back for more: the record is processed, the partition goes.
    let next = one.next().now_or_never();
    assert!(next.is_none(), "{next:?}");
    seconds(1).await;
    assert_eq!(notes.take(), ["one revoked 0", "two assigned 0"]);
    assert_eq!(bed.committed(0), Some(1));
    let mut two = two;
    assert_eq!(two.take(2).await, [(0, 1), (0, 2)]);
}

/// Seeks when it is assigned, commits when it is revoked.
struct OwnOffsets(Notes);

#[tidelog_client::async_trait]
impl RebalanceListener for OwnOffsets {
    async fn on_assigned(&self, group: &GroupHandle, partitions: &[TopicPartition]) {
        assert_eq!(group.assignment(), partitions);
        for at in partitions {
            self.0.note(format!("at {:?}", group.position(at).map(|position| position.get())));
            group.seek(at, offset(2)).expect("it is assigned");
        }
    }

    async fn on_revoked(&self, group: &GroupHandle, _: &[TopicPartition]) {
        group.commit().await.expect("it is still owned");
        self.0.note("committed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_can_seek_and_commit() {
    let bed = Bed::new(1);
    bed.fill(0, 5);
    let notes = Notes::default();
    let member = bed.member("m").await.manual_commit().listener(OwnOffsets(notes.clone()));
    let mut reading = Reading::of(member.start());
    assert_eq!(reading.take(2).await, [(0, 2), (0, 3)], "the first record is the one that was sought");
    assert_eq!(reading.take(1).await, [(0, 4)]);
    seconds(20).await;
    assert_eq!(bed.committed(0), None, "nobody has asked for it");
    reading.close().await.expect("left");
    assert_eq!(notes.take(), ["at Some(0)", "committed"]);
    assert_eq!(bed.committed(0), Some(5));
}

#[tokio::test(start_paused = true)]
async fn closing_leaves_and_dropping_does_not() {
    let bed = Bed::new(1);
    bed.fill(0, 3);
    let notes = Notes::default();
    let mut consumer = bed.member("m").await.listener(notes.listener("m")).start();
    for expected in 0..2 {
        assert_eq!(consumer.next().await.expect("goes on").expect("a record").offset, offset(expected));
    }
    consumer.close().await.expect("committed");
    assert_eq!(notes.take(), ["m assigned 0", "m revoked 0"]);
    // The second record was taken; whether it was processed, nobody has said.
    assert_eq!((bed.committed(0), bed.owner(0)), (Some(1), None));
    assert_eq!(bed.fake.groups.lock().leaves, [("m".to_owned(), false)]);

    let mut consumer = bed.member("m").await.listener(notes.listener("m")).start();
    assert_eq!(consumer.next().await.expect("goes on").expect("a record").offset, offset(1));
    consumer.handle().commit().await.expect("a member");
    drop(consumer);
    seconds(1).await;
    assert_eq!((bed.committed(0), bed.owner(0).as_deref()), (Some(2), Some("m")));
    assert_eq!(bed.fake.groups.lock().leaves.len(), 1);
    assert_eq!(notes.take(), ["m assigned 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_static_member_finds_its_partitions_again() {
    let bed = Bed::new(2);
    let notes = Notes::default();
    let instance = |id: &str| tidelog_client::InstanceId::new(id).expect("an id");
    let member = |client, id| Bed::member_of(client, id);
    let client = bed.client().await;
    let one = member(&client, "one").instance_id(instance("i-1")).start();
    seconds(1).await;
    let two = Reading::of(member(&client, "two").listener(notes.listener("two")).start());
    seconds(1).await;
    assert_eq!(owners(&bed, 2), ["one", "two"]);
    one.close().await.expect("nothing to commit");
    seconds(5).await;
    assert_eq!(notes.take(), ["two assigned 1"], "partition 0 waits for its owner");
    let again = member(&client, "one-again").instance_id(instance("i-1")).start();
    seconds(1).await;
    assert_eq!(owners(&bed, 2), ["one-again", "two"]);
    again.close_permanently().await.expect("nothing to commit");
    seconds(1).await;
    assert_eq!(notes.take(), ["two assigned 0"]);
    drop(two);
}

#[tokio::test(start_paused = true)]
async fn partitions_of_ones_own_choice_need_no_membership() {
    let bed = Bed::new(2);
    (0..2).for_each(|partition| bed.fill(partition, 3));
    let client = bed.client().await;
    let alone = client.group_consumer(fake::bed::group()).partitions([at(1)]);
    let mut reading =
        Reading::of(alone.offset_reset(tidelog_client::OffsetReset::Earliest).manual_commit().start());
    assert_eq!(reading.take(3).await, [(1, 0), (1, 1), (1, 2)]);
    reading.handle.commit().await.expect("the group has no members");
    assert_eq!((bed.committed(0), bed.committed(1)), (None, Some(3)));
    assert!(bed.fake.groups.lock().joins.is_empty());

    let member = Reading::of(bed.member("m").await.start());
    seconds(1).await;
    let refused = reading.handle.commit_offsets([tidelog_client::OffsetCommit::new(at(1), offset(0))]).await;
    let refused = refused.expect_err("the group has a member").to_string();
    assert!(refused.contains("t[1]") && refused.contains("GROUP_NOT_EMPTY"), "{refused}");
    reading.close().await.expect("nothing to commit");
    assert!(bed.fake.groups.lock().leaves.is_empty());
    drop(member);
}

#[tokio::test(start_paused = true)]
async fn topics_by_pattern_are_the_service_s_to_find() {
    let bed = Bed::new(1);
    let notes = Notes::default();
    let client = bed.client().await;
    let member = client.group_consumer(fake::bed::group()).pattern("t.*");
    let _reading = Reading::of(member.listener(notes.listener("m")).start());
    seconds(1).await;
    assert_eq!(notes.take(), ["m assigned 0"]);
    {
        let mut groups = bed.fake.groups.lock();
        groups.topics.insert(format!("{TOPIC}2"), 2);
        groups.topics.insert("other".to_owned(), 2);
        groups.rebalance(fake::bed::GROUP);
    }
    seconds(1).await;
    assert_eq!(notes.take(), ["m assigned 0,1"]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_deleted_goes_without_an_error() {
    let bed = Bed::new(2);
    let notes = Notes::default();
    let mut reading = Reading::of(bed.member("m").await.listener(notes.listener("m")).start());
    seconds(1).await;
    bed.fake.append(0, "v");
    assert_eq!(reading.take(1).await, [(0, 0)]);
    {
        let mut groups = bed.fake.groups.lock();
        groups.topics.clear();
        groups.rebalance(fake::bed::GROUP);
    }
    seconds(10).await;
    assert_eq!(notes.take(), ["m assigned 0,1", "m revoked 0,1"]);
    reading.close().await.expect("there is nothing left to commit");
}
