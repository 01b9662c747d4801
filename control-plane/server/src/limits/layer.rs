//! The layers around authentication: [`Outer`] paces addresses and whoever fails, [`Within`] principals and tenants.
//!
//! ```text
//!   connection -> Outer -> gate (who is it, what may they) -> Within -> service
//! ```
//! Invariant: a refusal costs no more than a look at counters.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{Extensions, Request, header};
use http_body::{Body as HttpBody, Frame};
use mindos_model::TenantName;
use tokio::time::Sleep;
use tower::{Layer, Service};

use super::failures::Why;
use super::rates::{Rates, What, asks_by_grpc, failure};
use crate::net::Connection;

/// Whether a token was verified a while ago, so that it costs nothing to look at it.
pub type Remembers = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Paces addresses. Stands outside of the gate.
#[derive(Clone)]
pub struct OuterLayer {
    pub rates: Arc<Rates>,
    pub remembers: Remembers,
}

impl<S> Layer<S> for OuterLayer {
    type Service = Outer<S>;

    fn layer(&self, inner: S) -> Outer<S> {
        Outer { inner, rates: Arc::clone(&self.rates), remembers: Arc::clone(&self.remembers) }
    }
}

/// See [`OuterLayer`].
#[derive(Clone)]
pub struct Outer<S> {
    inner: S,
    rates: Arc<Rates>,
    remembers: Remembers,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response, E>> + Send>>;

impl<S> Service<Request<Body>> for Outer<S>
where
    S: Service<Request<Body>, Response = Response>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(connection) = request.extensions().get::<Connection>().cloned() else {
            return Box::pin(self.inner.call(request));
        };
        let from = connection.peer.ip();
        let by_grpc = asks_by_grpc(request.headers());
        let refused = match self.rates.address(from) {
            Err(refusal) => Some(refusal),
            // A signature takes long to check, a token is found at once; and who was let in a while ago is not kept out by others
            // at the same address.
            Ok(()) => costly(request.headers())
                .filter(|token| !token.is_some_and(|token| (self.remembers)(token)))
                .and_then(|_| self.rates.failures.paced(from))
                .map(|retry| {
                    connection.refuse();
                    let _ = self.rates.failed(from, Why::Paced);
                    self.rates.paced(retry)
                }),
        };
        if let Some(refusal) = refused {
            return Box::pin(std::future::ready(Ok(refusal.response(by_grpc))));
        }
        let (rates, answered) = (Arc::clone(&self.rates), self.inner.call(request));
        Box::pin(async move {
            let answer = answered.await?;
            let Some(why) = failure(&answer, by_grpc) else { return Ok(answer) };
            connection.refuse();
            Ok(match rates.failed(from, why) {
                Ok(()) => answer,
                Err(refusal) => {
                    connection.dismiss();
                    refusal.last_response(by_grpc)
                }
            })
        })
    }
}

/// The credential, where it is one that takes long to look at: all but API tokens, which are found by their hash. Its text is unset
/// where it has none that could be known.
fn costly(headers: &http::HeaderMap) -> Option<Option<&str>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let Ok(text) = value.to_str() else { return Some(None) };
    let Some((_, credential)) = text.split_once(' ') else { return Some(None) };
    let credential = credential.trim();
    (!credential.starts_with("mindos_api_")).then_some(Some(credential))
}

/// Who asks, as limits see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    pub principal: Arc<str>,
    pub tenant: TenantName,
    /// The tenant's quota, if it has one.
    pub requests_per_second: Option<u32>,
    /// Who is alone is not limited.
    pub alone: bool,
}

/// Finds who asks, in what the gate left.
pub type FindAsker = Arc<dyn Fn(&Extensions) -> Option<Asker> + Send + Sync>;

/// Paces principals and tenants. Stands inside of the gate.
#[derive(Clone)]
pub struct WithinLayer {
    pub rates: Arc<Rates>,
    pub find: FindAsker,
}

impl<S> Layer<S> for WithinLayer {
    type Service = Within<S>;

    fn layer(&self, inner: S) -> Within<S> {
        Within { inner, rates: Arc::clone(&self.rates), find: Arc::clone(&self.find) }
    }
}

