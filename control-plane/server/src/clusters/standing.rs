//! How objects fare: their conditions and status, from the state as it is.
//!
//! Pure, and in one pass over the fleet: thousands of generals are told of every second.

use std::collections::HashMap;
use std::sync::Arc;

use mindos_core::BreakerState;
use mindos_core::budget::{Amount, Level, Scope};
use mindos_core::object::{Made, Object};
use mindos_core::output::{BudgetView, FleetView, GeneralView, InstanceState};
use mindos_core::record::{GeneralKey, Holds};
use mindos_core::route::RouteTable;
use mindos_kube::conditions::{Holds as Is, Said};
use mindos_kube::mindos::{
    ACCEPTED, BudgetAmount, BudgetLevel, BudgetStatus, CONNECTED, ClusterStatus, GeneralStatus, READY, RouteStatus,
    cost_text,
};
use serde::Serialize;

use crate::grpc::fits;

/// How one object fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) conditions: Vec<Said>,
    /// As JSON, without conditions and the observed generation.
    pub(crate) status: String,
}

/// What it is read from.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    fleet: &'a FleetView,
    budgets: &'a [BudgetView],
    table: Option<&'a RouteTable>,
    generals: HashMap<&'a GeneralKey, (&'a GeneralView, Counts)>,
}

/// Instances of a general.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    connected: u32,
    ready: u32,
    unknown: u32,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(fleet: &'a FleetView, budgets: &'a [BudgetView], table: Option<&'a RouteTable>) -> Seen<'a> {
        let known = fleet.generals.iter().map(|view| (view.key.as_ref(), (view, Counts::default())));
        let mut generals: HashMap<&GeneralKey, (&GeneralView, Counts)> = known.collect();
        for instance in &fleet.instances {
            for (key, load, _, health) in &instance.generals {
                let Some((_, counts)) = generals.get_mut(key.as_ref()) else { continue };
                match instance.state {
                    InstanceState::Ready => {
                        counts.connected += 1;
                        let is_closed = !matches!(health.breaker, BreakerState::Open { .. });
                        counts.ready += u32::from(load.capacity > 0 && instance.holds.is_none() && is_closed);
                    }
                    InstanceState::Draining => counts.connected += 1,
                    InstanceState::Unknown => counts.unknown += 1,
                }
            }
        }
        Seen { fleet, budgets, table, generals }
    }

    /// How an object that was accepted fares.
    pub(crate) fn standing(&self, object: &Object) -> Standing {
        let accepted = Said::new(ACCEPTED, true, "Accepted", "the control plane holds what it says");
        match &object.made {
            Made::Cluster { .. } => self.cluster(object, accepted),
            Made::General { name, .. } => {
                let key = GeneralKey {
                    tenant: object.key.tenant.clone(),
                    cluster: object.key.cluster.clone(),
                    name: name.clone(),
                };
                self.general(object, &key, accepted)
            }
            Made::Route { name, .. } => {
                let table = self.table.into_iter().flat_map(|table| &table.routes).zip(1..);
                let mut found = table.filter(|(route, _)| route.name == *name);
                let (route, place) = found.next().unzip();
                let named = |route: &mindos_core::route::Route| {
                    self.fleet.generals.iter().filter(|general| fits(&route.targets, general, self.fleet)).count()
                };
                let generals = u32::try_from(route.map_or(0, named)).unwrap_or(u32::MAX);
                let holds = self.fleet.holds.get(name).copied().unwrap_or(Holds::NONE);
                let ready = match (held(holds), generals) {
                    (Some((reason, message)), _) => Said::new(READY, false, reason, message),
                    (None, 0) => {
                        Said::new(READY, false, "NoGeneral", "no general that it names is known: its events wait")
                    }
                    (None, generals) => Said::new(READY, true, "Routing", format!("{generals} generals fit")),
                };
                let status = RouteStatus { name: Some(name.to_string()), place, generals, ..RouteStatus::default() };
                standing(vec![accepted, ready], &status)
            }
            Made::Budget { name } => {
                let view = self.budgets.iter().find(|view| view.budget.name == *name);
                budget(accepted, name.to_string(), view)
            }
        }
    }

    fn cluster(&self, object: &Object, accepted: Said) -> Standing {
        let cluster = &object.key.cluster;
        let here = self.fleet.generals.iter().filter(|general| general.key.cluster == *cluster);
        let mut status = ClusterStatus::default();
        for general in here {
            status.generals += 1;
            status.waiting += u64::from(general.waiting);
            status.running += u64::from(general.load.open);
        }
        for instance in self.fleet.instances.iter().filter(|instance| instance.key.cluster == *cluster) {
            match instance.state {
                InstanceState::Ready | InstanceState::Draining => status.instances += 1,
                InstanceState::Unknown => status.unknown += 1,
            }
        }
        let view = self.fleet.clusters.iter().find(|view| view.cluster == *cluster);
        let ready = match (view.and_then(|view| held(view.holds)), status.instances) {
            (Some((reason, message)), _) => Said::new(READY, false, reason, message),
            (None, 0) => Said::new(READY, false, "NoInstance", "no instance is connected: work waits"),
            (None, instances) => Said::new(READY, true, "Serving", format!("{instances} instances are connected")),
        };
        let connected = Said::new(CONNECTED, true, "Reached", "the control plane is reached");
        standing(vec![accepted, connected, ready], &status)
    }

    fn general(&self, object: &Object, key: &GeneralKey, accepted: Said) -> Standing {
        let Some((view, counts)) = self.generals.get(key) else {
            let ready = Said::new(READY, Is::Unknown, "NotKnown", "the control plane does not know it yet");
            let status = GeneralStatus { name: Some(key.name.to_string()), ..GeneralStatus::default() };
            return standing(vec![accepted, ready], &status);
        };
        let cluster = self.fleet.clusters.iter().find(|view| view.cluster == object.key.cluster);
        let holds = view.holds.with(cluster.map_or(Holds::NONE, |cluster| cluster.holds));
        let Counts { connected, ready, unknown } = *counts;
        let is_ready = match (held(holds), ready, connected) {
            (Some((reason, message)), ..) => Said::new(READY, false, reason, message),
            (None, 1.., _) => Said::new(READY, true, "Serving", format!("{ready} of {connected} instances get work")),
            (None, 0, 1..) => Said::new(READY, false, "NotReady", "its instances have no slots, or failed too often"),
            (None, 0, 0) => Said::new(READY, false, "NoInstance", "no instance is connected: work waits"),
        };
        let status = GeneralStatus {
            name: Some(key.name.to_string()),
            ty: Some(view.ty.to_string()),
            instances: connected,
            ready: if holds.is_none() { ready } else { 0 },
            unknown,
            slots: view.load.capacity,
            waiting: u64::from(view.waiting),
            running: u64::from(view.load.open),
            parked: u64::from(view.parked_backlog),
            ..GeneralStatus::default()
        };
        standing(vec![accepted, is_ready], &status)
    }
}

