//! Permissions: the one table of what each RPC and each path of HTTP takes.
//!
//! Invariants: what is in no row is refused; an admin has every permission within its scope, and no other role contains another.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use http::Method;
use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use super::principal::{Principal, PrincipalKind, Roles};

/// What it takes to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Nothing: what is behind it shows by itself who calls, or tells nobody anything.
    Public,
    /// To be known, with whatever roles.
    Anyone,
    /// The certificate of an agent.
    Agent,
    /// The secret of a webhook, which its handler checks.
    Webhook,
    /// An address that the settings of a compatibility listener name, whose principal has the right.
    Surface(&'static Right),
    /// A right.
    Needs(&'static Right),
}

/// A right, by its name.
#[derive(Debug, PartialEq, Eq)]
pub struct Right {
    /// For people and for errors, such as `routes.apply`.
    pub name: &'static str,
    /// The roles that have it, beside admin.
    pub roles: Roles,
    /// Only roles that hold for the plane have it.
    pub plane: bool,
    /// Agents have it too, for their tenant.
    pub agent: bool,
}

const VIEW: Roles = Roles::VIEWER.with(Roles::OPERATOR);
const CHANGE: Roles = Roles::OPERATOR;

const fn right(name: &'static str, roles: Roles) -> Right {
    Right { name, roles, plane: false, agent: false }
}

const fn of_plane(name: &'static str, roles: Roles) -> Right {
    Right { plane: true, ..right(name, roles) }
}

const fn of_agents(name: &'static str, roles: Roles) -> Right {
    Right { agent: true, ..right(name, roles) }
}

/// Every right there is.
pub mod rights {
    use super::{CHANGE, Right, Roles, VIEW, of_agents, of_plane, right};

    pub static EVENTS_READ: Right = right("events.read", VIEW);
    pub static EVENTS_PUBLISH: Right = right("events.publish", Roles::PUBLISHER);
    pub static DELIVERIES_READ: Right = right("deliveries.read", VIEW);
    pub static DELIVERIES_CHANGE: Right = right("deliveries.change", CHANGE);
    pub static EFFECTS_READ: Right = right("effects.read", VIEW);
    pub static EFFECTS_CHANGE: Right = right("effects.change", CHANGE);
    pub static FLEET_READ: Right = right("fleet.read", VIEW);
    pub static FLEET_HOLD: Right = right("fleet.hold", CHANGE);
    pub static ROUTES_READ: Right = right("routes.read", VIEW);
    pub static ROUTES_APPLY: Right = right("routes.apply", CHANGE);
    pub static BUDGETS_READ: Right = right("budgets.read", VIEW);
    pub static BUDGETS_SET: Right = right("budgets.set", CHANGE);
    pub static REPLAYS_RUN: Right = right("replays.run", CHANGE);
    pub static BLOBS_READ: Right = of_agents("blobs.read", VIEW);
    pub static BLOBS_WRITE: Right = of_agents("blobs.write", Roles::PUBLISHER);
    pub static LEDGER_READ: Right = right("ledger.read", VIEW);
    pub static LEDGER_VERIFY: Right = of_plane("ledger.verify", VIEW);
    pub static LEDGER_EXPORT: Right = of_plane("ledger.export", VIEW);
    pub static LEDGER_REDACT: Right = right("ledger.redact", Roles::NONE);
    pub static METRICS_READ: Right = right("metrics.read", VIEW);
    pub static SINKS_READ: Right = right("sinks.read", VIEW);
    pub static UPGRADE_FINALIZE: Right = of_plane("upgrade.finalize", Roles::NONE);
    pub static API_TOKENS_MANAGE: Right = right("access.api_tokens", Roles::NONE);
    pub static JOIN_TOKENS_MANAGE: Right = right("access.join_tokens", CHANGE);
    pub static ROLES_MANAGE: Right = right("access.roles", Roles::NONE);
    pub static ISSUERS_READ: Right = right("access.issuers_read", CHANGE);
    pub static ISSUERS_MANAGE: Right = right("access.issuers", Roles::NONE);
    pub static AGENTS_DENY: Right = right("access.agents", CHANGE);
    pub static QUOTAS_READ: Right = right("access.quotas_read", VIEW);
    pub static QUOTAS_SET: Right = of_plane("access.quotas", Roles::NONE);
    pub static AUTHORITY_READ: Right = right("authority.read", VIEW);
    pub static AUTHORITY_ROTATE: Right = of_plane("authority.rotate", Roles::NONE);

    /// In the order in which people are shown them.
    pub static ALL: [&Right; 32] = [
        &EVENTS_READ,
        &EVENTS_PUBLISH,
        &DELIVERIES_READ,
        &DELIVERIES_CHANGE,
        &EFFECTS_READ,
        &EFFECTS_CHANGE,
        &FLEET_READ,
        &FLEET_HOLD,
        &ROUTES_READ,
        &ROUTES_APPLY,
        &BUDGETS_READ,
        &BUDGETS_SET,
        &REPLAYS_RUN,
        &BLOBS_READ,
        &BLOBS_WRITE,
        &LEDGER_READ,
        &LEDGER_VERIFY,
        &LEDGER_EXPORT,
        &LEDGER_REDACT,
        &METRICS_READ,
        &SINKS_READ,
        &UPGRADE_FINALIZE,
        &API_TOKENS_MANAGE,
        &JOIN_TOKENS_MANAGE,
        &ROLES_MANAGE,
        &ISSUERS_READ,
        &ISSUERS_MANAGE,
        &AGENTS_DENY,
        &QUOTAS_READ,
        &QUOTAS_SET,
        &AUTHORITY_READ,
        &AUTHORITY_ROTATE,
    ];

    /// A right by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Right> {
        ALL.into_iter().find(|right| right.name == name)
    }
}

