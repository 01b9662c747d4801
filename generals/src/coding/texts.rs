//! The texts that people read: of pull requests, comments and commits. Everything foreign in them is made harmless first.
//!
//! Invariant: no foreign text can stand for a placeholder of the plane (`${effects..}`), nor for one of our marks.

use std::fmt::Write as _;

use super::checks::{Checked, Outcome};
use super::plan::{Plan, marked};
use super::task::Mode;
use crate::render::safe::{self, Allowed};

/// Longest title, in letters; the forge takes 256.
const TITLE_MAX: usize = 240;
/// Letters of a check's output that are shown.
const OUTPUT_MAX: usize = 4_000;
/// Files that are named.
const FILES_MAX: usize = 50;

/// Who the commits are by, as the contract has it.
pub const AUTHOR: (&str, &str) = ("AI Coding Agent", "ai-agent@example.com");

/// Foreign text that is no placeholder and no mark of ours any more, in code neither.
fn inert(text: &str) -> String {
    text.replace("${", "$\u{200b}{").replace("<!--", "<!\u{200b}--")
}

fn prose(text: &str, allowed: &Allowed, max: usize) -> String {
    inert(&safe::text(text, allowed, max))
}

/// A foreign title on one line, for where no Markdown is read.
fn plain_title(title: &str, max: usize) -> String {
    inert(&crate::text::clipped(title, max))
}

/// The branch of an issue.
#[must_use]
pub fn branch(mode: Mode, issue: u64) -> String {
    match mode {
        Mode::Quickfix => format!("ai-agent/quickfix-issue-{issue}"),
        Mode::Plan | Mode::Implement | Mode::Refine => format!("ai-agent/issue-{issue}"),
    }
}

/// The title of a pull request.
#[must_use]
pub fn title(mode: Mode, issue: u64, title: &str) -> String {
    let agent = if mode == Mode::Quickfix { "[AI Agent QuickFix]" } else { "[AI Agent]" };
    plain_title(&format!("{agent} Fix issue #{issue}: {title}"), TITLE_MAX)
}

/// The message of a commit: a title, and what the model says it did.
#[must_use]
pub fn commit(title: &str, summary: &str) -> String {
    let summary = crate::text::clipped(summary, 600);
    match summary.is_empty() {
        true => plain_title(title, 100),
        // What looks like a trailer or closes an issue would be taken for one.
        false => format!(
            "{}\n\n{}",
            plain_title(title, 100),
            inert(&summary).replace('#', "#\u{200b}").replace('@', "@\u{200b}")
        ),
    }
}

/// The pull request that shows a plan.
#[must_use]
pub fn plan_request(issue: u64, title: &str, plan: &Plan, statement: &str, allowed: &Allowed) -> String {
    format!(
        "# {}\n\nA plan for #{issue}, for you to judge. Nothing is changed yet.\n\n{}\n\n---\n\
         **Comment `/approve` to have this plan implemented on this branch.** `/refine <what is to be different>` changes what is there; \
         closing the pull request drops the plan.\n\n{statement}\n",
        inert(&safe::line(title, allowed, TITLE_MAX)),
        marked(&inert(&plan.shown(allowed))),
    )
}

/// The comment that links the plan from its issue.
#[must_use]
pub fn plan_comment(files: &[String], statement: &str) -> String {
    format!(
        "A plan is ready: ${{effects.1.url}}\n\nRead it there and comment `/approve` on it to have it implemented.{}\n\n{statement}\n",
        named("It was made from", files)
    )
}

/// What is said of an issue where there is no model.
#[must_use]
pub fn no_model(mode: Mode, files: &[(String, u64)], changed: &str) -> String {
    let mut text = format!(
        "No model was asked: none is configured here, so there is no {}. {changed}\n",
        match mode {
            Mode::Plan => "plan",
            Mode::Quickfix | Mode::Implement | Mode::Refine => "change",
        }
    );
    match files.is_empty() {
        true => text.push_str("\nNo file of the repository speaks of the words of this text.\n"),
        false => text.push_str("\nThese files speak most of its words, by the words in their names, paths and first lines:\n\n| file | score |\n|---|---|\n"),
    }
    for (path, score) in files.iter().take(FILES_MAX) {
        let _ = writeln!(text, "| {} | {score} |", inert(&safe::code(path, 200)));
    }
    text
}

/// The pull request of a quick fix.
#[must_use]
pub fn quickfix_request(
    issue: u64,
    summary: &str,
    files: &[String],
    checked: &Checked,
    statement: &str,
    allowed: &Allowed,
) -> String {
    format!(
        "Fixes #{issue}.\n\n{}{}\n\n{}\n{statement}\n",
        prose(summary, allowed, 3_000),
        named("Changed:", files),
        checks(checked)
    )
}

/// The contract's words to the issue of a quick fix.
pub const QUICKFIX_COMMENT: &str = "QuickFix applied. PR: #${effects.1.number}";

/// What is said in a pull request that was implemented or refined.
#[must_use]
pub fn result(
    mode: Mode,
    summary: &str,
    files: &[String],
    checked: &Checked,
    statement: &str,
    allowed: &Allowed,
) -> String {
    let first = match mode {
        Mode::Refine => "Refined as asked.",
        Mode::Plan | Mode::Quickfix | Mode::Implement => "The plan is implemented on this branch.",
    };
    format!(
        "{first}\n\n{}{}\n\n{}\n{statement}\n",
        prose(summary, allowed, 3_000),
        named("Changed:", files),
        checks(checked)
    )
}

