//! Settings that may change while the server runs: secrets of webhooks, and what is logged.
//!
//! ```yaml
//! github_secret: "the secret of the webhook"
//! github_secret_previous: "the one before, while it is being changed"
//! gitlab: {secret: "the secret token of the webhook", previous: ".."}
//! alertmanager: {secret: "the credentials of its authorization"}
//! ingest: {..}                                  # see `ingest::generic`
//! webhook_tenants: {github: acme, generic/ci: ops}   # whose events they are; `default` when left out
//! tasks: {label: ai-help}                       # see `tasks::settings`
//! feedback: {reactions: true}                   # see `feedback::settings`
//! github_app: {id: 12345, private_key_file: "app.pem"}   # asks GitHub for deliveries that never came
//! quotas: [{name: ci, source: "/ci/*", events: 600, per: 60s}]   # see `admission`
//! sinks:
//!   ops: {url: "https://example.com/hook", on: [parked], secret: ".."}   # see `sinks::settings`
//! otlp: {endpoint: "http://127.0.0.1:4318", sample: 0.1}               # traces, to a collector
//! limits: {idle_timeout: 2m, requests_per_second: {principal: 5000}}   # see `limits`
//! oidc: [{name: corp, issuer: "https://login.example.com", audience: mindos}]   # see `access::jwt::settings`
//! token_review: [{cluster: eu, url: "https://..", token_file: ".."}]             # see `access::service_account`
//! clusters: [{name: prod-us, routes: [platform]}]   # what objects of clusters may make: see `clusters::grants`
//! log: "info,mindos_control_plane=debug"
//! anchors: [{file: /mnt/worm/checkpoints}]      # see `ledger::anchor_settings`
//! redact: [{pointers: ["/sender/email"]}]       # see `ingest::redact`
//! prices:
//!   gpt-4o-mini: {input: 0.15, output: 0.6}   # of a million tokens
//! ```
//! Beside these stand `gitlens`, `platform`, `notify`, `effects` and `github`, each described in its own module.
//! What the file leaves out is as the command line says. Invariant: a file is taken whole or not at all; once it was read, storing
//! what came of it is all that is left, and cannot fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::access::jwt;
use crate::access::jwt::settings::{OidcProvider, OidcSetting};
use crate::access::service_account::{ReviewConfigured, TokenReview, TokenReviewSetting, token_reviews};
use crate::admission::{QuotaSetting, Quotas};
use crate::catch_up::settings::{App, AppSetting};
use crate::clusters::grants::{self, ClusterSetting, Grants};
use crate::effects::settings::{self as effect_settings, EffectSettings, EffectsSection, GithubSection};
use crate::feedback::settings::{Configured as FeedbackConfigured, FeedbackSection, FeedbackSettings};
use crate::http::GithubAccess;
use crate::ingest::doors::Doors;
use crate::ingest::generic::GenericSetting;
use crate::ingest::github;
use crate::ingest::hook::SecretSetting;
use crate::ingest::redact::{self, RedactSetting, Rules};
use crate::ledger::anchor_settings::{self, Anchor, AnchorSetting};
use crate::ledger::anchors;
use crate::ledger::changes::SettingsDigest;
use crate::limits::{Limits, LimitsSetting};
use crate::logging::{self, Filter};
use crate::notify::{self, DiscordEnv, NotifySection, Places};
use crate::own_logins::OwnLogins;
use crate::prices::Prices;
use crate::reload::{ReloadError, Reloaded};
use crate::secret::Secrets;
use crate::sinks::settings::{Sink, SinkSetting};
use crate::sinks::{self, Configured};
use crate::surface::gitlens::{GitlensSection, GitlensSettings};
use crate::surface::platform::{PlatformSection, PlatformSettings};
use crate::tasks::queue::Configured as TasksConfigured;
use crate::tasks::queue_settings::RabbitConfig;
use crate::tasks::settings::{TaskSection, TaskSettings};
use crate::trace;
use crate::trace::settings::{Otlp, OtlpSetting};

