use mindos_model::{Strategy, Timestamp};

use super::*;
use crate::budget::{Limit, Period, Scope, Thresholds};
use crate::input::{BudgetChange, Entropy, Input, Query};
use crate::plane::{Limits, Plane};
use crate::record::EpochCause;
use crate::route::{Match, Pattern, Route, Targets};
use crate::snapshot::Item;

const NOW: Timestamp = Timestamp(1_000_000);

fn plane() -> Plane {
    Plane::new(Durable::new(), Limits::default(), "0.1.0", EpochCause::Start, NOW)
}

fn tenant() -> TenantName {
    TenantName::default_tenant()
}

fn key(kind: ObjectKind, name: &str) -> ObjectKey {
    let namespace = if kind == ObjectKind::Cluster { "" } else { "agents" };
    let cluster = "prod".parse().unwrap();
    ObjectKey { tenant: tenant(), cluster, kind, namespace: namespace.into(), name: name.into() }
}

fn object(name: &str, made: Made) -> Object {
    let key = key(made.kind(), name);
    Object { key, uid: "u1".into(), generation: 1, spec: "{}".into(), made }
}

fn offer(plane: &mut Plane, input: impl FnOnce(RequestId) -> Input) -> Result<Reply, Rejection> {
    plane.offer(input(RequestId(7)), NOW, Entropy(1));
    while let Some(batch) = plane.seal() {
        let outputs = plane.synced(batch.last(), NOW);
        for output in outputs {
            if let Output::Reply { reply, .. } = output {
                return *reply;
            }
        }
    }
    for output in plane.synced(plane.durable().seq(), NOW) {
        if let Output::Reply { reply, .. } = output {
            return *reply;
        }
    }
    panic!("no reply");
}

fn apply(plane: &mut Plane, object: &Object, with: With) -> Result<bool, Rejection> {
    let change = ObjectChange::Apply { object: Arc::new(object.clone()), with };
    changed(plane, object.key.to_string(), change)
}

fn remove(plane: &mut Plane, key: &ObjectKey, uid: Option<&str>, with: With) -> Result<bool, Rejection> {
    changed(plane, key.to_string(), ObjectChange::Remove { key: key.clone(), uid: uid.map(Arc::from), with })
}

fn changed(plane: &mut Plane, by: String, change: ObjectChange) -> Result<bool, Rejection> {
    let (by, from, change) = (by.into(), Arc::from("10.0.0.1"), Box::new(change));
    match offer(plane, |request| Input::Object { request, change, by, from })? {
        Reply::Object { changed } => Ok(changed),
        other => panic!("{other:?}"),
    }
}

fn routes(plane: &mut Plane) -> (Arc<RouteTable>, Seq) {
    match offer(plane, |request| Input::Query { request, tenant: tenant(), query: Query::Routes }) {
        Ok(Reply::Routes { table, at }) => (table, at),
        other => panic!("{other:?}"),
    }
}

fn with_route(table: &RouteTable, name: &str, kind: &str) -> Arc<RouteTable> {
    let kinds = vec![Pattern::new(kind).unwrap()];
    let matches = Match { kinds, ..Match::default() };
    let targets = Targets { types: vec!["t".parse().unwrap()], ..Targets::default() };
    let route = Route::new(name.parse().unwrap(), matches, targets, Strategy::RoundRobin);
    let mut table = table.clone();
    table.routes.insert(0, route);
    Arc::new(table)
}

fn route(name: &str) -> Made {
    Made::Route { name: name.parse().unwrap(), holds: Holds::NONE }
}

fn general(name: &str, ty: Option<&str>, holds: Holds) -> Made {
    let ty = ty.map(|ty| ty.parse().unwrap());
    Made::General { name: name.parse().unwrap(), ty, labels: Vec::new(), holds }
}

fn budget(name: &str, tokens: u64) -> Arc<Budget> {
    Arc::new(Budget {
        name: name.parse().unwrap(),
        scope: Scope::Tenant,
        period: Period::Day,
        limit: Limit { tokens: Some(tokens), ..Limit::default() },
        thresholds: Thresholds::default(),
        priority: Vec::new(),
    })
}

#[test]
fn a_repetition_changes_nothing() {
    let mut plane = plane();
    let general = object("security", general("security", Some("security-general"), Holds::NONE));

    assert_eq!(apply(&mut plane, &general, With::Nothing), Ok(true));
    assert_eq!(apply(&mut plane, &general, With::Nothing), Ok(false));
    assert_eq!(remove(&mut plane, &general.key, Some("u1"), With::Nothing), Ok(true));
    assert_eq!(remove(&mut plane, &general.key, Some("u1"), With::Nothing), Ok(false));
    assert_eq!(plane.durable().registry.len(), 0);
}

#[test]
fn an_object_that_was_made_again_is_not_removed_with_the_old_one() {
    let mut plane = plane();
    let old = object("security", general("security", None, Holds::NONE));
    let new = Object { uid: "u2".into(), ..old.clone() };
    apply(&mut plane, &old, With::Nothing).unwrap();
    apply(&mut plane, &new, With::Nothing).unwrap();

    assert_eq!(remove(&mut plane, &old.key, Some("u1"), With::Nothing), Ok(false));
    assert_eq!(remove(&mut plane, &old.key, None, With::Nothing), Ok(true));
}

