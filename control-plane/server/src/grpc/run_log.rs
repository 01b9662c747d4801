//! The last lines of runs whose Jobs run, as the agents of their clusters told them.
//!
//! Invariant: bounded in runs and, as each is, in bytes; of too many, the one that was told of longest ago goes. They are for people: a
//! control plane that starts again knows none until the next come.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use mindos_model::{DeliveryId, Token};

/// Runs of which lines are kept.
const RUNS_MAX: usize = 256;

/// Lines by run.
#[derive(Debug, Default)]
pub(crate) struct RunLogs(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    told: u64,
    by_run: HashMap<DeliveryId, Lines>,
    oldest: BTreeMap<u64, DeliveryId>,
}

#[derive(Debug)]
struct Lines {
    told: u64,
    token: Token,
    text: Arc<str>,
}

impl RunLogs {
    /// Keeps what a run says under a lease, in the place of what it said before.
    pub(super) fn put(&self, run: DeliveryId, token: Token, text: Arc<str>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.told += 1;
        let told = kept.told;
        if let Some(before) = kept.by_run.insert(run, Lines { told, token, text }) {
            kept.oldest.remove(&before.told);
        }
        kept.oldest.insert(told, run);
        if kept.by_run.len() > RUNS_MAX
            && let Some((_, oldest)) = kept.oldest.pop_first()
        {
            kept.by_run.remove(&oldest);
        }
    }

    /// What a run said under a lease.
    pub(super) fn get(&self, run: DeliveryId, token: Token) -> Option<Arc<str>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_run.get(&run).filter(|lines| lines.token == token).map(|lines| Arc::clone(&lines.text))
    }
}

#[cfg(test)]
mod tests {
    use mindos_model::Seq;

    use super::*;

    #[test]
    fn the_newest_lines_of_a_lease_are_kept_and_never_without_bound() {
        let (logs, token) = (RunLogs::default(), Token::new(1, 1));
        let run = |number: u64| DeliveryId::new(Seq(number), 1);
        logs.put(run(1), token, "one".into());
        logs.put(run(1), token, "two".into());
        assert_eq!(logs.get(run(1), token).as_deref(), Some("two"));
        assert_eq!(logs.get(run(1), Token::new(1, 2)), None, "another lease is another attempt");
        for number in 2..=RUNS_MAX as u64 {
            logs.put(run(number), token, "x".into());
        }
        logs.put(run(1), token, "three".into());
        logs.put(run(1000), token, "x".into());
        let kept = logs.0.lock().unwrap();
        assert_eq!((kept.by_run.len(), kept.oldest.len()), (RUNS_MAX, RUNS_MAX));
        assert!(!kept.by_run.contains_key(&run(2)) && kept.by_run.contains_key(&run(1)));
    }
}
