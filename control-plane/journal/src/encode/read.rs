//! Messages of every kind as records, with each field checked.

use std::sync::Arc;

use mindos_core::record::{
    AttemptEnded, BudgetAcknowledged, BudgetCrossed, BudgetRemoved, BudgetSet, CancelRequested, Choice,
    ClusterRegistered, Degraded, DeliveryCancelled, DeliveryLeased, DeliveryParked, DeliveryRedriven, DeliverySettled,
    EpochCause, EpochStarted, EventAccepted, GeneralKey, GeneralRegistered, GeneralRemoved, HoldChanged, HoldTarget,
    JournalTruncated, LeaseExtended, Load, Next, Payload, PayloadCarried, PlannedDelivery, PrefixDropped, Record,
    ResultRefused, RouteAsked, RoutesApplied, Terms, UpgradeFinalized, Usage, Weight,
};
use mindos_model::{DeliveryId, EffectId, Seq, Strategy, TenantName, Timestamp, Token};
use mindos_proto::convert::{Invalid, parsed, required, word};
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::journal::v1::{self as pb, entry::Record as Kind};
use mindos_proto::route::v1 as route_pb;

use super::names::Names;
use super::record::{BLOB, default_lane};
use super::{about, access, budget, effect, guard, object, route, siting, words};

