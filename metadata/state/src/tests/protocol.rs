//! Places, epochs, seals, snapshots named by Begins, truncation.

use tidelog_types::{ClusterId, LogEpoch, LogSeq, Place, TimestampMs};
use uuid::Uuid;

use super::bed::{Bed, create};
use crate::command::{Command, Outcome, Refusal};
use crate::entry::{Begin, EntryBody, EntryId, SnapshotRef};
use crate::{ApplyError, State};

fn place(epoch: u64, seq: u64) -> Place {
    Place::new(LogEpoch(epoch), LogSeq(seq))
}

fn snapshot(epoch: u64, seq: u64) -> SnapshotRef {
    SnapshotRef { next: place(epoch, seq), name: format!("{epoch}-{seq}") }
}

fn genesis() -> EntryBody {
    EntryBody::Genesis { cluster: ClusterId(Uuid::from_u128(1)) }
}

fn misplaced(error: &ApplyError) -> bool {
    matches!(error, ApplyError::Misplaced { .. })
}

#[test]
fn only_the_next_place_can_be_applied() {
    let mut bed = Bed::new();
    for found in [place(0, 0), place(1, 0), place(1, 2), place(2, 0), place(2, 1)] {
        let error = bed.refused(found, EntryBody::Batch(Vec::new()));
        assert_eq!(error, ApplyError::NotNext { found, expected: place(1, 1) });
    }
    bed.apply(EntryBody::Batch(Vec::new()));
    assert_eq!(bed.state.next(), place(1, 2));
}

#[test]
fn each_kind_of_entry_has_its_places() {
    let mut bed = Bed::empty();
    let begin = |bed: &Bed| EntryBody::Begin(bed.begin(None));
    for body in [EntryBody::Seal, EntryBody::Batch(Vec::new()), begin(&bed)] {
        assert!(misplaced(&bed.refused(place(0, 0), body)));
    }
    bed.apply(genesis());
    for body in [genesis(), EntryBody::Batch(Vec::new()), begin(&bed)] {
        assert!(misplaced(&bed.refused(place(0, 1), body)));
    }
    bed.apply(EntryBody::Seal);
    assert_eq!((bed.state.next(), bed.state.leader()), (place(1, 0), None));
    for body in [genesis(), EntryBody::Batch(Vec::new()), EntryBody::Seal] {
        assert!(misplaced(&bed.refused(place(1, 0), body)));
    }
    bed.apply(begin(&bed));
    assert!(bed.state.leader().is_some() && bed.state.open_seal().is_none());
    for body in [genesis(), begin(&bed)] {
        assert!(misplaced(&bed.refused(place(1, 1), body)));
    }
    bed.apply(EntryBody::Seal);
    bed.apply(begin(&bed));
    assert_eq!(bed.state.next(), place(2, 1), "an epoch may end as soon as it began");
}

#[test]
fn a_begin_that_follows_another_seal_shows_a_dead_branch() {
    let mut bed = Bed::new();
    bed.apply(EntryBody::Seal);
    let begin = Begin { seal: EntryId(Uuid::from_u128(99)), ..bed.begin(None) };
    assert_eq!(
        bed.refused(place(2, 0), EntryBody::Begin(begin)),
        ApplyError::DeadBranch { place: place(2, 0) }
    );
}

#[test]
fn a_begin_with_another_digest_shows_divergence() {
    let mut bed = Bed::new();
    bed.topic("t", 1);
    bed.apply(EntryBody::Seal);
    let own = bed.state.digest();
    let begin = Begin { digest: own ^ 1, ..bed.begin(None) };
    let error = ApplyError::Diverged { place: place(2, 0), own, leader: own ^ 1 };
    assert_eq!(bed.refused(place(2, 0), EntryBody::Begin(begin)), error);
}

#[test]
fn other_outcomes_give_another_digest() {
    let digest = |partitions| {
        let mut bed = Bed::new();
        bed.run(create("t", partitions));
        bed.state.digest()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(0));
}

#[test]
fn snapshots_do_not_go_back_nor_forward() {
    let mut bed = Bed::new();
    bed.topic("t", 1);
    bed.topic("u", 1);
    bed.roll(Some(snapshot(1, 2)));
    assert_eq!((bed.state.snapshot(), bed.state.older_snapshots()), (Some(&snapshot(1, 2)), &[][..]));
    bed.apply(EntryBody::Seal);
    for wrong in [None, Some(snapshot(1, 1)), Some(snapshot(3, 0)), Some(snapshot(9, 9))] {
        let error = bed.refused(place(3, 0), EntryBody::Begin(bed.begin(wrong)));
        assert!(misplaced(&error), "{error}");
    }
    bed.apply(EntryBody::Begin(bed.begin(Some(snapshot(1, 2)))));
    assert_eq!(bed.state.older_snapshots(), &[], "the same one again");
    bed.roll(Some(snapshot(3, 1)));
    assert_eq!(
        (bed.state.snapshot(), bed.state.older_snapshots()),
        (Some(&snapshot(3, 1)), &[snapshot(1, 2)][..])
    );
}

/// Epoch 1 has its Begin, `batches` batches and a seal, and a snapshot before `(1, next)` is in force in epoch 2.
fn rolled(batches: u64, next: u64) -> Bed {
    let mut bed = Bed::new();
    for _ in 0..batches {
        bed.apply(EntryBody::Batch(Vec::new()));
    }
    bed.roll(Some(snapshot(1, next)));
    bed
}

