//! Records and outputs as lines of a scenario.

use std::fmt::Write as _;

use mindos_core::BreakerState;
use mindos_core::budget::{Amount, Budget, Limit, Thresholds};
use mindos_core::output::{
    Assign, BudgetView, Claim, DeliveryView, Demand, FleetView, Mode, Output, PayloadOf, PayloadRef, PlaneMessage,
    Published, Reply, SettledVerdict,
};
use mindos_core::record::{
    AttemptEnded, CancelReason, Cause, Choice, Degraded, DeliveryLeased, Entry, EventAccepted, HoldTarget, Next, Record,
};
use mindos_core::{OverBudget, Tally};
use mindos_model::{DeliveryId, FailureKind, Priority, Timestamp, Token};

/// A record with its place, times counted from `start`.
#[must_use]
pub fn entry(entry: &Entry, start: Timestamp) -> String {
    format!("#{} {}{}", entry.seq, entry.record.kind(), record(&entry.record, start))
}

fn record(record: &Record, start: Timestamp) -> String {
    let mut text = String::new();
    let out = &mut text;
    // Writing to a string cannot fail.
    let _ = match record {
        Record::EpochStarted(record) => write!(out, " {} {:?}", record.epoch, record.cause),
        Record::EventAccepted(record) => event(out, record, start),
        Record::DeliveryLeased(record) => {
            let DeliveryLeased { delivery, token, general, instance, boot, attempt, lease_ms, choice, .. } =
                record.as_ref();
            let DeliveryLeased { reservation, degraded, variant, .. } = record.as_ref();
            let reserved =
                reservation.as_deref().map(|reservation| format!(" reserved={}", amount(reservation.amount)));
            write!(out, " {delivery} {token} general={general} instance={instance} boot={boot} attempt={attempt}")
                .and_then(|()| if *lease_ms == 25_000 { Ok(()) } else { write!(out, " lease={lease_ms}ms") })
                .and_then(|()| self::choice(out, choice))
                .and_then(|()| write!(out, "{}{}", reserved.unwrap_or_default(), self::degraded(degraded.as_deref())))
                .and_then(|()| choice.feedback.as_ref().map_or(Ok(()), |of| super::about::show_weighing(out, of)))
                .and_then(|()| variant.as_ref().map_or(Ok(()), |of| super::about::show_variant(out, of)))
        }
        Record::AttemptEnded(record) => {
            let AttemptEnded { delivery, token, cause, message, counted, next, usage: _, charged, over } =
                record.as_ref();
            let budget = budget(*charged, over.as_deref(), start);
            let counted = if *counted { " counted" } else { "" };
            let message = if message.is_empty() { String::new() } else { format!(" `{message}`") };
            let cause = self::cause(*cause, start);
            write!(out, " {delivery} {token} {cause}{counted}{message} next={}{budget}", self::next(*next, start))
        }
        Record::DeliverySettled(record) => {
            let output = record.output.as_ref().map(|payload| String::from_utf8_lossy(&payload.bytes).into_owned());
            let output = output.map(|text| format!(" output={text}")).unwrap_or_default();
            write!(
                out,
                " {} {} took={}ms{output}{}",
                record.delivery,
                record.token,
                record.took_ms,
                budget(record.charged, None, start)
            )
        }
        Record::DeliveryCancelled(record) => {
            write!(
                out,
                " {} {}{}{}{}{}",
                record.delivery,
                reason(record.reason),
                why(&record.why),
                by(&record.by),
                budget(record.charged.as_deref().copied(), None, start),
                if record.unanswered { " unanswered" } else { "" }
            )
        }
        Record::Access(record) => write!(out, "{}", super::access::show(record, start)),
        Record::PayloadsRedacted(record) => {
            let events: Vec<_> = record.events.iter().map(|event| format!("#{event}")).collect();
            write!(out, " {} why={}{}", events.join(","), record.why, by(&record.by))
        }
        Record::CancelRequested(record) => {
            write!(out, " {} {}{}{}", record.delivery, reason(record.reason), why(&record.why), by(&record.by))
        }
        Record::DeliveryParked(record) => {
            write!(out, " {} {}{}", record.delivery, record.reason, budget(None, record.over.as_deref(), start))
        }
        Record::DeliveryRedriven(record) => {
            let (why, by) = (why(&record.why), by(&record.by));
            write!(out, " {} place_before=#{}{why}{by}", record.delivery, record.place_before)
        }
        Record::ResultRefused(record) => {
            let (delivery, presented, current) = (record.delivery, record.presented, record.current);
            write!(out, " {delivery} presented={presented} current={current} instance={}", record.instance)
        }
        Record::LeaseExtended(record) => {
            let checkpoint =
                record.checkpoint.as_ref().map(|payload| String::from_utf8_lossy(&payload.bytes).into_owned());
            let checkpoint = checkpoint.map(|text| format!(" checkpoint={text}")).unwrap_or_default();
            let word =
                |name: &str, of: Option<Amount>| of.map(|of| format!(" {name}={}", amount(of))).unwrap_or_default();
            let (reserved, spent) = (word("reserved", record.reserved), word("spent", record.spent));
            write!(out, " {} {}{checkpoint}{spent}{reserved}", record.delivery, record.token)
        }
        Record::ClusterRegistered(record) => {
            let region = record.region.as_ref().map(|region| format!(" region={region}")).unwrap_or_default();
            write!(out, " {}{region}", record.cluster)
        }
        Record::GeneralRegistered(record) => write!(out, " {} type={}", record.key, record.ty),
        Record::GeneralRemoved(record) => write!(out, " {}{}", record.key, by(&record.by)),
        Record::HoldChanged(record) => {
            let (why, by) = (why(&record.why), by(&record.by));
            write!(out, " {} {:?}{why}{by}", target(&record.target), record.holds)
        }
        Record::RoutesApplied(record) => {
            let names: Vec<_> = record.table.routes.iter().map(|route| route.name.as_str()).collect();
            write!(out, " {}{}", names.join(","), by(&record.by))
        }
        Record::RouteAsked(record) => {
            let replaces = record.replaces.as_ref().map(|(_, name)| format!(" replaces={name}")).unwrap_or_default();
            write!(out, " {} {}{replaces}", record.route.name, record.route.strategy)
        }
        Record::PayloadCarried(record) => {
            let effect = record.effect.map(|effect| format!(" effect={effect}")).unwrap_or_default();
            write!(out, " event={}{effect} bytes={}", record.event, record.payload.bytes.len())
        }
        Record::EffectIntended(record) => write!(out, "{}", super::effects::show_intended(record)),
        Record::EffectDeferred(record) => write!(out, "{}", super::effects::show_deferred(record, start)),
        Record::EffectEnded(record) => write!(out, "{}", super::effects::show_ended(record)),
        Record::EffectRevived(record) => write!(out, "{}", super::effects::show_revived(record)),
        Record::Object(record) => write!(out, " {}", record.key()),
        Record::PrefixDropped(record) => write!(out, " through={}", record.through),
        Record::JournalTruncated(record) => {
            write!(out, " kept={} dropped_through={}", record.kept, record.dropped_through)
        }
        Record::UpgradeFinalized(record) => write!(out, " {}{}", record.version, by(&record.by)),
        Record::BudgetSet(record) => write!(out, " {}{}", self::limits(&record.budget), by(&record.by)),
        Record::BudgetRemoved(record) => write!(out, " {}{}", record.budget, by(&record.by)),
        Record::BudgetAcknowledged(record) => write!(out, " {}{}", record.budget, by(&record.by)),
        Record::BudgetCrossed(record) => {
            let Tally { charged, reserved } = record.tally;
            let (charged, reserved) = (amount(charged), amount(reserved));
            write!(out, " {} {:?} charged={charged} reserved={reserved}", record.budget, record.level)
        }
    };
    text
}

