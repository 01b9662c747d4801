//! The next step of an object, from what is known of it on both sides. Pure.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use mindos_kube::conditions::{self, Holds, Said};
use mindos_kube::mindos::{ACCEPTED, CONNECTED, READY};
use mindos_proto::cluster::v1 as wire;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::known::{Held, Kind, Known, Refusal, Stand};

/// What is known of one object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Both<'a> {
    pub(super) kind: Kind,
    /// `None` when the API server does not have it.
    pub(super) known: Option<&'a Known>,
    pub(super) plane: &'a Plane<'a>,
    pub(super) refusal: Option<&'a Refusal>,
}

/// What is known of it at the control plane.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plane<'a> {
    /// It does not answer, as far as is known.
    Away,
    /// It answers, and holds this.
    There { held: Option<&'a Held>, stand: Option<&'a Stand> },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// Look again then: nothing is to be done before.
    Wait(Duration),
    AddFinalizer,
    /// Lets it go without the control plane having taken back what it made.
    LetGo,
    Apply,
    /// The control plane takes back what it made, and then it may go; once it `is_late` it goes also where the control plane does not.
    Delete {
        is_late: bool,
    },
    /// The control plane holds what the API server may not have any more: look there, and delete it.
    Prune,
    WriteStatus(Written),
}

/// A status to write.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Written {
    /// Whole, with conditions.
    pub(super) status: Value,
    /// What people are told as an event: that it was accepted, or why not.
    pub(super) told: Option<(String, String, bool)>,
}

/// SHA-256 of a spec in lower case hex.
pub(super) fn digest(spec: &str) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(spec) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The next step.
pub(super) fn step(both: Both<'_>, now: &Time, finalizer_timeout: Duration) -> Step {
    let Both { kind, known, plane, refusal } = both;
    let Some(known) = known else {
        return match plane {
            Plane::There { held: Some(_), .. } => Step::Prune,
            Plane::There { held: None, .. } | Plane::Away => Step::Nothing,
        };
    };
    if let Some(since) = &known.deleting {
        return leaving(known, since, plane, now, finalizer_timeout);
    }
    if !known.has_finalizer {
        return Step::AddFinalizer;
    }
    if let Plane::There { held, .. } = plane {
        let is_held = held.is_some_and(|held| {
            held.uid == known.uid && held.generation == known.generation && held.digest == digest(&known.spec)
        });
        if !is_held && !is_refused(known, refusal) {
            return Step::Apply;
        }
    }
    match written(kind, known, plane, refusal, now) {
        Some(written) => Step::WriteStatus(written),
        None => Step::Nothing,
    }
}

fn leaving(known: &Known, since: &Time, plane: &Plane<'_>, now: &Time, timeout: Duration) -> Step {
    if !known.has_finalizer {
        return Step::Nothing;
    }
    let waited = Duration::try_from(now.0.duration_since(since.0)).unwrap_or_default();
    let left = timeout.saturating_sub(waited);
    match plane {
        // Whatever is known to be held: with the uid it takes nothing back that is another object's.
        Plane::There { .. } => Step::Delete { is_late: left.is_zero() },
        Plane::Away if left.is_zero() => Step::LetGo,
        Plane::Away => Step::Wait(left),
    }
}

fn is_refused(known: &Known, refusal: Option<&Refusal>) -> bool {
    refusal.is_some_and(|refusal| refusal.uid == known.uid && refusal.generation == known.generation)
}

