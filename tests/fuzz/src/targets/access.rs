//! What comes from whoever wants to be let in: tokens, keys, certificates and their requests, names of agents; and the frames of a
//! connection that nobody has been asked about yet.

use std::time::Instant;

use mindos_control_plane::access::jwt::key_set::KeySet;
use mindos_control_plane::access::jwt::token::Token;
use mindos_control_plane::net::frames::Frames;
use mindos_control_plane::settings;
use mindos_control_plane::tls::identity::Read;
use mindos_control_plane::tls::key::PublicKey;
use mindos_core::access::Identity;

use crate::corpus;

const DOMAIN: &str = "mindos.local";

/// base64url without padding.
fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits = part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        (0..=part.len()).for_each(|place| text.push(char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize])));
    }
    text
}

/// A token as it is sent; or header, claims and signature on lines of their own, so that changes hit what is in them.
pub(super) fn jwt(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let parts: Vec<String> = text.splitn(3, '\n').map(|part| encode(part.as_bytes())).collect();
    for text in [text.to_owned(), parts.join(".")] {
        let Ok(token) = Token::parse(&text) else { continue };
        let again = Token::parse(&text).expect("the same again");
        assert_eq!((&again.claims, &again.key_id), (&token.claims, &token.key_id));
        assert!(text.starts_with(token.signed) && !token.claims.issuer.is_empty());
        for claim in ["groups", "realm_access.roles", "", ".", "a.b.c.d"] {
            let _ = token.claims.names(claim);
        }
        // Nobody's key vouches for what was made up here.
        for bytes in jwks_seeds() {
            let keys = KeySet::parse(&bytes).expect("a seed is good");
            for key in keys.choose(token.algorithm, token.key_id.as_deref()) {
                assert!(!key.verify(token.algorithm, token.signed.as_bytes(), &token.signature), "forged: {text}");
            }
        }
    }
}

pub(super) fn jwt_seeds() -> Vec<Vec<u8>> {
    let lines = [
        "{\"alg\":\"RS256\",\"kid\":\"a\",\"typ\":\"JWT\"}\n{\"iss\":\"https://login.example.com\",\"sub\":\"alice\",\"aud\":\"mindos\",\
         \"exp\":1795176000,\"nbf\":1795172400,\"iat\":1795172400.5,\"groups\":[\"team-x\",\"team-y\"]}\nsignature",
        "{\"alg\":\"ES256\"}\n{\"iss\":\"https://kubernetes.default.svc\",\"sub\":\"system:serviceaccount:ops:triage\",\"aud\":[\"mindos\",\
         \"x\"],\"exp\":1795176000,\"kubernetes.io\":{\"namespace\":\"ops\",\"pod\":{\"name\":\"p-0\",\"uid\":\"u\"},\
         \"serviceaccount\":{\"name\":\"triage\",\"uid\":\"u\"}}}\nsignature",
        "{\"alg\":\"EdDSA\",\"kid\":\"b\",\"typ\":\"at+jwt\"}\n{\"iss\":\"i\",\"sub\":\"s\",\"aud\":\"a\",\"exp\":1,\"realm_access\":\
         {\"roles\":[\"r\"]}}\n",
    ];
    let mut seeds: Vec<Vec<u8>> = lines.iter().map(|text| text.as_bytes().to_vec()).collect();
    let whole = lines.iter().map(|text| text.splitn(3, '\n').map(|part| encode(part.as_bytes())).collect::<Vec<_>>());
    seeds.extend(whole.map(|parts| parts.join(".").into_bytes()));
    seeds.extend(corpus("jwt"));
    seeds
}

/// The keys of an issuer.
pub(super) fn jwks(input: &[u8]) {
    let Ok(keys) = KeySet::parse(input) else { return };
    let token =
        Token::parse("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJpIiwic3ViIjoicyIsImF1ZCI6ImEiLCJleHAiOjF9.AAAA").expect("good");
    for id in [None, Some("a"), Some("")] {
        for key in keys.choose(token.algorithm, id) {
            assert!(!key.verify(token.algorithm, token.signed.as_bytes(), &[7; 64]), "a signature that nobody made");
            assert!(keys.has(&key.digest()));
        }
    }
}

