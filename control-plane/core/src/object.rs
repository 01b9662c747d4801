//! Objects: what stands in a Kubernetes cluster, as its agent brought it, and what it made here.
//!
//! ```text
//!  apply --> is the thing free, or ours? --> what changes of it + `ObjectRecord::Applied`   one batch
//!  remove --> is it the same object? ------> what undoes it    + `ObjectRecord::Removed`
//! ```
//! Invariant: what an object made has that one owner, and nobody else changes it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mindos_model::{
    BudgetName, ClusterName, GeneralName, GeneralType, Region, RouteName, Seq, TenantName, limits::OBJECTS_MAX,
};

use crate::budget::Budget;
use crate::decide::{Context, Decision};
use crate::durable::Durable;
use crate::input::RequestId;
use crate::output::{Output, PlaneMessage, Rejection, Reply};
use crate::record::{
    BudgetRemoved, ClusterRegistered, GeneralKey, GeneralRegistered, GeneralRemoved, HoldChanged, HoldTarget, Holds,
    Labels, Record, RoutesApplied,
};
use crate::route::RouteTable;

/// Kinds of objects, in the order in which they are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    Cluster,
    General,
    Route,
    Budget,
}

/// Names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub tenant: TenantName,
    pub cluster: ClusterName,
    pub kind: ObjectKind,
    /// Empty where it is in none.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// The owner of what the object made, as the ledger has it.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kubernetes:{}/", self.cluster)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// An object as it was applied last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: ObjectKey,
    /// Another uid under the same key is another object.
    pub uid: Arc<str>,
    pub generation: i64,
    /// As JSON.
    pub spec: Arc<str>,
    pub made: Made,
}

/// What an object made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// It says where its cluster is. What is unset or empty stays as agents say.
    Cluster {
        region: Option<Region>,
        labels: Labels,
        holds: Holds,
    },
    General {
        name: GeneralName,
        ty: Option<GeneralType>,
        labels: Labels,
        holds: Holds,
    },
    Route {
        name: RouteName,
        holds: Holds,
    },
    Budget {
        name: BudgetName,
    },
}

/// What an object is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Thing {
    Cluster(ClusterName),
    General(ClusterName, GeneralName),
    Route(RouteName),
    Budget(BudgetName),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Cluster(cluster) => write!(f, "cluster {cluster}"),
            Thing::General(cluster, name) => write!(f, "general {cluster}/{name}"),
            Thing::Route(name) => write!(f, "route {name}"),
            Thing::Budget(name) => write!(f, "budget {name}"),
        }
    }
}

impl Made {
    /// The kind of the object that makes it.
    #[must_use]
    pub fn kind(&self) -> ObjectKind {
        match self {
            Made::Cluster { .. } => ObjectKind::Cluster,
            Made::General { .. } => ObjectKind::General,
            Made::Route { .. } => ObjectKind::Route,
            Made::Budget { .. } => ObjectKind::Budget,
        }
    }

    /// What it is about, in its cluster.
    #[must_use]
    pub fn thing(&self, cluster: &ClusterName) -> Thing {
        match self {
            Made::Cluster { .. } => Thing::Cluster(cluster.clone()),
            Made::General { name, .. } => Thing::General(cluster.clone(), name.clone()),
            Made::Route { name, .. } => Thing::Route(name.clone()),
            Made::Budget { name } => Thing::Budget(name.clone()),
        }
    }

    /// What it holds back.
    fn holds(&self) -> Holds {
        match self {
            Made::Cluster { holds, .. } | Made::General { holds, .. } | Made::Route { holds, .. } => *holds,
            Made::Budget { .. } => Holds::NONE,
        }
    }
}

/// What somebody wants of an object.
#[derive(Clone, Debug)]
pub enum ObjectChange {
    /// It is there and says this. Answered with [`Reply::Object`].
    Apply { object: Arc<Object>, with: With },
    /// It is gone. Unset `uid` means whichever is there. Answered with [`Reply::Object`].
    Remove { key: ObjectKey, uid: Option<Arc<str>>, with: With },
}

