//! Inputs as lines of a scenario, as [`super::parse`] reads them.

use std::fmt::Write as _;

use mindos_core::RATE_POOL_LABEL;
use mindos_core::budget::{Budget, Limit, Scope, Thresholds};
use mindos_core::input::{
    AgentMessage, BudgetChange, CeilingsWanted, DeliveryFilter, Extend, Input, KeptPool, ModelLoad, Query,
    ReportedOutcome, Selector,
};
use mindos_core::record::{Holds, Payload, Usage};
use mindos_core::route::{Coalesce, Route};
use mindos_model::{DeliveryId, FailureKind, GeneralName, Priority, Timestamp, Token};

use super::show;

/// The line that stands for an input; times counted from `start`.
#[must_use]
pub fn input(input: &Input, start: Timestamp) -> String {
    match input {
        Input::Publish { request: _, event } => {
            let mut text = format!("publish {}/{} kind={} type={}", event.source, event.id, event.kind, event.ty);
            let _ = write!(text, " lane={} data={}", event.lane, data(&event.payload));
            if let Some(subject) = &event.subject {
                let _ = write!(text, " subject={subject}");
            }
            if let Some(at) = event.not_before {
                let _ = write!(text, " notbefore={}", show::since(at, start));
            }
            if let Some(repository) = &event.repository {
                let _ = write!(text, " repository={repository}");
            }
            if let Some(priority) = event.priority {
                let _ = write!(text, " priority={priority}");
            }
            if let Some(about) = &event.about {
                super::about::print(&mut text, about);
            }
            if !event.routed {
                text.push_str(" unrouted");
            }
            text
        }
        Input::Hello(hello) => {
            let generals =
                hello.generals.iter().map(|general| format!("{}:{}:{}", general.name, general.ty, general.slots));
            let mut text = format!("hello s{} {} boot={}", hello.session.0, hello.key, hello.boot);
            let _ = write!(text, " generals={}", generals.collect::<Vec<_>>().join(","));
            if *hello.version != *"0.1.0" {
                let _ = write!(text, " version={}", hello.version);
            }
            if let Some(region) = &hello.region {
                let _ = write!(text, " region={region}");
            }
            if &*hello.version != "0.1.0" {
                let _ = write!(text, " version={}", hello.version);
            }
            if hello.keeps_ceilings {
                text.push_str(" ceilings");
            }
            super::siting::print_labels(&mut text, "cluster_labels", &hello.cluster_labels);
            // Those of the others are the same, as scenarios say it.
            let own = hello.generals.first().map(|general| &general.labels[..]).unwrap_or_default();
            let own = own.iter().filter(|(key, _)| &**key != RATE_POOL_LABEL).cloned().collect();
            super::siting::print_labels(&mut text, "labels", &own);
            let labels = hello.generals.iter().flat_map(|general| &general.labels);
            if let Some((_, pool)) = { labels }.find(|(key, _)| &**key == RATE_POOL_LABEL) {
                let _ = write!(text, " pool={pool}");
            }
            if !hello.held.is_empty() {
                let _ = write!(text, " held={}", claims(&hello.held));
            }
            text
        }
        Input::Agent { session, message } => agent(session.0, message, start),
        Input::Closed { session } => format!("close s{}", session.0),
        Input::KeepPools { pools, .. } => {
            let pool = |pool: &KeptPool| {
                format!(
                    " {}/{} type={} keep={}",
                    pool.cluster,
                    pool.general,
                    pool.ty,
                    format_args!("{}s", pool.keep.as_secs())
                )
            };
            format!("keep{}", pools.first().map(pool).unwrap_or_default())
        }
        Input::Cancel { select, why, by, .. } => {
            format!("cancel {}{}{}", selector(select), show::why(why), by_text(by))
        }
        Input::Redrive { select, why, by, .. } => {
            format!("redrive {}{}{}", selector(select), show::why(why), by_text(by))
        }
        Input::Hold { target, end, begin, why, by, .. } => {
            format!("hold {}{}{}{}", show::target(target), hold_words(*end, *begin), show::why(why), by_text(by))
        }
        Input::ApplyRoutes { table, expected, by, .. } => {
            let mut text: String = table.routes.iter().map(|entry| format!("{}\n", route(entry))).collect();
            text.push_str("apply");
            if let Some(expected) = expected {
                let _ = write!(text, " expected={expected}");
            }
            text.push_str(&by_text(by));
            text
        }
        Input::Budget { change, by, .. } => match change {
            BudgetChange::Set(budget) => format!("budget set {}{}", self::budget(budget), by_text(by)),
            BudgetChange::Remove(name) => format!("budget remove {name}{}", by_text(by)),
            BudgetChange::Acknowledge(name) => format!("budget ack {name}{}", by_text(by)),
        },
        Input::Object { change, .. } => super::objects::print(change),
        Input::RemoveGeneral { key, by, .. } => format!("remove {key}{}", by_text(by)),
        Input::FinalizeUpgrade { version, by, .. } => format!("finalize {version}{}", by_text(by)),
        Input::Access { within, change, by, .. } => {
            format!("{}{}", super::access::print(within, change, start), by_text(by))
        }
        Input::Join(join) => super::access::print_join(join, start),
        Input::Redact { events, why, by, .. } => {
            let events: Vec<_> = events.iter().map(ToString::to_string).collect();
            format!("redact {} why={why}{}", events.join(","), by_text(by))
        }
        Input::Query { query, .. } => self::query(query),
        Input::Carry { event, effect, payload } => {
            let effect = effect.map(|effect| format!(" effect={effect}")).unwrap_or_default();
            format!("carry {event}{effect} data={}", data(payload))
        }
        Input::Effect { .. } | Input::ChangeEffect { .. } | Input::Intend { .. } => super::effects::print(input, start),
        Input::DropPrefix { through, .. } => format!("drop {through}"),
        Input::Truncated { kept, dropped_through } => format!("truncated {kept} {dropped_through}"),
    }
}