/// A listener that speaks HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listener {
    Api,
    Aggregator,
    Platform,
}

use Permission::{Agent, Anyone, Needs, Public, Surface, Webhook};
use rights::{
    AGENTS_DENY, API_TOKENS_MANAGE, AUTHORITY_READ, AUTHORITY_ROTATE, BLOBS_READ, BLOBS_WRITE, BUDGETS_READ,
    BUDGETS_SET, DELIVERIES_CHANGE, DELIVERIES_READ, EFFECTS_CHANGE, EFFECTS_READ, EVENTS_PUBLISH, EVENTS_READ,
    FLEET_HOLD, FLEET_READ, ISSUERS_MANAGE, ISSUERS_READ, JOIN_TOKENS_MANAGE, LEDGER_READ, LEDGER_REDACT,
    LEDGER_VERIFY, METRICS_READ, QUOTAS_READ, QUOTAS_SET, REPLAYS_RUN, ROLES_MANAGE, ROUTES_APPLY, ROUTES_READ,
    SINKS_READ, UPGRADE_FINALIZE,
};

/// RPCs by their full names.
pub static RPCS: &[(&str, Permission)] = &[
    // KEDA, which shows a certificate or comes from an address that is named for it; on a listener of its own.
    ("externalscaler.ExternalScaler/IsActive", Surface(&FLEET_READ)),
    ("externalscaler.ExternalScaler/StreamIsActive", Surface(&FLEET_READ)),
    ("externalscaler.ExternalScaler/GetMetricSpec", Surface(&FLEET_READ)),
    ("externalscaler.ExternalScaler/GetMetrics", Surface(&FLEET_READ)),
    ("externalscaler.ExternalScaler/StreamMetricSpec", Surface(&FLEET_READ)),
    ("grpc.health.v1.Health/Check", Public),
    ("grpc.health.v1.Health/Watch", Public),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Public),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Public),
    ("mindos.access.v1.AccessService/WhoAmI", Anyone),
    ("mindos.access.v1.AccessService/CanI", Anyone),
    ("mindos.access.v1.AccessService/CreateApiToken", Needs(&API_TOKENS_MANAGE)),
    ("mindos.access.v1.AccessService/ListApiTokens", Needs(&API_TOKENS_MANAGE)),
    ("mindos.access.v1.AccessService/RevokeApiToken", Needs(&API_TOKENS_MANAGE)),
    ("mindos.access.v1.AccessService/CreateJoinToken", Needs(&JOIN_TOKENS_MANAGE)),
    ("mindos.access.v1.AccessService/ListJoinTokens", Needs(&JOIN_TOKENS_MANAGE)),
    ("mindos.access.v1.AccessService/RevokeJoinToken", Needs(&JOIN_TOKENS_MANAGE)),
    ("mindos.access.v1.AccessService/BindRole", Needs(&ROLES_MANAGE)),
    ("mindos.access.v1.AccessService/UnbindRole", Needs(&ROLES_MANAGE)),
    ("mindos.access.v1.AccessService/ListRoles", Needs(&ROLES_MANAGE)),
    ("mindos.access.v1.AccessService/RegisterIssuer", Needs(&ISSUERS_MANAGE)),
    ("mindos.access.v1.AccessService/ListIssuers", Needs(&ISSUERS_READ)),
    ("mindos.access.v1.AccessService/RemoveIssuer", Needs(&ISSUERS_MANAGE)),
    ("mindos.access.v1.AccessService/DenyAgent", Needs(&AGENTS_DENY)),
    ("mindos.access.v1.AccessService/AllowAgent", Needs(&AGENTS_DENY)),
    ("mindos.access.v1.AccessService/ListDenials", Needs(&AGENTS_DENY)),
    ("mindos.access.v1.AccessService/SetQuota", Needs(&QUOTAS_SET)),
    ("mindos.access.v1.AccessService/ListQuotas", Needs(&QUOTAS_READ)),
    ("mindos.access.v1.AuthorityService/GetAuthority", Needs(&AUTHORITY_READ)),
    ("mindos.access.v1.AuthorityService/RotateAuthority", Needs(&AUTHORITY_ROTATE)),
    ("mindos.access.v1.AuthorityService/RetireAuthority", Needs(&AUTHORITY_ROTATE)),
    ("mindos.agent.v1.AgentService/Connect", Agent),
    // Of the lease that the caller holds.
    ("mindos.agent.v1.RepositoryService/GetRepositoryAccess", Agent),
    ("mindos.blob.v1.BlobService/Put", Needs(&BLOBS_WRITE)),
    ("mindos.blob.v1.BlobService/Get", Needs(&BLOBS_READ)),
    ("mindos.blob.v1.BlobService/Stat", Needs(&BLOBS_READ)),
    ("mindos.budget.v1.BudgetService/SetBudget", Needs(&BUDGETS_SET)),
    ("mindos.budget.v1.BudgetService/GetBudget", Needs(&BUDGETS_READ)),
    ("mindos.budget.v1.BudgetService/ListBudgets", Needs(&BUDGETS_READ)),
    ("mindos.budget.v1.BudgetService/DeleteBudget", Needs(&BUDGETS_SET)),
    ("mindos.budget.v1.BudgetService/AcknowledgeBudget", Needs(&BUDGETS_SET)),
    ("mindos.budget.v1.BudgetService/GetUsage", Needs(&BUDGETS_READ)),
    // Of the cluster of the certificate; what it may bring is granted by the settings.
    ("mindos.cluster.v1.ClusterService/ApplyObject", Agent),
    ("mindos.cluster.v1.ClusterService/DeleteObject", Agent),
    ("mindos.cluster.v1.ClusterService/ListObjects", Agent),
    ("mindos.cluster.v1.ClusterService/WatchStatus", Agent),
    ("mindos.delivery.v1.DeliveryService/Get", Needs(&DELIVERIES_READ)),
    ("mindos.delivery.v1.DeliveryService/List", Needs(&DELIVERIES_READ)),
    ("mindos.delivery.v1.DeliveryService/Watch", Needs(&DELIVERIES_READ)),
    ("mindos.delivery.v1.DeliveryService/Cancel", Needs(&DELIVERIES_CHANGE)),
    ("mindos.delivery.v1.DeliveryService/Redrive", Needs(&DELIVERIES_CHANGE)),
    ("mindos.effect.v1.EffectService/ListEffects", Needs(&EFFECTS_READ)),
    ("mindos.effect.v1.EffectService/GetEffect", Needs(&EFFECTS_READ)),
    ("mindos.effect.v1.EffectService/RetryEffect", Needs(&EFFECTS_CHANGE)),
    ("mindos.effect.v1.EffectService/CancelEffect", Needs(&EFFECTS_CHANGE)),
    ("mindos.effect.v1.EffectService/WatchEffects", Needs(&EFFECTS_READ)),
    ("mindos.event.v1.EventService/Publish", Needs(&EVENTS_PUBLISH)),
    ("mindos.event.v1.EventService/PublishStream", Needs(&EVENTS_PUBLISH)),
    ("mindos.event.v1.EventService/Get", Needs(&EVENTS_READ)),
    ("mindos.event.v1.EventService/List", Needs(&EVENTS_READ)),
    ("mindos.event.v1.EventService/Watch", Needs(&EVENTS_READ)),
    ("mindos.fleet.v1.FleetService/ListClusters", Needs(&FLEET_READ)),
    ("mindos.fleet.v1.FleetService/GetCluster", Needs(&FLEET_READ)),
    ("mindos.fleet.v1.FleetService/ListGenerals", Needs(&FLEET_READ)),
    ("mindos.fleet.v1.FleetService/GetGeneral", Needs(&FLEET_READ)),
    ("mindos.fleet.v1.FleetService/ListInstances", Needs(&FLEET_READ)),
    ("mindos.fleet.v1.FleetService/GetInstance", Needs(&FLEET_READ)),
    ("mindos.fleet.v1.FleetService/Watch", Needs(&FLEET_READ)),
    ("mindos.fleet.v1.FleetService/Cordon", Needs(&FLEET_HOLD)),
    ("mindos.fleet.v1.FleetService/Uncordon", Needs(&FLEET_HOLD)),
    ("mindos.fleet.v1.FleetService/Drain", Needs(&FLEET_HOLD)),
    ("mindos.fleet.v1.FleetService/Pause", Needs(&FLEET_HOLD)),
    ("mindos.fleet.v1.FleetService/Resume", Needs(&FLEET_HOLD)),
    ("mindos.identity.v1.IdentityService/Authority", Public),
    ("mindos.identity.v1.IdentityService/Challenge", Public),
    ("mindos.identity.v1.IdentityService/Join", Public),
    ("mindos.identity.v1.IdentityService/Renew", Public),
    // Of the own tenant; the whole asks for `ledger.export` besides.
    ("mindos.ledger.v1.LedgerService/Export", Needs(&LEDGER_READ)),
    ("mindos.ledger.v1.LedgerService/ListCheckpoints", Needs(&LEDGER_READ)),
    ("mindos.ledger.v1.LedgerService/ListKeys", Needs(&LEDGER_READ)),
    ("mindos.ledger.v1.LedgerService/Redact", Needs(&LEDGER_REDACT)),
    ("mindos.ledger.v1.LedgerService/Tail", Needs(&LEDGER_READ)),
    ("mindos.ledger.v1.LedgerService/Verify", Needs(&LEDGER_VERIFY)),
    ("mindos.replay.v1.ReplayService/Replay", Needs(&REPLAYS_RUN)),
    ("mindos.run.v1.RunService/SubmitRun", Agent),
    ("mindos.run.v1.RunService/GetRun", Agent),
    ("mindos.run.v1.RunService/CancelRun", Agent),
    ("mindos.run.v1.RunService/TellLog", Agent),
    ("mindos.route.v1.RouteService/Get", Needs(&ROUTES_READ)),
    ("mindos.route.v1.RouteService/Apply", Needs(&ROUTES_APPLY)),
    ("mindos.route.v1.RouteService/Explain", Needs(&ROUTES_READ)),
    ("mindos.route.v1.RouteService/Scorecards", Needs(&ROUTES_READ)),
    // A task is an event of the source `/tasks`, and what it leads to.
    ("mindos.task.v1.TaskService/CreateTask", Needs(&EVENTS_PUBLISH)),
    ("mindos.task.v1.TaskService/GetTask", Needs(&DELIVERIES_READ)),
    ("mindos.task.v1.TaskService/ListTasks", Needs(&DELIVERIES_READ)),
    ("mindos.task.v1.TaskService/CancelTask", Needs(&DELIVERIES_CHANGE)),
];