impl ObjectChange {
    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> &TenantName {
        match self {
            ObjectChange::Apply { object, with: _ } => &object.key.tenant,
            ObjectChange::Remove { key, .. } => &key.tenant,
        }
    }
}

/// What the change brings along, beside what the object itself says.
#[derive(Clone, Debug)]
pub enum With {
    Nothing,
    /// The whole table as it is to be, made from that of the record.
    Routes(Arc<RouteTable>, Seq),
    Budget(Arc<Budget>),
}

/// What the journal says of objects. In each `by` is the owner of what changes, and `from` the agent and the address that it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectRecord {
    Applied { object: Arc<Object>, by: Arc<str>, from: Arc<str> },
    Removed { key: ObjectKey, by: Arc<str>, from: Arc<str> },
}

impl ObjectRecord {
    /// Name of the kind, as the ledger shows it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            ObjectRecord::Applied { .. } => "ObjectApplied",
            ObjectRecord::Removed { .. } => "ObjectRemoved",
        }
    }

    /// Bytes of what the object says.
    pub(crate) fn weight(&self) -> usize {
        match self {
            ObjectRecord::Applied { object, .. } => object.spec.len(),
            ObjectRecord::Removed { .. } => 0,
        }
    }

    /// The object.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        match self {
            ObjectRecord::Applied { object, .. } => &object.key,
            ObjectRecord::Removed { key, .. } => key,
        }
    }
}

/// All objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Objects {
    by_key: BTreeMap<ObjectKey, Arc<Object>>,
    owners: BTreeMap<(TenantName, Thing), ObjectKey>,
    counts: BTreeMap<(TenantName, ClusterName), usize>,
}

impl Objects {
    pub(crate) fn put(&mut self, object: &Arc<Object>) {
        let Object { key, made, .. } = object.as_ref();
        let cluster = (key.tenant.clone(), key.cluster.clone());
        match self.by_key.insert(key.clone(), object.clone()) {
            Some(before) => {
                self.owners.remove(&(key.tenant.clone(), before.made.thing(&key.cluster)));
            }
            None => *self.counts.entry(cluster).or_default() += 1,
        }
        let before = self.owners.insert((key.tenant.clone(), made.thing(&key.cluster)), key.clone());
        assert!(before.is_none(), "an object took what another one has made");
    }

    pub(crate) fn remove(&mut self, key: &ObjectKey) {
        let Some(object) = self.by_key.remove(key) else { return };
        self.owners.remove(&(key.tenant.clone(), object.made.thing(&key.cluster)));
        let cluster = (key.tenant.clone(), key.cluster.clone());
        if let Some(count) = self.counts.get_mut(&cluster) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&cluster);
            }
        }
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.by_key.get(key)
    }

    /// The object that made a thing.
    pub(crate) fn owner(&self, tenant: &TenantName, thing: Thing) -> Option<&Arc<Object>> {
        if self.by_key.is_empty() {
            return None;
        }
        self.owners.get(&(tenant.clone(), thing)).and_then(|key| self.by_key.get(key))
    }

    /// Refuses what somebody else wants of a thing that an object made.
    pub(crate) fn check_free(&self, tenant: &TenantName, thing: Thing) -> Result<(), Rejection> {
        match self.owner(tenant, thing.clone()) {
            Some(owner) => Err(Rejection::Owned { what: thing.to_string(), owner: owner.key.to_string() }),
            None => Ok(()),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.by_key.values()
    }

    /// Those of a tenant, in the order of their keys.
    pub(crate) fn of_tenant(&self, tenant: &TenantName) -> impl Iterator<Item = &Arc<Object>> {
        self.by_key.values().filter(move |object| object.key.tenant == *tenant)
    }

    /// Refuses a table in which a route of an object is not what it was.
    pub(crate) fn check_routes(
        &self,
        tenant: &TenantName,
        before: &RouteTable,
        after: &RouteTable,
    ) -> Result<(), Rejection> {
        let mut owned = self.of_tenant(tenant).filter_map(|object| match &object.made {
            Made::Route { name, .. } => Some((name, &object.key)),
            Made::Cluster { .. } | Made::General { .. } | Made::Budget { .. } => None,
        });
        let find =
            |table: &RouteTable, name: &RouteName| table.routes.iter().find(|route| route.name == *name).cloned();
        match owned.find(|(name, _)| find(before, name) != find(after, name)) {
            Some((name, key)) => {
                Err(Rejection::Owned { what: Thing::Route(name.clone()).to_string(), owner: key.to_string() })
            }
            None => Ok(()),
        }
    }
}

