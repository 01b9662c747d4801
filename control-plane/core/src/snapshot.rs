//! Snapshots: the durable state as a list of items, and back.
//!
//! Invariant: importing what was exported gives an equal state; exporting twice gives equal items.

use std::sync::Arc;

use mindos_model::{DeliveryId, EffectId, ParkReason, Priority, RouteName, Seq, TenantName, Timestamp, Token};

use crate::access::AccessItem;
use crate::account::{AccountIds, Over, Spend, Tally, Turn};
use crate::budget::{Amount, Budget, Level};
use crate::durable::{Durable, held_by};
use crate::effect::{EffectItem, EffectKey, EffectSeries};
use crate::estimate::{Learnt, Pair};
use crate::event::{Delivery, Event, Lease, Phase, Setback};
use crate::feedback::{FeedbackVerdict, Voices};
use crate::input::Seen;
use crate::object::Object;
use crate::output::PayloadRef;
use crate::queue::{LaneIdx, QueueId};
use crate::recent::Ended;
use crate::record::{
    CancelReason, Cause, ClusterRegistered, DedupeKey, GeneralKey, GeneralRegistered, HoldChanged, HoldTarget, Holds,
    InstanceKey, RoutesApplied,
};
use crate::registry::Cluster;
use crate::replay::Replay;
use crate::route::{Route, RouteTable};
use crate::terms::Terms;

/// One piece of the state. Items come in the order of the variants, but for holds, which follow what they hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Header {
        seq: Seq,
        at: Timestamp,
        epoch: u32,
    },
    Cluster(ClusterRegistered),
    General(GeneralRegistered),
    Hold(HoldChanged),
    /// A route that is in force, or has left the table while its deliveries are open; with its place in the round.
    Route {
        tenant: TenantName,
        route: Arc<Route>,
        cursor: Option<Arc<GeneralKey>>,
    },
    /// The table in force. Its routes stand before it.
    Routes {
        tenant: TenantName,
        at: Seq,
        table: Arc<RouteTable>,
    },
    Event(Box<EventItem>),
    Seen {
        key: DedupeKey,
        at: Timestamp,
        seen: Seen,
    },
    /// A budget with what stands against it.
    Budget(Box<BudgetItem>),
    Estimate {
        pair: Pair,
        learnt: Learnt,
    },
    /// What an open lease has of its budgets.
    Spend {
        delivery: DeliveryId,
        reserved: Amount,
        spent: Option<Amount>,
        accounts: AccountIds,
    },
    /// That a delivery waits for a budget, or did.
    Over {
        delivery: DeliveryId,
        account: Seq,
        wanted: Amount,
        /// Its turn and the record that parked it, while it is parked.
        place: Option<(Turn, Seq)>,
        admitted: bool,
    },
    /// What was made of the results of one version of a general.
    Opinion {
        general: Arc<GeneralKey>,
        version: Arc<str>,
        voices: Voices,
    },
    /// What one voice said of one delivery, oldest first.
    Voice {
        voice: DedupeKey,
        verdict: FeedbackVerdict,
    },
    /// A delivery that ended of late, and was ever leased.
    Settled {
        delivery: DeliveryId,
        token: Token,
        ending: Ending,
    },
    Access(AccessItem),
    EffectSeries(Box<EffectSeries>),
    /// An effect that has not ended for good. Its series stands before it.
    Effect(Box<EffectItem>),
    /// A key that was carried out, or is to be, oldest first.
    EffectKey {
        key: EffectKey,
        at: Timestamp,
        effect: EffectId,
    },
    /// What was observed of an effect that ended of late, oldest first.
    EffectObserved {
        effect: EffectId,
        observed: Arc<str>,
    },
    /// An object of a cluster, as it was applied last.
    Object(Arc<Object>),
}

/// How a delivery ended, for what is reported under its newest token afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Under that token's lease.
    Held,
    /// Cancelled while nobody held it, after a failure under that token had been recorded.
    Answered,
    /// Cancelled while nobody held it, with nothing on record under that token.
    Unanswered,
}

