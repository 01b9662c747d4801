//! Answers to questions about the state as it is.

use std::sync::Arc;

use mindos_model::{DeliveryId, ParkReason, TenantName};

use crate::decide::{Context, Decision};
use crate::durable::Durable;
use crate::event::{Delivery, Event, Phase, Setback};
use crate::input::{Query, RequestId};
use crate::object::{Object, Thing};
use crate::output::{
    ClusterView, DeliveryView, EventView, FleetView, GeneralView, Health, InstanceView, PayloadOf, Rejection, Reply,
    Totals,
};
use crate::pool::Pool;
use crate::record::Load;
use crate::soft::Soft;

/// Rows of one answer.
const ROWS_MAX: usize = 10_000;

impl Durable {
    pub(crate) fn query(
        &self,
        request: RequestId,
        tenant: &TenantName,
        query: Query,
        context: Context<'_>,
    ) -> Decision {
        let reply: Result<Reply, Rejection> = match query {
            Query::Seen { key } => Ok(Reply::Seen(self.dedupe.get(&key))),
            Query::Event { event } => {
                let known = self.events.get(event).filter(|known| known.tenant == *tenant);
                Ok(Reply::Event(known.map(|known| {
                    EventView {
                        event,
                        kind: known.kind.clone(),
                        lane: known.lane.clone(),
                        route: self.routing.rule(known.route).route.name.clone(),
                        accepted: known.accepted,
                        payload: known.payload,
                        deliveries: known
                            .deliveries(event)
                            .map(|(id, delivery)| self.view(id, known, delivery, context.soft))
                            .collect(),
                    }
                })))
            }
            Query::Deliveries { filter, after, limit } => {
                let fitting = self.fitting(tenant, &filter, after);
                let views = fitting.map(|(id, event, delivery)| self.view(id, event, delivery, context.soft));
                Ok(Reply::Deliveries(views.take((limit as usize).min(ROWS_MAX)).collect()))
            }
            Query::Fleet => Ok(Reply::Fleet(Box::new(self.fleet(tenant, context)))),
            Query::Demand { generals } => Ok(Reply::Demand(self.demands(tenant, generals, context.soft, context.now))),
            Query::Routes => {
                let in_force = self.routing.tenants.get(tenant);
                let in_force = in_force.expect("every tenant that asks has a table");
                Ok(Reply::Routes { table: in_force.table.clone(), at: in_force.at })
            }
            Query::Budgets => Ok(Reply::Budgets(self.budget_views(tenant, context))),
            Query::EffectsDue { after, limit } => {
                let due = self.effects.due_views(after);
                Ok(Reply::Effects(due.take((limit as usize).min(ROWS_MAX)).collect()))
            }
            Query::Effects { filter, after, limit } => {
                let fitting = self.effects.fitting(tenant, &filter, after);
                Ok(Reply::Effects(fitting.take((limit as usize).min(ROWS_MAX)).collect()))
            }
            Query::Objects { cluster: Some(cluster), general: Some(general) } => {
                let made = self.objects.owner(tenant, Thing::General(cluster, general));
                Ok(Reply::Objects(made.cloned().into_iter().collect()))
            }
            Query::Objects { cluster, general: _ } => {
                let fits = |object: &&Arc<Object>| cluster.as_ref().is_none_or(|of| object.key.cluster == *of);
                Ok(Reply::Objects(self.objects.of_tenant(tenant).filter(fits).cloned().collect()))
            }
            Query::Totals => Ok(Reply::Totals(self.totals(context.soft))),
            Query::PayloadsBefore { before, limit } => {
                let old = self.events.iter().filter(|(_, event)| event.payload.seq < before && !event.is_redacted());
                let payloads = old
                    .map(|(seq, event)| (PayloadOf::Event(seq), event.payload))
                    .chain(self.effects.before_record(before));
                Ok(Reply::Payloads(payloads.take((limit as usize).min(ROWS_MAX)).collect()))
            }
        };
        Decision::reply(request, reply)
    }

