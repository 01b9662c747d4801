//! What injection goes by, checked.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mindos_model::{ClusterName, Region};

/// What every sidecar gets, unless its pod says otherwise.
#[derive(Clone, Debug)]
pub struct Settings {
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; the server's own choice where unset.
    pub image_pull_policy: Option<String>,
    pub control_plane: String,
    pub api: Option<String>,
    pub cluster: ClusterName,
    pub region: Option<Region>,
    /// `KEY=VALUE`.
    pub cluster_labels: Vec<String>,
    /// Of the projected token.
    pub audience: String,
    /// Of the projected token; 10 min to 24 h.
    pub token_life: Duration,
    pub issuer: String,
    pub trust: Trust,
    pub native: Native,
    pub health_port: u16,
    pub drain_grace: Duration,
    pub resources: Resources,
    /// Unset leaves it to the image, or to what the cluster assigns.
    pub run_as_user: Option<u32>,
    /// Labels of pods that become labels of their general.
    pub copied_labels: Vec<String>,
    /// In these nothing is injected, whatever pods say.
    pub excluded: BTreeSet<String>,
    pub wrong: Wrong,
}

impl Settings {
    /// Whether sidecars prove who they are.
    pub(super) fn joins(&self) -> bool {
        self.control_plane.starts_with("https://")
    }
}

/// Whom sidecars believe at the first contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The roots in `ca.crt` of this ConfigMap in the pod's namespace.
    ConfigMap(String),
    /// The root with this SHA-256.
    Pin(String),
    /// Public authorities.
    System,
}

/// Whether sidecars are init containers that always restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Native {
    /// Where the API server is of version 1.29 or later
    #[default]
    Auto,
    /// Always
    Always,
    /// Never, for clusters that have nodes before 1.29
    Never,
}

/// What becomes of a pod that says something which has no meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Wrong {
    /// It is admitted without a sidecar, with a warning and an annotation
    #[default]
    Warn,
    /// It is refused
    Refuse,
}

/// What a sidecar asks of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    pub cpu_request: Quantity,
    pub cpu_limit: Option<Quantity>,
    pub memory_request: Quantity,
    pub memory_limit: Quantity,
}

/// An amount of processor or memory as Kubernetes writes it, such as `10m` or `32Mi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity(String);

impl Quantity {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// As a number of cores or bytes, to compare.
    pub(super) fn amount(&self) -> f64 {
        let end = self.0.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.0.len());
        let (number, unit) = self.0.split_at(end);
        let factor = match unit {
            "m" => 1e-3,
            "k" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            "Ki" => 1024.0,
            "Mi" => 1024.0 * 1024.0,
            "Gi" => 1024.0 * 1024.0 * 1024.0,
            _ => 1.0,
        };
        number.parse::<f64>().unwrap_or_default() * factor
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Quantity, String> {
        let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let is_number = number.len() <= 12 && number.starts_with(|first: char| first.is_ascii_digit());
        let is_amount = is_number && number.parse().is_ok_and(|number: f64| number > 0.0);
        if is_amount && ["", "m", "k", "Ki", "M", "Mi", "G", "Gi"].contains(&unit) {
            Ok(Quantity(text.to_owned()))
        } else {
            Err("expected an amount such as 10m, 0.5, 32Mi or 1Gi".to_owned())
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_those_of_kubernetes() {
        for text in ["10m", "0.5", "1", "32Mi", "1Gi", "1.5G", "100k"] {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), text);
        }
        for text in ["", "0", "m", "-1", "1 Mi", "1mi", "1e3", ".5", "1..2", "32MB", "١"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }
}
