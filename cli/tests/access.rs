//! Signing in at a real control plane with TLS and enforced access, by tokens and at an identity provider, and what one may do then.

#![allow(clippy::unwrap_used)]

mod provider;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use provider::Provider;
use serde_json::Value;

/// A control plane, and somebody with contexts of their own.
struct World {
    child: Child,
    endpoint: String,
    dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl World {
    fn start(settings: &str) -> World {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("settings.yaml"), settings).unwrap();
        let [api, agents, aggregator] = [free_port(), free_port(), free_port()];
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mindos"))
            .args(["control-plane", "--access", "enforced", "--tls", "authority", "--log-format", "json"])
            .args(["--listen", &format!("127.0.0.1:{api}"), "--agent-listen", &format!("127.0.0.1:{agents}")])
            .args(["--aggregator-address", &format!("127.0.0.1:{aggregator}")])
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .arg("--settings")
            .arg(dir.path().join("settings.yaml"))
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let world = World { child, endpoint: format!("https://127.0.0.1:{api}"), dir };
        let until = Instant::now() + Duration::from_secs(60);
        while !world.admin_token().exists() || std::net::TcpStream::connect(("127.0.0.1", api)).is_err() {
            assert!(Instant::now() < until, "{}", std::fs::read_to_string(world.path("log")).unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn admin_token(&self) -> PathBuf {
        self.path("data/admin-token")
    }

    fn roots(&self) -> String {
        self.path("data/authority/roots.pem").display().to_string()
    }

    /// Somebody whose contexts are in the file.
    fn command(&self, config: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mindos"));
        command.args(args).stdin(Stdio::null()).env("MINDOS_CONFIG", self.path(config));
        for name in ["MINDOS_SERVER", "MINDOS_TOKEN", "MINDOS_CONTEXT", "MINDOS_CA", "MINDOS_TENANT", "MINDOS_OUTPUT"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, config: &str, args: &[&str]) -> Output {
        self.command(config, args).output().unwrap()
    }

    fn json(&self, config: &str, args: &[&str]) -> Value {
        let output = self.run(config, &[args, &["--output", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn login(&self, config: &str, token: &Path) {
        let token = token.display().to_string();
        let roots = self.roots();
        let args = ["auth", "login", "--endpoint", &self.endpoint, "--ca", &roots, "--token-file", &token];
        let answer = self.json(config, &args);
        assert!(answer["principal"].as_str().unwrap().starts_with("token:"), "{answer}");
    }

    /// Ends with this code, and says this.
    fn refused(&self, config: &str, args: &[&str], code: i32, says: &str) {
        let output = self.run(config, args);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(code) && error.contains(says), "{args:?}: {:?} {error}", output.status);
    }
}

#[test]
fn whoever_signs_in_may_do_what_the_roles_say() {
    let world = World::start("");
    world.refused("admin", &["deliveries", "list", "--endpoint", &world.endpoint], 1, "--ca");
    let roots = world.roots();
    let nobody = ["deliveries", "list", "--endpoint", &world.endpoint, "--ca", &roots];
    world.refused("admin", &nobody, 3, "mindos auth login");
    std::fs::write(world.path("wrong"), format!("mindos_api_{}", "A".repeat(43))).unwrap();
    let wrong = world.path("wrong").display().to_string();
    let login = ["auth", "login", "--endpoint", &world.endpoint, "--ca", &roots, "--token-file", &wrong];
    world.refused("admin", &login, 3, "");
    assert!(!world.path("admin").exists());

    world.login("admin", &world.admin_token());
    let mode = std::fs::metadata(world.path("admin")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let who = world.json("admin", &["auth", "whoami"]);
    assert_eq!((&who["plane"], &who["kind"]), (&Value::Bool(true), &"api-token".into()));
    world.json("admin", &["deliveries", "list"]);
    world.json("admin", &["sinks", "list"]);
    assert_eq!(world.json("admin", &["auth", "can-i", "routes.apply"])["allowed"], true);
    let secret = std::fs::read_to_string(world.admin_token()).unwrap();
    for args in
        [&["contexts", "list"][..], &["contexts", "list", "--output", "json"], &["auth", "whoami"], &["tokens", "list"]]
    {
        let output = world.run("admin", args);
        assert!(output.status.success() && !text(&output.stdout).contains(secret.trim()), "{args:?}");
    }

    // A publisher reads nothing, and may publish what its token grants.
    let create =
        ["tokens", "create", "--api", "--name", "ci", "--role", "publisher", "--source", "/ci/*", "--ttl", "1h"];
    let output = world.run("admin", &create);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let token = text(&output.stdout);
    assert!(token.starts_with("mindos_api_") && token.trim().len() == 54, "{token}");
    let created = text(&output.stderr);
    assert!(created.contains("publisher of /ci/*") && !created.contains(token.trim()), "{created}");
    std::fs::write(world.path("ci-token"), &token).unwrap();
    world.login("ci", &world.path("ci-token"));
    world.refused("ci", &["deliveries", "list"], 3, "");
    world.refused("ci", &["auth", "can-i", "routes.apply"], 3, "no: ");
    let send = |source: &'static str| ["send", "--type", "com.example.hello", "--source", source, "--data", "{}"];
    assert!(world.run("ci", &send("/ci/1")).status.success());
    world.refused("ci", &send("/other"), 3, "");
    let tokens = world.json("admin", &["tokens", "list", "--api"]);
    let ci = tokens["tokens"].as_array().unwrap().iter().find(|token| token["name"] == "ci").unwrap();
    assert_eq!((&ci["roles"][0], &ci["sources"][0]), (&"publisher".into(), &"/ci/*".into()));
    let id = ci["id"].to_string();
    world.json("admin", &["tokens", "revoke", &id]);
    world.refused("ci", &send("/ci/2"), 3, "mindos auth login");
    world.refused("admin", &["tokens", "revoke", &id], 4, "");

    // The credentials of a context go to its endpoint and nowhere else.
    let thief = Thief::start();
    world.refused("admin", &["auth", "whoami", "--endpoint", &thief.endpoint], 1, "");
    assert!(!thief.heard().contains("mindos_api_"), "{}", thief.heard());

    world.json("admin", &["auth", "logout"]);
    world.refused("admin", &["deliveries", "list"], 3, "mindos auth login");
    std::fs::set_permissions(world.path("admin"), std::fs::Permissions::from_mode(0o644)).unwrap();
    world.refused("admin", &["deliveries", "list"], 2, "chmod 600");
}

#[test]
fn an_administrator_looks_after_roles_issuers_agents_quotas_and_the_authority() {
    let world = World::start("");
    world.login("admin", &world.admin_token());
    let admin = |args: &[&str]| world.json("admin", args);

    let bound = admin(&["roles", "bind", "--group", "oidc:corp#ops", "--role", "operator", "--tenant", "default"]);
    assert_eq!((&bound["kind"], &bound["role"]), (&"group".into(), &"operator".into()));
    assert_eq!(admin(&["roles", "list"])["bindings"].as_array().unwrap().len(), 1);
    admin(&["roles", "unbind", "--group", "oidc:corp#ops", "--role", "operator", "--tenant", "default"]);
    let again = ["roles", "unbind", "--group", "oidc:corp#ops", "--role", "operator", "--tenant", "default"];
    world.refused("admin", &again, 4, "");

    let made = admin(&["tokens", "create", "--cluster", "eu", "--general", "triage", "--ttl", "1h", "--uses", "2"]);
    assert!(made["text"].as_str().unwrap().starts_with("mindos_join_"), "{made}");
    assert_eq!((&made["uses_left"], &made["holder"]), (&2.into(), &"general triage".into()));
    world.refused("admin", &["tokens", "create", "--cluster", "eu"], 2, "--any-general");
    let listed = admin(&["tokens", "list", "--join"]);
    assert_eq!(listed["tokens"][0]["id"], made["id"]);
    assert!(!listed.to_string().contains("mindos_join_"));

    let keys = world.path("keys.json").display().to_string();
    let set = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    std::fs::write(&keys, set).unwrap();
    let add = |keys: &'static str| {
        ["issuers", "add", "main", "--cluster", "eu", "--url", "https://k", "--audience", "mindos", "--grant", keys]
    };
    let issuer = admin(&[&add("namespace=agents,generals=triage")[..], &["--keys", &keys]].concat());
    assert_eq!((&issuer["checked_by"], &issuer["grants"][0]["generals"][0]), (&"keys".into(), &"triage".into()));
    world.refused("admin", &add("namespace=agents"), 2, "grants nothing");
    assert_eq!(admin(&["issuers", "list"])["issuers"].as_array().unwrap().len(), 1);
    admin(&["issuers", "remove", "main", "--cluster", "eu"]);
    world.refused("admin", &["issuers", "remove", "main", "--cluster", "eu"], 4, "");

    let denied = admin(&["agents", "deny", "--cluster", "eu", "--general", "triage", "--reason", "lost"]);
    assert_eq!(denied["agent"]["general"], "triage");
    assert_eq!(admin(&["agents", "denials"])["denials"][0]["reason"], "lost");
    let id = denied["id"].to_string();
    admin(&["agents", "allow", &id]);
    world.refused("admin", &["agents", "allow", &id], 4, "");

    admin(&["quotas", "set", "acme", "--events-per-second", "5"]);
    assert_eq!(admin(&["quotas", "list"])["quotas"][0]["quota"]["events_per_second"], 5);
    admin(&["quotas", "set", "acme", "--clear"]);
    world.refused("admin", &["quotas", "set", "acme"], 2, "--clear");

    let before = admin(&["authority", "show"]);
    assert_eq!(before["roots"].as_array().unwrap().len(), 1);
    let pem = text(&world.run("admin", &["authority", "show", "--pem"]).stdout);
    assert_eq!(pem.trim(), std::fs::read_to_string(world.roots()).unwrap().trim());
    let rotated = admin(&["authority", "rotate", "certificates"]);
    assert_eq!(rotated["former_id"], before["roots"][0]["id"]);
    assert_eq!(admin(&["authority", "show"])["roots"].as_array().unwrap().len(), 2);
    world.refused("admin", &["authority", "retire"], 3, "");
}

#[test]
fn people_sign_in_at_their_provider_and_stay_signed_in() {
    let provider = Provider::start();
    let (url, dir) = (provider.url.clone(), tempfile::tempdir().unwrap());
    let ca = dir.path().join("ca.pem").display().to_string();
    std::fs::write(&ca, &provider.ca).unwrap();
    let world = World::start(&format!("oidc: [{{name: corp, issuer: '{url}', audience: mindos-cli, ca: '{ca}'}}]"));
    world.login("admin", &world.admin_token());
    world.json("admin", &["roles", "bind", "--group", "oidc:corp#ops", "--role", "operator", "--tenant", "default"]);

    let roots = world.roots();
    let there = ["auth", "login", "--endpoint", &world.endpoint, "--ca", &roots, "--context", "prod"];
    let device = ["--device", "--issuer", &url, "--client-id", "mindos-cli", "--issuer-ca", &ca];
    provider.denies(true);
    world.refused("alice", &[&there[..], &device].concat(), 3, "access_denied");
    provider.denies(false);
    let output = world.run("alice", &[&there[..], &device, &["--output", "json"]].concat());
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("ABCD-EFGH") && said.contains("/device"), "{said}");
    let who: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&who["principal"], &who["roles"][0]), (&"oidc:corp#alice".into(), &"operator".into()));
    assert_eq!(who["groups"][0], "oidc:corp#ops");

    // The token of the test's provider is about to end all the time, so each command has it renewed.
    world.json("alice", &["deliveries", "list"]);
    world.json("alice", &["auth", "whoami"]);
    assert!(provider.renewed() >= 2, "{}", provider.renewed());
    let kept = std::fs::read_to_string(world.path("alice")).unwrap();
    assert!(kept.contains("refresh_token: refresh-"), "{kept}");
    world.refused("alice", &["tokens", "create", "--api", "--role", "admin"], 3, "mindos auth whoami");

    // Nobody of the group may do anything once the role is taken.
    world.json("admin", &["roles", "unbind", "--group", "oidc:corp#ops", "--role", "operator", "--tenant", "default"]);
    world.refused("alice", &["deliveries", "list"], 3, "");
    provider.forgets();
    world.refused("alice", &["auth", "whoami"], 3, "mindos auth login --context prod --device");
    assert!(!text(&world.run("alice", &["contexts", "list", "--output", "json"]).stdout).contains("refresh-"));
}

/// Somebody who listens in the clear and writes down what is said.
struct Thief {
    endpoint: String,
    heard: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Thief {
    fn start() -> Thief {
        use std::io::Read;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let heard = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
        let writes = std::sync::Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    writes.lock().unwrap().extend_from_slice(&bytes[..read]);
                }
            }
        });
        Thief { endpoint, heard }
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}
