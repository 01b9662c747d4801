//! What a run looks at beside its event: the change, the files, what was said, what the same general found before.
//!
//! Without access to the repository there is only the event, and nothing here fails. With it, what is missing or refused is left out, and what
//! may be there next time fails the attempt.

use std::time::Duration;

use mindos_sdk::{Failure, RepositoryAccess};

use super::Run;
use crate::change::{Change, Tree};
use crate::event::Topic;
use crate::forge::{Clone, CloneWish, Comment, Forge, ForgeFailure, PullRequest, Wanted};
use crate::profile::EffectKind;
use crate::prompt::injection::{Suspicion, suspicions};
use crate::render::{PastFinding, read_past};
use crate::text::clipped;
use crate::Event;

/// Where guidelines stand, in the order they are shown.
const GUIDELINES: [&str; 5] =
    ["AGENTS.md", "CONTRIBUTING.md", ".github/CONTRIBUTING.md", "docs/CONTRIBUTING.md", ".github/copilot-instructions.md"];
/// Most guidelines that are read.
const GUIDELINES_MAX: usize = 2;
/// Most comments of others that are shown, the newest.
const COMMENTS_MAX: usize = 20;
/// Most files whose owners are looked up.
const OWNED_MAX: usize = 100;
/// Most bytes of a run's texts that are looked through for what steers.
const LOOKED_THROUGH_MAX: usize = 2 << 20;
/// How long a clone may take, and how large it may be, before a listing has to do.
const CLONE_WITHIN: Duration = Duration::from_secs(120);
const CLONE_BYTES_MAX: u64 = 512 << 20;
/// Files of the change whose texts are fetched where there is no clone.
const FETCHED_MAX: usize = 40;

/// What there is to look at.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// `owner/name`, of the access or the event; `None` where there is none that is one.
    pub(super) repository: Option<String>,
    /// Host of the forge; empty where it is not known.
    pub(super) host: String,
    /// The issue or pull request.
    pub(super) number: Option<u64>,
    /// The commit that is looked at.
    pub(super) head: Option<String>,
    /// Whether we caused the event ourselves.
    pub(super) own_echo: bool,
    pub(super) change: Option<Change>,
    pub(super) tree: Option<Tree>,
    /// Foreign texts that are not in the event, with their places.
    pub(super) texts: Vec<(String, String)>,
    /// Guideline files of the base branch.
    pub(super) guidelines: Vec<(String, String)>,
    /// Owners of the changed files, in lines.
    pub(super) owners: Vec<String>,
    /// Labels of the repository.
    pub(super) labels: Vec<String>,
    /// Labels that the subject carries.
    pub(super) carried: Vec<String>,
    /// What the same general found before.
    pub(super) past: Vec<PastFinding>,
    /// Keeps the tree's files.
    _clone: Option<Clone>,
}

/// Reads what there is.
pub(super) async fn gather(run: &Run) -> Result<Context, Failure> {
    run.steps.begin("reading the event").await;
    let event = &*run.event;
    let mut context = of_event(event, run.access.as_ref());
    let Some(forge) = run.forge()? else { return Ok(context) };
    if let Some(number) = context.number {
        let pull = if is_pull(event) { pull(run, &forge, number, &mut context).await? } else { None };
        comments(run, &forge, number, event, &mut context).await?;
        if run.asks() {
            guidelines(&forge, pull.as_ref(), &mut context).await?;
        }
    } else if let (Topic::Push, Some(head)) = (event.topic(), context.head.clone()) {
        run.steps.begin("reading the push").await;
        context.change = usable(forge.compare(event.text("before").unwrap_or_default(), &head).await)?;
    }
    if run.profile.may(EffectKind::Labels) {
        let labels = optional(forge.labels().await)?.unwrap_or_default();
        context.labels = labels.into_iter().map(|label| label.name).collect();
    }
    if context.change.is_some() {
        files(run, &forge, &mut context).await?;
    }
    Ok(context)
}

