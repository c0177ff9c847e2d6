//! Snapshots that contradict themselves, are cut, flipped or meant to do harm.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::snapshots::rich;
use crate::SnapshotError;
use crate::snapshot::{forge, forge_zstd, records_of};
use crate::state::State;
use crate::wire::snapshot_record::Record;
use crate::wire::{self, SnapshotRecord};

fn decode(records: &[SnapshotRecord]) -> Result<State, SnapshotError> {
    State::decode_snapshot(&forge(records))
}

/// Changes the first record that `change` is for.
pub fn with(mut change: impl FnMut(&mut Record) -> bool) -> Result<State, SnapshotError> {
    let mut records = records_of(&rich().state);
    let changed = records.iter_mut().filter_map(|record| record.record.as_mut()).any(&mut change);
    assert!(changed, "the state has such a record");
    decode(&records)
}

pub fn incoherent(result: Result<State, SnapshotError>) -> &'static str {
    match result {
        Err(SnapshotError::Incoherent(what)) => what,
        other => panic!("{:?}", other.map(|_| "accepted")),
    }
}

pub fn field(result: Result<State, SnapshotError>) -> &'static str {
    match result {
        Err(SnapshotError::Field { field }) => field,
        other => panic!("{:?}", other.map(|_| "accepted")),
    }
}

/// Applies a change to the first record of one kind.
macro_rules! change {
    ($kind:ident, $message:ident => $change:expr) => {
        $crate::tests::damaged::with(|record| match record {
            $crate::wire::snapshot_record::Record::$kind($message) => {
                let mut change = || {
                    $change;
                    true
                };
                change()
            }
            _ => false,
        })
    };
}

pub(super) use change;

#[test]
fn a_flipped_byte_is_an_error() {
    let bytes = rich().state.encode_snapshot();
    for position in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut flipped = bytes.to_vec();
            flipped[position] ^= flip;
            assert!(State::decode_snapshot(&flipped).is_err(), "byte {position}");
        }
        assert!(State::decode_snapshot(&bytes[..position]).is_err(), "cut at {position}");
    }
    let longer = [&bytes[..], b"\0"].concat();
    assert!(matches!(State::decode_snapshot(&longer), Err(SnapshotError::Checksum { .. })));
}

#[test]
fn other_formats_and_levels_are_refused_by_name() {
    let bytes = rich().state.encode_snapshot();
    let mut newer = bytes.to_vec();
    newer[4] = 2;
    assert_eq!(State::decode_snapshot(&newer), Err(SnapshotError::Version { found: 2 }));
    assert_eq!(change!(Header, header => header.level = 2), Err(SnapshotError::Level { needed: 2 }));
    assert_eq!(change!(Header, header => header.level = 0), Err(SnapshotError::Level { needed: 0 }));
    // The level is looked at before anything that it may have changed.
    let strange =
        change!(Header, header => (header.level, header.cluster_id) = (9, Bytes::from_static(b"?")));
    assert_eq!(strange, Err(SnapshotError::Level { needed: 9 }));
    for other in [&b""[..], b"TLE1", b"TLE1 and eighteen bytes", b"<?xml version=\"1.0\"?>"] {
        assert!(matches!(State::decode_snapshot(other), Err(SnapshotError::Frame(_))));
    }
}

#[test]
fn the_forger_is_honest_when_it_changes_nothing() {
    let state = rich().state;
    assert_eq!(decode(&records_of(&state)), Ok(state));
}

#[test]
fn records_that_are_missing_twice_or_elsewhere_are_noticed() {
    let state = rich().state;
    let records = records_of(&state);
    let optional = |record: &SnapshotRecord| {
        // Nothing else speaks of a name that no topic has, nor of an agent that has no outcomes.
        matches!(record.record, Some(Record::Directory(_)))
    };
    for n in 0..records.len() {
        let mut fewer = records.clone();
        let removed = fewer.remove(n);
        if !optional(&removed) {
            assert!(decode(&fewer).is_err(), "without record {n}, {removed:?}");
        }
        let mut more = records.clone();
        more.insert(n, records[n].clone());
        assert!(decode(&more).is_err(), "twice record {n}, {:?}", records[n]);
        for other in 0..n {
            let mut swapped = records.clone();
            swapped.swap(n, other);
            let swapped = decode(&swapped);
            assert!(swapped.is_err() || swapped.as_ref() == Ok(&state), "swapped {other} and {n}");
        }
    }
    assert_eq!(incoherent(decode(&[])), "it does not begin with a header");
    assert_eq!(field(decode(&[SnapshotRecord { record: None }])), "record");
}

