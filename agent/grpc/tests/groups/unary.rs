//! One call at a time.

use tidelog_proto::status::ApiError;
use tidelog_proto::v1::{
    AssignPartitionsRequest, Assignor, CommitOffsetsRequest, DeleteGroupRequest, ErrorReason,
    FetchOffsetsRequest, GetGroupRequest, GroupState, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    ListGroupsRequest, MemberAssignment, MemberIdentity, MemberOptions, TopicPartitions,
};
use tonic::Code;

use crate::bed::{Bed, identity, milliseconds, numbers, options, reason, to_commit};

fn heartbeat(who: &MemberIdentity, owned: &[i32], known_generation: u64) -> HeartbeatRequest {
    let owned = vec![TopicPartitions { topic: "t".into(), topic_id: 0, partitions: owned.to_vec() }];
    HeartbeatRequest { member: Some(who.clone()), owned, known_generation, max_wait_ms: 0 }
}

#[tokio::test]
async fn a_member_lives_by_single_calls() {
    let mut bed = Bed::new(4).await;
    let (a, b) = (identity("a", 1), identity("b", 2));
    let request = JoinGroupRequest { member: Some(a.clone()), options: Some(options(&["t"])) };
    let joined = bed.client.join_group(request).await.expect("there is room").into_inner();
    assert_eq!((joined.heartbeat_interval_ms, joined.session_timeout_ms), (2_000, 10_000));
    let first = joined.assignment.expect("an assignment");
    assert_eq!((numbers(&first.partitions), first.waiting), (vec![0, 1, 2, 3], false));
    bed.join(&b).await;
    // It hears of the other one while it waits.
    let waiting = HeartbeatRequest { max_wait_ms: 10_000, ..heartbeat(&a, &[0, 1, 2, 3], first.generation) };
    let told = bed.client.heartbeat(waiting).await.expect("a member").into_inner().assignment.expect("one");
    assert_eq!(numbers(&told.partitions), [0, 1]);
    assert!(told.generation > first.generation);
    let done = bed.client.heartbeat(heartbeat(&a, &[0, 1], told.generation)).await.expect("a member");
    assert_eq!(done.into_inner().assignment.expect("one").generation, told.generation);
    let other = bed.client.heartbeat(heartbeat(&b, &[], 0)).await.expect("a member").into_inner();
    assert_eq!(numbers(&other.assignment.expect("one").partitions), [2, 3]);
    assert_eq!(other.assignment_request, None);
    let leave = LeaveGroupRequest { member: Some(a.clone()), permanently: false };
    bed.client.leave_group(leave.clone()).await.expect("leaving works");
    bed.client.leave_group(leave).await.expect("leaving twice works");
    let gone = bed.client.heartbeat(heartbeat(&a, &[], 0)).await.expect_err("it has left");
    assert_eq!((gone.code(), reason(&gone)), (Code::Aborted, ErrorReason::UnknownMember));
    let error = ApiError::from_status(&gone);
    assert_eq!((error.metadata["group"].as_str(), error.metadata["member_id"].as_str()), ("g", "a"));
    let all = bed.client.heartbeat(heartbeat(&b, &[2, 3], 0)).await.expect("a member").into_inner();
    assert_eq!(numbers(&all.assignment.expect("one").partitions), [0, 1, 2, 3]);
    bed.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_said() {
    let mut bed = Bed::new(1).await;
    let a = identity("a", 1);
    let mut join = async |member: Option<MemberIdentity>, options: Option<MemberOptions>| {
        let refused = bed.client.join_group(JoinGroupRequest { member, options }).await.expect_err("refused");
        let error = ApiError::from_status(&refused);
        (error.reason, error.violations.first().map(|(field, _)| field.clone()).unwrap_or_default())
    };
    let fine = || Some(options(&["t"]));
    assert_eq!(join(None, fine()).await, (ErrorReason::InvalidRequest, "member".into()));
    assert_eq!(join(Some(a.clone()), None).await, (ErrorReason::InvalidRequest, "options".into()));
    let nameless = MemberIdentity { group: String::new(), ..a.clone() };
    assert_eq!(join(Some(nameless), fine()).await, (ErrorReason::InvalidGroupName, "member.group".into()));
    let pattern = MemberOptions { topic_pattern: "t(".into(), ..options(&[]) };
    assert_eq!(
        join(Some(a.clone()), Some(pattern)).await,
        (ErrorReason::InvalidRequest, "options.topic_pattern".into())
    );
    bed.join(&a).await;
    let request = JoinGroupRequest { member: Some(identity("a", 2)), options: fine() };
    let taken = ApiError::from_status(&bed.client.join_group(request).await.expect_err("it is taken"));
    assert_eq!((taken.code, taken.reason), (Code::AlreadyExists, ErrorReason::MemberExists));
    assert_eq!(taken.retry_after, Some(milliseconds(1_000)));
    let patient = HeartbeatRequest { max_wait_ms: 10_001, ..heartbeat(&a, &[], 0) };
    let refused = ApiError::from_status(&bed.client.heartbeat(patient).await.expect_err("too long"));
    assert_eq!(refused.violations[0].0, "max_wait_ms");
    let negative = bed.client.heartbeat(heartbeat(&a, &[-1], 0)).await.expect_err("no partition");
    assert_eq!(ApiError::from_status(&negative).violations[0].0, "owned[0].partitions");
    let group = "unknown".to_owned();
    let unknown =
        bed.client.get_group(GetGroupRequest { group: group.clone() }).await.expect_err("no such group");
    assert_eq!((unknown.code(), reason(&unknown)), (Code::NotFound, ErrorReason::UnknownGroup));
    let unknown = bed.client.delete_group(DeleteGroupRequest { group }).await.expect_err("no such group");
    assert_eq!(reason(&unknown), ErrorReason::UnknownGroup);
    let token = ListGroupsRequest { page_token: "\0".into(), page_size: 0 };
    assert_eq!(
        reason(&bed.client.list_groups(token).await.expect_err("not ours")),
        ErrorReason::InvalidRequest
    );
    bed.stop().await;
}

#[tokio::test]
async fn offsets_are_committed_and_found() {
    let mut bed = Bed::new(2).await;
    let a = identity("a", 1);
    let generation = bed.join(&a).await;
    let commit = |number, offsets| CommitOffsetsRequest {
        group: "g".into(),
        member: Some(a.clone()),
        number,
        generation,
        offsets,
    };
    let mut results = async |request: CommitOffsetsRequest| {
        let committed = bed.client.commit_offsets(request).await.map(tonic::Response::into_inner);
        committed.map(|committed| {
            let reason = |result: tidelog_proto::v1::OffsetCommitResult| {
                result.error.map(|error| (error.reason(), error.code))
            };
            committed.results.into_iter().map(reason).collect::<Vec<_>>()
        })
    };
    let offsets = vec![to_commit(0, 7), to_commit(5, 7), to_commit(1, -1)];
    let first = results(commit(1, offsets.clone())).await.expect("looked at");
    let unknown = Some((ErrorReason::UnknownPartition, Code::NotFound.into()));
    assert_eq!(first, [None, unknown, Some((ErrorReason::InvalidRequest, Code::InvalidArgument.into()))]);
    assert_eq!(results(commit(1, offsets)).await.expect("looked at"), first, "a repeat");
    let stale = CommitOffsetsRequest { generation: 0, ..commit(2, vec![to_commit(0, 9)]) };
    let stale = results(stale).await.expect("looked at");
    assert_eq!(stale, [Some((ErrorReason::StaleGeneration, Code::Aborted.into()))]);
    let nobody =
        CommitOffsetsRequest { member: None, number: 0, generation: 0, ..commit(0, vec![to_commit(0, 9)]) };
    let nobody = results(nobody).await.expect("looked at");
    assert_eq!(nobody, [Some((ErrorReason::GroupNotEmpty, Code::FailedPrecondition.into()))]);
    let stranger =
        CommitOffsetsRequest { member: Some(identity("a", 9)), ..commit(9, vec![to_commit(0, 9)]) };
    let stranger = results(stranger).await.expect("looked at");
    assert_eq!(stranger, [Some((ErrorReason::UnknownMember, Code::Aborted.into()))]);
    for (wrong, field) in [
        (commit(0, vec![to_commit(0, 1)]), "number"),
        (commit(3, Vec::new()), "offsets"),
        (commit(3, vec![to_commit(0, 1), to_commit(0, 2)]), "offsets[1].partition"),
        (CommitOffsetsRequest { group: "other".into(), ..commit(3, vec![to_commit(0, 1)]) }, "member.group"),
        (CommitOffsetsRequest { member: None, ..commit(3, vec![to_commit(0, 1)]) }, "number"),
    ] {
        let refused = ApiError::from_status(&results(wrong).await.expect_err("refused"));
        assert_eq!(refused.violations[0].0, field);
    }
    let all = FetchOffsetsRequest { group: "g".into(), partitions: Vec::new() };
    let found = bed.client.fetch_offsets(all).await.expect("readable").into_inner().offsets;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].topic.as_str(), found[0].partition, found[0].offset), ("t", 0, 7));
    assert!(found[0].committed_at_ms > 1_600_000_000_000);
    let some = TopicPartitions { topic: String::new(), topic_id: found[0].topic_id, partitions: vec![0, 1] };
    let some = FetchOffsetsRequest { group: "g".into(), partitions: vec![some] };
    assert_eq!(bed.client.fetch_offsets(some).await.expect("readable").into_inner().offsets, found);
    let none = FetchOffsetsRequest { group: "unknown".into(), partitions: Vec::new() };
    assert_eq!(bed.client.fetch_offsets(none).await.expect("readable").into_inner().offsets, []);
    bed.stop().await;
}

