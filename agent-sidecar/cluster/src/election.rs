//! Who of several agents of a cluster is at work: the holder of a Lease. Pure.
//!
//! ```text
//!            the Lease is ours, or nobody's, or nobody renewed it for its duration
//!   Standby -----------------------------------------------------------------------> Leading
//!      ^                                                                                |
//!      +--------------------------------------------------------------------------------+
//!            somebody else holds it, or takes our streams over while we cannot renew it
//! ```
//! How long nobody renewed it is measured from when this side saw it last change, so clocks that differ do no harm. Invariant: who leads goes on
//! while the API server is away, since nobody else can take the Lease meanwhile; where only this side is cut off, the control plane tells it
//! by giving its instances to another.

use std::time::Duration;

/// A Lease as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Empty when nobody holds it.
    pub holder: String,
    /// Changes with each renewal.
    pub version: String,
    /// How long it holds after a renewal, as the holder says.
    pub duration: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make or replace the Lease, naming this agent.
    Take,
    /// Write it again.
    Renew,
    /// Look again later: somebody else is at work.
    Wait,
}

/// One agent's view of it. Times are since some start.
#[derive(Debug)]
pub struct Election {
    me: String,
    duration: Duration,
    /// The version seen last, and since when.
    seen: Option<(String, Duration)>,
    leading: bool,
    renewed: Option<Duration>,
}

impl Election {
    /// An agent that stands by.
    #[must_use]
    pub fn new(me: &str, duration: Duration) -> Election {
        Election { me: me.to_owned(), duration, seen: None, leading: false, renewed: None }
    }

    /// Whether this agent is at work.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.leading
    }

    /// How often the Lease is renewed and looked at.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.duration / 3
    }

    /// The Lease was read; `None` when there is none.
    pub fn read(&mut self, lease: Option<&Held>, now: Duration) -> Step {
        let Some(Held { holder, version, duration }) = lease else {
            self.leading = false;
            return Step::Take;
        };
        if *holder == self.me {
            return if self.leading { Step::Renew } else { Step::Take };
        }
        self.leading = false;
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != version) {
            self.seen = Some((version.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        let is_over = holder.is_empty() || now.saturating_sub(since) > *duration;
        if is_over { Step::Take } else { Step::Wait }
    }

    /// It was written, naming this agent.
    pub fn written(&mut self, now: Duration) {
        self.leading = true;
        self.renewed = Some(now);
    }

    /// Somebody else wrote it meanwhile.
    pub fn lost(&mut self) {
        self.leading = false;
    }

    /// The control plane gave streams of this agent to another. Returns whether that ends its turn: it does where the Lease could not be
    /// renewed for its duration, so that another may hold it.
    pub fn taken_over(&mut self, now: Duration) -> bool {
        let fresh = self.renewed.is_some_and(|renewed| now.saturating_sub(renewed) <= self.duration);
        if self.leading && !fresh {
            self.leading = false;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(15);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn held(holder: &str, version: u64) -> Held {
        Held { holder: holder.to_owned(), version: version.to_string(), duration: TERM }
    }

    fn leading() -> Election {
        let mut election = Election::new("a", TERM);
        assert_eq!(election.read(None, at(0)), Step::Take);
        election.written(at(0));
        election
    }

    #[test]
    fn who_takes_the_lease_renews_it() {
        let mut election = leading();
        assert!(election.is_leading());
        assert_eq!(election.read(Some(&held("a", 1)), at(5)), Step::Renew);
    }

    #[test]
    fn a_lease_that_is_renewed_is_left_alone_and_one_that_is_not_is_taken() {
        let mut election = Election::new("b", TERM);
        assert_eq!(election.read(Some(&held("a", 1)), at(0)), Step::Wait);
        assert_eq!(election.read(Some(&held("a", 2)), at(14)), Step::Wait);
        assert_eq!(election.read(Some(&held("a", 2)), at(29)), Step::Wait);
        assert_eq!(election.read(Some(&held("a", 2)), at(30)), Step::Take);
        assert!(!election.is_leading());
        election.written(at(30));
        assert!(election.is_leading());
    }

    #[test]
    fn a_lease_that_was_given_up_is_taken_at_once() {
        let mut election = Election::new("b", TERM);
        assert_eq!(election.read(Some(&held("", 3)), at(0)), Step::Take);
    }

    #[test]
    fn an_agent_that_was_started_again_takes_its_own_lease_at_once() {
        let mut election = Election::new("a", TERM);
        assert_eq!(election.read(Some(&held("a", 9)), at(0)), Step::Take);
    }

    #[test]
    fn who_sees_another_holder_stands_back() {
        let mut election = leading();
        assert_eq!(election.read(Some(&held("b", 4)), at(40)), Step::Wait);
        assert!(!election.is_leading());
    }

    #[test]
    fn a_takeover_counts_only_where_the_lease_may_be_another_s() {
        let mut election = leading();
        assert!(!election.taken_over(at(15)), "an older stream of its own");
        assert!(election.is_leading());
        assert!(election.taken_over(at(16)));
        assert!(!election.is_leading() && !election.taken_over(at(17)));
    }
}
