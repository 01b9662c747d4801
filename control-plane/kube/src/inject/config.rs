//! Settings of the injector, checked into typed values before anything starts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mindos_model::{ClusterName, Region};
use rustls::pki_types::ServerName;

use super::error::ConfigError;
use super::rotation::Policy;
use super::settings::{Native, Quantity, Resources, Settings, Trust, Wrong};
use super::trust;

/// Namespaces in which nothing is injected, beside the injector's own.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Settings of the injector.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address of the webhook: HTTPS, `POST /inject`
    #[arg(long, env = "MINDOS_INJECTOR_LISTEN", value_name = "ADDR:PORT", default_value = "[::]:8443")]
    pub listen: SocketAddr,

    /// Address of `/healthz`, `/readyz` and `/metrics`: HTTP
    #[arg(long, env = "MINDOS_INJECTOR_METRICS_LISTEN", value_name = "ADDR:PORT", default_value = "[::]:8095")]
    pub metrics_listen: SocketAddr,

    /// Namespace that this runs in
    #[arg(long, env = "MINDOS_NAMESPACE", value_name = "NAME", default_value = "mindos")]
    pub namespace: String,

    /// Further namespaces in which nothing is injected; may be given several times. The system's (kube-system, kube-public, kube-node-lease)
    /// and that of the injector always are
    #[arg(long = "exclude-namespace", env = "MINDOS_INJECTOR_EXCLUDE", value_name = "NAME", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,

    /// What becomes of a pod that says something which has no meaning, such as `mindos.io/slots: many`. `refuse` is for those who have
    /// `failurePolicy: Fail`
    #[arg(long, env = "MINDOS_INJECTOR_WRONG", value_name = "WHAT", default_value = "warn")]
    pub wrong: Wrong,

    /// How long to go on answering after SIGTERM, until API servers know that this replica ends
    #[arg(long, env = "MINDOS_INJECTOR_SHUTDOWN_DELAY", value_name = "SPAN", default_value = "5s", value_parser = span)]
    pub shutdown_delay: Duration,

    #[command(flatten)]
    pub certificate: CertificateConfig,

    #[command(flatten)]
    pub sidecar: SidecarConfig,
}

/// The webhook's certificate.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Certificate")]
pub struct CertificateConfig {
    /// Certificate of the webhook, in PEM, such as cert-manager writes it; read again when it changes. The roots in the webhook
    /// configuration are then for cert-manager to write. [default: one of its own making]
    #[arg(long, env = "MINDOS_INJECTOR_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Its key, in PEM
    #[arg(long, env = "MINDOS_INJECTOR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Secret in this namespace that holds the certificate of its own making, for all replicas
    #[arg(long, env = "MINDOS_INJECTOR_SECRET", value_name = "NAME", default_value = "mindos-injector-tls")]
    pub secret: String,

    /// How long that is good, 1m to 3650d. It is replaced when a third is left
    #[arg(long, env = "MINDOS_INJECTOR_CERTIFICATE_LIFE", value_name = "SPAN", default_value = "30d", value_parser = life)]
    pub certificate_life: Duration,

    /// Service under which API servers call
    #[arg(long, env = "MINDOS_INJECTOR_SERVICE", value_name = "NAME", default_value = "mindos-injector")]
    pub service: String,

    /// Further names and addresses that the certificate is good for; may be given several times
    #[arg(long = "server-name", env = "MINDOS_INJECTOR_SERVER_NAMES", value_name = "NAME", value_delimiter = ',')]
    pub server_names: Vec<String>,

    /// MutatingWebhookConfiguration that is given the roots
    #[arg(long, env = "MINDOS_INJECTOR_WEBHOOK_CONFIGURATION", value_name = "NAME", default_value = "mindos-injector")]
    pub webhook_configuration: String,
}

/// What sidecars get.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sidecars")]
pub struct SidecarConfig {
    /// Image of sidecars
    #[arg(long, env = "MINDOS_SIDECAR_IMAGE", value_name = "IMAGE")]
    pub image: String,

    /// When nodes pull it [default: as Kubernetes does]
    #[arg(long, env = "MINDOS_SIDECAR_PULL_POLICY", value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: Option<String>,

    /// Address of the control plane for agents
    #[arg(long, env = "MINDOS_CONTROL_PLANE", value_name = "URL")]
    pub control_plane: String,

    /// Address of the control plane's API, which gives out certificates [default: port 8090 at the host of --control-plane]
    #[arg(long, env = "MINDOS_API", value_name = "URL")]
    pub api: Option<String>,

    /// Name of this cluster
    #[arg(long, env = "MINDOS_CLUSTER", value_name = "NAME")]
    pub cluster: ClusterName,

    /// Region of this cluster
    #[arg(long, env = "MINDOS_REGION", value_name = "NAME")]
    pub region: Option<Region>,

    /// Label of this cluster, KEY=VALUE; may be given several times
    #[arg(long = "cluster-label", env = "MINDOS_CLUSTER_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub cluster_labels: Vec<String>,