type Origin = (Arc<str>, Arc<str>);

impl Durable {
    pub(crate) fn change_object(
        &self,
        request: RequestId,
        change: ObjectChange,
        origin: Origin,
        context: Context<'_>,
    ) -> Decision {
        let changed = match change {
            ObjectChange::Apply { object, with } => self.apply_object(&object, with, origin, context),
            ObjectChange::Remove { key, uid, with } => self.remove_object(&key, uid.as_deref(), with, origin, context),
        };
        match changed {
            Ok((records, sends)) => {
                let reply = Reply::Object { changed: !records.is_empty() };
                let mut decision = Decision::reply(request, Ok(reply));
                decision.records = records.into();
                decision.outputs.extend(sends);
                decision
            }
            Err(rejection) => Decision::reply(request, Err(rejection)),
        }
    }

    fn apply_object(
        &self,
        object: &Arc<Object>,
        with: With,
        (by, from): Origin,
        context: Context<'_>,
    ) -> Result<(Vec<Record>, Vec<Output>), Rejection> {
        let Object { key, made, .. } = object.as_ref();
        let thing = made.thing(&key.cluster);
        let held = self.objects.get(key);
        match self.objects.owner(&key.tenant, thing.clone()) {
            Some(owner) if owner.key != *key => {
                return Err(Rejection::Owned { what: thing.to_string(), owner: owner.key.to_string() });
            }
            Some(_) => {}
            None => self.check_new(key, &thing, held.map(|held| held.as_ref()))?,
        }
        let mut records = self.making(object, with, (&by, &from), context)?;
        let mut sends = Vec::new();
        if held != Some(object) {
            let before = held.map_or(Holds::NONE, |held| held.made.holds());
            self.hold_for(key, &thing, (before, made.holds()), (&by, &from), context, (&mut records, &mut sends));
            records.push(Record::Object(Box::new(ObjectRecord::Applied { object: object.clone(), by, from })));
        }
        Ok((records, sends))
    }

    /// What is not known as an object's yet: is there room, and nobody else's thing of that name?
    fn check_new(&self, key: &ObjectKey, thing: &Thing, held: Option<&Object>) -> Result<(), Rejection> {
        if let Some(held) = held {
            let was = held.made.thing(&key.cluster).to_string();
            return Err(Rejection::ObjectRenamed { what: thing.to_string(), was });
        }
        let count = self.objects.counts.get(&(key.tenant.clone(), key.cluster.clone())).copied().unwrap_or_default();
        if count >= OBJECTS_MAX {
            return Err(Rejection::ObjectsFull { cluster: key.cluster.clone(), max: OBJECTS_MAX });
        }
        let is_taken = match thing {
            Thing::Route(name) => {
                let in_force = self.routing.tenants.get(&key.tenant);
                in_force.is_some_and(|in_force| in_force.table.routes.iter().any(|route| route.name == *name))
            }
            Thing::Budget(name) => self.budgets.named(&key.tenant, name).is_some(),
            // These come by themselves, with their agents.
            Thing::Cluster(_) | Thing::General(..) => false,
        };
        match is_taken {
            true => Err(Rejection::Owned { what: thing.to_string(), owner: "no object".to_owned() }),
            false => Ok(()),
        }
    }

