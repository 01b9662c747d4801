//! What templates may name, and what it is for a run.
//!
//! The contract's names stand beside those that its own description promised and its program never gave.

use serde_json::{Value, json};

use super::config::{ControllerConfig, JobSettings};
use super::plan::{Kind, Run, RunSpec};
use super::tools;

/// Names that both kinds know.
const SHARED: [&str; 18] = [
    "repository_url",
    "working_directory",
    "working_dir",
    "github_user",
    "model",
    "service_name",
    "api_key_secret_name",
    "api_key_secret_key",
    "attempts",
    "context_version",
    "run_name",
    "namespace",
    "task_type",
    "permissions",
    "agent_tools_override",
    "telemetry",
    "toolman_server_url",
    "image",
];
const CODE: [&str; 22] = [
    "task_id",
    "service",
    "docs_repository_url",
    "platform_repository_url",
    "docs_branch",
    "docs_project_directory",
    "platform_project_directory",
    "branch",
    "continue_session",
    "overwrite_memory",
    "fresh_workspace",
    "local_tools",
    "remote_tools",
    "tool_config",
    "prompt_modification",
    "user_requested",
    "prompt_mode",
    "task_requirements",
    "acceptance_criteria",
    "mcp_servers",
    "client_config",
    "retry_count",
];
const DOCS: [&str; 2] = ["source_branch", "toolman_catalog_markdown"];

/// Texts that may hold anything, so that they must not stand in a script as they are.
pub(super) const FREE: [&str; 4] =
    ["prompt_modification", "user_requested", "task_requirements", "acceptance_criteria"];

/// The built-in tools that the agent may use unless the configuration says otherwise.
const BUILT_IN: [&str; 16] = [
    "Bash",
    "Edit",
    "ExitPlanMode",
    "Glob",
    "Grep",
    "LS",
    "MultiEdit",
    "NotebookEdit",
    "NotebookRead",
    "Read",
    "Task",
    "TodoRead",
    "TodoWrite",
    "WebFetch",
    "WebSearch",
    "Write",
];

/// Whether templates of a kind may name it.
pub(super) fn is_known(kind: Kind, name: &str) -> bool {
    let own: &[&str] = match kind {
        Kind::Code => &CODE,
        Kind::Docs => &DOCS,
    };
    SHARED.contains(&name) || own.contains(&name)
}

/// What the names stand for in a run.
pub(super) fn of(run: &Run, config: &ControllerConfig, settings: &JobSettings) -> Value {
    let permissions = &config.permissions;
    let (allow, deny) = if permissions.agent_tools_override {
        (permissions.allow.clone(), permissions.deny.clone())
    } else {
        let stock = BUILT_IN.iter().map(|name| (*name).to_owned());
        (stock.chain(permissions.allow.iter().cloned()).collect(), permissions.deny.clone())
    };
    let telemetry = &config.telemetry;
    let mut variables = json!({
        "github_user": run.spec.github_user(),
        "repository_url": run.spec.repository_url(),
        "model": run.spec.model(),
        "api_key_secret_name": config.secrets.api_key_secret_name,
        "api_key_secret_key": config.secrets.api_key_secret_key,
        "attempts": run.retries,
        "context_version": run.context,
        "run_name": run.name,
        "namespace": run.namespace,
        "task_type": run.spec.kind().as_str(),
        "permissions": { "allow": allow, "deny": deny },
        "agent_tools_override": permissions.agent_tools_override,
        "telemetry": {
            "enabled": telemetry.enabled,
            "otlp_endpoint": telemetry.otlp_endpoint,
            "otlp_protocol": telemetry.otlp_protocol,
            "logs_endpoint": telemetry.logs_endpoint,
            "logs_protocol": telemetry.logs_protocol,
        },
        "toolman_server_url": settings.tool_server,
        "image": config.image(settings).unwrap_or_default(),
    });
    let more = match &run.spec {
        RunSpec::Code(spec) => {
            let tools = run.tools();
            json!({
                "task_id": spec.task_id,
                "service": spec.service,
                "service_name": spec.service,
                "docs_repository_url": spec.docs_repository_url,
                "platform_repository_url": spec.docs_repository_url,
                "docs_branch": spec.docs_branch,
                "docs_project_directory": spec.docs_directory(),
                "platform_project_directory": spec.docs_directory(),
                "working_directory": spec.directory(),
                "working_dir": spec.directory(),
                "branch": spec.branch,
                "continue_session": spec.continue_session || run.retries > 0,
                "overwrite_memory": spec.overwrite_memory,
                "fresh_workspace": spec.fresh_workspace,
                "local_tools": tools.local,
                "remote_tools": tools.remote,
                "tool_config": spec.tool_config.as_str(),
                "prompt_modification": spec.prompt_modification,
                "user_requested": spec.prompt_modification,
                "prompt_mode": spec.prompt_mode.as_str(),
                "task_requirements": spec.task_requirements,
                "acceptance_criteria": spec.acceptance_criteria,
                "mcp_servers": tools::mcp_servers(&tools, &settings.tool_server),
                "client_config": tools::client_config(&tools),
                "retry_count": run.retries,
            })
        }
        RunSpec::Docs(spec) => json!({
            "source_branch": spec.source_branch,
            "working_directory": spec.working_directory,
            "working_dir": spec.working_directory,
            "service_name": "docs-generator",
            "toolman_catalog_markdown": catalog(),
        }),
    };
    if let (Some(all), Value::Object(more)) = (variables.as_object_mut(), more) {
        all.extend(more);
    }
    variables
}

/// The tools that a task may be given, for whoever writes its documentation.
fn catalog() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("# Tools\n");
    for set in [tools::ToolConfig::Minimal, tools::ToolConfig::Default, tools::ToolConfig::Advanced] {
        let tools = set.tools();
        let _ = write!(text, "\n## {}\n\n", set.as_str());
        for name in tools.local.iter().chain(&tools.remote) {
            let _ = writeln!(text, "- `{name}`");
        }
    }
    text
}
