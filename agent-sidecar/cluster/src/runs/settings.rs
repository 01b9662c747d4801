//! How a cluster agent does runs.

use std::time::Duration;

use mindos_kube::platform::JobSettings;
use mindos_kube::platform::names::NAME_MAX;

/// Options of runs.
#[derive(Clone, Debug, clap::Args)]
pub struct RunsConfig {
    /// Runs of code and of documentation at a time, each kind for itself, 0 to 1000; 0 takes none.
    #[arg(long, env = "MINDOS_RUNS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000), value_name = "COUNT")]
    pub runs: u32,

    /// Namespaces in which runs may be done; in each the objects CodeRun and DocsRun are looked after.
    #[arg(long, env = "KUBERNETES_NAMESPACE", default_value = "orchestrator", value_delimiter = ',', value_parser = namespace, value_name = "NAMES")]
    pub run_namespaces: Vec<String>,

    /// ConfigMap with `config.yaml`, in the namespace of the run.
    #[arg(long, env = "CONTROLLER_CONFIG_MAP", default_value = "task-controller-config", value_name = "NAME")]
    pub run_config_map: String,

    /// ConfigMap with templates that take the place of the stock ones, in the namespace of the run. It need not be there.
    #[arg(long, env = "MINDOS_RUN_TEMPLATES", default_value = "claude-templates-configmap", value_name = "NAME")]
    pub run_templates: String,

    /// Image of Jobs, whatever `config.yaml` says.
    #[arg(long, env = "JOB_IMAGE", value_name = "IMAGE")]
    pub job_image: Option<String>,

    /// How long a Job stays after its end whose run the control plane does not know, in seconds, from 30. Others stay until it has their
    /// outcome; then the delays of `config.yaml` hold.
    #[arg(long, env = "JOB_TTL_SECONDS", default_value_t = 1800, value_name = "SECONDS")]
    pub job_ttl_seconds: i32,

    /// Memory that a Job asks for.
    #[arg(long, env = "JOB_MEMORY_REQUEST", default_value = "2Gi", value_name = "QUANTITY")]
    pub job_memory_request: String,

    /// Memory that a Job may take.
    #[arg(long, env = "JOB_MEMORY_LIMIT", default_value = "4Gi", value_name = "QUANTITY")]
    pub job_memory_limit: String,

    /// Processor that a Job asks for.
    #[arg(long, env = "JOB_CPU_REQUEST", default_value = "1", value_name = "QUANTITY")]
    pub job_cpu_request: String,

    /// Processor that a Job may take.
    #[arg(long, env = "JOB_CPU_LIMIT", default_value = "2", value_name = "QUANTITY")]
    pub job_cpu_limit: String,

    /// Where the tool server is, such as `http://toolman.mcp.svc/mcp`. Without it runs have no remote tools.
    #[arg(long, env = "TOOLMAN_SERVER_URL", default_value = "", value_name = "URL")]
    pub tool_server: String,
}

/// Settings that were checked.
#[derive(Clone, Debug)]
pub struct RunsSettings {
    pub slots: u32,
    pub namespaces: Vec<String>,
    pub config_map: String,
    pub templates: String,
    pub job: JobSettings,
    pub finalizer_timeout: Duration,
}

impl RunsConfig {
    /// Checks the options; `None` where no runs are taken. `finalizer_timeout` is how long a deleted object may wait for the control plane
    /// to hear of it.
    ///
    /// # Errors
    /// Names the option and what is accepted.
    pub fn settings(&self, finalizer_timeout: Duration) -> Result<Option<RunsSettings>, String> {
        let RunsConfig {
            runs,
            run_namespaces,
            run_config_map,
            run_templates,
            job_image,
            job_ttl_seconds,
            job_memory_request,
            job_memory_limit,
            job_cpu_request,
            job_cpu_limit,
            tool_server,
        } = self.clone();
        let job = JobSettings {
            image: job_image.filter(|image| !image.is_empty()),
            ttl_seconds: job_ttl_seconds,
            memory_request: job_memory_request,
            memory_limit: job_memory_limit,
            cpu_request: job_cpu_request,
            cpu_limit: job_cpu_limit,
            tool_server,
        };
        job.check()?;
        if run_namespaces.is_empty() {
            return Err("--run-namespaces is empty: expected a namespace at least".to_owned());
        }
        let settings = RunsSettings {
            slots: runs,
            namespaces: run_namespaces,
            config_map: run_config_map,
            templates: run_templates,
            job,
            finalizer_timeout,
        };
        Ok((runs > 0).then_some(settings))
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(fits)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_name { Ok(text.to_owned()) } else { Err("expected a namespace: 1 to 63 of a-z, 0-9 and `-`".to_owned()) }
}
