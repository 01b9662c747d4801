//! What the answer of a general says beside its output, where it is JSON: members `usage` and `effects`.
//!
//! ```json
//! {"usage": [{"model": "m", "input_tokens": 7, "output_tokens": 3, "cost_micros": 9}],
//!  "effects": [{"kind": "comment", "target": "o/r#7", "parameters": {"body": "hello"}}]}
//! ```
//! What of `usage` is not understood is not counted. An effect that is not understood is an error: half of what a general wants done is not
//! what it wants. `key` may be left out, then the effect's place in the delivery is its key; `parameters` may be, then there are none.

use bytes::Bytes;
use mindos_sdk::{Effect, Failure, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Models of one answer whose use is counted.
const USAGE_MAX: usize = 64;

/// What an answer says beside its output.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) usage: Vec<Usage>,
    pub(crate) effects: Vec<Effect>,
}

#[derive(Deserialize)]
struct UsageMembers {
    #[serde(default)]
    model: String,
    usage: Option<Usages>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Usages {
    Many(Vec<AnswerUsage>),
    One(AnswerUsage),
}

#[derive(Deserialize)]
struct AnswerUsage {
    #[serde(default)]
    model: String,
    #[serde(default, alias = "prompt_tokens")]
    input_tokens: u64,
    #[serde(default)]
    cached_input_tokens: u64,
    #[serde(default, alias = "completion_tokens")]
    output_tokens: u64,
    #[serde(default)]
    cost_micros: u64,
    #[serde(default)]
    calls: u32,
}

#[derive(Deserialize)]
struct EffectMembers<'a> {
    #[serde(default, borrow)]
    effects: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerEffect<'a> {
    #[serde(default)]
    key: Option<String>,
    kind: String,
    target: String,
    #[serde(default, borrow)]
    parameters: Option<&'a RawValue>,
}

/// Reads an answer in JSON.
///
/// # Errors
/// Poison, where `effects` is there and is not what it should be.
pub(crate) fn read(data: &[u8]) -> Result<Answer, Failure> {
    Ok(Answer { usage: usage(data), effects: effects(data)? })
}

/// What an answer says was used, as far as it is understood.
pub(crate) fn usage(data: &[u8]) -> Vec<Usage> {
    let Ok(UsageMembers { model: of, usage }) = serde_json::from_slice(data) else { return Vec::new() };
    let usages = match usage {
        None => Vec::new(),
        Some(Usages::One(one)) => vec![one],
        Some(Usages::Many(many)) => many,
    };
    let one = |AnswerUsage { model, input_tokens, cached_input_tokens, output_tokens, cost_micros, calls }: AnswerUsage| Usage {
        model: if model.is_empty() { of.clone() } else { model },
        input_tokens,
        cached_input_tokens,
        output_tokens,
        cost_micros,
        calls,
    };
    usages.into_iter().take(USAGE_MAX).map(one).collect()
}

fn effects(data: &[u8]) -> Result<Vec<Effect>, Failure> {
    // What is no object has no members.
    if data.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Ok(Vec::new());
    }
    let refused = |place: &str, error: &dyn std::fmt::Display| {
        let accepted = "expected a list of {key?, kind, target, parameters?}, parameters an object";
        Failure::poison(format!("the answer's {place}: {error}; {accepted}"))
    };
    let members: EffectMembers<'_> = match serde_json::from_slice(data) {
        Ok(members) => members,
        // Not JSON after all, which is not this member's fault.
        Err(error) if !error.is_data() => return Ok(Vec::new()),
        Err(error) => return Err(refused("`effects`", &error)),
    };
    let one = |(at, raw): (usize, &RawValue)| {
        let place = format!("`effects[{at}]`");
        let effect: AnswerEffect<'_> = serde_json::from_str(raw.get()).map_err(|error| refused(&place, &error))?;
        let AnswerEffect { key, kind, target, parameters } = effect;
        let parameters = parameters.map_or("{}", RawValue::get);
        if !parameters.starts_with('{') {
            return Err(refused(&place, &"`parameters` is no object"));
        }
        let effect = Effect::new(kind, target, Bytes::copy_from_slice(parameters.as_bytes()));
        Ok(Effect { key: key.unwrap_or_default(), ..effect })
    };
    members.effects.unwrap_or_default().into_iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_was_used_in_its_own_words_or_a_providers() {
        let known =
            usage(br#"{"analysis":"x","usage":[{"model":"m","input_tokens":7,"output_tokens":3,"cost_micros":9,"calls":2}]}"#);
        assert_eq!((known[0].model.as_str(), known[0].input_tokens, known[0].cost_micros, known[0].calls), ("m", 7, 9, 2));
        let provider =
            usage(br#"{"model":"gpt-4o-mini","usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}"#);
        assert_eq!(
            (provider[0].model.as_str(), provider[0].input_tokens, provider[0].output_tokens),
            ("gpt-4o-mini", 10, 2)
        );
        for other in [&b"not json"[..], br#"{"usage":"much"}"#, b"[]", br#"{"usage":null}"#] {
            assert_eq!(usage(other), []);
        }
    }

    #[test]
    fn effects_are_taken_as_they_are() {
        let answer = br#"{"effects":[{"kind":"comment","target":"o/r#7","parameters":{"body": "x"}},
            {"key":"mine","kind":"labels","target":"o/r#7"}]}"#;
        let effects = read(answer).unwrap().effects;
        assert_eq!((&*effects[0].kind, &effects[0].parameters[..], effects[0].key.as_str()), ("comment", &br#"{"body": "x"}"#[..], ""));
        assert_eq!((effects[1].key.as_str(), &effects[1].parameters[..]), ("mine", &b"{}"[..]));
        for none in [&b"{}"[..], b"[1]", b"text", br#"{"effects":null}"#, br#"{"effects":[]}"#, b"{broken"] {
            assert_eq!(read(none).unwrap().effects, []);
        }
    }

    #[test]
    fn effects_that_are_not_understood_are_refused_by_their_place() {
        let message = |answer: &[u8]| read(answer).unwrap_err().message;
        assert!(message(br#"{"effects":"none"}"#).contains("`effects`"));
        assert!(message(br#"{"effects":[{"kind":"a","target":"b"},{"kind":"a"}]}"#).contains("`effects[1]`: missing field `target`"));
        assert!(message(br#"{"effects":[{"kind":"a","target":"b","parameters":[1]}]}"#).contains("no object"));
        assert!(message(br#"{"effects":[{"kind":"a","target":"b","more":1}]}"#).contains("unknown field `more`"));
    }
}
