//! Scores: how soon an instance will have done one more piece of work, beside the others of its general.
//!
//! ```text
//!  score = (leases + 1 + what else is at its model) / slots  x  latency / mean latency of the pool  x  load of its model
//! ```
//! in thousandths; the lower the better. A part of which nothing is known, or nothing fresh, counts as the mean: 1000.
//! Invariant: whole numbers only, so that equal states give equal scores everywhere.

use std::time::Duration;

use mindos_model::Timestamp;

use crate::breaker::Ended;
use crate::input::ModelLoad;
use crate::record::Load;

/// How long a latency counts without a further result.
pub(crate) const LATENCY_STALE: Duration = Duration::from_secs(60);
/// How long the load of a model counts without a further report: three heartbeats of an agent with work.
pub(crate) const MODEL_STALE: Duration = Duration::from_secs(15);
/// How fast a peak is forgotten: after this time without another it counts half.
const PEAK_HALF: Duration = Duration::from_secs(10);
/// A result above the latency moves it by one part in so many: at once, and yet one long piece of work is no slow instance.
const PEAK_RISE: u32 = 4;
/// A failure counts as so many mean latencies, however quick it was.
const FAILURE_PENALTY: u32 = 4;
/// A result moves the mean of a pool by one part in so many.
const MEAN_WEIGHT: i64 = 32;
/// Shares of the mean latency between which one says nothing, in thousandths: work differs as much by itself.
const EVEN: (u64, u64) = (500, 2000);
/// How far from the mean a latency is taken to be, in thousandths.
const RATIO_MAX: u64 = 64_000;
/// Use of the model's cache above which requests begin to be put off, in thousandths.
const CACHE_TIGHT: u32 = 800;
/// What a full cache counts on top, in thousandths.
const CACHE_FULL: u32 = 3000;
/// How far the speed of a model moves the score, in thousandths.
const SPEED: (u64, u64) = (500, 2000);
/// What stands for "as all others".
const NEUTRAL: u32 = 1000;

/// How an instance was weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    pub load: Load,
    /// In thousandths; the lower the better. 0 where it was not compared.
    pub score: u32,
    /// Its latency with peaks and penalties, in milliseconds; 0 when not known or stale.
    pub latency_ms: u32,
    /// Load of the model behind it, in thousandths of a free one; 0 when not known or stale.
    pub model: u32,
    /// Requests at the model that are not its own leases'; 0 when there are none, or the load is not known or stale.
    pub queue: u32,
    /// It was not compared: its breaker let it have one delivery, to see whether it is well.
    pub trial: bool,
}

/// Why an instance was not among those drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// A person holds it back.
    Held,
    /// It is leaving.
    Draining,
    /// Its breaker is open, or its trial is out.
    BreakerOpen,
    /// The provider behind it wants no more for now.
    RateLimited,
    /// Its version is below what the route asks for, or not known.
    VersionTooOld,
    /// Neither it nor its cluster carries the labels that the route requires.
    Affinity,
}

/// Latency that follows peaks at once and forgets them slowly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    latency_ms: u32,
    at: Timestamp,
}

impl Pace {
    /// Takes in a result.
    pub(crate) fn note(&mut self, took: Duration, ended: Ended, mean: Mean, now: Timestamp) {
        let took = u32::try_from(took.as_millis()).unwrap_or(u32::MAX).max(1);
        let sample = match ended {
            Ended::Good => took,
            Ended::Bad => took.max(mean.fresh(now).unwrap_or(took).saturating_mul(FAILURE_PENALTY)),
            Ended::Limited(_) | Ended::Other => return,
        };
        let before = self.fresh(now);
        self.latency_ms = match before {
            Some(before) if sample < before => {
                let passed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX).max(1);
                let weight = |drop: u64| drop * passed / (passed + PEAK_HALF.as_millis() as u64);
                before - u32::try_from(weight(u64::from(before - sample))).unwrap_or(0)
            }
            Some(before) => before + (sample - before) / PEAK_RISE,
            None => sample,
        };
        self.at = now;
    }

    pub(crate) fn fresh(&self, now: Timestamp) -> Option<u32> {
        (self.latency_ms > 0 && now.since(self.at) <= LATENCY_STALE).then_some(self.latency_ms)
    }
}