/// Money, tokens and time.
fn amount(amount: Amount) -> String {
    let Amount { micros, tokens, time_ms } = amount;
    format!("{micros}/{tokens}/{time_ms}ms")
}

fn limits(budget: &Budget) -> String {
    let Budget { name, scope, period, limit, thresholds, priority: _ } = budget;
    let Limit { micros, tokens, time_ms } = *limit;
    let limits = [("micros", micros), ("tokens", tokens), ("time_ms", time_ms)];
    let limits = limits.into_iter().filter_map(|(name, limit)| Some(format!(" {name}={}", limit?)));
    let Thresholds { warn, act, pause } = thresholds;
    format!("{name} {scope:?} {period:?}{} at={warn}/{act}/{pause}", limits.collect::<String>())
}

fn budget(charged: Option<Amount>, over: Option<&OverBudget>, start: Timestamp) -> String {
    let charged = charged.map(|charged| format!(" charged={}", amount(charged))).unwrap_or_default();
    let over = over.map(|over| {
        let resets = over.resets.map(|at| format!(" resets={}", since(at, start))).unwrap_or_default();
        format!(" budget={} wanted={}{resets}", over.budget, amount(over.wanted))
    });
    charged + &over.unwrap_or_default()
}

fn event(out: &mut String, record: &EventAccepted, start: Timestamp) -> std::fmt::Result {
    write!(out, " {}/{} kind={} lane={}", record.source, record.id, record.kind, record.lane)?;
    if let Some(judgement) = &record.judgement {
        if let Some(guarded) = judgement.guarded {
            write!(out, " guard={} {}", guarded.guard.as_str(), guarded.action.as_str())?;
        }
        if judgement.conditions_failed > 0 {
            write!(out, " conditions_failed={}", judgement.conditions_failed)?;
        }
    }
    if record.priority != Priority::Normal {
        write!(out, " {}", record.priority)?;
    }
    match (&record.route, record.strategy) {
        (Some(route), Some(strategy)) => write!(out, " route={route} {strategy}")?,
        _ => write!(out, " unrouted")?,
    }
    for planned in &record.deliveries {
        match &planned.general {
            Some(general) => write!(out, " {general}")?,
            None => write!(out, " any")?,
        }
        if let Some(reason) = planned.parked {
            write!(out, ":{reason}")?;
        }
        write!(out, "{}", degraded(planned.degraded.as_deref()))?;
        if let Some(terms) = &planned.terms {
            super::policy::show_terms(out, terms, start)?;
        }
    }
    if let Some(from) = &record.fell_back_from {
        write!(out, " fell_back_from={from}")?;
    }
    if let Some(about) = &record.about {
        super::about::print(out, about);
    }
    Ok(())
}