/// What the event alone says.
pub(super) fn of_event(event: &Event, access: Option<&RepositoryAccess>) -> Context {
    let claimed = event.repository().filter(|name| is_repository(name)).map(str::to_owned);
    let given = access.map(|access| access.repository.clone()).filter(|name| is_repository(name));
    let author = access.map(|access| access.author.as_str()).unwrap_or_default();
    let host = access.map(|access| access.clone_url.as_str()).or_else(|| event.text("repository.html_url"));
    Context {
        repository: given.or(claimed),
        host: host.and_then(host_of).unwrap_or_default(),
        number: number(event),
        head: head(event),
        own_echo: !author.is_empty() && event.text("sender.login").is_some_and(|login| login.eq_ignore_ascii_case(author)),
        carried: event.labels().into_iter().map(str::to_owned).collect(),
        ..Context::default()
    }
}

fn is_repository(name: &str) -> bool {
    let fits = |part: &str| {
        !part.is_empty()
            && part.len() <= 100
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    name.split_once('/').is_some_and(|(owner, name)| fits(owner) && fits(name))
}

fn host_of(url: &str) -> Option<String> {
    let host = url.strip_prefix("https://")?.split('/').next()?;
    let fits = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':'));
    (fits && !host.is_empty()).then(|| host.to_owned())
}

/// The number of what it is about; of a check or run, the one pull request that it is for.
fn number(event: &Event) -> Option<u64> {
    let named = event.subject_number().filter(|number| *number > 0);
    named.or_else(|| {
        let pulls = ["check_run.pull_requests", "workflow_run.pull_requests"].iter().map(|path| event.list(path));
        match pulls.into_iter().find(|pulls| !pulls.is_empty())? {
            [only] => only.get("number")?.as_u64(),
            _ => None,
        }
    })
}

/// The commit it is about.
fn head(event: &Event) -> Option<String> {
    const PLACES: [&str; 5] =
        ["pull_request.head.sha", "check_run.head_sha", "workflow_run.head_sha", "after", "metadata.commit_sha"];
    let is_commit = |sha: &&str| sha.len() == 40 && sha.bytes().all(|it| it.is_ascii_hexdigit()) && sha.bytes().any(|it| it != b'0');
    PLACES.iter().find_map(|place| event.text(place).filter(is_commit)).map(str::to_owned)
}

/// Whether its number is a pull request's.
fn is_pull(event: &Event) -> bool {
    match event.topic() {
        Topic::PullRequest | Topic::Review | Topic::ReviewComment | Topic::CheckRun | Topic::WorkflowRun | Topic::Plain => true,
        Topic::IssueComment | Topic::Issue => event.at("issue.pull_request").is_some(),
        Topic::Push | Topic::Release | Topic::Deployment | Topic::Installation | Topic::Ping | Topic::Other => false,
    }
}

/// The pull request and its change.
async fn pull(run: &Run, forge: &Forge, number: u64, context: &mut Context) -> Result<Option<PullRequest>, Failure> {
    run.steps.begin("reading the pull request").await;
    let Some(pull) = usable(forge.pull_request(number).await)? else { return Ok(None) };
    run.steps.begin("reading its files").await;
    context.change = usable(forge.change_of(&pull).await)?;
    context.head = Some(pull.head_sha.clone()).filter(|sha| !sha.is_empty()).or(context.head.take());
    context.carried.clone_from(&pull.labels);
    // An event about a comment or a check does not hold them.
    if run.event.description().is_none() {
        context.texts.push(("title".to_owned(), pull.title.clone()));
        context.texts.push(("description".to_owned(), pull.body.clone()));
    }
    Ok(Some(pull))
}

/// What others said, and what the same general found before: in a comment of our own author, and nowhere else.
async fn comments(run: &Run, forge: &Forge, number: u64, event: &Event, context: &mut Context) -> Result<(), Failure> {
    run.steps.begin("reading comments").await;
    let Some(comments) = optional(forge.comments(number).await)? else { return Ok(()) };
    let is_ours = |comment: &&Comment| !forge.author().is_empty() && comment.author.eq_ignore_ascii_case(forge.author());
    let general = &run.profile.general_type;
    context.past = comments.iter().filter(is_ours).map(|comment| read_past(&comment.body, general)).rfind(|it| !it.is_empty()).unwrap_or_default();
    let said = event.text("comment.body");
    let others = comments.iter().filter(|comment| !is_ours(comment) && Some(comment.body.as_str()) != said);
    let others: Vec<(String, String)> =
        others.map(|comment| (format!("comment by {}", clipped(&comment.author, 60)), comment.body.clone())).collect();
    let newest = others.len().saturating_sub(COMMENTS_MAX);
    context.texts.extend(others.into_iter().skip(newest));
    Ok(())
}

