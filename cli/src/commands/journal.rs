//! `mindos journal`, `backup`, `restore` and `upgrade`: the data directory itself.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mindos_journal::{Disk, JournalError, Reader, RealDisk, inspect, restore, truncate};
use mindos_model::Seq;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table};
use crate::site::Site;
use crate::web::Web;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos journal inspect --data-dir ./data
  mindos journal truncate --data-dir ./data --at 1234";
const INSPECT_EXAMPLES: &str = "\
Examples:
  mindos journal inspect --data-dir ./data
  mindos journal inspect --data-dir ./data --output json";
const TRUNCATE_EXAMPLES: &str = "\
Examples:
  mindos journal truncate --data-dir ./data --at 1234

Everything after record 1234 is given up for good. The control plane must not be running; its next start records the cut.
Make a copy first: mindos backup --data-dir ./data ./backup";
pub(crate) const BACKUP_EXAMPLES: &str = "\
Examples:
  mindos backup --data-dir ./data ./backup-2026-11-20
  mindos backup --data-dir ./data ./backup-2026-11-20 --output json";
pub(crate) const RESTORE_EXAMPLES: &str = "\
Examples:
  mindos restore ./backup-2026-11-20 --data-dir ./data
  mindos restore ./backup-2026-11-20 --data-dir ./data --output json";
pub(crate) const UPGRADE_EXAMPLES: &str = "\
Examples:
  mindos upgrade finalize";
const FINALIZE_EXAMPLES: &str = "\
Examples:
  mindos upgrade finalize

Until then an older release can read the journal again; from then on records of this release may be written.";

#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Show segments, snapshots, damage and marks; changes nothing.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// Give up everything after a record.
    #[command(after_help = TRUNCATE_EXAMPLES)]
    Truncate(TruncateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Data directory of a control plane, or a backup.
    #[arg(long, env = "MINDOS_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct TruncateArgs {
    /// Data directory of a control plane that is not running.
    #[arg(long, env = "MINDOS_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Last record to keep.
    #[arg(long, value_name = "SEQ")]
    at: u64,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Directory to make; must not exist or be empty.
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// Data directory of a control plane, running or not.
    #[arg(long, env = "MINDOS_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Directory that `mindos backup` made.
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// Data directory to make; its journal must not exist or be empty.
    #[arg(long, env = "MINDOS_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// Allow records of this release; afterwards no older release can read the journal.
    #[command(after_help = FINALIZE_EXAMPLES)]
    Finalize,
}

/// The folder of a data directory that holds the journal.
const JOURNAL: &str = "journal";

/// Where the journal stands: below a data directory, or the directory itself, as in a backup.
pub(crate) fn journal_directory(directory: &Path) -> Result<PathBuf, Failure> {
    let below = directory.join(JOURNAL);
    if below.is_dir() {
        return Ok(below);
    }
    if directory.is_dir() {
        return Ok(directory.to_owned());
    }
    Err(Failure::not_found(format!("there is no directory {}", directory.display()))
        .hint("name the one the control plane was started with: --data-dir"))
}

/// What an error of the journal means for the exit code.
pub(crate) fn journal_failure(error: JournalError) -> Failure {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        message = format!("{message}: {inner}");
        source = inner.source();
    }
    match error {
        JournalError::Damaged(_) => {
            Failure::verification(message).hint("restore a backup, or look further with `mindos journal inspect`")
        }
        JournalError::Locked { .. } => Failure::refused(message).hint("stop the control plane first"),
        JournalError::NotEmpty { .. } => Failure::refused(message).hint("name another directory, or empty it"),
        JournalError::Dropped { .. } | JournalError::PastEnd { .. } | JournalError::NoBackup { .. } => {
            Failure::not_found(message)
        }
        _ => Failure::world(message),
    }
}

fn existing(directory: &Path) -> Result<RealDisk, Failure> {
    let journal = journal_directory(directory)?;
    RealDisk::existing(&journal).map_err(|error| Failure::world(format!("cannot open {}: {error}", journal.display())))
}

pub(crate) fn run(command: JournalCommand, global: &Global) -> Result<(), Failure> {
    match command {
        JournalCommand::Inspect(args) => run_inspect(&args, global),
        JournalCommand::Truncate(args) => run_truncate(&args, global),
    }
}

