//! Agents that join, renew and are turned away, over real connections to a server with TLS.

use std::time::Duration;

use crate::support;
use crate::support::jwt::{public, signed};
use crate::support::tls::{Holder, channel, client, ders, published, request};
use crate::support::{Directory, PATIENCE, Running};
use mindos_proto::access::v1 as access;
use mindos_proto::access::v1::access_service_client::AccessServiceClient;
use mindos_proto::access::v1::authority_service_client::AuthorityServiceClient;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::agent_service_client::AgentServiceClient;
use mindos_proto::agent::v1::{self as agent, ConnectRequest, ConnectResponse};
use mindos_proto::identity::v1 as identity;
use mindos_proto::identity::v1::identity_service_client::IdentityServiceClient;
use mindos_proto::identity::v1::join_request::Proof;
use mindos_proto::journal::v1::AuthorityChanged;
use mindos_proto::journal::v1::authority_changed::What;
use mindos_proto::journal::v1::entry::Record as Kind;
use mindos_proto::ledger::v1::TailRequest;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use rcgen::{KeyPair, SigningKey};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// A server with TLS whose callers are not asked who they are, and a channel to its API.
struct Plane {
    server: Running,
    directory: Directory,
    api: Channel,
}

impl Plane {
    async fn start() -> Plane {
        Plane::again(Directory::new()).await
    }

    async fn again(directory: Directory) -> Plane {
        let server = Running::with(&directory, &["--tls", "authority", "--access", "open"]).await;
        let api = channel(&server.api, client(&published(&directory.0), None)).await.unwrap();
        Plane { server, directory, api }
    }

    fn identity(&self) -> IdentityServiceClient<Channel> {
        IdentityServiceClient::new(self.api.clone())
    }

    fn access(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.api.clone())
    }

    fn authority(&self) -> AuthorityServiceClient<Channel> {
        AuthorityServiceClient::new(self.api.clone())
    }

    async fn token(&self, uses: u32) -> String {
        self.token_for(access::join_holder::Holder::ClusterAgent(true), uses).await
    }

    async fn token_for(&self, holder: access::join_holder::Holder, uses: u32) -> String {
        let holder = access::JoinHolder { holder: Some(holder) };
        let cluster = "c1".to_owned();
        let request = access::CreateJoinTokenRequest { cluster, holder: Some(holder), uses, ..Default::default() };
        self.access().create_join_token(request).await.unwrap().into_inner().text
    }

    async fn join(
        &self,
        token: &str,
        key: &KeyPair,
        change: impl FnOnce(&mut identity::JoinRequest),
    ) -> Result<identity::Issued, Status> {
        let mut request = identity::JoinRequest {
            proof: Some(Proof::JoinToken(token.to_owned())),
            cluster: "c1".to_owned(),
            instance: "i1".to_owned(),
            certificate_request: request(key).into(),
            ..Default::default()
        };
        change(&mut request);
        Ok(self.identity().join(request).await?.into_inner().issued.unwrap())
    }

    /// An agent that joined.
    async fn joined(&self) -> Holder {
        let (token, key) = (self.token(1).await, KeyPair::generate().unwrap());
        let issued = self.join(&token, &key, |_| {}).await.unwrap();
        Holder { key, issued }
    }

    async fn renew(&self, agent: &Holder) -> Result<Holder, Status> {
        let challenge = self.identity().challenge(identity::ChallengeRequest {}).await?.into_inner().challenge;
        let key = KeyPair::generate().unwrap();
        let request = request(&key);
        let signed = [&b"mindos-renew\0"[..], &challenge, &Sha256::digest(&request)].concat();
        let signature = agent.key.sign(&signed).unwrap().into();
        let certificates = agent.issued.certificates.clone();
        let request =
            identity::RenewRequest { certificates, certificate_request: request.into(), challenge, signature };
        let issued = self.identity().renew(request).await?.into_inner().issued.unwrap();
        Ok(Holder { key, issued })
    }

    /// Opens the stream of an agent, which is greeted, or why it is not.
    async fn connect(&self, agent: &Holder, roots: &[CertificateDer<'static>]) -> Result<Live, Status> {
        let channel = channel(&self.server.agents, client(roots, Some(agent))).await;
        let channel = channel.map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let (up, receiver) = mpsc::channel(4);
        let message = agent::AgentMessage { message: Some(Up::Hello(support::hello("b1", Vec::new()))) };
        up.send(ConnectRequest { first_number: 1, messages: vec![message] }).await.unwrap();
        let down = AgentServiceClient::new(channel).connect(ReceiverStream::new(receiver)).await?.into_inner();
        let mut live = Live { _up: up, down };
        let welcome = live.next().await?;
        assert_eq!(welcome.messages.len(), 1);
        Ok(live)
    }

    /// Kinds of the records of access.
    async fn ledger(&self) -> Vec<String> {
        let mut tail = LedgerServiceClient::new(self.api.clone());
        let request = TailRequest { from_seq: 1, ..Default::default() };
        let mut entries = tail.tail(request).await.unwrap().into_inner();
        let mut kinds = Vec::new();
        while let Some(page) = entries.message().await.unwrap() {
            kinds.extend(page.entries.into_iter().map(|entry| match entry.entry.and_then(|entry| entry.record) {
                // Told apart from keys for certificates, which are what is looked at here.
                Some(Kind::AuthorityChanged(AuthorityChanged { what: Some(What::LedgerKey(_)), .. })) => {
                    "ledger_key_changed".to_owned()
                }
                _ => entry.kind,
            }));
        }
        kinds
    }
}