pub(crate) fn from_message(names: &mut Names, kind: Kind, payload: Option<Payload>) -> Result<Record, Invalid> {
    let by = |text: String| Arc::<str>::from(text);
    Ok(match kind {
        Kind::EventAccepted(record) => Record::EventAccepted(Box::new(read_event_accepted(names, record, payload)?)),
        Kind::DeliveryLeased(record) => Record::DeliveryLeased(Box::new(read_delivery_leased(names, record)?)),
        Kind::DeliverySettled(record) => Record::DeliverySettled(Box::new(read_delivery_settled(record, payload)?)),
        Kind::AttemptEnded(record) => Record::AttemptEnded(Box::new(read_attempt_ended(record)?)),
        Kind::LeaseExtended(record) => Record::LeaseExtended(Box::new(LeaseExtended {
            delivery: delivery_id(record.delivery)?,
            token: token(record.token)?,
            checkpoint: payload,
            usage: record.usage.into_iter().map(usage).collect(),
            reserved: record.reserved.map(budget::amount),
            spent: record.spent.map(budget::amount),
        })),
        Kind::DeliveryCancelled(record) => Record::DeliveryCancelled(Box::new(DeliveryCancelled {
            delivery: delivery_id(record.delivery)?,
            reason: required(words::cancel(record.reason, record.superseded_by)?, "reason")?,
            why: Arc::from(record.message),
            by: by(record.by),
            charged: record.charged.map(budget::amount).map(Box::new),
            unanswered: record.unanswered,
        })),
        Kind::CancelRequested(record) => Record::CancelRequested(CancelRequested {
            delivery: delivery_id(record.delivery)?,
            reason: required(words::cancel(record.reason, record.superseded_by)?, "reason")?,
            why: Arc::from(record.message),
            by: by(record.by),
        }),
        Kind::DeliveryParked(record) => Record::DeliveryParked(DeliveryParked {
            delivery: delivery_id(record.delivery)?,
            reason: required(words::parked(record.reason)?, "reason")?,
            over: record.over_budget.map(budget::over).transpose()?.map(Box::new),
        }),
        Kind::DeliveryRedriven(record) => Record::DeliveryRedriven(DeliveryRedriven {
            delivery: delivery_id(record.delivery)?,
            place_before: Seq(record.place),
            why: Arc::from(record.message),
            by: by(record.by),
        }),
        Kind::ResultRefused(record) => {
            let tenant = names.tenant(&record.tenant)?;
            Record::ResultRefused(Box::new(ResultRefused {
                delivery: delivery_id(record.delivery)?,
                presented: required(record.presented, "presented").map(as_presented)?,
                current: record.current.map(as_presented).unwrap_or_default(),
                instance: names.instance(&tenant, &record.cluster, &record.instance)?,
            }))
        }
        Kind::PayloadCarried(record) => {
            let payload = required(payload, "payload")?;
            let effect = (record.effect > 0).then_some(EffectId(Seq(record.effect)));
            Record::PayloadCarried(PayloadCarried { event: Seq(record.event), effect, payload })
        }
        Kind::EpochStarted(record) => Record::EpochStarted(EpochStarted {
            epoch: record.epoch,
            version: Arc::from(record.version),
            cause: match pb::EpochReason::try_from(record.reason) {
                Ok(pb::EpochReason::Start) => EpochCause::Start,
                Ok(pb::EpochReason::Restore) => EpochCause::Restore,
                Ok(pb::EpochReason::Unspecified) | Err(_) => {
                    return Err(Invalid::new("reason", format_args!("value {} is not known", record.reason)));
                }
            },
        }),
        Kind::ClusterRegistered(record) => Record::ClusterRegistered(Box::new(read_cluster_registered(names, record)?)),
        Kind::GeneralRegistered(record) => Record::GeneralRegistered(Box::new(read_general_registered(names, record)?)),
        Kind::GeneralRemoved(record) => {
            let tenant = names.tenant(&record.tenant)?;
            let key = names.general(&tenant, &record.cluster, &record.name)?;
            Record::GeneralRemoved(Box::new(GeneralRemoved {
                key: GeneralKey::clone(&key),
                by: by(record.by),
                from: by(record.from),
            }))
        }
        Kind::HoldChanged(record) => Record::HoldChanged(Box::new(read_hold_changed(names, record)?)),
        Kind::RoutesApplied(record) => Record::RoutesApplied(Box::new(RoutesApplied {
            tenant: names.tenant(&record.tenant)?,
            table: Arc::new(route::table_from_message(required(record.table, "table")?)?),
            by: by(record.by),
            from: by(record.from),
        })),
        Kind::RouteAsked(record) => {
            let pb::RouteAsked { tenant, route, replaces, replaces_tenant } = record;
            let replaces = match replaces.is_empty() {
                true => None,
                false => Some((names.tenant(&replaces_tenant)?, parsed(&replaces, "replaces")?)),
            };
            Record::RouteAsked(Box::new(RouteAsked {
                tenant: names.tenant(&tenant)?,
                route: Arc::new(route::from_message(required(route, "route")?)?),
                replaces,
            }))
        }
        Kind::PrefixDropped(record) => {
            Record::PrefixDropped(PrefixDropped { through: Seq(record.through), link: fixed(&record.link, "link")? })
        }
        Kind::JournalTruncated(record) => Record::JournalTruncated(JournalTruncated {
            kept: Seq(record.kept_through),
            dropped_through: Seq(record.lost_through),
        }),
        Kind::UpgradeFinalized(record) => Record::UpgradeFinalized(UpgradeFinalized {
            version: Arc::from(record.version),
            by: by(record.by),
            from: by(record.from),
        }),
        Kind::BudgetSet(record) => Record::BudgetSet(Box::new(BudgetSet {
            tenant: names.tenant(&record.tenant)?,
            budget: Arc::new(budget::from_message(required(record.budget, "budget")?)?),
            by: by(record.by),
            from: by(record.from),
        })),
        Kind::BudgetRemoved(record) => Record::BudgetRemoved(BudgetRemoved {
            tenant: names.tenant(&record.tenant)?,
            budget: parsed(&record.budget, "budget")?,
            by: by(record.by),
            from: by(record.from),
        }),
        Kind::BudgetAcknowledged(record) => Record::BudgetAcknowledged(BudgetAcknowledged {
            tenant: names.tenant(&record.tenant)?,
            budget: parsed(&record.budget, "budget")?,
            by: by(record.by),
            from: by(record.from),
        }),
        Kind::BudgetCrossed(record) => Record::BudgetCrossed(Box::new(BudgetCrossed {
            tenant: names.tenant(&record.tenant)?,
            budget: parsed(&record.budget, "budget")?,
            level: budget::level(record.level)?,
            tally: budget::tally(record.charged, record.reserved),
        })),
        Kind::PayloadsRedacted(record) => access::redacted(names, record)?,
        Kind::EffectIntended(record) => effect::read_intended(names, record, payload)?,
        Kind::EffectDeferred(record) => effect::read_deferred(names, record)?,
        Kind::EffectEnded(record) => effect::read_ended(names, record)?,
        Kind::EffectRevived(record) => effect::read_revived(names, record)?,
        Kind::ObjectApplied(record) => object::read_applied(names, record)?,
        Kind::ObjectRemoved(record) => object::read_removed(names, record)?,
        kind @ (Kind::ApiTokenCreated(_)
        | Kind::ApiTokenUsed(_)
        | Kind::ApiTokenRevoked(_)
        | Kind::JoinTokenCreated(_)
        | Kind::JoinTokenRevoked(_)
        | Kind::AgentJoined(_)
        | Kind::JoinRefused(_)
        | Kind::RoleBound(_)
        | Kind::RoleUnbound(_)
        | Kind::IssuerRegistered(_)
        | Kind::IssuerRemoved(_)
        | Kind::AgentDenied(_)
        | Kind::AgentAllowed(_)
        | Kind::QuotaSet(_)
        | Kind::SettingsChanged(_)
        | Kind::AuthorityChanged(_)
        | Kind::CheckpointSigned(_)) => Record::Access(Box::new(access::from_message(names, kind)?)),
    })
}

