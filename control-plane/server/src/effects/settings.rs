//! What the settings file says of effects and of GitHub.
//!
//! ```yaml
//! effects:
//!   mode: live                     # live, dry_run or off; live where there are credentials
//!   elsewhere: ["octo/docs"]       # repositories that effects may go to, beside that of their event
//! github:
//!   api: https://api.github.com    # or https://HOST/api/v3; that of github_app when left out
//!   token_file: /run/secrets/token # a token that writes; github_app is used when left out
//!   read_token_file: /run/secrets/read-token   # what generals read repositories with, where there is no App
//!   author: mindos                 # the login that the token writes under; GitHub is asked when left out
//!   writes_per_second: 1           # 0.01 to 1000; above 1 GitHub refuses sooner or later
//!   approve: false                 # whether reviews may approve
//!   workflows: false               # whether branches may change .github/workflows
//!   tenants: {acme: ["octo/*"]}    # whose work may touch which repositories; all, for the tenant of GitHub's webhooks, when left out
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mindos_core::route::Pattern;
use mindos_model::{Secret, TenantName};
use mindos_outgoing::Target;
use serde::Deserialize;

use super::wanted::Repository;
use crate::catch_up::app_jwt::AppKey;
use crate::catch_up::settings::App;
use crate::secret::{SecretAt, Secrets};

/// Where GitHub's own API is.
const API: &str = "https://api.github.com";

/// The settings in force.
pub type Configured = Arc<ArcSwap<EffectSettings>>;

/// Whether effects are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Live,
    /// What would be done is looked at, logged and recorded, and nothing is written.
    DryRun,
    /// Effects stay open.
    #[default]
    Off,
}

/// `effects:` of the settings file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EffectsSection {
    mode: Option<Mode>,
    #[serde(default)]
    elsewhere: Vec<String>,
}

/// `github:` of the settings file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GithubSection {
    api: Option<String>,
    #[serde(default)]
    insecure: bool,
    token_file: Option<PathBuf>,
    read_token_file: Option<PathBuf>,
    author: Option<String>,
    writes_per_second: Option<f64>,
    #[serde(default)]
    approve: bool,
    #[serde(default)]
    workflows: bool,
    tenants: Option<BTreeMap<String, Vec<String>>>,
}

/// As whom GitHub is asked.
#[derive(Clone, Debug)]
pub enum Credentials {
    App { id: String, key: AppKey },
    Token(Secret),
}

/// What holds for effects.
#[derive(Clone, Debug, Default)]
pub struct EffectSettings {
    pub mode: Mode,
    pub(super) elsewhere: Vec<Pattern>,
    /// Unset where there are no credentials, not even to read.
    pub github: Option<Arc<Github>>,
}

/// GitHub, as it is asked.
#[derive(Clone, Debug)]
pub struct Github {
    pub(super) api: Target,
    /// The same as text, without a slash at its end.
    pub(super) api_url: String,
    /// Unset where there is a token that reads alone.
    pub(super) credentials: Option<Credentials>,
    pub(super) read_token: Option<Secret>,
    /// The login under which is written, where the settings say so.
    pub author: Option<String>,
    pub(super) writes_per_second: f64,
    pub(super) approve: bool,
    pub(super) workflows: bool,
    pub(super) tenants: BTreeMap<TenantName, Vec<Pattern>>,
}

impl EffectSettings {
    /// Checks what the file says, and reads the tokens. `webhooks` is the tenant whose GitHub's webhooks are.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub(crate) fn new(
        effects: &EffectsSection,
        github: &GithubSection,
        app: Option<&App>,
        webhooks: &TenantName,
        secrets: Secrets,
    ) -> Result<EffectSettings, String> {
        let EffectsSection { mode, elsewhere } = effects;
        let github = Github::new(github, app, webhooks, secrets)?.map(Arc::new);
        let writes = github.as_ref().is_some_and(|github| github.credentials.is_some());
        let mode = match mode {
            None if writes => Mode::Live,
            None | Some(Mode::Off) => Mode::Off,
            Some(_) if !writes => {
                return Err("effects.mode: needs credentials: expected `github.token_file` or `github_app`".to_owned());
            }
            Some(mode) => *mode,
        };
        Ok(EffectSettings { mode, elsewhere: patterns(elsewhere, "effects.elsewhere")?, github })
    }

    /// The login that the settings say is ours.
    pub(crate) fn author(&self) -> Option<&str> {
        self.github.as_ref()?.author.as_deref()
    }

    /// Whether an effect may go to a repository, coming from an event of another one.
    pub(super) fn lets_elsewhere(&self, repository: &Repository) -> bool {
        fits(&self.elsewhere, repository)
    }
}

