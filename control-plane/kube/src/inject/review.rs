//! An AdmissionReview (`admission.k8s.io/v1`): read from the API server.
//!
//! What it says of who asks and what was there before is not even kept. Its `object` is foreign data, and is read as such.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// Characters of a request's uid.
const UID_MAX: usize = 128;
/// Characters of the name of a namespace.
const NAMESPACE_MAX: usize = 63;

/// A request for admission.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    pub uid: String,
    pub namespace: String,
    /// Nothing is to remain of it.
    pub dry_run: bool,
    /// The pod that is to be made; unset where it is about something else.
    pub pod: Option<Value>,
}

/// Why a body is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("body is not an AdmissionReview: {0}")]
    Json(String),
    #[error("{field} is `{found}`: expected `{expected}`")]
    Version { field: &'static str, found: String, expected: &'static str },
    #[error("request is missing: expected an AdmissionReview with a request")]
    NoRequest,
    #[error("request.{field}: expected {expected}")]
    Field { field: &'static str, expected: &'static str },
    #[error("request.{0}")]
    Pod(String),
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(borrow, default)]
    request: Option<WireRequest<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRequest<'a> {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    kind: WireKind,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    operation: String,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(default)]
    dry_run: Option<bool>,
}

#[derive(Default, Deserialize)]
struct WireKind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    kind: String,
}

impl Review {
    /// Reads a body.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn read(body: &[u8]) -> Result<Review, Malformed> {
        let json = |error: serde_json::Error| Malformed::Json(error.to_string());
        let Wire { api_version, kind, request } = serde_json::from_slice(body).map_err(json)?;
        let short = |text: String| text.escape_debug().take(80).collect();
        for (field, found, expected) in [("apiVersion", api_version, API_VERSION), ("kind", kind, KIND)] {
            if found != expected {
                return Err(Malformed::Version { field, found: short(found), expected });
            }
        }
        let request = request.ok_or(Malformed::NoRequest)?;
        let WireRequest { uid, kind, sub_resource, namespace, operation, object, dry_run } = request;
        if uid.is_empty() || uid.len() > UID_MAX {
            return Err(Malformed::Field { field: "uid", expected: "1 to 128 characters" });
        }
        let namespace = namespace.unwrap_or_default();
        if namespace.len() > NAMESPACE_MAX {
            return Err(Malformed::Field { field: "namespace", expected: "at most 63 characters" });
        }
        let WireKind { group, version, kind } = kind;
        let is_pod = group.is_empty() && version == "v1" && kind == "Pod";
        let is_made = operation == "CREATE" && sub_resource.unwrap_or_default().is_empty();
        let pod = match object {
            Some(object) if is_pod && is_made => {
                if namespace.is_empty() {
                    return Err(Malformed::Field { field: "namespace", expected: "that of the pod" });
                }
                Some(serde_json::from_str(object.get()).map_err(json)?)
            }
            None if is_pod && is_made => {
                return Err(Malformed::Field { field: "object", expected: "the pod that is to be made" });
            }
            _ => None,
        };
        Ok(Review { uid, namespace, dry_run: dry_run.unwrap_or_default(), pod })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn review() -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": "agents", "operation": "CREATE",
                "userInfo": {"username": "admin"}, "object": {"metadata": {}}, "oldObject": null, "dryRun": true, "options": null,
            },
        })
    }

    fn read(value: &Value) -> Result<Review, Malformed> {
        Review::read(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn a_request_is_read() {
        let Review { uid, namespace, dry_run, pod } = read(&review()).unwrap();
        assert_eq!(
            (uid.as_str(), namespace.as_str(), dry_run),
            ("705ab4f5-6393-11e8-b7cc-42010a800002", "agents", true)
        );
        assert_eq!(pod, Some(json!({"metadata": {}})));
        for (pointer, value) in [
            ("/request/operation", json!("UPDATE")),
            ("/request/kind/kind", json!("Deployment")),
            ("/request/kind/group", json!("apps")),
            ("/request/subResource", json!("ephemeralcontainers")),
        ] {
            let mut other = review();
            match other.pointer_mut(pointer) {
                Some(place) => *place = value,
                None => other["request"]["subResource"] = value,
            }
            assert_eq!(read(&other).unwrap().pod, None, "{pointer}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (
                "/apiVersion",
                json!("admission.k8s.io/v1beta1"),
                "apiVersion is `admission.k8s.io/v1beta1`: expected `admission.k8s.io/v1`",
            ),
            ("/kind", json!("Pod"), "kind is `Pod`: expected `AdmissionReview`"),
            ("/request", Value::Null, "request is missing"),
            ("/request/uid", json!(""), "request.uid: expected 1 to 128 characters"),
            ("/request/namespace", Value::Null, "request.namespace: expected that of the pod"),
            ("/request/namespace", json!("x".repeat(64)), "request.namespace: expected at most 63"),
            ("/request/object", Value::Null, "request.object: expected the pod"),
            ("/request/dryRun", json!("yes"), "invalid type: string \"yes\", expected a boolean"),
        ];
        for (pointer, value, message) in cases {
            let mut wrong = review();
            *wrong.pointer_mut(pointer).unwrap() = value;
            let error = read(&wrong).unwrap_err().to_string();
            assert!(error.contains(message), "{pointer}: {error}");
        }
        for body in [&b""[..], b"[]", b"{", b"\xff", b"null", b"1", "[".repeat(10_000).as_bytes()] {
            assert!(matches!(Review::read(body), Err(Malformed::Json(_) | Malformed::Version { .. })), "{body:?}");
        }
    }
}
