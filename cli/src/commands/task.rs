//! `mindos task`: runs of code and documentation as Jobs in Kubernetes, over the platform's paths.
//!
//! The flags, and what is found out where they are not given, are those of the earlier `orchestrator task`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{HeaderValue, Method, StatusCode, header};
use mindos_outgoing::{Outgoing, Request, Target};
use serde_json::{Map, Value, json};

use super::task_here::{self, Here};
use super::task_templates::{self, TemplatesCommand};
use crate::failure::{Failure, Kind};
use crate::options::Global;
use crate::render::{self, Output, Table, clip};
use crate::site::chain;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Where the earlier system was.
const API_URL: &str = "http://orchestrator.orchestrator.svc.cluster.local/api/v1";

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos task code 5 --service trader --docs-repository-url https://github.com/acme/docs
  mindos task docs --working-directory projects/trader --model opus
  mindos task list
  mindos task logs code-5-1700000000
  mindos task cancel code-5-1700000000
  mindos task templates check --templates ./templates

A run is done by an agent in a Job of a cluster, over the control plane's `--surface platform=ADDRESS` (--api-url, ORCHESTRATOR_API_URL).
That is another thing than `mindos tasks`, whose plans and changes for issues on GitHub are made by the coding general.";
const CODE_EXAMPLES: &str = "\
Examples:
  mindos task code 5 --service trader --docs-repository-url https://github.com/acme/docs
  mindos task code 5 -s trader --repo https://github.com/acme/trader --docs-repository-url https://github.com/acme/docs \\
    --github-user ada --model opus --tool-config advanced --env RUST_LOG=debug --env-from-secrets DB:db:url

Within a clone, --repository-url is that of origin, -w the directory within it, and --github-user git's user.name.";
const DOCS_EXAMPLES: &str = "\
Examples:
  mindos task docs
  mindos task docs -w projects/trader --model opus --no-push

The directory has to hold `.taskmaster`. Its tasks are copied to `.taskmaster/docs/task-<id>/task.txt`; then it is committed and pushed to
the source branch, so that the run sees it. --no-push leaves git alone.";

#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    /// Address of the platform's paths, up to `/api/v1`.
    #[arg(long, global = true, env = "ORCHESTRATOR_API_URL", default_value = API_URL, value_name = "URL")]
    api_url: String,
    #[command(subcommand)]
    command: TaskCommand,
}

#[derive(Debug, Subcommand)]
enum TaskCommand {
    /// Have a task of a service done in its repository.
    #[command(after_help = CODE_EXAMPLES)]
    Code(Box<CodeArgs>),
    /// Have the documentation of a project's tasks written.
    #[command(after_help = DOCS_EXAMPLES)]
    Docs(DocsArgs),
    /// List runs, the newest first.
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one run.
    #[command(after_help = ONE_EXAMPLES)]
    Get(OneArgs),
    /// Print the last part of a run's log.
    #[command(after_help = ONE_EXAMPLES)]
    Logs(OneArgs),
    /// Cancel a run: its Job is deleted.
    #[command(after_help = ONE_EXAMPLES)]
    Cancel(OneArgs),
    /// Have a run's task done again, with something to be done differently, in the session that there is.
    #[command(after_help = ONE_EXAMPLES)]
    Context(ContextArgs),
    /// Look at the templates that become the files of a run.
    #[command(subcommand, after_help = task_templates::EXAMPLES)]
    Templates(TemplatesCommand),
}

