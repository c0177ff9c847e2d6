//! A membership as one stream.

use tidelog_agent::Settings;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::session_request::Message as Say;
use tidelog_proto::v1::session_response::Message as Hear;
use tidelog_proto::v1::{
    Assignor, ErrorReason, FetchOffsetsRequest, MemberAssignment, MemberIdentity, MemberOptions,
    SessionAssign, SessionAssignment, SessionCommit, SessionHeartbeat, SessionJoin, SessionLeave,
    SessionRequest, SessionResponse, TopicPartitions,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::bed::{Bed, identity, milliseconds, numbers, options, reason, to_commit};

/// Both ends of a session.
struct Session {
    say: mpsc::Sender<SessionRequest>,
    hear: Streaming<SessionResponse>,
    number: u64,
}

async fn open(bed: &mut Bed, first: Say) -> Result<Session, Status> {
    let (say, said) = mpsc::channel(16);
    say.send(SessionRequest { message: Some(first) }).await.expect("there is room");
    let hear = bed.client.session(ReceiverStream::new(said)).await?.into_inner();
    Ok(Session { say, hear, number: 0 })
}

fn join_as(who: &MemberIdentity, options: MemberOptions) -> Say {
    Say::Join(SessionJoin { member: Some(who.clone()), options: Some(options) })
}

fn join(who: &MemberIdentity) -> Say {
    join_as(who, options(&["t"]))
}

impl Session {
    async fn say(&self, message: Say) {
        self.say.send(SessionRequest { message: Some(message) }).await.expect("the stream is open");
    }

    async fn hear(&mut self) -> Result<Option<Hear>, Status> {
        let heard = tokio::time::timeout(milliseconds(30_000), self.hear.message()).await;
        Ok(heard.expect("something is to be said")?.and_then(|response| response.message))
    }

    async fn assignment(&mut self) -> SessionAssignment {
        match self.hear().await {
            Ok(Some(Hear::Assignment(assignment))) => assignment,
            other => panic!("{other:?}"),
        }
    }

    async fn beat(&mut self, owned: &[i32], known_generation: u64) -> u64 {
        self.number += 1;
        let owned = vec![TopicPartitions { topic: "t".into(), topic_id: 0, partitions: owned.to_vec() }];
        self.say(Say::Heartbeat(SessionHeartbeat { number: self.number, owned, known_generation })).await;
        self.number
    }

    async fn acknowledged(&mut self) -> u64 {
        match self.hear().await {
            Ok(Some(Hear::HeartbeatAck(ack))) => ack.number,
            other => panic!("{other:?}"),
        }
    }

    /// How the stream ends.
    async fn end(&mut self) -> Result<(), Status> {
        match self.hear().await {
            Ok(None) => Ok(()),
            Ok(Some(other)) => panic!("{other:?}"),
            Err(status) => Err(status),
        }
    }
}

fn part(assignment: SessionAssignment) -> (u64, Vec<i32>) {
    let assignment = assignment.assignment.expect("one");
    (assignment.generation, numbers(&assignment.partitions))
}

#[tokio::test]
async fn a_member_lives_on_a_stream() {
    let mut bed = Bed::new(4).await;
    let (mut a, first) = {
        let mut a = open(&mut bed, join(&identity("a", 1))).await.expect("there is room");
        let first = a.assignment().await;
        (a, first)
    };
    assert_eq!((first.heartbeat_interval_ms, first.session_timeout_ms), (2_000, 10_000));
    let (known, owned) = part(first);
    assert_eq!(owned, [0, 1, 2, 3]);
    let number = a.beat(&[0, 1, 2, 3], known).await;
    assert_eq!(a.acknowledged().await, number);
    a.say(Say::Commit(SessionCommit {
        number: 1,
        generation: known,
        offsets: vec![to_commit(0, 5), to_commit(9, 5)],
    }))
    .await;
    match a.hear().await {
        Ok(Some(Hear::Committed(committed))) => {
            assert_eq!((committed.number, committed.results.len()), (1, 2));
            assert_eq!(committed.results[0].error, None);
            let error = committed.results[1].error.as_ref().expect("no such partition");
            assert_eq!(error.reason(), ErrorReason::UnknownPartition);
        }
        other => panic!("{other:?}"),
    }
    let mut b = open(&mut bed, join(&identity("b", 2))).await.expect("there is room");
    let waiting = b.assignment().await.assignment.expect("one");
    assert!(waiting.partitions.is_empty() && waiting.waiting);
    let (known, owned) = part(a.assignment().await);
    assert_eq!(owned, [0, 1]);
    a.beat(&[0, 1], known).await;
    assert_eq!(part(b.assignment().await).1, [2, 3]);
    assert_eq!(a.acknowledged().await, 2);
    // A heartbeat is on its way when it leaves: the stream ends well all the same.
    a.beat(&[0, 1], known).await;
    a.say(Say::Leave(SessionLeave { permanently: false })).await;
    loop {
        match a.hear().await {
            Ok(Some(Hear::HeartbeatAck(ack))) => assert_eq!(ack.number, 3),
            Ok(None) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(part(b.assignment().await).1, [0, 1, 2, 3]);
    let all = FetchOffsetsRequest { group: "g".into(), partitions: Vec::new() };
    let offsets = bed.client.fetch_offsets(all).await.expect("readable").into_inner().offsets;
    assert_eq!(offsets.iter().map(|found| found.offset).collect::<Vec<_>>(), [5]);
    bed.stop().await;
}

#[tokio::test]
async fn closing_a_stream_ends_no_membership() {
    let mut bed = Bed::new(2).await;
    let who = identity("a", 1);
    let mut first = open(&mut bed, join(&who)).await.expect("there is room");
    let (known, _) = part(first.assignment().await);
    first.beat(&[0, 1], known).await;
    assert_eq!(first.acknowledged().await, 1);
    drop(first.say);
    assert!(matches!(first.hear.message().await, Ok(None)), "a stream that the client ends, ends");
    // The same run goes on with another one; numbers of heartbeats belong to the stream.
    let mut second = open(&mut bed, join(&who)).await.expect("it is the same run");
    assert_eq!(part(second.assignment().await), (known, vec![0, 1]), "nothing has changed");
    second.beat(&[0, 1], known).await;
    assert_eq!(second.acknowledged().await, 1);
    // And with single calls.
    assert_eq!(bed.join(&who).await, known);
    bed.stop().await;
}

#[tokio::test]
async fn a_stream_of_one_that_is_removed_ends() {
    let mut bed = Bed::new(1).await;
    let who = identity("a", 1);
    let short = MemberOptions { session_timeout_ms: 1_000, ..options(&["t"]) };
    let mut session = open(&mut bed, join_as(&who, short)).await.expect("there is room");
    session.assignment().await;
    // No heartbeats.
    let ended = session.end().await.expect_err("its session has expired");
    assert_eq!((ended.code(), reason(&ended)), (Code::Aborted, ErrorReason::UnknownMember));
    let mut other = open(&mut bed, join(&identity("a", 2))).await.expect("the id is free again");
    assert_eq!(part(other.assignment().await).1, [0]);
    let taken = open(&mut bed, join(&identity("a", 3))).await.map(|_| ()).expect_err("it is taken");
    assert_eq!((taken.code(), reason(&taken)), (Code::AlreadyExists, ErrorReason::MemberExists));
    bed.stop().await;
}

#[tokio::test]
async fn options_change_on_the_way() {
    let mut bed = Bed::new(2).await;
    let who = identity("a", 1);
    let mut session = open(&mut bed, join_as(&who, options(&[]))).await.expect("there is room");
    assert_eq!(part(session.assignment().await).1, [] as [i32; 0]);
    let slower = MemberOptions { session_timeout_ms: 20_000, ..options(&["t"]) };
    session.say(join_as(&who, slower)).await;
    let told = session.assignment().await;
    assert_eq!(part(told.clone()).1, [0, 1]);
    let narrow = MemberOptions { topics: Vec::new(), topic_pattern: "[a-s]".into(), ..options(&[]) };
    session.say(join_as(&who, narrow)).await;
    assert_eq!(part(session.assignment().await).1, [] as [i32; 0]);
    session.say(join(&identity("b", 1))).await;
    let refused = ApiError::from_status(&session.end().await.expect_err("that is another member"));
    assert_eq!(refused.violations[0].0, "join.member");
    bed.stop().await;
}

#[tokio::test]
async fn who_is_asked_answers_on_its_stream() {
    let mut bed = Bed::new(2).await;
    let wish = || MemberOptions { assignor: Assignor::Client.into(), ..options(&["t"]) };
    let mut a = open(&mut bed, join_as(&identity("a", 1), wish())).await.expect("there is room");
    assert_eq!(part(a.assignment().await).1, [] as [i32; 0]);
    let asked = match a.hear().await {
        Ok(Some(Hear::AssignmentRequest(asked))) => asked,
        other => panic!("{other:?}"),
    };
    let members = |partitions: &[i32]| {
        let partitions =
            vec![TopicPartitions { topic: "t".into(), topic_id: 0, partitions: partitions.to_vec() }];
        vec![MemberAssignment { member_id: "a".into(), partitions }]
    };
    // One that was not asked for is passed over.
    a.say(Say::Assign(SessionAssign { generation: asked.generation + 7, members: members(&[0]) })).await;
    a.say(Say::Assign(SessionAssign { generation: asked.generation, members: members(&[1]) })).await;
    assert_eq!(part(a.assignment().await).1, [1]);
    bed.stop().await;
}

#[tokio::test]
async fn messages_that_make_no_sense_end_the_stream() {
    let mut bed = Bed::new(1).await;
    let who = identity("a", 1);
    let early = open(&mut bed, Say::Leave(SessionLeave { permanently: false })).await.map(|_| ());
    let early = ApiError::from_status(&early.expect_err("not the first message"));
    assert_eq!((early.reason, early.violations[0].0.as_str()), (ErrorReason::InvalidRequest, "join"));
    let unnamed = MemberIdentity { member_id: String::new(), ..who.clone() };
    let unnamed =
        ApiError::from_status(&open(&mut bed, join(&unnamed)).await.map(|_| ()).expect_err("no id"));
    assert_eq!(unnamed.reason, ErrorReason::InvalidGroupName);
    assert_eq!(unnamed.violations[0].0, "join.member.member_id");
    let beat = |number| Say::Heartbeat(SessionHeartbeat { number, owned: Vec::new(), known_generation: 0 });
    let commit = |number, offsets| Say::Commit(SessionCommit { number, generation: 1, offsets });
    for (message, field) in [
        (beat(0), "heartbeat.number"),
        (commit(0, vec![to_commit(0, 1)]), "commit.number"),
        (commit(1, Vec::new()), "commit.offsets"),
    ] {
        let mut session = open(&mut bed, join(&who)).await.expect("the same run");
        session.assignment().await;
        session.say(message).await;
        let ended = ApiError::from_status(&session.end().await.expect_err("nonsense"));
        assert_eq!((ended.reason, ended.violations[0].0.as_str()), (ErrorReason::InvalidRequest, field));
    }
    let mut session = open(&mut bed, join(&who)).await.expect("the same run");
    session.assignment().await;
    session.say.send(SessionRequest { message: None }).await.expect("it is open");
    assert_eq!(reason(&session.end().await.expect_err("nothing")), ErrorReason::InvalidRequest);
    bed.stop().await;
}

#[tokio::test]
async fn an_agent_that_shuts_down_sends_its_members_elsewhere() {
    let mut bed = Bed::new(1).await;
    let mut session = open(&mut bed, join(&identity("a", 1))).await.expect("there is room");
    let (known, _) = part(session.assignment().await);
    session
        .say(Say::Commit(SessionCommit { number: 1, generation: known, offsets: vec![to_commit(0, 5)] }))
        .await;
    assert!(matches!(session.hear().await, Ok(Some(Hear::Committed(_)))));
    bed.drain();
    match session.hear().await {
        Ok(Some(Hear::Reconnect(hint))) => assert_eq!(hint.closes_in_ms, 0),
        other => panic!("{other:?}"),
    }
    let ended = session.end().await.expect_err("it shuts down");
    assert_eq!((ended.code(), reason(&ended)), (Code::Unavailable, ErrorReason::Draining));
    bed.stop().await;
}

#[tokio::test]
async fn old_connections_are_left_with_notice() {
    let settings = Settings { connection_age: milliseconds(300), ..Settings::default() };
    let mut bed = Bed::with(settings, 1).await;
    let mut session = open(&mut bed, join(&identity("a", 1))).await.expect("there is room");
    let (known, _) = part(session.assignment().await);
    match session.hear().await {
        Ok(Some(Hear::Reconnect(hint))) => assert!(hint.closes_in_ms > 1_000),
        other => panic!("{other:?}"),
    }
    // It goes on for a while.
    session.beat(&[0], known).await;
    assert_eq!(session.acknowledged().await, 1);
    bed.stop().await;
}
