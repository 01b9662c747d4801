//! Access over the wire: tokens, roles, tenants, and what each sees.

mod support;

use std::time::Duration;

use mindos_proto::access::v1 as access;
use mindos_proto::access::v1::access_service_client::AccessServiceClient;
use mindos_proto::event::v1 as event;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use mindos_proto::rpc;
use support::{Directory, Running};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const ENFORCED: &[&str] = &["--access", "enforced", "--tls", "off"];

type Authorised = InterceptedService<Channel, Credential>;

/// What is sent along with each request.
#[derive(Clone, Default)]
struct Credential {
    token: Option<String>,
    tenant: Option<String>,
}

impl tonic::service::Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        if let Some(tenant) = &self.tenant {
            request.metadata_mut().insert("mindos-tenant", tenant.parse().unwrap());
        }
        Ok(request)
    }
}

fn bearer(token: &str) -> Credential {
    Credential { token: Some(token.to_owned()), tenant: None }
}

async fn access(server: &Running, credential: Credential) -> AccessServiceClient<Authorised> {
    AccessServiceClient::with_interceptor(server.channel().await, credential)
}

async fn events(server: &Running, credential: Credential) -> EventServiceClient<Authorised> {
    EventServiceClient::with_interceptor(server.channel().await, credential)
}

async fn admin(directory: &Directory) -> Credential {
    let path = directory.0.join("admin-token");
    for _ in 0..200 {
        if let Ok(text) = std::fs::read_to_string(&path) {
            return bearer(text.trim());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path:?} was not written");
}

async fn token(
    server: &Running,
    by: &Credential,
    tenant: &str,
    roles: &[access::Role],
    sources: &[&str],
) -> (u64, Credential) {
    let request = access::CreateApiTokenRequest {
        name: "test".to_owned(),
        tenant: tenant.to_owned(),
        roles: roles.iter().map(|role| (*role).into()).collect(),
        sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        ttl: None,
    };
    let made = access(server, by.clone()).await.create_api_token(request).await.unwrap().into_inner();
    (made.token.unwrap().id, bearer(&made.text))
}

fn reason(status: &Status) -> String {
    rpc::Status::from(status).detail::<rpc::ErrorInfo>().map(|info| info.reason).unwrap_or_default()
}

fn publish(id: &str, source: &str) -> event::PublishRequest {
    let event = support::event(id, "data");
    let event = mindos_proto::cloudevents::v1::CloudEvent { source: source.to_owned(), ..event };
    event::PublishRequest { event: Some(event), explain: false }
}

#[tokio::test]
async fn a_token_lets_in_until_it_is_revoked() {
    let directory = Directory::new();
    let server = Running::with(&directory, ENFORCED).await;
    let refused = events(&server, Credential::default()).await.list(event::ListRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), &*reason(&refused)), (Code::Unauthenticated, "UNAUTHENTICATED_NO_CREDENTIAL"));

    let admin = admin(&directory).await;
    let me = access(&server, admin.clone()).await.who_am_i(access::WhoAmIRequest {}).await.unwrap().into_inner();
    assert!(me.principal.starts_with("token:") && me.plane, "{me:?}");

    let (id, viewer) = token(&server, &admin, "", &[access::Role::Viewer], &[]).await;
    events(&server, viewer.clone()).await.list(event::ListRequest::default()).await.unwrap();
    let refused = events(&server, viewer.clone()).await.publish(publish("e1", "/test")).await.unwrap_err();
    assert_eq!((refused.code(), &*reason(&refused)), (Code::PermissionDenied, "PERMISSION_DENIED"));
    assert!(refused.message().contains("events.publish"), "{refused}");

    // A stream ends with its token.
    let request = event::WatchRequest { from_seq: 1, ..Default::default() };
    let mut watch = events(&server, viewer.clone()).await.watch(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    access(&server, admin).await.revoke_api_token(access::RevokeApiTokenRequest { id }).await.unwrap();
    let refused = events(&server, viewer).await.list(event::ListRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "UNAUTHENTICATED_TOKEN_UNKNOWN");
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    });
    assert_eq!(reason(&ended.await.expect("the stream did not end within 5 s")), "UNAUTHENTICATED_TOKEN_UNKNOWN");
    server.stop().await;
}

