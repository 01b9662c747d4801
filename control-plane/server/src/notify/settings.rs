//! What the settings file says of notifiers. Secrets come from files or the environment, never from the file itself.
//!
//! ```yaml
//! notify:
//!   discord:
//!     channels: { prs: "1186000000000000001", alerts: "1186000000000000002" }
//!     token: { file: /run/secrets/discord }       # or { env: NAME }; DISCORD_TOKEN when left out
//!     per_minute: 30
//!     burst: 10
//!   slack: { url: { file: /run/secrets/slack } }
//!   tenant: acme                                  # `default` when left out, `*` for all
//!   webhook: { url: "https://hooks.example/mindos", secret: { env: HOOK_SECRET }, per_minute: 60 }
//! ```

use std::collections::BTreeMap;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::discord::Discord;
use super::pace::Pace;
use super::place::{Form, Kind, Place, Places};
use super::slack::Slack;
use super::webhook::Webhook;
use crate::secret::{SecretAt, Secrets};
use crate::sinks::settings::scope;
use mindos_core::access::Scope;
use mindos_outgoing::Target;

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
    /// Whose events and parked work are told of: a tenant, or `*` for those of all. `default` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// Discord, as a bot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiscordSection {
    /// Ids of channels: `prs` for events, `alerts` for parked work (`prs` when unset). Others are kept for people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<String, String>,
    /// The bot's token. `DISCORD_TOKEN` when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretAt>,
    /// URL of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    #[serde(flatten)]
    pub pace: PaceSection,
}

/// How fast a place may be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct PaceSection {
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
    /// The webhook's URL, which is a secret.
    pub url: SecretAt,
    #[serde(flatten)]
    pub pace: PaceSection,
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
    /// The secret under which posts are signed. Unsigned when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretAt>,
    #[serde(flatten)]
    pub pace: PaceSection,
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

impl NotifySection {
    /// Makes the places that are configured.
    ///
    /// # Errors
    /// Names the setting and what is accepted.
    pub fn places(&self, env: &DiscordEnv, secrets: Secrets) -> Result<Places, String> {
        let NotifySection { discord, slack, webhook, tenant } = self;
        let whose = scope(tenant.as_deref()).map_err(|error| format!("notify.tenant: {error}"))?;
        let mut found: Vec<Place> = Vec::new();
        let wanted = discord.clone().or_else(|| env.prs_channel.is_some().then(DiscordSection::default));
        match wanted {
            Some(section) => found.extend(section.place(env, &whose, secrets)?),
            None if env.token.is_some() => {
                warn!(
                    "DISCORD_TOKEN is set and no channel is: nothing is posted to Discord; set PRS_CHANNEL_ID or notify.discord.channels.prs"
                );
            }
            None => {}
        }
        if let Some(SlackSection { url, pace }) = slack {
            let url = url.read("notify.slack.url", secrets)?;
            let address = Target::parse(&url, false).map_err(|error| format!("notify.slack.url: {error}"))?;
            found.push(Place {
                form: Form::Slack(Slack { address }),
                pace: pace.check(Kind::Slack)?,
                whose: whose.clone(),
            });
        }
        if let Some(WebhookSection { url, insecure, secret, pace }) = webhook {
            let secret = SecretAt::read_if(secret.as_ref(), "notify.webhook.secret", secrets)?;
            let address = Target::parse(url, insecure.unwrap_or(false))
                .map_err(|error| format!("notify.webhook.url: {error}"))?;
            found.push(Place {
                form: Form::Webhook(Webhook { address, secret }),
                pace: pace.check(Kind::Webhook)?,
                whose: whose.clone(),
            });
        }
        Ok(Places(found))
    }
}

impl DiscordSection {
    fn place(self, env: &DiscordEnv, whose: &Scope, secrets: Secrets) -> Result<Option<Place>, String> {
        let DiscordSection { mut channels, token, api, pace } = self;
        let pace = pace.check(Kind::Discord)?;
        let given = SecretAt::read_if(token.as_ref(), "notify.discord.token", secrets)?;
        let Some(token) = given.or_else(|| env.token.clone()).filter(|token| !token.trim().is_empty()) else {
            warn!(
                "no Discord token is configured: nothing is posted to Discord; set DISCORD_TOKEN or notify.discord.token"
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
        Ok(Some(Place { form: Form::Discord(discord), pace, whose: whose.clone() }))
    }
}

impl PaceSection {
    fn check(&self, kind: Kind) -> Result<Pace, String> {
        let PaceSection { per_minute, burst } = self;
        let stock = Pace::default();
        let pace = Pace { per_minute: per_minute.unwrap_or(stock.per_minute), burst: burst.unwrap_or(stock.burst) };
        let kind = kind.as_str();
        if !(1..=6000).contains(&pace.per_minute) {
            return Err(format!("notify.{kind}.per_minute: is {}: expected 1 to 6000", pace.per_minute));
        }
        if !(1..=1000).contains(&pace.burst) {
            return Err(format!("notify.{kind}.burst: is {}: expected 1 to 1000", pace.burst));
        }
        Ok(pace)
    }
}
