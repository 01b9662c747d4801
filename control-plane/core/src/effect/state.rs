//! Folding of what records say about effects, and the agenda of those that are due.
//!
//! Invariants: a target's set has its open effects but for those that are stuck; an effect depends on lower ids only, so what changes
//! is followed upwards and ends; a series is kept as long as it is not complete or one of its own effects is open.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use foldhash::quality::FixedState;
use mindos_model::{DeliveryId, EffectId, GeneralType, Seq, TenantName, Timestamp, Token, limits};

use super::keys::{self, EffectKey};
use super::{
    Earlier, EffectDeferred, EffectEnded, EffectIntended, EffectItem, EffectOutcome, EffectRevived, EffectSeries,
};
use crate::dedupe::Window;
use crate::output::PayloadRef;
use crate::record::GeneralKey;

/// What was observed of ended effects is remembered of so many, for intents that repeat their keys.
pub(super) const OBSERVED_KEPT: usize = 1024;

#[derive(Clone, Debug)]
pub(crate) struct Effects {
    pub(super) open: BTreeMap<EffectId, Open>,
    pub(super) series: BTreeMap<EffectId, Series>,
    /// The effects that keep their order on a target.
    pub(super) targets: BTreeMap<(TenantName, Arc<str>), BTreeSet<EffectId>>,
    /// Open ones by the event that they come from.
    pub(super) events: BTreeSet<(Seq, EffectId)>,
    /// Open effects that series repeat.
    pub(super) repeats: BTreeSet<(EffectId, EffectId)>,
    /// Places in series, by tenant.
    pub(super) kept: BTreeMap<TenantName, usize>,
    pub(super) keys: Window<EffectId>,
    pub(super) observed: VecDeque<(EffectId, Arc<str>)>,
    /// May be carried out now.
    pub(super) due: BTreeSet<EffectId>,
    /// When those that were put off are tried again.
    pub(super) later: BTreeSet<(Timestamp, EffectId)>,
    /// When those that failed hold up their targets no longer.
    pub(super) releases: BTreeSet<(Timestamp, EffectId)>,
    /// Timers up to here have fired. Only grows.
    pub(super) fired: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) tenant: TenantName,
    pub(super) event: Seq,
    pub(super) delivery: Option<DeliveryId>,
    pub(super) token: Token,
    pub(super) general: Arc<GeneralKey>,
    pub(super) general_type: GeneralType,
    pub(super) ordinal: u32,
    pub(super) key: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) target: Arc<str>,
    pub(super) parameters: PayloadRef,
    pub(super) intended: Timestamp,
    pub(super) attempts: u32,
    pub(super) phase: Phase,
    pub(super) why: Arc<str>,
    /// It has failed, or one that it waits for, and that for long enough: its target waits no longer.
    pub(super) stuck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting { not_before: Timestamp },
    Failed { since: Timestamp },
}

#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) tenant: TenantName,
    /// How many places there will be.
    pub(super) of: u32,
    pub(super) places: Vec<Earlier>,
}

impl Open {
    /// When it failed.
    pub(super) fn failed(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Failed { since } => Some(since),
            Phase::Waiting { .. } => None,
        }
    }

    /// When it is tried again; zero where it was not put off, or has failed.
    pub(super) fn not_before(&self) -> Timestamp {
        match self.phase {
            Phase::Waiting { not_before } => not_before,
            Phase::Failed { .. } => Timestamp(0),
        }
    }
}

/// The first effect of the series in which `effect` has this place.
pub(super) fn series_of(effect: EffectId, ordinal: u32) -> EffectId {
    EffectId(Seq(effect.0.0.saturating_sub(u64::from(ordinal))))
}

impl Effects {
    pub(crate) fn new(hasher: FixedState) -> Effects {
        Effects {
            open: BTreeMap::new(),
            series: BTreeMap::new(),
            targets: BTreeMap::new(),
            events: BTreeSet::new(),
            repeats: BTreeSet::new(),
            kept: BTreeMap::new(),
            keys: Window::new(hasher, limits::EFFECT_KEYS_MAX, limits::EFFECT_KEY_LIFE),
            observed: VecDeque::new(),
            due: BTreeSet::new(),
            later: BTreeSet::new(),
            releases: BTreeSet::new(),
            fired: Timestamp(0),
        }
    }

