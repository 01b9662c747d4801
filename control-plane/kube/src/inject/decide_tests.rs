use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Map;

use super::*;
use crate::inject::{Resources, Trust};

const OLD: ServerVersion = ServerVersion { major: 1, minor: 20 };
const NEW: ServerVersion = ServerVersion { major: 1, minor: 33 };
const CHANCE: Entropy = Entropy([0xab; 16]);

pub(in crate::inject) fn settings() -> Settings {
    Settings {
        image: "registry.example.com/mindos-sidecar:0.1.0".to_owned(),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        control_plane: "https://mindos.example.com:8091".to_owned(),
        api: None,
        cluster: "eu".parse().unwrap(),
        region: Some("eu-west-1".parse().unwrap()),
        cluster_labels: vec!["tier=prod".to_owned()],
        audience: "mindos/default".to_owned(),
        token_life: Duration::from_secs(3600),
        issuer: "default/main".to_owned(),
        trust: Trust::ConfigMap("mindos-ca".to_owned()),
        native: Native::Auto,
        health_port: 8092,
        drain_grace: Duration::from_secs(60),
        resources: Resources {
            cpu_request: "10m".parse().unwrap(),
            cpu_limit: None,
            memory_request: "32Mi".parse().unwrap(),
            memory_limit: "128Mi".parse().unwrap(),
        },
        run_as_user: Some(65532),
        copied_labels: vec!["app.kubernetes.io/version".to_owned()],
        excluded: ["kube-system".to_owned(), "mindos".to_owned()].into(),
        wrong: Wrong::Warn,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods")
}

/// The pods as they are sent, by name.
fn samples() -> Vec<(String, Value)> {
    let mut samples = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if let Some(name) = path.file_name().unwrap().to_str().unwrap().strip_suffix(".yaml") {
            samples.push((name.to_owned(), serde_norway::from_slice(&std::fs::read(&path).unwrap()).unwrap()));
        }
    }
    samples.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(samples.len() >= 10, "the samples are there");
    samples
}

fn sample(name: &str) -> Value {
    samples().into_iter().find(|(found, _)| found == name).unwrap().1
}

fn asked(pod: &Value, settings: &Settings, server: ServerVersion) -> Decision {
    decide(pod, "agents", settings, server, CHANCE).unwrap()
}

fn applied(pod: &Value, decision: &Decision) -> Value {
    let mut pod = pod.clone();
    if let Decision::Injected { patch, .. } | Decision::Warned { patch, .. } = decision {
        let patch: json_patch::Patch = serde_json::from_value(serde_json::to_value(patch).unwrap()).unwrap();
        json_patch::patch(&mut pod, &patch).unwrap();
    }
    pod
}

/// What asking again changes.
fn changed_again(pod: &Value, settings: &Settings, server: ServerVersion) -> Vec<Operation> {
    match decide(pod, "agents", settings, server, Entropy([1; 16])).unwrap() {
        Decision::Left | Decision::Present { .. } | Decision::Refused { .. } => Vec::new(),
        Decision::Injected { patch, .. } | Decision::Warned { patch, .. } => patch,
    }
}