    /// What has to change for an object to have what it wants, but for what it holds back.
    fn making(
        &self,
        object: &Object,
        with: With,
        (by, from): (&Arc<str>, &Arc<str>),
        context: Context<'_>,
    ) -> Result<Vec<Record>, Rejection> {
        let ObjectKey { tenant, cluster, .. } = &object.key;
        let mut records = Vec::new();
        match (&object.made, with) {
            (Made::Cluster { region, labels, holds: _ }, _) => {
                let known = self.registry.clusters.get(&(tenant.clone(), cluster.clone()));
                let region = region.clone().or_else(|| known.and_then(|known| known.region.clone()));
                let labels = or_known(labels, known.map(|known| &known.labels));
                if known.is_none_or(|known| known.region != region || known.labels != labels) {
                    let (tenant, cluster) = (tenant.clone(), cluster.clone());
                    let record = ClusterRegistered { tenant, cluster, region, labels };
                    records.push(Record::ClusterRegistered(Box::new(record)));
                }
            }
            (Made::General { name, ty, labels, holds: _ }, _) => {
                let key = GeneralKey { tenant: tenant.clone(), cluster: cluster.clone(), name: name.clone() };
                let known = self.registry.find(&key).map(|idx| self.registry.general(idx));
                if known.is_none() && self.registry.len() >= context.limits.generals_max {
                    return Err(Rejection::ObjectsFull { cluster: cluster.clone(), max: context.limits.generals_max });
                }
                let own = || GeneralType::new(name.as_str()).expect("a name is a type as well");
                let ty = ty.clone().or_else(|| known.map(|known| known.ty.clone())).unwrap_or_else(own);
                let labels = or_known(labels, known.map(|known| &known.labels));
                if known.is_none_or(|known| known.ty != ty || known.labels != labels) {
                    records.push(Record::GeneralRegistered(Box::new(GeneralRegistered { key, ty, labels })));
                }
            }
            (Made::Route { .. }, With::Routes(table, expected)) => {
                records.extend(self.routes_changed(tenant, table, expected, (by, from))?);
            }
            (Made::Budget { .. }, With::Budget(budget)) => {
                records.extend(self.set_budget(tenant.clone(), budget, (by.clone(), from.clone()))?);
            }
            // A route comes with its table, and a budget with itself.
            (Made::Route { .. } | Made::Budget { .. }, _) => return Err(incomplete(&object.key)),
        }
        Ok(records)
    }

    fn routes_changed(
        &self,
        tenant: &TenantName,
        table: Arc<RouteTable>,
        expected: Seq,
        (by, from): (&Arc<str>, &Arc<str>),
    ) -> Result<Option<Record>, Rejection> {
        table.check()?;
        let in_force = self.routing.tenants.get(tenant);
        let current = in_force.map_or(Seq::ZERO, |in_force| in_force.at);
        if current != expected {
            return Err(Rejection::RoutesChanged { current, expected });
        }
        if in_force.is_some_and(|in_force| in_force.table == table) {
            return Ok(None);
        }
        let (tenant, by, from) = (tenant.clone(), by.clone(), from.clone());
        Ok(Some(Record::RoutesApplied(Box::new(RoutesApplied { tenant, table, by, from }))))
    }

    /// Ends the holds that an object wanted before and wants no more, and begins those that it wants anew. What people hold stays.
    fn hold_for(
        &self,
        key: &ObjectKey,
        thing: &Thing,
        (before, after): (Holds, Holds),
        (by, from): (&Arc<str>, &Arc<str>),
        context: Context<'_>,
        (records, sends): (&mut Vec<Record>, &mut Vec<Output>),
    ) {
        let target = match thing {
            Thing::Cluster(cluster) => HoldTarget::Cluster(cluster.clone()),
            Thing::General(cluster, name) => HoldTarget::General(cluster.clone(), name.clone()),
            Thing::Route(name) => HoldTarget::Route(name.clone()),
            Thing::Budget(_) => return,
        };
        let current = self.current_holds(&key.tenant, &target, context).unwrap_or(Holds::NONE);
        let holds = current.without(before.without(after)).with(after.without(before));
        if holds == current {
            return;
        }
        if holds.draining && !current.draining && matches!(thing, Thing::Cluster(_)) {
            let here = context.soft.instances.iter();
            let here = here.filter(|(instance, _)| instance.tenant == key.tenant && instance.cluster == key.cluster);
            let sessions = here.filter_map(|(_, instance)| instance.session);
            sends.extend(sessions.map(|session| Output::Send { session, message: PlaneMessage::Drain }));
        }
        let (tenant, why, by, from) = (key.tenant.clone(), Arc::default(), by.clone(), from.clone());
        records.push(Record::HoldChanged(Box::new(HoldChanged { tenant, target, holds, why, by, from })));
    }