/// A budget with what stands against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetItem {
    pub tenant: TenantName,
    pub budget: Arc<Budget>,
    /// The record that began its account.
    pub since: Seq,
    /// When the period began that it was charged in last.
    pub began: Timestamp,
    pub tally: Tally,
    pub level: Level,
    pub acknowledged: bool,
    /// Of a budget for runs: what each open event used.
    pub runs: Vec<(Seq, Tally)>,
}

/// An event with open work.
#[derive(Clone, Debug, PartialEq)]
pub struct EventItem {
    pub event: Seq,
    pub tenant: TenantName,
    pub kind: Arc<str>,
    pub lane: Arc<str>,
    pub repository: Option<Arc<str>>,
    /// Its source, where it has no repository.
    pub source: Option<Arc<str>>,
    pub priority: Priority,
    pub route: RouteName,
    pub accepted: Timestamp,
    pub payload: PayloadRef,
    pub deliveries: Vec<DeliveryItem>,
    /// The first delivery that succeeds cancels the others.
    pub race: bool,
    /// The past event that it repeats.
    pub replay: Option<Box<Replay>>,
}

/// A delivery of an event with open work.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryItem {
    /// Fixed by broadcast.
    pub general: Option<Arc<GeneralKey>>,
    pub phase: PhaseItem,
    /// Newest token; epoch 0 before the first lease.
    pub token: Token,
    pub attempts: u32,
    pub place: Seq,
    /// How long it has held its lane up for reasons of its own, before `held_since`.
    pub held_ms: u64,
    /// Since when it waits for its own retry time.
    pub held_since: Option<Timestamp>,
    pub cancel: Option<CancelReason>,
    pub last_cause: Option<Cause>,
    pub terms: Option<Box<Terms>>,
}

/// Where a delivery stands.
#[derive(Clone, Debug, PartialEq)]
pub enum PhaseItem {
    Waiting { not_before: Timestamp },
    Leased { general: Arc<GeneralKey>, instance: Arc<InstanceKey>, boot: mindos_model::BootId, since: Timestamp },
    Parked { reason: ParkReason, since: Timestamp },
    Succeeded { general: Option<Arc<GeneralKey>> },
    Cancelled,
}

impl Durable {
    /// The state as items, in one order only.
    #[must_use]
    pub fn export(&self) -> Vec<Item> {
        self.items().collect()
    }

