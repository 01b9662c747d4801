//! An identity provider on this machine: discovery, keys, the device grant (RFC 8628) and renewal, over HTTPS.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// The provider.
pub(crate) struct Provider {
    pub(crate) url: String,
    /// Who vouches for it.
    pub(crate) ca: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    denies: bool,
    forgot: bool,
    polls: usize,
    renewed: usize,
}

impl Provider {
    pub(crate) fn start() -> Provider {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let config = Arc::new(config);
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let signer = Arc::new(Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let (own, shared) = (url.clone(), Arc::clone(&state));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, own) = (Arc::clone(&config), own.clone());
                let (signer, shared) = (Arc::clone(&signer), Arc::clone(&shared));
                std::thread::spawn(move || {
                    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                    let Some((path, body)) = request(&mut stream) else { return };
                    let (status, answer) = answer(&own, &signer, &mut shared.lock().unwrap(), &path, &body);
                    let body = answer.to_string();
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                    let _ = stream.write_all((head + &body).as_bytes());
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                });
            }
        });
        Provider { url, ca: ca.pem(), state }
    }

    /// Whether the person says no.
    pub(crate) fn denies(&self, denies: bool) {
        self.state.lock().unwrap().denies = denies;
    }

    /// Knows nobody any more.
    pub(crate) fn forgets(&self) {
        self.state.lock().unwrap().forgot = true;
    }

    /// How often a token was renewed.
    pub(crate) fn renewed(&self) -> usize {
        self.state.lock().unwrap().renewed
    }
}

fn request(stream: &mut impl Read) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0usize) {
                return Some((head.split(' ').nth(1)?.to_owned(), body.to_owned()));
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&more[..read]),
        }
    }
}

fn answer(url: &str, signer: &Ed25519KeyPair, state: &mut State, path: &str, body: &str) -> (u16, Value) {
    let form: HashMap<&str, &str> = body.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let refused = |error: &str| (400, json!({ "error": error, "error_description": "as the test has it" }));
    match path {
        "/.well-known/openid-configuration" => (
            200,
            json!({
                "issuer": url,
                "jwks_uri": format!("{url}/keys"),
                "token_endpoint": format!("{url}/token"),
                "device_authorization_endpoint": format!("{url}/device_authorization"),
            }),
        ),
        "/keys" => {
            let x = encode(signer.public_key().as_ref());
            (200, json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k1", "use": "sig", "x": x }] }))
        }
        "/device_authorization" => {
            assert_eq!(form["client_id"], "mindos-cli");
            assert!(form["scope"].contains("openid"), "{body}");
            state.polls = 0;
            (
                200,
                json!({
                    "device_code": "device/1 code", "user_code": "ABCD-EFGH", "verification_uri": format!("{url}/device"),
                    "expires_in": 60, "interval": 1,
                }),
            )
        }
        "/token" if form["grant_type"] == "refresh_token" => {
            if state.forgot || form["refresh_token"] != format!("refresh-{}", state.renewed) {
                return refused("invalid_grant");
            }
            state.renewed += 1;
            (200, tokens(url, signer, state.renewed))
        }
        "/token" => {
            assert_eq!(form["grant_type"], "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code");
            assert_eq!(form["device_code"], "device%2F1%20code");
            state.polls += 1;
            match state.polls {
                _ if state.denies => refused("access_denied"),
                1 => refused("authorization_pending"),
                _ => (200, tokens(url, signer, state.renewed)),
            }
        }
        _ => (404, json!({})),
    }
}

/// Tokens that end so soon that each command has them renewed; each refresh token is good once.
fn tokens(url: &str, signer: &Ed25519KeyPair, number: usize) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": url, "sub": "alice", "aud": "mindos-cli", "exp": now + 30, "iat": now, "groups": ["ops"], "jti": number,
    });
    let header = json!({ "alg": "EdDSA", "kid": "k1", "typ": "JWT" });
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let signature = encode(signer.sign(signed.as_bytes()).as_ref());
    json!({
        "access_token": "opaque", "token_type": "Bearer", "expires_in": 30, "id_token": format!("{signed}.{signature}"),
        "refresh_token": format!("refresh-{number}"),
    })
}

/// Base64 for addresses, without padding.
fn encode(bytes: &[u8]) -> String {
    mindos_sdk::base64(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}
