//! Every kind of record as a message.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::record::{
    AttemptEnded, BudgetAcknowledged, BudgetCrossed, BudgetRemoved, BudgetSet, CancelRequested, Choice,
    ClusterRegistered, Degraded, DeliveryCancelled, DeliveryLeased, DeliveryParked, DeliveryRedriven, DeliverySettled,
    EpochCause, EpochStarted, EventAccepted, GeneralKey, GeneralRegistered, GeneralRemoved, HoldChanged, HoldTarget,
    JournalTruncated, LeaseExtended, Next, Payload, PayloadCarried, PlannedDelivery, PrefixDropped, Record,
    ResultRefused, RouteAsked, RoutesApplied, Terms, UpgradeFinalized, Usage, Weight,
};
use mindos_model::{TenantName, Token};
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::journal::v1::{self as pb, entry::Record as Kind};
use mindos_proto::route::v1 as route_pb;

use super::names::DEFAULT_TENANT;
use super::{RECORD_FORMAT, about, access, budget, effect, guard, object, route, siting, words};

pub(crate) const BLOB: &str = "blob:sha256:";

pub(crate) fn to_message(record: &Record) -> Kind {
    match record {
        Record::EventAccepted(record) => Kind::EventAccepted(event_accepted(record)),
        Record::DeliveryLeased(record) => Kind::DeliveryLeased(delivery_leased(record)),
        Record::DeliverySettled(record) => Kind::DeliverySettled(delivery_settled(record)),
        Record::AttemptEnded(record) => Kind::AttemptEnded(attempt_ended(record)),
        Record::LeaseExtended(record) => {
            let LeaseExtended { delivery, token, checkpoint, usage, reserved, spent } = &**record;
            Kind::LeaseExtended(pb::LeaseExtended {
                delivery: Some((*delivery).into()),
                token: Some((*token).into()),
                usage: usage.iter().map(usage_to_message).collect(),
                checkpoint_len: checkpoint.as_ref().map_or(0, payload_len),
                reserved: reserved.map(budget::of_amount),
                spent: spent.map(budget::of_amount),
            })
        }
        Record::DeliveryCancelled(record) => {
            let DeliveryCancelled { delivery, reason, why, by, charged, unanswered } = &**record;
            let (reason, superseded_by) = words::of_cancel(*reason);
            Kind::DeliveryCancelled(pb::DeliveryCancelled {
                delivery: Some((*delivery).into()),
                reason,
                superseded_by,
                by: by.to_string(),
                message: why.to_string(),
                unanswered: *unanswered,
                charged: charged.as_deref().copied().map(budget::of_amount),
            })
        }
        Record::CancelRequested(CancelRequested { delivery, reason, why, by }) => {
            let (reason, superseded_by) = words::of_cancel(*reason);
            Kind::CancelRequested(pb::CancelRequested {
                delivery: Some((*delivery).into()),
                reason,
                superseded_by,
                by: by.to_string(),
                message: why.to_string(),
                ..Default::default()
            })
        }
        Record::DeliveryParked(DeliveryParked { delivery, reason, over }) => Kind::DeliveryParked(pb::DeliveryParked {
            delivery: Some((*delivery).into()),
            reason: words::of_parked(Some(*reason)),
            redrive_at_ms: budget::redrive_at(over.as_deref()),
            over_budget: over.as_deref().map(budget::of_over),
            ..Default::default()
        }),
        Record::DeliveryRedriven(DeliveryRedriven { delivery, place_before, why, by }) => {
            Kind::DeliveryRedriven(pb::DeliveryRedriven {
                delivery: Some((*delivery).into()),
                by: by.to_string(),
                place: place_before.0,
                message: why.to_string(),
            })
        }
        Record::ResultRefused(record) => {
            let ResultRefused { delivery, presented, current, instance } = &**record;
            Kind::ResultRefused(pb::ResultRefused {
                delivery: Some((*delivery).into()),
                presented: Some((*presented).into()),
                current: token_to_message(*current),
                instance: instance.instance.to_string(),
                cluster: instance.cluster.to_string(),
                tenant: tenant(&instance.tenant),
            })
        }
        Record::PayloadCarried(PayloadCarried { event, effect, payload: _ }) => {
            let effect = effect.map_or(0, |effect| effect.0.0);
            Kind::PayloadCarried(pb::PayloadCarried { event: event.0, from_seq: 0, effect })
        }
        Record::EpochStarted(EpochStarted { epoch, version, cause }) => Kind::EpochStarted(pb::EpochStarted {
            epoch: *epoch,
            version: version.to_string(),
            reason: (match cause {
                EpochCause::Start => pb::EpochReason::Start,
                EpochCause::Restore => pb::EpochReason::Restore,
            }) as i32,
            oldest_reader: RECORD_FORMAT,
        }),
        Record::ClusterRegistered(record) => Kind::ClusterRegistered(cluster_registered(record)),
        Record::GeneralRegistered(record) => Kind::GeneralRegistered(general_registered(record)),
        Record::GeneralRemoved(record) => {
            let GeneralRemoved { key, by, from } = &**record;
            Kind::GeneralRemoved(pb::GeneralRemoved {
                cluster: key.cluster.to_string(),
                name: key.name.to_string(),
                by: by.to_string(),
                from: from.to_string(),
                tenant: tenant(&key.tenant),
            })
        }
        Record::HoldChanged(record) => Kind::HoldChanged(hold_changed(record)),
        Record::RoutesApplied(record) => {
            let RoutesApplied { tenant: of, table, by, from } = &**record;
            Kind::RoutesApplied(pb::RoutesApplied {
                table: Some(route::table_to_message(table)),
                digest: Bytes::new(),
                by: by.to_string(),
                from: from.to_string(),
                tenant: tenant(of),
            })
        }
        Record::RouteAsked(record) => {
            let RouteAsked { tenant: of, route, replaces } = &**record;
            Kind::RouteAsked(pb::RouteAsked {
                tenant: tenant(of),
                route: Some(route::to_message(route)),
                replaces: replaces.as_ref().map(|(_, name)| name.to_string()).unwrap_or_default(),
                replaces_tenant: replaces.as_ref().map(|(of, _)| tenant(of)).unwrap_or_default(),
            })
        }
        Record::PrefixDropped(PrefixDropped { through, link }) => {
            Kind::PrefixDropped(pb::PrefixDropped { through: through.0, link: Bytes::copy_from_slice(link) })
        }
        Record::JournalTruncated(JournalTruncated { kept, dropped_through }) => {
            Kind::JournalTruncated(pb::JournalTruncated {
                kept_through: kept.0,
                lost_through: dropped_through.0,
                ..Default::default()
            })
        }
        Record::UpgradeFinalized(UpgradeFinalized { version, by, from }) => {
            Kind::UpgradeFinalized(pb::UpgradeFinalized {
                version: version.to_string(),
                format: RECORD_FORMAT,
                by: by.to_string(),
                from: from.to_string(),
            })
        }
        Record::BudgetSet(record) => {
            let BudgetSet { tenant: of, budget, by, from } = &**record;
            let budget = Some(budget::to_message(budget));
            Kind::BudgetSet(pb::BudgetSet { tenant: tenant(of), budget, by: by.to_string(), from: from.to_string() })
        }
        Record::BudgetRemoved(BudgetRemoved { tenant: of, budget, by, from }) => {
            Kind::BudgetRemoved(pb::BudgetRemoved {
                tenant: tenant(of),
                budget: budget.to_string(),
                by: by.to_string(),
                from: from.to_string(),
            })
        }
        Record::BudgetAcknowledged(BudgetAcknowledged { tenant: of, budget, by, from }) => {
            let (tenant, budget, by) = (tenant(of), budget.to_string(), by.to_string());
            Kind::BudgetAcknowledged(pb::BudgetAcknowledged { tenant, budget, by, from: from.to_string() })
        }
        Record::BudgetCrossed(record) => {
            let BudgetCrossed { tenant: of, budget, level, tally } = &**record;
            Kind::BudgetCrossed(pb::BudgetCrossed {
                tenant: tenant(of),
                budget: budget.to_string(),
                level: budget::of_level(*level),
                charged: budget::of_some(tally.charged),
                reserved: budget::of_some(tally.reserved),
            })
        }
        Record::Access(record) => access::to_message(record),
        Record::PayloadsRedacted(record) => access::of_redacted(record),
        Record::EffectIntended(record) => effect::of_intended(record),
        Record::EffectDeferred(record) => effect::of_deferred(record),
        Record::EffectEnded(record) => effect::of_ended(record),
        Record::EffectRevived(record) => effect::of_revived(record),
        Record::Object(record) => object::of_record(record),
    }
}