    /// As [`Durable::export`], made one by one as they are asked for.
    pub fn items(&self) -> impl Iterator<Item = Item> + '_ {
        let mut items = vec![Item::Header { seq: self.seq, at: self.at, epoch: self.epoch }];
        self.export_fleet(&mut items);
        for (_, rule) in self.routing.iter() {
            let cursor = rule.cursor.and_then(|idx| self.registry.get(idx)).map(|general| general.key.clone());
            items.push(Item::Route { tenant: rule.tenant.clone(), route: rule.route.clone(), cursor });
        }
        for (tenant, in_force) in &self.routing.tenants {
            items.push(Item::Routes { tenant: tenant.clone(), at: in_force.at, table: in_force.table.clone() });
        }
        items.extend(self.routing.iter().filter(|(_, rule)| !rule.holds.is_none()).map(|(_, rule)| {
            let target = HoldTarget::Route(rule.route.name.clone());
            Item::Hold(HoldChanged {
                tenant: rule.tenant.clone(),
                target,
                holds: rule.holds,
                why: Arc::default(),
                by: Arc::from(""),
                from: Arc::from(""),
            })
        }));
        let events = self.events.iter().map(|(seq, event)| Item::Event(Box::new(self.event_item(seq, event))));
        let seen = self.dedupe.iter().map(|(key, at, seen)| Item::Seen { key, at, seen });
        let settled =
            self.recent.iter().map(|(delivery, Ended { token, ending })| Item::Settled { delivery, token, ending });
        let opinions = self.opinions.iter().map(|(general, version, voices)| {
            let (general, version) = (general.clone(), version.clone());
            Item::Opinion { general, version, voices }
        });
        let voices = self.opinions.said().map(|(voice, verdict)| Item::Voice { voice, verdict });
        let items = items.into_iter().chain(events).chain(seen).chain(settled).chain(self.budget_items());
        let series = self.effects.series_items().map(|item| Item::EffectSeries(Box::new(item)));
        let effects = self.effects.items().map(|item| Item::Effect(Box::new(item)));
        let keys = self.effects.key_items().map(|(key, at, effect)| Item::EffectKey { key, at, effect });
        let observed =
            self.effects.observed_items().map(|(effect, observed)| Item::EffectObserved { effect, observed });
        let items = items.chain(opinions).chain(voices).chain(self.access.items().map(Item::Access));
        let objects = self.objects.iter().cloned().map(Item::Object);
        items.chain(series).chain(effects).chain(keys).chain(observed).chain(objects)
    }

    fn export_fleet(&self, items: &mut Vec<Item>) {
        let hold = |tenant: &TenantName, target, holds| {
            let (tenant, why, by, from) = (tenant.clone(), Arc::default(), Arc::from(""), Arc::from(""));
            Item::Hold(HoldChanged { tenant, target, holds, why, by, from })
        };
        for ((tenant, name), cluster) in &self.registry.clusters {
            let (tenant, region) = (tenant.clone(), cluster.region.clone());
            let labels = cluster.labels.clone();
            items.push(Item::Cluster(ClusterRegistered { tenant, cluster: name.clone(), region, labels }));
        }
        for (_, general) in self.registry.iter() {
            let (key, ty, labels) = (GeneralKey::clone(&general.key), general.ty.clone(), general.labels.clone());
            items.push(Item::General(GeneralRegistered { key, ty, labels }));
        }
        for ((tenant, name), cluster) in self.registry.clusters.iter().filter(|(_, c)| !c.holds.is_none()) {
            items.push(hold(tenant, HoldTarget::Cluster(name.clone()), cluster.holds));
        }
        for (_, general) in self.registry.iter().filter(|(_, general)| !general.holds.is_none()) {
            let GeneralKey { tenant, cluster, name } = general.key.as_ref();
            items.push(hold(tenant, HoldTarget::General(cluster.clone(), name.clone()), general.holds));
        }
        for ((tenant, cluster, instance), held) in &self.registry.instances {
            items.push(hold(tenant, HoldTarget::Instance(cluster.clone(), instance.clone()), *held));
        }
    }

    fn event_item(&self, seq: Seq, event: &Event) -> EventItem {
        let key = |idx| self.registry.get(idx).map(|general| general.key.clone());
        let item = |delivery: &Delivery| DeliveryItem {
            general: match delivery.queue {
                QueueId::General(idx) => key(idx),
                QueueId::Route(_) | QueueId::Shadow(_) => None,
            },
            phase: match &delivery.phase {
                Phase::Waiting { not_before } => PhaseItem::Waiting { not_before: *not_before },
                Phase::Leased(Lease { general, instance, boot, since, spend: _ }) => PhaseItem::Leased {
                    general: key(*general).expect("a general with leases is not removed"),
                    instance: instance.clone(),
                    boot: boot.clone(),
                    since: *since,
                },
                Phase::Parked { reason, since } => PhaseItem::Parked { reason: *reason, since: *since },
                Phase::Succeeded => PhaseItem::Succeeded { general: delivery.done_by.and_then(key) },
                Phase::Cancelled => PhaseItem::Cancelled,
            },
            token: delivery.token,
            attempts: delivery.attempts,
            place: delivery.place,
            held_ms: delivery.setback().held_ms,
            held_since: delivery.setback().held_since,
            cancel: delivery.setback().cancel,
            last_cause: delivery.setback().last_cause,
            terms: delivery.terms.clone(),
        };
        EventItem {
            event: seq,
            tenant: event.tenant.clone(),
            kind: event.kind.clone(),
            lane: event.lane.clone(),
            repository: event.repository.clone(),
            source: event.source.clone(),
            priority: event.priority,
            route: self.routing.rule(event.route).route.name.clone(),
            accepted: event.accepted,
            payload: event.payload,
            deliveries: event.deliveries.iter().map(item).collect(),
            race: event.race,
            replay: event.replay.clone(),
        }
    }

    /// The state that was exported.
    ///
    /// # Panics
    /// When items name what no item before them brought: the snapshot is not one of ours, or was damaged unnoticed.
    #[must_use]
    pub fn import(items: impl IntoIterator<Item = Item>) -> Durable {
        Durable::import_seeded(0, items)
    }

    /// As [`Durable::import`], with a seed for its hash maps, as in [`Durable::seeded`].
    pub fn import_seeded(seed: u64, items: impl IntoIterator<Item = Item>) -> Durable {
        let mut import = Import { durable: Durable::seeded(seed), lanes: Vec::new() };
        items.into_iter().for_each(|item| import.item(item));
        import.finish()
    }
}

