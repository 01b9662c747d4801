//! Why the injector does not run.

use std::io;
use std::net::SocketAddr;

/// Why settings are not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--control-plane is `{0}`: expected https://<host>:<port>, or http:// where nobody is asked who he is")]
    ControlPlane(String),
    #[error("--{0} needs --control-plane https://<host>:<port>")]
    InClear(&'static str),
    #[error("--tls-cert and --tls-key belong together: give both, or neither for a certificate of its own making")]
    HalfACertificate,
    #[error("--{flag} is `{value}`: expected {expected}")]
    Value { flag: &'static str, value: String, expected: &'static str },
    #[error("--ca-file: {0}")]
    Roots(String),
}

/// Why the injector ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("failed to listen on --{flag} {address}")]
    Listen { flag: &'static str, address: SocketAddr, source: io::Error },
    #[error("the cluster is not known: expected a pod with a service account, or KUBECONFIG")]
    Kube(#[source] Box<dyn std::error::Error + Send + Sync>),
}
