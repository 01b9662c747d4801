//! What goes to each provider and what is heard of it, as it was found right: `testdata/models/<dialect>.txt`, written with `UPDATE=1`.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::spec::Spec;
use super::*;
use crate::model::hearing::{Answer, CALLS_MAX, Hearing, PART_MAX};
use crate::model::{Message, Schema, ToolCall, ToolSpec};

const ALL: [Dialect; 4] = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Ollama, Dialect::Gemini];

fn schema(schema: Value) -> Schema {
    Schema::new(schema).unwrap()
}

fn asks() -> Vec<(&'static str, Ask, Quirks)> {
    let weather = ToolSpec {
        name: "get_weather".to_owned(),
        description: "The weather in a city.".to_owned(),
        parameters: schema(json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})),
    };
    let call = |id: &str, arguments: Value| ToolCall {
        id: id.to_owned(),
        name: "get_weather".to_owned(),
        arguments,
        signature: (id == "c1").then(|| "sig".to_owned()),
    };
    let output = |id: &str, output: &str| Message::Tool {
        call: id.to_owned(),
        name: "get_weather".to_owned(),
        output: output.to_owned(),
    };
    let tools = Ask {
        tools: vec![weather],
        messages: vec![
            Message::User("What is it like in Oslo and Rome?".to_owned()),
            Message::Assistant {
                text: "Let me see.".to_owned(),
                calls: vec![call("c1", json!({"city": "Oslo"})), call("c2", json!("{\"city"))],
            },
            output("c1", "rain"),
            output("c2", "the arguments are no JSON"),
            Message::User("Go on.".to_owned()),
        ],
        ..Ask::default()
    };
    let answer =
        schema(json!({"type": "object", "properties": {"risk": {"enum": ["low", "high"]}}, "required": ["risk"],
        "additionalProperties": false}));
    let plain =
        Ask { temperature: Some(0.2), top_p: Some(0.9), output_tokens_max: 100, ..Ask::of("Be brief.", "Hello") };
    let structured = Ask { schema: Some(answer), ..Ask::of("", "How risky is it?") };
    let list = Ask { schema: Some(schema(json!({"type": "array"}))), ..tools.clone() };
    let odd = Quirks { schema_in_prompt: true, other_limit_name: true, no_sampling: true, no_usage: true };
    vec![
        ("a question", plain.clone(), Quirks::default()),
        ("a conversation with tools", tools, Quirks::default()),
        ("an answer of a schema", structured.clone(), Quirks::default()),
        ("an answer of a schema beside tools", list, Quirks::default()),
        ("a server with all quirks", Ask { temperature: Some(1.0), ..structured }, odd),
        ("a completion", Ask { completion: true, system: String::new(), ..plain }, Quirks::default()),
        ("a long question", Ask::of("", "x".repeat(20_000)), Quirks::default()),
    ]
}

