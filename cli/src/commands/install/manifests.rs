//! The objects that a cluster needs, from the kustomize base of the agent: pure.

use serde_json::{Value, json};

use crate::failure::Failure;

/// Of the chart `mindos-agent`, written by deploy/kustomize/from_chart.py.
const BASE: &str = include_str!("../../../../deploy/kustomize/base/agent/objects.yaml");
/// Namespaces in it.
const BASE_NAMESPACE: &str = "mindos";
const BASE_RUNS: &str = "mindos-runs";
/// Deployment and service account of the agent.
pub(super) const AGENT: &str = "mindos-cluster-agent";
const INJECTOR: &str = "mindos-injector";
/// Secret that a join token is in.
pub(super) const TOKEN_SECRET: &str = "mindos-join";
/// Name under which the cluster's service accounts are registered.
pub(super) const ISSUER: &str = "main";

/// How agents of the cluster prove who they are.
pub(super) enum Join {
    ServiceAccount { audience: String },
    Token { text: String, audience: String },
}

/// What is wanted.
pub(super) struct Wanted {
    pub(super) cluster: String,
    pub(super) control_plane: String,
    pub(super) region: Option<String>,
    pub(super) namespace: String,
    pub(super) runs_in: String,
    pub(super) join: Join,
    pub(super) ca: String,
    pub(super) registry: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) injector: bool,
    /// The API server has PodDisruptionBudgets as a beta only.
    pub(super) old_budgets: bool,
}

/// Checks the name of a namespace: a DNS label.
pub(super) fn label(text: &str) -> Result<String, String> {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let fits = (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| edge(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| edge(*byte))
        && bytes.last().is_some_and(|byte| edge(*byte));
    if fits { Ok(text.to_owned()) } else { Err("expected 1 to 63 of a-z, 0-9 and, inside, `-`".to_owned()) }
}

fn documents(text: &str) -> Result<Vec<Value>, Failure> {
    use serde::Deserialize;
    let read = serde_norway::Deserializer::from_str(text).map(Value::deserialize);
    read.collect::<Result<Vec<_>, _>>()
        .map_err(|error| Failure::world(format!("the manifests within are damaged: {error}")))
}

/// All that the cluster needs but the definitions of objects.
pub(super) fn cluster(wanted: &Wanted) -> Result<Vec<Value>, Failure> {
    let restricted = json!({
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    });
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": wanted.namespace, "labels": restricted}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": wanted.runs_in}}),
    ];
    if let Join::Token { text, .. } = &wanted.join {
        let metadata = json!({"name": TOKEN_SECRET, "namespace": wanted.namespace});
        objects
            .push(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": text}}));
    }
    for mut object in documents(BASE)? {
        let is_injector = object["metadata"]["name"] == INJECTOR;
        if is_injector && !wanted.injector {
            continue;
        }
        place(&mut object, wanted);
        match object["kind"].as_str().unwrap_or_default().to_owned().as_str() {
            "ConfigMap" if object["metadata"]["name"] == "mindos-ca" => object["data"] = json!({"ca.crt": wanted.ca}),
            "Deployment" => fill(&mut object, wanted, is_injector),
            "PodDisruptionBudget" if wanted.old_budgets => object["apiVersion"] = "policy/v1beta1".into(),
            "MutatingWebhookConfiguration" => leave_alone(&mut object, wanted),
            _ => {}
        }
        objects.push(object);
    }
    Ok(objects)
}

/// Puts an object, and whom it names, into the namespaces that are wanted.
fn place(object: &mut Value, wanted: &Wanted) {
    let of = |name: &str| match name {
        BASE_NAMESPACE => Some(wanted.namespace.clone()),
        BASE_RUNS => Some(wanted.runs_in.clone()),
        _ => None,
    };
    let moved = |value: &mut Value| {
        if let Some(name) = value.as_str().and_then(of) {
            *value = name.into();
        }
    };
    if object["metadata"].get("namespace").is_some() {
        moved(&mut object["metadata"]["namespace"]);
    }
    if let Some(subjects) = object.get_mut("subjects").and_then(Value::as_array_mut) {
        subjects.iter_mut().for_each(|subject| moved(&mut subject["namespace"]));
    }
    if let Some(webhooks) = object.get_mut("webhooks").and_then(Value::as_array_mut) {
        webhooks.iter_mut().for_each(|webhook| moved(&mut webhook["clientConfig"]["service"]["namespace"]));
    }
}

