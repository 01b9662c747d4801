//! Settings of a sidecar, checked into typed values before anything starts.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use crate::joining::JoiningConfig;
use http::Uri;
use http::uri::PathAndQuery;
use mindos_sdk::model::{ClusterName, GeneralName, GeneralType, InstanceId, NameError, Region};

/// Characters of a path of a general.
const PATH_MAX: usize = 256;

/// Settings of a sidecar.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address of the control plane for agents; with `https` this sidecar proves who it is by a certificate
    #[arg(long, env = "MINDOS_CONTROL_PLANE", value_name = "URL", default_value = "http://127.0.0.1:8091")]
    pub control_plane: String,

    /// Name of the cluster that this runs in
    #[arg(long, env = "MINDOS_CLUSTER", value_name = "NAME", default_value = "local")]
    pub cluster: ClusterName,

    /// Region of the cluster, such as `eu-west-1` [default: what the control plane knows]
    #[arg(long, env = "MINDOS_REGION", value_name = "NAME")]
    pub region: Option<Region>,

    /// Label of the cluster; may be given several times
    #[arg(long = "cluster-label", env = "MINDOS_CLUSTER_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub cluster_labels: Vec<Label>,

    /// Names this sidecar within the cluster, the same after every restart [default: the host's name]
    #[arg(long, env = "MINDOS_INSTANCE", value_name = "NAME")]
    pub instance: Option<InstanceId>,

    /// Kubernetes namespace; part of what the certificate says, where there is one
    #[arg(long, env = "MINDOS_NAMESPACE", value_name = "NAME", default_value = "")]
    pub namespace: String,

    /// Kubernetes pod, for people
    #[arg(long, env = "MINDOS_POD", value_name = "NAME", default_value = "")]
    pub pod: String,

    /// A general: `name=N,type=T,slots=4,label.K=V,url=http://host:port`, or instead of the url `command=C` as the last item. May
    /// be given several times; in the variable one on each line. The name is by default the type, the slots are 1. With a url
    /// `process=/path` and `ready=/path` say where it takes work and says that it is ready, instead of /process and /ready
    #[arg(
        long = "general",
        env = "MINDOS_GENERALS",
        value_name = "SPEC",
        value_delimiter = '\n',
        required = true,
        num_args = 1
    )]
    pub generals: Vec<GeneralSpec>,

    /// How long work may go on after SIGTERM before it is handed back, in seconds
    #[arg(long, env = "MINDOS_DRAIN_GRACE", value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub drain_grace: Duration,

    /// Largest output of a general, in bytes; above it the delivery is parked as too large
    #[arg(long, env = "MINDOS_OUTPUT_MAX", value_name = "BYTES", default_value_t = 16 * 1024 * 1024)]
    pub output_max: usize,

    /// Prometheus metrics of the model server behind the generals, vLLM or llama.cpp; without a path `/metrics`. Read every few
    /// seconds, so that work goes where the model is less busy [default: none]
    #[arg(long, env = "MINDOS_MODEL_METRICS", value_name = "URL")]
    pub model_metrics: Option<MetricsUrl>,

    /// Give the generals read access to the repository of their event, as `repository_access` in the body of `/process` or, to a
    /// command, in MINDOS_REPOSITORY_ACCESS: a token for that one repository that ends with the work. For generals that are trusted with it
    #[arg(long, env = "MINDOS_GIVE_REPOSITORY_ACCESS")]
    pub repository_access: bool,

    /// End by itself when all generals, having taken connections, have taken none for this long, in seconds. For pods that end, such as those
    /// of Jobs, where this runs as a plain container [default: only SIGTERM ends it]
    #[arg(long, env = "MINDOS_END_WITH_GENERAL", value_name = "SECONDS", value_parser = seconds)]
    pub end_with_general: Option<Duration>,

    /// With --end-with-general, how long generals may take until they take connections for the first time, in seconds
    #[arg(long, env = "MINDOS_GENERAL_START_MAX", value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub general_start_max: Duration,

    #[command(flatten)]
    pub joining: JoiningConfig,
}

/// Where a model server shows its metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsUrl(pub Uri);

/// One general and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneralSpec {
    pub name: GeneralName,
    pub ty: GeneralType,
    pub slots: u32,
    pub labels: BTreeMap<String, String>,
    pub target: Target,
}

