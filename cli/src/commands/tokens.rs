//! `mindos tokens`: for agents to join with, and for programs and people to call with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use mindos_proto::access::v1::{
    ApiToken, CreateApiTokenRequest, CreateJoinTokenRequest, JoinHolder, JoinToken, ListApiTokensRequest,
    ListJoinTokensRequest, RevokeApiTokenRequest, RevokeJoinTokenRequest, Role as WireRole, join_holder::Holder,
};
use mindos_proto::convert;
use serde_json::{Value, json};

use super::contexts::done;
use super::filter::span;
use super::words::{Role, at, role_word};
use super::write_once::write_whole;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos tokens create --cluster eu --general triage --ttl 1h --uses 1           a sidecar joins with it
  mindos tokens create --api --name ci --role publisher --source 'github:*'      a program calls with it
  mindos tokens list
  mindos tokens revoke 412";
const CREATE_EXAMPLES: &str = "\
Examples:
  mindos tokens create --cluster eu --general triage --ttl 1h --uses 1
  mindos tokens create --cluster eu --any-general --namespace agents --uses 100 --ttl 1d
  mindos tokens create --cluster eu --cluster-agent
  mindos tokens create --api --name ci --role publisher --source 'https://github.com/acme/*' --ttl 30d
  mindos tokens create --api --name ops --role admin --plane --ttl 1d
  (umask 077; mindos tokens create --cluster eu --general triage > join-token)

The token alone goes to standard output, this once: nobody can show it again. What it is good for goes to standard error.";

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Make a token and show it, this once.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<CreateArgs>),
    /// List tokens, without their secrets.
    #[command(after_help = "Examples:\n  mindos tokens list\n  mindos tokens list --api --output json")]
    List(ListArgs),
    /// End a token.
    #[command(after_help = "Examples:\n  mindos tokens revoke 412")]
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Make a token to call with, and not one to join with.
    #[arg(long, requires = "role", conflicts_with_all = ["cluster", "namespace", "general", "any_general", "cluster_agent", "uses"])]
    api: bool,
    /// Cluster of the agents that join.
    #[arg(long, value_name = "CLUSTER", required_unless_present = "api")]
    cluster: Option<String>,
    /// Namespace they have to be in. [default: any]
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Who joins is an instance of this general.
    #[arg(long, value_name = "GENERAL", group = "holder")]
    general: Option<String>,
    /// Who joins may be an instance of any general of the cluster.
    #[arg(long, group = "holder")]
    any_general: bool,
    /// Who joins speaks for every general of the cluster.
    #[arg(long, group = "holder")]
    cluster_agent: bool,
    /// How often it can be used, 1 to 10,000. [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    uses: Option<u32>,
    /// How long it is good, such as `1h`. [default: 1h to join with, 90d to call with]
    #[arg(long, value_name = "TIME", value_parser = span)]
    ttl: Option<Duration>,
    /// Name of a token to call with, for people.
    #[arg(long, value_name = "NAME", requires = "api", default_value = "mindos-cli", hide_default_value = true)]
    name: String,
    /// What the token may do. May be given several times.
    #[arg(long, value_enum, requires = "api")]
    role: Vec<Role>,
    /// Pattern of the sources that a publisher may name, such as `https://github.com/acme/*`. May be given several times.
    #[arg(long, value_name = "PATTERN", requires = "api")]
    source: Vec<String>,
    /// For all tenants.
    #[arg(long, requires = "api", conflicts_with = "tenant")]
    plane: bool,
    /// Write the token into this file, for its owner alone. Where there is one already, nothing is made.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only tokens to call with.
    #[arg(long, conflicts_with = "join")]
    api: bool,
    /// Only tokens to join with.
    #[arg(long)]
    join: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Id of the token, as `mindos tokens list` shows it.
    id: u64,
}

pub(crate) async fn run(command: TokensCommand, global: &Global) -> Result<(), Failure> {
    match command {
        TokensCommand::Create(args) => create(*args, global).await,
        TokensCommand::List(args) => list(args, global).await,
        TokensCommand::Revoke(RevokeArgs { id }) => revoke(id, global).await,
    }
}

async fn create(args: CreateArgs, global: &Global) -> Result<(), Failure> {
    let CreateArgs {
        api,
        cluster,
        namespace,
        general,
        any_general,
        cluster_agent,
        uses,
        ttl,
        name,
        role,
        source,
        plane,
        out,
    } = args;
    if let Some(path) = out.as_deref().filter(|path| path.exists()) {
        render::say(&format!("there is a token in {} already: none was made", path.display()));
        return Ok(());
    }
    let ttl = ttl.map(convert::span);
    if api {
        let client = Client::connect(global).await?;
        let roles = role.into_iter().map(|role| WireRole::from(role).into()).collect();
        let request = CreateApiTokenRequest { name, tenant: client.tenant(plane), roles, sources: source, ttl };
        let answer = client.access().create_api_token(request).await.map_err(client.failed())?.into_inner();
        return made(&answer.text, &api_json(&answer.token.unwrap_or_default()), out.as_deref(), global);
    }
    let holder = match (general, any_general, cluster_agent) {
        (Some(general), ..) => Holder::General(general),
        (_, true, _) => Holder::AnyGeneral(true),
        (.., true) => Holder::ClusterAgent(true),
        (None, false, false) => {
            return Err(Failure::usage("who may join? expected --general, --any-general or --cluster-agent"));
        }
    };
    let client = Client::connect(global).await?;
    let request = CreateJoinTokenRequest {
        tenant: client.tenant(false),
        cluster: cluster.unwrap_or_default(),
        namespace: namespace.unwrap_or_default(),
        holder: Some(JoinHolder { holder: Some(holder) }),
        uses: uses.unwrap_or_default(),
        ttl,
    };
    let answer = client.access().create_join_token(request).await.map_err(client.failed())?.into_inner();
    made(&answer.text, &join_json(&answer.token.unwrap_or_default()), out.as_deref(), global)
}

