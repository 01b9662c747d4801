//! The injector as a program: `mindos injector`, and `mindos-control-plane injector`, as images have one program for both.
//!
//! Invariant: it has nothing of a control plane: no data, no journal, none of its ports.

use crate::logging::{self, LogFormat, LoggingError};
use crate::run::signalled;

/// Settings of the injector.
#[derive(Clone, Debug, clap::Args)]
pub struct InjectorArgs {
    #[command(flatten)]
    pub config: mindos_kube::inject::Config,

    /// What is logged, such as `info` or `info,mindos_kube=debug`
    #[arg(long, env = "MINDOS_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// How log lines are written: `human` or `json`
    #[arg(long, env = "MINDOS_LOG_FORMAT", default_value_t = LogFormat::Human, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// For the help of both programs.
pub const EXAMPLES: &str = "\
Examples:
  In a pod, with a certificate of its own making:
    mindos injector --image registry.example.com/mindos-sidecar:0.1.0 --control-plane https://mindos.example.com:8091 \\
      --cluster eu --audience mindos/default --ca-file /etc/mindos/ca.crt

  With one of cert-manager:
    mindos injector --image registry.example.com/mindos-sidecar:0.1.0 --control-plane https://mindos.example.com:8091 \\
      --cluster eu --ca-system --tls-cert /etc/tls/tls.crt --tls-key /etc/tls/tls.key

Pods with the label `mindos.io/general: <type>` get a sidecar when they are made; docs/kubernetes.md has what else they may say.
The cluster is that of the pod's service account, or else that of KUBECONFIG. SIGTERM and SIGINT end it when nothing is under way.";

/// Why the injector did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum InjectorError {
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error("failed to start")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Run(#[from] mindos_kube::inject::RunError),
}

impl InjectorError {
    /// Whether other settings would have helped.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        use mindos_kube::inject::RunError;
        match self {
            InjectorError::Logging(_) | InjectorError::Run(RunError::Config(_) | RunError::Kube(_)) => true,
            InjectorError::Runtime(_) | InjectorError::Run(RunError::Listen { .. }) => false,
        }
    }
}

/// Runs the injector until the process is told to end.
///
/// # Errors
/// When it cannot start.
pub fn run_until_signal(args: InjectorArgs) -> Result<(), InjectorError> {
    let InjectorArgs { config, log, log_format } = args;
    logging::init(log_format, &log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(InjectorError::Runtime)?.block_on(mindos_kube::inject::run(config, signalled()))?;
    Ok(())
}
