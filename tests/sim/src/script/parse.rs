//! Lines of a scenario as steps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mindos_core::RATE_POOL_LABEL;
use mindos_core::budget::Limit;
use mindos_core::guard::{GuardAction, Guards, Trust, TrustRules};
use mindos_core::input::{
    AgentMessage, CeilingsWanted, DeliveryFilter, Extend, Hello, HelloGeneral, Input, Judged, KeptPool, ModelLoad,
    NewEvent, Query, ReportedLoad, ReportedOutcome, RequestId, ResultReport, Selector, SessionId,
};
use mindos_core::record::{HoldTarget, Holds, Usage};
use mindos_core::route::{Match, Pattern, Route, RouteTable, Targets};
use mindos_model::{
    BootId, ClusterName, DeliveryId, FailureKind, GeneralName, GeneralType, InstanceId, Region, RouteName, Seq,
    Strategy, Timestamp, Token,
};

use super::policy;
use crate::words;

/// One line.
#[derive(Clone, Debug)]
pub enum Step {
    /// Bounds of the plane; only before anything else.
    Limits(BTreeMap<String, u32>),
    /// A route of the next `apply`.
    Route(Box<Route>),
    Apply {
        expected: Option<Seq>,
        by: Arc<str>,
        /// What the table asks of all its routes.
        guards: Option<Box<Guards>>,
    },
    Input(Box<Input>),
    /// Time passes, with a turn whenever something is due.
    Advance(Duration),
    /// Time passes without a turn.
    Stall(Duration),
    /// The process dies; `keep` of the batches that were not yet synced are there all the same.
    Crash {
        keep: usize,
    },
    /// Starts on the journal, or on the newest snapshot and what follows it.
    Restart {
        from_snapshot: bool,
    },
    Snapshot,
    /// Whether batches are synced at once.
    Sync(bool),
    /// From here on every line is one call of the driver, without turns of its own.
    Exact,
    /// In exact scripts: the time since the start.
    At(Duration),
    /// In exact scripts: `advance` and `seal`.
    Turn,
    /// In exact scripts: the oldest sealed batch is durable.
    Synced,
}

/// Words of a line: those that stand alone, and those that are named.
pub(super) struct Words<'a> {
    alone: std::vec::IntoIter<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
    start: Timestamp,
    now: Timestamp,
}

pub(super) type Parsed<T> = Result<T, String>;

/// Reads a line; `now` is the time in the script, which began at `start`.
///
/// # Errors
/// Says which word is not understood.
pub fn step(line: &str, start: Timestamp, now: Timestamp) -> Parsed<Step> {
    let (named, alone): (Vec<&str>, Vec<&str>) = line.split_whitespace().partition(|word| word.contains('='));
    let named = named.into_iter().filter_map(|word| word.split_once('=')).collect();
    let mut words = Words { alone: alone.into_iter(), named, start, now };
    let step = words.step()?;
    if let Some((name, value)) = words.named.first_key_value() {
        return Err(format!("`{name}={value}` is not understood"));
    }
    match words.alone.next() {
        Some(word) => Err(format!("`{word}` is not understood")),
        None => Ok(step),
    }
}

