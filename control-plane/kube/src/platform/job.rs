//! What one attempt makes: its files, the workspace of its service, and the Job.
//!
//! Invariants: what a request says reaches the pod as values of variables and as files, never as part of a command; the pod fits the
//! restricted Pod Security profile and has no token of the cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::config::{ControllerConfig, JobSettings};
use super::names;
use super::plan::{Kind, Run, RunSpec};
use super::request::Reach;

/// Where the files of a run are.
pub const FILES: &str = "/task-files";
/// Where the agent looks for settings that it may not change.
pub const MANAGED_SETTINGS: &str = "/etc/claude-code/managed-settings.json";
/// Where the work is done.
pub const WORKSPACE: &str = "/workspace";
/// Where the key of the repositories is.
pub const SSH: &str = "/workspace/.ssh";
/// The container that works.
pub const CONTAINER: &str = "agent";

/// Variables that the Job sets itself, whatever a request says.
pub const OWN_ENV: [&str; 34] = [
    "ANTHROPIC_API_KEY",
    "GITHUB_TOKEN",
    "GITHUB_PAT",
    "GH_TOKEN",
    "TASK_TYPE",
    "MODEL",
    "GITHUB_USER",
    "REPOSITORY_URL",
    "WORKING_DIRECTORY",
    "BRANCH",
    "SOURCE_BRANCH",
    "TASK_ID",
    "SERVICE_NAME",
    "DOCS_REPOSITORY_URL",
    "PLATFORM_REPOSITORY_URL",
    "DOCS_BRANCH",
    "DOCS_PROJECT_DIRECTORY",
    "MCP_CLIENT_CONFIG",
    "LOCAL_TOOLS",
    "REMOTE_TOOLS",
    "TOOL_CONFIG",
    "TOOLMAN_SERVER_URL",
    "CONTEXT_VERSION",
    "ATTEMPTS",
    "CONTINUE_SESSION",
    "OVERWRITE_MEMORY",
    "FRESH_WORKSPACE",
    "PROMPT_MODE",
    "RUN_NAME",
    "NAMESPACE",
    "HOME",
    "PATH",
    "BASH_ENV",
    "ENV",
];

fn labels(run: &Run) -> BTreeMap<String, String> {
    let mut labels = vec![
        ("app", "orchestrator".to_owned()),
        ("component", component(run.spec.kind()).to_owned()),
        ("github-user", names::label(run.spec.github_user())),
        ("context-version", run.context.to_string()),
        ("task-type", run.spec.kind().as_str().to_owned()),
        ("mindos.io/run", names::object(&run.name)),
    ];
    match &run.spec {
        RunSpec::Code(spec) => {
            labels.push(("task-id", spec.task_id.to_string()));
            labels.push(("service", names::label(&spec.service)));
        }
        RunSpec::Docs(spec) => labels.push(("repository", names::label(&spec.repository_url))),
    }
    labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The component of the contract's labels.
#[must_use]
pub fn component(kind: Kind) -> &'static str {
    match kind {
        Kind::Code => "code-runner",
        Kind::Docs => "docs-generator",
    }
}

/// The files of an attempt.
pub(super) fn files(run: &Run, files: BTreeMap<String, String>, apart: bool) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(run.files_name(apart)),
            namespace: Some(run.namespace.clone()),
            labels: Some(labels(run)),
            owner_references: Some(vec![run.owner()]),
            ..ObjectMeta::default()
        },
        data: Some(files),
        ..ConfigMap::default()
    }
}

/// The workspace of a run's service.
pub(super) fn workspace(run: &Run, config: &ControllerConfig) -> Option<PersistentVolumeClaim> {
    let service = run.spec.service()?;
    let storage = &config.storage;
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": storage.workspace_size } },
    });
    if !storage.storage_class_name.is_empty() {
        spec["storageClassName"] = json!(storage.storage_class_name);
    }
    let claim = json!({
        "metadata": {
            "name": names::workspace(service),
            "namespace": run.namespace,
            "labels": { "app": "orchestrator", "component": component(Kind::Code), "service": names::label(service) },
        },
        "spec": spec,
    });
    Some(serde_json::from_value(claim).expect("a claim of our own making is one"))
}

