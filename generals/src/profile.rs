//! Profiles: what makes one general different from another, as data.
//!
//! Invariant: a profile that exists names only analyses that exist and holds every threshold and word list they use, so an
//! analysis never meets a missing setting.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::analysis::{self, Analysis};
use crate::model::Schema;
use crate::report::Severity;
use crate::tools;

mod wants;

pub use wants::{Budget, EffectKind, Lookup, Workflow};

/// One type of general.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The contract's name of the type, such as `code-review-general`.
    #[serde(rename = "type")]
    pub general_type: String,
    /// What it is good at; the contract's words.
    pub specializations: Vec<String>,
    /// How its analysis begins, such as `Code review`.
    pub title: String,
    /// The analyses it runs, in order.
    pub analyses: Vec<String>,
    /// The tools it runs over a change, in order.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Numbers the analyses compare with, each documented by its name and unit.
    #[serde(default)]
    pub thresholds: BTreeMap<String, u64>,
    /// Word and path lists the analyses look for.
    #[serde(default)]
    pub words: BTreeMap<String, Vec<String>>,
    /// What credentials look like, besides the formats that all generals know.
    #[serde(default)]
    pub secrets: Vec<SecretPattern>,
    /// Advice by the code of the finding it answers; `{name}` stands for a member of the finding's data.
    pub advice: BTreeMap<String, String>,
    /// The advice where no finding asks for one.
    pub otherwise: String,
    /// What a model is told to do, as one text or a list of lines. Empty: no model is asked, also where there is one.
    #[serde(default, deserialize_with = "wants::lines")]
    pub instructions: String,
    /// JSON Schema of what a model has to answer. Members with a meaning (`summary`, `verdict`, `findings`, `labels`, `priority`,
    /// `past`) become effects; any other is shown under its `title`.
    #[serde(default = "wants::default_schema")]
    pub schema: Schema,
    /// Models in the order to ask them, as `provider:name`, among those that are configured. Empty: in the order of the settings.
    #[serde(default)]
    pub models: Vec<String>,
    /// What one run may use.
    #[serde(default)]
    pub budget: Budget,
    /// What a model may look things up with, where the repository can be read.
    #[serde(default)]
    pub lookups: Vec<Lookup>,
    /// What may come of the work on a forge. Empty: nothing but the report.
    #[serde(default)]
    pub effects: Vec<EffectKind>,
    /// Labels that may be put on, besides those that the repository is known to have.
    #[serde(default)]
    pub labels: Vec<String>,
    /// From which severity of what was computed a check run fails; unset: it never does.
    #[serde(default)]
    pub check_fails_at: Option<Severity>,
    /// How the work is done.
    #[serde(default)]
    pub workflow: Workflow,
}

/// A credential: a prefix and at least so many further letters of an alphabet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretPattern {
    pub name: String,
    pub prefix: String,
    /// Fewest letters behind the prefix; 0 when the prefix alone tells.
    pub min: usize,
    /// Most letters behind it, where more make it something else.
    #[serde(default)]
    pub max: Option<usize>,
    /// Which letters it is made of.
    #[serde(default)]
    pub letters: Letters,
    /// Letters accepted besides those.
    #[serde(default)]
    pub also: String,
}

