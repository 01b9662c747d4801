//! Asking the model of a task: each answer is paid for once, across attempts.

use mindos_sdk::{Failure, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::{Ask, Message, Said, Schema, Stop};
use crate::run::Run;

/// Most tokens of one answer.
const ANSWER_TOKENS_MAX: u64 = 16_384;

/// What a model said, in the form that a checkpoint keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) model: String,
    /// It reached the most tokens that it might have.
    pub(super) cut: bool,
    output_tokens: u64,
    cost_micros: u64,
}

impl Answer {
    fn of(said: Said) -> (Answer, Vec<Usage>) {
        let Said { text, calls: _, stop, usage, model } = said;
        let (output_tokens, cost_micros) = (usage.output_tokens, usage.cost_micros);
        (Answer { text, model, cut: stop == Stop::Length, output_tokens, cost_micros }, vec![usage])
    }

    pub(super) fn message(&self) -> Message {
        Message::Assistant { text: self.text.clone(), calls: Vec::new() }
    }
}

/// The conversation of one task.
#[derive(Debug, Default)]
pub(super) struct Talk {
    pub(super) system: String,
    pub(super) messages: Vec<Message>,
    /// What the answers have to look like; Markdown where unset.
    pub(super) schema: Option<Schema>,
    pub(super) model: String,
    pub(super) tokens: u64,
    pub(super) cost: u64,
}

impl Talk {
    /// Says this, and takes the answer.
    ///
    /// # Errors
    /// When no model answers, or the profile's budget is used up.
    pub(super) async fn ask(&mut self, run: &Run, step: &str, words: String) -> Result<Answer, Failure> {
        self.messages.push(Message::User(words));
        let budget = run.profile.budget;
        let left = budget.output_tokens.saturating_sub(self.tokens).min(ANSWER_TOKENS_MAX);
        if left == 0 || budget.cost_micros.is_some_and(|most| self.cost >= most) {
            return Err(Failure::over_budget("the budget of the profile is used up, and the work is not done"));
        }
        let ask = Ask {
            system: self.system.clone(),
            messages: self.messages.clone(),
            schema: self.schema.clone(),
            output_tokens_max: u32::try_from(left).unwrap_or(u32::MAX),
            // The contract's.
            temperature: Some(0.2),
            top_p: Some(0.9),
            completion: self.schema.is_none(),
            ..Ask::default()
        };
        let call = async { run.brain.ask(&run.meter, &ask).await.map(Answer::of) };
        let answer =
            run.steps.paid(step, &question(&ask), call).await.map_err(|failure| failure.of_work(&run.meter))?;
        self.tokens = self.tokens.saturating_add(answer.output_tokens);
        self.cost = self.cost.saturating_add(answer.cost_micros);
        self.model.clone_from(&answer.model);
        self.messages.push(answer.message());
        Ok(answer)
    }
}

/// What is asked, for its digest. How long the answer may be does not make it another question.
fn question(ask: &Ask) -> Value {
    let text = |message: &Message| match message {
        Message::User(text) => json!({"user": text}),
        Message::Assistant { text, .. } => json!({"assistant": text}),
        Message::Tool { output, .. } => json!({"tool": output}),
    };
    json!({"system": ask.system, "messages": ask.messages.iter().map(text).collect::<Vec<_>>(), "schema": ask.schema.is_some()})
}
