//! Decisions about effects: what becomes of intents, of what whoever carries out has to say, and of what people want.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mindos_model::{
    ClusterName, DeliveryId, EffectId, EffectStatus, GeneralName, GeneralType, Seq, TenantName, Token, limits,
};

use super::keys::{self, EffectKey};
use super::state::{Effects, Phase, series_of};
use super::{
    EffectChange, EffectDeferred, EffectEnded, EffectIntended, EffectOutcome, EffectReport, EffectRevived, Intent,
};
use crate::decide::{Context, Decision};
use crate::delivery::shorten;
use crate::durable::Durable;
use crate::input::RequestId;
use crate::output::{Rejection, Reply};
use crate::record::{GeneralKey, Record};

/// Shortest wait for a limit, so that a report that asks for none makes no haste.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// Where intents come from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) tenant: TenantName,
    pub(crate) event: Seq,
    pub(crate) delivery: Option<DeliveryId>,
    pub(crate) token: Token,
    pub(crate) general: Arc<GeneralKey>,
    pub(crate) general_type: GeneralType,
}

impl Durable {
    /// The records of intents, the first of which will have the sequence `at`, and the effects that they lead to.
    pub(crate) fn intended(&self, origin: &Origin, intents: Vec<Intent>, at: Seq) -> (Vec<Record>, Vec<EffectId>) {
        let Origin { tenant, event, delivery, token, general, general_type } = origin;
        let of = u32::try_from(intents.len()).expect("the intents of a result are bounded");
        let mut room = limits::EFFECTS_OPEN_MAX.saturating_sub(self.effects.kept(tenant));
        // Those of the same result are not in the state yet.
        let mut own: BTreeMap<EffectKey, EffectId> = BTreeMap::new();
        let (mut records, mut ends, mut effects) = (Vec::new(), Vec::new(), Vec::new());
        for (intent, ordinal) in intents.into_iter().zip(0..) {
            let Intent { key, kind, target, parameters } = intent;
            let effect = EffectId(Seq(at.0 + u64::from(ordinal)));
            let hash = keys::hash(tenant, &key);
            let first = self.effects.with_key(&hash).or_else(|| own.get(&hash).copied());
            let overflow = first.is_none() && room == 0;
            room = room.saturating_sub(1);
            if overflow {
                let message = format!("{} effects of the tenant are open, no more may", limits::EFFECTS_OPEN_MAX);
                let outcome = EffectOutcome::Failed { message: Arc::from(message) };
                ends.push(ended(effect, outcome, ""));
            } else if first.is_none() {
                own.insert(hash, effect);
            }
            effects.push(first.unwrap_or(effect));
            records.push(Record::EffectIntended(Box::new(EffectIntended {
                tenant: tenant.clone(),
                event: *event,
                delivery: *delivery,
                token: *token,
                general: general.clone(),
                general_type: general_type.clone(),
                ordinal,
                of,
                key,
                kind,
                target,
                parameters,
                first,
                overflow,
            })));
        }
        records.extend(ends);
        (records, effects)
    }

    /// The plane itself wants something done.
    pub(crate) fn intend(&self, tenant: TenantName, event: Seq, part: GeneralName, intents: Vec<Intent>) -> Decision {
        let of_another = self.events.get(event).is_some_and(|known| known.tenant != tenant || known.is_redacted());
        if event == Seq::ZERO || event > self.seq || of_another || intents.is_empty() {
            return Decision::default();
        }
        let cluster = ClusterName::new("plane").expect("it is a name");
        let general_type = GeneralType::new(part.as_str()).expect("names of generals are names of types");
        let general = Arc::new(GeneralKey { tenant: tenant.clone(), cluster, name: part });
        let origin = Origin { tenant, event, delivery: None, token: Token::default(), general, general_type };
        let (records, _) = self.intended(&origin, intents, self.seq.next());
        Decision { records: records.into(), ..Decision::default() }
    }

    /// What whoever carries out has to say. Of one that has ended meanwhile it changes nothing.
    pub(crate) fn effect_report(&self, effect: EffectId, report: EffectReport, context: Context<'_>) -> Decision {
        let Some(open) = self.effects.open.get(&effect) else { return Decision::default() };
        let is_next = self.effects.before(effect, open.ordinal).iter().all(|place| !self.effects.is_open(place.effect));
        if !matches!(open.phase, Phase::Waiting { .. }) || !is_next {
            return Decision::default();
        }
        let record = match report {
            EffectReport::Ended(EffectOutcome::Cancelled { why, by }) => {
                let records = self.effects.cancelled(effect, open.ordinal, &why, &by, "");
                return Decision { records: records.into(), ..Decision::default() };
            }
            EffectReport::Ended(outcome) => ended(effect, bounded(outcome), ""),
            EffectReport::Defer { until, counted, why } => {
                let attempts = open.attempts + u32::from(counted);
                let why = shorten(&why);
                let now = context.now.max(self.at);
                let not_before = until.clamp(now + WAIT_MIN, now + limits::EFFECT_WAIT_MAX);
                if counted && attempts >= limits::EFFECT_ATTEMPTS_MAX {
                    ended(effect, EffectOutcome::Failed { message: why }, "")
                } else {
                    let not_before = if counted { not_before.max(now + backoff(attempts)) } else { not_before };
                    let record = EffectDeferred { effect, attempts, counted, not_before, why };
                    Record::EffectDeferred(Box::new(record))
                }
            }
        };
        Decision::default().with(record)
    }

