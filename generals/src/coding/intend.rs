//! What is made of a task's work: the intents, and the report that holds them.

use std::borrow::Cow;

use mindos_sdk::Failure;
use serde_json::json;

use super::intents::{Files, Wishes};
use super::task::{Mode, Task};
use super::texts;
use super::work::Job;
use crate::Report;
use crate::intent::{Intent, fit};
use crate::prompt::injection;
use crate::render::safe::{self, Allowed};
use crate::report::{Finding, Severity};

/// Bytes of a change that goes with the intents; what is more goes as a blob.
const INLINE_MAX: usize = 48 << 10;
// The rest of the intent's parameters needs room beside it.
const _: () = assert!(INLINE_MAX + (8 << 10) < mindos_model::limits::EFFECT_PARAMETERS_MAX);

impl Job<'_> {
    pub(super) async fn intend(&mut self) -> Result<Report, Failure> {
        let statement = self.statement();
        let allowed = Allowed {
            repository: self.task.repository.clone(),
            numbers: [self.task.issue, self.task.pull].into_iter().flatten().collect(),
            ..Allowed::default()
        };
        let (said, effects) = self.wishes(&statement, &allowed).await?;
        if !fit(&effects) {
            return Err(Failure::too_large("what is to be done takes more bytes than the control plane takes"));
        }
        let (run, task) = (self.run, &self.task);
        let mut findings = injection::findings(&self.suspicions);
        findings.extend(self.about());
        let of = if matches!(task.mode, Mode::Plan | Mode::Quickfix) { "issue" } else { "pull request" };
        Ok(Report {
            general: run.profile.general_type.clone(),
            event_type: run.event.event_type.clone(),
            status: "processed",
            timestamp: run.now.to_string(),
            analysis: format!(
                "{}: {} for {of} #{} of {}. {said}",
                run.profile.title,
                task.mode.as_str(),
                task.number(),
                task.repository
            ),
            recommendations: vec![self.advice().to_owned()],
            findings,
            model: match self.talk.model.is_empty() {
                true => Cow::Borrowed("none"),
                false => Cow::Owned(self.talk.model.clone()),
            },
            statement: Cow::Owned(statement),
            job_id: run.event.job_id.clone(),
            answer: None,
            usage: run.used(),
            effects,
        })
    }

    async fn wishes(&mut self, statement: &str, allowed: &Allowed) -> Result<(&'static str, Vec<Intent>), Failure> {
        let files: Vec<String> = self.changes.iter().map(|entry| entry.path.clone()).collect();
        let listed = match self.without_model {
            true => Files::None,
            false => self.listed().await?,
        };
        let Job { task, base, base_commit, issue, pull, summary, checked, .. } = self;
        let wishes = Wishes { task, base, base_commit };
        let number = task.number();
        let title = issue.as_ref().map(|issue| issue.title.clone()).unwrap_or_default();
        let place = match task.mode {
            Mode::Plan => "coding-plan",
            Mode::Quickfix => "coding-quickfix",
            Mode::Implement | Mode::Refine => "coding-result",
        };
        if self.without_model {
            let scored: Vec<(String, u64)> = self.files.iter().map(|file| (file.path.clone(), file.score)).collect();
            let body = texts::no_model(task.mode, &scored, "Nothing was changed.");
            return Ok(("No model was asked, so nothing was made.", vec![wishes.comment(number, place, &body)]));
        }
        if let (Mode::Plan, Some(plan)) = (task.mode, &self.plan) {
            let read: Vec<String> = self.files.iter().map(|file| file.path.clone()).collect();
            let body = texts::plan_request(number, &title, plan, statement, allowed);
            let comment = texts::plan_comment(&read, statement);
            return Ok((
                "A plan is proposed.",
                wishes.plan(number, &texts::title(task.mode, number, &title), &body, &comment),
            ));
        }
        if self.changes.is_empty() {
            let body = texts::nothing(summary, statement, allowed);
            return Ok(("The edits change nothing.", vec![wishes.comment(number, place, &body)]));
        }
        Ok(match (task.mode, pull) {
            (Mode::Quickfix, _) | (_, None) => {
                let title = texts::title(Mode::Quickfix, number, &title);
                let body = texts::quickfix_request(number, summary, &files, checked, statement, allowed);
                let message = texts::commit(&format!("Fix issue #{number}"), summary);
                ("A change is proposed.", wishes.quickfix(number, &title, &message, listed, &body))
            }
            (Mode::Refine, Some(pull)) => {
                let message = texts::commit(&format!("Refine pull request #{number}"), summary);
                let comment = texts::result(task.mode, summary, &files, checked, statement, allowed);
                let asked = task.comment.unwrap_or_default();
                (
                    "The pull request is refined.",
                    wishes.refine(number, asked, &pull.head_ref, &message, listed, &comment),
                )
            }
            (Mode::Plan | Mode::Implement, Some(pull)) => {
                let of = issue.as_ref().map(|issue| format!(" for issue #{}", issue.number)).unwrap_or_default();
                let message = texts::commit(&format!("Implement the plan{of}"), summary);
                let comment = texts::result(task.mode, summary, &files, checked, statement, allowed);
                ("The plan is implemented.", wishes.implement(number, &pull.head_ref, &message, listed, &comment))
            }
        })
    }

    /// The change, or the name of the blob that holds it.
    async fn listed(&self) -> Result<Files, Failure> {
        if self.changes.is_empty() {
            return Ok(Files::None);
        }
        let listed = json!(self.changes);
        let bytes = listed.to_string();
        if bytes.len() <= INLINE_MAX {
            return Ok(Files::Listed(listed));
        }
        let Some(blobs) = &self.run.hands.blobs else {
            return Err(Failure::too_large(format!(
                "the change has {} bytes: more than {INLINE_MAX} are taken only where the general holds a stream of its own",
                bytes.len()
            )));
        };
        blobs.put(bytes, "application/json").await.map(Files::Blob)
    }

    fn statement(&self) -> String {
        let Task { by, mode, .. } = &self.task;
        let asked = safe::code(by, 60);
        let used = self.run.steps.used_in_all();
        let sum = |of: fn(&mindos_sdk::Usage) -> u64| used.iter().map(of).sum::<u64>();
        match (self.without_model, self.commanded() && *mode != Mode::Plan) {
            (true, _) => "No model was asked.".to_owned(),
            (_, true) => format!(
                "<sub>Asked for by {asked}. Edited by {}; what that used of models is not counted here.</sub>",
                safe::code(&self.talk.model, 60)
            ),
            (_, false) => {
                let cost = sum(|usage| usage.cost_micros);
                let mut lists: Vec<String> = used.iter().map(|usage| self.run.brain.prices_of(&usage.model)).collect();
                lists.sort_unstable();
                lists.dedup();
                lists.retain(|list| !list.is_empty());
                let by = if lists.is_empty() { String::new() } else { format!(", by {}", lists.join(" and ")) };
                format!(
                    "<sub>Asked for by {asked}. Model {}: {} tokens in, {} out, {}.{:06} in all{by}.</sub>",
                    safe::code(&self.talk.model, 100),
                    sum(|usage| usage.input_tokens),
                    sum(|usage| usage.output_tokens),
                    cost / 1_000_000,
                    cost % 1_000_000
                )
            }
        }
    }

    fn about(&self) -> Vec<Finding> {
        let files: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        let changed: Vec<&str> = self.changes.iter().map(|entry| entry.path.as_str()).collect();
        let mut findings = vec![Finding::of(
            Severity::Info,
            "coding.files",
            format!("{} were read for the task.", crate::text::count(files.len() as u64, "file")),
            json!({"files": files}),
        )];
        if !changed.is_empty() {
            let text = format!("{} are changed.", crate::text::count(changed.len() as u64, "file"));
            findings.push(Finding::of(Severity::Info, "coding.changes", text, json!({"files": changed})));
        }
        if self.checked.is_red() {
            let text = "Checks of the repository fail with the change, and do not without it.".to_owned();
            findings.push(Finding::of(Severity::Warning, "coding.checks", text, json!({})));
        }
        findings
    }

    fn advice(&self) -> &'static str {
        match self.task.mode {
            _ if self.without_model => "Configure a model to have more than the files that may matter.",
            Mode::Plan => "Read the plan, and comment /approve on it to have it implemented.",
            Mode::Quickfix | Mode::Implement | Mode::Refine if self.checked.is_red() => {
                "Look at the checks that fail before anything else."
            }
            Mode::Quickfix | Mode::Implement | Mode::Refine => "Review the change as you would anybody's.",
        }
    }
}
