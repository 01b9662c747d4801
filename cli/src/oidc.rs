//! Signing in at an identity provider from a terminal: the device authorization grant (RFC 8628), and renewing what came of it.
//!
//! ```text
//!  description --> device code --> the person confirms in a browser, this polls --> ID token, refresh token
//! ```
//! Invariant: what the provider answers is bounded in size and time, and no token of it is printed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderValue, Method, header};
use mindos_model::Secret;
use mindos_outgoing::{Answer, Outgoing, Request, Target};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::commands::filter::now;
use crate::contexts::{Contexts, Kept, Login};
use crate::failure::Failure;
use crate::site::chain;

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Between two questions whether the person has confirmed, unless the provider says more.
const POLL: Duration = Duration::from_secs(5);
/// What a provider that answers "slow down" asks for (RFC 8628, 3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// How long a code may be good.
const CODE_LIFE_MAX: Duration = Duration::from_secs(30 * 60);
/// A token is renewed when it ends within this time.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// What a token is taken to last where its provider does not say.
const LIFE: Duration = Duration::from_secs(300);
/// Characters of a provider's words that are shown.
const WORDS_MAX: usize = 200;

/// A provider, and what this program is called there.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    /// Who vouches for its certificate; whom the machine trusts when unset.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) scope: String,
    /// Take the access token, and not the ID token.
    pub(crate) access_token: bool,
}

#[derive(Deserialize)]
struct Description {
    issuer: String,
    token_endpoint: String,
    device_authorization_endpoint: Option<String>,
}

#[derive(Deserialize)]
struct DeviceCode {
    device_code: String,
    user_code: String,
    #[serde(alias = "verification_url")]
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

#[derive(Deserialize)]
struct Tokens {
    access_token: Option<String>,
    id_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    error_description: Option<String>,
}

/// Signs in; `tell` shows the person where to confirm, and with what code.
pub(crate) async fn sign_in(
    provider: &Provider,
    tell: impl FnOnce(&str, &str, Option<&str>),
) -> Result<(Secret, Login), Failure> {
    let site = Site::describe(&provider.issuer, provider.ca.as_deref()).await?;
    let Some(endpoint) = &site.device else {
        return Err(Failure::refused(format!(
            "{} does not sign in devices: its description has no device_authorization_endpoint",
            provider.issuer
        )));
    };
    let form = [("client_id", provider.client_id.as_str()), ("scope", &provider.scope)];
    let answer = site.post(endpoint, &form).await?;
    let code: DeviceCode = site.success(&answer)?;
    let shown = |text: &str| crate::render::clip(text, WORDS_MAX);
    let complete = code.verification_uri_complete.as_deref().map(shown);
    tell(&shown(&code.verification_uri), &shown(&code.user_code), complete.as_deref());
    let mut pause =
        code.interval.map_or(POLL, Duration::from_secs).clamp(Duration::from_secs(1), Duration::from_secs(60));
    let until = tokio::time::Instant::now() + Duration::from_secs(code.expires_in).min(CODE_LIFE_MAX);
    loop {
        tokio::time::sleep(pause).await;
        if tokio::time::Instant::now() >= until {
            return Err(Failure::refused("nobody confirmed in time: the code is worth nothing any more"));
        }
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", code.device_code.as_str()),
            ("client_id", provider.client_id.as_str()),
        ];
        // The network may break while somebody looks for the browser.
        let Ok(answer) = site.post(&site.token, &form).await else { continue };
        if answer.status.is_success() {
            return tokens(provider, site.success(&answer)?, None);
        }
        match site.refused(&answer) {
            Some(Refused { error, .. }) if error == "authorization_pending" => {}
            Some(Refused { error, .. }) if error == "slow_down" => pause += SLOWER,
            _ => return Err(site.failure(&answer)),
        }
    }
}

/// Whether the token ends so soon that it is to be renewed before it is used.
pub(crate) fn is_ending(login: &Login) -> bool {
    login.expires() <= now() + RENEW_BEFORE
}

/// A token in place of one that ends, kept in the context it is of.
pub(crate) async fn renew(context: &str, login: &Login) -> Result<Secret, Failure> {
    let again = |why: &str| {
        Failure::refused(format!("the sign-in of context {context} has ended: {why}"))
            .hint(format!("sign in again with `mindos auth login --context {context} --device`"))
    };
    let Login { issuer, client_id, issuer_ca, access_token, refresh_token, expires_at_ms: _ } = login;
    let Some(Kept(refresh)) = refresh_token else { return Err(again("its provider gave nothing to renew it with")) };
    let provider = Provider {
        issuer: issuer.clone(),
        client_id: client_id.clone(),
        ca: issuer_ca.clone(),
        scope: String::new(),
        access_token: *access_token,
    };
    let site = Site::describe(issuer, issuer_ca.as_deref()).await?;
    let form =
        [("grant_type", "refresh_token"), ("refresh_token", refresh.expose()), ("client_id", client_id.as_str())];
    let answer = site.post(&site.token, &form).await?;
    if answer.status.is_client_error() {
        return Err(again(&site.failure(&answer).message));
    }
    let (token, login) = tokens(&provider, site.success(&answer)?, refresh_token.clone())?;
    let mut contexts = Contexts::load()?;
    if let Some(known) = contexts.contexts.get_mut(context) {
        (known.token, known.login) = (Some(Kept(token.clone())), Some(login));
        contexts.save()?;
    }
    Ok(token)
}

