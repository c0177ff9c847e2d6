//! The leader's clocks, under a present that the test chooses.

use std::sync::Arc;

use tidelog_metadata_state::group::Assignor;
use tidelog_metadata_state::group::command::{GroupChange, GroupCommand, MemberOptions};
use tidelog_metadata_state::group::subscription::Subscription;
use tidelog_metadata_state::{
    Begin, Command, Entry, EntryBody, EntryId, FEATURE_LEVEL, Proposal, ProposalNumber, State,
};
use tidelog_types::{
    AgentInstance, ClusterId, Generation, GroupName, Incarnation, LogIndex, PartitionIndex, TimestampMs,
    TopicName, TopicPartition,
};
use uuid::Uuid;

use super::*;

const AGENT: AgentInstance = AgentInstance(Uuid::from_u128(1));

/// A log of group commands.
struct Log {
    state: State,
    proposals: u64,
}

impl Log {
    fn new() -> Self {
        let mut log = Self { state: State::new(), proposals: 0 };
        log.apply(EntryBody::Genesis { cluster: ClusterId(Uuid::nil()) });
        log.apply(EntryBody::Seal);
        let seal = log.state.open_seal().expect("the epoch is sealed");
        let digest = log.state.digest();
        log.apply(EntryBody::Begin(Begin {
            seal,
            leader: AGENT,
            address: String::new(),
            snapshot: None,
            digest,
        }));
        let name = TopicName::new("t").expect("a name");
        log.run(Command::CreateTopic { name, partitions: 4, config: Vec::new() });
        log
    }

    fn apply(&mut self, body: EntryBody) {
        let (place, id) = (self.state.next(), EntryId(Uuid::from_u128(self.state.index().0.into())));
        let entry = Entry { level: FEATURE_LEVEL, id, time: TimestampMs(0), body };
        self.state.apply(place, &entry).expect("the entry fits");
    }

    fn run(&mut self, command: Command) {
        self.proposals += 1;
        let number = ProposalNumber(self.proposals);
        let proposal =
            Proposal { agent: AGENT, number, lowest_unresolved: number, proposed_at: LogIndex(0), command };
        self.apply(EntryBody::Batch(vec![proposal]));
    }

    fn change(&mut self, change: GroupChange) {
        self.run(Command::Group(Box::new(GroupCommand { group: group(), change })));
    }

    fn join(&mut self, who: &MemberRun, assignor: Assignor) {
        let options = MemberOptions {
            topics: Subscription::new([TopicName::new("t").expect("a name")]),
            pattern: String::new(),
            assignor,
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            instance: None,
            client_id: String::new(),
            user_data: bytes::Bytes::new(),
        };
        let matched = Subscription::default();
        self.change(GroupChange::Join { who: who.clone(), options: Arc::new(options), matched });
    }

    fn sync(&self, deadlines: &mut Deadlines, now: Instant) {
        deadlines.sync(&group(), self.state.group(&group()).map(Arc::as_ref), now);
    }
}

fn group() -> GroupName {
    GroupName::new("g").expect("a name")
}

