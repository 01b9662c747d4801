//! The container that a pod gets, and the volumes that it needs.

use serde_json::{Value, json};

use super::server_version::ServerVersion;
use super::settings::{Resources, Settings, Trust};
use super::wanted::{Pod, Wanted};

/// Name of the container.
pub(super) const NAME: &str = "mindos-sidecar";
/// Volume of the projected service account token.
pub(super) const TOKEN_VOLUME: &str = "mindos-token";
/// Volume of the roots to trust.
pub(super) const CA_VOLUME: &str = "mindos-ca";
/// The key of the roots, in the ConfigMap and as a file.
pub(super) const CA_KEY: &str = "ca.crt";
/// Carries the token of who may ask the sidecar to drain.
const DRAIN_HEADER: &str = "mindos-drain";
/// With servers from here on, nodes are of 1.25 or later, whose hooks send the headers that they are given.
const HOOKS_WITH_HEADERS: ServerVersion = ServerVersion { major: 1, minor: 28 };
const TOKEN_DIR: &str = "/var/run/secrets/mindos.io/token";
const CA_DIR: &str = "/var/run/secrets/mindos.io/ca";
/// What comes on top of the time for draining before a pod is killed: handing back (3 s), settling (10 s), and the general's own end.
pub(super) const END_MAX: u64 = 25;
/// Without a connection to its general for this long, a plain container ends, in a pod of which nothing is restarted.
const GONE: u64 = 10;
/// The same in a pod whose containers are restarted when they fail, for which Kubernetes waits up to 5 min.
const GONE_RESTARTED: u64 = 360;

/// How the sidecar runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An init container that always restarts, and that Kubernetes ends after all others.
    Native,
    /// One container among others.
    Plain,
}

/// The container.
pub(super) fn container(pod: &Pod<'_>, wanted: &Wanted, settings: &Settings, place: Place, drain_token: &str) -> Value {
    let port = wanted.health_port;
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": port, "scheme": "HTTP"},
            "periodSeconds": period, "timeoutSeconds": 3, "successThreshold": 1, "failureThreshold": failures,
        })
    };
    let mut mounts = Vec::new();
    if settings.joins() {
        mounts.push(json!({"name": TOKEN_VOLUME, "mountPath": TOKEN_DIR, "readOnly": true}));
        if let Trust::ConfigMap(_) = settings.trust {
            mounts.push(json!({"name": CA_VOLUME, "mountPath": CA_DIR, "readOnly": true}));
        }
    }
    let mut container = json!({
        "name": NAME,
        "image": settings.image,
        // Kubernetes replaces `$(NAME)`, and what pods say must not name what is secret.
        "args": args(pod, wanted, settings, place).iter().map(|arg| arg.replace('$', "$$")).collect::<Vec<_>>(),
        "env": [
            field("MINDOS_POD", "metadata.name"),
            field("MINDOS_INSTANCE", "metadata.name"),
            field("MINDOS_NAMESPACE", "metadata.namespace"),
            field("MINDOS_POD_UID", "metadata.uid"),
            {"name": "MINDOS_DRAIN_TOKEN", "value": drain_token},
        ],
        "ports": [{"name": "mindos-health", "containerPort": port, "protocol": "TCP"}],
        "livenessProbe": probe("/live", 10, 3),
        "resources": resources(&wanted.resources),
        "securityContext": security(settings),
    });
    let more = container.as_object_mut().expect("it was made as a map");
    if let Some(policy) = &settings.image_pull_policy {
        more.insert("imagePullPolicy".to_owned(), json!(policy));
    }
    if !mounts.is_empty() {
        more.insert("volumeMounts".to_owned(), mounts.into());
    }
    if wanted.readiness {
        more.insert("readinessProbe".to_owned(), probe("/ready", 5, 3));
    }
    if place == Place::Native {
        more.insert("restartPolicy".to_owned(), json!("Always"));
        // What comes after it waits until it runs; not until it has joined, so that no control plane is needed for a general to start.
        more.insert("startupProbe".to_owned(), probe("/live", 1, 60));
    }
    container
}