fn degraded(degraded: Option<&Degraded>) -> String {
    let Some(Degraded { budget, percent, from }) = degraded else { return String::new() };
    let from: Vec<_> = from.iter().map(ToString::to_string).collect();
    format!(" degraded={budget}:{percent}% instead_of={}", from.join(","))
}

/// A reason that was given, as one word.
pub(super) fn why(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" why={}", why.replace(char::is_whitespace, "_")) }
}

fn by(by: &str) -> String {
    if by.is_empty() { String::new() } else { format!(" by={by}") }
}

fn reason(reason: CancelReason) -> String {
    match reason {
        CancelReason::Superseded { by } => format!("superseded_by={by}"),
        CancelReason::Requested => "requested".to_owned(),
        CancelReason::RaceLost { by } => format!("race_lost_to={by}"),
        CancelReason::Expired => "expired".to_owned(),
        CancelReason::ShadowFailed => "shadow_failed".to_owned(),
        CancelReason::ReplayFailed => "replay_failed".to_owned(),
        CancelReason::ReplayOverBudget => "replay_over_budget".to_owned(),
        CancelReason::Redacted => "redacted".to_owned(),
    }
}

fn cause(cause: Cause, start: Timestamp) -> String {
    match cause {
        Cause::Failed(FailureKind::RateLimited { until }) => format!("rate_limited until={}", since(until, start)),
        Cause::Failed(kind) => kind.as_str().to_owned(),
        Cause::Lapsed => "lapsed".to_owned(),
        Cause::Rebooted => "rebooted".to_owned(),
        Cause::Undelivered => "undelivered".to_owned(),
        Cause::Declined => "declined".to_owned(),
        Cause::Deadline => "deadline".to_owned(),
    }
}

