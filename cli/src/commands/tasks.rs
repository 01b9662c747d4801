//! `mindos tasks`: asking for plans, changes and refinements, and looking after them.

use clap::{Args, Subcommand, ValueEnum};
use mindos_proto::delivery::v1::DeliveryStatus;
use mindos_proto::task::v1::{self as task, CommentKind, Mode, Task, TaskSpec};
use serde_json::json;

use super::deliveries::{general_text, park_text, status_word};
use super::filter::{PageArgs, ago};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table, clip, short_word};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos tasks create plan --repo https://github.com/octocat/hello --issue 7
  mindos tasks create refine --repo https://github.com/octocat/hello --pr 9 --request 'add a test for the empty list'
  mindos tasks list --repository octocat/hello
  mindos tasks show octocat/hello#7/plan
  mindos tasks cancel octocat/hello#7/plan

A task is an event of type `dev.mindos.task.requested` and what it leads to: `mindos deliveries get` shows the work itself. On GitHub the
label and the comment commands of the settings ask for the same (`tasks:` in the settings file).";
const CREATE_EXAMPLES: &str = "\
Examples:
  mindos tasks create plan --repo https://github.com/octocat/hello --issue 7
  mindos tasks create quickfix --repo https://github.com/octocat/hello --issue 7 --repeat second-try
  mindos tasks create implement --repo https://github.com/octocat/hello --pr 9
  mindos tasks create refine --repo https://github.com/octocat/hello --pr 9 --request 'use the new helper'

The same wish for the same repository, number and mode is one task, however often it is asked for; --repeat asks for it once more.";
const LIST_EXAMPLES: &str = "\
Examples:
  mindos tasks list
  mindos tasks list --repository octocat/hello --status waiting,leased
  mindos tasks list --output json";
const SHOW_EXAMPLES: &str = "\
Examples:
  mindos tasks show 42
  mindos tasks show octocat/hello#7/plan --output json";
