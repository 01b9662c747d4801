//! The API of a forge, asked in pages, with bounds, and again only for what has changed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use mindos_model::Timestamp;
use mindos_outgoing::{Answer, Outgoing, OutgoingError, Request, Target};
use serde_json::Value;

use super::model::{Comment, Issue, Label, PullRequest};
use super::{ForgeFailure, RepositoryAccess, json};
use crate::change::{COMMITS_MAX, Change, Commit, FILES_MAX, FileChange, LINES_MAX, Owners, Tree};

/// Most pages of one list.
pub const PAGES_MAX: usize = 30;
/// Most comments that are read of one issue or pull request.
pub const MENTIONS_MAX: usize = 1000;
const PER_PAGE: usize = 100;
/// Longest answer, in bytes; a page of files brings up to a hundred patches.
const ANSWER_MAX: usize = 16 << 20;
/// Longest content of a file, in bytes.
const CONTENT_MAX: u64 = 1 << 20;
/// Most files whose content is fetched into a tree at once.
const FETCHED_MAX: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(20);
/// Waits between the tries of one question, where the forge failed or could not be reached.
const WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(1000)];
/// Answers kept to be asked for conditionally, and their bytes.
const KEPT_MAX: usize = 64;
const KEPT_BYTES_MAX: usize = 4 << 20;
/// How long a limit is waited for where the forge names no time.
const LIMIT_WAIT: Duration = Duration::from_secs(60);
/// The commit of a push that made or removed a branch.
const NOTHING: &str = "0000000000000000000000000000000000000000";

/// One repository of a forge, read only. Asks nothing until it is asked.
pub struct Forge {
    pub(super) access: RepositoryAccess,
    api: Target,
    outgoing: Outgoing,
    authorization: Option<HeaderValue>,
    kept: Mutex<Kept>,
}

impl fmt::Debug for Forge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forge").field("repository", &self.access.repository).finish_non_exhaustive()
    }
}

/// Answers that came with a tag, the oldest first.
#[derive(Default)]
struct Kept {
    answers: BTreeMap<String, (HeaderValue, Page)>,
    order: VecDeque<String>,
    bytes: usize,
}

#[derive(Clone)]
struct Page {
    body: Bytes,
    more: bool,
}

impl Kept {
    fn keep(&mut self, path: &str, tag: HeaderValue, page: &Page) {
        self.forget(path);
        if page.body.len() > KEPT_BYTES_MAX / 4 {
            return;
        }
        self.bytes += page.body.len();
        self.answers.insert(path.to_owned(), (tag, page.clone()));
        self.order.push_back(path.to_owned());
        while self.order.len() > KEPT_MAX || self.bytes > KEPT_BYTES_MAX {
            let oldest = self.order.front().cloned().expect("what is over a bound is not empty");
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, path: &str) {
        if let Some((_, page)) = self.answers.remove(path) {
            self.bytes -= page.body.len();
            self.order.retain(|one| one != path);
        }
    }
}

impl Forge {
    /// A client for one repository.
    ///
    /// # Errors
    /// `Access`, naming the member that cannot be used.
    pub fn new(outgoing: Outgoing, access: RepositoryAccess) -> Result<Forge, ForgeFailure> {
        let wrong = |field, why: &str| ForgeFailure::Access { field, why: why.to_owned() };
        let fits = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        if !access.repository.split_once('/').is_some_and(|(owner, name)| fits(owner) && fits(name)) {
            return Err(wrong("repository", "is not `owner/name`"));
        }
        let address = |field, url: &str| {
            Target::parse(url, false).map_err(|error| ForgeFailure::Access { field, why: error.to_string() })
        };
        let api = address("api_url", &access.api_url)?;
        address("clone_url", &access.clone_url)?;
        let authorization = match access.token.is_empty() {
            true => None,
            false => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", access.token.expose()))
                    .map_err(|_| wrong("token", "cannot stand in a header"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Forge { access, api, outgoing, authorization, kept: Mutex::default() })
    }

    /// `owner/name`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.access.repository
    }

    /// The login that hidden marks count under.
    #[must_use]
    pub fn author(&self) -> &str {
        &self.access.author
    }

    /// A pull request.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn pull_request(&self, number: u64) -> Result<PullRequest, ForgeFailure> {
        let what = format!("pull request #{number}");
        json::pull_request(&self.get(&what, &format!("/pulls/{number}")).await?, &what)
    }

    /// The files of a pull request. The flag says whether some were left out.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn files(&self, number: u64) -> Result<(Vec<FileChange>, bool), ForgeFailure> {
        let what = format!("files of pull request #{number}");
        let (values, cut) = self.list(&what, &format!("/pulls/{number}/files"), FILES_MAX).await?;
        Ok((files(&values, &what)?, cut))
    }

