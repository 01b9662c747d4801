//! Where the view's numbers come from: the lists of the API and the server's metrics, asked twice a second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mindos_proto::delivery::v1::{Delivery, DeliveryFilter, DeliveryStatus};
use mindos_proto::fleet::v1::{Cluster, FleetFilter, General, Instance};

use crate::client::Client;
use crate::commands::deliveries::fetch;
use crate::commands::filter::PageArgs;
use crate::commands::fleet::{all_clusters, all_generals, all_instances};
use crate::failure::Failure;
use crate::site::Site;
use crate::web::Web;

/// How many deliveries of a kind are shown at most.
const DELIVERIES_MAX: usize = 100;
/// How many waiting deliveries are looked at for the lanes.
const WAITING_MAX: usize = 1000;
/// How long one look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

/// What was seen at one look.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) clusters: Vec<Cluster>,
    pub(super) generals: Vec<General>,
    pub(super) instances: Vec<Instance>,
    pub(super) recent: Vec<Delivery>,
    pub(super) parked: Vec<Delivery>,
    pub(super) waiting: Vec<Delivery>,
    /// Series without labels, and the sums of those with labels.
    pub(super) metrics: BTreeMap<String, f64>,
}

/// Asks.
#[derive(Debug)]
pub(super) struct Feed {
    client: Client,
    web: Web,
}

impl Feed {
    pub(super) fn new(site: &Site) -> Result<Feed, Failure> {
        Ok(Feed { client: Client::lazy(site)?, web: Web::new(site)? })
    }

    /// One look at everything.
    pub(super) async fn look(&mut self) -> Result<Look, Failure> {
        let Feed { client, web } = self;
        match tokio::time::timeout(LOOK_WITHIN, look(client, web)).await {
            Ok(look) => look,
            Err(_) => Err(Failure::world("the control plane takes more than 3 s to answer")),
        }
    }
}

async fn look(client: &Client, web: &mut Web) -> Result<Look, Failure> {
    let with = |statuses: &[DeliveryStatus]| DeliveryFilter {
        statuses: statuses.iter().map(|status| i32::from(*status)).collect(),
        ..Default::default()
    };
    let (waiting, parked) = (with(&[DeliveryStatus::Waiting, DeliveryStatus::Leased]), with(&[DeliveryStatus::Parked]));
    let recent = DeliveryFilter::default();
    let page = |limit| PageArgs { limit };
    let (clusters, generals, instances, recent, parked, waiting, metrics) = tokio::try_join!(
        all_clusters(client, FleetFilter::default()),
        all_generals(client, FleetFilter::default()),
        all_instances(client, FleetFilter::default()),
        fetch(client, &recent, page(DELIVERIES_MAX), false),
        fetch(client, &parked, page(DELIVERIES_MAX), false),
        fetch(client, &waiting, page(WAITING_MAX), false),
        web.get("/metrics"),
    )?;
    let metrics = read_metrics(&String::from_utf8_lossy(&metrics.1));
    Ok(Look { at: Instant::now(), clusters, generals, instances, recent, parked, waiting, metrics })
}

/// Deliveries settled or parked, by outcome.
const DELIVERIES: &str = "mindos_deliveries_total";
/// The name under which those settled are summed.
pub(crate) const SETTLED: &str = "settled";
/// Events accepted.
pub(crate) const EVENTS: &str = "mindos_events_total";

/// Sums the series of each family; deliveries that were settled also as [`SETTLED`].
pub(crate) fn read_metrics(text: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        if let Ok(value) = value.parse::<f64>() {
            *sums.entry(name.to_owned()).or_insert(0.0) += value;
            if name == DELIVERIES && !series.contains("outcome=\"parked\"") {
                *sums.entry(SETTLED.to_owned()).or_insert(0.0) += value;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_family_are_summed() {
        let metrics = read_metrics("# HELP a b\na{x=\"1\"} 2\na{x=\"2 y\"} 3\nb 4.5\n");
        assert_eq!((metrics["a"], metrics["b"]), (5.0, 4.5));
        let text = "mindos_deliveries_total{outcome=\"parked\"} 2\nmindos_deliveries_total{outcome=\"succeeded\"} 3\n";
        assert_eq!(read_metrics(text)[SETTLED], 3.0);
    }
}
