//! `DocsRun`: the documentation of a project's tasks is to be written.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::status::RunStatus;

/// What is to be written.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "orchestrator.platform",
    version = "v1",
    kind = "DocsRun",
    plural = "docsruns",
    singular = "docsrun",
    shortname = "dr",
    category = "mindos",
    namespaced,
    derive = "PartialEq",
    status = "RunStatus",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DocsRunSpec {
    /// Where the project is, `https://..` or `git@..`.
    #[schemars(length(min = 1, max = 2048))]
    pub repository_url: String,
    /// Directory of the project within the repository; `.` is its root.
    #[schemars(length(min = 1, max = 1024))]
    pub working_directory: String,
    /// The branch that is read, and that the pull request is for.
    #[schemars(length(min = 1, max = 255))]
    pub source_branch: String,
    /// Whose secrets are used.
    #[schemars(length(min = 1, max = 63))]
    pub github_user: String,
    /// The model that works. That of the cluster agent's settings when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How often a Job that fails is tried again, as `retryCount` of the status counts it. What the control plane says (`platform.attempts`,
    /// less one) when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9))]
    pub max_retries: Option<u32>,
    /// Service account of the Job's pod; no token of it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// What others put here.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::CustomResourceExt;

    #[test]
    fn the_definition_is_that_of_the_contract() {
        let crd = serde_json::to_value(DocsRun::crd()).unwrap();
        assert_eq!(crd["metadata"]["name"], "docsruns.orchestrator.platform");
        assert_eq!(crd["spec"]["names"]["shortNames"], serde_json::json!(["dr"]));
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        assert_eq!(schema["spec"]["required"].as_array().unwrap().len(), 4);
        let phases = &schema["status"]["properties"]["phase"]["enum"];
        assert!(phases.as_array().unwrap().contains(&"Cancelled".into()), "{phases}");
    }
}
