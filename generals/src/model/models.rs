//! The models that are configured, in the order in which they are asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mindos_outgoing::Outgoing;
use mindos_sdk::model::Timestamp;
use mindos_sdk::{Clock, ModelLoad};
use serde::de::DeserializeOwned;
use tracing::info;

use super::answer;
use super::failure::WORDS_MAX;
use super::provider::Provider;
use super::settings::ModelSettings;
use super::{Ask, Meter, ModelFailure, Said, Schema, Stop};

/// A limit that ends within this is waited for; a later one is left to the control plane.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// How often one question waits for limits.
const WAITS_MAX: usize = 3;

/// The models that are configured. Cheap to clone; all clones share places, limits and connections.
#[derive(Clone)]
pub struct Models {
    order: Arc<[Arc<Provider>]>,
    clock: Clock,
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.labels()).finish()
    }
}

impl Default for Models {
    fn default() -> Models {
        Models::none()
    }
}

impl From<&ModelSettings> for Models {
    fn from(settings: &ModelSettings) -> Models {
        Models::by(settings, &Outgoing::new())
    }
}

impl Models {
    /// No model: asking one fails with [`ModelFailure::NoModel`].
    #[must_use]
    pub fn none() -> Models {
        Models { order: Arc::new([]), clock: Clock::start() }
    }

    /// The models of these settings, reached by that client.
    #[must_use]
    pub fn by(settings: &ModelSettings, client: &Outgoing) -> Models {
        let ModelSettings { models, timeout } = settings;
        let clock = Clock::start();
        let provider = |model: &super::settings::ModelSetting| {
            Arc::new(Provider::new(model.clone(), client.clone(), clock, *timeout))
        };
        Models { order: models.iter().map(provider).collect(), clock }
    }

    /// The same models, those first that are named: as `provider:name`, `name` or `provider`, in the order of the names.
    #[must_use]
    pub fn preferring(&self, names: &[String]) -> Models {
        let rank = |provider: &Arc<Provider>| {
            let setting = provider.setting();
            let is = |name: &String| *name == provider.label() || *name == setting.name || name == setting.provider();
            names.iter().position(is).unwrap_or(names.len())
        };
        let mut order = self.order.to_vec();
        order.sort_by_key(rank);
        Models { order: order.into(), clock: self.clock }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The models as `provider:name`, in the order in which they are asked.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(|provider| provider.label())
    }

    /// Models that cost money and whose price is not known, so that their use counts as free.
    pub fn unpriced(&self) -> impl Iterator<Item = &str> {
        let unpriced = |provider: &&Arc<Provider>| {
            let setting = provider.setting();
            setting.known.price.is_none() && !matches!(setting.provider(), "ollama" | "command")
        };
        self.order.iter().filter(unpriced).map(|provider| provider.label())
    }

    /// By which lists what was used of a model of this bare name is priced, as reports name them; empty where it is none of these models.
    #[must_use]
    pub fn prices_of(&self, name: &str) -> String {
        let mut lists: Vec<&str> = Vec::new();
        for setting in self.order.iter().map(|provider| provider.setting()).filter(|setting| setting.name == name) {
            if !lists.contains(&&*setting.prices) {
                lists.push(&setting.prices);
            }
        }
        lists.join(" and ")
    }

