//! Estimates: what work of one kind is likely to use, learnt from what was settled.
//!
//! A sketch counts amounts in buckets of a quarter of a doubling and forgets half of what it knows whenever it is full, so that it
//! follows a change of model. Invariant: sketches depend on nothing but the order of what was settled.

use std::collections::BTreeMap;
use std::sync::Arc;

use mindos_model::{GeneralType, TenantName};

use crate::budget::Amount;

/// Pairs of general type and kind of event that are learnt; those that come later are estimated as configured.
pub const PAIRS_MAX: usize = 4096;
/// Amounts counted before half of them are forgotten.
const COUNT_MAX: u32 = 1024;
/// Amounts seen before an estimate is taken from them.
const LEARNT_MIN: u32 = 10;
const PERCENTILE: u32 = 90;

/// How often amounts fell into each bucket, those that are empty left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sketch {
    pub buckets: BTreeMap<u8, u32>,
}

impl Sketch {
    fn count(&self) -> u32 {
        self.buckets.values().sum()
    }

    fn add(&mut self, amount: u64) {
        if self.count() >= COUNT_MAX {
            self.buckets.values_mut().for_each(|count| *count /= 2);
            self.buckets.retain(|_, count| *count > 0);
        }
        *self.buckets.entry(bucket(amount)).or_default() += 1;
    }

    /// The amount that nine in ten do not exceed, rounded up to the end of its bucket.
    fn p90(&self) -> Option<u64> {
        let count = self.count();
        let mut left = (count * PERCENTILE).div_ceil(100);
        let found = self.buckets.iter().find(|(_, count)| {
            left = left.saturating_sub(**count);
            left == 0
        });
        found.filter(|_| count >= LEARNT_MIN).map(|(bucket, _)| end(*bucket))
    }
}

fn bucket(amount: u64) -> u8 {
    if amount < 4 {
        return amount as u8;
    }
    let exponent = 63 - amount.leading_zeros();
    let quarter = (amount >> (exponent - 2)) & 3;
    (4 * (exponent - 1)) as u8 + quarter as u8
}

/// The largest amount of a bucket.
fn end(bucket: u8) -> u64 {
    if bucket < 4 {
        return bucket.into();
    }
    let (exponent, quarter) = (u32::from(bucket / 4) + 1, u64::from(bucket % 4));
    // The last bucket ends where numbers do.
    u64::try_from((u128::from(4 + quarter + 1) << (exponent - 2)) - 1).unwrap_or(u64::MAX)
}

/// What was learnt of one pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learnt {
    pub micros: Sketch,
    pub tokens: Sketch,
    pub time_ms: Sketch,
}

/// Which work an estimate is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    pub tenant: TenantName,
    pub ty: GeneralType,
    pub kind: Arc<str>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Estimates {
    pub(crate) pairs: BTreeMap<Pair, Learnt>,
}

impl Estimates {
    pub(crate) fn learn(&mut self, pair: Pair, used: Amount) {
        if self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(&pair) {
            return;
        }
        let Learnt { micros, tokens, time_ms } = self.pairs.entry(pair).or_default();
        micros.add(used.micros);
        tokens.add(used.tokens);
        time_ms.add(used.time_ms);
    }

    /// What work is likely to use; `start` as long as too little was seen.
    pub(crate) fn of(&self, pair: &Pair, start: Amount) -> Amount {
        let Some(Learnt { micros, tokens, time_ms }) = self.pairs.get(pair) else { return start };
        Amount {
            micros: micros.p90().unwrap_or(start.micros),
            tokens: tokens.p90().unwrap_or(start.tokens),
            time_ms: time_ms.p90().unwrap_or(start.time_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_ends_in_it_and_is_a_fifth_wide_at_most() {
        let mut amounts: Vec<u64> = (0..2000).chain((0..64).map(|bit| 1 << bit)).collect();
        amounts.extend([u64::MAX, u64::MAX - 1, 1 << 53]);
        for amount in amounts {
            let end = end(bucket(amount));
            assert!(end >= amount && end - amount <= amount / 4, "{amount} ends at {end}");
            assert_eq!(bucket(end), bucket(amount));
        }
    }

    #[test]
    fn nine_in_ten_stay_within_the_estimate() {
        let mut sketch = Sketch::default();
        (1..=1000).for_each(|amount| sketch.add(amount * 10));

        let p90 = sketch.p90().unwrap();

        assert!((9000..=11_000).contains(&p90), "{p90}");
    }

    #[test]
    fn a_few_say_nothing_and_a_change_is_followed() {
        let mut sketch = Sketch::default();
        (0..9).for_each(|_| sketch.add(100));
        assert_eq!(sketch.p90(), None);
        (0..2000).for_each(|_| sketch.add(100));
        (0..4000).for_each(|_| sketch.add(1_000_000));
        assert!(sketch.p90().unwrap() >= 1_000_000);
        (0..8000).for_each(|_| sketch.add(100));
        assert!(sketch.p90().unwrap() < 200);
        assert!(sketch.count() <= COUNT_MAX);
    }

    #[test]
    fn no_more_pairs_are_learnt_than_there_is_room_for() {
        let mut estimates = Estimates::default();
        let pair = |number: usize| Pair {
            tenant: TenantName::default_tenant(),
            ty: "security".parse().unwrap(),
            kind: Arc::from(format!("k{number}")),
        };
        (0..PAIRS_MAX + 10).for_each(|number| estimates.learn(pair(number), Amount::NONE));
        assert_eq!(estimates.pairs.len(), PAIRS_MAX);
    }
}
