//! `mindos task templates`: the templates of runs, listed, checked against the Job that runs them, and rendered for a look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use mindos_kube::platform::plan::{Kind, Plan, Run, RunSpec};
use mindos_kube::platform::request::{CODE_MODEL, DOCS_MODEL};
use mindos_kube::platform::{CodeRequest, ControllerConfig, DocsRequest, JobSettings, Templates, check};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Output, Table};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos task templates list
  mindos task templates check --templates ./templates --config config.yaml
  mindos task templates render code --file CLAUDE.md
  mindos task templates render docs --objects | kubectl apply --dry-run=server -f -

--templates is a folder with files named as the keys of the ConfigMap, such as `code_claude.md`, or the ConfigMap's manifest.";

#[derive(Debug, Subcommand)]
pub(crate) enum TemplatesCommand {
    /// List the templates in use, and the version of each set.
    #[command(after_help = EXAMPLES)]
    List(SetArgs),
    /// Check that every variable is known and every file that a script demands is mounted.
    #[command(after_help = EXAMPLES)]
    Check(SetArgs),
    /// Render a run as it would be.
    #[command(after_help = EXAMPLES)]
    Render(RenderArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Templates that take the place of the stock ones.
    #[arg(long, value_name = "FOLDER|FILE")]
    templates: Option<PathBuf>,
    /// `config.yaml` of the controller. [default: the stock one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Code,
    Docs,
}

#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    /// The kind of run.
    #[arg(value_enum)]
    kind: Which,
    /// The request as JSON, as it would be posted. [default: a sample]
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// One file alone.
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// The objects as YAML, instead of the files.
    #[arg(long, conflicts_with = "file")]
    objects: bool,
    #[command(flatten)]
    set: SetArgs,
}

pub(super) fn run(command: &TemplatesCommand, global: &Global) -> Result<(), Failure> {
    match command {
        TemplatesCommand::List(set) => list(set, global),
        TemplatesCommand::Check(set) => {
            let (templates, config) = set.read()?;
            let faults = check(&templates, &config, &settings());
            if faults.is_empty() {
                render::print("every variable is known, and every file that is demanded is mounted");
                return Ok(());
            }
            for fault in &faults {
                render::print(&fault.to_string());
            }
            Err(Failure::verification(format!("{} faults", faults.len())))
        }
        TemplatesCommand::Render(args) => render_one(args),
    }
}

fn settings() -> JobSettings {
    JobSettings { tool_server: "http://toolman.mcp.svc.cluster.local:3000/mcp".to_owned(), ..JobSettings::default() }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

impl SetArgs {
    fn read(&self) -> Result<(Templates, ControllerConfig), Failure> {
        let given: BTreeMap<String, String> = match &self.templates {
            None => BTreeMap::new(),
            Some(path) if path.is_dir() => folder(path)?,
            Some(path) => {
                let map: Value = serde_norway::from_str(&read(path)?)
                    .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
                let data = map["data"]
                    .as_object()
                    .ok_or_else(|| Failure::usage(format!("{}: expected a ConfigMap with `data`", path.display())))?;
                data.iter().map(|(key, text)| (key.clone(), text.as_str().unwrap_or_default().to_owned())).collect()
            }
        };
        let templates = Templates::with(given.iter().map(|(key, text)| (key.as_str(), text.as_str())))
            .map_err(|error| Failure::usage(error.to_string()))?;
        let config = match &self.config {
            None => "agent: { image: { repository: ghcr.io/5dlabs/platform/claude-code, tag: 1.0.56 } }".to_owned(),
            Some(path) => read(path)?,
        };
        Ok((templates, ControllerConfig::read(&config).map_err(Failure::usage)?))
    }
}

fn folder(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().is_file() {
            files.insert(entry.file_name().to_string_lossy().into_owned(), read(&entry.path())?);
        }
    }
    Ok(files)
}

fn list(set: &SetArgs, global: &Global) -> Result<(), Failure> {
    let (templates, _) = set.read()?;
    let versions = json!({ "code": templates.version(Kind::Code), "docs": templates.version(Kind::Docs) });
    if global.output != Output::Table {
        let keys: Vec<Value> = templates
            .each()
            .map(|(kind, key, text)| json!({ "kind": kind.as_str(), "key": key, "bytes": text.len() }))
            .collect();
        render::print_json(&json!({ "versions": versions, "templates": keys }));
        return Ok(());
    }
    let mut table = Table::new(&["kind", "key", "bytes"]);
    for (kind, key, text) in templates.each() {
        table.row(vec![kind.as_str().to_owned(), key.to_owned(), text.len().to_string()]);
    }
    render::print(&table.text());
    render::print(&format!("versions: code {}, docs {}", templates.version(Kind::Code), templates.version(Kind::Docs)));
    Ok(())
}

fn render_one(args: &RenderArgs) -> Result<(), Failure> {
    let RenderArgs { kind, request, file, objects, set } = args;
    let (templates, config) = set.read()?;
    let url = "https://github.com/acme/trader";
    let given: Value = match (request, kind) {
        (Some(path), _) => {
            serde_json::from_str(&read(path)?).map_err(|error| Failure::usage(format!("--request: {error}")))?
        }
        (None, Which::Code) => {
            json!({ "task_id": 5, "service": "trader", "repository_url": url, "docs_repository_url": url, "github_user": "ada" })
        }
        (None, Which::Docs) => {
            json!({ "repository_url": url, "working_directory": ".", "source_branch": "main", "github_user": "ada" })
        }
    };
    let object = given.as_object().ok_or_else(|| Failure::usage("--request: expected a JSON object"))?;
    let spec = match kind {
        Which::Code => CodeRequest::read(object, CODE_MODEL).map(RunSpec::Code),
        Which::Docs => DocsRequest::read(object, DOCS_MODEL).map(RunSpec::Docs),
    };
    let spec = spec.map_err(|error| Failure::usage(format!("--request: {error}")))?;
    let context = match &spec {
        RunSpec::Code(spec) => spec.context_version,
        RunSpec::Docs(_) => 1,
    };
    let run = Run {
        name: "preview".to_owned(),
        namespace: "orchestrator".to_owned(),
        uid: "00000000-0000-0000-0000-000000000000".to_owned(),
        spec,
        context,
        retries: 0,
    };
    let plan = Plan::new(&run, &config, &settings(), &templates, false);
    let plan = plan.map_err(|error| Failure::verification(error.to_string()))?;
    if *objects {
        let yaml =
            |value: Result<String, serde_norway::Error>| value.map_err(|error| Failure::world(error.to_string()));
        for text in [yaml(serde_norway::to_string(&plan.files))?, yaml(serde_norway::to_string(&plan.job))?] {
            render::print("---");
            render::print(text.trim_end());
        }
        return Ok(());
    }
    for (name, text) in plan.rendered() {
        match file {
            Some(wanted) if wanted == name => {
                render::print(text.trim_end());
                return Ok(());
            }
            Some(_) => {}
            None => render::print(&format!("==> {name} <==\n{}\n", text.trim_end())),
        }
    }
    match file {
        Some(wanted) => Err(Failure::not_found(format!("no template becomes `{wanted}`"))),
        None => Ok(()),
    }
}
