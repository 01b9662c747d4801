//! Receipts: a comment that was taken gets the reaction `eyes`, as an intent of the plane itself.
//!
//! Invariant: a comment gets one, however often GitHub sends it: the key of its intent is the task's own.

use std::sync::Arc;

use mindos_core::input::{Input, Intent};
use mindos_core::record::Payload;
use mindos_model::{GeneralName, Seq, TenantName};
use serde_json::json;

use super::task::Task;
use crate::ingest::event::salt;

/// The part of the plane that wants it: shown as the general `plane/intake`.
const PART: &str = "intake";

/// The receipt for a task that a comment asked for; `None` for other tasks. `event` is the task's.
///
/// # Panics
/// Never: the part is a name.
#[must_use]
pub fn receipt(tenant: &TenantName, event: Seq, task: &Task) -> Option<Input> {
    let (comment, kind) = (task.about.comment_id?, task.about.comment_kind?);
    let parameters = json!({ "content": "eyes", "comment_id": comment, "comment_kind": kind.as_str() });
    let intent = Intent {
        key: Arc::from(format!("intake/{}/{comment}/eyes", kind.as_str())),
        kind: Arc::from("reaction"),
        target: Arc::from(task.subject()),
        parameters: Payload { salt: salt(), bytes: parameters.to_string().into() },
    };
    let part = GeneralName::new(PART).expect("the part is a name");
    Some(Input::Intend { tenant: tenant.clone(), event, part, intents: vec![intent] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::task::{About, CommentKind, Mode};

    #[test]
    fn a_comment_gets_one_reaction_and_a_label_none() {
        let task = |about| Task::new("https://github.com/o/n", Mode::Plan, about, "ada").unwrap();
        let tenant = TenantName::default_tenant();
        let labelled = task(About { issue_id: Some(7), ..About::default() });
        assert!(receipt(&tenant, Seq(3), &labelled).is_none());
        let commented = task(About {
            issue_id: Some(7),
            comment_id: Some(9),
            comment_kind: Some(CommentKind::Issue),
            ..About::default()
        });
        let Some(Input::Intend { event, part, intents, .. }) = receipt(&tenant, Seq(3), &commented) else {
            panic!("no receipt")
        };
        assert_eq!((event, part.as_str(), intents.len()), (Seq(3), "intake", 1));
        let Intent { key, kind, target, parameters } = &intents[0];
        assert_eq!((&**key, &**kind, &**target), ("intake/issue/9/eyes", "reaction", "o/n#7"));
        assert_eq!(&parameters.bytes[..], br#"{"comment_id":9,"comment_kind":"issue","content":"eyes"}"#);
    }
}
