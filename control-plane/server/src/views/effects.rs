//! Effects as the ledger tells of them: their records folded into what the API shows.
//!
//! Invariant: an effect's `seq` is that of the last record folded, so of two states the one with the higher is the later.

use mindos_core::output::EffectView;
use mindos_core::record::{EffectIntended, EffectOutcome, Entry, GeneralKey, Record};
use mindos_model::{DeliveryId, EffectId, EffectStatus, Seq, TenantName, Timestamp};
use mindos_proto::convert::time;
use mindos_proto::effect::v1 as wire;
use mindos_proto::fleet::v1::GeneralName;

/// Which effects are meant; every field that is set must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectQuery {
    /// Empty fits all.
    pub statuses: Vec<EffectStatus>,
    pub delivery: Option<DeliveryId>,
    pub event: Option<Seq>,
    pub kind: Option<String>,
    /// A whole target, or the repository that it lies in.
    pub target: Option<String>,
    /// Name of the general.
    pub general: Option<String>,
}

impl EffectQuery {
    /// Whether an effect is one of those meant.
    #[must_use]
    pub fn fits(&self, effect: &wire::Effect) -> bool {
        let EffectQuery { statuses, delivery, event, kind, target, general } = self;
        let of_general = effect.general.as_ref().map_or("", |general| &general.name);
        (statuses.is_empty() || statuses.iter().any(|status| code(*status) == effect.status))
            && delivery.is_none_or(|delivery| delivery.to_string() == effect.delivery_id)
            && event.is_none_or(|event| event.0 == effect.event_seq)
            && kind.as_ref().is_none_or(|kind| *kind == effect.kind)
            && target.as_ref().is_none_or(|target| lies_in(&effect.target, target))
            && general.as_ref().is_none_or(|general| general == of_general)
    }
}

fn lies_in(target: &str, named: &str) -> bool {
    target.strip_prefix(named).is_some_and(|rest| rest.is_empty() || rest.starts_with(['#', '@']))
}

/// A status as the API writes it.
#[must_use]
pub fn code(status: EffectStatus) -> i32 {
    wire::EffectStatus::from(status) as i32
}

/// Whose effect a record is about, and which.
#[must_use]
pub fn subject(entry: &Entry) -> Option<(&TenantName, EffectId)> {
    match &entry.record {
        Record::EffectIntended(record) => Some((&record.tenant, EffectId(entry.seq))),
        Record::EffectDeferred(record) => Some((&record.tenant, record.effect)),
        Record::EffectEnded(record) => Some((&record.tenant, record.effect)),
        Record::EffectRevived(record) => Some((&record.tenant, record.effect)),
        _ => None,
    }
}

/// An effect as it was intended.
#[must_use]
pub fn intended(seq: Seq, at: Timestamp, record: &EffectIntended) -> wire::Effect {
    let EffectIntended { tenant: _, event, delivery, token: _, general, general_type, ordinal, of: _, .. } = record;
    let EffectIntended { key, kind, target, parameters: _, first, overflow: _, .. } = record;
    let status = if first.is_some() { EffectStatus::Repeated } else { EffectStatus::Waiting };
    wire::Effect {
        effect_id: EffectId(seq).to_string(),
        status: code(status),
        event_seq: event.0,
        delivery_id: delivery.map(|delivery| delivery.to_string()).unwrap_or_default(),
        general: Some(general_name(general)),
        general_type: general_type.to_string(),
        position: *ordinal,
        key: key.to_string(),
        kind: kind.to_string(),
        target: target.to_string(),
        intended_at: Some(time(at)),
        ended_at: first.map(|_| time(at)),
        repeats: first.map(|first| first.to_string()).unwrap_or_default(),
        seq: seq.0,
        ..wire::Effect::default()
    }
}

/// Folds a later record about the effect into it. What is folded already changes nothing.
pub fn fold(effect: &mut wire::Effect, entry: &Entry) {
    if entry.seq.0 <= effect.seq {
        return;
    }
    effect.seq = entry.seq.0;
    match &entry.record {
        Record::EffectDeferred(record) => {
            effect.attempts = record.attempts;
            effect.not_before = Some(time(record.not_before));
            effect.message = record.why.to_string();
        }
        Record::EffectEnded(record) => {
            effect.status = code(record.outcome.status());
            effect.ended_at = Some(time(entry.at));
            effect.not_before = None;
            effect.message.clear();
            match &record.outcome {
                EffectOutcome::Done { observed } => effect.observed_json = observed.to_string(),
                EffectOutcome::DryRun { would } => effect.observed_json = would.to_string(),
                EffectOutcome::Failed { message } => effect.message = message.to_string(),
                EffectOutcome::Cancelled { why, by } => {
                    effect.message = why.to_string();
                    effect.by = by.to_string();
                }
            }
        }
        Record::EffectRevived(record) => {
            effect.status = code(EffectStatus::Waiting);
            effect.attempts = 0;
            (effect.ended_at, effect.not_before) = (None, None);
            effect.by = record.by.to_string();
        }
        _ => {}
    }
}

/// An open effect as the plane sees it. What only the ledger knows is left out.
#[must_use]
pub fn of_view(view: &EffectView) -> wire::Effect {
    wire::Effect {
        effect_id: view.effect.to_string(),
        status: code(view.status),
        event_seq: view.event.0,
        delivery_id: view.delivery.map(|delivery| delivery.to_string()).unwrap_or_default(),
        general: Some(general_name(&view.general)),
        general_type: view.general_type.to_string(),
        position: view.ordinal,
        key: view.key.to_string(),
        kind: view.kind.to_string(),
        target: view.target.to_string(),
        intended_at: Some(time(view.intended)),
        ended_at: view.failed.map(time),
        attempts: view.attempts,
        not_before: view.not_before.map(time),
        message: view.why.to_string(),
        due: view.due,
        behind: view.behind.map(|behind| behind.to_string()).unwrap_or_default(),
        seq: view.effect.0.0,
        ..wire::Effect::default()
    }
}

fn general_name(key: &GeneralKey) -> GeneralName {
    GeneralName { cluster: key.cluster.to_string(), name: key.name.to_string() }
}
