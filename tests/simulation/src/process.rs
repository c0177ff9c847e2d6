//! A node's process: it runs, stands still, dies and starts again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tidelog_metadata_log::env::Entropy;
use tidelog_metadata_node::{Node, NodeConfig, NodeError};
use tidelog_types::{AgentInstance, LogIndex};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::clock::SimClock;
use crate::log::SimLog;
use crate::network::SimPeers;
use crate::snapshots::SimSnapshots;
use crate::world::{OBSERVER, World};

/// Starts a node on a machine.
pub fn start(world: &World, machine: usize) {
    let (config, entropy) = {
        let mut inner = world.lock();
        let instance = AgentInstance(inner.dice.uuid());
        let entropy = Entropy::seeded(inner.dice.word());
        let settings = inner.settings;
        let mut config = NodeConfig::new(settings.cluster, instance);
        config.roll_entries = settings.roll_entries;
        config.follow_interval = settings.follow_interval;
        config.witness_interval = settings.witness_interval;
        config.expiry_interval = std::time::Duration::from_secs(7);
        config.mistake = settings.mistake;
        config.snapshots_inline = true;
        if settings.peers && machine != OBSERVER {
            config.address = machine.to_string();
        }
        (config, entropy)
    };
    let instance = config.instance;
    world.note(&[7, machine as u64, instance.0.as_u64_pair().0], || {
        format!("node {machine} starts as {instance}")
    });
    let log = Arc::new(SimLog::new(world.clone(), machine, instance));
    let snapshots = Arc::new(SimSnapshots::new(world.clone(), machine, instance));
    let clock = Arc::new(SimClock::new(world.clone(), machine));
    let peers = !config.address.is_empty();
    let (metadata, mut node) = Node::new(config, log, snapshots, clock, entropy);
    if peers {
        node = node.with_peers(Arc::new(SimPeers::new(world.clone(), machine)));
    }
    let cancel = CancellationToken::new();
    {
        let mut inner = world.lock();
        let machine = &mut inner.machines[machine];
        machine.node = Some(metadata);
        machine.instance = instance;
        machine.shown = LogIndex(0);
        machine.dying = false;
        machine.cancel = cancel.clone();
        machine.frozen_until = None;
    }
    let run = Box::pin(node.run(cancel));
    let visitors = FuturesUnordered::new();
    let process = Process { world: world.clone(), machine, run, visitors, thaw: None };
    let world = world.clone();
    tokio::spawn(async move {
        if let Err(error) = process.await {
            // Nothing that the faults here do may stop a node for good.
            world.violate("INV-19", format!("node {machine} stopped: {error}"));
        }
        {
            let mut inner = world.lock();
            if let Some(node) = inner.machines[machine].node.take() {
                inner.handed_on += node.stats().handed_on.load(Ordering::Relaxed);
            }
            // What they hold is dropped outside of the lock.
            std::mem::take(&mut inner.machines[machine].visitors)
        };
        if machine != OBSERVER {
            let down = world.lock().dice.ms(1, 3_000);
            sleep(down).await;
            start(&world, machine);
        }
    });
}

/// A process as its machine runs it: a stopped one is not polled, and what wakes it meanwhile is kept for later.
struct Process {
    world: World,
    machine: usize,
    run: Pin<Box<dyn Future<Output = Result<(), NodeError>> + Send>>,
    visitors: FuturesUnordered<BoxFuture<'static, ()>>,
    thaw: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Future for Process {
    type Output = Result<(), NodeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let frozen_until = {
            let mut inner = self.world.lock();
            let machine = &mut inner.machines[self.machine];
            if machine.dying {
                return Poll::Ready(Ok(()));
            }
            machine.waker = Some(context.waker().clone());
            if machine.frozen_until.is_some_and(|until| until <= Instant::now()) {
                machine.frozen_until = None;
            }
            machine.frozen_until
        };
        let Some(until) = frozen_until else {
            self.thaw = None;
            let came = std::mem::take(&mut self.world.lock().machines[self.machine].visitors);
            self.visitors.extend(came.0);
            while let Poll::Ready(Some(())) = self.visitors.poll_next_unpin(context) {}
            return self.run.as_mut().poll(context);
        };
        let thaw = self.thaw.get_or_insert_with(|| Box::pin(sleep_until(until)));
        thaw.as_mut().reset(until);
        match thaw.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
