//! What a cluster says of its runs: `config.yaml` of the ConfigMap `task-controller-config`, and the settings of Jobs.
//!
//! Invariant: a configuration that was read has an image; what it does not say is as the contract has it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The key of the ConfigMap.
pub const CONFIG_KEY: &str = "config.yaml";

/// `config.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerConfig {
    pub job: JobConfig,
    pub agent: AgentConfig,
    pub secrets: SecretsConfig,
    pub permissions: PermissionsConfig,
    pub telemetry: TelemetryConfig,
    pub storage: StorageConfig,
    pub cleanup: CleanupConfig,
}

/// How long a Job may run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobConfig {
    /// In seconds; 60 to 82800, so that the control plane's own limit of a day is not met first.
    pub active_deadline_seconds: i64,
    /// Annotations of the Job's pod, such as those that keep a service mesh out.
    pub pod_annotations: BTreeMap<String, String>,
}

impl Default for JobConfig {
    fn default() -> JobConfig {
        JobConfig { active_deadline_seconds: 7200, pod_annotations: BTreeMap::new() }
    }
}

/// The image that works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentConfig {
    pub image: ImageConfig,
    pub image_pull_secrets: Vec<String>,
}

impl Default for AgentConfig {
    fn default() -> AgentConfig {
        AgentConfig { image: ImageConfig::default(), image_pull_secrets: vec!["ghcr-secret".to_owned()] }
    }
}

/// An image by its parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageConfig {
    pub repository: String,
    pub tag: String,
}

/// Where the key of the model's provider is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretsConfig {
    pub api_key_secret_name: String,
    pub api_key_secret_key: String,
}

impl Default for SecretsConfig {
    fn default() -> SecretsConfig {
        SecretsConfig { api_key_secret_name: "anthropic-api-key".to_owned(), api_key_secret_key: "api-key".to_owned() }
    }
}

/// What the agent may do within its pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PermissionsConfig {
    /// `allow` and `deny` take the place of the stock lists.
    pub agent_tools_override: bool,
    pub allow: Vec<String>,
    pub deny: Vec<String>,
}

/// Where the agent tells of what it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetryConfig {
    pub enabled: bool,
    pub otlp_endpoint: String,
    pub otlp_protocol: String,
    pub logs_endpoint: String,
    pub logs_protocol: String,
}

impl Default for TelemetryConfig {
    fn default() -> TelemetryConfig {
        TelemetryConfig {
            enabled: false,
            otlp_endpoint: "http://localhost:4317".to_owned(),
            otlp_protocol: "grpc".to_owned(),
            logs_endpoint: "http://localhost:4318".to_owned(),
            logs_protocol: "http".to_owned(),
        }
    }
}

/// The workspace of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageConfig {
    /// That of the cluster when empty.
    pub storage_class_name: String,
    pub workspace_size: String,
}

impl Default for StorageConfig {
    fn default() -> StorageConfig {
        StorageConfig { storage_class_name: "local-path".to_owned(), workspace_size: "10Gi".to_owned() }
    }
}

/// When what a run made goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CleanupConfig {
    pub enabled: bool,
    pub completed_job_delay_minutes: u32,
    pub failed_job_delay_minutes: u32,
    pub delete_config_map: bool,
}

impl Default for CleanupConfig {
    fn default() -> CleanupConfig {
        CleanupConfig {
            enabled: true,
            completed_job_delay_minutes: 5,
            failed_job_delay_minutes: 60,
            delete_config_map: true,
        }
    }
}

/// How Jobs are made, beside what the ConfigMap says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSettings {
    /// Image that is used whatever the configuration says.
    pub image: Option<String>,
    /// How long a Job stays after its end whose run the control plane does not know, in seconds.
    pub ttl_seconds: i32,
    pub memory_request: String,
    pub memory_limit: String,
    pub cpu_request: String,
    pub cpu_limit: String,
    /// Where remote tools are served; empty for nowhere.
    pub tool_server: String,
}

impl Default for JobSettings {
    fn default() -> JobSettings {
        JobSettings {
            image: None,
            ttl_seconds: 1800,
            memory_request: "2Gi".to_owned(),
            memory_limit: "4Gi".to_owned(),
            cpu_request: "1".to_owned(),
            cpu_limit: "2".to_owned(),
            tool_server: String::new(),
        }
    }
}

