//! What the settings file says of notifiers. Secrets come from files or the environment, never from the file itself.
//!
//! ```yaml
//! notify:
//!   discord:
//!     channels: { prs: "1186000000000000001", alerts: "1186000000000000002" }
//!     token_env: DISCORD_TOKEN            # or token_file: /run/secrets/discord
//!     per_minute: 30
//!     burst: 10
//!   slack: { url_file: /run/secrets/slack }
//!   webhook: { url: "https://hooks.example/mindos", secret_env: HOOK_SECRET }
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Notifier;
use super::discord::Discord;
use super::pace::Pace;
use super::slack::Slack;
use super::webhook::Webhook;
use crate::outgoing::Target;

/// Where Discord is, unless the settings say otherwise.
const DISCORD_API: &str = "https://discord.com/api/v10";

/// All notifiers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NotifySection {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discord: Option<DiscordSection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack: Option<SlackSection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookSection>,
}

/// Discord, as a bot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiscordSection {
    /// Ids of channels: `prs` for events, `alerts` for parked work (`prs` when unset). Others are kept for people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<String, String>,
    /// Environment variable that holds the bot's token. `DISCORD_TOKEN` when neither is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// File that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// URL of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Messages a minute, 1 to 6000. 30 when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
    /// Messages at once, 1 to 1000. 10 when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// Slack, by an incoming webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SlackSection {
    /// Environment variable that holds the webhook's URL, which is a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_env: Option<String>,
    /// File that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// As for Discord.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
    /// As for Discord.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// Any address that takes JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSection {
    /// Where to post.
    pub url: String,
    /// Whether http will do beyond this machine, in the clear. Only https when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure: Option<bool>,
    /// Environment variable that holds the secret under which posts are signed. Unsigned when neither is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// File that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// As for Discord.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
    /// As for Discord.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// What the environment says of Discord, by the names of the contract.
#[derive(Clone, Default)]
pub struct DiscordEnv {
    /// `DISCORD_TOKEN`.
    pub token: Option<String>,
    /// `PRS_CHANNEL_ID`.
    pub prs_channel: Option<String>,
}

impl std::fmt::Debug for DiscordEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiscordEnv")
            .field("token", &self.token.is_some())
            .field("prs_channel", &self.prs_channel)
            .finish()
    }
}

/// Reads a secret from a file or the environment; `None` when neither is named.
///
/// # Errors
/// Names the setting, and what is wrong with what it names.
pub(crate) fn secret(setting: &str, file: Option<&Path>, variable: Option<&str>) -> Result<Option<String>, String> {
    let text = match (file, variable) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(format!("{setting}: is named twice: expected `_file` or `_env`, not both")),
        (Some(path), None) => std::fs::read_to_string(path)
            .map_err(|error| format!("{setting}_file: failed to read `{}`: {error}", path.display()))?,
        (None, Some(name)) => {
            std::env::var(name).map_err(|_| format!("{setting}_env: environment variable `{name}` is not set"))?
        }
    };
    let text = text.trim().to_owned();
    if text.is_empty() { Err(format!("{setting}: is empty: expected at least one character")) } else { Ok(Some(text)) }
}

type Paced = (Box<dyn Notifier>, Pace);

impl NotifySection {
    pub(super) fn notifiers(&self, env: &DiscordEnv) -> Result<Vec<Paced>, String> {
        let NotifySection { discord, slack, webhook } = self;
        let mut found: Vec<Paced> = Vec::new();
        let wanted = discord.clone().or_else(|| env.prs_channel.is_some().then(DiscordSection::default));
        match wanted {
            Some(section) => found.extend(section.notifier(env)?),
            None if env.token.is_some() => {
                warn!(
                    "DISCORD_TOKEN is set and no channel is: nothing is posted to Discord; set PRS_CHANNEL_ID or notify.discord.channels.prs"
                );
            }
            None => {}
        }
        if let Some(SlackSection { url_env, url_file, per_minute, burst }) = slack {
            let url = secret("notify.slack.url", url_file.as_deref(), url_env.as_deref())?;
            let url = url.ok_or("notify.slack: expected `url_env` or `url_file`")?;
            let address = Target::parse(&url, false).map_err(|error| format!("notify.slack.url: {error}"))?;
            found.push((Box::new(Slack { address }), pace("slack", *per_minute, *burst)?));
        }
        if let Some(WebhookSection { url, insecure, secret_env, secret_file, per_minute, burst }) = webhook {
            let secret = secret("notify.webhook.secret", secret_file.as_deref(), secret_env.as_deref())?;
            let address = Target::parse(url, insecure.unwrap_or(false))
                .map_err(|error| format!("notify.webhook.url: {error}"))?;
            found.push((Box::new(Webhook { address, secret }), pace("webhook", *per_minute, *burst)?));
        }
        Ok(found)
    }
}

impl DiscordSection {
    fn notifier(self, env: &DiscordEnv) -> Result<Option<Paced>, String> {
        let DiscordSection { mut channels, token_env, token_file, api, per_minute, burst } = self;
        let pace = pace("discord", per_minute, burst)?;
        let given = secret("notify.discord.token", token_file.as_deref(), token_env.as_deref())?;
        let Some(token) = given.or_else(|| env.token.clone()).filter(|token| !token.trim().is_empty()) else {
            warn!(
                "no Discord token is configured: nothing is posted to Discord; set DISCORD_TOKEN or notify.discord.token_file"
            );
            return Ok(None);
        };
        let Some(prs) = channels.remove("prs").or_else(|| env.prs_channel.clone()) else {
            warn!(
                "no Discord channel is configured: nothing is posted to Discord; set PRS_CHANNEL_ID or notify.discord.channels.prs"
            );
            return Ok(None);
        };
        let alerts = channels.remove("alerts").unwrap_or_else(|| prs.clone());
        let api = api.unwrap_or_else(|| DISCORD_API.to_owned());
        let of = |channel: &str, named: &str| {
            if channel.is_empty() || !channel.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!(
                    "notify.discord.channels.{named}: `{channel}` is not a channel's id: expected digits"
                ));
            }
            let url = format!("{}/channels/{channel}/messages", api.trim_end_matches('/'));
            Target::parse(&url, false).map_err(|error| format!("notify.discord.api: {error}"))
        };
        let mut authorization = HeaderValue::from_str(&format!("Bot {}", token.trim()))
            .map_err(|_| "notify.discord.token: expected printable characters".to_owned())?;
        authorization.set_sensitive(true);
        let discord = Discord { events: of(&prs, "prs")?, alerts: of(&alerts, "alerts")?, authorization };
        Ok(Some((Box::new(discord), pace)))
    }
}

fn pace(notifier: &str, per_minute: Option<u32>, burst: Option<u32>) -> Result<Pace, String> {
    let stock = Pace::default();
    let pace = Pace { per_minute: per_minute.unwrap_or(stock.per_minute), burst: burst.unwrap_or(stock.burst) };
    if !(1..=6000).contains(&pace.per_minute) {
        return Err(format!("notify.{notifier}.per_minute: is {}: expected 1 to 6000", pace.per_minute));
    }
    if !(1..=1000).contains(&pace.burst) {
        return Err(format!("notify.{notifier}.burst: is {}: expected 1 to 1000", pace.burst));
    }
    Ok(pace)
}
