//! `CodeRun`: a task of a service is to be done in a repository.
//!
//! Tools come in two shapes, as the earlier system wrote one and read the other: `tools: {local: [..], remote: [..]}` and the strings
//! `localTools`, `remoteTools`. Both are taken. Invariant: fields of the spec that are not known here stay on the object.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::status::RunStatus;
use super::tools::ToolConfig;

/// What is to be done.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "orchestrator.platform",
    version = "v1",
    kind = "CodeRun",
    plural = "coderuns",
    singular = "coderun",
    shortname = "cr",
    category = "mindos",
    namespaced,
    derive = "PartialEq",
    status = "RunStatus",
    printcolumn(name = "Task", type_ = "integer", json_path = ".spec.taskId"),
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.service"),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CodeRunSpec {
    /// Number of the task.
    #[schemars(range(min = 0))]
    pub task_id: u32,
    /// The service that it is for. Runs of one service share a workspace, one after the other.
    #[schemars(length(min = 1, max = 253))]
    pub service: String,
    /// Where the code is, `https://..` or `git@..`.
    #[schemars(length(min = 1, max = 2048))]
    pub repository_url: String,
    /// Where the task is described, likewise.
    #[schemars(length(min = 1, max = 2048))]
    pub docs_repository_url: String,
    /// The model that works.
    #[schemars(length(min = 1, max = 253))]
    pub model: String,
    /// Whose secrets are used.
    #[schemars(length(min = 1, max = 63))]
    pub github_user: String,
    /// Directory within the repository. The service when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Directory of the project within the documentation. `_projects/<service>` when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docs_project_directory: Option<String>,
    /// Branch of the documentation.
    #[serde(default = "main")]
    pub docs_branch: String,
    /// Branch that the change is for.
    #[serde(default = "main")]
    pub branch: String,
    /// Which attempt at the task this is, as its author counts them.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub context_version: u32,
    /// What is to be done differently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_modification: Option<String>,
    /// How that goes with the prompt.
    #[serde(default)]
    pub prompt_mode: PromptMode,
    /// Whether the agent goes on with its last session.
    #[serde(default)]
    pub continue_session: bool,
    /// Whether a `CLAUDE.md` that is there is written over.
    #[serde(default)]
    pub overwrite_memory: bool,
    /// Whether the workspace's clone is thrown away first.
    #[serde(default)]
    pub fresh_workspace: bool,
    /// Environment of the agent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Environment from secrets of the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from_secrets: Vec<EnvFromSecret>,
    /// Tools that the agent gets, as lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
    /// Local tools, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_tools: Option<String>,
    /// Remote tools, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_tools: Option<String>,
    /// The set of tools that those are added to.
    #[serde(default)]
    pub tool_config: ToolConfig,
    /// How often a Job that fails is tried again, as `retryCount` of the status counts it. What the control plane says (`platform.attempts`,
    /// less one) when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9))]
    pub max_retries: Option<u32>,
    /// Service account of the Job's pod. That of the namespace when unset; no token of it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// What the task asks for, as YAML in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_requirements: Option<String>,
    /// When the task is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance_criteria: Option<String>,
    /// What others put here.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

fn main() -> String {
    "main".to_owned()
}

fn one() -> u32 {
    1
}

/// How a modification goes with the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PromptMode {
    /// It stands behind it.
    #[default]
    Append,
    /// It takes its place.
    Replace,
}

impl PromptMode {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PromptMode::Append => "append",
            PromptMode::Replace => "replace",
        }
    }
}

/// A variable from a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvFromSecret {
    /// Of the variable.
    pub name: String,
    pub secret_name: String,
    pub secret_key: String,
}

/// Tools as lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tools {
    /// Servers within the pod: `filesystem`, `git`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<String>,
    /// Tools of the tool server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote: Vec<String>,
}

impl CodeRunSpec {
    /// The directory within the repository.
    #[must_use]
    pub fn directory(&self) -> &str {
        self.working_directory.as_deref().filter(|text| !text.is_empty()).unwrap_or(&self.service)
    }

    /// The directory of the project within the documentation.
    #[must_use]
    pub fn docs_directory(&self) -> String {
        match self.docs_project_directory.as_deref().filter(|text| !text.is_empty()) {
            Some(directory) => directory.to_owned(),
            None => format!("_projects/{}", self.service),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_those_of_the_contract_and_unknown_fields_stay() {
        let given = json!({
            "taskId": 5, "service": "trader", "repositoryUrl": "https://x/y/z", "docsRepositoryUrl": "https://x/y/d",
            "model": "m", "githubUser": "ada", "githubApp": "bot", "subtasks": [{ "id": 1 }],
        });
        let spec: CodeRunSpec = serde_json::from_value(given).unwrap();
        assert_eq!((spec.docs_branch.as_str(), spec.branch.as_str(), spec.context_version), ("main", "main", 1));
        assert_eq!(
            (spec.continue_session, spec.overwrite_memory, spec.prompt_mode),
            (false, false, PromptMode::Append)
        );
        assert_eq!((spec.directory(), spec.docs_directory().as_str()), ("trader", "_projects/trader"));
        let back = serde_json::to_value(&spec).unwrap();
        assert_eq!((&back["githubApp"], &back["subtasks"][0]["id"]), (&json!("bot"), &json!(1)));
    }

    #[test]
    fn the_definition_is_that_of_the_contract() {
        use kube::CustomResourceExt;
        let crd = serde_json::to_value(CodeRun::crd()).unwrap();
        assert_eq!(crd["metadata"]["name"], "coderuns.orchestrator.platform");
        assert_eq!(crd["spec"]["names"]["shortNames"], json!(["cr"]));
        let version = &crd["spec"]["versions"][0];
        assert_eq!((&version["name"], &version["subresources"]["status"]), (&json!("v1"), &json!({})));
        let columns = version["additionalPrinterColumns"].as_array().unwrap();
        let names: Vec<_> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["Task", "Service", "Model", "Phase", "Age"]);
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!(spec["x-kubernetes-preserve-unknown-fields"], true, "{spec:#}");
        for field in ["tools", "localTools", "remoteTools", "envFromSecrets", "workingDirectory"] {
            assert!(spec["properties"].get(field).is_some(), "{field}");
        }
        let required = spec["required"].as_array().unwrap();
        assert_eq!(required.len(), 6, "{required:?}");
        assert_eq!(spec["properties"]["docsBranch"]["default"], "main");
    }
}
