//! Tools of the agent in a run: three sets to begin with, and what a run adds to them.
//!
//! | set | remote | local |
//! |---|---|---|
//! | minimal | none | none |
//! | default | brave-search_brave_web_search, memory_create_entities, rustdocs_query_rust_docs | none |
//! | advanced | those of default, github_create_issue, kubernetes_listResources, terraform_list_providers | filesystem |

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::code_run::Tools;

/// A set of tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolConfig {
    /// What most tasks need.
    #[default]
    Default,
    /// Nothing.
    Minimal,
    /// Also what reaches out to other systems.
    Advanced,
}

const DEFAULT: [&str; 3] = ["brave-search_brave_web_search", "memory_create_entities", "rustdocs_query_rust_docs"];
const ADVANCED: [&str; 3] = ["github_create_issue", "kubernetes_listResources", "terraform_list_providers"];

impl ToolConfig {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ToolConfig::Default => "default",
            ToolConfig::Minimal => "minimal",
            ToolConfig::Advanced => "advanced",
        }
    }

    /// The set by its word.
    #[must_use]
    pub fn named(word: &str) -> Option<ToolConfig> {
        [ToolConfig::Default, ToolConfig::Minimal, ToolConfig::Advanced].into_iter().find(|set| set.as_str() == word)
    }

    /// Its tools.
    #[must_use]
    pub fn tools(self) -> Tools {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        match self {
            ToolConfig::Minimal => Tools::default(),
            ToolConfig::Default => Tools { local: Vec::new(), remote: owned(&DEFAULT) },
            ToolConfig::Advanced => {
                Tools { local: owned(&["filesystem"]), remote: [owned(&DEFAULT), owned(&ADVANCED)].concat() }
            }
        }
    }
}

/// The tools of a run: those of its set, and what it names in either shape. Each once, in this order.
#[must_use]
pub fn of_run(set: ToolConfig, lists: Option<&Tools>, local: Option<&str>, remote: Option<&str>) -> Tools {
    let mut tools = set.tools();
    let lists = lists.cloned().unwrap_or_default();
    add(&mut tools.local, lists.local.into_iter().chain(split(local)));
    add(&mut tools.remote, lists.remote.into_iter().chain(split(remote)));
    tools
}

fn split(list: Option<&str>) -> impl Iterator<Item = String> {
    let names = list.unwrap_or_default().split(',').map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty()).collect::<Vec<_>>().into_iter()
}

fn add(tools: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for name in more {
        if !tools.contains(&name) {
            tools.push(name);
        }
    }
}

/// The tools that a local server offers, by its name; none where it is not known.
fn local_server(name: &str) -> Option<Value> {
    let server = |package: &str, tools: &[&str]| {
        json!({
            "command": "npx",
            "args": ["-y", package, "/workspace"],
            "tools": tools,
            "workingDirectory": "project_root",
        })
    };
    match name {
        "filesystem" => Some(server(
            "@modelcontextprotocol/server-filesystem",
            &["read_file", "write_file", "list_directory", "create_directory"],
        )),
        "git" => Some(server("@modelcontextprotocol/server-git", &["git_status", "git_diff", "git_log"])),
        _ => None,
    }
}

/// The file in which the tool client reads what it may use.
#[must_use]
pub fn client_config(tools: &Tools) -> Value {
    let servers = tools.local.iter().filter_map(|name| Some((name.clone(), local_server(name)?)));
    json!({
        "localServers": servers.collect::<serde_json::Map<_, _>>(),
        "remoteTools": tools.remote,
    })
}

/// The servers that the agent speaks to: the tool server where there are remote tools, and the local ones.
#[must_use]
pub fn mcp_servers(tools: &Tools, tool_server: &str) -> Value {
    let mut servers = serde_json::Map::new();
    if !tools.remote.is_empty() && !tool_server.is_empty() {
        let client = json!({
            "command": "toolman",
            "args": ["--url", tool_server, "--working-dir", "/workspace"],
            "env": { "MCP_CLIENT_CONFIG": "/task-files/client-config.json" },
        });
        servers.insert("toolman".to_owned(), client);
    }
    for name in &tools.local {
        if let Some(mut server) = local_server(name) {
            if let Some(server) = server.as_object_mut() {
                server.retain(|key, _| key == "command" || key == "args");
            }
            servers.insert(name.clone(), server);
        }
    }
    Value::Object(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_those_of_the_contract_and_both_shapes_add_to_them() {
        assert_eq!(ToolConfig::Minimal.tools(), Tools::default());
        assert_eq!(ToolConfig::Default.tools().remote, DEFAULT);
        assert_eq!(ToolConfig::Advanced.tools().remote.len(), 6);
        let lists = Tools { local: vec!["git".into()], remote: vec!["a_b".into()] };
        let tools = of_run(ToolConfig::Advanced, Some(&lists), Some("git, filesystem ,"), Some("a_b,c_d"));
        assert_eq!(tools.local, ["filesystem", "git"]);
        assert_eq!(tools.remote[6..], ["a_b", "c_d"]);
        assert_eq!(of_run(ToolConfig::Minimal, None, None, Some("x")).remote, ["x"]);
        let config = client_config(&tools);
        assert_eq!(config["localServers"]["filesystem"]["tools"].as_array().unwrap().len(), 4);
        assert_eq!(config["remoteTools"].as_array().unwrap().len(), 8);
        let servers = mcp_servers(&tools, "http://toolman.example/mcp");
        assert_eq!(servers.as_object().unwrap().keys().collect::<Vec<_>>(), ["filesystem", "git", "toolman"]);
        assert_eq!(mcp_servers(&Tools::default(), "http://x"), json!({}));
        for set in ["default", "minimal", "advanced"] {
            assert_eq!(ToolConfig::named(set).unwrap().as_str(), set);
        }
        assert_eq!(ToolConfig::named("all"), None);
    }
}