/// Shows a token, this once, or writes it where that was asked for.
fn made(text: &str, token: &Value, out: Option<&Path>, global: &Global) -> Result<(), Failure> {
    if let Some(path) = out {
        write_whole(path, text)?;
    } else if global.output.is_json() {
        let mut token = token.clone();
        token["text"] = text.into();
        render::print_json(&token);
        return Ok(());
    } else {
        render::print(text);
    }
    let until = token["expires_at"].as_str().unwrap_or_default();
    render::say(&format!("token {} until {until}: {}", token["id"], what(token)));
    Ok(())
}

/// What a token is good for, in a few words.
fn what(token: &Value) -> String {
    let text = |field: &str| token[field].as_str().unwrap_or_default().to_owned();
    let list = |field: &str| {
        let items = token[field].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    if token["kind"] == "api" {
        let sources = list("sources");
        let sources = if sources.is_empty() { String::new() } else { format!(" of {sources}") };
        return format!("{}{sources} in {}", list("roles"), text("tenant"));
    }
    if token["revoked"] == true {
        return "nothing: it was revoked".to_owned();
    }
    let namespace = text("namespace");
    let namespace = if namespace.is_empty() { String::new() } else { format!(" in namespace {namespace}") };
    format!("{} of {}{namespace}, {} uses left", text("holder"), text("cluster"), token["uses_left"])
}

async fn list(args: ListArgs, global: &Global) -> Result<(), Failure> {
    let ListArgs { api, join } = args;
    let client = Client::connect(global).await?;
    let (mut access, failed) = (client.access(), client.failed());
    let mut tokens = Vec::new();
    if !api {
        let mut page_token = String::new();
        loop {
            let request = ListJoinTokensRequest { tenant: client.tenant(false), page_size: 1000, page_token };
            let page = access.list_join_tokens(request).await.map_err(&failed)?.into_inner();
            tokens.extend(page.tokens.iter().map(join_json));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    if !join {
        let mut page_token = String::new();
        loop {
            let request = ListApiTokensRequest { tenant: client.tenant(false), page_size: 1000, page_token };
            let page = match access.list_api_tokens(request).await {
                Ok(page) => page.into_inner(),
                // An operator sees the tokens for joining; those for calling are for admins.
                Err(status) if status.code() == tonic::Code::PermissionDenied && !api => break,
                Err(status) => return Err(failed(status)),
            };
            tokens.extend(page.tokens.iter().map(api_json));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    if global.output.is_json() {
        render::print_json(&json!({ "tokens": tokens }));
        return Ok(());
    }
    let mut table = Table::new(&[">id", "kind", "name", "tenant", "good for", "until", "last used"]);
    for token in &tokens {
        let text = |field: &str| token[field].as_str().unwrap_or_default().to_owned();
        let id = token["id"].to_string();
        table.row(vec![
            id,
            text("kind"),
            text("name"),
            text("tenant"),
            what(token),
            text("expires_at"),
            text("last_used_at"),
        ]);
    }
    render::print(&table.text());
    Ok(())
}

async fn revoke(id: u64, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    let mut access = client.access();
    // An id is of one kind or the other.
    let kind = match access.revoke_join_token(RevokeJoinTokenRequest { id }).await {
        Ok(_) => "join",
        Err(status) if status.code() == tonic::Code::NotFound => {
            access.revoke_api_token(RevokeApiTokenRequest { id }).await.map_err(client.failed())?;
            "api"
        }
        Err(status) => return Err(client.failed()(status)),
    };
    done(global, &json!({ "revoked": id, "kind": kind }), &format!("token {id} has ended"));
    Ok(())
}

fn api_json(token: &ApiToken) -> Value {
    let ApiToken { id, name, tenant, roles, sources, expires_at, created_at, created_by, last_used_at } = token;
    json!({
        "id": id,
        "kind": "api",
        "name": name,
        "tenant": tenant,
        "roles": roles.iter().map(|role| role_word(*role)).collect::<Vec<_>>(),
        "sources": sources,
        "expires_at": at(expires_at.as_ref()),
        "created_at": at(created_at.as_ref()),
        "created_by": created_by,
        "last_used_at": at(last_used_at.as_ref()),
    })
}

fn join_json(token: &JoinToken) -> Value {
    let JoinToken { id, tenant, cluster, namespace, holder, uses_left, expires_at, created_at, created_by, revoked } =
        token;
    let holder = match holder.as_ref().and_then(|holder| holder.holder.as_ref()) {
        Some(Holder::General(general)) => format!("general {general}"),
        Some(Holder::AnyGeneral(_)) => "any general".to_owned(),
        Some(Holder::ClusterAgent(_)) => "cluster agent".to_owned(),
        None => String::new(),
    };
    json!({
        "id": id,
        "kind": "join",
        "tenant": tenant,
        "cluster": cluster,
        "namespace": namespace,
        "holder": holder,
        "revoked": revoked,
        "uses_left": uses_left,
        "revoked": revoked,
        "expires_at": at(expires_at.as_ref()),
        "created_at": at(created_at.as_ref()),
        "created_by": created_by,
    })
}
