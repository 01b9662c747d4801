//! Wanted: one effect, as whoever carries it out sees it, and what may come of it.

use std::fmt;

use mindos_model::Timestamp;
use serde_json::{Value, json};

use super::mark::Mark;
use super::parameters::Invalid;
use super::rest::ForgeError;

/// An effect to carry out.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Names it for people, such as `e42`.
    pub id: String,
    /// The type of general that wants it.
    pub general: String,
    /// What its key is known by in marks, see [`effect_hash`](super::mark::effect_hash).
    pub hash: String,
    pub kind: Kind,
    pub target: Subject,
    /// A JSON object, with placeholders filled in.
    pub parameters: Value,
    /// When it was intended: the date of its commits.
    pub at: Timestamp,
}

impl Wanted {
    /// The mark of what it writes.
    pub(super) fn mark(&self) -> Mark {
        Mark { name: self.general.clone(), effect: self.hash.clone(), is_once: true }
    }
}

/// What came of an effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// What is there now.
    Done(Value),
    /// What would have been done.
    Would(Value),
}

impl Outcome {
    /// Something was there already, or is there now: `action` says which.
    pub(super) fn done(action: &str, mut observed: Value) -> Outcome {
        observed["action"] = json!(action);
        Outcome::Done(observed)
    }

    /// What a dry run found that it would do.
    pub(super) fn would(action: &str, what: Value) -> Outcome {
        Outcome::Would(json!({ "action": action, "what": what }))
    }
}

/// Why an effect was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectFailure {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Forge(#[from] ForgeError),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Comment,
    Review,
    Check,
    Labels,
    Reaction,
    Branch,
    PullRequest,
    Issue,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Comment,
        Kind::Review,
        Kind::Check,
        Kind::Labels,
        Kind::Reaction,
        Kind::Branch,
        Kind::PullRequest,
        Kind::Issue,
    ];

    /// As intents have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Comment => "comment",
            Kind::Review => "review",
            Kind::Check => "check",
            Kind::Labels => "labels",
            Kind::Reaction => "reaction",
            Kind::Branch => "branch",
            Kind::PullRequest => "pull_request",
            Kind::Issue => "issue",
        }
    }

    /// Reads the kind of an intent.
    ///
    /// # Errors
    /// Says which there are.
    pub fn read(text: &str) -> Result<Kind, Invalid> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            Invalid::new("kind", format!("is not known: expected one of {}", all.join(", ")))
        })
    }
}

/// A repository, by its names in the forge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    pub owner: String,
    pub name: String,
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl Repository {
    /// Reads `owner/name`; `None` where it is not one.
    #[must_use]
    pub fn read(text: &str) -> Option<Repository> {
        let (owner, name) = text.split_once('/')?;
        let fits = |text: &str, max: usize, more: &[u8]| {
            (1..=max).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        let known = fits(owner, 64, b"-_") && fits(name, 100, b"-_.") && name != "." && name != "..";
        known.then(|| Repository { owner: owner.to_owned(), name: name.to_owned() })
    }

    /// Whether both are the same, as the forge sees it.
    #[must_use]
    pub fn is(&self, other: &Repository) -> bool {
        self.owner.eq_ignore_ascii_case(&other.owner) && self.name.eq_ignore_ascii_case(&other.name)
    }

    /// Its path in the API.
    pub(super) fn path(&self) -> String {
        format!("/repos/{}/{}", self.owner, self.name)
    }
}

/// What an effect is done to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    pub repository: Repository,
    pub on: On,
}

/// What of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum On {
    Repository,
    /// An issue or pull request.
    Number(u64),
    /// A commit, by 40 hex digits.
    Commit(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.on {
            On::Repository => write!(f, "{}", self.repository),
            On::Number(number) => write!(f, "{}#{number}", self.repository),
            On::Commit(sha) => write!(f, "{}@{sha}", self.repository),
        }
    }
}

const ACCEPTED: &str = "expected `owner/repo`, `owner/repo#7` or `owner/repo@` with the 40 hex digits of a commit";

impl Subject {
    /// Reads the target of an intent.
    ///
    /// # Errors
    /// Says what is accepted.
    pub fn read(text: &str) -> Result<Subject, Invalid> {
        let wrong = || Invalid::new("target", ACCEPTED);
        let (repository, on) = match text.find(['#', '@']) {
            None => (text, On::Repository),
            Some(at) => {
                let (repository, rest) = text.split_at(at);
                let on = match rest.strip_prefix('#') {
                    Some(number) => {
                        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
                        let number = number.parse().ok().filter(|number| digits && *number > 0);
                        On::Number(number.ok_or_else(wrong)?)
                    }
                    None => {
                        let sha = &rest[1..];
                        On::Commit(Some(sha).filter(|sha| is_sha(sha)).ok_or_else(wrong)?.to_owned())
                    }
                };
                (repository, on)
            }
        };
        Ok(Subject { repository: Repository::read(repository).ok_or_else(wrong)?, on })
    }

    /// The issue or pull request.
    pub(super) fn number(&self) -> Result<u64, Invalid> {
        match self.on {
            On::Number(number) => Ok(number),
            _ => Err(Invalid::new("target", "expected an issue or pull request, such as `owner/repo#7`")),
        }
    }

    /// The commit.
    pub(super) fn commit(&self) -> Result<&str, Invalid> {
        match &self.on {
            On::Commit(sha) => Ok(sha),
            _ => Err(Invalid::new("target", "expected a commit, such as `owner/repo@` with its 40 hex digits")),
        }
    }

    /// Nothing more than the repository.
    pub(super) fn whole(&self) -> Result<(), Invalid> {
        match self.on {
            On::Repository => Ok(()),
            _ => Err(Invalid::new("target", "expected a repository, such as `owner/repo`")),
        }
    }
}

/// Whether a text names a commit in full.
pub(super) fn is_sha(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_repositories_numbers_and_commits() {
        let on = |text: &str| Subject::read(text).unwrap().on;
        assert_eq!(on("octo/hello.rs"), On::Repository);
        assert_eq!(on("octo/hello#7"), On::Number(7));
        let sha = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(on(&format!("octo/hello@{sha}")), On::Commit(sha.to_owned()));
        for bad in [
            "",
            "octo",
            "octo/",
            "octo/..",
            "a/b/c",
            "octo/hello#0",
            "octo/hello#+7",
            "octo/hello@abc",
            "o c/x",
            "octo/h?x=1",
        ] {
            assert!(Subject::read(bad).is_err(), "{bad}");
        }
        assert!(Repository::read("Octo/Hello").unwrap().is(&Repository::read("octo/hello").unwrap()));
    }

    #[test]
    fn kinds_have_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::read(kind.as_str()), Ok(kind));
        }
        assert!(Kind::read("merge").unwrap_err().to_string().contains("pull_request"));
    }
}
