//! Agents of clusters that bring objects: what stands in each cluster, what of it the plane is told, and both compared again.
//!
//! ```text
//!   stands in the cluster --told--> plane          away: it changes and nobody tells
//!          ^                          |            back: what differs is told, what stands no more is pruned
//!          +------- compared ---------+
//! ```
//! Invariant: once nothing disturbs them, both sides hold the same, and what was taken away in the cluster is gone in the plane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mindos_core::budget::Budget;
use mindos_core::demand::KeptPool;
use mindos_core::input::{BudgetChange, Input, Query};
use mindos_core::object::{Made, Object, ObjectChange, ObjectKey, ObjectKind, With};
use mindos_core::output::{Rejection, Reply};
use mindos_core::record::Holds;
use mindos_core::route::{Match, Pattern, Route, RouteTable, Targets};
use mindos_model::{BudgetName, ClusterName, GeneralName, GeneralType, Region, RouteName, Seq, Strategy};

use super::World;
use super::people::Asked;
use crate::faults::Fault;
use crate::ledger::Broken;
use crate::objects::POOL_ONLY;
use crate::words;

const CLUSTERS: [&str; 2] = ["c1", "c2"];
const KINDS: [ObjectKind; 4] = [ObjectKind::Cluster, ObjectKind::General, ObjectKind::Route, ObjectKind::Budget];
/// Routes that objects want: theirs alone, and one that people have. Events of the first two kinds come.
const ROUTES: [&str; 3] = ["own1", "own2", "rr"];
const BUDGETS: [&str; 3] = ["own1", "own2", "all"];
/// Those of the fleet, and one that only objects make known.
const GENERALS: [&str; 4] = ["a", "b", "c", "d"];
/// How often a table that others change meanwhile is made again, as the server does.
const TRIES: u32 = 8;
/// Rounds of healing until both sides are alike.
const ROUNDS: u32 = 10;

/// An object as its cluster has it.
#[derive(Clone, Debug)]
struct Standing {
    object: Arc<Object>,
    brings: Brings,
}

/// What an object brings along.
#[derive(Clone, Debug)]
enum Brings {
    Nothing,
    Route(Box<Route>),
    Budget(Arc<Budget>),
}

/// What the plane is told.
#[derive(Clone, Debug)]
enum What {
    Apply(Standing),
    Remove { key: ObjectKey, uid: Option<Arc<str>>, route: Option<RouteName> },
}

impl What {
    fn key(&self) -> &ObjectKey {
        match self {
            What::Apply(standing) => &standing.object.key,
            What::Remove { key, .. } => key,
        }
    }
}

/// Something the plane was told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    what: What,
    /// Of an object that is another one by now: nothing may come of it.
    stale: bool,
    tries: u32,
}

/// All clusters, as their agents see them.
#[derive(Debug, Default)]
pub(super) struct Sites {
    standing: BTreeMap<ObjectKey, Standing>,
    /// Former uids, of objects that were made again.
    former: Vec<(ObjectKey, Arc<str>)>,
    away_until: BTreeMap<ClusterName, u64>,
    made: u64,
    healing: Healing,
    rounds: u32,
}

/// How far healing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Healing {
    /// Until the plane holds what stands.
    #[default]
    Converging,
    /// All is taken away, until the plane holds nothing.
    Pruning,
    Done,
}

impl World {
    /// One thing that happens to objects, or to whoever brings them.
    pub(super) fn meddle_with_objects(&mut self) {
        let cluster = self.some_cluster();
        match self.chance.below(16) {
            0..=4 => self.make_object(cluster),
            5 => self.make_again(),
            6 | 7 => self.take_away(),
            8 => self.repeat(),
            9 => self.tell_of_former(),
            10 => {
                let until = self.now + self.chance.skewed(1000, 60_000);
                self.sites.away_until.insert(cluster, until);
                self.suffer(Fault::ClusterAgentAway);
            }
            11 | 12 => self.compare(&cluster),
            13 => self.people_want_it(cluster),
            14 => self.keep_pools(cluster),
            _ => {
                let names = GENERALS.iter().chain([&POOL_ONLY]).filter_map(|name| GeneralName::new(name).ok());
                let generals = names.map(|name| (cluster.clone(), name)).collect();
                let query = match self.chance.below(2) {
                    0 => Query::Demand { generals },
                    _ => Query::Objects { cluster: Some(cluster), general: None },
                };
                let request = self.request(Asked::Other);
                self.input(Input::Query { request, tenant: words::tenant(), query });
            }
        }
    }

    fn some_cluster(&mut self) -> ClusterName {
        ClusterName::new(self.chance.pick(&CLUSTERS).copied().unwrap_or("c1")).expect("a name of ours")
    }

