//! Publishers, who repeat what was not answered, and people, who meddle.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::affinity::{Affinity, Place, Preference};
use mindos_core::feedback::FeedbackRule;
use mindos_core::guard::{GuardAction, Guards, Trust, TrustRules};
use mindos_core::input::{DeliveryFilter, Input, Judged, NewEvent, Query, RequestId, Selector};
use mindos_core::output::{PayloadOf, Rejection, Reply};
use mindos_core::record::{About, Feedback, FeedbackVerdict, HoldTarget, Holds, Replay, Role, Variant, VersionWanted};
use mindos_core::route::{Coalesce, Degrade, Match, NoGeneral, Pattern, Retry, Route, RouteTable, Targets, Weight};
use mindos_core::{ASKED_MAX, ASKED_PREFIX};
use mindos_model::{
    ClusterName, DeliveryId, GeneralName, GeneralType, ParkReason, Region, RouteName, Seq, Status, Strategy, Timestamp,
    limits,
};

use super::objects::Told;
use super::{Event, World};
use crate::faults::Fault;
use crate::ledger::Broken;
use crate::words;

pub(super) const PUBLISHERS: usize = 3;
const LANES: u64 = 8;
/// Routes and lanes of which one is slow show here.
const KINDS: [&str; 16] = [
    "bc", "rr", "lb", "lat", "latrr", "misc", "quiet", "stk", "fo", "race", "split", "shd", "deb", "debrr", "own1",
    "own2",
];
/// Those that have a route of their own.
const ROUTES: [&str; 12] = ["bc", "rr", "lb", "lat", "latrr", "stk", "fo", "race", "split", "shd", "deb", "debrr"];

/// An event that somebody wants to be accepted.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    source: Arc<str>,
    id: Arc<str>,
    kind: &'static str,
    lane: Arc<str>,
    data: Arc<str>,
    not_before: Option<Timestamp>,
    /// What was answered.
    acked: Option<Seq>,
    trust: Option<Box<Trust>>,
    /// By the table that was last asked for.
    judged: Option<Judged>,
    pending: bool,
    tries: u32,
}

/// What a request was for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Publish {
        publication: usize,
        data: Arc<str>,
    },
    /// The table to judge an event by.
    Judge {
        publication: usize,
        data: Arc<str>,
    },
    Payloads {
        before: Seq,
    },
    /// Effects that may be carried out.
    Due,
    /// The table that the route of an object goes into.
    ObjectTable(Box<Told>),
    Object(Box<Told>),
    Other,
}