#[test]
fn removable_is_what_lies_below_the_snapshot_and_not_beside_a_seal() {
    // Places of epoch 1: Begin 0, batches 1..=10, seal 11.
    for (next, removable) in [
        (1, vec![]),
        (2, vec![(LogEpoch(1), 1..2)]),
        (5, vec![(LogEpoch(1), 1..5)]),
        (10, vec![(LogEpoch(1), 1..10)]),
        (11, vec![(LogEpoch(1), 1..10)]),
        (12, vec![(LogEpoch(1), 1..10)]),
    ] {
        assert_eq!(rolled(10, next).state.removable_places(), removable, "snapshot before (1, {next})");
    }
    for batches in 0..2 {
        assert_eq!(rolled(batches, batches + 1).state.removable_places(), [], "{batches} batches");
    }
}

#[test]
fn nothing_is_removable_without_a_snapshot_or_between_epochs() {
    let mut bed = Bed::new();
    for _ in 0..5 {
        bed.apply(EntryBody::Batch(Vec::new()));
    }
    bed.roll(None);
    assert_eq!(bed.state.removable_places(), [], "no snapshot");
    bed.roll(Some(snapshot(2, 1)));
    assert_eq!(bed.state.removable_places(), [(LogEpoch(1), 1..5)]);
    bed.apply(EntryBody::Seal);
    assert_eq!(bed.state.removable_places(), [], "the last epoch has no successor yet");
}

#[test]
fn places_of_the_open_epoch_are_never_removable() {
    let mut bed = rolled(10, 5);
    for _ in 0..10 {
        bed.apply(EntryBody::Batch(Vec::new()));
    }
    assert!(bed.state.removable_places().iter().all(|(epoch, _)| *epoch == LogEpoch(1)));
}

#[test]
fn a_truncation_that_was_noted_is_not_asked_for_again() {
    let mut bed = rolled(10, 5);
    let note = |bed: &mut Bed, epoch, seq| bed.run(Command::NoteTruncation { below: place(epoch, seq) });
    assert_eq!(note(&mut bed, 1, 5), Outcome::TruncationNoted);
    assert_eq!((bed.state.truncated_below(), bed.state.removable_places()), (place(1, 5), vec![]));
    assert_eq!(note(&mut bed, 1, 2), Outcome::TruncationNoted);
    assert_eq!(bed.state.truncated_below(), place(1, 5), "it only rises");
    for (epoch, seq) in [(1, 6), (2, 0), (u64::MAX, u64::MAX)] {
        assert_eq!(note(&mut bed, epoch, seq), Outcome::Refused(Refusal::Malformed), "above the snapshot");
    }
    assert_eq!(bed.state.truncated_below(), place(1, 5));
    let next = bed.snapshot_ref();
    bed.roll(Some(next.clone()));
    let (seal, below) = (next.next.seq.0, next.next);
    assert_eq!(bed.state.removable_places(), [(LogEpoch(1), 5..10), (LogEpoch(2), 1..seal - 1)]);
    assert_eq!(note(&mut bed, below.epoch.0, below.seq.0), Outcome::TruncationNoted);
    assert_eq!(bed.state.removable_places(), []);
    assert_eq!(
        bed.state.epoch_ends.keys().copied().collect::<Vec<_>>(),
        [LogEpoch(2)],
        "epoch 1 is done with"
    );
}

#[test]
fn a_first_place_is_kept_also_where_truncation_ended_at_it() {
    let mut bed = rolled(5, 3);
    let next = place(2, 0);
    for _ in 0..5 {
        bed.apply(EntryBody::Batch(Vec::new()));
    }
    bed.roll(Some(SnapshotRef { next, name: "between-epochs".into() }));
    assert_eq!(bed.run(Command::NoteTruncation { below: next }), Outcome::TruncationNoted);
    bed.roll(Some(snapshot(3, 1)));
    assert_eq!(bed.state.removable_places(), [(LogEpoch(2), 1..5)]);
}

#[test]
fn a_truncation_keeps_the_snapshot_in_force_and_the_one_before() {
    let mut bed = rolled(3, 2);
    for _ in 0..3 {
        let next = bed.snapshot_ref();
        bed.roll(Some(next));
    }
    let all =
        [bed.state.older_snapshots(), bed.state.snapshot().map(std::slice::from_ref).unwrap_or_default()]
            .concat();
    assert_eq!(all.len(), 4);
    bed.run(Command::NoteTruncation { below: place(1, 2) });
    assert_eq!(bed.state.snapshot(), all.last());
    assert_eq!(bed.state.older_snapshots(), &all[2..3]);
}

#[test]
fn log_time_never_falls() {
    let mut bed = Bed::new();
    for (written, log_time) in [(5_000, 5_000), (4_000, 5_000), (i64::MIN, 5_000), (6_000, 6_000)] {
        bed.time = TimestampMs(1_000_000_000 + written);
        if written == i64::MIN {
            bed.time = TimestampMs(written);
        }
        bed.apply(EntryBody::Batch(Vec::new()));
        assert_eq!(bed.state.log_time(), TimestampMs(1_000_000_000 + log_time));
    }
}

#[test]
fn the_log_index_counts_every_entry() {
    let mut bed = rolled(2, 1);
    bed.topic("t", 1);
    assert_eq!(bed.state.index().0, bed.entries.len() as u64);
    assert_eq!(State::new().index().0, 0);
}
