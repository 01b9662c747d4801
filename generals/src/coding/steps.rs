//! The steps of each mode, and which follows which. Pure: what a step does stands in `work.rs`.
//!
//! ```text
//!  plan:       begin clone fetch select context ask [repair]                        intend clean-up complete
//!  quickfix:   begin clone fetch select context edit [repair] compare check [..]    intend clean-up complete
//!  implement,  begin fetch clone select context edit [repair] compare check [..]    intend clean-up complete
//!  refine
//!                                                      [..] = correct compare check, once
//! ```
//! Invariant: every path ends in `CleanUp` and `Complete` within [`STEPS_MAX`] steps; a model is asked at most three times for one task.

use super::task::Mode;

/// Most steps of any path.
pub const STEPS_MAX: usize = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Begin,
    Clone,
    Fetch,
    Select,
    Context,
    Ask,
    /// What the model answered does not do: it is asked once more.
    Repair,
    Edit,
    Compare,
    Check,
    /// The checks failed because of the change: the model is asked once more.
    Correct,
    Intend,
    CleanUp,
    Complete,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    Well,
    /// There is no model, nor a command in its place.
    NoModel,
    /// The answer cannot be used.
    Faulty,
    /// Nothing differs from what there was.
    Unchanged,
    /// The checks fail, and did not before the change.
    Red,
}

/// What has been done already, as far as it decides what follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct So {
    /// The model has been asked for its one correction.
    pub corrected: bool,
}

/// The step that follows; none after the last.
#[must_use]
pub fn next(mode: Mode, step: Step, came: Came, so: So) -> Option<Step> {
    let clones_first = matches!(mode, Mode::Plan | Mode::Quickfix);
    Some(match (step, came) {
        (Step::Begin, _) => {
            if clones_first {
                Step::Clone
            } else {
                Step::Fetch
            }
        }
        (Step::Clone, _) => {
            if clones_first {
                Step::Fetch
            } else {
                Step::Select
            }
        }
        (Step::Fetch, _) => {
            if clones_first {
                Step::Select
            } else {
                Step::Clone
            }
        }
        (Step::Select, _) => Step::Context,
        // The honest answer needs what was selected, and nothing more.
        (Step::Context, Came::NoModel) => Step::Intend,
        (Step::Context, _) => {
            if mode == Mode::Plan {
                Step::Ask
            } else {
                Step::Edit
            }
        }
        (Step::Ask | Step::Edit, Came::Faulty) => Step::Repair,
        (Step::Ask, _) => Step::Intend,
        (Step::Repair, _) if mode == Mode::Plan => Step::Intend,
        (Step::Edit | Step::Repair | Step::Correct, _) => Step::Compare,
        (Step::Compare, Came::Unchanged) => Step::Intend,
        (Step::Compare, _) => Step::Check,
        (Step::Check, Came::Red) if !so.corrected => Step::Correct,
        (Step::Check, _) => Step::Intend,
        (Step::Intend, _) => Step::CleanUp,
        (Step::CleanUp, _) => Step::Complete,
        (Step::Complete, _) => return None,
    })
}

/// What a step is called when it begins and when it is done: the audit names of the contract, and names of their kind.
#[must_use]
pub fn names(mode: Mode, step: Step) -> (Option<&'static str>, Option<&'static str>) {
    match step {
        Step::Begin => (
            Some(match mode {
                Mode::Plan => "plan_mode_start",
                Mode::Quickfix => "quickfix_mode_start",
                Mode::Implement => "implement_mode_start",
                Mode::Refine => "refine_mode_start",
            }),
            None,
        ),
        Step::Clone => (Some("cloning_repo"), Some("clone_success")),
        Step::Fetch => {
            (None, Some(if matches!(mode, Mode::Plan | Mode::Quickfix) { "issue_fetched" } else { "pr_fetched" }))
        }
        Step::Select => (None, Some("files_identified")),
        Step::Context => (None, Some("context_built")),
        Step::Ask => (Some("generating_plan"), Some("plan_generated")),
        Step::Repair => (Some("repairing_answer"), None),
        Step::Edit => (Some("generating_edits"), Some("edits_generated")),
        Step::Compare => (None, Some("changes_compared")),
        Step::Check => (Some("running_checks"), Some("checks_done")),
        Step::Correct => (Some("correcting_edits"), None),
        Step::Intend => (None, Some("effects_intended")),
        Step::CleanUp => (None, Some("cleanup_done")),
        Step::Complete => (
            Some(match mode {
                Mode::Plan => "plan_mode_complete",
                Mode::Quickfix => "quickfix_complete",
                Mode::Implement => "implement_complete",
                Mode::Refine => "refine_complete",
            }),
            None,
        ),
    }
}

