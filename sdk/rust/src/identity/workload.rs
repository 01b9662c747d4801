//! The SPIFFE Workload API: an agent of the machine brings certificates over a Unix socket, and new ones before they end.
//!
//! Of the public specification, `FetchX509SVID` of the service `SpiffeWorkloadAPI`, which has no package. Its messages are few, so
//! they stand here and not among the files of our own API.

use std::path::PathBuf;
use std::time::Duration;

use http::uri::PathAndQuery;
use mindos_sidecar_core::membership::Trouble;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::x509;

const FIRST_WAIT: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Bytes of one answer: a few certificates, keys and roots.
const ANSWER_MAX: usize = 1024 * 1024;

/// `X509SVIDRequest`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct X509SvidRequest {}

/// `X509SVIDResponse`, without revocation lists and federated bundles, which are not used.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) svids: Vec<X509Svid>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct X509Svid {
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    /// Certificates one after the other, leaf first, in DER.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) x509_svid: Vec<u8>,
    /// PKCS#8 in DER.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) x509_svid_key: Vec<u8>,
    /// Roots of the trust domain, one after the other, in DER.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) bundle: Vec<u8>,
}

/// A certificate that was brought.
#[derive(Debug)]
pub(super) struct Svid {
    pub(super) identity: String,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) bundle: Vec<CertificateDer<'static>>,
}

/// Where certificates come from. Asks again after a break.
#[derive(Debug)]
pub(super) struct Source {
    socket: PathBuf,
    stream: Option<Streaming<X509SvidResponse>>,
    wait: Duration,
}

impl Source {
    pub(super) fn new(socket: PathBuf) -> Source {
        Source { socket, stream: None, wait: Duration::ZERO }
    }

    /// The next certificate, or why there is none; waits a little longer after each failure. May be dropped in between.
    pub(super) async fn next(&mut self) -> Result<Svid, Trouble> {
        let got = self.try_next().await;
        match got {
            Ok(answer) => {
                let svid = svid(answer).map_err(|why| self.away(why));
                self.wait = if svid.is_ok() { Duration::ZERO } else { self.longer() };
                svid
            }
            Err(status) => {
                self.stream = None;
                self.wait = self.longer();
                Err(self.away(format!("{:?}: {}", status.code(), status.message())))
            }
        }
    }

    async fn try_next(&mut self) -> Result<X509SvidResponse, Status> {
        if self.stream.is_none() {
            let share = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
            tokio::time::sleep(self.wait.mul_f64(share)).await;
            self.stream = Some(self.open().await?);
        }
        let Some(stream) = &mut self.stream else { return Err(Status::internal("no stream")) };
        stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))
    }

    async fn open(&self) -> Result<Streaming<X509SvidResponse>, Status> {
        let unavailable = |error: tonic::transport::Error| Status::unavailable(crate::error::chain(&error));
        let endpoint = Endpoint::from_shared(format!("unix:{}", self.socket.display())).map_err(unavailable)?;
        let channel = endpoint.connect_timeout(CONNECT_MAX).connect().await.map_err(unavailable)?;
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(ANSWER_MAX);
        client.ready().await.map_err(unavailable)?;
        let mut request = Request::new(X509SvidRequest {});
        // Who cannot set headers, such as a request that was forged in a browser, gets nothing.
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchX509SVID");
        let codec = ProstCodec::<X509SvidRequest, X509SvidResponse>::default();
        Ok(client.server_streaming(request, path, codec).await?.into_inner())
    }

    fn longer(&self) -> Duration {
        (self.wait * 2).clamp(FIRST_WAIT, WAIT_MAX)
    }

    fn away(&self, why: String) -> Trouble {
        Trouble::Away { why: format!("SPIFFE Workload API at `{}`: {why}", self.socket.display()), retry_after: None }
    }
}

/// The first identity of an answer is the one to use.
fn svid(answer: X509SvidResponse) -> Result<Svid, String> {
    let first = answer.svids.into_iter().next().ok_or("it has no identity for this process")?;
    let X509Svid { spiffe_id, x509_svid, x509_svid_key, bundle } = first;
    let chain = x509::split(&x509_svid).filter(|chain| !chain.is_empty()).ok_or("a certificate cannot be read")?;
    let bundle = x509::split(&bundle).ok_or("a root cannot be read")?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(x509_svid_key));
    Ok(Svid { identity: spiffe_id, chain, key, bundle })
}
