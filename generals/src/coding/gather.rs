//! What a task is worked on with: the clone, the issue or pull request, the files that may matter. All of it is read, nothing written.

use mindos_sdk::Failure;

use super::patch::Clone;
use super::plan;
use super::steps::Came;
use super::task::Mode;
use super::work::Job;
use crate::forge::{CloneWish, ForgeFailure, Issue, PullRequest, Wanted};
use crate::prompt::injection::suspicions;
use crate::select::{FILES_MAX, LINES_MAX, Selected, outline, select, tokens};

/// How deep the tree is shown, and how many of its lines.
const DEPTH: usize = 3;
const OUTLINE_MAX: usize = 400;
/// Folders of a pull request's branch that plans stand on.
const PLANNED: &str = "ai-agent/issue-";

impl Job<'_> {
    pub(super) async fn clone(&mut self) -> Result<Came, Failure> {
        let at = match &self.pull {
            Some(pull) => Wanted::Ref(pull.head_ref.clone()),
            None => Wanted::Default,
        };
        let below = Some(self.workspace.folder().to_owned());
        let wish = CloneWish { at, depth: self.coding.depth, links: true, below, ..CloneWish::default() };
        let clone = self.forge.clone(wish).await.map_err(|failure| {
            self.late = matches!(failure, ForgeFailure::TooSlow { .. });
            Failure::from(failure)
        })?;
        self.base = match (&self.pull, &clone.branch) {
            (Some(pull), _) => pull.head_ref.clone(),
            (None, Some(branch)) => branch.clone(),
            (None, None) => return Err(Failure::poison(format!("{} has no default branch", self.task.repository))),
        };
        self.base_commit.clone_from(&clone.commit);
        let git = Clone::at(clone.path());
        self.clone = Some((clone, git));
        Ok(Came::Well)
    }

    pub(super) async fn fetch_issue(&mut self) -> Result<Came, Failure> {
        let issue = self.forge.issue(self.task.number()).await?;
        if issue.is_pull_request {
            return Err(Failure::poison(format!(
                "`issue_id` is {}, which is a pull request: {} is for issues",
                issue.number,
                self.task.mode.as_str()
            )));
        }
        self.look("issue title", &issue.title);
        self.look("issue text", &issue.body);
        self.issue = Some(issue);
        Ok(Came::Well)
    }

    /// The pull request that a task names, of this repository and open.
    async fn open_pull(&self, number: u64) -> Result<PullRequest, Failure> {
        let pull = self.forge.pull_request(number).await?;
        let wrong = |why: &str| Err(Failure::poison(format!("pull request #{number} {why}")));
        if pull.state != "open" {
            return wrong("is not open");
        }
        if pull.is_of_fork(&self.task.repository) {
            return wrong("comes from another repository, to which nothing is pushed");
        }
        if pull.head_ref == self.forge.default_branch().await? {
            return wrong("comes from the default branch, to which nothing is pushed");
        }
        Ok(pull)
    }

    pub(super) async fn fetch_pull(&mut self) -> Result<Came, Failure> {
        let pull = self.open_pull(self.task.number()).await?;
        // A comment on a pull request says nothing of its branch.
        if let Some(branch) = self.task.branch.as_ref().filter(|branch| **branch != pull.head_ref) {
            return Err(Failure::poison(format!(
                "`pr_branch` is {branch}, and pull request #{} comes from another branch",
                pull.number
            )));
        }
        let request = self.task.request.clone();
        self.look("request", &request);
        self.pull = Some(pull);
        Ok(Came::Well)
    }

    pub(super) async fn fetch_plan(&mut self) -> Result<Came, Failure> {
        let number = match self.task.pull {
            Some(number) => number,
            None => self.linked_plan().await?,
        };
        self.task.pull = Some(number);
        let pull = self.open_pull(number).await?;
        let author = self.forge.author();
        if author.is_empty() || !pull.author.eq_ignore_ascii_case(author) {
            return Err(Failure::poison(format!(
                "pull request #{number} is not one of ours, so what it says is no plan"
            )));
        }
        let Some(plan) = plan::found(&pull.body) else {
            return Err(Failure::poison(format!("pull request #{number} holds no plan")));
        };
        self.plan_text = Some(plan.to_owned());
        let issue = pull.head_ref.strip_prefix(PLANNED).and_then(|number| number.parse().ok());
        if let Some(issue) = issue {
            self.issue = match self.forge.issue(issue).await {
                Ok(issue) => Some(issue),
                // The plan alone has to do.
                Err(ForgeFailure::NotFound { .. }) => None,
                Err(failure) => return Err(failure.into()),
            };
        }
        if let Some(Issue { title, body, .. }) = self.issue.clone() {
            self.look("issue title", &title);
            self.look("issue text", &body);
        }
        self.pull = Some(pull);
        Ok(Came::Well)
    }

    /// The pull request that our own comment on the issue links.
    async fn linked_plan(&self) -> Result<u64, Failure> {
        let issue = self.task.issue.unwrap_or_default();
        let author = self.forge.author();
        let comments = self.forge.comments(issue).await?;
        let ours = comments.iter().filter(|comment| !author.is_empty() && comment.author.eq_ignore_ascii_case(author));
        let linked = ours.rev().filter(|comment| comment.body.contains("A plan is ready:")).find_map(|comment| {
            let (_, rest) = comment.body.split_once("/pull/")?;
            rest.chars().take_while(char::is_ascii_digit).take(12).collect::<String>().parse().ok()
        });
        linked.ok_or_else(|| {
            Failure::poison(format!("no plan of ours is linked from issue #{issue}: ask for one with /plan"))
        })
    }

    fn look(&mut self, place: &str, text: &str) {
        self.suspicions.extend(suspicions(place, text));
    }

    /// The words that files are chosen by.
    fn words(&self) -> String {
        let issue = self.issue.iter().flat_map(|issue| [issue.title.as_str(), issue.body.as_str()]);
        let pull = self.pull.iter().filter(|_| self.issue.is_none()).map(|pull| pull.title.as_str());
        let more = [self.plan_text.as_deref().unwrap_or_default(), &self.task.request];
        issue.chain(pull).chain(more).collect::<Vec<_>>().join("\n")
    }

    pub(super) async fn select(&mut self) -> Result<Came, Failure> {
        let tree = self.clone.as_ref().expect("cloned before").0.tree()?;
        let mut named: Vec<String> = Vec::new();
        if let Some(pull) = self.pull.as_ref().filter(|_| self.task.mode == Mode::Refine) {
            named.extend(self.forge.files(pull.number).await?.0.into_iter().map(|file| file.path));
        }
        let (words, budget) = (self.words(), self.run.profile.budget.context_tokens);
        let budget = usize::try_from(budget).unwrap_or(usize::MAX) / 3 * 2;
        let spoken_of = self.plan_text.clone().unwrap_or_default() + &self.task.request;
        // Thousands of files are read through; that is for a thread that keeps nobody waiting.
        let chosen = tokio::task::spawn_blocking(move || {
            named.extend(
                tree.paths()
                    .filter(|path| path.len() > 3 && spoken_of.contains(path))
                    .take(FILES_MAX)
                    .map(str::to_owned),
            );
            let mut chosen: Vec<Selected> = Vec::new();
            let mut left = budget;
            for path in named.into_iter().take(2 * FILES_MAX) {
                let Some(file) = tree.text(&path).map(|text| first_lines(&path, &text)) else { continue };
                if file.tokens <= left && chosen.iter().all(|known| known.path != path) {
                    left -= file.tokens;
                    chosen.push(file);
                }
            }
            let more = select(&tree, &words, left);
            chosen.extend(more.into_iter().filter(|file| named_not(&chosen, &file.path)).collect::<Vec<_>>());
            (chosen, outline(&tree, DEPTH, OUTLINE_MAX))
        });
        let (files, outline) =
            chosen.await.map_err(|error| Failure::transient(format!("files could not be chosen: {error}")))?;
        for file in &files {
            self.look(&format!("file {}", file.path), &file.text);
        }
        (self.files, self.outline) = (files, outline);
        Ok(Came::Well)
    }
}

fn named_not(chosen: &[Selected], path: &str) -> bool {
    chosen.iter().all(|known| known.path != path)
}

/// A file that was named, as one that was chosen.
fn first_lines(path: &str, text: &str) -> Selected {
    let taken: String = text.split_inclusive('\n').take(LINES_MAX).collect();
    let (lines, cut) = (taken.lines().count(), taken.len() < text.len());
    Selected { path: path.to_owned(), score: 0, tokens: tokens(path) + tokens(&taken), text: taken, lines, cut }
}
