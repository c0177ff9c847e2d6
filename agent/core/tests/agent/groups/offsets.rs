//! Commits, and looking at groups.

use tidelog_agent::Settings;
use tidelog_agent::groups::error::{GroupError, OffsetError};
use tidelog_agent::groups::offsets::{NamedPartitions, OffsetToCommit};
use tidelog_metadata_state::group::command::{CommittedBy, MemberRun};
use tidelog_metadata_state::group::{Assignor, GroupState};
use tidelog_types::{CommitNumber, Generation, GroupName, TopicId};

use super::{group, numbers, obey, options, run, told};
use crate::harness::{Running, Stores, batch, name, offset, partition};

fn to_commit(topic: &str, at: i32, value: i64) -> OffsetToCommit {
    OffsetToCommit {
        topic: name(topic),
        topic_id: None,
        partition: partition(at),
        offset: offset(value),
        metadata: String::new(),
    }
}

fn by(who: &MemberRun, generation: Generation, number: u64) -> Option<CommittedBy> {
    Some(CommittedBy { who: who.clone(), generation, number: CommitNumber(number) })
}

async fn committed(running: &Running) -> Vec<(i32, i64)> {
    let offsets = running.agent.groups().offsets(&group(), None).await.expect("readable");
    offsets.iter().map(|committed| (committed.partition.get(), committed.offset.get())).collect()
}