fn event_accepted(record: &EventAccepted) -> pb::EventAccepted {
    let EventAccepted {
        tenant: of,
        source,
        id,
        ty,
        kind,
        subject,
        lane,
        repository,
        priority,
        actor,
        time,
        key,
        digest,
        payload,
        route,
        strategy,
        judgement,
        deliveries,
        fell_back_from,
        about,
    } = record;
    let (guard, guard_action, conditions_failed) = guard::of_judgement(judgement.as_deref());
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    pb::EventAccepted {
        tenant: of.to_string(),
        source: source.to_string(),
        id: id.to_string(),
        r#type: ty.to_string(),
        kind: if kind == ty { String::new() } else { kind.to_string() },
        subject: text(subject),
        lane: if **lane == *default_lane(subject.as_deref(), source) { String::new() } else { lane.to_string() },
        repository: text(repository),
        actor: text(actor),
        time_ms: time.map_or(0, |time| time.0),
        content_digest: Bytes::copy_from_slice(digest),
        payload_len: payload_len(payload),
        payload_digest: Bytes::new(),
        deliveries: (1..).zip(deliveries).map(|(ordinal, delivery)| planned(ordinal, delivery)).collect(),
        route: route.as_ref().map(ToString::to_string).unwrap_or_default(),
        strategy: strategy.map_or(0, |strategy| route_pb::Strategy::from(strategy) as i32),
        unrouted: route.is_none(),
        routes_seq: 0,
        dedupe_key: Bytes::copy_from_slice(key),
        guard,
        guard_action,
        conditions_failed,
        fell_back_from: fell_back_from.as_ref().map(ToString::to_string).unwrap_or_default(),
        priority: words::of_priority(*priority),
        about: about.as_deref().map(about::to_message),
    }
}