/// Nothing is injected in the injector's own namespace.
fn leave_alone(object: &mut Value, wanted: &Wanted) {
    let webhooks = object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten();
    for webhook in webhooks {
        let rules = webhook["namespaceSelector"]["matchExpressions"].as_array_mut().into_iter().flatten();
        for value in rules.filter_map(|rule| rule["values"].as_array_mut()).flatten() {
            if value.as_str() == Some(BASE_NAMESPACE) {
                *value = wanted.namespace.clone().into();
            }
        }
    }
}

/// Says in a Deployment which cluster it is.
fn fill(object: &mut Value, wanted: &Wanted, is_injector: bool) {
    let pod = &mut object["spec"]["template"]["spec"];
    let image = |before: &str| {
        let (name, tag) = before.split_once(':').unwrap_or((before, "latest"));
        let tag = wanted.tag.as_deref().unwrap_or(tag);
        match &wanted.registry {
            Some(registry) => format!("{}/{name}:{tag}", registry.trim_end_matches('/')),
            None => format!("{name}:{tag}"),
        }
    };
    let container = &mut pod["containers"][0];
    container["image"] = image(container["image"].as_str().unwrap_or_default()).into();
    let mut set =
        vec![("MINDOS_CLUSTER", wanted.cluster.clone()), ("MINDOS_CONTROL_PLANE", wanted.control_plane.clone())];
    set.extend(wanted.region.clone().map(|region| ("MINDOS_REGION", region)));
    if !is_injector {
        // Where it does runs: its Role is there alone.
        set.push(("KUBERNETES_NAMESPACE", wanted.runs_in.clone()));
    }
    let Some(env) = container["env"].as_array_mut() else { return };
    for entry in env.iter_mut().filter(|entry| entry["name"] == "MINDOS_SIDECAR_IMAGE") {
        entry["value"] = image(entry["value"].as_str().unwrap_or_default()).into();
    }
    match &wanted.join {
        Join::ServiceAccount { .. } => set.push(("MINDOS_ISSUER", ISSUER.to_owned())),
        Join::Token { .. } if !is_injector => {
            env.retain(|entry| entry["name"] != "MINDOS_SERVICE_ACCOUNT_TOKEN");
            set.push(("MINDOS_JOIN_TOKEN_FILE", "/var/run/secrets/mindos/token".to_owned()));
        }
        Join::Token { .. } => {}
    }
    for (name, value) in set {
        let entry = json!({"name": name, "value": value});
        match env.iter_mut().find(|known| known["name"] == name) {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
    }
    let (Join::ServiceAccount { audience } | Join::Token { audience, .. }) = &wanted.join;
    let words = container["args"].as_array_mut().into_iter().flatten();
    words.filter(|word| word.as_str().is_some_and(|word| word.starts_with("--audience="))).for_each(|word| {
        *word = format!("--audience={audience}").into();
    });
    for volume in pod["volumes"].as_array_mut().into_iter().flatten().filter(|volume| volume["name"] == "token") {
        *volume = match &wanted.join {
            Join::ServiceAccount { audience } => json!({"name": "token", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "audience": audience, "expirationSeconds": 3600}},
            ]}}),
            Join::Token { .. } => json!({"name": "token", "secret": {
                "secretName": TOKEN_SECRET, "items": [{"key": "token", "path": "token"}],
            }}),
        };
    }
}

/// All of them as one list, which kubectl takes.
pub(super) fn list(objects: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": objects})
}

