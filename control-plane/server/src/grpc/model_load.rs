//! The load of the models behind a general: of what an agent reports of each, what placement reads of all.
//!
//! Invariant: no number from outside makes another one overflow, and none that is not a number gets in.

use mindos_core::input::ModelLoad;
use mindos_model::Timestamp;
use mindos_proto::agent::v1 as wire;
use mindos_proto::convert::Invalid;

/// Models that an agent may report behind one general.
const MODELS_MAX: usize = 64;

/// All models together; `None` where none is reported.
///
/// # Errors
/// Names the field and what is accepted.
pub(super) fn read(models: Vec<wire::ModelLoad>) -> Result<Option<ModelLoad>, Invalid> {
    if models.len() > MODELS_MAX {
        return Err(Invalid::new("models", format_args!("has {} entries: expected 0 to {MODELS_MAX}", models.len())));
    }
    models.into_iter().map(one).reduce(|sum, model| Ok(both(sum?, model?))).transpose()
}

fn one(model: wire::ModelLoad) -> Result<ModelLoad, Invalid> {
    let wire::ModelLoad {
        model: _,
        queue,
        cache_use,
        tokens_per_second,
        limit_remaining,
        limit_resets_at,
        running,
        requests_remaining,
        requests_reset_at,
    } = model;
    let cache_permille = cache_use.map(cache).transpose()?;
    let tokens_per_second = tokens_per_second.map(tokens).transpose()?;
    let limit = |remaining: Option<u64>, resets: Option<prost_types::Timestamp>| Some((remaining?, instant(resets)));
    let tokens = limit(limit_remaining, limit_resets_at);
    let limit = scarcer(tokens, limit(requests_remaining, requests_reset_at));
    let (limit_remaining, limit_resets_at) = (limit.map(|(remaining, _)| remaining), limit.and_then(|(_, at)| at));
    Ok(ModelLoad { running, queue, cache_permille, tokens_per_second, limit_remaining, limit_resets_at })
}

fn both(one: ModelLoad, other: ModelLoad) -> ModelLoad {
    let limit = |load: &ModelLoad| Some((load.limit_remaining?, load.limit_resets_at));
    let scarcest = scarcer(limit(&one), limit(&other));
    let tokens = match (one.tokens_per_second, other.tokens_per_second) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    };
    ModelLoad {
        running: one.running.saturating_add(other.running),
        queue: one.queue.saturating_add(other.queue),
        cache_permille: one.cache_permille.max(other.cache_permille),
        tokens_per_second: tokens,
        limit_remaining: scarcest.map(|(remaining, _)| remaining),
        limit_resets_at: scarcest.and_then(|(_, resets)| resets),
    }
}

type Limit = (u64, Option<Timestamp>);

/// The one with less left; of two with equally little the one that is reset later.
fn scarcer(one: Option<Limit>, other: Option<Limit>) -> Option<Limit> {
    match (one, other) {
        (Some(one), Some(other)) if other.0 < one.0 || (other.0 == one.0 && other.1 > one.1) => Some(other),
        (one, other) => one.or(other),
    }
}

fn cache(share: f64) -> Result<u16, Invalid> {
    // A share of a little over one is a rounding of its sender.
    let accepted = (0.0..=1.001).contains(&share);
    accepted.then(|| ((share * 1000.0) as u16).min(1000)).ok_or_else(|| Invalid::new("cache_use", "expected 0 to 1"))
}

fn tokens(rate: f64) -> Result<u32, Invalid> {
    let accepted = (0.0..=f64::from(u32::MAX)).contains(&rate);
    accepted.then_some(rate as u32).ok_or_else(|| Invalid::new("tokens_per_second", "expected a number from 0"))
}

fn instant(at: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let at = at?;
    let millis = at.seconds.checked_mul(1000)?.checked_add(i64::from(at.nanos) / 1_000_000)?;
    u64::try_from(millis).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn several_models_count_together() {
        let one = wire::ModelLoad { queue: 3, running: 2, cache_use: Some(0.5), ..wire::ModelLoad::default() };
        let other = wire::ModelLoad {
            queue: 1,
            running: 1,
            cache_use: Some(0.9),
            tokens_per_second: Some(120.4),
            limit_remaining: Some(500),
            limit_resets_at: at(90),
            requests_remaining: Some(0),
            requests_reset_at: at(60),
            ..wire::ModelLoad::default()
        };

        let load = read(vec![one, other]).unwrap().unwrap();

        let expected = ModelLoad {
            running: 3,
            queue: 4,
            cache_permille: Some(900),
            tokens_per_second: Some(120),
            limit_remaining: Some(0),
            limit_resets_at: Some(Timestamp(60_000)),
        };
        assert_eq!(load, expected);
        assert_eq!(read(Vec::new()).unwrap(), None);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let refused = |model| read(vec![model]).unwrap_err().to_string();
        for share in [f64::NAN, -0.1, 1.5, f64::INFINITY] {
            let model = wire::ModelLoad { cache_use: Some(share), ..wire::ModelLoad::default() };
            assert!(refused(model).contains("cache_use"), "{share}");
        }
        let model = wire::ModelLoad { tokens_per_second: Some(f64::NAN), ..wire::ModelLoad::default() };
        assert!(refused(model).contains("tokens_per_second"));
        assert!(read(vec![wire::ModelLoad::default(); MODELS_MAX + 1]).is_err());
    }

    #[test]
    fn instants_out_of_range_say_nothing() {
        let load = |resets| {
            let model = wire::ModelLoad { limit_remaining: Some(0), limit_resets_at: resets, ..Default::default() };
            read(vec![model]).unwrap().unwrap().limit_resets_at
        };
        assert_eq!(load(at(i64::MAX)), None);
        assert_eq!(load(at(-5)), None);
        assert_eq!(load(at(5)), Some(Timestamp(5000)));
    }
}
