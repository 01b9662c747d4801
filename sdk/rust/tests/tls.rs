//! Channels over TLS: who is trusted, what is shown, and what goes along with each call.

mod authority;

use std::pin::pin;
use std::sync::{Arc, Mutex};

use authority::{Authority, Listener, Shown, key};
use mindos_proto::identity::v1::identity_service_client::IdentityServiceClient;
use mindos_proto::identity::v1::identity_service_server::{IdentityService, IdentityServiceServer};
use mindos_proto::identity::v1::{
    AuthorityRequest, AuthorityResponse, ChallengeRequest, ChallengeResponse, JoinRequest, JoinResponse, RenewRequest,
    RenewResponse,
};
use mindos_sdk::model::{Secret, TenantName};
use mindos_sdk::{DialError, Dialer, Roots, Tls};
use tonic::{Request, Response, Status};

/// What came with a call.
#[derive(Clone, Debug, Default, PartialEq)]
struct Heard {
    authorization: Option<String>,
    tenant: Option<String>,
    leaf: Option<Vec<u8>>,
    scheme: Option<String>,
}

#[derive(Clone, Default)]
struct Service(Arc<Mutex<Vec<Heard>>>);

#[tonic::async_trait]
impl IdentityService for Service {
    async fn challenge(&self, request: Request<ChallengeRequest>) -> Result<Response<ChallengeResponse>, Status> {
        let text = |name| request.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let Shown(leaf) = request.extensions().get::<Shown>().cloned().unwrap_or_default();
        let heard = Heard { authorization: text("authorization"), tenant: text("mindos-tenant"), leaf, scheme: None };
        self.0.lock().unwrap().push(heard);
        Ok(Response::new(ChallengeResponse::default()))
    }
    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn authority(&self, _: Request<AuthorityRequest>) -> Result<Response<AuthorityResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A server with a certificate that is good from and until so many seconds from now.
async fn serve(authority: &Authority, from: i64, until: i64, clients: Option<&Authority>) -> (Listener, Service) {
    let (listener, sockets) = Listener::start(authority.server(from, until), clients).await;
    let service = Service::default();
    let server = tonic::transport::Server::builder().add_service(IdentityServiceServer::new(service.clone()));
    tokio::spawn(async move { server.serve_with_incoming(pin!(sockets)).await });
    (listener, service)
}

fn trusting(authority: &Authority) -> Tls {
    Tls::new(&Roots::Certificates(vec![authority.root()])).unwrap()
}

async fn call(dialer: &Dialer) -> Result<(), String> {
    let chain = |error: &DialError| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text
    };
    let channel = dialer.connect().await.map_err(|error| chain(&error))?;
    let answer = IdentityServiceClient::new(channel).challenge(ChallengeRequest {}).await;
    answer.map(drop).map_err(|status| status.message().to_owned())
}

#[tokio::test]
async fn a_trusted_server_is_called_with_token_and_tenant() {
    let authority = Authority::new();
    let (listener, service) = serve(&authority, -60, 3600, None).await;
    let dialer = Dialer::new(&listener.url).unwrap().tls(trusting(&authority));
    let dialer = dialer.token(&Secret::new("mindos_api_0123")).unwrap().tenant(&TenantName::new("acme").unwrap());

    call(&dialer).await.unwrap();

    let heard = service.0.lock().unwrap().clone();
    let expected = Heard {
        authorization: Some("Bearer mindos_api_0123".to_owned()),
        tenant: Some("acme".to_owned()),
        ..Heard::default()
    };
    assert_eq!(heard, [expected]);
}

#[tokio::test]
async fn nobody_else_is_trusted() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (listener, service) = serve(&theirs, -60, 3600, None).await;

    let stranger = call(&Dialer::new(&listener.url).unwrap().tls(trusting(&ours))).await.unwrap_err();
    let named = listener.url.replace("127.0.0.1", "localhost");
    let misnamed = call(&Dialer::new(&named).unwrap().tls(trusting(&theirs))).await.unwrap_err();
    let clear = listener.url.replace("https", "http");
    let clear = call(&Dialer::new(&clear).unwrap()).await.unwrap_err();

    assert!(stranger.contains("BadSignature"), "both authorities have one name: {stranger}");
    assert!(misnamed.contains("not valid for name"), "{misnamed}");
    assert!(!clear.is_empty());
    assert!(service.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn clocks_may_differ_by_an_hour_and_not_by_a_day() {
    let authority = Authority::new();
    let hour = 3600;
    for (from, until, passes) in [
        (hour, 2 * hour, true),
        (-2 * hour, -hour, true),
        (24 * hour, 48 * hour, false),
        (-48 * hour, -24 * hour, false),
    ] {
        let (listener, _) = serve(&authority, from, until, None).await;
        let tls = trusting(&authority);
        let dialer = Dialer::new(&listener.url).unwrap().tls(tls.clone());

        let called = call(&dialer).await;
        assert_eq!(called.is_ok(), passes, "{from} {until}: {called:?}");

        // Once the time is known it is what counts.
        let clock = tls.clock();
        let own = i64::try_from(clock.own().0).unwrap();
        clock.set(own, clock.own());
        assert_eq!(call(&dialer).await.is_ok(), from > 0, "{from} {until}: what has ended has ended");
        let inside = i64::try_from(clock.own().0).unwrap() + (from + until) / 2 * 1000;
        clock.set(inside, clock.own());
        call(&dialer).await.unwrap();
    }
}

#[tokio::test]
async fn new_connections_show_the_newest_certificate_and_open_ones_stay() {
    let authority = Authority::new();
    let (listener, service) = serve(&authority, -60, 3600, Some(&authority)).await;
    let tls = trusting(&authority);
    let dialer = Dialer::new(&listener.url).unwrap().tls(tls.clone());

    assert!(call(&dialer).await.is_err(), "nobody gets in without a certificate");
    let (first, first_key) = authority.client("spiffe://a/first");
    tls.present(vec![first.clone()], key(&first_key)).unwrap();
    let mut open = IdentityServiceClient::new(dialer.connect().await.unwrap());
    open.challenge(ChallengeRequest {}).await.unwrap();
    let (second, second_key) = authority.client("spiffe://a/second");
    tls.present(vec![second.clone()], key(&second_key)).unwrap();
    open.challenge(ChallengeRequest {}).await.unwrap();
    call(&dialer).await.unwrap();

    let leaves: Vec<_> = service.0.lock().unwrap().iter().map(|heard| heard.leaf.clone().unwrap()).collect();
    assert_eq!(leaves, [first.to_vec(), first.to_vec(), second.to_vec()]);
}

#[tokio::test]
async fn other_roots_count_for_new_connections() {
    let (old, new) = (Authority::new(), Authority::new());
    let (listener, _) = serve(&old, -60, 3600, None).await;
    let tls = trusting(&old);
    let dialer = Dialer::new(&listener.url).unwrap().tls(tls.clone());
    let mut open = IdentityServiceClient::new(dialer.connect().await.unwrap());

    tls.trust(&Roots::Certificates(vec![old.root(), new.root()])).unwrap();
    call(&dialer).await.unwrap();
    listener.replace(new.server(-60, 3600), None);
    call(&dialer).await.unwrap();
    tls.trust(&Roots::Certificates(vec![new.root()])).unwrap();
    call(&dialer).await.unwrap();
    open.challenge(ChallengeRequest {}).await.unwrap();
    listener.replace(old.server(-60, 3600), None);
    assert!(call(&dialer).await.is_err(), "the old root is retired");
    assert!(tls.trust(&Roots::Certificates(Vec::new())).is_err(), "somebody has to be trusted");
}
