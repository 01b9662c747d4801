//! Principals: who calls, for which tenant, and with which roles.
//!
//! A principal is made once a request was let in, and stays as it is while the request or stream lasts. Invariant: its tenant is the one
//! that it may act for; what a message says of tenants is never looked at.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use mindos_core::access::TokenId;
use mindos_core::route::Pattern;
use mindos_model::{Role, TenantName, Timestamp};

use crate::tls::identity::AgentIdentity;

/// Who calls.
#[derive(Clone, Debug)]
pub struct Principal {
    /// As the ledger has it, such as `token:12`.
    pub name: Arc<str>,
    pub kind: PrincipalKind,
    /// The tenant that it acts for.
    pub tenant: TenantName,
    /// What it has there, also by roles that hold for the plane.
    pub roles: Roles,
    /// What of it holds for the plane, so for every tenant.
    pub plane_roles: Roles,
    /// It said itself for which tenant it acts.
    pub is_tenant_chosen: bool,
    /// What it may publish.
    pub sources: Sources,
    /// When its credential ends; unset where that never happens.
    pub expires: Option<Timestamp>,
    /// Address that it calls from; empty for the plane itself.
    pub from: Arc<str>,
}

/// What kind of caller a principal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrincipalKind {
    /// Anybody, while access is open.
    Local,
    /// The plane itself.
    Plane,
    /// A program or person with an API token.
    ApiToken(TokenId),
    /// A person or program that an identity provider vouches for, with the groups that it states.
    Person { provider: Arc<str>, groups: Arc<[Arc<str>]> },
    /// An agent with a certificate.
    Agent(Arc<AgentIdentity>),
    /// A compatibility listener, for whoever calls it.
    Surface,
    /// A webhook, whose sender showed its secret.
    Webhook,
}

impl PrincipalKind {
    /// Whether it is an agent, by its certificate.
    #[must_use]
    pub fn is_agent(&self) -> bool {
        matches!(self, PrincipalKind::Agent(_))
    }
}

/// A set of roles.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles(u8);

impl Roles {
    pub const NONE: Roles = Roles(0);
    pub const VIEWER: Roles = Roles(1);
    pub const PUBLISHER: Roles = Roles(2);
    pub const OPERATOR: Roles = Roles(4);
    pub const ADMIN: Roles = Roles(8);

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }

    /// Whether any of the other's is among these.
    #[must_use]
    pub const fn has_any(self, other: Roles) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all of the other's are among these.
    #[must_use]
    pub const fn has_all(self, other: Roles) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles that are there, in order.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.iter().copied().filter(move |role| self.has_any(Roles::from(*role)))
    }

    /// The words of those that are there.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        self.iter().map(Role::as_str)
    }
}

impl From<Role> for Roles {
    fn from(role: Role) -> Roles {
        match role {
            Role::Viewer => Roles::VIEWER,
            Role::Publisher => Roles::PUBLISHER,
            Role::Operator => Roles::OPERATOR,
            Role::Admin => Roles::ADMIN,
        }
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<T: IntoIterator<Item = Role>>(roles: T) -> Roles {
        roles.into_iter().fold(Roles::NONE, |all, role| all.with(role.into()))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// Sources of events that a principal may name.
#[derive(Clone, Debug)]
pub enum Sources {
    All,
    /// Those that fit one of these.
    Of(Arc<[Pattern]>),
}

impl Sources {
    /// What somebody with these roles may publish: an admin everything, others what these patterns grant.
    pub fn of<'a>(roles: Roles, patterns: impl IntoIterator<Item = &'a Pattern>) -> Sources {
        match roles.has_any(Roles::ADMIN) {
            true => Sources::All,
            false => Sources::Of(patterns.into_iter().cloned().collect()),
        }
    }

    /// Whether an event of this source may be published.
    #[must_use]
    pub fn grant(&self, source: &str) -> bool {
        match self {
            Sources::All => true,
            Sources::Of(patterns) => patterns.iter().any(|pattern| pattern.fits(source)),
        }
    }

    /// The patterns; none where all sources are granted.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        match self {
            Sources::All => &[],
            Sources::Of(patterns) => patterns,
        }
    }
}

/// Text of an address that a request came from.
#[must_use]
pub fn from(peer: Option<SocketAddr>) -> Arc<str> {
    peer.map_or_else(|| Arc::from(""), |peer| Arc::from(peer.to_string()))
}

impl Principal {
    /// Anybody, while access is open: admin of the plane.
    #[must_use]
    pub fn local(tenant: Option<TenantName>, peer: Option<SocketAddr>) -> Principal {
        Principal {
            is_tenant_chosen: tenant.is_some(),
            from: from(peer),
            tenant: tenant.unwrap_or_else(TenantName::default_tenant),
            kind: PrincipalKind::Local,
            ..Principal::plane("local")
        }
    }

    /// The plane itself, in what it does of its own accord.
    #[must_use]
    pub fn plane(name: &str) -> Principal {
        Principal {
            name: Arc::from(name),
            kind: PrincipalKind::Plane,
            tenant: TenantName::default_tenant(),
            roles: Roles::ADMIN,
            plane_roles: Roles::ADMIN,
            is_tenant_chosen: false,
            sources: Sources::All,
            expires: None,
            from: Arc::from(""),
        }
    }