fn next(next: Next, start: Timestamp) -> String {
    match next {
        Next::Wait { not_before } => format!("wait@{}", since(not_before, start)),
        Next::Park { reason } => format!("park:{reason}"),
    }
}

/// A time as seconds since the start of the script.
pub(crate) fn since(at: Timestamp, start: Timestamp) -> String {
    if at.0 < start.0 {
        return "0s".to_owned();
    }
    let millis = at.0 - start.0;
    if millis.is_multiple_of(1000) {
        format!("{}s", millis / 1000)
    } else {
        format!("{}.{:03}s", millis / 1000, millis % 1000)
    }
}

pub(crate) fn target(target: &HoldTarget) -> String {
    match target {
        HoldTarget::Cluster(cluster) => format!("cluster {cluster}"),
        HoldTarget::General(cluster, name) => format!("general {cluster}/{name}"),
        HoldTarget::Instance(cluster, instance) => format!("instance {cluster}/{instance}"),
        HoldTarget::Route(route) => format!("route {route}"),
    }
}

/// What left the plane.
#[must_use]
pub fn output(output: &Output, start: Timestamp) -> String {
    match output {
        Output::Reply { request: _, reply } => match reply.as_ref() {
            Ok(reply) => self::reply(reply, start),
            Err(rejection) => format!("refused: {rejection}"),
        },
        Output::Send { session, message } => format!("s{} <- {}", session.0, self::message(message)),
        Output::Close { session, reason } => format!("s{} closed: {reason:?}", session.0),
        Output::DropPrefix { through } => format!("journal: drop through #{through}"),
    }
}

fn message(message: &PlaneMessage) -> String {
    match message {
        PlaneMessage::Welcome { epoch, verdicts } => format!("Welcome epoch={epoch}{}", self::verdicts(verdicts)),
        PlaneMessage::Assign(assign) => {
            let Assign { delivery, token, general, attempt, lane, place, ceilings, mode, .. } = assign.as_ref();
            let mode = match mode {
                Mode::Live => "",
                Mode::Shadow => " shadow",
                Mode::Replay => " replay",
            };
            let ceilings = self::ceilings(ceilings.as_deref());
            format!(
                "Assign {delivery} {token} general={general} attempt={attempt} lane={lane} place=#{place}{mode}{ceilings}"
            )
        }
        PlaneMessage::Extended { delivery, token, ceilings } => {
            format!("Extended {delivery} {token}{}", self::ceilings(ceilings.as_ref()))
        }
        PlaneMessage::Lost { delivery, token } => format!("Lost {delivery} {token}"),
        PlaneMessage::Cancel { delivery, token, reason } => {
            format!("Cancel {delivery} {token} {}", self::reason(*reason))
        }
        PlaneMessage::Settled { delivery, token, verdict, effects } => match verdict {
            SettledVerdict::Settled => {
                let effects: String = effects.iter().map(|effect| format!(" {effect}")).collect();
                format!("Settled {delivery} {token}{effects}")
            }
            SettledVerdict::Stale { current } => {
                format!("Settled {delivery} {token} refused: stale, current is {current}")
            }
            SettledVerdict::Unknown => format!("Settled {delivery} {token} refused: unknown"),
        },
        PlaneMessage::Reconciled { verdicts } => format!("Reconciled{}", self::verdicts(verdicts)),
        PlaneMessage::Drain => "Drain".to_owned(),
    }
}

