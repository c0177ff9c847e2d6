use std::time::Duration;

use tidelog_metadata_log::env::Entropy;
use tidelog_types::{GroupName, Incarnation, MemberId, PartitionIndex, TimestampMs, TopicName};

use super::*;
use crate::group::error::{CommitError, NotAssigned};
use crate::record::ConsumedRecord;

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new(
        TopicName::new("t").expect("a name"),
        PartitionIndex::new(partition).expect("in range"),
    )
}

fn offset(value: i64) -> Offset {
    Offset::new(value).expect("in range")
}

fn all(partitions: &[i32]) -> Vec<TopicPartition> {
    partitions.iter().map(|partition| at(*partition)).collect()
}

fn target(partitions: &[i32]) -> Identified {
    partitions.iter().map(|partition| (at(*partition), Some(TopicId(1)))).collect()
}

fn record(partition: i32, at: i64) -> ConsumedRecord {
    ConsumedRecord {
        topic: TopicName::new("t").expect("a name"),
        partition: PartitionIndex::new(partition).expect("in range"),
        offset: offset(at),
        timestamp: TimestampMs(0),
        key: None,
        value: None,
        headers: Vec::new(),
    }
}

fn member() -> Arc<Identity> {
    Arc::new(Identity {
        group: GroupName::new("g").expect("a name"),
        member_id: MemberId::new("m").expect("a name"),
        incarnation: Incarnation(Entropy::seeded(1).uuid()),
    })
}

/// A member whose session lasts 15 s from now.
fn joined() -> (Ledger, Instant) {
    let mut ledger = Ledger::new();
    let now = Instant::now();
    ledger.begin(member());
    ledger.prolong(now + Duration::from_secs(15), now);
    (ledger, now)
}

fn place(partition: i32, position: i64, end: i64) -> Place {
    Place {
        at: at(partition),
        position: Some(offset(position)),
        committed: Some(offset(position)),
        end: Some(offset(end)),
    }
}

/// Carries out the assignment that is due.
fn assign(ledger: &mut Ledger, partitions: &[i32]) {
    assert_eq!(ledger.next_step(), Some(Step::Assign(target(partitions))));
    for partition in partitions {
        ledger.placed(place(*partition, 0, 10));
    }
    let partitions = all(partitions);
    ledger.announcing(&partitions);
    assert!(ledger.assigned(&partitions).is_empty());
    ledger.take_changes();
}

/// A member that reads these partitions from 0.
fn reading(partitions: &[i32]) -> (Ledger, Instant) {
    let (mut ledger, now) = joined();
    ledger.assign(Generation(5), target(partitions), false);
    assign(&mut ledger, partitions);
    (ledger, now)
}

#[test]
fn records_are_delivered_between_assignment_and_revocation() {
    let (mut ledger, now) = joined();
    ledger.assign(Generation(5), target(&[0]), false);
    assert_eq!(ledger.owned(), (target(&[0]), Generation(5)), "owned from when it is told");
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Outdated);
    assign(&mut ledger, &[0]);
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Deliver);
    assert_eq!(ledger.deliver(&record(1, 0), now), Verdict::Outdated, "of another partition");
    assert_eq!(ledger.deliver(&record(0, 5), now), Verdict::Outdated, "from elsewhere");

    ledger.assign(Generation(6), target(&[]), false);
    assert_eq!(ledger.deliver(&record(0, 1), now), Verdict::Outdated, "from the moment at which it is told");
    assert_eq!(ledger.take_changes(), [Change { at: at(0), from: None, topic_id: None }]);
    assert_eq!(ledger.next_step(), Some(Step::Revoke(all(&[0]))));
    assert_eq!(ledger.owned(), (target(&[0]), Generation(6)), "owned until it is released");
    ledger.released(&all(&[0]));
    assert_eq!(ledger.owned(), (target(&[]), Generation(6)));
    assert_eq!(ledger.next_step(), None);
}