/// The lane of an event that names none.
pub(crate) fn default_lane<'a>(subject: Option<&'a str>, source: &'a str) -> &'a str {
    subject.unwrap_or(source)
}

fn planned(ordinal: u32, delivery: &PlannedDelivery) -> pb::PlannedDelivery {
    let PlannedDelivery { general, parked, terms, degraded } = delivery;
    let Terms { shadow, not_before, burst_since, expires } = terms.as_deref().copied().unwrap_or_default();
    pb::PlannedDelivery {
        ordinal,
        general: general.as_deref().map(general_to_message),
        parked: words::of_parked(*parked),
        supersedes: Vec::new(),
        shadow,
        not_before_ms: not_before.0,
        burst_since_ms: burst_since.0,
        expires_ms: expires.0,
        degraded: degraded.as_deref().map(of_degraded),
    }
}

fn delivery_leased(record: &DeliveryLeased) -> pb::DeliveryLeased {
    let DeliveryLeased {
        delivery,
        token,
        general,
        instance,
        boot,
        attempt,
        lease_ms,
        choice: Choice { generals, instances, free, connected, aside, excluded, feedback, siting },
        reservation,
        degraded,
        variant,
    } = record;
    let of_generals = generals.iter().map(|(general, load)| pb::Candidate {
        general: Some(general_to_message(general)),
        slots_taken: load.open,
        slots: load.capacity,
        ..Default::default()
    });
    let of_instances = instances.iter().map(|(instance, weight)| {
        let Weight { load, score, latency_ms, model, queue, trial } = *weight;
        pb::Candidate {
            general: None,
            instance: instance.instance.to_string(),
            score_milli: score,
            exclusion: 0,
            slots_taken: load.open,
            slots: load.capacity,
            latency_ms,
            model_milli: model,
            model_queue: queue,
            trial,
        }
    });
    let of_excluded = excluded.iter().map(|(instance, why)| pb::Candidate {
        instance: instance.instance.to_string(),
        exclusion: words::of_exclusion(*why),
        ..Default::default()
    });
    pb::DeliveryLeased {
        delivery: Some((*delivery).into()),
        token: Some((*token).into()),
        general: Some(general_to_message(general)),
        instance: instance.instance.to_string(),
        boot: boot.to_string(),
        attempt: *attempt,
        lease_ms: *lease_ms,
        candidates: of_generals.chain(of_instances).chain(of_excluded).collect(),
        tenant: tenant(&general.tenant),
        free_instances: *free,
        connected_instances: *connected,
        set_aside: *aside,
        reservation: reservation.as_deref().map(budget::of_reservation),
        degraded: degraded.as_deref().map(of_degraded),
        variant: variant.as_deref().map(about::of_variant),
        feedback: feedback.as_deref().map(about::of_weighing),
        siting: siting.as_deref().map(siting::to_message),
    }
}

pub(crate) fn of_degraded(degraded: &Degraded) -> pb::Degraded {
    let Degraded { budget, percent, from } = degraded;
    let from = from.iter().map(|general| general_to_message(general)).collect();
    pb::Degraded { budget: budget.to_string(), percent: *percent, from }
}

