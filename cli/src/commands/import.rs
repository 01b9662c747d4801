//! `mindos import`: takes over the configuration of the earlier system, `discovery.yml`.
//!
//! What it knows becomes a settings file, and a routing table that names the clusters; what it cannot carry it names, with what
//! to do instead. Invariant: what it prints as settings is accepted by a control plane, and every leaf of the file is either
//! carried or named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::options::Global;
use crate::render;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos import discovery.yml > settings.yaml              (settings on standard output, the rest said on standard error)
  mindos import discovery.yml --routes routes.yaml > settings.yaml
  mindos import discovery.yml --output json | jq .not_carried

Then:
  mindos control-plane --data-dir ./data --settings settings.yaml
  mindos routes apply routes.yaml";

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The earlier configuration.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write the routing table there: the stock one, for the clusters of the file.
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
}

/// What an earlier configuration comes to.
#[derive(Clone, Debug, Default, PartialEq)]
struct Imported {
    settings: Map<String, Value>,
    routes: Value,
    /// Where each secret that the file refers to is wanted.
    secrets: Vec<(String, String)>,
    /// Paths of the file that were taken over.
    carried: Vec<String>,
    /// Paths that were not, with what to do instead.
    not_carried: BTreeMap<String, String>,
}

pub(crate) fn run(args: &ImportArgs, global: &Global) -> Result<(), Failure> {
    let ImportArgs { file, routes } = args;
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    let refused = |reason: String| Failure::refused(format!("{}: {reason}", file.display()));
    let imported = import(&text).map_err(refused)?;
    let yaml = |value: &Value| serde_norway::to_string(value).map_err(|error| Failure::world(error.to_string()));
    let settings = match imported.settings.is_empty() {
        true => String::new(),
        false => yaml(&Value::Object(imported.settings.clone()))?,
    };
    mindos_control_plane::settings::check(&settings).map_err(refused)?;
    if let Some(path) = routes {
        std::fs::write(path, yaml(&imported.routes)?)
            .map_err(|error| Failure::world(format!("cannot write {}: {error}", path.display())))?;
    }
    let Imported { settings: value, routes, secrets, carried, not_carried } = imported;
    if global.output.is_json() {
        let secrets: Vec<_> = secrets.iter().map(|(from, to)| json!({ "reference": from, "put_into": to })).collect();
        let value = json!({
            "settings": value,
            "routes": routes,
            "secrets": secrets,
            "carried": carried,
            "not_carried": not_carried,
        });
        render::print_json(&value);
        return Ok(());
    }
    render::print(settings.trim_end());
    render::say(&format!("carried: {}", carried.join(", ")));
    for (reference, place) in &secrets {
        render::say(&format!("secret {reference}: put it into {place}"));
    }
    for (path, instead) in &not_carried {
        render::say(&format!("not carried: {path}: {instead}"));
    }
    Ok(())
}

fn import(text: &str) -> Result<Imported, String> {
    let file: Value = serde_norway::from_str(text).map_err(|error| format!("is not YAML: {error}"))?;
    if !file.is_object() {
        return Err(
            "is not a discovery.yml: expected a mapping with `infra`, `discord`, `git` or `event_gateway`".to_owned()
        );
    }
    let mut import = Import { file: &file, done: BTreeSet::new(), out: Imported::default() };
    import.clusters();
    import.discord();
    import.secrets();
    import.gateway();
    import.rest();
    Ok(import.out)
}

struct Import<'a> {
    file: &'a Value,
    /// Paths that were looked at, with all that is below them.
    done: BTreeSet<String>,
    out: Imported,
}