#[test]
fn partitions_that_stay_are_not_touched() {
    let (mut ledger, now) = reading(&[0, 1]);
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Deliver);
    ledger.assign(Generation(6), target(&[0, 2]), true);
    assert_eq!(ledger.deliver(&record(0, 1), now), Verdict::Deliver);
    assert_eq!(ledger.next_step(), Some(Step::Revoke(all(&[1]))));
    assert_eq!(ledger.deliver(&record(0, 2), now), Verdict::Deliver);
    ledger.released(&all(&[1]));
    assign(&mut ledger, &[2]);
    assert_eq!(ledger.deliver(&record(0, 3), now), Verdict::Deliver);
    assert_eq!(ledger.deliver(&record(2, 0), now), Verdict::Deliver);
}

#[test]
fn an_assignment_that_was_overtaken_is_ignored() {
    let (mut ledger, now) = reading(&[0]);
    ledger.assign(Generation(4), target(&[]), false);
    assert_eq!(ledger.next_step(), None);
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Deliver);
    assert_eq!(ledger.owned().1, Generation(5));
}

#[test]
fn what_is_taken_back_before_anything_was_done_leaves_no_trace() {
    let (mut ledger, now) = reading(&[0]);
    ledger.assign(Generation(6), target(&[0, 1]), false);
    ledger.assign(Generation(7), target(&[0]), false);
    assert_eq!((ledger.next_step(), ledger.owned()), (None, (target(&[0]), Generation(7))));
    // The same the other way: it comes back before it was given up.
    ledger.assign(Generation(8), target(&[]), false);
    ledger.assign(Generation(9), target(&[0]), false);
    assert_eq!(ledger.next_step(), None);
    let change = Change { at: at(0), from: Some(offset(0)), topic_id: Some(TopicId(1)) };
    assert_eq!(ledger.take_changes(), [change]);
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Deliver);
}

#[test]
fn what_is_taken_back_while_it_is_assigned_is_revoked_afterwards() {
    let (mut ledger, now) = joined();
    ledger.assign(Generation(5), target(&[0]), false);
    assert_eq!(ledger.next_step(), Some(Step::Assign(target(&[0]))));
    ledger.assign(Generation(6), target(&[]), false);
    assert!(ledger.unwanted(&all(&[0])));
    assert_eq!(ledger.next_step(), None, "one step at a time for a partition");
    ledger.placed(place(0, 0, 10));
    ledger.assigned(&all(&[0]));
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Outdated);
    assert_eq!(ledger.next_step(), Some(Step::Revoke(all(&[0]))));
}

#[test]
fn what_comes_back_while_it_is_revoked_is_assigned_anew() {
    let (mut ledger, now) = reading(&[0]);
    ledger.assign(Generation(6), target(&[]), false);
    assert_eq!(ledger.next_step(), Some(Step::Revoke(all(&[0]))));
    ledger.assign(Generation(7), target(&[0]), false);
    assert_eq!(ledger.next_step(), None);
    ledger.released(&all(&[0]));
    assert_eq!(ledger.owned(), (target(&[0]), Generation(7)), "never released as the service sees it");
    assign(&mut ledger, &[0]);
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Deliver);
}

#[test]
fn a_topic_that_was_created_anew_is_another_one() {
    let (mut ledger, now) = reading(&[0]);
    let anew: Identified = [(at(0), Some(TopicId(2)))].into();
    ledger.assign(Generation(6), anew.clone(), false);
    assert_eq!(ledger.next_step(), Some(Step::Revoke(all(&[0]))));
    ledger.released(&all(&[0]));
    assert_eq!(ledger.next_step(), Some(Step::Assign(anew)));
    ledger.placed(place(0, 0, 10));
    ledger.assigned(&all(&[0]));
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Outdated, "read from the one before");
    let change = Change { at: at(0), from: Some(offset(0)), topic_id: Some(TopicId(2)) };
    assert_eq!(ledger.take_changes(), [change]);
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Deliver);
}

