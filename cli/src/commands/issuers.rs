//! `mindos issuers`: clusters whose pods join by their service account tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mindos_proto::access::v1::{Issuer, IssuerGrant, ListIssuersRequest, RegisterIssuerRequest, RemoveIssuerRequest};
use serde_json::{Value, json};

use super::contexts::done;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table};

/// Bytes of a key set that the control plane takes.
const KEYS_MAX: u64 = 64 << 10;

pub(crate) const EXAMPLES: &str = "\
Examples:
  kubectl get --raw /openid/v1/jwks > keys.json
  mindos issuers add main --cluster eu --url https://kubernetes.default.svc --audience mindos --keys keys.json \\
      --grant namespace=agents,generals=triage
  mindos issuers list
  mindos issuers remove main --cluster eu";
const ADD_EXAMPLES: &str = "\
Examples:
  mindos issuers add main --cluster eu --url https://kubernetes.default.svc --audience mindos --keys keys.json \\
      --grant namespace=agents,generals=triage --grant namespace=mindos-system,service-account=agent,cluster-agent
  mindos issuers add main --cluster eu --url https://kubernetes.default.svc --audience mindos \\
      --grant 'namespace=team-*,service-account=mindos,generals=*'

A grant says which service accounts (patterns; any where left out) may be instances of which generals (patterns, with `+` between), or the agent of
the cluster. `kubectl get --raw /openid/v1/jwks` shows the keys of a cluster, and `kubectl get --raw
/.well-known/openid-configuration` its url. Without --keys the cluster itself is asked, as `token_review` of the settings says.";

#[derive(Debug, Subcommand)]
pub(crate) enum IssuersCommand {
    /// Let service accounts of a cluster join, or change which.
    #[command(after_help = ADD_EXAMPLES)]
    Add(AddArgs),
    /// List the issuers.
    #[command(after_help = "Examples:\n  mindos issuers list\n  mindos issuers list --output json")]
    List,
    /// Let nobody join by an issuer any more.
    #[command(after_help = "Examples:\n  mindos issuers remove main --cluster eu")]
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Name of the issuer.
    name: String,
    /// Cluster of the agents that join by it.
    #[arg(long, value_name = "CLUSTER")]
    cluster: String,
    /// What its tokens say in `iss`.
    #[arg(long, value_name = "URL")]
    url: String,
    /// What its tokens have to say in `aud`.
    #[arg(long, value_name = "AUDIENCE")]
    audience: String,
    /// File with its keys, a JSON Web Key Set of at most 64 KiB.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Who may join as what: namespace=PATTERN,service-account=PATTERN,generals=PATTERN+PATTERN,cluster-agent. May be given several
    /// times.
    #[arg(long, value_name = "GRANT", required = true, value_parser = grant)]
    grant: Vec<IssuerGrant>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Name of the issuer.
    name: String,
    /// Its cluster.
    #[arg(long, value_name = "CLUSTER")]
    cluster: String,
}

pub(crate) async fn run(command: IssuersCommand, global: &Global) -> Result<(), Failure> {
    match command {
        IssuersCommand::Add(args) => add(args, global).await,
        IssuersCommand::List => list(global).await,
        IssuersCommand::Remove(RemoveArgs { name, cluster }) => {
            let client = Client::connect(global).await?;
            let request =
                RemoveIssuerRequest { tenant: client.tenant(false), cluster: cluster.clone(), name: name.clone() };
            client.access().remove_issuer(request).await.map_err(client.failed())?;
            let said = format!("nobody joins {cluster} by {name} any more");
            done(global, &json!({ "removed": name, "cluster": cluster }), &said);
            Ok(())
        }
    }
}

async fn add(args: AddArgs, global: &Global) -> Result<(), Failure> {
    let AddArgs { name, cluster, url, audience, keys, grant } = args;
    let keys = match keys {
        None => String::new(),
        Some(path) => {
            let failed =
                |error: &dyn std::fmt::Display| Failure::usage(format!("--keys `{}`: {error}", path.display()));
            let length = std::fs::metadata(&path).map_err(|error| failed(&error))?.len();
            if length > KEYS_MAX {
                return Err(failed(&format!("has {length} bytes: at most 64 KiB are taken")));
            }
            std::fs::read_to_string(&path).map_err(|error| failed(&error))?
        }
    };
    let client = Client::connect(global).await?;
    let issuer = Issuer { tenant: client.tenant(false), cluster, name, url, audience, keys, grants: grant };
    let request = RegisterIssuerRequest { issuer: Some(issuer) };
    let answer = client.access().register_issuer(request).await.map_err(client.failed())?.into_inner();
    let issuer = answer.issuer.unwrap_or_default();
    let said = format!("pods of {} join by {}: {}", issuer.cluster, issuer.name, grants(&issuer));
    done(global, &as_json(&issuer), &said);
    Ok(())
}

