//! A general beside the sidecar, however it is reached.

use std::sync::Arc;

use mindos_sdk::model::ClusterName;
use mindos_sdk::{Failure, General, Output, Work};

use crate::command::Command;
use crate::http_adapter::Http;

/// What the sidecar says about itself and the general with each piece of work.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) cluster: ClusterName,
    pub(crate) instance: Arc<str>,
    pub(crate) ty: Arc<str>,
    pub(crate) output_max: usize,
}

#[derive(Debug)]
pub(crate) enum Adapter {
    Http(Box<Http>),
    Command(Command),
}

impl General for Adapter {
    async fn process(&self, work: Work) -> Result<Output, Failure> {
        match self {
            Adapter::Http(http) => http.process(work).await,
            Adapter::Command(command) => command.process(work).await,
        }
    }

    async fn ready(&self) -> bool {
        match self {
            Adapter::Http(http) => http.ready().await,
            // Started anew for each piece of work: nothing has to be up.
            Adapter::Command(_) => true,
        }
    }
}

/// At most `max` bytes of what a general said, as text for people.
pub(crate) fn excerpt(bytes: &[u8], max: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(max)]).trim().to_owned()
}
