//! Discord: an embed in a channel, as the contract draws it.

use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::notice::{Notice, Story, cut};
use super::place::{Notifier, post};
use mindos_outgoing::{Request, Target};

/// What Discord takes at most.
const TITLE_MAX: usize = 256;
const DESCRIPTION_MAX: usize = 4096;
const FIELD_MAX: usize = 1024;
/// Of anything that has no colour of its own, and of work that was set aside.
const COLOUR_OTHER: u32 = 0x2f_81f7;
const COLOUR_PARKED: u32 = 0xdc_3545;

/// Posts as a bot.
#[derive(Clone, PartialEq)]
pub(super) struct Discord {
    /// Where messages of the channel for pull requests go.
    pub(super) events: Target,
    /// Where work that was set aside is told of.
    pub(super) alerts: Target,
    /// `Bot` and the token; marked as sensitive.
    pub(super) authorization: HeaderValue,
}

impl std::fmt::Debug for Discord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discord").finish_non_exhaustive()
    }
}

fn colour(kind: &str) -> u32 {
    match kind {
        "pr_created" => 0xff_c107,
        "needs_attention" => 0xdc_3545,
        "review_started" => 0x2f_81f7,
        "review_submitted" => 0x28_a745,
        "pr_merged" => 0x20_c997,
        "commit_graph" => 0x6f_42c1,
        _ => COLOUR_OTHER,
    }
}

impl Notifier for Discord {
    fn render(&self, notice: &Notice) -> Option<Request> {
        let (target, embed) = match notice {
            Notice::Event(glimpse) => (&self.events, event(&Story::of(glimpse))),
            Notice::Parked { delivery, reason, message, at } => {
                let description = format!("`{delivery}` was parked: {reason}\n{message}");
                let embed = json!({
                    "title": "Mind OS: Work Parked",
                    "description": cut(description.trim_end(), DESCRIPTION_MAX),
                    "color": COLOUR_PARKED,
                    "timestamp": at.to_string(),
                });
                (&self.alerts, embed)
            }
        };
        // A text of somebody else calls nobody.
        let body = json!({ "embeds": [embed], "allowed_mentions": { "parse": [] } });
        let mut request = post(target, &body);
        request.headers.insert(header::AUTHORIZATION, self.authorization.clone());
        Some(request)
    }
}

fn event(story: &Story) -> Value {
    let Story { title, event, lines } = story;
    let mut description = format!("By **{}**", event.user);
    for line in lines {
        description.push('\n');
        description.push_str(line);
    }
    let field = |name: &str, value: &str| json!({ "name": name, "value": cut(value, FIELD_MAX), "inline": true });
    json!({
        "title": cut(title, TITLE_MAX),
        "description": cut(&description, DESCRIPTION_MAX),
        "color": colour(&event.kind),
        "fields": [field("Repository", &event.repository), field("User", &event.user)],
        "timestamp": event.timestamp,
    })
}
