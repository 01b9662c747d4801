//! Instances that cannot be begun, and what is said of them. Each is tried again at every turn, so that it is served soon after what keeps it
//! out is gone. Pure.
//!
//! Invariant: of an instance there is a warning when it begins to fail, one when the reason is another, one a minute while it goes on, and a
//! word when it works.

use std::collections::BTreeMap;
use std::time::Duration;

use mindos_sdk::model::InstanceId;
use tokio::time::Instant;

/// Between two warnings of one instance that say the same. What was not tried for as long is not there any more.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Those that could not be begun when they were last tried.
#[derive(Debug, Default)]
pub(super) struct Failing(BTreeMap<InstanceId, Said>);

#[derive(Debug)]
struct Said {
    reason: String,
    /// When it was said.
    at: Instant,
    /// When it was last tried.
    tried: Instant,
    /// How often it was tried since it was said.
    again: u32,
}

impl Failing {
    /// It could not be begun. Returns how often that happened since it was last said, where it is to be said now.
    pub(super) fn failed(&mut self, id: &InstanceId, reason: &str, now: Instant) -> Option<u32> {
        let Some(said) = self.0.get_mut(id).filter(|said| now.duration_since(said.tried) < WARN_INTERVAL) else {
            self.0.retain(|_, said| now.duration_since(said.tried) < WARN_INTERVAL);
            let said = Said { reason: reason.to_owned(), at: now, tried: now, again: 0 };
            self.0.insert(id.clone(), said);
            return Some(1);
        };
        said.tried = now;
        said.again = said.again.saturating_add(1);
        if said.reason == reason && now.duration_since(said.at) < WARN_INTERVAL {
            return None;
        }
        if said.reason != reason {
            reason.clone_into(&mut said.reason);
        }
        said.at = now;
        Some(std::mem::take(&mut said.again))
    }

    /// It was begun. Whether it had failed before.
    pub(super) fn works(&mut self, id: &InstanceId) -> bool {
        self.0.remove(id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_instance_that_fails_each_second_is_told_of_once_a_minute_and_when_the_reason_changes() {
        let (mut failing, begun) = (Failing::default(), Instant::now());
        let id = InstanceId::new("p.agents").unwrap();
        let told: Vec<(u32, u32)> = (0..150)
            .filter_map(|second| {
                let reason = if second < 130 { "no slots" } else { "no name" };
                Some((second, failing.failed(&id, reason, begun + SECOND * second)?))
            })
            .collect();
        assert_eq!(told, [(0, 1), (60, 60), (120, 60), (130, 10)]);
        assert_eq!(failing.failed(&InstanceId::new("q.agents").unwrap(), "no name", begun + SECOND * 150), Some(1));
        assert_eq!((failing.works(&id), failing.works(&id)), (true, false));
        assert_eq!(failing.failed(&id, "no name", begun + SECOND * 151), Some(1), "it begins to fail again");
    }

    #[test]
    fn one_that_is_not_tried_any_more_is_forgotten() {
        let (mut failing, begun) = (Failing::default(), Instant::now());
        let id = |name: &str| InstanceId::new(name).unwrap();
        assert_eq!(failing.failed(&id("p.agents"), "no slots", begun), Some(1));
        assert_eq!(failing.failed(&id("q.agents"), "no slots", begun + WARN_INTERVAL), Some(1));
        assert!(!failing.works(&id("p.agents")), "its pod is gone");
        assert_eq!(failing.failed(&id("q.agents"), "no slots", begun + WARN_INTERVAL * 3), Some(1), "it came back");
    }
}
