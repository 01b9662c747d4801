//! Rate limits of providers: who begins nothing until the reset.
//!
//! A general labelled [`RATE_POOL_LABEL`] shares its provider's limit with all generals of the tenant that carry the same
//! value, and all of them wait; without the label the instance that met the limit waits alone. The work waits with them and fails
//! for nobody. Invariant: nothing waits longer than [`PAUSE_MAX`] for one report of a limit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mindos_model::{TenantName, Timestamp};

use crate::durable::Durable;
use crate::pool::{MemberIdx, Pool};
use crate::registry::{General, GeneralIdx};
use crate::soft::Soft;

/// Label that names the limit which a general shares, such as an API key or an account.
pub const RATE_POOL_LABEL: &str = "mindos.io/rate-pool";
/// Longest time that a limit holds without being reported again.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

type Name = (TenantName, Arc<str>);

/// The pools that wait for a reset. There are no more than generals.
#[derive(Clone, Debug, Default)]
pub(crate) struct RatePools {
    until: BTreeMap<Name, Timestamp>,
    due: BTreeSet<(Timestamp, Name)>,
}

impl RatePools {
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }
}

/// The pool that a general shares.
pub(crate) fn pool_of(general: &General) -> Option<Name> {
    let label = general.labels.iter().find(|(key, _)| &**key == RATE_POOL_LABEL);
    label.map(|(_, name)| (general.key.tenant.clone(), name.clone()))
}

impl Soft {
    /// A provider wants no more until then: of this general's pool, or of this instance where it has none.
    pub(crate) fn limited(
        &mut self,
        durable: &Durable,
        general: GeneralIdx,
        member: Option<MemberIdx>,
        until: Timestamp,
        now: Timestamp,
    ) {
        let until = until.min(now + PAUSE_MAX);
        let Some(known) = durable.registry.get(general).filter(|_| until > now) else { return };
        let Some(name) = pool_of(known) else {
            if let Some(idx) = member {
                self.change(durable, idx, now, |member| {
                    member.paused_until = Some(member.paused_until.map_or(until, |before| before.max(until)));
                });
            }
            return;
        };
        let before = self.rates.until.get(&name).copied();
        if before.is_some_and(|before| before >= until) {
            return;
        }
        self.rates.until.insert(name.clone(), until);
        if let Some(before) = before {
            self.rates.due.remove(&(before, name.clone()));
        }
        self.rates.due.insert((until, name.clone()));
        if before.is_none() {
            self.refresh_shared(durable, &name);
        }
    }

    /// Lets those go on whose limit was reset.
    pub(crate) fn rates_reset(&mut self, durable: &Durable, now: Timestamp) {
        while self.rates.next_due().is_some_and(|at| at <= now) {
            let Some((_, name)) = self.rates.due.pop_first() else { return };
            self.rates.until.remove(&name);
            self.refresh_shared(durable, &name);
        }
    }

    /// Until when the general's pool waits; unset when it has none, or that one does not wait.
    pub(crate) fn rate_paused(&self, durable: &Durable, general: GeneralIdx) -> Option<Timestamp> {
        if self.rates.until.is_empty() {
            return None;
        }
        let name = pool_of(durable.registry.get(general)?)?;
        self.rates.until.get(&name).copied()
    }

    /// Whether nobody can work for the general until a limit is reset.
    pub(crate) fn is_limited(&self, durable: &Durable, general: GeneralIdx) -> bool {
        self.rate_paused(durable, general).is_some() || self.pool(general).is_some_and(Pool::is_limited)
    }

    fn refresh_shared(&mut self, durable: &Durable, name: &Name) {
        let ours = durable.registry.iter().filter(|(_, general)| pool_of(general).as_ref() == Some(name));
        for idx in ours.map(|(idx, _)| idx).collect::<Vec<_>>() {
            self.refresh_general(durable, idx);
        }
    }

    /// Compares the pools with their agenda.
    pub(crate) fn check_rates(&self) -> Result<(), String> {
        let RatePools { until, due } = &self.rates;
        let listed = until.iter().all(|(name, at)| due.contains(&(*at, name.clone())));
        if !listed || until.len() != due.len() {
            return Err(format!("{} rate pools wait, {} resets are due", until.len(), due.len()));
        }
        Ok(())
    }
}
