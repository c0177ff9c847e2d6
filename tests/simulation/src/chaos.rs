//! What happens to the nodes from outside.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::checks;
use crate::faults::{DISTURBANCES, Disturbance, freeze_time};
use crate::process;
use crate::world::{Link, NODES, OBSERVER, World};

/// Disturbs the nodes until `end`, with pauses.
pub async fn disturb(world: &World, end: Instant) {
    while Instant::now() < end {
        let (pause, calm, disturbance) = {
            let mut inner = world.lock();
            let usual = inner.profile.disturbance_ms;
            // A quarter of the time is calm, so that the log also grows.
            let calm = inner.dice.chance(2_500);
            let pause = if usual == 0 { Duration::from_secs(1) } else { inner.dice.ms(usual / 4, usual * 2) };
            let enabled = inner.profile.disturbances;
            let enabled: Vec<Disturbance> = DISTURBANCES
                .into_iter()
                .zip(enabled)
                .filter(|(_, on)| *on && usual > 0)
                .map(|(it, _)| it)
                .collect();
            let chosen = (!enabled.is_empty()).then(|| inner.dice.pick(&enabled));
            (pause, calm, chosen)
        };
        world.lock().calm = calm;
        if let Some(disturbance) = disturbance.filter(|_| !calm) {
            strike(world, disturbance);
        }
        sleep(pause).await;
        checks::sweep(world);
    }
}

fn strike(world: &World, disturbance: Disturbance) {
    let (machine, time, skew_ms) = {
        let mut inner = world.lock();
        let machine = inner.dice.index(NODES);
        let time = freeze_time(&mut inner.dice);
        // Within the tolerance, beyond it, and the hour and more that people set clocks wrong by.
        let range = inner.dice.pick(&[50_000, 70_000, 3_600_000, 100_000_000]);
        let skew_ms =
            i64::try_from(inner.dice.below(2 * range)).unwrap_or(0) - i64::try_from(range).unwrap_or(0);
        (machine, time, skew_ms)
    };
    match disturbance {
        Disturbance::Freeze => world.freeze(machine, time),
        Disturbance::Crash => world.crash(machine),
        Disturbance::Stop => {
            world.note(&[14, machine as u64], || format!("node {machine} is asked to stop"));
            world.lock().machines[machine].cancel.cancel();
        }
        Disturbance::Partition => cut(world, machine, Link::Down, time),
        Disturbance::RepliesLost => cut(world, machine, Link::RepliesLost, time),
        Disturbance::Apart => {
            world.note(&[15, machine as u64, time.as_millis() as u64], || {
                format!("node {machine} and the others do not reach each other for {} ms", time.as_millis())
            });
            world.lock().machines[machine].apart = true;
            let world = world.clone();
            tokio::spawn(async move {
                sleep(time).await;
                world.lock().machines[machine].apart = false;
            });
        }
        Disturbance::Outage => {
            world.note(&[8, time.as_millis() as u64], || {
                format!("the stores are away for {} ms", time.as_millis())
            });
            world.lock().outage = true;
            let world = world.clone();
            tokio::spawn(async move {
                sleep(time).await;
                world.lock().outage = false;
            });
        }
        Disturbance::Skew => {
            world.note(&[9, machine as u64, skew_ms.unsigned_abs()], || {
                format!("the clock of node {machine} is set {skew_ms} ms off")
            });
            world.lock().machines[machine].skew_ms = skew_ms;
        }
        Disturbance::Boot => drop(tokio::spawn(boot(world.clone()))),
    }
}

fn cut(world: &World, machine: usize, link: Link, time: Duration) {
    world.note(&[10, machine as u64, time.as_millis() as u64], || {
        format!("the link of node {machine} is {link:?} for {} ms", time.as_millis())
    });
    world.lock().machines[machine].link = link;
    let world = world.clone();
    tokio::spawn(async move {
        sleep(time).await;
        world.lock().machines[machine].link = Link::Up;
    });
}

/// A fresh node boots from what is in the stores, and has to come to the right state.
async fn boot(world: World) {
    if world.node(OBSERVER).is_some() {
        return;
    }
    process::start(&world, OBSERVER);
    let Some(node) = world.node(OBSERVER) else { return };
    let floor = world.lock().history.floor();
    let confirmed = node.confirm(Instant::now() + Duration::from_secs(10)).await;
    if let Ok(index) = confirmed {
        if !world.lock().oracle.covers(index, floor) {
            world.violate("INV-12", format!("a fresh node confirmed {index}, {floor} had been seen"));
        }
        checks::compare_deeply(&world, OBSERVER);
    }
    world.crash(OBSERVER);
}

/// Ends all faults: whatever breaks or stands still from now on does so by itself.
pub fn heal(world: &World) {
    world.note(&[11], || "all faults end".to_owned());
    let mut inner = world.lock();
    inner.calm = true;
    inner.profile = inner.profile.calm();
    inner.outage = false;
    for machine in &mut inner.machines {
        machine.link = Link::Up;
        machine.apart = false;
        machine.skew_ms = 0;
        machine.frozen_until = None;
        machine.wake();
    }
}