/// Streams as servers send them, by what they show.
fn streams(dialect: Dialect) -> Vec<(&'static str, String)> {
    let events = |values: &[Value]| values.iter().map(|value| format!("data: {value}\n\n")).collect::<String>();
    match dialect {
        Dialect::OpenAi => {
            let chunk = |delta: Value, finish: Value| {
                json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795176000, "model": "gpt-4o-mini-2024-07-18",
                    "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}], "usage": null})
            };
            let usage = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795176000, "model": "m", "choices": [],
                "usage": {"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37, "prompt_tokens_details": {"cached_tokens": 10}}});
            let ended = |values: &[Value]| events(values) + "data: [DONE]\n\n";
            let call = |index: u64, piece: Value| json!({"tool_calls": [{"index": index, "function": piece}]});
            let begun = |index: u64, id: &str| {
                json!({"tool_calls": [{"index": index, "id": id, "type": "function",
                    "function": {"name": "get_weather", "arguments": ""}}]})
            };
            vec![
                (
                    "text",
                    ended(&[
                        chunk(json!({"role": "assistant", "content": ""}), Value::Null),
                        chunk(json!({"content": "Grüß "}), Value::Null),
                        chunk(json!({"content": "Gott"}), Value::Null),
                        chunk(json!({}), json!("stop")),
                        usage.clone(),
                    ]),
                ),
                (
                    "tools",
                    ended(&[
                        chunk(begun(0, "a"), Value::Null),
                        chunk(call(0, json!({"arguments": "{\"city\":"})), Value::Null),
                        chunk(begun(1, "b"), Value::Null),
                        chunk(call(1, json!({"arguments": "oops"})), Value::Null),
                        chunk(call(0, json!({"arguments": "\"Oslo\"}"})), Value::Null),
                        chunk(json!({}), json!("tool_calls")),
                        usage.clone(),
                    ]),
                ),
                ("too long", ended(&[chunk(json!({"content": "one two"}), json!("length"))])),
                ("a filter", ended(&[chunk(json!({"content": "one"}), json!("content_filter")), usage.clone()])),
                (
                    "a refusal",
                    ended(&[
                        chunk(json!({"refusal": "I will "}), Value::Null),
                        chunk(json!({"refusal": "not"}), json!("stop")),
                    ]),
                ),
                (
                    "an error in it",
                    events(&[
                        chunk(json!({"content": "one"}), Value::Null),
                        json!({"error": {"message": "The server is overloaded", "type": "overloaded_error", "param": null, "code": null}}),
                    ]),
                ),
            ]
        }
        Dialect::Anthropic => {
            let named = |values: &[Value]| {
                let event = |value: &Value| format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap());
                values.iter().map(event).collect::<String>()
            };
            let start = json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "content": [],
                "model": "claude", "stop_reason": null, "stop_sequence": null,
                "usage": {"input_tokens": 20, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 5, "output_tokens": 1}}});
            let block = |index: u64, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
            let delta =
                |index: u64, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
            let stop = |index: u64| json!({"type": "content_block_stop", "index": index});
            let end = |why: &str| json!({"type": "message_delta", "delta": {"stop_reason": why, "stop_sequence": null}, "usage": {"output_tokens": 9}});
            let last = json!({"type": "message_stop"});
            let tool = |name: &str| json!({"type": "tool_use", "id": "toolu_1", "name": name, "input": {}});
            vec![
                (
                    "text",
                    named(&[
                        start.clone(),
                        block(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
                        delta(0, json!({"type": "thinking_delta", "thinking": "Hm."})),
                        delta(0, json!({"type": "signature_delta", "signature": "s"})),
                        stop(0),
                        json!({"type": "ping"}),
                        block(1, json!({"type": "text", "text": ""})),
                        delta(1, json!({"type": "text_delta", "text": "Grüß "})),
                        delta(1, json!({"type": "text_delta", "text": "Gott"})),
                        stop(1),
                        end("end_turn"),
                        last.clone(),
                    ]),
                ),
                (
                    "tools",
                    named(&[
                        start.clone(),
                        block(0, json!({"type": "text", "text": "Let me see."})),
                        stop(0),
                        block(1, tool("get_weather")),
                        delta(1, json!({"type": "input_json_delta", "partial_json": "{\"city\": \"O"})),
                        delta(1, json!({"type": "input_json_delta", "partial_json": "slo\"}"})),
                        stop(1),
                        end("tool_use"),
                        last.clone(),
                    ]),
                ),
                (
                    "an answer of a schema",
                    named(&[
                        start.clone(),
                        block(0, tool("answer")),
                        delta(0, json!({"type": "input_json_delta", "partial_json": "{\"risk\": \"low\"}"})),
                        stop(0),
                        end("tool_use"),
                        last.clone(),
                    ]),
                ),
                (
                    "too long",
                    named(&[
                        start.clone(),
                        block(0, json!({"type": "text", "text": "one"})),
                        end("max_tokens"),
                        last.clone(),
                    ]),
                ),
                ("a refusal", named(&[start.clone(), end("refusal"), last.clone()])),
                (
                    "an error in it",
                    named(&[
                        start,
                        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
                    ]),
                ),
            ]
        }
        Dialect::Ollama => {
            let lines = |values: &[Value]| values.iter().map(|value| format!("{value}\n")).collect::<String>();
            let line = |message: Value| json!({"model": "q", "created_at": "2026-11-20T12:00:00.1Z", "message": message, "done": false});
            let done = |why: &str| {
                json!({"model": "q", "created_at": "2026-11-20T12:00:01Z", "message": {"role": "assistant", "content": ""}, "done": true,
                    "done_reason": why, "total_duration": 9, "prompt_eval_count": 26, "eval_count": 4})
            };
            let tool = |city: &str| json!({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": city}}}]});
            let whole = json!({"model": "q", "created_at": "2026-11-20T12:00:01Z", "response": "Grüß Gott", "done": true,
                "done_reason": "stop", "prompt_eval_count": 26, "eval_count": 4});
            vec![
                (
                    "text",
                    lines(&[
                        line(json!({"role": "assistant", "content": "", "thinking": "Hm."})),
                        line(json!({"role": "assistant", "content": "Grüß "})),
                        line(json!({"role": "assistant", "content": "Gott"})),
                        done("stop"),
                    ]),
                ),
                ("tools", lines(&[line(tool("Oslo")), line(tool("Rome")), done("stop")])),
                ("too long", lines(&[line(json!({"role": "assistant", "content": "one"})), done("length")])),
                ("a completion", whole.to_string()),
                ("no counts", lines(&[json!({"message": {"content": ""}, "done": true})])),
                (
                    "an error in it",
                    lines(&[line(json!({"content": "one"})), json!({"error": "an error was encountered"})]),
                ),
            ]
        }
        Dialect::Gemini => {
            let part = |parts: Value| {
                json!({"candidates": [{"content": {"parts": parts, "role": "model"}, "index": 0}],
                "usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12}})
            };
            let last = |parts: Value, why: &str| {
                json!({"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": why}],
                "usageMetadata": {"promptTokenCount": 12, "cachedContentTokenCount": 4, "candidatesTokenCount": 5, "thoughtsTokenCount": 6,
                    "totalTokenCount": 23}})
            };
            let call = |city: &str| json!({"functionCall": {"name": "get_weather", "args": {"city": city}}});
            let mut signed = call("Oslo");
            signed["thoughtSignature"] = json!("sig");
            vec![
                (
                    "text",
                    events(&[
                        part(json!([{"text": "Hm.", "thought": true}])),
                        part(json!([{"text": "Grüß "}])),
                        last(json!([{"text": "Gott"}]), "STOP"),
                    ]),
                ),
                ("tools", events(&[last(json!([signed, call("Rome")]), "STOP")])),
                (
                    "counted after it",
                    events(&[
                        json!({"candidates": [{"content": {"parts": [{"text": "one"}]}, "finishReason": "MAX_TOKENS"}]}),
                        json!({"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}}),
                    ]),
                ),
                ("withheld", events(&[last(json!([]), "SAFETY")])),
                (
                    "a prompt that is blocked",
                    events(&[json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
                    "usageMetadata": {"promptTokenCount": 8}})]),
                ),
                (
                    "an error in it",
                    events(&[
                        part(json!([{"text": "one"}])),
                        json!({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}),
                    ]),
                ),
            ]
        }
    }
}

