//! `mindos install`: what a cluster needs, printed or applied.
//!
//! ```text
//!   control plane --roots, join token or issuer--> manifests (pure) --> standard output, or kubectl apply
//! ```
//! Invariant: without --apply nothing is changed in any cluster; a join token is made, and an issuer registered, only where that was asked
//! for or is how the agent joins.

mod crds;
mod kubectl;
mod manifests;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mindos_model::{ClusterName, Region};
use mindos_proto::access::v1::{
    CreateJoinTokenRequest, GetAuthorityRequest, Issuer, IssuerGrant, JoinHolder, RegisterIssuerRequest,
    join_holder::Holder,
};
use mindos_proto::convert;
use serde_json::Value;

use self::kubectl::{Kubectl, Version};
use self::manifests::{Join, Wanted};
use super::authority::pem;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos install --cluster prod-us --control-plane https://mindos.example.com:8091 > prod-us.yaml
  mindos install --cluster prod-us --control-plane https://mindos.example.com:8091 --apply --kube-context prod-us
  mindos install --cluster prod-us --control-plane https://mindos.example.com:8091 --join token --apply

Namespace, definitions of objects, roots of the control plane, cluster agent and injector. With --apply it joins by its service account: its
issuer is registered from what kubectl says of the cluster. Printed, it joins by a token, which stands in what is printed.";