/// Paths of HTTP, as they are routed.
pub static PATHS: &[(Listener, Method, &str, Permission)] = &[
    (Listener::Api, Method::GET, "/healthz", Public),
    (Listener::Api, Method::GET, "/readyz", Public),
    (Listener::Api, Method::GET, "/metrics", Needs(&METRICS_READ)),
    (Listener::Api, Method::GET, "/sinks", Needs(&SINKS_READ)),
    (Listener::Api, Method::POST, "/events", Needs(&EVENTS_PUBLISH)),
    (Listener::Api, Method::POST, "/api/v1/tasks", Needs(&EVENTS_PUBLISH)),
    (Listener::Api, Method::GET, "/api/v1/tasks", Needs(&DELIVERIES_READ)),
    (Listener::Api, Method::GET, "/api/v1/tasks/{task}", Needs(&DELIVERIES_READ)),
    (Listener::Api, Method::DELETE, "/api/v1/tasks/{task}", Needs(&DELIVERIES_CHANGE)),
    (Listener::Api, Method::POST, "/upgrade/finalize", Needs(&UPGRADE_FINALIZE)),
    (Listener::Api, Method::POST, "/webhooks/github", Webhook),
    (Listener::Api, Method::POST, "/webhooks/gitlab", Webhook),
    (Listener::Api, Method::POST, "/webhooks/alertmanager", Webhook),
    (Listener::Api, Method::POST, "/webhooks/generic/{name}", Webhook),
    (Listener::Api, Method::GET, "/health", Surface(&FLEET_READ)),
    (Listener::Api, Method::POST, "/distribute", Surface(&EVENTS_PUBLISH)),
    (Listener::Api, Method::GET, "/status", Surface(&FLEET_READ)),
    (Listener::Api, Method::GET, "/distributions", Surface(&DELIVERIES_READ)),
    (Listener::Api, Method::GET, "/generals/{cluster}/{name}", Surface(&FLEET_READ)),
    (Listener::Api, Method::PUT, "/generals/{cluster}/{name}/status", Surface(&FLEET_HOLD)),
    (Listener::Aggregator, Method::GET, "/health", Surface(&FLEET_READ)),
    (Listener::Aggregator, Method::GET, "/stats", Surface(&EVENTS_READ)),
    (Listener::Aggregator, Method::POST, "/events", Surface(&EVENTS_PUBLISH)),
    (Listener::Aggregator, Method::POST, "/webhook/gitlens", Surface(&EVENTS_PUBLISH)),
    (Listener::Aggregator, Method::POST, "/event", Surface(&EVENTS_PUBLISH)),
    (Listener::Aggregator, Method::POST, "/alert", Surface(&EVENTS_PUBLISH)),
    (Listener::Aggregator, Method::POST, "/git", Surface(&EVENTS_PUBLISH)),
    (Listener::Aggregator, Method::POST, "/webhooks/github", Surface(&EVENTS_PUBLISH)),
    (Listener::Platform, Method::GET, "/health", Public),
    (Listener::Platform, Method::POST, "/api/v1/pm/tasks", Surface(&EVENTS_PUBLISH)),
    (Listener::Platform, Method::GET, "/api/v1/pm/tasks", Surface(&DELIVERIES_READ)),
    (Listener::Platform, Method::GET, "/api/v1/pm/tasks/{run}", Surface(&DELIVERIES_READ)),
    (Listener::Platform, Method::DELETE, "/api/v1/pm/tasks/{run}", Surface(&DELIVERIES_CHANGE)),
    (Listener::Platform, Method::GET, "/api/v1/pm/tasks/{run}/logs", Surface(&DELIVERIES_READ)),
    (Listener::Platform, Method::POST, "/api/v1/pm/tasks/{run}/context", Surface(&EVENTS_PUBLISH)),
    (Listener::Platform, Method::POST, "/api/v1/pm/docs/generate", Surface(&EVENTS_PUBLISH)),
    (Listener::Platform, Method::POST, "/webhook/github", Webhook),
];

