//! Access over the wire: tokens, roles, tenants, and what each sees.

use std::time::Duration;

use crate::support;
use crate::support::{Directory, Running};
use mindos_proto::access::v1 as access;
use mindos_proto::access::v1::access_service_client::AccessServiceClient;
use mindos_proto::blob::v1 as blob;
use mindos_proto::blob::v1::blob_service_client::BlobServiceClient;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::delivery::v1::delivery_service_client::DeliveryServiceClient;
use mindos_proto::event::v1 as event;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use mindos_proto::ledger::v1 as ledger;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use mindos_proto::replay::v1 as replay;
use mindos_proto::replay::v1::replay_service_client::ReplayServiceClient;
use mindos_proto::rpc;
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

async fn admin(server: &Running, directory: &Directory) -> Credential {
    let path = directory.0.join("admin-token");
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        // The file is there a little before the token works.
        let credential = bearer(text.trim());
        if access(server, credential.clone()).await.who_am_i(access::WhoAmIRequest {}).await.is_ok() {
            return credential;
        }
    }
    panic!("{path:?} holds no token that works");
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

    let admin = admin(&server, &directory).await;
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
    let admin = admin(&server, &directory).await;
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

/// What a caller is told of each thing that it names by a number.
async fn told(server: &Running, by: &Credential, seq: u64) -> Vec<(Code, String)> {
    let channel = server.channel().await;
    let id = format!("d{seq}.1");
    let mut deliveries = DeliveryServiceClient::with_interceptor(channel.clone(), by.clone());
    let mut replays = ReplayServiceClient::with_interceptor(channel.clone(), by.clone());
    let mut events = EventServiceClient::with_interceptor(channel, by.clone());
    let feedback = mindos_proto::cloudevents::v1::CloudEvent {
        source: "/people".to_owned(),
        r#type: "dev.mindos.feedback.accepted".to_owned(),
        attributes: [("mindosdelivery".to_owned(), text(&id))].into(),
        ..support::event(&format!("feedback-{seq}"), "")
    };
    let feedback = event::PublishRequest { event: Some(feedback), explain: false };
    let target = replay::ReplayTarget { general_type: "general-purpose-general".to_owned(), ..Default::default() };
    let (named, event_seqs) = ("r1".to_owned(), vec![seq]);
    let replay = replay::ReplayRequest { id: named, event_seqs, target: Some(target), ..Default::default() };
    let get = delivery::GetRequest { delivery_id: id.clone(), include_output: true };
    let cancel = delivery::CancelRequest {
        target: Some(delivery::cancel_request::Target::DeliveryId(id.clone())),
        ..Default::default()
    };
    let redrive = delivery::RedriveRequest {
        target: Some(delivery::redrive_request::Target::DeliveryId(id)),
        ..Default::default()
    };
    let of = event::GetRequest { key: Some(event::get_request::Key::Seq(seq)) };
    let all = [
        events.get(of).await.map(drop),
        deliveries.get(get).await.map(drop),
        deliveries.cancel(cancel).await.map(drop),
        deliveries.redrive(redrive).await.map(drop),
        replays.replay(replay).await.map(drop),
        events.publish(feedback).await.map(drop),
    ];
    let plain = |status: Status| (status.code(), status.message().replace(&seq.to_string(), "N"));
    all.into_iter().map(|answer| plain(answer.unwrap_err())).collect()
}

fn text(value: &str) -> mindos_proto::cloudevents::v1::cloud_event::CloudEventAttributeValue {
    use mindos_proto::cloudevents::v1::cloud_event::{CloudEventAttributeValue, cloud_event_attribute_value::Attr};
    CloudEventAttributeValue { attr: Some(Attr::CeString(value.to_owned())) }
}

#[tokio::test]
async fn what_is_another_tenants_is_told_as_what_never_was() {
    let directory = Directory::new();
    let server = Running::with(&directory, ENFORCED).await;
    let admin = admin(&server, &directory).await;
    let (_, acme) = token(&server, &admin, "acme", &[access::Role::Admin], &[]).await;
    let (_, other) = token(&server, &admin, "other", &[access::Role::Admin], &[]).await;
    let seq = events(&server, acme).await.publish(publish("e1", "/ci")).await.unwrap().into_inner().result.unwrap().seq;
    // Of its own, so that both numbers stand in the journal, and one beyond its end.
    events(&server, other.clone()).await.publish(publish("e1", "/ci")).await.unwrap();
    let (hidden, never) = (told(&server, &other, seq).await, told(&server, &other, 1_000_000).await);
    assert_eq!(hidden, never);
    assert!(hidden.iter().all(|(code, _)| *code == Code::NotFound), "{hidden:?}");
    server.stop().await;
}

