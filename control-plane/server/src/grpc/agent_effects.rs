//! What results want done outside, checked and turned into intents.
//!
//! Invariant: an intent that leaves here is within the bounds of the model, and its parameters are a JSON object.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::input::Intent;
use mindos_core::record::Payload;
use mindos_model::limits::{
    EFFECT_KEY_MAX, EFFECT_KIND_MAX, EFFECT_PARAMETERS_MAX, EFFECT_TARGET_MAX, EFFECTS_MAX, EFFECTS_PARAMETERS_MAX,
};
use mindos_proto::convert::Invalid;
use mindos_proto::delivery::v1::Effect;
use serde::de::IgnoredAny;

use crate::ingest::event::salt;

/// The intents of a result, in their order.
pub(super) fn intents(effects: Vec<Effect>) -> Result<Vec<Intent>, Invalid> {
    if effects.len() > EFFECTS_MAX {
        return Err(Invalid::new("effects", format!("there are {}: expected at most {EFFECTS_MAX}", effects.len())));
    }
    let all: usize = effects.iter().map(|effect| effect.parameters_json.len()).sum();
    if all > EFFECTS_PARAMETERS_MAX {
        let accepted = format!("their parameters have {all} bytes: expected at most {EFFECTS_PARAMETERS_MAX} together");
        return Err(Invalid::new("effects", accepted));
    }
    let checked = effects.into_iter().enumerate();
    checked.map(|(at, effect)| intent(effect).map_err(|invalid| invalid.within(&format!("effects[{at}]")))).collect()
}

fn intent(effect: Effect) -> Result<Intent, Invalid> {
    // The id is given here, whatever is said.
    let Effect { key, kind, target, parameters_json, effect_id: _ } = effect;
    text(&key, "key", EFFECT_KEY_MAX)?;
    text(&kind, "kind", EFFECT_KIND_MAX)?;
    text(&target, "target", EFFECT_TARGET_MAX)?;
    let (key, kind, target) = (Arc::from(key), Arc::from(kind), Arc::from(target));
    let bytes = parameters(&parameters_json)?;
    Ok(Intent { key, kind, target, parameters: Payload { salt: salt(), bytes } })
}

fn text(text: &str, field: &'static str, max: usize) -> Result<(), Invalid> {
    let characters = text.chars().count();
    if characters == 0 || characters > max {
        return Err(Invalid::new(field, format!("has {characters} characters: expected 1 to {max}")));
    }
    match text.chars().any(char::is_control) {
        true => Err(Invalid::new(field, "has a control character: expected none")),
        false => Ok(()),
    }
}

/// The bytes of a JSON object; empty is one without members.
fn parameters(text: &str) -> Result<Bytes, Invalid> {
    const FIELD: &str = "parameters_json";
    if text.len() > EFFECT_PARAMETERS_MAX {
        let accepted = format!("has {} bytes: expected at most {EFFECT_PARAMETERS_MAX}", text.len());
        return Err(Invalid::new(FIELD, accepted));
    }
    let text = text.trim();
    if text.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    if !text.starts_with('{') {
        return Err(Invalid::new(FIELD, "is no JSON object: expected `{` at its start"));
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        Err(error) => Err(Invalid::new(FIELD, format!("is no JSON object: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(parameters: &str) -> Effect {
        Effect {
            key: "d42.1/0".to_owned(),
            kind: "comment".to_owned(),
            target: "octocat/hello-world#7".to_owned(),
            parameters_json: parameters.to_owned(),
            effect_id: "e1".to_owned(),
        }
    }

    #[test]
    fn intents_are_taken_as_they_are_and_no_parameters_are_an_empty_object() {
        let taken = intents(vec![effect(r#" {"body": "hi"} "#), effect("")]).unwrap();

        assert_eq!((&*taken[0].key, &*taken[0].kind), ("d42.1/0", "comment"));
        assert_eq!(&*taken[0].target, "octocat/hello-world#7");
        let bodies: Vec<_> = taken.iter().map(|intent| &*intent.parameters.bytes).collect();
        assert_eq!(bodies, [&br#"{"body": "hi"}"#[..], b"{}"]);
        assert_ne!(taken[0].parameters.salt, taken[1].parameters.salt);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_field() {
        let refused = |change: &dyn Fn(&mut Effect)| {
            let mut second = effect("{}");
            change(&mut second);
            intents(vec![effect("{}"), second]).unwrap_err().to_string()
        };
        assert!(refused(&|it| it.key.clear()).starts_with("effects[1].key: has 0 characters: expected 1 to 256"));
        assert!(refused(&|it| it.kind = "k".repeat(64)).starts_with("effects[1].kind: has 64 characters"));
        assert!(refused(&|it| it.target = "t".repeat(513)).starts_with("effects[1].target: has 513 characters"));
        assert!(refused(&|it| it.target = "o/r\n#7".to_owned()).starts_with("effects[1].target: has a control"));
        for text in ["[]", "7", "\"{}\"", "null"] {
            let message = refused(&|it| it.parameters_json = text.to_owned());
            assert!(message.starts_with("effects[1].parameters_json: is no JSON object: expected `{`"), "{message}");
        }
        for text in ["{", "{\"a\":}", "{} {}", &format!("{{\"a\":{}", "[".repeat(5000))] {
            let message = refused(&|it| it.parameters_json = text.to_owned());
            assert!(message.starts_with("effects[1].parameters_json: is no JSON object: "), "{message}");
        }
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(EFFECT_PARAMETERS_MAX));
        assert!(refused(&|it| it.parameters_json = long.clone()).contains("parameters_json: has 65544 bytes"));
        assert!(intents(vec![effect("{}"); 65]).unwrap_err().to_string().starts_with("effects: there are 65"));
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(60_000));
        let all = intents(vec![effect(&large); 5]).unwrap_err().to_string();
        assert!(all.starts_with("effects: their parameters have 300040 bytes"), "{all}");
    }
}
