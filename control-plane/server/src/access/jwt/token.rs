//! Tokens in their compact form (RFC 7515), taken apart and not yet believed.
//!
//! Invariant: whatever the text is, taking it apart costs no more than its [`TOKEN_BYTES_MAX`] bytes are worth.

use mindos_model::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::algorithm::{ACCEPTED, Algorithm};
use crate::base64url;

/// Bytes of a token: what fits beside other headers into those that a server takes.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Bytes of an issuer, a subject, a group or an audience. OpenID Connect has 255 for the subject.
const NAME_BYTES_MAX: usize = 512;

/// Why a text is no token that could be verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("token has {bytes} bytes: at most {TOKEN_BYTES_MAX} are taken")]
    TooLong { bytes: usize },
    #[error("token is not a signed JSON Web Token: expected three parts with points between")]
    Shape,
    #[error("token has a {part} that is not base64url without padding")]
    Encoding { part: &'static str },
    #[error("token has a {part} that is not the JSON expected there")]
    Json { part: &'static str },
    #[error("token is signed in a way that is not accepted: expected {ACCEPTED}")]
    Algorithm,
    #[error("token asks for something critical in its header: nothing is understood there")]
    Critical,
    #[error("token is of another type: expected `JWT` or `at+jwt`")]
    Type,
    #[error("token can be used with a certain key only (`cnf`), which is not supported here")]
    Bound,
    #[error("claim `{claim}` is {problem}")]
    Claim { claim: String, problem: &'static str },
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

/// A token taken apart. Nothing in it is proven before its signature is verified.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    /// What the signature is over.
    pub signed: &'a str,
    pub algorithm: Algorithm,
    /// Names the key.
    pub key_id: Option<String>,
    pub claims: Claims,
    pub signature: Vec<u8>,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub issuer: String,
    pub subject: String,
    pub audiences: Vec<String>,
    pub expires: Timestamp,
    pub not_before: Option<Timestamp>,
    pub issued: Option<Timestamp>,
    /// All of it.
    pub all: Map<String, Value>,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// Says what is accepted, and repeats nothing of the token but names of claims.
    pub fn parse(text: &'a str) -> Result<Token<'a>, TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong { bytes: text.len() });
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Shape)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Shape)?;
        if claims.contains('.') {
            return Err(TokenError::Shape);
        }
        let bytes = |part: &'static str, text: &str| base64url::decode(text).ok_or(TokenError::Encoding { part });
        let header: Header =
            serde_json::from_slice(&bytes("header", header)?).map_err(|_| TokenError::Json { part: "header" })?;
        let Header { alg, kid, typ, crit } = header;
        let algorithm = Algorithm::read(&alg).ok_or(TokenError::Algorithm)?;
        if crit.is_some() {
            return Err(TokenError::Critical);
        }
        // Tokens for other ends, such as logging out, name them here (RFC 8725, 3.11).
        let typ = typ.map(|typ| typ.to_ascii_lowercase());
        if !matches!(typ.as_deref(), None | Some("jwt" | "at+jwt" | "application/at+jwt")) {
            return Err(TokenError::Type);
        }
        let claims: Map<String, Value> =
            serde_json::from_slice(&bytes("payload", claims)?).map_err(|_| TokenError::Json { part: "payload" })?;
        let claims = Claims::read(claims)?;
        Ok(Token { signed, algorithm, key_id: kid, claims, signature: bytes("signature", signature)? })
    }
}

impl Claims {
    fn read(all: Map<String, Value>) -> Result<Claims, TokenError> {
        if all.contains_key("cnf") {
            return Err(TokenError::Bound);
        }
        let audiences = match all.get("aud") {
            None => return Err(wrong("aud", "missing")),
            Some(Value::Array(list)) => list.iter().map(|one| name("aud", one)).collect::<Result<_, _>>()?,
            Some(one) => vec![name("aud", one)?],
        };
        let text = |claim: &str| name(claim, all.get(claim).ok_or_else(|| wrong(claim, "missing"))?);
        Ok(Claims {
            issuer: text("iss")?,
            subject: text("sub")?,
            audiences,
            expires: time(&all, "exp")?.ok_or_else(|| wrong("exp", "missing"))?,
            not_before: time(&all, "nbf")?,
            issued: time(&all, "iat")?,
            all,
        })
    }

