//! Joining and renewing against a stub of the control plane that signs for real, over real TLS.

mod authority;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use authority::{Authority, Listener};
use mindos_proto::identity::v1::identity_service_server::{IdentityService, IdentityServiceServer};
use mindos_proto::identity::v1::join_request::Proof as Presented;
use mindos_proto::identity::v1::{
    AuthorityRequest, AuthorityResponse, ChallengeRequest, ChallengeResponse, Issued, JoinRequest, JoinResponse,
    RenewRequest, RenewResponse,
};
use mindos_sdk::model::{ClusterName, GeneralName, InstanceId, Secret};
use mindos_sdk::{Joining, Member, Phase, Proof, Standing, Trust, Who};
use rcgen::{CertificateSigningRequestParams, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

const WAIT: Duration = Duration::from_secs(20);

/// What the stub saw and how it behaves.
struct Shared {
    authority: Authority,
    bundle: Vec<CertificateDer<'static>>,
    life: Duration,
    ahead_ms: i64,
    /// Answers of joins that get lost after they were given.
    lose: u32,
    refuse: Option<Status>,
    joins: Vec<(JoinRequest, Vec<u8>)>,
    renewals: Vec<RenewRequest>,
}

#[derive(Clone)]
struct Stub(Arc<Mutex<Shared>>);

impl Stub {
    fn now_ms(&self) -> i64 {
        let own = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64;
        own + self.0.lock().unwrap().ahead_ms
    }

    fn sign(&self, request: &[u8], identity: &str) -> Issued {
        let now = self.now_ms();
        let shared = self.0.lock().unwrap();
        let mut request = CertificateSigningRequestParams::from_der(&request.to_vec().into()).unwrap();
        let (not_before, not_after) = (now - 300_000, now + shared.life.as_millis() as i64);
        let at = |ms: i64| time::OffsetDateTime::from_unix_timestamp(ms / 1000).unwrap();
        request.params.not_before = at(not_before);
        request.params.not_after = at(not_after) + time::Duration::seconds(1);
        request.params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        let certificate = request.signed_by(&shared.authority.issuer).unwrap();
        Issued {
            certificates: vec![certificate.der().to_vec().into()],
            trust_bundle: shared.bundle.iter().map(|root| root.to_vec().into()).collect(),
            identity: identity.to_owned(),
            not_before_ms: not_before,
            not_after_ms: not_after,
            renew_after_ms: now + shared.life.as_millis() as i64 / 2,
            server_time_ms: now,
        }
    }
}

fn public_key(request: &[u8]) -> Vec<u8> {
    let request = CertificateSigningRequestParams::from_der(&request.to_vec().into()).unwrap();
    rcgen::PublicKeyData::der_bytes(&request.public_key).to_vec()
}

#[tonic::async_trait]
impl IdentityService for Stub {
    async fn challenge(&self, _: Request<ChallengeRequest>) -> Result<Response<ChallengeResponse>, Status> {
        let challenge = b"a challenge".as_slice().into();
        Ok(Response::new(ChallengeResponse { challenge, server_time_ms: self.now_ms() }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let key = public_key(&request.certificate_request);
        let issued = {
            let mut shared = self.0.lock().unwrap();
            shared.joins.push((request.clone(), key));
            if let Some(refusal) = &shared.refuse {
                return Err(refusal.clone());
            }
            if shared.lose > 0 {
                shared.lose -= 1;
                return Err(Status::unavailable("the answer was lost"));
            }
            drop(shared);
            let JoinRequest { cluster, namespace, general, instance, certificate_request, .. } = request;
            let path = if general.is_empty() {
                format!("agent/{instance}")
            } else {
                format!("ns/{namespace}/general/{general}/instance/{instance}")
            };
            self.sign(&certificate_request, &format!("spiffe://mindos.local/tenant/acme/cluster/{cluster}/{path}"))
        };
        Ok(Response::new(JoinResponse { issued: Some(issued) }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let request = request.into_inner();
        {
            let mut shared = self.0.lock().unwrap();
            shared.renewals.push(request.clone());
            if let Some(refusal) = &shared.refuse {
                return Err(refusal.clone());
            }
        }
        let (_, old) = x509_parser::parse_x509_certificate(&request.certificates[0]).unwrap();
        let signed = [b"mindos-renew\0".as_slice(), &request.challenge, &Sha256::digest(&request.certificate_request)];
        ring::signature::UnparsedPublicKey::new(
            &ring::signature::ECDSA_P256_SHA256_ASN1,
            old.public_key().subject_public_key.data.to_vec(),
        )
        .verify(&signed.concat(), &request.signature)
        .map_err(|_| Status::unauthenticated("signature"))?;
        let names = old.subject_alternative_name().unwrap().unwrap();
        let x509_parser::extensions::GeneralName::URI(identity) = &names.value.general_names[0] else {
            panic!("no id")
        };
        Ok(Response::new(RenewResponse { issued: Some(self.sign(&request.certificate_request, identity)) }))
    }

    async fn authority(&self, _: Request<AuthorityRequest>) -> Result<Response<AuthorityResponse>, Status> {
        let trust_bundle = self.0.lock().unwrap().bundle.iter().map(|root| root.to_vec().into()).collect();
        Ok(Response::new(AuthorityResponse { trust_bundle, ..AuthorityResponse::default() }))
    }
}

async fn start(life: Duration) -> (Listener, Stub) {
    start_ahead(life, 0).await
}

/// A stub whose clock is ahead by so many seconds.
async fn start_ahead(life: Duration, ahead_s: i64) -> (Listener, Stub) {
    let authority = Authority::new();
    let (listener, sockets) = Listener::start(authority.server(ahead_s - 300, ahead_s + 3600), None).await;
    let bundle = vec![authority.root()];
    let stub = Stub(Arc::new(Mutex::new(Shared {
        authority,
        bundle,
        life,
        ahead_ms: ahead_s * 1000,
        lose: 0,
        refuse: None,
        joins: Vec::new(),
        renewals: Vec::new(),
    })));
    let server = tonic::transport::Server::builder().add_service(IdentityServiceServer::new(stub.clone()));
    tokio::spawn(async move { server.serve_with_incoming(pin!(sockets)).await });
    (listener, stub)
}

fn who() -> Who {
    Who {
        cluster: ClusterName::new("eu").unwrap(),
        namespace: String::new(),
        general: Some(GeneralName::new("triage").unwrap()),
        instance: InstanceId::new("pod-0").unwrap(),
    }
}

fn ca(dir: &Path, stub: &Stub) -> Trust {
    let path = dir.join("ca.pem");
    std::fs::write(&path, stub.0.lock().unwrap().authority.issuer.pem()).unwrap();
    Trust::File(path)
}

fn joining(listener: &Listener, trust: Trust, proof: Proof) -> Joining {
    Joining { api: Some(listener.url.clone()), trust, proof, ..Joining::default() }
}

fn token() -> Proof {
    Proof::JoinToken(Secret::new("mindos_join_0123"))
}

async fn until(member: &Member, what: impl Fn(&Standing) -> bool) -> Standing {
    let mut standing = member.standing();
    let wait = standing.wait_for(|standing| what(standing));
    let found = tokio::time::timeout(WAIT, wait).await;
    match found {
        Ok(found) => found.unwrap().clone(),
        Err(_) => panic!("{:?}", *member.standing().borrow()),
    }
}

#[tokio::test]
async fn a_token_becomes_a_certificate_that_outlives_the_process() {
    let (listener, stub) = start(Duration::from_secs(3600)).await;
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("identity");
    let first = Joining { dir: Some(kept.clone()), ..joining(&listener, ca(dir.path(), &stub), token()) };
    let member = Member::start(&listener.url, first.clone(), who()).unwrap();
    let standing = until(&member, |standing| standing.is_good).await;

    let id = "spiffe://mindos.local/tenant/acme/cluster/eu/ns/default/general/triage/instance/pod-0";
    assert_eq!((standing.identity.as_deref(), standing.phase, standing.problem), (Some(id), Phase::Valid, None));
    let mode = |name| std::fs::metadata(kept.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("identity.pem"), mode("bundle.pem")), (0o600, 0o644));
    assert!(!kept.join("pending.pem").exists());
    drop(member);

    let again = Member::start(&listener.url, Joining { proof: Proof::None, ..first.clone() }, who()).unwrap();
    assert!(again.standing().borrow().is_good, "without asking anybody");
    assert_eq!(stub.0.lock().unwrap().joins.len(), 1);

    let other = Who { instance: InstanceId::new("pod-1").unwrap(), ..who() };
    let other = Member::start(&listener.url, first.clone(), other).unwrap();
    until(&other, |standing| standing.identity.as_deref().is_some_and(|id| id.ends_with("/pod-1"))).await;
    assert_eq!(stub.0.lock().unwrap().joins.len(), 2, "another's certificate is not used");

    std::fs::set_permissions(kept.join("identity.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Member::start(&listener.url, first, who()).unwrap_err().to_string();
    assert!(error.contains("mode 644") && error.contains("expected 600"), "{error}");
}

#[tokio::test]
async fn certificates_are_renewed_before_half_their_life_by_the_old_key() {
    let (listener, stub) = start(Duration::from_secs(4)).await;
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(&listener.url, joining(&listener, ca(dir.path(), &stub), token()), who()).unwrap();
    let mut end = until(&member, |standing| standing.is_good).await.not_after.unwrap();
    let from = tokio::time::Instant::now();
    for _ in 0..3 {
        let next = until(&member, |standing| standing.not_after > Some(end)).await;
        assert_eq!((next.is_good, next.problem), (true, None));
        end = next.not_after.unwrap();
    }
    assert!(from.elapsed() < Duration::from_secs(8), "three renewals took {:?}", from.elapsed());
    let shared = stub.0.lock().unwrap();
    assert_eq!(shared.joins.len(), 1);
    let keys: std::collections::BTreeSet<_> =
        shared.renewals.iter().map(|renewal| public_key(&renewal.certificate_request)).collect();
    assert_eq!(keys.len(), shared.renewals.len(), "each has a key of its own");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let (listener, stub) = start(Duration::from_secs(3600)).await;
    stub.0.lock().unwrap().lose = 2;
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(&listener.url, joining(&listener, ca(dir.path(), &stub), token()), who()).unwrap();
    let away = until(&member, |standing| standing.problem.as_ref().is_some_and(|why| why.contains("lost"))).await;
    assert_eq!(away.phase, Phase::Joining);
    until(&member, |standing| standing.is_good).await;
    let shared = stub.0.lock().unwrap();
    assert_eq!(shared.joins.len(), 3);
    assert!(shared.joins.iter().all(|(_, key)| *key == shared.joins[0].1));
}

#[tokio::test]
async fn a_refusal_is_said_and_another_token_tried_at_once() {
    let (listener, stub) = start(Duration::from_secs(3600)).await;
    stub.0.lock().unwrap().refuse = Some(Status::permission_denied("join refused: UsedUp"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let proof = Proof::JoinTokenFile(file.clone());
    let member = Member::start(&listener.url, joining(&listener, ca(dir.path(), &stub), proof), who()).unwrap();
    let missing = until(&member, |standing| standing.problem.as_ref().is_some_and(|why| why.contains("read"))).await;
    assert_eq!(missing.phase, Phase::Joining);
    std::fs::write(&file, "mindos_join_old\n").unwrap();
    let refused = until(&member, |standing| standing.phase == Phase::Refused).await;
    assert_eq!(refused.problem.unwrap(), "the control plane refused this agent: join refused: UsedUp");

    stub.0.lock().unwrap().refuse = None;
    std::fs::write(&file, "mindos_join_new\n").unwrap();
    let from = tokio::time::Instant::now();
    until(&member, |standing| standing.is_good).await;
    assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
    let shared = stub.0.lock().unwrap();
    assert_eq!(shared.joins.last().unwrap().0.proof, Some(Presented::JoinToken("mindos_join_new".to_owned())));
}

#[tokio::test]
async fn a_service_account_token_is_read_at_each_use() {
    let (listener, stub) = start(Duration::from_secs(3600)).await;
    stub.0.lock().unwrap().lose = 1;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "first.jwt").unwrap();
    let proof = Proof::ServiceAccountToken(file.clone());
    let member = Member::start(&listener.url, joining(&listener, ca(dir.path(), &stub), proof), who()).unwrap();
    until(&member, |standing| standing.problem.as_ref().is_some_and(|why| why.contains("lost"))).await;
    std::fs::write(&file, "second.jwt").unwrap();
    until(&member, |standing| standing.is_good).await;
    let shared = stub.0.lock().unwrap();
    assert_eq!(shared.joins[0].0.proof, Some(Presented::ServiceAccountToken("first.jwt".to_owned())));
    let last = shared.joins.last().unwrap();
    assert_eq!(last.0.proof, Some(Presented::ServiceAccountToken("second.jwt".to_owned())));
}

#[tokio::test]
async fn a_pinned_root_is_enough_for_the_first_contact() {
    let (listener, stub) = start(Duration::from_secs(3600)).await;
    let pin: [u8; 32] = Sha256::digest(stub.0.lock().unwrap().authority.root()).into();
    let member = Member::start(&listener.url, joining(&listener, Trust::Pin(pin), token()), who()).unwrap();
    until(&member, |standing| standing.is_good).await;

    let stranger = Member::start(&listener.url, joining(&listener, Trust::Pin([7; 32]), token()), who()).unwrap();
    let standing =
        until(&stranger, |standing| standing.problem.as_ref().is_some_and(|why| why.contains("pinned"))).await;
    assert_eq!(standing.phase, Phase::Joining);
    assert_eq!(stub.0.lock().unwrap().joins.len(), 1, "a stranger sees no token");
}

#[tokio::test]
async fn the_authority_changes_its_key_and_nobody_notices() {
    let (listener, stub) = start(Duration::from_secs(3)).await;
    let dir = tempfile::tempdir().unwrap();
    let trust = ca(dir.path(), &stub);
    let member = Member::start(&listener.url, joining(&listener, trust, token()), who()).unwrap();
    let mut end = until(&member, |standing| standing.is_good).await.not_after;
    let next = Authority::new();
    let (old_root, new_root) = (stub.0.lock().unwrap().authority.root(), next.root());
    // Both are trusted, the new one signs, and then the old one is gone.
    stub.0.lock().unwrap().bundle = vec![new_root.clone(), old_root];
    for phase in 0..3 {
        end = until(&member, |standing| standing.not_after > end).await.not_after;
        match phase {
            0 => {
                listener.replace(next.server(-60, 3600), None);
                stub.0.lock().unwrap().authority = Authority { issuer: Authority::new().issuer };
            }
            1 => stub.0.lock().unwrap().bundle = vec![new_root.clone()],
            _ => {}
        }
        assert_eq!(member.standing().borrow().problem, None);
    }
    assert_eq!(stub.0.lock().unwrap().joins.len(), 1);
}

#[tokio::test]
async fn a_retired_root_does_not_come_back_and_a_new_file_counts() {
    let (listener, stub) = start(Duration::from_secs(2)).await;
    let dir = tempfile::tempdir().unwrap();
    let trust = ca(dir.path(), &stub);
    let keep = Some(dir.path().join("identity"));
    let first = Joining { dir: keep, ..joining(&listener, trust, token()) };
    let member = Member::start(&listener.url, first.clone(), who()).unwrap();
    until(&member, |standing| standing.is_good).await;
    // The key of the first root was stolen, so the control plane has another one and its agents know.
    let next = Authority::new();
    stub.0.lock().unwrap().bundle = vec![next.root()];
    until(&member, |_| dir.path().join("identity/bundle.pem").exists() && stub.0.lock().unwrap().renewals.len() == 1)
        .await;
    let untrusted = |standing: &Standing| standing.problem.as_ref().is_some_and(|why| why.contains("invalid peer"));

    // Whoever has the stolen key answers: nobody asks him for anything, also after a restart.
    until(&member, untrusted).await;
    drop(member);
    let asked = stub.0.lock().unwrap().renewals.len();
    let member = Member::start(&listener.url, first, who()).unwrap();
    until(&member, untrusted).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    {
        let shared = stub.0.lock().unwrap();
        assert_eq!((shared.renewals.len(), shared.joins.len()), (asked, 1));
    }

    // Somebody configures yet another root.
    let other = Authority::new();
    listener.replace(other.server(-60, 3600), None);
    std::fs::write(dir.path().join("ca.pem"), other.issuer.pem()).unwrap();
    stub.0.lock().unwrap().bundle = vec![other.root()];
    until(&member, |standing| standing.is_good).await;
}

#[tokio::test]
async fn clocks_that_differ_by_an_hour_do_not_matter() {
    for ahead_s in [3600, -3600] {
        let (listener, stub) = start_ahead(Duration::from_secs(600), ahead_s).await;
        let dir = tempfile::tempdir().unwrap();
        let member = Member::start(&listener.url, joining(&listener, ca(dir.path(), &stub), token()), who()).unwrap();
        let standing = until(&member, |standing| standing.is_good).await;
        assert_eq!(standing.problem, None, "{ahead_s}");
    }
}

#[tokio::test]
async fn bad_settings_are_refused_with_what_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let start = |url: &str, joining: Joining| Member::start(url, joining, who()).map(drop).unwrap_err().to_string();
    let with = |trust| Joining { trust, proof: token(), ..Joining::default() };
    let clear = start("http://10.0.0.1:8091", with(Trust::System));
    assert!(clear.contains("in the clear") && clear.contains("https://"), "{clear}");
    let missing = start("https://10.0.0.1:8091", with(Trust::File(dir.path().join("none.pem"))));
    assert!(missing.contains("none.pem"), "{missing}");
    std::fs::write(dir.path().join("empty.pem"), "no certificate").unwrap();
    let empty = start("https://10.0.0.1:8091", with(Trust::File(dir.path().join("empty.pem"))));
    assert!(empty.contains("expected X.509 certificates in PEM"), "{empty}");
    let port = start("https://10.0.0.1:9999", with(Trust::Pin([0; 32])));
    assert!(port.contains("has not port 8091"), "{port}");
}

/// A stub of the SPIFFE Workload API, as the specification has it.
#[derive(Clone)]
struct Workload {
    answers: Arc<Mutex<Vec<Vec<u8>>>>,
    more: Arc<tokio::sync::Notify>,
}

struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }
}

type Answers = Pin<Box<dyn tokio_stream::Stream<Item = Result<Vec<u8>, Status>> + Send>>;

impl tonic::server::ServerStreamingService<Vec<u8>> for Workload {
    type Response = Vec<u8>;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answers>, Status>> + Send>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
                return Err(Status::invalid_argument("security header missing from request"));
            }
            let (sender, answers) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                loop {
                    let next = this.answers.lock().unwrap().pop();
                    let Some(next) = next else {
                        this.more.notified().await;
                        continue;
                    };
                    if sender.send(Ok(next)).await.is_err() {
                        return;
                    }
                }
            });
            Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(answers)) as Answers))
        })
    }
}