impl ControllerConfig {
    /// Reads the file and checks it.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn read(text: &str) -> Result<ControllerConfig, String> {
        let config: ControllerConfig =
            serde_norway::from_str(text).map_err(|error| format!("{CONFIG_KEY}: {error}"))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let deadline = self.job.active_deadline_seconds;
        if !(60..=82_800).contains(&deadline) {
            return Err(format!("{CONFIG_KEY}: job.activeDeadlineSeconds is {deadline}: expected 60 to 82800"));
        }
        let sizes = [("storage.workspaceSize", &self.storage.workspace_size)];
        for (field, size) in sizes {
            if !is_quantity(size) {
                return Err(format!("{CONFIG_KEY}: {field} is `{size}`: expected a quantity, such as 10Gi"));
            }
        }
        Ok(())
    }

    /// The image of Jobs.
    ///
    /// # Errors
    /// Where neither the settings nor the configuration name one.
    pub fn image(&self, settings: &JobSettings) -> Result<String, String> {
        if let Some(image) = settings.image.as_deref().filter(|image| !image.is_empty()) {
            return Ok(image.to_owned());
        }
        let ImageConfig { repository, tag } = &self.agent.image;
        match (repository.as_str(), tag.as_str()) {
            ("", _) => Err(format!(
                "{CONFIG_KEY}: agent.image.repository is missing: expected the image of the agent, or JOB_IMAGE"
            )),
            (_, "") => Err(format!(
                "{CONFIG_KEY}: agent.image.tag is missing: expected the version of the agent's image, or JOB_IMAGE"
            )),
            (repository, digest) if digest.starts_with("sha256:") => Ok(format!("{repository}@{digest}")),
            (repository, tag) => Ok(format!("{repository}:{tag}")),
        }
    }

    /// How long a Job stays after its end, in seconds, once the control plane has its outcome; `None` is for good.
    #[must_use]
    pub fn stays(&self, is_well: bool) -> Option<i32> {
        let CleanupConfig { enabled, completed_job_delay_minutes, failed_job_delay_minutes, .. } = self.cleanup;
        let minutes = if is_well { completed_job_delay_minutes } else { failed_job_delay_minutes };
        enabled.then(|| i32::try_from(minutes.saturating_mul(60)).unwrap_or(i32::MAX))
    }

    /// The same of a Job for whose outcome nobody will ask.
    #[must_use]
    pub fn stays_forgotten(&self, settings: &JobSettings) -> Option<i32> {
        self.cleanup.enabled.then_some(settings.ttl_seconds)
    }
}

impl JobSettings {
    /// Checks the quantities.
    ///
    /// # Errors
    /// Names the variable and what is accepted.
    pub fn check(&self) -> Result<(), String> {
        for (name, quantity) in [
            ("JOB_MEMORY_REQUEST", &self.memory_request),
            ("JOB_MEMORY_LIMIT", &self.memory_limit),
            ("JOB_CPU_REQUEST", &self.cpu_request),
            ("JOB_CPU_LIMIT", &self.cpu_limit),
        ] {
            if !is_quantity(quantity) {
                return Err(format!("{name} is `{quantity}`: expected a quantity, such as 2Gi or 500m"));
            }
        }
        if self.ttl_seconds < 30 {
            return Err(format!(
                "JOB_TTL_SECONDS is {}: expected 30 or more, so that its log can be read",
                self.ttl_seconds
            ));
        }
        Ok(())
    }
}

fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let suffix = &text[digits.len()..];
    let is_number = !digits.is_empty() && digits.parse::<f64>().is_ok_and(|number| number > 0.0);
    is_number && ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_defaults_of_the_contract_and_an_image_is_needed() {
        let config =
            ControllerConfig::read("agent: { image: { repository: ghcr.io/x/claude-code, tag: 1.0.56 } }").unwrap();
        assert_eq!(config.job.active_deadline_seconds, 7200);
        assert_eq!(config.agent.image_pull_secrets, ["ghcr-secret"]);
        assert_eq!(config.secrets.api_key_secret_name, "anthropic-api-key");
        assert_eq!((config.storage.workspace_size.as_str(), config.cleanup.failed_job_delay_minutes), ("10Gi", 60));
        let settings = JobSettings::default();
        assert_eq!(config.image(&settings).unwrap(), "ghcr.io/x/claude-code:1.0.56");
        let none = ControllerConfig::read("{}").unwrap();
        assert!(none.image(&settings).unwrap_err().contains("agent.image.repository is missing"));
        let given = JobSettings { image: Some("x:1".into()), ..settings };
        assert_eq!(none.image(&given).unwrap(), "x:1");
    }

    #[test]
    fn a_job_stays_as_long_as_cleanup_says() {
        let (config, settings) = (ControllerConfig::default(), JobSettings::default());
        assert_eq!((config.stays(true), config.stays(false)), (Some(300), Some(3600)));
        assert_eq!(config.stays_forgotten(&settings), Some(1800));
        let long = ControllerConfig::read("cleanup: { completedJobDelayMinutes: 4000000000 }").unwrap();
        assert_eq!(long.stays(true), Some(i32::MAX));
        let kept = ControllerConfig::read("cleanup: { enabled: false }").unwrap();
        assert_eq!((kept.stays(true), kept.stays(false), kept.stays_forgotten(&settings)), (None, None, None));
    }

    #[test]
    fn what_is_not_accepted_is_named() {
        for (text, named) in [
            ("job: { activeDeadlineSeconds: 1 }", "60 to 82800"),
            ("job: { activeDeadlineSeconds: x }", "activeDeadlineSeconds"),
            ("storage: { workspaceSize: huge }", "storage.workspaceSize"),
        ] {
            let error = ControllerConfig::read(text).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        let settings = JobSettings { cpu_limit: "two".into(), ..JobSettings::default() };
        assert!(settings.check().unwrap_err().contains("JOB_CPU_LIMIT"));
        assert!(JobSettings { ttl_seconds: 1, ..JobSettings::default() }.check().is_err());
        assert!(JobSettings::default().check().is_ok());
    }
}