/// How a general is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `POST <base>/process`, and `GET <base>/ready` before, unless other paths are given.
    Http { base: Uri, process: PathAndQuery, ready: PathAndQuery },
    /// `sh -c <command>` with the event on standard input.
    Command(String),
}

/// A label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(pub String, pub String);

/// Why a setting is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("`{0}` is not a label: expected KEY=VALUE")]
    Label(String),
    #[error(
        "`{0}` in a general's specification: expected name=, type=, slots=, label.<key>=, process=, ready=, url= or command="
    )]
    Item(String),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("slots={0}: expected a number from 1 to 10000")]
    Slots(String),
    #[error("url={0}: expected http://<host>:<port>")]
    Url(String),
    #[error("`{0}` as an address of model metrics: expected http://<host>:<port>/<path>")]
    MetricsUrl(String),
    #[error("a general needs a name or a type")]
    Nameless,
    #[error("`{0}` as a path of a general: expected one that begins with /, of at most 256 characters")]
    Path(String),
    #[error("general {0} is a command: process= and ready= are for those with url=")]
    Paths(GeneralName),
    #[error("--end-with-general is for generals with url=, and general {0} is a command")]
    NeverGone(GeneralName),
    #[error("general {0} needs either url= or command=")]
    Target(GeneralName),
    #[error("the host's name is not to be had: give --instance")]
    Instance,
}

impl FromStr for Label {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Label, ConfigError> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Label(key.to_owned(), value.to_owned())),
            _ => Err(ConfigError::Label(text.to_owned())),
        }
    }
}

impl FromStr for MetricsUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<MetricsUrl, ConfigError> {
        let refused = || ConfigError::MetricsUrl(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| refused())?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            return Err(refused());
        }
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Ok(MetricsUrl(uri));
        }
        let mut parts = uri.into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/metrics"));
        Uri::from_parts(parts).map(MetricsUrl).map_err(|_| refused())
    }
}

impl FromStr for GeneralSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<GeneralSpec, ConfigError> {
        let (mut name, mut ty, mut slots, mut labels) = (None, None, 1, BTreeMap::new());
        let (mut base, mut command, mut process, mut ready) = (None, None, None, None);
        let mut rest = text;
        while !rest.is_empty() {
            // A command may hold commas, so it takes all that is left.
            if let Some(text) = rest.strip_prefix("command=") {
                command = Some(text.to_owned());
                break;
            }
            let (item, after) = rest.split_once(',').unwrap_or((rest, ""));
            rest = after;
            let (key, value) = item.split_once('=').ok_or_else(|| ConfigError::Item(item.to_owned()))?;
            match key {
                "name" => name = Some(GeneralName::new(value)?),
                "type" => ty = Some(GeneralType::new(value)?),
                "slots" => {
                    let number = value.parse().ok().filter(|slots| (1..=10_000).contains(slots));
                    slots = number.ok_or_else(|| ConfigError::Slots(value.to_owned()))?;
                }
                "url" => base = Some(address(value)?),
                "process" => process = Some(path(value)?),
                "ready" => ready = Some(path(value)?),
                _ => match key.strip_prefix("label.").filter(|label| !label.is_empty()) {
                    Some(label) => {
                        labels.insert(label.to_owned(), value.to_owned());
                    }
                    None => return Err(ConfigError::Item(item.to_owned())),
                },
            }
        }
        let (name, ty) = match (name, ty) {
            (Some(name), Some(ty)) => (name, ty),
            (Some(name), None) => {
                let ty = GeneralType::new(name.as_str())?;
                (name, ty)
            }
            (None, Some(ty)) => (GeneralName::new(ty.as_str())?, ty),
            (None, None) => return Err(ConfigError::Nameless),
        };
        let target = match (command, base) {
            (Some(_), _) if process.is_some() || ready.is_some() => return Err(ConfigError::Paths(name)),
            (Some(command), _) => Target::Command(command),
            (None, Some(base)) => Target::Http {
                base,
                process: process.unwrap_or(PathAndQuery::from_static("/process")),
                ready: ready.unwrap_or(PathAndQuery::from_static("/ready")),
            },
            (None, None) => return Err(ConfigError::Target(name)),
        };
        Ok(GeneralSpec { name, ty, slots, labels, target })
    }
}

