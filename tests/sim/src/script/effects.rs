//! Effects in scenarios: what is wanted, what came of it, and who decided.
//!
//! A target is written with `!` in the place of `#`, which begins a remark: `o/r!7`.

use std::fmt::Write as _;
use std::sync::Arc;

use mindos_core::effect::EffectFilter;
use mindos_core::input::{EffectChange, EffectReport, Input, Intent, Query, RequestId};
use mindos_core::output::EffectView;
use mindos_core::record::{EffectDeferred, EffectEnded, EffectIntended, EffectOutcome, EffectRevived};
use mindos_model::{DeliveryId, EffectId, GeneralName, Seq, Timestamp};

use super::parse::{Parsed, Words, number};
use super::show::since;
use crate::words;

impl Words<'_> {
    /// `effects=comment:o/r!7,labels:o/r!7:key`; without a key it is that of the result.
    pub(super) fn intents(&mut self, delivery: Option<DeliveryId>) -> Parsed<Vec<Intent>> {
        let items = self.list("effects", |item| Ok(item.to_owned()))?;
        let intent = |(at, item): (usize, String)| {
            let mut parts = item.splitn(3, ':');
            let (Some(kind), Some(target)) = (parts.next(), parts.next()) else {
                return Err(format!("`{item}` is not kind:target or kind:target:key"));
            };
            let key = match (parts.next(), delivery) {
                (Some(key), _) => key.to_owned(),
                (None, Some(delivery)) => format!("{delivery}/{at}"),
                (None, None) => return Err(format!("`{item}` has no key")),
            };
            let (key, kind, target) = (Arc::from(key), Arc::from(kind), Arc::from(target.replace('!', "#")));
            Ok(Intent { key, kind, target, parameters: words::payload("{}") })
        };
        items.into_iter().enumerate().map(intent).collect()
    }

    /// `intend intake 4 effects=..`: a part of the plane wants something because of the event.
    pub(super) fn intend(&mut self) -> Parsed<Input> {
        let part = GeneralName::new(self.next("a part of the plane")?).map_err(|error| error.to_string())?;
        let event = Seq(number(self.next("an event")?)?);
        let intents = self.intents(None)?;
        Ok(Input::Intend { tenant: words::tenant(), event, part, intents })
    }

    /// `effect e7 done`, `dry`, `failed`, `tried`, `limited until=+30s`, `retry by=ann`, `cancel by=ann`.
    pub(super) fn effect(&mut self) -> Parsed<Input> {
        let effect: EffectId =
            self.next("an effect")?.parse().map_err(|error: mindos_model::ParseIdError| error.to_string())?;
        let verb = self.next("what came of it")?;
        let change = match verb {
            "retry" => Some(EffectChange::Retry),
            "cancel" => Some(EffectChange::Cancel),
            _ => None,
        };
        if let Some(change) = change {
            let (request, tenant, by) = (RequestId(0), words::tenant(), self.by());
            return Ok(Input::ChangeEffect { request, tenant, effect, change, by, from: Arc::from("") });
        }
        let why: Arc<str> = Arc::from(self.take("note").unwrap_or("it"));
        let until = self.take("until").map(|at| self.time(at)).transpose()?.unwrap_or(Timestamp(0));
        let report = match verb {
            "done" => {
                let observed = Arc::from(self.take("observed").unwrap_or("{}"));
                EffectReport::Ended(EffectOutcome::Done { observed })
            }
            "dry" => EffectReport::Ended(EffectOutcome::DryRun { would: Arc::from("{}") }),
            "failed" => EffectReport::Ended(EffectOutcome::Failed { message: why }),
            "tried" => EffectReport::Defer { until, counted: true, why },
            "limited" => EffectReport::Defer { until, counted: false, why },
            other => return Err(format!("`{other}` is not what comes of an effect")),
        };
        Ok(Input::Effect { effect, report })
    }

    pub(super) fn effect_query(&mut self, what: &str) -> Query {
        match what {
            "due" => Query::EffectsDue { after: None, limit: 100 },
            _ => Query::Effects { filter: EffectFilter::default(), after: None, limit: 100 },
        }
    }
}

