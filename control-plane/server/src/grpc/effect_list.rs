//! Pages of effects: from the history, from the journal what the history has not seen yet, and over both what the plane knows of open
//! ones.
//!
//! Invariant: a page is in descending order of ids and has each effect once, in its latest state that was found.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mindos_core::effect::{EffectFilter, EffectView};
use mindos_core::input::{Input, Query};
use mindos_core::journal::JournalError;
use mindos_core::output::Reply;
use mindos_core::record::{Entry, Record};
use mindos_model::{DeliveryId, EffectId, Seq};
use mindos_proto::convert::Invalid;
use mindos_proto::effect::v1 as wire;
use tonic::Status;

use super::status;
use crate::access::Scoped;
use crate::views::effects::{self, EffectQuery};

/// How long what the history has not seen yet is searched.
const TAIL_MAX: Duration = Duration::from_secs(2);
/// Why an effect that is due stays so.
const OFF: &str = "effects are off: expected `github_app` or `github` in the settings, and `effects.mode` live";
/// More than one tenant may have open.
const VIEWS_MAX: u32 = mindos_model::limits::EFFECTS_OPEN_MAX as u32;

/// Reads a filter.
pub(super) fn query(filter: wire::EffectFilter) -> Result<EffectQuery, Status> {
    let wire::EffectFilter { statuses, delivery_id, event_seq, kind, target, general } = filter;
    let refused = |field: &str, error: &dyn std::fmt::Display| {
        Status::from(status::invalid(Invalid::new(format!("filter.{field}"), error)))
    };
    let word = |number: i32| {
        let known = wire::EffectStatus::try_from(number)
            .map_err(|_| refused("statuses", &format_args!("value {number} is not known")))?;
        mindos_model::EffectStatus::try_from(known).map_err(|error| refused("statuses", &error.reason))
    };
    let some = |text: String| (!text.is_empty()).then_some(text);
    let delivery = some(delivery_id).map(|id| id.parse::<DeliveryId>()).transpose();
    Ok(EffectQuery {
        statuses: statuses.into_iter().map(word).collect::<Result<_, _>>()?,
        delivery: delivery.map_err(|error| refused("delivery_id", &error))?,
        event: (event_seq > 0).then_some(Seq(event_seq)),
        kind: some(kind),
        target: some(target),
        general: some(general),
    })
}

/// Reads a page token; empty is the start.
pub(super) fn token(token: &str) -> Result<Seq, Status> {
    if token.is_empty() {
        return Ok(Seq(u64::MAX));
    }
    let effect = token.parse::<EffectId>();
    effect.map(|effect| effect.0).map_err(|_| Status::invalid_argument("page_token: is not one that was given out"))
}

/// The page before `before`, and where the next one begins.
pub(super) async fn page(
    context: &Scoped,
    query: EffectQuery,
    before: Seq,
    limit: usize,
) -> Result<(Vec<wire::Effect>, Option<EffectId>), Status> {
    // The open ones first: what ends meanwhile is found by the ledger, and then in its later state.
    let open = context.open_effects(&query).await?;
    let ((mut found, next), query) = {
        let read = context.blocking(move |context| told(context, &query, before, limit).map(|told| (told, query)));
        read.await??
    };
    let floor = next.unwrap_or(Seq::ZERO);
    for view in open.iter().filter(|view| view.effect.0 < before && view.effect.0 >= floor) {
        let slot = found.entry(view.effect).or_insert_with(|| effects::of_view(view));
        merge(slot, view, context);
    }
    let fitting = found.into_iter().rev().filter(|(_, effect)| query.fits(effect));
    let mut page: Vec<_> = fitting.take(limit).collect();
    let mut next = next.map(EffectId);
    if page.len() == limit {
        next = page.last().map(|(effect, _)| *effect);
    }
    Ok((page.drain(..).map(|(_, effect)| effect).collect(), next))
}

