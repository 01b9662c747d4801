//! Service account tokens: checked with registered keys, or by a cluster that is asked over HTTPS.

use mindos_core::access::{AccessItem, IssuerGrant};
use mindos_core::route::Pattern;
use mindos_model::Timestamp;
use serde_json::json;

use super::*;
use crate::access::jwt::testing::{Answered, Asked, HttpsServer, Signer, seconds};
use crate::secret::Secrets;

const URL: &str = "https://kubernetes.default.svc.cluster.local";

fn clock() -> Clock {
    Clock::start(Timestamp(0))
}

fn offline() -> ServiceAccounts {
    ServiceAccounts::new(clock(), ReviewConfigured::default())
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn issuer(tenant: &str, in_cluster: &str, name: &str, keys: &str) -> Issuer {
    let grant = IssuerGrant {
        namespace: Pattern::new("agents").unwrap(),
        service_account: Pattern::new("*").unwrap(),
        generals: vec![Pattern::new("*").unwrap()],
        cluster_agent: false,
    };
    Issuer {
        tenant: TenantName::new(tenant).unwrap(),
        cluster: cluster(in_cluster),
        name: name.into(),
        url: URL.into(),
        audience: "mindos".into(),
        keys: keys.into(),
        grants: vec![grant],
    }
}

fn access(issuers: impl IntoIterator<Item = Issuer>) -> Access {
    let mut access = Access::default();
    issuers.into_iter().for_each(|issuer| access.put(AccessItem::Issuer(Arc::new(issuer))));
    access
}

fn keys(signer: &Signer) -> String {
    json!({ "keys": [signer.public("k1")] }).to_string()
}

/// What a kubelet puts into a pod.
fn claims() -> Value {
    let now = seconds(clock().now());
    json!({
        "iss": URL, "aud": ["mindos"], "iat": now, "nbf": now, "exp": now + 600,
        "sub": "system:serviceaccount:agents:reviewer",
        "kubernetes.io": {
            "namespace": "agents",
            "serviceaccount": { "name": "reviewer", "uid": "5a2f" },
            "pod": { "name": "reviewer-7d9f-x2x", "uid": "91bc" },
        },
    })
}

fn with(path: &str, value: Value) -> Value {
    let mut claims = claims();
    *claims.pointer_mut(path).unwrap() = value;
    claims
}

async fn word(accounts: &ServiceAccounts, access: &Access, in_cluster: &str, token: &str) -> &'static str {
    accounts.attest(access, &cluster(in_cluster), "", token).await.unwrap_err().word()
}

