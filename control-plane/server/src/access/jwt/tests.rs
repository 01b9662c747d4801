//! Tokens of a provider on this machine: who is let in, who is not, and what happens as keys and settings change.

use std::task::Poll;

use serde_json::{Value, json};

use super::keys::{RETRY_MAX, RETRY_MIN};
use super::testing::{Answered, Asked, HttpsServer, Signer, seconds};
use super::*;
use crate::secret::Secrets;

/// A provider, and the server that asks it.
struct Site {
    idp: HttpsServer,
    jwt: Jwt,
    clock: Clock,
    configured: Configured,
    _ca: tempfile::NamedTempFile,
    ca: String,
}

/// Serves a description and keys.
fn pages(url: &str, keys: &[Value], headers: &str) -> impl FnMut(&Asked) -> Answered + Send + 'static {
    let (url, keys, headers) = (url.to_owned(), json!({ "keys": keys }).to_string(), headers.to_owned());
    move |asked: &Asked| {
        let path = asked.line.split(' ').nth(1).unwrap();
        Some(match path {
            "/.well-known/openid-configuration" => {
                let page = json!({ "issuer": url, "jwks_uri": format!("{url}/keys"), "token_endpoint": "x" });
                (200, String::new(), page.to_string())
            }
            "/keys" => (200, headers.clone(), keys.clone()),
            _ => (404, String::new(), String::new()),
        })
    }
}

impl Site {
    async fn start(keys: &[Value]) -> Site {
        let idp = HttpsServer::start(|_| None).await;
        idp.answers(pages(&idp.url, keys, ""));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &idp.ca).unwrap();
        let clock = Clock::start(Timestamp(0));
        let configured = Configured::default();
        let jwt = Jwt::new(clock, Arc::clone(&configured));
        let ca = file.path().display().to_string();
        let site = Site { idp, jwt, clock, configured, _ca: file, ca };
        site.configure(&site.provider("corp", "mindos"));
        site
    }

    fn provider(&self, name: &str, audience: &str) -> String {
        format!("{{name: {name}, issuer: '{}', audience: {audience}, ca: '{}'}}", self.idp.url, self.ca)
    }

    fn configure(&self, providers: &str) {
        let settings: Vec<settings::OidcSetting> = serde_norway::from_str(&format!("[{providers}]")).unwrap();
        self.configured.store(Arc::new(settings::providers(&settings, Secrets::Read).unwrap()));
    }

    fn claims(&self) -> Value {
        let now = seconds(self.clock.now());
        json!({
            "iss": self.idp.url, "sub": "alice", "aud": "mindos", "exp": now + 300, "iat": now, "groups": ["team-x", "ops"],
        })
    }

    fn with(&self, claim: &str, value: impl Into<Value>) -> Value {
        let mut claims = self.claims();
        claims[claim] = value.into();
        claims
    }

    async fn verify(&self, signer: &Signer, kid: &str, claims: &Value) -> Result<Person, JwtError> {
        self.jwt.verify(&signer.token(kid, claims)).await
    }

    /// Time passes for the keys of all providers.
    fn pass(&self, time: Duration) {
        self.jwt.0.state.load().providers.iter().for_each(|provider| provider.age(time));
    }

    fn text(&self) -> String {
        let mut into = Exposition::default();
        self.jwt.expose(&mut into);
        into.into_text()
    }
}

#[tokio::test]
async fn a_token_of_the_provider_says_who_it_is() {
    let signer = Signer::es256();
    let site = Site::start(&[signer.public("k1")]).await;
    let claims = site.claims();
    let person = site.verify(&signer, "k1", &claims).await.unwrap();
    assert_eq!(&*person.name, "oidc:corp#alice");
    assert_eq!(person.group_names().collect::<Vec<_>>(), ["oidc:corp#team-x", "oidc:corp#ops"]);
    assert_eq!(seconds(person.expires), claims["exp"].as_i64().unwrap() + 60);
    assert_eq!((site.idp.count("GET /.well-known"), site.idp.count("GET /keys")), (1, 1));
}