#[tokio::test]
async fn groups_are_listed_described_and_deleted() {
    let mut bed = Bed::new(2).await;
    for n in 0..3 {
        let offsets = vec![to_commit(0, n)];
        let request =
            CommitOffsetsRequest { group: format!("empty {n}"), offsets, ..CommitOffsetsRequest::default() };
        bed.client.commit_offsets(request).await.expect("no members");
    }
    bed.join(&identity("a", 1)).await;
    let page = ListGroupsRequest { page_size: 3, page_token: String::new() };
    let page = bed.client.list_groups(page).await.expect("readable").into_inner();
    let names: Vec<&str> = page.groups.iter().map(|group| group.group.as_str()).collect();
    assert_eq!(names, ["empty 0", "empty 1", "empty 2"]);
    assert_eq!(page.groups[0].state(), GroupState::Empty);
    let next = ListGroupsRequest { page_size: 3, page_token: page.next_page_token };
    let next = bed.client.list_groups(next).await.expect("readable").into_inner();
    assert_eq!((next.groups[0].group.as_str(), next.groups[0].member_count), ("g", 1));
    assert_eq!(next.next_page_token, "");
    let group = bed.client.get_group(GetGroupRequest { group: "g".into() }).await.expect("it exists");
    let group = group.into_inner().group.expect("it is there");
    assert_eq!((group.state(), group.assignor()), (GroupState::Stable, Assignor::Sticky));
    assert_eq!((group.members[0].member_id.as_str(), numbers(&group.members[0].owned)), ("a", vec![0, 1]));
    assert_eq!(group.members[0].topics, ["t"]);
    let delete = |name: &str| DeleteGroupRequest { group: name.into() };
    let members =
        ApiError::from_status(&bed.client.delete_group(delete("g")).await.expect_err("it has a member"));
    assert_eq!((members.reason, members.metadata["members"].as_str()), (ErrorReason::GroupNotEmpty, "1"));
    bed.client.delete_group(delete("empty 1")).await.expect("no members");
    let again = bed.client.delete_group(delete("empty 1")).await.expect_err("it is gone");
    assert_eq!(reason(&again), ErrorReason::UnknownGroup);
    bed.stop().await;
}

