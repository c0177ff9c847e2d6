//! The store of snapshots as one node reaches it, with the same faults as the log.

use async_trait::async_trait;
use bytes::Bytes;
use tidelog_metadata_node::{SnapshotStore, SnapshotStoreError};
use tidelog_metadata_state::State;
use tidelog_types::{AgentInstance, TimestampMs};
use uuid::Uuid;

use crate::checks;
use crate::faults::Fate;
use crate::log::send;
use crate::oracle::Checked;
use crate::trace::fingerprint;
use crate::world::World;

/// One process's way to the snapshots.
#[derive(Debug, Clone)]
pub struct SimSnapshots {
    world: World,
    machine: usize,
    instance: AgentInstance,
}

impl SimSnapshots {
    /// The snapshots as the process `instance` on a machine reaches them.
    pub fn new(world: World, machine: usize, instance: AgentInstance) -> Self {
        Self { world, machine, instance }
    }

    /// Makes one call; `None` if no answer came.
    async fn call<T: Send + 'static>(
        &self,
        effect: impl Fn(&World) -> T + Clone + Send + 'static,
    ) -> Option<T> {
        checks::compare(&self.world, self.machine, self.instance);
        let fate: Fate = self.world.fate(self.machine);
        self.world.befall(self.machine, self.instance, fate.before).await;
        let world = self.world.clone();
        let answer = send(&self.world, &fate, move || effect(&world)).await;
        self.world.befall(self.machine, self.instance, fate.after).await;
        answer
    }
}

fn no_answer() -> SnapshotStoreError {
    SnapshotStoreError::Store("no answer".into())
}

/// A snapshot is what replaying the log gives.
fn check_snapshot(world: &World, name: &str, bytes: &Bytes) -> Checked {
    let state = State::decode_snapshot(bytes).map_err(|e| ("INV-22", format!("snapshot {name}: {e}")))?;
    let inner = world.lock();
    match inner.oracle.state_at(state.index()) {
        Some(right) if *right == state => Ok(()),
        Some(_) => Err(("INV-3", format!("snapshot {name} is not the state at its index {}", state.index()))),
        None => Err(("INV-2", format!("snapshot {name} has entries that are not in the log"))),
    }
}

#[async_trait]
impl SnapshotStore for SimSnapshots {
    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), SnapshotStoreError> {
        self.world.check(check_snapshot(&self.world, name, &bytes));
        let (name, machine) = (name.to_owned(), self.machine);
        let written = self.call(move |world| {
            let at = world.elapsed();
            let mut inner = world.lock();
            inner.writes += 1;
            inner.trace.event(at, &[5, machine as u64, fingerprint(&bytes)], || {
                format!("node {machine} wrote {name}")
            });
            let found = inner.snapshots.entry(name.clone()).or_insert_with(|| bytes.clone());
            if *found != bytes {
                world.violate_in(&mut inner, "DESIGN 2.3", format!("two snapshots are named {name}"));
            }
        });
        written.await.ok_or_else(no_answer)
    }

    async fn read(&self, name: &str) -> Result<Bytes, SnapshotStoreError> {
        let wanted = name.to_owned();
        let found = self
            .call(move |world| world.lock().snapshots.get(&wanted).cloned())
            .await
            .ok_or_else(no_answer)?;
        found.ok_or_else(|| SnapshotStoreError::NotFound(name.to_owned()))
    }

    async fn delete(&self, name: &str) -> Result<(), SnapshotStoreError> {
        let in_force =
            self.world.lock().oracle.state().snapshot().is_some_and(|snapshot| snapshot.name == name);
        if in_force {
            self.world.violate("INV-14", format!("snapshot {name} is deleted, the newest begin names it"));
        }
        let (name, machine) = (name.to_owned(), self.machine);
        let deleted = self.call(move |world| {
            let at = world.elapsed();
            let mut inner = world.lock();
            inner.trace.event(at, &[6, machine as u64], || format!("node {machine} deletes {name}"));
            inner.snapshots.remove(&name);
        });
        deleted.await.ok_or_else(no_answer)
    }

    async fn store_time(&self, _probe: Uuid) -> Result<TimestampMs, SnapshotStoreError> {
        let told = self.call(|world| {
            world.lock().writes += 1;
            // Last-modified times have whole seconds.
            TimestampMs(world.true_time().0 / 1000 * 1000)
        });
        told.await.ok_or_else(no_answer)
    }
}
