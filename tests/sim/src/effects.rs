//! Effects as the durable records tell of them, folded without any of the core's code.
//!
//! Each record is judged as it is folded; the names of the invariants stand before the colon of what is reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mindos_core::output::EffectView;
use mindos_core::record::{EffectDeferred, EffectEnded, EffectIntended, EffectOutcome, EffectRevived, Record};
use mindos_model::{DeliveryId, EffectId, Seq, Timestamp, Token, limits};

use crate::ledger::{Broken, Ledger};

/// Where an effect stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    Waiting {
        not_before: Timestamp,
    },
    Failed {
        since: Timestamp,
    },
    /// Done, or only looked at.
    Succeeded,
    Cancelled,
    /// It is the effect that had its key first.
    Repeats(EffectId),
    /// There was no room for it.
    Overflowed,
}

/// What is known of an effect.
#[derive(Clone, Debug)]
pub struct EffectFacts {
    pub series: EffectId,
    pub target: Arc<str>,
    pub key: Arc<str>,
    pub stands: Stands,
    pub attempts: u32,
    /// A person had it tried again, and it took its old place.
    pub revived: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Effects {
    pub known: BTreeMap<EffectId, EffectFacts>,
    pub by_key: HashMap<Arc<str>, EffectId>,
    /// Neither ended nor repeated.
    pub open: BTreeSet<EffectId>,
    pub of_delivery: HashMap<DeliveryId, Vec<EffectId>>,
    /// The settlement that came last, whose intents may follow.
    settled: Option<(DeliveryId, Token, Seq)>,
}

impl EffectFacts {
    fn is_open(&self) -> bool {
        matches!(self.stands, Stands::Waiting { .. } | Stands::Failed { .. })
    }
}

impl Ledger {
    /// Folds and judges a record about effects.
    pub(crate) fn fold_effects(&mut self, seq: Seq, at: Timestamp, record: &Record) -> Result<(), Broken> {
        match record {
            Record::DeliverySettled(record) => {
                self.effects.settled = Some((record.delivery, record.token, seq));
                Ok(())
            }
            Record::EffectIntended(record) => self.effect_intended(seq, record),
            Record::EffectDeferred(record) => self.effect_deferred(record),
            Record::EffectEnded(record) => self.effect_ended(at, record),
            Record::EffectRevived(record) => self.effect_revived(at, record),
            _ => Ok(()),
        }
    }

    fn effect_intended(&mut self, seq: Seq, record: &EffectIntended) -> Result<(), Broken> {
        let EffectIntended { delivery, token, ordinal, key, target, first, overflow, .. } = record;
        let effect = EffectId(seq);
        if let Some(delivery) = delivery {
            let settled = self.effects.settled;
            let behind = settled
                .is_some_and(|(of, by, at)| (of, by) == (*delivery, *token) && seq.0 == at.0 + 1 + u64::from(*ordinal));
            if !behind {
                return Err(format!("intents_stand_behind_their_settlement: {effect} of {delivery} {token}"));
            }
            let plan = self.deliveries.get(delivery).map(|facts| (facts.plan.terms.shadow, facts.plan.replay));
            if plan != Some((false, false)) {
                return Err(format!("only_live_results_have_effects: {effect} of {delivery} is {plan:?}"));
            }
            if self.access.redacted.contains_key(&delivery.event) {
                return Err(format!("what_is_redacted_stays_so: {delivery} wants {effect}"));
            }
            self.effects.of_delivery.entry(*delivery).or_default().push(first.unwrap_or(effect));
        }
        let known = self.effects.by_key.get(key).copied();
        if known != *first {
            return Err(format!("keys_are_executed_once: {effect} has `{key}` of {known:?}, and says {first:?}"));
        }
        let stands = match first {
            Some(first) => Stands::Repeats(*first),
            None if *overflow => Stands::Overflowed,
            None => Stands::Waiting { not_before: Timestamp(0) },
        };
        if matches!(stands, Stands::Waiting { .. }) {
            self.effects.by_key.insert(key.clone(), effect);
            self.effects.open.insert(effect);
        }
        let series = EffectId(Seq(seq.0 - u64::from(*ordinal)));
        let (target, key) = (target.clone(), key.clone());
        self.effects.known.insert(effect, EffectFacts { series, target, key, stands, attempts: 0, revived: false });
        Ok(())
    }

    fn open_effect(&mut self, effect: EffectId) -> Result<&mut EffectFacts, Broken> {
        let facts =
            self.effects.known.get_mut(&effect).ok_or_else(|| format!("records_name_known_effects: {effect}"))?;
        match facts.is_open() {
            true => Ok(facts),
            false => Err(format!("one_end_per_effect: {effect} is {:?}", facts.stands)),
        }
    }

    fn effect_deferred(&mut self, record: &EffectDeferred) -> Result<(), Broken> {
        let EffectDeferred { effect, attempts, counted, not_before, .. } = record;
        self.comes_in_turn(*effect)?;
        let facts = self.open_effect(*effect)?;
        if *attempts != facts.attempts + u32::from(*counted) || *attempts >= limits::EFFECT_ATTEMPTS_MAX {
            return Err(format!("tries_are_counted: {effect} is at {attempts} after {}", facts.attempts));
        }
        facts.attempts = *attempts;
        facts.stands = Stands::Waiting { not_before: *not_before };
        self.coverage.note(if *counted { "effect tried in vain" } else { "effect limited" });
        Ok(())
    }

