//! The reference for objects of clusters: what the records say of who made what, folded without any of the core's code.
//!
//! Invariants: a thing has one owner at a time, whose changes alone touch it; what an object wants is there with it, and what goes
//! with its object is gone; nothing is written twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mindos_core::Durable;
use mindos_core::object::{Made, Object, ObjectKey, ObjectKind, ObjectRecord, Thing};
use mindos_core::record::{Entry, Labels, Record};
use mindos_core::route::Route;
use mindos_core::snapshot::Item;
use mindos_model::{BudgetName, ClusterName, GeneralName, GeneralType, Region, RouteName};

use crate::coverage::Coverage;
use crate::ledger::Broken;

/// What nobody but pools that are kept makes known.
pub const POOL_ONLY: &str = "e";

/// The reference state.
#[derive(Debug, Default)]
pub struct ObjectFacts {
    pub held: BTreeMap<ObjectKey, Arc<Object>>,
    owners: BTreeMap<Thing, ObjectKey>,
    /// The table in force, in its order.
    pub table: Vec<Route>,
    budgets: BTreeSet<BudgetName>,
    generals: BTreeMap<(ClusterName, GeneralName), (GeneralType, Labels)>,
    clusters: BTreeMap<ClusterName, (Option<Region>, Labels)>,
    /// Registered otherwise than its object says: the object has to say it next.
    otherwise: Option<Thing>,
}

impl ObjectFacts {
    /// Who made a thing.
    #[must_use]
    pub fn owner(&self, thing: &Thing) -> Option<&ObjectKey> {
        self.owners.get(thing)
    }

    /// Whether a thing is there without being an object's.
    #[must_use]
    pub fn is_taken(&self, thing: &Thing) -> bool {
        match thing {
            Thing::Route(name) => !self.owners.contains_key(thing) && self.has_route(name),
            Thing::Budget(name) => !self.owners.contains_key(thing) && self.budgets.contains(name),
            Thing::Cluster(_) | Thing::General(..) => false,
        }
    }

    /// Routes of the table that objects made, with their places.
    pub fn owned_routes(&self) -> impl Iterator<Item = (usize, &Route)> {
        let is_owned = |route: &Route| self.owners.contains_key(&Thing::Route(route.name.clone()));
        self.table.iter().enumerate().filter(move |(_, route)| is_owned(route))
    }

    fn has_route(&self, name: &RouteName) -> bool {
        self.table.iter().any(|route| route.name == *name)
    }

    /// Folds and judges a record.
    ///
    /// # Errors
    /// Names the invariant that the record breaks.
    pub fn fold(&mut self, entry: &Entry, coverage: &mut Coverage) -> Result<(), Broken> {
        let record = &entry.record;
        if let Some(thing) = self.otherwise.take() {
            match record {
                Record::HoldChanged(_) => self.otherwise = Some(thing),
                Record::Object(record) if self.owner(&thing) == Some(record.key()) => {}
                _ => {
                    return Err(format!(
                        "what_an_object_says_holds: {thing} was registered otherwise at {}",
                        entry.seq
                    ));
                }
            }
        }
        match record {
            Record::Object(record) => self.object(record, coverage)?,
            Record::RoutesApplied(record) => {
                let find = |table: &[Route], name: &RouteName| table.iter().find(|route| route.name == *name).cloned();
                for (thing, owner) in &self.owners {
                    let Thing::Route(name) = thing else { continue };
                    if find(&self.table, name) != find(&record.table.routes, name) {
                        is_by(owner, thing, &record.by)?;
                    }
                }
                self.table.clone_from(&record.table.routes);
            }
            Record::BudgetSet(record) => {
                self.is_by_its_owner(Thing::Budget(record.budget.name.clone()), &record.by)?;
                self.budgets.insert(record.budget.name.clone());
            }
            Record::BudgetRemoved(record) => {
                self.is_by_its_owner(Thing::Budget(record.budget.clone()), &record.by)?;
                self.budgets.remove(&record.budget);
            }
            Record::GeneralRemoved(record) => {
                let (cluster, name) = (record.key.cluster.clone(), record.key.name.clone());
                self.is_by_its_owner(Thing::General(cluster.clone(), name.clone()), &record.by)?;
                self.generals.remove(&(cluster, name));
            }
            Record::GeneralRegistered(record) => {
                let (cluster, name) = (record.key.cluster.clone(), record.key.name.clone());
                if name.as_str() == POOL_ONLY {
                    coverage.note("general of a kept pool");
                }
                let thing = Thing::General(cluster.clone(), name.clone());
                self.generals.insert((cluster, name), (record.ty.clone(), record.labels.clone()));
                self.look_at(thing);
            }
            Record::ClusterRegistered(record) => {
                self.clusters.insert(record.cluster.clone(), (record.region.clone(), record.labels.clone()));
                self.look_at(Thing::Cluster(record.cluster.clone()));
            }
            _ => {}
        }
        Ok(())
    }