/// Letters that a credential is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Letters {
    /// ASCII letters and digits.
    #[default]
    Any,
    /// Hexadecimal digits.
    Hex,
    /// Capitals and digits.
    Upper,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("the profile is not usable: {0}")]
    Json(#[from] serde_json::Error),
    #[error("profile {profile}: there is no {kind} `{name}`; there are {known}")]
    Unknown { profile: String, kind: &'static str, name: String, known: String },
    #[error("profile {profile}: {kind} `{analysis}` needs {what} `{name}`")]
    MissingSetting { profile: String, kind: &'static str, analysis: String, what: &'static str, name: &'static str },
    #[error("profile {profile}: {fault}")]
    Wrong { profile: String, fault: String },
    #[error("there is no general of type `{name}`; there are {known}")]
    UnknownType { name: String, known: String },
}

macro_rules! stock {
    ($($name:literal),+ $(,)?) => {
        /// The eleven types and their profiles.
        const STOCK: &[(&str, &str)] = &[$((
            concat!($name, "-general"),
            include_str!(concat!("../profiles/", $name, "-general.json")),
        )),+];
    };
}

stock!(
    "code-review",
    "quality-assurance",
    "architecture",
    "security",
    "deployment",
    "documentation",
    "analytics",
    "metrics",
    "triage",
    "priority",
    "general-purpose",
);

impl Profile {
    /// The eleven types of the stock fleet, in the contract's order.
    pub fn types() -> impl Iterator<Item = &'static str> {
        STOCK.iter().map(|(name, _)| *name)
    }

    /// The profile of a stock type, by its name with or without `-general`; `general` is the general-purpose one.
    ///
    /// # Errors
    /// `UnknownType`, naming the types there are.
    pub fn stock(general_type: &str) -> Result<Profile, ProfileError> {
        let wanted = if general_type == "general" { "general-purpose" } else { general_type };
        let found = STOCK.iter().find(|(name, _)| *name == wanted || name.strip_suffix("-general") == Some(wanted));
        let (_, text) = found.ok_or_else(|| ProfileError::UnknownType {
            name: general_type.chars().take(64).collect(),
            known: Profile::types().collect::<Vec<_>>().join(", "),
        })?;
        Profile::parse(text)
    }

    /// Reads a profile from JSON and checks it against the analyses it names.
    ///
    /// # Errors
    /// What is missing, unknown or not JSON.
    pub fn parse(json: &str) -> Result<Profile, ProfileError> {
        let profile: Profile = serde_json::from_str(json)?;
        if let Some(fault) = profile.fault() {
            return Err(ProfileError::Wrong { profile: profile.general_type, fault });
        }
        profile.check("analysis", &profile.analyses, analysis::ALL)?;
        profile.check("tool", &profile.tools, tools::ALL)?;
        Ok(profile)
    }

    /// Whether all that is named exists and has the settings it needs.
    fn check(&self, kind: &'static str, names: &[String], all: &[Analysis]) -> Result<(), ProfileError> {
        for name in names {
            let found = all.iter().find(|one| one.name == name).ok_or_else(|| ProfileError::Unknown {
                profile: self.general_type.clone(),
                kind,
                name: name.clone(),
                known: all.iter().map(|one| one.name).collect::<Vec<_>>().join(", "),
            })?;
            let missing = |what, name| ProfileError::MissingSetting {
                profile: self.general_type.clone(),
                kind,
                analysis: found.name.to_owned(),
                what,
                name,
            };
            if let Some(name) = found.thresholds.iter().find(|name| !self.thresholds.contains_key(**name)) {
                return Err(missing("the threshold", name));
            }
            if let Some(name) = found.words.iter().find(|name| !self.words.contains_key(**name)) {
                return Err(missing("the words", name));
            }
        }
        Ok(())
    }

    /// What is wrong with what it says of models and effects.
    fn fault(&self) -> Option<String> {
        if mindos_model::GeneralType::new(&self.general_type).is_err() {
            return Some("`type` has to be 1 to 63 lower case letters, digits and hyphens".to_owned());
        }
        if self.instructions.len() > wants::INSTRUCTIONS_MAX {
            return Some("`instructions` have more than 32 KiB".to_owned());
        }
        if self.labels.len() > wants::LABELS_MAX || self.labels.iter().any(|label| label.is_empty() || label.len() > 50) {
            return Some("`labels` takes up to 200 of 1 to 50 bytes".to_owned());
        }
        let fault = wants::schema_fault(self.schema.value());
        let fault = fault.or_else(|| wants::budget_fault(&self.budget)).or_else(|| wants::models_fault(&self.models));
        fault.map(str::to_owned)
    }

    /// Whether a kind of effect may come of its work.
    #[must_use]
    pub fn may(&self, kind: EffectKind) -> bool {
        self.effects.contains(&kind)
    }

    pub(crate) fn threshold(&self, name: &str) -> u64 {
        self.thresholds.get(name).copied().unwrap_or(u64::MAX)
    }

    pub(crate) fn words(&self, name: &str) -> &[String] {
        self.words.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_eleven_profiles_load_under_their_own_name() {
        assert_eq!(Profile::types().count(), 11);
        for name in Profile::types() {
            let profile = Profile::stock(name).unwrap();
            assert_eq!(profile.general_type, name);
            assert!(profile.specializations.len() >= 2 && !profile.analyses.is_empty(), "{name}");
        }
        assert_eq!(Profile::stock("triage").unwrap().general_type, "triage-general");
        assert_eq!(Profile::stock("general").unwrap().general_type, "general-purpose-general");
        assert!(Profile::stock("x").unwrap_err().to_string().contains("triage-general"));
    }

    #[test]
    fn the_specializations_are_those_of_the_contract() {
        let of = |name| Profile::stock(name).unwrap().specializations.join(", ");
        assert_eq!(of("code-review-general"), "code_review, quality, best_practices");
        assert_eq!(of("quality-assurance-general"), "testing, qa, validation");
        assert_eq!(of("architecture-general"), "design, architecture, patterns");
        assert_eq!(of("security-general"), "security, vulnerabilities, compliance");
        assert_eq!(of("deployment-general"), "deployment, release, cicd");
        assert_eq!(of("documentation-general"), "docs, readme, guides");
        assert_eq!(of("analytics-general"), "metrics, analysis, insights");
        assert_eq!(of("metrics-general"), "performance, monitoring, observability");
        assert_eq!(of("triage-general"), "prioritization, triage, routing");
        assert_eq!(of("priority-general"), "urgency, severity, escalation");
        assert_eq!(of("general-purpose-general"), "general, multipurpose");
    }

    #[test]
    fn a_profile_that_lacks_what_its_analyses_need_is_refused() {
        let with = |analysis: &str| {
            Profile::parse(&format!(
                r#"{{"type":"x","specializations":[],"title":"X","analyses":["{analysis}"],"advice":{{}},"otherwise":"-"}}"#
            ))
        };
        assert!(matches!(with("nothing"), Err(ProfileError::Unknown { kind: "analysis", .. })));
        let error = with("size").unwrap_err().to_string();
        assert_eq!(error, "profile x: analysis `size` needs the threshold `small_lines`");
        assert!(with("trust").is_ok());
    }

    #[test]
    fn every_advice_answers_a_finding_that_can_occur() {
        for name in Profile::types() {
            let profile = Profile::stock(name).unwrap();
            let codes: Vec<&str> = profile
                .analyses
                .iter()
                .filter_map(|name| analysis::find(name))
                .chain(profile.tools.iter().filter_map(|name| tools::find(name)))
                .flat_map(|analysis| analysis.codes.iter().copied())
                .collect();
            for code in profile.advice.keys() {
                assert!(codes.contains(&code.as_str()), "{name}: {code}");
            }
        }
    }
}