/// What is announced where a task ends in a failure at a step.
#[must_use]
pub fn failed(mode: Mode, step: Step, late: bool) -> &'static str {
    match (step, mode) {
        (Step::Clone, _) if late => "clone_timeout",
        (Step::Clone, _) => "clone_failed",
        (_, Mode::Refine) => "refine_failed",
        (_, Mode::Plan | Mode::Quickfix | Mode::Implement) => "task_failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [Mode; 4] = [Mode::Plan, Mode::Quickfix, Mode::Implement, Mode::Refine];
    const CAME: [Came; 5] = [Came::Well, Came::NoModel, Came::Faulty, Came::Unchanged, Came::Red];

    fn path(mode: Mode, came: impl Fn(Step, usize) -> Came) -> Vec<Step> {
        let (mut step, mut so, mut path) = (Some(Step::Begin), So::default(), Vec::new());
        while let Some(at) = step {
            so.corrected |= at == Step::Correct;
            let seen = path.iter().filter(|step| **step == at).count();
            path.push(at);
            step = next(mode, at, came(at, seen), so);
            assert!(path.len() <= STEPS_MAX + 1, "{path:?}");
        }
        path
    }

    #[test]
    fn plan_mode_takes_the_contracts_steps() {
        use Step::*;
        let well = path(Mode::Plan, |_, _| Came::Well);
        assert_eq!(well, [Begin, Clone, Fetch, Select, Context, Ask, Intend, CleanUp, Complete]);
        let names: Vec<_> = well.iter().flat_map(|step| <[_; 2]>::from(names(Mode::Plan, *step))).flatten().collect();
        assert_eq!(
            names,
            [
                "plan_mode_start",
                "cloning_repo",
                "clone_success",
                "issue_fetched",
                "files_identified",
                "context_built",
                "generating_plan",
                "plan_generated",
                "effects_intended",
                "cleanup_done",
                "plan_mode_complete",
            ]
        );
        let without = path(Mode::Plan, |step, _| if step == Context { Came::NoModel } else { Came::Well });
        assert_eq!(without, [Begin, Clone, Fetch, Select, Context, Intend, CleanUp, Complete]);
    }

    #[test]
    fn a_change_is_corrected_once() {
        use Step::*;
        let red = path(Mode::Refine, |step, _| if step == Check { Came::Red } else { Came::Well });
        let expected = [
            Begin, Fetch, Clone, Select, Context, Edit, Compare, Check, Correct, Compare, Check, Intend, CleanUp,
            Complete,
        ];
        assert_eq!(red, expected);
        let green = path(Mode::Quickfix, |step, seen| if step == Check && seen == 0 { Came::Red } else { Came::Well });
        assert_eq!(green.iter().filter(|step| **step == Check).count(), 2);
    }

    #[test]
    fn every_path_ends_clean_and_asks_at_most_three_times() {
        // All that can come of each step, each time it is reached, in every combination: what came is drawn from the digits of a number.
        for mode in MODES {
            for seed in 0..5usize.pow(6) {
                let path = path(mode, |step, seen| {
                    let digit = match step {
                        Step::Context => 0,
                        Step::Ask | Step::Edit => 1,
                        Step::Repair => 2,
                        Step::Compare => 3 + seen.min(1),
                        Step::Check => 5,
                        _ => return Came::Well,
                    };
                    CAME[seed / 5usize.pow(digit as u32) % 5]
                });
                assert!(path.ends_with(&[Step::Intend, Step::CleanUp, Step::Complete]), "{path:?}");
                let asked = |step: &&Step| matches!(step, Step::Ask | Step::Edit | Step::Repair | Step::Correct);
                assert!(path.iter().filter(asked).count() <= 3, "{path:?}");
            }
        }
    }
}
