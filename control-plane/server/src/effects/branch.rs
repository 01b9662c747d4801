//! Branches and commits, by the Git Data API: no clone, no push, and nothing that anybody else put there is ever moved or lost.
//!
//! ```text
//!   tip --> is our commit there? --yes--> found
//!           no: parent and tree by what the branch is for --> trees --> commit with the effect's own date --> the ref, without force
//! ```
//! The commit names its effect in a trailer and has the effect's date, so the same effect on the same parent is the same commit.
//! Invariant: the default branch is never committed to.

use http::Method;
use mindos_model::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::comment::on;
use super::files::{self, Content, File};
use super::forge::{Forge, part};
use super::parameters::{Fields, Invalid};
use super::rest::ForgeError;
use super::text;
use super::wanted::{EffectFailure, Outcome, Wanted, is_sha};

/// What names the effect of a commit in its message.
const TRAILER: &str = "Mindos-Effect: ";
/// Commits of a branch that are looked through for ours.
const WALK_MAX: usize = 50;
/// Commits that GitHub lists of a comparison at a time, and files.
const COMPARED_COMMITS: u64 = 250;
const COMPARED_FILES: usize = 300;
/// Bytes and entries of one request for a tree.
const TREE_BYTES: usize = 2 << 20;
const TREE_ENTRIES: usize = 200;

/// A repository, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Repo {
    pub(super) default_branch: String,
    #[serde(default)]
    pub(super) clone_url: String,
}

#[derive(Deserialize)]
struct Reference {
    object: Object,
}

#[derive(Clone, Deserialize)]
struct Object {
    sha: String,
}

/// A commit, as the Git Data API has it.
#[derive(Deserialize)]
struct Commit {
    sha: String,
    message: String,
    committer: Signature,
    tree: Object,
    parents: Vec<Object>,
    html_url: Option<String>,
}

#[derive(Deserialize)]
struct Signature {
    email: String,
    date: String,
}

#[derive(Deserialize)]
struct Comparison {
    status: String,
    total_commits: u64,
    commits: Vec<Compared>,
    #[serde(default)]
    files: Vec<ComparedFile>,
}

#[derive(Deserialize)]
struct Compared {
    sha: String,
    commit: ComparedCommit,
}

#[derive(Deserialize)]
struct ComparedCommit {
    message: String,
    committer: Option<ComparedPerson>,
}

#[derive(Deserialize)]
struct ComparedPerson {
    email: Option<String>,
}

#[derive(Deserialize)]
struct ComparedFile {
    filename: String,
    previous_filename: Option<String>,
}

#[derive(Deserialize)]
struct Tree {
    #[serde(default)]
    tree: Vec<Entry>,
    #[serde(default)]
    truncated: bool,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
}

struct Parameters {
    branch: String,
    base: Option<String>,
    base_commit: Option<String>,
    message: String,
    author: Option<(String, String)>,
    files: Vec<File>,
    allow_empty: bool,
    is_onto_existing: bool,
}

impl Parameters {
    fn read(parameters: Value, may_change_workflows: bool) -> Result<Parameters, Invalid> {
        let mut fields = Fields::of(parameters, "")?;
        let branch = fields.needed("branch", 255)?;
        let base = fields.text("base", 255)?.filter(|base| !base.is_empty());
        for (name, branch) in [("branch", Some(&branch)), ("base", base.as_ref())] {
            if branch.is_some_and(|branch| !is_branch(branch)) {
                return Err(fields.wrong(name, "expected the name of a branch, such as `ai-agent/issue-7`"));
            }
        }
        if is_sha(&branch) {
            return Err(fields.wrong("branch", "reads like a commit: expected the name of a branch"));
        }
        let base_commit = fields.text("base_commit", 64)?;
        if base_commit.as_deref().is_some_and(|commit| !is_sha(commit)) {
            return Err(fields.wrong("base_commit", "expected the 40 hex digits of a commit"));
        }
        let message = fields.needed("message", 16 << 10)?;
        let author = match fields.object("author")? {
            None => None,
            Some(mut author) => {
                let (name, email) = (author.needed("name", 128)?, author.needed("email", 256)?);
                for (member, value) in [("name", &name), ("email", &email)] {
                    if value.chars().any(|letter| letter.is_control() || matches!(letter, '<' | '>')) {
                        return Err(author.wrong(member, "expected one line without `<` and `>`"));
                    }
                }
                author.end("name, email")?;
                Some((name, email))
            }
        };
        let files = files::read(&mut fields, may_change_workflows)?;
        let allow_empty = fields.boolean("allow_empty", false)?;
        let is_onto_existing = fields.word("onto", &["new", "existing"])? == Some("existing");
        if files.is_empty() && !allow_empty {
            return Err(fields.wrong("files", "is empty: expected files, or `allow_empty: true`"));
        }
        fields.end("branch, base, base_commit, message, author, files, files_ref, allow_empty, onto")?;
        Ok(Parameters { branch, base, base_commit, message, author, files, allow_empty, is_onto_existing })
    }
}

