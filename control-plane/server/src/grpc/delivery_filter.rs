//! Which deliveries are meant: one filter for the plane, the history and records.

use std::sync::Arc;

use mindos_core::input::DeliveryFilter as Coarse;
use mindos_core::output::DeliveryView;
use mindos_model::{ClusterName, GeneralName, ParkReason, RouteName, Seq, Status as Phase, Timestamp};
use mindos_proto::convert::{Invalid, parsed, timestamp, word};
use mindos_proto::delivery::v1 as wire;
use tonic::Status;

use super::{status, words};
use crate::views::history::DeliveryQuery;

const EVENTS_MAX: usize = 10_000;

/// A filter that was checked.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    repository: Option<Arc<str>>,
    kind: Option<Arc<str>>,
    general: Option<GeneralName>,
    cluster: Option<ClusterName>,
    statuses: Vec<Phase>,
    lane: Option<Arc<str>>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Sorted.
    events: Vec<Seq>,
    reasons: Vec<ParkReason>,
    route: Option<RouteName>,
    instance: Option<String>,
}

impl Filter {
    pub(super) fn new(filter: wire::DeliveryFilter) -> Result<Filter, Status> {
        read(filter).map_err(|error| status::invalid(error.within("filter")).into())
    }

    /// The same, unless nothing is set in it.
    pub(super) fn not_empty(self) -> Result<Filter, Status> {
        let Filter {
            repository,
            kind,
            general,
            cluster,
            statuses,
            lane,
            since,
            until,
            events,
            reasons,
            route,
            instance,
        } = &self;
        let texts = repository.is_none() && kind.is_none() && lane.is_none() && instance.is_none();
        let names = general.is_none() && cluster.is_none() && route.is_none();
        let lists = statuses.is_empty() && events.is_empty() && reasons.is_empty();
        if texts && names && lists && since.is_none() && until.is_none() {
            return Err(Status::invalid_argument("filter: is empty: set at least one field"));
        }
        Ok(self)
    }

    /// What the plane looks at; finer conditions are left out.
    pub(super) fn coarse(&self) -> Coarse {
        Coarse {
            status: only(&self.statuses),
            reason: only(&self.reasons),
            cluster: self.cluster.clone(),
            general: self.general.clone(),
            route: self.route.clone(),
            kind: self.kind.clone(),
            lane: self.lane.clone(),
            repository: self.repository.clone(),
            from: self.since,
            until: self.until,
        }
    }

    /// The same for the plane, where it can look at everything that is set.
    pub(super) fn exact(&self) -> Option<Coarse> {
        let fits = self.statuses.len() <= 1 && self.reasons.len() <= 1;
        (fits && self.events.is_empty() && self.instance.is_none()).then(|| self.coarse())
    }

    /// Whether an open delivery fits.
    pub(super) fn fits_view(&self, view: &DeliveryView) -> bool {
        let instance = view.instance.as_ref().map(|instance| instance.instance.as_str());
        (self.statuses.is_empty() || self.statuses.contains(&view.status))
            && (self.reasons.is_empty() || view.parked.is_some_and(|reason| self.reasons.contains(&reason)))
            && self.fits_event(view.delivery.event)
            && self.instance.as_deref().is_none_or(|wanted| instance == Some(wanted))
    }

    fn fits_event(&self, event: Seq) -> bool {
        self.events.is_empty() || self.events.binary_search(&event).is_ok()
    }

