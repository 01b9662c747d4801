//! Grants: which clusters may bring routes and budgets, from which of their namespaces.
//!
//! ```yaml
//! clusters:
//!   - {name: prod-us, routes: [platform], budgets: ["*"]}    # of the tenant `default`
//!   - {name: prod-eu, tenant: acme, routes: ["*"]}
//! ```
//! Invariant: what is not granted is denied. Of its own cluster an agent may always bring `Cluster` and `General`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mindos_core::access::Identity;
use mindos_core::object::ObjectKind;
use mindos_model::{ClusterName, TenantName};
use serde::Deserialize;

/// The grants in force.
pub type Configured = Arc<ArcSwap<Grants>>;

/// Clusters, and namespaces of one of them.
const MAX: usize = 1000;

/// What the settings say of one cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSetting {
    name: String,
    tenant: Option<String>,
    #[serde(default)]
    routes: Vec<String>,
    #[serde(default)]
    budgets: Vec<String>,
}

/// Namespaces that may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Namespaces {
    all: bool,
    named: Vec<String>,
}

impl Namespaces {
    fn new(field: &str, texts: &[String]) -> Result<Namespaces, String> {
        if texts.len() > MAX {
            return Err(format!("clusters: {field}: has {} namespaces: expected at most {MAX}", texts.len()));
        }
        let mut namespaces = Namespaces::default();
        for text in texts {
            match text.as_str() {
                "*" => namespaces.all = true,
                name => {
                    let checked = Identity::check_namespace(name);
                    checked.map_err(|error| format!("clusters: {field}: {error}, or `*` for all"))?;
                    namespaces.named.push(name.to_owned());
                }
            }
        }
        Ok(namespaces)
    }

    fn has(&self, namespace: &str) -> bool {
        self.all || self.named.iter().any(|named| named == namespace)
    }
}

/// Which clusters may what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    by_cluster: BTreeMap<(TenantName, ClusterName), (Namespaces, Namespaces)>,
}

impl Grants {
    /// The grants that settings say.
    ///
    /// # Errors
    /// Names what is not accepted.
    pub fn new(settings: &[ClusterSetting]) -> Result<Grants, String> {
        if settings.len() > MAX {
            return Err(format!("clusters: has {} entries: expected at most {MAX}", settings.len()));
        }
        let mut by_cluster = BTreeMap::new();
        for ClusterSetting { name, tenant, routes, budgets } in settings {
            let cluster: ClusterName = name.parse().map_err(|error| format!("clusters: name: {error}"))?;
            let tenant = match tenant {
                Some(tenant) => tenant.parse().map_err(|error| format!("clusters: tenant: {error}"))?,
                None => TenantName::default_tenant(),
            };
            let granted = (Namespaces::new("routes", routes)?, Namespaces::new("budgets", budgets)?);
            if by_cluster.insert((tenant, cluster), granted).is_some() {
                return Err(format!("clusters: {name} stands there twice"));
            }
        }
        Ok(Grants { by_cluster })
    }

    /// Whether a cluster may bring an object of this kind from that namespace.
    #[must_use]
    pub fn allow(&self, tenant: &TenantName, cluster: &ClusterName, kind: ObjectKind, namespace: &str) -> bool {
        let granted = self.by_cluster.get(&(tenant.clone(), cluster.clone()));
        match kind {
            ObjectKind::Cluster | ObjectKind::General => true,
            ObjectKind::Route => granted.is_some_and(|(routes, _)| routes.has(namespace)),
            ObjectKind::Budget => granted.is_some_and(|(_, budgets)| budgets.has(namespace)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(yaml: &str) -> Result<Grants, String> {
        Grants::new(&serde_norway::from_str::<Vec<ClusterSetting>>(yaml).unwrap())
    }

    #[test]
    fn what_is_not_granted_is_denied() {
        let grants = grants("[{name: eu, routes: [platform]}, {name: us, tenant: acme, budgets: ['*']}]").unwrap();
        let (default, acme) = (TenantName::default_tenant(), "acme".parse().unwrap());
        let (eu, us): (ClusterName, ClusterName) = ("eu".parse().unwrap(), "us".parse().unwrap());
        assert!(grants.allow(&default, &eu, ObjectKind::Route, "platform"));
        assert!(!grants.allow(&default, &eu, ObjectKind::Route, "other"));
        assert!(!grants.allow(&default, &eu, ObjectKind::Budget, "platform"));
        assert!(!grants.allow(&acme, &eu, ObjectKind::Route, "platform"));
        assert!(
            grants.allow(&acme, &us, ObjectKind::Budget, "any")
                && !grants.allow(&default, &us, ObjectKind::Budget, "any")
        );
        assert!(Grants::default().allow(&default, &us, ObjectKind::General, "any"));
        assert!(!Grants::default().allow(&default, &us, ObjectKind::Route, "any"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, field) in [
            ("[{name: EU}]", "clusters: name"),
            ("[{name: eu, tenant: '?'}]", "clusters: tenant"),
            ("[{name: eu, routes: [a/b]}]", "clusters: routes"),
            ("[{name: eu, budgets: ['']}]", "clusters: budgets"),
            ("[{name: eu}, {name: eu}]", "clusters: eu stands there twice"),
        ] {
            let error = grants(yaml).unwrap_err();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
