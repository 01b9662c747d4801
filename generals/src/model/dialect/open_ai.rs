//! OpenAI's chat completions, which many servers speak.

use serde_json::{Map, Value, json};

use super::{Encoded, Quirks, error, system};
use crate::model::hearing::{Fault, Heard, list, number, text};
use crate::model::{Ask, Message, Stop};

pub(crate) const HOME: &str = "https://api.openai.com/v1";

pub(super) fn encode(model: &str, ask: &Ask, quirks: Quirks) -> Encoded {
    let mut messages = Vec::new();
    let system = system(ask, quirks.schema_in_prompt);
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.extend(ask.messages.iter().map(message));
    let mut body = Map::new();
    body.insert("model".to_owned(), model.into());
    body.insert("messages".to_owned(), messages.into());
    body.insert("stream".to_owned(), true.into());
    if !quirks.no_usage {
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    let limit = if quirks.other_limit_name { "max_completion_tokens" } else { "max_tokens" };
    body.insert(limit.to_owned(), ask.output_tokens_max.into());
    if !quirks.no_sampling {
        super::sampling(&mut body, ask, "temperature", "top_p");
    }
    if !ask.tools.is_empty() {
        let tools = ask.tools.iter().map(|tool| {
            json!({"type": "function", "function":
                {"name": tool.name, "description": tool.description, "parameters": tool.parameters.value()}})
        });
        body.insert("tools".to_owned(), tools.collect());
    }
    if let Some(schema) = &ask.schema
        && !quirks.schema_in_prompt
    {
        let schema = json!({"name": "answer", "schema": schema.value(), "strict": schema.is_closed()});
        body.insert("response_format".to_owned(), json!({"type": "json_schema", "json_schema": schema}));
    }
    Encoded { path: "/chat/completions".to_owned(), body: body.into() }
}

fn message(message: &Message) -> Value {
    match message {
        Message::User(text) => json!({"role": "user", "content": text}),
        Message::Assistant { text, calls } if calls.is_empty() => json!({"role": "assistant", "content": text}),
        Message::Assistant { text, calls } => {
            let calls: Vec<Value> = calls
                .iter()
                .map(|call| {
                    // What was no object goes back as it came.
                    let arguments = match &call.arguments {
                        Value::String(text) => text.clone(),
                        object => object.to_string(),
                    };
                    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
                })
                .collect();
            let content = if text.is_empty() { Value::Null } else { text.as_str().into() };
            json!({"role": "assistant", "content": content, "tool_calls": calls})
        }
        Message::Tool { call, name: _, output } => json!({"role": "tool", "tool_call_id": call, "content": output}),
    }
}

/// One `chat.completion.chunk`.
pub(crate) fn hear(heard: &mut Heard, chunk: &Value) -> Result<(), Fault> {
    if chunk.get("error").is_some_and(|error| !error.is_null()) {
        return Err(error(chunk, None));
    }
    if chunk.get("usage").is_some_and(Value::is_object) {
        heard.tokens.input = number(chunk, "/usage/prompt_tokens");
        heard.tokens.cached = number(chunk, "/usage/prompt_tokens_details/cached_tokens").unwrap_or(0);
        heard.tokens.output = number(chunk, "/usage/completion_tokens");
    }
    // Only one answer is asked for.
    let Some(choice) = list(chunk, "/choices").iter().find(|choice| number(choice, "/index").unwrap_or(0) == 0) else {
        return Ok(());
    };
    heard.say(text(choice, "/delta/content"))?;
    // Thoughts of servers that show them; they are paid for and not kept.
    heard.count(text(choice, "/delta/reasoning_content").len())?;
    let refusal = text(choice, "/delta/refusal");
    if !refusal.is_empty() {
        heard.count(refusal.len())?;
        heard.refused.get_or_insert_default().push_str(refusal);
    }
    for (place, call) in list(choice, "/delta/tool_calls").iter().enumerate() {
        let index = number(call, "/index").unwrap_or(place as u64);
        heard.calling(index, text(call, "/id"), text(call, "/function/name"), text(call, "/function/arguments"))?;
    }
    match text(choice, "/finish_reason") {
        "" => {}
        "length" => heard.stop = Some(Stop::Length),
        "tool_calls" | "function_call" => heard.stop = Some(Stop::Tools),
        "content_filter" => {
            heard.refused.get_or_insert_with(|| "a content filter ended the answer".to_owned());
        }
        _ => heard.stop = Some(Stop::End),
    }
    Ok(())
}