fn held(holds: Holds) -> Option<(&'static str, &'static str)> {
    match holds {
        Holds { draining: true, .. } => Some(("Drained", "it gets no new work, and gives back what it cannot finish")),
        Holds { cordoned: true, .. } => Some(("Cordoned", "it gets no new work")),
        Holds { paused: true, .. } => Some(("Paused", "it starts no work: events are accepted and wait")),
        Holds { .. } => None,
    }
}

fn budget(accepted: Said, name: String, view: Option<&BudgetView>) -> Standing {
    let Some(view) = view else {
        let ready = Said::new(READY, Is::Unknown, "NotKnown", "the control plane does not know it yet");
        return standing(vec![accepted, ready], &BudgetStatus { name: Some(name), ..BudgetStatus::default() });
    };
    let ready = match (view.level, view.acknowledged) {
        (Level::Exhausted, _) => Said::new(READY, false, "Exhausted", "nothing is left: work waits"),
        (Level::Paused, false) => {
            Said::new(READY, false, "Paused", "nothing begins until it is acknowledged or raised: mindos budgets ack")
        }
        (Level::Degraded, _) => {
            Said::new(READY, true, "Degraded", "only priority work begins, others go to cheaper generals")
        }
        (Level::Free | Level::Warned | Level::Paused, _) => Said::new(READY, true, "Free", "work begins under it"),
    };
    // One for runs has its limit for each of them: there is no share of all.
    let is_run = view.budget.scope == Scope::Run;
    let used_percent = if is_run { 0 } else { view.budget.limit.percent(view.charged.plus(view.reserved)) };
    let level = match view.level {
        Level::Free => BudgetLevel::Free,
        Level::Warned => BudgetLevel::Warned,
        Level::Degraded => BudgetLevel::Degraded,
        Level::Paused => BudgetLevel::Paused,
        Level::Exhausted => BudgetLevel::Exhausted,
    };
    let status = BudgetStatus {
        name: Some(name),
        charged: Some(amount(view.charged)),
        reserved: Some(amount(view.reserved)),
        level: Some(level),
        used_percent,
        parked: view.parked,
        acknowledged: view.acknowledged,
        resets_at: view.resets.map(|at| at.to_string()),
        ..BudgetStatus::default()
    };
    standing(vec![accepted, ready], &status)
}