#[test]
fn the_header_has_to_make_sense() {
    assert_eq!(
        incoherent(change!(Header, h => h.cluster_id = Bytes::new())),
        "the cluster has its id from the genesis on"
    );
    assert_eq!(
        incoherent(change!(Header, h => h.seal_id = h.leader.clone())),
        "a seal lies between epochs and nowhere else"
    );
    assert_eq!(
        incoherent(change!(Header, h => h.leader = Bytes::new())),
        "an epoch has a leader, and nothing else has"
    );
    assert_eq!(
        incoherent(change!(Header, h => h.floor = h.index + 1)),
        "the collection floor lies in the future"
    );
    assert_eq!(
        incoherent(change!(Header, h => h.snapshots.reverse())),
        "its list of snapshots is out of order"
    );
    assert_eq!(incoherent(change!(Header, h => h.next_epoch = 1)), "it knows a snapshot from the future");
    assert_eq!(
        incoherent(change!(Header, h => h.truncated_below_epoch = 9)),
        "the log was truncated beyond its end"
    );
    assert_eq!(incoherent(change!(Header, h => h.closed_epochs.reverse())), "closed epochs are out of order");
    assert_eq!(incoherent(change!(Header, h => h.closed_epochs[2] = 5)), "closed epochs are out of order");
    assert_eq!(
        incoherent(change!(Header, h => h.closed_epoch_seals.clear())),
        "closed epochs and their seals differ in number"
    );
    assert_eq!(
        incoherent(change!(Header, h => h.closed_epoch_seals[0] = 0)),
        "a seal stands at the first place of an epoch"
    );
    assert_eq!(incoherent(change!(Header, h => h.next_topic = 1)), "a topic is newer than the next one");
    assert_eq!(
        incoherent(change!(Header, h => h.next_producer = 1)),
        "a producer is newer than the next one"
    );
    assert_eq!(incoherent(change!(Header, h => h.next_object = 3)), "an object is newer than the next one");
    assert_eq!(field(change!(Header, h => h.cluster_id = Bytes::from_static(b"short"))), "header.cluster_id");
    assert_eq!(field(change!(Header, h => h.next_producer = -1)), "header.next_producer");
    assert_eq!(field(change!(Header, h => h.next_producer = i64::MAX)), "header.next_producer");
    for counter in ["header.next", "header.index", "header.next_topic", "header.next_object"] {
        let result = change!(Header, h => match counter {
            "header.next" => h.next_seq = u64::MAX,
            "header.index" => h.index = u64::MAX,
            "header.next_topic" => h.next_topic = u64::MAX,
            _ => h.next_object = u64::MAX,
        });
        assert_eq!(field(result), counter, "apply could not count on from there");
    }
}

#[test]
fn slices_and_objects_have_to_agree() {
    assert_eq!(
        incoherent(change!(Objects, o => o.references[0] += 1)),
        "an object has more references than slices"
    );
    assert_eq!(
        incoherent(change!(Objects, o => o.references[0] -= 1)),
        "an object has more slices than references"
    );
    assert_eq!(
        incoherent(change!(Objects, o => o.references[0] = 0)),
        "an object is kept though nothing refers to it"
    );
    assert_eq!(incoherent(change!(Objects, o => o.size_bytes[0] = 10)), "a slice ends beyond its object");
    assert_eq!(incoherent(change!(Objects, o => o.number_deltas[1] = 0)), "objects are out of order");
    assert_eq!(incoherent(change!(Objects, o => o.named_at.clear())), "arrays of objects differ in length");
    assert_eq!(incoherent(change!(Objects, o => o.ids.truncate(17))), "arrays of objects differ in length");
    assert_eq!(field(change!(Objects, o => o.number_deltas[2] = u64::MAX)), "objects.number_deltas");
    assert_eq!(
        incoherent(change!(Slices, s => s.object_deltas[0] = 1 << 40)),
        "a slice lies in an unknown object"
    );
    assert_eq!(incoherent(change!(Slices, s => s.records[0] = 0)), "a slice is empty");
    assert_eq!(incoherent(change!(Slices, s => s.lengths[0] = 0)), "a slice is empty");
    assert_eq!(incoherent(change!(Slices, s => s.positions[0] = u32::MAX)), "a slice ends beyond its object");
    assert_eq!(incoherent(change!(Slices, s => s.positions.clear())), "arrays of slices differ in length");
    assert_eq!(
        incoherent(change!(Slices, s => s.records[0] += 1)),
        "the slices of a partition do not reach its end"
    );
}