    /// The commits of a pull request, the oldest first.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn commits(&self, number: u64) -> Result<(Vec<Commit>, bool), ForgeFailure> {
        let what = format!("commits of pull request #{number}");
        let (values, cut) = self.list(&what, &format!("/pulls/{number}/commits"), COMMITS_MAX).await?;
        Ok((values.iter().map(json::commit).collect(), cut))
    }

    /// All that a pull request alters. Where it changes meanwhile, its head is that of the files at their first page or newer.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn change(&self, number: u64) -> Result<Change, ForgeFailure> {
        let pull = self.pull_request(number).await?;
        self.change_of(&pull).await
    }

    /// All that a pull request alters, where the pull request itself is known already.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn change_of(&self, pull: &PullRequest) -> Result<Change, ForgeFailure> {
        let (files, files_cut) = self.files(pull.number).await?;
        let (commits, commits_cut) = self.commits(pull.number).await?;
        Ok(Change {
            repository: self.access.repository.clone(),
            number: Some(pull.number),
            base: pull.base_sha.clone(),
            head: pull.head_sha.clone(),
            files,
            commits,
            cut: files_cut || commits_cut,
        })
    }

    /// What lies between two commits or branches, as a push tells of them. Where `base` is none (forty zeros), `head` alone.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn compare(&self, base: &str, head: &str) -> Result<Change, ForgeFailure> {
        let mut change =
            Change { repository: self.access.repository.clone(), head: head.to_owned(), ..Change::default() };
        if base == NOTHING || base.is_empty() {
            let what = format!("commit {}", short(head));
            let value = self.get(&what, &format!("/commits/{}", encoded(head))).await?;
            change.files = files(array(&value, "files"), &what)?;
            // A commit's own page lists at most 300 files at once.
            change.cut = change.files.len() >= 300;
            change.commits = vec![json::commit(&value)];
            return Ok(change);
        }
        let what = format!("comparison of {} with {}", short(base), short(head));
        let path = format!("/compare/{}...{}?per_page={PER_PAGE}", encoded(base), encoded(head));
        for page in 1..=PAGES_MAX {
            let got = self.page(&what, &format!("{path}&page={page}")).await?;
            let value = parsed(&got.body, &what)?;
            if page == 1 {
                change.base = json::text(&value, "/merge_base_commit/sha");
                change.files = files(array(&value, "files"), &what)?;
                change.cut = change.files.len() >= 300;
            }
            let commits = array(&value, "commits");
            change.commits.extend(commits.iter().map(json::commit));
            if !got.more || commits.is_empty() || change.commits.len() >= COMMITS_MAX {
                change.cut |= got.more && !commits.is_empty();
                return Ok(change);
            }
        }
        change.cut = true;
        Ok(change)
    }

    /// An issue or, as one, a pull request.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn issue(&self, number: u64) -> Result<Issue, ForgeFailure> {
        let what = format!("issue #{number}");
        Ok(json::issue(&self.get(&what, &format!("/issues/{number}")).await?))
    }

    /// The comments on an issue or pull request, the oldest first, without those on lines.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn comments(&self, number: u64) -> Result<Vec<Comment>, ForgeFailure> {
        let what = format!("comments on #{number}");
        let (values, _) = self.list(&what, &format!("/issues/{number}/comments"), MENTIONS_MAX).await?;
        Ok(values.iter().map(json::comment).collect())
    }

    /// The comments on lines of a pull request.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn line_comments(&self, number: u64) -> Result<Vec<Comment>, ForgeFailure> {
        let what = format!("comments on lines of pull request #{number}");
        let (values, _) = self.list(&what, &format!("/pulls/{number}/comments"), MENTIONS_MAX).await?;
        Ok(values.iter().map(json::comment).collect())
    }

    /// The labels that the repository has.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn labels(&self) -> Result<Vec<Label>, ForgeFailure> {
        let (values, _) = self.list("labels", "/labels", MENTIONS_MAX).await?;
        Ok(values.iter().map(json::label).collect())
    }

    /// The name of the default branch.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn default_branch(&self) -> Result<String, ForgeFailure> {
        json::needed(&self.get("the repository", "").await?, "/default_branch", "the repository")
    }

    /// The content of a file at a branch, tag or commit; `None` where there is none.
    ///
    /// # Errors
    /// `TooLarge` beyond 1 MiB, `Refused` where the path is a folder, else as [`ForgeFailure`] says.
    pub async fn content(&self, path: &str, at: &str) -> Result<Option<Vec<u8>>, ForgeFailure> {
        let what = "the content of a file".to_owned();
        let asked = format!("/contents/{}?ref={}", encoded(path), encoded(at));
        let value = match self.get(&what, &asked).await {
            Err(ForgeFailure::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        if value.is_array() || value.get("type").and_then(Value::as_str) != Some("file") {
            return Err(ForgeFailure::Refused { what, status: 200 });
        }
        if value.get("size").and_then(Value::as_u64).is_some_and(|size| size > CONTENT_MAX) {
            return Err(ForgeFailure::TooLarge { what, max: CONTENT_MAX, unit: "bytes" });
        }
        // The content of a larger file is left out and has to be asked for as a blob.
        let value = match value.get("encoding").and_then(Value::as_str) {
            Some("base64") => value,
            _ => self.get(&what, &format!("/git/blobs/{}", json::needed(&value, "/sha", &what)?)).await?,
        };
        let text: String = json_content(&value).split_whitespace().collect();
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        decoded.map(Some).map_err(|_| ForgeFailure::Invalid { what, why: "`/content` is not base64".to_owned() })
    }

    /// Who owns which files, as a branch or commit says it; empty where it says nothing. Ask a branch that is trusted, such as the base.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn owners(&self, at: &str) -> Result<Owners, ForgeFailure> {
        for place in Owners::PLACES {
            if let Some(bytes) = self.content(place, at).await? {
                return Ok(Owners::parse(&String::from_utf8_lossy(&bytes)));
            }
        }
        Ok(Owners::default())
    }

    /// The names of all files at a branch or commit. Their texts are fetched by [`Forge::read_into`].
    ///
    /// # Errors
    /// As [`ForgeFailure`] says.
    pub async fn tree(&self, at: &str) -> Result<Tree, ForgeFailure> {
        let what = format!("the files of {}", short(at));
        let value = self.get(&what, &format!("/git/trees/{}?recursive=1", encoded(at))).await?;
        let cut = value.get("truncated").and_then(Value::as_bool).unwrap_or(false);
        let files = array(&value, "tree").iter().filter(|entry| json::text(entry, "/type") == "blob").map(|entry| {
            let size = entry.get("size").and_then(Value::as_u64).unwrap_or(0);
            (json::text(entry, "/path"), size)
        });
        Ok(Tree::of_listing(at, files, cut))
    }

    /// Fetches the texts of files of a tree, at most 64 of them; what is no text, too large or gone is left out.
    ///
    /// # Errors
    /// As [`ForgeFailure`] says, but for what concerns one file alone.
    pub async fn read_into(
        &self,
        tree: &mut Tree,
        paths: impl IntoIterator<Item = String>,
    ) -> Result<usize, ForgeFailure> {
        let at = tree.at.clone();
        let mut held = 0;
        for path in paths.into_iter().take(FETCHED_MAX) {
            if tree.text(&path).is_some() || tree.size(&path).is_some_and(|size| size > CONTENT_MAX) {
                continue;
            }
            match self.content(&path, &at).await {
                Ok(Some(bytes)) => {
                    if let Ok(text) = String::from_utf8(bytes) {
                        tree.hold(path, text);
                        held += 1;
                    }
                }
                Ok(None) | Err(ForgeFailure::TooLarge { .. } | ForgeFailure::Refused { .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(held)
    }

    async fn get(&self, what: &str, path: &str) -> Result<Value, ForgeFailure> {
        parsed(&self.page(what, path).await?.body, what)
    }

    /// All pages of a list, as far as they are taken.
    async fn list(&self, what: &str, path: &str, max: usize) -> Result<(Vec<Value>, bool), ForgeFailure> {
        let mut all = Vec::new();
        for page in 1..=PAGES_MAX {
            let got = self.page(what, &format!("{path}?per_page={PER_PAGE}&page={page}")).await?;
            let Value::Array(values) = parsed(&got.body, what)? else {
                return Err(ForgeFailure::Invalid { what: what.to_owned(), why: "it is not a list".to_owned() });
            };
            let empty = values.is_empty();
            all.extend(values);
            if all.len() > max {
                all.truncate(max);
                return Ok((all, true));
            }
            if !got.more || empty {
                return Ok((all, false));
            }
        }
        Ok((all, true))
    }

    async fn page(&self, what: &str, path: &str) -> Result<Page, ForgeFailure> {
        let path = format!("/repos/{}{path}", self.access.repository);
        let mut waits = WAITS.iter();
        loop {
            let failure = match self.ask(what, &path).await {
                Ok(page) => return Ok(page),
                Err(failure @ (ForgeFailure::Unreachable { .. } | ForgeFailure::Unavailable { .. })) => failure,
                Err(failure) => return Err(failure),
            };
            match waits.next() {
                Some(wait) => tokio::time::sleep(*wait).await,
                None => return Err(failure),
            }
        }
    }

    async fn ask(&self, what: &str, path: &str) -> Result<Page, ForgeFailure> {
        let known = self.kept().answers.get(path).cloned();
        let mut answer = self.send(what, path, known.as_ref().map(|(tag, _)| tag)).await?;
        if answer.status.is_redirection()
            && answer.status != StatusCode::NOT_MODIFIED
            && let Some(moved) = self.moved(&answer)
        {
            // A repository that has another name by now. Only the same server is followed, and only once.
            answer = self.send(what, &moved, None).await?;
        }
        if answer.status == StatusCode::NOT_MODIFIED
            && let Some((_, page)) = known
        {
            return Ok(page);
        }
        if !answer.status.is_success() {
            return Err(failed(what, &answer, now()));
        }
        let link = answer.headers.get(header::LINK).and_then(|it| it.to_str().ok());
        let page = Page { more: link.is_some_and(|it| it.contains("rel=\"next\"")), body: answer.body };
        if let Some(tag) = answer.headers.get(header::ETAG) {
            self.kept().keep(path, tag.clone(), &page);
        }
        Ok(page)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of an answer that points to another place of the same server.
    fn moved(&self, answer: &Answer) -> Option<String> {
        let to = answer.headers.get(header::LOCATION)?.to_str().ok()?;
        let base = self.access.api_url.trim_end_matches('/');
        let path = to.strip_prefix(base)?;
        path.starts_with('/').then(|| path.to_owned())
    }

    async fn send(&self, what: &str, path: &str, tag: Option<&HeaderValue>) -> Result<Answer, ForgeFailure> {
        let target = self.api.join(path).map_err(|_| ForgeFailure::Refused { what: what.to_owned(), status: 0 })?;
        let mut request = Request::new(Method::GET, target);
        request.timeout = TIMEOUT;
        request.answer_max = ANSWER_MAX;
        let headers = &mut request.headers;
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        if let Some(tag) = tag {
            headers.insert(header::IF_NONE_MATCH, tag.clone());
        }
        self.outgoing.send(request).await.map_err(|error| match error {
            OutgoingError::TooLarge { max, .. } => {
                ForgeFailure::TooLarge { what: what.to_owned(), max: max as u64, unit: "bytes" }
            }
            OutgoingError::Timeout { .. } => {
                ForgeFailure::TooSlow { what: what.to_owned(), seconds: TIMEOUT.as_secs() }
            }
            error => ForgeFailure::Unreachable { why: error.to_string() },
        })
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What an answer that is no success means.
fn failed(what: &str, answer: &Answer, now: Timestamp) -> ForgeFailure {
    let what = what.to_owned();
    let status = answer.status.as_u16();
    let number = |name: &str| answer.headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let spent = number("x-ratelimit-remaining") == Some(0);
    let limited = || {
        // A secondary limit is told by its words, or by a time to wait.
        let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(4096)]).to_lowercase();
        spent || answer.retry_after().is_some() || text.contains("rate limit")
    };
    match status {
        403 | 429 if status == 429 || limited() => {
            let reset = number("x-ratelimit-reset").filter(|_| spent).map(|at| Timestamp(at.saturating_mul(1000)));
            let until = answer.retry_after().map(|wait| now + wait).or(reset).unwrap_or(now + LIMIT_WAIT);
            ForgeFailure::RateLimited { until: until.max(now) }
        }
        401 | 403 => ForgeFailure::Unauthorised { what, status },
        // 409 is how an empty repository answers.
        404 | 409 | 410 => ForgeFailure::NotFound { what },
        500.. => ForgeFailure::Unavailable { what, status },
        _ => ForgeFailure::Refused { what, status },
    }
}

fn parsed(body: &[u8], what: &str) -> Result<Value, ForgeFailure> {
    serde_json::from_slice(body)
        .map_err(|_| ForgeFailure::Invalid { what: what.to_owned(), why: "it is not JSON".to_owned() })
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn json_content(value: &Value) -> &str {
    value.get("content").and_then(Value::as_str).unwrap_or_default()
}

fn files(values: &[Value], what: &str) -> Result<Vec<FileChange>, ForgeFailure> {
    let mut lines_left = LINES_MAX;
    values.iter().take(FILES_MAX).map(|value| json::file(value, what, &mut lines_left)).collect()
}

/// The beginning of a commit's or branch's name, for messages.
fn short(name: &str) -> String {
    crate::text::clipped(name, 40)
}

/// A name as one part of a path: a slash in it does not divide the path.
fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