fn run_inspect(args: &InspectArgs, global: &Global) -> Result<(), Failure> {
    let disk = existing(&args.data_dir)?;
    let found = inspect(&disk).map_err(journal_failure)?;
    let damaged = found.segments.iter().find_map(|segment| segment.damage.clone());
    if global.output.is_json() {
        let segments: Vec<Value> = found
            .segments
            .iter()
            .map(|segment| {
                json!({
                    "file": segment.file,
                    "number": segment.number,
                    "first": segment.first.0,
                    "last": segment.last.0,
                    "batches": segment.batches,
                    "used_bytes": segment.used_bytes,
                    "file_bytes": segment.file_bytes,
                    "link": segment.link,
                    "damage": segment.damage.as_ref().map(|damage| {
                        json!({"seq": damage.seq.0, "file": damage.file, "offset": damage.offset, "message": damage.fault.to_string()})
                    }),
                    "torn_bytes": segment.torn_bytes,
                })
            })
            .collect();
        let snapshots: Vec<u64> = found.snapshots.iter().map(|seq| seq.0).collect();
        render::print_json(&json!({
            "directory": disk.path(),
            "segments": segments,
            "snapshots": snapshots,
            "spares": found.spares,
            "bytes": found.bytes,
            "restored": found.marks.restored.map(|mark| json!({"end": mark.end.0, "epoch_min": mark.epoch_min})),
            "truncated": found.marks.truncated.map(|mark| json!({"at": mark.at.0})),
        }));
    } else {
        let mut table = Table::new(&["file", ">first", ">last", ">batches", ">used", ">size", "state"]);
        for segment in &found.segments {
            let state = match (&segment.damage, segment.torn_bytes) {
                (Some(damage), _) => format!("DAMAGED at {}: {}", damage.offset, damage.fault),
                (None, Some(bytes)) => format!("torn tail of {bytes} bytes"),
                (None, None) => "good".to_owned(),
            };
            table.row(vec![
                segment.file.clone(),
                segment.first.to_string(),
                segment.last.to_string(),
                segment.batches.to_string(),
                segment.used_bytes.to_string(),
                segment.file_bytes.to_string(),
                state,
            ]);
        }
        render::print(&table.text());
        let snapshots: Vec<String> = found.snapshots.iter().map(Seq::to_string).collect();
        let snapshots = if snapshots.is_empty() { "none".to_owned() } else { snapshots.join(", ") };
        render::print(&format!("snapshots: {snapshots}; spares: {}; bytes: {}", found.spares, found.bytes));
        if let Some(mark) = found.marks.restored {
            render::print(&format!("restored from a backup through record {}; not started since", mark.end));
        }
        if let Some(mark) = found.marks.truncated {
            render::print(&format!("truncated at record {}; not started since", mark.at));
        }
    }
    match damaged {
        Some(damage) => Err(journal_failure(JournalError::Damaged(Box::new(damage)))),
        None => Ok(()),
    }
}

fn run_truncate(args: &TruncateArgs, global: &Global) -> Result<(), Failure> {
    let disk = existing(&args.data_dir)?;
    let cut = truncate(&disk, Seq(args.at)).map_err(journal_failure)?;
    if global.output.is_json() {
        render::print_json(&json!({"at": cut.at.0, "dropped_through": cut.dropped_through.0}));
    } else {
        render::print(&format!("cut: record {} is the last one; the next start records it", cut.at));
    }
    Ok(())
}

pub(crate) fn backup(args: &BackupArgs, global: &Global) -> Result<(), Failure> {
    let disk = existing(&args.data_dir)?;
    let (reader, _) = Reader::offline(disk).map_err(journal_failure)?;
    let to = RealDisk::new(args.to.join(JOURNAL))
        .map_err(|error| Failure::world(format!("cannot make {}: {error}", args.to.display())))?;
    let report = reader.backup(&to).map_err(journal_failure)?;
    print_report("backed up", &report, &to, global);
    Ok(())
}

pub(crate) fn run_restore(args: &RestoreArgs, global: &Global) -> Result<(), Failure> {
    let from = existing(&args.from)?;
    let to = RealDisk::new(args.data_dir.join(JOURNAL))
        .map_err(|error| Failure::world(format!("cannot make {}: {error}", args.data_dir.display())))?;
    let report = restore(&from, &to).map_err(journal_failure)?;
    print_report("restored", &report, &to, global);
    Ok(())
}

fn print_report(word: &str, report: &mindos_journal::BackupReport, to: &RealDisk, global: &Global) {
    if global.output.is_json() {
        let snapshots: Vec<u64> = report.snapshots.iter().map(|seq| seq.0).collect();
        return render::print_json(&json!({
            "directory": to.path(),
            "first": report.first.0,
            "end": report.end.0,
            "epoch": report.epoch,
            "link": report.link,
            "bytes": report.bytes,
            "segments": report.segments,
            "snapshots": snapshots,
        }));
    }
    render::print(&format!(
        "{word} records {} to {} ({} bytes, {} segments) in {}",
        report.first,
        report.end,
        report.bytes,
        report.segments,
        to.describe("")
    ));
    render::print(&format!("link {}", report.link));
}

/// Steps of an upgrade.
pub(crate) async fn upgrade(command: UpgradeCommand, global: &Global) -> Result<(), Failure> {
    match command {
        UpgradeCommand::Finalize => finalize(global).await,
    }
}

async fn finalize(global: &Global) -> Result<(), Failure> {
    let mut web = Web::new(&Site::of(global).await?)?;
    let version = env!("CARGO_PKG_VERSION");
    let body = json!({"version": version, "by": std::env::var("USER").unwrap_or_default()}).to_string();
    let headers = [("content-type", "application/json".to_owned())];
    let (status, body) = web.post("/upgrade/finalize", &headers, body.into()).await?;
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    match status.as_u16() {
        200..300 if global.output.is_json() => {
            render::print_json(&value);
            Ok(())
        }
        200..300 => {
            render::print(&format!("release {version} is final: no older one can read this journal from here on"));
            Ok(())
        }
        404 => Err(Failure::refused("this control plane is of a release that has nothing to finalize")),
        _ => {
            let message = value["error"]["message"].as_str().unwrap_or(&text).to_owned();
            Err(Failure::refused(message).hint("use the mindos of the control plane's own release"))
        }
    }
}