/// Mean latency of the good results of a pool, in 1/256 ms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    parts: i64,
    at: Timestamp,
}

impl Mean {
    pub(crate) fn note(&mut self, took: Duration, now: Timestamp) {
        let sample = i64::try_from(took.as_millis()).unwrap_or(i64::MAX >> 8).clamp(1, i64::MAX >> 8) << 8;
        self.parts = match self.fresh(now) {
            Some(_) => self.parts + (sample - self.parts) / MEAN_WEIGHT,
            None => sample,
        };
        self.at = now;
    }

    pub(crate) fn fresh(self, now: Timestamp) -> Option<u32> {
        let known = self.parts > 0 && now.since(self.at) <= LATENCY_STALE;
        known.then(|| u32::try_from(self.parts >> 8).unwrap_or(u32::MAX).max(1))
    }
}

/// What the load of the model behind an instance means for its score.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pressure {
    /// In thousandths of a free model; 0 when nothing was reported.
    factor: u32,
    queue: u32,
    at: Timestamp,
}

impl Pressure {
    /// Reads a report of an instance that holds `open` leases: they are known without it. `speed_mean` is how many tokens a request in work yields in a second in the pool, 0 when not known.
    pub(crate) fn of(load: &ModelLoad, open: u32, speed_mean: u32, now: Timestamp) -> Pressure {
        let tight = u32::from(load.cache_permille.unwrap_or(0)).saturating_sub(CACHE_TIGHT);
        let cache = NEUTRAL + tight * CACHE_FULL / (1000 - CACHE_TIGHT);
        let speed = match (speed_of(load), speed_mean) {
            (Some(own), 1..) => (u64::from(speed_mean) * 1000 / u64::from(own)).clamp(SPEED.0, SPEED.1),
            (Some(_) | None, _) => u64::from(NEUTRAL),
        };
        let factor = u64::from(cache) * speed / 1000;
        Pressure {
            factor: u32::try_from(factor).unwrap_or(u32::MAX),
            queue: load.running.saturating_add(load.queue).saturating_sub(open),
            at: now,
        }
    }

    fn fresh(&self, now: Timestamp) -> Option<(u32, u32)> {
        (self.factor > 0 && now.since(self.at) <= MODEL_STALE).then_some((self.factor, self.queue))
    }
}

/// What a latency counts that is `ratio` of the mean, both in thousandths.
fn beside(ratio: u64) -> u64 {
    if ratio < EVEN.0 {
        (ratio * 2).max(EVEN.0 / 4)
    } else if ratio <= EVEN.1 {
        1000
    } else {
        (ratio - 1000).min(RATIO_MAX)
    }
}

/// Tokens that each request in work yields in a second.
pub(crate) fn speed_of(load: &ModelLoad) -> Option<u32> {
    let all = load.tokens_per_second.filter(|tokens| *tokens > 0)?;
    (load.running > 0).then(|| (all / load.running).max(1))
}