/// All of them as documents of YAML.
pub(super) fn yaml(objects: &[Value]) -> String {
    let document =
        |object: &Value| serde_norway::to_string(object).expect("texts, numbers, lists and maps can be written");
    objects.iter().map(document).collect::<Vec<_>>().join("---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(join: Join) -> Wanted {
        Wanted {
            cluster: "prod-us".to_owned(),
            control_plane: "https://mindos.test:8091".to_owned(),
            region: Some("us-east-1".to_owned()),
            namespace: "ours".to_owned(),
            runs_in: "our-runs".to_owned(),
            join,
            ca: "the roots".to_owned(),
            registry: Some("registry.test/m/".to_owned()),
            tag: Some("1.2.3".to_owned()),
            injector: true,
            old_budgets: false,
        }
    }

    fn of<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
        let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    fn env<'a>(objects: &'a [Value], name: &str, variable: &str) -> Option<&'a str> {
        let container = &of(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"][0];
        let env = container["env"].as_array().unwrap().iter();
        let found: Vec<_> = env.filter(|entry| entry["name"] == variable).collect();
        assert!(found.len() <= 1, "{variable} stands {} times", found.len());
        found.first().map(|entry| entry["value"].as_str().unwrap())
    }

    #[test]
    fn what_is_said_reaches_every_object_and_nothing_of_the_example_is_left() {
        let objects = cluster(&wanted(Join::ServiceAccount { audience: "aud".to_owned() })).unwrap();
        for name in [AGENT, INJECTOR] {
            assert_eq!(env(&objects, name, "MINDOS_CLUSTER"), Some("prod-us"), "{name}");
            assert_eq!(env(&objects, name, "MINDOS_CONTROL_PLANE"), Some("https://mindos.test:8091"), "{name}");
            assert_eq!(env(&objects, name, "MINDOS_REGION"), Some("us-east-1"), "{name}");
            assert_eq!(env(&objects, name, "MINDOS_ISSUER"), Some(ISSUER), "{name}");
            let image = &of(&objects, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]["image"];
            assert!(
                image.as_str().unwrap().starts_with("registry.test/m/mindos-")
                    && image.as_str().unwrap().ends_with(":1.2.3")
            );
        }
        assert_eq!(env(&objects, INJECTOR, "MINDOS_SIDECAR_IMAGE"), Some("registry.test/m/mindos-sidecar:1.2.3"));
        assert_eq!(of(&objects, "ConfigMap", "mindos-ca")["data"]["ca.crt"], "the roots");
        let text = yaml(&objects);
        assert!(text.contains("--audience=aud") && text.contains("audience: aud"));
        for left in
            ["mindos.example.com", "value: example", "namespace: mindos\n", "namespace: mindos-runs", "- mindos\n"]
        {
            assert!(!text.contains(left), "`{left}` is left");
        }
        assert!(!objects.iter().any(|object| object["kind"] == "Secret"));
        assert_eq!(documents(&text).unwrap(), objects, "what is printed reads as what is meant");
    }

    #[test]
    fn the_agent_does_runs_in_the_namespace_that_is_made_for_them() {
        let objects = cluster(&wanted(Join::ServiceAccount { audience: "mindos".to_owned() })).unwrap();
        assert_eq!(env(&objects, AGENT, "KUBERNETES_NAMESPACE"), Some("our-runs"));
        assert_eq!(env(&objects, INJECTOR, "KUBERNETES_NAMESPACE"), None);
        assert_eq!(of(&objects, "Role", "mindos-cluster-agent-runs")["metadata"]["namespace"], "our-runs");
        assert!(!yaml(&objects).contains(BASE_RUNS), "{}", yaml(&objects));
    }

    #[test]
    fn a_token_stands_in_one_secret_and_nowhere_else() {
        let join = Join::Token { text: "mindos_join_x".to_owned(), audience: "mindos".to_owned() };
        let objects = cluster(&wanted(join)).unwrap();
        assert_eq!(of(&objects, "Secret", TOKEN_SECRET)["stringData"]["token"], "mindos_join_x");
        assert_eq!(yaml(&objects).matches("mindos_join_x").count(), 1);
        assert_eq!(env(&objects, AGENT, "MINDOS_SERVICE_ACCOUNT_TOKEN"), None);
        assert_eq!(env(&objects, AGENT, "MINDOS_JOIN_TOKEN_FILE"), Some("/var/run/secrets/mindos/token"));
        let pod = &of(&objects, "Deployment", AGENT)["spec"]["template"]["spec"];
        assert!(pod["volumes"].as_array().unwrap().iter().any(|volume| volume["secret"]["secretName"] == TOKEN_SECRET));
    }

    #[test]
    fn without_the_injector_nothing_of_it_is_there() {
        let mut wanted = wanted(Join::ServiceAccount { audience: "mindos".to_owned() });
        wanted.injector = false;
        let objects = cluster(&wanted).unwrap();
        assert!(!yaml(&objects).contains(INJECTOR), "{}", yaml(&objects));
    }
}
