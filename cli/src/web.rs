//! A small HTTP/1.1 client for one server: webhooks to send, health and metrics to read.
//!
//! In the clear one connection, dialled when it is needed and again after a break; a request on a connection that had gone is sent again,
//! so all of them have to be harmless to repeat.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use mindos_outgoing::{self as outgoing, Outgoing, Target};
use mindos_sdk::Dialer;
use tokio::net::TcpStream;

use crate::failure::Failure;
use crate::site::{Site, chain};

/// How long dialling and one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A client of one server.
#[derive(Debug)]
pub(crate) struct Web {
    server: String,
    road: Road,
    /// Who calls.
    credentials: HeaderMap,
}

#[derive(Debug)]
enum Road {
    Plain { authority: String, sender: Option<SendRequest<Full<Bytes>>> },
    Tls { client: Box<Outgoing>, target: Box<Target> },
}

impl Web {
    /// A client of a control plane; dials nothing yet.
    pub(crate) fn new(site: &Site) -> Result<Web, Failure> {
        // Says what is wrong with the address, and refuses a token in the clear.
        let dialer: Dialer = site.dialer()?;
        let bad = || Failure::usage(format!("--endpoint {}: expected https://HOST:PORT", site.endpoint));
        let uri: Uri = site.endpoint.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        let road = if dialer.is_tls() {
            let client = match &site.ca {
                None => Outgoing::new(),
                Some(path) => {
                    let refused = |error: String| Failure::usage(format!("--ca `{}`: {error}", path.display()));
                    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
                    Outgoing::trusting(&pem).map_err(|error| refused(error.to_string()))?
                }
            };
            let target = Target::parse(&format!("https://{authority}"), false).map_err(|_| bad())?;
            Road::Tls { client: Box::new(client), target: Box::new(target) }
        } else {
            let authority = match authority.port_u16() {
                Some(_) => authority.to_string(),
                None => format!("{authority}:80"),
            };
            Road::Plain { authority, sender: None }
        };
        let mut credentials = HeaderMap::new();
        if let Some(token) = &site.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| bad())?;
            value.set_sensitive(true);
            credentials.insert(http::header::AUTHORIZATION, value);
        }
        if let Some(tenant) = &site.tenant {
            let value = HeaderValue::from_str(tenant.as_str()).map_err(|_| bad())?;
            credentials.insert(HeaderName::from_static("mindos-tenant"), value);
        }
        Ok(Web { server: site.endpoint.clone(), road, credentials })
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
        let mut all = self.credentials.clone();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value)
                .map_err(|_| Failure::world(format!("header {name} cannot hold `{value}`")))?;
            all.insert(HeaderName::from_static(name), value);
        }
        match &mut self.road {
            Road::Tls { client, target } => {
                let target = target.join(path).map_err(|_| Failure::world(format!("{path} is not a path")))?;
                let mut request = outgoing::Request::new(method, target);
                (request.headers, request.body) = (all, body);
                (request.timeout, request.answer_max) = (ANSWER_WITHIN, ANSWER_BYTES_MAX);
                let answer = client.send(request).await;
                let answer = answer
                    .map_err(|error| Failure::world(format!("cannot speak to {}: {}", self.server, chain(&error))))?;
                Ok((answer.status, answer.body))
            }
            Road::Plain { authority, sender } => {
                let mut request = Request::new(Full::new(body));
                *request.method_mut() = method;
                *request.uri_mut() = path.parse().map_err(|_| Failure::world(format!("{path} is not a path")))?;
                let host = HeaderValue::from_str(authority).map_err(|_| Failure::unreachable(&self.server))?;
                all.insert(http::header::HOST, host);
                *request.headers_mut() = all;
                match tokio::time::timeout(ANSWER_WITHIN, repeated(authority, sender, request)).await {
                    Ok(Some(answer)) => Ok(answer),
                    Ok(None) => {
                        *sender = None;
                        Err(Failure::unreachable(&self.server))
                    }
                    Err(_) => {
                        *sender = None;
                        Err(Failure::world(format!("{} did not answer within 30 s", self.server)))
                    }
                }
            }
        }
    }
}

type Sender = Option<SendRequest<Full<Bytes>>>;

async fn repeated(authority: &str, sender: &mut Sender, request: Request<Full<Bytes>>) -> Option<(StatusCode, Bytes)> {
    let (reused, again) = (sender.is_some(), request.clone());
    match exchange(authority, sender, request).await {
        // A server closes what was idle for long, and that may cross with the request.
        None if reused => {
            *sender = None;
            exchange(authority, sender, again).await
        }
        answer => answer,
    }
}

async fn exchange(authority: &str, sender: &mut Sender, request: Request<Full<Bytes>>) -> Option<(StatusCode, Bytes)> {
    let sender = match sender {
        Some(sender) if !sender.is_closed() => sender,
        other => {
            let stream = TcpStream::connect(authority).await.ok()?;
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