impl<'a> Words<'a> {
    fn step(&mut self) -> Parsed<Step> {
        let verb = self.next("a verb")?;
        let input = match verb {
            "limits" => {
                let named = std::mem::take(&mut self.named);
                let number =
                    |(name, value): (&str, &str)| Ok((name.to_owned(), value.parse().map_err(|_| value.to_owned())?));
                return named.into_iter().map(number).collect::<Parsed<_>>().map(Step::Limits);
            }
            "route" => return self.route().map(|route| Step::Route(Box::new(route))),
            "apply" => {
                let expected = self.take("expected").map(number).transpose()?.map(Seq);
                return Ok(Step::Apply { expected, by: self.by(), guards: self.guards()? });
            }
            "advance" => return self.span().map(Step::Advance),
            "stall" => return self.span().map(Step::Stall),
            "crash" => return Ok(Step::Crash { keep: self.take("keep").map(number).transpose()?.unwrap_or(0) }),
            "restart" => return Ok(Step::Restart { from_snapshot: self.flag("snapshot") }),
            "snapshot" => return Ok(Step::Snapshot),
            "sync" => return Ok(Step::Sync(self.next("on or off")? == "on")),
            "exact" => return Ok(Step::Exact),
            "at" => return self.span().map(Step::At),
            "turn" => return Ok(Step::Turn),
            "synced" => return Ok(Step::Synced),
            "publish" => self.publish()?,
            "hello" => self.hello()?,
            "close" => Input::Closed { session: self.session()? },
            "keep" => {
                let (cluster, name) = split(self.next("a general")?)?;
                let key = words::general(cluster, name).ok_or("not a general's name")?;
                let ty = self.take("type").unwrap_or(name).parse().map_err(|_| "not a type".to_owned())?;
                let keep = self.take("keep").map(span).transpose()?.unwrap_or(std::time::Duration::from_secs(300));
                let pools = vec![KeptPool { cluster: key.cluster, general: key.name, ty, keep }];
                Input::KeepPools { tenant: words::tenant(), pools }
            }
            "grant" | "accept" | "decline" | "extend" | "result" | "heartbeat" | "reconcile" | "draining" => {
                let session = self.session()?;
                Input::Agent { session, message: self.agent(verb)? }
            }
            "cancel" => {
                let select = self.selector()?;
                let (why, by) = (self.why(), self.by());
                Input::Cancel { request: RequestId(0), tenant: words::tenant(), select, why, by }
            }
            "redrive" => {
                let select = self.selector()?;
                let (why, by) = (self.why(), self.by());
                Input::Redrive { request: RequestId(0), tenant: words::tenant(), select, why, by }
            }
            "hold" => self.hold()?,
            "budget" => self.budget()?,
            "object" => self.object()?,
            "remove" => {
                let key = split(self.next("a general")?)?;
                let key = words::general(key.0, key.1).ok_or("not a general's name")?;
                Input::RemoveGeneral { request: RequestId(0), key, by: self.by(), from: Arc::from("") }
            }
            "finalize" => {
                let version = Arc::from(self.next("a version")?);
                Input::FinalizeUpgrade { request: RequestId(0), version, by: self.by(), from: Arc::from("") }
            }
            "token" | "role" | "issuer" | "deny" | "allow" | "quota" | "settings" | "key" | "checkpoint"
            | "refused" => self.access(verb)?,
            "join" => self.join()?,
            "redact" => self.redact()?,
            "effect" => self.effect()?,
            "intend" => self.intend()?,
            "query" => Input::Query { request: RequestId(0), tenant: words::tenant(), query: self.query()? },
            "carry" => {
                let event = Seq(number(self.next("an event")?)?);
                let effect = self.take("effect").map(str::parse).transpose().map_err(text)?;
                Input::Carry { event, effect, payload: words::payload(self.take("data").unwrap_or_default()) }
            }
            "drop" => {
                let through = Seq(number(self.next("a sequence")?)?);
                Input::DropPrefix { request: RequestId(0), through, link: [0; 32] }
            }
            "truncated" => {
                let kept = Seq(number(self.next("a sequence")?)?);
                Input::Truncated { kept, dropped_through: Seq(number(self.next("a sequence")?)?) }
            }
            other => return Err(format!("`{other}` is not a step")),
        };
        Ok(Step::Input(Box::new(input)))
    }

