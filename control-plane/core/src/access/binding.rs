//! Bindings: which role a principal or a group has, and where.

use std::fmt;
use std::sync::Arc;

use mindos_model::{Role, TenantName};

use crate::route::Pattern;

/// Where something holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// In all tenants, and for the plane itself. Written `*`.
    Plane,
    Tenant(TenantName),
}

impl Scope {
    /// Whether what holds in the other scope lies within this one.
    #[must_use]
    pub fn covers(&self, other: &Scope) -> bool {
        *self == Scope::Plane || self == other
    }

    /// Whether it holds in that tenant.
    #[must_use]
    pub fn covers_tenant(&self, tenant: &TenantName) -> bool {
        match self {
            Scope::Plane => true,
            Scope::Tenant(own) => own == tenant,
        }
    }

    /// The tenant, where it is one.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Scope::Plane => None,
            Scope::Tenant(tenant) => Some(tenant),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Plane => f.write_str("*"),
            Scope::Tenant(tenant) => tenant.fmt(f),
        }
    }
}

/// Who has a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// One principal, by its name, such as `oidc:corp#alice`.
    Principal(Arc<str>),
    /// All principals of a group, such as `oidc:corp#team-x`.
    Group(Arc<str>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Principal(name) => write!(f, "principal {name}"),
            Subject::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// A role that somebody has. There is one for each scope, subject and role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub scope: Scope,
    pub subject: Subject,
    pub role: Role,
    /// Sources of events that a publisher may name; none where empty. Empty with every other role.
    pub sources: Vec<Pattern>,
}
