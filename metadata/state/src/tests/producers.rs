//! Idempotent producers: INV-8.

use tidelog_types::{ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicId};

use super::bed::{Bed, append_one, appended, at, batch, duplicate, slice, stamped};
use crate::command::{BatchOutcome, BatchRefusal, Command, Outcome, Refusal};
use crate::limits::{DESTRUCTION_MARGIN_MS, PRODUCER_EXPIRY_MS};

fn out_of_order(expected: i32) -> BatchOutcome {
    let expected = Sequence::new(expected).expect("a sequence");
    BatchOutcome::Refused(BatchRefusal::OutOfOrderSequence { expected })
}

fn epoch(value: i16) -> ProducerEpoch {
    ProducerEpoch::new(value).expect("an epoch")
}

const UNKNOWN: BatchOutcome = BatchOutcome::Refused(BatchRefusal::UnknownProducer);

fn bed_with_producer() -> (Bed, TopicId, ProducerId) {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    let id = bed.producer();
    (bed, topic, id)
}

#[test]
fn any_of_the_last_five_batches_is_recognised() {
    let (mut bed, topic, id) = bed_with_producer();
    for n in 0..6 {
        assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 0, n * 10)]), [appended((n * 10).into())]);
    }
    let bytes = bed.state.partition(at(topic, 0)).map(|p| p.bytes());
    for n in 1..6 {
        assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 0, n * 10)]), [duplicate((n * 10).into())]);
    }
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 0, 0)]), [out_of_order(60)], "the sixth oldest");
    assert_eq!(bed.append(at(topic, 0), vec![stamped(9, id, 0, 50)]), [out_of_order(60)], "other content");
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 0, 61)]), [out_of_order(60)], "a gap");
    assert_eq!(bed.state.partition(at(topic, 0)).map(|p| p.bytes()), bytes, "no byte is referenced twice");
    assert_eq!(bed.state.objects().count(), 6);
    assert_eq!(
        bed.append(at(topic, 1), vec![stamped(10, id, 0, 60)]),
        [out_of_order(0)],
        "another partition"
    );
}

#[test]
fn a_repeat_between_new_batches_leaves_a_gap_of_bytes_not_of_offsets() {
    let (mut bed, topic, id) = bed_with_producer();
    bed.append(at(topic, 0), vec![stamped(1, id, 0, 0)]);
    let outcomes = bed.append(
        at(topic, 0),
        vec![
            stamped(2, id, 0, 1),
            stamped(1, id, 0, 0),
            stamped(3, id, 0, 3),
            stamped(3, id, 0, 3),
            batch(1),
        ],
    );
    assert_eq!(outcomes, [appended(1), duplicate(0), appended(3), duplicate(3), appended(6)]);
    let partition = bed.state.partition(at(topic, 0)).expect("it exists");
    let places: Vec<_> = partition.slices().iter().map(|s| (s.position, s.length, s.records)).collect();
    assert_eq!(places, [(0, 100, 1), (0, 100, 2), (200, 100, 3), (400, 100, 1)]);
    assert_eq!(bed.state.objects().map(|(_, object)| object.references).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn repeats_are_recognised_after_their_records_are_gone() {
    let (mut bed, topic, id) = bed_with_producer();
    bed.append(at(topic, 0), vec![stamped(10, id, 0, 0)]);
    bed.run(Command::DeleteRecords { partition: at(topic, 0), before: None });
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 0, 0)]), [duplicate(0)]);
    assert_eq!(bed.state.objects().count(), 0);
}

#[test]
fn sequences_go_on_at_zero_after_the_largest() {
    let (mut bed, topic, id) = bed_with_producer();
    let most = i32::MAX.unsigned_abs();
    assert_eq!(bed.append(at(topic, 0), vec![stamped(most - 4, id, 0, 0)]), [appended(0)]);
    let end = i64::from(most - 4);
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 0, i32::MAX - 4)]), [appended(end)]);
    assert_eq!(bed.append(at(topic, 0), vec![stamped(1, id, 0, 6)]), [out_of_order(5)]);
    assert_eq!(bed.append(at(topic, 0), vec![stamped(1, id, 0, 5)]), [appended(end + 10)]);
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 0, i32::MAX - 4)]), [duplicate(end)]);
}

#[test]
fn a_new_epoch_begins_at_sequence_zero_and_fences_the_old_one() {
    let (mut bed, topic, id) = bed_with_producer();
    bed.append(at(topic, 0), vec![stamped(10, id, 0, 0)]);
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 1, 0)]), [UNKNOWN], "an epoch not given yet");
    let ready = Outcome::ProducerReady { id, epoch: epoch(1) };
    assert_eq!(bed.run(Command::InitProducer { existing: Some((id, epoch(0))) }), ready);
    let fenced = BatchOutcome::Refused(BatchRefusal::ProducerFenced { current: epoch(1) });
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 0, 10)]), [fenced]);
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 0, 0)]), [fenced], "repeats too");
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 1, 10)]), [out_of_order(0)]);
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 1, 0)]), [appended(10)]);
    assert_eq!(bed.append(at(topic, 0), vec![stamped(10, id, 1, 0)]), [duplicate(10)]);
    let late = Outcome::Refused(Refusal::ProducerFenced { current: epoch(1) });
    assert_eq!(bed.run(Command::InitProducer { existing: Some((id, epoch(0))) }), late);
    assert_eq!(bed.run(Command::InitProducer { existing: Some((id, epoch(2))) }), late);
}