fn agent(session: u64, message: &AgentMessage, start: Timestamp) -> String {
    match message {
        AgentMessage::Grant { general, capacity } => format!("grant s{session} {general} {capacity}"),
        AgentMessage::Accept { delivery, token } => format!("accept s{session} {delivery} {token}"),
        AgentMessage::Decline { delivery, token, retry_at, message } => {
            let retry = retry_at.map(|at| format!(" retry={}", show::since(at, start))).unwrap_or_default();
            format!("decline s{session} {delivery} {token}{retry}{}", note(message))
        }
        AgentMessage::Extend(extend) => {
            let checkpoint = extend.checkpoint.as_ref().map(|payload| format!(" checkpoint={}", data(payload)));
            let checkpoint = checkpoint.unwrap_or_default();
            let wanted = extend.wanted.and_then(|wanted| match wanted {
                CeilingsWanted::More(limit) => Some(format!(" wanted={}", limit.micros?)),
                CeilingsWanted::InAll(limit) => Some(format!(" in_all={}", limit.micros?)),
            });
            let (usage, wanted) = (usage(&extend.usage), wanted.unwrap_or_default());
            let Extend { delivery, token, progress, .. } = extend.as_ref();
            format!("extend s{session} {delivery} {token} progress={progress}{checkpoint}{usage}{wanted}")
        }
        AgentMessage::Result(report) => {
            let outcome = match &report.outcome {
                ReportedOutcome::Succeeded { output, .. } => {
                    let output =
                        output.as_ref().map(|payload| format!(" output={}", data(payload))).unwrap_or_default();
                    format!("ok{output}")
                }
                ReportedOutcome::Failed { kind: FailureKind::RateLimited { until }, message } => {
                    format!("rate_limited until={}{}", show::since(*until, start), note(message))
                }
                ReportedOutcome::Failed { kind, message } => format!("{}{}", kind.as_str(), note(message)),
            };
            let effects = super::effects::print_intents(&report.effects);
            format!("result s{session} {} {} {outcome}{}{effects}", report.delivery, report.token, usage(&report.usage))
        }
        AgentMessage::Heartbeat { loads } => {
            // One line for each general, as if each had come by itself.
            let lines = loads.iter().filter_map(|(general, load)| Some((general, load.model.as_ref()?)));
            let lines: Vec<_> = lines.map(|(general, model)| heartbeat(session, general, model, start)).collect();
            if lines.is_empty() { format!("heartbeat s{session}") } else { lines.join("\n") }
        }
        AgentMessage::Reconcile { held } => format!("reconcile s{session} held={}", claims(held)),
        AgentMessage::Draining => format!("draining s{session}"),
    }
}

fn heartbeat(session: u64, general: &GeneralName, model: &ModelLoad, start: Timestamp) -> String {
    let ModelLoad { running, queue, cache_permille, tokens_per_second, limit_remaining, limit_resets_at } = model;
    let mut text = format!("heartbeat s{session} {general} running={running} queue={queue}");
    let mut add = |name: &str, value: Option<String>| {
        let _ = value.map(|value| write!(text, " {name}={value}"));
    };
    add("cache", cache_permille.map(|value| value.to_string()));
    add("tokens", tokens_per_second.map(|value| value.to_string()));
    add("remaining", limit_remaining.map(|value| value.to_string()));
    add("resets", limit_resets_at.map(|at| show::since(at, start)));
    text
}

fn query(query: &Query) -> String {
    match query {
        Query::Seen { .. } => "query totals".to_owned(),
        Query::Event { event } => format!("query event {event}"),
        Query::Deliveries { filter, limit, .. } => format!("query deliveries {} limit={limit}", self::filter(filter)),
        Query::Fleet => "query fleet".to_owned(),
        Query::Demand { generals } => {
            let names: Vec<_> = generals.iter().map(|(cluster, name)| format!("{cluster}/{name}")).collect();
            format!("query demand {}", names.join(","))
        }
        Query::Objects { .. } => "query objects".to_owned(),
        Query::Routes => "query routes".to_owned(),
        Query::Budgets => "query budgets".to_owned(),
        Query::Totals => "query totals".to_owned(),
        Query::EffectsDue { .. } => "query due".to_owned(),
        Query::Effects { .. } => "query effects".to_owned(),
        Query::PayloadsBefore { before, .. } => format!("query payloads {before}"),
    }
}