    /// Audience of the service account tokens that sidecars join with
    #[arg(long, env = "MINDOS_AUDIENCE", value_name = "AUDIENCE", default_value = "mindos")]
    pub audience: String,

    /// How long those are good, 10m to 24h; Kubernetes replaces them before
    #[arg(long, env = "MINDOS_TOKEN_LIFE", value_name = "SPAN", default_value = "1h", value_parser = token_life)]
    pub token_life: Duration,

    /// Issuer of the tokens at the control plane, as `<tenant>/<name>` or `<name>`
    #[arg(long, env = "MINDOS_ISSUER", value_name = "NAME", default_value = "")]
    pub issuer: String,

    /// Roots of the control plane, in PEM. They are kept in the ConfigMap of --ca-configmap, in each namespace with injected pods
    #[arg(long, env = "MINDOS_CA", value_name = "FILE", conflicts_with_all = ["ca_sha256", "ca_system"])]
    pub ca_file: Option<PathBuf>,

    /// ConfigMap in the namespaces of pods that holds the roots of the control plane as `ca.crt`. Without --ca-file somebody else makes it
    #[arg(long, env = "MINDOS_CA_CONFIGMAP", value_name = "NAME", default_value = "mindos-ca")]
    pub ca_configmap: String,

    /// SHA-256 of the root of the control plane, instead of a ConfigMap: 64 hex digits
    #[arg(long, env = "MINDOS_CA_SHA256", value_name = "HEX", conflicts_with = "ca_system")]
    pub ca_sha256: Option<String>,

    /// The control plane has a certificate of a public authority, instead of a ConfigMap
    #[arg(long, env = "MINDOS_CA_SYSTEM")]
    pub ca_system: bool,

    /// Whether sidecars are init containers that always restart, which start before a general and end after it
    #[arg(long, env = "MINDOS_NATIVE_SIDECAR", value_name = "WHEN", default_value = "auto")]
    pub native_sidecar: Native,

    /// Port on which sidecars answer probes
    #[arg(long, env = "MINDOS_HEALTH_PORT", value_name = "PORT", default_value_t = 8092, value_parser = clap::value_parser!(u16).range(1024..))]
    pub health_port: u16,

    /// How long work may go on when a pod ends, up to 1h. Pods are given 25 s more than that
    #[arg(long, env = "MINDOS_SIDECAR_DRAIN_GRACE", value_name = "SPAN", default_value = "60s", value_parser = grace)]
    pub drain_grace: Duration,

    /// Processor that a sidecar asks for
    #[arg(long, env = "MINDOS_SIDECAR_CPU_REQUEST", value_name = "AMOUNT", default_value = "10m")]
    pub cpu_request: Quantity,

    /// Processor that a sidecar may use [default: no limit]
    #[arg(long, env = "MINDOS_SIDECAR_CPU_LIMIT", value_name = "AMOUNT")]
    pub cpu_limit: Option<Quantity>,

    /// Memory that a sidecar asks for
    #[arg(long, env = "MINDOS_SIDECAR_MEMORY_REQUEST", value_name = "AMOUNT", default_value = "32Mi")]
    pub memory_request: Quantity,

    /// Memory that a sidecar may use
    #[arg(long, env = "MINDOS_SIDECAR_MEMORY_LIMIT", value_name = "AMOUNT", default_value = "128Mi")]
    pub memory_limit: Quantity,

    /// User that sidecars run as: a number, or `image` where the image or the cluster (OpenShift) says who
    #[arg(long, env = "MINDOS_SIDECAR_USER", value_name = "UID", default_value = "65532")]
    pub run_as_user: String,

    /// Label of pods that becomes a label of their general; may be given several times
    #[arg(long = "copy-label", env = "MINDOS_COPY_LABELS", value_name = "KEY", value_delimiter = ',')]
    pub copy_labels: Vec<String>,
}

/// What a checked configuration comes to.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) settings: Settings,
    pub(super) policy: Policy,
    /// Certificate and key.
    pub(super) files: Option<(PathBuf, PathBuf)>,
    /// Roots that are kept in ConfigMaps, with the name of those.
    pub(super) roots: Option<(PathBuf, String, String)>,
}

impl Config {
    /// Checks what belongs together.
    pub(super) fn check(self) -> Result<Checked, ConfigError> {
        let Config { namespace, exclude_namespaces, wrong, certificate, sidecar, .. } = self;
        let CertificateConfig { tls_cert, tls_key, certificate_life, service, server_names, .. } = certificate;
        let files = match (tls_cert, tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(ConfigError::HalfACertificate),
        };
        let mut names: Vec<String> =
            ["", ".cluster.local"].map(|end| format!("{service}.{namespace}.svc{end}")).to_vec();
        names.extend(server_names);
        for name in &names {
            if ServerName::try_from(name.as_str()).is_err() {
                let expected = "names such as webhook.example.com, or addresses";
                return Err(ConfigError::Value { flag: "server-name", value: name.clone(), expected });
            }
        }
        names.sort();
        names.dedup();
        let excluded: BTreeSet<String> =
            SYSTEM.map(str::to_owned).into_iter().chain(exclude_namespaces).chain([namespace]).collect();
        let (settings, roots) = sidecar.check(excluded, wrong)?;
        let policy = Policy { names, life: certificate_life.as_secs() };
        Ok(Checked { settings, policy, files, roots })
    }
}

