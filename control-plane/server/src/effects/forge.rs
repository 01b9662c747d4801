//! The forge as an effect sees it: GitHub's API for one repository, under one token, at one pace.
//!
//! Invariants: in a dry run nothing is written, whatever an executor asks for; no list is followed without end.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};
use mindos_model::Secret;
use mindos_outgoing::Answer;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::pace::Lane;
use super::rest::{ForgeError, Rest, has_more, read};
use super::settings::Github;

/// Entries of one page: the most that GitHub gives.
const PER_PAGE: usize = 100;
/// Bytes of the tag of a page that is kept.
const TAG_MAX: usize = 256;

/// What the end of a list said last.
#[derive(Clone, Debug)]
pub(crate) struct Tag {
    page: usize,
    value: HeaderValue,
}

/// A list, where it is not as it was.
#[derive(Debug)]
pub(crate) enum News<T> {
    Same,
    /// Its entries, and what tells next time whether it is as it was. Of a page that is as it was, behind others that are full, none are among them.
    Read(Vec<T>, Option<Tag>),
}

/// GitHub's API.
#[derive(Clone, Debug)]
pub struct Forge {
    rest: Rest,
    token: Secret,
    lane: Arc<Lane>,
    /// The login under which is written.
    pub(crate) author: Arc<str>,
    per_second: f64,
    pub(super) may_approve: bool,
    pub(super) may_change_workflows: bool,
    pub(super) is_dry_run: bool,
}

impl Forge {
    pub(super) fn new(
        rest: Rest,
        token: Secret,
        lane: Arc<Lane>,
        author: Arc<str>,
        github: &Github,
        is_dry_run: bool,
    ) -> Forge {
        let Github { writes_per_second: per_second, approve: may_approve, workflows: may_change_workflows, .. } =
            *github;
        Forge { rest, token, lane, author, per_second, may_approve, may_change_workflows, is_dry_run }
    }

    /// Whether somebody is us.
    pub(super) fn is_own(&self, login: Option<&str>) -> bool {
        login.is_some_and(|login| login.eq_ignore_ascii_case(&self.author))
    }

    /// Reads one thing.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ForgeError> {
        self.lane.ask(self.per_second, self.rest.clock).await?;
        read(&self.call(Method::GET, path, None).await?, true)
    }

    /// Reads one thing that need not be there.
    pub(crate) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ForgeError> {
        match self.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(ForgeError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a list page by page, until `look` has seen enough of it or it ends. At most `pages_max` pages are read; where it is longer
    /// than that, nobody can say what is not in it, and that is a refusal.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        pages_max: usize,
        mut look: impl FnMut(T) -> bool,
    ) -> Result<(), ForgeError> {
        let mark = if path.contains('?') { '&' } else { '?' };
        for page in 1..=pages_max {
            self.lane.ask(self.per_second, self.rest.clock).await?;
            let path = format!("{path}{mark}per_page={PER_PAGE}&page={page}");
            let answer = self.call(Method::GET, &path, None).await?;
            if !look(read(&answer, true)?) || !has_more(&answer.headers) {
                return Ok(());
            }
        }
        let max = pages_max * PER_PAGE;
        Err(ForgeError::refused(0, format!("GitHub lists more than {max} entries where one of ours is looked for")))
    }

    /// Reads at most so many pages of a list, unless it is as it was.
    ///
    /// Full pages are read anew each time, since one that is as it was says nothing of what came behind it.
    pub(crate) async fn news<T: DeserializeOwned>(
        &self,
        path: &str,
        pages_max: usize,
        known: Option<&Tag>,
    ) -> Result<News<T>, ForgeError> {
        let mut entries = Vec::new();
        for page in 1..=pages_max {
            self.lane.ask(self.per_second, self.rest.clock).await?;
            let path = format!("{path}?per_page={PER_PAGE}&page={page}");
            let known = known.filter(|tag| tag.page == page);
            let called = match known {
                Some(tag) => self.rest.read_unless(&self.token, &path, &tag.value).await,
                None => self.rest.call(&self.token, Method::GET, &path, None).await,
            };
            let answer = self.heed(called).await?;
            if answer.status == StatusCode::NOT_MODIFIED {
                return Ok(if page == 1 { News::Same } else { News::Read(entries, known.cloned()) });
            }
            let read: Vec<T> = read(&answer, true)?;
            let is_full = read.len() >= PER_PAGE;
            entries.extend(read);
            if !is_full {
                let value = answer.headers.get(header::ETAG).filter(|value| value.len() <= TAG_MAX).cloned();
                return Ok(News::Read(entries, value.map(|value| Tag { page, value })));
            }
        }
        Ok(News::Read(entries, None))
    }

    /// Writes something, at the pace of the installation.
    pub(super) async fn write<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, ForgeError> {
        read(&self.change(method, path, Some(body)).await?, false)
    }

    /// Writes something whose answer says nothing that is needed.
    pub(super) async fn change(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, ForgeError> {
        if self.is_dry_run {
            return Err(ForgeError::refused(0, "a dry run writes nothing"));
        }
        self.lane.write(self.per_second, self.rest.clock).await?;
        self.call(method, path, body).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, ForgeError> {
        let called = self.rest.call(&self.token, method, path, body).await;
        self.heed(called).await
    }

    /// Takes in what an answer says of the limits.
    async fn heed(&self, called: Result<Answer, ForgeError>) -> Result<Answer, ForgeError> {
        match &called {
            Ok(answer) => self.lane.note(&answer.headers, self.rest.clock).await,
            Err(ForgeError::Limited { until, message }) => self.lane.hold(*until, message, self.rest.clock).await,
            Err(_) => {}
        }
        called
    }
}

/// A part of a path: what would end it or mean something else in it is encoded, slashes too.
pub(crate) fn part(text: &str) -> String {
    if matches!(text, "." | "..") {
        return text.replace('.', "%2E");
    }
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_path_stays_one() {
        assert_eq!(part("heads/a b?c#d"), "heads%2Fa%20b%3Fc%23d");
        assert_eq!(part("ü"), "%C3%BC");
        assert_eq!(part("mindos[bot]"), "mindos%5Bbot%5D");
        assert_eq!(part(".."), "%2E%2E");
    }
}