    fn some_standing(&mut self) -> Option<Standing> {
        let at = self.chance.below(self.sites.standing.len() as u64) as usize;
        self.sites.standing.values().nth(at).cloned()
    }

    /// An object that is made, or changed where it is there already.
    fn make_object(&mut self, cluster: ClusterName) {
        let kind = self.chance.pick(&KINDS).copied().unwrap_or(ObjectKind::General);
        let (name, made, brings) = self.wanted(kind, &cluster);
        let namespace = if kind == ObjectKind::Cluster { "" } else { "agents" };
        let key = ObjectKey { tenant: words::tenant(), cluster, kind, namespace: namespace.into(), name: name.into() };
        self.sites.made += 1;
        let number = self.sites.made;
        let before = self.sites.standing.get(&key).map(|standing| standing.object.clone());
        let uid = before.as_ref().map_or_else(|| Arc::from(format!("u{number}")), |before| before.uid.clone());
        let generation = before.map_or(1, |before| before.generation + 1);
        let spec = Arc::from(format!("{{\"n\":{number}}}"));
        let standing = Standing { object: Arc::new(Object { key: key.clone(), uid, generation, spec, made }), brings };
        self.sites.standing.insert(key, standing.clone());
        self.tell_unless_away(What::Apply(standing));
    }

    /// Another object under the same name: nobody heard that the old one went.
    fn make_again(&mut self) {
        let Some(mut standing) = self.some_standing() else { return };
        self.sites.made += 1;
        let Object { key, uid, spec, made, .. } = standing.object.as_ref().clone();
        self.sites.former.push((key.clone(), uid));
        let uid = Arc::from(format!("u{}", self.sites.made));
        standing.object = Arc::new(Object { key: key.clone(), uid, generation: 1, spec, made });
        self.sites.standing.insert(key, standing.clone());
        self.tell_unless_away(What::Apply(standing));
    }

    fn take_away(&mut self) {
        let Some(standing) = self.some_standing() else { return };
        let key = standing.object.key.clone();
        self.sites.standing.remove(&key);
        let uid = Some(standing.object.uid.clone()).filter(|_| self.chance.permille(800));
        self.tell_unless_away(removal(&standing.object, uid));
    }

    /// What was told already.
    fn repeat(&mut self) {
        let Some(standing) = self.some_standing() else { return };
        self.suffer(Fault::ObjectRepeated);
        self.tell(What::Apply(standing), false);
    }

    /// That an object went which had been made again since.
    fn tell_of_former(&mut self) {
        let at = self.chance.below(self.sites.former.len() as u64) as usize;
        let Some((key, uid)) = self.sites.former.get(at).cloned() else { return };
        // What is on its way may still be of the former one.
        let on_its_way = self.asked.values().any(|asked| match asked {
            Asked::Object(told) | Asked::ObjectTable(told) => *told.what.key() == key,
            _ => false,
        });
        let Some(held) = self.ledger.objects.held.get(&key).filter(|held| held.uid != uid && !on_its_way) else {
            return;
        };
        let what = removal(held, Some(uid));
        self.suffer(Fault::ObjectStale);
        self.tell(what, true);
    }

    /// People go for what objects made.
    fn people_want_it(&mut self, cluster: ClusterName) {
        let name = self.chance.pick(&BUDGETS).copied().unwrap_or("own1");
        match self.chance.below(3) {
            0 => {
                let budget = self.some_budget(BudgetName::new(name).expect("a name of ours"));
                self.change_budget(BudgetChange::Set(budget));
            }
            1 => self.change_budget(BudgetChange::Remove(BudgetName::new(name).expect("a name of ours"))),
            _ => {
                let name = self.chance.pick(&GENERALS).copied().unwrap_or("d");
                let Some(key) = words::general(cluster.as_str(), name) else { return };
                let request = self.request(Asked::Other);
                self.input(Input::RemoveGeneral { request, key, by: Arc::from("ann"), from: Arc::from("") });
            }
        }
    }

    fn keep_pools(&mut self, cluster: ClusterName) {
        let name = self.chance.pick(&["a", "b", "c", "d", POOL_ONLY]).copied().unwrap_or("a");
        let keep = Duration::from_secs(self.chance.pick(&[0, 5, 60, 300]).copied().unwrap_or(0));
        let (general, ty) = (GeneralName::new(name).expect("a letter"), GeneralType::new(name).expect("a letter"));
        let pools = vec![KeptPool { cluster, general, ty, keep }];
        self.input(Input::KeepPools { tenant: words::tenant(), pools });
    }