/// Whether a text may name a branch, by git's own rules.
pub(super) fn is_branch(name: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let bad = |letter: char| letter.is_control() || letter == ' ' || "~^:?*[\\".contains(letter);
    (1..=255).contains(&name.len())
        && !name.chars().any(bad)
        && !name.starts_with(['-', '/'])
        && !name.starts_with("refs/")
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && !matches!(name, "HEAD" | "@")
        && name.split('/').all(is_part)
}

/// The repository of an effect.
pub(super) async fn repository(forge: &Forge, wanted: &Wanted) -> Result<Repo, ForgeError> {
    let repository = &wanted.target.repository;
    forge.get(&repository.path()).await.map_err(|error| on(error, &repository.to_string()))
}

/// What a branch is to have next.
struct Next {
    parents: Vec<String>,
    /// The commit whose tree the files are changes of.
    on: String,
    /// Where the branch is; unset where it is to be made.
    tip: Option<String>,
    /// What the branch has beyond its base; unset where that is nothing.
    last: Option<String>,
}

pub(super) async fn carry_out(forge: &Forge, wanted: &Wanted) -> Result<Outcome, EffectFailure> {
    wanted.target.whole()?;
    let parameters = Parameters::read(wanted.parameters.clone(), forge.may_change_workflows)?;
    let path = wanted.target.repository.path();
    let repo = repository(forge, wanted).await?;
    let branch = &parameters.branch;
    if *branch == repo.default_branch {
        let reason = format!("`{branch}` is the default branch, which is only changed by pull requests");
        return Err(Invalid::new("branch", reason).into());
    }
    let tip = reference(forge, &path, branch).await?;
    if let Some(tip) = &tip
        && let Some(commit) = own_commit(forge, &path, tip, wanted).await?
    {
        return Ok(Outcome::done("found", observed(&commit, branch)));
    }
    let next = match (tip, parameters.is_onto_existing) {
        (None, true) => {
            return Err(ForgeError::refused(404, format!("there is no branch `{branch}` to commit to")).into());
        }
        (Some(tip), true) => onto_existing(forge, &path, tip, &parameters).await?,
        (tip, false) => {
            let base = base(forge, &path, &parameters, &repo).await?;
            match tip {
                None => Next { parents: vec![base.clone()], on: base, tip: None, last: None },
                Some(tip) => anew(forge, &path, tip, base, branch).await?,
            }
        }
    };
    if forge.is_dry_run {
        let paths: Vec<&str> = parameters.files.iter().take(20).map(|file| file.path.as_str()).collect();
        let what =
            json!({ "branch": branch, "parents": next.parents, "files": parameters.files.len(), "paths": paths });
        return Ok(Outcome::would(if next.tip.is_some() { "commit" } else { "create" }, what));
    }
    commit(forge, wanted, &path, &parameters, next).await
}

async fn commit(
    forge: &Forge,
    wanted: &Wanted,
    path: &str,
    parameters: &Parameters,
    next: Next,
) -> Result<Outcome, EffectFailure> {
    let Next { parents, on, tip, last } = next;
    let branch = &parameters.branch;
    let before: Commit = forge.get(&format!("{path}/git/commits/{on}")).await?;
    let tree = tree(forge, path, &before.tree.sha, &parameters.files).await?;
    match last {
        Some(last) => {
            let there: Commit = match last == on {
                true => before,
                false => forge.get(&format!("{path}/git/commits/{last}")).await?,
            };
            // A branch that is ours needs no second empty commit to be there.
            let may_be_empty = parameters.is_onto_existing && parameters.allow_empty;
            if tree == there.tree.sha && !may_be_empty {
                return Ok(Outcome::done("found", observed(&there, branch)));
            }
        }
        None if tree == before.tree.sha && !parameters.allow_empty => {
            let reason = "the files are what they are already: there is nothing to commit";
            return Err(ForgeError::refused(0, reason).into());
        }
        None => {}
    }
    let date = date(wanted.at);
    let (name, email) = (forge.author.to_string(), email(forge));
    let committer = json!({ "name": name, "email": email, "date": date });
    let (name, email) = parameters.author.clone().unwrap_or((name, email));
    let body = json!({
        "message": message(&parameters.message, &wanted.hash), "tree": tree, "parents": parents,
        "author": { "name": name, "email": email, "date": date }, "committer": committer,
    });
    let made: Commit = forge.write(Method::POST, &format!("{path}/git/commits"), &body).await?;
    let moved = match &tip {
        Some(_) => {
            let path = format!("{path}/git/refs/{}", part(&format!("heads/{branch}")));
            forge.write::<Reference>(Method::PATCH, &path, &json!({ "sha": made.sha, "force": false })).await
        }
        None => {
            let body = json!({ "ref": format!("refs/heads/{branch}"), "sha": made.sha });
            forge.write::<Reference>(Method::POST, &format!("{path}/git/refs"), &body).await
        }
    };
    match moved {
        Ok(_) => Ok(Outcome::done(if tip.is_some() { "committed" } else { "created" }, observed(&made, branch))),
        // Somebody was faster: looked at again before the next try.
        Err(error) if error.says(422, &["fast forward", "fast-forward", "already exists"]) => {
            Err(ForgeError::transient(error.to_string()).into())
        }
        Err(error) => Err(error.into()),
    }
}