impl SidecarConfig {
    #[allow(clippy::type_complexity, reason = "read in one place")]
    fn check(
        self,
        excluded: BTreeSet<String>,
        wrong: Wrong,
    ) -> Result<(Settings, Option<(PathBuf, String, String)>), ConfigError> {
        let SidecarConfig {
            image,
            image_pull_policy,
            control_plane,
            api,
            cluster,
            region,
            cluster_labels,
            audience,
            token_life,
            issuer,
            ca_file,
            ca_configmap,
            ca_sha256,
            ca_system,
            native_sidecar,
            health_port,
            drain_grace,
            cpu_request,
            cpu_limit,
            memory_request,
            memory_limit,
            run_as_user,
            copy_labels,
        } = self;
        let uri: Option<http::Uri> = control_plane.parse().ok();
        let scheme = uri.filter(|uri| uri.authority().is_some()).and_then(|uri| uri.scheme_str().map(str::to_owned));
        let joins = match scheme.as_deref() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(ConfigError::ControlPlane(control_plane)),
        };
        for (given, flag) in
            [(ca_file.is_some(), "ca-file"), (ca_sha256.is_some(), "ca-sha256"), (ca_system, "ca-system")]
        {
            if given && !joins {
                return Err(ConfigError::InClear(flag));
            }
        }
        let bad = |flag, value: &str, expected| ConfigError::Value { flag, value: value.to_owned(), expected };
        for label in &cluster_labels {
            if label.split_once('=').is_none_or(|(key, _)| key.is_empty()) {
                return Err(bad("cluster-label", label, "KEY=VALUE"));
            }
        }
        if image.is_empty() || image.contains(char::is_whitespace) {
            return Err(bad(
                "image",
                &image,
                "the name of an image, such as registry.example.com/mindos-sidecar:0.1.0",
            ));
        }
        if audience.is_empty() {
            return Err(bad("audience", &audience, "that of the registered issuer, such as mindos"));
        }
        if ca_sha256.as_ref().is_some_and(|pin| pin.bytes().filter(u8::is_ascii_hexdigit).count() != 64) {
            return Err(bad("ca-sha256", &ca_sha256.unwrap_or_default(), "64 hex digits"));
        }
        let run_as_user = match run_as_user.as_str() {
            "image" => None,
            text => match text.parse() {
                Ok(user @ 1..) => Some(user),
                _ => return Err(bad("run-as-user", text, "a number from 1 on, or `image`")),
            },
        };
        for (request, limit, flag) in [
            (Some(&memory_request), Some(&memory_limit), "memory-limit"),
            (Some(&cpu_request), cpu_limit.as_ref(), "cpu-limit"),
        ] {
            if let (Some(request), Some(limit)) = (request, limit)
                && limit.amount() < request.amount()
            {
                return Err(bad(flag, limit.as_str(), "no less than what is asked for"));
            }
        }
        let trust = match (ca_sha256, ca_system) {
            (Some(pin), _) => Trust::Pin(pin),
            (None, true) => Trust::System,
            (None, false) => Trust::ConfigMap(ca_configmap.clone()),
        };
        let roots = match ca_file {
            Some(file) => {
                let roots = trust::read(&file).map_err(ConfigError::Roots)?;
                Some((file, ca_configmap, roots))
            }
            None => None,
        };
        let settings = Settings {
            image,
            image_pull_policy,
            control_plane,
            api,
            cluster,
            region,
            cluster_labels,
            audience,
            token_life,
            issuer,
            trust,
            native: native_sidecar,
            health_port,
            drain_grace,
            resources: Resources { cpu_request, cpu_limit, memory_request, memory_limit },
            run_as_user,
            copied_labels: copy_labels,
            excluded,
            wrong,
        };
        Ok((settings, roots))
    }
}

/// Reads a span such as `25s`.
fn span(text: &str) -> Result<Duration, String> {
    let at = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("expected a number with s, m, h or d, such as 90s".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number with s, m, h or d, such as 90s".to_owned())?;
    Ok(Duration::from_secs(number.checked_mul(seconds).ok_or("is too long")?))
}

fn within(text: &str, min: u64, max: u64, expected: &str) -> Result<Duration, String> {
    let span = span(text)?;
    if (min..=max).contains(&span.as_secs()) { Ok(span) } else { Err(expected.to_owned()) }
}

fn life(text: &str) -> Result<Duration, String> {
    within(text, 60, 3650 * 86_400, "expected 1m to 3650d")
}

fn token_life(text: &str) -> Result<Duration, String> {
    within(text, 600, 86_400, "expected 10m to 24h")
}

fn grace(text: &str) -> Result<Duration, String> {
    within(text, 0, 3600, "expected 0s to 1h")
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
