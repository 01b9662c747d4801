//! `mindos agents`: turning agents away, and letting them in again.

use clap::{Args, Subcommand};
use mindos_proto::access::v1::{
    AgentPattern, AllowAgentRequest, Denial, DenyAgentRequest, ListDenialsRequest, denial, deny_agent_request::Target,
};
use serde_json::{Value, json};

use super::contexts::done;
use super::words::at;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos agents deny --cluster eu --general triage --instance triage-7d9f --reason 'its machine is lost'
  mindos agents denials
  mindos agents allow 431";
const DENY_EXAMPLES: &str = "\
Examples:
  mindos agents deny --cluster eu --general triage --instance triage-7d9f --reason 'its machine is lost'
  mindos agents deny --cluster eu --namespace agents
  mindos agents deny --key 5f7b...e2

They may not join or renew from then on, and their streams end within 5 s. What is left out fits all.";

#[derive(Debug, Subcommand)]
pub(crate) enum AgentsCommand {
    /// Turn agents away, or a key.
    #[command(after_help = DENY_EXAMPLES)]
    Deny(DenyArgs),
    /// End a denial.
    #[command(after_help = "Examples:\n  mindos agents allow 431")]
    Allow(AllowArgs),
    /// List who is turned away.
    #[command(after_help = "Examples:\n  mindos agents denials\n  mindos agents denials --output json")]
    Denials,
}

#[derive(Debug, Args)]
pub(crate) struct DenyArgs {
    /// Cluster of the agents.
    #[arg(long, value_name = "CLUSTER", required_unless_present = "key")]
    cluster: Option<String>,
    /// Their namespace. [default: all]
    #[arg(long, value_name = "NAMESPACE", requires = "cluster")]
    namespace: Option<String>,
    /// Their general. [default: all]
    #[arg(long, value_name = "GENERAL", requires = "cluster")]
    general: Option<String>,
    /// Id of the instance. [default: all]
    #[arg(long, value_name = "INSTANCE", requires = "cluster")]
    instance: Option<String>,
    /// A key instead, whoever has it: SHA-256 of its SubjectPublicKeyInfo, 64 hex digits. Takes an admin of the plane.
    #[arg(long, value_name = "HEX", conflicts_with = "cluster", value_parser = key)]
    key: Option<Key>,
    /// Why, for the ledger.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// A digest of a key.
#[derive(Clone, Debug)]
struct Key(Vec<u8>);

#[derive(Debug, Args)]
pub(crate) struct AllowArgs {
    /// Id of the denial, as `mindos agents denials` shows it.
    id: u64,
}

pub(crate) async fn run(command: AgentsCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    let (mut access, failed) = (client.access(), client.failed());
    match command {
        AgentsCommand::Deny(args) => {
            let DenyArgs { cluster, namespace, general, instance, key, reason } = args;
            let target = match key {
                Some(Key(digest)) => Target::Key(digest.into()),
                None => Target::Agent(AgentPattern {
                    tenant: client.tenant(false),
                    cluster: cluster.unwrap_or_default(),
                    namespace: namespace.unwrap_or_default(),
                    general: general.unwrap_or_default(),
                    instance_id: instance.unwrap_or_default(),
                }),
            };
            let request = DenyAgentRequest { target: Some(target), reason };
            let answer = access.deny_agent(request).await.map_err(&failed)?.into_inner();
            let value = as_json(&answer.denial.unwrap_or_default());
            let said = format!("denial {}: {} turned away", value["id"], value["target"].as_str().unwrap_or_default());
            done(global, &value, &said);
        }
        AgentsCommand::Allow(AllowArgs { id }) => {
            access.allow_agent(AllowAgentRequest { id }).await.map_err(&failed)?;
            done(global, &json!({ "ended": id }), &format!("denial {id} has ended"));
        }
        AgentsCommand::Denials => {
            let (mut denials, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = ListDenialsRequest { tenant: client.tenant(false), page_size: 1000, page_token };
                let page = access.list_denials(request).await.map_err(&failed)?.into_inner();
                denials.extend(page.denials.iter().map(as_json));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            show(&denials, global);
        }
    }
    Ok(())
}

fn show(denials: &[Value], global: &Global) {
    if global.output.is_json() {
        return render::print_json(&json!({ "denials": denials }));
    }
    let mut table = Table::new(&[">id", "who", "since", "by", "reason"]);
    for denial in denials {
        let text = |field: &str| denial[field].as_str().unwrap_or_default().to_owned();
        let reason = render::clip(&text("reason"), 80);
        table.row(vec![denial["id"].to_string(), text("target"), text("created_at"), text("created_by"), reason]);
    }
    render::print(&table.text());
}

fn as_json(denial: &Denial) -> Value {
    let Denial { id, tenant, target, reason, created_at, created_by } = denial;
    let (agent, key) = match target {
        Some(denial::Target::Agent(agent)) => (Some(agent), None),
        Some(denial::Target::Key(key)) => (None, Some(hex(key))),
        None => (None, None),
    };
    let shown = match (agent, &key) {
        (Some(agent), _) => {
            let AgentPattern { tenant, cluster, namespace, general, instance_id } = agent;
            let parts = [
                ("tenant", tenant),
                ("cluster", cluster),
                ("namespace", namespace),
                ("general", general),
                ("instance", instance_id),
            ];
            let parts =
                parts.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name} {value}"));
            parts.collect::<Vec<_>>().join(" ")
        }
        (None, Some(key)) => format!("key {key}"),
        (None, None) => String::new(),
    };
    let agent = agent.map(|agent| {
        let AgentPattern { tenant, cluster, namespace, general, instance_id } = agent;
        json!({ "tenant": tenant, "cluster": cluster, "namespace": namespace, "general": general, "instance_id": instance_id })
    });
    json!({
        "id": id,
        "tenant": tenant,
        "target": shown,
        "agent": agent,
        "key": key,
        "reason": reason,
        "created_at": at(created_at.as_ref()),
        "created_by": created_by,
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(text: &str) -> Result<Key, String> {
    let bad = || "expected 64 hex digits".to_owned();
    let digits = text.trim();
    if digits.len() != 64 || !digits.is_ascii() {
        return Err(bad());
    }
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| bad());
    (0..64).step_by(2).map(byte).collect::<Result<_, _>>().map(Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_digest() {
        let digits = "00ff".repeat(16);
        assert_eq!(hex(&key(&digits).unwrap().0), digits);
        for bad in ["", "00", &"zz".repeat(32), &"é".repeat(32), &"+1".repeat(32).replace('1', "é")] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }
}