/// The status that the object should have, where it has another one.
fn written(kind: Kind, known: &Known, plane: &Plane<'_>, refusal: Option<&Refusal>, now: &Time) -> Option<Written> {
    let refusal = refusal.filter(|_| is_refused(known, refusal));
    let stand = match plane {
        Plane::There { stand, .. } => stand.filter(|stand| stand.uid == known.uid),
        Plane::Away => None,
    };
    let mut conditions = known.conditions.clone();
    let mut status: Map<String, Value> = stand.map_or_else(|| known.status.clone(), |stand| stand.status.clone());
    let mut observed = known.status.get("observedGeneration").and_then(Value::as_i64);
    if let Some(stand) = stand {
        for condition in &stand.conditions {
            conditions::set(&mut conditions, said(condition), Some(stand.generation), now);
        }
        observed = Some(stand.generation);
    }
    if let Some(refusal) = refusal {
        let Refusal { reason, message, .. } = refusal;
        let generation = Some(known.generation);
        conditions::set(&mut conditions, Said::new(ACCEPTED, false, reason, message.clone()), generation, now);
        if stand.is_none() {
            let ready = Said::new(READY, false, "NotAccepted", "the control plane did not take it");
            conditions::set(&mut conditions, ready, generation, now);
        }
        observed = generation;
    }
    if kind == Kind::Cluster {
        let connected = match plane {
            Plane::Away => Some(Said::new(CONNECTED, false, "Unreachable", "the control plane does not answer")),
            Plane::There { .. } if stand.is_none() => {
                Some(Said::new(CONNECTED, true, "Reached", "the control plane is reached"))
            }
            Plane::There { .. } => None,
        };
        if let Some(connected) = connected {
            conditions::set(&mut conditions, connected, observed, now);
        }
    }
    if let Some(observed) = observed {
        status.insert("observedGeneration".to_owned(), json!(observed));
    }
    if status == known.status && conditions == known.conditions {
        return None;
    }
    let told = told(&known.conditions, &conditions);
    status.insert("conditions".to_owned(), json!(conditions));
    Some(Written { status: Value::Object(status), told })
}

/// Whether it was accepted is told as an event, once for each reason.
fn told(before: &[Condition], after: &[Condition]) -> Option<(String, String, bool)> {
    let of = |conditions: &[Condition]| conditions.iter().find(|condition| condition.type_ == ACCEPTED).cloned();
    let after = of(after)?;
    let is_new =
        of(before).is_none_or(|before| (before.status, before.reason) != (after.status.clone(), after.reason.clone()));
    is_new.then(|| (after.reason, after.message, after.status == "True"))
}