    fn view(&self, id: DeliveryId, event: &Event, delivery: &Delivery, soft: &Soft) -> DeliveryView {
        let Delivery { phase, token, attempts, place, .. } = delivery;
        let Setback { cancel, last_cause, over, .. } = delivery.setback();
        let account =
            over.as_deref().filter(|over| over.place.is_some()).and_then(|over| self.budgets.get(over.account));
        let budget = account.map(|account| (account.budget.name.clone(), account.budget.period.end(self.at)));
        let mut view = DeliveryView {
            delivery: id,
            status: delivery.status(),
            kind: event.kind.clone(),
            lane: event.lane.clone(),
            route: self.routing.rule(event.route).route.name.clone(),
            repository: event.repository.clone(),
            accepted: event.accepted,
            general: self.general_of(delivery).cloned(),
            attempts: *attempts,
            token: *token,
            instance: None,
            not_before: None,
            expires: None,
            parked: None,
            parked_at: None,
            budget,
            cancel: *cancel,
            last_cause: *last_cause,
            place: *place,
        };
        match phase {
            Phase::Waiting { not_before } => view.not_before = (not_before.0 > 0).then_some(*not_before),
            Phase::Leased(lease) => {
                view.instance = Some(lease.instance.clone());
                view.expires = soft.leases.get(&id).map(|clock| clock.deadline);
            }
            Phase::Parked { reason, since } => {
                view.parked = Some(*reason);
                view.not_before = (*reason == ParkReason::Delayed).then(|| delivery.terms().not_before);
                view.parked_at = Some(*since);
            }
            Phase::Succeeded | Phase::Cancelled => {}
        }
        view
    }

    fn fleet(&self, tenant: &TenantName, Context { soft, now, .. }: Context<'_>) -> FleetView {
        let clusters = self.registry.clusters.iter().filter(|((of, _), _)| of == tenant);
        let clusters = clusters.map(|((_, name), cluster)| ClusterView {
            cluster: name.clone(),
            region: cluster.region.clone(),
            labels: cluster.labels.clone(),
            holds: cluster.holds,
        });
        let generals = self.registry.iter().filter(|(_, general)| general.key.tenant == *tenant);
        let generals = generals.map(|(idx, general)| {
            let pool = soft.pool(idx);
            GeneralView {
                key: general.key.clone(),
                ty: general.ty.clone(),
                labels: general.labels.clone(),
                told: pool.map_or_else(Vec::new, Pool::labels),
                holds: general.holds,
                instances: pool.map_or(0, |pool| pool.members),
                load: Load { open: general.leased, capacity: pool.map_or(0, |pool| pool.load.capacity) },
                waiting: general.queue.waiting,
                parked_backlog: u32::try_from(general.queue.overflow.len()).unwrap_or(u32::MAX),
                ejected: pool.map_or(0, |pool| pool.ejected),
                rate_pool: crate::rate::pool_of(general).map(|(_, name)| (name, soft.rate_paused(self, idx))),
            }
        });
        let instances = soft.instances.iter().filter(|(key, _)| key.tenant == *tenant);
        let instances = instances.map(|(key, instance)| {
            let members = instance.members.iter().map(|(general, member)| {
                let member = soft.member(*member);
                let health = Health {
                    breaker: member.breaker.state(),
                    paused_until: member.paused_until,
                    latency_ms: member.pace.fresh(now).unwrap_or(0),
                };
                (self.registry.general(*general).key.clone(), member.load, member.reported.clone(), health)
            });
            let session = instance.session.and_then(|session| soft.sessions.get(&session));
            InstanceView {
                key: key.clone(),
                boot: instance.boot.clone(),
                version: instance.version.clone(),
                pod: instance.pod.clone(),
                state: instance.state,
                since: instance.since,
                session: instance.session.map(|session| (self.epoch(), session)),
                heard: session.map_or(instance.since, |session| session.last_heard),
                holds: self.registry.instance_holds(key),
                generals: members.collect(),
            }
        });
        let rules = self.routing.iter().filter(|(_, rule)| rule.tenant == *tenant);
        FleetView {
            clusters: clusters.collect(),
            generals: generals.collect(),
            instances: instances.collect(),
            holds: rules.map(|(_, rule)| (rule.route.name.clone(), rule.holds)).collect(),
        }
    }

    fn totals(&self, soft: &Soft) -> Totals {
        let generals = || self.registry.iter().map(|(_, general)| general);
        let routes = || self.routing.iter().map(|(_, rule)| rule);
        let waiting = generals().map(|g| u64::from(g.queue.waiting)).sum::<u64>()
            + routes().map(|rule| u64::from(rule.queue.waiting)).sum::<u64>()
            + routes().filter_map(|rule| rule.shadow.as_ref()).map(|side| u64::from(side.queue.waiting)).sum::<u64>();
        let leased = generals().map(|general| u64::from(general.leased)).sum();
        let lanes = generals().map(|general| general.queue.len()).sum::<usize>()
            + routes().map(|rule| rule.queue.len()).sum::<usize>();
        let (effects_waiting, effects_failed) = self.effects.counts();
        Totals {
            effects_waiting,
            effects_failed,
            events_open: self.events.len() as u64,
            waiting,
            leased,
            parked: self.events.open.saturating_sub(waiting + leased),
            lanes: lanes as u64,
            sessions: soft.sessions.len() as u64,
            generals: self.registry.len() as u64,
            dedupe_keys: self.dedupe.len() as u64,
            dedupe_from: self.dedupe.from(),
            seq: self.seq,
            epoch: self.epoch,
        }
    }
}
