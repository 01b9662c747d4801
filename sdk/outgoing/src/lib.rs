//! HTTP that we ask: one client for everything that leaves, with TLS, and bounds on time and size.
//!
//! Redirects are not followed: whoever configured an address meant that one. Invariant: no address beyond its host, no header and
//! no body is ever printed, for each of them may hold a secret.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::util::BoxCloneSyncService;

/// How long a connection may take to stand, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that nobody uses is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections to one host that are kept while nobody uses them.
const IDLE_MAX: usize = 4;

/// An address that may be asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(Uri);

/// Why an address is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("is not an address: expected one such as https://example.com/path")]
    Malformed,
    #[error(
        "is not https: http is taken for this machine only, as it sends everything in the clear, unless `insecure: true` stands beside it"
    )]
    Plain,
    #[error("holds a user or a password: give them as a header")]
    UserInfo,
}

impl Target {
    /// Reads an address. Without `insecure`, http is taken for this machine only.
    ///
    /// # Errors
    /// Says what is accepted, and never repeats the address.
    pub fn parse(text: &str, insecure: bool) -> Result<Target, TargetError> {
        let uri: Uri = text.trim().parse().map_err(|_| TargetError::Malformed)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(TargetError::Malformed);
        };
        if authority.host().is_empty() {
            return Err(TargetError::Malformed);
        }
        if authority.as_str().contains('@') {
            return Err(TargetError::UserInfo);
        }
        match scheme {
            scheme if *scheme == Scheme::HTTPS => {}
            scheme if *scheme != Scheme::HTTP => return Err(TargetError::Malformed),
            _ if insecure || is_here(authority.host()) => {}
            _ => return Err(TargetError::Plain),
        }
        Ok(Target(uri))
    }

    /// The same server with another path and query, such as `/app/hook/deliveries?per_page=100`, below the target's own path.
    ///
    /// # Errors
    /// When the two do not make an address.
    pub fn join(&self, path_and_query: &str) -> Result<Target, TargetError> {
        let mut parts = self.0.clone().into_parts();
        let path = format!("{}{path_and_query}", self.0.path().trim_end_matches('/'));
        parts.path_and_query = Some(path.parse().map_err(|_| TargetError::Malformed)?);
        Uri::from_parts(parts).map(Target).map_err(|_| TargetError::Malformed)
    }

    /// Whether what is sent there is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// Scheme, host and port: what may be shown.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self.0.authority().map_or("", http::uri::Authority::as_str);
        format!("{scheme}://{authority}")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.origin())
    }
}

/// Whether a host is this machine.
#[must_use]
pub fn is_here(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What is asked.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    pub target: Target,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// From the first byte that is sent to the last that is read, the connection included.
    pub timeout: Duration,
    /// Bytes of an answer's body that are taken.
    pub answer_max: usize,
}

impl Request {
    /// A request with nothing in it.
    #[must_use]
    pub fn new(method: Method, target: Target) -> Request {
        let timeout = Duration::from_secs(10);
        Request { method, target, headers: HeaderMap::new(), body: Bytes::new(), timeout, answer_max: 64 << 10 }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { method, target, headers: _, body, timeout, answer_max: _ } = self;
        let mut shown = f.debug_struct("Request");
        shown.field("method", method).field("target", target).field("bytes", &body.len()).field("timeout", timeout);
        shown.finish_non_exhaustive()
    }
}

/// What was answered.
#[derive(Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// What `Retry-After` asks for, where it is given in seconds.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse::<f64>().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// Why there is no answer. Whether the other side has seen the request is not known, unless it was never reached.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    #[error("failed to reach {origin}")]
    Unreached { origin: String, source: hyper_util::client::legacy::Error },
    #[error("request is not usable")]
    Request(#[from] http::Error),
    #[error("{origin} did not answer within {timeout_ms} ms")]
    Timeout { origin: String, timeout_ms: u128 },
    #[error("answer of {origin} has more than {max} bytes")]
    TooLarge { origin: String, max: usize },
    #[error("answer of {origin} broke off")]
    Broken { origin: String, source: Box<dyn std::error::Error + Send + Sync> },
}

