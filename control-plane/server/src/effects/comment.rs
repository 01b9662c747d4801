//! Comments on issues and pull requests. A sticky one is written once for its name and subject, and edited in place from then on.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::forge::Forge;
use super::mark::{Mark, is_name, is_same};
use super::parameters::{Fields, Invalid};
use super::rest::ForgeError;
use super::wanted::{EffectFailure, Outcome, Wanted};

/// Pages of comments that are looked through for one of ours.
const PAGES_MAX: usize = 50;
/// Bytes of a body as an intent has it.
pub(super) const BODY_MAX: usize = 64 << 10;

/// Somebody on GitHub.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct User {
    pub(super) login: String,
}

/// Something that was written: a comment, a review.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Written {
    pub(super) id: u64,
    pub(super) body: Option<String>,
    pub(super) user: Option<User>,
    pub(super) html_url: Option<String>,
}

impl Written {
    /// Its mark, where it is ours.
    pub(super) fn own_mark(&self, forge: &Forge) -> Option<Mark> {
        let is_own = forge.is_own(self.user.as_ref().map(|user| user.login.as_str()));
        self.body.as_deref().filter(|_| is_own).and_then(Mark::of)
    }

    pub(super) fn observed(&self, number: u64) -> Value {
        json!({ "id": self.id, "number": number, "url": self.html_url })
    }
}

struct Parameters {
    body: String,
    sticky: bool,
    name: Option<String>,
}

impl Parameters {
    fn read(parameters: Value) -> Result<Parameters, Invalid> {
        let mut fields = Fields::of(parameters, "")?;
        let body = fields.needed("body", BODY_MAX)?;
        let sticky = fields.boolean("sticky", true)?;
        let name = fields.text("name", super::mark::NAME_MAX)?;
        if name.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(fields.wrong("name", "expected letters, digits and `.`, `_`, `-`, `/`, `:`, without `--`"));
        }
        fields.end("body, sticky, name")?;
        Ok(Parameters { body, sticky, name })
    }
}

pub(super) async fn carry_out(forge: &Forge, wanted: &Wanted) -> Result<Outcome, EffectFailure> {
    let number = wanted.target.number()?;
    let Parameters { body, sticky, name } = Parameters::read(wanted.parameters.clone())?;
    let name = name.unwrap_or_else(|| wanted.general.clone());
    let mark = Mark { name, effect: wanted.hash.clone(), is_once: !sticky };
    let body = mark.over(&body);
    let repository = wanted.target.repository.path();
    let path = format!("{repository}/issues/{number}/comments");

    let mut found: Option<Written> = None;
    let is_it = |own: &Mark| own.effect == mark.effect || sticky && !own.is_once && own.name == mark.name;
    // All pages for a sticky one are read only until the first is found: the oldest is the one that is edited.
    let looked = forge.list(&path, PAGES_MAX, |page: Vec<Written>| {
        found = page.into_iter().find(|comment| comment.own_mark(forge).is_some_and(|own| is_it(&own)));
        found.is_none()
    });
    looked.await?;

    match found {
        Some(comment) if !sticky || is_same(comment.body.as_deref().unwrap_or_default(), &body) => {
            Ok(Outcome::done("found", comment.observed(number)))
        }
        Some(comment) if forge.is_dry_run => {
            let observed = comment.observed(number);
            Ok(Outcome::would("edit", json!({ "comment": observed, "body": excerpt(&body) })))
        }
        None if forge.is_dry_run => {
            Ok(Outcome::would("create", json!({ "comment": { "number": number }, "body": excerpt(&body) })))
        }
        Some(comment) => {
            let path = format!("{repository}/issues/comments/{}", comment.id);
            let edited: Written = forge.write(Method::PATCH, &path, &json!({ "body": body })).await?;
            Ok(Outcome::done("edited", edited.observed(number)))
        }
        None => {
            let written: Result<Written, _> = forge.write(Method::POST, &path, &json!({ "body": body })).await;
            let created = written.map_err(|error| on(error, &wanted.target.to_string()))?;
            Ok(Outcome::done("created", created.observed(number)))
        }
    }
}

/// Names what GitHub knows nothing of.
pub(super) fn on(error: ForgeError, what: &str) -> ForgeError {
    match error {
        ForgeError::NotFound { message } => ForgeError::NotFound { message: format!("{what}: {message}") },
        error => error,
    }
}

/// The beginning of a text, for what a dry run shows.
pub(super) fn excerpt(text: &str) -> &str {
    &text[..text.floor_char_boundary(1000)]
}