pub(super) fn jwks_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        br#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","use":"sig","alg":"ES256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#
            .to_vec(),
        br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"b","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","key_ops":["verify"]}]}"#
            .to_vec(),
    ];
    let modulus = encode(&[0xc5; 256]);
    seeds
        .push(format!(r#"{{"keys":[{{"kty":"RSA","kid":"a","n":"{modulus}","e":"AQAB","x5c":["x"]}}]}}"#).into_bytes());
    seeds.extend(corpus("jwks"));
    seeds
}

/// A certificate of an agent, or its request for one.
pub(super) fn certificate(input: &[u8]) {
    if let Ok(key) = PublicKey::of_request(input) {
        assert_eq!(PublicKey::of_request(input).map(|key| key.digest()), Ok(key.digest()), "the same again");
    }
    let der = rustls::pki_types::CertificateDer::from(input);
    let Ok(read) = Read::new(&der) else { return };
    let _ = (read.not_before(), read.not_after(), read.issuer_name(), read.key_hash());
    if let Ok(key) = read.key() {
        assert!(key.verify(b"nothing", &[0x30, 6, 2, 1, 1, 2, 1, 1]).is_err(), "a signature that nobody made");
    }
    if let Ok(identity) = read.identity(DOMAIN) {
        named(&identity);
    }
}

/// What names an agent is written the same again, to the letter.
fn named(identity: &Identity) {
    let id = identity.spiffe_id(DOMAIN);
    assert_eq!(Identity::from_spiffe_id(DOMAIN, &id).as_ref(), Ok(identity), "{id}");
}

pub(super) fn certificate_seeds() -> Vec<Vec<u8>> {
    corpus("certificate")
}

/// A SPIFFE id.
pub(super) fn identity(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(identity) = Identity::from_spiffe_id(DOMAIN, text) {
        assert_eq!(identity.spiffe_id(DOMAIN), text, "two texts name one agent");
        named(&identity);
    }
}

pub(super) fn identity_seeds() -> Vec<Vec<u8>> {
    let ids = [
        "spiffe://mindos.local/tenant/default/cluster/eu/ns/ops/general/triage-general/instance/eu-0",
        "spiffe://mindos.local/tenant/acme/cluster/eu-west-1/agent/a-1",
    ];
    ids.iter().map(|id| id.as_bytes().to_vec()).collect()
}

/// A settings file. What is taken is taken again; what is not says why.
pub(super) fn settings(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let first = settings::check(text);
    assert_eq!(settings::check(text), first, "the same again");
    if let Err(error) = first {
        assert!(!error.is_empty());
    }
}

pub(super) fn settings_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "limits:\n  connections_per_address: 8192\n  idle_timeout: 2m\n  reading_memory: 256MiB\n  requests_per_second: {address: 20000, \
         principal: 5000}\n  bytes_per_second: {principal: 128MiB}\n  penalty: 10s\n",
        "oidc: [{name: corp, issuer: 'https://login.example.com', audience: mindos, groups_claim: groups, skew: 60s}]\n",
        "github_secret: s\nquotas: [{name: ci, source: '/ci/*', events: 600, per: 60s, burst: 10}]\nlog: info\n",
        "ingest:\n  d: {type: 'com.example.{/phase}', id: '{/id}', signature: {header: X-S, prefix: 'sha256=', secret: s}}\n",
        "sinks: {ops: {url: 'https://example.com/h', on: [parked], secret: s}}\nprices: {m: {input: 0.15, output: 0.6}}\n",
        "gitlens: {sources: {aggregator: [10.0.0.0/8, 'fd00::/8']}}\notlp: {endpoint: 'http://127.0.0.1:4318', sample: 0.1}\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).chain(corpus("settings")).collect()
}

/// The frames of a connection are counted the same however the bytes are cut.
pub(super) fn frames(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let now = Instant::now();
    let seen = |size: usize| {
        let mut frames = Frames::new(100, 100, now);
        let verdict = bytes.chunks(size).try_for_each(|part| frames.see(part, || now));
        (verdict, frames.block_since())
    };
    assert_eq!(seen(usize::from(*cut) + 1), seen(bytes.len().max(1)), "cut at {cut}");
}

pub(super) fn frames_seeds() -> Vec<Vec<u8>> {
    let preface = b"\x10PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let frames: [&[u8]; 8] = [
        b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0d",
        b"\0\0\x05\x01\x04\0\0\0\x01hello",
        b"\0\0\x05\x01\0\0\0\0\x03hello\0\0\x02\x09\x04\0\0\0\x03on",
        b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08",
        b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01",
        b"\0\0\0\0\0\0\0\0\x01",
        b"\0\0\x05\x02\0\0\0\0\x01\0\0\0\0\x01",
    ];
    let all = [&preface[..], &frames.concat()].concat();
    let mut seeds: Vec<_> = frames.iter().map(|frame| [&preface[..], &frame.repeat(120)].concat()).collect();
    seeds.push(all);
    seeds.push(b"\x01GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec());
    seeds
}
