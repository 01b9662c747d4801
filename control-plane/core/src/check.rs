//! What the simulator compares the indexes of the durable state with: a scan of all that is open.
//!
//! Invariant: nothing here is on the path of an input, and nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mindos_model::{DeliveryId, ParkReason, Seq, TenantName, Timestamp};

use crate::degrade::Spender;
use crate::durable::Durable;
use crate::event::Phase;
use crate::input::Entropy;
use crate::plane::Plane;
use crate::queue::QueueId;
use crate::record::InstanceKey;
use crate::registry::GeneralIdx;
use crate::routing::RouteIdx;

/// What a scan finds in one lane of a queue.
#[derive(Default)]
struct ScannedLane {
    entries: Vec<(Seq, DeliveryId)>,
    waiting: u32,
    overflow: u32,
}

#[derive(Default)]
struct Scan {
    lanes: BTreeMap<(QueueId, Arc<str>), ScannedLane>,
    overflow: BTreeSet<(QueueId, Seq, DeliveryId)>,
    held: BTreeMap<(Arc<InstanceKey>, DeliveryId), GeneralIdx>,
    leased: BTreeMap<GeneralIdx, u32>,
    bound: BTreeMap<GeneralIdx, u32>,
    events: BTreeMap<RouteIdx, u64>,
    tenants: BTreeMap<TenantName, u64>,
    open: u64,
}

macro_rules! same {
    ($found:expr, $listed:expr, $($what:tt)+) => {{
        let (found, listed) = ($found, $listed);
        if found != listed {
            return Err(format!("{}: a scan finds {found:?}, listed is {listed:?}", format_args!($($what)+)));
        }
    }};
}

impl Durable {
    /// Names the first thing in which an index differs from a scan of the open events.
    ///
    /// # Errors
    /// With the difference, for a person.
    pub fn check(&self) -> Result<(), String> {
        let scan = self.scan()?;
        self.check_queues(&scan)?;
        self.check_counts(&scan)?;
        self.check_budgets()?;
        self.check_terms()?;
        self.effects.check()?;
        self.check_timers()
    }

    fn scan(&self) -> Result<Scan, String> {
        let mut scan = Scan::default();
        for (seq, event) in self.events.iter() {
            *scan.events.entry(event.route).or_default() += 1;
            let mut open = 0;
            for (id, delivery) in event.deliveries(seq) {
                if delivery.status().is_settled() {
                    continue;
                }
                open += 1;
                if let QueueId::General(general) = delivery.queue {
                    *scan.bound.entry(general).or_default() += 1;
                }
                let lane = scan.lanes.entry((delivery.queue, event.lane.clone())).or_default();
                match &delivery.phase {
                    Phase::Waiting { .. } => {
                        lane.entries.push((delivery.place, id));
                        lane.waiting += 1;
                    }
                    Phase::Leased(lease) => {
                        lane.entries.push((delivery.place, id));
                        *scan.leased.entry(lease.general).or_default() += 1;
                        scan.held.insert((lease.instance.clone(), id), lease.general);
                    }
                    Phase::Parked { reason: ParkReason::BacklogFull, .. } => {
                        lane.overflow += 1;
                        scan.overflow.insert((delivery.queue, delivery.place, id));
                    }
                    Phase::Parked { .. } | Phase::Succeeded | Phase::Cancelled => {}
                }
            }
            same!(open, event.open, "open deliveries of event {seq}");
            scan.open += u64::from(open);
            *scan.tenants.entry(event.tenant.clone()).or_default() += u64::from(open);
        }
        scan.lanes.retain(|_, lane| !lane.entries.is_empty() || lane.overflow > 0);
        scan.lanes.values_mut().for_each(|lane| lane.entries.sort_unstable());
        Ok(scan)
    }

