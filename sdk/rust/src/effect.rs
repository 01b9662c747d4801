//! What a general wants done outside: intents that it returns with its output, and that the control plane carries out once each.

use std::borrow::Cow;

use bytes::Bytes;
use mindos_model::{DeliveryId, limits};
use mindos_proto::delivery::v1 as proto;

use crate::Failure;

/// Something to be done outside, such as a comment on a pull request. The control plane carries out those of one result in their order.
///
/// ```
/// use mindos_sdk::{Effect, Output};
///
/// let comment = Effect::new("comment", "octocat/hello-world#7", r#"{"body":"Looks good."}"#);
/// let output = Output { effects: vec![comment], ..Output::text("done") };
/// assert_eq!(output.effects[0].kind, "comment");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// What is asked for under one key is done once, however often it is asked. Up to 256 characters. Empty means
    /// `<delivery>/<position>`: once for this result.
    pub key: String,
    /// What is to be done, such as `comment`, `labels` or `pull_request`. 1 to 63 characters.
    pub kind: Cow<'static, str>,
    /// On what: `owner/repository`, with `#7` an issue or a pull request, with `@<40 hexadecimal digits>` a commit. Up to 512 characters.
    pub target: String,
    /// Parameters as a JSON object, at most 64 KiB, and 256 KiB with all others of the result. Empty means `{}`.
    pub parameters: Bytes,
}

impl Effect {
    /// An effect under the key of its own result.
    pub fn new(
        kind: impl Into<Cow<'static, str>>,
        target: impl Into<String>,
        parameters: impl Into<Bytes>,
    ) -> Effect {
        Effect { key: String::new(), kind: kind.into(), target: target.into(), parameters: parameters.into() }
    }
}

/// What does not fit into a result is no result: the control plane would say so too.
pub(crate) fn check(effects: &[Effect]) -> Result<(), Failure> {
    let refused = |message| Err(Failure::poison(message));
    if effects.len() > limits::EFFECTS_MAX {
        return refused(format!("effects: there are {}, expected at most {}", effects.len(), limits::EFFECTS_MAX));
    }
    for (effect, at) in effects.iter().zip(0..) {
        let len = effect.parameters.len();
        if len > limits::EFFECT_PARAMETERS_MAX {
            let max = limits::EFFECT_PARAMETERS_MAX;
            return refused(format!("effects[{at}].parameters_json: has {len} bytes, expected at most {max}"));
        }
        if std::str::from_utf8(&effect.parameters).is_err() {
            return refused(format!("effects[{at}].parameters_json: is not UTF-8, expected a JSON object"));
        }
        for (field, text, max) in [
            ("key", effect.key.as_str(), limits::EFFECT_KEY_MAX),
            ("kind", &effect.kind, limits::EFFECT_KIND_MAX),
            ("target", &effect.target, limits::EFFECT_TARGET_MAX),
        ] {
            let characters = text.chars().count();
            if characters > max {
                return refused(format!("effects[{at}].{field}: has {characters} characters, expected at most {max}"));
            }
        }
    }
    let all = effects.iter().map(|effect| effect.parameters.len()).sum::<usize>();
    if all > limits::EFFECTS_PARAMETERS_MAX {
        let max = limits::EFFECTS_PARAMETERS_MAX;
        return refused(format!("effects: their parameters have {all} bytes together, expected at most {max}"));
    }
    Ok(())
}

/// The effects of a delivery's result as they are sent.
pub(crate) fn sent(delivery: DeliveryId, effects: Vec<Effect>) -> Vec<proto::Effect> {
    let send = |(effect, position): (Effect, usize)| {
        let Effect { key, kind, target, parameters } = effect;
        let key = if key.is_empty() { format!("{delivery}/{position}") } else { key };
        proto::Effect {
            key,
            kind: kind.into_owned(),
            target,
            // Checked before.
            parameters_json: String::from_utf8_lossy(&parameters).into_owned(),
            effect_id: String::new(),
        }
    };
    effects.into_iter().zip(0..).map(send).collect()
}

#[cfg(test)]
mod tests {
    use mindos_model::Seq;

    use super::*;

    #[test]
    fn a_key_is_given_where_there_is_none() {
        let effects = vec![
            Effect::new("labels", "o/r#7", "{}"),
            Effect { key: "mine".to_owned(), ..Effect::new("labels", "o/r#7", "{}") },
        ];

        let keys: Vec<_> = sent(DeliveryId::new(Seq(42), 1), effects).into_iter().map(|effect| effect.key).collect();

        assert_eq!(keys, ["d42.1/0", "mine"]);
    }

    #[test]
    fn effects_that_are_too_large_are_refused_by_the_field() {
        let refused = |effects: Vec<Effect>| check(&effects).expect_err("it is too large").message;
        let large = |len: usize| Effect::new("comment", "o/r#7", vec![b' '; len]);

        assert!(check(&vec![large(limits::EFFECT_PARAMETERS_MAX); 4]).is_ok());
        assert!(refused(vec![large(1); 65]).starts_with("effects: there are 65"));
        assert!(refused(vec![large(1), large(65_537)]).starts_with("effects[1].parameters_json: has 65537 bytes"));
        assert!(refused(vec![large(60_000); 5]).starts_with("effects: their parameters have 300000 bytes"));
        assert!(refused(vec![Effect::new("x".repeat(64), "o/r", "{}")]).starts_with("effects[0].kind: has 64"));
        assert!(refused(vec![Effect::new("comment", "o/r", vec![0xff])]).contains("is not UTF-8"));
    }
}