fn run(id: &str) -> MemberRun {
    MemberRun { member: MemberId::new(id).expect("an id"), incarnation: Incarnation(Uuid::from_u128(7)) }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn due(deadlines: &mut Deadlines, now: Instant) -> Vec<(String, Why)> {
    let overdue = deadlines.overdue(now, 10);
    overdue.into_iter().map(|one| (one.who.member.to_string(), one.why)).collect()
}

#[test]
fn silence_counts_from_the_last_sign_of_life() {
    let (mut log, mut deadlines, start) = (Log::new(), Deadlines::default(), Instant::now());
    let (a, b) = (run("a"), run("b"));
    log.join(&a, Assignor::Range);
    log.join(&b, Assignor::Range);
    log.sync(&mut deadlines, start);
    assert_eq!(deadlines.members(), 2);
    assert_eq!(due(&mut deadlines, start + s(9)), []);
    deadlines.beat(&group(), &a, start + s(5));
    assert_eq!(
        deadlines.overdue(start + s(10), 10)[0].renewed,
        log.state.group(&group()).expect("it is").member(&b.member).expect("it is").renewed()
    );
    assert_eq!(deadlines.standing(&group(), &b), Standing::Expiring);
    assert_eq!(deadlines.standing(&group(), &a), Standing::Live);
    // Too late: its removal is on its way, and may take effect.
    deadlines.beat(&group(), &b, start + s(11));
    assert_eq!(deadlines.standing(&group(), &b), Standing::Expiring);
    assert_eq!(due(&mut deadlines, start + s(14)), []);
    assert_eq!(due(&mut deadlines, start + s(15)), [("a".to_owned(), Why::Silent)]);
    let stranger = MemberRun { incarnation: Incarnation(Uuid::nil()), ..a };
    assert_eq!(deadlines.standing(&group(), &stranger), Standing::Unknown);
}

#[test]
fn what_is_not_known_is_tried_again() {
    let (mut log, mut deadlines, start) = (Log::new(), Deadlines::default(), Instant::now());
    let a = run("a");
    log.join(&a, Assignor::Sticky);
    log.sync(&mut deadlines, start);
    assert_eq!(due(&mut deadlines, start + s(10)).len(), 1);
    // Nothing more while that is under way, whatever happens in the group.
    log.join(&run("b"), Assignor::Sticky);
    log.sync(&mut deadlines, start + s(10));
    assert_eq!(due(&mut deadlines, start + s(12)), []);
    deadlines.again(&group(), &a, start + s(13));
    assert_eq!(due(&mut deadlines, start + s(12)), []);
    assert_eq!(due(&mut deadlines, start + s(13)), [("a".to_owned(), Why::Silent)]);
    // It joins again: a new session, and its removal is forgotten.
    log.join(&a, Assignor::Sticky);
    log.sync(&mut deadlines, start + s(14));
    assert_eq!(deadlines.standing(&group(), &a), Standing::Live);
    deadlines.again(&group(), &a, start + s(14));
    assert_eq!(due(&mut deadlines, start + s(19)), [], "neither of them yet");
    assert_eq!(due(&mut deadlines, start + s(20)), [("b".to_owned(), Why::Silent)]);
    assert_eq!(due(&mut deadlines, start + s(24)), [("a".to_owned(), Why::Silent)]);
}

#[test]
fn releasing_has_its_own_time_which_rejoining_does_not_prolong() {
    let (mut log, mut deadlines, start) = (Log::new(), Deadlines::default(), Instant::now());
    let a = run("a");
    log.join(&a, Assignor::Sticky);
    log.sync(&mut deadlines, start);
    log.join(&run("b"), Assignor::Sticky);
    log.sync(&mut deadlines, start + s(5));
    let alive = |deadlines: &mut Deadlines, now| {
        deadlines.beat(&group(), &a, now);
        deadlines.beat(&group(), &run("b"), now);
    };
    for second in (6..64).step_by(3) {
        alive(&mut deadlines, start + s(second));
        assert_eq!(due(&mut deadlines, start + s(second)), []);
    }
    log.join(&a, Assignor::Sticky);
    log.sync(&mut deadlines, start + s(64));
    assert_eq!(due(&mut deadlines, start + s(65)), [("a".to_owned(), Why::KeepsPartitions)]);
}

#[test]
fn what_was_released_is_not_waited_for() {
    let (mut log, mut deadlines, start) = (Log::new(), Deadlines::default(), Instant::now());
    let a = run("a");
    log.join(&a, Assignor::Sticky);
    log.join(&run("b"), Assignor::Sticky);
    log.sync(&mut deadlines, start);
    let topic = log.state.topics_after(None).next().expect("one topic").id();
    let partitions =
        (0..4).map(|n| TopicPartition { topic, partition: PartitionIndex::new(n).expect("a partition") });
    log.change(GroupChange::Release {
        who: a,
        generation: Generation(u64::MAX),
        partitions: partitions.collect(),
    });
    log.sync(&mut deadlines, start + s(1));
    deadlines.beat(&group(), &run("a"), start + s(59));
    assert_eq!(due(&mut deadlines, start + s(61)), [("b".to_owned(), Why::Silent)]);
}

#[test]
fn who_was_asked_has_to_answer() {
    let (mut log, mut deadlines, start) = (Log::new(), Deadlines::default(), Instant::now());
    log.join(&run("a"), Assignor::Client);
    log.sync(&mut deadlines, start);
    for second in [9, 18, 27, 36, 45, 54] {
        // Others come, and it is asked anew each time.
        log.join(&run(&format!("b{second}")), Assignor::Client);
        log.sync(&mut deadlines, start + s(second));
        deadlines.beat(&group(), &run("a"), start + s(second));
        for other in (9..=second).step_by(9) {
            deadlines.beat(&group(), &run(&format!("b{other}")), start + s(second));
        }
        assert_eq!(due(&mut deadlines, start + s(second)), []);
    }
    assert_eq!(due(&mut deadlines, start + s(60)), [("a".to_owned(), Why::GivesNoAssignment)]);
    deadlines.sync(&group(), None, start + s(60));
    assert_eq!((deadlines.members(), deadlines.next()), (0, None), "the group is gone");
}