/// `effects=..` of a result.
pub(super) fn print_intents(intents: &[Intent]) -> String {
    let item = |intent: &Intent| format!("{}:{}:{}", intent.kind, intent.target.replace('#', "!"), intent.key);
    let items: Vec<_> = intents.iter().map(item).collect();
    if items.is_empty() { String::new() } else { format!(" effects={}", items.join(",")) }
}

pub(super) fn print(input: &Input, start: Timestamp) -> String {
    match input {
        Input::Intend { event, part, intents, .. } => format!("intend {part} {event}{}", print_intents(intents)),
        Input::ChangeEffect { effect, change, by, .. } => {
            let verb = match change {
                EffectChange::Retry => "retry",
                EffectChange::Cancel => "cancel",
            };
            let by = if by.is_empty() { String::new() } else { format!(" by={by}") };
            format!("effect {effect} {verb}{by}")
        }
        Input::Effect { effect, report } => match report {
            EffectReport::Ended(EffectOutcome::Done { observed }) => {
                format!("effect {effect} done observed={observed}")
            }
            EffectReport::Ended(EffectOutcome::DryRun { .. }) => format!("effect {effect} dry"),
            EffectReport::Ended(EffectOutcome::Failed { message }) => format!("effect {effect} failed note={message}"),
            EffectReport::Ended(EffectOutcome::Cancelled { .. }) => format!("effect {effect} failed"),
            EffectReport::Defer { until, counted, why } => {
                let verb = if *counted { "tried" } else { "limited" };
                format!("effect {effect} {verb} until={} note={why}", since(*until, start))
            }
        },
        _ => String::new(),
    }
}

pub(super) fn show_intended(record: &EffectIntended) -> String {
    let EffectIntended { event, delivery, general, ordinal, of, key, kind, target, first, overflow, .. } = record;
    let from = delivery.map_or_else(|| format!("event={event}"), |delivery| delivery.to_string());
    let mut text = format!(" {from} {general} {}/{of} {kind} on {target} key={key}", ordinal + 1);
    if let Some(first) = first {
        let _ = write!(text, " repeats {first}");
    }
    if *overflow {
        text.push_str(" overflow");
    }
    text
}

pub(super) fn show_deferred(record: &EffectDeferred, start: Timestamp) -> String {
    let EffectDeferred { tenant: _, effect, attempts, counted, not_before, why } = record;
    let counted = if *counted { " counted" } else { "" };
    format!(" {effect} attempts={attempts}{counted} until {} `{why}`", since(*not_before, start))
}

pub(super) fn show_ended(record: &EffectEnded) -> String {
    let EffectEnded { tenant: _, effect, kind: _, outcome, from: _ } = record;
    match outcome {
        EffectOutcome::Done { observed } => format!(" {effect} done {observed}"),
        EffectOutcome::DryRun { would } => format!(" {effect} dry_run {would}"),
        EffectOutcome::Failed { message } => format!(" {effect} failed `{message}`"),
        EffectOutcome::Cancelled { why, by } if by.is_empty() => format!(" {effect} cancelled `{why}`"),
        EffectOutcome::Cancelled { why, by } => format!(" {effect} cancelled `{why}` by={by}"),
    }
}

pub(super) fn show_revived(record: &EffectRevived) -> String {
    let EffectRevived { tenant: _, effect, by, from: _ } = record;
    format!(" {effect} by={by}")
}

pub(super) fn show_views(views: &[EffectView], start: Timestamp) -> String {
    let row = |view: &EffectView| {
        let mut text = format!("\n  {} {} {} on {}", view.effect, view.status, view.kind, view.target);
        if view.due {
            text.push_str(" due");
        }
        if let Some(behind) = view.behind {
            let _ = write!(text, " behind={behind}");
        }
        if view.attempts > 0 {
            let _ = write!(text, " attempts={}", view.attempts);
        }
        if let Some(at) = view.not_before {
            let _ = write!(text, " until {}", since(at, start));
        }
        for earlier in &view.earlier {
            let observed = earlier.observed.as_deref().unwrap_or("-");
            let _ = write!(text, " {}={observed}", earlier.effect);
        }
        text
    };
    format!("{} effects{}", views.len(), views.iter().map(row).collect::<String>())
}
