//! Deliveries as the ledger tells of them: their records folded into what the API shows.
//!
//! Invariant: a delivery's `seq` is that of the last record folded, so of two states the one with the higher is the later.

use std::fmt::Write as _;
use std::sync::Arc;

use mindos_core::record::{
    AttemptEnded, CancelReason, Cause, DeliveryLeased, DeliverySettled, Entry, EventAccepted, Exclusion, GeneralKey,
    InstanceKey, KeptOut, Next, Record, Usage, Weight,
};
use mindos_model::{DeliveryId, FailureKind, Seq, Status, Timestamp, Token};
use mindos_proto::convert::time;
use mindos_proto::delivery::v1 as wire;

use super::words;

/// Attempts that are shown.
const ATTEMPTS_MAX: usize = 100;

/// Which delivery a record is about.
pub(super) fn subject(record: &Record) -> Option<DeliveryId> {
    match record {
        Record::DeliveryLeased(record) => Some(record.delivery),
        Record::AttemptEnded(record) => Some(record.delivery),
        Record::DeliverySettled(record) => Some(record.delivery),
        Record::DeliveryCancelled(record) => Some(record.delivery),
        Record::CancelRequested(record) => Some(record.delivery),
        Record::DeliveryParked(record) => Some(record.delivery),
        Record::DeliveryRedriven(record) => Some(record.delivery),
        Record::ResultRefused(record) => Some(record.delivery),
        Record::LeaseExtended(record) => Some(record.delivery),
        Record::EpochStarted(_)
        | Record::EventAccepted(_)
        | Record::ClusterRegistered(_)
        | Record::GeneralRegistered(_)
        | Record::GeneralRemoved(_)
        | Record::HoldChanged(_)
        | Record::RoutesApplied(_)
        | Record::RouteAsked(_)
        | Record::PayloadCarried(_)
        | Record::PrefixDropped(_)
        | Record::JournalTruncated(_)
        | Record::UpgradeFinalized(_)
        | Record::BudgetSet(_)
        | Record::BudgetRemoved(_)
        | Record::BudgetAcknowledged(_)
        | Record::BudgetCrossed(_)
        | Record::Access(_)
        | Record::PayloadsRedacted(_)
        | Record::EffectIntended(_)
        | Record::EffectDeferred(_)
        | Record::EffectEnded(_)
        | Record::EffectRevived(_)
        | Record::Object(_) => None,
    }
}

/// A delivery as its event planned it; `None` when the event has no such delivery.
pub(super) fn planned(at: Timestamp, delivery: DeliveryId, accepted: &EventAccepted) -> Option<wire::Delivery> {
    let planned = accepted.deliveries.get(delivery.ordinal.checked_sub(1)? as usize)?;
    let status = if planned.parked.is_some() { Status::Parked } else { Status::Waiting };
    Some(wire::Delivery {
        delivery_id: delivery.to_string(),
        status: words::status(status),
        general: planned.general.as_deref().map(words::general_name),
        park_reason: words::park_reason(planned.parked),
        lane: accepted.lane.to_string(),
        event: Some(event_part(delivery.event, accepted)),
        route: accepted.route.as_ref().map(ToString::to_string).unwrap_or_default(),
        strategy: words::strategy(accepted.strategy),
        accepted_at: Some(time(at)),
        parked_at: planned.parked.map(|_| time(at)),
        seq: delivery.event.0,
        degraded: planned.degraded.as_deref().map(words::degraded),
        ..wire::Delivery::default()
    })
}

/// The event of a delivery, in short.
pub(super) fn event_part(seq: Seq, accepted: &EventAccepted) -> wire::DeliveryEvent {
    wire::DeliveryEvent {
        seq: seq.0,
        source: accepted.source.to_string(),
        id: accepted.id.to_string(),
        r#type: accepted.ty.to_string(),
        kind: accepted.kind.to_string(),
        subject: words::text(accepted.subject.as_deref()),
        repository: words::text(accepted.repository.as_deref()),
    }
}