struct Live {
    _up: mpsc::Sender<ConnectRequest>,
    down: Streaming<ConnectResponse>,
}

impl Live {
    async fn next(&mut self) -> Result<ConnectResponse, Status> {
        let message = tokio::time::timeout(PATIENCE, self.down.message()).await.expect("nothing came down")?;
        message.ok_or_else(|| Status::ok("the stream ended"))
    }
}

fn reason(status: &Status) -> String {
    let info: mindos_proto::rpc::ErrorInfo = mindos_proto::rpc::Status::from(status).detail().unwrap();
    info.reason
}

#[tokio::test]
async fn an_agent_joins_connects_and_renews() {
    let plane = Plane::start().await;
    let agent = plane.joined().await;
    let identity::Issued {
        trust_bundle, identity, not_before_ms, not_after_ms, renew_after_ms, server_time_ms, ..
    } = &agent.issued;
    assert_eq!(identity, "spiffe://mindos.local/tenant/default/cluster/c1/agent/i1");
    assert_eq!(ders(trust_bundle), published(&plane.directory.0));
    assert!(not_before_ms < server_time_ms && renew_after_ms > server_time_ms);
    assert!((renew_after_ms - server_time_ms) * 2 <= not_after_ms - server_time_ms + 1000);
    let roots = ders(trust_bundle);
    let mut first = plane.connect(&agent, &roots).await.unwrap();

    let next = plane.renew(&agent).await.unwrap();
    assert_eq!(next.issued.identity, agent.issued.identity);
    assert_ne!(next.issued.certificates, agent.issued.certificates);
    // The newer stream of the instance replaces the older, which lived on until then.
    let _second = plane.connect(&next, &roots).await.unwrap();
    assert_eq!(first.next().await.unwrap_err().code(), Code::Aborted);
    // The old certificate stays good until it expires.
    plane.renew(&agent).await.unwrap();

    let known = plane.identity().authority(identity::AuthorityRequest {}).await.unwrap().into_inner();
    assert_eq!((&known.trust_domain[..], known.trust_bundle), ("mindos.local", trust_bundle.clone()));
    plane.server.stop().await;
}

