//! Degrading: while a budget is low, work goes to cheaper generals that its route names.
//!
//! A budget is low for an event when it applies, its charges have reached its threshold `act`, and it does not name the event's kind as
//! priority work. Under the strategies that fix a general when the event is accepted the cheaper one is fixed then; under the others at
//! the lease, and the delivery keeps its lane and its place there. Where none of the cheaper ones is there, nothing changes.
//! Invariant: what this decides stands in the record of the event or of the lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mindos_model::{BudgetName, Seq, Strategy, TenantName, Timestamp};

use crate::aside::GIVING_WAY;
use crate::budget::Scope;
use crate::decide::Context;
use crate::durable::Durable;
use crate::event::{Delivery, Event};
use crate::input::{Entropy, NewEvent};
use crate::placement::Unplaced;
use crate::policy::Degrade;
use crate::queue::QueueId;
use crate::record::{Choice, Degraded, GeneralKey};
use crate::registry::{General, GeneralIdx};
use crate::routing::{RouteIdx, Rule};
use crate::soft::Soft;

/// Generals that a record names as those whose place was taken.
const FROM_NAMED_MAX: usize = 4;

/// What a route has for low budgets.
#[derive(Clone, Debug)]
pub(crate) struct Cheaper {
    /// The generals that each line of its list sends to.
    to: Vec<BTreeSet<GeneralIdx>>,
    /// The line for each of the route's generals that has one.
    of: BTreeMap<GeneralIdx, usize>,
}

impl Cheaper {
    pub(crate) fn new(lines: &[Degrade]) -> Option<Box<Cheaper>> {
        let made = || Box::new(Cheaper { to: vec![BTreeSet::new(); lines.len()], of: BTreeMap::new() });
        (!lines.is_empty()).then(made)
    }

    /// A general appeared or changed; `is_ours` if the route's targets name it, `may` if it may have the route's work. Says whether
    /// work may go to it from others.
    pub(crate) fn rejoin(
        &mut self,
        lines: &[Degrade],
        idx: GeneralIdx,
        general: &General,
        (is_ours, may): (bool, bool),
    ) -> bool {
        self.leave(idx);
        let mut stands_in = false;
        for (to, line) in self.to.iter_mut().zip(lines) {
            if may && is_called(general, &line.to) {
                to.insert(idx);
                stands_in = true;
            }
        }
        let fits = |line: &Degrade| line.from.as_deref().is_none_or(|from| is_called(general, from));
        let line = lines.iter().position(fits).filter(|_| is_ours);
        // Nobody takes his own place.
        if let Some(line) = line.filter(|line| !self.to[*line].contains(&idx)) {
            self.of.insert(idx, line);
        }
        stands_in
    }

    pub(crate) fn leave(&mut self, idx: GeneralIdx) {
        self.of.remove(&idx);
        for to in &mut self.to {
            to.remove(&idx);
        }
    }

    /// Those whose work may stand where this one's does, the other way round too.
    pub(crate) fn twins(&self, general: GeneralIdx) -> BTreeSet<GeneralIdx> {
        let there = self.of.get(&general).into_iter().flat_map(|line| &self.to[*line]).copied();
        let back = self.of.iter().filter(|(_, line)| self.to[**line].contains(&general)).map(|(member, _)| *member);
        there.chain(back).filter(|twin| *twin != general).collect()
    }

    pub(crate) fn is_free(&self, soft: &Soft) -> bool {
        self.to.iter().flatten().any(|general| soft.free.contains(general))
    }
}

/// Whether this is the general's name or type.
fn is_called(general: &General, word: &str) -> bool {
    general.key.name.as_str() == word || general.ty.as_str() == word
}

/// Whose money an event spends.
#[derive(Clone, Copy)]
pub(crate) struct Spender<'a> {
    tenant: &'a TenantName,
    repository: Option<&'a Arc<str>>,
    kind: &'a str,
    /// Unset while it is not accepted yet.
    run: Option<Seq>,
}