async fn list(global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    let mut access = client.access();
    let (mut issuers, mut page_token) = (Vec::new(), String::new());
    loop {
        // Each may have 64 KiB of keys.
        let request = ListIssuersRequest { tenant: client.tenant(false), page_size: 50, page_token };
        let page = access.list_issuers(request).await.map_err(client.failed())?.into_inner();
        issuers.extend(page.issuers);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if global.output.is_json() {
        render::print_json(&json!({ "issuers": issuers.iter().map(as_json).collect::<Vec<_>>() }));
        return Ok(());
    }
    let mut table = Table::new(&["tenant", "cluster", "name", "url", "audience", "checked by", "grants"]);
    for issuer in &issuers {
        let Issuer { tenant, cluster, name, url, audience, keys, grants: _ } = issuer;
        let checked = if keys.is_empty() { "token review" } else { "keys" };
        let cells = [tenant, cluster, name, url, audience].map(Clone::clone);
        table.row([&cells[..], &[checked.to_owned(), grants(issuer)]].concat());
    }
    render::print(&table.text());
    Ok(())
}

fn grants(issuer: &Issuer) -> String {
    let words = issuer.grants.iter().map(|grant| {
        let IssuerGrant { namespace, service_account, generals, cluster_agent } = grant;
        let agent = if *cluster_agent { Some("cluster agent") } else { None };
        let may: Vec<&str> = generals.iter().map(String::as_str).chain(agent).collect();
        format!("{namespace}/{service_account} as {}", may.join(", "))
    });
    words.collect::<Vec<_>>().join("; ")
}

fn as_json(issuer: &Issuer) -> Value {
    let Issuer { tenant, cluster, name, url, audience, keys, grants } = issuer;
    let grants = grants.iter().map(|grant| {
        let IssuerGrant { namespace, service_account, generals, cluster_agent } = grant;
        json!({
            "namespace": namespace, "service_account": service_account, "generals": generals, "cluster_agent": cluster_agent,
        })
    });
    json!({
        "tenant": tenant,
        "cluster": cluster,
        "name": name,
        "url": url,
        "audience": audience,
        "keys": serde_json::from_str::<Value>(keys).unwrap_or(Value::Null),
        "checked_by": if keys.is_empty() { "token_review" } else { "keys" },
        "grants": grants.collect::<Vec<_>>(),
    })
}

/// Reads a grant such as `namespace=agents,generals=triage+review`.
fn grant(text: &str) -> Result<IssuerGrant, String> {
    let mut grant = IssuerGrant {
        namespace: String::new(),
        service_account: "*".to_owned(),
        generals: Vec::new(),
        cluster_agent: false,
    };
    for part in text.split(',') {
        match part.trim().split_once('=') {
            Some(("namespace", pattern)) => grant.namespace = pattern.to_owned(),
            Some(("service-account", pattern)) => grant.service_account = pattern.to_owned(),
            Some(("generals", patterns)) => grant.generals = patterns.split('+').map(str::to_owned).collect(),
            None if part.trim() == "cluster-agent" => grant.cluster_agent = true,
            _ => return Err(format!("`{part}`: expected namespace=, service-account=, generals= or cluster-agent")),
        }
    }
    if grant.namespace.is_empty() {
        return Err("expected namespace=PATTERN; `*` is all of them".to_owned());
    }
    if grant.generals.is_empty() && !grant.cluster_agent {
        return Err("grants nothing: expected generals=PATTERN or cluster-agent".to_owned());
    }
    Ok(grant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_says_who_may_join_as_what() {
        let read = grant("namespace=agents, service-account=mindos-*,generals=triage+review,cluster-agent").unwrap();
        assert_eq!((read.namespace.as_str(), read.service_account.as_str()), ("agents", "mindos-*"));
        assert_eq!((read.generals, read.cluster_agent), (vec!["triage".to_owned(), "review".to_owned()], true));
        assert_eq!(grant("namespace=a,generals=*").unwrap().service_account, "*");
        for bad in ["", "generals=x", "namespace=a", "namespace=a,general=x", "cluster-agent=1,namespace=a", "a"] {
            assert!(grant(bad).is_err(), "{bad}");
        }
    }
}
