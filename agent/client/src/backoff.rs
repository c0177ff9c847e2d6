//! How long to wait before trying again.

use std::time::Duration;

use tidelog_metadata_log::env::Entropy;

/// The first wait is up to this.
const FIRST: Duration = Duration::from_millis(50);
/// No wait of our own choice is longer.
const LONGEST: Duration = Duration::from_secs(2);

/// Doubling waits with full jitter above the half, so that clients which failed together do not return together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    entropy: Entropy,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(entropy: Entropy) -> Self {
        Self { entropy, failures: 0 }
    }

    /// Forgets earlier failures.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after another failure; not shorter than what the service asked for.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(8)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        let jitter = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        let wait = half + Duration::from_micros(self.entropy.below(jitter.saturating_add(1)));
        wait.max(asked.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_honour_the_service() {
        let mut backoff = Backoff::new(Entropy::seeded(1));
        assert!(backoff.next(None) <= FIRST);
        for _ in 0..40 {
            let wait = backoff.next(None);
            assert!(wait <= LONGEST && wait >= FIRST / 2, "{wait:?}");
        }
        assert!(backoff.next(None) >= LONGEST / 2);
        assert_eq!(backoff.next(Some(Duration::from_secs(9))), Duration::from_secs(9));
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }
}
