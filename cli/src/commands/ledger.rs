//! `mindos ledger`: the record of every decision, and whether it is as it was written.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mindos_journal::{Reader, RealDisk, verify_directory};
use mindos_model::{Seq, Timestamp};
use mindos_proto::journal::v1::Entry;
use mindos_proto::ledger::v1::{self as ledger, LedgerEntry};
use prost::Message;
use serde_json::{Value, json};

use super::journal::journal_directory;
use super::ledger_proof::{CheckpointsArgs, KeyArgs};
use super::ledger_redact::RedactArgs;
use super::watch::Redial;
use super::{ledger_export, ledger_proof, ledger_redact};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Progress, clip};
use crate::site::Site;
use crate::top::read_metrics;
use crate::web::Web;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos ledger tail --follow
  mindos ledger tail --kind delivery_settled,result_refused --from 1
  mindos ledger verify
  mindos ledger verify --data-dir ./data      (offline, by nothing but the files)
  mindos ledger export ledger.jsonl
  mindos ledger export --out today.mindos-ledger
  mindos ledger verify today.mindos-ledger --key mindos-ledger-ed25519:..
  mindos ledger redact --actor alice --reason \"request 17\"";
const TAIL_EXAMPLES: &str = "\
Examples:
  mindos ledger tail
  mindos ledger tail --from 1000 --limit 50 --output json
  mindos ledger tail --follow --kind delivery_parked";
const VERIFY_EXAMPLES: &str = "\
Examples:
  mindos ledger verify
  mindos ledger verify --from 1000 --through 2000
  mindos ledger verify --data-dir ./data --output json
  mindos ledger verify today.mindos-ledger --key ledger.pub --anchors checkpoints.jsonl

A file is verified with nothing but the public key, which `mindos ledger key` prints: that every record is there, in its place and as it
was written, and that a key's signature covers all of them. With anchors a cut end is seen too.
Ends with exit code 5 when something is not as it was written, and names record, file and offset.";
const EXPORT_EXAMPLES: &str = "\
Examples:
  mindos ledger export ledger.jsonl
  mindos ledger export --payload | jq 'select(.kind == \"event_accepted\")'
  mindos ledger export --data-dir ./data ledger.jsonl
  mindos ledger export --out today.mindos-ledger
  mindos ledger export --out part.mindos-ledger --from 1000 --through 2000 --without-payloads

With --out it is a file that `mindos ledger verify` checks on another machine; else it is JSON, one record a line.";

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Show records, and follow them as they become durable.
    #[command(after_help = TAIL_EXAMPLES)]
    Tail(TailArgs),
    /// Check every checksum, leaf and link of the chain.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Write records as a file that can be verified elsewhere, or as JSON.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// List signed checkpoints, the newest first.
    #[command(after_help = ledger_proof::CHECKPOINTS_EXAMPLES)]
    Checkpoints(CheckpointsArgs),
    /// Print the public keys of the ledger, the oldest first; the last one signs.
    #[command(after_help = ledger_proof::KEY_EXAMPLES)]
    Key(KeyArgs),
    /// Have payloads leave the disk; their records and the chain stay.
    #[command(after_help = ledger_redact::EXAMPLES)]
    Redact(RedactArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Sequence of the first record; unset shows the last ones.
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Go on with records as they come.
    #[arg(long, short)]
    follow: bool,
    /// Kinds of records, such as `delivery_settled`; several with commas.
    #[arg(long = "kind", value_delimiter = ',', value_name = "KIND")]
    kinds: Vec<String>,
    /// How many at most; 0 has no limit. Without --from, how many of the last ones.
    #[arg(long, default_value_t = 20)]
    limit: u64,
    /// With the payloads of events (JSON output only).
    #[arg(long)]
    payload: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A file of `mindos ledger export --out`; unset checks a control plane.
    #[arg(value_name = "FILE", conflicts_with_all = ["data_dir", "from"])]
    file: Option<PathBuf>,
    /// Public key that is trusted, or a file that holds it; may be given several times.
    #[arg(long = "key", value_name = "KEY", requires = "file")]
    keys: Vec<String>,
    /// What an anchor noted: checkpoints, one line of JSON each.
    #[arg(long, value_name = "FILE", requires = "file")]
    anchors: Option<PathBuf>,
    /// Threads that hash; 0 for one a core.
    #[arg(long, default_value_t = 0, value_name = "COUNT", requires = "file")]
    threads: usize,
    /// First record to check; 0 means the first one kept.
    #[arg(long, default_value_t = 0, value_name = "SEQ")]
    from: u64,
    /// Last record to check; 0 means the last one.
    #[arg(long, default_value_t = 0, value_name = "SEQ")]
    through: u64,
    /// Check this data directory instead of asking a control plane.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// File to write JSON to; unset writes to standard output.
    #[arg(value_name = "FILE", conflicts_with = "out")]
    file: Option<PathBuf>,
    /// File to write that `mindos ledger verify` checks elsewhere.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Sequence of the last record; 0 means the last one.
    #[arg(long, default_value_t = 0, value_name = "SEQ", requires = "out")]
    through: u64,
    /// Of other tenants' records only the leaves.
    #[arg(long, requires = "out", conflicts_with = "data_dir")]
    tenant_only: bool,
    /// Of payloads only the digests.
    #[arg(long, requires = "out")]
    without_payloads: bool,
    /// Sequence of the first record; 0 means the first one kept.
    #[arg(long, default_value_t = 0, value_name = "SEQ")]
    from: u64,
    /// With the payloads of events.
    #[arg(long)]
    payload: bool,
    /// Read this data directory instead of asking a control plane.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(crate) async fn run(command: LedgerCommand, global: &Global) -> Result<(), Failure> {
    match command {
        LedgerCommand::Tail(args) => tail(args, global).await,
        LedgerCommand::Verify(args) => verify(args, global).await,
        LedgerCommand::Export(args) => export(args, global).await,
        LedgerCommand::Checkpoints(args) => ledger_proof::checkpoints(args, global).await,
        LedgerCommand::Key(args) => ledger_proof::key(args, global).await,
        LedgerCommand::Redact(args) => ledger_redact::redact(args, global).await,
    }
}

