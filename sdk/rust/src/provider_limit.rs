//! Limits of model providers, from the headers of their answers, or of a general that passes them on.
//!
//! | header | says |
//! |---|---|
//! | `x-ratelimit-remaining-requests`, `-tokens` | what is left |
//! | `x-ratelimit-reset-requests`, `-tokens` | after how long there is more: `20ms`, `1s`, `6m0s`, `1h2m` |
//! | `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-remaining` | what is left |
//! | `anthropic-ratelimit-...-reset` | when there is more, RFC 3339 |
//! | `retry-after` | when to come again: seconds or a date; the reset of what is used up and has none of its own |
//!
//! Invariant: a header that is not understood says nothing; a limit whose reset has passed is forgotten.

use std::time::Duration;

use http::HeaderMap;
use mindos_model::Timestamp;

use crate::general::ProviderLimit;

/// Longest text of a span or a number that is read.
const TEXT_MAX: usize = 64;
/// How far ahead a reset may lie.
const RESET_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The scarcest of each kind that an answer named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProviderLimits {
    /// Requests that may be made still.
    pub requests: Option<ProviderLimit>,
    /// Tokens that may be used still.
    pub tokens: Option<ProviderLimit>,
}

impl ProviderLimits {
    /// Reads the headers of an answer that came at `now`; none of them gives none.
    #[must_use]
    pub fn read(headers: &HeaderMap, now: Timestamp) -> ProviderLimits {
        let retry = text(headers, "retry-after").and_then(|value| retry_after(value, now));
        let limit = |kind: &str| scarcer(open_ai(headers, kind, now), anthropic(headers, kind, now));
        let requests = limit("requests");
        let tokens = scarcer(scarcer(limit("tokens"), limit("input-tokens")), limit("output-tokens"));
        let known = |limit: ProviderLimit| match limit {
            ProviderLimit { remaining: 0, resets_at: None } => ProviderLimit { remaining: 0, resets_at: retry },
            limit => limit,
        };
        ProviderLimits { requests: requests.map(known), tokens: tokens.map(known) }
    }

    /// What still holds at `now`.
    #[must_use]
    pub fn at(self, now: Timestamp) -> ProviderLimits {
        let holds = |limit: &ProviderLimit| limit.resets_at.is_none_or(|reset| reset > now);
        ProviderLimits { requests: self.requests.filter(holds), tokens: self.tokens.filter(holds) }
    }

    /// These, and of what an answer did not name what was known before.
    #[must_use]
    pub fn or(self, before: ProviderLimits) -> ProviderLimits {
        ProviderLimits { requests: self.requests.or(before.requests), tokens: self.tokens.or(before.tokens) }
    }

    /// When what is used up is reset.
    #[must_use]
    pub fn used_up_until(self) -> Option<Timestamp> {
        let used_up = [self.requests, self.tokens].into_iter().flatten().filter(|limit| limit.remaining == 0);
        used_up.filter_map(|limit| limit.resets_at).max()
    }
}

fn open_ai(headers: &HeaderMap, kind: &str, now: Timestamp) -> Option<ProviderLimit> {
    let remaining = text(headers, &format!("x-ratelimit-remaining-{kind}"))?.parse().ok()?;
    let reset = text(headers, &format!("x-ratelimit-reset-{kind}")).and_then(span);
    Some(ProviderLimit { remaining, resets_at: reset.map(|span| now + span.min(RESET_MAX)) })
}

fn anthropic(headers: &HeaderMap, kind: &str, now: Timestamp) -> Option<ProviderLimit> {
    let remaining = text(headers, &format!("anthropic-ratelimit-{kind}-remaining"))?.parse().ok()?;
    let reset = text(headers, &format!("anthropic-ratelimit-{kind}-reset"));
    let resets_at = reset.and_then(|reset| reset.parse::<Timestamp>().ok()).map(|reset| reset.min(now + RESET_MAX));
    Some(ProviderLimit { remaining, resets_at })
}

/// The one with less left; of two with nothing left the one that is reset later.
fn scarcer(one: Option<ProviderLimit>, other: Option<ProviderLimit>) -> Option<ProviderLimit> {
    let less = |one: &ProviderLimit, other: &ProviderLimit| {
        (other.remaining, std::cmp::Reverse(other.resets_at)) < (one.remaining, std::cmp::Reverse(one.resets_at))
    };
    match (one, other) {
        (Some(one), Some(other)) if less(&one, &other) => Some(other),
        (one, other) => one.or(other),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| text.len() <= TEXT_MAX)
}