#[test]
fn partitions_have_to_be_whole() {
    let slices = "the slices of a partition do not reach its end";
    assert_eq!(incoherent(change!(Partition, p => p.end += 1)), slices);
    assert_eq!(
        incoherent(
            change!(Partition, p => (p.log_start, p.first_slice_before) = (p.log_start + 15, p.first_slice_before + 15))
        ),
        "a slice lies below the log start"
    );
    assert_eq!(
        incoherent(change!(Partition, p => p.log_start = p.end + 1)),
        "a partition ends before it starts"
    );
    assert_eq!(field(change!(Partition, p => p.log_start = -1)), "partition.log_start");
    assert_eq!(field(change!(Partition, p => p.first_slice_before = -1)), "partition.first_slice_before");
    assert_eq!(
        field(change!(Partition, p => p.first_slice_before = i64::MAX)),
        "partition.first_slice_before"
    );
    assert_eq!(
        incoherent(change!(Topic, t => t.partitions += 1)),
        "a topic lacks partitions or has too many"
    );
    assert_eq!(
        incoherent(change!(Topic, t => t.directory_number = 3)),
        "a topic has a directory that was never given"
    );
    assert_eq!(
        incoherent(change!(Topic, t => t.directory_number = 0)),
        "a topic has a directory that was never given"
    );
    assert_eq!(incoherent(change!(Topic, t => t.name = "clicks".into())), "two topics have one name");
    assert_eq!(field(change!(Topic, t => t.name = "..".into())), "topic.name");
    assert_eq!(field(change!(Topic, t => t.config[0].key = "nonsense".into())), "topic.config");
    assert_eq!(incoherent(change!(Directory, d => d.name = "orders".into())), "a name is listed twice");
    assert_eq!(incoherent(change!(Directory, d => d.topics = 0)), "a name was never used");
}

#[test]
fn producers_and_windows_have_to_agree() {
    assert_eq!(incoherent(change!(Producers, p => p.id_deltas[1] = 0)), "producers are out of order");
    assert_eq!(incoherent(change!(Producers, p => p.epochs.clear())), "arrays of producers differ in length");
    assert_eq!(field(change!(Producers, p => p.epochs[0] = 40_000)), "producers.epochs");
    let no_producer = change!(Producers, p => {
        p.id_deltas.truncate(1);
        p.epochs.truncate(1);
        p.last_used_deltas.truncate(1);
    });
    assert_eq!(incoherent(no_producer), "a window has no producer");
    assert_eq!(
        incoherent(change!(Windows, w => w.windows[0].epoch = 7)),
        "a window is of a later epoch than its producer"
    );
    assert_eq!(
        incoherent(change!(Windows, w => w.windows[0].records.clear())),
        "a window has no batch or too many"
    );
    assert_eq!(
        incoherent(change!(Windows, w => w.windows[0].records.extend([1; 9]))),
        "a window has no batch or too many"
    );
    assert_eq!(
        incoherent(change!(Windows, w => w.windows[0].base_offset_deltas.clear())),
        "arrays of a window differ in length"
    );
    assert_eq!(
        incoherent(change!(Windows, w => w.windows[0].base_offset_deltas[0] = -1)),
        "batches of a window overlap or are empty"
    );
    let beyond = change!(Windows, w => w.windows[0].base_offset_deltas[0] += 1_000);
    assert_eq!(incoherent(beyond), "a window remembers batches beyond the partition's end");
    let twice = change!(Windows, w => w.windows.push(w.windows[0].clone()));
    assert_eq!(incoherent(twice), "windows are out of order");
    let fewer = change!(Windows, w => w.windows.clear());
    assert_eq!(incoherent(fewer), "a partition lacks windows or has too many");
}

