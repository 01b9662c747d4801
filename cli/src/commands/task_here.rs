//! What is known of the place that a run is asked for from: its clone, its branch, who works there.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::failure::Failure;
use crate::render;

/// Who works where git does not say.
const NOBODY: &str = "claude-agent-1";
/// Tasks that are copied.
const TASKS_MAX: usize = 10_000;

/// The place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Here {
    pub(super) origin: Option<String>,
    pub(super) branch: Option<String>,
    /// From the root of the clone; unset at the root itself.
    pub(super) directory: Option<String>,
    pub(super) user: Option<String>,
    pub(super) root: Option<PathBuf>,
}

impl Here {
    /// Asks git.
    pub(super) fn find(at: &Path) -> Here {
        let ask = |arguments: &[&str]| git(at, arguments).ok().filter(|text| !text.is_empty());
        Here {
            origin: ask(&["remote", "get-url", "origin"]),
            branch: ask(&["symbolic-ref", "--quiet", "--short", "HEAD"]),
            directory: ask(&["rev-parse", "--show-prefix"]).map(|prefix| prefix.trim_end_matches('/').to_owned()),
            user: ask(&["config", "user.name"]),
            root: ask(&["rev-parse", "--show-toplevel"]).map(PathBuf::from),
        }
    }

    /// The repository that was named, or that of the clone.
    pub(super) fn repository(&self, named: Option<String>) -> Result<String, Failure> {
        let missing = || {
            Failure::usage("--repository-url is missing, and there is no clone with an origin here")
                .hint("name the repository with --repository-url, or call this within its clone")
        };
        named.or_else(|| self.origin.clone()).ok_or_else(missing)
    }

    /// The login that was named, or git's user where that may be one.
    pub(super) fn user(&self, named: Option<String>) -> String {
        let is_login = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        named.or_else(|| self.user.clone().filter(is_login)).unwrap_or_else(|| NOBODY.to_owned())
    }

    /// A directory from the root of the clone.
    pub(super) fn within(&self, directory: &Path) -> Option<String> {
        let named = || Some(directory.to_string_lossy().trim_start_matches("./").to_owned());
        let (Some(root), Ok(full)) = (&self.root, directory.canonicalize()) else { return named() };
        let within = full.strip_prefix(root.canonicalize().ok()?).ok()?.to_string_lossy().into_owned();
        Some(if within.is_empty() { ".".to_owned() } else { within })
    }
}

fn git(at: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new("git").arg("-C").arg(at).args(arguments).env("GIT_TERMINAL_PROMPT", "0").output();
    let output = output.map_err(|error| Failure::world(format!("git cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::world(format!(
        "git {}: {}",
        arguments.first().unwrap_or(&""),
        said.lines().last().unwrap_or("failed")
    )))
}

/// Brings `.taskmaster` of a directory to where a documentation run finds it: tasks copied, committed and pushed to the branch.
pub(super) fn taskmaster(directory: &Path, branch: &str, here: &Here, leave: bool) -> Result<(), Failure> {
    let place = directory.join(".taskmaster");
    if !place.is_dir() {
        return Err(Failure::usage(format!("{} is not there: a documentation run needs it", place.display()))
            .hint("name the project's directory with --working-directory"));
    }
    if leave {
        return Ok(());
    }
    let copied = copy(&place)?;
    if here.branch.as_deref() != Some(branch) {
        let on = here.branch.as_deref().unwrap_or("no branch");
        return Err(Failure::usage(format!(
            "--source-branch is {branch}, and the clone is on {on}: expected the same, or --no-push"
        )));
    }
    git(directory, &["add", "--", ".taskmaster"])?;
    let staged = git(directory, &["diff", "--cached", "--name-only", "--", ".taskmaster"])?;
    if !staged.is_empty() {
        git(directory, &["commit", "--quiet", "-m", "chore: tasks for documentation", "--", ".taskmaster"])?;
        render::say(&format!("committed .taskmaster ({} files, {copied} tasks)", staged.lines().count()));
    }
    git(directory, &["push", "--quiet", "origin", &format!("HEAD:refs/heads/{branch}")])?;
    render::say(&format!("pushed {branch}"));
    Ok(())
}

