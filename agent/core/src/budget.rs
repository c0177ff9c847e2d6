//! The bytes that produce requests may occupy at once.
//!
//! Bytes are reserved before a request's body is read, so that callers beyond the budget are told to wait instead of
//! filling the memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// One permit stands for this many bytes: a semaphore acquires at most 2^32 permits at once, and few callers care.
const UNIT_BYTES: usize = 64;

/// A budget of bytes; cheap to clone, clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    limit_units: u32,
    retry_after: Duration,
}

/// More bytes are in the agent than it may hold. Nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes do not fit the buffers now, of {limit} bytes {used} are in use")]
pub struct Overloaded {
    /// What was asked for.
    pub wanted: usize,
    /// What the budget is in all.
    pub limit: usize,
    /// What is in use.
    pub used: usize,
    /// When it makes sense to ask again.
    pub retry_after: Duration,
}

/// Bytes of the budget that somebody holds; dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    // Held for its drop; `None` is a reservation of nothing.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    /// A reservation of nothing, for data whose bytes are accounted for elsewhere.
    pub fn none() -> Self {
        Self { _permit: None }
    }
}

impl Budget {
    /// A budget of `limit` bytes. Who is refused is told to come back after `retry_after`.
    pub fn new(limit: usize, retry_after: Duration) -> Self {
        let limit_units = u32::try_from(limit / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        Self { units: Arc::new(Semaphore::new(limit_units as usize)), limit_units, retry_after }
    }

    /// Reserves bytes, or says that there are too few.
    pub fn try_reserve(&self, bytes: usize) -> Result<Reservation, Overloaded> {
        let units = self.units_for(bytes);
        match Arc::clone(&self.units).try_acquire_many_owned(units) {
            Ok(permit) => Ok(Reservation { _permit: Some(permit) }),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => Err(self.overloaded(bytes)),
        }
    }

    /// Waits until the bytes can be reserved, in the order of asking. More than the whole budget is taken for the whole
    /// budget, so that it does not wait forever; the front end bounds its requests.
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation, Overloaded> {
        let units = self.units_for(bytes).min(self.limit_units);
        match Arc::clone(&self.units).acquire_many_owned(units).await {
            Ok(permit) => Ok(Reservation { _permit: Some(permit) }),
            Err(_) => Err(self.overloaded(bytes)),
        }
    }

    /// Bytes in use, rounded up per reservation.
    pub fn used(&self) -> usize {
        (self.limit_units as usize).saturating_sub(self.units.available_permits()) * UNIT_BYTES
    }

    /// Bytes in all.
    pub fn limit(&self) -> usize {
        self.limit_units as usize * UNIT_BYTES
    }

    fn units_for(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
    }

    fn overloaded(&self, wanted: usize) -> Overloaded {
        Overloaded { wanted, limit: self.limit(), used: self.used(), retry_after: self.retry_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_what_is_dropped_comes_back() {
        let budget = Budget::new(1024, Duration::from_millis(100));
        let first = budget.try_reserve(1000).expect("fits");
        let refused = budget.try_reserve(100).expect_err("too much");
        assert_eq!((refused.wanted, refused.limit, refused.used), (100, 1024, 1024));
        assert_eq!(refused.retry_after, Duration::from_millis(100));
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_reserve(usize::MAX).is_err());
        assert!(budget.try_reserve(1024).is_ok());
    }

    #[tokio::test]
    async fn waiting_is_in_order_and_never_for_ever() {
        let budget = Budget::new(1024, Duration::from_millis(100));
        let whole = budget.reserve(usize::MAX).await.expect("taken for the whole budget");
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(10).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(whole);
        assert!(waiting.await.expect("no panic"));
    }
}
