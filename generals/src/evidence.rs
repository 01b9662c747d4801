//! All there is to look at: the event, and where it was fetched the change behind it and the tree it leads to.

use std::borrow::Cow;
use std::ops::Deref;

use serde_json::Value;

use crate::Event;
use crate::analysis::{self, Analysis};
use crate::change::{Change, Commit, FileKind, Touched, Tree};
use crate::event::{Topic, Touch};
use crate::report::{Finding, Findings};
use crate::{Profile, tools};

/// What analyses and tools look at. It is its event, with what only a change can tell beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    event: &'a Event,
    pub(crate) change: Option<&'a Change>,
    pub(crate) tree: Option<&'a Tree>,
}

impl Deref for Evidence<'_> {
    type Target = Event;

    fn deref(&self) -> &Event {
        self.event
    }
}

/// What the profile's analyses and tools find: those of the event first, then those of the change.
///
/// `tree` holds the files at the change's head. It follows from its arguments alone.
#[must_use]
pub fn examine(profile: &Profile, event: &Event, change: Option<&Change>, tree: Option<&Tree>) -> Vec<Finding> {
    let evidence = Evidence { event, change, tree };
    let mut findings = Findings::default();
    let named = |names: &[String], find: fn(&str) -> Option<&'static Analysis>| -> Vec<&'static Analysis> {
        names.iter().filter_map(|name| find(name)).collect()
    };
    let all = named(&profile.analyses, analysis::find).into_iter().chain(named(&profile.tools, tools::find));
    for analysis in all {
        findings.begin();
        (analysis.run)(profile, &evidence, &mut findings);
    }
    findings.into_vec()
}

impl<'a> Evidence<'a> {
    /// The files that the change or the push touched, each once for each way it was touched, in order of their names.
    pub(crate) fn files(&self) -> Vec<Touch<'a>> {
        match self.change {
            Some(change) => {
                let mut files: Vec<Touch<'a>> =
                    change.files.iter().map(|file| Touch { path: &file.path, how: file.kind.word() }).collect();
                files.sort();
                files
            }
            None => self.event.files(),
        }
    }

    /// What the files belong to, in a word.
    pub(crate) fn noun(&self) -> &'static str {
        if self.topic() == Topic::Push { "push" } else { "change" }
    }

    /// Lines added and removed; `None` where they are not known.
    pub(crate) fn lines(&self) -> Option<(u64, u64)> {
        match self.change {
            Some(change) => Some(change.size()),
            None => self.number("pull_request.additions").zip(self.number("pull_request.deletions")),
        }
    }

    /// How many files change; `None` where it is not known.
    pub(crate) fn files_number(&self) -> Option<u64> {
        match self.change {
            Some(change) => Some(change.files.len() as u64),
            None => self.number("pull_request.changed_files"),
        }
    }

    /// The commits, the oldest first: the change's, else those that the event lists.
    pub(crate) fn history(&self) -> Cow<'a, [Commit]> {
        match self.change {
            Some(change) if !change.commits.is_empty() => Cow::Borrowed(&change.commits),
            _ => Cow::Owned(self.event.commits().iter().map(listed).collect()),
        }
    }
}

/// A commit as a push lists it.
fn listed(value: &Value) -> Commit {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let or = |one: String, other: &str| if one.is_empty() { text(other) } else { one };
    let date = text("/timestamp");
    let touched = [("added", FileKind::Added), ("modified", FileKind::Modified), ("removed", FileKind::Removed)];
    let touched = touched.into_iter().flat_map(|(member, kind)| {
        let paths = value.get(member).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        paths.iter().filter_map(Value::as_str).map(move |path| Touched { path: path.to_owned(), kind, lines: None })
    });
    Commit {
        sha: text("/id"),
        parents: Vec::new(),
        author: or(or(text("/author/username"), "/author/name"), "/author/email"),
        email: text("/author/email"),
        authored: date.parse().ok(),
        offset_minutes: crate::change::log::offset(&date),
        message: text("/message"),
        touched: touched.take(5000).collect(),
    }
}
