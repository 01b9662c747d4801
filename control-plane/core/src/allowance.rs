//! Folding of what records say about budgets, and what people ask of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mindos_model::{BudgetName, DeliveryId, Seq, TenantName, Timestamp};

use crate::account::{Account, Over, OverBudget, Reservation, Spend};
use crate::budget::{Amount, BUDGETS_MAX, Budget, BudgetError, SCOPE_BUDGETS_MAX};
use crate::decide::{Context, Decision};
use crate::durable::Durable;
use crate::estimate::Pair;
use crate::event::Phase;
use crate::input::{BudgetChange, RequestId};
use crate::object::Thing;
use crate::output::{BudgetView, Rejection, Reply};
use crate::record::{BudgetAcknowledged, BudgetRemoved, BudgetSet, LeaseExtended, Record};
use crate::snapshot::{BudgetItem, Item};

impl Durable {
    pub(crate) fn reserved(&mut self, id: DeliveryId, at: Timestamp, reservation: &Reservation) -> Box<Spend> {
        self.budgets.reserve(id.event, at, reservation);
        let Reservation { amount, accounts } = reservation.clone();
        Box::new(Spend { reserved: amount, spent: None, accounts })
    }

    pub(crate) fn lease_extended(&mut self, at: Timestamp, record: &LeaseExtended) {
        let LeaseExtended { delivery: id, token: _, checkpoint: _, usage: _, reserved, spent } = record;
        if reserved.is_none() && spent.is_none() {
            return;
        }
        let Phase::Leased(lease) = &mut self.events.delivery_mut(*id).phase else {
            panic!("delivery {id} was extended without a lease")
        };
        let spend = lease.spend.as_mut().expect("only leases with a reservation spend it");
        spend.spent = spent.or(spend.spent);
        let Some(reserved) = *reserved else { return };
        let more = reserved.less(spend.reserved);
        spend.reserved = reserved;
        let spend = spend.clone();
        self.budgets.extend(id.event, at, &spend, more);
    }

    /// Takes what a leased delivery came to into the estimate of its like.
    pub(crate) fn learn(&mut self, id: DeliveryId, used: Amount) {
        let (event, delivery) = self.events.delivery(id).expect("records name deliveries created before them");
        let Some(lease) = delivery.lease() else { return };
        let ty = self.registry.general(lease.general).ty.clone();
        let pair = Pair { tenant: event.tenant.clone(), ty, kind: event.kind.clone() };
        self.budgets.estimates.learn(pair, used);
    }

    pub(crate) fn park_over(&mut self, seq: Seq, at: Timestamp, id: DeliveryId, over: &OverBudget) {
        let OverBudget { account, budget: _, resets: _, wanted, turn } = over;
        let place = (*turn, seq);
        let over = Over { account: *account, wanted: *wanted, place: Some(place), admitted: false };
        let delivery = self.events.delivery_mut(id);
        delivery.setback_mut().over = Some(Box::new(over));
        let expires = delivery.terms().expires;
        if expires > Timestamp(0) {
            // Its time may have come while it was leased.
            self.agenda.expiries.insert((expires, id));
        }
        self.budgets.park(at, *account, place, id);
    }

    /// A delivery is no longer parked, and waits for no budget.
    pub(crate) fn unpark_over(&mut self, id: DeliveryId, by_itself: bool) {
        let delivery = self.events.delivery_mut(id);
        if delivery.setback().over.is_none() {
            return;
        }
        let Some(over) = &mut delivery.setback_mut().over else { return };
        if let Some(place) = over.place.take() {
            let account = over.account;
            self.budgets.unpark(account, place);
            if !by_itself {
                // It may have held up those behind it.
                self.budgets.wake(account, id.event);
            }
        }
    }