/// What is known of an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rpc {
    pub permission: Permission,
    /// One of its sides sends more than one message, so that it may last.
    pub is_stream: bool,
}

/// What an RPC takes, by its full name, such as `mindos.route.v1.RouteService/Apply`.
#[must_use]
pub fn of_rpc(name: &str) -> Option<Rpc> {
    static BY_NAME: LazyLock<HashMap<&str, Rpc>> = LazyLock::new(|| {
        let streams = streams();
        let row = |(name, permission): &(&'static str, Permission)| {
            (*name, Rpc { permission: *permission, is_stream: streams.contains(*name) })
        };
        RPCS.iter().map(row).collect()
    });
    BY_NAME.get(name).copied()
}

/// The RPCs of ours of which a side sends more than one message.
fn streams() -> HashSet<String> {
    let set = FileDescriptorSet::decode(mindos_proto::FILE_DESCRIPTOR_SET).expect("the descriptors are our own");
    let mut streams = HashSet::new();
    for file in &set.file {
        for service in &file.service {
            let is_stream = |method: &&MethodDescriptorProto| method.client_streaming() || method.server_streaming();
            let methods = service.method.iter().filter(is_stream);
            streams.extend(methods.map(|method| format!("{}.{}/{}", file.package(), service.name(), method.name())));
        }
    }
    streams
}

