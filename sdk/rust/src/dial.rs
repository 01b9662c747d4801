//! How connections to the control plane are made: addresses, TLS, credentials, and HTTP/2 settings for long fat links.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use mindos_model::{Secret, TenantName};
use rustls::ClientConfig;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;

use crate::authorization::{Authorization, TokenError};
use crate::connector::{Config, Connector};
use crate::tls::{Roots, Tls, TlsError};

/// What may be on its way down one stream: 256 KiB payloads at more than 100 MB/s over 100 ms.
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
/// Largest frame of HTTP/2 that may come down: fewer of them where much work comes at once.
const FRAME_MAX: u32 = 256 * 1024;
/// How long a dial may take, with the handshake of TLS.
const CONNECT_MAX: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_ANSWER_MAX: Duration = Duration::from_secs(10);

/// A connection to a control plane with the credentials of the caller. Cheap to clone.
pub type Channel = InterceptedService<tonic::transport::Channel, Authorization>;

/// Why a control plane cannot be dialled.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The address is not one.
    #[error(
        "`{url}` is not the address of a control plane: expected `https://<host>:<port>` or `http://<host>:<port>`"
    )]
    Url {
        /// What was given, cut off at 256 characters.
        url: String,
        /// What is wrong with it, where that is known.
        source: Option<tonic::transport::Error>,
    },
    /// A token would be read by everybody on the way.
    #[error("a token would travel to `{url}` in the clear: expected `https://`, or a loopback address")]
    TokenInClear {
        /// The address.
        url: String,
    },
    /// The token is not one.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// TLS cannot be set up.
    #[error("failed to set up TLS")]
    Tls(#[from] TlsError),
}

/// How a control plane is reached, and as whom.
///
/// ```no_run
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use mindos_sdk::{Dialer, Roots, Tls, model::Secret};
///
/// let tls = Tls::new(&Roots::file("/etc/mindos/ca.pem".as_ref())?)?;
/// let dialer = Dialer::new("https://mindos.example.com:8090")?.tls(tls).token(&Secret::new("mindos_api_..."))?;
/// let client = mindos_sdk::Client::dial(&dialer)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Dialer {
    url: Uri,
    connect_max: Duration,
    call_max: Option<Duration>,
    tls: Option<Config>,
    authorization: Authorization,
}

