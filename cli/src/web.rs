//! A small HTTP/1.1 client for one server: webhooks to send, health and metrics to read.
//!
//! One connection, dialled when it is needed and again after a break; a request on a connection that had gone is sent again,
//! so all of them have to be harmless to repeat.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::failure::Failure;

/// How long dialling and one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A client of one server.
#[derive(Debug)]
pub(crate) struct Web {
    authority: String,
    server: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Web {
    /// A client of `server`, such as `http://127.0.0.1:8090`; dials nothing yet.
    pub(crate) fn new(server: &str) -> Result<Web, Failure> {
        let bad = || Failure::usage(format!("--server {server}: expected http://HOST:PORT"));
        let uri: Uri = server.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(bad)?;
        let authority = match authority.port_u16() {
            Some(_) => authority.to_string(),
            None => format!("{authority}:80"),
        };
        Ok(Web { authority, server: server.to_owned(), sender: None })
    }

    /// `GET path`.
    pub(crate) async fn get(&mut self, path: &str) -> Result<(StatusCode, Bytes), Failure> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// `POST path`.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        self.send(Method::POST, path, headers, body).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| Failure::world(format!("{path} is not a path")))?;
        let authority = HeaderValue::from_str(&self.authority).map_err(|_| Failure::unreachable(&self.server))?;
        request.headers_mut().insert(http::header::HOST, authority);
        for (name, value) in headers {
            let value = HeaderValue::from_str(value)
                .map_err(|_| Failure::world(format!("header {name} cannot hold `{value}`")))?;
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        let reused = self.sender.is_some();
        let again = request.clone();
        let exchange = async {
            match self.exchange(request).await {
                // A server closes what was idle for long, and that may cross with the request.
                None if reused => {
                    self.sender = None;
                    self.exchange(again).await
                }
                answer => answer,
            }
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, exchange).await;
        match answer {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => {
                self.sender = None;
                Err(Failure::unreachable(&self.server))
            }
            Err(_) => {
                self.sender = None;
                Err(Failure::world(format!("{} did not answer within 30 s", self.server)))
            }
        }
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Option<(StatusCode, Bytes)> {
        let sender = match &mut self.sender {
            Some(sender) if !sender.is_closed() => sender,
            other => {
                let stream = TcpStream::connect(&self.authority).await.ok()?;
                let _ = stream.set_nodelay(true);
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
                tokio::spawn(connection);
                other.insert(sender)
            }
        };
        sender.ready().await.ok()?;
        let response = sender.send_request(request).await.ok()?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.ok()?;
        Some((status, body.to_bytes()))
    }
}
