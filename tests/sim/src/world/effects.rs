//! Whoever carries out effects, badly; the world outside; and people who decide about what failed.

use std::sync::Arc;

use mindos_core::effect::EffectFilter;
use mindos_core::input::{EffectChange, EffectReport, Input, Intent, Query};
use mindos_core::output::EffectView;
use mindos_core::record::EffectOutcome;
use mindos_model::{DeliveryId, EffectId, GeneralName, Seq};

use super::people::Asked;
use super::{Event, World};
use crate::effects::Stands;
use crate::ledger::Broken;
use crate::words;

/// Between two looks at what is due, in milliseconds.
const LOOK_EVERY: u64 = 400;

impl World {
    /// Asks what is due.
    pub(super) fn broker(&mut self) {
        let after = self.chance.within(LOOK_EVERY / 4, LOOK_EVERY * 2);
        self.at(after, Event::Broker);
        if self.plane.is_some() && !self.ledger.effects.open.is_empty() {
            let request = self.request(Asked::Due);
            let query = Query::EffectsDue { after: None, limit: 50 };
            self.input(Input::Query { request, tenant: words::tenant(), query });
        }
    }

    /// Carries out what is due, or not.
    pub(super) fn carry_out_effects(&mut self, views: &[EffectView]) -> Result<(), Broken> {
        for view in views {
            let EffectView { effect, key, .. } = view;
            let way = if self.healing { 0 } else { self.chance.below(20) };
            let report = match way {
                0..=11 => {
                    // What is there is found, whoever put it there.
                    let made = *self.outside.entry(key.clone()).or_insert(*effect);
                    if made != *effect {
                        return Err(format!("keys_are_executed_once: `{key}` by {made} and by {effect}"));
                    }
                    if way == 11 {
                        // The process ends before it says so.
                        continue;
                    }
                    let observed = Arc::from(format!("{{\"number\":{}}}", effect.0));
                    EffectReport::Ended(EffectOutcome::Done { observed })
                }
                12 => EffectReport::Ended(EffectOutcome::DryRun { would: Arc::from("{}") }),
                13 => EffectReport::Ended(EffectOutcome::Failed { message: Arc::from("no") }),
                14..=16 => EffectReport::Defer { until: self.plane_time(), counted: true, why: Arc::from("busy") },
                17 => {
                    let until = self.plane_time() + self.chance.millis(1, 60_000);
                    EffectReport::Defer { until, counted: false, why: Arc::from("limit") }
                }
                _ => continue,
            };
            // Some are heard twice.
            let twice = self.chance.permille(50);
            for _ in 0..=usize::from(twice) {
                self.input(Input::Effect { effect: *effect, report: report.clone() });
            }
        }
        Ok(())
    }

    /// A report of something that is not due, or not there.
    fn stray_report(&mut self) {
        let effect = self.some_effect();
        let facts = self.ledger.effects.known.get(&effect);
        let waits = facts.is_some_and(|facts| matches!(facts.stands, Stands::Waiting { .. }));
        // Whoever carries out reports on what waits only if it is due.
        let report = if waits {
            EffectReport::Defer { until: self.plane_time(), counted: false, why: Arc::from("stray") }
        } else {
            EffectReport::Ended(EffectOutcome::Failed { message: Arc::from("stray") })
        };
        self.input(Input::Effect { effect, report });
    }

    fn some_effect(&mut self) -> EffectId {
        let open = &self.ledger.effects.open;
        let among = if open.is_empty() || self.chance.permille(200) {
            self.ledger.effects.known.keys().copied().collect::<Vec<_>>()
        } else {
            open.iter().copied().collect()
        };
        self.chance.pick(&among).copied().unwrap_or(EffectId(Seq(3)))
    }

    pub(super) fn meddle_with_effects(&mut self) {
        let tenant = words::tenant();
        match self.chance.below(6) {
            0 => self.stray_report(),
            1 => {
                let count = self.ledger.events.len() as u64;
                let nth = self.chance.below(count.max(1)) as usize;
                let mut events: Vec<_> = self.ledger.events.keys().copied().collect();
                events.sort_unstable();
                let event = events.get(nth).copied().unwrap_or(Seq(99));
                let number = self.chance.below(60);
                let intents = intents(&format!("p{number}"), None, self.chance.within(1, 3));
                let part = GeneralName::new("intake").expect("a name of ours");
                self.input(Input::Intend { tenant, event, part, intents });
            }
            2 => {
                let request = self.request(Asked::Other);
                let filter = EffectFilter::default();
                self.input(Input::Query { request, tenant, query: Query::Effects { filter, after: None, limit: 20 } });
            }
            3 => {
                let effect = self.some_effect();
                self.change_effect(effect, EffectChange::Cancel);
            }
            _ => {
                let effect = self.some_effect();
                self.change_effect(effect, EffectChange::Retry);
            }
        }
    }

    fn change_effect(&mut self, effect: EffectId, change: EffectChange) {
        let request = self.request(Asked::Other);
        let (by, from) = (Arc::from("ann"), Arc::from(""));
        self.input(Input::ChangeEffect { request, tenant: words::tenant(), effect, change, by, from });
    }

    /// What failed is tried again until it is done.
    pub(super) fn heal_effects(&mut self) {
        let open = self.ledger.effects.open.iter().copied();
        let failed = |effect: &EffectId| matches!(self.ledger.effects.known[effect].stands, Stands::Failed { .. });
        for effect in open.filter(failed).collect::<Vec<_>>() {
            self.change_effect(effect, EffectChange::Retry);
        }
    }

    /// What is said to be done is there.
    pub(super) fn done_effects_are_there(&self) -> Result<(), Broken> {
        for (effect, facts) in &self.ledger.effects.known {
            if self.outside.get(&facts.key).is_some_and(|made| made == effect) && facts.stands == Stands::Overflowed {
                return Err(format!("keys_are_executed_once: {effect} had no room and was carried out"));
            }
        }
        Ok(())
    }
}

/// So many intents under keys of their own, or under those of a delivery's result. Parts of a repository get in each other's way.
pub(crate) fn intents(key: &str, delivery: Option<DeliveryId>, count: u64) -> Vec<Intent> {
    let intent = |at: u64| {
        let key = delivery.map_or_else(|| format!("{key}/{at}"), |delivery| format!("{delivery}/{at}"));
        let number = words::hash(&[key.as_bytes()]) % 6;
        let target = if number == 0 { "o/r".to_owned() } else { format!("o/r!{number}") };
        let (key, kind, target) = (Arc::from(key), Arc::from("comment"), Arc::from(target));
        Intent { key, kind, target, parameters: words::payload("{}") }
    };
    (0..count).map(intent).collect()
}
