//! A drain that somebody asks for: what stops the general beside this sidecar asks first, and goes on when it is answered.
//!
//! ```text
//!            /drain               all is finished or handed back
//!  Serving ---------> Draining ----------------------------------> Drained
//!     ^                                                               |
//!     +---------------------------------------------------------------+  nobody ended this process within RESUME
//! ```
//! Invariant: whoever asked is answered when nothing runs any more, and never earlier.

use std::time::Duration;

use mindos_sdk::model::Secret;
use tokio::sync::watch;

/// After this, a sidecar that was drained and not ended takes work again: what was stopped was the general alone.
///
/// Between a general's end and SIGTERM for its sidecar there is as much as the general takes to end; Kubernetes gives 30 s for that by
/// default.
pub(crate) const RESUME: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
    Drained,
}

/// Where a drain is asked for, and where it is heard of.
#[derive(Clone, Debug)]
pub(crate) struct Drains {
    phase: watch::Sender<Phase>,
    token: Option<Secret>,
}

impl Drains {
    /// Only who knows the token may ask; without one nobody.
    pub(crate) fn new(token: Option<Secret>) -> Drains {
        Drains { phase: watch::Sender::new(Phase::Serving), token: token.filter(|token| !token.is_empty()) }
    }

    /// Whether anybody may ask.
    pub(crate) fn are_offered(&self) -> bool {
        self.token.is_some()
    }

    /// Whether whoever presents this may ask. Takes as long for every token of one length.
    pub(crate) fn may_ask(&self, presented: &[u8]) -> bool {
        let Some(token) = &self.token else { return false };
        let token = token.expose().as_bytes();
        let differs = token.iter().zip(presented).fold(0, |differs, (a, b)| differs | (a ^ b));
        token.len() == presented.len() && differs == 0
    }

    /// Asks for a drain and waits for its end.
    pub(crate) async fn ask(&self) {
        self.begun();
        let mut phase = self.phase.subscribe();
        // The sender lives as long as `self`.
        let _ = phase.wait_for(|phase| *phase != Phase::Draining).await;
    }

    /// Completes when somebody asks.
    pub(crate) async fn asked(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Serving).await;
    }

    /// A drain began, for whatever reason.
    pub(crate) fn begun(&self) {
        self.phase.send_if_modified(|phase| {
            let begins = *phase == Phase::Serving;
            if begins {
                *phase = Phase::Draining;
            }
            begins
        });
    }

    /// Nothing runs any more.
    pub(crate) fn ended(&self) {
        self.phase.send_replace(Phase::Drained);
    }

    /// Work is taken again.
    pub(crate) fn resumed(&self) {
        self.phase.send_replace(Phase::Serving);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_is_answered_at_the_end_and_at_once_after_it() {
        let drains = Drains::new(Some(Secret::new("t")));
        let asking = tokio::spawn({
            let drains = drains.clone();
            async move { drains.ask().await }
        });
        drains.asked().await;
        assert!(!asking.is_finished());
        drains.ended();
        asking.await.unwrap();
        drains.ask().await;

        drains.resumed();
        assert!(tokio::time::timeout(Duration::from_millis(20), drains.asked()).await.is_err());
    }

    #[test]
    fn only_the_whole_token_asks() {
        let drains = Drains::new(Some(Secret::new("0123456789abcdef")));
        assert!(drains.are_offered() && drains.may_ask(b"0123456789abcdef"));
        for presented in ["", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef0"] {
            assert!(!drains.may_ask(presented.as_bytes()), "{presented}");
        }
        for none in [None, Some(Secret::new(" "))] {
            let drains = Drains::new(none);
            assert!(!drains.are_offered() && !drains.may_ask(b""));
        }
    }
}