impl World {
    pub(super) fn request(&mut self, asked: Asked) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.asked.insert(request, asked);
        request
    }

    pub(super) fn publish(&mut self, publisher: usize) {
        if self.healing {
            return;
        }
        let number = self.publications.len();
        let kind = self.chance.pick(&KINDS).copied().unwrap_or("bc");
        let lane = self.chance.below(LANES);
        let later = self.chance.millis(1, 40_000);
        let not_before = self.chance.permille(60).then(|| self.plane_time() + later);
        self.publications.push(Publication {
            source: Arc::from(format!("p{publisher}")),
            id: Arc::from(number.to_string()),
            kind,
            lane: Arc::from(format!("l{lane}")),
            data: Arc::from(format!("v{}", "x".repeat(self.chance.below(20) as usize))),
            not_before,
            acked: None,
            trust: self.chance.permille(100).then(|| Box::new(Trust { bot: true, ..Trust::default() })),
            judged: None,
            pending: false,
            tries: 0,
        });
        self.retry(number);
        let after = self.chance.skewed(1, self.mood.publish);
        self.at(after, Event::Publish { publisher });
    }

    /// Publishes an event, for the first time or again.
    pub(super) fn retry(&mut self, publication: usize) {
        if self.publications[publication].acked.is_some() || self.publications[publication].pending {
            return;
        }
        if self.plane.is_none() || self.home.full {
            let after = self.chance.within(100, 2000);
            self.at(after, Event::Retry { publication });
            return;
        }
        if self.publications[publication].tries > 0 {
            self.suffer(Fault::PublisherRetry);
        }
        self.publications[publication].pending = true;
        self.publications[publication].tries += 1;
        let data = self.publications[publication].data.clone();
        self.offer(publication, data);
    }

    fn offer(&mut self, publication: usize, data: Arc<str>) {
        let request = self.request(Asked::Publish { publication, data: data.clone() });
        let Publication { source, id, kind, lane, trust, judged, not_before, .. } = &self.publications[publication];
        let event = NewEvent {
            tenant: words::tenant(),
            source: source.clone(),
            id: id.clone(),
            ty: Arc::from(*kind),
            kind: Arc::from(*kind),
            subject: None,
            lane: lane.clone(),
            repository: words::repository(lane),
            priority: words::priority(id),
            actor: None,
            time: None,
            key: words::dedupe_key(source, id),
            digest: words::content_digest(kind, &data),
            payload: words::payload(&data),
            trust: trust.clone(),
            judged: *judged,
            not_before: *not_before,
            routed: *kind != "quiet",
            asked: asked(publication, kind),
            about: about(source, publication, kind),
            seen: None,
        };
        self.input(Input::Publish { request, event: Box::new(event) });
    }

    /// What an event was answered stays the answer.
    pub(super) fn answered(&mut self, request: RequestId, reply: Result<Reply, Rejection>) -> Result<(), Broken> {
        let Some(asked) = self.asked.remove(&request) else {
            return Err(format!("one_answer_per_request: {request:?} was answered again, or never asked"));
        };
        match asked {
            Asked::Publish { publication, data } if matches!(reply, Ok(Reply::Unjudged(_))) => {
                let request = self.request(Asked::Judge { publication, data });
                self.input(Input::Query { request, tenant: words::tenant(), query: Query::Routes });
                Ok(())
            }
            Asked::Judge { publication, data } => {
                if let Ok(Reply::Routes { table, at }) = reply {
                    self.publications[publication].judged =
                        Some(judge(&table, at, self.publications[publication].kind, publication));
                    self.offer(publication, data);
                }
                Ok(())
            }
            Asked::Publish { publication, data } => self.published(publication, &data, reply),
            Asked::Payloads { before } => {
                if let Ok(Reply::Payloads(payloads)) = reply {
                    self.carry(before, &payloads.iter().map(|(of, _)| *of).collect::<Vec<_>>());
                }
                Ok(())
            }
            Asked::Due => match reply {
                Ok(Reply::Effects(views)) => self.carry_out_effects(&views),
                _ => Ok(()),
            },
            Asked::ObjectTable(told) => {
                if let Ok(Reply::Routes { table, at }) = reply {
                    self.tell_with_table(*told, &table, at);
                }
                Ok(())
            }
            Asked::Object(told) => self.told(*told, reply),
            Asked::Other => Ok(()),
        }
    }

    fn published(&mut self, publication: usize, data: &str, reply: Result<Reply, Rejection>) -> Result<(), Broken> {
        let Publication { source, id, kind, data: first, acked, .. } = &self.publications[publication];
        let (same, acked) = (**first == *data, *acked);
        let (key, digest) = (words::dedupe_key(source, id), words::content_digest(kind, data));
        let known = self.ledger.by_key.get(&key).copied();
        match reply {
            Ok(Reply::Published(published)) => {
                let facts = self.ledger.events.get(&published.event);
                if known != Some(published.event) || facts.is_none_or(|facts| facts.digest != digest) {
                    return Err(format!(
                        "republish_same_answer: {source}/{id} is {known:?}, answered {}",
                        published.event
                    ));
                }
                if acked.is_some_and(|acked| acked != published.event) {
                    return Err(format!("republish_same_answer: {acked:?} before, {} this time", published.event));
                }
                if same {
                    self.publications[publication].acked = Some(published.event);
                    self.publications[publication].pending = false;
                }
                Ok(())
            }
            Ok(other) => Err(format!("republish_same_answer: publish was answered by {other:?}")),
            Err(Rejection::Conflict { event }) => {
                let facts = self.ledger.events.get(&event);
                if known != Some(event) || facts.is_none_or(|facts| facts.digest == digest) {
                    return Err(format!("conflict_is_one: {source}/{id} is {known:?}, conflict with {event}"));
                }
                if same && !self.publications[publication].pending {
                    return Err(format!("conflict_is_one: {source}/{id} conflicts with itself"));
                }
                self.publications[publication].pending = false;
                Ok(())
            }
            Err(_) if !same => Ok(()),
            Err(_) if acked.is_some() => {
                Err(format!("republish_same_answer: {source}/{id} was accepted, then refused"))
            }
            Err(_) => {
                let is_last = self.publications[publication].tries > 3;
                self.publications[publication].pending = false;
                if !is_last {
                    let after = self.chance.within(500, 10_000);
                    self.at(after, Event::Retry { publication });
                }
                Ok(())
            }
        }
    }

    /// The plane is gone: what it did not answer is asked again.
    pub(super) fn unanswered(&mut self) {
        for publication in 0..self.publications.len() {
            if std::mem::take(&mut self.publications[publication].pending) {
                let after = self.chance.within(100, 3000);
                self.at(after, Event::Retry { publication });
            }
        }
    }

    /// What was answered is there.
    pub(super) fn acked_events_are_kept(&self) -> Result<(), Broken> {
        for Publication { source, id, acked, .. } in &self.publications {
            let known = self.ledger.by_key.get(&words::dedupe_key(source, id));
            if acked.is_some() && known != acked.as_ref() {
                return Err(format!("acked_event_is_kept: {source}/{id} was answered as {acked:?}, is {known:?}"));
            }
        }
        Ok(())
    }

    fn some_delivery(&mut self) -> DeliveryId {
        let open = self.ledger.open.len() as u64;
        let at = self.chance.below(open) as usize;
        let unknown = DeliveryId::new(Seq(self.chance.within(1, 50)), 9);
        self.ledger.open.iter().nth(at).copied().filter(|_| !self.chance.permille(30)).unwrap_or(unknown)
    }

    pub(super) fn act(&mut self) {
        if self.healing {
            return;
        }
        let after = self.chance.skewed(50, self.mood.act);
        self.at(after, Event::Act);
        let (why, by): (Arc<str>, Arc<str>) = (Arc::default(), Arc::from("ann"));
        let tenant = words::tenant();
        match self.chance.below(50) {
            0..=2 => {
                let request = self.request(Asked::Other);
                let select = Selector::One(self.some_delivery());
                self.input(Input::Cancel { request, tenant, select, why, by });
            }
            3 => {
                let lane = self.chance.below(LANES);
                let filter = DeliveryFilter { lane: Some(Arc::from(format!("l{lane}"))), ..DeliveryFilter::default() };
                let request = self.request(Asked::Other);
                let select = Selector::Filter { filter, limit: 5 };
                self.input(Input::Cancel { request, tenant, select, why, by });
            }
            4 | 5 => {
                let request = self.request(Asked::Other);
                let select = Selector::One(self.some_delivery());
                self.input(Input::Redrive { request, tenant, select, why, by });
            }
            6..=8 => {
                let reason = self.chance.pick(ParkReason::ALL).copied().filter(|_| self.chance.permille(700));
                self.redrive(DeliveryFilter { reason, ..DeliveryFilter::default() });
            }
            9..=12 => {
                let target = self.hold_target();
                let all = [Holds::ALL, Holds::ALL, Holds::PAUSED, Holds::CORDONED, Holds::DRAINING];
                let holds = self.chance.pick(&all).copied().unwrap_or_default();
                let ends = holds == Holds::ALL || self.chance.permille(200);
                let (end, begin) = if ends { (holds, Holds::NONE) } else { (Holds::NONE, holds) };
                self.hold(target, end, begin);
            }
            13 | 14 => self.apply_routes(false),
            15 => self.remove_general(),
            16 => {
                let request = self.request(Asked::Other);
                self.input(Input::FinalizeUpgrade { request, version: Arc::from("0.1.0"), by, from: Arc::from("") });
            }
            17 | 18 => self.upkeep(),
            19 => self.republish(),
            20 if self.chance.permille(100) => {
                let end = self.ledger.end;
                self.input(Input::Truncated { kept: end, dropped_through: end.next() });
            }
            21..=24 => self.change_budgets(),
            28..34 => self.meddle_with_access(),
            34..40 => self.meddle_with_effects(),
            40.. => {
                for _ in 0..self.chance.within(1, 4) {
                    self.meddle_with_objects();
                }
            }
            _ => self.query(),
        }
    }

    fn hold_target(&mut self) -> HoldTarget {
        let cluster = ClusterName::new(if self.chance.permille(600) { "c1" } else { "c2" }).expect("a name of ours");
        match self.chance.below(4) {
            0 => HoldTarget::Cluster(cluster),
            1 => HoldTarget::Route(
                RouteName::new(self.chance.pick(&ROUTES).copied().unwrap_or("bc")).expect("a name of ours"),
            ),
            2 => {
                let name = self.chance.pick(&["a", "b", "c"]).copied().unwrap_or("a");
                HoldTarget::General(cluster, GeneralName::new(name).expect("a name of ours"))
            }
            _ => {
                let host = self.chance.below(self.hosts.len() as u64) as usize;
                let key = &self.hosts[host].key;
                HoldTarget::Instance(key.cluster.clone(), key.instance.clone())
            }
        }
    }

    pub(super) fn hold(&mut self, target: HoldTarget, end: Holds, begin: Holds) {
        let request = self.request(Asked::Other);
        self.input(Input::Hold {
            request,
            tenant: words::tenant(),
            target,
            end,
            begin,
            why: Arc::default(),
            by: Arc::from("ann"),
            from: Arc::from(""),
        });
    }

    pub(super) fn redrive(&mut self, filter: DeliveryFilter) {
        let request = self.request(Asked::Other);
        let select = Selector::Filter { filter, limit: 100 };
        let (tenant, why, by) = (words::tenant(), Arc::default(), Arc::from("ann"));
        self.input(Input::Redrive { request, tenant, select, why, by });
    }

    fn remove_general(&mut self) {
        let name = self.chance.pick(&["a", "b", "c"]).copied().unwrap_or("a");
        let cluster = if self.chance.permille(500) { "c1" } else { "c2" };
        let Some(key) = words::general(cluster, name) else { return };
        let request = self.request(Asked::Other);
        self.input(Input::RemoveGeneral { request, key, by: Arc::from("ann"), from: Arc::from("") });
    }

    /// The journal's upkeep: what a snapshot covers may go, payloads of open work come along.
    fn upkeep(&mut self) {
        let Some(at) = self.home.snapshot.as_ref().map(|(at, _)| *at) else { return };
        if at <= self.home.dropped {
            return;
        }
        let before = at.next();
        let request = self.request(Asked::Payloads { before });
        let query = Query::PayloadsBefore { before, limit: 1000 };
        self.input(Input::Query { request, tenant: words::tenant(), query });
    }

    fn carry(&mut self, before: Seq, payloads: &[PayloadOf]) {
        for of in payloads {
            let (event, effect) = match of {
                PayloadOf::Event(event) => (*event, None),
                PayloadOf::Effect { event, effect } => (*event, Some(*effect)),
            };
            self.input(Input::Carry { event, effect, payload: words::payload("carried") });
        }
        let request = self.request(Asked::Other);
        self.input(Input::DropPrefix { request, through: Seq(before.0 - 1), link: [1; 32] });
    }

    fn republish(&mut self) {
        let count = self.publications.len() as u64;
        let at = self.chance.below(count) as usize;
        if self.plane.is_none() || count == 0 || self.publications[at].acked.is_none() {
            return;
        }
        let other = self.chance.permille(400);
        self.suffer(if other { Fault::Conflict } else { Fault::Republished });
        let data = if other { Arc::from("other") } else { self.publications[at].data.clone() };
        self.offer(at, data);
    }

    fn query(&mut self) {
        let filter = DeliveryFilter { status: Some(Status::Waiting), ..DeliveryFilter::default() };
        let query = match self.chance.below(6) {
            0 => Query::Totals,
            1 => Query::Deliveries { filter, after: None, limit: 10 },
            2 => Query::Event { event: self.some_delivery().event },
            3 => Query::Fleet,
            4 => Query::Routes,
            _ => Query::Seen { key: words::dedupe_key("p0", &self.chance.below(50).to_string()) },
        };
        let request = self.request(Asked::Other);
        self.input(Input::Query { request, tenant: words::tenant(), query });
    }

    /// A table like the usual one; `plain` is the usual one itself.
    pub(super) fn apply_routes(&mut self, plain: bool) {
        let shapes: [(&str, &[&str], Strategy); 13] = [
            ("bc", &["a", "b"], Strategy::Broadcast),
            ("rr", &["a", "b"], Strategy::RoundRobin),
            ("lb", &["a", "b", "c"], Strategy::LoadBalanced),
            ("lat", &["a"], Strategy::Broadcast),
            ("latrr", &["b", "c"], Strategy::RoundRobin),
            ("stk", &["a", "b", "c"], Strategy::Sticky),
            ("fo", &["c", "a"], Strategy::Failover),
            ("race", &["a", "b"], Strategy::Race),
            ("split", &["a", "b"], Strategy::Split),
            ("shd", &["a"], Strategy::Shadow),
            ("deb", &["a"], Strategy::Broadcast),
            ("debrr", &["b", "c"], Strategy::Sticky),
            ("default", &["c"], Strategy::RoundRobin),
        ];
        let mut routes = Vec::new();
        for (name, types, strategy) in shapes {
            let changed = !plain && self.chance.permille(200);
            let strategy =
                if changed { self.chance.pick(Strategy::ALL).copied().unwrap_or(strategy) } else { strategy };
            let kinds = if name == "default" { Vec::new() } else { Pattern::new(name).into_iter().collect() };
            let types: Vec<_> = types.iter().filter_map(|ty| GeneralType::new(ty).ok()).collect();
            let mut targets = Targets { types, ..Targets::default() };
            if strategy == Strategy::Split {
                let weights = [("a", self.chance.below(3)), ("b", 1), ("c", 1)];
                let weight =
                    |(target, weight): (&str, u64)| Weight { target: Arc::from(target), weight: weight as u32 };
                targets.weights = weights
                    .into_iter()
                    .filter(|(ty, _)| targets.types.iter().any(|t| t.as_str() == *ty))
                    .map(weight)
                    .collect();
                if targets.weights.len() < 2 {
                    targets.weights.push(Weight { target: targets.weights[0].target.clone(), weight: 1 });
                }
            }
            let matches = Match { kinds, ..Match::default() };
            let mut route = Route::new(RouteName::new(name).expect("a name of ours"), matches, targets, strategy);
            route.count = if strategy == Strategy::LoadBalanced { self.chance.within(2, 3) as u32 } else { 1 };
            route.attempts_max = if plain { limits::ATTEMPTS_MAX } else { self.chance.within(1, 4) as u32 };
            route.deadline = self.chance.millis(20_000, 60_000);
            route.block_max = self.chance.millis(1000, 20_000);
            route.coalesce = match name {
                "lat" | "latrr" => Coalesce::Latest,
                "deb" | "debrr" => {
                    let quiet = self.chance.millis(100, 3000);
                    Coalesce::Debounce { quiet, longest: quiet + self.chance.millis(0, 10_000) }
                }
                _ => Coalesce::Every,
            };
            self.draw_policy(&mut route);
            if !plain && self.chance.permille(150) {
                let version = self.chance.pick(&["0.1", "0.2"]).copied().unwrap_or("0.1");
                route.policy.version_min = version.parse().ok();
            }
            if !plain {
                self.draw_siting(&mut route);
            }
            if !plain && !route.matches.kinds.is_empty() {
                let condition = self.chance.pick(&["even", "never", "broken"]).copied().unwrap_or("even");
                route.matches.condition = self.chance.permille(150).then(|| Arc::from(condition));
                let bots = self.chance.pick(&[GuardAction::Park, GuardAction::Drop]).copied();
                route.guards = self.chance.permille(150).then(|| Box::new(Guards { bots, ..Guards::default() }));
            }
            routes.push(route);
        }
        // Who writes a table leaves what objects made where it is, as the server does; some do not.
        if self.chance.permille(900) {
            for (at, route) in self.ledger.objects.owned_routes() {
                routes.insert(at.min(routes.len()), route.clone());
            }
        }
        let bots = self.chance.pick(&[GuardAction::Park, GuardAction::Drop]).copied();
        let guards = Guards { bots, ..Guards::default() };
        let asks = !plain && self.chance.permille(150);
        let trust = asks.then(|| Arc::new(TrustRules { guards, own_logins: Vec::new() }));
        let table = Arc::new(RouteTable { routes, trust });
        let request = self.request(Asked::Other);
        let expected = (!plain && self.chance.permille(50)).then_some(Seq(3));
        self.input(Input::ApplyRoutes {
            request,
            tenant: words::tenant(),
            table,
            expected,
            by: Arc::from("ann"),
            from: Arc::from(""),
        });
    }

    /// Where its work may go, and where it rather goes.
    fn draw_siting(&mut self, route: &mut Route) {
        let region = |name: &str| Region::new(name).expect("a name of ours");
        if self.chance.permille(80) {
            route.policy.residency = [&["north"][..], &["north", "south"]][self.chance.below(2) as usize]
                .iter()
                .map(|name| region(name))
                .collect();
        }
        if !self.chance.permille(200) {
            return;
        }
        let mut place = || {
            let mut place = Place::default();
            match self.chance.below(3) {
                0 => place.clusters.extend(ClusterName::new(self.chance.pick(&["c1", "c2"]).copied().unwrap_or("c1"))),
                1 => place.regions.push(region("north")),
                _ => place
                    .labels
                    .push((Arc::from("node"), Arc::from(self.chance.pick(&["a", "b"]).copied().unwrap_or("a")))),
            }
            place
        };
        let (one, other, third) = (place(), place(), place());
        let weight = self.chance.within(1, 100) as u32;
        let prefer = vec![Preference { weight, place: other }, Preference { weight: 100, place: third }];
        let affinity = match self.chance.below(3) {
            0 => Affinity { require: one, prefer: Vec::new() },
            1 => Affinity { require: Place::default(), prefer },
            _ => Affinity { require: one, prefer },
        };
        route.policy.affinity = Some(Box::new(affinity));
    }

    fn draw_policy(&mut self, route: &mut Route) {
        if route.strategy == Strategy::Shadow {
            let types = GeneralType::new(self.chance.pick(&["b", "c"]).copied().unwrap_or("b")).into_iter().collect();
            route.policy.shadow = Some(Targets { types, ..Targets::default() });
        }
        if self.chance.permille(200) {
            route.policy.ttl = Some(self.chance.millis(1000, 60_000));
        }
        if self.chance.permille(200) {
            let first = self.chance.millis(10, 2000);
            route.policy.retry = Retry { first, longest: first + self.chance.millis(0, 20_000) };
        }
        if self.chance.permille(500) {
            let froms = [None, Some("a"), Some("b")];
            route.policy.degrade = (0..self.chance.within(1, 2))
                .map(|_| {
                    let from = self.chance.pick(&froms).copied().flatten().map(Arc::from);
                    Degrade { from, to: Arc::from(self.chance.pick(&["a", "b", "c"]).copied().unwrap_or("c")) }
                })
                .collect();
        }
        if self.chance.permille(300) && route.strategy != Strategy::Split {
            let (weight, floor) = (self.chance.within(1, 500) as u32, self.chance.within(10, 500) as u32);
            route.policy.feedback = Some(FeedbackRule { weight, floor });
        }
        route.policy.no_general = match self.chance.below(12) {
            0 => NoGeneral::Refuse,
            1 => NoGeneral::FallBackType(GeneralType::new("b").expect("a name of ours")),
            2 if route.name.as_str() != "rr" => NoGeneral::FallBackRoute(RouteName::new("rr").expect("a name of ours")),
            _ => NoGeneral::Wait,
        };
    }
}