/// Folds a record about the delivery into it; `output` says whether the output's data is wanted.
pub(super) fn fold(delivery: &mut wire::Delivery, entry: &Entry, output: bool) {
    delivery.seq = entry.seq.0;
    match &entry.record {
        Record::DeliveryLeased(record) => leased(delivery, record, entry.at),
        Record::AttemptEnded(record) => attempt_ended(delivery, record, entry.at),
        Record::DeliverySettled(record) => settled(delivery, record, entry.at, output),
        Record::DeliveryCancelled(record) => {
            delivery.status = words::status(Status::Cancelled);
            delivery.settled_at = Some(time(entry.at));
            delivery.superseded_by = superseded_by(record.reason);
            end_lease(delivery, entry.at);
        }
        Record::CancelRequested(record) => {
            delivery.cancel_requested = true;
            delivery.superseded_by = superseded_by(record.reason);
        }
        Record::DeliveryParked(record) => {
            park(delivery, Some(record.reason), entry.at);
            if let Some(over) = record.over.as_deref() {
                delivery.park_message = words::over_budget(&over.budget, over.resets);
            }
        }
        Record::DeliveryRedriven(_) => {
            delivery.status = words::status(Status::Waiting);
            delivery.park_reason = 0;
            delivery.parked_at = None;
            delivery.attempts_used = 0;
            delivery.redrives += 1;
        }
        Record::LeaseExtended(record) => delivery.usage = usage(&record.usage),
        // A refused result changes nothing but what is known about it.
        _ => {}
    }
}

fn leased(delivery: &mut wire::Delivery, record: &DeliveryLeased, at: Timestamp) {
    let DeliveryLeased { delivery: _, token, general, instance, choice, .. } = record;
    let token = Some(wire::Token::from(*token));
    delivery.status = words::status(Status::Leased);
    delivery.general = Some(words::general_name(general));
    delivery.leased_at = Some(time(at));
    delivery.not_before = None;
    delivery.lease = Some(wire::Lease {
        instance: Some(words::instance_name(instance)),
        token,
        leased_at: Some(time(at)),
        ..wire::Lease::default()
    });
    if delivery.attempts.len() == ATTEMPTS_MAX {
        delivery.attempts.remove(0);
    }
    delivery.attempts.push(wire::Attempt {
        token,
        general: Some(words::general_name(general)),
        instance_id: instance.instance.to_string(),
        leased_at: Some(time(at)),
        ..wire::Attempt::default()
    });
    let share = |load: mindos_core::record::Load| f64::from(load.open) / f64::from(load.capacity.max(1));
    // As it was compared: with what feedback and preferences had to do with it.
    let of_general = |key: &Arc<GeneralKey>| {
        let at = choice.generals.iter().position(|(weighed, _)| weighed == key);
        let feedback = factor(choice.feedback.as_deref().map_or(&[][..], |weighing| &weighing.generals), at);
        feedback * factor(choice.siting.as_deref().map_or(&[][..], |siting| &siting.generals), at)
    };
    let of_instance = |key: &Arc<InstanceKey>| {
        let at = choice.instances.iter().position(|(weighed, _)| weighed == key);
        let feedback = factor(choice.feedback.as_deref().map_or(&[][..], |weighing| &weighing.instances), at);
        feedback * factor(choice.siting.as_deref().map_or(&[][..], |siting| &siting.instances), at)
    };
    let generals = choice.generals.iter().map(|(weighed, load)| wire::ConsideredCandidate {
        general: Some(words::general_name(weighed)),
        score: share(*load) * of_general(weighed),
        chosen: weighed == general,
        ..wire::ConsideredCandidate::default()
    });
    let instances = choice.instances.iter().map(|(weighed, weight)| wire::ConsideredCandidate {
        general: Some(words::general_name(general)),
        instance_id: weighed.instance.to_string(),
        // Records of before there were scores have the share of slots alone.
        score: of_instance(weighed)
            * if weight.score > 0 { f64::from(weight.score) / 1000.0 } else { share(weight.load) },
        chosen: weighed == instance,
        ..wire::ConsideredCandidate::default()
    });
    let excluded = choice.excluded.iter().map(|(other, why)| wire::ConsideredCandidate {
        general: Some(words::general_name(general)),
        instance_id: other.instance.to_string(),
        excluded: match why {
            Exclusion::Held => "cordoned",
            Exclusion::Draining => "draining",
            Exclusion::BreakerOpen => "breaker_open",
            Exclusion::RateLimited => "rate_limited",
            Exclusion::VersionTooOld => "version_too_old",
            Exclusion::Affinity => words::kept_out(KeptOut::Affinity),
        }
        .to_owned(),
        ..wire::ConsideredCandidate::default()
    });
    let kept_out =
        choice.siting.iter().flat_map(|siting| &siting.named).map(|(other, why)| wire::ConsideredCandidate {
            general: Some(words::general_name(other)),
            excluded: words::kept_out(*why).to_owned(),
            ..wire::ConsideredCandidate::default()
        });
    let considered = generals.chain(instances).chain(excluded).chain(kept_out).collect();
    // Where it was fixed when the event was accepted, the lease says nothing of it.
    if !choice.generals.is_empty() {
        delivery.degraded = record.degraded.as_deref().map(words::degraded);
    }
    let mut summary = summary(record);
    if let Some(degraded) = &delivery.degraded {
        let from: Vec<_> =
            degraded.from.iter().map(|general| format!("{}/{}", general.cluster, general.name)).collect();
        let (from, budget, percent) = (from.join(", "), &degraded.budget, degraded.percent);
        let _ = write!(summary, "; instead of {from}, because {percent} % of budget {budget} are charged");
    }
    delivery.explanation = Some(wire::Explanation { summary, considered });
}