/// What is heard of a stream that comes in pieces of so many bytes.
fn heard(dialect: Dialect, stream: &[u8], piece: usize) -> Result<Answer, (Fault, String)> {
    let mut hearing = Hearing::new(dialect);
    for piece in stream.chunks(piece) {
        if let Err(fault) = hearing.feed(piece) {
            return Err((fault, format!("{:?}", hearing.heard().tokens)));
        }
    }
    let tokens = format!("{:?}", hearing.heard().tokens);
    hearing.finish(2).map_err(|fault| (fault, tokens))
}

#[test]
fn requests_and_answers_are_those_that_were_found_right() {
    for dialect in ALL {
        let mut found = String::new();
        for (about, ask, quirks) in asks() {
            let Encoded { path, mut body } = dialect.encode("the-model", &ask, quirks);
            if about == "a long question" {
                // Only what depends on its length is of interest.
                ["messages", "contents"].iter().for_each(|name| drop(body.as_object_mut().unwrap().remove(*name)));
            }
            let _ = writeln!(found, "ask: {about}\nPOST {path}\n{body:#}\n");
        }
        for (about, stream) in streams(dialect) {
            let _ = match heard(dialect, stream.as_bytes(), stream.len()) {
                Ok(Answer { text, calls, stop, tokens }) => {
                    writeln!(found, "hear: {about}\n{text:?} {stop:?}\n{tokens:?}").unwrap();
                    calls.iter().try_for_each(|call| writeln!(found, "{call:?}"))
                }
                Err((Fault { kind, words }, tokens)) => writeln!(found, "hear: {about}\n{kind:?}: {words}\n{tokens}"),
            };
            found.push('\n');
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/models/{}.txt", dialect.as_str()));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &found).unwrap();
        }
        let right = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(found == right, "{} differs; found:\n{found}", file.display());
    }
}

