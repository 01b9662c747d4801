//! A client for one request at a time: HTTP/1.1, over TLS where the address says so. Redirects are not followed.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// How long all of a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const ANSWER_MAX: usize = 16 * 1024;

/// A request to send. Its headers and address may hold secrets, so it is not shown.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) uri: Uri,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing")
            .field("host", &self.uri.host())
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    /// How long to wait before another try.
    pub(super) retry_after: Option<Duration>,
}

/// Why nothing was answered. Names no address beyond the host: the rest may be secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the address has no host, or is neither http nor https")]
    Address,
    #[error("failed to connect")]
    Connect(#[source] std::io::Error),
    #[error("no certificate authorities were found on this machine")]
    NoRoots,
    #[error("TLS was not set up")]
    Tls(#[source] tokio_rustls::rustls::Error),
    #[error("the request failed")]
    Http(#[from] hyper::Error),
    #[error("nothing was answered within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Checks an address.
pub(super) fn address(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.trim().parse().map_err(|_| "expected a URL".to_owned())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err("expected a URL that begins with http:// or https://".to_owned()),
    }
}

/// Sends a request and reads the answer's head, and as much of its body as says when to try again.
pub(super) async fn post(outgoing: &Outgoing) -> Result<Answered, SendError> {
    tokio::time::timeout(TIMEOUT, send(outgoing)).await.map_err(|_| SendError::Timeout)?
}

async fn send(outgoing: &Outgoing) -> Result<Answered, SendError> {
    let host = outgoing.uri.host().ok_or(SendError::Address)?;
    let secure = match outgoing.uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(SendError::Address),
    };
    let port = outgoing.uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((plain, port)).await.map_err(SendError::Connect)?;
    if !secure {
        return exchange(stream, outgoing).await;
    }
    let name = ServerName::try_from(plain.to_owned()).map_err(|_| SendError::Address)?;
    let stream = connector()?.connect(name, stream).await.map_err(SendError::Connect)?;
    exchange(stream, outgoing).await
}

fn connector() -> Result<TlsConnector, SendError> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config).into());
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(SendError::NoRoots);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(SendError::Tls)?;
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    Ok(Arc::clone(CONFIG.get_or_init(|| config)).into())
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    outgoing: &Outgoing,
) -> Result<Answered, SendError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let answered = async {
        let path = outgoing.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = outgoing.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, authority.rsplit('@').next().unwrap_or(authority))
            .header(USER_AGENT, concat!("mindos/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json");
        for (name, value) in &outgoing.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(outgoing.body.clone())).map_err(|_| SendError::Address)?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let mut seconds: Option<f64> = header;
        if status == StatusCode::TOO_MANY_REQUESTS && seconds.is_none() {
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            seconds = value["retry_after"].as_f64();
        }
        let retry_after = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok(Answered { status, retry_after })
    };
    let answered = answered.await;
    driving.abort();
    answered
}