    pub(crate) fn intended(&mut self, seq: Seq, at: Timestamp, record: &EffectIntended) {
        let EffectIntended { tenant, event, delivery, token, general, general_type, ordinal, of, .. } = record;
        let EffectIntended { key, kind, target, parameters, first, overflow, .. } = record;
        let effect = EffectId(seq);
        let of_series = series_of(effect, *ordinal);
        let series = self.series.entry(of_series);
        let series = series.or_insert_with(|| Series { tenant: tenant.clone(), of: *of, places: Vec::new() });
        assert_eq!(series.places.len(), *ordinal as usize, "effect {effect} has another place in its series");
        *self.kept.entry(tenant.clone()).or_default() += 1;
        let observed = first.and_then(|first| self.observed_of(first));
        let series = self.series.get_mut(&of_series).expect("it was just there");
        series.places.push(Earlier { effect: first.unwrap_or(effect), observed });
        match first {
            Some(first) => {
                if self.open.contains_key(first) {
                    self.repeats.insert((*first, of_series));
                }
            }
            None if *overflow => {}
            None => {
                self.keys.insert(keys::hash(tenant, key), at, effect);
                let len = u32::try_from(parameters.bytes.len()).expect("parameters are bounded");
                let open = Open {
                    tenant: tenant.clone(),
                    event: *event,
                    delivery: *delivery,
                    token: *token,
                    general: general.clone(),
                    general_type: general_type.clone(),
                    ordinal: *ordinal,
                    key: key.clone(),
                    kind: kind.clone(),
                    target: target.clone(),
                    parameters: PayloadRef { seq, len },
                    intended: at,
                    attempts: 0,
                    phase: Phase::Waiting { not_before: Timestamp(0) },
                    why: Arc::from(""),
                    stuck: false,
                };
                self.put(effect, open);
            }
        }
        self.drop_series(of_series);
    }

    pub(crate) fn deferred(&mut self, record: &EffectDeferred) {
        let EffectDeferred { effect, attempts, counted: _, not_before, why } = record;
        let open = self.open.get_mut(effect).unwrap_or_else(|| panic!("effect {effect} was put off and is not open"));
        let Phase::Waiting { not_before: before } = open.phase else { panic!("effect {effect} was put off, and had failed") };
        (open.attempts, open.why) = (*attempts, why.clone());
        open.phase = Phase::Waiting { not_before: *not_before };
        self.later.remove(&(before, *effect));
        if *not_before > self.fired {
            self.later.insert((*not_before, *effect));
        }
        self.refresh(BTreeSet::from([*effect]));
    }

    pub(crate) fn ended(&mut self, at: Timestamp, record: &EffectEnded) {
        let EffectEnded { effect, outcome, from: _ } = record;
        // One for which there was no room is not kept.
        let Some(open) = self.open.get_mut(effect) else { return };
        let before = open.phase;
        if let Phase::Waiting { not_before } = before {
            self.later.remove(&(not_before, *effect));
        }
        if let EffectOutcome::Failed { message } = outcome {
            assert!(matches!(before, Phase::Waiting { .. }), "effect {effect} failed twice");
            (open.phase, open.why) = (Phase::Failed { since: at }, message.clone());
            self.releases.insert((at + limits::EFFECT_BLOCK_MAX, *effect));
            self.refresh(BTreeSet::from([*effect]));
            return;
        }
        if let Phase::Failed { since } = before {
            self.releases.remove(&(since + limits::EFFECT_BLOCK_MAX, *effect));
        }
        let mut affected = self.after(*effect);
        let open = self.open.remove(effect).expect("it was just found");
        self.due.remove(effect);
        self.events.remove(&(open.event, *effect));
        affected.extend(self.leave_target(&open, *effect));
        let repeating = self.repeating(*effect);
        if let Some(observed) = outcome.observed() {
            for series in repeating.iter().copied().chain([series_of(*effect, open.ordinal)]) {
                let series = self.series.get_mut(&series).expect("series stay while they have open effects");
                let places = series.places.iter_mut().filter(|place| place.effect == *effect);
                places.for_each(|place| place.observed = Some(observed.clone()));
            }
            self.remember(*effect, observed.clone());
        }
        for series in repeating {
            self.repeats.remove(&(*effect, series));
        }
        self.refresh(affected);
        self.drop_series(series_of(*effect, open.ordinal));
    }

    pub(crate) fn revived(&mut self, record: &EffectRevived) {
        let EffectRevived { effect, by: _, from: _ } = record;
        let open = self.open.get_mut(effect).unwrap_or_else(|| panic!("effect {effect} was revived and is not open"));
        let before = open.phase;
        open.phase = Phase::Waiting { not_before: Timestamp(0) };
        open.attempts = 0;
        match before {
            Phase::Failed { since } => self.releases.remove(&(since + limits::EFFECT_BLOCK_MAX, *effect)),
            Phase::Waiting { not_before } => self.later.remove(&(not_before, *effect)),
        };
        self.refresh(BTreeSet::from([*effect]));
    }

