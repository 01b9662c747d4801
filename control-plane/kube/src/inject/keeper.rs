//! Keeps the injector's certificate: in one Secret that all replicas share, in force here, and believed by the API server.
//!
//! Invariant: the Secret is written only as it was read (by its resource version), so of several replicas one takes each step. What is in force stays
//! in force while the API server is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tracing::{info, warn};

use super::certificate::{CertificateError, Pair};
use super::metrics::Metrics;
use super::rotation::{Material, Policy, SINCE, step};
use super::serve::InForce;

/// Who applies roots and certificates. Another than the one that applies the configuration itself, or each would take away what the other has set.
pub(super) const MANAGER: &str = "mindos-injector";
/// Longest wait between two looks.
const LOOK_MAX: Duration = Duration::from_secs(15);
/// Between two looks after one that failed.
const RETRY: Duration = Duration::from_secs(3);
/// Steps in a row, each after somebody else's.
const STEPS_MAX: usize = 5;

/// Seconds since the epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Keeps the certificate.
pub(super) struct Keeper {
    pub(super) secrets: Api<Secret>,
    pub(super) configurations: Api<MutatingWebhookConfiguration>,
    pub(super) secret: String,
    pub(super) configuration: String,
    pub(super) policy: Policy,
    pub(super) in_force: Arc<InForce>,
    pub(super) metrics: Arc<Metrics>,
    /// The roots that the configuration was last seen with.
    pub(super) published: String,
}

#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error("secret `{name}`")]
    Secret { name: String, source: kube::Error },
    #[error("webhook configuration `{name}`")]
    Configuration { name: String, source: kube::Error },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("secret `{0}` is changed by others again and again")]
    Contended(String),
}

impl Keeper {
    /// Keeps it until it is dropped.
    pub(super) async fn run(mut self) {
        let look = Duration::from_secs(self.policy.settle()).div_f64(4.0).min(LOOK_MAX);
        let mut failed = String::new();
        loop {
            let wait = match self.turn().await {
                Ok(()) => {
                    if !std::mem::take(&mut failed).is_empty() {
                        info!("certificate is kept again");
                    }
                    look
                }
                Err(error) => {
                    let text = chain(&error);
                    // Once for each reason, not every three seconds.
                    if text != failed {
                        warn!(error = %text, "certificate could not be kept");
                    }
                    failed = text;
                    RETRY.min(look)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn turn(&mut self) -> Result<(), KeeperError> {
        let material = self.agree().await?;
        let bundle = material.bundle();
        self.in_force.set(&material.current)?;
        let published = self.publish(&bundle).await;
        self.metrics.set_published(published.is_ok());
        published
    }

    /// Reads the Secret and takes the step that is due, if nobody else has.
    async fn agree(&self) -> Result<Material, KeeperError> {
        let failed = |source| KeeperError::Secret { name: self.secret.clone(), source };
        for _ in 0..STEPS_MAX {
            let found = self.secrets.get_opt(&self.secret).await.map_err(failed)?;
            let held = found.as_ref().and_then(|secret| self.read(secret));
            let make = || Pair::make(&self.policy.names, now(), self.policy.life);
            let Some(next) = step(held.as_ref(), &self.published, now(), &self.policy, make)? else {
                if let Some(held) = held {
                    return Ok(held);
                }
                continue;
            };
            match self.write(found, &next).await {
                Ok(_) => {
                    let [is_announced, is_switched] = [next.next.is_some(), next.former.is_some()];
                    info!(not_after = next.current.not_after, is_announced, is_switched, "certificate was changed");
                    return Ok(next);
                }
                // Another replica was first: what it has written counts.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(KeeperError::Contended(self.secret.clone()))
    }

    fn read(&self, secret: &Secret) -> Option<Material> {
        let since = secret.metadata.annotations.as_ref().and_then(|all| all.get(SINCE)?.parse().ok()).unwrap_or(0);
        let data = secret.data.clone().unwrap_or_default();
        match Material::read(&data, since) {
            Ok(material) => Some(material),
            Err(error) => {
                warn!(error = %chain(&error), secret = self.secret, "certificate in the secret is damaged, and made anew");
                None
            }
        }
    }

    async fn write(&self, found: Option<Secret>, next: &Material) -> Result<Secret, kube::Error> {
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let since = (SINCE.to_owned(), next.since.to_string());
        match found {
            Some(mut secret) => {
                secret.metadata.annotations.get_or_insert_default().extend([since]);
                secret.data = Some(next.data());
                self.secrets.replace(&self.secret, &params, &secret).await
            }
            None => {
                let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned())]);
                let metadata = ObjectMeta {
                    name: Some(self.secret.clone()),
                    labels: Some(labels),
                    annotations: Some(BTreeMap::from([since])),
                    ..ObjectMeta::default()
                };
                let ty = Some("kubernetes.io/tls".to_owned());
                let secret = Secret { metadata, data: Some(next.data()), type_: ty, ..Secret::default() };
                self.secrets.create(&params, &secret).await
            }
        }
    }

    /// Has the API server believe these roots.
    async fn publish(&mut self, bundle: &str) -> Result<(), KeeperError> {
        let name = self.configuration.clone();
        let failed = |source| KeeperError::Configuration { name: name.clone(), source };
        let found = self.configurations.get(&name).await.map_err(failed)?;
        let webhooks = found.webhooks.unwrap_or_default();
        let is_current = |ca: &Option<k8s_openapi::ByteString>| ca.as_ref().is_some_and(|ca| ca.0 == bundle.as_bytes());
        if webhooks.iter().all(|webhook| is_current(&webhook.client_config.ca_bundle)) {
            self.published = bundle.to_owned();
            return Ok(());
        }
        let encoded = k8s_openapi::ByteString(bundle.as_bytes().to_vec());
        let webhooks: Vec<_> = webhooks
            .iter()
            .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": encoded}}))
            .collect();
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name}, "webhooks": webhooks,
        });
        let params = PatchParams::apply(MANAGER).force();
        self.configurations.patch(&name, &params, &Patch::Apply(&patch)).await.map_err(failed)?;
        // It counts as published when it was seen there, at the next look.
        info!(configuration = name, "roots were published");
        Ok(())
    }
}

/// An error with all that it came from.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
