//! What the settings file says of tasks.
//!
//! ```yaml
//! tasks:                       # without it nothing on GitHub is a task; `tasks: {}` is all as here
//!   label: ai-help             # on an issue: asks for a plan
//!   associations: [OWNER, MEMBER, COLLABORATOR]   # whose comments are heard
//!   allow_forks: false         # /approve and /refine on pull requests of forks
//!   receipt: true              # the reaction `eyes` on a comment that was taken
//!   rabbitmq: {host: localhost, user: mindos, password: {file: /run/secrets/mq}, tenant: default}   # see `tasks::queue_settings`
//! ```

use serde::Deserialize;

use super::queue_settings::{QueueSection, QueueSettings, RabbitConfig};
use crate::secret::Secrets;
use mindos_core::guard::{ANY, ASSOCIATIONS};

/// The longest label of GitHub, in characters.
const LABEL_MAX: usize = 50;

/// Tasks as the settings file has them.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSection {
    label: Option<String>,
    associations: Option<Vec<String>>,
    #[serde(default)]
    allow_forks: bool,
    receipt: Option<bool>,
    rabbitmq: Option<QueueSection>,
}

/// What on GitHub is a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRules {
    /// On an issue, whatever its case.
    pub label: String,
    /// Whose comments are heard.
    pub associations: Vec<String>,
    /// Whether pull requests of forks are written to.
    pub allow_forks: bool,
    /// Whether a comment that was taken gets a reaction.
    pub receipt: bool,
}

impl Default for TaskRules {
    fn default() -> TaskRules {
        TaskRules {
            label: "ai-help".to_owned(),
            associations: ["OWNER", "MEMBER", "COLLABORATOR"].map(str::to_owned).into(),
            allow_forks: false,
            receipt: true,
        }
    }
}

/// Tasks, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskSettings {
    /// Unset where nothing on GitHub is a task.
    pub rules: Option<TaskRules>,
    /// Unset where no queue is read.
    pub queue: Option<QueueSettings>,
}

impl TaskSettings {
    /// Checks what the file says, on top of what the environment does.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn new(section: Option<&TaskSection>, base: &RabbitConfig, secrets: Secrets) -> Result<TaskSettings, String> {
        let queue = QueueSettings::new(section.and_then(|section| section.rabbitmq.as_ref()), base, secrets)?;
        let Some(section) = section else { return Ok(TaskSettings { rules: None, queue }) };
        let TaskSection { label, associations, allow_forks, receipt, rabbitmq: _ } = section;
        let stock = TaskRules::default();
        let label = label.clone().unwrap_or(stock.label);
        if !(1..=LABEL_MAX).contains(&label.chars().count()) || label.chars().any(char::is_control) {
            return Err(format!("`tasks.label`: expected 1 to {LABEL_MAX} characters"));
        }
        let associations = associations.clone().unwrap_or(stock.associations);
        let accepted: Vec<&str> = ASSOCIATIONS.into_iter().filter(|word| *word != ANY).collect();
        if associations.len() > accepted.len() || !associations.iter().all(|word| accepted.contains(&word.as_str())) {
            return Err(format!("`tasks.associations`: expected a list of {}", accepted.join(", ")));
        }
        let receipt = receipt.unwrap_or(stock.receipt);
        Ok(TaskSettings { rules: Some(TaskRules { label, associations, allow_forks: *allow_forks, receipt }), queue })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TaskSettings, String> {
        let section: TaskSection = serde_norway::from_str(text).map_err(|error| error.to_string())?;
        TaskSettings::new(Some(&section), &RabbitConfig::default(), Secrets::Assumed)
    }

    #[test]
    fn tasks_are_off_unless_the_settings_have_them() {
        let off = TaskSettings::new(None, &RabbitConfig::default(), Secrets::Read).unwrap();
        assert_eq!(off, TaskSettings::default());
        let on = read("{}").unwrap();
        assert_eq!((on.rules, on.queue), (Some(TaskRules::default()), None));
    }

    #[test]
    fn what_is_not_accepted_is_named() {
        for (text, field) in [
            ("{label: ''}", "tasks.label"),
            ("{associations: [FRIEND]}", "tasks.associations"),
            ("{associations: [ANY]}", "tasks.associations"),
            ("{colour: red}", "colour"),
            ("{rabbitmq: {password: hush}}", "expected `{file: PATH}`"),
            ("{rabbitmq: {prefetch: 0}}", "tasks.rabbitmq.prefetch"),
            ("{rabbitmq: {queue: ''}}", "tasks.rabbitmq.queue"),
            ("{rabbitmq: {tenant: 'A B'}}", "tasks.rabbitmq.tenant"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(field) && !error.contains("hush"), "{text}: {error}");
        }
    }
}
