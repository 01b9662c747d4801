//! Runs: `CodeRun` and `DocsRun` of the group `orchestrator.platform`, and the Jobs that do them.
//!
//! ```text
//!  request (HTTP, CLI) --> event --> lease --> CodeRun --> ConfigMap, PVC, Job --> outcome --> status, result
//!  kubectl apply ----------^                    names.rs   templates/, job.rs      outcome.rs   status.rs
//! ```
//! Everything here is a pure function of its arguments: what talks to a cluster lives in the cluster agent. Invariants: a text of a
//! request reaches a shell through the environment alone; a template is held against the Job that runs it before it is run.

mod check;
pub mod code_run;
pub mod config;
pub mod docs_run;
pub mod job;
pub mod names;
pub mod outcome;
pub mod plan;
pub mod request;
pub mod status;
pub mod templates;
pub mod tools;
mod variables;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use check::{Fault, check};
pub use code_run::{CodeRun, CodeRunSpec, PromptMode};
pub use config::{ControllerConfig, JobSettings};
pub use docs_run::{DocsRun, DocsRunSpec};
pub use outcome::Outcome;
pub use plan::{Kind, Plan, Run};
pub use request::{CodeRequest, DocsRequest, RequestError};
pub use status::{Phase, RunCondition, RunStatus};
pub use templates::{TemplateError, Templates};
pub use tools::ToolConfig;

/// The group of both kinds.
pub const GROUP: &str = "orchestrator.platform";
/// The general that does code runs.
pub const CODE_GENERAL: &str = "code-run";
/// The general that writes documentation.
pub const DOCS_GENERAL: &str = "docs-run";
/// The type of a code run's event.
pub const CODE_EVENT: &str = "io.mindos.run.code";
/// The type of a documentation run's event.
pub const DOCS_EVENT: &str = "io.mindos.run.docs";
/// The kind of a run's event.
pub const EVENT_KIND: &str = "run";
/// The source of a run's event.
pub const EVENT_SOURCE: &str = "/runs";
/// The delivery that an object belongs to.
pub const DELIVERY_ANNOTATION: &str = "mindos.io/delivery";
/// The token of the lease under which an object was last worked on.
pub const TOKEN_ANNOTATION: &str = "mindos.io/token";
/// The event that an object became, where it was applied by hand.
pub const EVENT_ANNOTATION: &str = "mindos.io/event";
/// The Job that holds a workspace.
pub const HOLDER_ANNOTATION: &str = "mindos.io/holder";
/// When that Job was given the workspace, in RFC 3339.
pub const HOLDER_SINCE_ANNOTATION: &str = "mindos.io/holder-since";
/// What keeps a CodeRun until its Job and its delivery have ended.
pub const CODE_FINALIZER: &str = "coderuns.orchestrator.io/finalizer";
/// The same of a DocsRun.
pub const DOCS_FINALIZER: &str = "docsruns.orchestrator.io/finalizer";

/// The definitions of both kinds.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![CodeRun::crd(), DocsRun::crd()]
}