#[derive(Debug, Args)]
struct CodeArgs {
    /// Number of the task.
    task_id: u32,
    /// The service that it is for.
    #[arg(long, short, value_name = "NAME")]
    service: String,
    /// Where the code is. [default: origin of the clone here]
    #[arg(long, visible_alias = "repo", value_name = "URL")]
    repository_url: Option<String>,
    /// Where the task is described. [default: the same repository]
    #[arg(long, visible_alias = "platform-repository-url", value_name = "URL")]
    docs_repository_url: Option<String>,
    /// Directory of the project there. [default: _projects/<service>]
    #[arg(long, visible_alias = "platform-project-directory", value_name = "DIR")]
    docs_project_directory: Option<String>,
    /// Whose secrets are used. [default: git's user.name, else claude-agent-1]
    #[arg(long, value_name = "LOGIN")]
    github_user: Option<String>,
    /// Directory within the repository. [default: the one here, or the service]
    #[arg(long, short, value_name = "DIR")]
    working_directory: Option<String>,
    /// The model: its name, or `opus`, `sonnet` or `haiku`.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Local tools, separated by commas.
    #[arg(long, value_name = "NAMES")]
    local_tools: Option<String>,
    /// Remote tools, separated by commas.
    #[arg(long, value_name = "NAMES")]
    remote_tools: Option<String>,
    /// The set of tools to begin with: default, minimal or advanced.
    #[arg(long, value_name = "SET")]
    tool_config: Option<String>,
    /// Which attempt at the task this is.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    context_version: u32,
    /// What is to be done differently.
    #[arg(long, value_name = "TEXT")]
    prompt_modification: Option<String>,
    /// Branch of the documentation.
    #[arg(long, default_value = "main", value_name = "BRANCH")]
    docs_branch: String,
    /// Branch that the change is for.
    #[arg(long, default_value = "main", value_name = "BRANCH")]
    branch: String,
    /// Go on with the last session.
    #[arg(long)]
    continue_session: bool,
    /// Write over a CLAUDE.md that is there.
    #[arg(long)]
    overwrite_memory: bool,
    /// Environment of the agent, such as `A=1,B=2`.
    #[arg(long, value_name = "K=V,..")]
    env: Option<String>,
    /// Environment from secrets, such as `DB:db:url`: variable, secret, key.
    #[arg(long, value_name = "NAME:SECRET:KEY,..")]
    env_from_secrets: Option<String>,
}

#[derive(Debug, Args)]
struct DocsArgs {
    /// Directory of the project. [default: the one here]
    #[arg(long, short, value_name = "DIR")]
    working_directory: Option<String>,
    /// The model: its name, or `opus`, `sonnet` or `haiku`.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Where the project is. [default: origin of the clone here]
    #[arg(long, visible_alias = "repo", value_name = "URL")]
    repository_url: Option<String>,
    /// The branch that is read. [default: the one here]
    #[arg(long, value_name = "BRANCH")]
    source_branch: Option<String>,
    /// Whose secrets are used. [default: git's user.name, else claude-agent-1]
    #[arg(long, value_name = "LOGIN")]
    github_user: Option<String>,
    /// Neither copy, commit nor push `.taskmaster`.
    #[arg(long)]
    no_push: bool,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Runs at most, 1 to 200.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200), value_name = "COUNT")]
    limit: u32,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// The run: its name, the uid of its object, or the sequence of its event.
    run: String,
}

const LIST_EXAMPLES: &str = "\
Examples:
  mindos task list
  mindos task list --limit 200 --output json";

const ONE_EXAMPLES: &str = "\
Examples:
  mindos task get code-5-1795176000
  mindos task logs code-5-1795176000
  mindos task cancel code-5-1795176000
  mindos task context code-5-1795176000 'use the logger that is there'";

#[derive(Debug, Args)]
struct ContextArgs {
    /// The run.
    run: String,
    /// What is to be done differently.
    #[arg(value_name = "TEXT")]
    text: String,
}

