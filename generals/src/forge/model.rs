//! What a forge says of its things, as far as it is used here.

use mindos_model::Timestamp;

/// A pull request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullRequest {
    pub number: u64,
    pub title: String,
    pub body: String,
    /// `open` or `closed`.
    pub state: String,
    pub draft: bool,
    pub merged: bool,
    /// Login of who opened it.
    pub author: String,
    /// What its author is to the repository, such as `MEMBER`.
    pub association: String,
    /// The branch it goes into, and the commit that stands there.
    pub base_ref: String,
    pub base_sha: String,
    /// The branch it comes from, and the commit it leads to.
    pub head_ref: String,
    pub head_sha: String,
    /// `owner/name` of where the branch is; `None` where that is gone.
    pub head_repository: Option<String>,
    pub labels: Vec<String>,
    pub url: String,
}

impl PullRequest {
    /// Whether its branch lies in another repository than `repository`.
    #[must_use]
    pub fn is_of_fork(&self, repository: &str) -> bool {
        !self.head_repository.as_deref().is_some_and(|from| from.eq_ignore_ascii_case(repository))
    }
}

/// An issue; a pull request is one too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issue {
    pub number: u64,
    pub title: String,
    pub body: String,
    pub state: String,
    pub author: String,
    pub association: String,
    pub labels: Vec<String>,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub comments_count: u64,
    pub url: String,
    pub is_pull_request: bool,
}

/// A comment on an issue or a pull request, or on a line of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comment {
    pub id: u64,
    pub author: String,
    pub association: String,
    pub body: String,
    pub created_at: Option<Timestamp>,
    pub url: String,
    /// The file and line of a comment on a line; the line is missing where it is gone.
    pub place: Option<(String, Option<u32>)>,
}

/// A label of the repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    pub name: String,
    pub description: String,
}
