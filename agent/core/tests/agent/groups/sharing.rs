//! Partitions changing hands among members that come and go, while agents and leaders change.

use std::collections::BTreeMap;

use tidelog_agent::Settings;
use tidelog_agent::groups::Groups;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::client::{Client, Readers};
use super::{options, run, seconds};
use crate::harness::{Running, Stores};

/// A member's process under test.
struct Process {
    stop: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

fn start(id: &str, n: u128, agents: &[&Running], readers: &Readers) -> Process {
    let (stop, stopped) = mpsc::channel(1);
    let agents: Vec<Groups> = agents.iter().map(|running| running.agent.groups().clone()).collect();
    let client = Client { who: run(id, n), readers: readers.clone(), agents, options: options(&["t"]) };
    Process { stop, task: tokio::spawn(client.run(stopped)) }
}

impl Process {
    async fn stop(self) {
        self.stop.send(()).await.expect("it runs");
        self.task.await.expect("no panic");
    }
}

fn loads(readers: &Readers) -> Vec<usize> {
    readers.count().into_values().collect()
}

#[tokio::test(start_paused = true)]
async fn members_come_and_go() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(Settings::default(), 12).await;
    let readers = Readers::default();
    let mut members = BTreeMap::new();
    for n in 0..6 {
        members.insert(n, start(&format!("m{n}"), n, &[&running], &readers));
        sleep(seconds(1)).await;
    }
    sleep(seconds(10)).await;
    assert_eq!(loads(&readers), [2; 6]);
    for n in [0, 3] {
        members.remove(&n).expect("it runs").stop().await;
    }
    sleep(seconds(10)).await;
    assert_eq!(loads(&readers), [3; 4]);
    // One dies without a word.
    let dead = members.remove(&5).expect("it runs");
    dead.task.abort();
    let _ = dead.task.await;
    sleep(seconds(5)).await;
    assert_eq!(loads(&readers), [3; 4], "its session lasts");
    readers.forget("m5");
    sleep(seconds(10)).await;
    assert_eq!(loads(&readers), [4; 3]);
    for (_, member) in members {
        member.stop().await;
    }
    assert!(readers.count().is_empty());
    running.stop().await.expect("clean");
}

/// Two agents, each the other's way to the leader; the one that leads is lost, and comes back.
#[tokio::test(start_paused = true)]
async fn sessions_outlive_their_leader() {
    let stores = Stores::new().await;
    let one = stores.start_shared(Settings::default());
    one.agent.admin().create_topic(&crate::harness::name("t"), 8, Vec::new()).await.expect("created");
    let two = stores.start_shared(Settings::default());
    one.agent.groups().reach_leader_by(two.agent.groups().leader_link());
    two.agent.groups().reach_leader_by(one.agent.groups().leader_link());
    let readers = Readers::default();
    // The work of followers needs a leader that they hear; here only heartbeats are carried over, so all join where it leads.
    let members: Vec<Process> =
        (0..4).map(|n| start(&format!("m{n}"), 4 * n, &[&one, &two], &readers)).collect();
    sleep(seconds(15)).await;
    assert_eq!(loads(&readers), [2; 4]);
    assert!(one.metadata.leader().1);
    one.crash().await;
    sleep(seconds(60)).await;
    assert!(two.metadata.leader().1, "the other one leads");
    assert_eq!(loads(&readers), [2; 4]);
    for member in members {
        member.stop().await;
    }
    two.stop().await.expect("clean");
}
