//! People and programs that an identity provider vouches for, by the JSON Web Token that they present.
//!
//! ```text
//!  token --> taken apart --> provider by `iss` --> `aud`, `exp`, `nbf`, `iat` --> key by `kid` --> signature --> Person
//!               |                                                                  |
//!               +-- seen before: its key is still the provider's ------------------+--> fetched when stale or unknown
//! ```
//! Verified with ring, which is in the tree as what rustls runs on, and under which a key fixes the algorithms that it takes.
//! Invariants: what is in a token is believed only after its signature; nobody can make a provider be asked more often than
//! once in ten seconds; all times are read from the server's own clock.

pub mod algorithm;
pub mod key_set;
mod keys;
mod provider;
mod seen;
pub mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod token;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mindos_model::Timestamp;
use sha2::{Digest, Sha256};
use tracing::error;

use self::provider::Provider;
use self::seen::{Entry, Seen};
use self::settings::{Configured, OidcProvider};
use self::token::{Claims, TOKEN_BYTES_MAX, Token, TokenError};
use crate::clock::Clock;
use crate::logging::Chain;
use crate::metrics::{Exposition, Kind};
use mindos_outgoing::Outgoing;

/// Verified tokens that are remembered.
const SEEN_MAX: usize = 4096;

/// Somebody whom a provider vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Name of the provider.
    pub provider: Arc<str>,
    /// `sub` of the token.
    pub subject: Arc<str>,
    /// Groups, as the provider names them.
    pub groups: Arc<[Arc<str>]>,
    /// Until when the token is taken: its `exp`, and by how much clocks may differ.
    pub expires: Timestamp,
    /// `oidc:<provider>#<sub>`.
    pub name: Arc<str>,
}

impl Person {
    /// The groups by the names that roles are bound to: `oidc:<provider>#<group>`.
    pub fn group_names(&self) -> impl Iterator<Item = String> {
        self.groups.iter().map(|group| format!("oidc:{}#{group}", self.provider))
    }
}

/// Why a token is not taken. Repeats nothing of it, and nothing of the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("token is of an issuer that is not known here")]
    UnknownIssuer,
    #[error("token is for another audience")]
    Audience,
    #[error("token has expired")]
    Expired,
    #[error("token is not valid yet: is the clock of its issuer ahead?")]
    NotYet,
    #[error("token is signed with a key that its issuer does not publish")]
    UnknownKey,
    #[error("token has a signature that is not that of its issuer's key")]
    Signature,
    #[error("token cannot be verified, because its issuer's keys cannot be had")]
    KeysUnavailable,
}

impl JwtError {
    /// A word for programs and for counting.
    #[must_use]
    pub fn word(&self) -> &'static str {
        WORDS[self.index()].0
    }

    fn index(&self) -> usize {
        match self {
            JwtError::Token(_) => 0,
            JwtError::UnknownIssuer => 1,
            JwtError::Audience => 2,
            JwtError::Expired => 3,
            JwtError::NotYet => 4,
            JwtError::UnknownKey => 5,
            JwtError::Signature => 6,
            JwtError::KeysUnavailable => 7,
        }
    }
}

/// Words for programs, and labels for counts.
const WORDS: [(&str, &str); 8] = [
    ("TOKEN_MALFORMED", "malformed"),
    ("TOKEN_UNKNOWN_ISSUER", "unknown_issuer"),
    ("TOKEN_OTHER_AUDIENCE", "other_audience"),
    ("TOKEN_EXPIRED", "expired"),
    ("TOKEN_NOT_YET_VALID", "not_yet_valid"),
    ("TOKEN_UNKNOWN_KEY", "unknown_key"),
    ("TOKEN_BAD_SIGNATURE", "bad_signature"),
    ("TOKEN_KEYS_UNAVAILABLE", "keys_unavailable"),
];

/// Verifies tokens. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Jwt(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    client: Outgoing,
    configured: Configured,
    state: ArcSwap<State>,
    building: Mutex<()>,
    verified: AtomicU64,
    remembered: AtomicU64,
    refused: [AtomicU64; WORDS.len()],
}

/// What was made of the settings in force.
#[derive(Debug)]
struct State {
    of: Arc<Vec<OidcProvider>>,
    providers: Vec<Arc<Provider>>,
    seen: Mutex<Seen>,
}

impl Jwt {
    /// Verifies tokens of the providers in force, now and after every change of them.
    #[must_use]
    pub fn new(clock: Clock, configured: Configured) -> Jwt {
        let empty = State { of: Arc::default(), providers: Vec::new(), seen: Mutex::new(Seen::new(SEEN_MAX)) };
        Jwt(Arc::new(Inner {
            clock,
            client: Outgoing::new(),
            configured,
            state: ArcSwap::from_pointee(empty),
            building: Mutex::default(),
            verified: AtomicU64::default(),
            remembered: AtomicU64::default(),
            refused: Default::default(),
        }))
    }

    /// Whether a text has the form of a token, as opposed to that of an API token.
    #[must_use]
    pub fn is_compact(text: &str) -> bool {
        text.bytes().filter(|&byte| byte == b'.').count() == 2
    }

    /// Whether a token was verified a while ago and is remembered: its signature need not be checked.
    #[must_use]
    pub fn remembers(&self, token: &str) -> bool {
        self.0.remembers(token)
    }

