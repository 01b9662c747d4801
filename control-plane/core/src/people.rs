//! What people and programs change: cancel, redrive, hold, route, remove.

use std::sync::Arc;

use mindos_model::{DeliveryId, ParkReason, Seq, Status, TenantName};

use crate::decide::{Context, Decision};
use crate::durable::Durable;
use crate::event::{Delivery, Event, Phase};
use crate::input::{DeliveryFilter, RequestId, Selector};
use crate::object::Thing;
use crate::output::{Output, PlaneMessage, Rejection, Reply};
use crate::queue::QueueId;
use crate::record::{
    CancelReason, CancelRequested, DeliveryCancelled, DeliveryRedriven, GeneralKey, GeneralRemoved, HoldChanged,
    HoldTarget, Holds, Record, RoutesApplied, UpgradeFinalized,
};
use crate::route::RouteTable;

/// Deliveries changed by one request.
pub const SELECTED_MAX: u32 = 10_000;

impl Durable {
    pub(crate) fn cancel(
        &self,
        request: RequestId,
        tenant: &TenantName,
        select: &Selector,
        (why, by): (&Arc<str>, &Arc<str>),
        context: Context<'_>,
    ) -> Decision {
        let selected = match self.select(tenant, select, |_| Ok(())) {
            Ok(selected) => selected,
            Err(rejection) => return Decision::reply(request, Err(rejection)),
        };
        let reason = CancelReason::Requested;
        let mut decision = Decision::default();
        let mut changed = Vec::new();
        for (id, delivery) in selected {
            let (why, by) = (why.clone(), by.clone());
            let record = match &delivery.phase {
                // Somebody asked before.
                Phase::Leased(_) if delivery.setback().cancel.is_some() => continue,
                Phase::Leased(lease) => {
                    let message = PlaneMessage::Cancel { delivery: id, token: delivery.token, reason };
                    let send = |session| Output::Send { session, message };
                    decision.outputs.extend(context.soft.session_of(&lease.instance).map(send));
                    Record::CancelRequested(CancelRequested { delivery: id, reason, why, by })
                }
                Phase::Waiting { .. } | Phase::Parked { .. } => {
                    let (charged, unanswered) = (None, false);
                    let cancelled = DeliveryCancelled { delivery: id, reason, why, by, charged, unanswered };
                    Record::DeliveryCancelled(Box::new(cancelled))
                }
                Phase::Succeeded | Phase::Cancelled => continue,
            };
            decision.records.push(record);
            changed.push(id);
        }
        let reply = Box::new(Ok(Reply::Changed { deliveries: changed }));
        decision.outputs.push(Output::Reply { request, reply });
        decision
    }

    pub(crate) fn redrive(
        &self,
        request: RequestId,
        tenant: &TenantName,
        select: &Selector,
        (why, by): (&Arc<str>, &Arc<str>),
        _context: Context<'_>,
    ) -> Decision {
        // Who wants all that is set aside put back does not mean what waits for its own time.
        let named = match select {
            Selector::One(_) => true,
            Selector::Filter { filter, .. } => filter.reason == Some(ParkReason::Delayed),
        };
        let is_left =
            |delivery: &Delivery| !named && matches!(delivery.phase, Phase::Parked { reason: ParkReason::Delayed, .. });
        let parked = |(id, delivery): (DeliveryId, &Delivery)| match delivery.status() {
            Status::Parked if !is_left(delivery) => Ok(()),
            status => Err(Rejection::NotParked { delivery: id, status }),
        };
        let selected = match self.select(tenant, select, parked) {
            Ok(selected) => selected,
            Err(rejection) => return Decision::reply(request, Err(rejection)),
        };
        let changed = selected.iter().map(|(id, _)| *id).collect();
        let mut decision = Decision::reply(request, Ok(Reply::Changed { deliveries: changed }));
        decision.records.extend(selected.into_iter().map(|(delivery, known)| {
            let place_before = known.place;
            Record::DeliveryRedriven(DeliveryRedriven { delivery, place_before, why: why.clone(), by: by.clone() })
        }));
        decision
    }

