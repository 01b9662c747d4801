//! Routes in force, with the generals they could choose and the work that waits for one of those.
//!
//! Invariant: a route's deliveries keep their route under its name, also after it has left the table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::{Equivalent, HashMap};
use mindos_model::{RouteName, Seq, TenantName};

use crate::affinity::KeptOut;
use crate::aside::Aside;
use crate::degrade::Cheaper;
use crate::guard::{self, Guarded};
use crate::input::NewEvent;
use crate::queue::Queue;
use crate::record::{Holds, RoutesApplied};
use crate::registry::{General, GeneralIdx, Registry};
use crate::route::{Route, RouteTable, Targets};
use crate::route_index::{Looked, RouteIndex};
use crate::shadow::ShadowSide;
use crate::strategy::{self, Ranks};
use crate::tenants::TenantIdx;

/// Place of a route in the routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RouteIdx(pub(crate) u32);

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) tenant: TenantName,
    pub(crate) tenant_idx: TenantIdx,
    pub(crate) route: Arc<Route>,
    pub(crate) holds: Holds,
    /// The general that round robin chose last.
    pub(crate) cursor: Option<GeneralIdx>,
    /// Generals that the targets name and that may have its work.
    pub(crate) members: BTreeSet<GeneralIdx>,
    /// Others that they name: those that affinity or residency keeps out.
    pub(crate) kept_out: BTreeMap<GeneralIdx, KeptOut>,
    pub(crate) queue: Queue,
    /// Events open under it.
    pub(crate) events: u64,
    pub(crate) ranks: Ranks,
    /// Lanes whose general has no free slot.
    pub(crate) aside: Aside,
    pub(crate) shadow: Option<Box<ShadowSide>>,
    /// Who takes its work while a budget is low.
    pub(crate) cheaper: Option<Box<Cheaper>>,
}

#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) table: Arc<RouteTable>,
    pub(crate) at: Seq,
    order: Vec<RouteIdx>,
    index: RouteIndex,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Routing {
    rules: Vec<Rule>,
    // Hashed, because every event passes here; nobody iterates it.
    by_name: HashMap<(TenantName, RouteName), RouteIdx, FixedState>,
    pub(crate) tenants: BTreeMap<TenantName, InForce>,
}

/// A route's full name, to look one up without making it.
#[derive(Hash)]
struct Named<'a>(&'a TenantName, &'a RouteName);

impl Equivalent<(TenantName, RouteName)> for Named<'_> {
    fn equivalent(&self, (tenant, name): &(TenantName, RouteName)) -> bool {
        self.0 == tenant && self.1 == name
    }
}

impl Routing {
    pub(crate) fn new(hasher: FixedState) -> Routing {
        Routing { by_name: HashMap::with_hasher(hasher), ..Routing::default() }
    }

    pub(crate) fn rule(&self, idx: RouteIdx) -> &Rule {
        &self.rules[idx.0 as usize]
    }

    pub(crate) fn rule_mut(&mut self, idx: RouteIdx) -> &mut Rule {
        &mut self.rules[idx.0 as usize]
    }

    pub(crate) fn find(&self, tenant: &TenantName, name: &RouteName) -> Option<RouteIdx> {
        self.by_name.get(&Named(tenant, name)).copied()
    }

    /// Whether the event has to be judged against the conditions of the table in force before it can be routed. One that was judged by
    /// another table has to be, whatever it asks for: so of events that were judged by one table and follow each other, none passes
    /// one that is given back.
    pub(crate) fn wants_judging(&self, event: &NewEvent) -> bool {
        let Some(InForce { at, index, .. }) = self.tenants.get(&event.tenant) else { return false };
        match event.judged {
            Some(judged) => judged.table != *at,
            None => event.routed && event.asked.is_none() && index.is_conditional(),
        }
    }

    /// The first route that fits, and what stops the event there.
    pub(crate) fn matching(&self, event: &NewEvent) -> Option<(RouteIdx, Option<Guarded>)> {
        let InForce { table, order, index, at: _ } = self.tenants.get(&event.tenant)?;
        let looked = Looked { kind: &event.kind, ty: &event.ty, subject: event.subject.as_deref() };
        let holds = event.judged.and_then(|judged| judged.holds);
        let first = index.first(table, looked, |place| holds == Some(place))? as usize;
        Some((order[first], self.guarded(event, &table.routes[first])))
    }

    /// What stops an event that goes by this route, which may be one that its publisher asked for.
    pub(crate) fn guarded(&self, event: &NewEvent, route: &Route) -> Option<Guarded> {
        let trust = self.tenants.get(&event.tenant).and_then(|in_force| in_force.table.trust.as_deref());
        guard::judge(trust, route.guards.as_deref(), event.trust.as_deref(), event.actor.as_deref())
    }

    pub(crate) fn apply(&mut self, record: &RoutesApplied, at: Seq, registry: &mut Registry, hasher: &FixedState) {
        let RoutesApplied { tenant, table, by: _, from: _ } = record;
        let put = |route: &Route| self.put(tenant, Arc::new(route.clone()), registry, hasher);
        let order = table.routes.iter().map(put).collect();
        let in_force = InForce { table: table.clone(), at, order, index: RouteIndex::new(table) };
        self.tenants.insert(tenant.clone(), in_force);
    }