#[tokio::test]
async fn a_pod_is_attested_by_the_registered_keys_of_its_cluster() {
    let signer = Signer::rsa();
    let access = access([issuer("acme", "eu", "main", &keys(&signer))]);
    let token = signer.token("k1", &claims());
    let accounts = offline();
    for _ in 0..2 {
        let attested = accounts.attest(&access, &cluster("eu"), "", &token).await.unwrap();
        assert_eq!((attested.tenant.as_str(), &*attested.issuer), ("acme", "main"));
        assert_eq!((&*attested.namespace, &*attested.service_account), ("agents", "reviewer"));
        assert_eq!(&*attested.pod, "reviewer-7d9f-x2x");
    }
    let mut unbound = claims();
    unbound["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    let attested = accounts.attest(&access, &cluster("eu"), "", &signer.token("k1", &unbound)).await.unwrap();
    assert_eq!(&*attested.pod, "");
}

#[tokio::test]
async fn a_token_of_another_cluster_audience_time_or_key_attests_nobody() {
    let (signer, stranger) = (Signer::es256(), Signer::es256());
    let access = access([issuer("acme", "eu", "main", &keys(&signer)), issuer("acme", "us", "main", &keys(&stranger))]);
    let accounts = offline();
    let good = signer.token("k1", &claims());
    assert_eq!(word(&accounts, &access, "us", &good).await, "TOKEN_BAD_SIGNATURE");
    assert_eq!(word(&accounts, &access, "asia", &good).await, "TOKEN_UNKNOWN_ISSUER");
    let now = seconds(clock().now());
    for (claims, expected) in [
        (with("/iss", json!("https://other")), "TOKEN_UNKNOWN_ISSUER"),
        (with("/aud", json!(["vault"])), "TOKEN_UNKNOWN_ISSUER"),
        (with("/aud", json!("https://kubernetes.default.svc")), "TOKEN_UNKNOWN_ISSUER"),
        (with("/exp", json!(now - 61)), "TOKEN_EXPIRED"),
        (with("/nbf", json!(now + 70)), "TOKEN_NOT_YET_VALID"),
        // The subject and the claim of the cluster have to agree.
        (with("/sub", json!("system:serviceaccount:agents:admin")), "TOKEN_NOT_SERVICE_ACCOUNT"),
        (with("/sub", json!("alice")), "TOKEN_NOT_SERVICE_ACCOUNT"),
        (with("/kubernetes.io", json!({})), "TOKEN_NOT_SERVICE_ACCOUNT"),
        (with("/kubernetes.io/namespace", json!("kube-system")), "TOKEN_NOT_SERVICE_ACCOUNT"),
        (with("/kubernetes.io/pod", json!({ "name": "../x" })), "TOKEN_NOT_SERVICE_ACCOUNT"),
        (with("/kubernetes.io/pod", json!("x")), "TOKEN_NOT_SERVICE_ACCOUNT"),
    ] {
        assert_eq!(word(&accounts, &access, "eu", &signer.token("k1", &claims)).await, expected, "{claims}");
    }
    assert_eq!(word(&accounts, &access, "eu", &stranger.token("k1", &claims())).await, "TOKEN_BAD_SIGNATURE");
    assert_eq!(word(&accounts, &access, "eu", &signer.token("k2", &claims())).await, "TOKEN_UNKNOWN_KEY");
    for garbage in ["", "a.b.c", &"x".repeat(9000)] {
        assert_eq!(word(&accounts, &access, "eu", garbage).await, "TOKEN_MALFORMED");
    }
}

#[tokio::test]
async fn registered_keys_that_change_are_read_again() {
    let (old, fresh) = (Signer::es256(), Signer::es256());
    let accounts = offline();
    let before = access([issuer("acme", "eu", "main", &keys(&old))]);
    accounts.attest(&before, &cluster("eu"), "", &old.token("k1", &claims())).await.unwrap();
    let after = access([issuer("acme", "eu", "main", &keys(&fresh))]);
    assert_eq!(word(&accounts, &after, "eu", &old.token("k1", &claims())).await, "TOKEN_BAD_SIGNATURE");
    accounts.attest(&after, &cluster("eu"), "", &fresh.token("k1", &claims())).await.unwrap();
    let broken = access([issuer("acme", "eu", "main", "{}")]);
    assert_eq!(word(&accounts, &broken, "eu", &fresh.token("k1", &claims())).await, "TOKEN_KEYS_UNAVAILABLE");
}

#[tokio::test]
async fn a_cluster_of_two_tenants_attests_for_neither() {
    let (signer, stranger) = (Signer::es256(), Signer::es256());
    let accounts = offline();
    let token = signer.token("k1", &claims());
    // Another tenant names the same cluster and address, with keys of its own: nothing changes.
    let own = || issuer("acme", "eu", "main", &keys(&signer));
    let two = access([own(), issuer("evil", "eu", "main", &keys(&stranger))]);
    assert_eq!(accounts.attest(&two, &cluster("eu"), "", &token).await.unwrap().tenant.as_str(), "acme");
    // With the keys of the first, which are public: nobody joins the wrong one.
    let two = access([own(), issuer("evil", "eu", "main", &keys(&signer))]);
    assert_eq!(word(&accounts, &two, "eu", &token).await, "TOKEN_AMBIGUOUS");
    // Unless the pod says whose it is.
    let hinted = async |hint: &str, access: &Access| accounts.attest(access, &cluster("eu"), hint, &token).await;
    assert_eq!(hinted("acme/main", &two).await.unwrap().tenant.as_str(), "acme");
    assert_eq!(hinted("evil/main", &two).await.unwrap().tenant.as_str(), "evil");
    assert_eq!(hinted("main", &two).await.unwrap_err().word(), "TOKEN_AMBIGUOUS");
    for none in ["acme/other", "other/main", "/", "acme/main/x"] {
        assert_eq!(hinted(none, &two).await.unwrap_err().word(), "TOKEN_UNKNOWN_ISSUER", "{none}");
    }
    // However many issuers another tenant has, and under the same key id: they keep nobody out.
    let many = (0..200).map(|at| issuer("evil", "eu", &format!("i{at}"), &keys(&stranger)));
    assert_eq!(hinted("", &access(many.chain([own()]))).await.unwrap().tenant.as_str(), "acme");
    let tenants = (0..=CANDIDATES_MAX).map(|at| issuer(&format!("t{at}"), "eu", "main", &keys(&stranger)));
    let crowd = access(tenants.chain([own()]));
    assert_eq!(hinted("", &crowd).await.unwrap_err().word(), "TOKEN_AMBIGUOUS");
    assert_eq!(hinted("acme/main", &crowd).await.unwrap().tenant.as_str(), "acme");
    // Two issuers of one tenant: the one with a grant for this pod.
    let mut first = issuer("acme", "eu", "a", &keys(&signer));
    first.grants[0].namespace = Pattern::new("other").unwrap();
    let two = access([first, own()]);
    assert_eq!(&*accounts.attest(&two, &cluster("eu"), "", &token).await.unwrap().issuer, "main");
}

/// A cluster that is asked.
struct Cluster {
    server: HttpsServer,
    accounts: ServiceAccounts,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(handler: impl FnMut(&Asked) -> Answered + Send + 'static) -> Cluster {
        let server = HttpsServer::start(handler).await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca"), &server.ca).unwrap();
        std::fs::write(dir.path().join("token"), "the-servers-own\n").unwrap();
        let yaml = format!(
            "[{{cluster: eu, tenant: acme, url: '{}', ca: '{}/ca', token_file: '{1}/token'}}]",
            server.url,
            dir.path().display()
        );
        let reviews = token_reviews(&serde_norway::from_str::<Vec<_>>(&yaml).unwrap(), Secrets::Read).unwrap();
        let configured = ReviewConfigured::default();
        configured.store(Arc::new(reviews));
        Cluster { server, accounts: ServiceAccounts::new(clock(), configured), dir }
    }
}

/// The answer of an API server, as it is documented.
fn reviewed(status: &Value) -> Answered {
    let answer = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status,
    });
    Some((201, "content-type: application/json\r\n".to_owned(), answer.to_string()))
}