fn ceilings(ceilings: Option<&Limit>) -> String {
    let Some(Limit { micros, tokens, time_ms }) = ceilings else { return String::new() };
    let word = |limit: &Option<u64>| limit.map_or("-".to_owned(), |limit| limit.to_string());
    format!(" ceilings={}/{}/{}", word(micros), word(tokens), word(time_ms))
}

fn verdicts(verdicts: &[(DeliveryId, Token, Claim)]) -> String {
    let text = |(id, token, claim): &(DeliveryId, Token, Claim)| format!(" {id}@{token}={claim:?}");
    verdicts.iter().map(text).collect()
}

fn reply(reply: &Reply, start: Timestamp) -> String {
    match reply {
        Reply::Published(published) => {
            let Published { event, duplicate, route, deliveries } = published;
            let duplicate = if *duplicate { " duplicate" } else { "" };
            let route = route.as_ref().map(|route| format!(" route={route}")).unwrap_or_default();
            let mut text = format!("published #{event}{duplicate}{route}");
            for delivery in deliveries {
                let general = delivery.general.as_ref().map(|general| format!("={general}")).unwrap_or_default();
                let parked = delivery.parked.map(|reason| format!(":{reason}")).unwrap_or_default();
                let _ = write!(text, " {}{general}{parked}", delivery.delivery);
            }
            text
        }
        Reply::Unjudged(event) => format!("unjudged {}/{}", event.source, event.id),
        Reply::Changed { deliveries } => {
            let ids: String = deliveries.iter().map(|id| format!(" {id}")).collect();
            format!("changed{ids}")
        }
        Reply::Done { at } => format!("done at #{at}"),
        Reply::TokenMade { id } => format!("token {id}"),
        Reply::Joined { identity, at } => format!("joined as {identity} at #{at}"),
        Reply::Seen(seen) => match seen {
            Some(seen) => format!("seen as #{}", seen.event),
            None => "not seen".to_owned(),
        },
        Reply::Event(event) => match event {
            Some(view) => {
                let rows: String = view.deliveries.iter().map(|view| format!("\n  {}", row(view, start))).collect();
                format!("event #{} lane={}{rows}", view.event, view.lane)
            }
            None => "no such open event".to_owned(),
        },
        Reply::Deliveries(views) => {
            let rows: String = views.iter().map(|view| format!("\n  {}", row(view, start))).collect();
            format!("{} deliveries{rows}", views.len())
        }
        Reply::Objects(objects) => {
            let rows: String = objects.iter().map(|object| format!("\n  {}", object.key)).collect();
            format!("{} objects{rows}", objects.len())
        }
        Reply::Object { changed } => format!("object changed={changed}"),
        Reply::Fleet(fleet) => self::fleet(fleet, start),
        Reply::Demand(demands) => {
            let row = |demand: &Option<Demand>| match demand {
                Some(Demand { ready, waiting, running, instances, slots }) => {
                    format!("\n  ready={ready} waiting={waiting} running={running} instances={instances} slots={slots}")
                }
                None => "\n  not known".to_owned(),
            };
            format!("demand{}", demands.iter().map(row).collect::<String>())
        }
        Reply::Budgets(views) => views.iter().map(|view| budget_row(view, start)).collect::<Vec<_>>().join("\n"),
        Reply::Routes { table, at } => format!("{} routes since #{at}", table.routes.len()),
        Reply::Totals(totals) => format!(
            "events={} waiting={} leased={} parked={} lanes={} sessions={} generals={} seq=#{} epoch={}",
            totals.events_open,
            totals.waiting,
            totals.leased,
            totals.parked,
            totals.lanes,
            totals.sessions,
            totals.generals,
            totals.seq,
            totals.epoch
        ),
        Reply::Payloads(payloads) => {
            let row = |(of, at): &(PayloadOf, PayloadRef)| match of {
                PayloadOf::Event(event) => format!(" event={event}@#{}", at.seq),
                PayloadOf::Effect { effect, .. } => format!(" effect={effect}@#{}", at.seq),
            };
            let rows: String = payloads.iter().map(row).collect();
            format!("payloads{rows}")
        }
        Reply::Effects(views) => super::effects::show_views(views, start),
        Reply::EffectsChanged { effects, at } => {
            let ids: String = effects.iter().map(|effect| format!(" {effect}")).collect();
            format!("changed{ids} at #{at}")
        }
    }
}