    fn check_queues(&self, scan: &Scan) -> Result<(), String> {
        let mut dirty: Vec<_> = self.queues().filter(|id| self.queue(*id).dirty).collect();
        let mut listed: Vec<_> = self.agenda.dirty.iter().collect();
        dirty.sort_unstable();
        listed.sort_unstable();
        same!(dirty, listed, "queues in the agenda");
        let mut lanes = 0;
        for id in self.queues() {
            let queue = self.queue(id);
            let (mut waiting, mut startable) = (0, 0);
            let mut queued = 0;
            let mut flows: BTreeMap<Option<&Arc<str>>, (u32, u32)> = BTreeMap::new();
            for (name, idx) in queue.scan() {
                let lane = queue.lane(idx);
                let found = scan.lanes.get(&(id, name.clone()));
                if found.is_none() && !queue.is_queued(idx) {
                    return Err(format!("lane `{name}` of {id:?} is empty and was not dropped"));
                }
                lanes += usize::from(found.is_some());
                let entries: Vec<_> = found.into_iter().flat_map(|lane| &lane.entries).map(|(_, id)| *id).collect();
                let head = entries.iter().take_while(|id| id.event == entries[0].event).count();
                startable += head.saturating_sub(entries.len() - lane.waiting as usize);
                same!(entries, lane.entries.iter().copied().collect::<Vec<_>>(), "lane `{name}` of {id:?}");
                same!(found.map_or(0, |lane| lane.waiting), lane.waiting, "waiting in lane `{name}` of {id:?}");
                same!(found.map_or(0, |lane| lane.overflow), lane.overflow, "overflow of lane `{name}` of {id:?}");
                waiting += lane.waiting;
                let flow = flows.entry(queue.flow_of(idx)).or_default();
                *flow = (flow.0 + lane.waiting, queue.waiting_in_flow_of(idx));
                queued += usize::from(queue.is_queued(idx));
                let may_begin = self.first_eligible(id, idx).is_some();
                if may_begin && !queue.is_queued(idx) && !self.is_aside(id, idx) {
                    return Err(format!("lane `{name}` of {id:?} could give out work and is not queued"));
                }
            }
            same!(waiting, queue.waiting, "waiting in {id:?}");
            same!(startable, queue.startable as usize, "startable in {id:?}");
            for (flow, (found, counted)) in flows {
                same!(found, counted, "waiting in flow {flow:?} of {id:?}");
            }
            queue.check_turns().map_err(|error| format!("{error}, in {id:?}"))?;
            let in_turn: BTreeSet<_> = queue.in_turn().collect();
            same!(in_turn.len(), queue.ready(), "lanes in turn of {id:?}, each once");
            same!(queued, queue.ready(), "queued lanes of {id:?}");
            let overflow: BTreeSet<_> = queue.overflow.iter().map(|(place, delivery)| (id, place, delivery)).collect();
            let found: BTreeSet<_> = scan.overflow.iter().filter(|(of, _, _)| *of == id).copied().collect();
            same!(found, overflow, "overflow of {id:?}");
        }
        same!(scan.lanes.len(), lanes, "lanes in all");
        Ok(())
    }

    fn check_counts(&self, scan: &Scan) -> Result<(), String> {
        same!(scan.open, self.events.open, "open deliveries");
        let of_tenants = self.tenants.iter().filter(|(_, open)| *open > 0).map(|(name, open)| (name.clone(), open));
        same!(scan.tenants.clone(), of_tenants.collect(), "open deliveries by tenant");
        for (idx, general) in self.registry.iter() {
            same!(scan.leased.get(&idx).copied().unwrap_or(0), general.leased, "leases of general {}", general.key);
            same!(scan.bound.get(&idx).copied().unwrap_or(0), general.bound, "deliveries bound to {}", general.key);
        }
        for (idx, rule) in self.routing.iter() {
            let events = scan.events.get(&idx).copied().unwrap_or(0);
            same!(events, rule.events, "open events of route {}", rule.route.name);
        }
        let held = self.held.iter().flat_map(|(key, held)| held.iter().map(|(id, of)| ((key.clone(), *id), *of)));
        same!(scan.held.clone(), held.collect::<BTreeMap<_, _>>(), "leases by instance");
        same!(self.held.values().filter(|held| held.is_empty()).count(), 0, "instances listed without a lease");
        Ok(())
    }