fn address(text: &str) -> Result<Uri, ConfigError> {
    let refused = || ConfigError::Url(text.to_owned());
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| refused())?;
    match (uri.scheme_str(), uri.authority(), uri.path(), uri.query()) {
        (Some("http"), Some(_), "" | "/", None) => Ok(uri),
        _ => Err(refused()),
    }
}

/// A path of a general.
fn path(text: &str) -> Result<PathAndQuery, ConfigError> {
    let refused = || ConfigError::Path(text.chars().take(256).collect());
    if !text.starts_with('/') || text.len() > PATH_MAX {
        return Err(refused());
    }
    text.parse().map_err(|_| refused())
}

/// A number of seconds, as options give it.
///
/// # Errors
/// Says what is accepted.
pub fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if seconds <= 3600 => Ok(Duration::from_secs(u64::from(seconds))),
        _ => Err("expected a number of seconds from 0 to 3600".to_owned()),
    }
}

/// The host's name as an instance id.
///
/// # Errors
/// When there is none that is one.
pub fn host_instance() -> Result<InstanceId, ConfigError> {
    let name = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let name = name.ok_or(ConfigError::Instance)?.trim().to_ascii_lowercase();
    InstanceId::new(&name).map_err(|_| ConfigError::Instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_general_is_read_from_its_items() {
        let spec: GeneralSpec =
            "name=sec-1,type=security-general,slots=4,label.tier=gold,url=http://127.0.0.1:8080/".parse().unwrap();
        assert_eq!((spec.name.as_str(), spec.ty.as_str(), spec.slots), ("sec-1", "security-general", 4));
        assert_eq!(spec.labels["tier"], "gold");
        let base = Uri::from_static("http://127.0.0.1:8080");
        let (process, ready) = (PathAndQuery::from_static("/process"), PathAndQuery::from_static("/ready"));
        assert_eq!(spec.target, Target::Http { base: base.clone(), process, ready });

        let spec: GeneralSpec = "name=a,ready=/healthz?x=1,process=/v1/work,url=http://127.0.0.1:8080".parse().unwrap();
        let (process, ready) = (PathAndQuery::from_static("/v1/work"), PathAndQuery::from_static("/healthz?x=1"));
        assert_eq!(spec.target, Target::Http { base, process, ready });
    }

    #[test]
    fn a_command_takes_the_rest() {
        let spec: GeneralSpec = "type=triage-general,command=jq '{a: .id, b: 1}' -c".parse().unwrap();
        assert_eq!((spec.name.as_str(), spec.slots), ("triage-general", 1));
        assert_eq!(spec.target, Target::Command("jq '{a: .id, b: 1}' -c".to_owned()));
    }

    #[test]
    fn model_metrics_are_at_their_usual_path_unless_another_is_given() {
        let read = |text: &str| text.parse::<MetricsUrl>().map(|MetricsUrl(uri)| uri.to_string());
        assert_eq!(read("http://h:8000").unwrap(), "http://h:8000/metrics");
        assert_eq!(read("http://h:8000/").unwrap(), "http://h:8000/metrics");
        assert_eq!(read("http://h:8000/m?x=1").unwrap(), "http://h:8000/m?x=1");
        for url in ["h:1", "https://h/metrics", "/metrics", ""] {
            assert!(read(url).unwrap_err().to_string().contains("expected http://"), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |text: &str| text.parse::<GeneralSpec>().unwrap_err().to_string();
        assert!(refused("url=http://h:1").contains("needs a name"));
        assert!(refused("name=a").contains("url= or command="));
        assert!(refused("name=a,slots=0,url=http://h:1").contains("slots=0"));
        assert!(refused("name=a,colour=red,url=http://h:1").contains("colour=red"));
        assert!(refused("name=A b,url=http://h:1").contains("A b"));
        assert!(refused("name=a,ready=healthz,url=http://h:1").contains("begins with /"));
        assert!(refused("name=a,ready=/a b,url=http://h:1").contains("`/a b`"));
        assert!(refused("name=a,ready=/,command=true").contains("is a command"));
        for url in ["h:1", "ftp://h", "http://h/path", "http://h?x=1"] {
            assert!(refused(&format!("name=a,url={url}")).contains("expected http://"), "{url}");
        }
    }
}
