//! A machine's wall clock: true time, set wrong.

use tidelog_metadata_log::env::Clock;
use tidelog_types::TimestampMs;

use crate::world::World;

/// The wall clock of one machine.
#[derive(Debug, Clone)]
pub struct SimClock {
    world: World,
    machine: usize,
}

impl SimClock {
    /// The clock of a machine.
    pub fn new(world: World, machine: usize) -> Self {
        Self { world, machine }
    }
}

impl Clock for SimClock {
    fn now(&self) -> TimestampMs {
        let skew_ms = self.world.lock().machines[self.machine].skew_ms;
        self.world.true_time().saturating_add_ms(skew_ms)
    }
}
