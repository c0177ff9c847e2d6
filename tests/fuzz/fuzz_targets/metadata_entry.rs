//! Any bytes as an entry of the metadata log, also behind a right checksum: an error, or an entry that reads back as it is
//! written and that can be applied or refused.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tidelog_metadata_state::{
    BatchCommit, Begin, Command, CommitSegment, Entry, EntryBody, EntryId, FEATURE_LEVEL, Proposal,
    ProposalNumber, SliceCommit, SnapshotRef, State,
};
use tidelog_record::crc32c;
use tidelog_types::{
    AgentInstance, ClusterId, LogEpoch, LogIndex, LogSeq, PartitionIndex, Place, SegmentId, TimestampMs,
    TopicId, TopicName, TopicPartition,
};
use uuid::Uuid;

fuzz_target!(|payload: &[u8]| {
    check(payload);
    check(&framed(0, payload));
    check(&framed(1, payload));
    let compressed = zstd::bulk::compress(payload, 1).expect("memory takes it");
    assert_eq!(Entry::decode(&framed(0, payload)), Entry::decode(&framed(1, &compressed)));
});

fn framed(flags: u8, payload: &[u8]) -> Vec<u8> {
    let sealed = [&[flags], payload].concat();
    [b"TLE1".as_slice(), &[flags], &crc32c(&sealed).to_le_bytes(), payload].concat()
}

fn check(bytes: &[u8]) {
    let Ok(entry) = Entry::decode(bytes) else { return };
    assert_eq!(Entry::decode(&entry.encode()).as_ref(), Ok(&entry));
    let mut state = LEADING.clone();
    match state.apply(state.next(), &entry) {
        Ok(_) => {
            let snapshot = state.encode_snapshot();
            assert_eq!(State::decode_snapshot(&snapshot), Ok(state), "what can be reached can be kept");
        }
        Err(_) => assert!(state == *LEADING, "a refused entry changes nothing"),
    }
}

/// A state in its second epoch, with a topic that has records, a producer and a snapshot in force.
static LEADING: LazyLock<State> = LazyLock::new(|| {
    let mut state = State::new();
    let next = Place::new(LogEpoch(1), LogSeq(2));
    let batch = BatchCommit { length: 10, records: 3, max_timestamp: TimestampMs(5), producer: None };
    let partition =
        TopicPartition { topic: TopicId(1), partition: PartitionIndex::new(0).expect("in range") };
    let commands = vec![
        Command::CreateTopic {
            name: TopicName::new("t").expect("a name"),
            partitions: 2,
            config: Vec::new(),
        },
        Command::InitProducer { existing: None },
        Command::CommitSegment(CommitSegment {
            named_at: LogIndex(0),
            id: SegmentId(Uuid::nil()),
            size_bytes: 10,
            slices: vec![SliceCommit { partition, position: 0, batches: vec![batch] }],
        }),
    ];
    let proposals = commands.into_iter().zip(1..).map(|(command, number)| Proposal {
        agent: AgentInstance(Uuid::nil()),
        number: ProposalNumber(number),
        lowest_unresolved: ProposalNumber(1),
        proposed_at: LogIndex(0),
        command,
    });
    apply(&mut state, EntryBody::Genesis { cluster: ClusterId(Uuid::nil()) });
    roll(&mut state, None);
    apply(&mut state, EntryBody::Batch(proposals.collect()));
    apply(&mut state, EntryBody::Batch(Vec::new()));
    roll(&mut state, Some(SnapshotRef { next, name: "1-2.snap".into() }));
    state
});

fn roll(state: &mut State, snapshot: Option<SnapshotRef>) {
    apply(state, EntryBody::Seal);
    let leader = AgentInstance(Uuid::nil());
    let digest = state.digest();
    let seal = EntryId(Uuid::nil());
    apply(state, EntryBody::Begin(Begin { seal, leader, address: String::new(), snapshot, digest }));
}

fn apply(state: &mut State, body: EntryBody) {
    let entry = Entry { level: FEATURE_LEVEL, id: EntryId(Uuid::nil()), time: TimestampMs(1), body };
    state.apply(state.next(), &entry).expect("it fits its place");
}
