//! Who may send webhooks: what the settings file says of GitLab, Alertmanager and everybody else.
//!
//! Invariant: a door that nothing was configured for is shut, unless verification was switched off, and then only this machine
//! may pass.

use std::collections::BTreeMap;

use mindos_model::TenantName;

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
    /// Whose events they are, by what stands behind `/webhooks/` in the path. Those of the tenant `default` where nothing is said.
    pub tenants: BTreeMap<String, TenantName>,
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
        tenants: &BTreeMap<String, String>,
    ) -> Result<Doors, String> {
        let tokens = |name: &str, setting: Option<&SecretSetting>| {
            setting.map(SecretSetting::tokens).transpose().map_err(|error| format!("`{name}`: {error}"))
        };
        if generic.len() > MAPPINGS_MAX {
            return Err(format!("`ingest` has {} mappings: at most {MAPPINGS_MAX} are taken", generic.len()));
        }
        let is_door = |path: &str| match path.strip_prefix("generic/") {
            Some(name) => generic.contains_key(name),
            None => ["github", "gitlab", "alertmanager"].contains(&path),
        };
        let tenant = |(path, name): (&String, &String)| {
            if !is_door(path) {
                let accepted = "expected github, gitlab, alertmanager, or generic/ and a name under `ingest`";
                return Err(format!("`webhook_tenants.{path}`: is no webhook: {accepted}"));
            }
            let tenant = name.parse().map_err(|error| format!("`webhook_tenants.{path}`: {error}"))?;
            Ok((path.clone(), tenant))
        };
        let hook = |(name, setting): (&String, &GenericSetting)| Ok((name.clone(), GenericHook::new(name, setting)?));
        Ok(Doors {
            unsigned: false,
            gitlab: tokens("gitlab", gitlab)?,
            alertmanager: tokens("alertmanager", alertmanager)?,
            generic: generic.iter().map(hook).collect::<Result<_, String>>()?,
            tenants: tenants.iter().map(tenant).collect::<Result<_, String>>()?,
        })
    }

    /// Whose events come by a door, named by what stands behind `/webhooks/` in its path.
    #[must_use]
    pub fn tenant(&self, path: &str) -> TenantName {
        self.tenants.get(path).cloned().unwrap_or_else(TenantName::default_tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_belongs_to_the_tenant_that_is_named() {
        let tenants = |text: &str| {
            let tenants: BTreeMap<String, String> = serde_norway::from_str(text).unwrap();
            Doors::new(None, None, &BTreeMap::new(), &tenants)
        };
        let doors = tenants("{github: acme}").unwrap();
        assert_eq!((doors.tenant("github").as_str(), doors.tenant("gitlab").as_str()), ("acme", "default"));
        for wrong in ["{gitea: acme}", "{generic/ci: acme}", "{github: 'A B'}"] {
            let error = tenants(wrong).unwrap_err();
            assert!(error.contains("webhook_tenants."), "{error}");
        }
    }
}