/// What a path takes, by the pattern that routes it.
#[must_use]
pub fn of_path(listener: Listener, method: &Method, pattern: &str) -> Option<Permission> {
    // Whoever may get something may ask whether it is there.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let row = PATHS.iter().find(|(on, by, path, _)| *on == listener && by == method && *path == pattern);
    row.map(|(_, _, _, permission)| *permission)
}

impl Right {
    /// Whether a principal has it.
    #[must_use]
    pub fn is_of(&self, principal: &Principal) -> bool {
        if self.agent && principal.kind.is_agent() {
            return true;
        }
        let roles = if self.plane { principal.plane_roles } else { principal.roles };
        roles.has_any(self.roles.with(Roles::ADMIN))
    }

    /// Whether a principal has it by a role that holds for the plane.
    #[must_use]
    pub fn is_of_plane(&self, principal: &Principal) -> bool {
        principal.plane_roles.has_any(self.roles.with(Roles::ADMIN))
    }

    /// The roles that have it, for people.
    #[must_use]
    pub fn had_by(&self) -> String {
        let roles = self.roles.with(Roles::ADMIN);
        let place = if self.plane { " of the plane" } else { "" };
        format!("{}{place}", roles.words().collect::<Vec<_>>().join(" or "))
    }
}

impl Permission {
    /// Whether a principal has it.
    #[must_use]
    pub fn is_of(&self, principal: &Principal) -> bool {
        match self {
            Permission::Public | Permission::Anyone | Permission::Webhook => true,
            Permission::Agent => principal.kind.is_agent() || principal.kind == PrincipalKind::Local,
            Permission::Surface(right) | Permission::Needs(right) => right.is_of(principal),
        }
    }

