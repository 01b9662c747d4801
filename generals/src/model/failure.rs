//! Why a model gave no answer, by what can be done about it.
//!
//! | kind | next provider is tried | of the delivery |
//! |---|---|---|
//! | rate limited, overloaded, unreachable, cut, invalid, unauthorised, rejected | yes | rate limited; transient; rejected: poison |
//! | context too long | yes, where its window is larger | too large |
//! | refused, over budget | no | poison, over budget |
//!
//! Invariant: no message holds a key, or an address beyond its host.

use http::StatusCode;
use mindos_sdk::Failure;
use mindos_sdk::model::Timestamp;

use super::Meter;

/// Letters of a provider's own words that a message keeps.
pub(crate) const WORDS_MAX: usize = 512;

/// Why there is no answer of a model. The messages are for people and name the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelFailure {
    #[error("no model is configured")]
    NoModel,
    /// A limit of the provider is used up until then.
    #[error("{message}")]
    RateLimited { until: Timestamp, message: String },
    /// The provider has no capacity.
    #[error("{message}")]
    Overloaded { message: String },
    /// The question does not fit into the model's window.
    #[error("{message}")]
    ContextTooLong { message: String },
    /// The model or a filter of the provider would not answer.
    #[error("{message}")]
    Refused { message: String },
    /// The key is missing, wrong, without credit, or not for this model.
    #[error("{message}")]
    Unauthorised { message: String },
    /// The answer broke off.
    #[error("{message}")]
    Cut { message: String },
    /// The answer is not what was asked for: no JSON, not of the schema, or against the provider's protocol.
    #[error("{message}")]
    Invalid { message: String },
    /// The provider does not take the request: no such model, or a parameter that it does not know.
    #[error("{message}")]
    Rejected { message: String },
    /// Nobody answers at the provider's address, or not in time.
    #[error("{message}")]
    Unreachable { message: String },
    /// The run may use no more; the model was not asked.
    #[error("{message}")]
    OverBudget { message: String },
}

impl ModelFailure {
    /// The kind in one word, for logs and reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            ModelFailure::NoModel => "no_model",
            ModelFailure::RateLimited { .. } => "rate_limited",
            ModelFailure::Overloaded { .. } => "overloaded",
            ModelFailure::ContextTooLong { .. } => "context_too_long",
            ModelFailure::Refused { .. } => "refused",
            ModelFailure::Unauthorised { .. } => "unauthorised",
            ModelFailure::Cut { .. } => "cut",
            ModelFailure::Invalid { .. } => "invalid",
            ModelFailure::Rejected { .. } => "rejected",
            ModelFailure::Unreachable { .. } => "unreachable",
            ModelFailure::OverBudget { .. } => "over_budget",
        }
    }

    /// The failure of the work that needed the answer, with what models were used for so far.
    #[must_use]
    pub fn of_work(self, meter: &Meter) -> Failure {
        Failure { usage: meter.used(), ..Failure::from(self) }
    }
}

/// What kind of failure a provider's answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RateLimited,
    Overloaded,
    ContextTooLong,
    Refused,
    Unauthorised,
    Cut,
    Invalid,
    Rejected,
    Unreachable,
}

impl Kind {
    /// The failure, of a model whose limits, if it is these, end at `until`.
    pub(crate) fn failure(self, until: Timestamp, message: String) -> ModelFailure {
        match self {
            Kind::RateLimited => ModelFailure::RateLimited { until, message },
            Kind::Overloaded => ModelFailure::Overloaded { message },
            Kind::ContextTooLong => ModelFailure::ContextTooLong { message },
            Kind::Refused => ModelFailure::Refused { message },
            Kind::Unauthorised => ModelFailure::Unauthorised { message },
            Kind::Cut => ModelFailure::Cut { message },
            Kind::Invalid => ModelFailure::Invalid { message },
            Kind::Rejected => ModelFailure::Rejected { message },
            Kind::Unreachable => ModelFailure::Unreachable { message },
        }
    }

