//! Asking a model: rounds in which it looks things up, then an answer that fits the schema, or none.
//!
//! Invariant: each call is a step that is paid for once; the profile's budget and the delivery's ceilings both hold before each call.

use mindos_sdk::{Failure, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Run, look};
use crate::change::Tree;
use crate::model::{Ask, Message, ModelFailure, Said, Schema, Stop, ToolCall, read};
use crate::prompt::injection::{Suspicion, suspicions};

/// Most looks in one round.
const LOOKS_MAX: usize = 8;
/// Fewest tokens with which a call is worth making.
const TOKENS_MIN: u64 = 128;
/// Most tokens of one answer.
const ANSWER_TOKENS_MAX: u64 = 8_192;

/// What came of asking.
#[derive(Debug, Default)]
pub(super) struct Thought {
    /// The answer, which fits the schema.
    pub(super) answer: Option<Value>,
    /// The model that said most, as `provider:name`.
    pub(super) model: String,
    /// Why there is no answer, in words of ours.
    pub(super) without: Option<&'static str>,
    /// What in outputs of tools tries to steer.
    pub(super) suspicions: Vec<Suspicion>,
}

/// Why there is no thought.
#[derive(Debug)]
pub(super) enum NoThought {
    /// The context was too long for every model: less of it may do.
    TooLong(Failure),
    Failed(Failure),
}

/// What a model said, in the form that a checkpoint keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    text: String,
    calls: Vec<KeptCall>,
    cut: bool,
    model: String,
    output_tokens: u64,
    cost_micros: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptCall {
    id: String,
    name: String,
    arguments: Value,
    signature: Option<String>,
}

impl Kept {
    fn of(said: Said) -> (Kept, Vec<Usage>) {
        let Said { text, calls, stop, usage, model } = said;
        let call = |ToolCall { id, name, arguments, signature }| KeptCall { id, name, arguments, signature };
        let kept = Kept {
            text,
            calls: calls.into_iter().map(call).collect(),
            cut: stop == Stop::Length,
            model,
            output_tokens: usage.output_tokens,
            cost_micros: usage.cost_micros,
        };
        (kept, vec![usage])
    }

    fn said(&self) -> Said {
        let call = |KeptCall { id, name, arguments, signature }| ToolCall { id, name, arguments, signature };
        Said {
            text: self.text.clone(),
            calls: self.calls.iter().cloned().map(call).collect(),
            stop: if self.cut { Stop::Length } else { Stop::End },
            usage: Usage::default(),
            model: self.model.clone(),
        }
    }
}

/// Asks until there is an answer, or no more may be asked. Without a tree nothing can be looked up.
pub(super) async fn think(run: &Run, system: String, user: String, tree: Option<&Tree>) -> Result<Thought, NoThought> {
    let Run { profile, steps, brain, meter, .. } = run;
    let (budget, schema) = (profile.budget, &profile.schema);
    let tools = if tree.is_some() { look::specs(&profile.lookups) } else { Vec::new() };
    let mut thought = Thought::default();
    let mut messages = vec![Message::User(user)];
    let (mut tokens, mut cost, mut repaired) = (0u64, 0u64, false);
    for round in 1..=budget.rounds {
        let left = budget.output_tokens.saturating_sub(tokens).min(ANSWER_TOKENS_MAX);
        if left < TOKENS_MIN || budget.cost_micros.is_some_and(|most| cost >= most) {
            thought.without = Some("the budget of the profile was used up before there was an answer");
            return Ok(thought);
        }
        let may_look = round < budget.rounds && !repaired;
        let ask = Ask {
            system: system.clone(),
            messages: messages.clone(),
            tools: if may_look { tools.clone() } else { Vec::new() },
            schema: Some(schema.clone()),
            output_tokens_max: u32::try_from(left).unwrap_or(u32::MAX),
            ..Ask::default()
        };
        steps.begin("asking a model").await;
        let question = question(&ask);
        let call = async { brain.ask(meter, &ask).await.map(Kept::of) };
        let said = match steps.paid(&format!("ask.{round}"), &question, call).await {
            Ok(said) => said,
            Err(failure) => return without(failure, thought, run),
        };
        tokens = tokens.saturating_add(said.output_tokens);
        cost = cost.saturating_add(said.cost_micros);
        thought.model.clone_from(&said.model);
        messages.push(Message::said(&said.said()));
        if let (false, Some(tree), true) = (said.calls.is_empty(), tree, may_look) {
            steps.begin("looking things up").await;
            for (number, call) in said.calls.iter().enumerate() {
                let output = if number < LOOKS_MAX {
                    look::look(&profile.lookups, tree, &call.name, &call.arguments)
                } else {
                    "too many looks in one round".to_owned()
                };
                thought.suspicions.extend(suspicions("output of a tool", &output));
                let output = steps.fence().around("output of a tool", &call.name, &output);
                messages.push(Message::Tool { call: call.id.clone(), name: call.name.clone(), output });
            }
            continue;
        }
        let faults = match read::<Value>(&said.said(), schema) {
            Ok(answer) => {
                thought.answer = Some(answer);
                return Ok(thought);
            }
            Err(faults) => faults,
        };
        if repaired {
            break;
        }
        repaired = true;
        for call in &said.calls {
            let output = "no more looks: answer now".to_owned();
            messages.push(Message::Tool { call: call.id.clone(), name: call.name.clone(), output });
        }
        let faults = steps.fence().around("faults", "", &faults.join("\n"));
        messages.push(Message::User(format!("Your answer does not fit the schema. Answer again, with the JSON object alone.\n{faults}")));
    }
    thought.without = Some("the model gave no answer that fits the schema");
    Ok(thought)
}

fn without(failure: ModelFailure, thought: Thought, run: &Run) -> Result<Thought, NoThought> {
    match failure {
        // What could be computed stands; that a model would not look at it is worth knowing and no failure.
        ModelFailure::Refused { .. } => Ok(Thought { without: Some("the model would not answer"), ..thought }),
        ModelFailure::NoModel => Ok(Thought { without: Some("no model was asked"), ..thought }),
        failure @ ModelFailure::ContextTooLong { .. } => Err(NoThought::TooLong(failure.of_work(&run.meter))),
        failure => Err(NoThought::Failed(failure.of_work(&run.meter))),
    }
}

/// What is asked, for its digest. How long the answer may be does not make it another question.
fn question(ask: &Ask) -> Value {
    let message = |message: &Message| match message {
        Message::User(text) => json!({"user": text}),
        Message::Assistant { text, calls } => {
            let calls: Vec<Value> = calls.iter().map(|call| json!([call.id, call.name, call.arguments])).collect();
            json!({"assistant": text, "calls": calls})
        }
        Message::Tool { call, name, output } => json!({"tool": name, "call": call, "output": output}),
    };
    json!({
        "system": ask.system,
        "messages": ask.messages.iter().map(message).collect::<Vec<_>>(),
        "tools": ask.tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(),
        "schema": ask.schema.as_ref().map(Schema::value),
    })
}
