//! Members: one instance's part in one general, and what it is to the pool.
//!
//! Invariant: nothing here changes by itself; `pool.rs` changes a member and puts it where it then belongs.

use std::sync::Arc;

use mindos_model::{BootId, Timestamp};

use crate::breaker::Breaker;
use crate::input::{ReportedLoad, SessionId};
use crate::policy::Version;
use crate::record::{InstanceKey, Labels, Load};
use crate::registry::GeneralIdx;
use crate::score::{Exclusion, Pace, Pressure};

/// What routes pick instances by.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Profile {
    /// Its version as routes compare it; unset when what it says is none.
    pub(crate) release: Option<Version>,
    /// Labels of the general, as this instance told them.
    pub(crate) labels: Labels,
}

/// What an instance may do for one general.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) instance: Arc<InstanceKey>,
    pub(crate) boot: BootId,
    pub(crate) session: SessionId,
    /// Of its program, as it said when it connected.
    pub(crate) version: Arc<str>,
    pub(crate) general: GeneralIdx,
    pub(crate) load: Load,
    pub(crate) reported: ReportedLoad,
    /// Neither draining nor held.
    pub(crate) is_open: bool,
    /// What routes pick instances by.
    pub(crate) profile: Arc<Profile>,
    /// Its general stops at the ceilings that it is given.
    pub(crate) keeps_ceilings: bool,
    /// What its provider allows nothing until.
    pub(crate) paused_until: Option<Timestamp>,
    pub(crate) breaker: Breaker,
    pub(crate) pace: Pace,
    pub(crate) pressure: Pressure,
    pub(crate) standing: Standing,
    /// When time alone changes it next, as the agenda has it.
    pub(crate) due: Option<Timestamp>,
    pub(crate) free_at: Option<u32>,
    pub(crate) is_aside: bool,
    pub(crate) is_on_trial: bool,
}

/// What is remembered of an instance while its stream is gone: the same process goes on where it was.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) general: GeneralIdx,
    pub(crate) breaker: Breaker,
    pub(crate) pace: Pace,
    pub(crate) paused_until: Option<Timestamp>,
}

/// What a member is to its pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It granted nothing, or somebody holds it, or it is leaving.
    #[default]
    Unable,
    Serving,
    /// Its provider wants no more for now.
    Limited,
    Ejected,
}

impl Member {
    pub(crate) fn new(
        instance: Arc<InstanceKey>,
        boot: BootId,
        session: SessionId,
        general: GeneralIdx,
        load: Load,
    ) -> Member {
        Member {
            instance,
            boot,
            session,
            version: Arc::from(""),
            general,
            load,
            reported: ReportedLoad::default(),
            is_open: true,
            profile: Arc::default(),
            keeps_ceilings: false,
            paused_until: None,
            breaker: Breaker::default(),
            pace: Pace::default(),
            pressure: Pressure::default(),
            standing: Standing::Unable,
            due: None,
            free_at: None,
            is_aside: false,
            is_on_trial: false,
        }
    }

    /// Goes on where the same process was when its stream was lost.
    pub(crate) fn resume(&mut self, kept: Kept) {
        let Kept { general: _, breaker, pace, paused_until } = kept;
        (self.breaker, self.pace, self.paused_until) = (breaker, pace, paused_until);
    }

    pub(crate) fn stands(&self) -> Standing {
        match (self.is_open && self.load.capacity > 0, self.breaker.is_ejected(), self.paused_until) {
            (false, _, _) => Standing::Unable,
            (true, true, _) => Standing::Ejected,
            (true, false, Some(_)) => Standing::Limited,
            (true, false, None) => Standing::Serving,
        }
    }

    pub(crate) fn is_free(&self) -> bool {
        let Load { open, capacity } = self.load;
        self.is_open && self.paused_until.is_none() && self.breaker.lets_in(open, capacity)
    }

    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        match (self.breaker.due(), self.paused_until) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    pub(crate) fn pass(&mut self, now: Timestamp) {
        self.breaker.pass(now);
        self.paused_until = self.paused_until.filter(|until| *until > now);
    }

    /// Why it is not drawn from; `draining` of those that are not open.
    pub(crate) fn excluded(&self, draining: bool) -> Option<Exclusion> {
        if !self.is_open {
            return Some(if draining { Exclusion::Draining } else { Exclusion::Held });
        }
        if self.breaker.is_ejected() {
            return Some(Exclusion::BreakerOpen);
        }
        self.paused_until.map(|_| Exclusion::RateLimited)
    }
}