    /// Whether a delivery fits as the API shows it.
    pub(super) fn fits(&self, delivery: &wire::Delivery, accepted: Timestamp) -> bool {
        let event = delivery.event.as_ref();
        let general = delivery.general.as_ref();
        let instance = delivery.lease.as_ref().and_then(|lease| lease.instance.as_ref());
        let text = |wanted: Option<&str>, found: Option<&str>| wanted.is_none_or(|wanted| found == Some(wanted));
        let status = |wanted: &Phase| words::status(*wanted) == delivery.status;
        let reason = |wanted: &ParkReason| words::park_reason(Some(*wanted)) == delivery.park_reason;
        text(self.repository.as_deref(), event.map(|event| event.repository.as_str()))
            && text(self.kind.as_deref(), event.map(|event| event.kind.as_str()))
            && text(self.general.as_ref().map(GeneralName::as_str), general.map(|general| general.name.as_str()))
            && text(self.cluster.as_ref().map(ClusterName::as_str), general.map(|general| general.cluster.as_str()))
            && text(self.lane.as_deref(), Some(&delivery.lane))
            && text(self.route.as_ref().map(RouteName::as_str), Some(&delivery.route))
            && text(self.instance.as_deref(), instance.map(|instance| instance.instance_id.as_str()))
            && (self.statuses.is_empty() || self.statuses.iter().any(status))
            && (self.reasons.is_empty() || self.reasons.iter().any(reason))
            && self.fits_event(Seq(event.map_or(0, |event| event.seq)))
            && self.since.is_none_or(|since| accepted >= since)
            && self.until.is_none_or(|until| accepted < until)
    }

    /// Whether open deliveries, or those that have ended, can fit at all.
    pub(super) fn wants_open(&self) -> bool {
        self.statuses.is_empty() || self.statuses.iter().any(|status| !status.is_settled())
    }

    /// The same for the history; `None` when nothing in it can fit.
    pub(super) fn query(&self, before: Option<mindos_model::DeliveryId>) -> Option<DeliveryQuery> {
        let ended = [Phase::Parked, Phase::Succeeded, Phase::Cancelled];
        let statuses: Vec<Phase> = self.statuses.iter().copied().filter(|status| ended.contains(status)).collect();
        if statuses.is_empty() && !self.statuses.is_empty() {
            return None;
        }
        Some(DeliveryQuery {
            repository: self.repository.as_deref().map(str::to_owned),
            kind: self.kind.as_deref().map(str::to_owned),
            general: self.general.clone(),
            cluster: self.cluster.clone(),
            route: self.route.clone(),
            lane: self.lane.as_deref().map(str::to_owned),
            statuses,
            reasons: self.reasons.clone(),
            instance: self.instance.clone(),
            events: self.events.clone(),
            since: self.since,
            until: self.until,
            before,
        })
    }
}

fn only<T: Copy>(values: &[T]) -> Option<T> {
    match values {
        [one] => Some(*one),
        _ => None,
    }
}

fn read(filter: wire::DeliveryFilter) -> Result<Filter, Invalid> {
    let wire::DeliveryFilter {
        repository,
        kind,
        general,
        cluster,
        statuses,
        lane,
        since,
        until,
        event_seqs,
        park_reasons,
        route,
        instance_id,
    } = filter;
    let text = |text: String| (!text.is_empty()).then(|| Arc::<str>::from(text));
    if event_seqs.len() > EVENTS_MAX {
        return Err(Invalid::new(
            "event_seqs",
            format!("there are {}: expected at most {EVENTS_MAX}", event_seqs.len()),
        ));
    }
    let mut events: Vec<Seq> = event_seqs.into_iter().map(Seq).collect();
    events.sort_unstable();
    let status = |number: i32| word::<wire::DeliveryStatus, Phase>(number, "statuses");
    let reason = |number: i32| word::<wire::ParkReason, ParkReason>(number, "park_reasons");
    Ok(Filter {
        repository: text(repository),
        kind: text(kind),
        general: if general.is_empty() { None } else { Some(parsed(&general, "general")?) },
        cluster: if cluster.is_empty() { None } else { Some(parsed(&cluster, "cluster")?) },
        statuses: statuses.into_iter().filter_map(|number| status(number).transpose()).collect::<Result<_, _>>()?,
        lane: text(lane),
        since: since.map(|at| timestamp(&at, "since")).transpose()?,
        until: until.map(|at| timestamp(&at, "until")).transpose()?,
        events,
        reasons: park_reasons.into_iter().filter_map(|number| reason(number).transpose()).collect::<Result<_, _>>()?,
        route: if route.is_empty() { None } else { Some(parsed(&route, "route")?) },
        instance: (!instance_id.is_empty()).then_some(instance_id),
    })
}