fn observed(commit: &Commit, branch: &str) -> Value {
    json!({ "sha": commit.sha, "url": commit.html_url, "branch": branch })
}

/// Where a branch is; `None` where there is none.
async fn reference(forge: &Forge, path: &str, branch: &str) -> Result<Option<String>, ForgeError> {
    let path = format!("{path}/git/ref/{}", part(&format!("heads/{branch}")));
    Ok(forge.find::<Reference>(&path).await?.map(|reference| reference.object.sha))
}

/// The commit from which a branch is made.
async fn base(forge: &Forge, path: &str, parameters: &Parameters, repo: &Repo) -> Result<String, ForgeError> {
    if let Some(commit) = &parameters.base_commit {
        return Ok(commit.clone());
    }
    match parameters.base.as_deref() {
        Some(commit) if is_sha(commit) => Ok(commit.to_owned()),
        named => {
            let branch = named.unwrap_or(&repo.default_branch);
            let found = reference(forge, path, branch).await?;
            found.ok_or_else(|| ForgeError::refused(404, format!("there is no branch `{branch}` to begin from")))
        }
    }
}

/// The effect's own commit, if it is one of the last of a branch.
async fn own_commit(forge: &Forge, path: &str, tip: &str, wanted: &Wanted) -> Result<Option<Commit>, ForgeError> {
    let trailer = format!("{TRAILER}{}", wanted.hash);
    let mut sha = tip.to_owned();
    for _ in 0..WALK_MAX {
        let commit: Commit = forge.get(&format!("{path}/git/commits/{sha}")).await?;
        if commit.committer.email == email(forge) && commit.message.lines().any(|line| line == trailer) {
            return Ok(Some(commit));
        }
        // What comes before was there before it was wanted.
        let is_older = commit.committer.date.parse::<Timestamp>().is_ok_and(|date| date.0 / 1000 < wanted.at.0 / 1000);
        match commit.parents.first() {
            Some(parent) if !is_older => sha.clone_from(&parent.sha),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// A commit on the tip of a branch that somebody else may have made.
async fn onto_existing(forge: &Forge, path: &str, tip: String, parameters: &Parameters) -> Result<Next, ForgeError> {
    let next = Next { parents: vec![tip.clone()], on: tip.clone(), tip: Some(tip.clone()), last: Some(tip.clone()) };
    let Some(from) = parameters.base_commit.as_ref().filter(|from| **from != tip) else { return Ok(next) };
    let since: Comparison = forge.get(&format!("{path}/compare/{from}...{tip}")).await?;
    let branch = &parameters.branch;
    if since.status != "ahead" {
        let reason = format!("`{branch}` was rewritten since the files were made from {from}");
        return Err(ForgeError::refused(409, reason));
    }
    let changed = |file: &&File| {
        let is_it = |other: &ComparedFile| {
            other.filename == file.path || other.previous_filename.as_deref() == Some(file.path.as_str())
        };
        since.files.iter().any(is_it)
    };
    if let Some(file) = parameters.files.iter().find(changed) {
        let reason = format!("`{}` was changed on `{branch}` since the files were made from {from}", file.path);
        return Err(ForgeError::refused(409, reason));
    }
    if since.files.len() >= COMPARED_FILES {
        let reason = format!("so much was changed on `{branch}` since {from} that GitHub does not list all of it");
        return Err(ForgeError::refused(409, reason));
    }
    Ok(next)
}

/// A branch that is ours alone is brought to what is wanted now.
async fn anew(forge: &Forge, path: &str, tip: String, base: String, branch: &str) -> Result<Next, ForgeError> {
    let since: Comparison = forge.get(&format!("{path}/compare/{base}...{tip}")).await?;
    let own = email(forge);
    let is_own = |compared: &Compared| {
        let committer = compared.commit.committer.as_ref().and_then(|committer| committer.email.as_ref());
        committer == Some(&own) && compared.commit.message.lines().any(|line| line.starts_with(TRAILER))
    };
    if let Some(other) = since.commits.iter().find(|compared| !is_own(compared)) {
        let reason = format!("`{branch}` is there and holds {}, which is not of ours", other.sha);
        return Err(ForgeError::refused(409, reason));
    }
    if since.total_commits > COMPARED_COMMITS {
        let reason = format!("`{branch}` is there and holds more than {COMPARED_COMMITS} commits");
        return Err(ForgeError::refused(409, reason));
    }
    let (parents, last) = match since.status.as_str() {
        // All of it is in the base already.
        "identical" | "behind" => (vec![base.clone()], None),
        "ahead" => (vec![tip.clone()], Some(tip.clone())),
        _ => (vec![tip.clone(), base.clone()], Some(tip.clone())),
    };
    Ok(Next { parents, on: base, tip: Some(tip), last })
}

/// Makes the tree that has the files changed.
async fn tree(forge: &Forge, path: &str, base: &str, files: &[File]) -> Result<String, ForgeError> {
    let mut entries = Vec::new();
    let is_gone = |file: &&File| file.content == Content::Deleted;
    // GitHub refuses to remove what is not there.
    let known: Option<Tree> = match files.iter().any(|file| is_gone(&file)) {
        true => Some(forge.get(&format!("{path}/git/trees/{base}?recursive=1")).await?),
        false => None,
    };
    let is_there = |file: &File| {
        known.as_ref().is_none_or(|known| known.truncated || known.tree.iter().any(|entry| entry.path == file.path))
    };
    for file in files {
        let blob = match &file.content {
            Content::Deleted if !is_there(file) => continue,
            Content::Bytes(encoded) => {
                let body = json!({ "content": encoded, "encoding": "base64" });
                Some(forge.write::<Object>(Method::POST, &format!("{path}/git/blobs"), &body).await?.sha)
            }
            Content::Deleted | Content::Text(_) => None,
        };
        entries.push((file.len(), file.entry(blob.as_deref())));
    }
    let mut sha = base.to_owned();
    let mut entries = entries.into_iter().peekable();
    while entries.peek().is_some() {
        let (mut part, mut bytes) = (Vec::new(), 0);
        while let Some((len, entry)) = entries.next_if(|(len, _)| part.is_empty() || bytes + len <= TREE_BYTES) {
            bytes += len;
            part.push(entry);
            if part.len() >= TREE_ENTRIES {
                break;
            }
        }
        let body = json!({ "base_tree": sha, "tree": part });
        sha = forge.write::<Object>(Method::POST, &format!("{path}/git/trees"), &body).await?.sha;
    }
    Ok(sha)
}

/// The address by which GitHub knows whose a commit is.
fn email(forge: &Forge) -> String {
    format!("{}@users.noreply.github.com", forge.author)
}

/// To the second, as git has it.
fn date(at: Timestamp) -> String {
    format!("{}Z", &at.to_string()[..19])
}

/// A message that mentions nobody and names its effect, and no other.
fn message(given: &str, effect: &str) -> String {
    let given = text::plain(given);
    let kept: Vec<&str> = given.lines().filter(|line| !line.trim_start().starts_with(TRAILER.trim_end())).collect();
    let kept = kept.join("\n");
    format!("{}\n\n{TRAILER}{effect}\n", kept.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_branches_are_gits() {
        for good in ["main", "ai-agent/issue-7", "a.b", "release/1.0"] {
            assert!(is_branch(good), "{good}");
        }
        for bad in [
            "",
            "-x",
            "/x",
            "x/",
            "a//b",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?b",
            "x.lock",
            ".x",
            "a/.x",
            "@",
            "HEAD",
            "a@{1}",
            "refs/heads/x",
            "x.",
        ] {
            assert!(!is_branch(bad), "{bad}");
        }
    }

    #[test]
    fn a_message_names_its_own_effect_alone() {
        let made = message("fix\n\nMindos-Effect: forged\nby @ada\n", "0123456789abcdef");
        assert_eq!(made, "fix\n\nby @\u{200b}ada\n\nMindos-Effect: 0123456789abcdef\n");
        assert_eq!(date(Timestamp(1_795_176_000_999)), "2026-11-20T12:00:00Z");
    }

    #[test]
    fn parameters_are_checked() {
        let error = |parameters: Value| Parameters::read(parameters, false).err().unwrap().to_string();
        assert!(error(json!({ "branch": "a b", "message": "m" })).starts_with("branch: expected"));
        assert!(error(json!({ "branch": "a", "message": "m" })).starts_with("files: is empty"));
        assert!(error(json!({ "branch": "0".repeat(40), "message": "m" })).starts_with("branch: reads like"));
        let author = json!({ "name": "a <b>", "email": "x" });
        assert!(error(json!({ "branch": "a", "message": "m", "author": author })).starts_with("author.name: expected"));
        assert!(Parameters::read(json!({ "branch": "a", "message": "m", "allow_empty": true }), false).is_ok());
    }
}