pub(crate) async fn run(args: TaskArgs, global: &Global) -> Result<(), Failure> {
    let TaskArgs { api_url, command } = args;
    if let TaskCommand::Templates(command) = command {
        return task_templates::run(&command, global);
    }
    let api = Api::new(&api_url, global.ca.as_deref())?;
    match command {
        TaskCommand::Code(args) => {
            let body = code(*args, &Here::find(Path::new(".")))?;
            let answer = api.ask(Method::POST, "/pm/tasks", Some(&body)).await?;
            submitted(&answer, "coderun_name", global.output)
        }
        TaskCommand::Docs(args) => {
            let body = docs(args, &Here::find(Path::new(".")))?;
            let answer = api.ask(Method::POST, "/pm/docs/generate", Some(&body)).await?;
            submitted(&answer, "docsrun_name", global.output)
        }
        TaskCommand::Context(ContextArgs { run, text }) => {
            let path = format!("/pm/tasks/{}/context", segment(&run)?);
            let answer = api.ask(Method::POST, &path, Some(&json!({ "prompt_modification": text }))).await?;
            submitted(&answer, "coderun_name", global.output)
        }
        TaskCommand::List(ListArgs { limit }) => {
            let answer = api.ask(Method::GET, &format!("/pm/tasks?limit={limit}"), None).await?;
            list(&answer["data"], global.output);
            Ok(())
        }
        TaskCommand::Get(OneArgs { run }) => {
            let answer = api.ask(Method::GET, &format!("/pm/tasks/{}", segment(&run)?), None).await?;
            show(&answer["data"], global.output);
            Ok(())
        }
        TaskCommand::Logs(OneArgs { run }) => {
            let text = api.text(&format!("/pm/tasks/{}/logs", segment(&run)?)).await?;
            render::print(text.trim_end());
            Ok(())
        }
        TaskCommand::Cancel(OneArgs { run }) => {
            let answer = api.ask(Method::DELETE, &format!("/pm/tasks/{}", segment(&run)?), None).await?;
            print(&answer, answer["message"].as_str().unwrap_or_default(), global.output);
            Ok(())
        }
        TaskCommand::Templates(_) => Ok(()),
    }
}

/// A part of a path: what is not plain would name another.
fn segment(run: &str) -> Result<&str, Failure> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    match (1..=253).contains(&run.len()) && run.bytes().all(fits) && run != ".." {
        true => Ok(run),
        false => Err(Failure::usage("RUN: expected the name of a run, the uid of its object or a number")),
    }
}

/// The platform's paths.
struct Api {
    client: Outgoing,
    target: Target,
    url: String,
}

impl Api {
    fn new(url: &str, ca: Option<&Path>) -> Result<Api, Failure> {
        let refused = |error: String| Failure::usage(format!("--api-url: {error}"));
        // Nobody says who they are there, so nothing secret is sent.
        let target = Target::parse(url.trim_end_matches('/'), true).map_err(|error| refused(error.to_string()))?;
        let client = match ca {
            None => Outgoing::new(),
            Some(path) => {
                let bad = |error: String| Failure::usage(format!("--ca `{}`: {error}", path.display()));
                let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
                Outgoing::trusting(&pem).map_err(|error| bad(error.to_string()))?
            }
        };
        Ok(Api { client, target, url: url.to_owned() })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Bytes), Failure> {
        let target = self.target.join(path).map_err(|error| Failure::usage(format!("--api-url: {error}")))?;
        let mut request = Request::new(method, target);
        (request.timeout, request.answer_max) = (ANSWER_WITHIN, 16 << 20);
        if let Some(body) = body {
            request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            request.body = body.to_string().into();
        }
        let answer = self.client.send(request).await.map_err(|error| {
            Failure::world(format!("cannot speak to {}: {}", self.url, chain(&error)))
                .hint("name the platform's paths with --api-url or ORCHESTRATOR_API_URL; the control plane serves them with --surface platform=ADDRESS")
        })?;
        if answer.status.is_success() {
            return Ok((answer.status, answer.body));
        }
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let message = match serde_json::from_str::<Value>(&text) {
            Ok(value) => value["message"].as_str().or(value["error"]["message"].as_str()).unwrap_or(&text).to_owned(),
            Err(_) => text,
        };
        let kind = match answer.status {
            StatusCode::NOT_FOUND => Kind::NotFound,
            status if status.is_client_error() => Kind::Refused,
            _ => Kind::World,
        };
        Err(Failure::new(kind, clip(message.trim(), 1000)))
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let (_, body) = self.send(method, path, body).await?;
        let value: Value = serde_json::from_slice(&body)
            .map_err(|_| Failure::world(format!("{} answered with something else than JSON", self.url)))?;
        match value["success"] {
            // The earlier system said so under 200.
            Value::Bool(false) => Err(Failure::refused(value["message"].as_str().unwrap_or("it was refused"))),
            _ => Ok(value),
        }
    }

