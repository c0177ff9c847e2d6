//! Entries as bytes.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use tidelog_types::{
    AgentInstance, ClusterId, LogEpoch, LogIndex, LogSeq, Place, ProducerEpoch, ProducerId, SegmentId,
    TimestampMs, TopicId, TopicName,
};
use uuid::Uuid;

use super::bed::{AGENT, at, batch, proposal, slice, stamped};
use crate::command::{BatchCommit, Command, CommitSegment, Proposal, SliceCommit};
use crate::entry::{
    BatchBuilder, Begin, Entry, EntryBody, EntryError, EntryId, FEATURE_LEVEL, SnapshotRef, frame,
};
use crate::group::command::GroupChange;
use crate::wire;

/// Number of the variant. A new one does not compile here: give it a number and an example in `commands` below.
fn variant(command: &Command) -> usize {
    match command {
        Command::CreateTopic { .. } => 0,
        Command::UpdateTopic { .. } => 1,
        Command::AddPartitions { .. } => 2,
        Command::DeleteTopic { .. } => 3,
        Command::DeleteRecords { .. } => 4,
        Command::InitProducer { .. } => 5,
        Command::CommitSegment(_) => 6,
        Command::ExpireProducers { .. } => 7,
        Command::NoteTruncation { .. } => 8,
        Command::Group(command) => match command.change {
            GroupChange::Join { .. } => 9,
            GroupChange::ResolvePattern { .. } => 10,
            GroupChange::Leave { .. } => 11,
            GroupChange::Expire { .. } => 12,
            GroupChange::Release { .. } => 13,
            GroupChange::Assign { .. } => 14,
            GroupChange::Commit { .. } => 15,
            GroupChange::Delete => 16,
        },
        Command::ExpireOffsets { .. } => 17,
    }
}
const VARIANTS: usize = 18;

/// Commands of every variant, with empty, smallest and largest values.
fn commands() -> Vec<Command> {
    let name = TopicName::new("orders").expect("a name");
    let (first, last) = (at(TopicId(0), 0), at(TopicId(u64::MAX), i32::MAX));
    let (id, epoch) =
        (ProducerId::new(i64::MAX).expect("an id"), ProducerEpoch::new(i16::MAX).expect("an epoch"));
    let extreme = |length, timestamp| BatchCommit {
        length,
        records: u32::MAX,
        max_timestamp: TimestampMs(timestamp),
        producer: stamped(1, id, i16::MAX, i32::MAX).producer,
    };
    let batches = vec![
        extreme(0, i64::MAX),
        batch(1),
        extreme(u32::MAX, i64::MIN),
        stamped(2, ProducerId::new(0).expect("an id"), 0, 0),
    ];
    let mut commands = vec![
        Command::CreateTopic { name: name.clone(), partitions: 0, config: Vec::new() },
        Command::CreateTopic {
            name,
            partitions: u32::MAX,
            config: vec![("k".into(), String::new()), ("k".into(), "v".into())],
        },
        Command::UpdateTopic {
            topic: TopicId(7),
            config: vec![("a".into(), None), ("b".into(), Some(String::new()))],
        },
        Command::AddPartitions { topic: TopicId(u64::MAX), partitions: u32::MAX },
        Command::DeleteTopic { topic: TopicId(1) },
        Command::DeleteRecords { partition: first, before: None },
        Command::DeleteRecords { partition: last, before: Some(super::bed::offset(0)) },
        Command::DeleteRecords { partition: last, before: Some(super::bed::offset(i64::MAX)) },
        Command::InitProducer { existing: None },
        Command::InitProducer { existing: Some((ProducerId::new(0).expect("an id"), ProducerEpoch::ZERO)) },
        Command::InitProducer { existing: Some((id, epoch)) },
        Command::CommitSegment(CommitSegment {
            named_at: LogIndex(u64::MAX),
            id: SegmentId(Uuid::max()),
            size_bytes: u32::MAX,
            slices: vec![
                SliceCommit { position: u32::MAX, ..slice(last, 0, batches) },
                slice(first, 0, Vec::new()),
            ],
        }),
        Command::ExpireProducers { proposer_time: TimestampMs(i64::MIN) },
        Command::NoteTruncation { below: Place::new(LogEpoch(u64::MAX), LogSeq(1)) },
    ];
    commands.extend(super::groups::examples());
    commands.push(Command::ExpireOffsets { proposer_time: TimestampMs(i64::MAX) });
    commands
}

fn entry(body: EntryBody) -> Entry {
    Entry { level: FEATURE_LEVEL, id: EntryId(Uuid::from_u128(5)), time: TimestampMs(-1), body }
}

fn proposals() -> Vec<Proposal> {
    commands().into_iter().zip(1..).map(|(command, number)| proposal(AGENT, number, 1, command)).collect()
}