    /// The names in a claim, a list or a single one: `name`, or else the path that points in it lead to. None where it is missing.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn names(&self, claim: &str) -> Result<Vec<String>, TokenError> {
        let found = self.all.get(claim).or_else(|| {
            let (first, rest) = claim.split_once('.')?;
            rest.split('.').try_fold(self.all.get(first)?, |value, part| value.get(part))
        });
        match found {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(|one| name(claim, one)).collect(),
            Some(one) => Ok(vec![name(claim, one)?]),
        }
    }
}

fn wrong(claim: &str, problem: &'static str) -> TokenError {
    TokenError::Claim { claim: claim.to_owned(), problem }
}

fn name(claim: &str, value: &Value) -> Result<String, TokenError> {
    match value {
        Value::String(text) if text.is_empty() => Err(wrong(claim, "empty")),
        Value::String(text) if text.len() > NAME_BYTES_MAX => Err(wrong(claim, "longer than 512 bytes")),
        Value::String(text) if text.chars().any(char::is_control) => Err(wrong(claim, "not printable")),
        Value::String(text) => Ok(text.clone()),
        _ => Err(wrong(claim, "not text")),
    }
}

/// Seconds since the epoch, with or without a fraction.
fn time(all: &Map<String, Value>, claim: &str) -> Result<Option<Timestamp>, TokenError> {
    let Some(value) = all.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0).ok_or_else(|| wrong(claim, "not a time"))?;
    // What is past the year 10000 means "never"; the cast takes no more than fits.
    let millis = (seconds.min(253_402_300_800.0) * 1000.0) as u64;
    Ok(Some(Timestamp(millis)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| base64url::encode(value.to_string().as_bytes());
        format!("{}.{}.{}", part(header), part(claims), base64url::encode(&[1; 64]))
    }

    fn claims() -> Value {
        json!({ "iss": "https://i", "sub": "s", "aud": ["a", "b"], "exp": 1_795_000_000.5, "groups": ["x", "y"] })
    }

    fn with(field: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[field] = value;
        claims
    }

    #[test]
    fn a_token_is_taken_apart() {
        let text = token(&json!({ "alg": "ES256", "kid": "k", "typ": "JWT" }), &claims());
        let token = Token::parse(&text).unwrap();
        assert_eq!((token.algorithm, token.key_id.as_deref()), (Algorithm::Es256, Some("k")));
        assert_eq!(token.claims.expires, Timestamp(1_795_000_000_500));
        assert_eq!(token.claims.audiences, ["a", "b"]);
        assert_eq!(token.claims.names("groups").unwrap(), ["x", "y"]);
        assert!(text.starts_with(token.signed) && token.signature == [1; 64]);
    }

    #[test]
    fn groups_are_found_by_name_or_by_path() {
        let text = token(
            &json!({ "alg": "ES256" }),
            &with("realm", json!({ "roles": "one", "deep": { "er": ["two"] }, "number": 7 })),
        );
        let claims = Token::parse(&text).unwrap().claims;
        assert_eq!(claims.names("realm.roles").unwrap(), ["one"]);
        assert_eq!(claims.names("realm.deep.er").unwrap(), ["two"]);
        for none in ["roles", "realm.none", "realm.roles.x", "", ".", "realm."] {
            assert_eq!(claims.names(none).unwrap(), [""; 0], "{none}");
        }
        assert!(claims.names("realm.number").is_err() && claims.names("realm").is_err());
        let dotted = token(&json!({ "alg": "ES256" }), &with("https://x.y/groups", json!(["z"])));
        assert_eq!(Token::parse(&dotted).unwrap().claims.names("https://x.y/groups").unwrap(), ["z"]);
    }

    #[test]
    fn headers_that_ask_for_something_else_are_refused() {
        let parse = |header: Value| Token::parse(&token(&header, &claims())).map(drop).unwrap_err();
        for alg in ["none", "None", "HS256", "HS512", "ES512", "ES256K", "RSA-OAEP", ""] {
            assert_eq!(parse(json!({ "alg": alg })), TokenError::Algorithm, "{alg}");
        }
        assert_eq!(parse(json!({ "alg": "ES256", "crit": ["b64"], "b64": false })), TokenError::Critical);
        assert_eq!(parse(json!({ "alg": "ES256", "typ": "logout+jwt" })), TokenError::Type);
        for header in [json!({}), json!({ "alg": 7 }), json!([]), json!({ "alg": "ES256", "kid": 7 })] {
            assert_eq!(parse(header), TokenError::Json { part: "header" });
        }
        let twice = base64url::encode(br#"{"alg":"none","alg":"ES256"}"#);
        let text = token(&json!({}), &claims());
        let text = format!("{twice}.{}", text.split_once('.').unwrap().1);
        assert_eq!(Token::parse(&text).map(drop), Err(TokenError::Json { part: "header" }));
    }

    #[test]
    fn claims_that_are_missing_or_of_another_kind_are_named() {
        let claim = |claims: &Value| match Token::parse(&token(&json!({ "alg": "ES256" }), claims)) {
            Err(TokenError::Claim { claim, .. }) => claim,
            other => panic!("{other:?}"),
        };
        for field in ["iss", "sub", "aud", "exp"] {
            let mut without = claims();
            without.as_object_mut().unwrap().remove(field);
            assert_eq!(claim(&without), field);
            assert_eq!(claim(&with(field, json!(null))), field);
            assert_eq!(claim(&with(field, json!({}))), field);
        }
        for (field, value) in [
            ("sub", json!("")),
            ("sub", json!("a\nb")),
            ("sub", json!("x".repeat(513))),
            ("exp", json!(-1)),
            ("exp", json!("1795000000")),
            ("nbf", json!("now")),
            ("iat", json!([])),
            ("aud", json!(["a", 7])),
        ] {
            assert_eq!(claim(&with(field, value)), field);
        }
        let bound = token(&json!({ "alg": "ES256" }), &with("cnf", json!({ "jkt": "x" })));
        assert_eq!(Token::parse(&bound).map(drop), Err(TokenError::Bound));
        let never = token(&json!({ "alg": "ES256" }), &with("exp", json!(1e300)));
        assert_eq!(Token::parse(&never).unwrap().claims.expires, Timestamp(253_402_300_800_000));
    }

    #[test]
    fn garbage_is_refused_and_costs_little() {
        let deep = |open: &str, close: &str| {
            base64url::encode(format!("{}{}", open.repeat(2000), close.repeat(2000)).as_bytes())
        };
        let (lists, objects) = (deep("[", "]"), deep("{\"a\":", "}"));
        let good = token(&json!({ "alg": "ES256" }), &claims());
        let header = good.split_once('.').unwrap().0;
        for bad in [
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            "...".to_owned(),
            "a.b.c".to_owned(),
            "\u{0}.\u{0}.\u{0}".to_owned(),
            format!("{good}.x"),
            format!("{good}="),
            format!(" {good}"),
            format!("{header}.{lists}.AA"),
            format!("{header}.{objects}.AA"),
            format!("{lists}.{lists}.AA"),
            "x".repeat(TOKEN_BYTES_MAX + 1),
            ".".repeat(TOKEN_BYTES_MAX),
        ] {
            assert!(Token::parse(&bad).is_err(), "{bad:.60}");
        }
        // Every prefix, and every text with one byte changed, is refused or read, and never more than that.
        for cut in 0..good.len() {
            assert!(Token::parse(&good[..cut]).is_err() || cut >= good.len() - 86, "{cut}");
            let mut changed = good.clone().into_bytes();
            changed[cut] = changed[cut].wrapping_add(1) & 0x7f;
            let _ = Token::parse(std::str::from_utf8(&changed).unwrap());
        }
    }
}
