//! Effect at most once: what is remembered for an agent that asks again.

use tidelog_types::{LogIndex, ProducerEpoch, ProducerId, TimestampMs};

use super::bed::{AGENT, Bed, OTHER_AGENT, append_one, at, batch, create, proposal, segment, slice};
use crate::command::{Command, Outcome, Proposal, ProposalNumber, Refusal};
use crate::entry::EntryBody;
use crate::state::State;

/// The state without what every entry changes.
fn visible(state: &State) -> State {
    let mut visible = state.clone();
    visible.next = State::new().next;
    visible.index = LogIndex(0);
    visible.log_time = TimestampMs(0);
    visible.digest = crate::digest::Digest::default();
    visible
}

/// A proposal of each kind, some of which are refused; the topic is number 1 and has records.
fn proposals() -> Vec<Command> {
    let topic = tidelog_types::TopicId(1);
    let (id, epoch) = (ProducerId::new(0).expect("an id"), ProducerEpoch::ZERO);
    let commit = |position| {
        segment(
            LogIndex(0),
            tidelog_types::SegmentId(uuid::Uuid::nil()),
            vec![slice(at(topic, 0), position, vec![batch(1)])],
        )
    };
    let mut malformed = commit(0);
    malformed.size_bytes = 1;
    vec![
        create("new", 1),
        create("t", 1),
        Command::AddPartitions { topic, partitions: 5 },
        Command::AddPartitions { topic, partitions: 1 },
        Command::UpdateTopic { topic, config: vec![("max.message.bytes".into(), Some("4096".into()))] },
        Command::UpdateTopic { topic, config: vec![("nonsense".into(), None)] },
        Command::InitProducer { existing: None },
        Command::InitProducer { existing: Some((id, epoch)) },
        Command::CommitSegment(commit(0)),
        Command::CommitSegment(malformed),
        Command::DeleteRecords { partition: at(topic, 0), before: None },
        Command::ExpireProducers { proposer_time: TimestampMs(0) },
        Command::NoteTruncation { below: State::new().next },
        Command::DeleteTopic { topic },
        Command::DeleteTopic { topic },
    ]
}

#[test]
fn a_repeat_gets_the_first_outcome_and_changes_nothing() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    append_one(&mut bed, at(topic, 0), 10);
    bed.producer();
    let mut first = Vec::new();
    for (command, number) in proposals().into_iter().zip(1..) {
        let proposal = proposal(OTHER_AGENT, number, 1, command);
        let outcome = bed.propose(proposal.clone());
        let before = visible(&bed.state);
        assert_eq!(bed.propose(proposal.clone()), outcome, "the same leader is asked again");
        assert_eq!(visible(&bed.state), before, "{outcome:?}");
        first.push((proposal, outcome));
    }
    assert!(first.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Refused(_))).count() >= 5);
    let before = bed.state.agents.clone();
    bed.roll(None);
    for (proposal, outcome) in first {
        assert_eq!(
            bed.state.outcome(OTHER_AGENT, proposal.number).map(|o| (**o).clone()),
            Some(outcome.clone())
        );
        assert_eq!(bed.propose(proposal), outcome, "a new leader is asked");
    }
    assert_eq!(bed.state.agents, before);
}

#[test]
fn a_repeat_within_one_entry_takes_effect_once() {
    let mut bed = Bed::new();
    let proposal = proposal(OTHER_AGENT, 1, 1, create("t", 1));
    let applied = bed.apply(EntryBody::Batch(vec![proposal.clone(), proposal.clone(), proposal]));
    let outcomes: Vec<_> = applied.outcomes.iter().map(|(_, _, outcome)| (**outcome).clone()).collect();
    assert_eq!(outcomes, vec![Outcome::TopicCreated(tidelog_types::TopicId(1)); 3]);
}

#[test]
fn resolved_outcomes_are_forgotten_and_their_repeats_refused() {
    let mut bed = Bed::new();
    for number in 1..=4 {
        bed.propose(proposal(OTHER_AGENT, number, 1, create(&format!("t{number}"), 1)));
    }
    let known = |bed: &Bed| -> Vec<u64> {
        bed.state.agents[&OTHER_AGENT].outcomes.keys().map(|number| number.0).collect()
    };
    assert_eq!(known(&bed), [1, 2, 3, 4]);
    bed.propose(proposal(OTHER_AGENT, 5, 3, create("t5", 1)));
    assert_eq!(known(&bed), [3, 4, 5]);
    let superseded = Outcome::Refused(Refusal::Superseded);
    assert_eq!(bed.propose(proposal(OTHER_AGENT, 2, 1, create("late", 1))), superseded);
    assert_eq!(
        bed.propose(proposal(OTHER_AGENT, 3, 1, create("t3", 1))),
        Outcome::TopicCreated(tidelog_types::TopicId(3))
    );
    assert_eq!(known(&bed), [3, 4, 5], "a late duplicate lowers nothing and is not remembered");
    assert!(bed.state.topic_by_name(&"late".parse().expect("a name")).is_none());
}

#[test]
fn a_number_below_its_own_lowest_unresolved_is_not_remembered() {
    let mut bed = Bed::new();
    let odd = proposal(OTHER_AGENT, 2, 9, create("t", 1));
    assert!(matches!(bed.propose(odd.clone()), Outcome::TopicCreated(_)));
    assert_eq!(bed.state.outcome(OTHER_AGENT, ProposalNumber(2)), None);
    assert_eq!(bed.propose(odd), Outcome::Refused(Refusal::Superseded));
}

#[test]
fn agents_do_not_share_numbers() {
    let mut bed = Bed::new();
    let mine = bed.propose(proposal(AGENT, 1, 1, create("a", 1)));
    let theirs = bed.propose(proposal(OTHER_AGENT, 1, 1, create("b", 1)));
    assert_ne!(mine, theirs);
    assert_eq!(bed.state.outcome(AGENT, ProposalNumber(1)).map(|o| (**o).clone()), Some(mine));
}

#[test]
fn what_is_below_the_floor_is_refused() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 1);
    bed.state.floor = LogIndex(3);
    let floor = LogIndex(3);
    let refused = Outcome::Refused(Refusal::BelowFloor { floor });
    // An unknown agent may be one that the floor cleared.
    assert_eq!(bed.propose(proposal(OTHER_AGENT, 7, 7, create("late", 1))), refused);
    assert!(!bed.state.agents.contains_key(&OTHER_AGENT));
    let current = Proposal { proposed_at: floor, ..proposal(OTHER_AGENT, 7, 7, create("now", 1)) };
    assert!(matches!(bed.propose(current), Outcome::TopicCreated(_)));
    let segment_id = tidelog_types::SegmentId(uuid::Uuid::nil());
    let commit = |named_at| {
        Command::CommitSegment(segment(
            LogIndex(named_at),
            segment_id,
            vec![slice(at(topic, 0), 0, vec![batch(1)])],
        ))
    };
    assert_eq!(bed.run(commit(2)), refused);
    assert!(matches!(bed.run(commit(3)), Outcome::SegmentCommitted(_)));
}