fn delivery_settled(record: &DeliverySettled) -> pb::DeliverySettled {
    let DeliverySettled { delivery, token, output, output_type, output_ref, usage, took_ms, charged } = record;
    pb::DeliverySettled {
        delivery: Some((*delivery).into()),
        token: Some((*token).into()),
        outcome: pb::Outcome::Succeeded as i32,
        usage: usage.iter().map(usage_to_message).collect(),
        output_len: output.as_ref().map_or(0, payload_len),
        duration_ms: *took_ms,
        output_content_type: output_type.as_deref().unwrap_or_default().to_owned(),
        charged: charged.map(budget::of_amount),
        output_ref: output_ref.map(|digest| format!("{BLOB}{}", crate::chain::hex(&digest))).unwrap_or_default(),
        ..Default::default()
    }
}

fn attempt_ended(record: &AttemptEnded) -> pb::AttemptEnded {
    let AttemptEnded { delivery, token, cause, message, counted, next, usage, charged, over } = record;
    let (ended_by, cause, rate_limited_until_ms) = words::of_cause(*cause);
    pb::AttemptEnded {
        delivery: Some((*delivery).into()),
        token: Some((*token).into()),
        cause,
        message: message.to_string(),
        next: Some(match next {
            Next::Wait { not_before } => pb::attempt_ended::Next::WaitingNotBeforeMs(not_before.0),
            Next::Park { reason } => pb::attempt_ended::Next::Parked(words::of_parked(Some(*reason))),
        }),
        counted: *counted,
        ended_by,
        rate_limited_until_ms,
        usage: usage.iter().map(usage_to_message).collect(),
        budget: over.as_ref().map(|over| over.budget.to_string()).unwrap_or_default(),
        redrive_at_ms: budget::redrive_at(over.as_deref()),
        charged: charged.map(budget::of_amount),
        over_budget: over.as_deref().map(budget::of_over),
        ..Default::default()
    }
}

pub(crate) fn cluster_registered(record: &ClusterRegistered) -> pb::ClusterRegistered {
    let ClusterRegistered { tenant: of, cluster, region, labels } = record;
    pb::ClusterRegistered {
        cluster: cluster.to_string(),
        region: region.as_ref().map(ToString::to_string).unwrap_or_default(),
        labels: route::labels_to_message(labels),
        tenant: tenant(of),
    }
}

pub(crate) fn general_registered(record: &GeneralRegistered) -> pb::GeneralRegistered {
    let GeneralRegistered { key, ty, labels } = record;
    pb::GeneralRegistered {
        cluster: key.cluster.to_string(),
        name: key.name.to_string(),
        r#type: ty.to_string(),
        labels: route::labels_to_message(labels),
        namespace: String::new(),
        tenant: tenant(&key.tenant),
    }
}

pub(crate) fn hold_changed(record: &HoldChanged) -> pb::HoldChanged {
    use pb::hold_changed::Target;
    let HoldChanged { tenant: of, target, holds, why, by, from } = record;
    let target = match target {
        HoldTarget::Cluster(cluster) => Target::Cluster(cluster.to_string()),
        HoldTarget::General(cluster, name) => {
            Target::General(pb::General { cluster: cluster.to_string(), name: name.to_string() })
        }
        HoldTarget::Instance(cluster, instance) => {
            Target::Instance(pb::Instance { cluster: cluster.to_string(), instance: instance.to_string() })
        }
        HoldTarget::Route(name) => Target::Route(name.to_string()),
    };
    let (hold, besides) = words::of_holds(*holds);
    pb::HoldChanged {
        target: Some(target),
        hold,
        on: hold != 0,
        besides,
        by: by.to_string(),
        reason: why.to_string(),
        from: from.to_string(),
        tenant: tenant(of),
        ..Default::default()
    }
}

/// A tenant as it is written where the default one is left out.
pub(crate) fn tenant(tenant: &TenantName) -> String {
    if tenant.as_str() == DEFAULT_TENANT { String::new() } else { tenant.to_string() }
}

pub(crate) fn general_to_message(key: &GeneralKey) -> pb::General {
    pb::General { cluster: key.cluster.to_string(), name: key.name.to_string() }
}

/// A token as it is written; none before the first lease.
pub(crate) fn token_to_message(token: Token) -> Option<pb::Token> {
    (token != Token::default()).then(|| token.into())
}

fn usage_to_message(usage: &Usage) -> delivery::Usage {
    let Usage { model, input_tokens, output_tokens, cost_micros } = usage;
    delivery::Usage {
        model: model.to_string(),
        input_tokens: *input_tokens,
        output_tokens: *output_tokens,
        cost_micros: *cost_micros,
        ..Default::default()
    }
}

pub(crate) fn payload_len(payload: &Payload) -> u32 {
    u32::try_from(payload.bytes.len()).unwrap_or(u32::MAX)
}
