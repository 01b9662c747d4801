//! What is asked of the program itself, where there is no shell to ask with: in its image.
//!
//! ```text
//!   kubectl exec mindos-0 -- mindos-control-plane admin-token      the first credential
//!   kubectl exec mindos-0 -- mindos-control-plane roots            whom to trust
//!   mindos-control-plane ready HOST:PORT                           a probe: of compose, and of `helm test`
//! ```
//! Invariant: it reads what the server wrote and changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::access::bootstrap;

/// Bytes of an answer that are read.
const ANSWER_MAX: u64 = 4096;
/// One try.
const TRY_MAX: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(500);

/// What is asked.
#[derive(Debug, clap::Parser)]
#[command(name = "mindos-control-plane", version)]
pub enum Asked {
    /// Print the API token of the plane's admin that was made at the first start
    AdminToken(DataArgs),
    /// Print the roots of the built-in authority, in PEM
    Roots(DataArgs),
    /// Say whether a control plane is ready: ends with 0 if it is, and with 1 if it is not within the time
    Ready(ReadyArgs),
}

/// Where the control plane keeps its data.
#[derive(Debug, clap::Args)]
pub struct DataArgs {
    /// Directory of the control plane's data
    #[arg(long, env = "MINDOS_DATA_DIR", default_value = "mindos-data", value_name = "DIR")]
    data_dir: PathBuf,
}

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub struct ReadyArgs {
    /// Host and port of the API; its certificate is not looked at, and nothing is sent that is secret
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// How long to go on asking, such as `60s`
    #[arg(long, default_value = "0s", value_parser = crate::config::span, value_name = "TIME")]
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskedError {
    #[error("failed to read `{path}`: {hint}")]
    Read { path: PathBuf, hint: &'static str, source: io::Error },
    #[error("{address} is not ready: {last}")]
    NotReady { address: String, last: String },
    #[error("failed to start")]
    Start(#[source] io::Error),
}

/// The words that ask something, in the place of the settings of a control plane.
#[must_use]
pub fn is_asked(word: &std::ffi::OsStr) -> bool {
    ["admin-token", "roots", "ready"].iter().any(|known| word == *known)
}

/// Answers on standard output.
///
/// # Errors
/// When a file is not there or nobody is ready.
pub fn answer(asked: Asked) -> Result<String, AskedError> {
    match asked {
        Asked::AdminToken(DataArgs { data_dir }) => {
            let hint = "it is written at the first start where access is enforced, and may be removed once it was read";
            read(&data_dir.join(bootstrap::FILE), hint)
        }
        Asked::Roots(DataArgs { data_dir }) => {
            let hint = "they are there where --tls is authority";
            read(&data_dir.join("authority").join("roots.pem"), hint)
        }
        Asked::Ready(ReadyArgs { address, timeout }) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(AskedError::Start)?.block_on(ready(&address, timeout))?;
            Ok(format!("{address} is ready"))
        }
    }
}

fn read(path: &Path, hint: &'static str) -> Result<String, AskedError> {
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| AskedError::Read { path: path.to_owned(), hint, source })?;
    Ok(text.trim_end().to_owned())
}

async fn ready(address: &str, timeout: Duration) -> Result<(), AskedError> {
    let until = Instant::now() + timeout;
    loop {
        let tried = tokio::time::timeout(TRY_MAX, status(address)).await;
        let last = match tried {
            Ok(Ok(200)) => return Ok(()),
            Ok(Ok(status)) => format!("GET /readyz says {status}"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {TRY_MAX:?}"),
        };
        if Instant::now() >= until {
            return Err(AskedError::NotReady { address: address.to_owned(), last });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The status of `GET /readyz`, in TLS; in the clear where that is what is spoken.
async fn status(address: &str) -> io::Result<u16> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = builder.map_err(io::Error::other)?.dangerous();
    let config = config.with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => asked_over(stream, host).await,
        Err(_) => asked_over(TcpStream::connect(address).await?, host).await,
    }
}

async fn asked_over(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, host: &str) -> io::Result<u16> {
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = (&mut stream).take(ANSWER_MAX).read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    match (status, read) {
        // Some end the connection without a word of TLS.
        (Some(status), _) => Ok(status),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(io::Error::other("the answer is not HTTP/1.1")),
    }
}

/// Takes every certificate: what is asked tells nobody anything, and what is answered is believed by nobody but a probe.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
