//! Objects of `mindos.io/v1alpha1`: what people write into the cluster comes to the control plane, and how it fares there comes back.
//!
//! ```text
//!  API server == watches ==> known --+                        +--> finalizer, status, event --> API server
//!                                    +--> plan (one step) --> |
//!  control plane == held, stands ====+                        +--> apply, delete -------------> control plane
//! ```
//! Level-triggered: a step follows from what is there on both sides, never from what happened, so what is missed by anybody is found at
//! the next look, and what is done twice is done once. Invariants: one step for an object at a time; every wait has a bound; an object
//! that is to be deleted is let go after the finalizer's time, whoever is away or refuses.

mod api;
mod known;
mod plan;
mod plane;
mod queue;
mod work;

use std::time::Duration;

use kube::Client;
use mindos_sdk::Channel;
use mindos_sdk::model::ClusterName;

use crate::shutdown::Shutdown;
use crate::site::{Namespaces, Site};

/// What the reconcilers are told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long an object that is to be deleted waits for the control plane.
    pub finalizer_timeout: Duration,
    /// How often what the control plane holds is compared with what is there; refused objects are brought again then.
    pub resync: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { finalizer_timeout: Duration::from_secs(5 * 60), resync: Duration::from_secs(60) }
    }
}

/// What the reconcilers work with.
#[derive(Clone)]
struct Place {
    kube: Client,
    watching: Client,
    plane: Channel,
    cluster: ClusterName,
    namespaces: Namespaces,
    /// Who writes events.
    instance: String,
}

/// Reconciles the objects of the cluster until the shutdown.
pub async fn run(site: Site, settings: Settings, shutdown: Shutdown) {
    let metrics = site.metrics.clone();
    let place = Place {
        kube: site.kube.clone(),
        watching: site.watching.clone(),
        plane: site.plane.clone(),
        cluster: site.cluster.clone(),
        namespaces: site.namespaces.clone(),
        instance: site.instance.to_string(),
    };
    let mut work = std::pin::pin!(work::run(place, settings, &metrics));
    tokio::select! {
        () = &mut work => {}
        // Steps are idempotent: whoever comes next finds what was left.
        _ = shutdown.begun() => {}
    }
}