async fn tail(args: TailArgs, global: &Global) -> Result<(), Failure> {
    let TailArgs { from, follow, kinds, limit, payload } = args;
    let site = Site::of(global).await?;
    let client = Client::dial(&site).await?;
    let mut limit_left = limit;
    let mut from_seq = match from {
        Some(from) => from,
        None if limit == 0 => 0,
        None => {
            let end = last_seq(&site).await?;
            if follow && limit > 0 {
                limit_left = 0;
            }
            (end + 1).saturating_sub(limit).max(1)
        }
    };
    let (mut redial, mut opened) = (Redial::new(), false);
    loop {
        let request =
            ledger::TailRequest { from_seq, follow, kinds: kinds.clone(), limit: limit_left, include_payload: payload };
        let mut stream = match client.ledger().tail(request).await {
            Ok(answer) => answer.into_inner(),
            // Only what broke with a place to go on from is opened again.
            Err(status) if opened && Client::is_passing(&status) => {
                redial.wait().await;
                continue;
            }
            Err(status) => return Err(client.failed()(status)),
        };
        opened = true;
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(status) if follow && Client::is_passing(&status) && from_seq > 0 => break,
                Err(status) => return Err(client.failed()(status)),
            };
            redial.reset();
            if message.seq > 0 {
                from_seq = message.seq + 1;
            }
            for entry in &message.entries {
                print_entry(entry, global);
                if render::is_closed() {
                    return Ok(());
                }
                if limit_left > 0 {
                    limit_left -= 1;
                    if limit_left == 0 {
                        return Ok(());
                    }
                }
            }
        }
        redial.wait().await;
    }
}

/// Where the end is, as far as the server's metrics say.
async fn last_seq(site: &Site) -> Result<u64, Failure> {
    let (_, body) = Web::new(site)?.get("/metrics").await?;
    let metrics = read_metrics(&String::from_utf8_lossy(&body));
    Ok(metrics.get("mindos_journal_durable_seq").copied().unwrap_or(0.0) as u64)
}

fn print_entry(entry: &LedgerEntry, global: &Global) {
    if global.output.is_json() {
        return render::print_json_line(&render::json(entry));
    }
    let value = entry.entry.as_ref().map(render::json).unwrap_or_default();
    let at = Timestamp(entry.at_ms);
    let facts = summary(&value[&entry.kind]);
    render::print(&format!("{:>10}  {at}  {:<20}  {}", entry.seq, entry.kind, clip(&facts, 160)));
}