fn read_event_accepted(
    names: &mut Names,
    record: pb::EventAccepted,
    payload: Option<Payload>,
) -> Result<EventAccepted, Invalid> {
    let tenant = names.tenant(&record.tenant)?;
    let text = |text: &str| (!text.is_empty()).then(|| Arc::<str>::from(text));
    let subject = text(&record.subject);
    let lane = match record.lane.as_str() {
        "" => default_lane(subject.as_deref(), &record.source),
        lane => lane,
    };
    let deliveries = record.deliveries.iter().map(|delivery| {
        let general = delivery.general.as_ref();
        Ok(PlannedDelivery {
            general: general.map(|general| names.general(&tenant, &general.cluster, &general.name)).transpose()?,
            parked: words::parked(delivery.parked)?,
            terms: Terms {
                shadow: delivery.shadow,
                not_before: Timestamp(delivery.not_before_ms),
                burst_since: Timestamp(delivery.burst_since_ms),
                expires: Timestamp(delivery.expires_ms),
            }
            .boxed(),
            degraded: delivery.degraded.clone().map(|one| degraded(names, &tenant, one)).transpose()?.map(Box::new),
        })
    });
    let deliveries = deliveries.collect::<Result<_, Invalid>>()?;
    let kind = if record.kind.is_empty() { &record.r#type } else { &record.kind };
    let about = record.about.map(|about| about::from_message(names, &tenant, about)).transpose()?.map(Box::new);
    Ok(EventAccepted {
        source: names.text(&record.source),
        id: Arc::from(record.id.as_str()),
        ty: names.text(&record.r#type),
        kind: names.text(kind),
        lane: Arc::from(lane),
        repository: text(&record.repository),
        priority: words::priority(record.priority)?,
        actor: text(&record.actor),
        time: (record.time_ms > 0).then_some(Timestamp(record.time_ms)),
        key: fixed(&record.dedupe_key, "dedupe_key")?,
        digest: fixed(&record.content_digest, "content_digest")?,
        payload: required(payload, "payload")?,
        route: text(&record.route).map(|route| names.route(&route)).transpose()?,
        strategy: word::<route_pb::Strategy, Strategy>(record.strategy, "strategy")?,
        judgement: guard::judgement(record.guard, record.guard_action, record.conditions_failed)?,
        tenant,
        subject,
        deliveries,
        fell_back_from: text(&record.fell_back_from).map(|route| names.route(&route)).transpose()?,
        about,
    })
}

fn read_delivery_leased(names: &mut Names, record: pb::DeliveryLeased) -> Result<DeliveryLeased, Invalid> {
    let tenant = names.tenant(&record.tenant)?;
    let general = required(record.general, "general")?;
    let mut choice = Choice {
        free: record.free_instances,
        connected: record.connected_instances,
        aside: record.set_aside,
        feedback: record.feedback.map(about::weighing).map(Box::new),
        siting: record.siting.map(|one| siting::from_message(names, &tenant, one)).transpose()?.map(Box::new),
        ..Choice::default()
    };
    for candidate in record.candidates {
        let load = Load { open: candidate.slots_taken, capacity: candidate.slots };
        match candidate.general {
            Some(key) => choice.generals.push((names.general(&tenant, &key.cluster, &key.name)?, load)),
            None => {
                let instance = names.instance(&tenant, &general.cluster, &candidate.instance)?;
                let weight = Weight {
                    load,
                    score: candidate.score_milli,
                    latency_ms: candidate.latency_ms,
                    model: candidate.model_milli,
                    queue: candidate.model_queue,
                    trial: candidate.trial,
                };
                match words::exclusion(candidate.exclusion)? {
                    Some(why) => choice.excluded.push((instance, why)),
                    None => choice.instances.push((instance, weight)),
                }
            }
        }
    }
    Ok(DeliveryLeased {
        delivery: delivery_id(record.delivery)?,
        token: token(record.token)?,
        instance: names.instance(&tenant, &general.cluster, &record.instance)?,
        general: names.general(&tenant, &general.cluster, &general.name)?,
        boot: names.boot(&record.boot)?,
        attempt: record.attempt,
        lease_ms: record.lease_ms,
        choice,
        reservation: record.reservation.map(budget::reservation).map(Box::new),
        degraded: record.degraded.map(|one| degraded(names, &tenant, one)).transpose()?.map(Box::new),
        variant: record.variant.map(|variant| about::variant(names, variant)).transpose()?.map(Box::new),
    })
}

pub(crate) fn degraded(names: &mut Names, tenant: &TenantName, message: pb::Degraded) -> Result<Degraded, Invalid> {
    let pb::Degraded { budget, percent, from } = message;
    let from = from.iter().map(|general| names.general(tenant, &general.cluster, &general.name));
    Ok(Degraded { budget: parsed(&budget, "degraded.budget")?, percent, from: from.collect::<Result<_, _>>()? })
}

fn read_delivery_settled(record: pb::DeliverySettled, payload: Option<Payload>) -> Result<DeliverySettled, Invalid> {
    if record.outcome != pb::Outcome::Succeeded as i32 {
        return Err(Invalid::new("outcome", format_args!("value {} is not accepted here", record.outcome)));
    }
    let output_type = (!record.output_content_type.is_empty()).then(|| Arc::from(record.output_content_type));
    Ok(DeliverySettled {
        delivery: delivery_id(record.delivery)?,
        token: token(record.token)?,
        output: payload,
        output_type,
        output_ref: blob(&record.output_ref)?,
        usage: record.usage.into_iter().map(usage).collect(),
        took_ms: record.duration_ms,
        charged: record.charged.map(budget::amount),
    })
}

/// The digest in the address of a blob; `None` if there is no address.
pub(crate) fn blob(address: &str) -> Result<Option<[u8; 32]>, Invalid> {
    if address.is_empty() {
        return Ok(None);
    }
    let malformed = || Invalid::new("output_ref", "expected `blob:sha256:` and 64 digits from 0 to f");
    let digits = address.strip_prefix(BLOB).filter(|digits| digits.len() == 64 && digits.is_ascii());
    let digits = digits.ok_or_else(malformed)?;
    let mut digest = [0; 32];
    for (place, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * place..2 * place + 2], 16).map_err(|_| malformed())?;
    }
    Ok(Some(digest))
}