fn tokens(provider: &Provider, tokens: Tokens, refresh: Option<Kept>) -> Result<(Secret, Login), Failure> {
    let Tokens { access_token, id_token, refresh_token, expires_in } = tokens;
    let (found, name) = match provider.access_token {
        true => (access_token, "access_token"),
        false => (id_token, "id_token"),
    };
    let found = found.filter(|token| !token.is_empty()).ok_or_else(|| {
        Failure::refused(format!("{} gave no {name}", provider.issuer))
            .hint("ask for another with --scope or --access-token")
    })?;
    let life = expires_in.map_or(LIFE, Duration::from_secs).min(Duration::from_secs(366 * 86_400));
    let login = Login {
        issuer: provider.issuer.clone(),
        client_id: provider.client_id.clone(),
        issuer_ca: provider.ca.clone(),
        access_token: provider.access_token,
        refresh_token: refresh_token.map(|token| Kept(Secret::new(token))).or(refresh),
        expires_at_ms: (now() + life).0,
    };
    Ok((Secret::new(found), login))
}

/// A provider that is asked.
struct Site {
    issuer: String,
    client: Outgoing,
    token: Target,
    device: Option<Target>,
}

impl Site {
    async fn describe(issuer: &str, ca: Option<&Path>) -> Result<Site, Failure> {
        let client = match ca {
            None => Outgoing::new(),
            Some(path) => {
                let refused = |error: String| Failure::usage(format!("--issuer-ca `{}`: {error}", path.display()));
                let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
                Outgoing::trusting(&pem).map_err(|error| refused(error.to_string()))?
            }
        };
        let bad = |text: &str| Failure::refused(format!("{issuer} is described with {text}"));
        let target = Target::parse(issuer, false).and_then(|target| target.join("/.well-known/openid-configuration"));
        let target =
            target.map_err(|_| Failure::usage(format!("--issuer {issuer}: expected an address with https")))?;
        let mut request = Request::new(Method::GET, target);
        request.timeout = ANSWER_WITHIN;
        let unreached = |error| Failure::world(format!("cannot ask {issuer}: {}", chain(&error)));
        let answer = client.send(request).await.map_err(unreached)?;
        if !answer.status.is_success() {
            return Err(Failure::refused(format!(
                "{issuer} answered {} to the question for its description",
                answer.status
            )));
        }
        let description =
            serde_json::from_slice(&answer.body).map_err(|_| bad("something that is not its description"))?;
        let Description { issuer: found, token_endpoint, device_authorization_endpoint } = description;
        if found.trim_end_matches('/') != issuer.trim_end_matches('/') {
            return Err(bad("the name of another issuer"));
        }
        let secure = issuer.starts_with("https://");
        let read = |text: &str| {
            let target = Target::parse(text, false).ok().filter(|target| target.is_https() || !secure);
            target.ok_or_else(|| bad("an address that is not https"))
        };
        let device = device_authorization_endpoint.as_deref().map(read).transpose()?;
        Ok(Site { issuer: issuer.to_owned(), client, token: read(&token_endpoint)?, device })
    }

    async fn post(&self, target: &Target, form: &[(&str, &str)]) -> Result<Answer, Failure> {
        let mut request = Request::new(Method::POST, target.clone());
        request.timeout = ANSWER_WITHIN;
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.insert(header::CONTENT_TYPE, kind);
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let pairs: Vec<String> = form.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        request.body = pairs.join("&").into();
        let sent = self.client.send(request).await;
        sent.map_err(|error| Failure::world(format!("cannot ask {}: {}", self.issuer, chain(&error))))
    }

    fn success<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, Failure> {
        if !answer.status.is_success() {
            return Err(self.failure(answer));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|_| Failure::refused(format!("{} answered something that was not asked for", self.issuer)))
    }

    fn refused(&self, answer: &Answer) -> Option<Refused> {
        serde_json::from_slice(&answer.body).ok()
    }

    fn failure(&self, answer: &Answer) -> Failure {
        let words = match self.refused(answer) {
            Some(Refused { error, error_description: Some(words) }) => format!("{error}: {words}"),
            Some(Refused { error, error_description: None }) => error,
            None => answer.status.to_string(),
        };
        Failure::refused(format!("{} refused: {}", self.issuer, crate::render::clip(&words, WORDS_MAX)))
    }
}

/// A value of a form.
fn escaped(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_keeps_what_has_a_meaning_in_it() {
        assert_eq!(escaped("a b&c=d+e/é~"), "a%20b%26c%3Dd%2Be%2F%C3%A9~");
    }

    #[test]
    fn the_token_that_is_wanted_has_to_be_there() {
        let mut provider = Provider {
            issuer: "https://i".to_owned(),
            client_id: "c".to_owned(),
            ca: None,
            scope: String::new(),
            access_token: false,
        };
        let answer = || Tokens {
            access_token: Some("access".to_owned()),
            id_token: Some("id".to_owned()),
            refresh_token: None,
            expires_in: Some(u64::MAX),
        };
        let old = Some(Kept(Secret::new("refresh")));
        let (token, login) = tokens(&provider, answer(), old.clone()).unwrap();
        assert_eq!((token.expose(), login.refresh_token.clone()), ("id", old));
        assert!(
            !is_ending(&login) && is_ending(&Login { expires_at_ms: (now() + Duration::from_secs(30)).0, ..login })
        );
        let none = Tokens { id_token: None, ..answer() };
        assert!(tokens(&provider, none, None).unwrap_err().message.contains("gave no id_token"));
        provider.access_token = true;
        assert_eq!(tokens(&provider, answer(), None).unwrap().0.expose(), "access");
    }
}
