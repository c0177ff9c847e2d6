//! Offsets, slices and the objects that they lie in.

use tidelog_types::{LogIndex, SegmentId, TimestampMs};
use uuid::Uuid;

use super::bed::{BATCH_BYTES, Bed, append_one, appended, at, batch, offset, segment, slice};
use crate::command::{BatchCommit, BatchOutcome, BatchRefusal, Command, Outcome, Refusal};
use crate::limits::SLICES_PER_SEGMENT_MAX;

#[test]
fn offsets_are_dense_and_each_batch_has_its_own() {
    let mut bed = Bed::new();
    let (a, b) = (bed.topic("a", 2), bed.topic("b", 1));
    let outcomes = bed.commit(vec![
        slice(at(a, 0), 0, vec![batch(3), batch(4)]),
        slice(at(b, 0), 200, vec![batch(1)]),
        slice(at(a, 1), 300, vec![batch(2)]),
    ]);
    assert_eq!(outcomes, [vec![appended(0), appended(3)], vec![appended(0)], vec![appended(0)]]);
    assert_eq!(bed.append(at(a, 0), vec![batch(5)]), [appended(7)]);
    let partition = bed.state.partition(at(a, 0)).expect("it exists");
    assert_eq!((partition.end().get(), partition.bytes()), (12, 3 * u64::from(BATCH_BYTES)));
    let slices: Vec<_> = partition.slices().iter().map(|s| (s.base_offset.get(), s.records)).collect();
    assert_eq!(slices, [(0, 7), (7, 5)], "batches side by side count once");
    let references: Vec<u32> = bed.state.objects().map(|(_, object)| object.references).collect();
    assert_eq!(references, [3, 1]);
}

#[test]
fn partitions_that_changed_are_named() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 3);
    let commit = |n, slices| {
        let commit = segment(LogIndex(0), SegmentId(Uuid::from_u128(n)), slices);
        let command = Command::CommitSegment(commit);
        crate::EntryBody::Batch(vec![super::bed::proposal(super::bed::OTHER_AGENT, 1, 1, command)])
    };
    let body = commit(
        1,
        vec![
            slice(at(topic, 2), 0, vec![batch(1)]),
            slice(at(topic, 9), 100, vec![batch(1)]),
            slice(at(topic, 0), 200, vec![batch(1)]),
        ],
    );
    assert_eq!(bed.apply(body.clone()).changed, [at(topic, 2), at(topic, 0)]);
    assert_eq!(bed.apply(body).changed, [], "a repeat changes nothing");
    let delete = |number, before| {
        let command = Command::DeleteRecords { partition: at(topic, 2), before: Some(offset(before)) };
        crate::EntryBody::Batch(vec![super::bed::proposal(super::bed::OTHER_AGENT, number, 1, command)])
    };
    assert_eq!(bed.apply(delete(2, 1)).changed, [at(topic, 2)]);
    assert_eq!(bed.apply(delete(3, 1)).changed, [], "the log start is there already");
}

#[test]
fn an_object_without_a_slice_is_not_kept() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    bed.commit(vec![slice(at(topic, 5), 0, vec![batch(1)])]);
    bed.commit(Vec::new());
    assert_eq!(bed.state.objects().count(), 0);
}

#[test]
fn a_segment_that_contradicts_itself_is_refused_whole() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    let good = || slice(at(topic, 0), 0, vec![batch(1)]);
    let with = |batch: BatchCommit| {
        segment(LogIndex(0), SegmentId(Uuid::nil()), vec![good(), slice(at(topic, 0), 100, vec![batch])])
    };
    let empty = BatchCommit { length: 0, ..batch(1) };
    let mut short = with(batch(1));
    short.size_bytes -= 1;
    let mut far = with(batch(1));
    far.slices[1].position = u32::MAX - 10;
    let many = vec![good(); SLICES_PER_SEGMENT_MAX + 1];
    for commit in [
        with(empty),
        with(batch(0)),
        short,
        far,
        segment(LogIndex(0), SegmentId(Uuid::nil()), vec![good(), slice(at(topic, 0), 0, Vec::new())]),
        segment(LogIndex(0), SegmentId(Uuid::nil()), many),
    ] {
        let refused = Outcome::Refused(Refusal::Malformed);
        assert_eq!(bed.run(Command::CommitSegment(commit)), refused);
    }
    assert_eq!(bed.state.partition(at(topic, 0)).map(|p| p.end().get()), Some(0));
}

