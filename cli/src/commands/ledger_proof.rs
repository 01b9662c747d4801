//! What proves the ledger: files that are verified with a public key alone, checkpoints, keys.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;
use mindos_control_plane::ledger::checkpoints::Line;
use mindos_control_plane::ledger::keys::AUTHORITY_DIR;
use mindos_journal::export::{Anchor, Report, VerifyOptions, verify};
use mindos_journal::keyring::Keyring;
use mindos_journal::signing::{PublicKey, hex};
use mindos_model::{Seq, Timestamp};
use mindos_proto::ledger::v1 as ledger;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Progress};

/// The longest line of an anchor's file, and the longest file of a key.
const LINE_MAX: u64 = 64 << 10;

pub(super) const CHECKPOINTS_EXAMPLES: &str = "\
Examples:
  mindos ledger checkpoints
  mindos ledger checkpoints --limit 1 --output json";
pub(super) const KEY_EXAMPLES: &str = "\
Examples:
  mindos ledger key
  mindos ledger key --output json";

#[derive(Debug, Args)]
pub(crate) struct CheckpointsArgs {
    /// How many at most, 1 to 1000.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// Read this data directory instead of asking a control plane.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Verifies an exported file.
pub(super) fn verify_file(
    path: &Path,
    keys: &[String],
    anchors: Option<&Path>,
    through: Option<Seq>,
    threads: usize,
    global: &Global,
) -> Result<(), Failure> {
    if keys.is_empty() {
        return Err(Failure::usage("--key is needed to verify a file").hint("`mindos ledger key` prints it"));
    }
    let keys = keys.iter().map(|text| public_key(text)).collect::<Result<_, _>>()?;
    let anchors = anchors.map(read_anchors).transpose()?.unwrap_or_default();
    let file = File::open(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    let options = VerifyOptions { keys, anchors, through, threads };
    let mut progress = Progress::new();
    let reader = BufReader::with_capacity(1 << 20, file);
    let report = verify(reader, &options, |records| progress.show(&format!("{records} records checked")));
    progress.clear();
    let report = report.map_err(|error| Failure::world(format!("cannot read {}: {error}", path.display())))?;
    if global.output.is_json() {
        render::print_json(&to_json(&report));
    } else {
        render::print(&to_text(&report));
    }
    match report.fault {
        None => Ok(()),
        Some(fault) => Err(Failure::verification(format!("the ledger in {} does not verify: {fault}", path.display()))),
    }
}

fn to_json(report: &Report) -> Value {
    let fault = report
        .fault
        .as_ref()
        .map(|fault| json!({"seq": fault.seq.0, "offset": fault.offset, "message": fault.wrong.to_string()}));
    json!({
        "verified": report.fault.is_none(),
        "journal": hex(&report.log_id),
        "made_at": report.made.to_string(),
        "from_seq": report.first.0,
        "through_seq": report.last.0,
        "records": report.records,
        "link": hex(&report.link),
        "signed_through_seq": report.signed_through.0,
        "checkpoints": report.checkpoints,
        "checkpoints_by_others": report.by_others,
        "keys": report.keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "anchors": report.anchors,
        "redacted": report.redacted,
        "payloads_left_out": report.left_out,
        "leaves_only": report.leaf_only,
        "fault": fault,
    })
}

fn to_text(report: &Report) -> String {
    let mut text = format!(
        "journal {}: {} records verified, {} to {}\nlink {}\nsigned through {} by {} checkpoint(s), {} by keys that are not trusted",
        hex(&report.log_id),
        report.records,
        report.first,
        report.last,
        hex(&report.link),
        report.signed_through,
        report.checkpoints,
        report.by_others,
    );
    for key in &report.keys {
        text.push_str(&format!("\ntrusted {key}"));
    }
    let counts = [
        (report.anchors, "anchored checkpoint(s) agree"),
        (report.redacted, "payload(s) were redacted"),
        (report.left_out, "payload(s) were left out"),
        (report.leaf_only, "record(s) of others, as leaves alone"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!("\n{count} {what}"));
    }
    text
}

/// A key as it was given, or in the file that was named.
fn public_key(text: &str) -> Result<PublicKey, Failure> {
    let refused = |error: mindos_journal::signing::NoPublicKey| Failure::usage(format!("--key: {error}"));
    let path = Path::new(text);
    if !path.is_file() {
        return text.parse().map_err(refused);
    }
    let unread = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut line = String::new();
    let file = std::io::Read::take(File::open(path).map_err(unread)?, LINE_MAX);
    BufReader::new(file).read_line(&mut line).map_err(unread)?;
    line.parse().map_err(refused)
}

fn read_anchors(path: &Path) -> Result<Vec<Anchor>, Failure> {
    let unread = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut reader = BufReader::new(File::open(path).map_err(unread)?);
    let (mut anchors, mut line) = (Vec::new(), String::new());
    for number in 1.. {
        line.clear();
        if std::io::Read::take(&mut reader, LINE_MAX).read_line(&mut line).map_err(unread)? == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        let anchor = serde_json::from_str::<Line>(&line).ok().and_then(|line| line.anchor());
        let refused = || Failure::usage(format!("--anchors: line {number} of {} is no checkpoint", path.display()));
        anchors.push(anchor.ok_or_else(refused)?);
    }
    Ok(anchors)
}

pub(super) async fn checkpoints(args: CheckpointsArgs, global: &Global) -> Result<(), Failure> {
    let CheckpointsArgs { limit } = args;
    let client = Client::connect(global).await?;
    let request = ledger::ListCheckpointsRequest { page_size: limit, page_token: String::new() };
    let answer = client.ledger().list_checkpoints(request).await.map_err(client.failed())?.into_inner();
    if global.output.is_json() {
        render::print_json(&render::json(&answer));
        return Ok(());
    }
    for ledger::Checkpoint { through_seq, link, key, at_ms, .. } in &answer.checkpoints {
        let at = Timestamp(*at_ms);
        render::print(&format!("{through_seq:>10}  {at}  key {}  link {}", hex(key), hex(link)));
    }
    Ok(())
}

pub(super) async fn key(args: KeyArgs, global: &Global) -> Result<(), Failure> {
    let keys: Vec<(String, u64)> = match args.data_dir {
        Some(directory) => {
            let (reader, _) = mindos_journal::Reader::offline(super::ledger::open(&directory)?)
                .map_err(super::journal::journal_failure)?;
            let ring = Keyring::existing(&directory.join(AUTHORITY_DIR), reader.log_id());
            let ring = ring.map_err(|error| Failure::world(error.to_string()))?;
            let ring = ring.ok_or_else(|| Failure::not_found(format!("no key in {}", directory.display())))?;
            ring.known().iter().map(|known| (known.public.to_string(), known.since.0)).collect()
        }
        None => {
            let client = Client::connect(global).await?;
            let answer = client.ledger().list_keys(ledger::ListKeysRequest {}).await.map_err(client.failed())?;
            answer.into_inner().keys.into_iter().map(|key| (key.text, key.since_seq)).collect()
        }
    };
    if global.output.is_json() {
        let keys: Vec<Value> = keys.iter().map(|(key, since)| json!({"key": key, "since_seq": since})).collect();
        render::print_json(&json!({"keys": keys}));
        return Ok(());
    }
    keys.iter().for_each(|(key, _)| render::print(key));
    Ok(())
}