    fn is_by_its_owner(&self, thing: Thing, by: &str) -> Result<(), Broken> {
        self.owner(&thing).map_or(Ok(()), |owner| is_by(owner, &thing, by))
    }

    /// Notes where something is registered otherwise than its object says.
    fn look_at(&mut self, thing: Thing) {
        let made = self.owner(&thing).and_then(|owner| self.held.get(owner)).map(|object| object.made.clone());
        if made.is_some_and(|made| !self.is_as_said(&thing, &made)) {
            self.otherwise = Some(thing);
        }
    }

    /// Whether a thing is there, and as its object says.
    fn is_as_said(&self, thing: &Thing, made: &Made) -> bool {
        let fits = |said: &Labels, labels: &Labels| said.is_empty() || said == labels;
        match (thing, made) {
            (Thing::Cluster(cluster), Made::Cluster { region, labels, .. }) => {
                self.clusters.get(cluster).is_some_and(|known| {
                    region.as_ref().is_none_or(|region| known.0.as_ref() == Some(region)) && fits(labels, &known.1)
                })
            }
            (Thing::General(cluster, name), Made::General { ty, labels, .. }) => self
                .generals
                .get(&(cluster.clone(), name.clone()))
                .is_some_and(|known| ty.as_ref().is_none_or(|ty| known.0 == *ty) && fits(labels, &known.1)),
            (Thing::Route(name), Made::Route { .. }) => self.has_route(name),
            (Thing::Budget(name), Made::Budget { .. }) => self.budgets.contains(name),
            (Thing::Cluster(_) | Thing::General(..) | Thing::Route(_) | Thing::Budget(_), _) => false,
        }
    }

    fn object(&mut self, record: &ObjectRecord, coverage: &mut Coverage) -> Result<(), Broken> {
        match record {
            ObjectRecord::Applied { object, by, from: _ } => {
                let (key, thing) = (&object.key, object.made.thing(&object.key.cluster));
                coverage.note(word(key.kind, true));
                is_by(key, &thing, by)?;
                let before = self.held.insert(key.clone(), object.clone());
                if before.as_ref() == Some(object) {
                    return Err(format!("nothing_is_doubled: {key} was applied again as it is"));
                }
                if before.as_ref().is_some_and(|before| before.uid != object.uid) {
                    coverage.note("object under another uid");
                }
                if before.is_some_and(|before| before.made.thing(&key.cluster) != thing) {
                    return Err(format!("an_object_keeps_its_thing: {key} made {thing}"));
                }
                if let Some(owner) = self.owners.insert(thing.clone(), key.clone()).filter(|owner| owner != key) {
                    return Err(format!("a_thing_has_one_owner: {thing} was {owner}'s and is {key}'s"));
                }
                if !self.is_as_said(&thing, &object.made) {
                    return Err(format!("what_an_object_says_holds: {thing} of {key} is not there or otherwise"));
                }
            }
            ObjectRecord::Removed { key, by, from: _ } => {
                coverage.note(word(key.kind, false));
                let Some(object) = self.held.remove(key) else {
                    return Err(format!("nothing_is_doubled: {key} was removed and is not there"));
                };
                let thing = object.made.thing(&key.cluster);
                is_by(key, &thing, by)?;
                self.owners.remove(&thing);
                let is_left = match &thing {
                    Thing::Route(name) => self.has_route(name),
                    Thing::Budget(name) => self.budgets.contains(name),
                    // They are there as long as somebody serves or needs them.
                    Thing::Cluster(_) | Thing::General(..) => false,
                };
                if is_left {
                    return Err(format!("what_is_pruned_is_gone: {thing} outlived {key}"));
                }
            }
        }
        Ok(())
    }

    /// Compares with what the core holds.
    ///
    /// # Errors
    /// Names an object that only one of them knows, or knows otherwise.
    pub fn compare(&self, durable: &Durable) -> Result<(), Broken> {
        let of = |item| if let Item::Object(object) = item { Some(object) } else { None };
        let held: Vec<_> = durable.export().into_iter().filter_map(of).collect();
        let known: Vec<_> = self.held.values().cloned().collect();
        if held == known { Ok(()) } else { Err(format!("objects_are_as_recorded: {held:?} against {known:?}")) }
    }
}

fn is_by(owner: &ObjectKey, thing: &Thing, by: &str) -> Result<(), Broken> {
    if owner.to_string() == by {
        return Ok(());
    }
    Err(format!("what_an_object_made_is_its_own: {thing} of {owner} was changed by `{by}`"))
}

fn word(kind: ObjectKind, applied: bool) -> &'static str {
    match (kind, applied) {
        (ObjectKind::Cluster, true) => "cluster object applied",
        (ObjectKind::General, true) => "general object applied",
        (ObjectKind::Route, true) => "route object applied",
        (ObjectKind::Budget, true) => "budget object applied",
        (ObjectKind::Cluster, false) => "cluster object removed",
        (ObjectKind::General, false) => "general object removed",
        (ObjectKind::Route, false) => "route object removed",
        (ObjectKind::Budget, false) => "budget object removed",
    }
}