/// One line of a budget, which begins with its name.
pub(super) fn budget(budget: &Budget) -> String {
    let Budget { name, scope, period, limit, thresholds, priority } = budget;
    let scope = match scope {
        Scope::Tenant => "scope=tenant".to_owned(),
        Scope::Repository(repository) => format!("repository={repository}"),
        Scope::GeneralType(ty) => format!("type={ty}"),
        Scope::Route(route) => format!("route={route}"),
        Scope::Run => "scope=run".to_owned(),
        Scope::Replay(id) if id.is_empty() => "scope=replay".to_owned(),
        Scope::Replay(id) => format!("scope=replay:{id}"),
    };
    let Limit { micros, tokens, time_ms } = *limit;
    let limits = [("micros", micros), ("tokens", tokens), ("time_ms", time_ms)];
    let limits = limits.into_iter().filter_map(|(name, limit)| Some(format!(" {name}={}", limit?)));
    let Thresholds { warn, act, pause } = thresholds;
    let period = format!("{period:?}").to_lowercase();
    let priority = if priority.is_empty() { String::new() } else { format!(" priority={}", priority.join(",")) };
    format!("{name} {scope} period={period}{} at={warn},{act},{pause}{priority}", limits.collect::<String>())
}

fn usage(usage: &[Usage]) -> String {
    let spent = usage.iter().map(|usage| format!("{}/{}", usage.cost_micros, usage.input_tokens + usage.output_tokens));
    if usage.is_empty() { String::new() } else { format!(" spent={}", spent.collect::<Vec<_>>().join(",")) }
}

fn selector(select: &Selector) -> String {
    match select {
        Selector::One(id) => id.to_string(),
        Selector::Filter { filter, limit } => format!("{} limit={limit}", self::filter(filter)),
    }
}

fn filter(filter: &DeliveryFilter) -> String {
    let mut parts = Vec::new();
    let mut add = |name: &str, value: Option<String>| parts.extend(value.map(|value| format!("{name}={value}")));
    add("status", filter.status.map(|status| status.to_string()));
    add("reason", filter.reason.map(|reason| reason.to_string()));
    add("cluster", filter.cluster.as_ref().map(ToString::to_string));
    add("general", filter.general.as_ref().map(ToString::to_string));
    add("route", filter.route.as_ref().map(ToString::to_string));
    add("kind", filter.kind.as_ref().map(ToString::to_string));
    add("lane", filter.lane.as_ref().map(ToString::to_string));
    parts.join(" ")
}

/// One route of a table.
#[must_use]
pub fn route(route: &Route) -> String {
    let list = |items: Vec<String>| items.join(",");
    let mut text = format!("route {}", route.name);
    let mut add = |name: &str, items: Vec<String>| {
        if !items.is_empty() {
            let _ = write!(text, " {name}={}", list(items));
        }
    };
    add("kinds", route.matches.kinds.iter().map(|kind| kind.as_str().to_owned()).collect());
    add("subjects", route.matches.subjects.iter().map(|subject| subject.as_str().to_owned()).collect());
    add("types", route.targets.types.iter().map(ToString::to_string).collect());
    add("clusters", route.targets.clusters.iter().map(ToString::to_string).collect());
    add("names", route.targets.names.iter().map(ToString::to_string).collect());
    let priority =
        if route.priority == Priority::Normal { String::new() } else { format!(" priority={}", route.priority) };
    let coalesce = if route.coalesce == Coalesce::Latest { " latest" } else { "" };
    let (deadline, block) = (route.deadline.as_secs(), route.block_max.as_secs());
    let _ = write!(
        text,
        " strategy={} count={} attempts={} deadline={deadline}s block={block}s{priority}{coalesce}",
        route.strategy, route.count, route.attempts_max
    );
    super::policy::print(&mut text, route);
    text
}

fn claims(held: &[(DeliveryId, Token)]) -> String {
    held.iter().map(|(id, token)| format!("{id}@{token}")).collect::<Vec<_>>().join(",")
}

fn data(payload: &Payload) -> String {
    String::from_utf8_lossy(&payload.bytes).into_owned()
}

fn note(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" note={}", message.replace(char::is_whitespace, "_")) }
}

fn by_text(by: &str) -> String {
    if by.is_empty() { String::new() } else { format!(" by={by}") }
}

/// `none` ends all, `-paused` ends one, `paused` begins one.
fn hold_words(end: Holds, begin: Holds) -> String {
    if (end, begin) == (Holds::ALL, Holds::NONE) {
        return " none".to_owned();
    }
    let words = |holds: Holds, sign: &str| {
        let Holds { paused, cordoned, draining } = holds;
        let named = [(paused, "paused"), (cordoned, "cordoned"), (draining, "draining")];
        named.into_iter().filter(|(on, _)| *on).map(|(_, word)| format!(" {sign}{word}")).collect::<String>()
    };
    words(end, "-") + &words(begin, "")
}
