//! Accounts: as whom GitHub is asked, and the tokens that say so.
//!
//! ```text
//!   App's key --signs--> JWT --> installation of the repository --> token of that repository alone, with the permissions of the kind
//! ```
//! Tokens are kept until five minutes before they end, and never written anywhere. Invariant: a token reaches one repository and has no
//! more permissions than the kind of effect that it is for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;
use mindos_model::{Secret, Timestamp};
use mindos_outgoing::Outgoing;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::branch::Repo;
use super::forge::Forge;
use super::pace::Lanes;
use super::rest::{ForgeError, Rest, TIMEOUT, read};
use super::settings::{Configured, Credentials, EffectSettings, Github};
use super::wanted::{Kind, Repository};
use crate::clock::Clock;

/// Before its end a token is given up.
const TOKEN_MARGIN: Duration = Duration::from_secs(300);
/// How long it is believed where an App is installed, and what it may do there.
const INSTALLATION_KEEP: Duration = Duration::from_secs(600);
/// Installations and tokens that are remembered; beyond it all are asked for anew.
const KEPT_MAX: usize = 10_000;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Need {
    Carry(Kind),
    /// What a general reads while it works.
    Read,
}

impl Need {
    /// What it takes, in GitHub's words. Where an App was granted less, less is asked for.
    fn permissions(self, workflows: bool) -> &'static [(&'static str, &'static str)] {
        match self {
            Need::Carry(Kind::Comment | Kind::Labels | Kind::Reaction) => {
                &[("issues", "write"), ("pull_requests", "write")]
            }
            Need::Carry(Kind::Issue) => &[("issues", "write")],
            Need::Carry(Kind::Review) => &[("pull_requests", "write"), ("contents", "read")],
            Need::Carry(Kind::Check) => &[("checks", "write")],
            Need::Carry(Kind::Branch) if workflows => &[("contents", "write"), ("workflows", "write")],
            Need::Carry(Kind::Branch) => &[("contents", "write")],
            Need::Carry(Kind::PullRequest) => &[("pull_requests", "write"), ("contents", "read")],
            Need::Read => &[("contents", "read"), ("pull_requests", "read"), ("issues", "read"), ("checks", "read")],
        }
    }
}

/// A token and when it ends.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) secret: Secret,
    /// Unset where that is not known.
    pub(super) expires: Option<Timestamp>,
}

/// The account of the settings in force.
#[derive(Clone)]
pub(super) struct Accounts {
    configured: Configured,
    client: Outgoing,
    lanes: Lanes,
    clock: Clock,
    current: Arc<Mutex<Option<Arc<Account>>>>,
    /// The login under which is written, for those who have to know what is ours.
    pub(super) authors: watch::Sender<Option<Arc<str>>>,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accounts")
    }
}

impl Accounts {
    pub(super) fn new(configured: Configured, client: Outgoing, clock: Clock, lanes: Lanes) -> Accounts {
        let authors = watch::Sender::new(None);
        Accounts { configured, client, lanes, clock, current: Arc::default(), authors }
    }

    /// The settings in force.
    pub(super) fn settings(&self) -> Arc<EffectSettings> {
        self.configured.load_full()
    }

    /// Finds out under which login is written, and tells those who wait for it.
    pub(super) async fn learn(&self) -> Result<(), ForgeError> {
        let Some(account) = self.current() else { return Ok(()) };
        let author = account.author().await?;
        self.authors.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&author);
            *known = Some(author);
            is_new
        });
        Ok(())
    }

    /// As whom GitHub is asked; `None` where there are no credentials.
    pub(super) fn current(&self) -> Option<Arc<Account>> {
        let settings = self.configured.load();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(github) = &settings.github else {
            *current = None;
            return None;
        };
        if let Some(account) = current.as_ref().filter(|account| Arc::ptr_eq(&account.github, github)) {
            return Some(Arc::clone(account));
        }
        // What was found out with other credentials is worth nothing.
        let account = Arc::new(Account::new(Arc::clone(github), self.client.clone(), self.lanes.clone(), self.clock));
        *current = Some(Arc::clone(&account));
        Some(account)
    }
}

/// As whom GitHub is asked, while the settings stay as they are.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) github: Arc<Github>,
    pub(super) rest: Rest,
    lanes: Lanes,
    known: Mutex<Known>,
    /// One at a time asks for what is not known, so that a start does not ask the same many times over.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    author: Option<Arc<str>>,
    installations: HashMap<String, (Timestamp, Installation)>,
    clone_urls: HashMap<String, String>,
    tokens: HashMap<(String, Need), Token>,
}

