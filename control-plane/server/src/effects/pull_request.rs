//! Pull requests: one for a branch, made once and edited in place while it is open and ours.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::branch::{is_branch, repository};
use super::comment::{BODY_MAX, Written, excerpt, on};
use super::forge::{Forge, part};
use super::mark::is_same;
use super::parameters::{Fields, Invalid};
use super::text;
use super::wanted::{EffectFailure, Outcome, Wanted};

/// Pages of pull requests of one branch.
const PAGES_MAX: usize = 10;

#[derive(Clone, Deserialize)]
struct Pull {
    number: u64,
    state: String,
    title: String,
    head: End,
    base: End,
    #[serde(flatten)]
    written: Written,
}

#[derive(Clone, Deserialize)]
struct End {
    #[serde(rename = "ref")]
    branch: String,
    sha: String,
}

impl Pull {
    fn observed(&self) -> Value {
        let Pull { number, written, head, base, .. } = self;
        json!({ "number": number, "id": written.id, "url": written.html_url, "sha": head.sha, "head": head.branch,
            "base": base.branch })
    }
}

struct Parameters {
    head: String,
    base: Option<String>,
    title: String,
    body: String,
    draft: bool,
}

impl Parameters {
    fn read(parameters: Value) -> Result<Parameters, Invalid> {
        let mut fields = Fields::of(parameters, "")?;
        let head = fields.needed("head", 255)?;
        let base = fields.text("base", 255)?.filter(|base| !base.is_empty());
        for (name, branch) in [("head", Some(&head)), ("base", base.as_ref())] {
            if branch.is_some_and(|branch| !is_branch(branch)) {
                return Err(fields.wrong(name, "expected the name of a branch of the repository"));
            }
        }
        let title = text::title(&fields.needed("title", 1024)?);
        let body = fields.text("body", BODY_MAX)?.unwrap_or_default();
        let draft = fields.boolean("draft", false)?;
        fields.end("head, base, title, body, draft")?;
        Ok(Parameters { head, base, title, body, draft })
    }
}

pub(super) async fn carry_out(forge: &Forge, wanted: &Wanted) -> Result<Outcome, EffectFailure> {
    wanted.target.whole()?;
    let Parameters { head, base, title, body, draft } = Parameters::read(wanted.parameters.clone())?;
    let path = format!("{}/pulls", wanted.target.repository.path());
    let mark = wanted.mark();
    let of_head = part(&format!("{}:{head}", wanted.target.repository.owner));

    let (mut open, mut made): (Option<Pull>, Option<Pull>) = (None, None);
    let listed = format!("{path}?state=all&head={of_head}");
    let looked = forge.list(&listed, PAGES_MAX, |page: Vec<Pull>| {
        for pull in page.into_iter().filter(|pull| pull.head.branch == head) {
            if pull.written.own_mark(forge).is_some_and(|own| own.effect == mark.effect) {
                made = Some(pull);
            } else if pull.state == "open" && base.as_ref().is_none_or(|base| *base == pull.base.branch) {
                open = open.take().or(Some(pull));
            }
        }
        true
    });
    looked.await.map_err(|error| on(error, &wanted.target.to_string()))?;

    if let Some(pull) = made {
        return Ok(Outcome::done("found", pull.observed()));
    }
    let body = mark.over(&body);
    match open {
        // Of somebody else: theirs to word.
        Some(pull) if !forge.is_own(pull.written.user.as_ref().map(|user| user.login.as_str())) => {
            Ok(Outcome::done("found", pull.observed()))
        }
        Some(pull) if pull.title == title && is_same(pull.written.body.as_deref().unwrap_or_default(), &body) => {
            Ok(Outcome::done("found", pull.observed()))
        }
        Some(pull) if forge.is_dry_run => {
            let what = json!({ "pull_request": pull.observed(), "title": title, "body": excerpt(&body) });
            Ok(Outcome::would("edit", what))
        }
        Some(pull) => {
            let request = json!({ "title": title, "body": body });
            let edited: Pull = forge.write(Method::PATCH, &format!("{path}/{}", pull.number), &request).await?;
            Ok(Outcome::done("edited", edited.observed()))
        }
        None if forge.is_dry_run => {
            let what = json!({ "head": head, "base": base, "title": title, "draft": draft, "body": excerpt(&body) });
            Ok(Outcome::would("create", what))
        }
        None => {
            let base = match base {
                Some(base) => base,
                None => repository(forge, wanted).await?.default_branch,
            };
            let request =
                |draft: bool| json!({ "title": title, "head": head, "base": base, "body": body, "draft": draft });
            let created = match forge.write::<Pull>(Method::POST, &path, &request(draft)).await {
                // Not every plan has drafts.
                Err(error) if draft && error.says(422, &["draft pull requests are not supported"]) => {
                    forge.write(Method::POST, &path, &request(false)).await?
                }
                Err(error) if error.says(422, &["a pull request already exists"]) => {
                    return Err(super::rest::ForgeError::transient(error.to_string()).into());
                }
                created => created?,
            };
            Ok(Outcome::done("created", created.observed()))
        }
    }
}