#[tokio::test]
async fn a_member_assigns_when_it_is_asked() {
    let mut bed = Bed::new(3).await;
    let (a, b) = (identity("a", 1), identity("b", 2));
    for who in [&a, &b] {
        let wish =
            MemberOptions { assignor: Assignor::Client.into(), user_data: "mine".into(), ..options(&["t"]) };
        let request = JoinGroupRequest { member: Some(who.clone()), options: Some(wish) };
        bed.client.join_group(request).await.expect("there is room");
    }
    let told = bed.client.heartbeat(heartbeat(&a, &[], 0)).await.expect("a member").into_inner();
    let asked = told.assignment_request.expect("it is asked");
    assert_eq!(numbers(&asked.topics), [0, 1, 2]);
    let members: Vec<(&str, &[u8])> =
        asked.members.iter().map(|member| (member.member_id.as_str(), &*member.user_data)).collect();
    assert_eq!(members, [("a", &b"mine"[..]), ("b", b"mine")]);
    let give = |member: &MemberIdentity, generation, to: &str, partitions: &[i32]| {
        let partitions =
            vec![TopicPartitions { topic: "t".into(), topic_id: 0, partitions: partitions.to_vec() }];
        AssignPartitionsRequest {
            member: Some(member.clone()),
            generation,
            members: vec![MemberAssignment { member_id: to.into(), partitions }],
        }
    };
    let stale =
        bed.client.assign_partitions(give(&a, asked.generation + 1, "b", &[0])).await.expect_err("not asked");
    assert_eq!((stale.code(), reason(&stale)), (Code::Aborted, ErrorReason::StaleGeneration));
    let wrong = bed
        .client
        .assign_partitions(give(&a, asked.generation, "nobody", &[0]))
        .await
        .expect_err("no member");
    assert_eq!(reason(&wrong), ErrorReason::InvalidRequest);
    bed.client.assign_partitions(give(&a, asked.generation, "b", &[0, 2])).await.expect("it makes sense");
    let told = bed.client.heartbeat(heartbeat(&b, &[], 0)).await.expect("a member").into_inner();
    assert_eq!(numbers(&told.assignment.expect("one").partitions), [0, 2]);
    bed.stop().await;
}

#[tokio::test]
async fn a_heartbeat_that_waits_is_answered_when_the_agent_shuts_down() {
    let mut bed = Bed::new(1).await;
    let a = identity("a", 1);
    let known = bed.join(&a).await;
    let mut client = bed.client.clone();
    let patient = HeartbeatRequest { max_wait_ms: 10_000, ..heartbeat(&a, &[0], known) };
    let waiting = tokio::spawn(async move { client.heartbeat(patient).await });
    // Until it waits there.
    tokio::time::sleep(milliseconds(1_000)).await;
    bed.drain();
    let answer = waiting.await.expect("no panic").expect("what it has is told").into_inner();
    assert_eq!(answer.assignment.expect("one").generation, known);
    bed.stop().await;
}
