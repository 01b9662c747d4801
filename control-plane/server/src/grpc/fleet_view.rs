//! The fleet as the API shows it, and which part of it is meant.

use std::time::Duration;

use mindos_core::BreakerState;
use mindos_core::input::ModelLoad;
use mindos_core::output::{ClusterView, FleetView, GeneralView, InstanceState, InstanceView};
use mindos_proto::convert::{span, time};
use mindos_proto::fleet::v1::{Cluster, FleetFilter, General, Instance, InstanceGeneral, Liveness, ModelPressure};
use tonic::Status;

use super::words;

/// What fits a filter, each by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Items {
    pub(super) clusters: Vec<Cluster>,
    pub(super) generals: Vec<General>,
    pub(super) instances: Vec<Instance>,
}

pub(super) fn name_of_cluster(cluster: &Cluster) -> String {
    cluster.name.clone()
}

pub(super) fn name_of_general(general: &General) -> String {
    format!("{}/{}", general.cluster, general.name)
}

pub(super) fn name_of_instance(instance: &Instance) -> String {
    format!("{}/{}", instance.cluster, instance.instance_id)
}

/// A filter that was checked.
#[derive(Clone, Debug)]
pub(super) struct Filter(FleetFilter);

impl Filter {
    pub(super) fn new(filter: FleetFilter) -> Result<Filter, Status> {
        if let Some(unknown) = filter.liveness.iter().find(|number| Liveness::try_from(**number).is_err()) {
            return Err(Status::invalid_argument(format!("filter.liveness: value {unknown} is not known")));
        }
        Ok(Filter(filter))
    }
}

fn text(wanted: &str, found: &str) -> bool {
    wanted.is_empty() || wanted == found
}