/// Reads a `retry-after`: `120`, or `Fri, 20 Nov 2026 18:30:00 GMT`; at most a day ahead.
#[must_use]
pub fn retry_after(value: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(seconds) = value.trim().parse::<u32>() {
        return Some(now + Duration::from_secs(u64::from(seconds)).min(RESET_MAX));
    }
    let mut words = value.split_ascii_whitespace().skip(1);
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let at: Timestamp = format!("{year}-{month:02}-{day:0>2}T{time}Z").parse().ok()?;
    Some(at.min(now + RESET_MAX))
}

/// `20ms`, `1.5s`, `6m0s` or `1h2m3s`; a number alone is seconds.
fn span(text: &str) -> Option<Duration> {
    let mut millis = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let scale = match unit {
            "ms" => 1.0,
            "s" | "" => 1000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            _ => return None,
        };
        millis += number.parse::<f64>().ok()? * scale;
        rest = behind;
    }
    let fits = !text.is_empty() && (0.0..=RESET_MAX.as_millis() as f64).contains(&millis);
    fits.then(|| Duration::from_millis(millis.ceil() as u64))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_176_000_000);

    fn read(headers: &[(&'static str, &'static str)]) -> ProviderLimits {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        ProviderLimits::read(&headers.collect(), NOW)
    }

    fn limit(remaining: u64, after_ms: u64) -> Option<ProviderLimit> {
        Some(ProviderLimit { remaining, resets_at: Some(NOW + Duration::from_millis(after_ms)) })
    }

    #[test]
    fn limits_of_open_ai_are_read() {
        let limits = read(&[
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "6m0.5s"),
        ]);
        assert_eq!(limits, ProviderLimits { requests: limit(59, 1000), tokens: limit(0, 360_500) });
        assert_eq!(limits.used_up_until(), Some(NOW + Duration::from_millis(360_500)));
    }

    #[test]
    fn limits_of_anthropic_are_read_and_the_scarcest_counts() {
        let limits = read(&[
            ("anthropic-ratelimit-requests-remaining", "4"),
            ("anthropic-ratelimit-tokens-remaining", "1000"),
            ("anthropic-ratelimit-input-tokens-remaining", "800"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-20T12:00:30Z"),
            ("anthropic-ratelimit-output-tokens-remaining", "900"),
        ]);
        assert_eq!(limits.requests, Some(ProviderLimit { remaining: 4, resets_at: None }));
        assert_eq!(limits.tokens, limit(800, 30_000));
    }

    #[test]
    fn a_time_to_retry_stands_in_for_a_reset() {
        let limits = read(&[("x-ratelimit-remaining-requests", "0"), ("retry-after", "7")]);
        assert_eq!(limits.requests, limit(0, 7000));
        assert_eq!(read(&[("retry-after", "7")]), ProviderLimits::default(), "without a limit it is none");
    }

    #[test]
    fn a_time_to_retry_is_at_most_a_day_ahead() {
        let day = NOW + RESET_MAX;
        assert_eq!(retry_after("30", NOW), Some(NOW + Duration::from_secs(30)));
        assert_eq!(retry_after("4000000000", NOW), Some(day));
        assert_eq!(retry_after("Fri, 20 Nov 2099 18:30:00 GMT", NOW), Some(day));
        assert_eq!(retry_after("soon", NOW), None);
    }

    #[test]
    fn what_is_not_understood_says_nothing() {
        for (value, reset) in [("many", "1s"), ("-1", "1s"), ("", "1s")] {
            let limits = read(&[("x-ratelimit-remaining-tokens", value), ("x-ratelimit-reset-tokens", reset)]);
            assert_eq!(limits, ProviderLimits::default(), "{value}");
        }
        for reset in ["soon", "1x", "1e9s", "99999h", "", "..s", "-1s"] {
            let limits = read(&[("x-ratelimit-remaining-tokens", "3"), ("x-ratelimit-reset-tokens", reset)]);
            assert_eq!(limits.tokens, Some(ProviderLimit { remaining: 3, resets_at: None }), "{reset}");
        }
    }

    #[test]
    fn a_limit_is_forgotten_after_its_reset() {
        let limits = ProviderLimits { requests: limit(0, 1000), tokens: limit(5, 9000) };
        let later = limits.at(NOW + Duration::from_secs(1));
        assert_eq!(later, ProviderLimits { requests: None, tokens: limit(5, 9000) });
        assert_eq!(ProviderLimits::default().or(limits), limits);
    }
}