    /// Its parameters were written again.
    pub(crate) fn carried(&mut self, effect: EffectId, payload: PayloadRef) {
        if let Some(open) = self.open.get_mut(&effect) {
            open.parameters = payload;
        }
    }

    /// Timers whose time has come: moves work from "later" to "now", and records nothing.
    pub(crate) fn fire(&mut self, now: Timestamp) {
        self.fired = self.fired.max(now);
        let mut moved = BTreeSet::new();
        for timers in [&mut self.later, &mut self.releases] {
            while let Some((_, effect)) = timers.first().filter(|(at, _)| *at <= now).copied() {
                timers.pop_first();
                moved.insert(effect);
            }
        }
        if !moved.is_empty() {
            self.refresh(moved);
        }
    }

    /// When the next timer fires.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.later.first().into_iter().chain(self.releases.first()).map(|(at, _)| *at).min()
    }

    /// Takes in an open effect whose series is there.
    fn put(&mut self, effect: EffectId, open: Open) {
        self.events.insert((open.event, effect));
        self.targets.entry((open.tenant.clone(), open.target.clone())).or_default().insert(effect);
        self.open.insert(effect, open);
        self.refresh(BTreeSet::from([effect]));
    }

    /// What comes before an effect in its series.
    pub(super) fn before(&self, effect: EffectId, ordinal: u32) -> &[Earlier] {
        let places = self.series.get(&series_of(effect, ordinal)).map_or(&[][..], |series| &series.places);
        &places[..places.len().min(ordinal as usize)]
    }

    /// Open effects that wait for this one by their series: the later ones of its own, and those of series that repeat it.
    fn after(&self, effect: EffectId) -> BTreeSet<EffectId> {
        let own = self.open.get(&effect).map(|open| series_of(effect, open.ordinal));
        let mut after = BTreeSet::new();
        for of in own.into_iter().chain(self.repeating(effect)) {
            let places = u64::try_from(self.series.get(&of).map_or(0, |series| series.places.len())).unwrap_or(0);
            let end = EffectId(Seq(of.0.0 + places));
            after.extend(self.open.range(of.max(effect)..end.max(of.max(effect))).map(|(id, _)| *id).filter(|id| *id != effect));
        }
        after
    }

    /// Series that repeat this effect.
    fn repeating(&self, effect: EffectId) -> Vec<EffectId> {
        let all = (effect, EffectId(Seq::ZERO))..=(effect, EffectId(Seq(u64::MAX)));
        self.repeats.range(all).map(|(_, series)| *series).collect()
    }

    /// Takes an effect out of the order of its target; says who is first there.
    fn leave_target(&mut self, open: &Open, effect: EffectId) -> Option<EffectId> {
        let target = (open.tenant.clone(), open.target.clone());
        let on_it = self.targets.get_mut(&target)?;
        on_it.remove(&effect);
        let first = on_it.first().copied();
        if first.is_none() {
            self.targets.remove(&target);
        }
        first
    }

    /// Looks anew at whether effects are stuck and whether they are due, and at those that depend on what changed.
    fn refresh(&mut self, mut look: BTreeSet<EffectId>) {
        while let Some(effect) = look.pop_first() {
            let Some(open) = self.open.get(&effect) else { continue };
            let stuck = self.is_stuck(effect, open);
            if stuck != open.stuck {
                look.extend(self.after(effect));
                let target = (open.tenant.clone(), open.target.clone());
                look.extend(self.targets.get(&target).and_then(|on_it| on_it.first()));
                let open = self.open.get_mut(&effect).expect("it was just found");
                open.stuck = stuck;
                if stuck {
                    let open = open.clone();
                    look.extend(self.leave_target(&open, effect));
                } else {
                    self.targets.entry(target).or_default().insert(effect);
                }
            }
            let open = &self.open[&effect];
            if self.is_due(effect, open) {
                self.due.insert(effect);
            } else {
                self.due.remove(&effect);
            }
        }
    }

    /// Whether it has failed, or one that it waits for, long enough ago.
    pub(super) fn is_stuck(&self, effect: EffectId, open: &Open) -> bool {
        let failed = open.failed().is_some_and(|since| since + limits::EFFECT_BLOCK_MAX <= self.fired);
        let is_stuck = |earlier: &Earlier| self.open.get(&earlier.effect).is_some_and(|open| open.stuck);
        failed || self.before(effect, open.ordinal).iter().any(is_stuck)
    }

    pub(super) fn is_due(&self, effect: EffectId, open: &Open) -> bool {
        matches!(open.phase, Phase::Waiting { not_before } if not_before <= self.fired)
            && self.behind(effect, open).is_none()
    }

    /// What an effect waits for: an earlier one of its series, else the first on its target.
    pub(super) fn behind(&self, effect: EffectId, open: &Open) -> Option<EffectId> {
        let earlier = self.before(effect, open.ordinal).iter().find(|place| self.open.contains_key(&place.effect));
        let on_target = || {
            let on_it = self.targets.get(&(open.tenant.clone(), open.target.clone()))?;
            on_it.first().copied().filter(|first| *first < effect)
        };
        earlier.map(|place| place.effect).or_else(on_target)
    }

    fn remember(&mut self, effect: EffectId, observed: Arc<str>) {
        if self.observed.len() == OBSERVED_KEPT {
            self.observed.pop_front();
        }
        self.observed.push_back((effect, observed));
    }

    fn observed_of(&self, effect: EffectId) -> Option<Arc<str>> {
        self.observed.iter().rev().find(|(id, _)| *id == effect).map(|(_, observed)| observed.clone())
    }

    /// Forgets a series that is complete and has nothing open.
    fn drop_series(&mut self, of: EffectId) {
        let Some(series) = self.series.get(&of) else { return };
        let places = series.places.len();
        if places < series.of as usize || self.open.range(of..EffectId(Seq(of.0.0 + places as u64))).next().is_some() {
            return;
        }
        let series = self.series.remove(&of).expect("it was just found");
        for place in &series.places {
            self.repeats.remove(&(place.effect, of));
        }
        let kept = self.kept.get_mut(&series.tenant).expect("its places were counted");
        *kept -= places;
        if *kept == 0 {
            self.kept.remove(&series.tenant);
        }
    }

    /// Series, open effects, then keys, oldest first, and what was observed.
    pub(crate) fn series_items(&self) -> impl Iterator<Item = EffectSeries> + '_ {
        self.series.iter().map(|(first, Series { tenant, of, places })| EffectSeries {
            first: *first,
            tenant: tenant.clone(),
            of: *of,
            places: places.clone(),
        })
    }

    pub(crate) fn items(&self) -> impl Iterator<Item = EffectItem> + '_ {
        self.open.iter().map(|(effect, open)| EffectItem {
            effect: *effect,
            tenant: open.tenant.clone(),
            event: open.event,
            delivery: open.delivery,
            token: open.token,
            general: open.general.clone(),
            general_type: open.general_type.clone(),
            ordinal: open.ordinal,
            key: open.key.clone(),
            kind: open.kind.clone(),
            target: open.target.clone(),
            parameters: open.parameters,
            intended: open.intended,
            attempts: open.attempts,
            not_before: open.not_before(),
            failed: open.failed(),
            why: open.why.clone(),
        })
    }

    pub(crate) fn key_items(&self) -> impl Iterator<Item = (EffectKey, Timestamp, EffectId)> + '_ {
        self.keys.iter()
    }

    pub(crate) fn observed_items(&self) -> impl Iterator<Item = (EffectId, Arc<str>)> + '_ {
        self.observed.iter().cloned()
    }

    pub(crate) fn import_series(&mut self, item: EffectSeries) {
        let EffectSeries { first, tenant, of, places } = item;
        *self.kept.entry(tenant.clone()).or_default() += places.len();
        let own = |(place, ordinal): (&Earlier, u64)| place.effect.0.0 == first.0.0 + ordinal;
        let repeated = places.iter().zip(0..).filter(|place| !own(*place)).map(|(place, _)| (place.effect, first));
        self.repeats.extend(repeated);
        self.series.insert(first, Series { tenant, of, places });
    }

    pub(crate) fn import(&mut self, item: EffectItem) {
        let EffectItem { effect, tenant, event, delivery, token, general, general_type, ordinal, key, kind, .. } = item;
        let EffectItem { target, parameters, intended, attempts, not_before, failed, why, .. } = item;
        if not_before > self.fired {
            self.later.insert((not_before, effect));
        }
        let phase = match failed {
            Some(since) => {
                self.releases.insert((since + limits::EFFECT_BLOCK_MAX, effect));
                Phase::Failed { since }
            }
            None => Phase::Waiting { not_before },
        };
        let open = Open {
            tenant,
            event,
            delivery,
            token,
            general,
            general_type,
            ordinal,
            key,
            kind,
            target,
            parameters,
            intended,
            attempts,
            phase,
            why,
            stuck: false,
        };
        self.put(effect, open);
    }

    /// All items are there.
    pub(crate) fn imported(&mut self) {
        let Effects { repeats, open, .. } = self;
        repeats.retain(|(effect, _)| open.contains_key(effect));
    }

    pub(crate) fn import_key(&mut self, key: EffectKey, at: Timestamp, effect: EffectId) {
        self.keys.insert(key, at, effect);
    }

    pub(crate) fn import_observed(&mut self, effect: EffectId, observed: Arc<str>) {
        self.remember(effect, observed);
    }
}
