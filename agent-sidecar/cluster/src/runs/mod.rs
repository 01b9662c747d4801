//! Runs: CodeRun and DocsRun, done as Jobs of this cluster.
//!
//! A run is work like any other: the control plane gives it out under a lease to the general `code-run` or `docs-run`, whose instance is
//! this agent. `general.rs` does what a lease asks for, `objects.rs` brings in what was applied by hand, `step.rs` decides, `place.rs` is
//! the cluster and `plane.rs` the control plane.

mod general;
mod objects;
mod place;
mod plane;
mod settings;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mindos_kube::platform::plan::Kind;
use mindos_kube::platform::{CODE_GENERAL, DOCS_GENERAL};
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::discovery::chain;
use crate::shutdown::{Ending, Shutdown};
use crate::site::{ServeError, Site};
use general::{Desk, Runner};
use objects::Keeper;
use place::Place;
use plane::{Dialled, Plane};

pub use settings::{RunsConfig, RunsSettings};

/// Does runs until the shutdown. Ends before it where they cannot be done.
pub async fn run(site: Site, settings: RunsSettings, shutdown: Shutdown) {
    let settings = Arc::new(settings);
    let place = Place { kube: site.kube.clone(), settings: Arc::clone(&settings) };
    let plane: Plane = Arc::new(Dialled::new(site.plane.clone(), site.cluster.clone()));
    let desk = Arc::new(Desk::default());
    let mut keepers = JoinSet::new();
    for namespace in &settings.namespaces {
        let keeper = Keeper {
            place: place.clone(),
            plane: plane.clone(),
            desk: Arc::clone(&desk),
            watching: site.watching.clone(),
        };
        for kind in [Kind::Code, Kind::Docs] {
            keepers.spawn(keeper.clone().objects(kind, namespace.clone()));
        }
        keepers.spawn(keeper.jobs(namespace.clone()));
    }
    info!(slots = settings.slots, namespaces = settings.namespaces.join(","), "runs are taken");
    let runner = |kind| Runner { kind, place: place.clone(), plane: plane.clone(), desk: Arc::clone(&desk) };
    let serve = |general, kind| site.serve(general, settings.slots, runner(kind), shutdown.clone());
    let serving =
        async { tokio::try_join!(serve(CODE_GENERAL, Kind::Code), serve(DOCS_GENERAL, Kind::Docs)).map(drop) };
    attend(serving, &mut keepers).await;
    if shutdown.ending() != Some(Ending::Abandon) {
        keepers.shutdown().await;
    }
}

/// Serves to the end, or until a keeper ends, which none does by itself: without it nobody looks after its objects.
async fn attend(serving: impl Future<Output = Result<(), ServeError>>, keepers: &mut JoinSet<()>) {
    tokio::select! {
        served = serving => if let Err(error) = served {
            error!(error = chain(&error), "runs were not served");
        },
        Some(ended) = keepers.join_next() => {
            let error = ended.err().map(|error| chain(&error));
            error!(error, "a keeper of runs broke off");
        }
    }
}
