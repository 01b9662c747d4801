//! Settings that may change while the server runs: secrets of webhooks, and what is logged.
//!
//! ```yaml
//! github_secret: "the secret of the webhook"
//! github_secret_previous: "the one before, while it is being changed"
//! gitlab: {secret: "the secret token of the webhook", previous: ".."}
//! alertmanager: {secret: "the credentials of its authorization"}
//! ingest: {..}                                  # see `ingest::generic`
//! github_app: {id: 12345, private_key_file: "app.pem"}   # asks GitHub for deliveries that never came
//! quotas: [{name: ci, source: "/ci/*", events: 600, per: 60s}]   # see `admission`
//! sinks:
//!   ops: {url: "https://example.com/hook", on: [parked], secret: ".."}   # see `sinks::settings`
//! otlp: {endpoint: "http://127.0.0.1:4318", sample: 0.1}               # traces, to a collector
//! log: "info,mindos_control_plane=debug"
//! prices:
//!   gpt-4o-mini: {input: 0.15, output: 0.6}   # of a million tokens
//! ```
//! Beside these stand `gitlens` and `notify`, each described in its own module and read at the start only.
//! What the file leaves out is as the command line says. Invariant: a file is taken whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::admission::{QuotaSetting, Quotas};
use crate::catch_up::settings::{App, AppSetting};
use crate::http::GithubAccess;
use crate::ingest::doors::Doors;
use crate::ingest::generic::GenericSetting;
use crate::ingest::github::Secrets;
use crate::ingest::hook::SecretSetting;
use crate::logging;
use crate::notify::{DiscordEnv, Notifiers, NotifySection};
use crate::outgoing::Outgoing;
use crate::prices::Prices;
use crate::reload::{ReloadError, Reloaded};
use crate::sinks::settings::SinkSetting;
use crate::sinks::{self, Configured};
use crate::surface::gitlens::{GitlensSection, GitlensSettings};
use crate::trace;
use crate::trace::settings::OtlpSetting;

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
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    github_secret: Option<String>,
    github_secret_previous: Option<String>,
    gitlab: Option<SecretSetting>,
    alertmanager: Option<SecretSetting>,
    #[serde(default)]
    ingest: BTreeMap<String, GenericSetting>,
    github_app: Option<AppSetting>,
    #[serde(default)]
    quotas: Vec<QuotaSetting>,
    #[serde(default)]
    sinks: BTreeMap<String, SinkSetting>,
    otlp: Option<OtlpSetting>,
    log: Option<String>,
    gitlens: Option<GitlensSection>,
    notify: Option<NotifySection>,
    #[serde(default)]
    prices: Prices,
}

fn parse(text: &str) -> Result<Settings, String> {
    if text.trim().is_empty() {
        return Ok(Settings::default());
    }
    let settings: Settings = serde_norway::from_str(text).map_err(|error| error.to_string())?;
    let Settings {
        github_secret,
        github_secret_previous,
        gitlab,
        alertmanager,
        ingest,
        github_app,
        quotas,
        sinks,
        otlp,
        log,
        prices,
        gitlens: _,
        notify: _,
    } = &settings;
    Quotas::new(quotas)?;
    prices.check()?;
    Doors::new(gitlab.as_ref(), alertmanager.as_ref(), ingest)?;
    github_app.as_ref().map(AppSetting::app).transpose()?;
    sinks::settings::sinks(sinks)?;
    otlp.as_ref().map(OtlpSetting::otlp).transpose()?;
    match (github_secret, github_secret_previous) {
        (None, Some(_)) => return Err("`github_secret_previous` needs `github_secret` beside it".to_owned()),
        (Some(secret), previous) => drop(secrets(secret.clone(), previous.clone())?),
        (None, None) => {}
    }
    if let Some(log) = log {
        logging::check_filter(log).map_err(|error| error.to_string())?;
    }
    Ok(settings)
}

/// Checks the text of a settings file.
///
/// # Errors
/// Says what is not accepted.
pub fn check(text: &str) -> Result<(), String> {
    parse(text).map(drop)
}

fn secrets(current: String, previous: Option<String>) -> Result<Secrets, String> {
    Secrets::new(current, previous.map(Into::into)).map_err(|error| error.to_string())
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
}

/// The settings in force and what keeps them so.
#[derive(Debug)]
pub struct LiveSettings {
    in_force: InForce,
    base: GithubAccess,
    base_log: String,
    file: Option<Reloaded<Settings>>,
}