#[test]
fn nothing_is_delivered_after_the_session() {
    let (mut ledger, now) = reading(&[0]);
    let end = ledger.ends().expect("it has one");
    let before = end - Duration::from_millis(1);
    assert_eq!(ledger.deliver(&record(0, 0), before), Verdict::Deliver);
    assert_eq!(ledger.deliver(&record(0, 1), end), Verdict::Expired);
    // Once over it is over: an answer that arrives too late brings nothing back.
    ledger.prolong(end + Duration::from_secs(15), end);
    assert_eq!(ledger.deliver(&record(0, 1), end), Verdict::Expired);
    ledger.prolong(end + Duration::from_secs(15), before);
    assert_eq!(ledger.deliver(&record(0, 1), end), Verdict::Deliver);
    // And an end never comes nearer.
    ledger.prolong(now + Duration::from_secs(1), before);
    assert_eq!(ledger.ends(), Some(end + Duration::from_secs(15)));
}

#[test]
fn a_lost_session_takes_everything_that_the_listener_knows_of() {
    let (mut ledger, now) = reading(&[0, 1]);
    ledger.assign(Generation(6), target(&[0, 1, 2]), false);
    ledger.suspend();
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Outdated);
    assert!(ledger.take_changes().iter().all(|change| change.from.is_none()));
    assert_eq!(ledger.basis(), Err(CommitError::NotMember));
    assert_eq!(ledger.lose(), all(&[0, 1]), "2 was not announced");
    assert!(ledger.is_empty() && !ledger.reached_end());
    // The next session begins with any generation.
    ledger.begin(member());
    ledger.prolong(now + Duration::from_secs(15), now);
    ledger.assign(Generation(1), target(&[1]), false);
    assign(&mut ledger, &[1]);
    assert_eq!(ledger.deliver(&record(1, 0), now), Verdict::Deliver);
}

#[test]
fn a_record_counts_as_processed_when_the_next_one_is_asked_for() {
    let (mut ledger, now) = reading(&[0, 1]);
    assert_eq!(ledger.uncommitted_processed(None), []);
    ledger.deliver(&record(0, 0), now);
    assert_eq!(ledger.uncommitted_processed(None), []);
    assert_eq!(ledger.uncommitted_positions(), [(at(0), offset(1))]);
    assert!(ledger.holds(&all(&[0, 1])) && !ledger.holds(&all(&[1])));
    assert!(ledger.came_back());
    assert!(!ledger.holds(&all(&[0, 1])));
    assert_eq!(ledger.uncommitted_processed(None), [(at(0), offset(1))]);
    assert_eq!(ledger.uncommitted_processed(Some(&all(&[1]))), []);
    let basis = ledger.basis().expect("a member");
    ledger.committed(&basis, &at(0), offset(1));
    assert_eq!(ledger.uncommitted_processed(None), []);
    // What another session committed says nothing about this one.
    ledger.deliver(&record(0, 1), now);
    ledger.came_back();
    ledger.committed(&Basis { member: None, ..basis }, &at(0), offset(2));
    assert_eq!(ledger.uncommitted_processed(None), [(at(0), offset(2))]);
}

#[test]
fn closing_does_not_count_what_is_in_hand() {
    let (mut ledger, now) = reading(&[0]);
    ledger.deliver(&record(0, 0), now);
    ledger.came_back();
    ledger.deliver(&record(0, 1), now);
    ledger.close();
    assert_eq!(ledger.next_step(), Some(Step::Revoke(all(&[0]))));
    assert!(!ledger.holds(&all(&[0])));
    assert_eq!(ledger.uncommitted_processed(None), [(at(0), offset(1))]);
    // What the service says meanwhile changes nothing.
    ledger.assign(Generation(6), target(&[0, 1]), false);
    ledger.released(&all(&[0]));
    assert!(ledger.is_empty() && ledger.next_step().is_none());
}

