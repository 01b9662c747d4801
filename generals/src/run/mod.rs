//! One run: an event in, a report and intents out.
//!
//! ```text
//!   context --> evidence --> model, where there is one --> report + intents
//!   (forge)     (computed)   (looks things up, answers a form)
//! ```
//! Invariants: a run writes nothing outside; what it wants done stands in its intents, which are built here from data, never by a model;
//! it can be dropped at any await, and what it paid for until then is in its checkpoint.

mod answer;
mod brain;
mod context;
mod look;
mod review;
mod steps;
mod think;

use std::borrow::Cow;
use std::sync::Arc;

use mindos_model::Timestamp;
use mindos_outgoing::Outgoing;
use mindos_sdk::{Failure, RepositoryAccess};

pub(crate) use answer::Answer;
pub use brain::Brain;
pub use steps::{CHECKPOINT_MAX, Follower, Steps};

use crate::coding::Hands;
use crate::forge::Forge;
use crate::intent::Intent;
use crate::model::Meter;
use crate::profile::Workflow;
use crate::report::Used;
use crate::{Event, Profile, Report};

/// Everything that one run has.
pub struct Run {
    pub profile: Arc<Profile>,
    pub event: Arc<Event>,
    /// What asks the forge.
    pub outgoing: Outgoing,
    /// The repository of the event, where it can be read.
    pub access: Option<RepositoryAccess>,
    /// The models, where there are any.
    pub brain: Brain,
    /// What may be used of them.
    pub meter: Meter,
    pub steps: Steps,
    /// What the workflow `coding` works with.
    pub hands: Hands,
    pub now: Timestamp,
}

impl Run {
    /// Does the work, by the profile's workflow. The report holds the intents.
    ///
    /// # Errors
    /// By kind: what may work next time, what waits, what never will.
    pub async fn go(self) -> Result<Report, Failure> {
        let meter = self.meter.clone();
        let went = match self.profile.workflow {
            Workflow::Review => review::go(&self).await,
            Workflow::Coding => crate::coding::go(&self).await,
        };
        went.map_err(
            |failure| if failure.usage.is_empty() { Failure { usage: meter.used(), ..failure } } else { failure },
        )
    }

    /// What reads the event's repository, where it can be read.
    ///
    /// # Errors
    /// When what it is to be read with is not usable.
    pub fn forge(&self) -> Result<Option<Forge>, Failure> {
        let Some(access) = self.access.clone() else { return Ok(None) };
        let RepositoryAccess { repository, api_url, clone_url, token, expires_at: _, author } = access;
        let access = crate::forge::RepositoryAccess { repository, api_url, clone_url, token, author };
        Ok(Some(Forge::new(self.outgoing.clone(), access)?))
    }

    /// The report of this run, with what there is to say and to do.
    #[must_use]
    pub fn report(
        &self,
        analysis: String,
        recommendations: Vec<String>,
        statement: String,
        effects: Vec<Intent>,
    ) -> Report {
        Report {
            general: self.profile.general_type.clone(),
            event_type: self.event.event_type.clone(),
            status: "processed",
            timestamp: self.now.to_string(),
            analysis,
            recommendations,
            findings: Vec::new(),
            model: Cow::Borrowed("none"),
            statement: Cow::Owned(statement),
            job_id: self.event.job_id.clone(),
            answer: None,
            usage: self.used(),
            effects,
        }
    }

    /// What models were used for in this attempt, and by which lists that is priced.
    #[must_use]
    pub fn used(&self) -> Vec<Used> {
        let used = self.meter.used().into_iter();
        used.map(|usage| Used { prices: self.brain.prices_of(&usage.model), ..Used::from(usage) }).collect()
    }

    /// Whether a model is to be asked: there is one, and the profile says what for.
    #[must_use]
    pub fn asks(&self) -> bool {
        !self.brain.is_empty() && !self.profile.instructions.trim().is_empty()
    }
}

/// 128 random bits for a run's fence.
///
/// # Errors
/// When the system gives none: a fence that can be guessed is none.
pub fn fence_bits() -> Result<u128, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::transient(format!("the system gave no random bits: {error}")))?;
    Ok(u128::from_le_bytes(bytes))
}

#[cfg(test)]
#[path = "forge_tests.rs"]
mod forge_tests;
#[cfg(test)]
#[path = "injection_tests.rs"]
mod injection_tests;
#[cfg(test)]
#[path = "payload_tests.rs"]
mod payload_tests;
#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