/// How webhooks are let in.
#[derive(Clone, Default, clap::Args)]
pub struct WebhookConfig {
    /// Secret that GitHub signs webhooks with. Without one, and none in the settings file, webhooks are refused.
    #[arg(
        long,
        env = "MINDOS_GITHUB_SECRET",
        hide_env_values = true,
        value_name = "SECRET",
        conflicts_with = "github_secret_file"
    )]
    pub github_secret: Option<String>,

    /// File that holds the secret; white space at its ends does not count.
    #[arg(long, env = "MINDOS_GITHUB_SECRET_FILE", value_name = "FILE")]
    pub github_secret_file: Option<PathBuf>,

    /// Secret that was used before, accepted too while it is being changed.
    #[arg(long, env = "MINDOS_GITHUB_SECRET_PREVIOUS", hide_env_values = true, value_name = "SECRET")]
    pub github_secret_previous: Option<String>,

    /// Takes webhooks without a signature, from this machine only: to try things out.
    #[arg(long, env = "MINDOS_WEBHOOKS_UNSIGNED", conflicts_with_all = ["github_secret", "github_secret_file"])]
    pub webhooks_unsigned: bool,
}

impl std::fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let WebhookConfig { github_secret, github_secret_file, github_secret_previous, webhooks_unsigned } = self;
        f.debug_struct("WebhookConfig")
            .field("github_secret", &github_secret.is_some())
            .field("github_secret_file", github_secret_file)
            .field("github_secret_previous", &github_secret_previous.is_some())
            .field("webhooks_unsigned", webhooks_unsigned)
            .finish()
    }
}

/// Why settings are not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("--github-secret-file: failed to read `{path}`")]
    SecretFile { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Invalid(String),
    #[error("--settings")]
    File(#[from] ReloadError),
}

/// What the file says.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    github_secret: Option<String>,
    github_secret_previous: Option<String>,
    gitlab: Option<SecretSetting>,
    alertmanager: Option<SecretSetting>,
    #[serde(default)]
    ingest: BTreeMap<String, GenericSetting>,
    #[serde(default)]
    webhook_tenants: BTreeMap<String, String>,
    github_app: Option<AppSetting>,
    #[serde(default)]
    quotas: Vec<QuotaSetting>,
    #[serde(default)]
    sinks: BTreeMap<String, SinkSetting>,
    otlp: Option<OtlpSetting>,
    #[serde(default)]
    limits: LimitsSetting,
    log: Option<String>,
    #[serde(default)]
    gitlens: GitlensSection,
    #[serde(default)]
    platform: PlatformSection,
    #[serde(default)]
    notify: NotifySection,
    #[serde(default)]
    prices: Prices,
    #[serde(default)]
    anchors: Vec<AnchorSetting>,
    #[serde(default)]
    redact: Vec<RedactSetting>,
    #[serde(default)]
    oidc: Vec<OidcSetting>,
    #[serde(default)]
    token_review: Vec<TokenReviewSetting>,
    #[serde(default)]
    effects: EffectsSection,
    #[serde(default, rename = "github")]
    forge: GithubSection,
    tasks: Option<TaskSection>,
    #[serde(default)]
    feedback: FeedbackSection,
    #[serde(default)]
    clusters: Vec<ClusterSetting>,
}

/// What the command line says, for what a file leaves out.
#[derive(Clone, Debug)]
struct Base {
    github: GithubAccess,
    log: Filter,
    environment: Environment,
}

/// What the environment says by names of earlier systems.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub discord: DiscordEnv,
    /// Where the queue of tasks is.
    pub rabbitmq: RabbitConfig,
}

/// What a file and the command line come to.
struct Checked {
    github: Arc<GithubAccess>,
    doors: Arc<Doors>,
    app: Option<Arc<App>>,
    quotas: Arc<Quotas>,
    sinks: Arc<BTreeMap<String, Sink>>,
    otlp: Option<Arc<Otlp>>,
    limits: Arc<Limits>,
    log: Filter,
    gitlens: Arc<GitlensSettings>,
    platform: Arc<PlatformSettings>,
    notify: Arc<Places>,
    prices: Arc<Prices>,
    anchors: Arc<Vec<Anchor>>,
    redact: Arc<Rules>,
    digest: SettingsDigest,
    oidc: Arc<Vec<OidcProvider>>,
    token_review: Arc<Vec<TokenReview>>,
    effects: Arc<EffectSettings>,
    tasks: Arc<TaskSettings>,
    feedback: Arc<FeedbackSettings>,
    clusters: Arc<Grants>,
}