/// Stands in for expressions: which condition of ours holds for a publication.
fn judge(table: &RouteTable, at: Seq, kind: &str, publication: usize) -> Judged {
    let mut judged = Judged { table: at, holds: None, failed: 0 };
    for (place, route) in (0..).zip(&table.routes).filter(|(_, route)| route.matches.fits(kind, kind, None)) {
        match route.matches.condition.as_deref() {
            None => break,
            Some("even") if publication.is_multiple_of(2) => {
                judged.holds = Some(place);
                break;
            }
            Some("broken") => judged.failed += 1,
            Some(_) => {}
        }
    }
    judged
}

/// Some publishers say themselves whom their events concern, and the same on every try.
fn asked(publication: usize, kind: &str) -> Option<Arc<Route>> {
    if kind != "misc" || publication.is_multiple_of(3) {
        return None;
    }
    if is_replay(publication) {
        return Some(replay_route(publication));
    }
    let number = publication % (ASKED_MAX + 6);
    let strategy = [Strategy::Broadcast, Strategy::RoundRobin, Strategy::LoadBalanced][number % 3];
    let types = ["a", "b", "c"][..1 + number / 3 % 3].iter().filter_map(|ty| GeneralType::new(ty).ok()).collect();
    let name = RouteName::new(&format!("{ASKED_PREFIX}{number}")).expect("a name of ours");
    let targets = Targets { types, ..Targets::default() };
    Some(Arc::new(Route::new(name, Match::default(), targets, strategy)))
}