fn args(pod: &Pod<'_>, wanted: &Wanted, settings: &Settings, place: Place) -> Vec<String> {
    let mut args = vec![
        format!("--control-plane={}", settings.control_plane),
        format!("--cluster={}", settings.cluster),
        format!("--general={}", wanted.general),
        format!("--drain-grace={}", wanted.drain_grace.as_secs()),
        format!("--ready-listen=[::]:{}", wanted.health_port),
    ];
    let mut add = |flag: &str, value: Option<&str>| args.extend(value.map(|value| format!("--{flag}={value}")));
    add("region", settings.region.as_ref().map(|region| region.as_str()));
    for label in &settings.cluster_labels {
        add("cluster-label", Some(label));
    }
    add("model-metrics", wanted.model_metrics.as_deref());
    add("output-max", wanted.output_max.map(|bytes| bytes.to_string()).as_deref());
    if settings.joins() {
        add("api", settings.api.as_deref());
        add("service-account-token", Some(&format!("{TOKEN_DIR}/token")));
        add("issuer", Some(&*settings.issuer).filter(|issuer| !issuer.is_empty()));
        match &settings.trust {
            Trust::ConfigMap(_) => add("ca", Some(&format!("{CA_DIR}/{CA_KEY}"))),
            Trust::Pin(pin) => add("ca-sha256", Some(pin)),
            Trust::System => {}
        }
    }
    // Kubernetes ends a native one by itself, and restarts everything in a pod that goes on.
    match (place, pod.spec.get("restartPolicy").and_then(Value::as_str)) {
        (Place::Plain, Some("Never")) => add("end-with-general", Some(&GONE.to_string())),
        (Place::Plain, Some("OnFailure")) => add("end-with-general", Some(&GONE_RESTARTED.to_string())),
        (Place::Plain | Place::Native, _) => {}
    }
    if wanted.repository_access {
        args.push("--repository-access".to_owned());
    }
    args
}

/// A variable with a field of the pod.
fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}

fn resources(of: &Resources) -> Value {
    let Resources { cpu_request, cpu_limit, memory_request, memory_limit } = of;
    let mut limits = json!({"memory": memory_limit.as_str()});
    if let Some(cpu) = cpu_limit {
        limits["cpu"] = json!(cpu.as_str());
    }
    json!({"requests": {"cpu": cpu_request.as_str(), "memory": memory_request.as_str()}, "limits": limits})
}

/// What the restricted level of Pod Security wants, on the container itself, so that it holds whatever the pod says.
fn security(settings: &Settings) -> Value {
    let mut security = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if let Some(user) = settings.run_as_user {
        security["runAsUser"] = json!(user);
        security["runAsGroup"] = json!(user);
    }
    security
}

/// The volumes that are not there yet. One of the same name is taken as it is.
pub(super) fn volumes(pod: &Pod<'_>, settings: &Settings) -> Vec<Value> {
    let mut volumes = Vec::new();
    if settings.joins() {
        let token = json!({"serviceAccountToken": {
            "audience": settings.audience, "expirationSeconds": settings.token_life.as_secs(), "path": "token",
        }});
        // The mode that the API server has by default: the token's own file is for who runs in the pod alone.
        volumes.push(json!({"name": TOKEN_VOLUME, "projected": {"sources": [token], "defaultMode": 420}}));
        if let Trust::ConfigMap(name) = &settings.trust {
            let items = [json!({"key": CA_KEY, "path": CA_KEY})];
            volumes.push(json!({"name": CA_VOLUME, "configMap": {"name": name, "items": items, "defaultMode": 420}}));
        }
    }
    volumes.retain(|volume| volume["name"].as_str().is_some_and(|name| !pod.has_volume(name)));
    volumes
}

/// What a general's container waits for before it is told to end: that its sidecar has finished or handed back what it works on.
pub(super) fn pre_stop(wanted: &Wanted, server: ServerVersion, drain_token: &str) -> Value {
    let port = wanted.health_port;
    if server < HOOKS_WITH_HEADERS {
        return json!({"httpGet": {"path": format!("/drain/{drain_token}"), "port": port, "scheme": "HTTP"}});
    }
    let headers = [json!({"name": DRAIN_HEADER, "value": drain_token})];
    json!({"httpGet": {"path": "/drain", "port": port, "scheme": "HTTP", "httpHeaders": headers}})
}
