//! The tools: each looks at a change itself, line by line, and states what is true of it. What they find names its place.
//!
//! They are analyses like those of events, and stand apart because most say nothing without a change. Where an event lists what a
//! tool needs, as a push lists its commits, that is enough.

mod dependencies;
mod drift;
mod files;
mod history;
mod interfaces;
mod licences;
mod links;
mod notes;
pub(crate) mod secrets;
mod statistics;
mod untested;

use crate::analysis::Analysis;

/// Every tool there is.
pub(crate) const ALL: &[Analysis] = &[
    statistics::STATISTICS,
    secrets::ADDED,
    dependencies::DEPENDENCIES,
    licences::LICENCES,
    untested::UNTESTED,
    interfaces::INTERFACES,
    history::HISTORY,
    notes::NOTES,
    links::LINKS,
    drift::DRIFT,
];

pub(crate) fn find(name: &str) -> Option<&'static Analysis> {
    ALL.iter().find(|tool| tool.name == name)
}

#[cfg(test)]
mod golden_tests;
