//! When the keys of a provider are asked for again, and how long those at hand may be used.
//!
//! ```text
//!            fresh            stale: asked for before use       too old: not used
//!  fetched ---------> max-age -----------------------> 24 h ---------->
//! ```
//! Invariant: between two tries lie [`RETRY_MIN`], whatever tokens are presented; a key leaves with the set that lacks it.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::Timestamp;

use super::key_set::KeySet;

/// Between two tries to fetch keys of one provider; doubled for each that failed since the last good one, up to [`RETRY_MAX`].
pub(super) const RETRY_MIN: Duration = Duration::from_secs(10);
/// Between two tries to fetch keys of a provider that fails.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long keys are used after they were last fetched, while fetching fails.
pub(super) const KEEP_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long keys are fresh where the provider does not say.
const FRESH: Duration = Duration::from_secs(600);
/// Bounds of what the provider says: a key that it drops is gone within the hour.
const FRESH_MIN: Duration = Duration::from_secs(60);
const FRESH_MAX: Duration = Duration::from_secs(3600);

/// The keys of one provider and when they came.
#[derive(Debug, Default)]
pub(super) struct Keys {
    good: Option<Good>,
    tried: Option<Timestamp>,
    failures: u32,
}

#[derive(Debug)]
struct Good {
    set: Arc<KeySet>,
    fetched: Timestamp,
    fresh_until: Timestamp,
}

impl Keys {
    /// What tokens may be verified with.
    pub(super) fn usable(&self, now: Timestamp) -> Option<Arc<KeySet>> {
        self.good.as_ref().filter(|good| now < good.fetched + KEEP_MAX).map(|good| Arc::clone(&good.set))
    }

    /// Whether newer keys are wanted before any are used.
    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        self.good.as_ref().is_none_or(|good| now >= good.fresh_until)
    }

    /// Whether keys may be asked for, however much they are wanted.
    pub(super) fn may_try(&self, now: Timestamp) -> bool {
        let pause = RETRY_MAX.min(RETRY_MIN * 2u32.pow(self.failures.saturating_sub(1).min(3)));
        self.tried.is_none_or(|tried| now >= tried + pause)
    }

    /// Fetching begins.
    pub(super) fn trying(&mut self, now: Timestamp) {
        self.tried = Some(now);
    }

    /// Keys were fetched. `fresh` is what the provider said, if anything.
    pub(super) fn took(&mut self, set: KeySet, fresh: Option<Duration>, now: Timestamp) {
        let fresh = fresh.unwrap_or(FRESH).clamp(FRESH_MIN, FRESH_MAX);
        self.failures = 0;
        self.good = Some(Good { set: Arc::new(set), fetched: now, fresh_until: now + fresh });
    }

    /// Keys were not fetched.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Makes everything older, as if time had passed.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        let earlier = |at: Timestamp| Timestamp(at.0 - by.as_millis() as u64);
        self.tried = self.tried.map(earlier);
        if let Some(good) = &mut self.good {
            (good.fetched, good.fresh_until) = (earlier(good.fetched), earlier(good.fresh_until));
        }
    }
}

/// For how long an answer may be kept, by its `Cache-Control` and `Age`.
pub(super) fn fresh_for(headers: &http::HeaderMap) -> Option<Duration> {
    let control = headers.get_all(http::header::CACHE_CONTROL);
    let directives = control.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut age_max = None;
    for directive in directives {
        let directive = directive.trim().to_ascii_lowercase();
        if directive == "no-store" || directive == "no-cache" {
            return Some(Duration::ZERO);
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            age_max = seconds.trim_matches('"').parse::<u64>().ok();
        }
    }
    let age = headers.get(http::header::AGE).and_then(|age| age.to_str().ok()?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(Duration::from_secs(age_max?.saturating_sub(age)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(1_795_000_000_000);

    fn set() -> KeySet {
        let x = crate::base64url::encode(&[7; 32]);
        KeySet::parse(format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#).as_bytes()).unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn keys_are_fetched_when_stale_and_at_most_once_in_ten_seconds() {
        let mut keys = Keys::default();
        assert!(keys.is_stale(T0) && keys.may_try(T0) && keys.usable(T0).is_none());
        keys.trying(T0);
        assert!(keys.is_stale(T0 + seconds(9)) && !keys.may_try(T0 + seconds(9)));
        assert!(keys.may_try(T0 + seconds(10)));
        keys.trying(T0 + seconds(10));
        keys.took(set(), Some(seconds(120)), T0 + seconds(11));
        assert!(keys.usable(T0 + seconds(11)).is_some());
        assert!(!keys.is_stale(T0 + seconds(130)) && keys.is_stale(T0 + seconds(131)));
        assert!(!keys.may_try(T0 + seconds(19)) && keys.may_try(T0 + seconds(20)));
    }

    #[test]
    fn a_provider_that_fails_is_asked_less_and_less_often() {
        let mut keys = Keys::default();
        keys.took(set(), None, T0);
        for pause in [10, 20, 40, 60, 60] {
            keys.trying(T0);
            keys.failed();
            assert!(!keys.may_try(T0 + seconds(pause - 1)) && keys.may_try(T0 + seconds(pause)), "{pause}");
        }
        keys.took(set(), None, T0);
        assert!(keys.may_try(T0 + seconds(10)));
    }

    #[test]
    fn while_fetching_fails_the_last_good_keys_serve_for_a_day() {
        let mut keys = Keys::default();
        keys.took(set(), None, T0);
        for minute in (10..24 * 60).step_by(7) {
            let now = T0 + seconds(minute * 60);
            assert!(keys.is_stale(now) && keys.may_try(now) && keys.usable(now).is_some(), "{minute}");
            keys.trying(now);
            keys.failed();
        }
        assert!(keys.usable(T0 + seconds(24 * 3600 - 1)).is_some());
        assert!(keys.usable(T0 + seconds(24 * 3600)).is_none());
    }

    #[test]
    fn what_the_provider_says_of_caching_is_taken_within_bounds() {
        let fresh = |control: &str, age: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("cache-control", control.parse().unwrap());
            headers.insert("age", age.parse().unwrap());
            fresh_for(&headers).map(|fresh| fresh.as_secs())
        };
        assert_eq!(fresh("public, Max-Age=300, must-revalidate", "20"), Some(280));
        assert_eq!(fresh("max-age=\"60\"", "x"), Some(60));
        assert_eq!(fresh("max-age=300, no-store", "0"), Some(0));
        assert_eq!(fresh("max-age=5", "99999999999999999999"), Some(5));
        assert_eq!(fresh("max-age=-1", "0"), None);
        assert_eq!(fresh("private", "0"), None);
        assert_eq!(fresh_for(&http::HeaderMap::new()), None);
        for (said, until) in [(None, 600), (Some(0), 60), (Some(300), 300), (Some(u64::MAX), 3600)] {
            let mut keys = Keys::default();
            keys.took(set(), said.map(Duration::from_secs), T0);
            assert!(!keys.is_stale(T0 + seconds(until - 1)) && keys.is_stale(T0 + seconds(until)), "{said:?}");
        }
    }
}