    /// Its name for people, such as `routes.apply`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Permission::Public => "public",
            Permission::Anyone => "anyone",
            Permission::Agent => "agent",
            Permission::Webhook => "webhook",
            Permission::Surface(right) | Permission::Needs(right) => right.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn rpcs(set: &[u8]) -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(set).unwrap();
        let of_file = |file: &prost_types::FileDescriptorProto| {
            let package = file.package().to_owned();
            let of_service = move |service: &prost_types::ServiceDescriptorProto| {
                let name = format!("{package}.{}", service.name());
                service.method.iter().map(|method| format!("{name}/{}", method.name())).collect::<Vec<_>>()
            };
            file.service.iter().flat_map(of_service).collect::<Vec<_>>()
        };
        set.file.iter().flat_map(of_file).collect()
    }

    #[test]
    fn every_rpc_has_one_row_and_every_row_an_rpc() {
        let mut there = rpcs(mindos_proto::FILE_DESCRIPTOR_SET);
        there.extend(rpcs(tonic_health::pb::FILE_DESCRIPTOR_SET));
        there.extend(rpcs(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET));
        there.extend(rpcs(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET));
        let rows: BTreeSet<String> = RPCS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(rows.len(), RPCS.len(), "a row stands twice");
        let missing: Vec<_> = there.difference(&rows).collect();
        assert!(missing.is_empty(), "in no row of `access/permission.rs`: {missing:?}");
        let gone: Vec<_> = rows.difference(&there).collect();
        assert!(gone.is_empty(), "there is no such RPC: {gone:?}");
    }

    #[test]
    fn streams_are_told_from_calls() {
        let is_stream = |name| of_rpc(name).unwrap().is_stream;
        assert!(is_stream("mindos.agent.v1.AgentService/Connect") && is_stream("mindos.blob.v1.BlobService/Put"));
        assert!(is_stream("mindos.ledger.v1.LedgerService/Tail") && !is_stream("mindos.event.v1.EventService/Publish"));
    }

    #[test]
    fn every_right_is_named_once_and_asked_for_somewhere() {
        let names: BTreeSet<_> = rights::ALL.iter().map(|right| right.name).collect();
        assert_eq!(names.len(), rights::ALL.len());
        for name in &names {
            assert_eq!(rights::named(name).unwrap().name, *name);
        }
    }

    #[test]
    fn roles_do_what_their_names_say_and_nothing_else() {
        let names = |roles: Roles| -> Vec<&str> {
            let principal = Principal { roles, ..Principal::surface("x", None) };
            rights::ALL.iter().filter(|right| right.is_of(&principal)).map(|right| right.name).collect()
        };
        assert_eq!(names(Roles::NONE), Vec::<&str>::new());
        assert_eq!(names(Roles::PUBLISHER), ["events.publish", "blobs.write"]);
        let viewer = names(Roles::VIEWER);
        assert!(viewer.iter().all(|name| name.contains("read")), "{viewer:?}");
        let operator = names(Roles::OPERATOR);
        assert!(viewer.iter().all(|name| operator.contains(name)), "{operator:?}");
        assert!(!operator.contains(&"events.publish") && !operator.contains(&"access.roles"), "{operator:?}");
        let mixed = Principal { plane_roles: Roles::VIEWER, roles: Roles::ADMIN, ..Principal::surface("x", None) };
        assert!(rights::LEDGER_VERIFY.is_of(&mixed) && !rights::QUOTAS_SET.is_of(&mixed), "admin of one tenant alone");
        let of_plane = rights::ALL.iter().filter(|right| right.plane).count();
        assert_eq!(names(Roles::ADMIN).len(), rights::ALL.len() - of_plane);
    }
}
