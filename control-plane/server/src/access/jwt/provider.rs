//! One identity provider: its keys, fetched over HTTPS when they are needed.
//!
//! Invariant: one fetch at a time, which goes on when whoever asked for it has left, so nobody can keep keys from being fetched by
//! asking and leaving.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use mindos_model::Timestamp;
use serde::Deserialize;
use tracing::{info, warn};

use super::key_set::{KEY_SET_BYTES_MAX, KeySet, KeySetError};
use super::keys::{Keys, fresh_for};
use super::settings::OidcProvider;
use crate::clock::Clock;
use crate::logging::Chain;
use mindos_outgoing::{Answer, Outgoing, OutgoingError, Request, Target, TargetError, TrustError};

/// How long one answer of a provider may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// How long newer keys are waited for where older ones would do.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why keys were not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("failed to ask for {what}")]
    Asked { what: &'static str, source: OutgoingError },
    #[error("{origin} answered {status} to the question for {what}")]
    Status { what: &'static str, origin: String, status: StatusCode },
    #[error("description of the provider is not JSON with `issuer` and `jwks_uri`")]
    Description(#[source] serde_json::Error),
    #[error("description of the provider is of another issuer, `{found}`, not of `{expected}`")]
    Issuer { expected: Arc<str>, found: String },
    #[error("address of the keys")]
    Address(#[from] TargetError),
    #[error("address of the keys is not https, but that of the issuer is")]
    Downgrade,
    #[error("keys are not usable")]
    Keys(#[from] KeySetError),
}

/// How often keys were fetched.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    pub(super) done: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// A provider and its keys.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) settings: OidcProvider,
    pub(super) fetches: Fetches,
    client: Outgoing,
    clock: Clock,
    keys: Mutex<Keys>,
    flight: Arc<tokio::sync::Mutex<()>>,
}

impl Provider {
    pub(super) fn new(settings: OidcProvider, clock: Clock, client: &Outgoing) -> Result<Provider, TrustError> {
        let client = match &settings.ca {
            None => client.clone(),
            Some(pem) => Outgoing::trusting(pem)?,
        };
        let (keys, flight) = (Mutex::default(), Arc::default());
        Ok(Provider { settings, fetches: Fetches::default(), client, clock, keys, flight })
    }

    /// The keys, fetched where they are stale; `None` when none are at hand.
    pub(super) async fn keys(self: &Arc<Self>) -> Option<Arc<KeySet>> {
        let (stale, usable) = self.with(|keys, now| (keys.is_stale(now), keys.usable(now)));
        if !stale {
            return usable;
        }
        match usable {
            // A provider that does not answer must not hold everybody up.
            Some(_) => drop(tokio::time::timeout(PATIENCE, self.fetched(Keys::is_stale)).await),
            None => self.fetched(Keys::is_stale).await,
        }
        self.with(|keys, now| keys.usable(now))
    }

    /// The keys, fetched anew where that may be done: a token names one that is not among them.
    pub(super) async fn newer_keys(self: &Arc<Self>) -> Option<Arc<KeySet>> {
        self.fetched(|_, _| true).await;
        self.with(|keys, now| keys.usable(now))
    }

    /// Makes what is known of the keys older, as if time had passed.
    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        self.with(|keys, _| keys.age(by));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Keys, Timestamp) -> T) -> T {
        work(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner), self.clock.now())
    }

    /// Fetches keys where they are wanted and may be asked for; where that is being done, waits for it.
    async fn fetched(self: &Arc<Self>, wanted: fn(&Keys, Timestamp) -> bool) {
        let flight = Arc::clone(&self.flight).lock_owned().await;
        if !self.with(|keys, now| wanted(keys, now) && keys.may_try(now)) {
            return;
        }
        self.with(Keys::trying);
        let provider = Arc::clone(self);
        let fetching = tokio::spawn(async move {
            let _flight = flight;
            provider.fetch().await;
        });
        // It fails only when the process ends.
        let _ = fetching.await;
    }

    async fn fetch(&self) {
        let provider = &*self.settings.name;
        match self.ask().await {
            Ok((set, fresh)) => {
                self.fetches.done.fetch_add(1, Ordering::Relaxed);
                info!(provider, keys = ?set, "keys of the identity provider fetched");
                self.with(|keys, now| keys.took(set, fresh, now));
            }
            Err(error) => {
                self.fetches.failed.fetch_add(1, Ordering::Relaxed);
                let usable = self.with(|keys, now| {
                    keys.failed();
                    keys.usable(now).is_some()
                });
                warn!(error = %Chain(&error), provider, usable, "keys of the identity provider not fetched");
            }
        }
    }

    async fn ask(&self) -> Result<(KeySet, Option<Duration>), FetchError> {
        let keys = match &self.settings.jwks {
            Some(keys) => keys.clone(),
            None => self.discover().await?,
        };
        let answer = self.get(keys, "its keys").await?;
        Ok((KeySet::parse(&answer.body)?, fresh_for(&answer.headers)))
    }

    async fn discover(&self) -> Result<Target, FetchError> {
        #[derive(Deserialize)]
        struct Description {
            issuer: String,
            jwks_uri: String,
        }
        let answer = self.get(self.settings.discovery.clone(), "its description").await?;
        let description = serde_json::from_slice(&answer.body).map_err(FetchError::Description)?;
        let Description { issuer, jwks_uri } = description;
        if *issuer != *self.settings.issuer {
            let found = issuer.chars().filter(|letter| !letter.is_control()).take(200).collect();
            return Err(FetchError::Issuer { expected: Arc::clone(&self.settings.issuer), found });
        }
        let keys = Target::parse(&jwks_uri, false)?;
        match self.settings.discovery.is_https() && !keys.is_https() {
            true => Err(FetchError::Downgrade),
            false => Ok(keys),
        }
    }

    async fn get(&self, target: Target, what: &'static str) -> Result<Answer, FetchError> {
        let origin = target.origin();
        let mut request = Request::new(Method::GET, target);
        request.timeout = ANSWER_WITHIN;
        request.answer_max = KEY_SET_BYTES_MAX;
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.client.send(request).await.map_err(|source| FetchError::Asked { what, source })?;
        match answer.status {
            StatusCode::OK => Ok(answer),
            status => Err(FetchError::Status { what, origin, status }),
        }
    }
}