    /// What a person has to see to, such as a key that is not taken.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.order.iter().filter_map(|provider| provider.trouble()).collect()
    }

    /// How busy the models are and what their providers allow still, as far as is known.
    #[must_use]
    pub fn loads(&self) -> Vec<ModelLoad> {
        self.order.iter().map(|provider| provider.load()).collect()
    }

    /// Asks one model after the other until one answers. Limits that end soon are waited for. Dropping the future ends the request.
    ///
    /// # Errors
    /// Where several failed, the kind that promises most, with the words of all: a limit and its end before an overload, and so on.
    pub async fn ask(&self, meter: &Meter, ask: &Ask) -> Result<Said, ModelFailure> {
        let mut waits = 0;
        loop {
            let failure = match self.once(meter, ask).await {
                Ok(said) => return Ok(said),
                Err(failure) => failure,
            };
            match failure {
                ModelFailure::RateLimited { until, .. } if waits < WAITS_MAX && self.is_soon(until) => {
                    waits += 1;
                    let wait = until.since(self.clock.now()) + Duration::from_millis(10);
                    info!(wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "limit of a model waited for");
                    tokio::time::sleep(wait).await;
                }
                failure => return Err(failure),
            }
        }
    }

    fn is_soon(&self, until: Timestamp) -> bool {
        until.since(self.clock.now()) <= WAIT_MAX
    }

    async fn once(&self, meter: &Meter, ask: &Ask) -> Result<Said, ModelFailure> {
        let mut failures = Vec::new();
        // The widest window that was too small.
        let mut too_small: Option<u64> = None;
        for provider in self.order.iter() {
            let context = provider.setting().known.context;
            if let (Some(too_small), Some(context)) = (too_small, context)
                && context <= too_small
            {
                continue;
            }
            match provider.ask(meter, ask).await {
                Ok(said) => return Ok(said),
                Err(failure @ (ModelFailure::OverBudget { .. } | ModelFailure::Refused { .. })) => return Err(failure),
                Err(failure) => {
                    if let ModelFailure::ContextTooLong { .. } = failure {
                        too_small = too_small.max(context);
                    }
                    if self.order.len() > 1 {
                        info!(model = provider.label(), kind = failure.kind(), %failure, "next model is asked");
                    }
                    failures.push(failure);
                }
            }
        }
        Err(together(failures))
    }

    /// Asks for JSON that fits `schema`, and once more, with what was wrong, where the first answer does not.
    ///
    /// # Errors
    /// As [`Models::ask`], and `Invalid` where the second answer does not fit either.
    pub async fn structured<T: DeserializeOwned>(
        &self,
        meter: &Meter,
        mut ask: Ask,
        schema: &Schema,
    ) -> Result<(T, Said), ModelFailure> {
        ask.schema = Some(schema.clone());
        let said = self.ask(meter, &ask).await?;
        let faults = match read(&said, schema) {
            Ok(answer) => return Ok((answer, said)),
            Err(faults) => faults,
        };
        info!(model = %said.model, faults = faults.len(), "answer of a model is to be repaired");
        ask.completion = false;
        ask.messages.extend(answer::repair(&said, &faults));
        let said = self.ask(meter, &ask).await?;
        match read(&said, schema) {
            Ok(answer) => Ok((answer, said)),
            Err(faults) => {
                let faults: String = faults.join("; ").chars().take(WORDS_MAX).collect();
                let message = format!("{} gave no usable answer, also when told what was wrong: {faults}", said.model);
                Err(ModelFailure::Invalid { message })
            }
        }
    }
}

/// What a model said as the answer that a schema asks for.
///
/// # Errors
/// What is wrong, in words that the model understands.
pub fn read<T: DeserializeOwned>(said: &Said, schema: &Schema) -> Result<T, Vec<String>> {
    let value = answer::json(&said.text, schema).map_err(|mut faults| {
        if said.stop == Stop::Length {
            faults.insert(0, "the answer was cut off because it was too long: answer more briefly".to_owned());
        }
        faults
    })?;
    serde_json::from_value(value).map_err(|error| vec![error.to_string()])
}

/// One failure for all.
fn together(failures: Vec<ModelFailure>) -> ModelFailure {
    let rank = |failure: &ModelFailure| match failure {
        ModelFailure::RateLimited { until, .. } => (0, until.0),
        ModelFailure::Overloaded { .. } => (1, 0),
        ModelFailure::Unreachable { .. } => (2, 0),
        ModelFailure::Cut { .. } => (3, 0),
        ModelFailure::Invalid { .. } => (4, 0),
        ModelFailure::ContextTooLong { .. } => (5, 0),
        ModelFailure::Unauthorised { .. } => (6, 0),
        ModelFailure::Rejected { .. } => (7, 0),
        ModelFailure::Refused { .. } | ModelFailure::OverBudget { .. } | ModelFailure::NoModel => (8, 0),
    };
    let words = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let Some(mut failure) = failures.into_iter().min_by_key(rank) else { return ModelFailure::NoModel };
    match &mut failure {
        ModelFailure::NoModel => {}
        ModelFailure::RateLimited { message, .. }
        | ModelFailure::Overloaded { message }
        | ModelFailure::ContextTooLong { message }
        | ModelFailure::Refused { message }
        | ModelFailure::Unauthorised { message }
        | ModelFailure::Cut { message }
        | ModelFailure::Invalid { message }
        | ModelFailure::Rejected { message }
        | ModelFailure::Unreachable { message }
        | ModelFailure::OverBudget { message } => *message = words,
    }
    failure
}