/// Why certificates cannot vouch for a server.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("is not accepted: expected certificates in PEM form")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("holds a certificate that is not usable")]
    Certificate(#[source] rustls::Error),
    #[error("holds no certificate: expected at least one in PEM form")]
    Empty,
}

type Connector = BoxCloneSyncService<Uri, Stream, ConnectError>;

/// The client. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Outgoing(Client<Connector, Full<Bytes>>);

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outgoing")
    }
}

impl Default for Outgoing {
    fn default() -> Outgoing {
        Outgoing::new()
    }
}

impl Outgoing {
    /// A client without connections.
    #[must_use]
    pub fn new() -> Outgoing {
        Outgoing::with(None)
    }

    /// A client for servers that the given certificates vouch for, and nobody else.
    ///
    /// # Errors
    /// When they are not certificates in PEM form.
    pub fn trusting(pem: &[u8]) -> Result<Outgoing, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate?).map_err(TrustError::Certificate)?;
        }
        match roots.is_empty() {
            true => Err(TrustError::Empty),
            false => Ok(Outgoing::with(Some(trust(roots)))),
        }
    }

    fn with(trusted: Option<Arc<ClientConfig>>) -> Outgoing {
        let connector = BoxCloneSyncService::new(tower::service_fn(move |uri| connect(uri, trusted.clone())));
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(IDLE_MAX);
        Outgoing(builder.build(connector))
    }

    /// Asks, and waits for the whole answer, whatever its status.
    ///
    /// # Errors
    /// When there is no answer, or none within the bounds.
    pub async fn send(&self, request: Request) -> Result<Answer, OutgoingError> {
        let (timeout, answer_max, origin) = (request.timeout, request.answer_max, request.target.origin());
        let answered = async {
            let (parts, body) = self.ask(request).await?.into_parts();
            match Limited::new(body, answer_max).collect().await {
                Ok(body) => Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() }),
                Err(error) if error.is::<LengthLimitError>() => {
                    Err(OutgoingError::TooLarge { origin: origin.clone(), max: answer_max })
                }
                Err(source) => Err(OutgoingError::Broken { origin: origin.clone(), source }),
            }
        };
        match tokio::time::timeout(timeout, answered).await {
            Ok(answered) => answered,
            Err(_) => Err(OutgoingError::Timeout { origin: origin.clone(), timeout_ms: timeout.as_millis() }),
        }
    }

    /// Asks, and hands out the answer while it comes. `timeout` bounds the time until its head and every wait for more of it,
    /// `answer_max` all of its body.
    ///
    /// # Errors
    /// When no answer begins within the bounds.
    pub async fn open(&self, request: Request) -> Result<Opened, OutgoingError> {
        let (timeout, left, origin) = (request.timeout, request.answer_max, request.target.origin());
        match tokio::time::timeout(timeout, self.ask(request)).await {
            Ok(answer) => {
                let (parts, body) = answer?.into_parts();
                let body = Incoming { body, origin, timeout, left, answer_max: left };
                Ok(Opened { status: parts.status, headers: parts.headers, body })
            }
            Err(_) => Err(OutgoingError::Timeout { origin, timeout_ms: timeout.as_millis() }),
        }
    }

    async fn ask(&self, request: Request) -> Result<http::Response<hyper::body::Incoming>, OutgoingError> {
        let Request { method, target, headers, body, timeout: _, answer_max: _ } = request;
        let origin = target.origin();
        let mut asked = http::Request::new(Full::new(body));
        *asked.method_mut() = method;
        *asked.uri_mut() = target.0;
        *asked.headers_mut() = headers;
        let agent = http::HeaderValue::from_static(concat!("mindos/", env!("CARGO_PKG_VERSION")));
        asked.headers_mut().entry(http::header::USER_AGENT).or_insert(agent);
        self.0.request(asked).await.map_err(|source| OutgoingError::Unreached { origin, source })
    }
}

