//! `mindos authority`: the keys that sign certificates of agents, and checkpoints of the ledger.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mindos_proto::access::v1::{
    AuthorityPart, GetAuthorityRequest, GetAuthorityResponse, RetireAuthorityRequest, RotateAuthorityRequest,
};
use serde_json::{Value, json};

use super::agents::hex;
use super::contexts::done;
use super::words::at;
use super::write_once::write_whole;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos authority show
  mindos authority show --pem > ca.pem
  mindos authority rotate certificates
  mindos authority retire
  mindos authority rotate ledger";
const ROTATE_EXAMPLES: &str = "\
Examples:
  mindos authority rotate certificates
  mindos authority rotate ledger

The key before stays trusted: a root of certificates until it is retired, a key of the ledger for what it has signed.";
const RETIRE_EXAMPLES: &str = "\
Examples:
  mindos authority retire
  mindos authority retire --force       its key is known to others

Agents whose certificates it signed have to join again, so that it is refused within 25 h of the rotation unless forced.";

#[derive(Debug, Subcommand)]
pub(crate) enum AuthorityCommand {
    /// Show the roots of certificates and the keys of the ledger.
    #[command(after_help = "Examples:\n  mindos authority show\n  mindos authority show --pem > ca.pem")]
    Show(ShowArgs),
    /// Take a new key into use.
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate(RotateArgs),
    /// Trust the former root of certificates no more.
    #[command(after_help = RETIRE_EXAMPLES)]
    Retire(RetireArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Print the roots of certificates as PEM, for --ca.
    #[arg(long)]
    pem: bool,
    /// Write the PEM into this file instead, for its owner alone.
    #[arg(long, requires = "pem", value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// What the key signs.
    #[arg(value_enum)]
    what: Part,
}

#[derive(Debug, Args)]
pub(crate) struct RetireArgs {
    /// Also within 25 h of the rotation.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    /// Certificates of agents and of the server.
    Certificates,
    /// Checkpoints of the ledger.
    Ledger,
}

pub(crate) async fn run(command: AuthorityCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    let (mut authority, failed) = (client.authority(), client.failed());
    match command {
        AuthorityCommand::Show(ShowArgs { pem, out }) => {
            let answer = authority.get_authority(GetAuthorityRequest {}).await.map_err(&failed)?.into_inner();
            if pem {
                if answer.roots.is_empty() {
                    return Err(Failure::not_found("there is no root: the built-in authority is not in use"));
                }
                let roots: Vec<String> = answer.roots.iter().map(|root| self::pem(&root.certificate)).collect();
                match out {
                    Some(path) => write_whole(&path, &roots.join("\n"))?,
                    None => render::print(roots.join("\n").as_str()),
                }
            } else {
                show(&answer, global);
            }
        }
        AuthorityCommand::Rotate(RotateArgs { what }) => {
            let (part, word) = match what {
                Part::Certificates => (AuthorityPart::Certificates, "certificates"),
                Part::Ledger => (AuthorityPart::Ledger, "the ledger"),
            };
            let request = RotateAuthorityRequest { part: part.into() };
            let answer = authority.rotate_authority(request).await.map_err(&failed)?.into_inner();
            let former =
                if answer.former_id.is_empty() { String::new() } else { format!(" in place of {}", answer.former_id) };
            let value = json!({ "id": answer.id, "former_id": answer.former_id, "seq": answer.seq });
            done(global, &value, &format!("key {} signs {word}{former}", answer.id));
        }
        AuthorityCommand::Retire(RetireArgs { force }) => {
            let request = RetireAuthorityRequest { force };
            let answer = authority.retire_authority(request).await.map_err(&failed)?.into_inner();
            let value = json!({ "id": answer.id, "seq": answer.seq });
            done(global, &value, &format!("root {} is not trusted any more", answer.id));
        }
    }
    Ok(())
}

fn show(answer: &GetAuthorityResponse, global: &Global) {
    let GetAuthorityResponse { trust_domain, issues_to_agents, roots, server_certificate_expires_at, ledger_keys } =
        answer;
    if global.output.is_json() {
        let roots: Vec<Value> = roots
            .iter()
            .map(|root| {
                json!({
                    "id": root.id,
                    "certificate": pem(&root.certificate),
                    "since": at(root.since.as_ref()),
                    "former": root.former,
                })
            })
            .collect();
        let keys = ledger_keys.iter();
        let keys =
            keys.map(|key| json!({ "id": key.id, "public_key": hex(&key.public_key), "since_seq": key.since_seq }));
        return render::print_json(&json!({
            "trust_domain": trust_domain,
            "issues_to_agents": issues_to_agents,
            "server_certificate_expires_at": at(server_certificate_expires_at.as_ref()),
            "roots": roots,
            "ledger_keys": keys.collect::<Vec<_>>(),
        }));
    }
    let mut table = Table::new(&["id", "signs", "since", "state"]);
    for root in roots {
        let state = if root.former { "former, still trusted" } else { "in use" };
        table.row(vec![root.id.clone(), "certificates".to_owned(), at(root.since.as_ref()), state.to_owned()]);
    }
    let last = ledger_keys.len().saturating_sub(1);
    for (index, key) in ledger_keys.iter().enumerate() {
        let state = if index == last { "in use" } else { "former" };
        let since = format!("record {}", key.since_seq);
        table.row(vec![key.id.clone(), "the ledger".to_owned(), since, state.to_owned()]);
    }
    render::print(&table.text());
    if !trust_domain.is_empty() {
        render::print(&format!("trust domain {trust_domain}"));
    }
    let expires = at(server_certificate_expires_at.as_ref());
    if !expires.is_empty() {
        render::print(&format!("the server's own certificate ends {expires}"));
    }
}

/// A certificate as PEM (RFC 7468).
pub(super) fn pem(der: &[u8]) -> String {
    let text = mindos_sdk::base64(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_can_be_trusted_as_it_is_printed() {
        let printed = pem(&[0xfb; 100]);
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!((lines.len(), lines[1].len()), (5, 64));
        assert!(lines[3].ends_with("=="), "{printed}");
    }
}
