//! What the API server is answered: an AdmissionReview with a response.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::decide::Decision;

/// Characters of a warning; the API server cuts longer ones, and drops those beyond 4,096 bytes in all.
const WARNING_MAX: usize = 256;
const WARNINGS_MAX: usize = 12;

/// The response for a decision.
pub(super) fn answer(uid: &str, decision: &Decision) -> Value {
    let mut response = json!({"uid": uid, "allowed": true});
    let (patch, warnings) = match decision {
        Decision::Left => (&[][..], &[][..]),
        Decision::Present { warnings } => (&[][..], &warnings[..]),
        Decision::Injected { patch, warnings } | Decision::Warned { patch, warnings } => (&patch[..], &warnings[..]),
        Decision::Refused { message } => {
            response["allowed"] = json!(false);
            let message = format!("mindos: {message}");
            response["status"] = json!({"code": 422, "reason": "Invalid", "status": "Failure", "message": message});
            (&[][..], &[][..])
        }
    };
    if !patch.is_empty() {
        let text = serde_json::to_vec(patch).expect("a patch is made of JSON");
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(text));
    }
    if !warnings.is_empty() {
        let warning =
            |text: &String| format!("mindos: {text}").chars().filter(|c| !c.is_control()).take(WARNING_MAX).collect();
        response["warnings"] = warnings.iter().take(WARNINGS_MAX).map(warning).collect::<Vec<String>>().into();
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::Operation;

    #[test]
    fn an_answer_says_what_was_decided() {
        let left = answer("u", &Decision::Left);
        assert_eq!(left["response"], json!({"uid": "u", "allowed": true}));

        let patch = vec![Operation::Add { path: "/a".to_owned(), value: json!(1) }];
        let injected = answer("u", &Decision::Injected { patch, warnings: vec!["x\ny".repeat(200)] });
        let text = STANDARD.decode(injected["response"]["patch"].as_str().unwrap()).unwrap();
        assert_eq!(text, br#"[{"op":"add","path":"/a","value":1}]"#);
        assert_eq!(injected["response"]["patchType"], "JSONPatch");
        let warning = injected["response"]["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with("mindos: xyxy") && warning.len() == WARNING_MAX, "{warning}");

        let refused = answer("u", &Decision::Refused { message: "no".to_owned() });
        assert_eq!(refused["response"]["allowed"], false);
        assert_eq!(refused["response"]["status"]["message"], "mindos: no");
    }
}
