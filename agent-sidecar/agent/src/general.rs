//! A general beside the sidecar, however it is reached.

use std::sync::Arc;

use mindos_sdk::model::{ClusterName, FailureKind};
use mindos_sdk::{Failure, General, ModelLoad, Output, ProviderLimits, RepositoryAccess, Work};
use serde::Serialize;

use crate::command::Command;
use crate::http_adapter::Http;
use crate::model_metrics::Scraper;

/// What the sidecar says about itself and the general with each piece of work.
#[derive(Clone, Debug)]
pub struct About {
    pub cluster: ClusterName,
    pub instance: Arc<str>,
    /// Type of the general.
    pub ty: Arc<str>,
    /// Largest output, in bytes.
    pub output_max: usize,
    /// Whether the general is given read access to the event's repository.
    pub repository_access: bool,
}

impl About {
    /// Read access to the repository of the work's event: where it is wanted, the event names one, and there is any to be had.
    pub(crate) async fn access(&self, work: &Work) -> Result<Option<RepositoryAccess>, Failure> {
        if !self.repository_access || work.event.attribute("repository").is_none() {
            return Ok(None);
        }
        match work.repository_access().await {
            Ok(access) => Ok(Some(access)),
            // Refused, which will not change: the general has to do without.
            Err(Failure { kind: FailureKind::Poison, .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

/// Read access as generals are told of it. Holds the token: not to be printed.
#[derive(Serialize)]
pub(crate) struct AccessMember<'a> {
    repository: &'a str,
    api_url: &'a str,
    clone_url: &'a str,
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    author: &'a str,
}

impl<'a> AccessMember<'a> {
    pub(crate) fn of(access: &'a RepositoryAccess) -> AccessMember<'a> {
        let RepositoryAccess { repository, api_url, clone_url, token, expires_at, author } = access;
        let expires_at = expires_at.map(|at| at.to_string());
        AccessMember { repository, api_url, clone_url, token: token.expose(), expires_at, author }
    }
}

impl std::fmt::Debug for AccessMember<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessMember").field("repository", &self.repository).finish_non_exhaustive()
    }
}

/// A general and the model server behind it.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) reached: Reached,
    /// Where its metrics are known. Several generals may share one.
    pub(crate) scraper: Option<Arc<Scraper>>,
}

#[derive(Debug)]
pub(crate) enum Reached {
    Http(Box<Http>),
    Command(Command),
}

impl General for Adapter {
    async fn process(&self, work: Work) -> Result<Output, Failure> {
        match &self.reached {
            Reached::Http(http) => http.process(work).await,
            Reached::Command(command) => command.process(work).await,
        }
    }

    async fn models(&self) -> Vec<ModelLoad> {
        let limits = match &self.reached {
            Reached::Http(http) => http.limits(),
            Reached::Command(_) => ProviderLimits::default(),
        };
        let scraped = match &self.scraper {
            Some(scraper) => scraper.scrape().await,
            None => None,
        };
        let ProviderLimits { requests, tokens } = limits;
        let known = scraped.is_some() || limits != ProviderLimits::default();
        known.then(|| ModelLoad { requests, tokens, ..scraped.unwrap_or_default() }).into_iter().collect()
    }

    async fn ready(&self) -> bool {
        match &self.reached {
            Reached::Http(http) => http.ready().await,
            // Started anew for each piece of work: nothing has to be up.
            Reached::Command(_) => true,
        }
    }
}

/// At most `max` bytes of what a general said, as text for people.
pub(crate) fn excerpt(bytes: &[u8], max: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(max)]).trim().to_owned()
}
