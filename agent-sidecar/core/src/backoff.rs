//! How long to wait before the next dial, and chance itself.

use std::time::Duration;

/// Bound of the first wait.
pub(crate) const FIRST: Duration = Duration::from_millis(500);
/// Bound of every wait while leases are held: they lapse meanwhile.
pub(crate) const HOLDING_MAX: Duration = Duration::from_secs(10);
/// Bound of every wait otherwise.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(30);

/// Numbers drawn from a seed, by splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A span from zero to `bound`, to the millisecond.
    pub(crate) fn span(&mut self, bound: Duration) -> Duration {
        let millis = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        Duration::from_millis(((u128::from(self.draw()) * u128::from(millis)) >> 64) as u64)
    }

    /// The wait after so many failed dials in a row, from 1: full jitter under a bound that doubles.
    pub(crate) fn backoff(&mut self, failures: u32, holding: bool) -> Duration {
        let max = if holding { HOLDING_MAX } else { IDLE_MAX };
        let bound = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(max);
        self.span(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_under_their_bounds_and_reach_them() {
        let mut chance = Chance(7);
        for (failures, holding, bound) in [
            (1, true, 500),
            (2, false, 1000),
            (6, true, 10_000),
            (6, false, 16_000),
            (99, true, 10_000),
            (99, false, 30_000),
        ] {
            let longest = (0..2000).map(|_| chance.backoff(failures, holding)).max().unwrap();
            assert!(longest <= Duration::from_millis(bound), "{failures} {holding}");
            assert!(longest >= Duration::from_millis(bound * 9 / 10), "{failures} {holding}: jitter is full");
        }
    }
}
