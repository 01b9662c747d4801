//! Objects of `mindos.io/v1alpha1`: what people write into a cluster about it, its generals, routes and budgets.
//!
//! The types are the source: `crds` is what `deploy/crds` holds. What a schema can check stands in it; what takes several fields is
//! checked by CEL where the API server knows that, and by the control plane in any case.

// `KubeSchema` repeats each type within a function, where `pub` reaches nobody.
#![allow(unreachable_pub)]

mod budget;
mod cluster;
mod general;
mod route;

pub use budget::{
    Budget, BudgetAmount, BudgetLevel, BudgetPeriod, BudgetScope, BudgetScopeKind, BudgetSpec, BudgetStatus, CostError,
    cost_micros, cost_text,
};
pub use cluster::{Cluster, ClusterSpec, ClusterStatus};
pub use general::{General, GeneralScale, GeneralSpec, GeneralStatus};
pub use route::{
    Route, RouteAffinity, RouteCoalesce, RouteDegrade, RouteFallBack, RouteFeedback, RouteGuardAction, RouteGuards,
    RouteMatch, RouteNoGeneral, RoutePlace, RoutePlacement, RoutePreference, RoutePriority, RouteRetry, RouteSpec,
    RouteStatus, RouteStrategy, RouteTargets, RouteWeight,
};

/// The group of the objects.
pub const GROUP: &str = "mindos.io";
/// Their version.
pub const VERSION: &str = "v1alpha1";
/// What keeps an object until the control plane has taken back what it made.
pub const FINALIZER: &str = "mindos.io/cleanup";

/// The condition that says whether the control plane took an object.
pub const ACCEPTED: &str = "Accepted";
/// The condition that says whether an object does what it is there for.
pub const READY: &str = "Ready";
/// The condition of clusters that says whether the control plane is reached.
pub const CONNECTED: &str = "Connected";

/// Who owns what an object made, as the ledger has it: `kubernetes:<cluster>/<namespace>/<name>`.
#[must_use]
pub fn owner(cluster: &str, namespace: &str, name: &str) -> String {
    match namespace {
        "" => format!("kubernetes:{cluster}/{name}"),
        namespace => format!("kubernetes:{cluster}/{namespace}/{name}"),
    }
}
