//! What runs become: the objects as they are applied, held against files. `UPDATE=1` writes them anew.

use std::path::Path;

use mindos_kube::platform::plan::{Plan, Run, RunSpec};
use mindos_kube::platform::request::{CODE_MODEL, DOCS_MODEL};
use mindos_kube::platform::{CodeRequest, ControllerConfig, DocsRequest, JobSettings, Templates, crds};
use serde_json::{Value, json};

const CONFIG: &str = "
job: { activeDeadlineSeconds: 3600 }
agent: { image: { repository: ghcr.io/5dlabs/platform/claude-code, tag: 1.0.56 } }
permissions: { deny: ['Bash(sudo:*)'] }
telemetry: { enabled: true }
storage: { storageClassName: standard }
";

fn run(spec: RunSpec, name: &str, context: u32, retries: u32) -> Run {
    Run {
        name: name.to_owned(),
        namespace: "orchestrator".to_owned(),
        uid: "0123abcd-1111-2222-3333-444455556666".to_owned(),
        spec,
        context,
        retries,
    }
}

fn code(more: Value) -> RunSpec {
    let mut request = json!({
        "task_id": 5, "service": "trader", "repository_url": "https://github.com/acme/trader",
        "docs_repository_url": "https://github.com/acme/docs", "github_user": "Ada_L",
    });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    RunSpec::Code(CodeRequest::read(request.as_object().unwrap(), CODE_MODEL).unwrap())
}

fn docs() -> RunSpec {
    let request = json!({
        "repository_url": "git@github.com:acme/docs.git", "working_directory": "projects/trader",
        "source_branch": "develop", "github_user": "ada",
    });
    RunSpec::Docs(DocsRequest::read(request.as_object().unwrap(), DOCS_MODEL).unwrap())
}

fn held(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == text, "{} differs: look at it, and run with UPDATE=1\n{text}", path.display());
}

fn shown(plan: &Plan) -> String {
    let mut text = String::new();
    for object in [
        serde_json::to_value(&plan.job).unwrap(),
        serde_json::to_value(&plan.workspace).unwrap(),
        serde_json::to_value(&plan.files).unwrap(),
    ] {
        let mut object = object;
        if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
            // Scripts name nothing of a request: their stock text is what is there.
            for (file, text) in data.iter_mut().filter(|(file, _)| file.ends_with(".sh")) {
                assert!(!text.as_str().unwrap().contains("trader"), "{file}");
                *text = json!("(stock)");
            }
        }
        text.push_str("---\n");
        text.push_str(&serde_norway::to_string(&object).unwrap());
    }
    text
}

#[test]
fn runs_become_the_objects_of_the_contract() {
    let config = ControllerConfig::read(CONFIG).unwrap();
    let (settings, templates) = (JobSettings::default(), Templates::stock());
    let plan = |run: &Run| Plan::new(run, &config, &settings, &templates, false).unwrap();

    let first = run(code(json!({})), "code-5-1700000000", 1, 0);
    held("code.yaml", &shown(&plan(&first)));

    let more = json!({
        "docs_repository_url": "git@github.com:acme/docs.git", "tool_config": "advanced", "local_tools": "git",
        "remote_tools": "a_b", "prompt_modification": "Say \"hello\" to $(id) and `id`.", "prompt_mode": "replace",
        "env": { "RUST_LOG": "debug", "SNEAKY": "$(GITHUB_TOKEN)" },
        "env_from_secrets": [{ "name": "DB", "secretName": "db", "secretKey": "url" }],
        "overwrite_memory": true, "acceptance_criteria": "- all of it",
    });
    let settings_again = JobSettings { tool_server: "http://toolman.mcp.svc/mcp".to_owned(), ..JobSettings::default() };
    let again = run(code(more), "code-5-1700000000", 3, 2);
    let plan_again = Plan::new(&again, &config, &settings_again, &templates, true).unwrap();
    held("code-again.yaml", &shown(&plan_again));
    let client: Value = serde_json::from_str(&plan_again.rendered()["client-config.json"]).unwrap();
    assert_eq!(client["localServers"].as_object().unwrap().len(), 2);

    let docs = run(docs(), "docs-gen-1700000000", 1, 0);
    held("docs.yaml", &shown(&plan(&docs)));
}

#[test]
fn every_json_file_is_json_and_settings_are_those_of_the_contract() {
    let settings = JobSettings::default();
    for text in ["agent: { image: { repository: a, tag: b } }", CONFIG] {
        let config = ControllerConfig::read(text).unwrap();
        for spec in [code(json!({ "tool_config": "minimal", "prompt_modification": "\"},{" })), docs()] {
            let plan = Plan::new(&run(spec, "r", 1, 0), &config, &settings, &Templates::stock(), false).unwrap();
            let mut found = 0;
            for (file, text) in plan.rendered().iter().filter(|(file, _)| file.ends_with(".json")) {
                let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}\n{text}"));
                if file == "settings.json" {
                    assert_eq!(value["permissions"]["defaultMode"], "acceptEdits");
                    assert_eq!(value["permissions"]["allow"].as_array().unwrap().len(), 16);
                    assert_eq!(value["env"]["BASH_MAX_TIMEOUT_MS"], "300000");
                    assert_eq!(
                        (&value["cleanupPeriodDays"], &value["includeCoAuthoredBy"]),
                        (&json!(7), &json!(false))
                    );
                }
                found += 1;
            }
            assert!(found >= 1);
        }
    }
}

#[test]
fn a_configuration_without_an_image_makes_no_plan() {
    let run = run(docs(), "r", 1, 0);
    let error = Plan::new(&run, &ControllerConfig::default(), &JobSettings::default(), &Templates::stock(), false);
    assert!(error.unwrap_err().to_string().contains("agent.image.repository is missing"));
}

#[test]
fn definitions_are_those_that_were_read() {
    for crd in crds() {
        let name = crd.spec.names.plural.clone();
        held(&format!("crd-{name}.yaml"), &serde_norway::to_string(&crd).unwrap());
    }
}
