//! The forge that a repository lives on, read only: GitHub's API and a clone by the `git` program.
//!
//! ```text
//!  RepositoryAccess (of one lease, one repository, reading)
//!        |
//!      Forge --- API ----> pull request, files, commits, issue, comments, content, labels, CODEOWNERS
//!        +------ git ----> Clone { directory, gone when dropped }
//! ```
//! Invariant: nothing is written, neither by the API nor by git; every answer is bounded in size, number and time; the token is in
//! a header or in the environment of `git`, and nowhere else.

mod api;
mod clone;
mod failure;
mod git;
mod json;
mod model;

use std::fmt;

use mindos_model::Secret;

pub use api::{Forge, MENTIONS_MAX, PAGES_MAX};
pub use clone::{Clone, CloneWish, Wanted};
pub use failure::ForgeFailure;
pub use model::{Comment, Issue, Label, PullRequest};

/// What one repository may be read with.
#[derive(Clone)]
pub struct RepositoryAccess {
    /// `owner/name`.
    pub repository: String,
    /// Where the API is, such as `https://api.github.com`.
    pub api_url: String,
    /// What is cloned, such as `https://github.com/owner/name.git`.
    pub clone_url: String,
    /// Empty where the repository is read without one.
    pub token: Secret,
    /// The login that we write under ourselves: hidden marks count under it alone.
    pub author: String,
}

impl fmt::Debug for RepositoryAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepositoryAccess").field("repository", &self.repository).finish_non_exhaustive()
    }
}