impl tonic::server::NamedService for Workload {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Workload {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
            Ok(tonic::server::Grpc::new(Raw).server_streaming(this, request).await)
        })
    }
}

/// A field of protobuf that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

fn svid(authority: &Authority, id: &str, intermediate: &CertificateDer<'_>) -> Vec<u8> {
    let (leaf, key): (_, KeyPair) = authority.client(id);
    let chain = [leaf.as_ref(), intermediate.as_ref()].concat();
    let svid = [
        field(1, id.as_bytes()),
        field(2, &chain),
        field(3, &key.serialize_der()),
        field(4, &[authority.root().as_ref(), intermediate.as_ref()].concat()),
        field(5, b"internal"),
    ];
    [field(1, &svid.concat()), field(2, b"a list that nobody reads")].concat()
}

#[tokio::test]
async fn a_workload_api_brings_certificates_and_new_ones() {
    let authority = Authority::new();
    let (listener, mut sockets) = Listener::start(authority.server(-60, 3600), Some(&authority)).await;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let other = Authority::new().root();
    let workload = Workload {
        answers: Arc::new(Mutex::new(vec![svid(&authority, "spiffe://example.org/first", &other)])),
        more: Arc::default(),
    };
    let member =
        Member::start(&listener.url, Joining { proof: Proof::Workload(socket.clone()), ..Joining::default() }, who());
    let member = member.unwrap();
    let away = until(&member, |standing| standing.problem.as_ref().is_some_and(|why| why.contains("agent.sock"))).await;
    assert_eq!(away.phase, Phase::Joining);

    let unix = tokio::net::UnixListener::bind(&socket).unwrap();
    let server = tonic::transport::Server::builder().add_service(workload.clone());
    tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(unix)));
    let standing = until(&member, |standing| standing.is_good).await;
    assert_eq!(standing.identity.as_deref(), Some("spiffe://example.org/first"));
    workload.answers.lock().unwrap().push(svid(&authority, "spiffe://example.org/second", &other));
    workload.more.notify_one();
    until(&member, |standing| standing.identity.as_deref() == Some("spiffe://example.org/second")).await;

    // It is shown, and who signed it is trusted.
    let dial = tokio::spawn(async move { member.dialer().connect().await.map(drop) });
    let accepted = tokio_stream::StreamExt::next(&mut sockets);
    let accepted = tokio::time::timeout(WAIT, accepted).await.unwrap().unwrap().unwrap();
    let shown = tonic::transport::server::Connected::connect_info(&accepted).0.unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&shown).unwrap();
    assert!(format!("{:?}", leaf.subject_alternative_name().unwrap().unwrap().value).contains("example.org/second"));
    dial.abort();
}