/// The fields of a record in one line.
fn summary(value: &Value) -> String {
    let mut parts = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => parts.push(format!("{name}={}", clip(text, 60))),
            Value::Number(number) if number.as_u64() == Some(0) => {}
            Value::Bool(false) | Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            Value::Object(fields) if fields.is_empty() => {}
            Value::Object(fields) if fields.contains_key("cluster") && fields.contains_key("name") => {
                let word = |key: &str| fields[key].as_str().unwrap_or_default();
                parts.push(format!("{name}={}/{}", word("cluster"), word("name")));
            }
            other => parts.push(format!("{name}={}", clip(&other.to_string(), 60))),
        }
    }
    parts.join(" ")
}

async fn verify(args: VerifyArgs, global: &Global) -> Result<(), Failure> {
    let VerifyArgs { file, keys, anchors, threads, from, through, data_dir } = args;
    if let Some(file) = file {
        let through = (through > 0).then_some(Seq(through));
        return ledger_proof::verify_file(&file, &keys, anchors.as_deref(), through, threads, global);
    }
    match data_dir {
        Some(directory) => verify_offline(&directory, from, through, global),
        None => {
            let client = Client::connect(global).await?;
            let verdict = verify_online(&client, from, through).await?;
            if global.output.is_json() {
                render::print_json(&verdict.to_json());
            } else {
                render::print(&verdict.to_text());
            }
            verdict.into_result()
        }
    }
}

/// What a check found.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) records: u64,
    pub(crate) through: u64,
    pub(crate) link: String,
    /// Record, file, offset and what is wrong.
    pub(crate) damage: Option<(u64, String, u64, String)>,
}

impl Verdict {
    pub(crate) fn to_json(&self) -> Value {
        let damage = self.damage.as_ref().map(
            |(seq, file, offset, message)| json!({"seq": seq, "file": file, "offset": offset, "message": message}),
        );
        json!({
            "verified": self.damage.is_none(),
            "records": self.records,
            "through_seq": self.through,
            "link": self.link,
            "damage": damage,
        })
    }

    fn to_text(&self) -> String {
        match &self.damage {
            None => format!("{} records verified through {}, link {}", self.records, self.through, self.link),
            Some((seq, file, offset, message)) => format!(
                "damaged at record {seq}, file {file}, offset {offset}: {message}\n{} records are good, through {}",
                self.records, self.through
            ),
        }
    }

    fn into_result(self) -> Result<(), Failure> {
        match self.damage {
            None => Ok(()),
            Some((seq, file, offset, message)) => Err(Failure::verification(format!(
                "the ledger is damaged at record {seq}, file {file}, offset {offset}: {message}"
            ))
            .hint("restore a backup, or look further with `mindos journal inspect`")),
        }
    }
}

/// Has the control plane check its ledger.
pub(crate) async fn verify_online(client: &Client, from: u64, through: u64) -> Result<Verdict, Failure> {
    let request = ledger::VerifyRequest { from_seq: from, through_seq: through };
    let mut stream = client.ledger().verify(request).await.map_err(client.failed())?.into_inner();
    let mut progress = Progress::new();
    let mut last = None;
    while let Some(message) = stream.message().await.map_err(client.failed())? {
        progress.show(&format!("{} records checked", message.checked));
        last = Some(message);
    }
    progress.clear();
    let Some(last) = last.filter(|message| message.done) else {
        return Err(Failure::world("the check broke off before its verdict"));
    };
    Ok(Verdict {
        records: last.checked,
        through: last.through_seq,
        link: render::json(&last)["link"].as_str().unwrap_or_default().to_owned(),
        damage: last.damage.map(|damage| (damage.seq, damage.file, damage.offset, damage.message)),
    })
}

fn verify_offline(directory: &Path, from: u64, through: u64, global: &Global) -> Result<(), Failure> {
    let disk = open(directory)?;
    let verified = if from == 0 && through == 0 {
        verify_directory(&disk)
    } else {
        let through = if through == 0 { Seq(u64::MAX) } else { Seq(through) };
        Reader::offline(disk).and_then(|(reader, _)| reader.verify(Seq(from.max(1)), through))
    };
    let verified = verified.map_err(super::journal::journal_failure)?;
    let verdict = Verdict {
        records: verified.records,
        through: verified.last.0,
        link: verified.link.clone(),
        damage: verified
            .broken
            .as_ref()
            .map(|damage| (damage.seq.0, damage.file.clone(), damage.offset, damage.fault.to_string())),
    };
    if global.output.is_json() {
        let mut value = verdict.to_json();
        value["segments"] = json!(verified.segments);
        value["batches"] = json!(verified.batches);
        value["torn_at"] =
            json!(verified.torn_at.as_ref().map(|(file, offset)| json!({"file": file, "offset": offset})));
        render::print_json(&value);
    } else {
        render::print(&verdict.to_text());
        if let Some((file, offset)) = &verified.torn_at {
            render::print(&format!(
                "a batch at the end was never whole ({file}, offset {offset}): the next start cuts it"
            ));
        }
    }
    verdict.into_result()
}

