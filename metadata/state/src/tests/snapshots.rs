//! Snapshots of states that random histories rarely reach.

use tidelog_types::{Generation, LogIndex, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId};

use super::bed::{Bed, OTHER_AGENT, at, batch, create, offset, proposal, slice, stamped};
use crate::command::{BatchOutcome, BatchRefusal, Command, Outcome, Refusal};
use crate::config::ConfigError;
use crate::group::command::{GroupLimit, GroupOutcome, GroupRefusal, OffsetOutcome};
use crate::snapshot::records_of;
use crate::state::{AgentMemory, State};
use prost::Message;

/// A state in which every part holds something.
pub fn rich() -> Bed {
    let mut bed = Bed::new();
    for name in ["orders", "clicks"] {
        let old = bed.topic(name, 1);
        bed.run(Command::DeleteTopic { topic: old });
    }
    let (orders, clicks) = (bed.topic("orders", 3), bed.topic("clicks", 1));
    bed.run(Command::UpdateTopic {
        topic: orders,
        config: vec![("max.message.bytes".into(), Some("4096".into()))],
    });
    let (a, b) = (bed.producer(), bed.producer());
    for n in 0..7 {
        bed.time = bed.time.saturating_add_ms(i64::from(n));
        bed.commit(vec![
            slice(at(orders, 0), 0, vec![stamped(10, a, 0, n * 10), batch(1)]),
            slice(at(orders, 2), 300, vec![stamped(1, b, 0, n)]),
            slice(at(clicks, 0), 400, vec![batch(7)]),
        ]);
    }
    bed.run(Command::DeleteRecords { partition: at(orders, 0), before: Some(offset(27)) });
    bed.run(Command::InitProducer { existing: Some((a, ProducerEpoch::ZERO)) });
    bed.append(at(orders, 2), vec![stamped(3, a, 1, 0)]);
    let snapshot = bed.snapshot_ref();
    bed.roll(Some(snapshot));
    let snapshot = bed.snapshot_ref();
    bed.roll(Some(snapshot));
    for number in 1..4 {
        bed.propose(proposal(OTHER_AGENT, number, 1, create("orders", 1)));
    }
    super::groups::enrich(&mut bed);
    bed
}

/// The state comes back equal, with equal bytes.
fn assert_round_trip(state: &State) -> usize {
    let bytes = state.encode_snapshot();
    let restored = State::decode_snapshot(&bytes).expect("it was just written");
    assert_eq!(&restored, state);
    assert_eq!(restored.digest(), state.digest());
    assert_eq!(restored.removable_places(), state.removable_places());
    assert_eq!(restored.encode_snapshot(), bytes);
    bytes.len()
}

#[test]
fn every_moment_of_a_log_comes_back() {
    let mut replica = State::new();
    assert_round_trip(&replica);
    for (place, entry) in rich().entries {
        replica.apply(place, &entry).expect("it was applied before");
        assert_round_trip(&replica);
    }
}

/// Number of the variant. A new one does not compile here: give it a number and an example in `outcomes` below.
fn variant(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::TopicCreated(_) => 0,
        Outcome::TopicUpdated => 1,
        Outcome::PartitionsAdded => 2,
        Outcome::TopicDeleted => 3,
        Outcome::RecordsDeleted { .. } => 4,
        Outcome::ProducerReady { .. } => 5,
        Outcome::SegmentCommitted(_) => 6,
        Outcome::ProducersExpired(_) => 7,
        Outcome::TruncationNoted => 8,
        Outcome::Refused(refusal) => match refusal {
            Refusal::TopicExists { .. } => 9,
            Refusal::UnknownTopic => 10,
            Refusal::UnknownPartition { .. } => 11,
            Refusal::PartitionCount { .. } => 12,
            Refusal::ClusterPartitions { .. } => 13,
            Refusal::Config(ConfigError::UnknownKey { .. }) => 14,
            Refusal::Config(ConfigError::Value { .. }) => 15,
            Refusal::OffsetOutOfRange { .. } => 16,
            Refusal::UnknownProducer => 17,
            Refusal::ProducerFenced { .. } => 18,
            Refusal::BelowFloor { .. } => 19,
            Refusal::Malformed => 20,
            Refusal::Superseded => 21,
            Refusal::Group(refusal) => match refusal {
                GroupRefusal::UnknownGroup => 22,
                GroupRefusal::UnknownMember => 23,
                GroupRefusal::MemberExists => 24,
                GroupRefusal::Full { limit: GroupLimit::Members } => 25,
                GroupRefusal::Full { limit: GroupLimit::Groups } => 26,
                GroupRefusal::Full { limit: GroupLimit::Partitions } => 27,
                GroupRefusal::Full { limit: GroupLimit::Bytes } => 28,
                GroupRefusal::NotEmpty { .. } => 29,
                GroupRefusal::StaleGeneration { .. } => 30,
                GroupRefusal::Renewed => 31,
            },
        },
        Outcome::Group(outcome) => match outcome {
            GroupOutcome::Joined => 32,
            GroupOutcome::PatternResolved => 33,
            GroupOutcome::Left => 34,
            GroupOutcome::Expired => 35,
            GroupOutcome::Released(_) => 36,
            GroupOutcome::Assigned => 37,
            GroupOutcome::OffsetsCommitted(_) => 38,
            GroupOutcome::Deleted => 39,
        },
        Outcome::OffsetsExpired(_) => 40,
    }
}
const VARIANTS: usize = 41;