/// What a delivery's result wanted done, in its order; without the parameters.
pub(super) async fn of_delivery(
    context: &Scoped,
    delivery: DeliveryId,
) -> Result<Vec<mindos_proto::delivery::v1::Effect>, Status> {
    let query = EffectQuery { delivery: Some(delivery), ..EffectQuery::default() };
    let (effects, _) = page(context, query, Seq(u64::MAX), mindos_model::limits::EFFECTS_MAX).await?;
    let shown = effects.into_iter().rev().map(|effect| mindos_proto::delivery::v1::Effect {
        key: effect.key,
        kind: effect.kind,
        target: effect.target,
        parameters_json: String::new(),
        effect_id: effect.effect_id,
    });
    Ok(shown.collect())
}

/// Adds what only the plane knows, where the ledger does not tell of a later end.
fn merge(effect: &mut wire::Effect, view: &EffectView, context: &Scoped) {
    let open = effects::of_view(view);
    if effect.status == open.status {
        (effect.due, effect.behind) = (open.due, open.behind);
        if effect.due && effect.message.is_empty() && context.effects_are_off() {
            effect.message = OFF.to_owned();
        }
    }
}

type Told = (BTreeMap<EffectId, wire::Effect>, Option<Seq>);

/// What the history and the records behind it tell.
fn told(context: &Scoped, query: &EffectQuery, before: Seq, limit: usize) -> Result<Told, Status> {
    let committed = context.history.committed();
    let page = context.history.effects(query, context.tenant(), before, limit);
    let page = page.map_err(|error| super::failed("history was not read", &error))?;
    let floor = page.next.unwrap_or(Seq::ZERO);
    let mut found: BTreeMap<EffectId, wire::Effect> = page.rows.into_iter().collect();
    for entry in tail(context, committed)? {
        let Some((_, effect)) = effects::subject(&entry).filter(|(_, it)| it.0 < before && it.0 >= floor) else {
            continue;
        };
        if let Record::EffectIntended(record) = &entry.record {
            found.entry(effect).or_insert_with(|| effects::intended(entry.seq, entry.at, record));
            continue;
        }
        // The history knows it in a state that was not asked for.
        if let std::collections::btree_map::Entry::Vacant(slot) = found.entry(effect) {
            let row = context.history.effect(context.tenant(), effect);
            let Some(row) = row.map_err(|error| super::failed("history was not read", &error))? else { continue };
            slot.insert(row);
        }
        if let Some(shown) = found.get_mut(&effect) {
            effects::fold(shown, &entry);
        }
    }
    Ok((found, page.next))
}

/// Records about effects of the tenant behind the history's last commit.
fn tail(context: &Scoped, committed: Seq) -> Result<Vec<Entry>, Status> {
    let began = Instant::now();
    let mut entries = Vec::new();
    read(context, committed.next(), &mut |entry| {
        if effects::subject(entry).is_some_and(|(tenant, _)| tenant == context.tenant()) {
            entries.push(entry.clone());
        }
        began.elapsed() < TAIL_MAX
    })?;
    Ok(entries)
}