impl Checked {
    fn read(text: &str, base: &Base, secrets: Secrets) -> Result<Checked, String> {
        let settings = match text.trim().is_empty() {
            true => Settings::default(),
            false => serde_norway::from_str(text).map_err(|error| error.to_string())?,
        };
        let Settings {
            github_secret,
            github_secret_previous,
            gitlab,
            alertmanager,
            ingest,
            webhook_tenants,
            github_app,
            quotas,
            sinks,
            otlp,
            limits,
            log,
            gitlens,
            platform,
            notify,
            prices,
            anchors,
            redact,
            oidc,
            token_review,
            effects,
            forge,
            tasks,
            feedback,
            clusters,
        } = settings;
        prices.check()?;
        let github = match (github_secret, github_secret_previous) {
            (None, Some(_)) => return Err("`github_secret_previous` needs `github_secret` beside it".to_owned()),
            (Some(secret), previous) => GithubAccess::Signed(self::secrets(secret, previous)?),
            (None, None) => base.github.clone(),
        };
        let doors = Doors::new(gitlab.as_ref(), alertmanager.as_ref(), &ingest, &webhook_tenants)?;
        let app = github_app.as_ref().map(AppSetting::app).transpose()?;
        let own = doors.tenant("github");
        let effects = EffectSettings::new(&effects, &forge, app.as_ref(), &own, secrets)?;
        let notify = notify.places(&base.environment.discord, secrets)?;
        let mut sinks = sinks::settings::sinks(&sinks, secrets)?;
        sinks.extend(sinks::settings::notices(&notify));
        let log = log.map(|log| Filter::parse(&log)).transpose().map_err(|error| error.to_string())?;
        Ok(Checked {
            github: Arc::new(github),
            doors: Arc::new(Doors { unsigned: matches!(base.github, GithubAccess::Unsigned), ..doors }),
            app: app.map(Arc::new),
            quotas: Arc::new(Quotas::new(&quotas)?),
            sinks: Arc::new(sinks),
            otlp: otlp.as_ref().map(OtlpSetting::otlp).transpose()?.map(Arc::new),
            limits: Arc::new(Limits::new(&limits)?),
            log: log.unwrap_or_else(|| base.log.clone()),
            gitlens: Arc::new(GitlensSettings::new(&gitlens, secrets)?),
            platform: Arc::new(PlatformSettings::new(&platform)?),
            notify: Arc::new(notify),
            prices: Arc::new(prices),
            anchors: Arc::new(anchor_settings::anchors(&anchors)?),
            redact: Arc::new(Rules::new(&redact)?),
            digest: SettingsDigest::of(text),
            oidc: Arc::new(jwt::settings::providers(&oidc, secrets)?),
            token_review: Arc::new(token_reviews(&token_review, secrets)?),
            effects: Arc::new(effects),
            tasks: Arc::new(TaskSettings::new(tasks.as_ref(), &base.environment.rabbitmq, secrets)?),
            feedback: Arc::new(FeedbackSettings::new(&feedback)?),
            clusters: Arc::new(Grants::new(&clusters)?),
        })
    }
}

/// Checks the text of a settings file. What it names, such as files of secrets, need not be there.
///
/// # Errors
/// Says what is not accepted.
pub fn check(text: &str) -> Result<(), String> {
    let log = Filter::parse("info").map_err(|error| error.to_string())?;
    let base = Base { github: GithubAccess::Closed, log, environment: Environment::default() };
    Checked::read(text, &base, Secrets::Assumed).map(drop)
}

fn secrets(current: String, previous: Option<String>) -> Result<github::Secrets, String> {
    github::Secrets::new(current, previous.map(Into::into)).map_err(|error| error.to_string())
}