impl Github {
    fn new(
        section: &GithubSection,
        app: Option<&App>,
        webhooks: &TenantName,
        secrets: Secrets,
    ) -> Result<Option<Github>, String> {
        let GithubSection {
            api,
            insecure,
            token_file,
            read_token_file,
            author,
            writes_per_second,
            approve,
            workflows,
            tenants,
        } = section;
        let read = |path: &Option<PathBuf>, field: &str| {
            let at = path.as_ref().map(|path| SecretAt { file: Some(path.clone()), env: None });
            let text = SecretAt::read_if(at.as_ref(), &format!("github.{field}"), secrets)?;
            Ok::<_, String>(text.map(Secret::new))
        };
        let token = read(token_file, "token_file")?;
        let read_token = read(read_token_file, "read_token_file")?;
        let (target, api_url) = match (api, app) {
            (None, Some(app)) => (app.api.clone(), app.api_url.clone()),
            (api, _) => {
                let text = api.as_deref().unwrap_or(API).trim().trim_end_matches('/');
                let target = Target::parse(text, *insecure).map_err(|error| format!("github.api: {error}"))?;
                (target, text.to_owned())
            }
        };
        let credentials = match (token, app) {
            (Some(token), _) => Some(Credentials::Token(token)),
            (None, Some(app)) => Some(Credentials::App { id: app.id.clone(), key: app.key.clone() }),
            (None, None) => None,
        };
        let rate = writes_per_second.unwrap_or(1.0);
        if !(0.01..=1000.0).contains(&rate) {
            return Err("github.writes_per_second: expected 0.01 to 1000".to_owned());
        }
        let is_login = |text: &String| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_[]".contains(&byte))
        };
        if author.as_ref().is_some_and(|author| !is_login(author)) {
            return Err("github.author: expected a login, such as `mindos` or `mindos[bot]`".to_owned());
        }
        let all = Pattern::new("*").expect("a star is a pattern");
        let tenants = match tenants {
            None => BTreeMap::from([(webhooks.clone(), vec![all])]),
            Some(tenants) => {
                let one = |(name, texts): (&String, &Vec<String>)| {
                    let tenant = TenantName::new(name).map_err(|error| format!("github.tenants: {error}"))?;
                    Ok((tenant, patterns(texts, &format!("github.tenants.{name}"))?))
                };
                tenants.iter().map(one).collect::<Result<_, String>>()?
            }
        };
        if credentials.is_none() && read_token.is_none() {
            return Ok(None);
        }
        Ok(Some(Github {
            api: target,
            api_url,
            credentials,
            read_token,
            author: author.clone(),
            writes_per_second: rate,
            approve: *approve,
            workflows: *workflows,
            tenants,
        }))
    }

    /// Whether work of a tenant may touch a repository.
    pub(super) fn lets(&self, tenant: &TenantName, repository: &Repository) -> bool {
        self.tenants.get(tenant).is_some_and(|patterns| fits(patterns, repository))
    }
}

fn patterns(texts: &[String], field: &str) -> Result<Vec<Pattern>, String> {
    // Names of repositories are the same in capitals.
    let one = |text: &String| {
        let pattern = Pattern::new(&text.to_ascii_lowercase()).ok().filter(|_| text == "*" || text.contains('/'));
        pattern.ok_or_else(|| format!("{field}: `{text}`: expected `owner/name` or `owner/*`"))
    };
    texts.iter().map(one).collect()
}

fn fits(patterns: &[Pattern], repository: &Repository) -> bool {
    let name = repository.to_string().to_ascii_lowercase();
    patterns.iter().any(|pattern| pattern.fits(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<EffectSettings, String> {
        #[derive(Deserialize, Default)]
        struct Both {
            #[serde(default)]
            effects: EffectsSection,
            #[serde(default)]
            github: GithubSection,
        }
        let Both { effects, github } = serde_norway::from_str(text).map_err(|error| error.to_string())?;
        EffectSettings::new(&effects, &github, None, &TenantName::default_tenant(), Secrets::Assumed)
    }

    #[test]
    fn effects_are_live_where_there_are_credentials_and_off_elsewhere() {
        assert_eq!(read("{}").unwrap().mode, Mode::Off);
        assert_eq!(read("github: {token_file: /t}").unwrap().mode, Mode::Live);
        assert_eq!(read("{effects: {mode: dry_run}, github: {token_file: /t}}").unwrap().mode, Mode::DryRun);
        assert_eq!(read("{effects: {mode: off}, github: {token_file: /t}}").unwrap().mode, Mode::Off);
        let reads = read("github: {read_token_file: /t}").unwrap();
        assert!(reads.mode == Mode::Off && reads.github.unwrap().credentials.is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("effects: {mode: live}", "effects.mode: needs credentials"),
            ("github: {api: 'http://example.com', token_file: /t}", "github.api: is not https"),
            ("github: {writes_per_second: 0}", "github.writes_per_second: expected 0.01 to 1000"),
            ("github: {tenants: {a: ['octo']}}", "github.tenants.a: `octo`: expected `owner/name`"),
            ("github: {author: 'a b'}", "github.author: expected a login"),
            ("github: {token: x}", "unknown field `token`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_tenant_reaches_the_repositories_that_are_its_own() {
        let github = read("github: {token_file: /t, tenants: {acme: ['Octo/*', 'x/y']}}").unwrap().github.unwrap();
        let lets = |tenant: &str, repository: &str| {
            github.lets(&TenantName::new(tenant).unwrap(), &Repository::read(repository).unwrap())
        };
        assert!(lets("acme", "octo/Hello") && lets("acme", "x/y"));
        assert!(!lets("acme", "x/z") && !lets("default", "octo/hello"));
        let all = read("{github: {token_file: /t}, effects: {elsewhere: ['octo/docs']}}").unwrap();
        assert!(all.lets_elsewhere(&Repository::read("octo/docs").unwrap()));
        assert!(!all.lets_elsewhere(&Repository::read("octo/docs2").unwrap()));
    }
}
