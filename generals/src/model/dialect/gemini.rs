//! Gemini's `generateContent`, streamed.

use serde_json::{Map, Value, json};

use super::{Encoded, Quirks, error, system};
use crate::model::failure::Kind;
use crate::model::hearing::{Fault, Heard, list, number, text};
use crate::model::{Ask, Message, Stop};

pub(super) fn encode(model: &str, ask: &Ask, quirks: Quirks) -> Encoded {
    // JSON is not to be had beside tools, so a demand has to do there.
    let schema = ask.schema.as_ref().filter(|_| ask.tools.is_empty() && !quirks.schema_in_prompt);
    let mut body = Map::new();
    let system = system(ask, schema.is_none());
    if !system.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({"parts": [{"text": system}]}));
    }
    body.insert("contents".to_owned(), contents(&ask.messages).into());
    if !ask.tools.is_empty() {
        let tools: Vec<Value> = ask
            .tools
            .iter()
            .map(|tool| {
                json!({"name": tool.name, "description": tool.description,
                    "parametersJsonSchema": tool.parameters.value()})
            })
            .collect();
        body.insert("tools".to_owned(), json!([{"functionDeclarations": tools}]));
    }
    let mut config = Map::new();
    config.insert("maxOutputTokens".to_owned(), ask.output_tokens_max.into());
    if !quirks.no_sampling {
        super::sampling(&mut config, ask, "temperature", "topP");
    }
    if let Some(schema) = schema {
        config.insert("responseMimeType".to_owned(), "application/json".into());
        config.insert("responseJsonSchema".to_owned(), schema.value().clone());
    }
    body.insert("generationConfig".to_owned(), config.into());
    let model = model.strip_prefix("models/").unwrap_or(model);
    Encoded { path: format!("/v1beta/models/{model}:streamGenerateContent?alt=sse"), body: body.into() }
}

/// The turns: what follows on one side stands in one of them.
fn contents(messages: &[Message]) -> Vec<Value> {
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in messages {
        let (role, parts) = match message {
            Message::User(text) => ("user", vec![json!({"text": text})]),
            Message::Assistant { text, calls } => {
                let text = (!text.is_empty()).then(|| json!({"text": text}));
                let calls = calls.iter().map(|call| {
                    let arguments = if call.arguments.is_object() { call.arguments.clone() } else { json!({}) };
                    let mut part = json!({"functionCall": {"name": call.name, "args": arguments}});
                    if let Some(signature) = &call.signature {
                        part["thoughtSignature"] = signature.as_str().into();
                    }
                    part
                });
                ("model", text.into_iter().chain(calls).collect())
            }
            Message::Tool { call: _, name, output } => {
                ("user", vec![json!({"functionResponse": {"name": name, "response": {"result": output}}})])
            }
        };
        match turns.last_mut() {
            Some((last, content)) if *last == role => content.extend(parts),
            _ => turns.push((role, parts)),
        }
    }
    let whole = |(role, parts): (&str, Vec<Value>)| json!({"role": role, "parts": parts});
    turns.into_iter().filter(|(_, parts)| !parts.is_empty()).map(whole).collect()
}

/// One `GenerateContentResponse`.
pub(crate) fn hear(heard: &mut Heard, response: &Value) -> Result<(), Fault> {
    if response.get("error").is_some_and(|error| !error.is_null()) {
        return Err(error(response, None));
    }
    if response.get("usageMetadata").is_some_and(Value::is_object) {
        let of = |name: &str| number(response, &format!("/usageMetadata/{name}"));
        let sum = |one: Option<u64>, other: Option<u64>| one.map(|one| one.saturating_add(other.unwrap_or(0)));
        heard.tokens.input = sum(of("promptTokenCount"), of("toolUsePromptTokenCount")).or(heard.tokens.input);
        heard.tokens.cached = of("cachedContentTokenCount").unwrap_or(heard.tokens.cached);
        let written = of("candidatesTokenCount").or(of("thoughtsTokenCount").map(|_| 0));
        heard.tokens.output = sum(written, of("thoughtsTokenCount")).or(heard.tokens.output);
    }
    let blocked = text(response, "/promptFeedback/blockReason");
    if !blocked.is_empty() {
        heard.refused = Some(format!("the prompt was blocked: {}", crate::text::clipped(blocked, 64)));
        heard.ended = true;
        return Ok(());
    }
    let Some(candidate) = list(response, "/candidates").first() else { return Ok(()) };
    for part in list(candidate, "/content/parts") {
        if part.get("thought") == Some(&Value::Bool(true)) {
            heard.count(text(part, "/text").len())?;
            continue;
        }
        heard.say(text(part, "/text"))?;
        if let Some(call) = part.get("functionCall") {
            let index = heard.calls.len() as u64;
            let arguments = call.get("args").filter(|args| !args.is_null()).map(Value::to_string).unwrap_or_default();
            heard.calling(index, text(call, "/id"), text(call, "/name"), &arguments)?;
            let signature = text(part, "/thoughtSignature");
            if !signature.is_empty() {
                heard.count(signature.len())?;
                heard.call(index)?.signature = Some(signature.to_owned());
            }
        }
    }
    match text(candidate, "/finishReason") {
        "" => return Ok(()),
        "STOP" | "FINISH_REASON_UNSPECIFIED" => heard.stop = Some(Stop::End),
        "MAX_TOKENS" => heard.stop = Some(Stop::Length),
        "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" => {
            return Err(Fault::new(Kind::Invalid, "the model called a tool in a way that cannot be read"));
        }
        why @ ("SAFETY" | "RECITATION" | "LANGUAGE" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "OTHER") => {
            heard.refused = Some(format!("the answer was withheld: {why}"));
        }
        _ => heard.stop = Some(Stop::End),
    }
    heard.ended = true;
    Ok(())
}
