//! Pods that a cluster vouches for, by the projected service account token that they present when they join.
//!
//! ```text
//!  token --> taken apart --> issuers of the cluster by `iss` and `aud` --> times --> keys of the issuer, offline --> Attested
//!                                                                          |
//!                                                                          +--> TokenReview, where it has no keys
//! ```
//! Whether the pod may become what it wants to be is for the core to say, by the issuer's grants, when the join is decided.
//! Invariant: what tenant a pod belongs to follows from who signed for it; where that is not one tenant, nobody joins.

mod review;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mindos_core::access::{Access, Issuer, Presented};
use mindos_model::{ClusterName, TenantName, limits};
use serde_json::Value;

pub use self::review::{ReviewConfigured, ReviewError, TokenReview, TokenReviewSetting, token_reviews};
use super::jwt::JwtError;
use super::jwt::key_set::KeySet;
use super::jwt::token::{Claims, Token, TokenError};
use crate::clock::Clock;

/// By how much the clock of a cluster may differ.
const SKEW: Duration = Duration::from_secs(60);
/// Issuers with one address and audience that are tried, in all and of one tenant: so many of one keep no other out.
const CANDIDATES_MAX: usize = 64;
const CANDIDATES_OF_TENANT_MAX: usize = 4;
/// What a service account is called as a user of its cluster.
const USER_PREFIX: &str = "system:serviceaccount:";

/// A pod that an issuer vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// Tenant of the issuer.
    pub tenant: TenantName,
    /// Name of the issuer.
    pub issuer: Arc<str>,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    /// Name of the pod; empty where the token is not bound to one.
    pub pod: Arc<str>,
}

impl Attested {
    /// As the core takes it.
    #[must_use]
    pub fn presented(self) -> Presented {
        let Attested { tenant, issuer, namespace, service_account, pod } = self;
        Presented::ServiceAccount { tenant, issuer, namespace, service_account, pod }
    }
}

/// Why nobody is attested. Repeats nothing of the token and says nothing of issuers.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    #[error(transparent)]
    Jwt(#[from] JwtError),
    #[error("token is not one of a service account: expected a projected one")]
    NotServiceAccount,
    #[error("token is signed by the keys of more than one tenant's issuer")]
    Ambiguous,
    #[error("token is not accepted by its cluster")]
    Refused,
    #[error("token cannot be checked, because its cluster was not asked")]
    Unavailable(#[from] ReviewError),
}

impl AttestError {
    /// A word for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            AttestError::Jwt(error) => error.word(),
            AttestError::NotServiceAccount => "TOKEN_NOT_SERVICE_ACCOUNT",
            AttestError::Ambiguous => "TOKEN_AMBIGUOUS",
            AttestError::Refused => "TOKEN_REFUSED",
            AttestError::Unavailable(_) => "TOKEN_REVIEW_UNAVAILABLE",
        }
    }
}

impl From<TokenError> for AttestError {
    fn from(error: TokenError) -> AttestError {
        AttestError::Jwt(error.into())
    }
}

/// An issuer, by what names it.
type Place = (TenantName, ClusterName, Arc<str>);
/// A key set that was read, and the text that it was read from.
type Parsed = (Arc<str>, Option<Arc<KeySet>>);

/// Checks service account tokens.
#[derive(Debug)]
pub struct ServiceAccounts {
    clock: Clock,
    reviews: ReviewConfigured,
    parsed: Mutex<HashMap<Place, Parsed>>,
}

impl ServiceAccounts {
    /// Checks tokens with the issuers' own keys, or by asking the clusters that the settings in force name.
    #[must_use]
    pub fn new(clock: Clock, reviews: ReviewConfigured) -> ServiceAccounts {
        ServiceAccounts { clock, reviews, parsed: Mutex::default() }
    }

    /// Says which pod of a cluster presents a token, and who vouches for it.
    ///
    /// `hint` names the issuer, as `name` or `tenant/name`; empty where there is only one that fits. A control plane whose tenants do not
    /// trust each other wants `tenant/name`, or an audience of each tenant's own: addresses, audiences and keys of clusters are public, so
    /// another tenant can register the same, and a token that two tenants' issuers vouch for attests nobody.
    ///
    /// # Errors
    /// When no registered issuer of the cluster vouches for it now.
    pub async fn attest(
        &self,
        access: &Access,
        cluster: &ClusterName,
        hint: &str,
        token: &str,
    ) -> Result<Attested, AttestError> {
        let text = token;
        let token = Token::parse(text)?;
        let candidates = self.candidates(access, cluster, hint, &token);
        if candidates.is_empty() {
            return Err(JwtError::UnknownIssuer.into());
        }
        if candidates.len() > CANDIDATES_MAX {
            return Err(AttestError::Ambiguous);
        }
        super::jwt::valid_at(&token.claims, SKEW, self.clock.now())?;
        let account = Account::of(&token.claims).ok_or(AttestError::NotServiceAccount)?;
        let (mut proven, mut refused) = (Vec::new(), None);
        for candidate in candidates {
            let verified = match candidate.keys.is_empty() {
                false => self.offline(candidate, &token).map_err(AttestError::from),
                true => self.review(candidate, text, &account).await,
            };
            match verified {
                Ok(()) => proven.push(candidate),
                Err(error) => refused = Some(error),
            }
        }
        let Some(first) = proven.first() else {
            return Err(refused.unwrap_or(AttestError::Jwt(JwtError::UnknownIssuer)));
        };
        if proven.iter().any(|other| other.tenant != first.tenant) {
            return Err(AttestError::Ambiguous);
        }
        // Of several issuers of the tenant, one that has something to grant.
        let fits = |issuer: &&&Arc<Issuer>| {
            let mut grants = issuer.grants.iter();
            grants.any(|grant| grant.namespace.fits(&account.namespace) && grant.service_account.fits(&account.name))
        };
        let issuer = proven.iter().find(fits).unwrap_or(first);
        let Account { namespace, name, pod } = account;
        Ok(Attested {
            tenant: issuer.tenant.clone(),
            issuer: Arc::clone(&issuer.name),
            namespace: namespace.into(),
            service_account: name.into(),
            pod: pod.into(),
        })
    }