impl<'a> Spender<'a> {
    pub(crate) fn coming(event: &'a NewEvent) -> Spender<'a> {
        let NewEvent { tenant, repository, kind, .. } = event;
        Spender { tenant, repository: repository.as_ref(), kind, run: None }
    }

    pub(crate) fn open(event: &'a Event, seq: Seq) -> Spender<'a> {
        let Event { tenant, repository, kind, .. } = event;
        Spender { tenant, repository: repository.as_ref(), kind, run: Some(seq) }
    }
}

/// A budget that is low.
#[derive(Clone, Debug)]
struct Low {
    budget: BudgetName,
    percent: u32,
}

/// Which generals of a route give way, for one event, and to whom.
pub(crate) struct Substitutes<'a> {
    cheaper: &'a Cheaper,
    instead: BTreeMap<GeneralIdx, (usize, Low)>,
}

impl Substitutes<'_> {
    /// Those who may work on it in the place of this one.
    fn of(&self, member: GeneralIdx) -> BTreeSet<GeneralIdx> {
        match self.instead.get(&member) {
            Some((line, _)) => self.cheaper.to[*line].clone(),
            None => BTreeSet::from([member]),
        }
    }

    pub(crate) fn generals(&self, members: impl Iterator<Item = GeneralIdx>) -> BTreeSet<GeneralIdx> {
        let mut lines = BTreeSet::new();
        let mut generals = BTreeSet::new();
        for member in members {
            match self.instead.get(&member) {
                Some((line, _)) if lines.insert(*line) => generals.extend(&self.cheaper.to[*line]),
                Some(_) => {}
                None => {
                    generals.insert(member);
                }
            }
        }
        generals
    }
}

