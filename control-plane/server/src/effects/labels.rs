//! Labels of issues and pull requests. Adding one that is there and removing one that is not changes nothing.

use std::collections::BTreeSet;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::comment::on;
use super::forge::{Forge, part};
use super::parameters::{Fields, Invalid};
use super::rest::ForgeError;
use super::text;
use super::wanted::{EffectFailure, Outcome, Wanted};

/// Labels of one effect.
const LABELS_MAX: usize = 50;
/// Characters of a label, by GitHub.
const NAME_MAX: usize = 50;
/// Pages of the labels of one issue, which has 100 at most.
const PAGES_MAX: usize = 5;
/// The colour of labels that are made here: GitHub's own grey.
const COLOUR: &str = "ededed";

#[derive(Clone, Deserialize)]
struct Label {
    name: String,
}

/// Reads a list of labels.
pub(super) fn names(fields: &mut Fields, member: &str) -> Result<Vec<String>, Invalid> {
    let mut names: Vec<String> = Vec::new();
    for name in fields.texts(member, LABELS_MAX, 4 * NAME_MAX)? {
        let name = text::plain(name.trim());
        if name.chars().count() > NAME_MAX || name.chars().any(|letter| letter.is_control() || letter == ',') {
            return Err(fields.wrong(member, format!("expected labels of 1 to {NAME_MAX} characters, without commas")));
        }
        if !names.iter().any(|other| is_same(other, &name)) {
            names.push(name);
        }
    }
    Ok(names)
}

/// GitHub knows no difference in capitals.
fn is_same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// Makes the labels of the repository that are not there.
pub(super) async fn make(forge: &Forge, repository: &str, names: &[String]) -> Result<(), ForgeError> {
    for name in names {
        if forge.find::<Label>(&format!("{repository}/labels/{}", part(name))).await?.is_some() {
            continue;
        }
        let body = json!({ "name": name, "color": COLOUR });
        match forge.write::<Label>(Method::POST, &format!("{repository}/labels"), &body).await {
            Ok(_) => {}
            // Somebody else was faster.
            Err(error) if error.says(422, &["already_exists", "already exists"]) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) async fn carry_out(forge: &Forge, wanted: &Wanted) -> Result<Outcome, EffectFailure> {
    let number = wanted.target.number()?;
    let (add, remove) = parameters(wanted.parameters.clone())?;
    let repository = wanted.target.repository.path();
    let path = format!("{repository}/issues/{number}/labels");

    let mut there: Vec<Label> = Vec::new();
    let looked = forge.list(&path, PAGES_MAX, |page: Vec<Label>| {
        there.extend(page);
        true
    });
    looked.await.map_err(|error| on(error, &wanted.target.to_string()))?;
    let has = |name: &str| there.iter().any(|label| is_same(&label.name, name));
    let missing: Vec<String> = add.into_iter().filter(|name| !has(name)).collect();
    let surplus: Vec<String> = remove.into_iter().filter(|name| has(name)).collect();

    let observed =
        |labels: Vec<String>| json!({ "number": number, "labels": labels, "added": missing, "removed": surplus });
    let now = || {
        let kept = there.iter().map(|label| label.name.clone());
        let mut now: BTreeSet<String> = kept.filter(|name| !surplus.iter().any(|gone| is_same(gone, name))).collect();
        now.extend(missing.iter().cloned());
        now.into_iter().collect::<Vec<_>>()
    };
    if missing.is_empty() && surplus.is_empty() {
        return Ok(Outcome::done("found", observed(now())));
    }
    if forge.is_dry_run {
        return Ok(Outcome::would("change", observed(now())));
    }
    if !missing.is_empty() {
        make(forge, &repository, &missing).await?;
        forge.write::<Vec<Label>>(Method::POST, &path, &json!({ "labels": missing })).await?;
    }
    for name in &surplus {
        match forge.change(Method::DELETE, &format!("{path}/{}", part(name)), None).await {
            Ok(_) | Err(ForgeError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Outcome::done("changed", observed(now())))
}

fn parameters(parameters: Value) -> Result<(Vec<String>, Vec<String>), Invalid> {
    let mut fields = Fields::of(parameters, "")?;
    let (add, remove) = (names(&mut fields, "add")?, names(&mut fields, "remove")?);
    if let Some(both) = add.iter().find(|name| remove.iter().any(|other| is_same(name, other))) {
        return Err(fields.wrong("remove", format!("`{both}` is to be added and removed")));
    }
    if add.is_empty() && remove.is_empty() {
        return Err(fields.wrong("add", "is empty, and so is `remove`: expected at least one label"));
    }
    fields.end("add, remove")?;
    Ok((add, remove))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        let read = |value: Value| parameters(value).map_err(|error| error.to_string());
        assert_eq!(read(json!({ "add": ["Bug", "bug "] })).unwrap().0, ["Bug"]);
        assert!(read(json!({})).unwrap_err().starts_with("add: is empty"));
        assert!(read(json!({ "add": ["x"], "remove": ["X"] })).unwrap_err().contains("added and removed"));
        assert!(read(json!({ "add": ["a,b"] })).unwrap_err().contains("without commas"));
        assert!(read(json!({ "add": [7] })).unwrap_err().starts_with("add[0]: expected a text"));
    }
}
