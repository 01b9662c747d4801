//! Issues: each effect makes one, which is found again by its mark among those that we made.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::comment::{BODY_MAX, Written, excerpt, on};
use super::forge::{Forge, part};
use super::labels;
use super::parameters::{Fields, Invalid};
use super::text;
use super::wanted::{EffectFailure, Outcome, Wanted};

/// Pages of our own issues that are looked through.
const PAGES_MAX: usize = 30;
/// Clocks may differ by so much.
const SKEW: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
pub(super) struct Issue {
    pub(super) number: u64,
    #[serde(flatten)]
    pub(super) written: Written,
}

struct Parameters {
    title: String,
    body: String,
    labels: Vec<String>,
}

impl Parameters {
    fn read(parameters: Value) -> Result<Parameters, Invalid> {
        let mut fields = Fields::of(parameters, "")?;
        let title = text::title(&fields.needed("title", 1024)?);
        let body = fields.text("body", BODY_MAX)?.unwrap_or_default();
        let labels = labels::names(&mut fields, "labels")?;
        fields.end("title, body, labels")?;
        Ok(Parameters { title, body, labels })
    }
}

pub(super) async fn carry_out(forge: &Forge, wanted: &Wanted) -> Result<Outcome, EffectFailure> {
    wanted.target.whole()?;
    let Parameters { title, body, labels } = Parameters::read(wanted.parameters.clone())?;
    let repository = wanted.target.repository.path();
    let mark = wanted.mark();
    // It was changed at the earliest when it was made, and it was not made before it was wanted.
    let since = (wanted.at - SKEW).to_string();
    let path = format!(
        "{repository}/issues?creator={}&state=all&sort=created&direction=desc&since={}",
        part(&forge.author),
        part(&format!("{}Z", &since[..19])),
    );

    let mut found: Option<Issue> = None;
    let looked = forge.list(&path, PAGES_MAX, |page: Vec<Issue>| {
        let is_it = |issue: &Issue| issue.written.own_mark(forge).is_some_and(|own| own.effect == mark.effect);
        found = page.into_iter().find(is_it);
        found.is_none()
    });
    looked.await.map_err(|error| on(error, &wanted.target.to_string()))?;

    if let Some(issue) = found {
        return Ok(Outcome::done("found", issue.written.observed(issue.number)));
    }
    if forge.is_dry_run {
        let what = json!({ "title": title, "body": excerpt(&body), "labels": labels });
        return Ok(Outcome::would("create", what));
    }
    labels::make(forge, &repository, &labels).await?;
    let request = json!({ "title": title, "body": mark.over(&body), "labels": labels });
    let made: Issue = forge.write(Method::POST, &format!("{repository}/issues"), &request).await?;
    Ok(Outcome::done("created", made.written.observed(made.number)))
}
