//! Scenarios: what is shown of Kubernetes, each by a name.

use std::pin::Pin;

use anyhow::Result;
use serde_json::Value;

use crate::bed::Bed;

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As CI runs it: little of everything.
    Quick,
    /// As the issue asks for it.
    Full,
}

impl Size {
    /// One of two figures.
    #[must_use]
    pub fn of<T>(self, quick: T, full: T) -> T {
        match self {
            Size::Quick => quick,
            Size::Full => full,
        }
    }
}

/// A scenario under way. What comes of it are its figures.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<Value>> + Send + 'a>>;

/// A scenario that is known. It makes its objects in namespaces that carry its name, and leaves everything running that it found so.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// In lower case with underscores.
    pub name: &'static str,
    /// What holds when it passes, in one line.
    pub what: &'static str,
    /// Whether it is part of a quick run at all.
    pub quick: bool,
    pub run: for<'a> fn(&'a mut Bed, Size) -> Running<'a>,
}

/// A namespace of a scenario: its name with hyphens.
#[must_use]
pub fn namespace(scenario: &str) -> String {
    scenario.replace('_', "-")
}