/// Where the settings in force are read, now and after every change.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// How GitHub's webhooks are let in.
    pub github: Arc<ArcSwap<GithubAccess>>,
    /// How other webhooks are let in.
    pub doors: Arc<ArcSwap<Doors>>,
    /// The App whose missed deliveries are asked for.
    pub app: Arc<ArcSwapOption<App>>,
    /// What models cost.
    pub prices: Arc<ArcSwap<Prices>>,
    /// How much each source may send.
    pub quotas: Arc<ArcSwap<Quotas>>,
    /// Where results leave to.
    pub sinks: Configured,
    /// Where spans go.
    pub otlp: trace::Configured,
    /// What peers may take.
    pub limits: Arc<ArcSwap<Limits>>,
    /// What the surface of the GitLens contract is.
    pub gitlens: Arc<ArcSwap<GitlensSettings>>,
    /// What the surface of the platform's contract is.
    pub platform: Arc<ArcSwap<PlatformSettings>>,
    /// Who is told what happens.
    pub notify: notify::Configured,
    /// Where checkpoints of the ledger are noted.
    pub anchors: anchors::Configured,
    /// What tells one text of the settings from another.
    pub digest: Arc<watch::Sender<SettingsDigest>>,
    /// Who vouches for people and programs.
    pub oidc: jwt::settings::Configured,
    /// Which clusters are asked about tokens.
    pub token_review: ReviewConfigured,
    /// Whether and as whom effects are carried out.
    pub effects: effect_settings::Configured,
    /// What is a task, and where they come from.
    pub tasks: TasksConfigured,
    /// How GitHub is asked for reactions.
    pub feedback: FeedbackConfigured,
    /// What clusters may bring.
    pub clusters: grants::Configured,
    /// Whom we are on GitHub.
    pub own_logins: OwnLogins,
}

impl InForce {
    fn store(&self, checked: &Checked) {
        let InForce {
            github,
            doors,
            app,
            prices,
            quotas,
            sinks,
            otlp,
            limits,
            gitlens,
            platform,
            notify,
            anchors,
            digest,
            oidc,
            token_review,
            effects,
            tasks,
            feedback,
            clusters,
            own_logins,
        } = self;
        github.store(Arc::clone(&checked.github));
        doors.store(Arc::clone(&checked.doors));
        app.store(checked.app.clone());
        prices.store(Arc::clone(&checked.prices));
        quotas.store(Arc::clone(&checked.quotas));
        sinks.store(Arc::clone(&checked.sinks));
        otlp.store(checked.otlp.clone());
        // The same limits keep what was taken of them.
        if **limits.load() != *checked.limits {
            limits.store(Arc::clone(&checked.limits));
        }
        gitlens.store(Arc::clone(&checked.gitlens));
        platform.store(Arc::clone(&checked.platform));
        notify.store(Arc::clone(&checked.notify));
        anchors.store(Arc::clone(&checked.anchors));
        digest.send_replace(checked.digest.clone());
        redact::set_rules(&checked.redact);
        oidc.store(Arc::clone(&checked.oidc));
        token_review.store(Arc::clone(&checked.token_review));
        own_logins.set(checked.effects.author().map(str::to_owned).as_slice());
        effects.store(Arc::clone(&checked.effects));
        tasks.store(Arc::clone(&checked.tasks));
        feedback.store(Arc::clone(&checked.feedback));
        clusters.store(Arc::clone(&checked.clusters));
        logging::set_filter(&checked.log);
    }
}

/// The settings in force and what keeps them so.
#[derive(Debug)]
pub struct LiveSettings {
    in_force: InForce,
    file: Option<Reloaded<Checked>>,
}