fn authenticated(user: &str, audiences: &[&str]) -> Value {
    json!({
        "authenticated": true,
        "user": {
            "username": user, "uid": "5a2f", "groups": ["system:serviceaccounts", "system:authenticated"],
            "extra": { "authentication.kubernetes.io/pod-name": ["reviewer-7d9f-x2x"] },
        },
        "audiences": audiences,
    })
}

const USER: &str = "system:serviceaccount:agents:reviewer";

#[tokio::test]
async fn a_cluster_without_keys_is_asked() {
    let cluster_of = Cluster::start(|_| reviewed(&authenticated(USER, &["mindos"]))).await;
    let access = access([issuer("acme", "eu", "main", "")]);
    let token = Signer::es256().token("k1", &claims());
    let attested = cluster_of.accounts.attest(&access, &cluster("eu"), "", &token).await.unwrap();
    assert_eq!((&*attested.namespace, &*attested.pod), ("agents", "reviewer-7d9f-x2x"));
    let asked = cluster_of.server.asked.lock().unwrap().pop().unwrap();
    assert_eq!(asked.line, "POST /apis/authentication.k8s.io/v1/tokenreviews HTTP/1.1");
    assert!(asked.head.to_ascii_lowercase().contains("authorization: bearer the-servers-own"), "{}", asked.head);
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    let expected = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": { "token": token, "audiences": ["mindos"] },
    });
    assert_eq!(body, expected);
    // A token of ours that was renewed is taken at the next question.
    std::fs::write(cluster_of.dir.path().join("token"), "renewed").unwrap();
    cluster_of.accounts.attest(&access, &cluster("eu"), "", &token).await.unwrap();
    let asked = cluster_of.server.asked.lock().unwrap().pop().unwrap();
    assert!(asked.head.contains("Bearer renewed"), "{}", asked.head);
}

