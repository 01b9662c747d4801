//! When a part of the agent has to end, and how.

use tokio::sync::watch;

/// How a part ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In good order: nothing new, what runs may end within its grace, the rest is handed back.
    Drain,
    /// At once: another agent does this part's work already.
    Abandon,
}

/// Told to the parts of an agent. Cheap to clone; all clones hear the same.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Option<Ending>>);

/// Tells the parts.
#[derive(Debug)]
pub struct Curtain(watch::Sender<Option<Ending>>);

impl Shutdown {
    /// A pair: what tells, and what hears.
    #[must_use]
    pub fn new() -> (Curtain, Shutdown) {
        let (sender, receiver) = watch::channel(None);
        (Curtain(sender), Shutdown(receiver))
    }

    /// How to end, if it is time to.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        *self.0.borrow()
    }

    /// Returns when it is time to end. Whoever could tell being gone means that there is nothing to be orderly for.
    pub async fn begun(&self) -> Ending {
        let mut receiver = self.0.clone();
        let told = receiver.wait_for(Option::is_some).await.ok().and_then(|ending| *ending);
        told.unwrap_or(Ending::Abandon)
    }

    /// Returns when what goes on may go on no longer.
    pub async fn abandoned(&self) {
        let mut receiver = self.0.clone();
        let _ = receiver.wait_for(|ending| *ending == Some(Ending::Abandon)).await;
    }
}

impl Curtain {
    /// Whether all were told to end in good order, and not at once.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() == Some(Ending::Drain)
    }

    /// Tells all; a drain may become an end at once, but not the other way round.
    pub fn fall(&self, ending: Ending) {
        self.0.send_if_modified(|told| match (*told, ending) {
            (Some(Ending::Abandon), _) | (Some(Ending::Drain), Ending::Drain) => false,
            (None, _) | (Some(Ending::Drain), Ending::Abandon) => {
                *told = Some(ending);
                true
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_may_become_an_end_at_once_and_not_the_other_way_round() {
        let (curtain, shutdown) = Shutdown::new();
        assert_eq!(shutdown.ending(), None);
        curtain.fall(Ending::Drain);
        assert_eq!(shutdown.begun().await, Ending::Drain);
        curtain.fall(Ending::Abandon);
        curtain.fall(Ending::Drain);
        assert_eq!(shutdown.begun().await, Ending::Abandon);
        shutdown.abandoned().await;
    }

    #[tokio::test]
    async fn who_is_left_alone_ends() {
        let (curtain, shutdown) = Shutdown::new();
        drop(curtain);
        assert_eq!(shutdown.begun().await, Ending::Abandon);
    }
}
