//! Who the agent is and which generals it speaks for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mindos_model::limits::{GENERALS_PER_AGENT_MAX, SLOTS_MAX};
use mindos_model::{BootId, ClusterName, GeneralName, GeneralType, InstanceId, Region};

/// Labels of a cluster or general.
pub type Labels = BTreeMap<String, String>;

/// Identity and bounds of an agent.
#[derive(Clone, Debug)]
pub struct Config {
    pub cluster: ClusterName,
    pub region: Option<Region>,
    pub cluster_labels: Labels,
    /// The same after every restart.
    pub instance: InstanceId,
    /// Fresh at every start.
    pub boot: BootId,
    /// Version of the software.
    pub version: String,
    pub generals: Vec<GeneralConfig>,
    /// Results that may wait to be settled; beyond it new work is declined.
    pub unsettled_max: usize,
    /// How old a stream may get before it is dialled anew; cut by up to a fifth by chance.
    pub stream_age_max: Duration,
    /// Start of all that is drawn by chance.
    pub seed: u64,
}

/// One general behind the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneralConfig {
    pub name: GeneralName,
    pub ty: GeneralType,
    pub labels: Labels,
    /// Deliveries that it works on at a time, from 1.
    pub slots: u32,
}

/// Why an agent cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("an agent speaks for 1 to {GENERALS_PER_AGENT_MAX} generals, not {0}")]
    Generals(usize),
    #[error("general {0} is named twice")]
    Twice(GeneralName),
    #[error("general {name} has {slots} slots: expected 1 to {SLOTS_MAX}")]
    Slots { name: GeneralName, slots: u32 },
}

impl Config {
    /// An agent with the usual bounds.
    #[must_use]
    pub fn new(
        cluster: ClusterName,
        instance: InstanceId,
        boot: BootId,
        generals: Vec<GeneralConfig>,
        seed: u64,
    ) -> Config {
        let slots: usize = generals.iter().map(|general| general.slots as usize).sum();
        Config {
            cluster,
            region: None,
            cluster_labels: Labels::new(),
            instance,
            boot,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generals,
            unsettled_max: (slots * 4).clamp(64, 100_000),
            stream_age_max: Duration::from_secs(30 * 60),
            seed,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let count = self.generals.len();
        if count == 0 || count > GENERALS_PER_AGENT_MAX {
            return Err(ConfigError::Generals(count));
        }
        let mut names = BTreeSet::new();
        for GeneralConfig { name, slots, .. } in &self.generals {
            if !names.insert(name) {
                return Err(ConfigError::Twice(name.clone()));
            }
            if *slots == 0 || *slots > SLOTS_MAX {
                return Err(ConfigError::Slots { name: name.clone(), slots: *slots });
            }
        }
        Ok(())
    }
}