#[tokio::test]
async fn a_publisher_names_its_sources_only() {
    let directory = Directory::new();
    let server = Running::with(&directory, ENFORCED).await;
    let admin = admin(&directory).await;
    let (_, publisher) = token(&server, &admin, "acme", &[access::Role::Publisher], &["/ci/*"]).await;
    events(&server, publisher.clone()).await.publish(publish("e1", "/ci/one")).await.unwrap();
    let refused = events(&server, publisher.clone()).await.publish(publish("e2", "/other")).await.unwrap_err();
    assert_eq!((refused.code(), &*reason(&refused)), (Code::PermissionDenied, "SOURCE_NOT_GRANTED"));
    let refused = events(&server, publisher).await.list(event::ListRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    // Another tenant sees nothing of it, and gets the words for what never was.
    let (_, other) = token(&server, &admin, "other", &[access::Role::Viewer], &[]).await;
    let (_, own) = token(&server, &admin, "acme", &[access::Role::Viewer], &[]).await;
    let seen = events(&server, own.clone()).await.list(event::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(seen.events.len(), 1);
    let seq = seen.events[0].seq;
    let of = |seq| event::GetRequest { key: Some(event::get_request::Key::Seq(seq)) };
    events(&server, own).await.get(of(seq)).await.unwrap();
    let hidden = events(&server, other.clone()).await.get(of(seq)).await.unwrap_err();
    let nothing = events(&server, other.clone()).await.get(of(seq + 1_000_000)).await.unwrap_err();
    assert_eq!((hidden.code(), nothing.code()), (Code::NotFound, Code::NotFound));
    assert_eq!(
        hidden.message().replace(&seq.to_string(), "N"),
        nothing.message().replace(&(seq + 1_000_000).to_string(), "N")
    );
    assert!(
        events(&server, other).await.list(event::ListRequest::default()).await.unwrap().into_inner().events.is_empty()
    );
    server.stop().await;
}

#[tokio::test]
async fn an_admin_of_a_tenant_stays_within_it() {
    let directory = Directory::new();
    let server = Running::with(&directory, ENFORCED).await;
    let plane = admin(&directory).await;
    let (_, acme) = token(&server, &plane, "acme", &[access::Role::Admin], &[]).await;
    let (others, _) = token(&server, &plane, "other", &[access::Role::Viewer], &[]).await;

    let mut client = access(&server, acme.clone()).await;
    for tenant in ["*", "other"] {
        let request = access::CreateApiTokenRequest {
            name: "x".to_owned(),
            tenant: tenant.to_owned(),
            roles: vec![access::Role::Admin.into()],
            ..Default::default()
        };
        assert_eq!(client.create_api_token(request).await.unwrap_err().code(), Code::PermissionDenied, "{tenant}");
        let request = access::ListApiTokensRequest { tenant: tenant.to_owned(), ..Default::default() };
        assert!(client.list_api_tokens(request).await.unwrap().into_inner().tokens.is_empty(), "{tenant}");
    }
    let unknown = client.revoke_api_token(access::RevokeApiTokenRequest { id: others }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let quota = access::SetQuotaRequest { tenant: "acme".to_owned(), quota: None };
    assert_eq!(client.set_quota(quota).await.unwrap_err().code(), Code::PermissionDenied);
    let all = access(&server, plane.clone()).await.list_api_tokens(access::ListApiTokensRequest::default()).await;
    assert_eq!(all.unwrap().into_inner().tokens.len(), 3);

    // The header chooses, for who may choose.
    let elsewhere = Credential { tenant: Some("other".to_owned()), ..acme };
    let refused = access(&server, elsewhere).await.who_am_i(access::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(reason(&refused), "TENANT_WITHOUT_ROLE");
    let chosen = Credential { tenant: Some("other".to_owned()), ..plane };
    let me = access(&server, chosen).await.who_am_i(access::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((me.tenant.as_str(), me.plane), ("other", true));
    server.stop().await;
}

#[tokio::test]
async fn the_first_token_is_made_once_and_lives_through_a_restart() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new();
    let server = Running::with(&directory, ENFORCED).await;
    let first = admin(&directory).await;
    let mode = std::fs::metadata(directory.0.join("admin-token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.stop().await;

    let server = Running::with(&directory, ENFORCED).await;
    access(&server, first.clone()).await.who_am_i(access::WhoAmIRequest {}).await.unwrap();
    let text = std::fs::read_to_string(directory.0.join("admin-token")).unwrap();
    assert_eq!(first.token.as_deref(), Some(text.trim()), "another one was made");
    server.stop().await;
}
