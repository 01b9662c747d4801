//! What several commands ask for: times, pages, and which events or deliveries are meant.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use mindos_model::{ParkReason, Status, Timestamp};
use mindos_proto::convert;
use mindos_proto::delivery::v1::{self as delivery, DeliveryFilter};
use mindos_proto::event::v1::EventFilter;

/// Which events are meant.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct EventFilterArgs {
    /// Repository, as owner/name.
    #[arg(long, value_name = "OWNER/NAME")]
    repository: Option<String>,
    /// Kind: what routes match, such as `pr_created`.
    #[arg(long)]
    kind: Option<String>,
    /// Type, such as `com.github.pull_request.opened`.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Source.
    #[arg(long)]
    source: Option<String>,
    /// Subject.
    #[arg(long)]
    subject: Option<String>,
    /// Lane.
    #[arg(long)]
    lane: Option<String>,
    /// Who caused it.
    #[arg(long)]
    actor: Option<String>,
    /// Name of the route that took it.
    #[arg(long)]
    route: Option<String>,
    /// Accepted at this time or later: RFC 3339, or how long ago, such as `90s`, `15m`, `2h`, `7d`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Accepted before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

impl From<EventFilterArgs> for EventFilter {
    fn from(args: EventFilterArgs) -> EventFilter {
        let EventFilterArgs { repository, kind, event_type, source, subject, lane, actor, route, since, until } = args;
        EventFilter {
            repository: repository.unwrap_or_default(),
            kind: kind.unwrap_or_default(),
            r#type: event_type.unwrap_or_default(),
            source: source.unwrap_or_default(),
            subject: subject.unwrap_or_default(),
            lane: lane.unwrap_or_default(),
            actor: actor.unwrap_or_default(),
            route: route.unwrap_or_default(),
            since: since.map(convert::time),
            until: until.map(convert::time),
        }
    }
}

/// Which deliveries are meant.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DeliveryFilterArgs {
    /// Repository, as owner/name.
    #[arg(long, value_name = "OWNER/NAME")]
    repository: Option<String>,
    /// Kind of the event.
    #[arg(long)]
    kind: Option<String>,
    /// General, as `name` or `cluster/name`.
    #[arg(long, value_name = "[CLUSTER/]NAME")]
    general: Option<String>,
    /// Cluster.
    #[arg(long)]
    cluster: Option<String>,
    /// Statuses: waiting, leased, parked, succeeded, cancelled; several with commas.
    #[arg(long, value_delimiter = ',')]
    status: Vec<Status>,
    /// Why they are parked: poison, too_large, attempts_exhausted, blocked, backlog_full, over_budget, delayed, guarded; several with
    /// commas.
    #[arg(long = "park-reason", value_delimiter = ',', value_name = "REASON")]
    park_reason: Vec<ParkReason>,
    /// Lane.
    #[arg(long)]
    lane: Option<String>,
    /// Name of the route.
    #[arg(long)]
    route: Option<String>,
    /// Instance that holds the lease.
    #[arg(long)]
    instance: Option<String>,
    /// Events they belong to, by sequence; several with commas.
    #[arg(long = "event", value_delimiter = ',', value_name = "SEQ")]
    event: Vec<u64>,
    /// Accepted at this time or later: RFC 3339, or how long ago, such as `90s`, `15m`, `2h`, `7d`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Accepted before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

impl From<DeliveryFilterArgs> for DeliveryFilter {
    fn from(args: DeliveryFilterArgs) -> DeliveryFilter {
        let DeliveryFilterArgs {
            repository,
            kind,
            general,
            cluster,
            status,
            park_reason,
            lane,
            route,
            instance,
            event,
            since,
            until,
        } = args;
        let (within, general) = match general {
            Some(text) => match text.split_once('/') {
                Some((cluster, name)) => (Some(cluster.to_owned()), name.to_owned()),
                None => (None, text),
            },
            None => (None, String::new()),
        };
        DeliveryFilter {
            repository: repository.unwrap_or_default(),
            kind: kind.unwrap_or_default(),
            general,
            cluster: cluster.or(within).unwrap_or_default(),
            statuses: status.into_iter().map(|status| delivery::DeliveryStatus::from(status).into()).collect(),
            lane: lane.unwrap_or_default(),
            since: since.map(convert::time),
            until: until.map(convert::time),
            event_seqs: event,
            park_reasons: park_reason.into_iter().map(|reason| delivery::ParkReason::from(reason).into()).collect(),
            route: route.unwrap_or_default(),
            instance_id: instance.unwrap_or_default(),
        }
    }
}

/// How much of a list is wanted.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct PageArgs {
    /// How many at most, the newest first; 0 means all.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
}

impl PageArgs {
    /// How many are still wanted after `have`; `None` when that is enough.
    pub(crate) fn next_size(self, have: usize) -> Option<u32> {
        let left = if self.limit == 0 { usize::MAX } else { self.limit.saturating_sub(have) };
        (left > 0).then(|| u32::try_from(left.min(1000)).unwrap_or(1000))
    }
}

/// The time by this machine's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Reads RFC 3339, or a span that says how long ago.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    match span(text) {
        Ok(ago) => Ok(now() - ago),
        Err(_) => text.parse().map_err(|error| format!("{error}, or how long ago, such as `15m`")),
    }
}

/// Reads a span such as `250ms`, `90s`, `15m`, `2h` or `7d`.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a span: expected a number with ms, s, m, h or d, such as `15m`");
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(bad()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())
}

/// How long ago something was, for a table.
pub(crate) fn ago(at: Option<&prost_types::Timestamp>) -> String {
    let Some(at) = at.and_then(|at| convert::timestamp(at, "at").ok()) else { return String::new() };
    short_span(now().since(at))
}

/// A span in its two largest units.
pub(crate) fn short_span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(span("1.5h"), Ok(Duration::from_secs(5400)));
        for text in ["", "5", "s", "5 s", "-5s", "5w", "1e9s"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_absolute_or_ago() {
        assert_eq!(time("2026-11-20T08:30:00Z").unwrap().to_string(), "2026-11-20T08:30:00.000Z");
        assert!(time("1h").unwrap() < now());
        assert!(time("yesterday").unwrap_err().contains("RFC 3339"));
    }

    #[test]
    fn a_general_may_name_its_cluster() {
        let args = DeliveryFilterArgs { general: Some("eu/triage-general".to_owned()), ..Default::default() };
        let filter = DeliveryFilter::from(args);
        assert_eq!((filter.cluster.as_str(), filter.general.as_str()), ("eu", "triage-general"));
    }

    #[test]
    fn a_limit_is_filled_page_by_page() {
        assert_eq!(PageArgs { limit: 1500 }.next_size(0), Some(1000));
        assert_eq!(PageArgs { limit: 1500 }.next_size(1000), Some(500));
        assert_eq!(PageArgs { limit: 1500 }.next_size(1500), None);
        assert_eq!(PageArgs { limit: 0 }.next_size(1_000_000), Some(1000));
    }
}
