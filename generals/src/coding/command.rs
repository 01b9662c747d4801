//! Editing by a command in the place of a model: aider as the contract calls it, `claude`, or one of the operator's own.
//!
//! Invariant: what is asked for is one argument of the command and never part of a shell's line; of our environment the command gets the
//! variables named here, and none of them is printed.

use std::str::FromStr;

use super::sandbox::Place;

/// What stands for the task in the arguments of an operator's own command.
const TASK: &str = "{task}";

/// Which command edits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Editor {
    /// `aider`, against an OpenAI-compatible server.
    Aider,
    /// `claude`, in its non-interactive mode.
    Claude,
    /// A command with `{task}` among its arguments.
    Own { program: String, arguments: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no editor: expected aider, claude, or a command with {{task}} among its arguments")]
pub struct EditorError(String);

impl FromStr for Editor {
    type Err = EditorError;

    fn from_str(text: &str) -> Result<Editor, EditorError> {
        let mut words = text.split_whitespace().map(str::to_owned);
        let program = words.next().unwrap_or_default();
        let arguments: Vec<String> = words.collect();
        match (program.as_str(), arguments.iter().any(|word| word.contains(TASK))) {
            ("aider", _) if arguments.is_empty() => Ok(Editor::Aider),
            ("claude", _) if arguments.is_empty() => Ok(Editor::Claude),
            (_, true) => Ok(Editor::Own { program, arguments }),
            _ => Err(EditorError(crate::text::clipped(text, 80))),
        }
    }
}

/// A command that is to be run.
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    pub program: String,
    pub arguments: Vec<String>,
    /// Secrets are among them.
    pub environment: Vec<(String, String)>,
    /// Whom it has to reach.
    pub reach: Vec<Place>,
}

/// The contract's defaults.
const OLLAMA: &str = "http://localhost:11434";
const MODEL: &str = "qwen2.5-coder";
const KEY: &str = "ollama";
const ANTHROPIC: &str = "https://api.anthropic.com";

impl Editor {
    /// What people know it by.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Editor::Aider => "aider",
            Editor::Claude => "claude",
            Editor::Own { program, .. } => program.rsplit('/').next().unwrap_or(program),
        }
    }

    /// The command for a task. `variable` gives the variables of the environment.
    #[must_use]
    pub fn line(&self, task: &str, variable: &dyn Fn(&str) -> Option<String>) -> Line {
        let word = |text: &str| text.to_owned();
        let or =
            |name: &str, otherwise: &str| variable(name).filter(|it| !it.is_empty()).unwrap_or_else(|| word(otherwise));
        match self {
            Editor::Aider => {
                let base = format!("{}/v1", or("OLLAMA_BASE_URL", OLLAMA).trim_end_matches('/'));
                let arguments = vec![
                    word("--model"),
                    format!("openai/{}", or("LLM_MODEL", MODEL)),
                    word("--openai-api-base"),
                    base.clone(),
                    word("--yes"),
                    word("--no-detect-urls"),
                    word("--no-check-update"),
                    word("--no-auto-commits"),
                    // One word, so that a task cannot be taken for an option.
                    format!("--message={task}"),
                ];
                let environment = vec![
                    (word("OPENAI_API_BASE"), base.clone()),
                    (word("OPENAI_API_KEY"), or("LLM_API_KEY", KEY)),
                    (word("AIDER_ANALYTICS_DISABLE"), word("true")),
                ];
                Line { program: word("aider"), arguments, environment, reach: base.parse().into_iter().collect() }
            }
            Editor::Claude => {
                let base = or("ANTHROPIC_BASE_URL", ANTHROPIC);
                let arguments =
                    ["--print", "--output-format", "text", "--permission-mode", "acceptEdits", "--"].map(word);
                let arguments = arguments.into_iter().chain([word(task)]).collect();
                let environment = vec![
                    (word("ANTHROPIC_BASE_URL"), base.clone()),
                    (word("ANTHROPIC_API_KEY"), or("ANTHROPIC_API_KEY", "")),
                    (word("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"), word("1")),
                ];
                Line { program: word("claude"), arguments, environment, reach: base.parse().into_iter().collect() }
            }
            Editor::Own { program, arguments } => {
                let arguments = arguments.iter().map(|word| word.replace(TASK, task)).collect();
                Line { program: program.clone(), arguments, environment: Vec::new(), reach: Vec::new() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aider_is_called_as_the_contract_says() {
        let variables = |name: &str| match name {
            "OLLAMA_BASE_URL" => Some("http://ollama:11434/".to_owned()),
            "LLM_MODEL" => Some("codellama".to_owned()),
            _ => None,
        };
        let line = Editor::Aider.line("--exec rm", &variables);
        let joined = line.arguments.join(" ");
        assert!(
            joined.starts_with("--model openai/codellama --openai-api-base http://ollama:11434/v1 --yes"),
            "{joined}"
        );
        assert_eq!(line.arguments.last().unwrap(), "--message=--exec rm");
        assert!(line.environment.contains(&("OPENAI_API_KEY".to_owned(), "ollama".to_owned())));
        assert_eq!(line.reach, ["ollama:11434".parse().unwrap()]);
        let plain = Editor::Aider.line("x", &|_| None);
        assert!(plain.arguments.contains(&"openai/qwen2.5-coder".to_owned()));
    }

    #[test]
    fn editors_are_read_and_a_task_stays_one_word() {
        assert_eq!("aider".parse(), Ok(Editor::Aider));
        let own: Editor = "/opt/bin/edit --now {task}".parse().unwrap();
        assert_eq!(own.name(), "edit");
        assert_eq!(own.line("a b; $(c)", &|_| None).arguments, ["--now", "a b; $(c)"]);
        for wrong in ["", "vi", "aider --x", "claude now"] {
            assert!(wrong.parse::<Editor>().is_err(), "{wrong}");
        }
    }
}
