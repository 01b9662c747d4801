//! What tests of tokens need: an HTTPS server with a certificate of its own authority, and keys that sign.

use std::sync::{Arc, Mutex};

use mindos_model::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::base64url;

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Method, path and version.
    pub(crate) line: String,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// What it answers: a status, headers and a body; `None` never answers.
pub(crate) type Answered = Option<(u16, String, String)>;

type Handler = Box<dyn FnMut(&Asked) -> Answered + Send>;

/// An HTTPS server on this machine.
pub(crate) struct HttpsServer {
    pub(crate) url: String,
    /// Who vouches for it.
    pub(crate) ca: String,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    handler: Arc<Mutex<Handler>>,
}

impl HttpsServer {
    pub(crate) async fn start(handler: impl FnMut(&Asked) -> Answered + Send + 'static) -> HttpsServer {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let handler: Arc<Mutex<Handler>> = Arc::new(Mutex::new(Box::new(handler)));
        let (seen, answers) = (Arc::clone(&asked), Arc::clone(&handler));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen, answers) = (acceptor.clone(), Arc::clone(&seen), Arc::clone(&answers));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut bytes = Vec::new();
                    let request = loop {
                        if let Some(request) = whole(&bytes) {
                            break request;
                        }
                        let mut more = [0; 4096];
                        match stream.read(&mut more).await {
                            Ok(0) | Err(_) => return,
                            Ok(read) => bytes.extend_from_slice(&more[..read]),
                        }
                    };
                    seen.lock().unwrap().push(request.clone());
                    let answered = (*answers.lock().unwrap())(&request);
                    let Some((status, headers, body)) = answered else { return std::future::pending().await };
                    let length = body.len();
                    let text = format!(
                        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
                    );
                    let _ = stream.write_all(text.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        HttpsServer { url, ca: ca.pem(), asked, handler }
    }

    /// Answers otherwise from now on.
    pub(crate) fn answers(&self, handler: impl FnMut(&Asked) -> Answered + Send + 'static) {
        *self.handler.lock().unwrap() = Box::new(handler);
    }

    /// How many requests began so.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.line.starts_with(line)).count()
    }
}

fn whole(bytes: &[u8]) -> Option<Asked> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let (line, head) = text.split_once("\r\n")?;
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let body = &bytes[end + 4..];
    (body.len() >= length.unwrap_or(0)).then(|| Asked {
        line: line.to_owned(),
        head: head.to_owned(),
        body: body.to_vec(),
    })
}

/// A key that signs tokens.
pub(crate) enum Signer {
    Ed25519(Ed25519KeyPair),
    Ecdsa(&'static str, &'static str, EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    pub(crate) fn ed25519() -> Signer {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed25519(Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap())
    }

    pub(crate) fn es256() -> Signer {
        Signer::ecdsa("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    pub(crate) fn es384() -> Signer {
        Signer::ecdsa("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    fn ecdsa(alg: &'static str, curve: &'static str, kind: &'static EcdsaSigningAlgorithm) -> Signer {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Signer::Ecdsa(alg, curve, EcdsaKeyPair::from_pkcs8(kind, der.as_ref(), &random).unwrap())
    }

    /// The same key every time: ring makes none.
    pub(crate) fn rsa() -> Signer {
        let pem = include_bytes!("../../catch_up/test_key.pem");
        let der = PrivatePkcs1KeyDer::from_pem_slice(pem).unwrap();
        Signer::Rsa(RsaKeyPair::from_der(der.secret_pkcs1_der()).unwrap())
    }

    /// The public key, as a key set has it.
    pub(crate) fn public(&self, kid: &str) -> Value {
        match self {
            Signer::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64url::encode(key.public_key().as_ref()) })
            }
            Signer::Ecdsa(_, curve, key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let (x, y) = (base64url::encode(x), base64url::encode(y));
                json!({ "kty": "EC", "crv": curve, "kid": kid, "use": "sig", "x": x, "y": y })
            }
            Signer::Rsa(key) => {
                let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                let (n, e) = (base64url::encode(&n), base64url::encode(&e));
                json!({ "kty": "RSA", "kid": kid, "n": n, "e": e })
            }
        }
    }

    /// What the key signs with, unless something else is said.
    pub(crate) fn alg(&self) -> &'static str {
        match self {
            Signer::Ed25519(_) => "EdDSA",
            Signer::Ecdsa(alg, ..) => alg,
            Signer::Rsa(_) => "RS256",
        }
    }

    pub(crate) fn token(&self, kid: &str, claims: &Value) -> String {
        self.sign(&json!({ "alg": self.alg(), "kid": kid, "typ": "JWT" }), claims)
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| base64url::encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Signer::Ed25519(key) => key.sign(signed.as_bytes()).as_ref().to_vec(),
            Signer::Ecdsa(.., key) => key.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Signer::Rsa(key) => {
                let how: &dyn RsaEncoding = match header["alg"].as_str().unwrap() {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(how, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", base64url::encode(&signature))
    }
}

/// Whole seconds.
pub(crate) fn seconds(at: Timestamp) -> i64 {
    i64::try_from(at.0 / 1000).unwrap()
}