/// What one of those weighed counted by, where all count alike if nothing is said.
fn factor(factors: &[u32], at: Option<usize>) -> f64 {
    at.and_then(|at| factors.get(at)).map_or(1.0, |factor| f64::from(*factor) / 1000.0)
}

/// Why this instance, in a sentence.
fn summary(record: &DeliveryLeased) -> String {
    let DeliveryLeased { general, instance, choice, .. } = record;
    let mut text = format!("{general} at {}: ", instance.instance);
    let weight = choice.instances.iter().find(|(weighed, _)| weighed == instance).map(|(_, weight)| *weight);
    let Weight { load, score, latency_ms, model, queue, trial } = weight.unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = if trial {
        write!(text, "its breaker is open, and this shows whether it is well")
    } else {
        write!(text, "the better of {} drawn from {} with a free slot", choice.instances.len(), choice.free)
    };
    if score > 0 {
        let _ =
            write!(text, ", score {:.3}: {} of {} slots in use", f64::from(score) / 1000.0, load.open, load.capacity);
    }
    if latency_ms > 0 {
        let _ = write!(text, ", latency {latency_ms} ms");
    }
    if model > 0 {
        let _ = write!(text, ", its model at {:.2} with {queue} other requests", f64::from(model) / 1000.0);
    }
    if let Some(weighing) = &choice.feedback {
        let of_general = choice.generals.iter().position(|(weighed, _)| weighed == general);
        let of_instance = choice.instances.iter().position(|(weighed, _)| weighed == instance);
        let (load, score) = (factor(&weighing.generals, of_general), factor(&weighing.instances, of_instance));
        let _ = match weighing.left_out {
            true => write!(text, ", feedback left out of this choice"),
            false => {
                write!(text, ", feedback: load x {load:.3}, score x {score:.3}")
            }
        };
    }
    if let Some(siting) = choice.siting.as_deref().filter(|siting| siting.generals.len() + siting.instances.len() > 0) {
        let of_general = choice.generals.iter().position(|(weighed, _)| weighed == general);
        let of_instance = choice.instances.iter().position(|(weighed, _)| weighed == instance);
        let (load, score) = (factor(&siting.generals, of_general), factor(&siting.instances, of_instance));
        let _ = write!(text, ", preferred: load x {load:.3}, score x {score:.3}");
    }
    if let Some(siting) = choice.siting.as_deref().filter(|siting| siting.kept_out > 0) {
        let _ = write!(text, "; {} generals kept out by affinity or residency", siting.kept_out);
    }
    if choice.aside > 0 {
        let _ = write!(text, "; {} of {} set aside", choice.aside, choice.connected);
    }
    text
}

