//! Reactions to issues, pull requests and comments. GitHub keeps one of each kind for everybody, so a second try changes nothing.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::comment::{User, on};
use super::forge::{Forge, part};
use super::parameters::{Fields, Invalid};
use super::rest::ForgeError;
use super::wanted::{EffectFailure, Outcome, Wanted};

const CONTENTS: [&str; 8] = ["+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes"];
/// Pages of reactions of one kind that are looked through for ours; beyond them it is given again, which changes nothing.
const PAGES_MAX: usize = 3;

#[derive(Deserialize)]
struct Reaction {
    id: u64,
    user: Option<User>,
}

struct Parameters {
    content: &'static str,
    comment: Option<u64>,
    is_of_review: bool,
}

impl Parameters {
    fn read(parameters: Value) -> Result<Parameters, Invalid> {
        let mut fields = Fields::of(parameters, "")?;
        let content = fields.word("content", &CONTENTS)?;
        let content = content
            .ok_or_else(|| fields.wrong("content", format!("is missing: expected one of {}", CONTENTS.join(", "))))?;
        let comment = fields.number("comment_id")?;
        let is_of_review = fields.word("comment_kind", &["issue", "review"])? == Some("review");
        if is_of_review && comment.is_none() {
            return Err(fields.wrong("comment_kind", "says what `comment_id` is, which is missing"));
        }
        fields.end("content, comment_id, comment_kind")?;
        Ok(Parameters { content, comment, is_of_review })
    }
}

pub(super) async fn carry_out(forge: &Forge, wanted: &Wanted) -> Result<Outcome, EffectFailure> {
    let number = wanted.target.number()?;
    let Parameters { content, comment, is_of_review } = Parameters::read(wanted.parameters.clone())?;
    let repository = wanted.target.repository.path();
    let path = match comment {
        None => format!("{repository}/issues/{number}/reactions"),
        Some(id) if is_of_review => format!("{repository}/pulls/comments/{id}/reactions"),
        Some(id) => format!("{repository}/issues/comments/{id}/reactions"),
    };
    let observed = |id: u64| json!({ "id": id, "number": number, "content": content, "comment_id": comment });

    let mut found = None;
    let listed = format!("{path}?content={}", part(content));
    let looked = forge.list(&listed, PAGES_MAX, |page: Vec<Reaction>| {
        let own = |reaction: &Reaction| forge.is_own(reaction.user.as_ref().map(|user| user.login.as_str()));
        found = page.into_iter().find(own).map(|reaction| reaction.id);
        found.is_none()
    });
    match looked.await {
        Ok(()) | Err(ForgeError::Refused { status: 0, .. }) => {}
        Err(error) => {
            let what = comment.map_or_else(|| wanted.target.to_string(), |id| format!("comment {id}"));
            return Err(on(error, &what).into());
        }
    }
    match found {
        Some(id) => Ok(Outcome::done("found", observed(id))),
        None if forge.is_dry_run => Ok(Outcome::would("create", observed(0))),
        None => {
            let made: Reaction = forge.write(Method::POST, &path, &json!({ "content": content })).await?;
            Ok(Outcome::done("created", observed(made.id)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        let read = |value: Value| Parameters::read(value).map_err(|error| error.to_string());
        let text = read(json!({ "content": "eyes", "comment_id": "77" })).unwrap();
        assert_eq!((text.comment, text.is_of_review), (Some(77), false));
        assert!(read(json!({ "content": "wow" })).err().unwrap().starts_with("content: expected one of"));
        let kind = json!({ "content": "eyes", "comment_kind": "review" });
        assert!(read(kind).err().unwrap().contains("comment_id"));
    }
}