/// What fits, sorted by name.
pub(super) fn items(fleet: &FleetView, Filter(filter): &Filter) -> Items {
    let FleetFilter { cluster, general, r#type, region, liveness } = filter;
    let region_of = |name: &str| {
        let found = fleet.clusters.iter().find(|cluster| cluster.cluster.as_str() == name);
        found.and_then(|cluster| cluster.region.as_ref()).map_or("", |region| region.as_str())
    };
    let lives = |number: i32| liveness.is_empty() || liveness.contains(&number);
    let mut items = Items::default();
    items.clusters.extend(fleet.clusters.iter().map(|view| cluster_of(view, fleet)));
    items.clusters.retain(|found| text(cluster, &found.name) && text(region, &found.region));
    items.generals.extend(fleet.generals.iter().map(|view| general_of(view, fleet)));
    items.generals.retain(|found| {
        text(cluster, &found.cluster)
            && text(general, &found.name)
            && text(r#type, &found.r#type)
            && text(region, region_of(&found.cluster))
            && lives(found.liveness)
    });
    items.instances.extend(fleet.instances.iter().map(instance_of));
    items.instances.retain(|found| {
        text(cluster, &found.cluster)
            && (general.is_empty() || found.generals.iter().any(|served| served.name == *general))
            && text(region, region_of(&found.cluster))
            && lives(found.liveness)
    });
    items.clusters.sort_by_cached_key(name_of_cluster);
    items.generals.sort_by_cached_key(name_of_general);
    items.instances.sort_by_cached_key(name_of_instance);
    items
}

fn count<'a>(instances: impl Iterator<Item = &'a InstanceView>) -> (u32, u32) {
    instances.fold((0, 0), |(connected, unknown), instance| match instance.state {
        InstanceState::Ready | InstanceState::Draining => (connected + 1, unknown),
        InstanceState::Unknown => (connected, unknown + 1),
    })
}

fn cluster_of(view: &ClusterView, fleet: &FleetView) -> Cluster {
    let ClusterView { cluster, region, labels, holds } = view;
    let generals = fleet.generals.iter().filter(|general| general.key.cluster == *cluster).count();
    let here = fleet.instances.iter().filter(|instance| instance.key.cluster == *cluster);
    let (instances_connected, instances_unknown) = count(here);
    Cluster {
        name: cluster.to_string(),
        region: region.as_ref().map(ToString::to_string).unwrap_or_default(),
        labels: words::labels(labels),
        generals: u32::try_from(generals).unwrap_or(u32::MAX),
        instances_connected,
        instances_unknown,
        holds: words::holds(*holds),
        registered_at: None,
    }
}

fn general_of(view: &GeneralView, fleet: &FleetView) -> General {
    let GeneralView {
        key,
        ty,
        labels,
        told: _,
        holds,
        instances: _,
        load,
        waiting,
        parked_backlog,
        ejected,
        rate_pool,
    } = view;
    let serves = |instance: &&InstanceView| instance.generals.iter().any(|(served, ..)| served == key);
    let (instances_connected, instances_unknown) = count(fleet.instances.iter().filter(serves));
    let liveness = match (instances_connected, instances_unknown) {
        (1.., _) => Liveness::Connected,
        (0, 1..) => Liveness::Unknown,
        (0, 0) => Liveness::Gone,
    };
    General {
        cluster: key.cluster.to_string(),
        name: key.name.to_string(),
        r#type: ty.to_string(),
        labels: words::labels(labels),
        namespace: String::new(),
        liveness: liveness.into(),
        slots: load.capacity,
        slots_in_use: load.open,
        waiting: u64::from(*waiting),
        parked: u64::from(*parked_backlog),
        instances_connected,
        instances_unknown,
        holds: words::holds(*holds),
        registered_at: None,
        instances_ejected: *ejected,
        rate_pool: rate_pool.as_ref().map(|(name, _)| name.to_string()).unwrap_or_default(),
        rate_paused_until: rate_pool.as_ref().and_then(|(_, until)| until.map(time)),
    }
}

fn pressure(load: &ModelLoad) -> ModelPressure {
    let ModelLoad { running, queue, cache_permille, tokens_per_second, limit_remaining, limit_resets_at } = load;
    ModelPressure {
        running: *running,
        queue: *queue,
        cache_use: cache_permille.map(|permille| f64::from(permille) / 1000.0),
        tokens_per_second: *tokens_per_second,
        limit_remaining: *limit_remaining,
        limit_resets_at: limit_resets_at.map(time),
    }
}

fn instance_of(view: &InstanceView) -> Instance {
    let InstanceView { key, boot, version, pod, state, since, session, heard, holds, generals } = view;
    let served = generals.iter().map(|(general, load, reported, health)| InstanceGeneral {
        name: general.name.to_string(),
        capacity: load.capacity,
        leases: load.open,
        latency: (!reported.latency.is_zero()).then(|| span(reported.latency)),
        breaker_open: matches!(health.breaker, BreakerState::Open { .. } | BreakerState::Trial { .. }),
        queued: reported.queued,
        breaker_open_until: match health.breaker {
            BreakerState::Open { until } => Some(time(until)),
            BreakerState::Closed | BreakerState::Trial { .. } | BreakerState::Reentry { .. } => None,
        },
        reentry_tenths: match health.breaker {
            BreakerState::Reentry { step, .. } => step,
            BreakerState::Closed | BreakerState::Open { .. } | BreakerState::Trial { .. } => 0,
        },
        rate_paused_until: health.paused_until.map(time),
        placement_latency: (health.latency_ms > 0).then(|| span(Duration::from_millis(health.latency_ms.into()))),
        model: reported.model.as_deref().map(pressure),
    });
    Instance {
        cluster: key.cluster.to_string(),
        instance_id: key.instance.to_string(),
        boot_id: boot.to_string(),
        generals: served.collect(),
        liveness: words::liveness(*state).into(),
        session: session.map(|(epoch, session)| format!("{epoch}.{}", session.0)).unwrap_or_default(),
        version: version.to_string(),
        namespace: pod.namespace.to_string(),
        pod: pod.name.to_string(),
        connected_at: (*state != InstanceState::Unknown).then(|| time(*since)),
        heard_at: Some(time(*heard)),
        holds: words::holds(*holds),
        round_trip: None,
    }
}
