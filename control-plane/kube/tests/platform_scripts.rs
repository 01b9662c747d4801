//! The shipped scripts, run as a Job runs them: in a folder laid out like its mounts, with bash and git, over repositories of this
//! machine, with stand-ins for the agent and for GitHub's own program.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use mindos_kube::platform::plan::{Plan, Run, RunSpec};
use mindos_kube::platform::request::{CODE_MODEL, DOCS_MODEL};
use mindos_kube::platform::{CodeRequest, ControllerConfig, DocsRequest, JobSettings, Outcome, Templates};
use serde_json::{Value, json};

/// Keeps what it was asked in files, works as the test says, and tells as the agent does.
const CLAUDE: &str = r#"#!/bin/bash
printf '%s\n' "$*" >>"$SEEN/claude.arguments"
cat >"$SEEN/claude.prompt"
ls -A >"$SEEN/claude.files"; ls -A task >"$SEEN/claude.task" 2>/dev/null
echo '{"type":"system","subtype":"init"}'
mkdir -p "$HOME/.claude/projects"
eval "$CLAUDE_DOES" || exit 7
echo '{"type":"result","subtype":"success","total_cost_usd":0.25,"session_id":"abc-123","usage":{"input_tokens":100,"output_tokens":20},"result":"done"}'
"#;
const GH: &str = r#"#!/bin/bash
printf '%s\n' "$*" >>"$SEEN/gh.arguments"
case "$2" in
list) cat "$SEEN/opened" 2>/dev/null ;;
create) echo https://github.com/acme/trader/pull/7 >"$SEEN/opened"; echo "Creating pull request"; cat "$SEEN/opened" ;;
esac
"#;
const CURL: &str = r#"#!/bin/bash
printf '%s\n' "$*" >>"$SEEN/curl.arguments"
cat >"$SEEN/curl.config"
case "$*" in
*-X\ POST*) echo '{ "html_url": "https://github.com/acme/trader/pull/9", "id": 1 }' ;;
*) echo '[]' ;;
esac
"#;

static FOLDERS: AtomicU32 = AtomicU32::new(0);

