//! The shell of a task: takes the steps that `steps.rs` names, one after the other, and keeps what they bring.
//!
//! Invariants: nothing is written outside of the task's own folder, which is gone when this returns or is dropped; what is to be done on the
//! forge stands in the report's intents, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use mindos_model::FailureKind;
use mindos_sdk::{Failure, RepositoryAccess};

use super::ask::Talk;
use super::checks::{self, Checked};
use super::edits::{self, Edits};
use super::patch::{Clone, FileEntry, PatchError};
use super::plan::Plan;
use super::prompts;
use super::setup::Coding;
use super::steps::{Came, So, Step, failed, names, next};
use super::task::{Mode, Task};
use super::tree::Workspace;
use super::verify::{self, Before};
use crate::Report;
use crate::forge::{self, Forge, ForgeFailure, Issue, PullRequest};
use crate::model::Schema;
use crate::prompt::injection::Suspicion;
use crate::run::{Run, fence_bits};
use crate::select::Selected;

/// One task at work.
pub(super) struct Job<'a> {
    pub(super) run: &'a Run,
    pub(super) coding: &'a Coding,
    pub(super) task: Task,
    pub(super) forge: Forge,
    pub(super) workspace: Workspace,
    pub(super) clone: Option<(forge::Clone, Clone)>,
    pub(super) issue: Option<Issue>,
    pub(super) pull: Option<PullRequest>,
    pub(super) plan_text: Option<String>,
    /// The branch that the work starts from, and its commit.
    pub(super) base: String,
    pub(super) base_commit: String,
    pub(super) outline: String,
    pub(super) files: Vec<Selected>,
    question: String,
    pub(super) talk: Talk,
    answer: String,
    pub(super) without_model: bool,
    pub(super) plan: Option<Plan>,
    pub(super) summary: String,
    /// What is wrong with the last edits.
    faults: Vec<String>,
    edited: Vec<String>,
    pub(super) changes: Vec<FileEntry>,
    pub(super) checked: Checked,
    before: Before,
    /// Edits that were to mend what the checks found were applied.
    corrected: bool,
    /// The clone took longer than it may.
    pub(super) late: bool,
    pub(super) suspicions: Vec<Suspicion>,
}

/// Works on the task of a run's event.
///
/// # Errors
/// By kind: what may work next time, what waits, what never will.
pub(crate) async fn go(run: &Run) -> Result<Report, Failure> {
    let task = Task::read(&run.event.data).map_err(|error| Failure::poison(error.to_string()))?;
    let coding = run.hands.coding.clone();
    let coding = coding.ok_or_else(|| Failure::poison("this program was not set up for coding"))?;
    let access = run.access.clone().ok_or_else(|| {
        Failure::poison(format!("{} cannot be read: the control plane gave no access to it", task.repository))
    })?;
    if !access.repository.eq_ignore_ascii_case(&task.repository) {
        return Err(Failure::poison(format!(
            "`repository` is {}, and access was given to {}",
            task.repository, access.repository
        )));
    }
    let RepositoryAccess { repository, api_url, clone_url, token, expires_at: _, author } = access;
    let forge =
        Forge::new(run.outgoing.clone(), forge::RepositoryAccess { repository, api_url, clone_url, token, author })?;
    let name = match task.mode {
        Mode::Plan | Mode::Quickfix => format!("repo-{}", task.number()),
        Mode::Implement | Mode::Refine => format!("repo-pr-{}", task.number()),
    };
    let workspace = Workspace::make(&coding.workspace, &name, fence_bits()?).map_err(|error| {
        Failure::transient(format!("no folder for the task can be made in {}: {error}", coding.workspace.display()))
    })?;
    let mut job = Job {
        run,
        coding: &coding,
        task,
        forge,
        workspace,
        clone: None,
        issue: None,
        pull: None,
        plan_text: None,
        base: String::new(),
        base_commit: String::new(),
        outline: String::new(),
        files: Vec::new(),
        question: String::new(),
        talk: Talk::default(),
        answer: String::new(),
        without_model: false,
        plan: None,
        summary: String::new(),
        faults: Vec::new(),
        edited: Vec::new(),
        changes: Vec::new(),
        checked: Checked::None,
        before: Before::new(),
        corrected: false,
        late: false,
        suspicions: Vec::new(),
    };
    job.go().await
}