impl LiveSettings {
    /// Reads everything for the first time.
    ///
    /// # Errors
    /// Names the option or file that is not accepted.
    pub fn open(webhooks: &WebhookConfig, log: &str, file: Option<&Path>) -> Result<LiveSettings, SettingsError> {
        let WebhookConfig { github_secret, github_secret_file, github_secret_previous, webhooks_unsigned } = webhooks;
        let secret = match github_secret_file {
            None => github_secret.clone(),
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let text = read.map_err(|source| SettingsError::SecretFile { path: path.clone(), source })?;
                Some(text.trim().to_owned())
            }
        };
        let base = match secret {
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
        let file = file.map(|path| Reloaded::open(path, parse)).transpose()?;
        let in_force = InForce::default();
        let live = LiveSettings { in_force, base, base_log: log.to_owned(), file };
        let Some(file) = &live.file else {
            apply(&live.in_force, &live.base, &live.base_log, &Settings::default());
            return Ok(live);
        };
        apply(&live.in_force, &live.base, &live.base_log, &file.current().load());
        Ok(live)
    }

    /// Where the settings in force are read.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        self.in_force.clone()
    }

    /// What the surface of the GitLens contract is to be, as of the start.
    ///
    /// # Errors
    /// Names the field that is not accepted.
    pub fn gitlens(&self) -> Result<GitlensSettings, SettingsError> {
        let section = self.file.as_ref().and_then(|file| file.current().load().gitlens.clone()).unwrap_or_default();
        GitlensSettings::new(&section).map_err(SettingsError::Invalid)
    }

    /// Who is to be told what happens, as of the start.
    ///
    /// # Errors
    /// Names the field that is not accepted.
    pub fn notifiers(&self, env: &DiscordEnv, outgoing: &Outgoing) -> Result<Notifiers, SettingsError> {
        let section = self.file.as_ref().and_then(|file| file.current().load().notify.clone()).unwrap_or_default();
        Notifiers::new(&section, env, outgoing).map_err(SettingsError::Invalid)
    }

    /// Watches the file until `drain` turns true; SIGHUP makes it look at once.
    pub async fn watch(self, drain: watch::Receiver<bool>) {
        let LiveSettings { in_force, base, base_log, file } = self;
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
                    let changed = move |settings: &Settings| apply(&in_force, &base, &base_log, settings);
                    file.watch(Arc::clone(&hurry), drain, changed).await;
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

fn apply(in_force: &InForce, base: &GithubAccess, base_log: &str, settings: &Settings) {
    let InForce { github, doors, app, quotas: in_use, sinks: open_sinks, otlp: open_otlp, prices: known } = in_force;
    // The surface and the notifiers are set up at the start.
    let Settings {
        github_secret,
        github_secret_previous,
        gitlab,
        alertmanager,
        ingest,
        github_app,
        quotas,
        sinks,
        otlp,
        log,
        prices,
        gitlens: _,
        notify: _,
    } = settings;
    if let Ok(quotas) = Quotas::new(quotas) {
        in_use.store(Arc::new(quotas));
    }
    known.store(Arc::new(prices.clone()));
    // The file was checked when it was read.
    if let Ok(open) = Doors::new(gitlab.as_ref(), alertmanager.as_ref(), ingest) {
        doors.store(Arc::new(Doors { unsigned: matches!(base, GithubAccess::Unsigned), ..open }));
    }
    if let Ok(configured) = sinks::settings::sinks(sinks) {
        open_sinks.store(Arc::new(configured));
    }
    open_otlp.store(otlp.as_ref().and_then(|otlp| otlp.otlp().ok()).map(Arc::new));
    app.store(github_app.as_ref().and_then(|app| app.app().ok()).map(Arc::new));
    let from_file = github_secret.clone().and_then(|secret| secrets(secret, github_secret_previous.clone()).ok());
    github.store(Arc::new(from_file.map_or_else(|| base.clone(), GithubAccess::Signed)));
    if let Err(error) = logging::set_filter(log.as_deref().unwrap_or(base_log)) {
        warn!(%error, "log filter was not changed");
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
        let open = |config: WebhookConfig| LiveSettings::open(&config, "info", None);
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
            LiveSettings::open(&WebhookConfig::default(), "info", Some(&path)).map(|live| kind(&live))
        };
        assert_eq!(open("").unwrap(), "closed");
        assert_eq!(open("github_secret: abc\nlog: debug\n").unwrap(), "signed");
        for bad in ["github_secret: ''", "github_secret_previous: abc", "log: 'a=b=c'", "unknown: 1", "- 1"] {
            assert!(open(bad).is_err(), "{bad}");
        }
    }
}