#[test]
fn an_id_that_has_used_up_its_epochs_gets_a_successor() {
    let (mut bed, _, id) = bed_with_producer();
    bed.state.producers.get_mut(&id).expect("it exists").epoch = epoch(i16::MAX);
    match bed.run(Command::InitProducer { existing: Some((id, epoch(i16::MAX))) }) {
        Outcome::ProducerReady { id: successor, epoch: ProducerEpoch::ZERO } => assert!(successor > id),
        other => panic!("{other:?}"),
    }
}

#[test]
fn ids_that_were_never_given_are_unknown() {
    let (mut bed, topic, id) = bed_with_producer();
    let never = ProducerId::new(id.get() + 1).expect("an id");
    assert_eq!(bed.append(at(topic, 0), vec![stamped(1, never, 0, 0)]), [UNKNOWN]);
    let unknown = Outcome::Refused(Refusal::UnknownProducer);
    assert_eq!(bed.run(Command::InitProducer { existing: Some((never, epoch(0))) }), unknown);
    assert_eq!(bed.producer(), never, "ids rise");
}

#[test]
fn the_fate_of_a_batch_is_its_own() {
    let (mut bed, topic, id) = bed_with_producer();
    let outcomes = bed.commit(vec![
        slice(at(topic, 0), 0, vec![stamped(1, id, 0, 5), batch(2), stamped(1, id, 0, 0)]),
        slice(at(topic, 1), 300, vec![stamped(1, id, 0, 0)]),
    ]);
    assert_eq!(outcomes, [vec![out_of_order(0), appended(0), appended(2)], vec![appended(0)]]);
}

fn expire(bed: &mut Bed, proposer_time: i64) -> u32 {
    let proposer_time = TimestampMs(proposer_time);
    let foreseen = bed.state.has_expired_producers(proposer_time);
    match bed.run(Command::ExpireProducers { proposer_time }) {
        Outcome::ProducersExpired(count) => {
            // A proposer looks before it proposes, at an earlier log time.
            assert!(count > 0 || !foreseen);
            count
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn idle_producers_expire_with_all_that_is_remembered_of_them() {
    let (mut bed, topic, id) = bed_with_producer();
    let start = bed.time.0;
    let idle = bed.producer();
    for (partition, id) in [(0, id), (1, id), (0, idle)] {
        assert!(matches!(
            bed.append(at(topic, partition), vec![stamped(1, id, 0, 0)])[..],
            [BatchOutcome::Appended { .. }]
        ));
    }
    let life = PRODUCER_EXPIRY_MS + DESTRUCTION_MARGIN_MS;
    bed.time = TimestampMs(start + life);
    append_one(&mut bed, at(topic, 0), 1);
    assert_eq!(expire(&mut bed, start + life), 0, "not a moment before");
    assert_eq!(bed.append(at(topic, 0), vec![stamped(1, id, 0, 1)]), [appended(3)], "this one is in use");
    bed.time = TimestampMs(start + life + 1);
    append_one(&mut bed, at(topic, 0), 1);
    assert_eq!(expire(&mut bed, start + life), 0, "the proposer's clock is behind");
    assert_eq!(expire(&mut bed, start + life + 1), 1);
    assert!(!bed.state.producers.contains_key(&idle));
    let windows = |bed: &Bed, n| bed.state.partition(at(topic, n)).map_or(0, |p| p.windows.len());
    assert_eq!((windows(&bed, 0), windows(&bed, 1)), (1, 1));
    assert_eq!(bed.append(at(topic, 0), vec![stamped(1, idle, 0, 1)]), [UNKNOWN]);
    assert_eq!(bed.append(at(topic, 0), vec![stamped(1, idle, 0, 0)]), [UNKNOWN], "not even from the start");
    assert_eq!(bed.append(at(topic, 1), vec![stamped(1, id, 0, 0)]), [duplicate(0)]);
}

#[test]
fn a_proposer_from_the_future_does_not_expire_anyone_early() {
    let (mut bed, topic, id) = bed_with_producer();
    assert_eq!(expire(&mut bed, i64::MAX), 0);
    assert_eq!(expire(&mut bed, i64::MIN), 0);
    // Nor does a leader whose clock fell back: log time does not fall.
    bed.time = TimestampMs(i64::MIN);
    assert_eq!(expire(&mut bed, i64::MAX), 0);
    assert_eq!(bed.append(at(topic, 0), vec![stamped(1, id, 0, 0)]), [appended(0)]);
}