/// Guidelines and owners, as the base says them: never the change's own.
async fn guidelines(forge: &Forge, pull: Option<&PullRequest>, context: &mut Context) -> Result<(), Failure> {
    let Some(pull) = pull else { return Ok(()) };
    for path in GUIDELINES {
        if context.guidelines.len() == GUIDELINES_MAX {
            break;
        }
        if let Some(Some(bytes)) = optional(forge.content(path, &pull.base_sha).await)? {
            context.guidelines.push((path.to_owned(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    let Some(owners) = optional(forge.owners(&pull.base_sha).await)? else { return Ok(()) };
    for file in context.change.iter().flat_map(|change| &change.files).take(OWNED_MAX) {
        let of = owners.of(&file.path);
        if !of.is_empty() {
            context.owners.push(format!("{}: {}", file.path, of.join(" ")));
        }
    }
    Ok(())
}

/// The files at the head: a clone where a model may look things up, else their names and the texts of those that changed.
async fn files(run: &Run, forge: &Forge, context: &mut Context) -> Result<(), Failure> {
    let Some(head) = context.head.clone() else { return Ok(()) };
    if run.asks() && !run.profile.lookups.is_empty() {
        run.steps.begin("cloning").await;
        let at = match context.number {
            Some(number) => Wanted::Ref(format!("refs/pull/{number}/head")),
            None => Wanted::Commit(head.clone()),
        };
        let wish = CloneWish { at, timeout: CLONE_WITHIN, bytes_max: CLONE_BYTES_MAX, ..CloneWish::default() };
        match forge.clone(wish).await {
            Ok(clone) => {
                context.tree = usable(clone.tree())?;
                context._clone = Some(clone);
                return Ok(());
            }
            Err(failure @ (ForgeFailure::Unreachable { .. } | ForgeFailure::RateLimited { .. })) => return Err(failure.into()),
            // Too large, too slow, no git: then a listing has to do.
            Err(_) => {}
        }
    }
    run.steps.begin("listing files").await;
    let Some(mut tree) = optional(forge.tree(&head).await)? else { return Ok(()) };
    let changed = context.change.iter().flat_map(|change| &change.files).map(|file| file.path.clone());
    let changed: Vec<String> = changed.filter(|path| tree.has(path)).take(FETCHED_MAX).collect();
    optional(forge.read_into(&mut tree, changed).await)?;
    context.tree = Some(tree);
    Ok(())
}

/// What is there; nothing where it is gone, refused or beyond all bounds.
fn usable<T>(read: Result<T, ForgeFailure>) -> Result<Option<T>, Failure> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(ForgeFailure::NotFound { .. } | ForgeFailure::Refused { .. } | ForgeFailure::TooLarge { .. }) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// The same of what a run can do without: a token may be too narrow for it.
fn optional<T>(read: Result<T, ForgeFailure>) -> Result<Option<T>, Failure> {
    match read {
        Err(ForgeFailure::Unauthorised { .. } | ForgeFailure::Invalid { .. }) => Ok(None),
        read => usable(read),
    }
}

impl Context {
    /// What of all that was read tries to steer whoever reads it.
    pub(super) fn suspicions(&self, event: &Event) -> Vec<Suspicion> {
        let mut found = Vec::new();
        let mut left = LOOKED_THROUGH_MAX;
        let mut look = |place: &str, text: &str| {
            if let Some(less) = left.checked_sub(text.len()) {
                left = less;
                found.extend(suspicions(place, text));
            }
        };
        for (place, text) in event.writings() {
            look(place, text);
        }
        for touch in event.files() {
            look("name of a file", touch.path);
        }
        for path in ["comment.path", "label.name", "label.description", "pull_request.base.ref", "ref", "check_run.name", "workflow_run.name"] {
            look(path, event.text(path).unwrap_or_default());
        }
        for (place, text) in &self.texts {
            look(place, text);
        }
        for file in self.change.iter().flat_map(|change| &change.files) {
            look("name of a file", &file.path);
            let added: Vec<&str> = file.added().map(|(_, line)| line).collect();
            look(&format!("file {}", file.path), &added.join("\n"));
        }
        for commit in self.change.iter().flat_map(|change| &change.commits) {
            look("commit message", &commit.message);
        }
        for (path, text) in &self.guidelines {
            look(&format!("guideline {path}"), text);
        }
        found
    }
}
