//! What the settings file says of feedback from GitHub.
//!
//! ```yaml
//! feedback: {reactions: true, every: 10m, pace: 5s}   # how reactions to our comments are asked for
//! ```

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Deserialize;

use crate::config::span;

/// The settings in force.
pub type Configured = Arc<ArcSwap<FeedbackSettings>>;

/// Feedback as the settings file has it.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedbackSection {
    reactions: Option<bool>,
    every: Option<String>,
    pace: Option<String>,
}

/// Feedback, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedbackSettings {
    /// Whether reactions are asked for at all.
    pub reactions: bool,
    /// Between two rounds.
    pub every: Duration,
    /// Between two requests.
    pub pace: Duration,
}

impl Default for FeedbackSettings {
    fn default() -> FeedbackSettings {
        FeedbackSettings { reactions: true, every: Duration::from_secs(600), pace: Duration::from_secs(5) }
    }
}

impl FeedbackSettings {
    /// Checks what the file says.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn new(section: &FeedbackSection) -> Result<FeedbackSettings, String> {
        let FeedbackSection { reactions, every, pace } = section;
        let stock = FeedbackSettings::default();
        let between = |field: &str, text: &Option<String>, unset: Duration, (min, max, words): (u64, u64, &str)| {
            let read = text.as_deref().map_or(Ok(unset), span);
            let read = read.map_err(|error| format!("`feedback.{field}`: {error}"))?;
            let fits = (Duration::from_millis(min)..=Duration::from_millis(max)).contains(&read);
            fits.then_some(read).ok_or_else(|| format!("`feedback.{field}`: expected {words}"))
        };
        Ok(FeedbackSettings {
            reactions: reactions.unwrap_or(stock.reactions),
            every: between("every", every, stock.every, (100, 86_400_000, "100ms to 1d"))?,
            pace: between("pace", pace, stock.pace, (10, 600_000, "10ms to 10m"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_accepted_is_named() {
        let read = |text: &str| FeedbackSettings::new(&serde_norway::from_str(text).unwrap());
        assert_eq!(read("{}"), Ok(FeedbackSettings::default()));
        assert_eq!(read("{every: 1s, pace: 10ms}").unwrap().every, Duration::from_secs(1));
        for (text, says) in [("{every: 1ms}", "`feedback.every`"), ("{pace: x}", "`feedback.pace`")] {
            assert!(read(text).unwrap_err().contains(says), "{text}");
        }
    }
}