    /// Says who presents a token.
    ///
    /// # Errors
    /// When nobody configured vouches for it now.
    pub async fn verify(&self, token: &str) -> Result<Person, JwtError> {
        let verified = self.0.verify(token).await;
        match &verified {
            Ok(_) => self.0.verified.fetch_add(1, Ordering::Relaxed),
            Err(error) => self.0.refused[error.index()].fetch_add(1, Ordering::Relaxed),
        };
        verified
    }

    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let Inner { verified, remembered, refused, .. } = &*self.0;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let help = "Tokens of identity providers that were presented, by what came of it.";
        let mut family = into.family("mindos_oidc_tokens_total", Kind::Counter, help);
        family.series(&[("outcome", "verified")], read(verified));
        for ((_, outcome), count) in WORDS.iter().zip(refused) {
            family.series(&[("outcome", outcome)], read(count));
        }
        let help = "Tokens among the verified ones that were known from before.";
        into.single("mindos_oidc_tokens_remembered_total", Kind::Counter, help, read(remembered));
        let help = "Times that the keys of an identity provider were fetched.";
        let mut family = into.family("mindos_oidc_key_fetches_total", Kind::Counter, help);
        for provider in &self.0.state.load().providers {
            let (name, fetches) = (&*provider.settings.name, &provider.fetches);
            family.series(&[("provider", name), ("outcome", "done")], read(&fetches.done));
            family.series(&[("provider", name), ("outcome", "failed")], read(&fetches.failed));
        }
    }
}

impl Inner {
    fn remembers(&self, text: &str) -> bool {
        let hash: seen::Hash = Sha256::digest(text.as_bytes()).into();
        text.len() <= TOKEN_BYTES_MAX && self.state().seen().get(&hash, self.clock.now()).is_some()
    }

    async fn verify(&self, text: &str) -> Result<Person, JwtError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong { bytes: text.len() }.into());
        }
        let state = self.state();
        let hash: seen::Hash = Sha256::digest(text.as_bytes()).into();
        let known = state.seen().get(&hash, self.clock.now());
        if let Some(Entry { person, provider, key }) = known {
            // The provider may have dropped the key meanwhile.
            if state.providers[provider].keys().await.is_some_and(|keys| keys.has(&key)) {
                self.remembered.fetch_add(1, Ordering::Relaxed);
                return Ok(person);
            }
            state.seen().forget(&hash);
        }
        let token = Token::parse(text)?;
        let index = state.provider_of(&token.claims)?;
        let provider = &state.providers[index];
        let settings = &provider.settings;
        valid_at(&token.claims, settings.skew, self.clock.now())?;
        let person = person(&token.claims, settings)?;
        let mut keys = provider.keys().await.ok_or(JwtError::KeysUnavailable)?;
        if keys.choose(token.algorithm, token.key_id.as_deref()).is_empty() {
            keys = provider.newer_keys().await.ok_or(JwtError::KeysUnavailable)?;
        }
        let candidates = keys.choose(token.algorithm, token.key_id.as_deref());
        if candidates.is_empty() {
            return Err(JwtError::UnknownKey);
        }
        let signed = token.signed.as_bytes();
        let key = candidates.iter().find(|key| key.verify(token.algorithm, signed, &token.signature));
        let key = key.ok_or(JwtError::Signature)?.digest();
        // Waiting for keys takes time.
        valid_at(&token.claims, settings.skew, self.clock.now())?;
        state.seen().put(hash, Entry { person: person.clone(), provider: index, key });
        Ok(person)
    }

    /// What was made of the settings in force. Providers that did not change keep their keys; tokens are verified anew.
    fn state(&self) -> Arc<State> {
        let configured = self.configured.load();
        let state = self.state.load_full();
        if Arc::ptr_eq(&state.of, &configured) {
            return state;
        }
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let (configured, state) = (self.configured.load_full(), self.state.load_full());
        if Arc::ptr_eq(&state.of, &configured) {
            return state;
        }
        let provider = |settings: &OidcProvider| {
            let kept = state.providers.iter().find(|provider| provider.settings == *settings);
            match kept {
                Some(provider) => Some(Arc::clone(provider)),
                None => match Provider::new(settings.clone(), self.clock, &self.client) {
                    Ok(provider) => Some(Arc::new(provider)),
                    Err(error) => {
                        error!(error = %Chain(&error), provider = %settings.name, "identity provider left out");
                        None
                    }
                },
            }
        };
        let providers = configured.iter().filter_map(provider).collect();
        let built = Arc::new(State { of: configured, providers, seen: Mutex::new(Seen::new(SEEN_MAX)) });
        self.state.store(Arc::clone(&built));
        built
    }
}

impl State {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn provider_of(&self, claims: &Claims) -> Result<usize, JwtError> {
        let mut of_issuer = self
            .providers
            .iter()
            .enumerate()
            .filter(|(_, provider)| *provider.settings.issuer == *claims.issuer)
            .peekable();
        if of_issuer.peek().is_none() {
            return Err(JwtError::UnknownIssuer);
        }
        let mut for_us = of_issuer
            .filter(|(_, provider)| claims.audiences.iter().any(|audience| **audience == *provider.settings.audience));
        for_us.next().map(|(index, _)| index).ok_or(JwtError::Audience)
    }
}

/// Whether a token is valid now, with a clock of its issuer that may differ by `skew`.
pub(crate) fn valid_at(claims: &Claims, skew: Duration, now: Timestamp) -> Result<(), JwtError> {
    let Claims { expires, not_before, issued, .. } = claims;
    if now >= *expires + skew {
        return Err(JwtError::Expired);
    }
    if [not_before, issued].into_iter().flatten().any(|from| now + skew < *from) {
        return Err(JwtError::NotYet);
    }
    Ok(())
}

fn person(claims: &Claims, settings: &OidcProvider) -> Result<Person, TokenError> {
    let groups = claims.names(&settings.groups_claim)?;
    Ok(Person {
        provider: Arc::clone(&settings.name),
        subject: claims.subject.as_str().into(),
        groups: groups.into_iter().map(Arc::from).collect(),
        expires: claims.expires + settings.skew,
        name: format!("oidc:{}#{}", settings.name, claims.subject).into(),
    })
}