fn batch_variant(outcome: BatchOutcome) -> usize {
    match outcome {
        BatchOutcome::Appended { .. } => 0,
        BatchOutcome::Duplicate { .. } => 1,
        BatchOutcome::Refused(refusal) => match refusal {
            BatchRefusal::UnknownTopic => 2,
            BatchRefusal::UnknownPartition { .. } => 3,
            BatchRefusal::OffsetsExhausted => 4,
            BatchRefusal::OutOfOrderSequence { .. } => 5,
            BatchRefusal::ProducerFenced { .. } => 6,
            BatchRefusal::UnknownProducer => 7,
        },
    }
}
const BATCH_VARIANTS: usize = 8;

fn batch_outcomes() -> Vec<BatchOutcome> {
    let refused = BatchOutcome::Refused;
    vec![
        BatchOutcome::Appended { base_offset: offset(i64::MAX) },
        BatchOutcome::Duplicate { base_offset: offset(0) },
        refused(BatchRefusal::UnknownTopic),
        refused(BatchRefusal::UnknownPartition { partitions: u32::MAX }),
        refused(BatchRefusal::OffsetsExhausted),
        refused(BatchRefusal::OutOfOrderSequence { expected: Sequence::new(i32::MAX).expect("a sequence") }),
        refused(BatchRefusal::ProducerFenced { current: ProducerEpoch::new(i16::MAX).expect("an epoch") }),
        refused(BatchRefusal::UnknownProducer),
    ]
}

fn outcomes() -> Vec<Outcome> {
    let last_epoch = ProducerEpoch::new(i16::MAX).expect("an epoch");
    let too_small = crate::config::TopicConfig::new([("max.message.bytes", "1")]).expect_err("too small");
    let mut outcomes = vec![
        Outcome::TopicCreated(TopicId(u64::MAX)),
        Outcome::TopicUpdated,
        Outcome::PartitionsAdded,
        Outcome::TopicDeleted,
        Outcome::RecordsDeleted { log_start: offset(i64::MAX) },
        Outcome::ProducerReady { id: ProducerId::new(i64::MAX).expect("an id"), epoch: last_epoch },
        Outcome::SegmentCommitted(vec![Vec::new(), batch_outcomes()]),
        Outcome::ProducersExpired(u32::MAX),
        Outcome::TruncationNoted,
    ];
    outcomes.extend(
        [
            Refusal::TopicExists { topic: TopicId(0) },
            Refusal::UnknownTopic,
            Refusal::UnknownPartition {
                partitions: 1,
                asked: PartitionIndex::new(i32::MAX).expect("in range"),
            },
            Refusal::PartitionCount { asked: u32::MAX, low: 0, high: 7 },
            Refusal::ClusterPartitions { asked: u64::MAX, high: 0 },
            Refusal::Config(ConfigError::UnknownKey { key: "schl\u{fc}ssel".into() }),
            Refusal::Config(too_small),
            Refusal::OffsetOutOfRange { start: offset(0), end: offset(i64::MAX) },
            Refusal::UnknownProducer,
            Refusal::ProducerFenced { current: last_epoch },
            Refusal::BelowFloor { floor: LogIndex(u64::MAX) },
            Refusal::Malformed,
            Refusal::Superseded,
            GroupRefusal::UnknownGroup.into(),
            GroupRefusal::UnknownMember.into(),
            GroupRefusal::MemberExists.into(),
            GroupRefusal::Full { limit: GroupLimit::Members }.into(),
            GroupRefusal::Full { limit: GroupLimit::Groups }.into(),
            GroupRefusal::Full { limit: GroupLimit::Partitions }.into(),
            GroupRefusal::Full { limit: GroupLimit::Bytes }.into(),
            GroupRefusal::NotEmpty { members: u32::MAX }.into(),
            GroupRefusal::StaleGeneration { current: Generation(u64::MAX) }.into(),
            GroupRefusal::Renewed.into(),
        ]
        .map(Outcome::Refused),
    );
    let offsets = [
        OffsetOutcome::Committed,
        OffsetOutcome::UnknownTopic,
        OffsetOutcome::UnknownPartition,
        OffsetOutcome::UnknownMember,
        OffsetOutcome::StaleGeneration,
        OffsetOutcome::Superseded,
        OffsetOutcome::GroupNotEmpty,
    ];
    outcomes.extend(
        [
            GroupOutcome::Joined,
            GroupOutcome::PatternResolved,
            GroupOutcome::Left,
            GroupOutcome::Expired,
            GroupOutcome::Released(u32::MAX),
            GroupOutcome::Assigned,
            GroupOutcome::OffsetsCommitted(offsets.into()),
            GroupOutcome::Deleted,
        ]
        .map(Outcome::Group),
    );
    outcomes.push(Outcome::OffsetsExpired(u32::MAX));
    outcomes
}