struct Bench {
    root: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Bench {
    fn new() -> Bench {
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("mindos-runs-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for folder in ["workspace", "task-files", "etc/claude-code", "dev", "seen", "bin", "tmp", "repositories"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("dev/termination-log"), "").unwrap();
        program(&root.join("bin/claude"), CLAUDE);
        program(&root.join("bin/gh"), GH);
        // Addresses of requests lead to repositories of this machine.
        let rewrite = format!("[url \"{}/repositories/\"]\n\tinsteadOf = https://github.com/\n", root.display());
        fs::write(root.join("workspace/.gitconfig"), rewrite).unwrap();
        Bench { root }
    }

    fn git(&self, at: &Path, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
            .args(arguments)
            .current_dir(at)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A repository with these files on `main`.
    fn repository(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let bare = self.root.join("repositories").join(name);
        fs::create_dir_all(&bare).unwrap();
        self.git(&bare, &["init", "--bare", "--quiet"]);
        self.git(&bare, &["symbolic-ref", "HEAD", "refs/heads/main"]);
        self.push(&bare, "main", files);
        bare
    }

    /// Puts files on a branch.
    fn push(&self, bare: &Path, branch: &str, files: &[(&str, &str)]) {
        let work = self.root.join("tmp/work");
        let _ = fs::remove_dir_all(&work);
        self.git(&self.root, &["clone", "--quiet", bare.to_str().unwrap(), work.to_str().unwrap()]);
        self.git(&work, &["checkout", "--quiet", "-B", branch]);
        for (file, text) in files {
            fs::create_dir_all(work.join(file).parent().unwrap()).unwrap();
            fs::write(work.join(file), text).unwrap();
        }
        self.git(&work, &["add", "--all"]);
        self.git(&work, &["commit", "--quiet", "-m", "seed"]);
        self.git(&work, &["push", "--quiet", "origin", branch]);
    }

    fn code_repositories(&self) -> PathBuf {
        self.repository(
            "acme/docs",
            &[
                ("_projects/trader/.taskmaster/docs/task-5/task.md", "the task\n"),
                ("_projects/trader/.taskmaster/docs/task-5/prompt.md", "the prompt of the task\n"),
                ("_projects/trader/.taskmaster/docs/task-5/acceptance-criteria.md", "criteria\n"),
                ("_projects/trader/.taskmaster/docs/architecture.md", "architecture\n"),
            ],
        );
        self.repository("acme/trader", &[("README.md", "trader\n"), ("trader/lib.txt", "one\n")])
    }

    /// Runs the Job of a run: its files at their mounts, its environment, its command.
    fn job(&self, run: &Run, more: &[(&str, &str)]) -> (Output, Outcome) {
        let config = ControllerConfig::read("agent: { image: { repository: a, tag: b } }").unwrap();
        let plan = Plan::new(run, &config, &JobSettings::default(), &Templates::stock(), false).unwrap();
        let files = self.root.join("task-files");
        fs::remove_dir_all(&files).unwrap();
        fs::create_dir_all(&files).unwrap();
        for (file, text) in plan.rendered() {
            fs::write(files.join(file), self.here(text)).unwrap();
        }
        let managed = self.root.join("etc/claude-code/managed-settings.json");
        if !more.iter().any(|(name, _)| *name == "WITHOUT_SETTINGS") {
            fs::copy(files.join("settings.json"), &managed).unwrap();
        } else {
            let _ = fs::remove_file(&managed);
        }
        fs::write(self.root.join("dev/termination-log"), "").unwrap();
        let pod = plan.job.spec.unwrap().template.spec.unwrap();
        let container = &pod.containers[0];
        let value = |text: &str| self.here(text).replace("$$(", "$(");
        let env: BTreeMap<String, String> = container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| Some((variable.name.clone(), value(variable.value.as_ref()?))))
            .collect();
        let command = container.command.clone().unwrap();
        let path = format!("{}/bin:/usr/local/bin:/usr/bin:/bin", self.root.display());
        let output = Command::new(&command[0])
            .args(container.args.iter().flatten().map(|argument| self.here(argument)))
            .current_dir(self.root.join("workspace"))
            .env_clear()
            .envs(env)
            .env("PATH", path)
            .env("TMPDIR", self.root.join("tmp"))
            .env("SEEN", self.root.join("seen"))
            .env("GITHUB_TOKEN", "the-token")
            .env("ANTHROPIC_API_KEY", "the-key")
            .env("CLAUDE_DOES", "true")
            .envs(more.iter().copied())
            .output()
            .unwrap();
        let message = fs::read_to_string(self.root.join("dev/termination-log")).unwrap();
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!log.contains("the-token") && !message.contains("the-token"));
        let outcome = Outcome::read(Some(&message), &log);
        assert_eq!(outcome, Outcome::read(None, &log), "the log tells the same as the message");
        (output, outcome)
    }

    /// A text with the places of the pod in this folder.
    fn here(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for place in ["/task-files", "/workspace", "/etc/claude-code", "/dev/termination-log"] {
            text = text.replace(place, &format!("{}{place}", self.root.display()));
        }
        text
    }

    fn seen(&self, file: &str) -> String {
        fs::read_to_string(self.root.join("seen").join(file)).unwrap_or_default()
    }
}

fn ended(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(spec: RunSpec, context: u32, retries: u32) -> Run {
    let uid = "0123abcd-1111".to_owned();
    Run { name: "r".to_owned(), namespace: "orchestrator".to_owned(), uid, spec, context, retries }
}

fn code(more: Value) -> RunSpec {
    let mut request = json!({
        "task_id": 5, "service": "trader", "repository_url": "https://github.com/acme/trader",
        "docs_repository_url": "https://github.com/acme/docs", "github_user": "ada",
    });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    RunSpec::Code(CodeRequest::read(request.as_object().unwrap(), CODE_MODEL).unwrap())
}

const WORKS: (&str, &str) = ("CLAUDE_DOES", "echo two >>lib.txt; echo new >new.txt");
const FEATURE: &str = "feature/task-5-implementation";

#[test]
fn a_code_run_reaches_commit_push_and_pull_request_and_a_retry_goes_on() {
    let bench = Bench::new();
    let origin = bench.code_repositories();

    let (output, outcome) = bench.job(&run(code(json!({})), 1, 0), &[WORKS]);

    assert!(output.status.success(), "{}", ended(&output));
    assert_eq!(outcome.pull_request_url.as_deref(), Some("https://github.com/acme/trader/pull/7"));
    assert_eq!((outcome.branch.as_deref(), outcome.session_id.as_deref()), (Some(FEATURE), Some("abc-123")));
    assert_eq!((outcome.cost_micros, outcome.input_tokens, outcome.exit_code), (Some(250_000), Some(100), Some(0)));
    let changed = bench.git(&origin, &["diff", "--name-only", "main", FEATURE]);
    assert_eq!(changed, "trader/lib.txt\ntrader/new.txt", "nothing of the run itself is committed");
    assert_eq!(bench.git(&origin, &["log", "-1", "--format=%s %an", FEATURE]), "feat(trader): implement task 5 ada");
    let prompt = bench.seen("claude.prompt");
    assert!(prompt.contains("Implement task 5 of trader") && prompt.contains("the prompt of the task"), "{prompt}");
    let task = bench.seen("claude.task");
    for file in
        ["task.md", "acceptance-criteria.md", "prompt.md", "architecture.md", "coding-guidelines.md", "mcp-tools.md"]
    {
        assert!(task.lines().any(|line| line == file), "{file} is not in {task}");
    }
    assert!(bench.seen("claude.files").contains("CLAUDE.md") && bench.seen("claude.files").contains(".mcp.json"));
    assert!(
        bench.seen("claude.arguments").contains("--model claude-sonnet-4-20250514")
            && !bench.seen("claude.arguments").contains("--continue")
    );

    let (output, outcome) = bench.job(&run(code(json!({})), 2, 1), &[("CLAUDE_DOES", "echo three >>lib.txt")]);

    assert!(output.status.success(), "{}", ended(&output));
    assert!(ended(&output).contains("reusing the clone"));
    assert!(bench.seen("claude.arguments").lines().last().unwrap().contains("--continue"));
    assert!(bench.seen("claude.prompt").contains("An earlier attempt"));
    assert_eq!(outcome.pull_request_url.as_deref(), Some("https://github.com/acme/trader/pull/7"));
    let opened = bench.seen("gh.arguments").lines().filter(|line| line.starts_with("pr create")).count();
    assert_eq!(opened, 1, "the pull request is opened once");
    assert_eq!(bench.git(&origin, &["rev-list", "--count", &format!("main..{FEATURE}")]), "2");
}

#[test]
fn what_an_attempt_left_uncommitted_is_there_for_the_next() {
    let bench = Bench::new();
    bench.code_repositories();
    let (output, outcome) = bench.job(&run(code(json!({})), 1, 0), &[("CLAUDE_DOES", "echo half >half.txt; false")]);
    assert_eq!(output.status.code(), Some(7), "{}", ended(&output));
    assert_eq!((outcome.exit_code, outcome.message.as_deref()), (Some(7), Some("the agent ended with 7")));
    assert_eq!(bench.seen("gh.arguments"), "");
    let (output, outcome) = bench.job(&run(code(json!({})), 2, 1), &[("CLAUDE_DOES", "grep -q half half.txt")]);
    assert!(output.status.success() && outcome.pull_request_url.is_some(), "{}", ended(&output));
}

#[test]
fn a_run_that_changes_nothing_ends_well_without_a_pull_request() {
    let bench = Bench::new();
    bench.code_repositories();
    let (output, outcome) = bench.job(&run(code(json!({})), 1, 0), &[]);
    assert!(output.status.success() && outcome.pull_request_url.is_none(), "{}", ended(&output));
    assert!(ended(&output).contains("nothing was changed"));
}

#[test]
fn what_is_missing_ends_a_run_before_the_agent_is_called() {
    let bench = Bench::new();
    bench.code_repositories();
    let (output, outcome) = bench.job(&run(code(json!({})), 1, 0), &[("WITHOUT_SETTINGS", "1")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(outcome.message.unwrap().ends_with("managed-settings.json is missing or empty"));
    for (more, message) in [
        (json!({ "repository_url": "https://github.com/acme/nothing" }), "cannot read https://github.com/acme/nothing"),
        (json!({ "docs_branch": "nowhere" }), "cannot clone https://github.com/acme/docs at nowhere"),
        (json!({ "branch": "nowhere" }), "https://github.com/acme/trader has no branch nowhere"),
        (json!({ "task_id": 6 }), "task/prompt.md is missing or empty"),
    ] {
        let (output, outcome) = bench.job(&run(code(more), 1, 0), &[]);
        assert_eq!(output.status.code(), Some(1), "{}", ended(&output));
        let said = outcome.message.unwrap_or_default();
        assert!(said.contains(message), "{said}");
    }
    assert_eq!(bench.seen("claude.arguments"), "", "the agent costs money");
}

#[test]
fn code_and_documentation_may_be_one_repository() {
    let bench = Bench::new();
    let described =
        [("_projects/trader/.taskmaster/docs/task-5/prompt.md", "one prompt\n"), ("trader/lib.txt", "one\n")];
    let origin = bench.repository("acme/trader", &described);
    let spec = code(json!({ "docs_repository_url": "https://github.com/acme/trader" }));
    let (output, outcome) = bench.job(&run(spec, 1, 0), &[WORKS]);
    assert!(output.status.success() && outcome.pull_request_url.is_some(), "{}", ended(&output));
    assert!(bench.seen("claude.prompt").contains("one prompt"));
    assert_eq!(bench.git(&origin, &["diff", "--name-only", "main", FEATURE]), "trader/lib.txt\ntrader/new.txt");
}

#[test]
fn a_conflict_is_left_to_the_agent_and_another_task_finds_a_clean_tree() {
    let bench = Bench::new();
    let origin = bench.code_repositories();
    bench.push(&origin, FEATURE, &[("trader/lib.txt", "theirs\n")]);
    bench.push(&origin, "main", &[("trader/lib.txt", "ours\n")]);
    let (output, _) =
        bench.job(&run(code(json!({})), 1, 0), &[("CLAUDE_DOES", "[ -s task/merge-conflict.md ] && echo x >x.txt")]);
    assert!(output.status.success(), "{}", ended(&output));
    fs::write(bench.root.join("workspace/target-repo/trader/left.txt"), "left\n").unwrap();
    bench.push(
        &bench.root.join("repositories/acme/docs"),
        "main",
        &[("_projects/trader/.taskmaster/docs/task-6/prompt.md", "six\n")],
    );
    let (output, _) = bench
        .job(&run(code(json!({ "task_id": 6 })), 1, 0), &[("CLAUDE_DOES", "[ ! -e left.txt ] && echo six >six.txt")]);
    assert!(output.status.success(), "{}", ended(&output));
    assert_eq!(bench.git(&origin, &["diff", "--name-only", "main", "feature/task-6-implementation"]), "trader/six.txt");
}

#[test]
fn texts_of_a_request_are_never_run() {
    let bench = Bench::new();
    bench.code_repositories();
    let trap = format!("$(touch {0}/pwned) `touch {0}/pwned` '; touch {0}/pwned; \"", bench.root.display());
    let more = json!({ "prompt_modification": trap, "acceptance_criteria": trap, "task_requirements": trap, "env": { "MORE": trap } });
    let (output, _) = bench.job(&run(code(more), 1, 0), &[WORKS]);
    assert!(output.status.success(), "{}", ended(&output));
    assert!(!bench.root.join("pwned").exists());
    assert!(
        bench.seen("claude.prompt").contains("`touch")
            && bench.seen("claude.prompt").contains("the prompt of the task")
    );
    let replaced = code(json!({ "prompt_modification": "only this", "prompt_mode": "replace" }));
    bench.job(&run(replaced, 1, 0), &[]);
    assert!(
        bench.seen("claude.prompt").contains("only this")
            && !bench.seen("claude.prompt").contains("the prompt of the task")
    );
}

#[test]
fn without_the_program_of_github_its_api_is_asked_and_the_token_is_in_no_argument() {
    let bench = Bench::new();
    bench.code_repositories();
    fs::remove_file(bench.root.join("bin/gh")).unwrap();
    program(&bench.root.join("bin/curl"), CURL);
    let (output, outcome) = bench.job(&run(code(json!({})), 1, 0), &[WORKS]);
    assert!(output.status.success(), "{}", ended(&output));
    assert_eq!(outcome.pull_request_url.as_deref(), Some("https://github.com/acme/trader/pull/9"));
    let asked = bench.seen("curl.arguments");
    assert!(
        asked.contains("https://api.github.com/repos/acme/trader/pulls") && !asked.contains("the-token"),
        "{asked}"
    );
    assert!(bench.seen("curl.config").contains("Authorization: Bearer the-token"));
}

#[test]
fn a_documentation_run_commits_documentation_alone() {
    let bench = Bench::new();
    let origin = bench.repository("acme/docs", &[("p/.taskmaster/tasks/tasks.json", "{}\n"), ("p/README.md", "p\n")]);
    let request = json!({
        "repository_url": "https://github.com/acme/docs", "working_directory": "p", "source_branch": "main", "github_user": "ada",
    });
    let spec = RunSpec::Docs(DocsRequest::read(request.as_object().unwrap(), DOCS_MODEL).unwrap());
    let does = "mkdir -p .taskmaster/docs/task-1; echo x >.taskmaster/docs/task-1/task.md; echo y >>README.md";
    let (output, outcome) = bench.job(&run(spec.clone(), 1, 0), &[("CLAUDE_DOES", does)]);
    assert!(output.status.success(), "{}", ended(&output));
    let branch = outcome.branch.unwrap();
    assert!(
        branch.starts_with("docs-generation-") && branch.len() == "docs-generation-20250101-000000".len(),
        "{branch}"
    );
    assert_eq!(bench.git(&origin, &["diff", "--name-only", "main", &branch]), "p/.taskmaster/docs/task-1/task.md");
    assert!(bench.seen("gh.arguments").contains(&format!("pr create --head {branch} --base main")));
    assert!(outcome.pull_request_url.is_some());
    let (output, outcome) = bench.job(&run(spec, 1, 0), &[("CLAUDE_DOES", "true")]);
    assert!(output.status.success() && outcome.pull_request_url.is_none(), "{}", ended(&output));
}
