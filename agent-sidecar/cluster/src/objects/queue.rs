//! What is to be looked at, and when: each object stands in it once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::known::Ref;

/// First wait after a failure; doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Objects that are to be looked at.
#[derive(Debug, Default)]
pub(super) struct Queue {
    due: BTreeSet<(Instant, Ref)>,
    at: BTreeMap<Ref, Instant>,
    failures: BTreeMap<Ref, u32>,
    /// Those that are looked at; what comes for them meanwhile is `again`.
    taken: BTreeMap<Ref, bool>,
}

impl Queue {
    /// Looks at it no later than then.
    pub(super) fn put(&mut self, of: Ref, when: Instant) {
        if let Some(again) = self.taken.get_mut(&of) {
            *again = true;
            return;
        }
        match self.at.get(&of) {
            Some(before) if *before <= when => return,
            Some(before) => {
                self.due.remove(&(*before, of.clone()));
            }
            None => {}
        }
        self.at.insert(of.clone(), when);
        self.due.insert((when, of));
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(when, _)| *when)
    }

    /// Takes one that is due; it has to be given back by [`Queue::done`] or [`Queue::failed`].
    pub(super) fn take(&mut self, now: Instant) -> Option<Ref> {
        let (when, _) = self.due.first()?;
        if *when > now {
            return None;
        }
        let (_, of) = self.due.pop_first()?;
        self.at.remove(&of);
        self.taken.insert(of.clone(), false);
        Some(of)
    }

    /// It was looked at; `more` says when to look again.
    pub(super) fn done(&mut self, of: Ref, now: Instant, more: Option<Duration>) {
        self.failures.remove(&of);
        let again = self.taken.remove(&of).unwrap_or_default();
        if again {
            self.put(of, now);
        } else if let Some(more) = more {
            self.put(of, now + more);
        }
    }

    /// It could not be done: again after a while, which `chance` in 0..1 makes shorter by up to a half.
    pub(super) fn failed(&mut self, of: Ref, now: Instant, chance: f64) {
        self.taken.remove(&of);
        let failures = self.failures.entry(of.clone()).or_default();
        let wait = RETRY_FIRST.saturating_mul(1 << (*failures).min(10)).min(RETRY_LONGEST);
        *failures += 1;
        self.put(of, now + wait.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0));
    }

    /// Everything that waits after a failure is tried at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        let failed: Vec<Ref> = std::mem::take(&mut self.failures).into_keys().collect();
        failed.into_iter().for_each(|of| self.put(of, now));
    }
}

#[cfg(test)]
mod tests {
    use super::super::known::Kind;
    use super::*;

    fn of(name: &str) -> Ref {
        Ref { kind: Kind::General, namespace: "a".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn each_stands_in_it_once_and_at_its_earliest_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let later = now + Duration::from_secs(5);
        queue.put(of("x"), later);
        queue.put(of("x"), now);
        queue.put(of("x"), later);
        assert_eq!(queue.take(now), Some(of("x")));
        assert_eq!((queue.take(later), queue.next()), (None, None));
    }

    #[test]
    fn what_comes_while_it_is_looked_at_is_looked_at_afterwards() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(of("x"), now);
        queue.take(now);
        queue.put(of("x"), now);
        assert_eq!(queue.take(now), None);
        queue.done(of("x"), now, None);
        assert_eq!(queue.take(now), Some(of("x")));
        queue.done(of("x"), now, None);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..9 {
            queue.put(of("x"), now);
            queue.take(now + Duration::from_secs(60));
            queue.failed(of("x"), now, 0.0);
            waits.push(queue.next().unwrap() - now);
        }
        assert_eq!(waits[..3], [RETRY_FIRST, 2 * RETRY_FIRST, 4 * RETRY_FIRST]);
        assert_eq!(waits[8], RETRY_LONGEST);
        queue.hurry(now);
        assert_eq!(queue.next(), Some(now));
        queue.take(now);
        queue.done(of("x"), now, None);
        queue.put(of("x"), now);
        queue.take(now);
        queue.failed(of("x"), now, 1.0);
        assert_eq!(queue.next().unwrap() - now, RETRY_FIRST / 2);
    }
}
