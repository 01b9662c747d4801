//! The routing table with the routes of objects in their places.
//!
//! ```text
//!  First, by order and owner | the table's own routes | Last, by order and owner | the one that takes every event
//! ```
//! Invariant: arranging twice is arranging once, and no route of the table itself moves against another.

use mindos_core::object::{Made, Object, ObjectKey};
use mindos_core::route::{Route, RouteTable};
use mindos_kube::mindos::{RoutePlacement, RouteSpec};
use mindos_model::RouteName;

/// A route of an object.
#[derive(Clone, Debug)]
pub struct Placed {
    pub owner: ObjectKey,
    pub placement: RoutePlacement,
    pub order: u32,
    pub route: Route,
}

/// The routes of objects that stand in a table.
#[must_use]
pub fn placed<'a>(table: &RouteTable, objects: impl IntoIterator<Item = &'a Object>) -> Vec<Placed> {
    let owned = objects.into_iter().filter_map(|object| {
        let Made::Route { name, .. } = &object.made else { return None };
        let route = table.routes.iter().find(|route| route.name == *name)?.clone();
        // What was applied once reads again; what a later release wrote stands at the end.
        let spec: RouteSpec = serde_json::from_str(&object.spec).unwrap_or_default();
        Some(Placed { owner: object.key.clone(), placement: spec.placement, order: spec.order, route })
    });
    owned.collect()
}

/// A table with these routes of objects, and no other one that was one of an object's before.
#[must_use]
pub fn arrange(table: &RouteTable, were: &[RouteName], mut placed: Vec<Placed>) -> RouteTable {
    placed.sort_by(|a, b| (a.order, &a.owner).cmp(&(b.order, &b.owner)));
    let is_placed = |name: &RouteName| were.contains(name) || placed.iter().any(|placed| placed.route.name == *name);
    let mut own: Vec<_> = table.routes.iter().filter(|route| !is_placed(&route.name)).cloned().collect();
    let last = own.pop();
    let at = |placement| {
        let there = placed.iter().filter(move |placed| placed.placement == placement);
        there.map(|placed| placed.route.clone())
    };
    let (first, behind) = (at(RoutePlacement::First), at(RoutePlacement::Last));
    let routes = first.chain(own).chain(behind).chain(last).collect();
    RouteTable { routes, trust: table.trust.clone() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mindos_core::object::ObjectKind;
    use mindos_core::record::Holds;
    use mindos_core::route::{Match, Pattern, Targets};
    use mindos_model::{Strategy, TenantName};

    use super::*;

    fn route(name: &str, kind: Option<&str>) -> Route {
        let kinds = kind.map(|kind| Pattern::new(kind).unwrap()).into_iter().collect();
        let matches = Match { kinds, ..Match::default() };
        let targets = Targets { types: vec!["t".parse().unwrap()], ..Targets::default() };
        Route::new(name.parse().unwrap(), matches, targets, Strategy::RoundRobin)
    }

    fn owner(name: &str) -> ObjectKey {
        let (tenant, cluster) = (TenantName::default_tenant(), "eu".parse().unwrap());
        ObjectKey { tenant, cluster, kind: ObjectKind::Route, namespace: "a".into(), name: name.into() }
    }

    fn placed_at(name: &str, placement: RoutePlacement, order: u32) -> Placed {
        Placed { owner: owner(name), placement, order, route: route(name, Some("x")) }
    }

    fn names(table: &RouteTable) -> Vec<&str> {
        table.routes.iter().map(|route| route.name.as_str()).collect()
    }

    #[test]
    fn routes_of_objects_stand_around_those_of_the_table() {
        let table =
            RouteTable { routes: vec![route("a", Some("a")), route("b", Some("b")), route("all", None)], trust: None };
        let placed = vec![
            placed_at("y", RoutePlacement::Last, 7),
            placed_at("z", RoutePlacement::First, 9),
            placed_at("x", RoutePlacement::Last, 7),
            placed_at("w", RoutePlacement::First, 2),
        ];
        let arranged = arrange(&table, &[], placed.clone());
        assert_eq!(names(&arranged), ["w", "z", "a", "b", "x", "y", "all"]);
        assert_eq!(arrange(&arranged, &[], placed.clone()), arranged);
        arranged.check().unwrap();

        let were: Vec<_> = placed.iter().map(|placed| placed.route.name.clone()).collect();
        assert_eq!(arrange(&arranged, &were, placed[..1].to_vec()).routes.len(), 4);
        assert_eq!(arrange(&arranged, &were, Vec::new()), table);
    }

    #[test]
    fn a_table_says_where_its_objects_want_their_routes() {
        let table = RouteTable { routes: vec![route("w", Some("w")), route("all", None)], trust: None };
        let made = Made::Route { name: "w".parse().unwrap(), holds: Holds::NONE };
        let spec = Arc::from(r#"{"placement":"First","order":3}"#);
        let object = Object { key: owner("w"), uid: "u".into(), generation: 1, spec, made };
        let placed = placed(&table, [&object]);
        assert!(matches!(&placed[..], [Placed { placement: RoutePlacement::First, order: 3, .. }]));
    }
}
