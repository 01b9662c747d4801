//! Anthropic's Messages.

use serde_json::{Map, Value, json};

use super::{ANSWER_TOOL, Encoded, Quirks, error, in_words, system};
use crate::model::hearing::{Fault, Heard, number, text};
use crate::model::{Ask, Message, Stop};

pub(super) fn encode(model: &str, ask: &Ask, quirks: Quirks) -> Encoded {
    // An answer of a schema is had as the arguments of a tool; beside other tools a demand has to do.
    let forced = ask.schema.as_ref().filter(|_| ask.tools.is_empty() && !quirks.schema_in_prompt);
    let mut body = Map::new();
    body.insert("model".to_owned(), model.into());
    body.insert("max_tokens".to_owned(), ask.output_tokens_max.into());
    let system = system(ask, forced.is_none());
    if !system.is_empty() {
        body.insert("system".to_owned(), system.into());
    }
    body.insert("messages".to_owned(), messages(&ask.messages).into());
    body.insert("stream".to_owned(), true.into());
    if !quirks.no_sampling {
        // Of the two most models take one only.
        match ask.temperature {
            Some(temperature) => body.insert("temperature".to_owned(), super::short(temperature.min(1.0))),
            None => ask.top_p.and_then(|top_p| body.insert("top_p".to_owned(), super::short(top_p))),
        };
    }
    let mut tools: Vec<Value> = ask
        .tools
        .iter()
        .map(|tool| json!({"name": tool.name, "description": tool.description, "input_schema": tool.parameters.value()}))
        .collect();
    if let Some(schema) = forced {
        let object = schema.value().get("type").is_some_and(|ty| ty == "object");
        // Arguments are an object, so what is none is wrapped into one.
        let input = match object {
            true => schema.value().clone(),
            false => json!({"type": "object", "properties": {"answer": schema.value()}, "required": ["answer"]}),
        };
        let description = if object { "Takes your answer.".to_owned() } else { in_words(schema) };
        tools.push(json!({"name": ANSWER_TOOL, "description": description, "input_schema": input}));
        body.insert("tool_choice".to_owned(), json!({"type": "tool", "name": ANSWER_TOOL}));
    }
    if !tools.is_empty() {
        body.insert("tools".to_owned(), tools.into());
    }
    Encoded { path: "/v1/messages".to_owned(), body: body.into() }
}

/// The turns: what follows on one side stands in one message, as results of tools have to.
fn messages(messages: &[Message]) -> Vec<Value> {
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in messages {
        let (role, blocks) = match message {
            Message::User(text) => ("user", vec![json!({"type": "text", "text": text})]),
            Message::Assistant { text, calls } => {
                let text = (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}));
                let calls = calls.iter().map(|call| {
                    let input = if call.arguments.is_object() { call.arguments.clone() } else { json!({}) };
                    json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
                });
                ("assistant", text.into_iter().chain(calls).collect())
            }
            Message::Tool { call, name: _, output } => {
                ("user", vec![json!({"type": "tool_result", "tool_use_id": call, "content": output})])
            }
        };
        match turns.last_mut() {
            Some((last, content)) if *last == role => content.extend(blocks),
            _ => turns.push((role, blocks)),
        }
    }
    let whole = |(role, content): (&str, Vec<Value>)| json!({"role": role, "content": content});
    turns.into_iter().filter(|(_, content)| !content.is_empty()).map(whole).collect()
}

/// One event.
pub(crate) fn hear(heard: &mut Heard, event: &Value) -> Result<(), Fault> {
    let index = number(event, "/index").unwrap_or(0);
    match text(event, "/type") {
        "message_start" => count(heard, event, "/message/usage"),
        "content_block_start" if text(event, "/content_block/type") == "tool_use" => {
            heard.calling(index, text(event, "/content_block/id"), text(event, "/content_block/name"), "")?;
            // Servers that do not stream arguments give them whole.
            if let Some(Value::Object(input)) = event.pointer("/content_block/input")
                && !input.is_empty()
            {
                heard.calling(index, "", "", &Value::Object(input.clone()).to_string())?;
            }
        }
        "content_block_start" => heard.say(text(event, "/content_block/text"))?,
        "content_block_delta" => match text(event, "/delta/type") {
            "text_delta" => heard.say(text(event, "/delta/text"))?,
            "input_json_delta" => heard.calling(index, "", "", text(event, "/delta/partial_json"))?,
            "thinking_delta" => heard.count(text(event, "/delta/thinking").len())?,
            _ => {}
        },
        "message_delta" => {
            count(heard, event, "/usage");
            match text(event, "/delta/stop_reason") {
                "" => {}
                "max_tokens" | "model_context_window_exceeded" => heard.stop = Some(Stop::Length),
                "tool_use" => heard.stop = Some(Stop::Tools),
                "refusal" => heard.refused = Some("the model refused".to_owned()),
                _ => heard.stop = Some(Stop::End),
            }
        }
        "message_stop" => {
            heard.ended = true;
            answered(heard);
        }
        "error" => return Err(error(event, None)),
        // `ping`, ends of blocks, and what may come to be.
        _ => {}
    }
    Ok(())
}

/// Counts are of the whole message, so later ones replace earlier ones.
fn count(heard: &mut Heard, event: &Value, usage: &str) {
    let of = |name: &str| number(event, &format!("{usage}/{name}"));
    let tokens = &mut heard.tokens;
    if let Some(input) = of("input_tokens") {
        let (cached, stored) = (of("cache_read_input_tokens"), of("cache_creation_input_tokens"));
        tokens.cached = cached.unwrap_or(tokens.cached);
        tokens.stored = stored.unwrap_or(tokens.stored);
        tokens.input = Some(input.saturating_add(tokens.cached).saturating_add(tokens.stored));
    }
    tokens.output = of("output_tokens").or(tokens.output);
}

/// What was given to the tool for answers is the answer's text.
fn answered(heard: &mut Heard) {
    if let Some(place) = heard.calls.iter().position(|call| call.name == ANSWER_TOOL) {
        let call = heard.calls.remove(place);
        heard.text = call.arguments;
        heard.stop = heard.stop.filter(|stop| *stop == Stop::Length);
    }
}
