//! Leaving: because this side ends, or because the plane wants it.
//!
//! ```text
//!   No ---> Wanted        the plane wants all generals to leave: finish, then dial anew after a while
//!    |         |
//!    +---------+--> On    this side ends: finish within the grace, hand back the rest, wait for `Settled`, exit
//!                    |
//!                    +--> Done
//! ```
//! Invariant: `Action::Exit` is asked for once, and nothing is taken on before it.

use std::time::Duration;

use mindos_model::{GeneralName, Timestamp};

use crate::agent::{Action, Agent, GeneralIndex};
use crate::backoff::IDLE_MAX;
use crate::lease::{Answer, Phase};
use crate::message::Up;

/// How long a general that is handed back may take to stop.
const HAND_BACK_GRACE: Duration = Duration::from_secs(3);
/// How long after the grace results may wait to be settled.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// What the plane is told to expect where it wanted the drain.
const WANTED_GRACE: Duration = Duration::from_secs(30);
/// How long to listen for what was on its way when the drain began.
const LISTEN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Drain {
    No,
    Wanted { since: Timestamp },
    On { until: Timestamp, handed_back: bool },
    Done,
}

impl Drain {
    /// Whether this side is about to end.
    pub(crate) fn is_on(self) -> bool {
        match self {
            Drain::No | Drain::Wanted { .. } => false,
            Drain::On { .. } | Drain::Done => true,
        }
    }

    pub(crate) fn next_due(self) -> Option<Timestamp> {
        match self {
            Drain::No | Drain::Done => None,
            Drain::Wanted { since } => Some(since + LISTEN),
            Drain::On { until, handed_back: false } => Some(until),
            Drain::On { until, handed_back: true } => Some(until + SETTLE_MAX),
        }
    }
}

impl<W, O: Clone + Default> Agent<W, O> {
    /// Leaves: takes nothing on, finishes within `grace`, hands back the rest, and exits when all results are settled.
    pub fn drain(&mut self, now: Timestamp, grace: Duration) {
        if self.drain.is_on() {
            return;
        }
        self.drain = Drain::On { until: now + grace, handed_back: false };
        self.regrant();
        self.announce_drain();
    }

    /// Whether it is leaving.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_on()
    }

    pub(crate) fn announce_drain(&mut self) {
        if let Drain::On { until, .. } = self.drain {
            self.send(Up::Draining { deadline: until, generals: Vec::new() });
        }
    }

    pub(crate) fn drain_wanted(&mut self, names: &[GeneralName], reconnect: bool, now: Timestamp) {
        if reconnect {
            self.leave_soon();
            return;
        }
        let wanted: Vec<GeneralIndex> = names.iter().filter_map(|name| self.general(name.as_str())).collect();
        for (at, general) in self.generals.iter_mut().enumerate() {
            if names.is_empty() || wanted.iter().any(|index| index.at() == at) {
                general.draining = true;
            }
        }
        if matches!(self.drain, Drain::No) && self.generals.iter().all(|general| general.draining) {
            self.drain = Drain::Wanted { since: now };
        }
        self.regrant();
        if !self.drain.is_on() {
            self.send(Up::Draining { deadline: now + WANTED_GRACE, generals: wanted });
        }
    }

    pub(crate) fn drain_due(&mut self, now: Timestamp) {
        match self.drain {
            Drain::No | Drain::Done => {}
            Drain::Wanted { since } => {
                if !self.is_open() {
                    self.drain = Drain::No;
                } else if self.leases.is_empty() && now.since(since) >= LISTEN {
                    self.drain = Drain::No;
                    let after = self.chance.span(IDLE_MAX);
                    self.leave(after);
                } else if now.since(since) >= LISTEN {
                    // Looked at again when work ends, and often enough.
                    self.drain = Drain::Wanted { since: now };
                }
            }
            Drain::On { until, handed_back } => {
                if self.leases.is_empty() || now >= until + SETTLE_MAX {
                    self.drain = Drain::Done;
                    self.actions.push(Action::Exit);
                } else if until <= now && !handed_back {
                    self.drain = Drain::On { until, handed_back: true };
                    self.hand_back(now);
                }
            }
        }
    }

    fn hand_back(&mut self, now: Timestamp) {
        let working: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, lease)| matches!(lease.phase, Phase::Taken | Phase::Working))
            .map(|(delivery, lease)| (*delivery, lease.token))
            .collect();
        for (delivery, token) in working {
            self.stop(delivery, token, Answer::Decline, HAND_BACK_GRACE, now);
        }
    }
}