struct Import {
    durable: Durable,
    /// What stands in lanes, with its place there: deliveries do not come in the order of their lanes.
    lanes: Vec<(Seq, DeliveryId)>,
}

impl Import {
    fn item(&mut self, item: Item) {
        let durable = &mut self.durable;
        match item {
            Item::Header { seq, at, epoch } => {
                (durable.seq, durable.at, durable.epoch) = (seq, at, epoch);
                durable.agenda.fired = Timestamp(0);
            }
            Item::Cluster(record) => {
                let ClusterRegistered { tenant, cluster, region, labels } = record;
                durable.registry.clusters.insert((tenant, cluster), Cluster { region, labels, holds: Holds::NONE });
            }
            Item::General(record) => {
                durable.register(&record);
            }
            Item::Hold(HoldChanged { tenant, target, holds, why: _, by: _, from: _ }) => match &target {
                HoldTarget::Route(name) => {
                    let route = durable.routing.find(&tenant, name).expect("routes stand before their holds");
                    durable.routing.rule_mut(route).holds = holds;
                }
                HoldTarget::Cluster(_) | HoldTarget::General(..) | HoldTarget::Instance(..) => {
                    durable.registry.hold(&tenant, &target, holds);
                }
            },
            Item::Routes { tenant, at, table } => {
                let record = RoutesApplied { tenant, table, by: Arc::from(""), from: Arc::from("") };
                durable.routing.apply(&record, at, &mut durable.registry, &durable.hasher);
                durable.routing.adopt(&record.tenant, durable.tenants.place(&record.tenant));
            }
            Item::Route { tenant, route, cursor } => {
                let idx = durable.routing.put(&tenant, route, &mut durable.registry, &durable.hasher);
                durable.routing.rule_mut(idx).tenant_idx = durable.tenants.place(&tenant);
                durable.routing.rule_mut(idx).cursor = cursor.and_then(|key| durable.registry.find(&key));
            }
            Item::Event(item) => self.event(*item),
            Item::Seen { key, at, seen } => durable.dedupe.insert(key, at, seen),
            Item::Settled { delivery, token, ending } => durable.recent.insert(delivery, Ended { token, ending }),
            Item::Opinion { general, version, voices } => durable.opinions.put(&general, &version, voices),
            Item::Voice { voice, verdict } => {
                durable.opinions.note(voice, verdict);
            }
            Item::Access(item) => {
                if let AccessItem::Quota { tenant, quota } = &item {
                    durable.tenants.bound(tenant, quota.open_max);
                }
                Arc::make_mut(&mut durable.access).put(item);
            }
            Item::EffectSeries(item) => durable.effects.import_series(*item),
            Item::Effect(item) => durable.effects.import(*item),
            Item::EffectKey { key, at, effect } => durable.effects.import_key(key, at, effect),
            Item::EffectObserved { effect, observed } => durable.effects.import_observed(effect, observed),
            Item::Object(object) => durable.objects.put(&object),
            Item::Budget(item) => durable.import_budget(*item),
            Item::Estimate { pair, learnt } => {
                durable.budgets.estimates.pairs.insert(pair, learnt);
            }
            Item::Spend { delivery, reserved, spent, accounts } => {
                durable.import_spend(delivery, Spend { reserved, spent, accounts });
            }
            Item::Over { delivery, account, wanted, place, admitted } => {
                durable.import_over(delivery, Over { account, wanted, place, admitted });
            }
        }
    }

