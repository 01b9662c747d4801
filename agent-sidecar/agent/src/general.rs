//! A general beside the sidecar, however it is reached.

use std::sync::Arc;

use mindos_sdk::model::ClusterName;
use mindos_sdk::{Failure, General, ModelLoad, Output, ProviderLimits, Work};

use crate::command::Command;
use crate::http_adapter::Http;
use crate::model_metrics::Scraper;

/// What the sidecar says about itself and the general with each piece of work.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) cluster: ClusterName,
    pub(crate) instance: Arc<str>,
    pub(crate) ty: Arc<str>,
    pub(crate) output_max: usize,
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