#[test]
fn offsets_end() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    // Half a million commits of four thousand million records would take a while, so the log start is set.
    let known = std::sync::Arc::make_mut(bed.state.topics.get_mut(&topic).expect("it exists"));
    let partition = std::sync::Arc::make_mut(&mut known.partitions[0]);
    (partition.log_start, partition.end) = (offset(i64::MAX - 10), offset(i64::MAX - 10));
    let exhausted = BatchOutcome::Refused(BatchRefusal::OffsetsExhausted);
    let outcomes = bed.append(at(topic, 0), vec![batch(4), batch(7), batch(6), batch(1)]);
    assert_eq!(outcomes, [appended(i64::MAX - 10), exhausted, appended(i64::MAX - 6), exhausted]);
}

fn delete(bed: &mut Bed, topic: tidelog_types::TopicId, before: Option<i64>) -> Outcome {
    bed.run(Command::DeleteRecords { partition: at(topic, 0), before: before.map(offset) })
}

fn log_start_is(start: i64) -> Outcome {
    Outcome::RecordsDeleted { log_start: offset(start) }
}

#[test]
fn the_log_start_only_rises() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    for _ in 0..4 {
        append_one(&mut bed, at(topic, 0), 10);
    }
    let slices = |bed: &Bed| bed.state.partition(at(topic, 0)).map_or(0, |p| p.slices().len());
    assert_eq!(delete(&mut bed, topic, Some(0)), log_start_is(0));
    assert_eq!(delete(&mut bed, topic, Some(15)), log_start_is(15));
    assert_eq!(
        (slices(&bed), bed.state.objects().count()),
        (3, 3),
        "a slice stays while one record of it does"
    );
    assert_eq!(delete(&mut bed, topic, Some(5)), log_start_is(15), "below the start");
    let range = Refusal::OffsetOutOfRange { start: offset(15), end: offset(40) };
    assert_eq!(delete(&mut bed, topic, Some(41)), Outcome::Refused(range));
    assert_eq!(
        delete(&mut bed, topic, Some(i64::MAX)),
        Outcome::Refused(Refusal::OffsetOutOfRange { start: offset(15), end: offset(40) })
    );
    assert_eq!(delete(&mut bed, topic, Some(30)), log_start_is(30));
    assert_eq!(slices(&bed), 1);
    assert_eq!(delete(&mut bed, topic, None), log_start_is(40));
    assert_eq!((slices(&bed), bed.state.objects().count()), (0, 0));
    assert_eq!(delete(&mut bed, topic, Some(40)), log_start_is(40));
    append_one(&mut bed, at(topic, 0), 1);
    let partition = bed.state.partition(at(topic, 0)).expect("it exists");
    assert_eq!((partition.log_start().get(), partition.end().get()), (40, 41));
}

#[test]
fn an_object_goes_with_the_last_slice_that_refers_to_it() {
    let mut bed = Bed::new();
    let (a, b) = (bed.topic("a", 1), bed.topic("b", 2));
    bed.commit(vec![
        slice(at(a, 0), 0, vec![batch(1)]),
        slice(at(b, 0), 100, vec![batch(1)]),
        slice(at(b, 1), 200, vec![batch(1)]),
    ]);
    let references = |bed: &Bed| bed.state.objects().map(|(_, object)| object.references).collect::<Vec<_>>();
    assert_eq!(references(&bed), [3]);
    assert_eq!(delete(&mut bed, a, None), log_start_is(1));
    assert_eq!(references(&bed), [2]);
    assert_eq!(delete(&mut bed, a, None), log_start_is(1));
    assert_eq!(references(&bed), [2], "dropped once");
    bed.run(Command::DeleteTopic { topic: b });
    assert_eq!(references(&bed), [0_u32; 0]);
}

#[test]
fn lookup_by_time_skips_what_cannot_hold_it() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    for timestamp in [100, 50, 300, 200] {
        let batch = BatchCommit { max_timestamp: TimestampMs(timestamp), ..batch(10) };
        bed.append(at(topic, 0), vec![batch]);
    }
    delete(&mut bed, topic, Some(5));
    let from = |bed: &Bed, time| -> Vec<i64> {
        let partition = bed.state.partition(at(topic, 0)).expect("it exists");
        partition.slices_from_time(TimestampMs(time)).map(|slice| slice.base_offset.get()).collect()
    };
    assert_eq!(from(&bed, 0), [0, 10, 20, 30]);
    assert_eq!(from(&bed, 60), [0, 20, 30]);
    assert_eq!(from(&bed, 201), [20]);
    assert_eq!(from(&bed, 301), [0_i64; 0]);
    let timed = |timestamp| BatchCommit { max_timestamp: TimestampMs(timestamp), ..batch(10) };
    bed.append(at(topic, 0), vec![timed(1), timed(500), timed(2)]);
    assert_eq!(from(&bed, 301), [40], "side by side they have the largest timestamp of all");
}