#[test]
fn agents_have_to_make_sense() {
    assert_eq!(field(change!(Agent, a => a.agent = Bytes::new())), "agent.agent");
    assert_eq!(
        incoherent(change!(Agent, a => a.last_index = 1 << 40)),
        "an agent proposed something after the last entry"
    );
    let lacks = "an agent lacks outcomes or has too many";
    assert_eq!(incoherent(change!(Agent, a => a.outcomes += 1)), lacks);
    let older = "an outcome is older than its agent's lowest unresolved";
    assert_eq!(incoherent(change!(Outcome, o => o.number = 0)), older);
    assert_eq!(field(change!(Outcome, o => o.outcome = None)), "outcome.outcome");
    let unspecified = wire::Outcome { outcome: Some(wire::outcome::Outcome::Done(0)) };
    assert_eq!(field(change!(Outcome, o => o.outcome = Some(unspecified.clone()))), "outcome.done");
    let unknown = wire::Outcome { outcome: Some(wire::outcome::Outcome::Done(99)) };
    assert_eq!(field(change!(Outcome, o => o.outcome = Some(unknown.clone()))), "outcome.done");
}

#[test]
fn a_small_snapshot_cannot_claim_much_memory() {
    // 512 MiB of zeros: records without length. The limit is far below.
    let zeros = vec![0; 1024 * 1024];
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("zstd works");
    for _ in 0..512 {
        std::io::Write::write_all(&mut encoder, &zeros).expect("memory takes it");
    }
    let payload = encoder.finish().expect("zstd works");
    assert!(State::decode_snapshot(&forge_zstd(512 << 20, &payload)).is_err());
    // One record that is said to be as long as memory.
    let mut endless = vec![0xff; 9];
    endless.push(1);
    let payload = zstd::bulk::compress(&endless, 1).expect("zstd works");
    assert_eq!(
        State::decode_snapshot(&forge_zstd(1, &payload)),
        Err(SnapshotError::Records { found: 0, stated: 1 })
    );
    // A header with a name of 256 MiB.
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("zstd works");
    let long = 256_u64 << 20;
    let mut head = Vec::new();
    prost::encoding::encode_varint(long, &mut head);
    std::io::Write::write_all(&mut encoder, &head).expect("memory takes it");
    for _ in 0..256 {
        std::io::Write::write_all(&mut encoder, &zeros).expect("memory takes it");
    }
    let payload = encoder.finish().expect("zstd works");
    assert!(matches!(
        State::decode_snapshot(&forge_zstd(1, &payload)),
        Err(SnapshotError::Compression { .. })
    ));
    // A window of 128 MiB.
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("zstd works");
    encoder.window_log(27).expect("it is allowed");
    std::io::Write::write_all(&mut encoder, &zeros).expect("memory takes it");
    let payload = encoder.finish().expect("zstd works");
    assert!(matches!(
        State::decode_snapshot(&forge_zstd(1, &payload)),
        Err(SnapshotError::Compression { .. })
    ));
}

#[test]
fn the_number_of_records_counts() {
    let state = rich().state;
    let records = records_of(&state);
    let payload: Vec<u8> = records.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
    let payload = zstd::bulk::compress(&payload, 1).expect("zstd works");
    let count = records.len() as u64;
    assert_eq!(State::decode_snapshot(&forge_zstd(count, &payload)), Ok(state));
    let found = count - 1;
    assert_eq!(
        State::decode_snapshot(&forge_zstd(found, &payload)),
        Err(SnapshotError::Records { found, stated: found })
    );
    assert_eq!(
        State::decode_snapshot(&forge_zstd(count + 1, &payload)),
        Err(SnapshotError::Records { found: count, stated: count + 1 })
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), records in 0..3_u64) {
        let _ = State::decode_snapshot(&bytes);
        let _ = State::decode_snapshot(&forge_zstd(records, &bytes));
    }

    /// Behind a correct checksum, what is accepted is coherent: it can be written again.
    #[test]
    fn changed_records_are_refused_or_coherent(pick in any::<prop::sample::Index>(), changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut records = records_of(&rich().state);
        let record = pick.get_mut(&mut records);
        let mut bytes = record.encode_to_vec();
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        if let Ok(changed) = SnapshotRecord::decode(&*bytes) {
            *record = changed;
            if let Ok(state) = decode(&records) {
                super::coherence::assert_coherent(&state);
                prop_assert_eq!(State::decode_snapshot(&state.encode_snapshot()), Ok(state));
            }
        }
    }
}
