//! Placeholders: what earlier effects of the same result observed, named in later ones.
//!
//! ```text
//! ${effects.0.number}  ${effects.1.url}  ${effects.1.sha}
//! ```
//! They are filled in in the target and in `title` and `body` of the parameters, and nowhere else.

use serde_json::Value;

use super::parameters::Invalid;

const OPEN: &str = "${effects.";
/// Members that may be named.
const MEMBERS: [&str; 3] = ["number", "url", "sha"];

/// What the earlier effects of a result observed, in their order; unset where one observed nothing that is known.
pub(super) type Observed = [Option<Value>];

/// Fills a text in. In a dry run what was not observed stays as it is.
pub(super) fn fill(text: &str, field: &str, earlier: &Observed, dry_run: bool) -> Result<String, Invalid> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        out.push_str(&rest[..at]);
        let inner = &rest[at + OPEN.len()..];
        let named = inner.split_once('}').and_then(|(inner, behind)| {
            let (index, member) = inner.split_once('.')?;
            let index: usize = index.parse().ok().filter(|_| index.bytes().all(|byte| byte.is_ascii_digit()))?;
            MEMBERS.contains(&member).then_some((index, member, behind))
        });
        // Not one of ours: a text may say what it likes.
        let Some((index, member, behind)) = named else {
            out.push_str(OPEN);
            rest = inner;
            continue;
        };
        let value = earlier.get(index).and_then(Option::as_ref).map(|observed| &observed[member]);
        match value {
            Some(Value::String(text)) => out.push_str(text),
            Some(Value::Number(number)) => out.push_str(&number.to_string()),
            _ if dry_run => out.push_str(&rest[at..rest.len() - behind.len()]),
            _ => {
                let count = earlier.len();
                let reason = format!(
                    "`{OPEN}{index}.{member}}}` names what was not observed: expected one of the {count} effects before, and what it led to"
                );
                return Err(Invalid::new(field, reason));
            }
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

/// Fills in the members of the parameters in which placeholders may stand.
pub(super) fn fill_in(parameters: &mut Value, earlier: &Observed, dry_run: bool) -> Result<(), Invalid> {
    for member in ["title", "body"] {
        if let Some(Value::String(text)) = parameters.get_mut(member)
            && text.contains(OPEN)
        {
            *text = fill(text, member, earlier, dry_run)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_earlier_effects_observed_is_filled_in() {
        let earlier = [None, Some(json!({ "number": 7, "url": "https://x/7" }))];
        let fill = |text| fill(text, "body", &earlier, false);
        assert_eq!(fill("#${effects.1.number} at ${effects.1.url}").unwrap(), "#7 at https://x/7");
        assert_eq!(
            fill("${effects.x.number} ${effects.1.other} ${effects.").unwrap(),
            "${effects.x.number} ${effects.1.other} ${effects."
        );
        for text in ["${effects.0.number}", "${effects.1.sha}", "${effects.9.url}"] {
            assert!(fill(text).unwrap_err().to_string().contains("was not observed"), "{text}");
            assert_eq!(super::fill(text, "body", &earlier, true).unwrap(), text, "a dry run observes nothing");
        }
    }

    #[test]
    fn only_title_and_body_are_filled_in() {
        let earlier = [Some(json!({ "number": 7 }))];
        let text = "${effects.0.number}";
        let mut parameters = json!({ "title": text, "body": text, "head": text });
        fill_in(&mut parameters, &earlier, false).unwrap();
        assert_eq!(parameters, json!({ "title": "7", "body": "7", "head": text }));
    }
}
