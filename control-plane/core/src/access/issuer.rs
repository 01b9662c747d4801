//! Issuers: clusters whose service account tokens let agents join.

use std::sync::Arc;

use mindos_model::{ClusterName, TenantName};

use crate::access::identity::IdentityHolder;
use crate::route::Pattern;

/// Who vouches for the pods of a cluster. There is one for each tenant, cluster and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    pub tenant: TenantName,
    pub cluster: ClusterName,
    pub name: Arc<str>,
    /// What its tokens say in `iss`.
    pub url: Arc<str>,
    /// What its tokens must say in `aud`.
    pub audience: Arc<str>,
    /// A JSON Web Key Set; empty where tokens are checked by a TokenReview.
    pub keys: Arc<str>,
    /// Which pods may join as what; the first that fits is enough.
    pub grants: Vec<IssuerGrant>,
}

/// What pods of some service accounts may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerGrant {
    pub namespace: Pattern,
    pub service_account: Pattern,
    /// Names of generals; none where empty.
    pub generals: Vec<Pattern>,
    pub cluster_agent: bool,
}

impl Issuer {
    /// Whether a pod of this service account may become that.
    #[must_use]
    pub fn grants(&self, namespace: &str, service_account: &str, wanted: &IdentityHolder) -> bool {
        self.grants.iter().any(|grant| {
            let IssuerGrant { namespace: of, service_account: account, generals, cluster_agent } = grant;
            let becomes = match wanted {
                IdentityHolder::General { general, .. } => generals.iter().any(|one| one.fits(general.as_str())),
                IdentityHolder::ClusterAgent { .. } => *cluster_agent,
            };
            becomes && of.fits(namespace) && account.fits(service_account)
        })
    }
}