fn attempt_ended(delivery: &mut wire::Delivery, record: &AttemptEnded, at: Timestamp) {
    let AttemptEnded { delivery: _, token, cause, message, counted, next, usage, charged: _, over } = record;
    if !usage.is_empty() {
        delivery.usage = self::usage(usage);
    }
    let kind = match cause {
        Cause::Failed(kind) => wire::FailureKind::from(*kind),
        Cause::Lapsed | Cause::Rebooted | Cause::Undelivered => wire::FailureKind::from(FailureKind::Lost),
        Cause::Declined | Cause::Deadline => wire::FailureKind::from(FailureKind::Transient),
    };
    if let Some(attempt) = attempt(delivery, *token) {
        attempt.ended_at = Some(time(at));
        attempt.failure = kind.into();
        attempt.message = message.to_string();
        attempt.counted = *counted;
    }
    delivery.attempts_used += u32::from(*counted);
    delivery.lease = None;
    match next {
        Next::Wait { not_before } => {
            delivery.status = words::status(Status::Waiting);
            delivery.not_before = (*not_before > at).then(|| time(*not_before));
        }
        Next::Park { reason } => {
            park(delivery, Some(*reason), at);
            delivery.park_message = message.to_string();
            if let Some(over) = over.as_deref() {
                delivery.park_message = words::over_budget(&over.budget, over.resets);
            }
        }
    }
}

fn settled(delivery: &mut wire::Delivery, record: &DeliverySettled, at: Timestamp, data: bool) {
    let DeliverySettled { delivery: _, token, output, output_type, output_ref, usage, .. } = record;
    if let Some(attempt) = attempt(delivery, *token) {
        attempt.ended_at = Some(time(at));
    }
    delivery.status = words::status(Status::Succeeded);
    delivery.settled_at = Some(time(at));
    delivery.lease = None;
    delivery.usage = self::usage(usage);
    if output.is_some() || output_ref.is_some() {
        let bytes = output.as_ref().map(|output| &output.bytes);
        delivery.output = Some(wire::Output {
            data: bytes.filter(|_| data).cloned().unwrap_or_default(),
            content_type: words::text(output_type.as_deref()),
            r#ref: output_ref.map(words::blob_ref).unwrap_or_default(),
            length: bytes.map_or(0, |bytes| bytes.len() as u64),
            // An output that is there is never empty.
            redacted: bytes.is_some_and(bytes::Bytes::is_empty),
        });
    }
}

fn park(delivery: &mut wire::Delivery, reason: Option<mindos_model::ParkReason>, at: Timestamp) {
    delivery.status = words::status(Status::Parked);
    delivery.park_reason = words::park_reason(reason);
    delivery.parked_at = Some(time(at));
    delivery.not_before = None;
    delivery.lease = None;
}

fn end_lease(delivery: &mut wire::Delivery, at: Timestamp) {
    delivery.lease = None;
    if let Some(attempt) = delivery.attempts.last_mut().filter(|attempt| attempt.ended_at.is_none()) {
        attempt.ended_at = Some(time(at));
    }
}