/// What is said where nothing came of the task.
#[must_use]
pub fn nothing(summary: &str, statement: &str, allowed: &Allowed) -> String {
    format!(
        "Nothing was changed: the edits leave every file as it was.\n\n{}\n\n{statement}\n",
        prose(summary, allowed, 3_000)
    )
}

fn named(what: &str, files: &[String]) -> String {
    if files.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = files.iter().take(FILES_MAX).map(|path| inert(&safe::code(path, 200))).collect();
    let more = files.len().saturating_sub(FILES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("\n\n{what} {}{more}.", shown.join(", "))
}

/// The results of the repository's own checks.
#[must_use]
pub fn checks(checked: &Checked) -> String {
    let mut text = "### Checks\n\n".to_owned();
    match checked {
        Checked::None => {
            text.push_str("This repository has no checks that are known here. Say which there are in `.mindos.yaml`.\n")
        }
        Checked::NotRun(why) => {
            let _ = writeln!(text, "**Not run**: {}.", inert(&safe::line(why, &Allowed::default(), 400)));
        }
        Checked::Run { checks, isolated, corrected } => {
            for check in checks {
                let _ = writeln!(
                    text,
                    "- {}: {}, {:.0} s",
                    inert(&safe::code(&check.name, 120)),
                    outcome(&check.outcome),
                    check.seconds
                );
            }
            if *corrected {
                text.push_str("\nThe edits were corrected once, after these checks had failed.\n");
            }
            if !isolated {
                text.push_str("\nThey ran **without a sandbox**, as this agent was told to.\n");
            }
            for check in checks.iter().filter(|check| check.outcome == Outcome::Failed) {
                let tail = tail(&check.output, OUTPUT_MAX);
                let name = inert(&safe::code(&check.name, 120));
                let _ = writeln!(
                    text,
                    "\n<details><summary>Output</summary>\n\n{name}\n{}\n</details>",
                    inert(&safe::block("text", tail))
                );
            }
        }
    }
    text
}

fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "**failed**",
        Outcome::FailedBefore => "failed, and failed before the change as well",
    }
}

/// The last letters of a text.
#[must_use]
pub fn tail(text: &str, max: usize) -> &str {
    let mut from = text.len().saturating_sub(max);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::super::checks::Check;
    use super::*;

    #[test]
    fn titles_and_branches_are_the_contracts() {
        assert_eq!(title(Mode::Plan, 7, "It\ncrashes"), "[AI Agent] Fix issue #7: It crashes");
        assert_eq!(title(Mode::Quickfix, 7, "x"), "[AI Agent QuickFix] Fix issue #7: x");
        assert!(title(Mode::Plan, 7, &"x".repeat(999)).chars().count() <= 256);
        assert_eq!(
            (branch(Mode::Plan, 7), branch(Mode::Quickfix, 7)),
            ("ai-agent/issue-7".into(), "ai-agent/quickfix-issue-7".into())
        );
        assert_eq!(QUICKFIX_COMMENT, "QuickFix applied. PR: #${effects.1.number}");
    }

    #[test]
    fn foreign_words_are_no_placeholders_marks_or_mentions() {
        let plan = "## Summary\n${effects.0.url} `${effects.0.sha}` @x\n## Files to Modify\n```\n${effects.1.number}\n```\n## Implementation Steps\na\n## Potential Risks\nb\n## Testing Strategy\nc\n";
        let plan = Plan::read(plan).unwrap();
        let allowed = Allowed::default();
        let hostile = "${effects.1.url} <!-- ai-agent:plan --> @team";
        let checked = Checked::Run {
            checks: vec![Check {
                name: hostile.into(),
                outcome: Outcome::Failed,
                output: format!("{hostile}\n```\n</details>"),
                seconds: 1.0,
            }],
            isolated: false,
            corrected: true,
        };
        let files = [hostile.to_owned()];
        for text in [
            plan_request(7, hostile, &plan, "", &allowed),
            quickfix_request(7, hostile, &files, &checked, "", &allowed),
            result(Mode::Refine, hostile, &files, &checked, "", &allowed),
            no_model(Mode::Plan, &[(hostile.to_owned(), 3)], ""),
            nothing(hostile, "", &allowed),
            checks(&Checked::NotRun(hostile.to_owned())),
            title(Mode::Plan, 7, hostile),
            commit("t", hostile),
        ] {
            assert!(!text.contains("${effects"), "{text}");
            assert_eq!(
                text.matches("<!-- ai-agent:plan -->").count(),
                usize::from(text.contains("/approve")),
                "{text}"
            );
        }
        // Only ours is there.
        assert_eq!(plan_comment(&files, "").matches("${effects").count(), 1);
        let body = plan_request(7, "t", &plan, "", &allowed);
        assert!(body.contains("/approve") && super::super::plan::found(&body).is_some());
    }

    #[test]
    fn checks_are_told_as_they_went() {
        assert!(checks(&Checked::None).contains("no checks"));
        assert!(checks(&Checked::NotRun("no namespaces here".into())).contains("**Not run**: no namespaces here."));
        let check = |outcome| Check { name: "cargo test".into(), outcome, output: "boom".into(), seconds: 2.4 };
        let run = Checked::Run {
            checks: vec![check(Outcome::Passed), check(Outcome::FailedBefore)],
            isolated: true,
            corrected: false,
        };
        let text = checks(&run);
        assert!(
            text.contains("- `cargo test`: passed, 2 s\n")
                && text.contains("failed before the change as well")
                && !text.contains("boom")
        );
        assert_eq!(tail("äöü", 3), "ü");
    }
}
