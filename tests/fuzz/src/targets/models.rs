//! What model providers send: streams of each dialect, in whatever pieces, and the JSON that a model writes.

use mindos_generals::model::dialect::Dialect;
use mindos_generals::model::hearing::{CALLS_MAX, HEARD_MAX, Hearing};
use mindos_generals::model::{Said, Schema, Stop, read};
use serde_json::Value;

const DIALECTS: [Dialect; 4] = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Ollama, Dialect::Gemini];

/// The dialect, the size of the pieces, and the stream.
pub(super) fn stream(input: &[u8]) {
    let [dialect, piece, stream @ ..] = input else { return };
    let dialect = DIALECTS[usize::from(*dialect) % DIALECTS.len()];
    let hear = |piece: usize| {
        let mut hearing = Hearing::new(dialect);
        for piece in stream.chunks(piece) {
            hearing.feed(piece)?;
            assert!(hearing.heard().text.len() <= HEARD_MAX);
        }
        hearing.finish(3)
    };
    let whole = hear(stream.len().max(1));
    assert_eq!(hear(usize::from(*piece).max(1)), whole, "the same in pieces");
    let Ok(answer) = whole else { return };
    assert!(answer.calls.len() <= CALLS_MAX);
    assert!(answer.calls.iter().all(|call| !call.id.is_empty() && !call.name.is_empty()), "calls that can be answered");
    let end: &[u8] = match dialect {
        Dialect::OpenAi => b"[DONE]",
        Dialect::Anthropic => b"message_stop",
        Dialect::Ollama => b"done",
        Dialect::Gemini => b"finishReason",
    };
    // Text in JSON may be written with escapes.
    let said = stream.windows(end.len()).any(|part| part == end) || stream.contains(&b'\\');
    assert!(said, "an answer without its end");
}

pub(super) fn stream_seeds() -> Vec<Vec<u8>> {
    let streams: [(u8, &str); 7] = [
        (
            0,
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}],\"usage\":null}\n\n\
             data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":7,\"prompt_tokens_details\":{\"cached_tokens\":1}}}\n\n\
             data: [DONE]\n\n",
        ),
        (
            0,
            "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\"}}]}}]}\r\n\r\n\
             data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"\\\":1}\"}}]},\"finish_reason\":\"tool_calls\"}]}\r\n\r\n\
             data: [DONE]\r\n\r\n",
        ),
        (
            1,
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"cache_read_input_tokens\":4}}}\n\n\
             data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"answer\",\"input\":{}}}\n\n\
             data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}\n\n\
             data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":{\"output_tokens\":2}}\n\n\
             data: {\"type\":\"message_stop\"}\n\n",
        ),
        (1, "data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}\n\n"),
        (
            2,
            "{\"message\":{\"content\":\"a\",\"thinking\":\"t\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}}]},\"done\":false}\n\
             {\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":1,\"eval_count\":2}\n",
        ),
        (2, "{\"response\":\"a\",\"done\":true}"),
        (
            3,
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\",\"thought\":true},{\"functionCall\":{\"name\":\"f\",\"args\":{}},\
             \"thoughtSignature\":\"s\"}]},\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":1,\"thoughtsTokenCount\":2}}\n\n",
        ),
    ];
    streams.iter().map(|(dialect, stream)| [&[*dialect, 5], stream.as_bytes()].concat()).collect()
}

/// A schema on the first line, and what a model says to it.
pub(super) fn answer(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some((schema, text)) = text.split_once('\n') else { return };
    let Ok(schema) =
        serde_json::from_str::<Value>(schema).map_err(drop).and_then(|value| Schema::new(value).map_err(drop))
    else {
        return;
    };
    let _ = schema.is_closed();
    let said = Said {
        text: text.to_owned(),
        calls: Vec::new(),
        stop: Stop::End,
        usage: mindos_generals::model::Usage::default(),
        model: String::new(),
    };
    match read::<Value>(&said, &schema) {
        Ok(value) => assert_eq!(schema.check(&value), Ok(()), "what is taken fits"),
        Err(faults) => assert!(!faults.is_empty() && faults.len() <= 8, "{faults:?}"),
    }
}

pub(super) fn answer_seeds() -> Vec<Vec<u8>> {
    let schema = "{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false,\"properties\":{\"a\":{\"enum\":[1,\"x\"]},\
                  \"l\":{\"type\":\"array\",\"minItems\":1,\"maxItems\":2,\"items\":{\"type\":[\"integer\",\"null\"],\"minimum\":1,\"maximum\":9}},\
                  \"t\":{\"anyOf\":[{\"const\":true},{\"type\":\"string\",\"minLength\":1,\"maxLength\":3}]}}}";
    let said = [
        "{\"a\":1,\"l\":[1,null],\"t\":\"abc\"}",
        "Here:\n```json\n{\"a\":\"x\",\"t\":true}\n```\nDone.",
        "{\"answer\":{\"a\":1}}",
        "[[{{",
    ];
    said.iter().map(|said| format!("{schema}\n{said}").into_bytes()).collect()
}