fn attempt(delivery: &mut wire::Delivery, token: Token) -> Option<&mut wire::Attempt> {
    let token = Some(wire::Token::from(token));
    delivery.attempts.iter_mut().rev().find(|attempt| attempt.token == token)
}

fn usage(usage: &[Usage]) -> Vec<wire::Usage> {
    let one = |usage: &Usage| wire::Usage {
        model: usage.model.to_string(),
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cost_micros: usage.cost_micros,
        ..wire::Usage::default()
    };
    usage.iter().map(one).collect()
}

fn superseded_by(reason: CancelReason) -> String {
    match reason {
        CancelReason::Superseded { by } | CancelReason::RaceLost { by } => by.to_string(),
        CancelReason::Requested
        | CancelReason::Expired
        | CancelReason::ShadowFailed
        | CancelReason::ReplayFailed
        | CancelReason::ReplayOverBudget
        | CancelReason::Redacted => String::new(),
    }
}

/// Whether nothing more can follow.
pub(super) fn has_ended(delivery: &wire::Delivery) -> bool {
    delivery.status == words::status(Status::Succeeded) || delivery.status == words::status(Status::Cancelled)
}

#[cfg(test)]
mod tests {
    use mindos_core::record::{Choice, Load, Siting};
    use mindos_model::{BootId, Seq, TenantName};

    use super::*;

    #[test]
    fn a_lease_explains_who_was_kept_out_and_what_was_preferred() {
        let tenant = TenantName::default_tenant();
        let general = |cluster: &str| {
            let (cluster, name) = (cluster.parse().unwrap(), "g".parse().unwrap());
            Arc::new(GeneralKey { tenant: tenant.clone(), cluster, name })
        };
        let instance = |name: &str| {
            let (cluster, instance) = ("c1".parse().unwrap(), name.parse().unwrap());
            Arc::new(InstanceKey { tenant: tenant.clone(), cluster, instance })
        };
        let load = Load { open: 1, capacity: 2 };
        let weight = Weight { load, score: 1000, ..Weight::default() };
        let siting = Siting {
            kept_out: 7,
            named: vec![(general("c8"), KeptOut::Residency), (general("c9"), KeptOut::Affinity)],
            generals: vec![800, 1000],
            instances: vec![500],
        };
        let choice = Choice {
            generals: vec![(general("c1"), load), (general("c2"), load)],
            instances: vec![(instance("i1"), weight)].into(),
            free: 1,
            connected: 2,
            aside: 1,
            excluded: vec![(instance("i2"), Exclusion::Affinity)],
            siting: Some(Box::new(siting)),
            ..Choice::default()
        };
        let record = DeliveryLeased {
            delivery: DeliveryId::new(Seq(7), 1),
            token: Token::default(),
            general: general("c1"),
            instance: instance("i1"),
            boot: BootId::new("b1").unwrap(),
            attempt: 1,
            lease_ms: 1000,
            choice,
            reservation: None,
            degraded: None,
            variant: None,
        };
        let mut delivery = wire::Delivery::default();

        leased(&mut delivery, &record, Timestamp(1));

        let wire::Explanation { summary, considered } = delivery.explanation.unwrap();
        let wanted =
            "preferred: load x 0.800, score x 0.500; 7 generals kept out by affinity or residency; 1 of 2 set aside";
        assert!(summary.ends_with(wanted), "{summary}");
        let row = |one: &wire::ConsideredCandidate| {
            let cluster = &one.general.as_ref().unwrap().cluster;
            format!("{cluster}/{} {:.2} {}", one.instance_id, one.score, one.excluded)
        };
        let rows: Vec<_> = considered.iter().map(row).collect();
        let wanted =
            ["c1/ 0.40 ", "c2/ 0.50 ", "c1/i1 0.50 ", "c1/i2 0.00 affinity", "c8/ 0.00 residency", "c9/ 0.00 affinity"];
        assert_eq!(rows, wanted);
    }
}