fn is_replay(publication: usize) -> bool {
    publication % 3 == 1
}

/// Replays go to a few generals, whatever they repeat.
fn replay_route(publication: usize) -> Arc<Route> {
    let ty = ["a", "b", "c"][publication % 7 % 3];
    let name = RouteName::new(&format!("{ASKED_PREFIX}replay.{ty}")).expect("a name of ours");
    let targets = Targets { types: GeneralType::new(ty).into_iter().collect(), ..Targets::default() };
    let mut route = Route::new(name, Match::default(), targets.clone(), Strategy::Shadow);
    route.policy.shadow = Some(targets);
    route.policy.ttl = Some(Duration::from_secs(20));
    route.attempts_max = 2;
    Arc::new(route)
}

/// Some events are past ones again, others say what was made of a result; the same on every try.
fn about(source: &str, publication: usize, kind: &str) -> Option<Box<About>> {
    if kind == "misc" && is_replay(publication) {
        let version = [None, Some("0.1.0"), Some("9")][publication % 5 % 3].map(Arc::from);
        let version = version.map(VersionWanted::AtLeast).filter(|_| publication.is_multiple_of(4));
        let of = Seq(1 + publication as u64);
        let id = Arc::from(format!("try{}", publication % 2));
        return Some(Box::new(About::Replay(Replay { of, id, route: None, version })));
    }
    if kind != "quiet" || !publication.is_multiple_of(2) {
        return None;
    }
    let verdicts = [FeedbackVerdict::Accepted, FeedbackVerdict::Dismissed, FeedbackVerdict::Reverted];
    let delivery = DeliveryId::new(Seq(1 + publication as u64 / 8), 1);
    let general = words::general(["c1", "c2"][publication % 2], ["a", "b", "c"][publication / 2 % 3])?;
    let route = RouteName::new("rr").expect("a name of ours");
    let version = Arc::from("0.1.0");
    let variant = Variant { route, role: Role::Live, arm: Arc::from(""), version };
    let voice = words::dedupe_key(source, &delivery.to_string());
    let verdict = verdicts[publication % 5 % 3];
    Some(Box::new(About::Feedback(Feedback { delivery, verdict, voice, general: Arc::new(general), variant })))
}