/// An App's presence at a repository.
#[derive(Clone, Debug, Deserialize)]
struct Installation {
    id: u64,
    #[serde(default)]
    permissions: HashMap<String, String>,
}

#[derive(Deserialize)]
struct NewToken {
    token: String,
    expires_at: String,
}

#[derive(Deserialize)]
struct AppAnswer {
    slug: String,
}

#[derive(Deserialize)]
struct UserAnswer {
    login: String,
}

impl Account {
    pub(super) fn new(github: Arc<Github>, client: Outgoing, lanes: Lanes, clock: Clock) -> Account {
        let rest = Rest { client, api: github.api.clone(), clock, timeout: TIMEOUT };
        Account { github, rest, lanes, known: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client for one repository that can do what it is needed for.
    pub(super) async fn forge(&self, repository: &Repository, need: Need, dry_run: bool) -> Result<Forge, ForgeError> {
        let author = self.author().await?;
        let (token, lane) = match &self.github.credentials {
            Some(Credentials::Token(token)) => (token.clone(), "token".to_owned()),
            Some(Credentials::App { .. }) => {
                let installation = self.installation(repository).await?;
                let token = self.token(repository, &installation, need).await?;
                (token.secret, installation.id.to_string())
            }
            None => return Err(ForgeError::refused(0, "there are no credentials that write")),
        };
        let lane = self.lanes.of(&lane, self.rest.clock);
        Ok(Forge::new(self.rest.clone(), token, lane, author, &self.github, dry_run))
    }

    /// A token that reads one repository, for a general; of an App it is a new one each time, that can be revoked alone.
    pub(super) async fn reader(&self, repository: &Repository) -> Result<Token, ForgeError> {
        match (&self.github.credentials, &self.github.read_token) {
            (Some(Credentials::App { .. }), _) => {
                let installation = self.installation(repository).await?;
                self.new_token(repository, &installation, Need::Read).await
            }
            (_, Some(token)) => Ok(Token { secret: token.clone(), expires: None }),
            _ => Err(ForgeError::refused(
                0,
                "generals read with a token of their own: expected `github.read_token_file` or `github_app`",
            )),
        }
    }

    /// From where a repository is cloned.
    pub(super) async fn clone_url(&self, repository: &Repository, token: &Secret) -> Result<String, ForgeError> {
        let key = repository.to_string().to_ascii_lowercase();
        if let Some(url) = self.lock().clone_urls.get(&key) {
            return Ok(url.clone());
        }
        let answer = self.rest.call(token, Method::GET, &repository.path(), None).await?;
        let url = read::<Repo>(&answer, true)?.clone_url;
        let mut known = self.lock();
        if known.clone_urls.len() >= KEPT_MAX {
            known.clone_urls.clear();
        }
        known.clone_urls.insert(key, url.clone());
        Ok(url)
    }

    /// Ends a token that was made for a general.
    pub(super) async fn revoke(&self, token: &Token) -> Result<(), ForgeError> {
        match self.rest.call(&token.secret, Method::DELETE, "/installation/token", None).await {
            // It has ended already.
            Ok(_) | Err(ForgeError::Unauthorised { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Forgets what was found out of a repository, because it was not accepted.
    pub(super) fn forget(&self, repository: &Repository) {
        let key = repository.to_string().to_ascii_lowercase();
        let mut known = self.lock();
        known.installations.remove(&key);
        known.tokens.retain(|(of, _), _| *of != key);
    }

    /// The login under which is written. What carries a mark is ours only where this is its author.
    pub(super) async fn author(&self) -> Result<Arc<str>, ForgeError> {
        if let Some(author) = &self.github.author {
            return Ok(Arc::from(author.as_str()));
        }
        if let Some(author) = &self.lock().author {
            return Ok(Arc::clone(author));
        }
        let author: Arc<str> = match self.github.credentials.as_ref() {
            Some(Credentials::App { id, key }) => {
                let answer = self.rest.call(&self.jwt(id, key), Method::GET, "/app", None).await?;
                Arc::from(format!("{}[bot]", read::<AppAnswer>(&answer, true)?.slug))
            }
            Some(Credentials::Token(token)) => Arc::from(self.login(token).await?),
            None => match &self.github.read_token {
                Some(token) => Arc::from(self.login(token).await?),
                None => return Err(ForgeError::refused(0, "there are no credentials")),
            },
        };
        self.lock().author = Some(Arc::clone(&author));
        Ok(author)
    }

    async fn login(&self, token: &Secret) -> Result<String, ForgeError> {
        match self.rest.call(token, Method::GET, "/user", None).await {
            Ok(answer) => Ok(read::<UserAnswer>(&answer, true)?.login),
            // Tokens that belong to no person may not ask who they are.
            Err(ForgeError::Refused { status: 403, message }) => Err(ForgeError::refused(
                403,
                format!("{message}: GitHub does not say whose token it is: give `github.author`"),
            )),
            Err(error) => Err(error),
        }
    }

    fn jwt(&self, id: &str, key: &crate::catch_up::app_jwt::AppKey) -> Secret {
        Secret::new(key.token(id, self.rest.clock.now()))
    }

    async fn as_app(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<mindos_outgoing::Answer, ForgeError> {
        let Some(Credentials::App { id, key }) = &self.github.credentials else {
            return Err(ForgeError::refused(0, "there is no App"));
        };
        self.rest.call(&self.jwt(id, key), method, path, body).await
    }

    async fn installation(&self, repository: &Repository) -> Result<Installation, ForgeError> {
        let key = repository.to_string().to_ascii_lowercase();
        let _asking = self.asking.lock().await;
        let now = self.rest.clock.now();
        if let Some((at, installation)) = self.lock().installations.get(&key)
            && now.since(*at) < INSTALLATION_KEEP
        {
            return Ok(installation.clone());
        }
        let path = format!("{}/installation", repository.path());
        let answer = self.as_app(Method::GET, &path, None).await.map_err(|error| match error {
            ForgeError::NotFound { .. } => ForgeError::refused(
                404,
                format!("the App is not installed at {repository}, or there is no such repository"),
            ),
            error => error,
        })?;
        let installation: Installation = read(&answer, true)?;
        let mut known = self.lock();
        if known.installations.len() >= KEPT_MAX {
            known.installations.clear();
        }
        known.installations.insert(key, (now, installation.clone()));
        Ok(installation)
    }

    async fn token(
        &self,
        repository: &Repository,
        installation: &Installation,
        need: Need,
    ) -> Result<Token, ForgeError> {
        let key = (repository.to_string().to_ascii_lowercase(), need);
        let _asking = self.asking.lock().await;
        let until = self.rest.clock.now() + TOKEN_MARGIN;
        if let Some(token) = self.lock().tokens.get(&key).filter(|token| token.expires.is_some_and(|end| end > until)) {
            return Ok(token.clone());
        }
        let token = self.new_token(repository, installation, need).await?;
        let mut known = self.lock();
        if known.tokens.len() >= KEPT_MAX {
            known.tokens.clear();
        }
        known.tokens.insert(key, token.clone());
        Ok(token)
    }

    async fn new_token(
        &self,
        repository: &Repository,
        installation: &Installation,
        need: Need,
    ) -> Result<Token, ForgeError> {
        let mut permissions = Map::new();
        for (name, wanted) in need.permissions(self.github.workflows) {
            match installation.permissions.get(*name).map(String::as_str) {
                Some("read") => drop(permissions.insert((*name).to_owned(), json!("read"))),
                Some(_) => drop(permissions.insert((*name).to_owned(), json!(wanted))),
                None => {}
            }
        }
        // An empty list would ask for everything.
        if permissions.is_empty() {
            let wanted = need.permissions(false).iter().map(|(name, level)| format!("{name}: {level}"));
            let wanted = wanted.collect::<Vec<_>>().join(", ");
            return Err(ForgeError::refused(403, format!("the App was granted none of {wanted} at {repository}")));
        }
        let body = json!({ "repositories": [repository.name], "permissions": permissions });
        let path = format!("/app/installations/{}/access_tokens", installation.id);
        let answer = self.as_app(Method::POST, &path, Some(&body)).await?;
        let NewToken { token, expires_at } = read(&answer, true)?;
        let expires = expires_at.parse::<Timestamp>().ok();
        // Of a token whose end cannot be read it is only known that GitHub gives an hour.
        let expires = expires.unwrap_or(self.rest.clock.now() + TOKEN_MARGIN * 2);
        Ok(Token { secret: Secret::new(token), expires: Some(expires) })
    }
}
