//! Why a model gave no answer, by what can be done about it.
//!
//! | kind | next provider is tried | of the delivery |
//! |---|---|---|
//! | rate limited, overloaded, unreachable, cut, unauthorised, rejected | yes | rate limited; transient; rejected: poison |
//! | context too long | yes, where its window is larger | too large |
//! | refused, over budget, invalid | no | poison, over budget, transient |
//!
//! Invariant: no message holds a key, or an address beyond its host.

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
