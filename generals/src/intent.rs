//! Intents: what a general wants done outside. The control plane carries them out, or does not.

use mindos_model::limits;
use mindos_sdk::Effect;
use serde::Serialize;
use serde_json::Value;

/// One thing to do outside, as `effects` in the answer to `POST /process` holds it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Intent {
    /// Two intents of one key are one effect; unset: the place in the delivery is the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Such as `comment` or `pull_request`.
    pub kind: &'static str,
    /// `owner/repo`, `owner/repo#7` or `owner/repo@<40 hex digits>`.
    pub target: String,
    pub parameters: Value,
}

impl Intent {
    /// An intent whose key is its place in the delivery.
    #[must_use]
    pub fn new(kind: &'static str, target: impl Into<String>, parameters: Value) -> Intent {
        Intent { key: None, kind, target: target.into(), parameters }
    }
}

impl From<Intent> for Effect {
    fn from(intent: Intent) -> Effect {
        let Intent { key, kind, target, parameters } = intent;
        let effect = Effect::new(kind, target, parameters.to_string().into_bytes());
        Effect { key: key.unwrap_or_default(), ..effect }
    }
}

/// Whether so many intents of such parameters are taken.
#[must_use]
pub(crate) fn fit(intents: &[Intent]) -> bool {
    let sizes = || intents.iter().map(|intent| intent.parameters.to_string().len());
    intents.len() <= limits::EFFECTS_MAX
        && sizes().all(|size| size <= limits::EFFECT_PARAMETERS_MAX)
        && sizes().sum::<usize>() <= limits::EFFECTS_PARAMETERS_MAX
}
