//! What API servers send to the injector.

use std::time::Duration;

use mindos_kube::inject::{
    Decision, Entropy, Native, Operation, Resources, Review, ServerVersion, Settings, Trust, Wrong, decide,
};
use serde_json::Value;

use crate::project;

fn settings(wrong: Wrong) -> Settings {
    let amount = |text: &str| text.parse().expect("an amount");
    Settings {
        image: "mindos-sidecar".to_owned(),
        image_pull_policy: None,
        control_plane: "https://mindos.example.com:8091".to_owned(),
        api: None,
        cluster: "eu".parse().expect("a name"),
        region: None,
        cluster_labels: Vec::new(),
        audience: "mindos".to_owned(),
        token_life: Duration::from_secs(3600),
        issuer: String::new(),
        trust: Trust::ConfigMap("mindos-ca".to_owned()),
        native: Native::Auto,
        health_port: 8092,
        drain_grace: Duration::from_secs(60),
        resources: Resources {
            cpu_request: amount("10m"),
            cpu_limit: None,
            memory_request: amount("32Mi"),
            memory_limit: amount("128Mi"),
        },
        run_as_user: None,
        copied_labels: vec!["app".to_owned()],
        excluded: ["kube-system".to_owned()].into(),
        wrong,
    }
}

/// An error, or a patch that applies, after which nothing more is changed.
pub(super) fn admission(input: &[u8]) {
    let Ok(Review { namespace, pod: Some(pod), .. }) = Review::read(input) else { return };
    for (wrong, minor) in [(Wrong::Warn, 20), (Wrong::Refuse, 33)] {
        let (settings, server) = (settings(wrong), ServerVersion { major: 1, minor });
        let asked = |pod: &Value, chance| decide(pod, &namespace, &settings, server, Entropy([chance; 16]));
        let Ok(decision) = asked(&pod, 1) else { continue };
        let mut after = pod.clone();
        let patch = serde_json::to_value(patch(decision)).expect("a patch is JSON");
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("a patch is one");
        json_patch::patch(&mut after, &patch).expect("a patch applies");
        let again = self::patch(asked(&after, 2).expect("what was a pod is one"));
        assert!(again.is_empty(), "changed again by {again:?}");
    }
}

fn patch(decision: Decision) -> Vec<Operation> {
    match decision {
        Decision::Left | Decision::Present { .. } | Decision::Refused { .. } => Vec::new(),
        Decision::Injected { patch, .. } | Decision::Warned { patch, .. } => patch,
    }
}

pub(super) fn admission_seeds() -> Vec<Vec<u8>> {
    let pods = ["deployment", "job", "init", "host-network", "windows", "by-hand", "wrong", "options"];
    let seed = |name: &&str| {
        let path = project().join(format!("control-plane/kube/tests/pods/{name}.yaml"));
        let text = std::fs::read_to_string(path).expect("the project holds its pods");
        let pod: Value = serde_norway::from_str(&text).expect("a pod is YAML");
        let kind = serde_json::json!({"group": "", "version": "v1", "kind": "Pod"});
        let review = serde_json::json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "namespace": "agents", "operation": "CREATE",
                "dryRun": false, "object": pod},
        });
        serde_json::to_vec(&review).expect("a review is JSON")
    };
    pods.iter().map(seed).collect()
}