#[tokio::test]
async fn every_algorithm_verifies_and_takes_no_other_key() {
    let signers = [Signer::rsa(), Signer::es256(), Signer::es384(), Signer::ed25519()];
    let keys: Vec<Value> = signers.iter().map(|signer| signer.public(signer.alg())).collect();
    let site = Site::start(&keys).await;
    for signer in &signers {
        let algorithms: &[&str] = match signer {
            Signer::Rsa(_) => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
            Signer::Ed25519(_) => &["EdDSA", "Ed25519"],
            Signer::Ecdsa(alg, ..) => &[alg],
        };
        for alg in algorithms {
            let token = signer.sign(&json!({ "alg": alg, "kid": signer.alg() }), &site.claims());
            assert!(site.jwt.verify(&token).await.is_ok(), "{alg}");
            // One key of its kind, so the key id may be left out.
            let token = signer.sign(&json!({ "alg": alg }), &site.claims());
            assert!(site.jwt.verify(&token).await.is_ok(), "{alg} without a key id");
        }
        // Under the key's own id, but said to be signed in another way.
        for alg in ["RS256", "PS256", "ES256", "ES384", "EdDSA"].iter().filter(|alg| !algorithms.contains(alg)) {
            let token = signer.sign(&json!({ "alg": alg, "kid": signer.alg() }), &site.claims());
            assert_eq!(site.jwt.verify(&token).await, Err(JwtError::UnknownKey), "{alg}");
        }
    }
}

