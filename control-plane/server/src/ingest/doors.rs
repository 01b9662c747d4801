//! Who may send webhooks: what the settings file says of GitLab, Alertmanager and everybody else.
//!
//! Invariant: a door that nothing was configured for is shut, unless verification was switched off, and then only this machine
//! may pass.

use std::collections::BTreeMap;

use super::generic::{GenericHook, GenericSetting, MAPPINGS_MAX};
use super::hook::{SecretSetting, Tokens};

/// The doors in force. GitHub's is beside them.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    /// What has no secret is taken from this machine.
    pub unsigned: bool,
    pub gitlab: Option<Tokens>,
    pub alertmanager: Option<Tokens>,
    /// By the last part of the path.
    pub generic: BTreeMap<String, GenericHook>,
}

impl Doors {
    /// Checks what the settings file says.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn new(
        gitlab: Option<&SecretSetting>,
        alertmanager: Option<&SecretSetting>,
        generic: &BTreeMap<String, GenericSetting>,
    ) -> Result<Doors, String> {
        let tokens = |name: &str, setting: Option<&SecretSetting>| {
            setting.map(SecretSetting::tokens).transpose().map_err(|error| format!("`{name}`: {error}"))
        };
        if generic.len() > MAPPINGS_MAX {
            return Err(format!("`ingest` has {} mappings: at most {MAPPINGS_MAX} are taken", generic.len()));
        }
        let hook = |(name, setting): (&String, &GenericSetting)| Ok((name.clone(), GenericHook::new(name, setting)?));
        Ok(Doors {
            unsigned: false,
            gitlab: tokens("gitlab", gitlab)?,
            alertmanager: tokens("alertmanager", alertmanager)?,
            generic: generic.iter().map(hook).collect::<Result<_, String>>()?,
        })
    }
}
