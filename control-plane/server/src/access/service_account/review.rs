//! TokenReview: a cluster is asked whether it accepts a token (`authentication.k8s.io/v1`).
//!
//! ```yaml
//! token_review:
//!   - cluster: eu                          # as agents name it
//!     tenant: default                      # whose cluster it is; `default` when left out
//!     url: https://eu.example.com:6443     # of its API server
//!     ca: /etc/mindos/eu-ca.pem            # who vouches for it; whom the machine trusts when left out
//!     token_file: /etc/mindos/eu-token     # of a service account with the role `system:auth-delegator`; read at each use
//! ```

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, StatusCode, header};
use mindos_model::{ClusterName, TenantName, Timestamp};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::access::jwt::settings::authorities;
use crate::secret::Secrets;
use mindos_outgoing::{Outgoing, OutgoingError, Request, Target};

/// Clusters in one file.
const REVIEWS_MAX: usize = 1000;
/// How long a cluster may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Questions to one cluster at a time; further ones wait.
const AT_ONCE: usize = 8;
/// For how long a token that a cluster refused is refused without asking again, and how many of them are remembered.
const REFUSED_FOR: Duration = Duration::from_secs(60);
const REFUSED_MAX: usize = 4096;
/// Bytes of a file with a token.
const TOKEN_BYTES_MAX: u64 = 16 << 10;
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The clusters in force.
pub type ReviewConfigured = Arc<ArcSwap<Vec<TokenReview>>>;

/// A cluster that may be asked, as the settings file names it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenReviewSetting {
    cluster: String,
    tenant: Option<String>,
    url: String,
    ca: Option<PathBuf>,
    token_file: PathBuf,
}

/// A cluster that may be asked.
#[derive(Clone, Debug)]
pub struct TokenReview {
    pub tenant: TenantName,
    pub cluster: ClusterName,
    target: Target,
    client: Outgoing,
    token_file: PathBuf,
    turns: Arc<Semaphore>,
    refused: Arc<Mutex<HashMap<[u8; 32], Timestamp>>>,
}

/// Why a cluster was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    #[error("`token_review` of the settings does not name the cluster")]
    NotConfigured,
    #[error("failed to read the token in `{path}`: {reason}")]
    Token { path: PathBuf, reason: String },
    #[error("failed to ask for a review of the token")]
    Asked(#[from] OutgoingError),
    #[error("{origin} did not answer in time: too many tokens wait for a review")]
    Busy { origin: String },
    #[error("{origin} answered {status} to a TokenReview: may the service account of `token_file` make one?")]
    Status { origin: String, status: StatusCode },
    #[error("{origin} answered something that is not a TokenReview")]
    Answer { origin: String, source: serde_json::Error },
}

/// Checks all clusters.
///
/// # Errors
/// Names the field and what is accepted.
pub fn token_reviews(settings: &[TokenReviewSetting], secrets: Secrets) -> Result<Vec<TokenReview>, String> {
    if settings.len() > REVIEWS_MAX {
        return Err(format!("`token_review` has {} clusters: at most {REVIEWS_MAX} are taken", settings.len()));
    }
    let mut known = BTreeSet::new();
    let mut checked = Vec::with_capacity(settings.len());
    for (index, setting) in settings.iter().enumerate() {
        let review = review(setting, secrets);
        let review = review.map_err(|(field, reason)| format!("`token_review[{index}].{field}`: {reason}"))?;
        if !known.insert((review.tenant.clone(), review.cluster.clone())) {
            return Err(format!("`token_review[{index}].cluster`: `{}` is named twice", review.cluster));
        }
        checked.push(review);
    }
    Ok(checked)
}

