//! How providers are spoken with. Pure: a question becomes a request, and one value of a stream becomes what was heard.
//!
//! | dialect | request | stream | ends with |
//! |---|---|---|---|
//! | OpenAI | `POST <base>/chat/completions` | server-sent events | `[DONE]` |
//! | Anthropic | `POST <base>/v1/messages` | server-sent events | `message_stop` |
//! | Ollama | `POST <base>/api/chat`, `/api/generate` | a JSON value a line | `"done": true` |
//! | Gemini | `POST <base>/v1beta/models/<model>:streamGenerateContent` | server-sent events | a `finishReason` |

pub(crate) mod anthropic;
pub(crate) mod gemini;
pub(crate) mod ollama;
pub(crate) mod open_ai;


use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mindos_sdk::model::Secret;
use serde_json::Value;

use super::failure::{Kind, brief};
use super::hearing::{Fault, text};
use super::{Ask, Schema};

/// The tool that an answer of a schema is given to, where a provider knows no other way.
pub(crate) const ANSWER_TOOL: &str = "answer";

/// How a provider is spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
    Gemini,
}

/// What a server was found not to take, and how it is asked instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// The schema stands in the prompt.
    pub schema_in_prompt: bool,
    /// The limit of tokens goes by its other name.
    pub other_limit_name: bool,
    /// Temperature and `top_p` are left out.
    pub no_sampling: bool,
    /// Usage is not asked for within the stream.
    pub no_usage: bool,
}

impl Quirks {
    /// What a refusal teaches; `None` where it is about something else.
    #[must_use]
    pub fn learn(self, ask: &Ask, words: &str) -> Option<Quirks> {
        let words = words.to_lowercase();
        let says = |any: &[&str]| any.iter().any(|it| words.contains(it));
        let learnt = if says(&["max_tokens", "max_completion_tokens"]) && !self.other_limit_name {
            Quirks { other_limit_name: true, ..self }
        } else if ask.schema.is_some()
            && says(&["response_format", "json_schema", "responsejsonschema", "schema", "tool_choice", "grammar"])
        {
            Quirks { schema_in_prompt: true, ..self }
        } else if says(&["temperature", "top_p", "top_k"]) {
            Quirks { no_sampling: true, ..self }
        } else if says(&["stream_options", "include_usage"]) {
            Quirks { no_usage: true, ..self }
        } else {
            return None;
        };
        (learnt != self).then_some(learnt)
    }
}

/// A request, but for the address that it goes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    pub path: String,
    pub body: Value,
}

impl Dialect {
    /// The word in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::OpenAi => "openai",
            Dialect::Anthropic => "anthropic",
            Dialect::Ollama => "ollama",
            Dialect::Gemini => "gemini",
        }
    }

    /// Where the provider itself is.
    #[must_use]
    pub fn home(self) -> &'static str {
        match self {
            Dialect::OpenAi => open_ai::HOME,
            Dialect::Anthropic => "https://api.anthropic.com",
            Dialect::Ollama => "http://localhost:11434",
            Dialect::Gemini => "https://generativelanguage.googleapis.com",
        }
    }

    /// The request for a question.
    #[must_use]
    pub fn encode(self, model: &str, ask: &Ask, quirks: Quirks) -> Encoded {
        match self {
            Dialect::OpenAi => open_ai::encode(model, ask, quirks),
            Dialect::Anthropic => anthropic::encode(model, ask, quirks),
            Dialect::Ollama => ollama::encode(model, ask, quirks),
            Dialect::Gemini => gemini::encode(model, ask, quirks),
        }
    }

    /// The headers of a request.
    ///
    /// # Errors
    /// When the key cannot stand in a header.
    pub fn headers(self, key: Option<&Secret>) -> Result<HeaderMap, http::header::InvalidHeaderValue> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self == Dialect::Anthropic {
            headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        }
        if let Some(key) = key {
            let (name, value) = match self {
                Dialect::OpenAi | Dialect::Ollama => (AUTHORIZATION, format!("Bearer {}", key.expose())),
                Dialect::Anthropic => (HeaderName::from_static("x-api-key"), key.expose().to_owned()),
                Dialect::Gemini => (HeaderName::from_static("x-goog-api-key"), key.expose().to_owned()),
            };
            let mut value = HeaderValue::try_from(value)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// What a refusal says. The shapes are tried one after the other, for many servers speak a dialect and refuse in another.
    #[must_use]
    pub fn refusal(self, status: StatusCode, body: &[u8]) -> Fault {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        // Gemini wraps what it says into a list where it streams.
        let value = value.get(0).unwrap_or(&value);
        let fault = error(value, Some(status));
        match fault.words.is_empty() {
            true => Fault::new(fault.kind, brief(&String::from_utf8_lossy(body))),
            false => fault,
        }
    }
}

/// The failure that a value tells of, by the words under `error`; `detail` and `message` are what other servers say.
pub(crate) fn error(value: &Value, status: Option<StatusCode>) -> Fault {
    let mut names = String::new();
    for pointer in ["/error/type", "/error/code", "/error/status", "/code"] {
        names.push_str(text(value, pointer));
        names.push(' ');
    }
    let places = ["/error/message", "/error", "/message", "/detail"];
    let words = places.iter().map(|pointer| text(value, pointer)).find(|words| !words.is_empty()).unwrap_or_default();
    Fault::new(Kind::of(status, &names, words), brief(words))
}

/// The system's text, and the schema where it has to stand there.
pub(crate) fn system(ask: &Ask, schema_in_prompt: bool) -> String {
    match &ask.schema {
        Some(schema) if schema_in_prompt => {
            let asked = in_words(schema);
            if ask.system.is_empty() { asked } else { format!("{}\n\n{asked}", ask.system) }
        }
        _ => ask.system.clone(),
    }
}

/// A schema as a demand.
pub(crate) fn in_words(schema: &Schema) -> String {
    format!(
        "Answer with one JSON value that fits this JSON Schema, and with nothing before or after it:\n{}",
        schema.value()
    )
}

/// Temperature and `top_p`, where they are asked for.
pub(crate) fn sampling(into: &mut serde_json::Map<String, Value>, ask: &Ask, temperature: &str, top_p: &str) {
    for (name, value) in [(temperature, ask.temperature), (top_p, ask.top_p)] {
        if let Some(value) = value {
            into.insert(name.to_owned(), short(value));
        }
    }
}

/// A number as it was written: 0.2, and not what is nearest to it in twice the bits.
pub(crate) fn short(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