impl<'a> Import<'a> {
    /// What stands at a path such as `infra.nodes.clusters`, marked as looked at.
    fn take(&mut self, path: &str) -> Option<&'a Value> {
        let found =
            path.split('.').try_fold(self.file, |value, key| value.get(key)).filter(|value| !value.is_null())?;
        self.done.insert(path.to_owned());
        Some(found)
    }

    fn carried(&mut self, path: impl Into<String>) {
        self.out.carried.push(path.into());
    }

    fn lost(&mut self, path: impl Into<String>, instead: impl Into<String>) {
        self.out.not_carried.insert(path.into(), instead.into());
    }

    fn section(&mut self, name: &str) -> &mut Map<String, Value> {
        let section = self.out.settings.entry(name).or_insert_with(|| json!({}));
        section.as_object_mut().expect("sections are made as objects")
    }

    fn clusters(&mut self) {
        let list = self.take("infra.nodes.clusters").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut clusters = Map::new();
        for (place, cluster) in list.iter().enumerate() {
            let path = format!("infra.nodes.clusters[{place}]");
            let Some(name) = cluster.get("name").and_then(Value::as_str).or(cluster.as_str()) else {
                self.lost(path, "has no name: expected `name`");
                continue;
            };
            if let Err(error) = name.parse::<mindos_model::ClusterName>() {
                self.lost(format!("{path}.name"), error.to_string());
                continue;
            }
            let mut known = Map::new();
            if let Some(server) = cluster.get("api_server").and_then(Value::as_str) {
                known.insert("api_server".to_owned(), json!(server));
            }
            let namespaces: Vec<&str> = cluster
                .get("namespaces")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let namespace = match namespaces.first() {
                // `*` is every namespace and none to address.
                _ if namespaces.iter().any(|name| matches!(*name, "agents" | "*")) => "agents",
                Some(first) => first,
                None => "agents",
            };
            known.insert("namespace".to_owned(), json!(namespace));
            if cluster.get("auth").is_some_and(|auth| !auth.is_null()) {
                let instead = "agents dial out, so the control plane needs no way into the cluster";
                self.lost(format!("{path}.auth"), instead);
            }
            clusters.insert(name.to_owned(), Value::Object(known));
        }
        let names: Vec<String> = clusters.keys().cloned().collect();
        if !clusters.is_empty() {
            self.section("gitlens").insert("clusters".to_owned(), Value::Object(clusters));
            self.carried("infra.nodes.clusters");
        }
        self.out.routes = routes(&names);
    }

    fn discord(&mut self) {
        let mut channels = Map::new();
        if let Some(named) = self.take("discord.channels").and_then(Value::as_object) {
            for (name, channel) in named {
                let id = channel.as_str().map(str::to_owned).or_else(|| channel.as_u64().map(|id| id.to_string()));
                let path = format!("discord.channels.{name}");
                match id.filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())) {
                    Some(id) => {
                        channels.insert(name.clone(), json!(id));
                        self.carried(path);
                    }
                    None => {
                        let place = format!("is no channel's id: put its digits into notify.discord.channels.{name}");
                        let place = if name == "prs" { format!("{place}, or into PRS_CHANNEL_ID") } else { place };
                        self.lost(path, place);
                    }
                }
            }
        }
        let number = |value: Option<&Value>| value.and_then(Value::as_u64);
        let bot = ["discord.bot.rate_limits", "discord.rate_limits"];
        let mut per_minute = Vec::new();
        let mut burst = None;
        for path in bot {
            let Some(limits) = self.take(path) else { continue };
            per_minute.extend(number(limits.get("max_msgs_per_min")));
            burst = burst.or(number(limits.get("burst")));
            self.carried(path);
        }
        if let Some(limit) = number(self.take("limits.discord_api.max_messages_per_minute")) {
            per_minute.push(limit);
            self.carried("limits.discord_api.max_messages_per_minute");
        }
        let mut section = Map::new();
        if !channels.is_empty() {
            section.insert("channels".to_owned(), Value::Object(channels));
        }
        for (name, found) in [("per_minute", per_minute.into_iter().min()), ("burst", burst)] {
            match (name, found) {
                (_, None) => {}
                ("per_minute", Some(1..=6000)) | ("burst", Some(1..=1000)) => {
                    section.insert(name.to_owned(), json!(found));
                }
                (_, Some(found)) => {
                    self.lost(format!("discord {name}"), format!("{found} is out of range: the default holds"))
                }
            }
        }
        if !section.is_empty() {
            self.section("notify").insert("discord".to_owned(), Value::Object(section));
        }
    }

    fn secrets(&mut self) {
        let known = [
            ("discord.bot.token_secret_ref", "DISCORD_TOKEN, or what notify.discord.token names"),
            ("git.app.webhook_secret_ref", "MINDOS_GITHUB_SECRET, or a file named by --github-secret-file"),
            ("event_gateway.auth.hmac.key_secret_ref", "GITLENS_SECRET, which the settings name as gitlens.secret"),
        ];
        for (path, place) in known {
            if let Some(reference) = self.take(path).and_then(Value::as_str) {
                self.out.secrets.push((reference.to_owned(), place.to_owned()));
                self.carried(path);
                if path.starts_with("event_gateway") {
                    self.section("gitlens").insert("secret".to_owned(), json!({ "env": "GITLENS_SECRET" }));
                }
            }
        }
    }

    fn gateway(&mut self) {
        let signed = [("header", "X-Sig"), ("algo", "sha256")];
        for (key, only) in signed {
            let path = format!("event_gateway.auth.hmac.{key}");
            match self.take(&path).and_then(Value::as_str) {
                Some(found) if found.eq_ignore_ascii_case(only) => self.carried(path),
                Some(found) => self.lost(path, format!("`{found}` is not understood: clients have to use {only}")),
                None => {}
            }
        }
        let endpoints = self.take("event_gateway.endpoints").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for (place, endpoint) in endpoints.iter().enumerate() {
            let path = format!("event_gateway.endpoints[{place}]");
            match endpoint.get("path").and_then(Value::as_str) {
                Some("/event" | "/alert" | "/git") => self.carried(format!("{path}.path")),
                other => self.lost(format!("{path}.path"), format!("{} is not served", other.unwrap_or("no path"))),
            }
            for (key, instead) in [
                (
                    "allowed_services",
                    "whoever signs may post: give each service a secret of its own in front, or a source allow list",
                ),
                ("discord_channel", "events are told of in notify.discord.channels.prs, parked work in .alerts"),
                ("routes", "every event is taken and routed by the routing table: see --routes"),
            ] {
                if endpoint.get(key).is_some_and(|value| !value.is_null()) {
                    self.lost(format!("{path}.{key}"), instead);
                }
            }
        }
    }

    /// Names what nobody looked at: the shortest paths under which nothing was.
    fn rest(&mut self) {
        let mut left = BTreeMap::new();
        untouched(self.file, String::new(), &self.done, &mut left);
        for (path, _) in left {
            let instead = match path.split('.').next().unwrap_or_default() {
                "commands" => "there are no chat commands: use `mindos`, with the roles that it asks for",
                "security" => "secrets are read from the environment or files; payloads are in no log",
                "ai_agents" | "refinory" => "models are the generals' own configuration",
                "infra" => "not needed by the control plane",
                _ => "has no counterpart",
            };
            self.lost(path, instead);
        }
    }
}