fn budget_row(view: &BudgetView, start: Timestamp) -> String {
    let BudgetView { budget, since: _, began: _, resets, charged, reserved, level, acknowledged, parked } = view;
    let resets = resets.map(|at| format!(" resets={}", since(at, start))).unwrap_or_default();
    let acknowledged = if *acknowledged { " acknowledged" } else { "" };
    let (charged, reserved) = (amount(*charged), amount(*reserved));
    format!(
        "budget {} {level:?}{acknowledged} charged={charged} reserved={reserved} parked={parked}{resets}",
        budget.name
    )
}

fn row(view: &DeliveryView, start: Timestamp) -> String {
    let mut text = format!("{} {} lane={} attempts={}", view.delivery, view.status, view.lane, view.attempts);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(text, " {name}={value}");
        }
    };
    add("general", view.general.as_ref().map(ToString::to_string));
    add("instance", view.instance.as_ref().map(ToString::to_string));
    add("not_before", view.not_before.map(|at| since(at, start)));
    add("expires", view.expires.map(|at| since(at, start)));
    add("parked", view.parked.map(|reason| reason.to_string()));
    add("budget", view.budget.as_ref().map(|(name, _)| name.to_string()));
    add("cancel", view.cancel.map(reason));
    text
}

/// What is out of the ordinary about a choice.
fn choice(out: &mut String, choice: &Choice) -> std::fmt::Result {
    if choice.instances.iter().any(|(_, weight)| weight.trial) {
        write!(out, " trial")?;
    }
    for (instance, why) in &choice.excluded {
        write!(out, " without={}:{why:?}", instance.instance)?;
    }
    choice.siting.as_deref().map_or(Ok(()), |siting| super::siting::show(out, siting))
}

fn fleet(fleet: &FleetView, start: Timestamp) -> String {
    let mut text = "fleet".to_owned();
    for cluster in &fleet.clusters {
        let _ = write!(text, "\n  cluster {} {:?}", cluster.cluster, cluster.holds);
    }
    for general in &fleet.generals {
        let load = general.load;
        let _ = write!(
            text,
            "\n  general {} {:?} instances={} load={}/{} waiting={} backlog={}",
            general.key,
            general.holds,
            general.instances,
            load.open,
            load.capacity,
            general.waiting,
            general.parked_backlog
        );
        if general.ejected > 0 {
            let _ = write!(text, " ejected={}", general.ejected);
        }
        if let Some((name, until)) = &general.rate_pool {
            let until = until.map_or("open".to_owned(), |at| since(at, start));
            let _ = write!(text, " rate_pool={name}:{until}");
        }
    }
    for instance in &fleet.instances {
        let _ = write!(
            text,
            "\n  instance {} {:?} {:?} boot={}",
            instance.key, instance.state, instance.holds, instance.boot
        );
        for (general, _, _, health) in &instance.generals {
            match health.breaker {
                BreakerState::Closed => {}
                BreakerState::Open { until } => {
                    let _ = write!(text, " {}=open:{}", general.name, since(until, start));
                }
                BreakerState::Trial { with: None } => {
                    let _ = write!(text, " {}=trial", general.name);
                }
                BreakerState::Trial { with: Some(delivery) } => {
                    let _ = write!(text, " {}=trial:{delivery}", general.name);
                }
                BreakerState::Reentry { step, .. } => {
                    let _ = write!(text, " {}=reentry:{step}", general.name);
                }
            }
            if let Some(until) = health.paused_until {
                let _ = write!(text, " {}=limited:{}", general.name, since(until, start));
            }
        }
    }
    text
}
