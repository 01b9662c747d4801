//! Settings of a cluster agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mindos_agent_sidecar::JoiningConfig;
use mindos_agent_sidecar::config::{Label, seconds};
use mindos_sdk::model::{ClusterName, InstanceId, Region};

use crate::runs::RunsConfig;

/// Settings of a cluster agent.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address of the control plane for agents; with `https` this agent proves who it is by a certificate
    #[arg(long, env = "MINDOS_CONTROL_PLANE", value_name = "URL", default_value = "http://127.0.0.1:8091")]
    pub control_plane: String,

    /// Name of the cluster that this runs in
    #[arg(long, env = "MINDOS_CLUSTER", value_name = "NAME")]
    pub cluster: ClusterName,

    /// Region of the cluster, such as `eu-west-1` [default: what the control plane knows]
    #[arg(long, env = "MINDOS_REGION", value_name = "NAME")]
    pub region: Option<Region>,

    /// Label of the cluster; may be given several times
    #[arg(long = "cluster-label", env = "MINDOS_CLUSTER_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub cluster_labels: Vec<Label>,

    /// Names this agent within the cluster: its pod's name [default: the host's name]
    #[arg(long, env = "MINDOS_INSTANCE", value_name = "NAME")]
    pub instance: Option<InstanceId>,

    /// Kubernetes namespace that this runs in; its Lease is there
    #[arg(long, env = "MINDOS_NAMESPACE", value_name = "NAME", default_value = "default", value_parser = namespace)]
    pub namespace: String,

    /// Namespace to look for generals in; may be given several times [default: all]
    #[arg(
        long = "watch-namespace",
        env = "MINDOS_WATCH_NAMESPACES",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = namespace
    )]
    pub watch_namespaces: Vec<String>,

    /// Kubeconfig of the cluster [default: the pod's own service account, else $KUBECONFIG]
    #[arg(long, env = "MINDOS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: the current one]
    #[arg(long, env = "MINDOS_KUBE_CONTEXT", value_name = "NAME", requires = "kubeconfig")]
    pub kube_context: Option<String>,

    /// Do not look for generals: this agent has other work
    #[arg(long, env = "MINDOS_NO_DISCOVERY")]
    pub no_discovery: bool,

    /// Leave objects of `mindos.io/v1alpha1` alone
    #[arg(long, env = "MINDOS_NO_OBJECTS")]
    pub no_objects: bool,

    /// How long an object that is deleted waits for the control plane before it is let go, in seconds
    #[arg(long, env = "MINDOS_FINALIZER_TIMEOUT", value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub finalizer_timeout: Duration,

    /// How often the objects are compared with what the control plane holds, in seconds; refused ones are tried again then
    #[arg(long, env = "MINDOS_OBJECTS_RESYNC", value_name = "SECONDS", default_value = "60", value_parser = resync_seconds)]
    pub objects_resync: Duration,

    /// Slots of a pod that does not say `mindos.io/slots`
    #[arg(long, env = "MINDOS_SLOTS", value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub slots: u32,

    /// Name of the Lease by which one of several agents of the cluster is at work
    #[arg(long, env = "MINDOS_LEASE", value_name = "NAME", default_value = "mindos-cluster-agent", value_parser = lease_name)]
    pub lease: String,

    /// How long an agent that is not heard of keeps the Lease, in seconds, from 5
    #[arg(long, env = "MINDOS_LEASE_DURATION", value_name = "SECONDS", default_value = "15", value_parser = lease_seconds)]
    pub lease_duration: Duration,

    /// How long work may go on after SIGTERM before it is handed back, in seconds
    #[arg(long, env = "MINDOS_DRAIN_GRACE", value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub drain_grace: Duration,

    /// Largest output of a general, in bytes; above it the delivery is parked as too large
    #[arg(long, env = "MINDOS_OUTPUT_MAX", value_name = "BYTES", default_value_t = 16 * 1024 * 1024)]
    pub output_max: usize,

    /// Give the generals read access to the repository of their event, as `repository_access` in the body of `/process`: a token for
    /// that one repository that ends with the work. For generals that are trusted with it
    #[arg(long, env = "MINDOS_GIVE_REPOSITORY_ACCESS")]
    pub repository_access: bool,

    /// Answer GET /healthz, /readyz and /metrics here
    #[arg(long, env = "MINDOS_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8093")]
    pub listen: SocketAddr,

    #[command(flatten)]
    pub joining: JoiningConfig,

    #[command(flatten)]
    pub runs: RunsConfig,
}