fn read_attempt_ended(record: pb::AttemptEnded) -> Result<AttemptEnded, Invalid> {
    let cause = words::cause(record.ended_by, record.cause, record.rate_limited_until_ms)?;
    Ok(AttemptEnded {
        delivery: delivery_id(record.delivery)?,
        token: token(record.token)?,
        cause: required(cause, "ended_by")?,
        message: Arc::from(record.message),
        counted: record.counted,
        usage: record.usage.into_iter().map(usage).collect(),
        charged: record.charged.map(budget::amount),
        over: record.over_budget.map(budget::over).transpose()?.map(Box::new),
        next: match required(record.next, "next")? {
            pb::attempt_ended::Next::WaitingNotBeforeMs(at) => Next::Wait { not_before: Timestamp(at) },
            pb::attempt_ended::Next::Parked(reason) => {
                Next::Park { reason: required(words::parked(reason)?, "parked")? }
            }
        },
    })
}

pub(crate) fn read_cluster_registered(
    names: &mut Names,
    record: pb::ClusterRegistered,
) -> Result<ClusterRegistered, Invalid> {
    let region = Some(record.region).filter(|region| !region.is_empty());
    Ok(ClusterRegistered {
        tenant: names.tenant(&record.tenant)?,
        cluster: names.cluster(&record.cluster)?,
        region: region.map(|region| parsed(&region, "region")).transpose()?,
        labels: route::labels_from_message(record.labels),
    })
}