#[test]
fn every_outcome_comes_back() {
    assert_eq!(outcomes().iter().map(variant).collect::<Vec<_>>(), (0..VARIANTS).collect::<Vec<_>>());
    let batches: Vec<usize> = batch_outcomes().into_iter().map(batch_variant).collect();
    assert_eq!(batches, (0..BATCH_VARIANTS).collect::<Vec<_>>());
    let mut state = rich().state;
    // No command raises the floor yet.
    state.floor = LogIndex(3);
    state.agents.insert(
        OTHER_AGENT,
        AgentMemory {
            lowest_unresolved: crate::ProposalNumber(0),
            last_index: LogIndex(0),
            outcomes: (0..)
                .map(crate::ProposalNumber)
                .zip(outcomes().into_iter().map(std::sync::Arc::new))
                .collect(),
        },
    );
    assert_round_trip(&state);
}

#[test]
fn a_partition_of_many_slices_is_many_records() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    // Directly, because the bed's checks after each entry would take all day.
    for n in 0_u32..50 {
        let gaps = (0..2_000).map(|slice_n| slice(at(topic, 0), slice_n * 200, vec![batch(1 + n)])).collect();
        let commit =
            super::bed::segment(LogIndex(0), tidelog_types::SegmentId(uuid::Uuid::from_u128(n.into())), gaps);
        let mut changed = Vec::new();
        bed.state.commit_segment(&commit, &mut changed).expect("it is sound");
    }
    assert_eq!(bed.state.partition(at(topic, 0)).map(|p| p.slices().len()), Some(100_000));
    let largest = records_of(&bed.state).iter().map(Message::encoded_len).max();
    assert!(largest < Some(100 * 1024), "{largest:?}");
    assert_round_trip(&bed.state);
}

#[test]
fn slices_cost_a_few_bytes_each() {
    let mut bed = Bed::new();
    let topics: Vec<TopicId> = (0..20).map(|n| bed.topic(&format!("t{n}"), 1)).collect();
    let before = bed.state.encode_snapshot().len();
    for n in 0..100_i64 {
        bed.time = bed.time.saturating_add_ms(250 + n % 7);
        let slices =
            topics.iter().zip(0..).map(|(topic, i)| slice(at(*topic, 0), i * 1_000, vec![batch(10 + i)]));
        bed.commit(slices.collect());
    }
    let per_slice = (assert_round_trip(&bed.state) - before) / (20 * 100);
    assert!(per_slice < 10, "{per_slice} bytes");
}

#[test]
fn what_shrinks_too_far_is_stored_as_it_is() {
    let compressed = |bytes: &[u8]| bytes[5] == 1;
    let mut bed = Bed::new();
    for n in 0..20 {
        bed.topic(&format!("t{n}"), 10_000);
    }
    assert!(compressed(&bed.state.encode_snapshot()));
    assert_round_trip(&bed.state);
    // Four megabytes of the same two bytes: a reader would take it for an attack on its memory.
    let all_alike = vec![BatchOutcome::Refused(BatchRefusal::UnknownTopic); 2_000_000];
    let outcome = std::sync::Arc::new(Outcome::SegmentCommitted(vec![all_alike]));
    let memory = bed.state.agents.get_mut(&super::bed::AGENT).expect("it proposed");
    memory.outcomes.insert(crate::ProposalNumber(1_000), outcome);
    assert!(!compressed(&bed.state.encode_snapshot()));
    assert_round_trip(&bed.state);
}