pub(super) fn open(directory: &Path) -> Result<RealDisk, Failure> {
    let journal = journal_directory(directory)?;
    RealDisk::existing(&journal).map_err(|error| Failure::world(format!("cannot open {}: {error}", journal.display())))
}

async fn export(args: ExportArgs, global: &Global) -> Result<(), Failure> {
    let ExportArgs { file, out, through, tenant_only, without_payloads, from, payload, data_dir } = args;
    if let Some(out) = out {
        if payload {
            return Err(Failure::usage(
                "--payload is for JSON: a file has payloads unless --without-payloads is given",
            ));
        }
        let request =
            ledger::ExportRequest { from_seq: from, through_seq: through, tenant_only, without_payloads, after_seq: 0 };
        return ledger_export::export(&out, request, data_dir.as_deref(), global).await;
    }
    let mut out = match &file {
        None => None,
        Some(path) => Some(std::io::BufWriter::new(
            std::fs::File::create(path)
                .map_err(|error| Failure::world(format!("cannot write {}: {error}", path.display())))?,
        )),
    };
    let mut progress = Progress::new();
    let mut count = 0_u64;
    // Says whether more is wanted.
    let mut write = |value: &Value| -> Result<bool, Failure> {
        count += 1;
        if count.is_multiple_of(10_000) {
            progress.show(&format!("{count} records"));
        }
        match &mut out {
            None => render::print_json_line(value),
            Some(file) => writeln!(file, "{value}")?,
        }
        Ok(!render::is_closed())
    };
    match data_dir {
        Some(directory) => {
            let (reader, _) = Reader::offline(open(&directory)?).map_err(super::journal::journal_failure)?;
            let from = Seq(from.max(reader.first().0));
            let mut cursor = reader.cursor(from).map_err(super::journal::journal_failure)?;
            while let Some(batch) = cursor.next_batch().map_err(super::journal::journal_failure)? {
                for entry in batch.entries() {
                    let entry = entry.map_err(super::journal::journal_failure)?;
                    if entry.seq >= from && !write(&offline_entry(&entry, payload))? {
                        return Ok(());
                    }
                }
            }
        }
        None => {
            let client = Client::connect(global).await?;
            let request = ledger::TailRequest { from_seq: from, include_payload: payload, ..Default::default() };
            let mut stream = client.ledger().tail(request).await.map_err(client.failed())?.into_inner();
            while let Some(message) = stream.message().await.map_err(client.failed())? {
                for entry in &message.entries {
                    if !write(&render::json(entry))? {
                        return Ok(());
                    }
                }
            }
        }
    }
    if let Some(file) = &mut out {
        file.flush()?;
    }
    drop(progress);
    if let Some(path) = file {
        render::say(&format!("{count} records written to {}", path.display()));
    }
    Ok(())
}

fn offline_entry(entry: &mindos_journal::Entry<'_>, with_payload: bool) -> Value {
    let decoded = Entry::decode(entry.metadata).ok();
    let record = decoded.as_ref().map(render::json).unwrap_or_default();
    let kind = record.as_object().into_iter().flatten().find(|(_, value)| value.is_object());
    let kind = kind.map(|(name, _)| name.clone()).unwrap_or_default();
    let mut value = json!({
        "seq": entry.seq.0,
        "at_ms": decoded.as_ref().map_or(0, |entry| entry.at_ms),
        "kind": kind,
        "entry": record,
        "leaf": mindos_journal::chain::hex(&entry.leaf()),
    });
    if with_payload && let Some(payload) = &entry.payload {
        let event = mindos_proto::cloudevents::v1::CloudEvent::decode(payload.bytes);
        value["payload"] = event.map(|event| render::json(&event)).unwrap_or_default();
    }
    value
}
