//! What a lease's record says of the choice, and whom a provider's limit keeps from work.
//!
//! Invariants: the chosen instance is the better of those weighed, or on trial; none that was set aside is chosen; an instance
//! whose provider wants no more begins nothing before the reset, for as long as plane and instance remember it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mindos_core::RATE_POOL_LABEL;
use mindos_core::record::{Choice, DeliveryLeased, GeneralKey, GeneralRegistered, InstanceKey};
use mindos_model::{BootId, Timestamp};

use crate::ledger::Broken;

/// A limit is looked at no longer than this: then an instance without a stream may have been forgotten.
const REMEMBERED_MS: u64 = 40_000;

type Served = (Arc<GeneralKey>, Arc<InstanceKey>, BootId);

/// Limits that instances met, and generals that ever shared one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limited {
    until: BTreeMap<Served, (Timestamp, Timestamp)>,
    shared: BTreeSet<GeneralKey>,
}

impl Limited {
    pub(crate) fn registered(&mut self, record: &GeneralRegistered) {
        if record.labels.iter().any(|(key, _)| &**key == RATE_POOL_LABEL) {
            self.shared.insert(record.key.clone());
        }
    }

    /// What comes under its name later is another one.
    pub(crate) fn removed(&mut self, general: &GeneralKey) {
        self.until.retain(|(of, ..), _| **of != *general);
    }

    /// Another process of the plane knows nothing of it.
    pub(crate) fn forget(&mut self) {
        self.until.clear();
    }

    pub(crate) fn met(&mut self, (general, instance, boot): &Served, at: Timestamp, until: Timestamp) {
        let served = (general.clone(), instance.clone(), boot.clone());
        let (_, known) = self.until.entry(served).or_insert((at, until));
        *known = until.max(*known);
    }

    /// Judges a lease given at `at`.
    pub(crate) fn judge(&self, record: &DeliveryLeased, at: Timestamp) -> Result<(), Broken> {
        let DeliveryLeased { delivery, general, instance, boot, choice, .. } = record;
        let Choice { generals, instances, free, connected, aside, excluded, feedback, siting } = choice;
        let factors = feedback.as_deref().map(|weighing| (&weighing.generals[..], &weighing.instances[..]));
        let (of_generals, of_instances) = factors.unwrap_or_default();
        let fits = |factors: &[u32], len: usize| {
            (factors.is_empty() || factors.len() == len) && factors.iter().all(|factor| (500..=1500).contains(factor))
        };
        if !fits(of_generals, generals.len()) || !fits(of_instances, instances.len()) {
            return Err(format!("opinions_are_bounded: {delivery}: {feedback:?}"));
        }
        let factors = siting.as_deref().map(|siting| (&siting.generals[..], &siting.instances[..]));
        let (preferred_generals, preferred) = factors.unwrap_or_default();
        let bounded = |factors: &[u32]| factors.iter().all(|factor| (500..=1000).contains(factor));
        if !fits(preferred_generals, generals.len()) || !fits(preferred, instances.len()) {
            return Err(format!("preferences_are_of_those_weighed: {delivery}: {siting:?}"));
        }
        if !bounded(preferred_generals) || !bounded(preferred) {
            return Err(format!("preferences_are_bounded: {delivery}: {siting:?}"));
        }
        let score = |at: usize| {
            let factor = |factors: &[u32]| u64::from(*factors.get(at).unwrap_or(&1000));
            u64::from(instances[at].1.score) * factor(of_instances) * factor(preferred)
        };
        let Some(chosen) = instances.iter().position(|(weighed, _)| weighed == instance) else {
            return Err(format!("the_chosen_one_was_weighed: {delivery} went to {instance}: {instances:?}"));
        };
        if (0..instances.len()).any(|other| score(other) < score(chosen)) && !instances[chosen].1.trial {
            return Err(format!("the_better_one_is_chosen: {delivery} went to {instance}: {instances:?}"));
        }
        if excluded.iter().any(|(other, _)| other == instance) || excluded.len() > *aside as usize {
            return Err(format!("none_set_aside_is_chosen: {delivery} went to {instance}: {aside} of {excluded:?}"));
        }
        if *free == 0 || free > connected {
            return Err(format!("free_ones_are_connected: {delivery}: {free} of {connected} were free"));
        }
        let served = (general.clone(), instance.clone(), boot.clone());
        match self.until.get(&served).filter(|_| !self.shared.contains(&**general)) {
            Some((met, until)) if *until > at && at.since(*met).as_millis() < u128::from(REMEMBERED_MS) => {
                Err(format!("limits_are_waited_for: {delivery} went to {instance} at {at}, limited until {until}"))
            }
            Some(_) | None => Ok(()),
        }
    }
}
