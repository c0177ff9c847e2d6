//! The clock that a leader stamps entries with.

use std::sync::Arc;
use std::time::Duration;

use tidelog_metadata_log::env::Clock;
use tidelog_types::TimestampMs;
use tokio::time::Instant;
use uuid::Uuid;

use crate::snapshots::{SnapshotStore, SnapshotStoreError};

/// A wall clock as it was when it was last compared with the store's, carried on by monotonic time: the machine's
/// clock may be set wrong later, and log time, which never falls, must not follow it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaderClock {
    wall_clock: TimestampMs,
    since: Instant,
}

impl LeaderClock {
    /// The machine's clock, unchecked.
    pub fn unchecked(clock: &dyn Clock) -> Self {
        Self { wall_clock: clock.now(), since: Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> TimestampMs {
        let elapsed_ms = i64::try_from(self.since.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.wall_clock.saturating_add_ms(elapsed_ms)
    }

    /// The machine's clock, if it agrees with the store's; otherwise by how many milliseconds it is ahead.
    pub async fn checked(
        clock: Arc<dyn Clock>,
        store: Arc<dyn SnapshotStore>,
        probe: Uuid,
        tolerance: Duration,
    ) -> Result<Result<Self, i64>, SnapshotStoreError> {
        let store_time = store.store_time(probe).await?;
        let own = Self::unchecked(&*clock);
        let ahead_ms = own.wall_clock.0.saturating_sub(store_time.0);
        let tolerance_ms = i64::try_from(tolerance.as_millis()).unwrap_or(i64::MAX);
        Ok(if ahead_ms.saturating_abs() <= tolerance_ms { Ok(own) } else { Err(ahead_ms) })
    }
}
