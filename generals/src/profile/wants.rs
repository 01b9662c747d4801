//! What a profile says of models and of effects: what is asked, by which means, within what, and what may come of it.

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::model::Schema;

/// Most rounds of one run: calls of a model that may end with a wish to use a tool.
pub(super) const ROUNDS_MAX: u32 = 24;
/// Longest instructions, in bytes.
pub(super) const INSTRUCTIONS_MAX: usize = 32 * 1024;
/// Longest schema, in bytes.
pub(super) const SCHEMA_MAX: usize = 32 * 1024;
/// Most labels that a profile allows.
pub(super) const LABELS_MAX: usize = 200;

/// How the work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workflow {
    /// An event is looked at; comes out as a report, comments, checks and labels.
    #[default]
    Review,
    /// A request to change code; comes out as branches and pull requests.
    Coding,
}

/// What one run may use of models, besides what its delivery allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Tokens that models may write, all calls together. 1 to 1,000,000.
    pub output_tokens: u64,
    /// Millionths of the currency unit, all calls together; unset has no limit.
    pub cost_micros: Option<u64>,
    /// Tokens of context: what a model is shown at most. 1,000 to 1,000,000.
    pub context_tokens: u64,
    /// Calls of a model, 1 to 24: in all but the last it may look things up.
    pub rounds: u32,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { output_tokens: 8_000, cost_micros: Some(200_000), context_tokens: 24_000, rounds: 6 }
    }
}

/// What a model may look things up with. All of them read, at the head of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lookup {
    ReadFile,
    ListFiles,
    Search,
}

impl Lookup {
    /// The name a model knows it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Lookup::ReadFile => "read_file",
            Lookup::ListFiles => "list_files",
            Lookup::Search => "search",
        }
    }
}

/// A kind of effect that may come of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectKind {
    /// One comment per general and subject, edited in place.
    Comment,
    /// A review with comments on lines of the change; never an approval.
    Review,
    /// A check run on the head.
    Check,
    /// Labels that the profile allows or the repository has.
    Labels,
    Reaction,
    Branch,
    PullRequest,
    Issue,
}

/// Instructions are one text, or a list of its lines.
pub(super) fn lines<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Lines {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Lines::deserialize(from)? {
        Lines::One(text) => text,
        Lines::Many(lines) => lines.join("\n"),
    })
}

/// What a model answers where the profile does not say: a summary, a verdict and findings.
#[must_use]
pub(super) fn default_schema() -> Schema {
    let schema = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["summary", "verdict", "findings"],
        "properties": {
            "summary": {"type": "string", "description": "two or three sentences"},
            "verdict": {"type": "string", "enum": ["good", "minor", "serious"]},
            "findings": {"type": "array", "items": {
                "type": "object",
                "additionalProperties": false,
                "required": ["severity", "title", "body", "path", "line"],
                "properties": {
                    "severity": {"type": "string", "enum": ["info", "notice", "warning", "critical"]},
                    "title": {"type": "string"},
                    "body": {"type": "string"},
                    "path": {"type": ["string", "null"]},
                    "line": {"type": ["integer", "null"]}
                }
            }}
        }
    });
    Schema::new(schema).expect("a fixed schema, which a test reads")
}

/// What is wrong with a schema for answers, if anything.
pub(super) fn schema_fault(schema: &Value) -> Option<&'static str> {
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Some("`schema` has to describe an object: `\"type\": \"object\"`");
    }
    if !schema.get("properties").is_some_and(Value::is_object) {
        return Some("`schema` has to name its `properties`");
    }
    (schema.to_string().len() > SCHEMA_MAX).then_some("`schema` has more than 32 KiB")
}

/// What is wrong with a budget, if anything.
pub(super) fn budget_fault(budget: &Budget) -> Option<&'static str> {
    let Budget { output_tokens, cost_micros: _, context_tokens, rounds } = *budget;
    if !(1..=1_000_000).contains(&output_tokens) {
        return Some("`budget.output_tokens` has to be 1 to 1000000");
    }
    if !(1_000..=1_000_000).contains(&context_tokens) {
        return Some("`budget.context_tokens` has to be 1000 to 1000000");
    }
    (!(1..=ROUNDS_MAX).contains(&rounds)).then_some("`budget.rounds` has to be 1 to 24")
}

/// What is wrong with a preference of models, if anything.
pub(super) fn models_fault(models: &[String]) -> Option<&'static str> {
    let fits = |model: &String| {
        model.len() <= 256
            && model.split_once(':').is_some_and(|(provider, name)| !provider.is_empty() && !name.is_empty())
    };
    (models.len() > 16 || !models.iter().all(fits)).then_some("`models` takes up to 16 of `provider:name`")
}