/// The examples of the help.
pub const EXAMPLES: &str = "\
Examples:
  In a pod, by its own service account; the control plane was told of the cluster with `mindos issuers`:
    mindos-cluster-agent --control-plane https://mindos.example.com:8091 --ca /etc/mindos/ca.pem --cluster prod-us \\
      --namespace mindos --service-account-token /var/run/secrets/mindos/token --listen 0.0.0.0:8093

  From outside, with a kubeconfig, joining once with a token of `mindos tokens create --cluster eu --cluster-agent`:
    MINDOS_JOIN_TOKEN=mindos_join_... mindos-cluster-agent --control-plane https://mindos.example.com:8091 --ca ca.pem \\
      --cluster eu --kubeconfig eu.kubeconfig --identity-dir ./identity --watch-namespace agents

Pods labelled `app: llm-general` and `type: <short>`, or labelled or annotated `mindos.io/general: <type>`, are generals, and so are the pods
of Services that are. Annotations: `mindos.io/slots`, `mindos.io/port`, `mindos.io/labels`. Pods with a sidecar are left to it.

SIGTERM and SIGINT drain: no new work, what runs may finish, the rest is handed back, and another agent takes over.";

/// Checks the name of a namespace: a DNS label.
fn namespace(text: &str) -> Result<String, String> {
    label(text, 63, false).ok_or_else(|| "expected 1 to 63 of a-z, 0-9 and, inside, `-`".to_owned())
}

/// Checks the name of an object: a DNS subdomain.
fn lease_name(text: &str) -> Result<String, String> {
    label(text, 253, true).ok_or_else(|| "expected 1 to 253 of a-z, 0-9 and, inside, `-` and `.`".to_owned())
}

fn label(text: &str, max: usize, dots: bool) -> Option<String> {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let fits = (1..=max).contains(&bytes.len())
        && bytes.iter().all(|byte| edge(*byte) || *byte == b'-' || (dots && *byte == b'.'))
        && bytes.first().is_some_and(|byte| edge(*byte))
        && bytes.last().is_some_and(|byte| edge(*byte));
    fits.then(|| text.to_owned())
}

fn resync_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if (1..=3600).contains(&seconds) => Ok(Duration::from_secs(u64::from(seconds))),
        _ => Err("expected a number of seconds from 1 to 3600".to_owned()),
    }
}

fn lease_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if (5..=3600).contains(&seconds) => Ok(Duration::from_secs(u64::from(seconds))),
        _ => Err("expected a number of seconds from 5 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Args {
        #[command(flatten)]
        config: Config,
    }

    fn read(args: &[&str]) -> Result<Config, String> {
        let args = ["agent", "--cluster", "c"].iter().chain(args);
        Args::try_parse_from(args).map(|args| args.config).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_accepted() {
        for (args, expected) in [
            (["--namespace", "Not_one"], "--namespace <NAME>': expected 1 to 63"),
            (["--watch-namespace", "a,-b"], "expected 1 to 63"),
            (["--lease", "a/b"], "expected 1 to 253"),
            (["--lease-duration", "4"], "from 5 to 3600"),
            (["--slots", "0"], "0 is not in 1..=10000"),
            (["--kube-context", "c"], "--kubeconfig"),
        ] {
            let error = read(&args).unwrap_err();
            assert!(error.contains(expected), "{args:?}: {error}");
        }
    }

    #[test]
    fn several_namespaces_may_be_given() {
        let config = read(&["--watch-namespace", "a,b", "--watch-namespace", "c"]).unwrap();
        assert_eq!(config.watch_namespaces, ["a", "b", "c"]);
        assert_eq!((config.lease_duration, config.slots), (Duration::from_secs(15), 1));
    }
}