#[tokio::test]
async fn what_a_cluster_does_not_vouch_for_attests_nobody() {
    let cluster_of = Cluster::start(|_| None).await;
    let known = access([issuer("acme", "eu", "main", "")]);
    let signer = Signer::es256();
    let (token, mut pod) = (signer.token("k1", &claims()), 0);
    for (answer, expected) in [
        (reviewed(&json!({ "authenticated": false, "error": "expired" })), "TOKEN_REFUSED"),
        (reviewed(&json!({ "user": { "username": USER }, "audiences": ["mindos"] })), "TOKEN_REFUSED"),
        // A server that knows nothing of audiences, and one that looked for another.
        (reviewed(&authenticated(USER, &[])), "TOKEN_REFUSED"),
        (reviewed(&authenticated(USER, &["https://kubernetes.default.svc"])), "TOKEN_REFUSED"),
        (reviewed(&authenticated("system:serviceaccount:agents:admin", &["mindos"])), "TOKEN_REFUSED"),
        (reviewed(&authenticated("alice", &["mindos"])), "TOKEN_REFUSED"),
        (Some((401, String::new(), "{}".to_owned())), "TOKEN_REVIEW_UNAVAILABLE"),
        (Some((403, String::new(), "{}".to_owned())), "TOKEN_REVIEW_UNAVAILABLE"),
        (Some((200, String::new(), "<html>".to_owned())), "TOKEN_REVIEW_UNAVAILABLE"),
        (Some((201, String::new(), "{}".to_owned())), "TOKEN_REVIEW_UNAVAILABLE"),
        (Some((201, String::new(), " ".repeat(70_000))), "TOKEN_REVIEW_UNAVAILABLE"),
        (Some((307, "location: https://127.0.0.1:1/\r\n".to_owned(), String::new())), "TOKEN_REVIEW_UNAVAILABLE"),
    ] {
        let shown = format!("{answer:.300?}");
        cluster_of.server.answers(move |_| answer.clone());
        // Another pod each time: a token that was refused is not asked about again.
        pod += 1;
        let token = signer.token("k1", &with("/kubernetes.io/pod/name", json!(format!("pod-{pod}"))));
        assert_eq!(word(&cluster_of.accounts, &known, "eu", &token).await, expected, "{shown}");
    }
    cluster_of.server.answers(|_| reviewed(&json!({ "authenticated": false })));
    let asked = cluster_of.server.count("POST");
    for _ in 0..3 {
        assert_eq!(word(&cluster_of.accounts, &known, "eu", &token).await, "TOKEN_REFUSED");
    }
    assert_eq!(cluster_of.server.count("POST"), asked + 1);
    // Without asking: what is over, for others, or of another tenant that names the same cluster.
    let before = cluster_of.server.count("POST");
    cluster_of.server.answers(|_| reviewed(&authenticated(USER, &["mindos"])));
    let late = signer.token("k1", &with("/exp", json!(1)));
    assert_eq!(word(&cluster_of.accounts, &known, "eu", &late).await, "TOKEN_EXPIRED");
    let other = signer.token("k1", &with("/aud", json!("vault")));
    assert_eq!(word(&cluster_of.accounts, &known, "eu", &other).await, "TOKEN_UNKNOWN_ISSUER");
    let evil = access([issuer("evil", "eu", "main", "")]);
    assert_eq!(word(&cluster_of.accounts, &evil, "eu", &token).await, "TOKEN_REVIEW_UNAVAILABLE");
    assert_eq!(cluster_of.server.count("POST"), before);
    std::fs::remove_file(cluster_of.dir.path().join("token")).unwrap();
    let token = signer.token("k1", &with("/kubernetes.io/pod/name", json!("another")));
    assert_eq!(word(&cluster_of.accounts, &known, "eu", &token).await, "TOKEN_REVIEW_UNAVAILABLE");
}

#[test]
fn clusters_that_may_be_asked_are_checked_whole() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let read = |yaml: &str, secrets| {
        let yaml = yaml.replace("FILE", &file.path().display().to_string());
        let settings: Vec<TokenReviewSetting> = serde_norway::from_str(&yaml).map_err(|error| error.to_string())?;
        token_reviews(&settings, secrets).map(|reviews| reviews.len())
    };
    let good = "[{cluster: eu, url: 'https://x:6443', token_file: FILE}]";
    assert!(read(good, Secrets::Read).unwrap_err().contains("token_review[0].token_file`: failed to read"));
    std::fs::write(file.path(), "token").unwrap();
    assert_eq!(read(good, Secrets::Read), Ok(1));
    assert_eq!(read("[{cluster: eu, url: 'https://x', ca: /none, token_file: /none}]", Secrets::Assumed), Ok(1));
    for (bad, says) in [
        ("[{cluster: E U, url: 'https://x', token_file: FILE}]", "token_review[0].cluster"),
        ("[{cluster: eu, tenant: '', url: 'https://x', token_file: FILE}]", "token_review[0].tenant"),
        ("[{cluster: eu, url: 'http://127.0.0.1', token_file: FILE}]", "token_review[0].url`: is not https"),
        ("[{cluster: eu, url: 'x', token_file: FILE}]", "token_review[0].url"),
        ("[{cluster: eu, url: 'https://x', ca: FILE, token_file: FILE}]", "token_review[0].ca"),
        ("[{cluster: eu, url: 'https://x'}]", "token_file"),
        (
            "[{cluster: eu, url: 'https://x', token_file: FILE}, {cluster: eu, url: 'https://y', token_file: FILE}]",
            "token_review[1].cluster`: `eu` is named twice",
        ),
    ] {
        let error = read(bad, Secrets::Read).unwrap_err();
        assert!(error.contains(says), "{bad}: {error}");
    }
}