#[test]
fn what_an_object_made_is_nobody_elses() {
    let mut plane = plane();
    let (table, at) = routes(&mut plane);
    let mine = object("mine", route("mine"));
    assert_eq!(apply(&mut plane, &mine, With::Routes(with_route(&table, "mine", "x"), at)), Ok(true));

    // Another object, and a person who drops or changes it.
    let (table, at) = routes(&mut plane);
    let other = object("other", route("mine"));
    let error = apply(&mut plane, &other, With::Routes(table.clone(), at)).unwrap_err();
    assert_eq!(error.to_string(), "route mine is that of kubernetes:prod/agents/mine");
    let people = |table: Arc<RouteTable>| {
        move |request| {
            let (by, from) = (Arc::from("ann"), Arc::from(""));
            Input::ApplyRoutes { request, tenant: tenant(), table, expected: None, by, from }
        }
    };
    let stock = Arc::new(RouteTable::stock());
    assert!(matches!(offer(&mut plane, people(stock)), Err(Rejection::Owned { .. })));
    let added = with_route(&table, "more", "y");
    assert!(matches!(offer(&mut plane, people(added)), Ok(Reply::Done { .. })));

    // A table of before is refused, and asked for again.
    let error = remove(&mut plane, &mine.key, None, With::Routes(table.clone(), at)).unwrap_err();
    assert!(matches!(error, Rejection::RoutesChanged { .. }));
    let (table, at) = routes(&mut plane);
    let mut left = table.as_ref().clone();
    left.routes.retain(|route| route.name.as_str() != "mine");
    assert_eq!(remove(&mut plane, &mine.key, None, With::Routes(Arc::new(left), at)), Ok(true));
    assert!(routes(&mut plane).0.routes.iter().all(|route| route.name.as_str() != "mine"));
}

#[test]
fn a_route_of_the_table_is_not_taken_over() {
    let mut plane = plane();
    let (table, at) = routes(&mut plane);
    let name = table.routes[0].name.to_string();
    let error = apply(&mut plane, &object("x", route(&name)), With::Routes(table, at)).unwrap_err();
    assert_eq!(error.to_string(), format!("route {name} is that of no object"));
}

#[test]
fn a_budget_is_its_objects_but_for_being_acknowledged() {
    let mut plane = plane();
    let made = object("team", Made::Budget { name: "team".parse().unwrap() });
    assert_eq!(apply(&mut plane, &made, With::Budget(budget("team", 10))), Ok(true));
    assert_eq!(apply(&mut plane, &made, With::Budget(budget("team", 20))), Ok(true));
    let mut person = |change| {
        let (by, from) = (Arc::from("ann"), Arc::from(""));
        offer(&mut plane, |request| Input::Budget { request, tenant: tenant(), change, by, from })
    };
    assert!(matches!(person(BudgetChange::Set(budget("team", 9))), Err(Rejection::Owned { .. })));
    assert!(matches!(person(BudgetChange::Remove("team".parse().unwrap())), Err(Rejection::Owned { .. })));
    assert!(matches!(person(BudgetChange::Acknowledge("team".parse().unwrap())), Ok(Reply::Done { .. })));

    assert_eq!(remove(&mut plane, &made.key, Some("u1"), With::Nothing), Ok(true));
    assert!(plane.durable().budgets.named(&tenant(), &"team".parse().unwrap()).is_none());
}

#[test]
fn holds_of_people_stay_and_those_of_objects_end_with_them() {
    let mut plane = plane();
    let at = GeneralKey { tenant: tenant(), cluster: "prod".parse().unwrap(), name: "a".parse().unwrap() };
    let holds = |plane: &Plane| {
        let durable = plane.durable();
        durable.registry.find(&at).map(|idx| durable.registry.general(idx).holds)
    };
    let free = object("a", general("a", None, Holds::NONE));
    let drained = Object { generation: 2, ..object("a", general("a", None, Holds::DRAINING)) };
    apply(&mut plane, &free, With::Nothing).unwrap();
    let target = HoldTarget::General(at.cluster.clone(), at.name.clone());
    let (end, begin) = (Holds::NONE, Holds::PAUSED);
    let (why, by, from) = (Arc::from(""), Arc::from("ann"), Arc::from(""));
    offer(&mut plane, |request| Input::Hold { request, tenant: tenant(), target, end, begin, why, by, from }).unwrap();

    apply(&mut plane, &drained, With::Nothing).unwrap();
    assert_eq!(holds(&plane), Some(Holds::PAUSED.with(Holds::DRAINING)));
    apply(&mut plane, &Object { generation: 3, ..free.clone() }, With::Nothing).unwrap();
    assert_eq!(holds(&plane), Some(Holds::PAUSED));
}

#[test]
fn what_an_object_is_about_cannot_change() {
    let mut plane = plane();
    let before = object("a", general("a", None, Holds::NONE));
    apply(&mut plane, &before, With::Nothing).unwrap();
    let error = apply(&mut plane, &object("a", general("b", None, Holds::NONE)), With::Nothing).unwrap_err();
    assert_eq!(error.to_string(), "what an object is about cannot change: it was general prod/a, not general prod/b");
}

#[test]
fn a_state_is_read_back_with_its_objects() {
    let mut plane = plane();
    let (table, at) = routes(&mut plane);
    apply(&mut plane, &object("mine", route("mine")), With::Routes(with_route(&table, "mine", "x"), at)).unwrap();
    apply(&mut plane, &object("a", general("a", Some("t"), Holds::PAUSED)), With::Nothing).unwrap();
    let labels = vec![("tier".into(), "gold".into())];
    let cluster = Made::Cluster { region: Some("eu".parse().unwrap()), labels, holds: Holds::DRAINING };
    apply(&mut plane, &object("prod", cluster), With::Nothing).unwrap();

    let items: Vec<Item> = plane.durable().export();
    let read = Durable::import(items.clone());
    assert_eq!(read.objects, plane.durable().objects);
    assert_eq!(read.export(), items);
    assert_eq!(read.objects.iter().count(), 3);
}