#[tokio::test]
async fn tokens_without_a_signature_of_a_public_key_are_refused() {
    let signer = Signer::rsa();
    let site = Site::start(&[signer.public("k1")]).await;
    let good = signer.token("k1", &site.claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let part = |value: Value| base64url(&value);
    let refused = |text: String| {
        let jwt = site.jwt.clone();
        async move { jwt.verify(&text).await.unwrap_err() }
    };
    for alg in ["none", "NONE", "HS256", "HS384", "HS512"] {
        let header = part(json!({ "alg": alg, "kid": "k1" }));
        // With the public key as the secret of an HMAC, as a library that trusts `alg` would take it.
        let secret = signer.public("k1")["n"].as_str().unwrap().as_bytes().to_vec();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
        let tag = ring::hmac::sign(&key, format!("{header}.{claims}").as_bytes());
        for signature in ["", signature, &crate::base64url::encode(tag.as_ref())] {
            let error = refused(format!("{header}.{claims}.{signature}")).await;
            assert_eq!(error, TokenError::Algorithm.into(), "{alg}");
        }
    }
    assert_eq!(refused(format!("{header}.{claims}.")).await, JwtError::Signature);
    let other = part(site.with("sub", "admin"));
    assert_eq!(refused(format!("{header}.{other}.{signature}")).await, JwtError::Signature);
    // Another key under the id of the right one.
    let stranger = Signer::es256();
    assert_eq!(refused(stranger.token("k1", &site.claims())).await, JwtError::UnknownKey);
    let site = Site::start(&[Signer::es256().public("k1")]).await;
    assert_eq!(site.verify(&stranger, "k1", &site.claims()).await, Err(JwtError::Signature));
    // ECDSA with the numbers 0 is the empty signature of some libraries.
    let zero = stranger.token("k1", &site.claims());
    let zero = format!("{}.{}", zero.rsplit_once('.').unwrap().0, crate::base64url::encode(&[0; 64]));
    assert_eq!(site.jwt.verify(&zero).await, Err(JwtError::Signature));
}

fn base64url(value: &Value) -> String {
    crate::base64url::encode(value.to_string().as_bytes())
}

#[tokio::test]
async fn tokens_of_others_and_for_others_are_refused() {
    let signer = Signer::es256();
    let site = Site::start(&[signer.public("k1")]).await;
    let verify = async |claims: Value| site.verify(&signer, "k1", &claims).await;
    assert_eq!(verify(site.with("iss", "https://other.example.com")).await, Err(JwtError::UnknownIssuer));
    assert_eq!(verify(site.with("iss", format!("{}/", site.idp.url))).await, Err(JwtError::UnknownIssuer));
    // Stolen from another program of the same company.
    assert_eq!(verify(site.with("aud", "wiki")).await, Err(JwtError::Audience));
    assert_eq!(verify(site.with("aud", json!(["wiki", "mail"]))).await, Err(JwtError::Audience));
    assert_eq!(verify(site.with("aud", "MINDOS")).await, Err(JwtError::Audience));
    assert_eq!(verify(site.with("aud", json!([]))).await, Err(JwtError::Audience));
    assert!(verify(site.with("aud", json!(["wiki", "mindos"]))).await.is_ok());
    let error = verify(site.with("groups", json!({ "a": 1 }))).await.unwrap_err();
    assert_eq!(error.to_string(), "claim `groups` is not text");
    // A second program of the same provider, with a name of its own.
    site.configure(&format!("{}, {}", site.provider("corp", "mindos"), site.provider("ci", "pipelines")));
    let person = verify(site.with("aud", "pipelines")).await.unwrap();
    assert_eq!(&*person.name, "oidc:ci#alice");
    let text = site.text();
    assert!(text.contains("mindos_oidc_tokens_total{outcome=\"other_audience\"} 4"), "{text}");
    assert!(text.contains("mindos_oidc_key_fetches_total{provider=\"ci\",outcome=\"done\"} 1"), "{text}");
}

#[tokio::test]
async fn times_are_taken_with_a_minute_of_skew() {
    let signer = Signer::ed25519();
    let site = Site::start(&[signer.public("k1")]).await;
    let at = |offset: i64| json!(seconds(site.clock.now()) + offset);
    let verify =
        async |claim: &str, offset: i64| site.verify(&signer, "k1", &site.with(claim, at(offset))).await.map(drop);
    assert_eq!(verify("exp", -50).await, Ok(()));
    assert_eq!(verify("exp", -61).await, Err(JwtError::Expired));
    assert_eq!(verify("nbf", 50).await, Ok(()));
    assert_eq!(verify("nbf", 70).await, Err(JwtError::NotYet));
    assert_eq!(verify("iat", 50).await, Ok(()));
    assert_eq!(verify("iat", 70).await, Err(JwtError::NotYet));
    site.configure(&site.provider("corp", "mindos").replace('}', ", skew: 0s}"));
    assert_eq!(verify("exp", -1).await, Err(JwtError::Expired));
    assert_eq!(verify("nbf", 5).await, Err(JwtError::NotYet));
    assert_eq!(verify("exp", 5).await, Ok(()));
}

#[tokio::test]
async fn a_rotated_key_is_fetched_and_a_dropped_one_is_gone_for_remembered_tokens_too() {
    let (old, fresh) = (Signer::es256(), Signer::es256());
    let site = Site::start(&[old.public("k1")]).await;
    let before = old.token("k1", &site.claims());
    site.jwt.verify(&before).await.unwrap();
    site.jwt.verify(&before).await.unwrap();
    assert!(site.text().contains("mindos_oidc_tokens_remembered_total 1"), "{}", site.text());

    site.idp.answers(pages(&site.idp.url, &[old.public("k1"), fresh.public("k2")], ""));
    let after = fresh.token("k2", &site.claims());
    // Not again within ten seconds of the first time.
    assert_eq!(site.jwt.verify(&after).await, Err(JwtError::UnknownKey));
    site.pass(RETRY_MIN);
    site.jwt.verify(&after).await.unwrap();
    site.jwt.verify(&before).await.unwrap();

    site.idp.answers(pages(&site.idp.url, &[fresh.public("k2")], "cache-control: max-age=300\r\n"));
    site.pass(Duration::from_secs(601));
    assert_eq!(site.jwt.verify(&before).await, Err(JwtError::UnknownKey));
    site.jwt.verify(&after).await.unwrap();
    assert_eq!(site.idp.count("GET /keys"), 3);
    site.pass(Duration::from_secs(299));
    site.jwt.verify(&after).await.unwrap();
    assert_eq!(site.idp.count("GET /keys"), 3);
    site.pass(Duration::from_secs(2));
    site.jwt.verify(&after).await.unwrap();
    assert_eq!(site.idp.count("GET /keys"), 4);
}

#[tokio::test]
async fn many_tokens_with_unknown_keys_ask_the_provider_once() {
    let signer = Signer::es256();
    let site = Arc::new(Site::start(&[signer.public("k1")]).await);
    site.verify(&signer, "k1", &site.claims()).await.unwrap();
    site.pass(RETRY_MIN);
    let tokens: Vec<String> = (0..200).map(|at| signer.token(&format!("unknown-{at}"), &site.claims())).collect();
    let mut all = tokio::task::JoinSet::new();
    for token in tokens {
        let jwt = site.jwt.clone();
        all.spawn(async move { jwt.verify(&token).await });
    }
    while let Some(verified) = all.join_next().await {
        assert_eq!(verified.unwrap(), Err(JwtError::UnknownKey));
    }
    assert_eq!(site.idp.count("GET /keys"), 2);
}

#[tokio::test]
async fn who_asks_and_leaves_does_not_keep_keys_from_being_fetched() {
    let (old, fresh) = (Signer::es256(), Signer::es256());
    let site = Site::start(&[old.public("k1")]).await;
    site.verify(&old, "k1", &site.claims()).await.unwrap();
    site.idp.answers(pages(&site.idp.url, &[fresh.public("k2")], ""));
    site.pass(RETRY_MIN);
    let token = fresh.token("k2", &site.claims());
    // Leaves as soon as it would have to wait.
    {
        let mut asking = std::pin::pin!(site.jwt.verify(&token));
        assert!(std::future::poll_fn(|context| Poll::Ready(asking.as_mut().poll(context))).await.is_pending());
    }
    site.jwt.verify(&token).await.unwrap();
    assert_eq!(site.idp.count("GET /keys"), 2);
}

#[tokio::test]
async fn while_the_provider_fails_its_last_keys_serve_for_a_day() {
    let signer = Signer::es256();
    let site = Site::start(&[signer.public("k1")]).await;
    site.verify(&signer, "k1", &site.claims()).await.unwrap();
    let url = site.idp.url.clone();
    let description = move |jwks: String| {
        let url = url.clone();
        move |asked: &Asked| {
            let page = json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }).to_string();
            let found = asked.line.starts_with("GET /.well-known");
            Some((200, String::new(), if found { page } else { jwks.clone() }))
        }
    };
    site.idp.answers(|_| Some((503, String::new(), "no".to_owned())));
    for broken in ["", "{}", "{\"keys\":[]}", "<html>", &format!("{{\"keys\":[{}]}}", " ".repeat(70_000))] {
        site.pass(Duration::from_secs(3 * 3600));
        site.verify(&signer, "k1", &site.claims()).await.unwrap();
        site.idp.answers(description(broken.to_owned()));
    }
    site.pass(Duration::from_secs(8 * 3600 + 3599));
    site.verify(&signer, "k1", &site.claims()).await.unwrap();
    site.pass(Duration::from_secs(1));
    assert_eq!(site.verify(&signer, "k1", &site.claims()).await, Err(JwtError::KeysUnavailable));
    site.pass(RETRY_MAX);
    site.idp.answers(pages(&site.idp.url, &[signer.public("k1")], ""));
    site.verify(&signer, "k1", &site.claims()).await.unwrap();
}