    fn check_timers(&self) -> Result<(), String> {
        let fired = self.agenda.fired;
        for (seq, event) in self.events.iter() {
            for (id, delivery) in event.deliveries(seq) {
                let Phase::Waiting { not_before } = delivery.phase else { continue };
                if not_before <= fired {
                    continue;
                }
                if !self.agenda.retries.contains(&(not_before, id)) {
                    return Err(format!("delivery {id} waits until {not_before} and has no timer"));
                }
            }
        }
        for (at, id) in self.agenda.retries.iter().filter(|(at, _)| *at > fired) {
            let waits = |(_, delivery): (_, &crate::event::Delivery)| matches!(delivery.phase, Phase::Waiting { not_before } if not_before == *at);
            if !self.events.delivery(*id).is_some_and(waits) {
                return Err(format!("timer of delivery {id} at {at} is for nothing"));
            }
        }
        Ok(())
    }
}

impl Plane {
    /// Names the first thing in which an index of either state differs from a scan, or work that could begin and does
    /// not. To be asked after `advance`, while the open batch is not full.
    ///
    /// # Errors
    /// With the difference, for a person.
    pub fn check(&self) -> Result<(), String> {
        self.durable().check()?;
        self.soft().check(self.durable())?;
        self.durable().check_budget_turns(self.context(self.durable().at(), Entropy(0)))?;
        self.durable().check_aside(self.soft())?;
        // Of some not all lanes were tried, and the time at which they are is set.
        let idle = self.durable().queues().filter(|id| !self.durable().queue(*id).dirty && !self.will_look_at(*id));
        for id in idle.collect::<Vec<_>>() {
            for lane in self.durable().queue(id).in_turn() {
                let Some(delivery) = self.durable().first_eligible(id, lane) else { continue };
                if self.could_begin(id, delivery) {
                    return Err(format!("delivery {delivery} could be leased, and its queue {id:?} is not looked at"));
                }
            }
        }
        let timers = self.durable().agenda.retries.first().map_or(Timestamp(u64::MAX), |(at, _)| *at);
        if self.next_due().is_none_or(|due| due > timers) && timers < Timestamp(u64::MAX) {
            return Err(format!("a retry is due at {timers}, the plane wakes at {:?}", self.next_due()));
        }
        Ok(())
    }

    fn could_begin(&self, queue: QueueId, delivery: DeliveryId) -> bool {
        let route = match queue {
            QueueId::General(general) => {
                let event = self.durable().events.get(delivery.event);
                return event.is_some_and(|event| {
                    let rule = self.durable().routing.rule(event.route);
                    self.durable().keeps_out(rule, general).is_none()
                        && self.durable().has_fitting(rule, general, self.soft())
                });
            }
            QueueId::Route(route) => route,
            QueueId::Shadow(route) => {
                let rule = self.durable().routing.rule(route);
                let side = rule.shadow.as_ref();
                let Some((event, _)) = self.durable().events.delivery(delivery) else { return false };
                // Others may have set aside what a replay waits for.
                if event.replay.is_some() && !self.durable().budgets.is_empty() {
                    return false;
                }
                let may = |idx: &GeneralIdx| {
                    self.durable().has_fitting(rule, *idx, self.soft())
                        && self.durable().takes_replay(event, *idx, self.soft())
                };
                return side.is_some_and(|side| side.members.iter().any(may));
            }
        };
        let Some((event, _)) = self.durable().events.delivery(delivery) else { return false };
        let taken = |general: &GeneralIdx| {
            event.deliveries.iter().filter(|sibling| !sibling.terms().shadow).any(|sibling| {
                sibling.done_by == Some(*general) || sibling.lease().is_some_and(|lease| lease.general == *general)
            })
        };
        let rule = self.durable().routing.rule(route);
        let context = self.context(self.durable().at(), Entropy(0));
        let substitutes = self.durable().substitutes(rule, Spender::open(event, delivery.event), context);
        if let Some(substitutes) = substitutes {
            let generals = substitutes.generals(rule.members.iter().copied());
            let mut free = generals.iter().filter(|general| self.durable().has_fitting(rule, **general, self.soft()));
            return free.any(|general| event.deliveries.len() == 1 || !taken(general));
        }
        let free = self.durable().fitting_of(route, self.soft());
        free.is_some_and(|free| free.iter().any(|general| event.deliveries.len() == 1 || !taken(general)))
    }
}
