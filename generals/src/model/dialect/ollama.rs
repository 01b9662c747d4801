//! Ollama's own API.

use serde_json::{Map, Value, json};

use super::{Encoded, Quirks, error, system};
use crate::model::estimate;
use crate::model::hearing::{Fault, Heard, list, number, text};
use crate::model::{Ask, Message, Stop};

/// Tokens of context that a server gives where it is not asked for more; what is longer it cuts off at the front without a word.
const CONTEXT_TOKENS: u64 = 4096;

pub(super) fn encode(model: &str, ask: &Ask, quirks: Quirks) -> Encoded {
    let mut body = Map::new();
    body.insert("model".to_owned(), model.into());
    let mut options = Map::new();
    if !quirks.no_sampling {
        super::sampling(&mut options, ask, "temperature", "top_p");
    }
    if let Some(schema) = &ask.schema
        && !quirks.schema_in_prompt
    {
        body.insert("format".to_owned(), schema.value().clone());
    }
    let system = system(ask, quirks.schema_in_prompt);
    let input = estimate::input(ask);
    let needed = input.saturating_add(u64::from(ask.output_tokens_max));
    // A completion that leaves half of the context to its answer stays as the coding agent's contract has it.
    if ask.prompt().is_none() || (input > CONTEXT_TOKENS / 2 && needed > CONTEXT_TOKENS) {
        options.insert("num_predict".to_owned(), ask.output_tokens_max.into());
        if needed > CONTEXT_TOKENS {
            options.insert("num_ctx".to_owned(), needed.next_power_of_two().into());
        }
    }
    if let Some(prompt) = ask.prompt() {
        body.insert("prompt".to_owned(), prompt.into());
        if !system.is_empty() {
            body.insert("system".to_owned(), system.into());
        }
        body.insert("stream".to_owned(), false.into());
        body.insert("options".to_owned(), options.into());
        return Encoded { path: "/api/generate".to_owned(), body: body.into() };
    }
    let mut messages = Vec::new();
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.extend(ask.messages.iter().map(message));
    body.insert("messages".to_owned(), messages.into());
    if !ask.tools.is_empty() {
        let tools = ask.tools.iter().map(|tool| {
            json!({"type": "function", "function":
                {"name": tool.name, "description": tool.description, "parameters": tool.parameters.value()}})
        });
        body.insert("tools".to_owned(), tools.collect());
    }
    body.insert("stream".to_owned(), true.into());
    body.insert("options".to_owned(), options.into());
    Encoded { path: "/api/chat".to_owned(), body: body.into() }
}

fn message(message: &Message) -> Value {
    match message {
        Message::User(text) => json!({"role": "user", "content": text}),
        Message::Assistant { text, calls } if calls.is_empty() => json!({"role": "assistant", "content": text}),
        Message::Assistant { text, calls } => {
            let calls: Vec<Value> = calls
                .iter()
                .map(|call| {
                    let arguments = if call.arguments.is_object() { call.arguments.clone() } else { json!({}) };
                    json!({"id": call.id, "function": {"name": call.name, "arguments": arguments}})
                })
                .collect();
            json!({"role": "assistant", "content": text, "tool_calls": calls})
        }
        Message::Tool { call, name, output } => {
            json!({"role": "tool", "content": output, "tool_name": name, "tool_call_id": call})
        }
    }
}

/// One line.
pub(crate) fn hear(heard: &mut Heard, line: &Value) -> Result<(), Fault> {
    if line.get("error").is_some_and(|error| !error.is_null()) {
        return Err(error(line, None));
    }
    heard.say(text(line, "/message/content"))?;
    heard.say(text(line, "/response"))?;
    heard.count(text(line, "/message/thinking").len() + text(line, "/thinking").len())?;
    for call in list(line, "/message/tool_calls") {
        // Each comes whole, and the numbers of several lines may be the same.
        let index = heard.calls.len() as u64;
        let arguments = match call.pointer("/function/arguments") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(value) => value.to_string(),
        };
        heard.calling(index, text(call, "/id"), text(call, "/function/name"), &arguments)?;
    }
    if line.get("done") == Some(&Value::Bool(true)) {
        heard.ended = true;
        // Counts of nothing are left out.
        heard.tokens.input = Some(number(line, "/prompt_eval_count").unwrap_or(0));
        heard.tokens.output = Some(number(line, "/eval_count").unwrap_or(0));
        heard.stop = Some(if text(line, "/done_reason") == "length" { Stop::Length } else { Stop::End });
    }
    Ok(())
}