#[tokio::test]
async fn a_provider_that_does_not_answer_holds_nobody_up_for_long() {
    let signer = Signer::es256();
    let site = Site::start(&[signer.public("k1")]).await;
    site.verify(&signer, "k1", &site.claims()).await.unwrap();
    site.idp.answers(|_| None);
    site.pass(Duration::from_secs(3600));
    let began = std::time::Instant::now();
    site.verify(&signer, "k1", &site.claims()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_description_of_another_issuer_is_not_believed() {
    let signer = Signer::es256();
    let site = Site::start(&[]).await;
    let keys = json!({ "keys": [signer.public("k1")] }).to_string();
    let url = site.idp.url.clone();
    let with = |issuer: &str, jwks: &str| {
        let (keys, page) = (keys.clone(), json!({ "issuer": issuer, "jwks_uri": jwks }).to_string());
        site.idp.answers(move |asked| {
            let found = asked.line.starts_with("GET /.well-known");
            Some((200, String::new(), if found { page.clone() } else { keys.clone() }))
        });
        site.pass(RETRY_MAX);
    };
    let good = format!("{url}/keys");
    for (issuer, jwks) in [
        ("https://evil.example.com", good.as_str()),
        (&format!("{url}/"), &good),
        (&url, "http://127.0.0.1:1/keys"),
        (&url, "http://example.com/keys"),
        (&url, "file:///etc/passwd"),
        (&url, "/keys"),
    ] {
        with(issuer, jwks);
        assert_eq!(site.verify(&signer, "k1", &site.claims()).await, Err(JwtError::KeysUnavailable), "{issuer} {jwks}");
    }
    assert_eq!(site.idp.count("GET /keys"), 0);
    with(&url, &good);
    site.verify(&signer, "k1", &site.claims()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_others_vouch_for_is_not_asked() {
    let signer = Signer::es256();
    let site = Site::start(&[signer.public("k1")]).await;
    let other = HttpsServer::start(|_| None).await;
    std::fs::write(site._ca.path(), &other.ca).unwrap();
    site.configure(&site.provider("corp", "mindos"));
    assert_eq!(site.verify(&signer, "k1", &site.claims()).await, Err(JwtError::KeysUnavailable));
    assert_eq!(site.idp.count("GET"), 0);
}

#[tokio::test]
async fn changed_settings_take_effect_at_once_and_keep_the_keys_of_others() {
    let signer = Signer::es256();
    let site = Site::start(&[signer.public("k1")]).await;
    let token = signer.token("k1", &site.claims());
    site.jwt.verify(&token).await.unwrap();
    let second = site.provider("ci", "pipelines");
    site.configure(&format!("{}, {second}", site.provider("corp", "mindos")));
    site.jwt.verify(&token).await.unwrap();
    assert_eq!(site.idp.count("GET /keys"), 1);
    site.configure(&second);
    assert_eq!(site.jwt.verify(&token).await, Err(JwtError::Audience));
    site.configure("");
    assert_eq!(site.jwt.verify(&token).await, Err(JwtError::UnknownIssuer));
}

#[tokio::test]
async fn a_provider_may_name_its_keys_itself() {
    let signer = Signer::es256();
    let site = Site::start(&[signer.public("k1")]).await;
    let jwks = format!(", jwks: '{}/keys'}}", site.idp.url);
    site.configure(&site.provider("corp", "mindos").replace('}', &jwks));
    site.verify(&signer, "k1", &site.claims()).await.unwrap();
    assert_eq!((site.idp.count("GET /.well-known"), site.idp.count("GET /keys")), (0, 1));
    let asked = site.idp.asked.lock().unwrap();
    assert!(asked[0].head.contains("accept: application/json") && asked[0].body.is_empty(), "{asked:?}");
}

#[tokio::test]
async fn garbage_asks_nobody() {
    let site = Site::start(&[Signer::es256().public("k1")]).await;
    for bad in ["", ".", "..", "a.b.c", &"x".repeat(9000), &"é".repeat(100), "mindos_api_AAAA"] {
        assert!(matches!(site.jwt.verify(bad).await, Err(JwtError::Token(_))), "{bad:.20}");
        assert!(!Jwt::is_compact(bad) || bad.matches('.').count() == 2);
    }
    assert_eq!(site.idp.count("GET"), 0);
}