    async fn text(&self, path: &str) -> Result<String, Failure> {
        let (_, body) = self.send(Method::GET, path, None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// A model by a short name.
fn model(name: Option<String>) -> Option<String> {
    name.map(|name| match name.as_str() {
        "opus" => "claude-opus-4-20250514".to_owned(),
        "sonnet" => "claude-sonnet-4-20250514".to_owned(),
        "haiku" => "claude-3-5-haiku-20241022".to_owned(),
        _ => name,
    })
}

fn code(args: CodeArgs, here: &Here) -> Result<Value, Failure> {
    let CodeArgs {
        task_id,
        service,
        repository_url,
        docs_repository_url,
        docs_project_directory,
        github_user,
        working_directory,
        model,
        local_tools,
        remote_tools,
        tool_config,
        context_version,
        prompt_modification,
        docs_branch,
        branch,
        continue_session,
        overwrite_memory,
        env,
        env_from_secrets,
    } = args;
    let repository_url = here.repository(repository_url)?;
    let mut body = json!({
        "task_id": task_id,
        "service": service,
        "docs_repository_url": docs_repository_url.unwrap_or_else(|| repository_url.clone()),
        "repository_url": repository_url,
        "github_user": here.user(github_user),
        "context_version": context_version,
        "docs_branch": docs_branch,
        "branch": branch,
        "continue_session": continue_session,
        "overwrite_memory": overwrite_memory,
        "env": pairs(env.as_deref())?,
        "env_from_secrets": secrets(env_from_secrets.as_deref())?,
    });
    let texts = [
        ("docs_project_directory", docs_project_directory),
        ("working_directory", working_directory.or_else(|| here.directory.clone())),
        ("model", self::model(model)),
        ("local_tools", local_tools),
        ("remote_tools", remote_tools),
        ("tool_config", tool_config),
        ("prompt_modification", prompt_modification),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            body[name] = json!(text);
        }
    }
    Ok(body)
}

fn docs(args: DocsArgs, here: &Here) -> Result<Value, Failure> {
    let DocsArgs { working_directory, model, repository_url, source_branch, github_user, no_push } = args;
    let branch = source_branch.or_else(|| here.branch.clone()).unwrap_or_else(|| "main".to_owned());
    let repository_url = here.repository(repository_url)?;
    let directory = working_directory.clone().map_or_else(|| PathBuf::from("."), PathBuf::from);
    task_here::taskmaster(&directory, &branch, here, no_push)?;
    let within = match working_directory {
        Some(directory) => here.within(Path::new(&directory)),
        None => here.directory.clone(),
    };
    let mut body = json!({
        "repository_url": repository_url,
        "working_directory": within.unwrap_or_else(|| ".".to_owned()),
        "source_branch": branch,
        "github_user": here.user(github_user),
    });
    if let Some(model) = self::model(model) {
        body["model"] = json!(model);
    }
    Ok(body)
}

/// `A=1,B=2`; a part without `=` belongs to the value before it.
fn pairs(text: Option<&str>) -> Result<Map<String, Value>, Failure> {
    let mut found: Vec<(String, String)> = Vec::new();
    for part in text.into_iter().flat_map(|text| text.split(',')) {
        match (part.split_once('='), found.last_mut()) {
            (Some((name, value)), _) => found.push((name.trim().to_owned(), value.to_owned())),
            (None, Some((_, value))) => {
                value.push(',');
                value.push_str(part);
            }
            (None, None) => return Err(Failure::usage("--env: expected KEY=VALUE, several separated by commas")),
        }
    }
    Ok(found.into_iter().map(|(name, value)| (name, Value::from(value))).collect())
}

/// `name:secret:key,..`.
fn secrets(text: Option<&str>) -> Result<Vec<Value>, Failure> {
    let one = |part: &str| {
        let parts: Vec<&str> = part.split(':').map(str::trim).collect();
        match parts[..] {
            [name, secret, key] if !name.is_empty() && !secret.is_empty() && !key.is_empty() => {
                Ok(json!({ "name": name, "secretName": secret, "secretKey": key }))
            }
            _ => Err(Failure::usage("--env-from-secrets: expected NAME:SECRET:KEY, several separated by commas")),
        }
    };
    text.into_iter().flat_map(|text| text.split(',')).map(one).collect()
}

fn print(value: &Value, line: &str, output: Output) {
    match output {
        Output::Json => render::print_json(value),
        Output::Yaml => render::print(serde_norway::to_string(value).unwrap_or_default().trim_end()),
        Output::Table => render::print(line),
    }
}

fn submitted(answer: &Value, name: &str, output: Output) -> Result<(), Failure> {
    let data = &answer["data"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = format!("{} in {}", text(&data[name]), text(&data["namespace"]));
    print(answer, &line, output);
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list(data: &Value, output: Output) {
    if output != Output::Table {
        return print(data, "", output);
    }
    let mut table =
        Table::new(&["run", "kind", "task", "service", "phase", "attempts", "cost", "pull request", "created"]);
    for run in data["runs"].as_array().into_iter().flatten() {
        let names =
            ["name", "kind", "task_id", "service", "phase", "attempts", "cost_usd", "pull_request_url", "created_at"];
        table.row(names.iter().map(|name| clip(&cell(&run[*name]), 70)).collect());
    }
    render::print(&table.text());
}

fn show(run: &Value, output: Output) {
    if output != Output::Table {
        return print(run, "", output);
    }
    for name in [
        "name",
        "namespace",
        "kind",
        "phase",
        "message",
        "task_id",
        "service",
        "repository_url",
        "model",
        "github_user",
        "context_version",
        "attempts",
        "cluster",
        "job_name",
        "pull_request_url",
        "session_id",
        "cost_usd",
        "delivery",
        "created_at",
    ] {
        let text = cell(&run[name]);
        if !text.is_empty() {
            render::print(&format!("{:<17} {}", name.replace('_', " "), clip(&text, 400)));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: TaskArgs,
    }

    fn body(words: &[&str]) -> Result<Value, Failure> {
        let words = [&["task"], words].concat();
        let here = Here {
            origin: Some("https://github.com/acme/trader".to_owned()),
            branch: Some("develop".to_owned()),
            directory: Some("services/trader".to_owned()),
            user: Some("ada".to_owned()),
            root: None,
        };
        match Command::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).args.command {
            TaskCommand::Code(args) => code(*args, &here),
            _ => panic!("another command"),
        }
    }

    #[test]
    fn flags_become_the_members_of_the_contract() {
        let words =
            ["code", "5", "-s", "trader", "--model", "opus", "--env", "A=1,B=x,y", "--env-from-secrets", "D:s:k,E:t:l"];
        let body = body(&words).unwrap();
        assert_eq!((&body["task_id"], &body["service"]), (&json!(5), &json!("trader")));
        assert_eq!(body["repository_url"], body["docs_repository_url"]);
        assert_eq!((&body["github_user"], &body["working_directory"]), (&json!("ada"), &json!("services/trader")));
        assert_eq!(body["env"], json!({ "A": "1", "B": "x,y" }));
        assert_eq!(body["env_from_secrets"][1], json!({ "name": "E", "secretName": "t", "secretKey": "l" }));
        assert_eq!((&body["model"], &body["docs_branch"]), (&json!("claude-opus-4-20250514"), &json!("main")));
        let object = body.as_object().unwrap();
        mindos_kube::platform::CodeRequest::read(object, "m").unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (words, named) in [
            (&["code", "5", "-s", "x", "--env", "A"][..], "--env"),
            (&["code", "5", "-s", "x", "--env-from-secrets", "A:b"], "--env-from-secrets"),
        ] {
            let failure = body(words).unwrap_err();
            assert!(failure.kind == Kind::Usage && failure.message.starts_with(named), "{failure}");
        }
        assert!(Command::try_parse_from(["task", "code", "x", "-s", "y"]).is_err());
        assert!(Command::try_parse_from(["task", "code", "5"]).is_err());
        for bad in ["", "a/b", "..", "a?b"] {
            assert!(segment(bad).is_err(), "{bad}");
        }
    }
}
