//! Notices: what is worth telling people.

use mindos_core::passage::Passage;
use mindos_core::record::Entry;
use mindos_model::{DeliveryId, ParkReason, Timestamp};

use crate::surface::gitlens::{Glimpse, PlainEvent};

/// Kinds of events that people are told of, whichever way they came.
const KINDS: [&str; 6] =
    ["pr_created", "needs_attention", "review_started", "review_submitted", "pr_merged", "commit_graph"];
/// Events of this source are told of whatever their kind.
const SOURCE: &str = "/gitlens";

/// One thing to tell.
#[derive(Clone, Debug)]
pub(super) enum Notice {
    /// An event was accepted.
    Event(Glimpse),
    /// Work was set aside until somebody puts it back.
    Parked { delivery: DeliveryId, reason: ParkReason, message: String, at: Timestamp },
}

/// Longest message of a failure that is told, in characters.
const MESSAGE_MAX: usize = 500;

impl Notice {
    /// What is to be told of work that was set aside. Work that waits for room comes back by itself and is not told of.
    pub(super) fn parked(delivery: DeliveryId, reason: ParkReason, message: &str, at: Timestamp) -> Option<Notice> {
        let message = message.chars().take(MESSAGE_MAX).collect();
        (reason != ParkReason::BacklogFull).then_some(Notice::Parked { delivery, reason, message, at })
    }

    /// What a record gives to tell as it happens. Of work that was set aside sinks tell, which forget nothing.
    pub(super) fn of(entry: &Entry) -> Option<Notice> {
        let Entry { seq: _, at, record } = entry;
        match record.passage()? {
            Passage::Accepted(event) => {
                // What is worked on again for comparison is nobody's news.
                let is_news = event.route.is_some() && event.replay().is_none();
                let told = is_news && (KINDS.contains(&&*event.kind) || &*event.source == SOURCE);
                told.then(|| Notice::Event(Glimpse::of(*at, event)))
            }
            Passage::Leased(_)
            | Passage::AttemptEnded(_)
            | Passage::Settled(_)
            | Passage::CancelRequested(_)
            | Passage::Cancelled(_)
            | Passage::Parked(_)
            | Passage::Redriven(_)
            | Passage::Carried(_) => None,
        }
    }
}

/// What people are told of an event, without markup of any place.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) title: String,
    pub(super) event: PlainEvent,
    /// Number of the pull request, its title and the start of its description, as far as they are known.
    pub(super) lines: Vec<String>,
}

/// Characters of a description that are shown.
const DESCRIPTION_MAX: usize = 200;

impl Story {
    pub(super) fn of(glimpse: &Glimpse) -> Story {
        let event = PlainEvent::of(glimpse);
        let mut lines = Vec::new();
        if let Some(number) = event.pull_request() {
            lines.push(format!("PR #{number}"));
        }
        lines.extend(event.text("title").map(str::to_owned));
        lines.extend(event.text("description").map(|text| text.chars().take(DESCRIPTION_MAX).collect()));
        Story { title: format!("GitLens: {}", title_case(&event.kind)), event, lines }
    }
}

fn title_case(kind: &str) -> String {
    let words = kind.split(['_', '-', ' ', '.']).filter(|word| !word.is_empty());
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
    };
    words.map(word).collect::<Vec<_>>().join(" ")
}

/// Cuts a text to at most so many characters.
pub(super) fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}
