//! Connects by TCP and then speaks TLS, with what [`Tls`] holds at that moment.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::tls::Tls;

/// What TLS goes by.
#[derive(Clone, Debug)]
pub(crate) enum Config {
    /// What is in force when a connection is made.
    Current(Tls),
    /// The same for all.
    Fixed(Arc<ClientConfig>),
}

/// Makes TLS connections.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    tls: Config,
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<TlsStream<TcpStream>>, BoxError>> + Send>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    pub(crate) fn new(tls: Config, keepalive: Duration, connect_max: Duration) -> Connector {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(keepalive));
        tcp.set_connect_timeout(Some(connect_max));
        Connector { tcp, tls }
    }

    pub(crate) fn tls(&self) -> &Config {
        &self.tls
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(BoxError::from)
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let config = match &self.tls {
            Config::Current(tls) => tls.config(),
            Config::Fixed(config) => Some(config.clone()),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tcp = self.tcp.call(uri);
        Box::pin(async move {
            let config = config.ok_or("nobody is trusted yet")?;
            let name = ServerName::try_from(host)?;
            let tcp = tcp.await?.into_inner();
            let stream = TlsConnector::from(config).connect(name, tcp).await?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the server does not speak HTTP/2").into());
            }
            Ok(TokioIo::new(stream))
        })
    }
}