#[tokio::test]
async fn ledger_blobs_and_metrics_are_a_tenants_own() {
    let directory = Directory::new();
    let server = Running::with(&directory, ENFORCED).await;
    let admin = admin(&server, &directory).await;
    let (_, acme) = token(&server, &admin, "acme", &[access::Role::Admin], &[]).await;
    let (_, other) = token(&server, &admin, "other", &[access::Role::Admin], &[]).await;
    events(&server, acme.clone()).await.publish(publish("e1", "/acme-only")).await.unwrap();
    let kinds = async |by: &Credential| {
        let mut ledger = LedgerServiceClient::with_interceptor(server.channel().await, by.clone());
        let mut tail = ledger.tail(ledger::TailRequest::default()).await.unwrap().into_inner();
        let mut kinds = Vec::new();
        while let Some(message) = tail.message().await.unwrap() {
            kinds.extend(message.entries.into_iter().map(|entry| entry.kind));
        }
        // Noted beside the call that uses a token, so sooner or later.
        kinds.retain(|kind| kind != "api_token_used");
        kinds
    };
    let (own, others, all) = (kinds(&acme).await, kinds(&other).await, kinds(&admin).await);
    assert!(own.contains(&"event_accepted".to_owned()) && !own.contains(&"epoch_started".to_owned()), "{own:?}");
    assert!(!others.contains(&"event_accepted".to_owned()), "{others:?}");
    assert!(others.contains(&"api_token_created".to_owned()), "its own token: {others:?}");
    assert!(all.contains(&"epoch_started".to_owned()) && all.len() > own.len() + others.len(), "{all:?}");
    let chosen = Credential { tenant: Some("acme".to_owned()), ..admin.clone() };
    assert_eq!(kinds(&chosen).await, own, "who chooses a tenant sees that one");

    let put = async |by: &Credential| {
        let parts = [
            blob::put_request::Part::Header(blob::PutHeader::default()),
            blob::put_request::Part::Chunk("secret".into()),
        ];
        let parts = tokio_stream::iter(parts.map(|part| blob::PutRequest { part: Some(part) }));
        let mut blobs = BlobServiceClient::with_interceptor(server.channel().await, by.clone());
        blobs.put(parts).await.unwrap().into_inner()
    };
    let stat = async |by: &Credential, name: &str| {
        let mut blobs = BlobServiceClient::with_interceptor(server.channel().await, by.clone());
        blobs.stat(blob::StatRequest { r#ref: name.to_owned() }).await.map(drop).map_err(|status| status.code())
    };
    let name = put(&acme).await.r#ref;
    assert_eq!((stat(&acme, &name).await, stat(&other, &name).await), (Ok(()), Err(Code::NotFound)));
    assert!(!put(&other).await.existed, "that somebody else has the bytes is not told");
    assert_eq!(stat(&other, &name).await, Ok(()));

    let metrics = async |by: &Credential| {
        let token = by.token.as_deref().unwrap_or_default();
        let request = format!(
            "GET /metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        );
        support::http::send(&server, request.as_bytes()).await
    };
    let seen = "mindos_tenant_events_total{tenant=\"acme\"} 1";
    for (by, shows, shows_all) in [(&acme, true, false), (&other, false, false), (&admin, true, true)] {
        // The counts are shown a moment later.
        let mut found = metrics(by).await;
        for _ in 0..100 {
            if !shows || found.1.contains(seen) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            found = metrics(by).await;
        }
        assert_eq!((found.0, found.1.contains(seen)), (200, shows));
        assert_eq!(found.1.contains("mindos_journal_durable_seq"), shows_all);
    }
    assert_eq!(metrics(&Credential::default()).await.0, 401);
    server.stop().await;
}

#[tokio::test]
async fn a_page_of_another_site_may_not_call_where_nobody_is_asked() {
    let server = Running::alone(&[]).await;
    let ask = async |headers: &str| {
        let request = format!("GET /status HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
        support::http::send(&server, request.as_bytes()).await.0
    };
    assert_eq!(ask("host: localhost\r\n").await, 200);
    assert_eq!(ask("host: localhost\r\norigin: https://evil.example\r\n").await, 403);
    assert_eq!(ask("host: evil.example\r\n").await, 403);
    server.stop().await;
}

#[tokio::test]
async fn an_admin_of_a_tenant_stays_within_it() {
    let directory = Directory::new();
    let server = Running::with(&directory, ENFORCED).await;
    let plane = admin(&server, &directory).await;
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
    let first = admin(&server, &directory).await;
    let mode = std::fs::metadata(directory.0.join("admin-token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.stop().await;

    let server = Running::with(&directory, ENFORCED).await;
    access(&server, first.clone()).await.who_am_i(access::WhoAmIRequest {}).await.unwrap();
    let text = std::fs::read_to_string(directory.0.join("admin-token")).unwrap();
    assert_eq!(first.token.as_deref(), Some(text.trim()), "another one was made");
    server.stop().await;
}
