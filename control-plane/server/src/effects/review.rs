//! Reviews of pull requests, with comments on lines. What GitHub does not let stand at its line stands in the body.

use std::collections::HashMap;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::comment::{BODY_MAX, Written, excerpt, on};
use super::diff::Lines;
use super::forge::Forge;
use super::parameters::{Fields, Invalid};
use super::rest::ForgeError;
use super::wanted::{EffectFailure, Outcome, Wanted, is_sha};

/// Pages of reviews that are looked through for one of ours.
const PAGES_MAX: usize = 30;
/// Pages of files, of which GitHub lists 3000.
const FILES_PAGES_MAX: usize = 30;
/// Comments of one review.
const COMMENTS_MAX: usize = 100;
/// Bytes of one comment.
const COMMENT_MAX: usize = 16 << 10;
/// Bytes of a path.
const PATH_MAX: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Comment,
    RequestChanges,
    Approve,
}

impl Verdict {
    fn event(self) -> &'static str {
        match self {
            Verdict::Comment => "COMMENT",
            Verdict::RequestChanges => "REQUEST_CHANGES",
            Verdict::Approve => "APPROVE",
        }
    }

    fn said(self) -> &'static str {
        match self {
            Verdict::Comment => "",
            Verdict::RequestChanges => {
                "**Changes are requested.** (GitHub lets nobody request changes of an own pull request.)\n\n"
            }
            Verdict::Approve => "**Approved.** (GitHub lets nobody approve an own pull request.)\n\n",
        }
    }
}

struct Line {
    path: String,
    line: u64,
    start: Option<u64>,
    side: &'static str,
    body: String,
}

struct Parameters {
    commit: Option<String>,
    body: String,
    verdict: Verdict,
    comments: Vec<Line>,
}

impl Parameters {
    fn read(parameters: Value) -> Result<Parameters, Invalid> {
        let mut fields = Fields::of(parameters, "")?;
        let commit = fields.text("commit", 64)?;
        if commit.as_deref().is_some_and(|commit| !is_sha(commit)) {
            return Err(fields.wrong("commit", "expected the 40 hex digits of a commit"));
        }
        let body = fields.text("body", BODY_MAX)?.unwrap_or_default();
        let verdict = match fields.word("verdict", &["comment", "request_changes", "approve"])? {
            Some("request_changes") => Verdict::RequestChanges,
            Some("approve") => Verdict::Approve,
            _ => Verdict::Comment,
        };
        let mut comments = Vec::new();
        for mut one in fields.objects("comments", COMMENTS_MAX)? {
            let path = one.needed("path", PATH_MAX)?;
            let line = one.number("line")?.ok_or_else(|| one.wrong("line", "is missing: expected a number from 1"))?;
            let start = one.number("start_line")?;
            if start.is_some_and(|start| start > line) {
                return Err(one.wrong("start_line", format!("is behind `line`, {line}")));
            }
            let side = one.word("side", &["RIGHT", "LEFT"])?.unwrap_or("RIGHT");
            let body = one.needed("body", COMMENT_MAX)?;
            one.end("path, line, start_line, side, body")?;
            comments.push(Line { path, line, start: start.filter(|start| *start < line), side, body });
        }
        if body.trim().is_empty() && comments.is_empty() && verdict == Verdict::Comment {
            return Err(fields.wrong("body", "is missing: expected a text, or comments on lines"));
        }
        fields.end("commit, body, verdict, comments")?;
        Ok(Parameters { commit, body, verdict, comments })
    }
}

#[derive(Deserialize)]
struct File {
    filename: String,
    patch: Option<String>,
}