impl Dialer {
    /// A way to the control plane at `url`: `https://<host>:<port>`, or `http://<host>:<port>` in the clear. Dials nothing.
    ///
    /// # Errors
    /// When the address is not one.
    pub fn new(url: &str) -> Result<Dialer, AddressError> {
        let refused = |source| AddressError::Url { url: url.chars().take(256).collect(), source };
        // Tonic's reading of an address, which has an error with a reason.
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|source| refused(Some(source)))?;
        let uri = endpoint.uri().clone();
        let fits = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && !uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if !fits {
            return Err(refused(None));
        }
        Ok(Dialer {
            url: uri,
            connect_max: CONNECT_MAX,
            call_max: None,
            tls: None,
            authorization: Authorization::default(),
        })
    }

    /// Speaks TLS as `tls` says at each connection. Without it whom the machine trusts is trusted. Unused for `http`.
    #[must_use]
    pub fn tls(self, tls: Tls) -> Dialer {
        Dialer { tls: Some(Config::Current(tls)), ..self }
    }

    /// Speaks TLS always the same.
    #[must_use]
    pub(crate) fn tls_fixed(self, config: Arc<ClientConfig>) -> Dialer {
        Dialer { tls: Some(Config::Fixed(config)), ..self }
    }

    /// Sends a bearer token with each call: an API token, or a JWT of an identity provider.
    ///
    /// # Errors
    /// When it cannot be sent, or the address is neither `https` nor loopback.
    pub fn token(self, token: &Secret) -> Result<Dialer, AddressError> {
        if !self.is_tls() && !self.is_loopback() {
            return Err(AddressError::TokenInClear { url: self.url.to_string() });
        }
        Ok(Dialer { authorization: self.authorization.with_token(token)?, ..self })
    }

    /// Calls for this tenant, where the caller has rights in several.
    #[must_use]
    pub fn tenant(self, tenant: &TenantName) -> Dialer {
        Dialer { authorization: self.authorization.with_tenant(tenant), ..self }
    }

    /// How long a dial may take, with the handshake of TLS. 10 s by default.
    #[must_use]
    pub fn connect_max(self, connect_max: Duration) -> Dialer {
        Dialer { connect_max, ..self }
    }

    /// How long a call may take until it is answered; a stream until it is opened. Without a bound by default.
    #[must_use]
    pub fn call_max(self, call_max: Duration) -> Dialer {
        Dialer { call_max: Some(call_max), ..self }
    }

    /// The address.
    #[must_use]
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }

    fn is_loopback(&self) -> bool {
        let host = self.url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// A channel that dials when it is first used, and again after a break. Has to be called within a Tokio runtime.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn channel(&self) -> Result<Channel, AddressError> {
        let channel = match self.connector()? {
            Some(connector) => self.endpoint().connect_with_connector_lazy(connector),
            None => self.endpoint().connect_lazy(),
        };
        Ok(InterceptedService::new(channel, self.authorization.clone()))
    }

    /// A channel that is connected. Dials again after a break.
    ///
    /// # Errors
    /// When TLS cannot be set up, or nobody that is trusted answers.
    pub async fn connect(&self) -> Result<Channel, DialError> {
        let channel = match self.connector()? {
            Some(connector) => self.endpoint().connect_with_connector(connector).await?,
            None => self.endpoint().connect().await?,
        };
        Ok(InterceptedService::new(channel, self.authorization.clone()))
    }

    /// The same with all that has to be read for it already read.
    pub(crate) fn settled(self) -> Result<Dialer, AddressError> {
        match self.connector()? {
            Some(connector) => Ok(Dialer { tls: Some(connector.tls().clone()), ..self }),
            None => Ok(self),
        }
    }

    fn connector(&self) -> Result<Option<Connector>, AddressError> {
        if !self.is_tls() {
            return Ok(None);
        }
        let tls = match &self.tls {
            Some(tls) => tls.clone(),
            None => Config::Current(Tls::new(&Roots::System)?),
        };
        Ok(Some(Connector::new(tls, KEEPALIVE, self.connect_max)))
    }

    fn endpoint(&self) -> Endpoint {
        // The connector speaks TLS, so Tonic is told of an address without; what the server sees is the origin.
        let mut parts = self.url.clone().into_parts();
        if self.is_tls() && parts.authority.as_ref().is_some_and(|authority| authority.port().is_none()) {
            let authority = format!("{}:443", self.url.host().unwrap_or_default());
            parts.authority = authority.parse().ok();
        }
        parts.scheme = Some(http::uri::Scheme::HTTP);
        let address = Uri::from_parts(parts).expect("parts of an address that was one");
        let endpoint = match self.call_max {
            Some(call_max) => Endpoint::from(address).timeout(call_max),
            None => Endpoint::from(address),
        };
        endpoint
            .origin(self.url.clone())
            .connect_timeout(self.connect_max)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(KEEPALIVE))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER_MAX)
            .keep_alive_while_idle(true)
    }
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It cannot be dialled at all.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody that is trusted answered.
    #[error("failed to connect")]
    Connect(#[from] tonic::transport::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_scheme_and_host() {
        for url in ["http://127.0.0.1:8091", "https://mindos.example.com", "https://[::1]:8090"] {
            assert!(Dialer::new(url).is_ok(), "{url}");
        }
        for url in ["", "127.0.0.1:8091", "ftp://host:1", "http://", "https://", "https://me@host:1"] {
            assert!(Dialer::new(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_token_goes_nowhere_in_the_clear() {
        let token = Secret::new("mindos_api_0123");
        for (url, fits) in [
            ("https://mindos.example.com:8090", true),
            ("http://127.0.0.1:8090", true),
            ("http://[::1]:8090", true),
            ("http://localhost:8090", true),
            ("http://10.0.0.5:8090", false),
            ("http://mindos.example.com:8090", false),
        ] {
            let dialer = Dialer::new(url).unwrap().token(&token);
            assert_eq!(dialer.is_ok(), fits, "{url}");
            if let Err(error) = dialer {
                assert!(!error.to_string().contains("0123"), "{error}");
            }
        }
    }
}