/// An answer that is on its way.
#[derive(Debug)]
pub struct Opened {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Incoming,
}

/// The body of an answer, piece by piece.
pub struct Incoming {
    body: hyper::body::Incoming,
    origin: String,
    timeout: Duration,
    left: usize,
    answer_max: usize,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("origin", &self.origin).field("left", &self.left).finish_non_exhaustive()
    }
}

impl Incoming {
    /// The next piece, `None` at the end.
    ///
    /// # Errors
    /// When it breaks off, is silent for too long, or is longer than was allowed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OutgoingError> {
        loop {
            let Ok(frame) = tokio::time::timeout(self.timeout, self.body.frame()).await else {
                return Err(OutgoingError::Timeout {
                    origin: self.origin.clone(),
                    timeout_ms: self.timeout.as_millis(),
                });
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame =
                frame.map_err(|source| OutgoingError::Broken { origin: self.origin.clone(), source: source.into() })?;
            // Trailers say nothing that is asked for here.
            let Ok(data) = frame.into_data() else { continue };
            let Some(left) = self.left.checked_sub(data.len()) else {
                return Err(OutgoingError::TooLarge { origin: self.origin.clone(), max: self.answer_max });
            };
            self.left = left;
            return Ok(Some(data));
        }
    }

    /// All that is still to come.
    ///
    /// # Errors
    /// As [`Incoming::next`].
    pub async fn rest(&mut self) -> Result<Bytes, OutgoingError> {
        let mut whole = bytes::BytesMut::new();
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("address has no host")]
    NoHost,
    #[error("host is not one that a certificate can name")]
    Name(#[from] rustls::pki_types::InvalidDnsNameError),
    #[error("no root certificates were found: install ca-certificates, or name a file of them in SSL_CERT_FILE")]
    NoRoots,
    #[error("failed to connect")]
    Connect(#[source] io::Error),
    #[error("TLS was not agreed on")]
    Tls(#[source] io::Error),
    #[error("connection did not stand within {} s", CONNECT_TIMEOUT.as_secs())]
    Slow,
}

async fn connect(uri: Uri, trusted: Option<Arc<ClientConfig>>) -> Result<Stream, ConnectError> {
    tokio::time::timeout(CONNECT_TIMEOUT, dial(uri, trusted)).await.unwrap_or(Err(ConnectError::Slow))
}

async fn dial(uri: Uri, trusted: Option<Arc<ClientConfig>>) -> Result<Stream, ConnectError> {
    let host = uri.host().ok_or(ConnectError::NoHost)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let secure = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((bare, port)).await.map_err(ConnectError::Connect)?;
    stream.set_nodelay(true).map_err(ConnectError::Connect)?;
    if !secure {
        return Ok(Stream::Plain(TokioIo::new(stream)));
    }
    let config = match trusted {
        Some(config) => config,
        None => tls().await.ok_or(ConnectError::NoRoots)?,
    };
    let name = ServerName::try_from(bare.to_owned())?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(ConnectError::Tls)?;
    Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
}

/// TLS with what the machine trusts; `None` where it trusts nobody.
pub async fn tls() -> Option<Arc<ClientConfig>> {
    tokio::task::spawn_blocking(|| TLS.clone()).await.ok().flatten()
}

/// What the machine trusts, read once, when it is first needed; `None` where it trusts nobody.
static TLS: LazyLock<Option<Arc<ClientConfig>>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return None;
    }
    Some(trust(roots))
});

fn trust(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.expect("ring speaks the versions that rustls has by default");
    Arc::new(versions.with_root_certificates(roots).with_no_client_auth())
}