    /// A compatibility listener. What its paths do takes these roles.
    #[must_use]
    pub fn surface(name: &str, peer: Option<SocketAddr>) -> Principal {
        Principal {
            name: Arc::from(format!("surface:{name}")),
            kind: PrincipalKind::Surface,
            roles: Roles::VIEWER.with(Roles::PUBLISHER).with(Roles::OPERATOR),
            plane_roles: Roles::NONE,
            from: from(peer),
            ..Principal::plane("")
        }
    }

    /// A webhook, for the tenant that its setting names.
    #[must_use]
    pub fn webhook(name: &str, tenant: TenantName, peer: Option<SocketAddr>) -> Principal {
        Principal {
            name: Arc::from(format!("webhook:{name}")),
            kind: PrincipalKind::Webhook,
            tenant,
            roles: Roles::PUBLISHER,
            plane_roles: Roles::NONE,
            from: from(peer),
            ..Principal::plane("")
        }
    }

    /// An agent, by its certificate.
    #[must_use]
    pub fn agent(agent: &Arc<AgentIdentity>, trust_domain: &str, peer: Option<SocketAddr>) -> Principal {
        Principal {
            name: Arc::from(agent.identity.spiffe_id(trust_domain)),
            kind: PrincipalKind::Agent(Arc::clone(agent)),
            tenant: agent.identity.tenant.clone(),
            roles: Roles::NONE,
            plane_roles: Roles::NONE,
            is_tenant_chosen: false,
            sources: Sources::Of(Arc::from([])),
            expires: None,
            from: from(peer),
        }
    }

    /// Whether it may do all that the other may, in the same tenant.
    #[must_use]
    pub fn has_all_of(&self, other: &Principal) -> bool {
        let sources = match (&self.sources, &other.sources) {
            (Sources::All, _) => true,
            (Sources::Of(_), Sources::All) => false,
            (Sources::Of(own), Sources::Of(others)) => others.iter().all(|other| own.contains(other)),
        };
        sources && self.roles.has_all(other.roles) && self.plane_roles.has_all(other.plane_roles)
    }

    /// Whether some of its roles hold for the plane.
    #[must_use]
    pub fn is_plane(&self) -> bool {
        !self.plane_roles.is_empty()
    }

    /// Whether it sees what concerns the plane, and every tenant: a viewer of the plane that did not choose one.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        let sees = Roles::VIEWER.with(Roles::OPERATOR).with(Roles::ADMIN);
        self.plane_roles.has_any(sees) && !self.is_tenant_chosen
    }
}

/// The principal of a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller;

impl Caller {
    /// Who made a request.
    ///
    /// # Errors
    /// When the request came by no gate, which is a failure of ours.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Arc<Principal>, tonic::Status> {
        Caller::among(request.extensions())
    }

    /// Who made a request, from its extensions.
    ///
    /// # Errors
    /// As [`Caller::of`].
    pub fn among(extensions: &http::Extensions) -> Result<Arc<Principal>, tonic::Status> {
        let found = extensions.get::<Arc<Principal>>().cloned();
        found.ok_or_else(|| crate::grpc::status::internal("the request has no principal").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_granted_by_a_pattern_that_fits() {
        let of = |patterns: &[&str]| Sources::Of(patterns.iter().map(|text| Pattern::new(text).unwrap()).collect());
        assert!(Sources::All.grant("anything"));
        assert!(!of(&[]).grant("/ci"));
        assert!(of(&["/ci", "https://github.com/acme/*"]).grant("https://github.com/acme/one"));
        for refused in ["https://github.com/acmeevil", "https://github.com/other/one", "/ci/1", ""] {
            assert!(!of(&["/ci", "https://github.com/acme/*"]).grant(refused), "{refused}");
        }
    }

    #[test]
    fn roles_are_a_set() {
        let both = Roles::VIEWER.with(Roles::OPERATOR);
        assert_eq!((both.to_string(), both.has_any(Roles::PUBLISHER)), ("viewer, operator".to_owned(), false));
        assert!(Roles::NONE.is_empty() && !both.has_any(Roles::NONE));
    }

    #[test]
    fn who_has_lost_something_has_not_all_that_it_had() {
        let (all, none) = (Principal::plane("x"), Principal::surface("x", None));
        assert!(all.has_all_of(&all) && !none.has_all_of(&all));
        let viewer = Principal { roles: Roles::VIEWER, plane_roles: Roles::NONE, ..Principal::plane("x") };
        let of_plane = Principal { plane_roles: Roles::VIEWER, ..viewer.clone() };
        assert!(of_plane.has_all_of(&viewer) && !viewer.has_all_of(&of_plane));
        let publisher = |patterns: &[&str]| Principal {
            sources: Sources::Of(patterns.iter().map(|text| Pattern::new(text).unwrap()).collect()),
            ..viewer.clone()
        };
        assert!(publisher(&["/a", "/b"]).has_all_of(&publisher(&["/a"])) && viewer.has_all_of(&publisher(&["/a"])));
        assert!(!publisher(&["/a"]).has_all_of(&publisher(&["/a", "/b"])) && !publisher(&["/a"]).has_all_of(&viewer));
    }

    #[test]
    fn who_chose_a_tenant_sees_that_one_only() {
        assert!(Principal::local(None, None).sees_all());
        assert!(!Principal::local(Some("acme".parse().unwrap()), None).sees_all());
        assert!(!Principal::surface("gitlens", None).sees_all());
    }
}
