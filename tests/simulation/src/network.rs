//! The network between nodes: connections that are slow, stall, break and lead nowhere.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tidelog_metadata_node::{AgentCard, FromLeader, Link, LinkError, Peers};
use tidelog_metadata_state::Leader;
use tidelog_types::Place;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::world::World;

/// How often a message that cannot get through is looked at.
const STUCK: Duration = Duration::from_millis(20);

/// The network as one machine sees it.
#[derive(Debug)]
pub struct SimPeers {
    world: World,
    machine: usize,
}

impl SimPeers {
    /// The network of a world.
    pub fn new(world: World, machine: usize) -> Self {
        Self { world, machine }
    }
}

impl Peers for SimPeers {
    fn connect(&self, leader: &Leader, from: Place) -> BoxFuture<'static, Result<Link, LinkError>> {
        let (world, machine, leader) = (self.world.clone(), self.machine, leader.clone());
        Box::pin(async move {
            let Ok(target) = leader.address.parse::<usize>() else {
                return Err(LinkError::Failed("no such machine".into()));
            };
            let way = Way { world: world.clone(), ends: [machine, target] };
            way.pass().await;
            let (node, runs_as, instance) = {
                let inner = world.lock();
                let machines = &inner.machines;
                (machines[target].node.clone(), machines[target].instance, machines[machine].instance)
            };
            let card = AgentCard { instance, clients_at: String::new(), version: String::new() };
            let node = node.ok_or_else(|| LinkError::Refused("nobody listens".into()))?;
            if runs_as != leader.agent {
                return Err(LinkError::NotLeader);
            }
            let follower = node.take_follower(from, card);
            way.pass().await;
            let follower = follower?;
            world.note(&[16, machine as u64, target as u64], || {
                format!("node {machine} follows node {target} from {from}")
            });
            let (to_leader, to_leader_end) = mpsc::channel(8);
            let (from_leader, from_leader_end) = mpsc::channel(16);
            let (ended, end) = oneshot::channel();
            let there = way.clone();
            let serving = async move {
                let to_leader = there.carry(to_leader_end);
                // The follower may have gone.
                let _ = ended.send(follower.serve(to_leader, from_leader).await);
            };
            {
                // It runs in the leader's process: it stands still and dies with it.
                let mut inner = world.lock();
                inner.links += 1;
                inner.machines[target].visitors.0.push(Box::pin(serving));
                inner.machines[target].wake();
            }
            Ok(Link { from_leader: way.carry_back(from_leader_end, end), to_leader })
        })
    }
}

/// Counts a message as on its way until it has arrived, or its connection is gone.
struct OnItsWay(World);

impl OnItsWay {
    fn new(world: &World) -> Self {
        world.lock().on_their_way += 1;
        Self(world.clone())
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.lock().on_their_way -= 1;
    }
}

/// Between two machines.
#[derive(Debug, Clone)]
struct Way {
    world: World,
    ends: [usize; 2],
}

impl Way {
    /// Takes the time that a message takes, which can be long.
    async fn pass(&self) {
        let takes = {
            let mut inner = self.world.lock();
            let (profile, calm) = (inner.profile, inner.calm);
            if !calm && inner.dice.chance(profile.late) {
                inner.dice.ms(200, profile.late_ms_max)
            } else {
                inner.dice.ms(0, profile.usual_ms)
            }
        };
        sleep(takes).await;
        while self.is_cut() {
            sleep(STUCK).await;
        }
    }

    fn is_cut(&self) -> bool {
        let inner = self.world.lock();
        self.ends.iter().any(|end| inner.machines[*end].apart)
    }

    /// Whether the connection breaks now.
    fn breaks(&self) -> bool {
        let mut inner = self.world.lock();
        let often = if inner.calm { 0 } else { inner.profile.lost_request / 4 };
        inner.dice.chance(often)
    }

    /// Messages in their order, one behind the other. A cluster is not at rest while they are on their way.
    fn carry<T: Send>(self, messages: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send {
        stream::unfold((self, messages), async |(way, mut messages)| {
            let message = messages.recv().await?;
            let _on_its_way = OnItsWay::new(&way.world);
            way.pass().await;
            Some((message, (way, messages)))
        })
    }

    fn carry_back(
        self,
        messages: mpsc::Receiver<FromLeader>,
        end: oneshot::Receiver<LinkError>,
    ) -> BoxStream<'static, Result<FromLeader, LinkError>> {
        stream::unfold((self, messages, Some(end)), async |(way, mut messages, end)| {
            let mut end = end?;
            let message = messages.recv().await;
            way.pass().await;
            let broken = || Some(Err(LinkError::Refused("reset".into())));
            let item = match message {
                _ if way.breaks() => broken(),
                Some(message) => return Some((Ok(message), (way, messages, Some(end)))),
                None => (&mut end).await.map_or_else(|_| broken(), |end| Some(Err(end))),
            };
            Some((item?, (way, messages, None)))
        })
        .boxed()
    }
}
