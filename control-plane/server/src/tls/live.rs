//! Connections of agents that stand: who holds each, so that whoever is kept out is cut off.
//!
//! Invariant: a connection that was entered leaves when its guard is dropped; one that should not stand is cut at the next sweep, and
//! a change is followed by a sweep within [`SWEEP_PAUSE`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mindos_model::Timestamp;
use tokio::sync::watch;
use tracing::info;

use super::identity::AgentIdentity;
use super::renew::RENEW_LATE_MAX;
use super::server_config::Tls;
use crate::access::view::AccessView;
use crate::net::Connection;

/// Between two sweeps, at least, and from a change to its sweep, at most.
pub const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// How old a connection of an agent may become. Agents leave by themselves at 30 min; this is for those that do not.
const AGE_MAX: Duration = Duration::from_secs(45 * 60);
/// By how much the age differs from one connection to the next, so that not all that came together leave together.
const AGE_JITTER: Duration = Duration::from_secs(9 * 60);

/// Connections that stand.
#[derive(Debug, Default)]
pub struct Live(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    standing: HashMap<u64, (Arc<AgentIdentity>, Connection)>,
}

/// A connection that stands. It does no longer when this is dropped.
#[derive(Debug)]
pub struct Standing {
    id: u64,
    entries: Arc<Mutex<Entries>>,
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).standing.remove(&self.id);
    }
}

impl Live {
    /// Enters a connection.
    #[must_use]
    pub fn enter(&self, agent: &Arc<AgentIdentity>, connection: &Connection) -> Standing {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = entries.next;
        entries.next += 1;
        entries.standing.insert(id, (Arc::clone(agent), connection.clone()));
        Standing { id, entries: Arc::clone(&self.0) }
    }

    /// How many stand.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).standing.len()
    }

    /// Cuts those that should not stand; how many there were.
    pub fn sweep(&self, why: &'static str, is_to_go: impl Fn(&AgentIdentity) -> bool) -> usize {
        let all: Vec<_> = self.0.lock().unwrap_or_else(PoisonError::into_inner).standing.values().cloned().collect();
        let mut cut = 0;
        for (agent, connection) in all.iter().filter(|(agent, _)| is_to_go(agent)) {
            info!(agent = %agent.identity, peer = %connection.peer, why, "connection of an agent was cut");
            connection.cut();
            cut += 1;
        }
        cut
    }
}

/// Cuts off agents that come to be denied, until `drain` turns true.
pub async fn keep_out(tls: Arc<Tls>, access: Arc<AccessView>, mut drain: watch::Receiver<bool>) {
    let mut denials = access.denials();
    tls.sweep();
    loop {
        tokio::select! {
            changed = denials.changed() => if changed.is_err() {
                return;
            },
            _ = drain.wait_for(|draining| *draining) => return,
        }
        tls.sweep();
        // Who denies many does so one by one.
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
}

/// How long a connection that begins now may stand: its age, and never until later than a day after its certificate lapsed. `chance`
/// is any number.
#[must_use]
pub fn may_stand(agent: &AgentIdentity, now: Timestamp, chance: u64) -> Duration {
    let jitter = Duration::from_millis(chance % u64::try_from(AGE_JITTER.as_millis()).unwrap_or(1));
    let lapses = agent.not_after + RENEW_LATE_MAX;
    (AGE_MAX - jitter).min(lapses.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(instance: &str, not_after: Timestamp) -> Arc<AgentIdentity> {
        let identity = format!("tenant/default/cluster/c/agent/{instance}").parse().unwrap();
        Arc::new(AgentIdentity { identity, key: [0; 32], not_after, issuer: None })
    }

    #[test]
    fn only_those_that_should_not_stand_are_cut() {
        let live = Live::default();
        let connection = Connection::from(std::net::SocketAddr::from(([127, 0, 0, 1], 7)));
        let (a, b) = (agent("a", Timestamp(0)), agent("b", Timestamp(0)));
        let first = live.enter(&a, &connection);
        let _second = live.enter(&b, &connection);
        assert_eq!((live.count(), live.sweep("test", |who| *who == *a)), (2, 1));
        drop(first);
        assert_eq!((live.count(), live.sweep("test", |who| *who == *a)), (1, 0));
    }

    #[test]
    fn a_connection_grows_no_older_than_its_age_and_its_certificate_let_it() {
        let now = Timestamp(1_795_176_000_000);
        let fresh = agent("a", now + Duration::from_secs(3600));
        for chance in [0, 1, u64::MAX] {
            let age = may_stand(&fresh, now, chance);
            assert!(age <= AGE_MAX && age >= AGE_MAX - AGE_JITTER, "{age:?}");
        }
        let lapsed = agent("a", Timestamp(now.0 - 86_400_000 + 5000));
        assert_eq!(may_stand(&lapsed, now, 0), Duration::from_secs(5));
        assert_eq!(may_stand(&agent("a", Timestamp(0)), now, 0), Duration::ZERO);
    }
}
