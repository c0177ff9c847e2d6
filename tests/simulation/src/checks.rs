//! Comparing nodes with the truth.

use tidelog_metadata_state::State;
use tidelog_types::AgentInstance;

use crate::world::{NODES, World};

/// Whether what a process shows is a beginning of the log. Cheap; done at each call that it makes to a store.
pub fn compare(world: &World, machine: usize, instance: AgentInstance) {
    let node = {
        let inner = world.lock();
        let machine = &inner.machines[machine];
        machine.node.clone().filter(|_| machine.instance == instance)
    };
    let Some(node) = node else { return };
    let (index, next, digest) = node.read(|state| (state.index(), state.next(), state.digest()));
    let (checked, shown) = {
        let mut inner = world.lock();
        let checked = inner.oracle.check_replica(index, next, digest);
        (checked, std::mem::replace(&mut inner.machines[machine].shown, index))
    };
    world.check(checked.map_err(|(invariant, what)| (invariant, format!("node {machine}: {what}"))));
    if index < shown {
        world.violate("INV-12", format!("node {machine} showed {shown} entries and then {index}"));
    }
}

/// Whether a node's whole state is the right one for its index.
pub fn compare_deeply(world: &World, machine: usize) {
    let Some(node) = world.node(machine) else { return };
    let state = node.read(State::clone);
    let inner = world.lock();
    let right = inner.oracle.state_at(state.index());
    // One that stands at a late seal is the business of the cheap comparison.
    let differs = right.is_some_and(|right| right.next() == state.next() && *right != state);
    drop(inner);
    if differs {
        world.violate("INV-3", format!("node {machine} has another state after {} entries", state.index()));
    }
}

/// The checks that look at everything.
pub fn sweep(world: &World) {
    for machine in 0..NODES {
        compare_deeply(world, machine);
    }
    let checked = world.lock().oracle.check_offsets();
    world.check(checked);
}

/// Whether a node has applied the whole log.
pub fn is_current(world: &World, machine: usize) -> bool {
    let Some(node) = world.node(machine) else { return false };
    let index = node.read(State::index);
    index == world.lock().oracle.state().index()
}
