//! What holds for every history.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::steps::{Walk, steps};
use crate::command::{BatchOutcome, BatchRefusal};
use crate::entry::Entry;
use crate::state::State;

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 200, ..ProptestConfig::default() }
}

/// What is rarely seen is never tested.
#[test]
fn random_histories_meet_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut seen = [0; 6];
    for _ in 0..cases().cases {
        let mut walk = Walk::new();
        for step in steps(60).new_tree(&mut runner).expect("nothing is filtered").current() {
            walk.take(&step);
        }
        for outcome in walk.outcomes {
            let kind = match outcome {
                BatchOutcome::Appended { .. } => 0,
                BatchOutcome::Duplicate { .. } => 1,
                BatchOutcome::Refused(BatchRefusal::UnknownTopic | BatchRefusal::UnknownPartition { .. }) => {
                    2
                }
                BatchOutcome::Refused(BatchRefusal::OutOfOrderSequence { .. }) => 3,
                BatchOutcome::Refused(BatchRefusal::ProducerFenced { .. }) => 4,
                BatchOutcome::Refused(BatchRefusal::UnknownProducer) => 5,
                BatchOutcome::Refused(BatchRefusal::OffsetsExhausted) => continue,
            };
            seen[kind] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
}

proptest! {
    #![proptest_config(cases())]

    /// The bed checks coherence after each entry, the walk every outcome of a commit against the model.
    #[test]
    fn the_state_is_coherent_and_agrees_with_the_model(steps in steps(60)) {
        let mut walk = Walk::new();
        for step in &steps {
            walk.take(step);
        }
    }

    #[test]
    fn replicas_agree_also_from_a_snapshot(steps in steps(40), cut in any::<prop::sample::Index>()) {
        let mut walk = Walk::new();
        for step in &steps {
            walk.take(step);
        }
        let entries = &walk.bed.entries;
        let cut = cut.index(entries.len() + 1);
        let mut replica = State::new();
        for (n, (place, entry)) in entries.iter().enumerate() {
            if n == cut {
                let bytes = replica.encode_snapshot();
                let restored = State::decode_snapshot(&bytes);
                prop_assert_eq!(restored.as_ref(), Ok(&replica), "it comes back whole");
                replica = restored.expect("it was just compared");
                prop_assert_eq!(replica.encode_snapshot(), bytes, "equal states have equal bytes");
            }
            // As a follower gets it: from bytes.
            let entry = Entry::decode(&entry.encode()).expect("it was encoded");
            replica.apply(*place, &entry).expect("it was applied before");
        }
        prop_assert_eq!(&replica, &walk.bed.state);
        prop_assert_eq!(replica.digest(), walk.bed.state.digest());
    }

    #[test]
    fn a_clone_stays_what_it_was(steps in steps(40), cut in any::<prop::sample::Index>()) {
        let mut walk = Walk::new();
        let cut = cut.index(steps.len());
        let mut kept = None;
        for (n, step) in steps.iter().enumerate() {
            if n == cut {
                kept = Some((walk.bed.state.clone(), walk.bed.state.encode_snapshot()));
            }
            walk.take(step);
        }
        let (clone, bytes) = kept.expect("cut lies within");
        prop_assert_eq!(clone.encode_snapshot(), bytes);
    }
}
