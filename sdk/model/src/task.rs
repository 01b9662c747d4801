//! Tasks for the coding agent: what is to be done.

use std::fmt;
use std::str::FromStr;

use crate::ParseIdError;
use crate::delivery::words;

words! {
    /// What a task asks for.
    TaskMode, "mode", "plan, quickfix, implement (or plan_approval) or refine" {
        /// A plan for an issue, as a draft pull request.
        Plan = "plan",
        /// A change for an issue without a plan before it.
        Quickfix = "quickfix",
        /// What an approved plan says becomes code.
        Implement = "implement",
        /// A pull request is changed as somebody asks.
        Refine = "refine",
    }
}

impl TaskMode {
    /// Reads the word of a message: as it is written here, or as the first version of the contract has it.
    #[must_use]
    pub fn read(word: &str) -> Option<TaskMode> {
        match word {
            "plan_approval" => Some(TaskMode::Implement),
            word => word.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written_and_as_they_were() {
        for mode in TaskMode::ALL {
            assert_eq!(TaskMode::read(mode.as_str()), Some(*mode));
        }
        assert_eq!(TaskMode::read("plan_approval"), Some(TaskMode::Implement));
        assert_eq!(TaskMode::read("merge"), None);
    }
}
