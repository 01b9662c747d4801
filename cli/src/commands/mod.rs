//! The commands that talk to a control plane or look into a data directory.

pub(crate) mod agents;
pub(crate) mod auth;
pub(crate) mod authority;
pub(crate) mod budgets;
pub(crate) mod contexts;
pub(crate) mod deliveries;
pub(crate) mod effects;
pub(crate) mod events;
pub(crate) mod feedback;
pub(crate) mod filter;
pub(crate) mod fleet;
pub(crate) mod import;
pub(crate) mod install;
pub(crate) mod issuers;
pub(crate) mod journal;
pub(crate) mod ledger;
mod ledger_export;
mod ledger_proof;
mod ledger_redact;
pub(crate) mod quotas;
pub(crate) mod replay;
pub(crate) mod roles;
pub(crate) mod routes;
mod routes_explain;
mod routes_scorecard;
pub(crate) mod run;
pub(crate) mod send;
pub(crate) mod sinks;
pub(crate) mod task;
mod task_here;
mod task_templates;
pub(crate) mod tasks;
pub(crate) mod tokens;
mod words;
mod write_once;

/// How long a watch that broke waits before it goes on where it was.
const REDIAL_AFTER: std::time::Duration = std::time::Duration::from_millis(500);
