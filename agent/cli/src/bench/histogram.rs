//! Latencies, counted in buckets whose width is at most a 64th of their value.

use std::time::Duration;

use serde::Serialize;

/// Buckets of equal width per power of two.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts of durations, in microseconds.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max_us: u64,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half were faster.
    pub p50: f64,
    /// Nine of ten were faster.
    pub p90: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// 999 of 1,000 were faster.
    pub p99_9: f64,
    /// The slowest.
    pub max: f64,
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&mut self, duration: Duration) {
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(microseconds);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.count += 1;
        self.max_us = self.max_us.max(microseconds);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// The percentiles; `None` if nothing was counted.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let at = |per_mille: u64| milliseconds(self.quantile_us(per_mille));
        (self.count > 0).then(|| Percentiles {
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p99_9: at(999),
            max: milliseconds(self.max_us),
        })
    }

    /// Upper end of the bucket in which so many of 1,000 are reached.
    fn quantile_us(&self, per_mille: u64) -> u64 {
        let wanted = (u128::from(self.count) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0_u128;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= wanted {
                return upper_end(bucket).min(self.max_us);
            }
        }
        self.max_us
    }
}

fn milliseconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64() * 1e3
}

/// Values below `2 * STEPS` have a bucket each; above, each power of two has `STEPS` of them.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let place = u64::from(shift) * STEPS + (value >> shift);
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn upper_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / STEPS).saturating_sub(1);
    let value = bucket - shift * STEPS;
    ((u128::from(value) + 1) << shift).saturating_sub(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_of_a_known_sequence() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentiles(), None);
        (1..=1000).for_each(|milliseconds| histogram.record(Duration::from_millis(milliseconds)));
        let percentiles = histogram.percentiles().expect("counted");
        for (found, exact) in [
            (percentiles.p50, 500.0),
            (percentiles.p90, 900.0),
            (percentiles.p99, 990.0),
            (percentiles.p99_9, 999.0),
        ] {
            assert!(found >= exact && found <= exact * (1.0 + 1.0 / 64.0), "{found} for {exact}");
        }
        assert_eq!(percentiles.max, 1000.0);
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!(twice.percentiles(), histogram.percentiles());
    }

    proptest! {
        #[test]
        fn buckets_hold_their_values(value in any::<u64>()) {
            let end = upper_end(bucket(value));
            prop_assert!(end >= value && end - value <= value / STEPS, "{value} in a bucket up to {end}");
        }
    }
}