impl LiveSettings {
    /// Reads everything for the first time.
    ///
    /// # Errors
    /// Names the option or file that is not accepted.
    pub fn open(
        webhooks: &WebhookConfig,
        environment: Environment,
        log: &str,
        file: Option<&Path>,
    ) -> Result<LiveSettings, SettingsError> {
        let WebhookConfig { github_secret, github_secret_file, github_secret_previous, webhooks_unsigned } = webhooks;
        let secret = match github_secret_file {
            None => github_secret.clone(),
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let text = read.map_err(|source| SettingsError::SecretFile { path: path.clone(), source })?;
                Some(text.trim().to_owned())
            }
        };
        let github = match secret {
            Some(secret) => {
                let secrets = secrets(secret, github_secret_previous.clone()).map_err(SettingsError::Invalid)?;
                GithubAccess::Signed(secrets)
            }
            None if *webhooks_unsigned => {
                warn!(
                    "webhooks are taken WITHOUT a signature from this machine: whoever runs a program here may send any"
                );
                GithubAccess::Unsigned
            }
            None => GithubAccess::Closed,
        };
        let log = Filter::parse(log).map_err(|error| SettingsError::Invalid(error.to_string()))?;
        let base = Base { github, log, environment };
        let in_force = InForce::default();
        let file = match file {
            None => {
                in_force.store(&Checked::read("", &base, Secrets::Read).map_err(SettingsError::Invalid)?);
                None
            }
            Some(path) => {
                let file = Reloaded::open(path, move |text| Checked::read(text, &base, Secrets::Read))?;
                in_force.store(&file.current().load());
                Some(file)
            }
        };
        Ok(LiveSettings { in_force, file })
    }

    /// Where the settings in force are read.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        self.in_force.clone()
    }

    /// Watches the file until `drain` turns true; SIGHUP makes it look at once.
    pub async fn watch(self, drain: watch::Receiver<bool>) {
        let LiveSettings { in_force, file } = self;
        let hurry = Arc::new(Notify::new());
        let mut drained = drain.clone();
        let hangups = async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut hangup) = signal(SignalKind::hangup()) else { return std::future::pending().await };
            // Also without a file: a hangup must not end the process.
            while hangup.recv().await.is_some() {
                hurry.notify_one();
            }
        };
        let watched = async {
            match file {
                Some(file) => {
                    file.watch(Arc::clone(&hurry), drain, move |checked| in_force.store(checked)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = hangups => {}
            () = watched => {}
            _ = drained.wait_for(|draining| *draining) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(live: &LiveSettings) -> &'static str {
        match **live.in_force.github.load() {
            GithubAccess::Closed => "closed",
            GithubAccess::Signed(_) => "signed",
            GithubAccess::Unsigned => "unsigned",
        }
    }

    #[test]
    fn webhooks_are_closed_unless_something_opens_them() {
        let open = |config: WebhookConfig| LiveSettings::open(&config, Environment::default(), "info", None);
        assert_eq!(kind(&open(WebhookConfig::default()).unwrap()), "closed");
        let secret = WebhookConfig { github_secret: Some("s".into()), ..Default::default() };
        assert_eq!(kind(&open(secret).unwrap()), "signed");
        let empty = WebhookConfig { github_secret: Some(String::new()), ..Default::default() };
        assert!(open(empty).is_err());
        let unsigned = WebhookConfig { webhooks_unsigned: true, ..Default::default() };
        assert_eq!(kind(&open(unsigned).unwrap()), "unsigned");
        let file = WebhookConfig { github_secret_file: Some("/none".into()), ..Default::default() };
        assert!(matches!(open(file), Err(SettingsError::SecretFile { .. })));
    }

    #[test]
    fn a_settings_file_is_checked_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.yaml");
        let open = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let (config, environment) = (WebhookConfig::default(), Environment::default());
            LiveSettings::open(&config, environment, "info", Some(&path)).map(|live| kind(&live))
        };
        assert_eq!(open("").unwrap(), "closed");
        assert_eq!(open("github_secret: abc\nlog: debug\n").unwrap(), "signed");
        let named = "{gitlens: {secret: {file: /none}}, notify: {slack: {url: {env: NO_SUCH_VARIABLE_HERE}}}}";
        assert_eq!(check(named), Ok(()));
        for bad in [named, "github_secret: ''", "github_secret_previous: abc", "log: 'a=b=c'", "unknown: 1", "- 1"] {
            assert!(open(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_changed_file_says_takes_effect_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("settings.yaml"), dir.path().join("secret"));
        std::fs::write(&path, "").unwrap();
        let (config, environment) = (WebhookConfig::default(), Environment::default());
        let mut live = LiveSettings::open(&config, environment, "info", Some(&path)).unwrap();
        let in_force = live.in_force();
        let file = live.file.as_mut().unwrap();
        let mut look = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let looked = file.reload();
            live.in_force.store(&file.current().load());
            looked
        };
        assert!(in_force.notify.load().is_empty() && !in_force.gitlens.load().is_signed());

        std::fs::write(&secret, "s3cret").unwrap();
        let text = format!("{{gitlens: {{secret: {{file: {secret:?}}}}}, notify: {{webhook: {{url: 'https://x/'}}}}}}");
        look(&text).unwrap();
        assert!(!in_force.notify.load().is_empty() && in_force.gitlens.load().is_signed());
        // The secret is gone: the file is refused, and what was in force stays.
        std::fs::remove_file(&secret).unwrap();
        assert!(look(&text).is_err());
        assert!(!in_force.notify.load().is_empty() && in_force.gitlens.load().is_signed());
        look("").unwrap();
        assert!(in_force.notify.load().is_empty() && !in_force.gitlens.load().is_signed());
    }
}