    fn remove_object(
        &self,
        key: &ObjectKey,
        uid: Option<&str>,
        with: With,
        (by, from): Origin,
        context: Context<'_>,
    ) -> Result<(Vec<Record>, Vec<Output>), Rejection> {
        let Some(held) = self.objects.get(key).filter(|held| uid.is_none_or(|uid| *uid == *held.uid)) else {
            return Ok((Vec::new(), Vec::new()));
        };
        let ObjectKey { tenant, cluster, .. } = key;
        let (mut records, mut sends) = (Vec::new(), Vec::new());
        let thing = held.made.thing(cluster);
        let mut is_gone = false;
        match (&held.made, with) {
            (Made::Route { .. }, With::Routes(table, expected)) => {
                records.extend(self.routes_changed(tenant, table, expected, (&by, &from))?);
                is_gone = true;
            }
            // A route goes with the table that is left.
            (Made::Route { .. }, With::Nothing | With::Budget(_)) => return Err(incomplete(key)),
            (Made::Budget { name }, _) if self.budgets.named(tenant, name).is_some() => {
                let (tenant, budget) = (tenant.clone(), name.clone());
                let (by, from) = (by.clone(), from.clone());
                records.push(Record::BudgetRemoved(BudgetRemoved { tenant, budget, by, from }));
            }
            (Made::General { name, .. }, _) => {
                let key = GeneralKey { tenant: tenant.clone(), cluster: cluster.clone(), name: name.clone() };
                let known = self.registry.find(&key);
                let is_idle = known.is_some_and(|idx| {
                    let general = self.registry.general(idx);
                    let served = context.soft.pool(idx).is_some_and(|pool| pool.members > 0);
                    general.bound == 0 && general.leased == 0 && !served
                });
                is_gone = is_idle || known.is_none();
                if is_idle {
                    let (by, from) = (by.clone(), from.clone());
                    records.push(Record::GeneralRemoved(Box::new(GeneralRemoved { key, by, from })));
                }
            }
            (Made::Cluster { .. } | Made::Budget { .. }, _) => {}
        }
        if !is_gone {
            let ended = (held.made.holds(), Holds::NONE);
            self.hold_for(key, &thing, ended, (&by, &from), context, (&mut records, &mut sends));
        }
        records.push(Record::Object(Box::new(ObjectRecord::Removed { key: key.clone(), by, from })));
        Ok((records, sends))
    }

    /// What an object says of a general, before what its agents say.
    pub(crate) fn general_said(&self, key: &GeneralKey, ty: &GeneralType, labels: &Labels) -> (GeneralType, Labels) {
        let thing = Thing::General(key.cluster.clone(), key.name.clone());
        match self.objects.owner(&key.tenant, thing).map(|object| &object.made) {
            Some(Made::General { ty: said, labels: own, .. }) => {
                (said.clone().unwrap_or_else(|| ty.clone()), or_known(own, Some(labels)))
            }
            _ => (ty.clone(), labels.clone()),
        }
    }

    /// What an object says of a cluster, before what its agents say.
    pub(crate) fn cluster_said(
        &self,
        (tenant, cluster): (&TenantName, &ClusterName),
        region: &Option<Region>,
        labels: &Labels,
    ) -> (Option<Region>, Labels) {
        match self.objects.owner(tenant, Thing::Cluster(cluster.clone())).map(|object| &object.made) {
            Some(Made::Cluster { region: said, labels: own, .. }) => {
                (said.clone().or_else(|| region.clone()), or_known(own, Some(labels)))
            }
            _ => (region.clone(), labels.clone()),
        }
    }
}

fn incomplete(key: &ObjectKey) -> Rejection {
    Rejection::UnknownTarget { what: format!("what object {key} wants") }
}

fn or_known(said: &Labels, known: Option<&Labels>) -> Labels {
    if said.is_empty() { known.cloned().unwrap_or_default() } else { said.clone() }
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