    /// Judges an error by its status, where there is one, by what the provider calls it, and where that does not tell by its words.
    #[must_use]
    pub fn of(status: Option<StatusCode>, names: &str, words: &str) -> Kind {
        const TOO_LONG: [&str; 10] = [
            "context_length_exceeded",
            "exceed_context_size",
            "request_too_large",
            "maximum context length",
            "prompt is too long",
            "input is too long",
            "exceed context limit",
            "exceeds the context window",
            "exceeds the available context size",
            "exceeds the maximum number of tokens",
        ];
        const NO_RIGHT: [&str; 9] = [
            "insufficient_quota",
            "billing_error",
            "credit balance",
            "authentication_error",
            "permission_error",
            "invalid_api_key",
            "api_key_invalid",
            "api key not valid",
            "invalid api key",
        ];
        const LIMITED: [&str; 5] =
            ["rate_limit", "rate limit", "resource_exhausted", "usage limit reached", "too many requests"];
        const REFUSED: [&str; 4] = ["content_filter", "content_policy", "content management policy", "safety system"];
        let said = format!("{names} {words}").to_lowercase();
        let says = |any: &[&str]| any.iter().any(|it| said.contains(it));
        match status.map_or(0, |status| status.as_u16()) {
            413 => Kind::ContextTooLong,
            0 | 400 | 422 | 429 | 500 if says(&TOO_LONG) => Kind::ContextTooLong,
            401..=403 => Kind::Unauthorised,
            0 | 400 | 422 | 429 if says(&NO_RIGHT) => Kind::Unauthorised,
            429 => Kind::RateLimited,
            0 | 400 | 422 if says(&REFUSED) => Kind::Refused,
            503 | 529 => Kind::Overloaded,
            408 | 500.. => Kind::Unreachable,
            0 if says(&LIMITED) => Kind::RateLimited,
            0 if says(&["overloaded", "unavailable"]) => Kind::Overloaded,
            0 if says(&["not_found", "invalid_request"]) => Kind::Rejected,
            0 => Kind::Unreachable,
            _ => Kind::Rejected,
        }
    }
}

/// A provider's words on one line, and not too many of them.
pub(crate) fn brief(words: &str) -> String {
    crate::text::clipped(words, WORDS_MAX)
}

impl From<ModelFailure> for Failure {
    fn from(failure: ModelFailure) -> Failure {
        let message = failure.to_string();
        match failure {
            ModelFailure::RateLimited { until, .. } => Failure::rate_limited(until, message),
            ModelFailure::ContextTooLong { .. } => Failure::too_large(message),
            ModelFailure::OverBudget { .. } => Failure::over_budget(message),
            ModelFailure::NoModel | ModelFailure::Refused { .. } | ModelFailure::Rejected { .. } => {
                Failure::poison(message)
            }
            // Another instance may hold a key that works; this one's breaker opens meanwhile.
            ModelFailure::Unauthorised { .. }
            | ModelFailure::Overloaded { .. }
            | ModelFailure::Cut { .. }
            | ModelFailure::Invalid { .. }
            | ModelFailure::Unreachable { .. } => Failure::transient(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_providers_are_told_apart() {
        let of = |status: u16, names: &str, words: &str| Kind::of(StatusCode::from_u16(status).ok(), names, words);
        assert_eq!(of(429, "rate_limit_exceeded", "Rate limit reached"), Kind::RateLimited);
        assert_eq!(of(429, "insufficient_quota", "You exceeded your current quota"), Kind::Unauthorised);
        assert_eq!(of(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted"), Kind::RateLimited);
        assert_eq!(of(529, "overloaded_error", "Overloaded"), Kind::Overloaded);
        assert_eq!(of(503, "UNAVAILABLE", "The model is overloaded"), Kind::Overloaded);
        assert_eq!(of(400, "context_length_exceeded", ""), Kind::ContextTooLong);
        assert_eq!(of(400, "exceed_context_size_error", ""), Kind::ContextTooLong);
        assert_eq!(of(400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), Kind::ContextTooLong);
        let gemini = "The input token count (9) exceeds the maximum number of tokens allowed (8).";
        assert_eq!(of(400, "INVALID_ARGUMENT", gemini), Kind::ContextTooLong);
        assert_eq!(of(413, "request_too_large", ""), Kind::ContextTooLong);
        assert_eq!(of(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), Kind::Unauthorised);
        assert_eq!(of(400, "invalid_request_error", "Your credit balance is too low"), Kind::Unauthorised);
        assert_eq!(of(400, "content_policy_violation", ""), Kind::Refused);
        assert_eq!(of(404, "", "model 'x' not found"), Kind::Rejected);
        assert_eq!(of(400, "", "Unknown parameter"), Kind::Rejected);
        for status in [401, 402, 403] {
            assert_eq!(of(status, "", "rate limit"), Kind::Unauthorised, "{status}");
        }
        for status in [408, 500, 502, 504] {
            assert_eq!(of(status, "", ""), Kind::Unreachable, "{status}");
        }
        let within = |names: &str, words: &str| Kind::of(None, names, words);
        assert_eq!(within("overloaded_error", "Overloaded"), Kind::Overloaded);
        assert_eq!(within("rate_limit_error", ""), Kind::RateLimited);
        assert_eq!(within("", "an error was encountered while running the model"), Kind::Unreachable);
    }

    #[test]
    fn a_failure_settles_its_work_by_its_kind() {
        let kind = |failure: Kind| Failure::from(failure.failure(Timestamp(7), "m".to_owned())).kind.as_str();
        assert_eq!(kind(Kind::RateLimited), "rate_limited");
        assert_eq!(kind(Kind::ContextTooLong), "too_large");
        assert_eq!((kind(Kind::Refused), kind(Kind::Rejected)), ("poison", "poison"));
        for failure in [Kind::Overloaded, Kind::Unauthorised, Kind::Cut, Kind::Invalid, Kind::Unreachable] {
            assert_eq!(kind(failure), "transient");
        }
    }
}
