//! The models of a run, or what stands in for them in tests.

use std::fmt;

use mindos_sdk::ModelLoad;

use crate::model::{Ask, Meter, ModelFailure, Models, Said};

/// What is asked.
#[derive(Clone)]
pub enum Brain {
    Models(Models),
    /// Answers what a test says.
    #[cfg(test)]
    Fake(std::sync::Arc<dyn Fake>),
}

/// A model that a test plays.
#[cfg(test)]
pub trait Fake: Send + Sync {
    /// The answer, as what a model would write or call.
    fn answer<'a>(
        &'a self,
        ask: &'a Ask,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Said, ModelFailure>> + Send + 'a>>;
}

impl Brain {
    /// No model.
    #[must_use]
    pub fn none() -> Brain {
        Brain::Models(Models::none())
    }

    /// Whether there is no model.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Brain::Models(models) => models.is_empty(),
            #[cfg(test)]
            Brain::Fake(_) => false,
        }
    }

    /// The models themselves.
    #[must_use]
    pub fn models(&self) -> Models {
        match self {
            Brain::Models(models) => models.clone(),
            #[cfg(test)]
            Brain::Fake(_) => Models::none(),
        }
    }

    /// By which lists what was used of a model is priced, as reports name them.
    #[must_use]
    pub fn prices_of(&self, model: &str) -> String {
        match self {
            Brain::Models(models) => models.prices_of(model),
            #[cfg(test)]
            Brain::Fake(_) => "a list of the test".to_owned(),
        }
    }

    /// How busy the models are.
    #[must_use]
    pub fn loads(&self) -> Vec<ModelLoad> {
        match self {
            Brain::Models(models) => models.loads(),
            #[cfg(test)]
            Brain::Fake(_) => Vec::new(),
        }
    }

    /// Asks.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, meter: &Meter, ask: &Ask) -> Result<Said, ModelFailure> {
        match self {
            Brain::Models(models) => models.ask(meter, ask).await,
            #[cfg(test)]
            Brain::Fake(fake) => {
                let _ = meter;
                fake.answer(ask).await
            }
        }
    }
}

impl fmt::Debug for Brain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Brain(none)" } else { "Brain" })
    }
}