impl Scoped {
    /// Effects that have not ended for good and fit, in whatever open state they are.
    pub(super) async fn open_effects(&self, query: &EffectQuery) -> Result<Vec<EffectView>, Status> {
        let EffectQuery { statuses: _, delivery, event, kind, target, general } = query;
        let text = |text: &Option<String>| text.as_deref().map(std::sync::Arc::from);
        let filter = EffectFilter {
            status: None,
            event: *event,
            delivery: *delivery,
            kind: text(kind),
            target: text(target),
            general: text(general),
        };
        let query = Query::Effects { filter, after: None, limit: VIEWS_MAX };
        let ask = |request| Input::Query { request, tenant: self.tenant().clone(), query };
        match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Effects(views) => Ok(views),
            other => Err(super::unexpected(&other)),
        }
    }

    /// One effect as the plane, the ledger and the history know it.
    pub(super) async fn effect(&self, effect: EffectId) -> Result<wire::Effect, Status> {
        let query = Query::Effects {
            filter: EffectFilter::default(),
            after: Some(EffectId(Seq(effect.0.0.saturating_sub(1)))),
            limit: 1,
        };
        let ask = |request| Input::Query { request, tenant: self.tenant().clone(), query };
        let open = match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Effects(views) => views.into_iter().find(|view| view.effect == effect),
            other => return Err(super::unexpected(&other)),
        };
        let at = open.as_ref().map_or(effect.0, |view| view.parameters.seq);
        let (told, parameters) = self.blocking(move |context| one(context, effect, at)).await??;
        let mut shown = match (told, &open) {
            (Some(told), _) => told,
            (None, Some(view)) => effects::of_view(view),
            (None, None) => return Err(status::not_found("effect", effect.to_string()).into()),
        };
        if let Some(view) = &open {
            merge(&mut shown, view, self);
        }
        if let Some(bytes) = parameters {
            // What was redacted reads as nothing; there are no empty parameters.
            shown.redacted = bytes.is_empty();
            shown.parameters_json = String::from_utf8_lossy(&bytes).into_owned();
        }
        Ok(shown)
    }
}

type One = (Option<wire::Effect>, Option<Bytes>);

/// What the history and the journal say of one effect, and its parameters, which stand at `at`.
fn one(context: &Scoped, effect: EffectId, at: Seq) -> Result<One, Status> {
    let committed = context.history.committed();
    let row = context.history.effect(context.tenant(), effect);
    let mut shown = row.map_err(|error| super::failed("history was not read", &error))?;
    let mut parameters = None;
    read(context, effect.0, &mut |entry| {
        if let Record::EffectIntended(record) = &entry.record
            && record.tenant == *context.tenant()
        {
            shown.get_or_insert_with(|| effects::intended(entry.seq, entry.at, record));
            parameters = Some(record.parameters.bytes.clone());
        }
        false
    })?;
    if at != effect.0 {
        read(context, at, &mut |entry| {
            if let Record::PayloadCarried(record) = &entry.record
                && record.effect == Some(effect)
            {
                parameters = Some(record.payload.bytes.clone());
            }
            false
        })?;
    }
    let Some(mut shown) = shown else { return Ok((None, None)) };
    let later = tail(context, committed)?;
    let about = later.iter().filter(|entry| effects::subject(entry).is_some_and(|(_, of)| of == effect));
    about.for_each(|entry| effects::fold(&mut shown, entry));
    Ok((Some(shown), parameters))
}

/// Reads the journal; what has left it is not there.
fn read(context: &Scoped, from: Seq, visit: &mut dyn FnMut(&Entry) -> bool) -> Result<(), Status> {
    match context.source.read(from, visit) {
        Ok(()) | Err(JournalError::Dropped { .. }) => Ok(()),
        Err(error) => Err(super::failed("journal was not read", &error)),
    }
}

/// An effect as it was before a record: from where it was intended, else as the history has it.
pub(super) fn as_it_was(context: &Scoped, effect: EffectId, before: Seq) -> Result<Option<wire::Effect>, Status> {
    let began = Instant::now();
    let mut shown = None;
    read(context, effect.0, &mut |entry| {
        match (&entry.record, &mut shown) {
            (Record::EffectIntended(record), None) if entry.seq == effect.0 => {
                shown = (record.tenant == *context.tenant()).then(|| effects::intended(entry.seq, entry.at, record));
            }
            (_, Some(shown)) if effects::subject(entry).is_some_and(|(_, of)| of == effect) => {
                effects::fold(shown, entry);
            }
            _ => {}
        }
        shown.is_some() && entry.seq.next() < before && began.elapsed() < TAIL_MAX
    })?;
    if shown.is_some() {
        return Ok(shown);
    }
    let row = context.history.effect(context.tenant(), effect);
    row.map_err(|error| super::failed("history was not read", &error))
}