/// A connection, in the clear or not.
enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(task, into),
            Stream::Tls(stream) => Pin::new(stream).poll_read(task, into),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(task, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(task, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(task),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(task),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(task),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(task),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that reads a request and answers with fixed bytes; `None` never answers.
    async fn server(answer: Option<&'static str>) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    let _ = stream.read(&mut bytes).await;
                    match answer {
                        Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                        None => std::future::pending().await,
                    }
                });
            }
        });
        Target::parse(&format!("http://{address}/secret-path"), false).unwrap()
    }

    #[test]
    fn addresses_are_checked_and_never_shown_whole() {
        let error = |text: &str| Target::parse(text, false).unwrap_err();
        assert_eq!(error("/path"), TargetError::Malformed);
        assert_eq!(error("ftp://x/y"), TargetError::Malformed);
        assert_eq!(error("https://me:pass@x/y"), TargetError::UserInfo);
        assert_eq!(error("http://example.com/y"), TargetError::Plain);
        assert!(Target::parse("http://example.com/y", true).is_ok());
        for here in ["http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost/"] {
            assert!(Target::parse(here, false).is_ok(), "{here}");
        }
        let target = Target::parse("https://example.com/api/webhooks/1/TOKEN", false).unwrap();
        let joined = target.join("/more?x=1").unwrap();
        assert_eq!(joined.0.to_string(), "https://example.com/api/webhooks/1/TOKEN/more?x=1");
        let mut request = Request::new(Method::POST, joined);
        request.headers.insert("authorization", "Bearer TOKEN".parse().unwrap());
        assert!(!format!("{request:?}").contains("TOKEN"), "{request:?}");
    }

    #[tokio::test]
    async fn answers_come_whole_and_redirects_are_not_followed() {
        let client = Outgoing::new();
        let target = server(Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nRetry-After: 1.5\r\n\r\nok")).await;
        let answer = client.send(Request::new(Method::GET, target)).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"ok"[..]));
        assert_eq!(answer.retry_after(), Some(Duration::from_millis(1500)));
        let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
        let answer = client.send(Request::new(Method::GET, server(Some(moved)).await)).await.unwrap();
        assert_eq!(answer.status, StatusCode::FOUND);
    }

    #[tokio::test]
    async fn an_answer_can_be_read_while_it_comes_within_bounds() {
        let client = Outgoing::new();
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
        let mut opened = client.open(Request::new(Method::GET, server(Some(chunked)).await)).await.unwrap();
        assert_eq!((opened.status, &opened.body.rest().await.unwrap()[..]), (StatusCode::OK, &b"onetwo"[..]));
        let short = Request { answer_max: 5, ..Request::new(Method::GET, server(Some(chunked)).await) };
        let mut opened = client.open(short).await.unwrap();
        assert!(matches!(opened.body.rest().await, Err(OutgoingError::TooLarge { max: 5, .. })));
        let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
        let mut opened = client.open(Request::new(Method::GET, server(Some(cut)).await)).await.unwrap();
        assert_eq!(opened.body.next().await.unwrap().as_deref(), Some(&b"one"[..]));
        assert!(matches!(opened.body.next().await, Err(OutgoingError::Broken { .. })));
        let silent = Request { timeout: Duration::from_millis(50), ..Request::new(Method::GET, server(None).await) };
        assert!(matches!(client.open(silent).await, Err(OutgoingError::Timeout { .. })));
    }

    #[tokio::test]
    async fn time_and_size_are_bounded_and_errors_show_the_host_only() {
        let client = Outgoing::new();
        let with = |target: Target| Request {
            timeout: Duration::from_millis(50),
            answer_max: 4,
            ..Request::new(Method::GET, target)
        };
        let slow = client.send(with(server(None).await)).await.unwrap_err();
        assert!(matches!(slow, OutgoingError::Timeout { .. }), "{slow:?}");
        let long = server(Some("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345")).await;
        let long = client.send(Request { timeout: Duration::from_secs(10), ..with(long) }).await.unwrap_err();
        assert!(matches!(long, OutgoingError::TooLarge { max: 4, .. }), "{long:?}");
        let nobody = Target::parse("http://127.0.0.1:1/secret-path", false).unwrap();
        let unreached = client.send(with(nobody)).await.unwrap_err();
        for error in [slow, long, unreached] {
            let mut shown = format!("{error:?} {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                shown.push_str(&cause.to_string());
                source = cause.source();
            }
            assert!(!shown.contains("secret-path"), "{shown}");
        }
    }
}