/// Weighs one instance of a pool.
pub(crate) fn weigh(load: Load, pace: Pace, mean: Mean, pressure: Pressure, now: Timestamp) -> Weight {
    let latency = pace.fresh(now);
    let model = pressure.fresh(now);
    let (factor, queue) = model.unwrap_or((NEUTRAL, 0));
    let taken = (u64::from(load.open) + 1 + u64::from(queue)) * 1000 / u64::from(load.capacity.max(1));
    let ratio = match (latency, mean.fresh(now)) {
        (Some(own), Some(mean)) => beside(u64::from(own) * 1000 / u64::from(mean)),
        (Some(_) | None, _) => u64::from(NEUTRAL),
    };
    let score = taken.saturating_mul(ratio).saturating_mul(u64::from(factor)) / 1_000_000;
    Weight {
        load,
        score: u32::try_from(score).unwrap_or(u32::MAX).max(1),
        latency_ms: latency.unwrap_or(0),
        model: model.map_or(0, |(factor, _)| factor),
        queue,
        trial: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(5_000_000);

    fn after(seconds: u64) -> Timestamp {
        T0 + Duration::from_secs(seconds)
    }

    fn mean(millis: u64) -> Mean {
        let mut mean = Mean::default();
        mean.note(Duration::from_millis(millis), T0);
        mean
    }

    fn pace(millis: u64) -> Pace {
        let mut pace = Pace::default();
        pace.note(Duration::from_millis(millis), Ended::Good, Mean::default(), T0);
        pace
    }

    fn score(open: u32, pace: Pace, pressure: Pressure, now: Timestamp) -> u32 {
        weigh(Load { open, capacity: 4 }, pace, mean(1000), pressure, now).score
    }

    #[test]
    fn a_slow_instance_needs_far_fewer_leases_to_be_chosen() {
        assert_eq!(score(0, pace(1000), Pressure::default(), T0), 250);
        assert_eq!(score(3, pace(1000), Pressure::default(), T0), 1000);
        assert_eq!(score(0, pace(10_000), Pressure::default(), T0), 2250);
        assert_eq!(score(0, pace(1900), Pressure::default(), T0), 250, "as far from the mean as work is by itself");
        assert_eq!(score(3, pace(300), Pressure::default(), T0), 600);
    }

    #[test]
    fn nothing_known_counts_as_the_mean() {
        assert_eq!(score(1, Pace::default(), Pressure::default(), T0), score(1, pace(1000), Pressure::default(), T0));
        let alone = weigh(Load { open: 1, capacity: 2 }, pace(9), Mean::default(), Pressure::default(), T0);
        assert_eq!((alone.score, alone.latency_ms), (1000, 9));
    }

    #[test]
    fn a_peak_shows_at_once_and_fades() {
        let mut pace = pace(1000);
        pace.note(Duration::from_millis(9000), Ended::Good, mean(1000), after(1));
        assert_eq!(pace.fresh(after(1)), Some(3000), "one long piece of work");
        pace.note(Duration::from_millis(9000), Ended::Good, mean(1000), after(1));
        assert_eq!(pace.fresh(after(1)), Some(4500));

        pace.note(Duration::from_millis(500), Ended::Good, mean(1000), after(11));

        assert_eq!(pace.fresh(after(11)), Some(2500));
    }

    #[test]
    fn a_quick_failure_is_no_recommendation() {
        let mut pace = pace(1000);
        pace.note(Duration::from_millis(3), Ended::Bad, mean(1000), T0);
        assert_eq!(pace.fresh(T0), Some(1750));
        pace.note(Duration::from_millis(90_000), Ended::Other, mean(1000), T0);
        assert_eq!(pace.fresh(T0), Some(1750), "what says nothing of the instance changes nothing");
    }

    #[test]
    fn stale_parts_count_for_nothing() {
        let load = ModelLoad { queue: 12, cache_permille: Some(1000), ..ModelLoad::default() };
        let pressure = Pressure::of(&load, 0, 0, T0);
        assert_eq!(score(0, Pace::default(), pressure, T0), 250 * 13 * 4);
        assert_eq!(score(0, Pace::default(), pressure, after(16)), 250);
        assert_eq!(score(0, pace(10_000), pressure, after(61)), 250);
    }

    #[test]
    fn a_tight_cache_and_a_slow_model_weigh_on_the_score() {
        let load = |cache, tokens| ModelLoad {
            running: 4,
            cache_permille: Some(cache),
            tokens_per_second: Some(tokens),
            ..ModelLoad::default()
        };
        let factor = |load: &ModelLoad| Pressure::of(load, 4, 50, T0).factor;
        assert_eq!(factor(&load(500, 200)), 1000);
        assert_eq!(factor(&load(900, 200)), 2500);
        assert_eq!(factor(&load(500, 100)), 2000);
        assert_eq!(factor(&load(500, 10)), 2000, "bounded");
        assert_eq!(factor(&load(500, 10_000)), 500);
        assert_eq!(speed_of(&load(0, 200)), Some(50));
    }
}