    /// Issuers that may have made the token, as far as names tell. One without the key that the token names is left out where others have it.
    fn candidates<'a>(
        &self,
        access: &'a Access,
        cluster: &ClusterName,
        hint: &str,
        token: &Token<'_>,
    ) -> Vec<&'a Arc<Issuer>> {
        let Claims { issuer, audiences, .. } = &token.claims;
        let (tenant, name) = match hint.split_once('/') {
            Some((tenant, name)) => (Some(tenant), name),
            None => (None, hint),
        };
        let fits = |known: &&Arc<Issuer>| {
            known.cluster == *cluster
                && *known.url == **issuer
                && audiences.iter().any(|audience| **audience == *known.audience)
                && tenant.is_none_or(|tenant| known.tenant.as_str() == tenant)
                && (name.is_empty() || *known.name == *name)
        };
        let knows_key = |known: &Issuer| {
            let keys = || self.keys(known);
            known.keys.is_empty()
                || keys().is_some_and(|keys| !keys.choose(token.algorithm, token.key_id.as_deref()).is_empty())
        };
        let named: Vec<&Arc<Issuer>> = access.issuers().filter(fits).collect();
        let knowing: Vec<&Arc<Issuer>> = named.iter().copied().filter(|known| knows_key(known)).collect();
        let mut of_tenant = BTreeMap::<&TenantName, usize>::new();
        let chosen = if knowing.is_empty() { named } else { knowing };
        let within = |known: &&'a Arc<Issuer>| {
            let count = of_tenant.entry(&known.tenant).or_default();
            *count += 1;
            *count <= CANDIDATES_OF_TENANT_MAX
        };
        chosen.into_iter().filter(within).take(CANDIDATES_MAX + 1).collect()
    }

    fn offline(&self, issuer: &Issuer, token: &Token<'_>) -> Result<(), JwtError> {
        let keys = self.keys(issuer).ok_or(JwtError::KeysUnavailable)?;
        let candidates = keys.choose(token.algorithm, token.key_id.as_deref());
        if candidates.is_empty() {
            return Err(JwtError::UnknownKey);
        }
        let signed = token.signed.as_bytes();
        match candidates.iter().any(|key| key.verify(token.algorithm, signed, &token.signature)) {
            true => Ok(()),
            false => Err(JwtError::Signature),
        }
    }

    /// The keys of an issuer, read once for each text.
    fn keys(&self, issuer: &Issuer) -> Option<Arc<KeySet>> {
        let Issuer { tenant, cluster, name, keys, .. } = issuer;
        let place = (tenant.clone(), cluster.clone(), Arc::clone(name));
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((text, known)) = parsed.get(&place)
            && Arc::ptr_eq(text, keys)
        {
            return known.clone();
        }
        if parsed.len() >= limits::ISSUERS_MAX {
            parsed.clear();
        }
        let read = KeySet::parse(keys.as_bytes()).ok().map(Arc::new);
        parsed.insert(place, (Arc::clone(keys), read.clone()));
        read
    }

    async fn review(&self, issuer: &Issuer, text: &str, account: &Account) -> Result<(), AttestError> {
        let reviews = self.reviews.load_full();
        let of = |review: &&TokenReview| review.tenant == issuer.tenant && review.cluster == issuer.cluster;
        let review = reviews.iter().find(of).ok_or(ReviewError::NotConfigured)?;
        match review.ask(text, &issuer.audience, self.clock.now()).await? {
            Some(user) if user == account.user() => Ok(()),
            _ => Err(AttestError::Refused),
        }
    }
}

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    namespace: String,
    name: String,
    pod: String,
}

impl Account {
    /// What a token says, where it says it twice and in the same words.
    fn of(claims: &Claims) -> Option<Account> {
        let own = claims.all.get("kubernetes.io")?;
        let text = |value: Option<&Value>| {
            let text = value?.as_str()?;
            let is_name = (1..=253).contains(&text.len())
                && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
            is_name.then(|| text.to_owned())
        };
        let pod = match own.get("pod") {
            None | Some(Value::Null) => String::new(),
            Some(pod) => text(pod.get("name"))?,
        };
        let (namespace, account) = (text(own.get("namespace"))?, own.get("serviceaccount")?);
        let account = Account { namespace, name: text(account.get("name"))?, pod };
        (claims.subject == account.user()).then_some(account)
    }

    fn user(&self) -> String {
        format!("{USER_PREFIX}{}:{}", self.namespace, self.name)
    }
}
