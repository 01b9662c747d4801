//! The decision: what becomes of a pod.
//!
//! ```text
//!   excluded namespace, not asked for ----------------> as it is
//!   a sidecar is there, ours or somebody's -----------> as it is
//!   something is wrong  --Wrong::Warn-----------------> as it is, with a warning and an annotation
//!                       --Wrong::Refuse---------------> refused
//!   else ---------------------------------------------> injected
//! ```
//! Invariant: of a pod that a patch was applied to, nothing more is changed by asking again.

use serde_json::{Value, json};

use super::patch::{self, Operation};
use super::server_version::ServerVersion;
use super::settings::{Native, Settings, Wrong};
use super::sidecar::{self, END_MAX, NAME, Place};
use super::wanted::{self, GENERAL, INJECT, INJECTION, Pod, Wanted};

/// Characters of what stands on a pod about why it was not injected.
const REASON_MAX: usize = 1000;

/// What chance gives to a decision.
#[derive(Clone, Copy, Debug)]
pub struct Entropy(pub [u8; 16]);

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It stays as it is: nobody asked, or the namespace is excluded.
    Left,
    /// It stays as it is: its sidecar is there.
    Present { warnings: Vec<String> },
    /// It gets its sidecar.
    Injected { patch: Vec<Operation>, warnings: Vec<String> },
    /// It stays without one, because of what it says.
    Warned { patch: Vec<Operation>, warnings: Vec<String> },
    /// It is not to be, because of what it says.
    Refused { message: String },
}

/// Decides what becomes of a pod that is to be made.
///
/// # Errors
/// Names the field where this is no pod.
pub fn decide(
    pod: &Value,
    namespace: &str,
    settings: &Settings,
    server: ServerVersion,
    entropy: Entropy,
) -> Result<Decision, String> {
    let pod = Pod::read(pod)?;
    let declined = pod.said(INJECT).is_some_and(|text| text.eq_ignore_ascii_case("false"));
    if declined || pod.said(GENERAL).is_none() || settings.excluded.contains(namespace) {
        return Ok(Decision::Left);
    }
    if let Some(name) = present(&pod) {
        let is_ours = name == NAME && pod.said(INJECTION) == Some("injected");
        let own = || format!("container `{}` is a sidecar already: none was injected", name.escape_debug());
        return Ok(Decision::Present { warnings: if is_ours { Vec::new() } else { vec![own()] } });
    }
    let wanted = match windows(&pod) {
        Some(wrong) => Err(vec![wrong]),
        None => wanted::read(&pod, settings),
    };
    Ok(match wanted {
        Ok(wanted) => {
            let place = match settings.native {
                Native::Always => Place::Native,
                Native::Auto if server.has_native_sidecars() => Place::Native,
                Native::Auto | Native::Never => Place::Plain,
            };
            injected(&pod, wanted, settings, (server, place), entropy)
        }
        Err(wrong) => refused(&pod, &wrong, settings.wrong),
    })
}

/// The container that is a sidecar already: of our name, or one that somebody wrote by hand.
fn present<'a>(pod: &Pod<'a>) -> Option<&'a str> {
    let is_one = |container: &&Value| {
        let image = container["image"].as_str().unwrap_or_default();
        let image = image.rsplit('/').next().unwrap_or_default().split(['@', ':']).next();
        let words = ["command", "args"].into_iter().filter_map(|key| container[key].as_array()).flatten();
        let mut words = words.filter_map(Value::as_str);
        let program = words.next().map(|program| program.rsplit('/').next().unwrap_or_default());
        let is_run = match program {
            Some(program) if program == NAME => true,
            Some("mindos") => words.next() == Some("sidecar"),
            _ => false,
        };
        container["name"] == NAME || image == Some(NAME) || is_run
    };
    // Ours first, so that one is told from the other.
    let all = || pod.init_containers.iter().chain(pod.containers);
    let found = all().find(|container| container["name"] == NAME).or_else(|| all().find(is_one))?;
    found["name"].as_str()
}

/// Why a pod of another system cannot have a sidecar.
fn windows(pod: &Pod<'_>) -> Option<String> {
    let selector = pod.spec.get("nodeSelector");
    let by_label = |label: &str| selector.is_some_and(|selector| selector[label] == "windows");
    let by_field = pod.spec.get("os").is_some_and(|os| os["name"] == "windows");
    let is_windows = by_field || by_label("kubernetes.io/os") || by_label("beta.kubernetes.io/os");
    is_windows.then(|| "the pod is for Windows, and sidecars run on Linux: expected another node selector".to_owned())
}

fn injected(
    pod: &Pod<'_>,
    wanted: Wanted,
    settings: &Settings,
    (server, place): (ServerVersion, Place),
    Entropy(bytes): Entropy,
) -> Decision {
    let drain_token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let container = sidecar::container(pod, &wanted, settings, place, &drain_token);
    let mut patch = Vec::new();
    let list = match place {
        Place::Native => "initContainers",
        Place::Plain => "containers",
    };
    patch::append(&mut patch, &format!("/spec/{list}"), pod.spec.get(list), vec![container]);
    let volumes = sidecar::volumes(pod, settings);
    patch::append(&mut patch, "/spec/volumes", pod.spec.get("volumes"), volumes);
    let mut warnings = wanted.warnings.clone();
    let pre_stop = sidecar::pre_stop(&wanted, server, &drain_token);
    warnings.extend(waits(pod, &wanted, pre_stop, &mut patch));
    let grace = wanted.drain_grace.as_secs() + END_MAX;
    if pod.spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30) < grace {
        patch.push(Operation::Add { path: "/spec/terminationGracePeriodSeconds".to_owned(), value: json!(grace) });
    }
    if pod.spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        let port = wanted.health_port;
        warnings.push(format!(
            "hostNetwork: the sidecar takes port {port} of the node; mindos.io/health-port says another"
        ));
    }
    patch::set(&mut patch, "/metadata/annotations", pod.metadata.get("annotations"), INJECTION, "injected");
    Decision::Injected { patch, warnings }
}

/// Has the general's container wait for the drain of its sidecar before it is told to end.
fn waits(pod: &Pod<'_>, wanted: &Wanted, pre_stop: Value, patch: &mut Vec<Operation>) -> Option<String> {
    let at = wanted.container;
    let lifecycle = pod.containers[at].get("lifecycle");
    let path = format!("/spec/containers/{at}/lifecycle");
    match lifecycle {
        Some(Value::Object(map)) => match map.get("preStop") {
            None | Some(Value::Null) => patch.push(Operation::Add { path: format!("{path}/preStop"), value: pre_stop }),
            Some(_) => {
                let name = pod.containers[at]["name"].as_str().unwrap_or_default().escape_debug();
                return Some(format!(
                    "container `{name}` has a preStop of its own: it has to last until its work is done"
                ));
            }
        },
        _ => patch.push(Operation::Add { path, value: json!({"preStop": pre_stop}) }),
    }
    None
}

fn refused(pod: &Pod<'_>, wrong: &[String], how: Wrong) -> Decision {
    let message = wrong.join("; ");
    match how {
        Wrong::Refuse => Decision::Refused { message },
        Wrong::Warn => {
            let reason = format!("not injected: {message}").chars().take(REASON_MAX).collect::<String>();
            let mut patch = Vec::new();
            patch::set(&mut patch, "/metadata/annotations", pod.metadata.get("annotations"), INJECTION, &reason);
            Decision::Warned { patch, warnings: wrong.iter().map(|wrong| format!("not injected: {wrong}")).collect() }
        }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
pub(super) mod tests;