    /// The deliveries meant. One that is named must pass the test; of many, those that fail it are left out.
    fn select<'a>(
        &'a self,
        tenant: &'a TenantName,
        select: &'a Selector,
        test: impl Fn((DeliveryId, &Delivery)) -> Result<(), Rejection>,
    ) -> Result<Vec<(DeliveryId, &'a Delivery)>, Rejection> {
        match select {
            Selector::One(id) => {
                let known = self
                    .events
                    .delivery(*id)
                    .filter(|(event, delivery)| event.tenant == *tenant && !delivery.status().is_settled());
                let (_, delivery) = known.ok_or(Rejection::UnknownDelivery { delivery: *id })?;
                test((*id, delivery))?;
                Ok(vec![(*id, delivery)])
            }
            Selector::Filter { filter, limit } => {
                let limit = (*limit).min(SELECTED_MAX) as usize;
                let fitting = self.fitting(tenant, filter, None);
                let open = fitting.filter(|(_, _, delivery)| !delivery.status().is_settled());
                let tested = open.filter(|(id, _, delivery)| test((*id, delivery)).is_ok());
                Ok(tested.map(|(id, _, delivery)| (id, delivery)).take(limit).collect())
            }
        }
    }

    /// Deliveries of open events that fit, in order of their ids.
    pub(crate) fn fitting<'a>(
        &'a self,
        tenant: &'a TenantName,
        filter: &'a DeliveryFilter,
        after: Option<DeliveryId>,
    ) -> impl Iterator<Item = (DeliveryId, &'a Event, &'a Delivery)> {
        let from = after.map_or(Seq::ZERO, |after| after.event);
        let events =
            self.events.from(from).filter(move |(_, event)| event.tenant == *tenant && fits_event(self, filter, event));
        let deliveries = events.flat_map(|(seq, event)| event.deliveries(seq).map(move |(id, d)| (id, event, d)));
        deliveries
            .filter(move |(id, _, _)| after.is_none_or(|after| *id > after))
            .filter(move |(_, _, delivery)| self.fits_delivery(filter, delivery))
    }

    fn fits_delivery(&self, filter: &DeliveryFilter, delivery: &Delivery) -> bool {
        let DeliveryFilter { status, reason, cluster, general, .. } = filter;
        let parked_for = match delivery.phase {
            Phase::Parked { reason, .. } => Some(reason),
            Phase::Waiting { .. } | Phase::Leased(_) | Phase::Succeeded | Phase::Cancelled => None,
        };
        let key = self.general_of(delivery);
        status.is_none_or(|status| status == delivery.status())
            && reason.is_none_or(|reason| Some(reason) == parked_for)
            && cluster.as_ref().is_none_or(|cluster| key.is_some_and(|key| key.cluster == *cluster))
            && general.as_ref().is_none_or(|general| key.is_some_and(|key| key.name == *general))
    }

    /// The general that a delivery is fixed to, leased to, or done by.
    pub(crate) fn general_of(&self, delivery: &Delivery) -> Option<&Arc<GeneralKey>> {
        let bound = match delivery.queue {
            QueueId::General(general) => Some(general),
            QueueId::Route(_) | QueueId::Shadow(_) => delivery.lease().map(|lease| lease.general).or(delivery.done_by),
        };
        bound.and_then(|idx| self.registry.get(idx)).map(|general| &general.key)
    }

    pub(crate) fn hold(
        &self,
        request: RequestId,
        tenant: TenantName,
        target: HoldTarget,
        (end, begin): (Holds, Holds),
        (why, by, from): (Arc<str>, Arc<str>, Arc<str>),
        context: Context<'_>,
    ) -> Decision {
        let current = match self.current_holds(&tenant, &target, context) {
            Some(current) => current,
            None => {
                let what = match &target {
                    HoldTarget::Cluster(cluster) => format!("cluster {cluster}"),
                    HoldTarget::General(cluster, name) => format!("general {cluster}/{name}"),
                    HoldTarget::Instance(cluster, instance) => format!("instance {cluster}/{instance}"),
                    HoldTarget::Route(route) => format!("route {route}"),
                };
                return Decision::reply(request, Err(Rejection::UnknownTarget { what }));
            }
        };
        let holds = current.without(end).with(begin);
        if current == holds {
            return Decision::reply(request, Ok(Reply::Done { at: self.seq }));
        }
        let mut decision = Decision::reply(request, Ok(Reply::Done { at: self.seq.next() }));
        if holds.draining && !current.draining {
            let concerned = context.soft.instances.iter().filter(|(key, _)| match &target {
                HoldTarget::Cluster(cluster) => key.tenant == tenant && key.cluster == *cluster,
                HoldTarget::Instance(cluster, instance) => {
                    key.tenant == tenant && key.cluster == *cluster && key.instance == *instance
                }
                // An agent may speak for other generals too: it stays, and this one gets no more work.
                HoldTarget::General(..) | HoldTarget::Route(_) => false,
            });
            let sessions = concerned.filter_map(|(_, instance)| instance.session);
            let send = |session| Output::Send { session, message: PlaneMessage::Drain };
            decision.outputs.extend(sessions.map(send));
        }
        decision.with(Record::HoldChanged(Box::new(HoldChanged { tenant, target, holds, why, by, from })))
    }

    pub(crate) fn current_holds(
        &self,
        tenant: &TenantName,
        target: &HoldTarget,
        context: Context<'_>,
    ) -> Option<Holds> {
        match target {
            HoldTarget::Cluster(cluster) => {
                self.registry.clusters.get(&(tenant.clone(), cluster.clone())).map(|cluster| cluster.holds)
            }
            HoldTarget::General(cluster, name) => {
                let key = GeneralKey { tenant: tenant.clone(), cluster: cluster.clone(), name: name.clone() };
                self.registry.find(&key).map(|idx| self.registry.general(idx).holds)
            }
            HoldTarget::Instance(cluster, instance) => {
                let key = crate::record::InstanceKey {
                    tenant: tenant.clone(),
                    cluster: cluster.clone(),
                    instance: instance.clone(),
                };
                let holds = self.registry.instance_holds(&key);
                (!holds.is_none() || context.soft.instances.contains_key(&key)).then_some(holds)
            }
            HoldTarget::Route(route) => self.routing.find(tenant, route).map(|idx| self.routing.rule(idx).holds),
        }
    }

    pub(crate) fn apply_routes(
        &self,
        request: RequestId,
        tenant: TenantName,
        table: Arc<RouteTable>,
        expected: Option<Seq>,
        (by, from): (Arc<str>, Arc<str>),
    ) -> Decision {
        if let Err(error) = table.check() {
            return Decision::reply(request, Err(error.into()));
        }
        let in_force = self.routing.tenants.get(&tenant);
        let current = in_force.map_or(Seq::ZERO, |in_force| in_force.at);
        if let Some(expected) = expected.filter(|expected| *expected != current) {
            return Decision::reply(request, Err(Rejection::RoutesChanged { current, expected }));
        }
        let before = in_force.map_or_else(|| Arc::new(RouteTable::stock()), |in_force| in_force.table.clone());
        if let Err(rejection) = self.objects.check_routes(&tenant, &before, &table) {
            return Decision::reply(request, Err(rejection));
        }
        if in_force.is_some_and(|in_force| in_force.table == table) {
            return Decision::reply(request, Ok(Reply::Done { at: current }));
        }
        Decision::reply(request, Ok(Reply::Done { at: self.seq.next() }))
            .with(Record::RoutesApplied(Box::new(RoutesApplied { tenant, table, by, from })))
    }

    pub(crate) fn remove_general(
        &self,
        request: RequestId,
        key: GeneralKey,
        (by, from): (Arc<str>, Arc<str>),
        context: Context<'_>,
    ) -> Decision {
        let Some(idx) = self.registry.find(&key) else {
            let what = format!("general {key}");
            return Decision::reply(request, Err(Rejection::UnknownTarget { what }));
        };
        let general = self.registry.general(idx);
        let thing = Thing::General(key.cluster.clone(), key.name.clone());
        if let Err(rejection) = self.objects.check_free(&key.tenant, thing) {
            return Decision::reply(request, Err(rejection));
        }
        let instances = context.soft.pool(idx).map_or(0, |pool| pool.members as usize);
        let open = general.bound + general.leased;
        if instances > 0 || open > 0 {
            let rejection = Rejection::GeneralInUse { general: key.to_string(), instances, open };
            return Decision::reply(request, Err(rejection));
        }
        Decision::reply(request, Ok(Reply::Done { at: self.seq.next() }))
            .with(Record::GeneralRemoved(Box::new(GeneralRemoved { key, by, from })))
    }

    pub(crate) fn finalize_upgrade(
        &self,
        request: RequestId,
        version: Arc<str>,
        (by, from): (Arc<str>, Arc<str>),
    ) -> Decision {
        Decision::reply(request, Ok(Reply::Done { at: self.seq.next() }))
            .with(Record::UpgradeFinalized(UpgradeFinalized { version, by, from }))
    }
}

fn fits_event(durable: &Durable, filter: &DeliveryFilter, event: &Event) -> bool {
    let DeliveryFilter { route, kind, lane, repository, from, until, .. } = filter;
    route.as_ref().is_none_or(|route| durable.routing.rule(event.route).route.name == *route)
        && kind.as_ref().is_none_or(|kind| event.kind == *kind)
        && lane.as_ref().is_none_or(|lane| event.lane == *lane)
        && repository.as_ref().is_none_or(|repository| event.repository.as_ref() == Some(repository))
        && from.is_none_or(|from| event.accepted >= from)
        && until.is_none_or(|until| event.accepted < until)
}