/// The Job of an attempt.
pub(super) fn job(run: &Run, config: &ControllerConfig, settings: &JobSettings, apart: bool, version: &str) -> Job {
    let JobSettings { ttl_seconds: _, memory_request, memory_limit, cpu_request, cpu_limit, .. } = settings;
    let kind = run.spec.kind();
    let mut mounts = vec![
        json!({ "name": "workspace", "mountPath": WORKSPACE }),
        json!({ "name": "task-files", "mountPath": FILES, "readOnly": true }),
        json!({ "name": "task-files", "mountPath": MANAGED_SETTINGS, "subPath": "settings.json", "readOnly": true }),
        json!({ "name": "tmp", "mountPath": "/tmp" }),
    ];
    let workspace = match run.workspace_name() {
        Some(claim) => json!({ "name": "workspace", "persistentVolumeClaim": { "claimName": claim } }),
        None => json!({ "name": "workspace", "emptyDir": {} }),
    };
    let mut volumes = vec![
        workspace,
        json!({ "name": "task-files", "configMap": { "name": run.files_name(apart), "defaultMode": 0o555 } }),
        json!({ "name": "tmp", "emptyDir": {} }),
    ];
    let user = user(run);
    if run.spec.addresses().iter().any(|url| Reach::of(url) == Some(Reach::Ssh)) {
        mounts.push(json!({ "name": "ssh-key", "mountPath": SSH, "readOnly": true }));
        volumes.push(json!({
            "name": "ssh-key",
            "secret": {
                "secretName": format!("github-ssh-{user}"),
                "defaultMode": 0o440,
                "items": [{ "key": "ssh-privatekey", "path": "id_ed25519" }],
            },
        }));
    }
    let pull_secrets: Vec<Value> = config.agent.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect();
    let mut pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "imagePullSecrets": pull_secrets,
        "containers": [{
            "name": CONTAINER,
            "image": config.image(settings).unwrap_or_default(),
            "command": ["/bin/bash"],
            "args": [format!("{FILES}/container.sh")],
            "workingDir": WORKSPACE,
            "env": env(run, config, settings),
            "volumeMounts": mounts,
            "resources": {
                "requests": { "cpu": cpu_request, "memory": memory_request },
                "limits": { "cpu": cpu_limit, "memory": memory_limit },
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "runAsNonRoot": true,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }],
        "volumes": volumes,
    });
    let account = match &run.spec {
        RunSpec::Code(spec) => &spec.service_account_name,
        RunSpec::Docs(spec) => &spec.service_account_name,
    };
    if let Some(account) = account {
        pod["serviceAccountName"] = json!(account);
    }
    let mut metadata = json!({ "labels": labels(run) });
    if !config.job.pod_annotations.is_empty() {
        metadata["annotations"] = json!(config.job.pod_annotations);
    }
    // Without a time to live, which it is given once the control plane has its outcome: a Job that is gone cannot say that it was done.
    let spec = json!({
        "backoffLimit": 0,
        "activeDeadlineSeconds": config.job.active_deadline_seconds,
        "template": { "metadata": metadata, "spec": pod },
    });
    let job = json!({
        "metadata": {
            "name": run.job_name(),
            "namespace": run.namespace,
            "labels": labels(run),
            "annotations": { "mindos.io/templates": version, "mindos.io/kind": kind.object() },
            "ownerReferences": [run.owner()],
        },
        "spec": spec,
    });
    serde_json::from_value(job).expect("a Job of our own making is one")
}

/// The user as names of secrets have it.
fn user(run: &Run) -> String {
    run.spec.github_user().to_ascii_lowercase().replace('_', "-")
}

fn env(run: &Run, config: &ControllerConfig, settings: &JobSettings) -> Vec<Value> {
    let user = user(run);
    let secret = |name: &str, secret: &str, key: &str, optional: bool| {
        let mut from = json!({ "name": secret, "key": key });
        if optional {
            from["optional"] = json!(true);
        }
        json!({ "name": name, "valueFrom": { "secretKeyRef": from } })
    };
    let mut env = vec![
        secret("ANTHROPIC_API_KEY", &config.secrets.api_key_secret_name, &config.secrets.api_key_secret_key, false),
        // Either name, whichever there is: for https, and for the pull request.
        secret("GITHUB_TOKEN", &format!("github-token-{user}"), "token", true),
        secret("GITHUB_PAT", &format!("github-pat-{user}"), "token", true),
    ];
    let mut put = |name: &str, value: &str| env.push(json!({ "name": name, "value": unexpanded(value) }));
    put("HOME", WORKSPACE);
    put("TASK_TYPE", run.spec.kind().as_str());
    put("RUN_NAME", &run.name);
    put("NAMESPACE", &run.namespace);
    put("MODEL", run.spec.model());
    put("GITHUB_USER", run.spec.github_user());
    put("REPOSITORY_URL", run.spec.repository_url());
    put("CONTEXT_VERSION", &run.context.to_string());
    put("ATTEMPTS", &run.retries.to_string());
    match &run.spec {
        RunSpec::Docs(spec) => {
            put("WORKING_DIRECTORY", &spec.working_directory);
            put("SOURCE_BRANCH", &spec.source_branch);
            put("SERVICE_NAME", "docs-generator");
        }
        RunSpec::Code(spec) => {
            let tools = run.tools();
            put("TASK_ID", &spec.task_id.to_string());
            put("SERVICE_NAME", &spec.service);
            put("WORKING_DIRECTORY", spec.directory());
            put("BRANCH", &spec.branch);
            put("DOCS_REPOSITORY_URL", &spec.docs_repository_url);
            put("PLATFORM_REPOSITORY_URL", &spec.docs_repository_url);
            put("DOCS_BRANCH", &spec.docs_branch);
            put("DOCS_PROJECT_DIRECTORY", &spec.docs_directory());
            put("CONTINUE_SESSION", if spec.continue_session || run.retries > 0 { "true" } else { "false" });
            put("OVERWRITE_MEMORY", if spec.overwrite_memory { "true" } else { "false" });
            put("FRESH_WORKSPACE", if spec.fresh_workspace { "true" } else { "false" });
            let replaces = spec.prompt_modification.as_deref().is_some_and(|text| !text.trim().is_empty());
            put("PROMPT_MODE", if replaces { spec.prompt_mode.as_str() } else { "append" });
            put("MCP_CLIENT_CONFIG", "/task-files/client-config.json");
            put("LOCAL_TOOLS", &tools.local.join(","));
            put("REMOTE_TOOLS", &tools.remote.join(","));
            put("TOOL_CONFIG", spec.tool_config.as_str());
            put("TOOLMAN_SERVER_URL", &settings.tool_server);
            for (name, value) in &spec.env {
                put(name, value);
            }
            for from in &spec.env_from_secrets {
                env.push(secret(&from.name, &from.secret_name, &from.secret_key, false));
            }
        }
    }
    env
}

/// A value in which Kubernetes finds no variable to put in: else a request could name those that come from secrets.
fn unexpanded(value: &str) -> String {
    value.replace("$(", "$$(")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_no_other_variable() {
        assert_eq!(unexpanded("$(GITHUB_TOKEN) $x $$(y)"), "$$(GITHUB_TOKEN) $x $$$(y)");
    }
}