/// Copies what each task says beside where its documentation goes.
fn copy(place: &Path) -> Result<usize, Failure> {
    let list = place.join("tasks/tasks.json");
    let failed = |what: &Path, error: std::io::Error| Failure::world(format!("{}: {error}", what.display()));
    let text = std::fs::read_to_string(&list).map_err(|error| failed(&list, error))?;
    let tasks: Value =
        serde_json::from_str(&text).map_err(|error| Failure::world(format!("{}: {error}", list.display())))?;
    let ids = tasks["master"]["tasks"].as_array().or(tasks["tasks"].as_array());
    let ids = ids.ok_or_else(|| Failure::world(format!("{}: expected `master.tasks`", list.display())))?;
    let mut copied = 0;
    for id in ids.iter().take(TASKS_MAX).filter_map(|task| task["id"].as_u64()) {
        let from = place.join(format!("tasks/task_{id:03}.txt"));
        if !from.is_file() {
            continue;
        }
        let folder = place.join(format!("docs/task-{id}"));
        std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        std::fs::copy(&from, folder.join("task.txt")).map_err(|error| failed(&from, error))?;
        copied += 1;
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("mindos-task-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_clone_says_where_it_comes_from_and_tasks_are_pushed() {
        let folder = folder("here");
        let (origin, clone) = (folder.join("origin"), folder.join("clone"));
        std::fs::create_dir_all(&origin).unwrap();
        git(&origin, &["init", "--quiet", "--bare"]).unwrap();
        git(&folder, &["clone", "--quiet", origin.to_str().unwrap(), "clone"]).unwrap();
        for arguments in [
            ["config", "user.name", "ada"],
            ["config", "user.email", "ada@example.com"],
            ["checkout", "--quiet", "-Bdevelop"],
        ] {
            git(&clone, &arguments).unwrap();
        }
        let project = clone.join("p");
        std::fs::create_dir_all(project.join(".taskmaster/tasks")).unwrap();
        std::fs::write(project.join(".taskmaster/tasks/tasks.json"), r#"{"master":{"tasks":[{"id":1},{"id":12}]}}"#)
            .unwrap();
        std::fs::write(project.join(".taskmaster/tasks/task_012.txt"), "twelve").unwrap();

        let here = Here::find(&project);

        assert_eq!(here.origin.as_deref(), origin.to_str());
        assert_eq!((here.branch.as_deref(), here.directory.as_deref()), (Some("develop"), Some("p")));
        assert_eq!((here.user(None), here.user(Some("eve".into()))), ("ada".to_owned(), "eve".to_owned()));
        assert_eq!(here.within(&project).as_deref(), Some("p"));
        taskmaster(&project, "develop", &here, false).unwrap();
        let there = git(&origin, &["ls-tree", "-r", "--name-only", "develop"]).unwrap();
        assert!(there.contains("p/.taskmaster/docs/task-12/task.txt"), "{there}");
        taskmaster(&project, "develop", &here, false).unwrap();
        let other = taskmaster(&project, "main", &here, false).unwrap_err();
        assert!(other.message.contains("the clone is on develop"), "{other}");
        let none = taskmaster(&clone, "develop", &here, false).unwrap_err();
        assert!(none.message.contains(".taskmaster is not there"), "{none}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn who_is_nowhere_has_to_say_more() {
        let here = Here { user: Some("Ada Lovelace".to_owned()), ..Here::default() };
        assert_eq!(here.user(None), "claude-agent-1", "a name with a space is no login");
        assert!(here.repository(None).unwrap_err().message.contains("--repository-url"));
    }
}