fn said(condition: &wire::Condition) -> Said {
    let wire::Condition { r#type, status, reason, message } = condition;
    let holds = match wire::ConditionStatus::try_from(*status) {
        Ok(wire::ConditionStatus::True) => Holds::True,
        Ok(wire::ConditionStatus::False) => Holds::False,
        Ok(wire::ConditionStatus::Unknown | wire::ConditionStatus::Unspecified) | Err(_) => Holds::Unknown,
    };
    Said::new(r#type, holds, reason, message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(300);

    fn at(second: u32) -> Time {
        let (minute, second) = (second / 60, second % 60);
        serde_json::from_value(json!(format!("2026-01-01T00:{minute:02}:{second:02}Z"))).unwrap()
    }

    fn known() -> Known {
        Known {
            uid: "u1".to_owned(),
            generation: 2,
            spec: "{}".to_owned(),
            deleting: None,
            has_finalizer: true,
            conditions: Vec::new(),
            status: Map::new(),
        }
    }

    fn held() -> Held {
        Held { uid: "u1".to_owned(), generation: 2, digest: digest("{}") }
    }

    fn stand() -> Stand {
        let accepted = wire::Condition {
            r#type: ACCEPTED.to_owned(),
            status: wire::ConditionStatus::True.into(),
            reason: "Accepted".to_owned(),
            message: String::new(),
        };
        let status = json!({"instances": 1}).as_object().unwrap().clone();
        Stand { uid: "u1".to_owned(), generation: 2, conditions: vec![accepted], status }
    }

    fn next(known: Option<&Known>, plane: &Plane<'_>, refusal: Option<&Refusal>) -> Step {
        step(Both { kind: Kind::General, known, plane, refusal }, &at(60), TIMEOUT)
    }

    fn there<'a>(held: Option<&'a Held>, stand: Option<&'a Stand>) -> Plane<'a> {
        Plane::There { held, stand }
    }

    #[test]
    fn an_object_gets_its_finalizer_before_it_is_brought() {
        let bare = Known { has_finalizer: false, ..known() };
        assert_eq!(next(Some(&bare), &there(None, None), None), Step::AddFinalizer);
        assert_eq!(next(Some(&bare), &Plane::Away, None), Step::AddFinalizer);
        assert_eq!(next(Some(&known()), &there(None, None), None), Step::Apply);
        assert_eq!(next(Some(&known()), &Plane::Away, None), Step::Nothing);
    }

    #[test]
    fn what_is_held_as_it_is_is_not_brought_again() {
        let (known, held) = (known(), held());
        assert_eq!(next(Some(&known), &there(Some(&held), None), None), Step::Nothing);
        for other in [
            Held { uid: "u0".to_owned(), ..held.clone() },
            Held { generation: 1, ..held.clone() },
            Held { digest: digest("{\"a\":1}"), ..held.clone() },
        ] {
            assert_eq!(next(Some(&known), &there(Some(&other), None), None), Step::Apply);
        }
    }

    #[test]
    fn a_status_is_written_once_and_told_once() {
        let (mut known, held, stand) = (known(), held(), stand());
        let plane = there(Some(&held), Some(&stand));
        let Step::WriteStatus(Written { status, told }) = next(Some(&known), &plane, None) else { panic!() };
        assert_eq!(status["observedGeneration"], 2);
        assert_eq!(told, Some(("Accepted".to_owned(), "Accepted".to_owned(), true)));

        let mut status = status.as_object().unwrap().clone();
        known.conditions = serde_json::from_value(status.remove("conditions").unwrap()).unwrap();
        known.status = status;
        assert_eq!(next(Some(&known), &plane, None), Step::Nothing);
        assert_eq!(next(Some(&known), &Plane::Away, None), Step::Nothing);
    }

    #[test]
    fn a_refusal_counts_for_its_generation_alone() {
        let refusal = |generation| Refusal {
            uid: "u1".to_owned(),
            generation,
            reason: "Invalid".to_owned(),
            message: "spec.slots".to_owned(),
        };
        let known = known();
        assert_eq!(next(Some(&known), &there(None, None), Some(&refusal(1))), Step::Apply);
        let Step::WriteStatus(written) = next(Some(&known), &there(None, None), Some(&refusal(2))) else { panic!() };
        assert_eq!(written.told, Some(("Invalid".to_owned(), "spec.slots".to_owned(), false)));
        let conditions: Vec<Condition> = serde_json::from_value(written.status["conditions"].clone()).unwrap();
        assert!(!conditions::holds(&conditions, ACCEPTED) && !conditions::holds(&conditions, READY));

        // What was held of the generation before still fares, and says so.
        let (before, stand) = (Held { generation: 1, ..held() }, Stand { generation: 1, ..stand() });
        let plane = there(Some(&before), Some(&stand));
        let Step::WriteStatus(written) = next(Some(&known), &plane, Some(&refusal(2))) else { panic!() };
        assert_eq!(
            (written.status["instances"].clone(), written.status["observedGeneration"].clone()),
            (json!(1), json!(2))
        );
        let conditions: Vec<Condition> = serde_json::from_value(written.status["conditions"].clone()).unwrap();
        assert!(!conditions::holds(&conditions, ACCEPTED));
    }

    #[test]
    fn an_object_that_leaves_waits_for_the_control_plane_and_not_for_ever() {
        let leaving = Known { deleting: Some(at(0)), ..known() };
        assert_eq!(next(Some(&leaving), &there(Some(&held()), None), None), Step::Delete { is_late: false });
        assert_eq!(next(Some(&leaving), &there(None, None), None), Step::Delete { is_late: false });
        assert_eq!(next(Some(&leaving), &Plane::Away, None), Step::Wait(Duration::from_secs(240)));
        for (plane, is_over) in [(Plane::Away, Step::LetGo), (there(None, None), Step::Delete { is_late: true })] {
            let both = Both { kind: Kind::General, known: Some(&leaving), plane: &plane, refusal: None };
            assert_eq!(step(both, &at(300), TIMEOUT), is_over);
        }
        let gone = Known { has_finalizer: false, ..leaving };
        assert_eq!(next(Some(&gone), &Plane::Away, None), Step::Nothing);
    }

    #[test]
    fn what_the_control_plane_holds_of_an_object_that_is_gone_is_pruned() {
        let held = held();
        assert_eq!(next(None, &there(Some(&held), None), None), Step::Prune);
        assert_eq!(next(None, &there(None, None), None), Step::Nothing);
        assert_eq!(next(None, &Plane::Away, None), Step::Nothing);
    }

    #[test]
    fn a_cluster_says_when_the_control_plane_is_away() {
        let known = known();
        let both = Both { kind: Kind::Cluster, known: Some(&known), plane: &Plane::Away, refusal: None };
        let Step::WriteStatus(written) = step(both, &at(1), TIMEOUT) else { panic!() };
        assert_eq!(written.status["conditions"][0]["reason"], "Unreachable");
        assert_eq!(written.told, None);
    }
}