const CANCEL_EXAMPLES: &str = "\
Examples:
  mindos tasks cancel 42
  mindos tasks cancel octocat/hello#7/plan";

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// Ask for a task.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<CreateArgs>),
    /// List tasks, the newest first.
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one task, where it stands and what came of it.
    #[command(after_help = SHOW_EXAMPLES)]
    Show(OneArgs),
    /// Cancel what a task led to.
    #[command(after_help = CANCEL_EXAMPLES)]
    Cancel(OneArgs),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wish {
    /// A plan for an issue, as a draft pull request.
    Plan,
    /// A change for an issue, without a plan before it.
    Quickfix,
    /// What an approved plan says.
    Implement,
    /// A pull request is to be made better.
    Refine,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Stands {
    /// Under an issue, or in the talk of a pull request.
    Issue,
    /// At a line of a pull request's diff.
    Review,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What is to be done.
    #[arg(value_enum)]
    mode: Wish,
    /// Address of the repository, http or https, without credentials.
    #[arg(long, value_name = "URL")]
    repo: String,
    /// The issue.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    issue: Option<u64>,
    /// The pull request.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pr: Option<u64>,
    /// What is to be made better.
    #[arg(long, value_name = "TEXT")]
    request: Option<String>,
    /// Branch of the pull request; looked up when not given.
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
    /// Branch that changes are for; the repository's default branch when not given.
    #[arg(long, value_name = "BRANCH")]
    base: Option<String>,
    /// Comment that asks for it.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    comment: Option<u64>,
    /// Where that comment stands.
    #[arg(long, value_enum, requires = "comment")]
    comment_kind: Option<Stands>,
    /// Who asks; whoever calls when not given.
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    /// A word that tells this wish from an earlier one.
    #[arg(long, value_name = "WORD")]
    repeat: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Repository, as owner/name.
    #[arg(long, value_name = "OWNER/NAME")]
    repository: Option<String>,
    /// Where they stand: waiting, leased, parked, succeeded or cancelled, separated by commas.
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<mindos_model::Status>,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The sequence of its event, such as 42, or its id, such as `octocat/hello#7/plan`.
    #[arg(value_name = "TASK")]
    task: String,
}

pub(crate) async fn run(command: TasksCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    match command {
        TasksCommand::Create(args) => create(*args, global, &client).await,
        TasksCommand::List(args) => list(args, global, &client).await,
        TasksCommand::Show(args) => show(args, global, &client).await,
        TasksCommand::Cancel(args) => cancel(args, global, &client).await,
    }
}

fn spec(args: CreateArgs) -> (TaskSpec, String) {
    let CreateArgs { mode, repo, issue, pr, request, branch, base, comment, comment_kind, user, repeat } = args;
    let mode = match mode {
        Wish::Plan => Mode::Plan,
        Wish::Quickfix => Mode::Quickfix,
        Wish::Implement => Mode::Implement,
        Wish::Refine => Mode::Refine,
    };
    let kind = comment_kind.map_or(CommentKind::Unspecified, |kind| match kind {
        Stands::Issue => CommentKind::Issue,
        Stands::Review => CommentKind::Review,
    });
    let spec = TaskSpec {
        repo_url: repo,
        mode: mode.into(),
        trigger_user: user.unwrap_or_default(),
        issue_id: issue.unwrap_or_default(),
        pr_number: pr.unwrap_or_default(),
        pr_branch: branch.unwrap_or_default(),
        pr_title: String::new(),
        base_branch: base.unwrap_or_default(),
        comment_id: comment.unwrap_or_default(),
        comment_kind: kind.into(),
        comment_url: String::new(),
        refine_request: request.unwrap_or_default(),
    };
    (spec, repeat.unwrap_or_default())
}

async fn create(args: CreateArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let (spec, repeat) = spec(args);
    let request = task::CreateTaskRequest { spec: Some(spec), repeat };
    let answer = client.tasks().create_task(request).await.map_err(client.failed())?.into_inner();
    let Some(task) = &answer.task else { return Err(Failure::world("the answer is empty")) };
    if global.output.is_json() {
        render::print_json(&render::json(&answer));
        return Ok(());
    }
    let before = if answer.duplicate { " (asked for before)" } else { "" };
    let deliveries: Vec<&str> = task.deliveries.iter().map(|delivery| delivery.delivery_id.as_str()).collect();
    render::print(&format!("task {} {}: {}{before}", task.seq, task.id, deliveries.join(" ")));
    Ok(())
}

async fn list(args: ListArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let ListArgs { repository, status, page } = args;
    let statuses: Vec<i32> = status.into_iter().map(|status| DeliveryStatus::from(status).into()).collect();
    let mut tasks: Vec<Task> = Vec::new();
    let mut page_token = String::new();
    while let Some(page_size) = page.next_size(tasks.len()) {
        let repository = repository.clone().unwrap_or_default();
        let request = task::ListTasksRequest { repository, statuses: statuses.clone(), page_size, page_token };
        let answer = client.tasks().list_tasks(request).await.map_err(client.failed())?.into_inner();
        tasks.extend(answer.tasks);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if global.output.is_json() {
        let values: Vec<_> = tasks.iter().map(render::json).collect();
        render::print_json(&json!({"tasks": values}));
        return Ok(());
    }
    let mut table = Table::new(&["task", "id", "mode", "status", "general", "asked by", "created", "parked"]);
    for task in &tasks {
        let spec = task.spec.clone().unwrap_or_default();
        let first = task.deliveries.first();
        table.row(vec![
            task.seq.to_string(),
            clip(&task.id, 60),
            mode_word(&spec),
            first.map(status_word).unwrap_or_default(),
            first.map(general_text).unwrap_or_default(),
            clip(&spec.trigger_user, 30),
            format!("{} ago", ago(task.created_at.as_ref())),
            first.map(park_text).unwrap_or_default(),
        ]);
    }
    render::print(&table.text());
    Ok(())
}

async fn show(args: OneArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let key = match seq(&args.task) {
        Some(seq) => task::get_task_request::Key::Seq(seq),
        None => task::get_task_request::Key::Id(args.task),
    };
    let request = task::GetTaskRequest { key: Some(key), include_output: true };
    let answer = client.tasks().get_task(request).await.map_err(client.failed())?.into_inner();
    let Some(task) = answer.task else { return Err(Failure::world("the answer is empty")) };
    let value = render::json(&task);
    if global.output.is_json() {
        render::print_json(&value);
        return Ok(());
    }
    let line = |name: &str, text: &str| {
        if !text.is_empty() {
            render::print(&format!("{name:<12} {text}"));
        }
    };
    let spec = task.spec.clone().unwrap_or_default();
    let number = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    line("task", &task.seq.to_string());
    line("id", &task.id);
    line("mode", &mode_word(&spec));
    line("repository", &task.repository);
    line("issue", &number(spec.issue_id));
    line("pull request", &number(spec.pr_number));
    line("branch", &spec.pr_branch);
    line("base", &spec.base_branch);
    line("asked by", &spec.trigger_user);
    line("comment", &spec.comment_url);
    line("request", &clip(&spec.refine_request, 200));
    line("created", value["created_at"].as_str().unwrap_or_default());
    for (delivery, shown) in task.deliveries.iter().zip(value["deliveries"].as_array().into_iter().flatten()) {
        render::print("");
        line("delivery", &delivery.delivery_id);
        line("status", &status_word(delivery));
        line("general", &general_text(delivery));
        line("attempts", &delivery.attempts_used.to_string());
        line("parked for", &park_text(delivery));
        if let Some(lease) = &delivery.lease {
            line("progress", &clip(&lease.progress, 120));
        }
        let output = &shown["output"]["data"];
        if !output.is_null() {
            render::print(&format!("{output:#}"));
        }
    }
    Ok(())
}

async fn cancel(args: OneArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let key = match seq(&args.task) {
        Some(seq) => task::cancel_task_request::Key::Seq(seq),
        None => task::cancel_task_request::Key::Id(args.task),
    };
    let request = task::CancelTaskRequest { key: Some(key) };
    let answer = client.tasks().cancel_task(request).await.map_err(client.failed())?.into_inner();
    if global.output.is_json() {
        render::print_json(&render::json(&answer));
        return Ok(());
    }
    let task::CancelTaskResponse { cancelled, requested, unchanged } = answer;
    render::print(&format!("{cancelled} cancelled, {requested} asked to stop, {unchanged} unchanged"));
    Ok(())
}

/// A task by the sequence of its event; its id has other characters than digits.
fn seq(task: &str) -> Option<u64> {
    task.parse().ok()
}

fn mode_word(spec: &TaskSpec) -> String {
    let mode = Mode::try_from(spec.mode).unwrap_or_default();
    short_word(mode.as_str_name(), "MODE_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_by_number_or_id() {
        assert_eq!((seq("42"), seq("octocat/hello#7/plan")), (Some(42), None));
    }
}
