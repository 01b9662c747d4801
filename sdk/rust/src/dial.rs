//! How connections to the control plane are made: HTTP/2 settings for long fat links, and addresses.
//!
//! Plaintext for now; the one place where TLS will be set.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// What may be on its way down one stream: 256 KiB payloads at more than 100 MB/s over 100 ms.
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
/// Largest frame of HTTP/2 that may come down: fewer of them where much work comes at once.
const FRAME_MAX: u32 = 256 * 1024;
/// How long a dial may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_ANSWER_MAX: Duration = Duration::from_secs(10);

/// An address that cannot be dialled.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` is not the address of a control plane: expected `http://<host>:<port>`")]
pub struct AddressError {
    url: String,
    source: Option<tonic::transport::Error>,
}

pub(crate) fn endpoint(url: &str) -> Result<Endpoint, AddressError> {
    let refused = |source| AddressError { url: url.chars().take(256).collect(), source };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|source| refused(Some(source)))?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().host().is_none() {
        return Err(refused(None));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER_MAX)
        .keep_alive_while_idle(true))
}

/// A channel that dials when it is first used, and again after a break.
pub(crate) fn channel(url: &str) -> Result<Channel, AddressError> {
    endpoint(url).map(|endpoint| endpoint.connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_scheme_and_host() {
        assert!(endpoint("http://127.0.0.1:8091").is_ok());
        for url in ["", "127.0.0.1:8091", "ftp://host:1", "https://host:1", "http://"] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }
}