fn entries() -> Vec<Entry> {
    let begin = |snapshot| Begin {
        seal: EntryId(Uuid::max()),
        leader: AgentInstance(Uuid::nil()),
        address: "127.0.0.1:7070".into(),
        snapshot,
        digest: u64::MAX,
    };
    let snapshot = SnapshotRef { next: Place::new(LogEpoch(3), LogSeq(4)), name: "3-4.snap".into() };
    let single = |proposal| EntryBody::Batch(vec![proposal]);
    let mut bodies = vec![
        EntryBody::Genesis { cluster: ClusterId(Uuid::from_u128(1)) },
        EntryBody::Seal,
        EntryBody::Begin(begin(None)),
        EntryBody::Begin(begin(Some(snapshot))),
        EntryBody::Batch(Vec::new()),
        EntryBody::Batch(proposals()),
    ];
    bodies.extend(proposals().into_iter().map(single));
    bodies.into_iter().map(entry).collect()
}

/// An entry that is long enough to be compressed.
fn long_entry() -> Entry {
    entry(EntryBody::Batch(
        (0..200).map(|n| proposal(AGENT, n, n, super::bed::create(&format!("topic-{n}"), 1))).collect(),
    ))
}

fn is_compressed(bytes: &[u8]) -> bool {
    bytes[4] == 1
}

#[test]
fn every_command_and_every_entry_comes_back() {
    let mut seen: Vec<usize> = commands().iter().map(variant).collect();
    seen.dedup();
    assert_eq!(seen, (0..VARIANTS).collect::<Vec<_>>(), "each variant has an example");
    for entry in entries() {
        assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }
}

#[test]
fn long_entries_are_compressed_and_come_back() {
    let entry = long_entry();
    let bytes = entry.encode();
    assert!(is_compressed(&bytes) && bytes.len() < 5_000, "{} bytes", bytes.len());
    assert_eq!(Entry::decode(&bytes), Ok(entry));
}

#[test]
fn what_compression_would_lengthen_is_left_alone() {
    let mut x = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        x.to_be_bytes()[0]
    })
    .take(5_000)
    .collect();
    assert!(!is_compressed(&frame(&noise)));
    assert_eq!(frame(&noise).len(), 5_009);
}

#[test]
fn a_flipped_byte_is_an_error_or_no_change() {
    for entry in entries().into_iter().chain([long_entry()]) {
        let bytes = entry.encode();
        for position in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut flipped = bytes.to_vec();
                flipped[position] ^= flip;
                let decoded = Entry::decode(&flipped);
                assert!(decoded.is_err() || decoded.as_ref() == Ok(&entry), "byte {position}: {decoded:?}");
            }
        }
        for length in 0..bytes.len() {
            assert!(Entry::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }
}

#[test]
fn entries_of_a_newer_level_are_refused_before_they_are_read() {
    let mut entry = long_entry();
    entry.level.0 = 2;
    assert_eq!(Entry::decode(&entry.encode()), Err(EntryError::Level { needed: 2 }));
    // Even if the rest means nothing here.
    let strange = wire::Entry { level: 7, id: Bytes::from_static(b"short"), time_ms: 0, body: None };
    assert_eq!(Entry::decode(&frame(&strange.encode_to_vec())), Err(EntryError::Level { needed: 7 }));
    entry.level.0 = 0;
    assert_eq!(Entry::decode(&entry.encode()), Err(EntryError::Level { needed: 0 }));
}