#[tokio::test]
async fn a_token_lets_in_whom_it_is_for_as_often_as_it_may_and_refusals_are_on_record() {
    let plane = Plane::start().await;
    let (token, key, thief) = (plane.token(1).await, KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let wrong = plane.join(&token, &key, |request| request.cluster = "c2".to_owned()).await.unwrap_err();
    assert_eq!((wrong.code(), wrong.message()), (Code::PermissionDenied, "join refused: wrong_cluster"));
    let general = |request: &mut identity::JoinRequest| {
        (request.general, request.namespace) = ("g".to_owned(), "n".to_owned());
    };
    assert_eq!(plane.join(&token, &key, general).await.unwrap_err().message(), "join refused: wrong_general");

    plane.join(&token, &key, |_| {}).await.unwrap();
    // Its answer was lost.
    plane.join(&token, &key, |_| {}).await.unwrap();
    for (key, instance) in [(&thief, "i1"), (&key, "i2")] {
        let stolen = plane.join(&token, key, |request| request.instance = instance.to_owned()).await.unwrap_err();
        assert_eq!((stolen.message(), &reason(&stolen)[..]), ("join refused: used_up", "JOIN_REFUSED"));
    }
    let unknown = format!("mindos_join_{}", "A".repeat(43));
    let refused = plane.join(&unknown, &key, |_| {}).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "join refused: unknown"));

    let kinds = plane.ledger().await;
    let count = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
    // The same refusal within a moment is recorded once, that of a token that nobody made never.
    assert_eq!((count("agent_joined"), count("join_refused"), count("authority_changed")), (1, 3, 1), "{kinds:?}");
    plane.server.stop().await;
}

#[tokio::test]
async fn a_pod_joins_with_the_token_of_its_service_account() {
    let plane = Plane::start().await;
    let issuer = KeyPair::generate().unwrap();
    let key = public(&issuer);
    let grant = access::IssuerGrant {
        namespace: "agents".to_owned(),
        service_account: "reviewer*".to_owned(),
        generals: vec!["security".to_owned()],
        ..Default::default()
    };
    let registered = access::Issuer {
        cluster: "c1".to_owned(),
        name: "k8s".to_owned(),
        url: "https://k8s.invalid".to_owned(),
        audience: "mindos".to_owned(),
        keys: serde_json::json!({ "keys": [key] }).to_string(),
        grants: vec![grant],
        ..Default::default()
    };
    let request = access::RegisterIssuerRequest { issuer: Some(registered) };
    plane.access().register_issuer(request).await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = |audience: &str| {
        serde_json::json!({
            "iss": "https://k8s.invalid", "aud": [audience], "iat": now, "nbf": now, "exp": now + 600,
            "sub": "system:serviceaccount:agents:reviewer",
            "kubernetes.io": {
                "namespace": "agents",
                "serviceaccount": { "name": "reviewer", "uid": "1" },
                "pod": { "name": "reviewer-0", "uid": "2" },
            },
        })
    };
    let join_as = async |token: String, instance: &str, general: &str, namespace: &str| {
        let change = |request: &mut identity::JoinRequest| {
            request.proof = Some(Proof::ServiceAccountToken(token));
            request.instance = instance.to_owned();
            (request.general, request.namespace) = (general.to_owned(), namespace.to_owned());
        };
        plane.join("", &KeyPair::generate().unwrap(), change).await
    };
    let join =
        async |token: String, general: &str, namespace: &str| join_as(token, "reviewer-0", general, namespace).await;
    let good = signed(&issuer, &claims("mindos"));
    let issued = join(good.clone(), "security", "agents").await.unwrap();
    assert_eq!(
        issued.identity,
        "spiffe://mindos.local/tenant/default/cluster/c1/ns/agents/general/security/instance/reviewer-0"
    );
    let message = |refused: Result<identity::Issued, Status>| refused.unwrap_err().message().to_owned();
    assert_eq!(message(join(good.clone(), "triage", "agents").await), "join refused: not_granted");
    assert_eq!(message(join(good.clone(), "security", "other").await), "join refused: wrong_namespace");
    // A pod is itself.
    assert_eq!(
        message(join_as(good.clone(), "reviewer-1", "security", "agents").await),
        "join refused: wrong_instance"
    );
    let stranger = signed(&KeyPair::generate().unwrap(), &claims("mindos"));
    let elsewhere = signed(&issuer, &claims("elsewhere"));
    for token in [stranger, elsewhere, format!("{good}x"), "junk".to_owned()] {
        let refused = join(token, "security", "agents").await.unwrap_err();
        assert_eq!((refused.code(), &reason(&refused)[..]), (Code::PermissionDenied, "JOIN_REFUSED"), "{refused}");
    }
    let kinds = plane.ledger().await;
    let count = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
    assert_eq!((count("agent_joined"), count("join_refused")), (1, 3), "{kinds:?}");
    plane.server.stop().await;
}