    pub(super) fn next(&mut self, what: &str) -> Parsed<&'a str> {
        self.alone.next().ok_or_else(|| format!("{what} is missing"))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<&'a str> {
        self.named.remove(name)
    }

    fn flag(&mut self, word: &str) -> bool {
        let rest: Vec<_> = self.alone.by_ref().collect();
        let (found, rest): (Vec<&str>, Vec<&str>) = rest.into_iter().partition(|known| *known == word);
        self.alone = rest.into_iter();
        !found.is_empty()
    }

    pub(super) fn why(&mut self) -> Arc<str> {
        Arc::from(self.take("why").unwrap_or_default())
    }

    pub(super) fn by(&mut self) -> Arc<str> {
        Arc::from(self.take("by").unwrap_or_default())
    }

    fn span(&mut self) -> Parsed<Duration> {
        span(self.next("a span")?)
    }

    fn session(&mut self) -> Parsed<SessionId> {
        let word = self.next("a session")?;
        let digits = word.strip_prefix('s').ok_or_else(|| format!("`{word}` is not a session such as `s1`"))?;
        Ok(SessionId(number(digits)?))
    }

    pub(super) fn list<T>(&mut self, name: &str, read: impl Fn(&str) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.take(name).into_iter().flat_map(|list| list.split(',')).filter(|item| !item.is_empty()).map(read).collect()
    }

    fn route(&mut self) -> Parsed<Route> {
        let name = RouteName::new(self.next("a name")?).map_err(text)?;
        let pattern = |item: &str| Pattern::new(item).map_err(text);
        let matches = Match {
            kinds: self.list("kinds", pattern)?,
            subjects: self.list("subjects", pattern)?,
            condition: self.take("expr").map(Arc::from),
        };
        let targets = Targets {
            types: self.list("types", |item| GeneralType::new(item).map_err(text))?,
            clusters: self.list("clusters", |item| ClusterName::new(item).map_err(text))?,
            names: self.list("names", |item| GeneralName::new(item).map_err(text))?,
            regions: self.list("regions", |item| Region::new(item).map_err(text))?,
            labels: Vec::new(),
            weights: policy::weights(&self.list("weights", |item| Ok(item.to_owned()))?)?,
        };
        let strategy: Strategy = self.take("strategy").unwrap_or("broadcast").parse().map_err(text)?;
        let mut route = Route::new(name, matches, targets, strategy);
        if let Some(count) = self.take("count") {
            route.count = number(count)?;
        }
        if let Some(attempts) = self.take("attempts") {
            route.attempts_max = number(attempts)?;
        }
        if let Some(deadline) = self.take("deadline") {
            route.deadline = span(deadline)?;
        }
        if let Some(block) = self.take("block") {
            route.block_max = span(block)?;
        }
        route.guards = self.guards()?;
        if let Some(priority) = self.take("priority") {
            route.priority = priority.parse().map_err(text)?;
        }
        let mut named = |name: &str| self.take(name);
        policy::read(&mut route, &mut named)?;
        if self.flag("latest") {
            route.coalesce = mindos_core::route::Coalesce::Latest;
        }
        Ok(route)
    }

    /// `bots=drop`, `forks=park`, `echoes=allow`, `association=MEMBER,OWNER`, `hops=3`.
    fn guards(&mut self) -> Parsed<Option<Box<Guards>>> {
        let mut action = |name: &str| match self.take(name) {
            None => Ok(None),
            Some("allow") => Ok(Some(GuardAction::Allow)),
            Some("park") => Ok(Some(GuardAction::Park)),
            Some("drop") => Ok(Some(GuardAction::Drop)),
            Some(other) => Err(format!("`{other}` is not what a guard does")),
        };
        let (forks, bots, echoes) = (action("forks")?, action("bots")?, action("echoes")?);
        let association = self.list("association", |word| Ok(Arc::from(word)))?;
        let guards = Guards { forks, bots, echoes, association, hops_max: self.take("hops").map(number).transpose()? };
        Ok((guards != Guards::default()).then(|| Box::new(guards)))
    }

    /// `judged=TABLE` or `judged=TABLE:PLACE`: by which table, and the place of the route whose condition holds.
    fn judged(&mut self) -> Parsed<Option<Judged>> {
        let Some(word) = self.take("judged") else { return Ok(None) };
        let (table, holds) = word.split_once(':').unwrap_or((word, ""));
        let holds = if holds.is_empty() { None } else { Some(number(holds)?) };
        let failed = self.take("failed").map(number).transpose()?.unwrap_or(0);
        Ok(Some(Judged { table: Seq(number(table)?), holds, failed }))
    }

    fn trust(&mut self) -> Parsed<Option<Box<Trust>>> {
        let trust = Trust {
            fork: self.flag("fork"),
            bot: self.flag("bot"),
            echo: self.flag("echo"),
            association: self.take("association").map(Arc::from),
            hops: self.take("hops").map(number).transpose()?.unwrap_or(0),
        };
        Ok((trust != Trust::default()).then(|| Box::new(trust)))
    }

    fn publish(&mut self) -> Parsed<Input> {
        let (source, id) = split(self.next("source and id")?)?;
        let kind = self.take("kind").unwrap_or("note");
        let ty = self.take("type").unwrap_or(kind);
        let data = self.take("data").unwrap_or("x");
        let asked = self.take("asked").map(asked).transpose()?;
        let version = self.take("version");
        let about = match (self.take("replay"), self.take("feedback")) {
            (Some(replay), _) => Some(super::about::replay(replay, version)?),
            (None, Some(feedback)) => Some(super::about::feedback(feedback, source)?),
            (None, None) => None,
        };
        let event = NewEvent {
            tenant: words::tenant(),
            source: Arc::from(source),
            id: Arc::from(id),
            ty: Arc::from(ty),
            kind: Arc::from(kind),
            subject: self.take("subject").map(Arc::from),
            lane: Arc::from(self.take("lane").unwrap_or(source)),
            repository: self.take("repository").map(Arc::from),
            priority: self.take("priority").map(str::parse).transpose().map_err(text)?,
            actor: None,
            time: None,
            key: words::dedupe_key(source, id),
            digest: words::content_digest(kind, data),
            payload: words::payload(data),
            trust: self.trust()?,
            judged: self.judged()?,
            not_before: self.take("notbefore").map(|at| self.time(at)).transpose()?,
            routed: !self.flag("unrouted"),
            asked,
            about,
            seen: None,
        };
        Ok(Input::Publish { request: RequestId(0), event: Box::new(event) })
    }

    fn hello(&mut self) -> Parsed<Input> {
        let session = self.session()?;
        let (cluster, instance) = split(self.next("an instance")?)?;
        let key = words::instance(cluster, instance).ok_or("not an instance's name")?;
        let pool = self.take("pool").map(|name| (Arc::from(RATE_POOL_LABEL), Arc::from(name)));
        let labels: Vec<_> = super::siting::labels(self.take("labels"))?.into_iter().chain(pool).collect();
        let general = |item: &str| {
            let parts: Vec<_> = item.split(':').collect();
            let [name, ty, slots] = parts[..] else { return Err(format!("`{item}` is not name:type:slots")) };
            Ok(HelloGeneral {
                name: GeneralName::new(name).map_err(text)?,
                ty: GeneralType::new(ty).map_err(text)?,
                labels: labels.clone(),
                slots: number(slots)?,
            })
        };
        Ok(Input::Hello(Box::new(Hello {
            session,
            key,
            boot: BootId::new(self.take("boot").unwrap_or("b1")).map_err(text)?,
            version: Arc::from(self.take("version").unwrap_or("0.1.0")),
            region: self.take("region").map(Region::new).transpose().map_err(text)?,
            cluster_labels: super::siting::labels(self.take("cluster_labels"))?,
            pod: Default::default(),
            generals: self.list("generals", general)?,
            held: self.list("held", claim)?,
            keeps_ceilings: self.flag("ceilings"),
        })))
    }

    fn lease(&mut self) -> Parsed<(DeliveryId, Token)> {
        let delivery = self.next("a delivery")?.parse().map_err(text)?;
        Ok((delivery, self.next("a token")?.parse().map_err(text)?))
    }

    fn note(&mut self) -> Arc<str> {
        Arc::from(self.take("note").unwrap_or_default())
    }

    fn agent(&mut self, verb: &str) -> Parsed<AgentMessage> {
        Ok(match verb {
            "grant" => {
                let general = GeneralName::new(self.next("a general")?).map_err(text)?;
                AgentMessage::Grant { general, capacity: number(self.next("a capacity")?)? }
            }
            "accept" => {
                let (delivery, token) = self.lease()?;
                AgentMessage::Accept { delivery, token }
            }
            "decline" => {
                let (delivery, token) = self.lease()?;
                let retry_at = self.take("retry").map(|at| self.time(at)).transpose()?;
                AgentMessage::Decline { delivery, token, retry_at, message: self.note() }
            }
            "extend" => {
                let (delivery, token) = self.lease()?;
                let progress = self.take("progress").map(number).transpose()?.unwrap_or(0);
                let checkpoint = self.take("checkpoint").map(words::payload);
                let usage = self.list("usage", |item| {
                    Ok(Usage { model: Arc::from("m"), input_tokens: number(item)?, ..Usage::default() })
                })?;
                let usage = if usage.is_empty() { self.spent()? } else { usage };
                let more = self.take("wanted").map(number).transpose()?;
                let in_all = self.take("in_all").map(number).transpose()?;
                let limit = |micros| Limit { micros: Some(micros), ..Limit::default() };
                let more = more.map(|micros| CeilingsWanted::More(limit(micros)));
                let wanted = in_all.map(|micros| CeilingsWanted::InAll(limit(micros))).or(more);
                AgentMessage::Extend(Box::new(Extend { delivery, token, progress, checkpoint, usage, wanted }))
            }
            "result" => {
                let (delivery, token) = self.lease()?;
                let outcome = self.outcome()?;
                let usage = self.spent()?;
                let effects = self.intents(Some(delivery))?;
                AgentMessage::Result(Box::new(ResultReport { delivery, token, outcome, usage, effects }))
            }
            "heartbeat" => AgentMessage::Heartbeat { loads: self.loads()? },
            "reconcile" => AgentMessage::Reconcile { held: self.list("held", claim)? },
            _ => AgentMessage::Draining,
        })
    }

    /// The load of the model behind one general, or nothing.
    fn loads(&mut self) -> Parsed<Vec<(GeneralName, ReportedLoad)>> {
        let Some(general) = self.alone.next() else { return Ok(Vec::new()) };
        let general = GeneralName::new(general).map_err(text)?;
        let model = ModelLoad {
            running: self.take("running").map_or(Ok(0), number)?,
            queue: self.take("queue").map_or(Ok(0), number)?,
            cache_permille: self.take("cache").map(number).transpose()?,
            tokens_per_second: self.take("tokens").map(number).transpose()?,
            limit_remaining: self.take("remaining").map(number).transpose()?,
            limit_resets_at: self.take("resets").map(|at| self.time(at)).transpose()?,
        };
        Ok(vec![(general, ReportedLoad { model: Some(Box::new(model)), ..ReportedLoad::default() })])
    }

    fn outcome(&mut self) -> Parsed<ReportedOutcome> {
        let kind = match self.next("an outcome")? {
            "ok" => {
                let output = self.take("output").map(words::payload);
                return Ok(ReportedOutcome::Succeeded { output, output_type: None, output_ref: None });
            }
            "transient" => FailureKind::Transient,
            "lost" => FailureKind::Lost,
            "poison" => FailureKind::Poison,
            "too_large" => FailureKind::TooLarge,
            "cancelled" => FailureKind::Cancelled,
            "over_budget" => FailureKind::OverBudget,
            "rate_limited" => {
                let until = self.take("until").ok_or("until= is missing")?;
                FailureKind::RateLimited { until: self.time(until)? }
            }
            other => return Err(format!("`{other}` is not an outcome")),
        };
        Ok(ReportedOutcome::Failed { kind, message: self.note() })
    }

    /// `+5s` counts from now, `5s` from the start.
    pub(super) fn time(&self, word: &str) -> Parsed<Timestamp> {
        match word.strip_prefix('+') {
            Some(word) => Ok(self.now + span(word)?),
            None => Ok(self.start + span(word)?),
        }
    }

    fn selector(&mut self) -> Parsed<Selector> {
        if let Some(word) = self.alone.next() {
            return Ok(Selector::One(word.parse().map_err(text)?));
        }
        let limit = self.take("limit").map(number).transpose()?.unwrap_or(1000);
        Ok(Selector::Filter { filter: self.filter()?, limit })
    }

    fn filter(&mut self) -> Parsed<DeliveryFilter> {
        Ok(DeliveryFilter {
            status: self.take("status").map(str::parse).transpose().map_err(text)?,
            reason: self.take("reason").map(str::parse).transpose().map_err(text)?,
            cluster: self.take("cluster").map(ClusterName::new).transpose().map_err(text)?,
            general: self.take("general").map(GeneralName::new).transpose().map_err(text)?,
            route: self.take("route").map(RouteName::new).transpose().map_err(text)?,
            kind: self.take("kind").map(Arc::from),
            lane: self.take("lane").map(Arc::from),
            ..DeliveryFilter::default()
        })
    }

    fn hold(&mut self) -> Parsed<Input> {
        let what = self.next("cluster, general, instance or route")?;
        let name = self.next("a name")?;
        let target = match what {
            "cluster" => HoldTarget::Cluster(ClusterName::new(name).map_err(text)?),
            "general" => {
                let (cluster, name) = split(name)?;
                HoldTarget::General(ClusterName::new(cluster).map_err(text)?, GeneralName::new(name).map_err(text)?)
            }
            "instance" => {
                let (cluster, name) = split(name)?;
                HoldTarget::Instance(ClusterName::new(cluster).map_err(text)?, InstanceId::new(name).map_err(text)?)
            }
            "route" => HoldTarget::Route(RouteName::new(name).map_err(text)?),
            other => return Err(format!("`{other}` cannot be held")),
        };
        let (mut end, mut begin) = (Holds::NONE, Holds::NONE);
        let mut word = self.next("none, paused, cordoned or draining")?;
        loop {
            let (ends, name) = word.strip_prefix('-').map_or((false, word), |name| (true, name));
            let holds = match name {
                "none" => Holds::ALL,
                "paused" => Holds::PAUSED,
                "cordoned" => Holds::CORDONED,
                "draining" => Holds::DRAINING,
                other => return Err(format!("`{other}` is not a hold")),
            };
            if ends || name == "none" {
                end = end.with(holds);
            } else {
                begin = begin.with(holds);
            }
            let Some(next) = self.alone.next() else { break };
            word = next;
        }
        Ok(Input::Hold {
            request: RequestId(0),
            tenant: words::tenant(),
            target,
            end,
            begin,
            why: self.why(),
            by: self.by(),
            from: Arc::from(""),
        })
    }

    fn query(&mut self) -> Parsed<Query> {
        Ok(match self.next("a question")? {
            "totals" => Query::Totals,
            "objects" => Query::Objects { cluster: None, general: None },
            "fleet" => Query::Fleet,
            "demand" => {
                let key = |name: &str| {
                    let (cluster, name) = split(name)?;
                    let key = words::general(cluster, name).ok_or("not a general's name")?;
                    Ok((key.cluster, key.name))
                };
                let names = self.next("generals")?;
                Query::Demand { generals: names.split(',').map(key).collect::<Parsed<_>>()? }
            }
            "routes" => Query::Routes,
            "budgets" => Query::Budgets,
            what @ ("due" | "effects") => self.effect_query(what),
            "seen" => {
                let (source, id) = split(self.next("source and id")?)?;
                Query::Seen { key: words::dedupe_key(source, id) }
            }
            "event" => Query::Event { event: Seq(number(self.next("an event")?)?) },
            "payloads" => Query::PayloadsBefore { before: Seq(number(self.next("a sequence")?)?), limit: 1000 },
            "deliveries" => {
                let limit = self.take("limit").map(number).transpose()?.unwrap_or(1000);
                Query::Deliveries { filter: self.filter()?, after: None, limit }
            }
            other => return Err(format!("`{other}` is not a question")),
        })
    }
}