#[test]
fn requests_are_as_the_providers_describe_them() {
    let (open_ai, ollama) = (Spec::open_ai(), Spec::ollama());
    for (about, ask, quirks) in asks() {
        let body = Dialect::OpenAi.encode("the-model", &ask, quirks).body;
        assert_eq!(open_ai.faults("CreateChatCompletionRequest", &body, &[]), [""; 0], "{about}: {body:#}");
        let Encoded { path, body } = Dialect::Ollama.encode("the-model", &ask, quirks);
        let schema = if path == "/api/generate" { "GenerateRequest" } else { "ChatRequest" };
        // Its server takes these, and the description does not know them.
        let besides = ["id", "tool_name", "tool_call_id"];
        assert_eq!(ollama.faults(schema, &body, &besides), [""; 0], "{about}: {body:#}");
    }
    let mut wrong = Dialect::OpenAi.encode("m", &asks()[1].1, Quirks::default()).body;
    wrong["messages"][2]["tool_call_id"] = json!(7);
    wrong["max_token"] = json!(1);
    let found = open_ai.faults("CreateChatCompletionRequest", &wrong, &[]).join("; ");
    assert!(found.contains("tool_call_id is no string") && found.contains("max_token is not described"), "{found}");
}

#[test]
fn a_long_completion_asks_ollama_for_the_context_that_it_needs() {
    let asked = |length: usize| {
        let ask = Ask { completion: true, temperature: Some(0.2), ..Ask::of("", "x".repeat(length)) };
        let Encoded { path, body } = Dialect::Ollama.encode("q", &ask, Quirks::default());
        assert_eq!(path, "/api/generate");
        body["options"].clone()
    };
    assert_eq!(asked(100), json!({"temperature": 0.2}), "a short one stays as its contract has it");
    assert_eq!(asked(20_000), json!({"temperature": 0.2, "num_predict": 4096, "num_ctx": 16_384}));
}

#[test]
fn the_streams_of_these_tests_are_as_the_providers_describe_them() {
    for (about, stream) in streams(Dialect::OpenAi) {
        for data in stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
            let mut value: Value = serde_json::from_str(data).unwrap();
            // Its servers say null, and its description does not allow for it.
            if value.get("usage") == Some(&Value::Null) {
                value.as_object_mut().unwrap().remove("usage");
            }
            let schema =
                if value.get("error").is_some() { "ErrorResponse" } else { "CreateChatCompletionStreamResponse" };
            assert_eq!(Spec::open_ai().faults(schema, &value, &[]), [""; 0], "{about}: {data}");
        }
    }
    for (about, stream) in streams(Dialect::Ollama) {
        for line in stream.lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            let schema = match value.get("response").is_some() {
                true => "GenerateResponse",
                false if value.get("error").is_some() => "ErrorResponse",
                false => "ChatStreamEvent",
            };
            let besides = ["done_reason", "total_duration", "prompt_eval_count", "eval_count"];
            assert_eq!(Spec::ollama().faults(schema, &value, &besides), [""; 0], "{about}: {line}");
        }
    }
}

#[test]
fn an_answer_is_the_same_in_whatever_pieces_it_comes() {
    for dialect in ALL {
        for (about, stream) in streams(dialect) {
            let whole = heard(dialect, stream.as_bytes(), stream.len());
            for piece in [1, 2, 3, 5, 7, 64] {
                assert_eq!(heard(dialect, stream.as_bytes(), piece), whole, "{dialect:?}, {about}, {piece}");
            }
        }
    }
}

#[test]
fn an_answer_that_breaks_off_anywhere_is_none() {
    for dialect in ALL {
        let (_, stream) = streams(dialect).swap_remove(0);
        let end = match dialect {
            Dialect::OpenAi => "[DONE]",
            Dialect::Anthropic => "\"message_stop\"",
            Dialect::Ollama => "\"done\":true",
            Dialect::Gemini => "\"finishReason\"",
        };
        let end = stream.find(end).unwrap();
        for cut in 0..end {
            let (fault, _) = heard(dialect, &stream.as_bytes()[..cut], 64).unwrap_err();
            assert_eq!(fault.kind, Kind::Cut, "{dialect:?} at {cut}: {fault:?}");
        }
    }
}