impl Durable {
    /// Who gives way to whom for this event. `None` as long as no budget that applies is low.
    pub(crate) fn substitutes<'a>(
        &self,
        rule: &'a Rule,
        spender: Spender<'_>,
        Context { soft, now, .. }: Context<'_>,
    ) -> Option<Substitutes<'a>> {
        let cheaper = rule.cheaper.as_deref().filter(|_| !self.budgets.is_empty())?;
        let now = now.max(self.at);
        let low = |scope| self.low(spender, scope, now);
        let mut always = low(Scope::Tenant).or_else(|| low(Scope::Route(rule.route.name.clone())));
        always = always.or_else(|| low(Scope::Repository(spender.repository?.clone()))).or_else(|| low(Scope::Run));
        let is_there: Vec<bool> =
            cheaper.to.iter().map(|to| to.iter().any(|general| self.is_there(rule, *general, soft))).collect();
        let mut instead = BTreeMap::new();
        for (member, line) in cheaper.of.iter().filter(|(_, line)| is_there[**line]) {
            let of_type = || low(Scope::GeneralType(self.registry.general(*member).ty.clone()));
            if let Some(low) = always.clone().or_else(of_type) {
                instead.insert(*member, (*line, low));
            }
        }
        (!instead.is_empty()).then_some(Substitutes { cheaper, instead })
    }

    fn low(&self, spender: Spender<'_>, scope: Scope, now: Timestamp) -> Option<Low> {
        let accounts = self.budgets.in_scope(spender.tenant, scope).iter().filter_map(|since| self.budgets.get(*since));
        let low = accounts.filter_map(|account| {
            // What an event comes to is not known before it has a number.
            let event = spender.run.or((!account.is_for_runs()).then_some(Seq::ZERO))?;
            let percent = account.budget.limit.percent(account.tally(now, event).charged);
            let act = account.budget.thresholds.act;
            let is_low = act > 0 && percent >= act && !account.budget.has_priority(spender.kind);
            is_low.then(|| Low { budget: account.budget.name.clone(), percent })
        });
        low.max_by_key(|low| low.percent)
    }

    /// What is recorded when this general got the work.
    pub(crate) fn degraded(
        &self,
        rule: &Rule,
        event: &Event,
        substitutes: &Substitutes<'_>,
        general: GeneralIdx,
    ) -> Option<Box<Degraded>> {
        let Substitutes { cheaper, instead } = substitutes;
        // A lane has one arm, and only the generals of that could have had it.
        let arm = (rule.route.strategy == Strategy::Split).then(|| self.arm_of(rule, event));
        let gave_way = |(member, (line, _)): &(&GeneralIdx, &(usize, Low))| {
            cheaper.to[*line].contains(&general) && arm.is_none_or(|arm| rule.ranks.of(**member) == Some(arm))
        };
        let mut before = instead.iter().filter(gave_way).peekable();
        let (_, (_, low)) = before.peek()?;
        let Low { budget, percent } = low.clone();
        let key = |(member, _): (&GeneralIdx, _)| Arc::<GeneralKey>::clone(&self.registry.general(*member).key);
        Some(Box::new(Degraded { budget, percent, from: before.map(key).take(FROM_NAMED_MAX).collect() }))
    }

    /// Where an event goes whose generals are fixed at its acceptance: at most one delivery for each.
    pub(crate) fn cheaper_of(
        &self,
        rule: &Rule,
        given: &[GeneralIdx],
        substitutes: &Substitutes<'_>,
        soft: &Soft,
    ) -> BTreeMap<GeneralIdx, Option<Box<Degraded>>> {
        let mut targets = BTreeMap::<GeneralIdx, Option<Box<Degraded>>>::new();
        for member in given {
            let Some((line, Low { budget, percent })) = substitutes.instead.get(member) else {
                targets.entry(*member).or_default();
                continue;
            };
            let there = substitutes.cheaper.to[*line].iter().copied();
            let there = there.filter(|idx| self.is_there(rule, *idx, soft) && self.registry.may_be_given(*idx));
            let load = |idx: GeneralIdx| soft.pool(idx).map(|pool| pool.load).unwrap_or_default();
            let Some(least) = there.reduce(|least, next| if load(next).is_below(load(least)) { next } else { least })
            else {
                targets.entry(*member).or_default();
                continue;
            };
            let degraded = targets.entry(least).or_default().get_or_insert_with(|| {
                Box::new(Degraded { budget: budget.clone(), percent: *percent, from: Vec::new() })
            });
            if degraded.from.len() < FROM_NAMED_MAX {
                degraded.from.push(self.registry.general(*member).key.clone());
            }
        }
        targets
    }

    /// The general for a delivery of a route, some of whose generals give way.
    pub(crate) fn choose_cheaper(
        &self,
        route: RouteIdx,
        (event, delivery): (&Event, &Delivery),
        substitutes: &Substitutes<'_>,
        (soft, opinions): (&Soft, Option<u32>),
        entropy: &mut Entropy,
        choice: &mut Choice,
    ) -> Result<GeneralIdx, Unplaced> {
        let rule = self.routing.rule(route);
        let is_free = |general: &GeneralIdx| self.has_fitting(rule, *general, soft);
        let free = |generals: BTreeSet<GeneralIdx>| generals.into_iter().filter(is_free);
        let (wanted, found) = match rule.route.strategy {
            Strategy::Broadcast | Strategy::RoundRobin | Strategy::LoadBalanced | Strategy::Race | Strategy::Shadow => {
                let members = substitutes.generals(rule.members.iter().copied());
                let free: BTreeSet<_> = members.iter().copied().filter(is_free).collect();
                return self.choose_among(rule, event, (&members, &free), (soft, opinions), entropy, choice);
            }
            Strategy::Failover => {
                let candidates = rule.ranks.ordered().map(|general| free(substitutes.of(general)).collect::<Vec<_>>());
                let first = { candidates }.find(|candidates| !candidates.is_empty()).ok_or(Unplaced::NoSlot)?;
                return self.least(rule, first.into_iter(), soft, choice).ok_or(Unplaced::NoSlot);
            }
            Strategy::Split => {
                let arm = self.arm_of(rule, event);
                let members = rule.ranks.around(arm, GeneralIdx(0));
                // They wait apart from lanes that need not give way.
                (arm | GIVING_WAY, self.least(rule, free(substitutes.generals(members)), soft, choice))
            }
            Strategy::Sticky => {
                let generals = substitutes.generals(rule.members.iter().copied());
                let general = self.sticky_among(rule, &generals, &event.lane, soft).ok_or(Unplaced::NoSlot)?;
                (general.0, self.least(rule, free(BTreeSet::from([general])), soft, choice))
            }
        };
        self.unless_behind(rule, delivery.lane, wanted, found)
    }

    /// A budget may have become low, or is no longer: what waits may have another way to go.
    pub(crate) fn budget_moved(&mut self, tenant: &TenantName) {
        let degrades = |rule: &Rule| rule.cheaper.is_some() && rule.tenant == *tenant;
        let routes: Vec<_> = self.routing.iter().filter(|(_, rule)| degrades(rule)).map(|(idx, _)| idx).collect();
        if !routes.is_empty() {
            self.budgets.wake_types(tenant);
        }
        routes.into_iter().for_each(|route| self.look_for_others(route));
    }

    /// Work of the route was charged: a budget of its run may be low now, which nobody else hears of.
    pub(crate) fn charged_to(&mut self, route: RouteIdx) {
        if self.routing.rule(route).cheaper.is_some() {
            self.look_for_others(route);
        }
    }

    fn look_for_others(&mut self, route: RouteIdx) {
        self.release_aside(route);
        if self.queue(QueueId::Route(route)).ready() > 0 {
            self.mark_dirty(QueueId::Route(route));
        }
    }

    /// A general came or went: what waits for a budget may have another way to go.
    pub(crate) fn wake_parked(&mut self, general: GeneralIdx) {
        let Some(known) = self.registry.get(general).filter(|known| !known.stands_in.is_empty()) else { return };
        let tenant = known.key.tenant.clone();
        self.budgets.wake_types(&tenant);
    }

    /// A general that others' work may go to may take work, or is not there any more, so that it is theirs again.
    pub(crate) fn wake_degraded(&mut self, general: GeneralIdx) {
        let routes = self.registry.get(general).map(|known| known.stands_in.clone()).unwrap_or_default();
        for route in routes {
            self.call_all(route);
            if self.queue(QueueId::Route(route)).ready() > 0 {
                self.mark_dirty(QueueId::Route(route));
            }
        }
    }

    /// Whether a parked delivery can go to others, so that this type's budgets do not concern it.
    pub(crate) fn goes_round(&self, scope: &Scope, id: mindos_model::DeliveryId, context: Context<'_>) -> bool {
        let (Scope::GeneralType(ty), Some((event, delivery))) = (scope, self.events.delivery(id)) else { return false };
        let QueueId::Route(route) = delivery.queue else { return false };
        let rule = self.routing.rule(route);
        // Also without what the event alone has used up, for nothing is set off by that.
        let spender = Spender::open(event, id.event);
        [spender, Spender { run: None, ..spender }].into_iter().all(|spender| {
            let Some(substitutes) = self.substitutes(rule, spender, context) else { return false };
            let generals = substitutes.generals(rule.members.iter().copied());
            generals.into_iter().all(|general| self.registry.general(general).ty != *ty)
        })
    }

    /// The lane of a coalescing route may stand with others whose place this general takes, or who take its own.
    pub(crate) fn twin_queues(&self, rule: &Rule, queue: QueueId) -> Vec<QueueId> {
        let QueueId::General(general) = queue else { return Vec::new() };
        let twins = rule.cheaper.as_deref().map(|cheaper| cheaper.twins(general)).unwrap_or_default();
        twins.into_iter().map(QueueId::General).collect()
    }
}