/// The table that routes were named for.
#[must_use]
pub fn table(routes: Vec<Route>, guards: Option<Box<Guards>>) -> Arc<RouteTable> {
    let trust = guards.map(|guards| Arc::new(TrustRules { guards: *guards, own_logins: Vec::new() }));
    Arc::new(RouteTable { routes, trust })
}

fn claim(item: &str) -> Parsed<(DeliveryId, Token)> {
    let (delivery, token) = item.split_once('@').ok_or_else(|| format!("`{item}` is not delivery@token"))?;
    Ok((delivery.parse().map_err(text)?, token.parse().map_err(text)?))
}

pub(super) fn split(word: &str) -> Parsed<(&str, &str)> {
    word.split_once('/').ok_or_else(|| format!("`{word}` has no `/`"))
}

pub(super) fn number<T: std::str::FromStr>(word: &str) -> Parsed<T> {
    word.parse().map_err(|_| format!("`{word}` is not a number"))
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// `5s`, `1.250s`, `100ms`, `2m` or `1h`.
pub(super) fn span(word: &str) -> Parsed<Duration> {
    let bad = || format!("`{word}` is not a span such as `5s`");
    if let Some(millis) = word.strip_suffix("ms") {
        return Ok(Duration::from_millis(millis.parse().map_err(|_| bad())?));
    }
    let (digits, scale) = match word.char_indices().next_back() {
        Some((at, 's')) => (&word[..at], 1000),
        Some((at, 'm')) => (&word[..at], 60_000),
        Some((at, 'h')) => (&word[..at], 3_600_000),
        _ => return Err(bad()),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let part: u64 = if part.is_empty() { 0 } else { format!("{part:0<3}").parse().map_err(|_| bad())? };
    Ok(Duration::from_millis(whole * scale + part * scale / 1000))
}

/// A route that an event brings along: its name, strategy and the types of generals, such as `asked.1:broadcast:a+b`.
fn asked(item: &str) -> Parsed<Arc<Route>> {
    let parts: Vec<_> = item.split(':').collect();
    let [name, strategy, types] = parts[..] else { return Err(format!("`{item}` is not name:strategy:types")) };
    let types = types.split('+').map(|ty| GeneralType::new(ty).map_err(text)).collect::<Parsed<_>>()?;
    let targets = Targets { types, ..Targets::default() };
    let strategy: Strategy = strategy.parse().map_err(text)?;
    let mut route = Route::new(RouteName::new(name).map_err(text)?, Match::default(), targets, strategy);
    if strategy == Strategy::Shadow {
        route.policy.shadow = Some(route.targets.clone());
    }
    Ok(Arc::new(route))
}
