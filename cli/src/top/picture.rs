//! What is on the screen: the last look, the rates of the last minutes, and where the reader is.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use mindos_proto::delivery::v1::{Delivery, DeliveryStatus};

use super::feed::{EVENTS, Look, SETTLED};
use crate::failure::Failure;

/// Rates that are kept for the curves: five minutes at two a second.
const RATES_MAX: usize = 600;

/// The panes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Overview,
    Generals,
    Deliveries,
    Parked,
    Lanes,
    Instances,
}

impl Pane {
    pub(super) const ALL: [Pane; 6] =
        [Pane::Overview, Pane::Generals, Pane::Deliveries, Pane::Parked, Pane::Lanes, Pane::Instances];

    pub(super) fn title(self) -> &'static str {
        match self {
            Pane::Overview => "Overview",
            Pane::Generals => "Generals",
            Pane::Deliveries => "Deliveries",
            Pane::Parked => "Parked",
            Pane::Lanes => "Lanes",
            Pane::Instances => "Instances",
        }
    }
}

/// Work in one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) waiting: usize,
    pub(super) leased: usize,
    /// When the oldest of it was accepted, in ms since the epoch.
    pub(super) oldest: u64,
    pub(super) generals: usize,
}

/// The state of the view.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) server: String,
    pub(super) pane: Pane,
    pub(super) paused: bool,
    pub(super) help: bool,
    pub(super) offset: usize,
    pub(super) notice: Option<String>,
    pub(super) look: Option<Look>,
    /// Why the last look failed.
    pub(super) failure: Option<String>,
    pub(super) events_per_second: VecDeque<f64>,
    pub(super) settled_per_second: VecDeque<f64>,
    last: Option<(Instant, f64, f64)>,
}

impl Screen {
    pub(super) fn new(server: &str) -> Screen {
        Screen {
            server: server.to_owned(),
            pane: Pane::Overview,
            paused: false,
            help: false,
            offset: 0,
            notice: None,
            look: None,
            failure: None,
            events_per_second: VecDeque::new(),
            settled_per_second: VecDeque::new(),
            last: None,
        }
    }

    /// Takes the next look.
    pub(super) fn take(&mut self, look: Result<Look, Failure>) {
        match look {
            Ok(look) => {
                self.failure = None;
                let (events, settled) = (number(&look.metrics, EVENTS), number(&look.metrics, SETTLED));
                if let Some((at, events_before, settled_before)) = self.last {
                    let span = look.at.duration_since(at).max(Duration::from_millis(1)).as_secs_f64();
                    // A counter that fell belongs to another start of the server.
                    push(&mut self.events_per_second, ((events - events_before) / span).max(0.0));
                    push(&mut self.settled_per_second, ((settled - settled_before) / span).max(0.0));
                }
                self.last = Some((look.at, events, settled));
                self.look = Some(look);
            }
            Err(failure) => {
                self.failure = Some(failure.message);
                self.last = None;
                push(&mut self.events_per_second, 0.0);
                push(&mut self.settled_per_second, 0.0);
            }
        }
    }

    pub(super) fn turn(&mut self, by: isize) {
        let at = Pane::ALL.iter().position(|pane| *pane == self.pane).unwrap_or(0);
        let count = Pane::ALL.len() as isize;
        self.pane = Pane::ALL[(at as isize + by).rem_euclid(count) as usize];
        self.offset = 0;
    }

    pub(super) fn scroll(&mut self, by: i16) {
        self.offset = self.offset.saturating_add_signed(isize::from(by)).min(self.rows().saturating_sub(1));
    }

    fn rows(&self) -> usize {
        let Some(look) = &self.look else { return 0 };
        match self.pane {
            Pane::Overview | Pane::Generals => look.generals.len(),
            Pane::Deliveries => look.recent.len(),
            Pane::Parked => look.parked.len(),
            Pane::Lanes => lanes(&look.waiting).len(),
            Pane::Instances => look.instances.len(),
        }
    }
}

fn push(rates: &mut VecDeque<f64>, rate: f64) {
    if rates.len() == RATES_MAX {
        rates.pop_front();
    }
    rates.push_back(rate);
}

/// The value of a series; 0 when there is none.
pub(super) fn number(metrics: &BTreeMap<String, f64>, name: &str) -> f64 {
    metrics.get(name).copied().unwrap_or(0.0)
}

/// Open work by lane, the fullest first.
pub(super) fn lanes(open: &[Delivery]) -> Vec<Lane> {
    let mut lanes: BTreeMap<&str, (Lane, Vec<String>)> = BTreeMap::new();
    for delivery in open {
        let (lane, generals) = lanes.entry(&delivery.lane).or_default();
        lane.name.clone_from(&delivery.lane);
        match delivery.status() {
            DeliveryStatus::Leased => lane.leased += 1,
            _ => lane.waiting += 1,
        }
        let accepted = delivery.accepted_at.as_ref().map_or(0, |at| u64::try_from(at.seconds).unwrap_or(0) * 1000);
        if lane.oldest == 0 || accepted < lane.oldest {
            lane.oldest = accepted;
        }
        let general = crate::commands::deliveries::general_text(delivery);
        if !generals.contains(&general) {
            generals.push(general);
        }
    }
    let mut lanes: Vec<Lane> =
        lanes.into_values().map(|(lane, generals)| Lane { generals: generals.len(), ..lane }).collect();
    lanes.sort_by(|a, b| (b.waiting + b.leased).cmp(&(a.waiting + a.leased)).then(a.name.cmp(&b.name)));
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, events: f64) -> Look {
        Look {
            at,
            clusters: vec![],
            generals: vec![],
            instances: vec![],
            recent: vec![],
            parked: vec![],
            waiting: vec![],
            metrics: [(EVENTS.to_owned(), events)].into(),
        }
    }

    #[test]
    fn rates_come_from_counters() {
        let mut screen = Screen::new("s");
        let start = Instant::now();
        screen.take(Ok(look(start, 100.0)));
        screen.take(Ok(look(start + Duration::from_secs(2), 300.0)));
        screen.take(Ok(look(start + Duration::from_secs(3), 5.0)));
        assert_eq!(screen.events_per_second, [100.0, 0.0]);
    }

    #[test]
    fn panes_go_round() {
        let mut screen = Screen::new("s");
        screen.turn(-1);
        assert_eq!(screen.pane, Pane::Instances);
        screen.turn(1);
        assert_eq!(screen.pane, Pane::Overview);
    }

    #[test]
    fn the_fullest_lane_comes_first() {
        let delivery = |lane: &str, status: DeliveryStatus| Delivery {
            lane: lane.to_owned(),
            status: status.into(),
            ..Default::default()
        };
        let open = [
            delivery("a", DeliveryStatus::Waiting),
            delivery("b", DeliveryStatus::Leased),
            delivery("b", DeliveryStatus::Waiting),
        ];
        let lanes = lanes(&open);
        assert_eq!((lanes[0].name.as_str(), lanes[0].waiting, lanes[0].leased), ("b", 1, 1));
    }
}