#[test]
fn fields_out_of_range_are_named() {
    let good = wire::Entry::from(&entry(EntryBody::Seal));
    let field = |message: wire::Entry| match Entry::decode(&frame(&message.encode_to_vec())) {
        Err(EntryError::Field { field }) => field,
        other => panic!("{other:?}"),
    };
    let batch = |command| {
        let proposal = wire::Proposal { agent: Bytes::from_static(&[0; 16]), command, ..Default::default() };
        wire::Entry {
            body: Some(wire::entry::Body::Batch(wire::Batch { proposals: vec![proposal] })),
            ..good.clone()
        }
    };
    use wire::proposal::Command as Wire;
    let create = wire::CreateTopic { name: "..".into(), ..Default::default() };
    let unset = wire::CreateTopic {
        name: "t".into(),
        config: vec![wire::ConfigPair { key: "k".into(), value: None }],
        ..Default::default()
    };
    let delete = wire::DeleteRecords { topic: 1, partition: 0, before: Some(-1) };
    let commit = |slice| {
        Some(Wire::CommitSegment(wire::CommitSegment {
            id: Bytes::from_static(&[0; 16]),
            slices: vec![slice],
            ..Default::default()
        }))
    };
    let uneven = wire::SliceCommit { lengths: vec![1], ..Default::default() };
    let stamp = |producer| wire::SliceCommit {
        lengths: vec![1],
        records: vec![1],
        max_timestamp_deltas: vec![0],
        producers: vec![producer],
        ..Default::default()
    };
    let producer = wire::BatchProducer::default();
    use wire::group_command::Change;
    let group = |name: &str, change| Some(Wire::Group(wire::GroupCommand { group: name.into(), change }));
    let who = || Some(wire::MemberRun { member: "m".into(), incarnation: Bytes::from_static(&[0; 16]) });
    let joins = |options| {
        Some(Change::Join(wire::JoinGroup { who: who(), options: Some(options), matched: Vec::new() }))
    };
    let commits =
        |offsets| Some(Change::Commit(wire::CommitOffsets { topics: vec![offsets], ..Default::default() }));
    for (message, expected) in [
        (wire::Entry { id: Bytes::from_static(b"short"), ..good.clone() }, "id"),
        (wire::Entry { body: None, ..good.clone() }, "body"),
        (batch(None), "proposal.command"),
        (batch(Some(Wire::CreateTopic(create))), "create_topic.name"),
        (batch(Some(Wire::CreateTopic(unset))), "create_topic.config.value"),
        (batch(Some(Wire::DeleteRecords(delete))), "delete_records.before"),
        (batch(Some(Wire::DeleteRecords(wire::DeleteRecords { partition: -1, ..delete }))), "partition"),
        (batch(Some(Wire::InitProducer(wire::InitProducer { id: Some(-1), epoch: 0 }))), "producer.id"),
        (
            batch(Some(Wire::InitProducer(wire::InitProducer { id: Some(0), epoch: 40_000 }))),
            "producer.epoch",
        ),
        (batch(commit(uneven)), "slice.lengths"),
        (batch(group("", Some(Change::Delete(wire::DeleteGroup {})))), "group.group"),
        (batch(group("g", None)), "group.change"),
        (batch(group("g", Some(Change::Leave(wire::LeaveGroup::default())))), "who"),
        (
            batch(group("g", Some(Change::Join(wire::JoinGroup { who: who(), ..Default::default() })))),
            "join.options",
        ),
        (batch(group("g", joins(wire::MemberOptions::default()))), "options.assignor"),
        (
            batch(group(
                "g",
                joins(wire::MemberOptions { instance: "/".into(), assignor: 1, ..Default::default() }),
            )),
            "options.instance",
        ),
        (
            batch(group("g", joins(wire::MemberOptions { topics: vec!["..".into()], ..Default::default() }))),
            "topics",
        ),
        (
            batch(group("g", commits(wire::TopicOffsets { partitions: vec![1], ..Default::default() }))),
            "offsets.partitions",
        ),
        (
            batch(group(
                "g",
                commits(wire::TopicOffsets {
                    metadata: vec![wire::OffsetMetadata::default()],
                    ..Default::default()
                }),
            )),
            "offsets.metadata",
        ),
        (batch(commit(stamp(wire::BatchProducer { batch: 1, ..producer }))), "producer.batch"),
        (
            batch(commit(stamp(wire::BatchProducer { base_sequence: -1, ..producer }))),
            "producer.base_sequence",
        ),
    ] {
        assert_eq!(field(message), expected);
    }
}

#[test]
fn a_small_entry_cannot_claim_much_memory() {
    // 256 MiB of zeros behind a correct checksum, as one frame and as one with a window of 128 MiB.
    for window_log in [None, Some(27)] {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("zstd works");
        if let Some(log) = window_log {
            encoder.window_log(log).expect("it is allowed");
        }
        let zeros = vec![0; 1024 * 1024];
        for _ in 0..256 {
            std::io::Write::write_all(&mut encoder, &zeros).expect("memory takes it");
        }
        let bomb = encoder.finish().expect("zstd works");
        let mut bytes = frame(&bomb).to_vec();
        // The frame is compressed already.
        bytes[4] = 1;
        let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        crc.update(&[1]);
        crc.update(&bytes[9..]);
        let crc = u32::try_from(crc.finalize()).expect("32 bits");
        bytes[5..9].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(
            Entry::decode(&bytes),
            Err(EntryError::Compression { .. } | EntryError::Payload(_))
        ));
    }
}

#[test]
fn a_builder_stays_below_its_limit_and_gives_back_what_does_not_fit() {
    for limit in [64, 200, 1_000, 4_096, 65_536] {
        let mut builder = BatchBuilder::new(limit);
        let mut packed = Vec::new();
        for proposal in proposals().into_iter().cycle().take(500) {
            match builder.push(proposal.clone()) {
                Ok(()) => packed.push(proposal),
                Err((returned, alone)) => {
                    assert_eq!(returned, proposal);
                    let mut own = BatchBuilder::new(alone);
                    assert!(own.push(proposal).is_ok(), "it says how much would do");
                }
            }
        }
        assert_eq!(builder.is_empty(), packed.is_empty());
        let (entry, bytes) = builder.finish(EntryId(Uuid::max()), TimestampMs(i64::MIN));
        assert!(bytes.len() <= limit, "{} bytes, limit {limit}", bytes.len());
        assert_eq!(entry.body, EntryBody::Batch(packed));
        assert_eq!(Entry::decode(&bytes), Ok(entry));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Entry::decode(&bytes);
        // Behind a correct frame.
        let _ = Entry::decode(&frame(&bytes));
    }

    #[test]
    fn changed_payloads_never_panic(pick in any::<prop::sample::Index>(), changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let entries = entries();
        let mut payload = wire::Entry::from(pick.get(&entries)).encode_to_vec();
        for (at, byte) in changes {
            *at.get_mut(&mut payload) = byte;
        }
        if let Ok(entry) = Entry::decode(&frame(&payload)) {
            prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }
    }
}