#[test]
fn every_sample_becomes_what_stands_beside_it() {
    for (name, pod) in samples() {
        for (server, place) in [(NEW, "native"), (OLD, "plain")] {
            let decision = asked(&pod, &settings(), server);
            let after = applied(&pod, &decision);
            assert_eq!(changed_again(&after, &settings(), server), [], "{name} is changed twice");
            let (word, warnings) = match &decision {
                Decision::Left => ("left", &Vec::new()),
                Decision::Present { warnings } => ("present", warnings),
                Decision::Injected { warnings, .. } => ("injected", warnings),
                Decision::Warned { warnings, .. } => ("warned", warnings),
                Decision::Refused { .. } => panic!("only where settings say so"),
            };
            let mut text = format!("# {word}\n");
            for warning in warnings {
                let _ = writeln!(text, "# warning: {warning}");
            }
            if after != pod {
                text.push_str(&serde_norway::to_string(&after).unwrap());
            }
            let path = folder().join(format!("{place}/{name}.yaml"));
            if std::env::var_os("UPDATE").is_some() {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(golden == text, "{} differs: UPDATE=1 writes it. It is\n{text}", path.display());
        }
    }
}

#[test]
fn a_patch_touches_nothing_but_what_it_adds() {
    for (name, pod) in samples() {
        for server in [OLD, NEW] {
            let mut after = applied(&pod, &asked(&pod, &settings(), server));
            let mut before = pod.clone();
            let drop = |list: Option<&mut Value>, is_ours: &dyn Fn(&Value) -> bool| {
                if let Some(Value::Array(list)) = list {
                    list.retain(|item| !is_ours(item));
                }
            };
            let ours = |item: &Value| item["name"].as_str().is_some_and(|name| name.starts_with("mindos-"));
            for pod in [&mut before, &mut after] {
                for list in ["containers", "initContainers", "volumes"] {
                    drop(pod["spec"].get_mut(list), &ours);
                }
                pod["spec"]["terminationGracePeriodSeconds"].take();
                pod["metadata"]["annotations"][INJECTION].take();
                for container in pod["spec"]["containers"].as_array_mut().unwrap() {
                    // Lists and maps that were made are as good as none.
                    let _ = container["lifecycle"]["preStop"].take();
                }
                for list in ["initContainers", "volumes"] {
                    let list = &mut pod["spec"][list];
                    if list.as_array().is_some_and(Vec::is_empty) {
                        list.take();
                    }
                }
            }
            // The one preStop of somebody's own was taken out above on both sides.
            assert_eq!(before, after, "{name}");
        }
    }
}

#[test]
fn nothing_is_done_where_nobody_asked() {
    let pod = sample("deployment");
    for namespace in ["kube-system", "mindos"] {
        assert_eq!(decide(&pod, namespace, &settings(), NEW, CHANCE), Ok(Decision::Left), "{namespace}");
    }
    let mut other = pod.clone();
    other["metadata"]["labels"].as_object_mut().unwrap().remove(GENERAL);
    assert_eq!(asked(&other, &settings(), NEW), Decision::Left);
    let mut declined = pod;
    declined["metadata"]["labels"][INJECT] = json!("false");
    assert_eq!(asked(&declined, &settings(), NEW), Decision::Left);
}

#[test]
fn a_pod_that_is_wrong_is_refused_where_that_is_wanted() {
    let settings = Settings { wrong: Wrong::Refuse, ..settings() };
    let Decision::Refused { message } = asked(&sample("wrong"), &settings, NEW) else { panic!("it was taken") };
    for part in [
        "mindos.io/general is `security-general` as a label and `Security General` as an annotation",
        "general type `Security General` is not allowed",
        "mindos.io/slots is `many`: expected a number from 1 to 10000",
        "mindos.io/port is `99999`",
        "mindos.io/container is `nobody`: there is no container of that name",
        "mindos.io/cluster is `us`, and this is eu",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(matches!(asked(&sample("windows"), &settings, NEW), Decision::Refused { .. }));
    // What is only odd holds nothing up.
    assert!(matches!(asked(&sample("host-network"), &settings, NEW), Decision::Injected { .. }));
}

#[test]
fn native_sidecars_come_with_the_version_or_as_settings_say() {
    let is_native = |native, server| {
        let pod = applied(&sample("init"), &asked(&sample("init"), &Settings { native, ..settings() }, server));
        let last = pod["spec"]["initContainers"].as_array().unwrap().last().unwrap().clone();
        assert!(pod["spec"]["containers"][0]["name"] == "exporter", "the first container stays the first");
        last["name"] == NAME && last["restartPolicy"] == "Always"
    };
    let at = |minor| ServerVersion { major: 1, minor };
    for (native, server, expected) in [
        (Native::Auto, at(28), false),
        (Native::Auto, at(29), true),
        (Native::Always, at(28), true),
        (Native::Never, at(34), false),
    ] {
        assert_eq!(is_native(native, server), expected, "{native:?} {server}");
    }
}

#[test]
fn a_plain_sidecar_of_a_pod_that_ends_is_told_to_end_with_its_general() {
    for (name, server, flag) in [
        ("job", OLD, Some("--end-with-general=10")),
        ("job-on-failure", OLD, Some("--end-with-general=360")),
        ("deployment", OLD, None),
        ("job", NEW, None),
    ] {
        let pod = applied(&sample(name), &asked(&sample(name), &settings(), server));
        let all = [&pod["spec"]["initContainers"], &pod["spec"]["containers"]];
        let sidecar =
            all.into_iter().filter_map(Value::as_array).flatten().find(|found| found["name"] == NAME).unwrap();
        let found = sidecar["args"].as_array().unwrap().iter().filter_map(Value::as_str);
        assert_eq!(found.clone().find(|arg| arg.starts_with("--end-with-general")), flag, "{name}");
    }
}

#[test]
fn what_a_pod_says_is_no_variable_of_its_sidecar() {
    let mut pod = sample("deployment");
    for key in ["mindos.io/label.a", "mindos.io/process-path", "mindos.io/model-metrics"] {
        let value =
            if key.ends_with("metrics") { "http://h/$(MINDOS_DRAIN_TOKEN)" } else { "/$(MINDOS_DRAIN_TOKEN)/$$(X)" };
        pod["metadata"]["annotations"][key] = json!(value);
    }
    let pod = applied(&pod, &asked(&pod, &settings(), NEW));
    let args: Vec<&str> =
        pod["spec"]["initContainers"][0]["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    // Kubernetes takes `$$` for a dollar that begins nothing.
    let left = args.join(" ").replace("$$", "");
    assert!(!left.contains('$') && left.contains("(MINDOS_DRAIN_TOKEN)"), "{args:?}");
}

#[test]
fn what_is_no_pod_is_named() {
    for (pod, message) in [
        (json!(7), "object: expected a pod"),
        (json!({}), "object.metadata is missing"),
        (json!({"metadata": {}}), "object.spec is missing"),
        (json!({"metadata": {}, "spec": {}}), "object.spec.containers is empty"),
        (json!({"metadata": {}, "spec": {"containers": [{}]}}), "object.spec.containers: expected a list"),
        (json!({"metadata": {"labels": []}, "spec": {}}), "object.metadata.labels: expected a map"),
        (json!({"metadata": {}, "spec": {"volumes": 1, "containers": [{"name": "a"}]}}), "object.spec.volumes"),
    ] {
        let error = decide(&pod, "agents", &settings(), NEW, CHANCE).unwrap_err();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn a_huge_pod_is_decided_in_its_time() {
    let mut pod = sample("deployment");
    let env: Vec<Value> = (0..20_000).map(|at| json!({"name": format!("V{at}"), "value": "x".repeat(100)})).collect();
    pod["spec"]["containers"][0]["env"] = env.into();
    let many = (0..500).map(|at| json!({"name": format!("c{at}"), "image": "i", "ports": [{"containerPort": 1}]}));
    pod["spec"]["containers"].as_array_mut().unwrap().extend(many);
    for at in 0..5_000 {
        pod["metadata"]["annotations"][format!("mindos.io/x{at}")] = json!("y");
    }
    pod["metadata"]["annotations"]["mindos.io/port"] = json!("http");
    let begun = std::time::Instant::now();
    let decision = asked(&pod, &settings(), NEW);
    let Decision::Injected { patch, warnings } = &decision else { panic!("{decision:?}") };
    assert!(patch.len() < 10 && warnings.len() < 10, "{} {}", patch.len(), warnings.len());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(changed_again(&applied(&pod, &decision), &settings(), NEW), []);
}

/// Chance from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn value(&mut self, depth: usize) -> Value {
        const TEXTS: [&str; 14] = [
            "",
            "mindos-sidecar",
            "mindos",
            "sidecar",
            "false",
            "Always",
            "Never",
            "windows",
            "8092",
            "http",
            "a,b",
            "$(X)",
            "\u{0}\n~/",
            "security-general",
        ];
        match self.below(if depth > 3 { 5 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => json!(self.below(70_000)),
            3 => json!(-1.5),
            4 => json!(TEXTS[self.below(TEXTS.len())]),
            5 => (0..self.below(3)).map(|_| self.value(depth + 1)).collect::<Vec<_>>().into(),
            _ => (0..self.below(4)).map(|_| (self.key(), self.value(depth + 1))).collect::<Map<_, _>>().into(),
        }
    }

    fn key(&mut self) -> String {
        const KEYS: [&str; 28] = [
            "metadata",
            "spec",
            "labels",
            "annotations",
            "containers",
            "initContainers",
            "volumes",
            "name",
            "image",
            "command",
            "args",
            "ports",
            "containerPort",
            "protocol",
            "lifecycle",
            "preStop",
            "restartPolicy",
            "nodeSelector",
            "os",
            "hostNetwork",
            "terminationGracePeriodSeconds",
            "mindos.io/general",
            "mindos.io/inject",
            "mindos.io/port",
            "mindos.io/slots",
            "mindos.io/label.a",
            "mindos.io/injection",
            "kubernetes.io/os",
        ];
        KEYS[self.below(KEYS.len())].to_owned()
    }

    /// Changes something somewhere.
    fn change(&mut self, value: &mut Value) {
        let deeper = self.below(4) > 0;
        match value {
            Value::Object(map) if deeper && !map.is_empty() => {
                let at = self.below(map.len());
                let (_, inner) = map.iter_mut().nth(at).unwrap();
                self.change(inner);
            }
            Value::Array(list) if deeper && !list.is_empty() => {
                let at = self.below(list.len());
                self.change(&mut list[at]);
            }
            Value::Object(map) => {
                let key = self.key();
                if self.below(3) == 0 {
                    map.remove(&key);
                } else {
                    let value = self.value(0);
                    map.insert(key, value);
                }
            }
            Value::Array(list) => match (self.below(3), list.is_empty()) {
                (0, false) => {
                    let at = self.below(list.len());
                    list.remove(at);
                }
                (1, false) => {
                    let again = list[self.below(list.len())].clone();
                    list.push(again);
                }
                _ => list.push(self.value(0)),
            },
            _ => *value = self.value(0),
        }
    }
}

#[test]
fn whatever_comes_is_an_error_or_a_patch_that_applies_once() {
    let samples = samples();
    let (mut errors, mut injected) = (0, 0);
    for seed in 1..=20_000_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut pod = samples[random.below(samples.len())].1.clone();
        for _ in 0..=random.below(8) {
            random.change(&mut pod);
        }
        let settings = Settings { wrong: if seed % 2 == 0 { Wrong::Warn } else { Wrong::Refuse }, ..settings() };
        let server = if seed % 3 == 0 { OLD } else { NEW };
        let Ok(decision) = decide(&pod, "agents", &settings, server, CHANCE) else {
            errors += 1;
            continue;
        };
        injected += usize::from(matches!(decision, Decision::Injected { .. }));
        let after = applied(&pod, &decision);
        assert_eq!(changed_again(&after, &settings, server), [], "seed {seed}: {pod}");
    }
    assert!(errors > 500 && injected > 2_000, "the changes are neither too wild nor too tame: {errors} {injected}");
}
