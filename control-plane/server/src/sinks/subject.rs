//! Subjects: where on NATS a message goes, with places to fill in.
//!
//! Invariant: whatever is filled in, the subject keeps the number of tokens that the settings gave it.

use super::message::{EventFacts, Notice};

/// Longest subject in the settings, in bytes.
const TEXT_MAX: usize = 255;
/// Longest word that is filled in, in characters.
const WORD_MAX: usize = 128;

/// A subject, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
}

/// What may be filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Outcome,
    Route,
    Kind,
    Cluster,
    General,
}

const PLACES: [(&str, Place); 5] = [
    ("outcome", Place::Outcome),
    ("route", Place::Route),
    ("kind", Place::Kind),
    ("cluster", Place::Cluster),
    ("general", Place::General),
];

impl Subject {
    /// Reads a subject such as `mindos.deliveries.{outcome}`.
    ///
    /// # Errors
    /// Says what is accepted.
    pub(super) fn parse(text: &str) -> Result<Subject, String> {
        let accepted = "expected tokens of visible ASCII between dots, such as `mindos.deliveries.{outcome}`";
        if text.is_empty() || text.len() > TEXT_MAX {
            return Err(format!("has {} bytes: expected 1 to {TEXT_MAX}", text.len()));
        }
        if text.starts_with('$') {
            return Err("begins with `$`, which belongs to the server".to_owned());
        }
        if text.split('.').any(str::is_empty) {
            return Err(format!("has an empty token: {accepted}"));
        }
        if let Some(wild) = text.chars().find(|letter| matches!(letter, '*' | '>')) {
            return Err(format!("holds `{wild}`: a message goes to one subject, not to those that a pattern fits"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("is not a subject: {accepted}"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let place = after.split_once('}').map(|(name, after)| (place(name), after));
            let Some((Some(place), after)) = place else {
                let names: Vec<String> = PLACES.iter().map(|(name, _)| format!("{{{name}}}")).collect();
                return Err(format!("holds a place that is not known: expected one of {}", names.join(", ")));
            };
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Place(place));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Subject(parts))
    }

    /// The subject of one message. What is not known is `_`, and so is every character that a token may not have.
    pub(super) fn fill(&self, notice: &Notice, event: Option<&EventFacts>) -> String {
        let (cluster, general) = notice.general.as_deref().and_then(|general| general.split_once('/')).unzip();
        let mut filled = String::new();
        for part in &self.0 {
            let word = match part {
                Part::Text(text) => {
                    filled.push_str(text);
                    continue;
                }
                Part::Place(Place::Outcome) => Some(notice.outcome.as_str()),
                Part::Place(Place::Route) => event.and_then(|event| event.route.as_deref()),
                Part::Place(Place::Kind) => event.map(|event| &*event.kind),
                Part::Place(Place::Cluster) => cluster,
                Part::Place(Place::General) => general,
            };
            let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
            let word = word.filter(|word| !word.is_empty()).unwrap_or("_");
            filled.extend(word.chars().take(WORD_MAX).map(|letter| if fits(letter) { letter } else { '_' }));
        }
        filled
    }
}

fn place(name: &str) -> Option<Place> {
    PLACES.iter().find(|(known, _)| *known == name).map(|(_, place)| *place)
}

#[cfg(test)]
mod tests {
    use mindos_model::{DeliveryId, Seq, Timestamp};

    use super::super::settings::Outcome;
    use super::*;

    #[test]
    fn places_are_filled_with_one_token_each() {
        let subject = Subject::parse("mindos.{outcome}.{cluster}.x-{general}.{kind}.{route}").unwrap();
        let mut notice = Notice::new(Seq(7), Timestamp(0), DeliveryId::new(Seq(3), 1), Outcome::Parked);
        assert_eq!(subject.fill(&notice, None), "mindos.parked._.x-_._._");
        notice.general = Some("eu-1/security".to_owned());
        let event =
            EventFacts { kind: "com.example.* >\n".to_owned(), route: Some("a".to_owned()), ..Default::default() };
        assert_eq!(subject.fill(&notice, Some(&event)), "mindos.parked.eu-1.x-security.com_example_____.a");
    }

    #[test]
    fn subjects_are_checked() {
        for (wrong, says) in [
            ("", "1 to 255"),
            ("$JS.API", "$"),
            ("a..b", "empty token"),
            ("a.", "empty token"),
            ("a.*", "`*`"),
            ("a.>", "`>`"),
            ("a b", "not a subject"),
            ("a.{what}", "{outcome}, {route}"),
            ("a.{kind", "{kind}"),
        ] {
            let error = Subject::parse(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }
}