    /// Puts a definition under its name and finds its generals.
    pub(crate) fn put(
        &mut self,
        tenant: &TenantName,
        route: Arc<Route>,
        registry: &mut Registry,
        hasher: &FixedState,
    ) -> RouteIdx {
        let key = (tenant.clone(), route.name.clone());
        let idx = match self.by_name.get(&key).copied() {
            Some(idx) => {
                self.rule_mut(idx).route = route;
                idx
            }
            None => {
                let idx = RouteIdx(u32::try_from(self.rules.len()).expect("fewer routes than 2^32 were ever named"));
                self.rules.push(Rule {
                    tenant: tenant.clone(),
                    tenant_idx: TenantIdx::default(),
                    route,
                    holds: Holds::NONE,
                    cursor: None,
                    members: BTreeSet::new(),
                    kept_out: BTreeMap::new(),
                    queue: Queue::new(hasher.clone()),
                    events: 0,
                    ranks: Ranks::default(),
                    aside: Aside::default(),
                    shadow: None,
                    cheaper: None,
                });
                self.by_name.insert(key, idx);
                idx
            }
        };
        self.rule_mut(idx).cheaper = Cheaper::new(&self.rule(idx).route.policy.degrade);
        if self.rule(idx).route.policy.shadow.is_some() {
            self.rule_mut(idx).shadow_side(hasher);
        }
        for general in registry.iter().map(|(general, _)| general).collect::<Vec<_>>() {
            self.rejoin_one(idx, general, registry);
        }
        idx
    }

    /// Gives a rule's place to a route of another name.
    pub(crate) fn rename(&mut self, idx: RouteIdx, tenant: &TenantName, name: &RouteName) {
        let Rule { tenant: of, route, cursor, .. } = &mut self.rules[idx.0 as usize];
        self.by_name.remove(&Named(of, &route.name));
        (*of, *cursor) = (tenant.clone(), None);
        self.by_name.insert((tenant.clone(), name.clone()), idx);
    }

    /// Says which place the tenant of its routes has.
    pub(crate) fn adopt(&mut self, tenant: &TenantName, idx: TenantIdx) {
        self.rules.iter_mut().filter(|rule| rule.tenant == *tenant).for_each(|rule| rule.tenant_idx = idx);
    }

    /// A general appeared or changed: finds the routes that name it.
    pub(crate) fn rejoin(&mut self, general: GeneralIdx, registry: &mut Registry) {
        for idx in (0..self.rules.len()).map(|idx| RouteIdx(u32::try_from(idx).expect("as many as were put"))) {
            self.rejoin_one(idx, general, registry);
        }
    }

    pub(crate) fn leave(&mut self, general: GeneralIdx) {
        for rule in &mut self.rules {
            rule.members.remove(&general);
            rule.kept_out.remove(&general);
            rule.ranks.set(general, None);
            if let Some(side) = &mut rule.shadow {
                side.members.remove(&general);
            }
            if let Some(cheaper) = &mut rule.cheaper {
                cheaper.leave(general);
            }
            if rule.cursor == Some(general) {
                rule.cursor = None;
            }
        }
    }

    fn rejoin_one(&mut self, idx: RouteIdx, general_idx: GeneralIdx, registry: &mut Registry) {
        let rule = self.rule_mut(idx);
        let general = registry.general(general_idx);
        let is_named = rule.tenant == general.key.tenant && names(&rule.route.targets, general, registry);
        let region = registry.region_of(&general.key);
        let kept_out = rule.route.keeps_out(&general.key.cluster, region);
        match kept_out.filter(|_| is_named) {
            Some(why) => rule.kept_out.insert(general_idx, why),
            None => rule.kept_out.remove(&general_idx),
        };
        let fits = is_named && kept_out.is_none();
        if fits {
            rule.members.insert(general_idx)
        } else {
            rule.members.remove(&general_idx)
        };
        rule.ranks.set(general_idx, if fits { strategy::rank(&rule.route, general) } else { None });
        let shadowed = rule.tenant == general.key.tenant
            && kept_out.is_none()
            && rule.route.policy.shadow.as_ref().is_some_and(|targets| names(targets, general, registry));
        if let Some(side) = &mut rule.shadow {
            if shadowed {
                side.members.insert(general_idx)
            } else {
                side.members.remove(&general_idx)
            };
        }
        let Rule { cheaper, route, tenant, .. } = rule;
        let stands_in = cheaper.as_deref_mut().filter(|_| *tenant == general.key.tenant);
        let may = kept_out.is_none();
        let stands_in =
            stands_in.is_some_and(|cheaper| cheaper.rejoin(&route.policy.degrade, general_idx, general, (fits, may)));
        let general = registry.general_mut(general_idx);
        general.stands_in.retain(|route| *route != idx);
        if stands_in {
            general.stands_in.push(idx);
        }
        general.routes.retain(|route| *route != idx);
        if fits {
            general.routes.push(idx);
        }
        general.shadows.retain(|route| *route != idx);
        if shadowed {
            general.shadows.push(idx);
        }
        let mut all = general.routes.iter().chain(&general.shadows).chain(&general.stands_in);
        general.is_picked_over = all.any(|route| self.rules[route.0 as usize].route.picks_instances());
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (RouteIdx, &Rule)> {
        (0..).map(RouteIdx).zip(&self.rules)
    }
}

fn names(targets: &Targets, general: &General, registry: &Registry) -> bool {
    let Targets { types, clusters, regions, names, labels, weights: _ } = targets;
    let cluster = registry.cluster_of(&general.key);
    let region = cluster.and_then(|cluster| cluster.region.as_ref());
    (types.is_empty() || types.contains(&general.ty))
        && (clusters.is_empty() || clusters.contains(&general.key.cluster))
        && (regions.is_empty() || region.is_some_and(|region| regions.contains(region)))
        && (names.is_empty() || names.contains(&general.key.name))
        && labels.iter().all(|label| {
            general.labels.contains(label) || cluster.is_some_and(|cluster| cluster.labels.contains(label))
        })
}