    fn event(&mut self, item: EventItem) {
        let EventItem { event: seq, tenant, kind, lane, repository, source, priority, route, .. } = item;
        let EventItem { accepted, payload, deliveries, race, replay, .. } = item;
        let durable = &mut self.durable;
        let route = durable.routing.find(&tenant, &route).expect("routes stand before their events");
        let general = |durable: &Durable, key: &GeneralKey| {
            durable.registry.find(key).expect("generals stand before their deliveries")
        };
        let flow = repository.as_ref().or(source.as_ref()).cloned().unwrap_or_default();
        let mut imported = Vec::with_capacity(deliveries.len());
        for (ordinal, item) in (1..).zip(deliveries) {
            let id = DeliveryId::new(seq, ordinal);
            let terms = item.terms.as_deref().copied().unwrap_or_default();
            let queue = match &item.general {
                Some(key) => QueueId::General(general(durable, key)),
                None if terms.shadow => QueueId::Shadow(route),
                None => QueueId::Route(route),
            };
            let (mut done_by, mut lane_idx) = (None, LaneIdx::NONE);
            let phase = match item.phase {
                PhaseItem::Waiting { not_before } => {
                    self.lanes.push((item.place, id));
                    if not_before > Timestamp(0) {
                        durable.agenda.retries.insert((not_before, id));
                    }
                    if item.held_since.is_some() {
                        durable.agenda.blocks.insert((Timestamp(0), id));
                    }
                    Phase::Waiting { not_before }
                }
                PhaseItem::Leased { general: key, instance, boot, since } => {
                    self.lanes.push((item.place, id));
                    let general = general(durable, &key);
                    durable.registry.general_mut(general).leased += 1;
                    let (instance, held) = held_by(&mut durable.held, &instance);
                    held.insert(id, general);
                    Phase::Leased(Lease { general, instance, boot, since, spend: None })
                }
                PhaseItem::Parked { reason, since } => {
                    if reason == ParkReason::BacklogFull {
                        lane_idx = durable.queue_mut(queue).overflow_in(&lane, &flow, item.place, id);
                    }
                    Phase::Parked { reason, since }
                }
                PhaseItem::Succeeded { general } => {
                    done_by = general.and_then(|key| durable.registry.find(&key));
                    Phase::Succeeded
                }
                PhaseItem::Cancelled => Phase::Cancelled,
            };
            let DeliveryItem { token, attempts, place, held_ms, held_since, cancel, last_cause, .. } = item;
            let mut delivery = Delivery::new(queue, lane_idx, phase, place);
            (delivery.token, delivery.attempts, delivery.done_by) = (token, attempts, done_by);
            if item.terms.is_some() {
                delivery.terms = item.terms;
                if !delivery.status().is_settled() {
                    durable.time_terms(id, terms, &delivery.phase);
                }
            }
            if held_ms > 0 || held_since.is_some() || cancel.is_some() || last_cause.is_some() {
                *delivery.setback_mut() = Setback { held_ms, held_since, cancel, last_cause, over: None };
            }
            if let (QueueId::General(idx), false) = (queue, delivery.status().is_settled()) {
                durable.registry.general_mut(idx).bound += 1;
            }
            imported.push(delivery);
        }
        let open = imported.iter().filter(|delivery| !delivery.status().is_settled()).count();
        let open = u32::try_from(open).expect("fan-out is bounded");
        let rule = durable.routing.rule_mut(route);
        rule.events += 1;
        durable.tenants.began(rule.tenant_idx, open as usize);
        let deliveries = imported;
        durable.events.insert(
            seq,
            Event {
                tenant,
                kind,
                lane,
                repository,
                source,
                priority,
                route,
                accepted,
                payload,
                open,
                deliveries,
                race,
                replay,
            },
        );
    }

    fn finish(mut self) -> Durable {
        self.lanes.sort_unstable();
        self.durable.effects.imported();
        let durable = &mut self.durable;
        for (_, id) in &self.lanes {
            let (event, delivery) = durable.events.delivery(*id).expect("it was imported");
            let (lane, flow) = (event.lane.clone(), event.flow());
            let (queue, is_leased) = (delivery.queue, delivery.lease().is_some());
            let (lane, _) = durable.queue_mut(queue).push(&lane, &flow, *id);
            durable.events.delivery_mut(*id).lane = lane;
            if is_leased {
                durable.queue_mut(queue).leased(lane);
            }
        }
        for (_, id) in &self.lanes {
            let (_, delivery) = durable.events.delivery(*id).expect("it was imported");
            durable.touch(delivery.queue, delivery.lane);
        }
        self.durable
    }
}
