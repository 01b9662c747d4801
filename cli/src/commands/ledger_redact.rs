//! `mindos ledger redact`: payloads leave the disk.

use clap::Args;
use mindos_proto::ledger::v1 as ledger;

use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos ledger redact --actor alice --reason \"request 17\" --dry-run
  mindos ledger redact --actor alice --reason \"request 17\"
  mindos ledger redact 1201 1377 --reason \"a secret in the text\"

The payload of each event goes, with the outputs and checkpoints of its deliveries, its replays and the blobs that it names. What the record
itself says, such as actor, subject and repository, is covered by the chain and stays. Backups and files exported before still hold
everything: destroy them.";

#[derive(Debug, Args)]
pub(crate) struct RedactArgs {
    /// Sequences of events.
    #[arg(value_name = "SEQ", conflicts_with_all = ["actor", "subject", "repository", "source"])]
    events: Vec<u64>,
    /// Events that were this one's doing.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Events about this.
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Events of this repository.
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Events from this source.
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// Why, for the ledger; not the person's name, which would stay there.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn redact(args: RedactArgs, global: &Global) -> Result<(), Failure> {
    let RedactArgs { events, actor, subject, repository, source, reason, dry_run } = args;
    let by_name = [&actor, &subject, &repository, &source].into_iter().any(Option::is_some);
    if events.is_empty() && !by_name {
        return Err(Failure::usage("expected sequences of events, or --actor, --subject, --repository or --source"));
    }
    let client = Client::connect(global).await?;
    let filter = by_name.then(|| ledger::RedactFilter {
        actor: actor.unwrap_or_default(),
        subject: subject.unwrap_or_default(),
        repository: repository.unwrap_or_default(),
        source: source.unwrap_or_default(),
    });
    let request = ledger::RedactRequest { event_seqs: events, filter, reason, dry_run };
    let answer = client.ledger().redact(request).await.map_err(client.failed())?.into_inner();
    if global.output.is_json() {
        render::print_json(&render::json(&answer));
        return Ok(());
    }
    let ledger::RedactResponse { event_seqs, more, record_seqs } = &answer;
    let (first, last) = (event_seqs.first().copied().unwrap_or(0), event_seqs.last().copied().unwrap_or(0));
    let what = if record_seqs.is_empty() { "would be redacted" } else { "redacted" };
    render::print(&format!("{} event(s) {what}, {first} to {last}", event_seqs.len()));
    if *more {
        render::print("there are more: run it again");
    }
    Ok(())
}