#[test]
fn seek_and_pause_take_effect_before_the_next_record() {
    let (mut ledger, now) = reading(&[0]);
    ledger.deliver(&record(0, 0), now);
    ledger.seek(&at(0), offset(5)).expect("assigned");
    assert_eq!(ledger.deliver(&record(0, 1), now), Verdict::Outdated);
    let change = Change { at: at(0), from: Some(offset(5)), topic_id: Some(TopicId(1)) };
    assert_eq!(ledger.take_changes(), [change]);
    assert_eq!(ledger.deliver(&record(0, 5), now), Verdict::Deliver);
    ledger.set_paused(&at(0), true).expect("assigned");
    assert_eq!(ledger.deliver(&record(0, 6), now), Verdict::Outdated);
    assert_eq!(ledger.take_changes(), [Change { at: at(0), from: None, topic_id: None }]);
    ledger.set_paused(&at(0), false).expect("assigned");
    let change = Change { at: at(0), from: Some(offset(6)), topic_id: Some(TopicId(1)) };
    assert_eq!(ledger.take_changes(), [change], "what was dropped meanwhile is read again");
    // A seek counts when the application comes back, whether it took a record or not.
    ledger.seek(&at(0), offset(2)).expect("assigned");
    ledger.came_back();
    assert_eq!(ledger.uncommitted_processed(None), [(at(0), offset(2))]);
    assert_eq!(ledger.seek(&at(9), offset(0)), Err(NotAssigned(at(9))));
}

#[test]
fn the_end_is_reached_when_everything_that_was_there_is_read() {
    let (mut ledger, now) = joined();
    assert!(!ledger.reached_end(), "nobody has said what there is");
    ledger.assign(Generation(5), target(&[]), true);
    assert!(!ledger.reached_end(), "more will come");
    ledger.assign(Generation(6), target(&[0]), false);
    assert!(!ledger.reached_end());
    assert_eq!(ledger.next_step(), Some(Step::Assign(target(&[0]))));
    ledger.placed(place(0, 8, 9));
    assert!(!ledger.reached_end());
    ledger.assigned(&all(&[0]));
    ledger.take_changes();
    assert!(!ledger.reached_end());
    ledger.deliver(&record(0, 8), now);
    assert!(ledger.reached_end());
    ledger.assign(Generation(7), target(&[]), false);
    assert!(!ledger.reached_end(), "until it is given back");
    assert_eq!(ledger.next_step(), Some(Step::Revoke(all(&[0]))));
    ledger.released(&all(&[0]));
    assert!(ledger.reached_end(), "there is nothing for this one");
}

#[test]
fn a_place_that_is_gone_is_looked_up_once() {
    let (mut ledger, now) = reading(&[0]);
    assert!(ledger.lost_place(&at(0)));
    assert!(!ledger.lost_place(&at(0)));
    assert_eq!(ledger.deliver(&record(0, 0), now), Verdict::Outdated);
    ledger.take_changes();
    assert_eq!(ledger.next_step(), Some(Step::Reset(all(&[0]))));
    assert_eq!(ledger.next_step(), None);
    ledger.placed(Place { committed: None, ..place(0, 7, 10) });
    let change = Change { at: at(0), from: Some(offset(7)), topic_id: Some(TopicId(1)) };
    assert_eq!(ledger.take_changes(), [change]);
    assert_eq!(ledger.deliver(&record(0, 7), now), Verdict::Deliver);
    // The application's own seek is not undone by what was looked up meanwhile.
    assert!(ledger.lost_place(&at(0)));
    assert_eq!(ledger.next_step(), Some(Step::Reset(all(&[0]))));
    ledger.seek(&at(0), offset(9)).expect("assigned");
    ledger.placed(place(0, 7, 10));
    assert_eq!(ledger.position(&at(0)), Some(offset(9)));
}

#[test]
fn partitions_of_ones_own_choice_need_no_session() {
    let mut ledger = Ledger::new();
    ledger.choose(all(&[0]));
    let chosen: Identified = [(at(0), None)].into();
    assert_eq!(ledger.next_step(), Some(Step::Assign(chosen)));
    ledger.placed(place(0, 0, 10));
    ledger.assigned(&all(&[0]));
    ledger.take_changes();
    assert_eq!(ledger.ends(), None);
    assert_eq!(ledger.deliver(&record(0, 0), Instant::now()), Verdict::Deliver);
    assert_eq!(ledger.basis().map(|basis| basis.member), Ok(None));
}