fn amount(amount: Amount) -> BudgetAmount {
    let Amount { micros, tokens, time_ms } = amount;
    let time = mindos_kube::duration::format(std::time::Duration::from_millis(time_ms));
    BudgetAmount { cost: cost_text(micros), tokens, time }
}

/// What is left out is that of the object, not of the control plane.
fn standing(conditions: Vec<Said>, status: &impl Serialize) -> Standing {
    let mut value = serde_json::to_value(status).expect("a status is JSON");
    if let Some(fields) = value.as_object_mut() {
        fields.remove("conditions");
        fields.remove("observedGeneration");
    }
    Standing { conditions, status: value.to_string() }
}

/// Only what some of the objects are about has to be asked for.
pub(crate) fn asks_for(objects: &[Arc<Object>]) -> (bool, bool) {
    let any = |is: fn(&Made) -> bool| objects.iter().any(|object| is(&object.made));
    (any(|made| matches!(made, Made::Budget { .. })), any(|made| matches!(made, Made::Route { .. })))
}

#[cfg(test)]
mod tests {
    use mindos_core::object::{ObjectKey, ObjectKind};
    use mindos_core::output::ClusterView;
    use mindos_model::TenantName;

    use super::*;

    fn object(kind: ObjectKind, made: Made) -> Object {
        let (tenant, cluster) = (TenantName::default_tenant(), "eu".parse().unwrap());
        let key = ObjectKey { tenant, cluster, kind, namespace: "a".into(), name: "x".into() };
        Object { key, uid: "u".into(), generation: 1, spec: "{}".into(), made }
    }

    fn general(holds: Holds) -> FleetView {
        let key = GeneralKey {
            tenant: TenantName::default_tenant(),
            cluster: "eu".parse().unwrap(),
            name: "x".parse().unwrap(),
        };
        let view = GeneralView {
            key: Arc::new(key),
            ty: "t".parse().unwrap(),
            labels: Vec::new(),
            told: Vec::new(),
            holds,
            instances: 0,
            load: Default::default(),
            waiting: 3,
            parked_backlog: 0,
            ejected: 0,
            rate_pool: None,
        };
        let cluster =
            ClusterView { cluster: "eu".parse().unwrap(), region: None, labels: Vec::new(), holds: Holds::NONE };
        FleetView { clusters: vec![cluster], generals: vec![view], ..FleetView::default() }
    }

    fn reason(standing: &Standing, kind: &str) -> String {
        standing.conditions.iter().find(|said| said.kind == kind).unwrap().reason.clone()
    }

    #[test]
    fn a_general_without_instances_says_that_its_work_waits() {
        let made = Made::General { name: "x".parse().unwrap(), ty: None, labels: Vec::new(), holds: Holds::NONE };
        let object = object(ObjectKind::General, made);
        let fleet = general(Holds::NONE);
        let standing = Seen::new(&fleet, &[], None).standing(&object);
        assert_eq!((reason(&standing, ACCEPTED), reason(&standing, READY)), ("Accepted".into(), "NoInstance".into()));
        let status: GeneralStatus = serde_json::from_str(&standing.status).unwrap();
        assert_eq!((status.waiting, status.ty.as_deref()), (3, Some("t")));
        assert!(!standing.status.contains("conditions"));

        let fleet = general(Holds::DRAINING);
        assert_eq!(reason(&Seen::new(&fleet, &[], None).standing(&object), READY), "Drained");
        let fleet = FleetView::default();
        assert_eq!(reason(&Seen::new(&fleet, &[], None).standing(&object), READY), "NotKnown");
    }

    #[test]
    fn a_route_says_its_place_and_whether_anybody_fits() {
        let table = RouteTable::stock();
        let last = table.routes.last().unwrap();
        let object = object(ObjectKind::Route, Made::Route { name: last.name.clone(), holds: Holds::NONE });
        let fleet = general(Holds::NONE);
        let standing = Seen::new(&fleet, &[], Some(&table)).standing(&object);
        let status: RouteStatus = serde_json::from_str(&standing.status).unwrap();
        assert_eq!(status.place, u32::try_from(table.routes.len()).ok());
        assert_eq!(reason(&standing, READY), "NoGeneral");
    }
}