    fn effect_ended(&mut self, at: Timestamp, record: &EffectEnded) -> Result<(), Broken> {
        let EffectEnded { effect, outcome, .. } = record;
        let stands = self.effects.known.get(effect).map(|facts| facts.stands);
        if stands == Some(Stands::Overflowed) && matches!(outcome, EffectOutcome::Failed { .. }) {
            return Ok(());
        }
        let reported = !matches!(outcome, EffectOutcome::Cancelled { .. });
        if reported {
            self.comes_in_turn(*effect)?;
            self.target_is_free(*effect, at)?;
        }
        let facts = self.open_effect(*effect)?;
        let (after, word) = match outcome {
            EffectOutcome::Done { .. } => (Stands::Succeeded, "effect done"),
            EffectOutcome::DryRun { .. } => (Stands::Succeeded, "effect looked at"),
            EffectOutcome::Failed { .. } => (Stands::Failed { since: at }, "effect failed"),
            EffectOutcome::Cancelled { .. } => (Stands::Cancelled, "effect cancelled"),
        };
        let before = std::mem::replace(&mut facts.stands, after);
        // What was begun before it was put off may still come to its end.
        if reported && !matches!(before, Stands::Waiting { .. }) {
            return Err(format!("one_end_per_effect: {effect} ended, and was {before:?}"));
        }
        if !matches!(outcome, EffectOutcome::Failed { .. }) {
            self.effects.open.remove(effect);
        }
        self.coverage.note(word);
        Ok(())
    }

    fn effect_revived(&mut self, at: Timestamp, record: &EffectRevived) -> Result<(), Broken> {
        let EffectRevived { effect, .. } = record;
        let moved = self.clock_moved;
        let facts = self.open_effect(*effect)?;
        match facts.stands {
            Stands::Failed { .. } => {}
            Stands::Waiting { not_before } if not_before > at || at <= moved => {}
            other => return Err(format!("only_what_failed_is_tried_again: {effect} was {other:?}")),
        }
        (facts.attempts, facts.revived) = (0, true);
        facts.stands = Stands::Waiting { not_before: Timestamp(0) };
        Ok(())
    }

    /// All before it in its series have succeeded; those that repeat another have, as long as that is open.
    fn comes_in_turn(&self, effect: EffectId) -> Result<(), Broken> {
        let Some(facts) = self.effects.known.get(&effect) else { return Ok(()) };
        for (id, earlier) in self.effects.known.range(facts.series..effect) {
            let done = match earlier.stands {
                Stands::Succeeded => true,
                Stands::Repeats(first) => !self.effects.open.contains(&first),
                Stands::Waiting { .. } | Stands::Failed { .. } | Stands::Cancelled | Stands::Overflowed => false,
            };
            if !done {
                return Err(format!("order_within_a_delivery: {effect} before {id}, which is {:?}", earlier.stands));
            }
        }
        Ok(())
    }

    /// Nothing earlier on its target is to come, but for what failed long ago and what waits for that.
    fn target_is_free(&self, effect: EffectId, at: Timestamp) -> Result<(), Broken> {
        let Some(facts) = self.effects.known.get(&effect) else { return Ok(()) };
        for id in self.effects.open.range(..effect) {
            let other = &self.effects.known[id];
            if other.target == facts.target && !other.revived && !self.is_stuck(*id, at, 0) {
                return Err(format!("order_on_a_target: {effect} before {id}, which is {:?}", other.stands));
            }
        }
        Ok(())
    }

    /// Whether it, or something that it waits for, has failed; how long ago is for those whose clock was not moved.
    fn is_stuck(&self, effect: EffectId, at: Timestamp, depth: u32) -> bool {
        let Some(facts) = self.effects.known.get(&effect) else { return false };
        let failed = match facts.stands {
            Stands::Failed { since } => since + limits::EFFECT_BLOCK_MAX <= at || since <= self.clock_moved,
            // It was stuck, and was tried again; others may have overtaken it then.
            Stands::Waiting { .. } => facts.revived,
            Stands::Repeats(first) => return depth < 64 && self.is_stuck(first, at, depth + 1),
            Stands::Succeeded | Stands::Cancelled | Stands::Overflowed => false,
        };
        let before = || self.effects.known.range(facts.series..effect).map(|(id, _)| *id);
        failed || depth < 64 && before().any(|id| self.is_stuck(id, at, depth + 1))
    }

    /// What is said to be due is known, and in its turn.
    pub(crate) fn judge_effect_views(&self, views: &[EffectView]) -> Result<(), Broken> {
        for view in views {
            let effect = view.effect;
            if !self.effects.known.contains_key(&effect) {
                return Err(format!(
                    "nothing_leaves_before_durable: effect {effect} was shown, durable through {}",
                    self.end
                ));
            }
            if view.parameters.seq <= self.dropped {
                return Err(format!("payloads_of_open_effects_are_kept: {} of {effect}", view.parameters.seq));
            }
            if view.due {
                self.comes_in_turn(effect).map_err(|broken| format!("due_in_turn_only: {broken}"))?;
            }
        }
        Ok(())
    }

    /// A settlement names the effects of its intents.
    pub(crate) fn judge_settled_effects(&self, delivery: DeliveryId, named: &[EffectId]) -> Result<(), Broken> {
        let known = self.effects.of_delivery.get(&delivery).map_or(&[][..], |known| known);
        match named.is_empty() || named == known {
            true => Ok(()),
            false => Err(format!("settlements_name_their_effects: {delivery} has {known:?}, told was {named:?}")),
        }
    }
}
