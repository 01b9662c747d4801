//! Answers to questions about effects that have not ended for good.

use std::ops::Bound;
use std::sync::Arc;

use mindos_model::{DeliveryId, EffectId, EffectStatus, Seq, TenantName};

use super::state::{Effects, Open, series_of};
use super::{EffectFilter, EffectView};
use crate::output::PayloadRef;

impl Effects {
    pub(crate) fn is_open(&self, effect: EffectId) -> bool {
        self.open.contains_key(&effect)
    }

    /// Those that may be carried out now, after the given one.
    pub(crate) fn due_views(&self, after: Option<EffectId>) -> impl Iterator<Item = EffectView> + '_ {
        let due = self.due.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        due.map(|effect| self.view(*effect, &self.open[effect]))
    }

    /// Those of a tenant that fit, after the given one.
    pub(crate) fn fitting<'a>(
        &'a self,
        tenant: &'a TenantName,
        filter: &'a EffectFilter,
        after: Option<EffectId>,
    ) -> impl Iterator<Item = EffectView> + 'a {
        let open = self.open.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        let fitting = open.filter(move |(_, open)| open.tenant == *tenant && fits(filter, open));
        fitting.map(|(effect, open)| self.view(*effect, open))
    }

    /// Open effects of an event.
    pub(super) fn of_event(&self, event: Seq) -> impl Iterator<Item = EffectId> + '_ {
        let all = (event, EffectId(Seq::ZERO))..=(event, EffectId(Seq(u64::MAX)));
        self.events.range(all).map(|(_, effect)| *effect)
    }

    /// How many effects of an event are open.
    pub(crate) fn open_of(&self, event: Seq) -> u32 {
        u32::try_from(self.of_event(event).count()).unwrap_or(u32::MAX)
    }

    /// All effects of a delivery's result, where one of them is open; else none.
    pub(crate) fn of_delivery(&self, delivery: DeliveryId) -> Vec<EffectId> {
        let of_it = |effect: &EffectId| self.open[effect].delivery == Some(delivery);
        let Some(effect) = self.of_event(delivery.event).find(of_it) else { return Vec::new() };
        let series = self.series.get(&series_of(effect, self.open[&effect].ordinal));
        series.map_or_else(Vec::new, |series| series.places.iter().map(|place| place.effect).collect())
    }

    /// Open effects whose parameters stand before a record.
    pub(crate) fn before_record(&self, before: Seq) -> impl Iterator<Item = (Seq, PayloadRef)> + '_ {
        let old = self.open.iter().filter(move |(_, open)| open.parameters.seq < before);
        old.map(|(effect, open)| (effect.0, open.parameters))
    }

    fn view(&self, effect: EffectId, open: &Open) -> EffectView {
        let failed = open.failed();
        EffectView {
            effect,
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
            status: status(open),
            due: self.due.contains(&effect),
            behind: self.behind(effect, open),
            attempts: open.attempts,
            not_before: Some(open.not_before()).filter(|at| at.0 > 0),
            failed,
            why: open.why.clone(),
            earlier: self.before(effect, open.ordinal).to_vec(),
        }
    }
}

fn status(open: &Open) -> EffectStatus {
    if open.failed().is_some() { EffectStatus::Failed } else { EffectStatus::Waiting }
}

fn fits(filter: &EffectFilter, open: &Open) -> bool {
    let EffectFilter { status: wanted, event, delivery, kind, target, general } = filter;
    wanted.is_none_or(|wanted| wanted == status(open))
        && event.is_none_or(|event| event == open.event)
        && delivery.is_none_or(|delivery| Some(delivery) == open.delivery)
        && kind.as_ref().is_none_or(|kind| *kind == open.kind)
        && target.as_ref().is_none_or(|target| lies_in(&open.target, target))
        && general.as_ref().is_none_or(|general| **general == *open.general.name.as_str())
}

/// Whether a target is the one named, or lies in the repository named.
pub(super) fn lies_in(target: &Arc<str>, named: &str) -> bool {
    target.strip_prefix(named).is_some_and(|rest| rest.is_empty() || rest.starts_with(['#', '@']))
}