impl Job<'_> {
    async fn go(&mut self) -> Result<Report, Failure> {
        let (steps, mode) = (&self.run.steps, self.task.mode);
        let (mut step, mut so, mut report) = (Step::Begin, So::default(), None);
        loop {
            let (began, done) = names(mode, step);
            if let Some(name) = began {
                steps.begin(name).await;
            }
            so.corrected |= step == Step::Correct;
            let came = match step {
                Step::Intend => self.intend().await.map(|made| {
                    report = Some(made);
                    Came::Well
                }),
                step => self.take(step).await,
            };
            let came = match came {
                Ok(came) => came,
                Err(failure) => {
                    steps.begin(failed(mode, step, self.late)).await;
                    self.clone = None;
                    let _ = self.workspace.cleaned_up().await;
                    return Err(failure);
                }
            };
            if let Some(name) = done {
                steps.begin(name).await;
            }
            match next(mode, step, came, so) {
                Some(following) => step = following,
                None => return report.ok_or_else(|| Failure::poison("the task came to its end without a report")),
            }
        }
    }

    async fn take(&mut self, step: Step) -> Result<Came, Failure> {
        match step {
            Step::Begin | Step::Complete | Step::Intend => Ok(Came::Well),
            Step::Clone => self.clone().await,
            Step::Fetch => match self.task.mode {
                Mode::Plan | Mode::Quickfix => self.fetch_issue().await,
                Mode::Implement => self.fetch_plan().await,
                Mode::Refine => self.fetch_pull().await,
            },
            Step::Select => self.select().await,
            Step::Context => Ok(self.context()),
            Step::Ask => {
                let words = std::mem::take(&mut self.question);
                self.planned("plan.1", words).await
            }
            Step::Repair if self.task.mode == Mode::Plan => {
                let words = prompts::plan_again(&self.missing());
                match self.planned("plan.2", words).await? {
                    Came::Faulty => {
                        Err(Failure::poison(format!("the model's plan lacks {}", self.missing().join(", "))))
                    }
                    came => Ok(came),
                }
            }
            Step::Edit if self.commanded() => self.command("edit.command", "").await,
            Step::Edit => {
                let words = std::mem::take(&mut self.question);
                self.edit("edit.1", words).await
            }
            Step::Repair => {
                let words = prompts::edits_again(&self.faults, self.run.steps.fence());
                match self.edit("edit.2", words).await? {
                    Came::Faulty => {
                        let fault = crate::text::clipped(&self.faults.join("; "), 300);
                        Err(Failure::poison(format!("the model's edits cannot be applied: {fault}")))
                    }
                    came => Ok(came),
                }
            }
            Step::Compare => self.compare().await,
            Step::Check => self.check().await,
            Step::Correct => self.correct().await,
            Step::CleanUp => {
                self.clone = None;
                let cleaned = self.workspace.cleaned_up().await;
                cleaned
                    .map(|()| Came::Well)
                    .map_err(|error| Failure::transient(format!("the task's folder stays: {error}")))
            }
        }
    }

    pub(super) fn commanded(&self) -> bool {
        self.coding.editor.is_some()
    }

    fn git(&self) -> &Clone {
        &self.clone.as_ref().expect("every mode clones before it looks at files").1
    }

    fn context(&mut self) -> Came {
        let Job { run, task, .. } = self;
        let commands = self.coding.editor.is_some() && task.mode != Mode::Plan;
        if run.brain.is_empty() && !commands {
            self.without_model = true;
            return Came::NoModel;
        }
        let fence = run.steps.fence();
        let context = prompts::Context {
            task,
            issue: self.issue.as_ref(),
            plan: self.plan_text.as_deref(),
            outline: &self.outline,
            files: &self.files,
        };
        self.question = match commands {
            true => prompts::for_command(&context, fence),
            false => prompts::question(&context, fence, run.profile.budget.context_tokens),
        };
        let schema = (task.mode != Mode::Plan).then(|| Schema::new(edits::schema()).expect("checked by a test"));
        self.talk =
            Talk { system: prompts::system(task.mode, fence, &run.profile.instructions), schema, ..Talk::default() };
        Came::Well
    }

    async fn planned(&mut self, step: &str, words: String) -> Result<Came, Failure> {
        let answer = self.talk.ask(self.run, step, words).await?;
        self.answer = answer.text;
        Ok(match Plan::read(&self.answer) {
            Ok(plan) => {
                self.plan = Some(plan);
                Came::Well
            }
            Err(_) => Came::Faulty,
        })
    }

    fn missing(&self) -> Vec<&'static str> {
        Plan::read(&self.answer).err().unwrap_or_default()
    }

    /// Asks for edits and applies them to the clone as the commit has it.
    async fn edit(&mut self, step: &str, words: String) -> Result<Came, Failure> {
        let answer = self.talk.ask(self.run, step, words).await?;
        self.answer = answer.text;
        self.git().reset().await.map_err(of_patch)?;
        let applied =
            if answer.cut { Err(vec!["the answer was cut: make it shorter".to_owned()]) } else { self.apply() };
        Ok(match applied {
            Ok((summary, edited)) => {
                (self.summary, self.edited) = (summary, edited);
                Came::Well
            }
            Err(faults) => {
                self.faults = faults;
                Came::Faulty
            }
        })
    }

    fn apply(&self) -> Result<(String, Vec<String>), Vec<String>> {
        let Edits { summary, edits } = edits::read(&self.answer)?;
        let shown: BTreeSet<String> =
            self.files.iter().filter(|file| !file.cut).map(|file| file.path.clone()).collect();
        let edits = Edits { summary, edits };
        let edited = edits::apply(self.git().folder(), &edits, &self.coding.rules, &shown)?;
        Ok((edits.summary, edited))
    }

    async fn command(&mut self, step: &str, output: &str) -> Result<Came, Failure> {
        let editor = self.coding.editor.as_ref().expect("asked for only where there is one").name().to_owned();
        let task = match output.is_empty() {
            true => self.question.clone(),
            false => format!("{}\n{}", self.question, prompts::correct_by_command(output, self.run.steps.fence())),
        };
        let usage = mindos_sdk::Usage { model: format!("command:{editor}"), calls: 1, ..mindos_sdk::Usage::default() };
        let asked = (self.base_commit.clone(), task.clone());
        let call = async {
            let changes = verify::edit(self.coding, &self.workspace, self.git(), &task).await?;
            Ok::<_, Failure>((changes, vec![usage]))
        };
        let changes = self.run.steps.paid(step, &asked, call).await?;
        // They may be an earlier attempt's.
        self.git().reset().await.map_err(of_patch)?;
        self.git().write(&changes, &self.coding.rules).map_err(of_patch)?;
        self.edited = changes.into_iter().map(|entry| entry.path).collect();
        self.talk.model = format!("command:{editor}");
        self.summary = format!("Edited by the command {editor}, which was given the task.");
        Ok(Came::Well)
    }

    async fn compare(&mut self) -> Result<Came, Failure> {
        self.changes = self.git().changes(&self.edited, &self.coding.rules).await.map_err(of_patch)?;
        Ok(if self.changes.is_empty() { Came::Unchanged } else { Came::Well })
    }

    async fn check(&mut self) -> Result<Came, Failure> {
        let commands = match &self.coding.checks {
            Some(commands) => Ok(commands.clone()),
            None => checks::detect(&self.sources().await?),
        };
        self.checked = match commands {
            Err(fault) => Checked::NotRun(fault),
            Ok(commands) if commands.is_empty() => Checked::None,
            Ok(commands) => {
                let mut before = std::mem::take(&mut self.before);
                let checked = verify::check(self.coding, &self.workspace, self.git(), &commands, &mut before).await;
                self.before = before;
                checked?
            }
        };
        if let Checked::Run { corrected: told, .. } = &mut self.checked {
            *told = self.corrected;
        }
        Ok(if self.checked.is_red() { Came::Red } else { Came::Well })
    }

    /// What says which checks there are: as the base has it, whatever the branch says.
    async fn sources(&self) -> Result<BTreeMap<&'static str, String>, Failure> {
        let mut sources = BTreeMap::new();
        for name in checks::SOURCES {
            let text = match &self.pull {
                None => self.git().committed(name).await.map_err(of_patch)?,
                Some(pull) => match self.forge.content(name, &pull.base_ref).await {
                    Ok(bytes) => bytes.and_then(|bytes| String::from_utf8(bytes).ok()),
                    Err(ForgeFailure::TooLarge { .. } | ForgeFailure::Refused { .. }) => None,
                    Err(failure) => return Err(failure.into()),
                },
            };
            sources.extend(text.map(|text| (name, text)));
            // What a repository says itself leaves nothing to be guessed.
            if sources.contains_key(checks::SETTING) {
                break;
            }
        }
        Ok(sources)
    }

    async fn correct(&mut self) -> Result<Came, Failure> {
        let output = verify::failures(&self.checked);
        if self.commanded() {
            self.corrected = true;
            return self.command("correct.command", &output).await;
        }
        let words = prompts::correct(&output, self.run.steps.fence());
        let answer = match self.talk.ask(self.run, "correct", words).await {
            Ok(answer) => answer,
            // What there is stands, with its checks as they are.
            Err(Failure { kind: FailureKind::OverBudget | FailureKind::TooLarge, .. }) => return Ok(Came::Well),
            Err(failure) => return Err(failure),
        };
        self.answer = answer.text;
        // Edits that do not fit leave the first ones as they were.
        if let Ok((summary, edited)) = self.apply() {
            self.corrected = true;
            self.summary = format!("{}\n\n{summary}", self.summary);
            self.edited.extend(edited);
            self.edited.sort();
            self.edited.dedup();
        }
        Ok(Came::Well)
    }
}

pub(super) fn of_patch(error: PatchError) -> Failure {
    let message = error.to_string();
    match error {
        PatchError::TooLarge(_) => Failure::too_large(message),
        PatchError::Forbidden(_) => Failure::poison(message),
        PatchError::NoGit(_) | PatchError::TooSlow { .. } | PatchError::Failed { .. } => Failure::transient(message),
    }
}