fn review(setting: &TokenReviewSetting, secrets: Secrets) -> Result<TokenReview, (&'static str, String)> {
    let TokenReviewSetting { cluster, tenant, url, ca, token_file } = setting;
    let tenant = match tenant {
        None => TenantName::default_tenant(),
        Some(tenant) => TenantName::new(tenant).map_err(|error| ("tenant", error.to_string()))?,
    };
    let target =
        Target::parse(url, false).and_then(|target| target.join("/apis/authentication.k8s.io/v1/tokenreviews"));
    let target = target.map_err(|_| ("url", "expected the https address of an API server".to_owned()))?;
    if !target.is_https() {
        return Err(("url", "is not https: tokens are sent there".to_owned()));
    }
    let client = match ca {
        Some(path) if secrets == Secrets::Read => {
            let pem = authorities(path).map_err(|reason| ("ca", reason))?;
            Outgoing::trusting(&pem).map_err(|error| ("ca", error.to_string()))?
        }
        _ => Outgoing::new(),
    };
    if secrets == Secrets::Read {
        bearer(token_file).map_err(|error| ("token_file", error.to_string()))?;
    }
    Ok(TokenReview {
        tenant,
        cluster: ClusterName::new(cluster).map_err(|error| ("cluster", error.to_string()))?,
        target,
        client,
        token_file: token_file.clone(),
        turns: Arc::new(Semaphore::new(AT_ONCE)),
        refused: Arc::default(),
    })
}

/// What we show to the cluster.
fn bearer(path: &Path) -> Result<HeaderValue, ReviewError> {
    let failed = |reason: String| ReviewError::Token { path: path.to_owned(), reason };
    let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > TOKEN_BYTES_MAX {
        return Err(failed("it has more than 16 KiB".to_owned()));
    }
    let token = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let token = token.trim();
    if token.is_empty() {
        return Err(failed("it is empty".to_owned()));
    }
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| failed("it holds something that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Deserialize)]
struct Answer {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    user: User,
    #[serde(default)]
    audiences: Vec<String>,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

impl TokenReview {
    /// Asks whose token this is; `None` where it is nobody's, or not for the audience.
    pub(super) async fn ask(&self, token: &str, audience: &str, now: Timestamp) -> Result<Option<String>, ReviewError> {
        // Of the audience too: the same token may be for another one.
        let hash = Sha256::new().chain_update(audience.len().to_be_bytes()).chain_update(audience).chain_update(token);
        let hash: [u8; 32] = hash.finalize().into();
        if self.refused().get(&hash).is_some_and(|until| now < *until) {
            return Ok(None);
        }
        let user = self.review(token, audience).await?;
        if user.is_none() {
            let mut refused = self.refused();
            if refused.len() >= REFUSED_MAX {
                refused.retain(|_, until| now < *until);
            }
            if refused.len() >= REFUSED_MAX {
                refused.clear();
            }
            refused.insert(hash, now + REFUSED_FOR);
        }
        Ok(user)
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<[u8; 32], Timestamp>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn review(&self, token: &str, audience: &str) -> Result<Option<String>, ReviewError> {
        let origin = self.target.origin();
        let turn = tokio::time::timeout(ANSWER_WITHIN, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| ReviewError::Busy { origin: origin.clone() })?;
        let path = self.token_file.clone();
        let read = tokio::task::spawn_blocking(move || bearer(&path)).await;
        let bearer = read.map_err(|_| ReviewError::Busy { origin: origin.clone() })??;
        let mut request = Request::new(Method::POST, self.target.clone());
        (request.timeout, request.answer_max) = (ANSWER_WITHIN, ANSWER_BYTES_MAX);
        request.headers.insert(header::AUTHORIZATION, bearer);
        request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [audience] },
        });
        request.body = review.to_string().into();
        let answer = self.client.send(request).await?;
        if !answer.status.is_success() {
            return Err(ReviewError::Status { origin, status: answer.status });
        }
        let answer = serde_json::from_slice(&answer.body).map_err(|source| ReviewError::Answer { origin, source })?;
        let Answer { status: Status { authenticated, user, audiences } } = answer;
        // A server that knows nothing of audiences answers without them, and has looked for its own.
        let is_ours = authenticated && audiences.iter().any(|found| found == audience);
        Ok(is_ours.then_some(user.username))
    }
}
