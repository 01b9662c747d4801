//! Slack: a message by an incoming webhook, whose address is its secret.

use serde_json::json;

use super::notice::{Notice, Story, cut};
use super::place::{Notifier, post};
use mindos_outgoing::{Request, Target};

/// What Slack takes at most before it cuts.
const TEXT_MAX: usize = 4000;

/// Posts to one incoming webhook.
#[derive(Clone, PartialEq)]
pub(super) struct Slack {
    pub(super) address: Target,
}

impl std::fmt::Debug for Slack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slack").finish_non_exhaustive()
    }
}

impl Notifier for Slack {
    fn render(&self, notice: &Notice) -> Option<Request> {
        let text = match notice {
            Notice::Event(glimpse) => {
                let Story { title, event, lines } = Story::of(glimpse);
                let about = format!("{} by {}", event.repository, event.user);
                let parts = [
                    vec![format!("*{}*", plain(&title)), plain(&about)],
                    lines.iter().map(|line| plain(line)).collect(),
                ];
                parts.concat().join("\n")
            }
            Notice::Parked { delivery, reason, message, at: _ } => {
                format!("*Mind OS: Work Parked*\n`{delivery}` was parked: {reason}\n{}", plain(message))
                    .trim_end()
                    .to_owned()
            }
        };
        Some(post(&self.address, &json!({ "text": cut(&text, TEXT_MAX) })))
    }
}

/// Slack's three control characters, so that a text of somebody else calls nobody and links nowhere.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