#[tokio::test]
async fn what_is_malformed_is_named() {
    let plane = Plane::start().await;
    let (token, key) = (plane.token(9).await, KeyPair::generate().unwrap());
    type Change = fn(&mut identity::JoinRequest);
    let cases: [(&str, Change); 8] = [
        ("cluster", |request| request.cluster = "C 1".to_owned()),
        ("instance", |request| request.instance = String::new()),
        ("namespace", |request| request.general = "g".to_owned()),
        ("proof", |request| request.proof = None),
        ("join_token", |request| request.proof = Some(Proof::JoinToken("mindos_join_x".to_owned()))),
        ("service_account_token", |request| request.proof = Some(Proof::ServiceAccountToken("x".repeat(20_000)))),
        ("certificate_request", |request| request.certificate_request = vec![0x30; 9000].into()),
        ("certificate_request", |request| request.certificate_request = b"junk".to_vec().into()),
    ];
    for (field, change) in cases {
        let error = plane.join(&token, &key, change).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{field}: {error}");
        assert!(error.message().starts_with(field), "{field}: {error}");
    }
    let huge = plane.join(&token, &key, |request| request.issuer_hint = "x".repeat(100_000)).await.unwrap_err();
    assert_eq!(huge.code(), Code::OutOfRange);
    let none = identity::RenewRequest::default();
    let error = plane.identity().renew(none).await.unwrap_err();
    assert_eq!((error.code(), error.message().starts_with("certificates")), (Code::InvalidArgument, true));
    plane.server.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_denied_is_off_at_once_and_stays_off() {
    let plane = Plane::start().await;
    let agent = plane.joined().await;
    let roots = ders(&agent.issued.trust_bundle);
    let mut live = plane.connect(&agent, &roots).await.unwrap();
    let pattern = access::AgentPattern { cluster: "c1".to_owned(), instance_id: "i1".to_owned(), ..Default::default() };
    let target = access::deny_agent_request::Target::Agent(pattern);
    let request = access::DenyAgentRequest { target: Some(target), reason: "stolen".to_owned() };
    let began = std::time::Instant::now();
    let denial = plane.access().deny_agent(request).await.unwrap().into_inner().denial.unwrap();

    live.next().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let refused = plane.connect(&agent, &roots).await.err().expect("a denied agent was let in");
    assert_ne!(refused.code(), Code::Ok);
    let renewal = plane.renew(&agent).await.err().unwrap();
    assert_eq!((renewal.code(), renewal.message()), (Code::PermissionDenied, "renewal refused: denied"));
    let (token, key) = (plane.token(1).await, KeyPair::generate().unwrap());
    assert_eq!(plane.join(&token, &key, |_| {}).await.unwrap_err().message(), "join refused: denied");

    plane.access().allow_agent(access::AllowAgentRequest { id: denial.id }).await.unwrap();
    plane.connect(&agent, &roots).await.unwrap();
    plane.server.stop().await;
}

#[tokio::test]
async fn whom_a_cluster_agent_speaks_for_is_off_within_five_seconds_although_it_says_nothing() {
    let plane = Plane::start().await;
    let (token, key) = (plane.token(1).await, KeyPair::generate().unwrap());
    let issued = plane.join(&token, &key, |request| request.instance = "agent-0".to_owned()).await.unwrap();
    let agent = Holder { key, issued };
    let roots = ders(&agent.issued.trust_bundle);
    let pattern = |namespace: &str, general: &str, instance: &str| access::AgentPattern {
        cluster: "c1".to_owned(),
        namespace: namespace.to_owned(),
        general: general.to_owned(),
        instance_id: instance.to_owned(),
        ..Default::default()
    };
    let deny = async |pattern| {
        let target = access::deny_agent_request::Target::Agent(pattern);
        let request = access::DenyAgentRequest { target: Some(target), reason: "stolen".to_owned() };
        plane.access().deny_agent(request).await.unwrap().into_inner().denial.unwrap().id
    };
    for denied in [
        pattern("default", "", ""),
        pattern("", "general-purpose-general", ""),
        pattern("", "", "i1"),
        pattern("default", "general-purpose-general", "i1"),
    ] {
        let mut live = plane.connect(&agent, &roots).await.unwrap();
        let other = deny(pattern("elsewhere", "", "")).await;
        // Nobody of this stream: it goes on.
        let quiet = tokio::time::timeout(Duration::from_millis(300), live.down.message()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        let began = std::time::Instant::now();
        let denial = deny(denied).await;
        let status = live.next().await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().ends_with("is turned away"), "{status}");
        assert_eq!(plane.connect(&agent, &roots).await.err().unwrap().code(), Code::PermissionDenied);
        for id in [denial, other] {
            plane.access().allow_agent(access::AllowAgentRequest { id }).await.unwrap();
        }
    }
    plane.connect(&agent, &roots).await.unwrap();
    plane.server.stop().await;
}

#[tokio::test]
async fn the_authority_is_rotated_while_agents_work() {
    let plane = Plane::start().await;
    let old = plane.joined().await;
    let old_roots = ders(&old.issued.trust_bundle);
    let mut live = plane.connect(&old, &old_roots).await.unwrap();
    let part = access::AuthorityPart::Certificates.into();
    let rotated =
        plane.authority().rotate_authority(access::RotateAuthorityRequest { part }).await.unwrap().into_inner();
    let again = plane.authority().rotate_authority(access::RotateAuthorityRequest { part }).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);

    // Whoever knows the former root alone goes on, and learns of the new one.
    let new = plane.renew(&old).await.unwrap();
    assert_eq!(new.issued.trust_bundle.len(), 2);
    drop(plane.connect(&new, &old_roots).await.unwrap());
    assert_eq!(live.next().await.unwrap_err().code(), Code::Aborted);
    let mut live = plane.connect(&old, &old_roots).await.unwrap();

    let retire = |force| access::RetireAuthorityRequest { force };
    let early = plane.authority().retire_authority(retire(false)).await.unwrap_err();
    assert_eq!((early.code(), &reason(&early)[..]), (Code::FailedPrecondition, "TOO_EARLY"));
    let retired = plane.authority().retire_authority(retire(true)).await.unwrap().into_inner();
    assert_eq!(retired.id, rotated.former_id);
    live.next().await.unwrap_err();
    let roots = ders(&new.issued.trust_bundle);
    assert!(plane.connect(&old, &roots).await.is_err());
    plane.connect(&new, &roots).await.unwrap();
    let shown = plane.authority().get_authority(access::GetAuthorityRequest {}).await.unwrap().into_inner();
    assert_eq!(shown.roots.iter().map(|root| &root.id).collect::<Vec<_>>(), [&rotated.id]);

    // The first key, the second, and that the first is gone. After a restart there is nothing to add.
    let changes = |kinds: Vec<String>| kinds.iter().filter(|kind| *kind == "authority_changed").count();
    assert_eq!(changes(plane.ledger().await), 3);
    let Plane { server, directory, api: _ } = plane;
    server.stop().await;
    let plane = Plane::again(directory).await;
    plane.connect(&new, &roots).await.unwrap();
    assert_eq!(changes(plane.ledger().await), 3);
    plane.server.stop().await;
}

#[tokio::test]
async fn a_certificate_speaks_for_its_own_instance_and_a_cluster_agents_for_each_of_its_cluster() {
    let plane = Plane::start().await;
    let (token, key) = (plane.token(1).await, KeyPair::generate().unwrap());
    let issued = plane.join(&token, &key, |request| request.instance = "i2".to_owned()).await.unwrap();
    let agent = Holder { key, issued };
    // `Hello` says i1.
    plane.connect(&agent, &ders(&agent.issued.trust_bundle)).await.unwrap();

    let holder = access::join_holder::Holder::General("g".to_owned());
    let (token, key) = (plane.token_for(holder, 1).await, KeyPair::generate().unwrap());
    let of_general = |request: &mut identity::JoinRequest| {
        (request.general, request.instance) = ("g".to_owned(), "i2".to_owned());
        request.namespace = "default".to_owned();
    };
    let issued = plane.join(&token, &key, of_general).await.unwrap();
    let general = Holder { key, issued };
    let refused = plane.connect(&general, &ders(&general.issued.trust_bundle)).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("hello.instance_id: is `i1`: the certificate is for `i2`"), "{refused}");
    plane.server.stop().await;
}