    fn wanted(&mut self, kind: ObjectKind, cluster: &ClusterName) -> (&'static str, Made, Brings) {
        let all = [Holds::NONE, Holds::NONE, Holds::NONE, Holds::PAUSED, Holds::CORDONED, Holds::DRAINING];
        let holds = self.chance.pick(&all).copied().unwrap_or(Holds::NONE);
        let label = |value: &str| vec![(Arc::from("team"), Arc::from(value))];
        let labels = self.chance.permille(300).then(|| label(if self.chance.permille(500) { "x" } else { "y" }));
        let labels = labels.unwrap_or_default();
        match kind {
            ObjectKind::Cluster => {
                let region = [None, Some("north"), Some("south")][self.chance.below(3) as usize];
                let region = region.map(|region| Region::new(region).expect("a name of ours"));
                let name = if cluster.as_str() == "c1" { "c1" } else { "c2" };
                (name, Made::Cluster { region, labels, holds }, Brings::Nothing)
            }
            ObjectKind::General => {
                let name = self.chance.pick(&GENERALS).copied().unwrap_or("d");
                let ty = self.chance.permille(500).then(|| GeneralType::new(name).expect("a letter"));
                // What shares a provider's limit says so by a label of its own.
                let labels = if name == "d" { labels } else { Vec::new() };
                let named = GeneralName::new(name).expect("a letter");
                (name, Made::General { name: named, ty, labels, holds }, Brings::Nothing)
            }
            ObjectKind::Route => {
                let name = self.chance.pick(&ROUTES).copied().unwrap_or("own1");
                let route = self.some_route(RouteName::new(name).expect("a name of ours"));
                (name, Made::Route { name: route.name.clone(), holds }, Brings::Route(Box::new(route)))
            }
            ObjectKind::Budget => {
                let name = self.chance.pick(&BUDGETS).copied().unwrap_or("own1");
                let named = BudgetName::new(name).expect("a name of ours");
                (name, Made::Budget { name: named.clone() }, Brings::Budget(self.some_budget(named)))
            }
        }
    }

    fn some_route(&mut self, name: RouteName) -> Route {
        let kinds = Pattern::new(name.as_str()).into_iter().collect();
        let types: &[&[&str]] = &[&["a", "b"], &["b", "c"], &["a", "b", "c", "d"], &["c"]];
        let types = self.chance.pick(types).copied().unwrap_or_default();
        let targets =
            Targets { types: types.iter().filter_map(|ty| GeneralType::new(ty).ok()).collect(), ..Targets::default() };
        let all = [Strategy::RoundRobin, Strategy::LoadBalanced, Strategy::Sticky, Strategy::Failover];
        let strategy = self.chance.pick(&all).copied().unwrap_or(Strategy::RoundRobin);
        let mut route = Route::new(name, Match { kinds, ..Match::default() }, targets, strategy);
        route.attempts_max = self.chance.within(1, 5) as u32;
        route.block_max = self.chance.millis(1000, 20_000);
        route
    }

    fn tell_unless_away(&mut self, what: What) {
        let is_away = self.sites.away_until.get(&what.key().cluster).is_some_and(|until| *until > self.now);
        if is_away || self.plane.is_none() {
            self.suffer(Fault::ObjectUntold);
        } else {
            self.tell(what, false);
        }
    }

    fn tell(&mut self, what: What, stale: bool) {
        self.tell_again(Told { what, stale, tries: 0 });
    }

    fn tell_again(&mut self, told: Told) {
        let with = match &told.what {
            // A route comes with its table, which is asked for first.
            What::Apply(Standing { brings: Brings::Route(_), .. }) | What::Remove { route: Some(_), .. } => {
                let request = self.request(Asked::ObjectTable(Box::new(told)));
                self.input(Input::Query { request, tenant: words::tenant(), query: Query::Routes });
                return;
            }
            What::Apply(Standing { brings: Brings::Budget(budget), .. }) => With::Budget(budget.clone()),
            What::Apply(Standing { brings: Brings::Nothing, .. }) | What::Remove { route: None, .. } => With::Nothing,
        };
        self.tell_with(told, with);
    }

    /// The table that was asked for is there.
    pub(super) fn tell_with_table(&mut self, told: Told, table: &RouteTable, at: Seq) {
        let (name, route) = match &told.what {
            What::Apply(Standing { brings: Brings::Route(route), .. }) => (route.name.clone(), Some(route.as_ref())),
            What::Remove { route: Some(name), .. } => (name.clone(), None),
            What::Apply(_) | What::Remove { route: None, .. } => return,
        };
        let mut routes = table.routes.clone();
        match (routes.iter().position(|route| route.name == name), route) {
            (Some(at), Some(route)) => routes[at] = route.clone(),
            (Some(at), None) => drop(routes.remove(at)),
            (None, Some(route)) => routes.insert(0, route.clone()),
            (None, None) => {}
        }
        self.tell_with(told, With::Routes(Arc::new(RouteTable { routes, trust: table.trust.clone() }), at));
    }