    /// Budgets, estimates and what open work has of them, as items of a snapshot.
    pub(crate) fn budget_items(&self) -> impl Iterator<Item = Item> + '_ {
        let budgets = self.budgets.iter().map(|(since, account)| {
            let Account { tenant, budget, began, tally, level, acknowledged, runs, parked: _, look: _ } = account;
            Item::Budget(Box::new(BudgetItem {
                tenant: tenant.clone(),
                budget: budget.clone(),
                since,
                began: *began,
                tally: *tally,
                level: *level,
                acknowledged: *acknowledged,
                runs: runs.iter().map(|(event, tally)| (*event, *tally)).collect(),
            }))
        });
        let estimates = self.budgets.estimates.pairs.iter();
        let estimates = estimates.map(|(pair, learnt)| Item::Estimate { pair: pair.clone(), learnt: learnt.clone() });
        let deliveries = self.events.iter().flat_map(|(seq, event)| event.deliveries(seq));
        let work = deliveries.flat_map(|(delivery, known)| {
            let spend = known.lease().and_then(|lease| lease.spend.as_deref()).map(|spend| {
                let Spend { reserved, spent, accounts } = spend.clone();
                Item::Spend { delivery, reserved, spent, accounts }
            });
            let over = known.setback().over.as_deref().map(|over| {
                let Over { account, wanted, place, admitted } = *over;
                Item::Over { delivery, account, wanted, place, admitted }
            });
            spend.into_iter().chain(over)
        });
        budgets.chain(estimates).chain(work)
    }

    pub(crate) fn import_budget(&mut self, item: BudgetItem) {
        let BudgetItem { tenant, budget, since, began, tally, level, acknowledged, runs } = item;
        let (runs, parked) = (runs.into_iter().collect(), BTreeMap::new());
        let account = Account { tenant, budget, began, tally, level, acknowledged, runs, parked, look: None };
        self.budgets.put(since, account);
    }

    pub(crate) fn import_spend(&mut self, id: DeliveryId, spend: Spend) {
        let Phase::Leased(lease) = &mut self.events.delivery_mut(id).phase else {
            panic!("delivery {id} has a reservation and no lease")
        };
        lease.spend = Some(Box::new(spend));
    }

    pub(crate) fn import_over(&mut self, id: DeliveryId, over: Over) {
        if let Some(place) = over.place {
            self.budgets.park(self.at, over.account, place, id);
        }
        self.events.delivery_mut(id).setback_mut().over = Some(Box::new(over));
    }

    pub(crate) fn change_budget(
        &self,
        request: RequestId,
        tenant: TenantName,
        change: BudgetChange,
        (by, from): (Arc<str>, Arc<str>),
    ) -> Decision {
        let unknown = |name: &BudgetName| Rejection::UnknownTarget { what: format!("budget {name}") };
        let changed = match change {
            BudgetChange::Set(budget) => {
                let thing = Thing::Budget(budget.name.clone());
                let free = self.objects.check_free(&tenant, thing);
                free.and_then(|()| self.set_budget(tenant, budget, (by, from)))
            }
            BudgetChange::Remove(budget) => match self.budgets.named(&tenant, &budget) {
                Some(_) if let Err(rejection) = self.objects.check_free(&tenant, Thing::Budget(budget.clone())) => {
                    Err(rejection)
                }
                Some(_) => Ok(Some(Record::BudgetRemoved(BudgetRemoved { tenant, budget, by, from }))),
                None => Err(unknown(&budget)),
            },
            BudgetChange::Acknowledge(budget) => match self.budgets.named(&tenant, &budget) {
                Some((_, account)) if account.acknowledged && !account.has_ended(self.at) => Ok(None),
                Some(_) => Ok(Some(Record::BudgetAcknowledged(BudgetAcknowledged { tenant, budget, by, from }))),
                None => Err(unknown(&budget)),
            },
        };
        match changed {
            Ok(Some(record)) => Decision::reply(request, Ok(Reply::Done { at: self.seq.next() })).with(record),
            Ok(None) => Decision::reply(request, Ok(Reply::Done { at: self.seq })),
            Err(rejection) => Decision::reply(request, Err(rejection)),
        }
    }

    pub(crate) fn set_budget(
        &self,
        tenant: TenantName,
        budget: Arc<Budget>,
        (by, from): (Arc<str>, Arc<str>),
    ) -> Result<Option<Record>, Rejection> {
        budget.check()?;
        let known = self.budgets.named(&tenant, &budget.name);
        if known.is_some_and(|(_, account)| account.budget == budget) {
            return Ok(None);
        }
        let too_many = |field, accepted| Rejection::Budget(BudgetError { field, accepted, full: true });
        if known.is_none() && self.budgets.of_tenant(&tenant).count() >= BUDGETS_MAX {
            return Err(too_many("name", format!("{BUDGETS_MAX} budgets are set, as many as may be: remove one")));
        }
        let others = self.budgets.in_scope(&tenant, budget.scope.clone()).iter();
        let others = others.filter(|since| known.is_none_or(|(own, _)| **since != own));
        if others.count() >= SCOPE_BUDGETS_MAX {
            let accepted = format!("{SCOPE_BUDGETS_MAX} budgets have this scope, as many as may: remove one");
            return Err(too_many("scope", accepted));
        }
        Ok(Some(Record::BudgetSet(Box::new(BudgetSet { tenant, budget, by, from }))))
    }

    /// The budgets of a tenant as they stand, by name.
    pub(crate) fn budget_views(&self, tenant: &TenantName, context: Context<'_>) -> Vec<BudgetView> {
        let now = context.now.max(self.at);
        let view = |(since, account): (Seq, &crate::account::Account)| {
            let tally = account.tally(now, Seq::ZERO);
            let tally = if account.is_for_runs() { account.tally } else { tally };
            let ended = account.has_ended(now);
            BudgetView {
                budget: account.budget.clone(),
                since,
                began: account.budget.period.start(now),
                resets: account.budget.period.end(now),
                charged: tally.charged,
                reserved: tally.reserved,
                level: account.reached(now),
                acknowledged: account.acknowledged && !ended,
                parked: account.parked.len() as u64,
            }
        };
        self.budgets.of_tenant(tenant).map(view).collect()
    }
}