fn untouched(value: &Value, path: String, done: &BTreeSet<String>, left: &mut BTreeMap<String, ()>) {
    let is_done = done.contains(&path);
    let below = format!("{path}.");
    let touched = path.is_empty() || done.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below));
    match value {
        _ if is_done => {}
        Value::Null => {}
        Value::Object(object) if touched => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                untouched(value, path, done, left);
            }
        }
        _ => {
            left.insert(path, ());
        }
    }
}

/// The stock table, for these clusters; all where there are none.
fn routes(clusters: &[String]) -> Value {
    let stock: Value = serde_json::from_str(mindos_control_plane::ingest::STOCK_ROUTES).unwrap_or_default();
    let route = |route: &Value| {
        let mut targets = json!({ "types": route["types"] });
        if !clusters.is_empty() {
            targets["clusters"] = json!(clusters);
        }
        let mut made = json!({ "name": route["name"], "targets": targets, "strategy": route["strategy"] });
        if route["kinds"].is_array() {
            made["match"] = json!({ "kinds": route["kinds"] });
        }
        if route["count"].is_number() {
            made["count"] = route["count"].clone();
        }
        made
    };
    json!({ "routes": stock.as_array().into_iter().flatten().map(route).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLIER: &str = r##"
discord:
  channels: { prs: "1186000000000000001", alerts: "#alerts" }
  bot:
    token_secret_ref: "vault://kv/bot"
    rate_limits: { max_msgs_per_min: 30, burst: 10 }
infra:
  environments: [dev]
  nodes:
    clusters:
      - { name: prod-us, api_server: "https://k8s-prod.example", auth: oidc, namespaces: [x, agents] }
      - { name: dev, api_server: "https://k8s-dev.example", namespaces: ["*"] }
git:
  app: { webhook_secret_ref: "vault://kv/hook" }
event_gateway:
  auth: { hmac: { key_secret_ref: "vault://kv/hmac", header: "X-Sig", algo: "sha256" } }
  endpoints:
    - { path: "/event", allowed_services: [a] }
    - { path: "/git", routes: [{ event: push }] }
commands: { enabled: true }
"##;

    #[test]
    fn an_earlier_configuration_becomes_settings_and_says_what_it_leaves() {
        let imported = import(EARLIER).unwrap();
        let expected = json!({
            "gitlens": {
                "clusters": {
                    "dev": { "api_server": "https://k8s-dev.example", "namespace": "agents" },
                    "prod-us": { "api_server": "https://k8s-prod.example", "namespace": "agents" },
                },
                "secret": { "env": "GITLENS_SECRET" },
            },
            "notify": { "discord": { "channels": { "prs": "1186000000000000001" }, "per_minute": 30, "burst": 10 } },
        });
        assert_eq!(Value::Object(imported.settings.clone()), expected);
        let yaml = serde_norway::to_string(&expected).unwrap();
        assert_eq!(mindos_control_plane::settings::check(&yaml), Ok(()));
        assert_eq!(imported.secrets.len(), 3);
        let lost: Vec<&str> = imported.not_carried.keys().map(String::as_str).collect();
        let expected = [
            "commands",
            "discord.channels.alerts",
            "event_gateway.endpoints[0].allowed_services",
            "event_gateway.endpoints[1].routes",
            "infra.environments",
            "infra.nodes.clusters[0].auth",
        ];
        assert_eq!(lost, expected);
        assert_eq!(imported.routes["routes"][0]["targets"]["clusters"], json!(["dev", "prod-us"]));
        assert_eq!(imported.routes["routes"].as_array().map(Vec::len), Some(8));
    }

    #[test]
    fn what_is_no_mapping_is_refused_and_an_empty_one_is_not() {
        assert!(import("- a").unwrap_err().contains("expected a mapping"));
        assert!(import("a: [").is_err());
        assert!(import("{}").unwrap().settings.is_empty());
    }
}