/// See [`WithinLayer`].
#[derive(Clone)]
pub struct Within<S> {
    inner: S,
    rates: Arc<Rates>,
    find: FindAsker,
}

impl<S> Service<Request<Body>> for Within<S>
where
    S: Service<Request<Body>, Response = Response>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(asker) = (self.find)(request.extensions()).filter(|asker| !asker.alone) else {
            return Box::pin(self.inner.call(request));
        };
        let Asker { principal, tenant, requests_per_second, alone: _ } = asker;
        let taken = self.rates.principal(&principal);
        let taken = taken.and_then(|()| self.rates.tenant(&tenant, What::Requests, requests_per_second));
        if let Err(refusal) = taken {
            // What it costs to refuse the next ones is not taken from others.
            if let Some(connection) = request.extensions().get::<Connection>() {
                connection.set_back();
            }
            let answer = refusal.response(asks_by_grpc(request.headers()));
            return Box::pin(std::future::ready(Ok(answer)));
        }
        let rates = Arc::clone(&self.rates);
        let request = request.map(|body| match body.is_end_stream() {
            true => body,
            false => Body::new(Metered { body, rates, principal, late: None, kept: None }),
        });
        Box::pin(self.inner.call(request))
    }
}

/// A body that comes no faster than its principal may send.
struct Metered {
    body: Body,
    rates: Arc<Rates>,
    principal: Arc<str>,
    late: Option<Pin<Box<Sleep>>>,
    /// What came and is not paid for.
    kept: Option<Bytes>,
}

