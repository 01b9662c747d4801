//! The models that are configured, in the order in which they are asked.

use mindos_sdk::ModelLoad;
use serde::de::DeserializeOwned;

use super::{Ask, Meter, ModelFailure, Said, Schema};

/// The models that are configured. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Models(());

impl Models {
    /// No model: asking one fails with [`ModelFailure::NoModel`].
    #[must_use]
    pub fn none() -> Models {
        Models::default()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Asks one model after the other until one answers.
    ///
    /// # Errors
    /// The failure of the one that came furthest.
    pub async fn ask(&self, _meter: &Meter, _ask: &Ask) -> Result<Said, ModelFailure> {
        Err(ModelFailure::NoModel)
    }

    /// Asks for JSON that fits `schema`, and once more where the first answer does not.
    ///
    /// # Errors
    /// As [`Models::ask`], and `Invalid` where the second answer does not fit either.
    pub async fn structured<T: DeserializeOwned>(
        &self,
        _meter: &Meter,
        _ask: Ask,
        _schema: &Schema,
    ) -> Result<(T, Said), ModelFailure> {
        Err(ModelFailure::NoModel)
    }

    /// How busy the models are, as far as is known.
    #[must_use]
    pub fn loads(&self) -> Vec<ModelLoad> {
        Vec::new()
    }
}