/// How long a join token is good, and for how many joins: an agent's pods join again when they are replaced.
const TOKEN_LIFE: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);
const TOKEN_USES: u32 = 100;
/// Bytes of a key set that the control plane takes.
const KEYS_MAX: usize = 64 << 10;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct InstallArgs {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    cluster: Option<ClusterArgs>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Print the definitions of the objects: Cluster, General, Route, Budget, CodeRun and DocsRun.
    #[command(after_help = crds::EXAMPLES)]
    Crds(crds::CrdsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Name of the cluster, as the control plane is to know it
    #[arg(long, value_name = "NAME", required = true)]
    cluster: ClusterName,
    /// Where agents dial, as seen from that cluster
    #[arg(long, value_name = "URL", required = true, value_parser = plane)]
    control_plane: String,
    /// Region of the cluster
    #[arg(long, value_name = "NAME")]
    region: Option<Region>,
    /// Namespace of the agent and the injector; it is made
    #[arg(long, value_name = "NAME", default_value = "mindos", value_parser = manifests::label)]
    namespace: String,
    /// Namespaces whose service accounts may be generals, as patterns; may be given several times
    #[arg(long = "generals-in", value_name = "PATTERN", default_value = "agents")]
    generals_in: Vec<String>,
    /// Namespace for Jobs of CodeRun and DocsRun; it is made
    #[arg(long, value_name = "NAME", default_value = "mindos-runs", value_parser = manifests::label)]
    runs_in: String,
    /// How agent and generals join: by service accounts or by a token [default: service-account with --apply or --kube-context, else token]
    #[arg(long, value_enum, value_name = "HOW")]
    join: Option<JoinBy>,
    /// Audience of service account tokens
    #[arg(long, value_name = "WORD", default_value = "mindos")]
    audience: String,
    /// Registry of the images, such as registry.example.com/mindos
    #[arg(long, value_name = "REGISTRY")]
    image_registry: Option<String>,
    /// Tag of the images [default: that of this version]
    #[arg(long, value_name = "TAG")]
    image_tag: Option<String>,
    /// Leave out the injector, such as where the cluster has one
    #[arg(long)]
    no_injector: bool,
    /// Leave out the definitions of objects, such as where the chart mindos-crds is
    #[arg(long)]
    no_crds: bool,
    /// Apply it with kubectl, instead of printing it
    #[arg(long)]
    apply: bool,
    /// Kubeconfig of the cluster, for kubectl
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, for kubectl
    #[arg(long, value_name = "NAME")]
    kube_context: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum JoinBy {
    ServiceAccount,
    Token,
}

fn plane(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").unwrap_or_default().trim_end_matches('/');
    if host.is_empty() || host.contains(|c: char| c == '/' || c.is_whitespace() || c == '"') {
        return Err("expected https://HOST:PORT, such as https://mindos.example.com:8091".to_owned());
    }
    Ok(format!("https://{host}"))
}

pub(crate) async fn run(args: InstallArgs, global: &Global) -> Result<(), Failure> {
    match args {
        InstallArgs { part: Some(Part::Crds(args)), cluster: _ } => crds::run(args, global),
        InstallArgs { part: None, cluster: Some(args) } => install(args, global).await,
        InstallArgs { part: None, cluster: None } => {
            Err(Failure::usage("what is to be installed? expected --cluster NAME --control-plane URL, or crds"))
        }
    }
}

async fn install(args: ClusterArgs, global: &Global) -> Result<(), Failure> {
    let ClusterArgs {
        cluster,
        control_plane,
        region,
        namespace,
        generals_in,
        runs_in,
        join,
        audience,
        image_registry,
        image_tag,
        no_injector,
        no_crds,
        apply,
        kubeconfig,
        kube_context,
    } = args;
    let asks_cluster = apply || kube_context.is_some() || kubeconfig.is_some();
    let kubectl = Kubectl::new(kubeconfig, kube_context);
    let by = join.unwrap_or(if asks_cluster { JoinBy::ServiceAccount } else { JoinBy::Token });
    if by == JoinBy::ServiceAccount && !asks_cluster {
        let message =
            "--join service-account asks the cluster for its keys: expected --apply, --kubeconfig or --kube-context";
        return Err(Failure::usage(message));
    }
    // Before anything is made: a cluster that does not answer leaves nothing behind.
    let version = if asks_cluster { kubectl.version().await? } else { Version::NEWEST };
    let keys = if by == JoinBy::ServiceAccount { Some(issuer_of(&kubectl).await?) } else { None };
    let client = Client::connect(global).await?;
    let ca = roots(&client).await?;
    let join = match keys {
        Some((url, keys)) => {
            let grant = |namespace: &str, account: &str, generals: &[&str], cluster_agent| IssuerGrant {
                namespace: namespace.to_owned(),
                service_account: account.to_owned(),
                generals: generals.iter().map(|general| (*general).to_owned()).collect(),
                cluster_agent,
            };
            let mut grants = vec![grant(&namespace, manifests::AGENT, &[], true)];
            grants.extend(generals_in.iter().map(|pattern| grant(pattern, "*", &["*"], false)));
            let issuer = Issuer {
                tenant: client.tenant(false),
                cluster: cluster.to_string(),
                name: manifests::ISSUER.to_owned(),
                url,
                audience: audience.clone(),
                keys,
                grants,
            };
            let request = RegisterIssuerRequest { issuer: Some(issuer) };
            client.access().register_issuer(request).await.map_err(client.failed())?;
            render::say(&format!(
                "service accounts of {cluster} may join: {namespace}/{} as its agent, generals in {}",
                manifests::AGENT,
                generals_in.join(", ")
            ));
            Join::ServiceAccount { audience }
        }
        None => {
            let request = CreateJoinTokenRequest {
                tenant: client.tenant(false),
                cluster: cluster.to_string(),
                // A cluster agent stands in none.
                namespace: String::new(),
                holder: Some(JoinHolder { holder: Some(Holder::ClusterAgent(true)) }),
                uses: TOKEN_USES,
                ttl: Some(convert::span(TOKEN_LIFE)),
            };
            let answer = client.access().create_join_token(request).await.map_err(client.failed())?.into_inner();
            let secret = manifests::TOKEN_SECRET;
            render::say(&format!("a token of 30 days and {TOKEN_USES} joins is in Secret {namespace}/{secret}"));
            if !no_injector {
                render::say("sidecars join by service account alone: register the issuer with `mindos issuers add`");
            }
            Join::Token { text: answer.text, audience }
        }
    };
    let wanted = Wanted {
        cluster: cluster.to_string(),
        control_plane,
        region: region.map(|region| region.to_string()),
        namespace,
        runs_in,
        join,
        ca,
        registry: image_registry,
        tag: image_tag,
        injector: !no_injector,
        old_budgets: !version.has_budgets(),
    };
    let mut objects = if no_crds { Vec::new() } else { crds::definitions(version.knows_rules())? };
    objects.extend(manifests::cluster(&wanted)?);
    if !apply {
        match global.output.is_json() {
            true => render::print_json(&manifests::list(objects)),
            false => render::print(manifests::yaml(&objects).trim_end()),
        }
        return Ok(());
    }
    // Definitions first: objects of kinds that are not served yet are refused.
    let (definitions, rest): (Vec<_>, Vec<_>) =
        objects.into_iter().partition(|object| is(object, "CustomResourceDefinition"));
    for part in [definitions, rest] {
        if !part.is_empty() {
            render::print(kubectl.apply(&manifests::list(part)).await?.trim_end());
        }
    }
    Ok(())
}

fn is(object: &Value, kind: &str) -> bool {
    object["kind"] == kind
}

async fn roots(client: &Client) -> Result<String, Failure> {
    let answer = client.authority().get_authority(GetAuthorityRequest {}).await.map_err(client.failed())?.into_inner();
    if answer.roots.is_empty() {
        let failure =
            Failure::not_found("the control plane has no authority of its own, so its roots are not to be had");
        return Err(failure.hint("use the chart mindos-agent with ca.crt, the roots of its certificate"));
    }
    Ok(answer.roots.iter().map(|root| pem(&root.certificate)).collect::<Vec<_>>().join("\n"))
}

/// What the cluster says of its service account tokens: their issuer, and its keys.
async fn issuer_of(kubectl: &Kubectl) -> Result<(String, String), Failure> {
    let configuration = kubectl.get_raw("/.well-known/openid-configuration").await?;
    let url = serde_json::from_str::<Value>(&configuration)
        .ok()
        .and_then(|value| Some(value["issuer"].as_str()?.to_owned()))
        .ok_or_else(|| Failure::world("/.well-known/openid-configuration of the cluster names no issuer"))?;
    let keys = kubectl.get_raw("/openid/v1/jwks").await?;
    if keys.len() > KEYS_MAX {
        return Err(Failure::world(format!("/openid/v1/jwks has {} bytes: at most 64 KiB are taken", keys.len())));
    }
    Ok((url, keys))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        install: InstallArgs,
    }

    #[test]
    fn a_cluster_or_a_part_is_asked_for() {
        let read = |words: &[&str]| Command::try_parse_from([&["install"], words].concat());
        let plane = ["--control-plane", "https://mindos.example.com:8091"];
        assert!(read(&[&["--cluster", "eu"], &plane[..]].concat()).is_ok());
        assert!(matches!(read(&["crds"]).unwrap().install, InstallArgs { part: Some(Part::Crds(_)), cluster: None }));
        for (words, named) in [
            (&["--cluster", "eu"][..], "--control-plane"),
            (&["--cluster", "eu", "--control-plane", "http://x:8091"], "expected https://HOST:PORT"),
            (&["--cluster", "eu", "--control-plane", "https://x:1/a b"], "expected https://HOST:PORT"),
            (&["--cluster", "Not One", "--control-plane", "https://x:1"], "--cluster"),
            (&["--cluster", "eu", "--control-plane", "https://x:1", "--namespace", "A_b"], "--namespace"),
        ] {
            let error = read(words).unwrap_err().to_string();
            assert!(error.contains(named), "{words:?}: {error}");
        }
    }
}