/// How long a body waits at a time; the allowance is asked again after it.
const LATE_MAX: Duration = Duration::from_secs(1);

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            if let Some(late) = &mut self.late {
                std::task::ready!(late.as_mut().poll(context));
                self.late = None;
            }
            let data = match self.kept.take() {
                Some(data) => data,
                None => match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => data,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                    ended => return Poll::Ready(ended),
                },
            };
            match self.rates.bytes(&self.principal, data.len()) {
                Ok(()) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(wait) => {
                    self.kept = Some(data);
                    self.late = Some(Box::pin(tokio::time::sleep(wait.min(LATE_MAX))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.kept.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self.kept {
            None => self.body.size_hint(),
            Some(_) => http_body::SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use axum::response::IntoResponse;
    use http::StatusCode;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::super::Limits;
    use super::*;

    fn rates(limits: Limits) -> Arc<Rates> {
        Arc::new(Rates::new(Arc::new(ArcSwap::from_pointee(limits))))
    }

    fn request(from: &str, token: &str, body: &'static [u8]) -> Request<Body> {
        let mut request = Request::new(Body::from(body));
        request.extensions_mut().insert(Connection::from(std::net::SocketAddr::new(from.parse().unwrap(), 1)));
        request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        request
    }

    /// Lets in who has the token `good`, and reads what they send.
    async fn service(request: Request<Body>) -> Result<Response, std::convert::Infallible> {
        LOOKED.with(|looked| looked.set(true));
        if !["Bearer good", "Bearer mindos_api_good"]
            .iter()
            .any(|good| request.headers()[header::AUTHORIZATION] == *good)
        {
            return Ok(StatusCode::UNAUTHORIZED.into_response());
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(body.len().to_string().into_response())
    }

    thread_local! {
        static LOOKED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    async fn code(rates: &Arc<Rates>, from: &str, token: &str) -> u16 {
        ask(rates, from, token).await.0
    }

    /// The answer's code, and whether the service was asked at all.
    async fn ask(rates: &Arc<Rates>, from: &str, token: &str) -> (u16, bool) {
        LOOKED.set(false);
        let remembers: Remembers = Arc::new(|token| token == "eyJh.known.AAAA");
        let outer = OuterLayer { rates: Arc::clone(rates), remembers }.layer(tower::service_fn(service));
        (outer.oneshot(request(from, token, b"x")).await.unwrap().status().as_u16(), LOOKED.get())
    }

    #[tokio::test]
    async fn who_guesses_is_paced_and_who_knows_is_let_in_beside() {
        let rates = rates(Limits { failures_per_second: 1, ..Limits::default() });
        for number in 0..15 {
            assert_eq!(code(&rates, "10.0.0.1", "guess").await, if number < 10 { 401 } else { 429 }, "{number}");
        }
        assert_eq!(code(&rates, "10.0.0.1", "mindos_api_good").await, 200, "from the same address as well");
        for forged in ["eyJh.eyJh.AAAA", " eyJh.eyJh.AAAA", "IHsi.eyJh.AAAA", "good"] {
            assert_eq!(code(&rates, "10.0.0.1", forged).await, 429, "nothing that costs time is looked at: {forged}");
        }
        // It was verified a while ago: what the service says of it is what counts.
        let (_, known) = ask(&rates, "10.0.0.1", "eyJh.known.AAAA").await;
        assert!(known, "it was not looked at");
        assert_eq!(code(&rates, "10.0.0.2", "guess").await, 401);
    }

    #[tokio::test]
    async fn one_address_at_its_limit_costs_the_others_nothing() {
        let rates = rates(Limits { requests_per_address: 5, ..Limits::default() });
        for number in 0..20 {
            assert_eq!(code(&rates, "10.0.0.1", "good").await, if number < 10 { 200 } else { 429 });
        }
        assert_eq!(code(&rates, "10.0.0.2", "good").await, 200);
    }

    #[tokio::test]
    async fn who_is_refused_at_a_limit_stands_back() {
        let rates = rates(Limits { requests_per_principal: 1, ..Limits::default() });
        let asker = Asker {
            principal: "token:1".into(),
            tenant: TenantName::default_tenant(),
            requests_per_second: None,
            alone: false,
        };
        let find: FindAsker = Arc::new(move |_| Some(asker.clone()));
        let mut codes = Vec::new();
        for _ in 0..3 {
            let request = request("10.0.0.1", "good", b"");
            let connection = request.extensions().get::<Connection>().unwrap().clone();
            connection.let_in().await;
            let within = WithinLayer { rates: Arc::clone(&rates), find: Arc::clone(&find) };
            let answer = within.layer(tower::service_fn(service)).oneshot(request).await.unwrap();
            codes.push((answer.status().as_u16(), connection.is_let_in()));
        }
        assert_eq!(codes, [(200, true), (200, true), (429, false)]);
    }

    #[tokio::test]
    async fn a_principal_at_a_limit_waits_or_is_refused_and_others_are_served() {
        let rates = rates(Limits { requests_per_principal: 2, bytes_per_principal: 1 << 20, ..Limits::default() });
        let asker = |name: &str, quota| Asker {
            principal: name.into(),
            tenant: TenantName::default_tenant(),
            requests_per_second: quota,
            alone: name == "local",
        };
        let ask = async |name: &'static str, quota: Option<u32>| {
            let find: FindAsker = Arc::new(move |_| Some(asker(name, quota)));
            let within = WithinLayer { rates: Arc::clone(&rates), find }.layer(tower::service_fn(service));
            static LARGE: [u8; 1 << 20] = [0; 1 << 20];
            within.oneshot(request("10.0.0.1", "good", &LARGE)).await.unwrap().status().as_u16()
        };
        let began = std::time::Instant::now();
        let mut codes = Vec::new();
        for _ in 0..4 {
            codes.push(ask("token:1", None).await);
        }
        assert_eq!(codes.first(), Some(&200));
        // The second megabyte waited until the second one was there.
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
        let (mut refused, began) = (0, std::time::Instant::now());
        while refused == 0 && began.elapsed() < Duration::from_secs(5) {
            let find: FindAsker = Arc::new(move |_| Some(asker("token:3", None)));
            let within = WithinLayer { rates: Arc::clone(&rates), find }.layer(tower::service_fn(service));
            let code = within.oneshot(request("10.0.0.1", "good", b"")).await.unwrap().status();
            refused += usize::from(code == StatusCode::TOO_MANY_REQUESTS);
        }
        assert_eq!(refused, 1);
        assert_eq!(ask("token:2", None).await, 200);
        assert_eq!(ask("token:4", Some(0)).await, 429, "its tenant has a quota of nothing");
        assert_eq!(ask("local", Some(0)).await, 200, "who is alone is not limited");
    }
}
