//! Objects that definitions accept and refuse: `samples.yaml`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// One sample.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its spec.
    pub spec: Value,
    /// What the spec was before, where that matters.
    pub old: Option<Value>,
    /// What defaults make of it, in part.
    pub becomes: Option<Value>,
    /// What the CEL rule says that refuses it.
    pub rule: Option<String>,
    /// The field that the schema refuses.
    pub schema: Option<String>,
}

impl Case {
    /// Whether every server refuses it.
    #[must_use]
    pub fn is_refused_by_schema(&self) -> bool {
        self.schema.is_some()
    }
}

/// What is accepted, and what is refused.
pub type Cases = (Vec<Case>, Vec<Case>);

/// The samples of each kind, those that are accepted and those that are refused.
///
/// # Errors
/// When the file is not as it should be.
pub fn cases() -> Result<BTreeMap<String, Cases>> {
    let all: Value = serde_norway::from_str(include_str!("../samples.yaml")).context("samples.yaml is YAML")?;
    let kinds = all.as_object().context("samples.yaml names kinds")?;
    let mut found = BTreeMap::new();
    for (kind, lists) in kinds {
        let read = |list: &str| lists[list].as_array().into_iter().flatten().map(case).collect::<Result<Vec<_>>>();
        let (accepted, refused) = (read("accepted")?, read("refused")?);
        let is_whole = !accepted.is_empty() && refused.iter().all(|one| one.rule.is_some() != one.schema.is_some());
        anyhow::ensure!(is_whole, "samples of {kind}: some are accepted, and who refuses the others is said");
        found.insert(kind.clone(), (accepted, refused));
    }
    Ok(found)
}

fn case(sample: &Value) -> Result<Case> {
    let text = |field: &str| sample[field].as_str().map(str::to_owned);
    let spec = sample.get("spec").cloned().with_context(|| format!("{sample} has no spec"))?;
    let (old, becomes) = (sample.get("old").cloned(), sample.get("becomes").cloned());
    Ok(Case { spec, old, becomes, rule: text("rule"), schema: text("schema") })
}

/// Whether everything in `part` is in `whole` too, so deep as it says.
#[must_use]
pub fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|found| holds(found, value)))
        }
        _ => whole == part,
    }
}