    pub(crate) fn change_effect(
        &self,
        request: RequestId,
        tenant: &TenantName,
        effect: EffectId,
        change: EffectChange,
        (by, from): (Arc<str>, Arc<str>),
        context: Context<'_>,
    ) -> Decision {
        let Some(open) = self.effects.open.get(&effect).filter(|open| open.tenant == *tenant) else {
            return Decision::reply(request, Err(Rejection::UnknownEffect { effect }));
        };
        let records = match change {
            EffectChange::Retry => {
                let status = match open.phase {
                    Phase::Failed { .. } => EffectStatus::Failed,
                    Phase::Waiting { .. } => EffectStatus::Waiting,
                };
                if status == EffectStatus::Waiting && open.not_before() <= context.now {
                    return Decision::reply(request, Err(Rejection::EffectNotFailed { effect, status }));
                }
                vec![Record::EffectRevived(Box::new(EffectRevived { effect, by, from }))]
            }
            EffectChange::Cancel => self.effects.cancelled(effect, open.ordinal, "somebody asked for it", &by, &from),
        };
        let effects = records.iter().filter_map(changed).collect();
        let mut decision = Decision::reply(request, Ok(Reply::EffectsChanged { effects, at: self.seq.next() }));
        decision.records.extend(records);
        decision
    }
}

impl Effects {
    /// Places of the tenant in series that are kept.
    fn kept(&self, tenant: &TenantName) -> usize {
        self.kept.get(tenant).copied().unwrap_or(0)
    }

    /// The effect that had the key first.
    fn with_key(&self, key: &EffectKey) -> Option<EffectId> {
        self.keys.get(key)
    }

    /// The ends of an effect that is cancelled, and of those that come after it in its series.
    fn cancelled(&self, effect: EffectId, ordinal: u32, why: &str, by: &Arc<str>, from: &str) -> Vec<Record> {
        let of = series_of(effect, ordinal);
        let places = self.series.get(&of).map_or(0, |series| series.places.len() as u64);
        let own = self.open.range(effect..EffectId(Seq(of.0.0 + places).max(effect.0.next())));
        let cancel = |(id, _): (&EffectId, _)| {
            let why = match *id == effect {
                true => shorten(why),
                false => Arc::from(format!("{effect}, which comes before it, was cancelled")),
            };
            ended(*id, EffectOutcome::Cancelled { why, by: by.clone() }, from)
        };
        own.map(cancel).collect()
    }

    /// The ends of open effects whose events are redacted.
    pub(crate) fn redacted<'a>(
        &'a self,
        events: &'a [Seq],
        by: &'a Arc<str>,
        from: &'a str,
    ) -> impl Iterator<Item = Record> + 'a {
        let open = events.iter().flat_map(|event| self.of_event(*event));
        open.map(move |effect| {
            let why = Arc::from("the payload of its event was redacted");
            ended(effect, EffectOutcome::Cancelled { why, by: by.clone() }, from)
        })
    }
}

fn ended(effect: EffectId, outcome: EffectOutcome, from: &str) -> Record {
    Record::EffectEnded(Box::new(EffectEnded { effect, outcome, from: Arc::from(from) }))
}

/// The effect that a record of a change is about.
fn changed(record: &Record) -> Option<EffectId> {
    match record {
        Record::EffectRevived(record) => Some(record.effect),
        Record::EffectEnded(record) => Some(record.effect),
        _ => None,
    }
}

/// How long to wait after so many tries that failed.
pub(super) fn backoff(attempts: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
    limits::EFFECT_RETRY_MIN.saturating_mul(doubled).min(limits::EFFECT_RETRY_MAX)
}

/// An outcome whose texts are kept within bounds. What would be cut in its middle is not kept at all, where it has to be JSON.
fn bounded(outcome: EffectOutcome) -> EffectOutcome {
    let json = |text: Arc<str>| if text.len() > limits::EFFECT_OBSERVED_MAX { Arc::from("{}") } else { text };
    match outcome {
        EffectOutcome::Done { observed } => EffectOutcome::Done { observed: json(observed) },
        EffectOutcome::DryRun { would } => EffectOutcome::DryRun { would: json(would) },
        EffectOutcome::Failed { message } => EffectOutcome::Failed { message: shorten(&message) },
        EffectOutcome::Cancelled { why, by } => EffectOutcome::Cancelled { why: shorten(&why), by },
    }
}