#[tokio::test(start_paused = true)]
async fn each_offset_has_its_own_result_in_its_place() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 2).await;
    let groups = running.agent.groups();
    let a = run("a", 1);
    groups.join(&group(), &a, options(&["t"])).await.expect("there is room");
    let known = told(&running, &a).await.generation;
    let other = OffsetToCommit { topic_id: Some(TopicId(99)), ..to_commit("t", 0, 1) };
    let offsets = || {
        vec![
            to_commit("nope", 0, 1),
            to_commit("t", 1, 5),
            to_commit("t", 7, 1),
            other.clone(),
            to_commit("neither", 0, 1),
        ]
    };
    let results = groups.commit(&group(), by(&a, known, 1), offsets()).await.expect("it was looked at");
    let expected = |results: &[Result<(), OffsetError>]| {
        assert!(matches!(&results[0], Err(OffsetError::UnknownTopic { topic }) if topic.as_str() == "nope"));
        assert_eq!(results[1], Ok(()));
        assert!(matches!(results[2], Err(OffsetError::UnknownPartition { partitions: 2, .. })));
        assert!(matches!(results[3], Err(OffsetError::TopicIdMismatch { wanted: TopicId(99), .. })));
        assert!(
            matches!(&results[4], Err(OffsetError::UnknownTopic { topic }) if topic.as_str() == "neither")
        );
        assert_eq!(results.len(), 5);
    };
    expected(&results);
    assert_eq!(committed(&running).await, [(1, 5)]);
    // The answer was lost, and it is asked again: the same results, no second effect.
    let results = groups.commit(&group(), by(&a, known, 1), offsets()).await.expect("it was looked at");
    expected(&results);
    let older = groups.commit(&group(), by(&a, known, 0), vec![to_commit("t", 1, 3)]).await;
    assert!(matches!(older, Err(GroupError::Malformed(_))), "{older:?}");
    let stale = groups.commit(&group(), by(&a, Generation(0), 2), vec![to_commit("t", 1, 3)]).await;
    assert!(
        matches!(stale.expect("looked at")[0], Err(OffsetError::StaleGeneration { current }) if current >= known)
    );
    let stranger = groups.commit(&group(), by(&run("a", 2), known, 3), vec![to_commit("t", 1, 3)]).await;
    assert!(matches!(
        stranger.expect("looked at")[0],
        Err(OffsetError::Group(GroupError::UnknownMember { .. }))
    ));
    let nobody = groups.commit(&group(), None, vec![to_commit("t", 1, 3)]).await.expect("looked at");
    assert!(matches!(nobody[0], Err(OffsetError::Group(GroupError::NotEmpty { members: 1, .. }))));
    assert_eq!(committed(&running).await, [(1, 5)]);
    let twice =
        groups.commit(&group(), by(&a, known, 4), vec![to_commit("t", 1, 3), to_commit("t", 1, 4)]).await;
    assert!(matches!(twice, Err(GroupError::Malformed(_))), "{twice:?}");
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn offsets_are_found_by_name_and_by_id() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 3).await;
    let groups = running.agent.groups();
    let words = OffsetToCommit { metadata: "words".into(), ..to_commit("t", 2, 9) };
    groups.commit(&group(), None, vec![words, to_commit("t", 0, 4)]).await.expect("no members");
    let id = running
        .metadata
        .read(|state| state.topic_by_name(&name("t")).map(|topic| topic.id()))
        .expect("it exists");
    let find = |topic: Option<&str>, topic_id, numbers: &[i32]| {
        let partitions = numbers.iter().map(|number| partition(*number)).collect();
        let wanted = [NamedPartitions { topic: topic.map(name), topic_id, partitions }];
        async move {
            let found = groups.offsets(&group(), Some(&wanted)).await.expect("readable");
            found
                .iter()
                .map(|found| (found.partition.get(), found.offset.get(), found.metadata.clone()))
                .collect::<Vec<_>>()
        }
    };
    let words = || vec![(2, 9, "words".to_owned())];
    assert_eq!(find(Some("t"), None, &[1, 2]).await, words());
    assert_eq!(find(None, Some(id), &[2, 2]).await, words());
    assert_eq!(find(Some("t"), Some(id), &[2]).await, words());
    assert_eq!(find(Some("t"), Some(TopicId(77)), &[2]).await, []);
    assert_eq!(find(Some("u"), None, &[2]).await, []);
    assert_eq!(committed(&running).await, [(0, 4), (2, 9)]);
    let nobody = groups.offsets(&GroupName::new("none").expect("a name"), None).await;
    assert_eq!(nobody, Ok(Vec::new()));
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn groups_are_listed_described_and_deleted() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 2).await;
    let groups = running.agent.groups();
    for n in 0..5 {
        let name = GroupName::new(&format!("only offsets {n}")).expect("a name");
        groups.commit(&name, None, vec![to_commit("t", 0, n)]).await.expect("no members");
    }
    let (a, b) = (run("a", 1), run("b", 2));
    groups.join(&group(), &a, options(&["t"])).await.expect("there is room");
    groups.join(&group(), &b, options(&["t"])).await.expect("there is room");
    let (page, more) = groups.list(None, 4).await.expect("readable");
    let names: Vec<(&str, GroupState, usize)> =
        page.iter().map(|group| (group.name.as_str(), group.state, group.members)).collect();
    assert_eq!(names[0], ("g", GroupState::Rebalancing, 2));
    assert_eq!(names[1], ("only offsets 0", GroupState::Empty, 0));
    assert!(more && names.len() == 4);
    let (page, more) = groups.list(Some(&page[3].name), 4).await.expect("readable");
    assert!(!more && page.len() == 2);
    let info = groups.describe(&group()).await.expect("it exists");
    assert_eq!((info.state, info.assignor), (GroupState::Rebalancing, Assignor::Sticky));
    assert_eq!(numbers(&info.members[0].owned), [0]);
    assert_eq!(numbers(&info.members[0].releasing), [1]);
    assert_eq!(info.members[0].client_id, "test");
    assert!(info.members[1].owned.is_empty());
    obey(&running, &a).await;
    assert_eq!(groups.describe(&group()).await.expect("it exists").state, GroupState::Stable);
    let not_empty = groups.delete(&group()).await;
    assert!(matches!(not_empty, Err(GroupError::NotEmpty { members: 2, .. })), "{not_empty:?}");
    let first = GroupName::new("only offsets 0").expect("a name");
    groups.delete(&first).await.expect("no members");
    assert!(matches!(groups.delete(&first).await, Err(GroupError::UnknownGroup { .. })));
    running.stop().await.expect("clean");
}

#[tokio::test(start_paused = true)]
async fn what_groups_have_yet_to_read_is_told_by_the_leader() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 2).await;
    running.produce(batch(0, &["a", "b", "c"])).await.expect("acknowledged");
    running.produce(batch(1, &["d"])).await.expect("acknowledged");
    let groups = running.agent.groups();
    let offsets = vec![to_commit("t", 0, 1), to_commit("t", 1, 0)];
    groups.commit(&group(), None, offsets).await.expect("no members");
    groups.join(&group(), &run("a", 1), options(&["t"])).await.expect("there is room");
    tokio::time::sleep(super::seconds(1)).await;
    let text = running.metrics.encode();
    for line in [
        r#"tidelog_group_lag_records{group="g",topic="t"} 3"#,
        "tidelog_group_members 1",
        "tidelog_group_commits_total 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    let rebalances = text.lines().find_map(|line| line.strip_prefix("tidelog_group_rebalances_total "));
    assert!(rebalances.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count >= 1));
    running.stop().await.expect("clean");
}