#[test]
fn what_is_gathered_is_bounded() {
    let kind = |dialect: Dialect, stream: &str| heard(dialect, stream.as_bytes(), 1 << 16).unwrap_err().0;
    let endless = kind(Dialect::Ollama, &"x".repeat(PART_MAX + 1));
    assert!(endless.kind == Kind::Invalid && endless.words.contains("more than"), "{endless:?}");
    let piece = format!("data: {}\n\n", json!({"choices": [{"delta": {"content": "x".repeat(1 << 20)}}]}));
    assert!(kind(Dialect::OpenAi, &piece.repeat(5)).words.contains("bytes"));
    let call = |index: usize| {
        format!(
            "data: {}\n\n",
            json!({"choices": [{"delta": {"tool_calls": [{"index": index, "function": {"name": "f"}}]}}]})
        )
    };
    let calls: String = (0..=CALLS_MAX).map(call).collect();
    assert!(kind(Dialect::OpenAi, &calls).words.contains("calls of tools"));
}

#[test]
fn refusals_are_read_in_whatever_shape_they_come() {
    let refusal = |dialect: Dialect, status: u16, body: &str| {
        let Fault { kind, words } = dialect.refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        (kind, words)
    };
    let limited = r#"{"error":{"message":"Rate limit reached","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}"#;
    assert_eq!(refusal(Dialect::OpenAi, 429, limited), (Kind::RateLimited, "Rate limit reached".to_owned()));
    let busy = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}"#;
    assert_eq!(refusal(Dialect::Anthropic, 529, busy), (Kind::Overloaded, "Overloaded".to_owned()));
    let missing = r#"{"error":"model 'x' not found"}"#;
    assert_eq!(refusal(Dialect::Ollama, 404, missing), (Kind::Rejected, "model 'x' not found".to_owned()));
    let gemini = r#"[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT"}}]"#;
    assert_eq!(refusal(Dialect::Gemini, 400, gemini), (Kind::Unauthorised, "API key not valid.".to_owned()));
    let llama = r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}"#;
    assert_eq!(refusal(Dialect::Anthropic, 400, llama).0, Kind::ContextTooLong, "in OpenAI's shape");
    assert_eq!(
        refusal(Dialect::OpenAi, 502, "<html>\nBad gateway"),
        (Kind::Unreachable, "<html> Bad gateway".to_owned())
    );
    assert_eq!(refusal(Dialect::OpenAi, 503, ""), (Kind::Overloaded, String::new()));
}

#[test]
fn what_a_server_does_not_take_is_learnt_once() {
    let ask = asks().swap_remove(2).1;
    let learnt = Quirks::default().learn(&ask, "Unknown parameter: 'response_format'").unwrap();
    assert_eq!(learnt, Quirks { schema_in_prompt: true, ..Quirks::default() });
    assert_eq!(learnt.learn(&ask, "Unknown parameter: 'response_format'"), None);
    let limit = learnt.learn(&ask, "Unsupported parameter: 'max_tokens', use 'max_completion_tokens' instead").unwrap();
    assert!(limit.other_limit_name && limit.schema_in_prompt);
    assert!(limit.learn(&ask, "`temperature` is deprecated for this model").unwrap().no_sampling);
    assert!(limit.learn(&ask, "stream_options is not supported").unwrap().no_usage);
    assert_eq!(limit.learn(&ask, "no such model"), None);
    assert_eq!(Quirks::default().learn(&Ask::of("", "x"), "bad schema"), None, "where no schema was asked for");
}

#[test]
fn keys_are_sent_as_each_provider_wants_them_and_not_shown() {
    let key = Secret::new("SECRET");
    for (dialect, name, value) in [
        (Dialect::OpenAi, "authorization", "Bearer SECRET"),
        (Dialect::Ollama, "authorization", "Bearer SECRET"),
        (Dialect::Anthropic, "x-api-key", "SECRET"),
        (Dialect::Gemini, "x-goog-api-key", "SECRET"),
    ] {
        let headers = dialect.headers(Some(&key)).unwrap();
        assert_eq!(headers[name], value);
        assert!(!format!("{headers:?}").contains("SECRET"));
        assert!(!dialect.headers(None).unwrap().contains_key(name));
    }
}