    fn tell_with(&mut self, told: Told, with: With) {
        let key = told.what.key();
        let (by, from) = (Arc::from(key.to_string()), Arc::from(format!("agent of {}", key.cluster)));
        let change = match &told.what {
            What::Apply(standing) => ObjectChange::Apply { object: standing.object.clone(), with },
            What::Remove { key, uid, route: _ } => ObjectChange::Remove { key: key.clone(), uid: uid.clone(), with },
        };
        let request = self.request(Asked::Object(Box::new(told)));
        self.input(Input::Object { request, change: Box::new(change), by, from });
    }

    /// What came of what the plane was told.
    pub(super) fn told(&mut self, told: Told, reply: Result<Reply, Rejection>) -> Result<(), Broken> {
        match reply {
            Ok(Reply::Object { changed: true }) if told.stale => {
                Err(format!("a_former_object_changes_nothing: {:?}", told.what))
            }
            Ok(Reply::Object { changed }) => {
                if !changed {
                    self.ledger.coverage.note("object as it was");
                }
                Ok(())
            }
            Ok(other) => Err(format!("objects_are_answered_by_objects: {other:?}")),
            Err(Rejection::RoutesChanged { .. }) => {
                self.ledger.coverage.note("object refused: another table");
                if told.tries < TRIES {
                    self.tell_again(Told { tries: told.tries + 1, ..told });
                }
                Ok(())
            }
            Err(Rejection::Owned { .. }) => {
                self.ledger.coverage.note("object refused: another's");
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// An agent that is back: compares what stands with what the plane holds.
    fn compare(&mut self, cluster: &ClusterName) {
        if self.plane.is_none() {
            return;
        }
        self.sites.away_until.remove(cluster);
        let standing = self.sites.standing.values().filter(|standing| standing.object.key.cluster == *cluster);
        let held = &self.ledger.objects.held;
        let missing = standing.filter(|standing| held.get(&standing.object.key) != Some(&standing.object));
        let missing: Vec<_> = missing.cloned().map(What::Apply).collect();
        let gone = held.values().filter(|held| held.key.cluster == *cluster);
        let gone = gone.filter(|held| !self.sites.standing.contains_key(&held.key));
        let gone: Vec<_> = gone.map(|held| removal(held, Some(held.uid.clone()))).collect();
        for what in gone {
            self.suffer(Fault::ObjectPruned);
            self.tell(what, false);
        }
        for what in missing {
            self.tell(what, false);
        }
    }

    /// Whether the plane holds what stands, but for what is somebody else's.
    fn is_alike(&self) -> bool {
        let facts = &self.ledger.objects;
        let stands = self.sites.standing.values().all(|Standing { object, .. }| {
            let thing = object.made.thing(&object.key.cluster);
            let is_others = facts.owner(&thing).map_or(facts.is_taken(&thing), |owner| *owner != object.key);
            facts.held.get(&object.key) == Some(object) || is_others
        });
        stands && facts.held.keys().all(|key| self.sites.standing.contains_key(key))
    }

    /// A round of healing. Whether objects are healed, so that none is left.
    pub(super) fn heal_objects(&mut self) -> Result<bool, Broken> {
        if self.sites.healing != Healing::Done && self.sites.rounds > 0 && self.is_alike() {
            self.sites.rounds = 0;
            self.sites.healing = match self.sites.healing {
                Healing::Converging => Healing::Pruning,
                Healing::Pruning | Healing::Done => Healing::Done,
            };
            if self.sites.healing == Healing::Pruning {
                self.sites.standing.clear();
            }
        }
        if self.sites.healing == Healing::Done {
            return Ok(true);
        }
        self.sites.rounds += 1;
        if self.sites.rounds > ROUNDS {
            let (standing, held) = (self.sites.standing.keys(), self.ledger.objects.held.keys());
            return Err(format!(
                "both_sides_become_alike: {:?}: {:?} stand, {:?} are held",
                self.sites.healing,
                standing.map(ToString::to_string).collect::<Vec<_>>(),
                held.map(ToString::to_string).collect::<Vec<_>>()
            ));
        }
        for cluster in CLUSTERS {
            self.compare(&ClusterName::new(cluster).expect("a name of ours"));
        }
        Ok(false)
    }
}

fn removal(object: &Object, uid: Option<Arc<str>>) -> What {
    let route = if let Made::Route { name, .. } = &object.made { Some(name.clone()) } else { None };
    What::Remove { key: object.key.clone(), uid, route }
}