pub(super) async fn carry_out(forge: &Forge, wanted: &Wanted) -> Result<Outcome, EffectFailure> {
    let number = wanted.target.number()?;
    let Parameters { commit, body, verdict, comments } = Parameters::read(wanted.parameters.clone())?;
    if verdict == Verdict::Approve && !forge.may_approve {
        let reason = "reviews may not approve here: expected comment or request_changes, or `github.approve: true`";
        return Err(Invalid::new("verdict", reason).into());
    }
    let mark = wanted.mark();
    let pull = format!("{}/pulls/{number}", wanted.target.repository.path());
    let path = format!("{pull}/reviews");

    let mut found: Option<Written> = None;
    let looked = forge.list(&path, PAGES_MAX, |page: Vec<Written>| {
        found = page.into_iter().find(|review| review.own_mark(forge).is_some_and(|own| own.effect == mark.effect));
        found.is_none()
    });
    looked.await.map_err(|error| on(error, &wanted.target.to_string()))?;
    if let Some(review) = found {
        return Ok(Outcome::done("found", review.observed(number)));
    }

    let diff = if comments.is_empty() { HashMap::new() } else { lines(forge, &pull).await? };
    let (at_lines, elsewhere): (Vec<_>, Vec<_>) = comments.iter().partition(|comment| {
        diff.get(&comment.path).is_some_and(|lines: &Lines| lines.has(comment.side, comment.start, comment.line))
    });
    let request = |verdict: Verdict, prefix: &str, at_lines: &[&Line], elsewhere: &[&Line]| {
        let mut text = format!("{prefix}{body}");
        for line in elsewhere {
            text.push_str(&in_body(line));
        }
        let mut request = json!({ "body": mark.over(&text), "event": verdict.event() });
        if let Some(commit) = &commit {
            request["commit_id"] = json!(commit);
        }
        let comment = |line: &&Line| {
            let mut comment = json!({
                "path": line.path, "line": line.line, "side": line.side, "body": mark.over(&line.body),
            });
            if let Some(start) = line.start {
                comment["start_line"] = json!(start);
                comment["start_side"] = json!(line.side);
            }
            comment
        };
        if !at_lines.is_empty() {
            request["comments"] = at_lines.iter().map(comment).collect();
        }
        request
    };
    if forge.is_dry_run {
        let what = json!({ "number": number, "verdict": verdict.event(), "body": excerpt(&body),
            "comments_at_lines": at_lines.len(), "comments_in_body": elsewhere.len() });
        return Ok(Outcome::would("create", what));
    }
    let all: Vec<&Line> = comments.iter().collect();
    let own = ["own pull request"];
    // Each of these was refused as a whole, so nothing of it is there.
    let mut said = verdict;
    let mut prefix = "";
    let mut is_in_body = at_lines.is_empty();
    loop {
        let request = match is_in_body {
            false => request(said, prefix, &at_lines, &elsewhere),
            true => request(said, prefix, &[], &all),
        };
        match forge.write::<Written>(Method::POST, &path, &request).await {
            Ok(review) => {
                let mut observed = review.observed(number);
                observed["comments_at_lines"] = json!(if is_in_body { 0 } else { at_lines.len() });
                observed["comments_in_body"] = json!(if is_in_body { all.len() } else { elsewhere.len() });
                return Ok(Outcome::done("created", observed));
            }
            Err(error) if said != Verdict::Comment && error.says(422, &own) => {
                prefix = verdict.said();
                said = Verdict::Comment;
            }
            // The pull request has moved on, or GitHub sees its lines otherwise.
            Err(error) if !is_in_body && error.says(422, &[]) => is_in_body = true,
            Err(error) => return Err(on(error, &wanted.target.to_string()).into()),
        }
    }
}

/// The lines that may be commented on, by file.
async fn lines(forge: &Forge, pull: &str) -> Result<HashMap<String, Lines>, ForgeError> {
    let mut files = HashMap::new();
    let listed = format!("{pull}/files");
    let looked = forge.list(&listed, FILES_PAGES_MAX, |page: Vec<File>| {
        let page = page.into_iter().filter_map(|file| Some((file.filename, Lines::of(&file.patch?))));
        files.extend(page);
        true
    });
    match looked.await {
        // Of what is not listed the comments stand in the body.
        Ok(()) | Err(ForgeError::Refused { status: 0, .. }) => Ok(files),
        Err(error) => Err(error),
    }
}

/// A comment as it stands in the body.
fn in_body(line: &Line) -> String {
    let place = match line.start {
        Some(start) => format!("{}-{}", start, line.line),
        None => line.line.to_string(),
    };
    let path: String = line.path.chars().filter(|letter| *letter != '`' && !letter.is_control()).collect();
    format!("\n\n`{path}:{place}`\n\n{}", line.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        let error = |parameters: Value| Parameters::read(parameters).err().unwrap().to_string();
        assert!(error(json!({})).starts_with("body: is missing"));
        assert!(error(json!({ "body": "x", "commit": "abc" })).starts_with("commit: expected the 40"));
        assert!(error(json!({ "body": "x", "verdict": "merge" })).starts_with("verdict: expected one of"));
        let comment = json!({ "path": "a", "line": 3, "start_line": 5, "body": "b" });
        assert_eq!(error(json!({ "comments": [comment] })), "comments[0].start_line: is behind `line`, 3");
        let comment = json!({ "path": "a", "line": 0, "body": "b" });
        assert_eq!(error(json!({ "comments": [comment] })), "comments[0].line: expected a whole number from 1");
        assert!(Parameters::read(json!({ "verdict": "request_changes" })).is_ok());
    }
}
