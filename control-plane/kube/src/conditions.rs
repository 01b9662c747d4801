//! Conditions of Kubernetes: what holds of an object, why, and since when.
//!
//! Invariant: `lastTransitionTime` moves only where `status` does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The longest message.
pub const MESSAGE_MAX: usize = 1024;

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    True,
    False,
    Unknown,
}

impl Holds {
    /// The word of Kubernetes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Holds::True => "True",
            Holds::False => "False",
            Holds::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Holds {
        if holds { Holds::True } else { Holds::False }
    }
}

/// What is to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its type, such as `Accepted`.
    pub kind: String,
    pub holds: Holds,
    /// One word, such as `NotGranted`.
    pub reason: String,
    /// For people; cut at [`MESSAGE_MAX`]. The reason where it is empty.
    pub message: String,
}

impl Said {
    /// What is to be said.
    #[must_use]
    pub fn new(kind: &str, holds: impl Into<Holds>, reason: &str, message: impl Into<String>) -> Said {
        Said { kind: kind.to_owned(), holds: holds.into(), reason: reason.to_owned(), message: message.into() }
    }
}

/// Sets a condition among others. Says whether anything but the time is another than before.
pub fn set(conditions: &mut Vec<Condition>, said: Said, generation: Option<i64>, now: &Time) -> bool {
    let Said { kind, holds, reason, mut message } = said;
    // Older API servers take an empty text in a patch for none, and want one.
    if message.is_empty() {
        message.clone_from(&reason);
    }
    if message.len() > MESSAGE_MAX {
        let end = (0..=MESSAGE_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
    }
    let status = holds.as_str().to_owned();
    let Some(known) = conditions.iter_mut().find(|condition| condition.type_ == kind) else {
        conditions.push(Condition {
            last_transition_time: now.clone(),
            message,
            observed_generation: generation,
            reason,
            status,
            type_: kind,
        });
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        return true;
    };
    let same = (&known.status, &known.reason, &known.message, known.observed_generation)
        == (&status, &reason, &message, generation);
    if known.status != status {
        known.last_transition_time = now.clone();
    }
    (known.status, known.reason, known.message, known.observed_generation) = (status, reason, message, generation);
    !same
}

/// Whether a condition says that it holds.
#[must_use]
pub fn holds(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        serde_json::from_value(serde_json::json!(format!("2026-01-01T00:00:{second:02}Z"))).unwrap()
    }

    #[test]
    fn the_time_moves_only_where_the_status_does() {
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, Said::new("Ready", true, "Served", "1 of 1"), Some(1), &at(1)));
        assert!(!set(&mut conditions, Said::new("Ready", true, "Served", "1 of 1"), Some(1), &at(2)));
        assert!(set(&mut conditions, Said::new("Ready", true, "Served", "2 of 2"), Some(2), &at(3)));
        assert_eq!((conditions[0].last_transition_time.clone(), conditions[0].observed_generation), (at(1), Some(2)));
        assert!(set(&mut conditions, Said::new("Ready", false, "Gone", ""), Some(2), &at(4)));
        assert_eq!(conditions[0].last_transition_time, at(4));
        assert!(!holds(&conditions, "Ready") && conditions.len() == 1);
    }

    #[test]
    fn conditions_stand_in_the_order_of_their_types_and_messages_are_cut() {
        let mut conditions = Vec::new();
        set(&mut conditions, Said::new("B", true, "R", "ä".repeat(1000)), None, &at(1));
        set(&mut conditions, Said::new("A", Holds::Unknown, "R", ""), None, &at(1));
        assert_eq!(conditions.iter().map(|condition| &*condition.type_).collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(conditions[1].message.len(), MESSAGE_MAX);
    }
}