pub(crate) fn read_general_registered(
    names: &mut Names,
    record: pb::GeneralRegistered,
) -> Result<GeneralRegistered, Invalid> {
    let tenant = names.tenant(&record.tenant)?;
    Ok(GeneralRegistered {
        key: GeneralKey::clone(&*names.general(&tenant, &record.cluster, &record.name)?),
        ty: parsed(&record.r#type, "type")?,
        labels: route::labels_from_message(record.labels),
    })
}

pub(crate) fn read_hold_changed(names: &mut Names, record: pb::HoldChanged) -> Result<HoldChanged, Invalid> {
    use pb::hold_changed::Target;
    let target = match required(record.target, "target")? {
        Target::Cluster(cluster) => HoldTarget::Cluster(names.cluster(&cluster)?),
        Target::General(general) => {
            HoldTarget::General(names.cluster(&general.cluster)?, parsed(&general.name, "name")?)
        }
        Target::Instance(instance) => {
            HoldTarget::Instance(names.cluster(&instance.cluster)?, parsed(&instance.instance, "instance")?)
        }
        Target::Route(name) => HoldTarget::Route(names.route(&name)?),
    };
    Ok(HoldChanged {
        tenant: names.tenant(&record.tenant)?,
        target,
        holds: words::holds(record.hold, &record.besides)?,
        why: Arc::from(record.reason),
        by: Arc::from(record.by),
        from: Arc::from(record.from),
    })
}

pub(crate) fn usage(usage: delivery::Usage) -> Usage {
    Usage {
        model: Arc::from(usage.model),
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cost_micros: usage.cost_micros,
    }
}

pub(crate) fn delivery_id(message: Option<pb::DeliveryRef>) -> Result<DeliveryId, Invalid> {
    required(message, "delivery")?.try_into()
}

pub(crate) fn token(message: Option<pb::Token>) -> Result<Token, Invalid> {
    required(message, "token")?.try_into()
}

/// A token that was refused: whoever came with it may have made it up.
fn as_presented(pb::Token { epoch, term }: pb::Token) -> Token {
    Token::new(epoch, term)
}

pub(crate) fn token_or_none(message: Option<pb::Token>) -> Result<Token, Invalid> {
    message.map_or(Ok(Token::default()), Token::try_from)
}

pub(crate) fn fixed<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], Invalid> {
    bytes.try_into().map_err(|_| Invalid::new(field, format_args!("has {} bytes, expected {N}", bytes.len())))
}
