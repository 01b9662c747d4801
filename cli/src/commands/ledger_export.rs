//! `mindos ledger export --out`: the ledger as a file that is verified elsewhere.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use mindos_control_plane::ledger::keys::AUTHORITY_DIR;
use mindos_journal::export::{ExportWriter, Flags, Head, Shown};
use mindos_journal::keyring::Keyring;
use mindos_journal::{Ledger, Reader};
use mindos_model::{Seq, Timestamp};
use mindos_proto::ledger::v1 as ledger;

use super::journal::journal_failure;
use super::watch::Redial;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Progress};

/// How often a broken export is taken up again without a record in between.
const BREAKS_MAX: u32 = 20;
/// How much of an offline export is gathered before it is written.
const CHUNK_BYTES: usize = 1 << 20;

/// Writes the file under another name until it is whole.
pub(super) async fn export(
    out: &Path,
    request: ledger::ExportRequest,
    data_dir: Option<&Path>,
    global: &Global,
) -> Result<(), Failure> {
    let mut unfinished = out.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let failed = |error: std::io::Error| Failure::world(format!("cannot write {}: {error}", unfinished.display()));
    let mut file = File::create(&unfinished).map_err(failed)?;
    let (first, last) = match data_dir {
        Some(directory) => offline(&mut file, &request, directory)?,
        None => online(&mut file, request, global).await?,
    };
    file.sync_all().map_err(failed)?;
    std::fs::rename(&unfinished, out)
        .map_err(|error| Failure::world(format!("cannot name {}: {error}", out.display())))?;
    if global.output.is_json() {
        let file = out.display().to_string();
        render::print_json(&serde_json::json!({"file": file, "from_seq": first, "through_seq": last}));
    } else {
        render::say(&format!("records {first} to {last} written to {}", out.display()));
    }
    Ok(())
}

/// Has the control plane send the file, and goes on where a break left off.
async fn online(file: &mut File, mut request: ledger::ExportRequest, global: &Global) -> Result<(u64, u64), Failure> {
    let client = Client::connect(global).await?;
    let mut progress = Progress::new();
    let (mut first, mut breaks) = (request.from_seq, 0);
    let mut redial = Redial::new();
    loop {
        if request.after_seq == 0 {
            file.set_len(0)?;
            std::io::Seek::rewind(file)?;
        }
        let mut stream = match client.ledger().export(request).await {
            Ok(answer) => answer.into_inner(),
            // Only what broke is opened again.
            Err(status) if Client::is_passing(&status) && (1..BREAKS_MAX).contains(&breaks) => {
                breaks += 1;
                redial.wait().await;
                continue;
            }
            Err(status) => return Err(client.failed()(status)),
        };
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    file.write_all(&message.chunk)?;
                    breaks = 0;
                    redial.reset();
                    if request.from_seq == 0
                        && let Some(head) = message.chunk.get(36..44)
                    {
                        // The place of the first record in the head of the file.
                        first = u64::from_le_bytes(head.try_into().expect("eight bytes"));
                        request.from_seq = first;
                    }
                    request.after_seq = message.seq;
                    request.through_seq = message.through_seq;
                    progress.show(&format!("{} of {} records", message.seq, message.through_seq));
                }
                Ok(None) => {
                    progress.clear();
                    return Ok((first, request.through_seq));
                }
                Err(status) if Client::is_passing(&status) && breaks < BREAKS_MAX => break,
                Err(status) => return Err(client.failed()(status)),
            }
        }
        breaks += 1;
        redial.wait().await;
    }
}

/// Reads a data directory, and signs the end where its key is at hand.
fn offline(file: &mut File, request: &ledger::ExportRequest, directory: &Path) -> Result<(u64, u64), Failure> {
    let ledger::ExportRequest { from_seq, through_seq, without_payloads, .. } = *request;
    let (reader, _) = Reader::offline(super::ledger::open(directory)?).map_err(journal_failure)?;
    let ledger = Ledger::new(reader.clone());
    let from = if from_seq == 0 { reader.first() } else { Seq(from_seq) };
    let through = if through_seq == 0 { reader.end() } else { Seq(through_seq) };
    if from < reader.first() || from > through || through > reader.end() {
        let (first, end) = (reader.first(), reader.end());
        return Err(Failure::usage(format!(
            "--from {from} --through {through}: expected records from {first} to {end}"
        )));
    }
    let keys = Keyring::existing(&directory.join(AUTHORITY_DIR), reader.log_id());
    let keys = keys.map_err(|error| Failure::world(error.to_string()))?;
    let made = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let head = Head {
        log_id: reader.log_id(),
        first: from,
        previous: ledger.link_at(Seq(from.0 - 1)).map_err(journal_failure)?,
        made: Timestamp(u64::try_from(made.as_millis()).unwrap_or(0)),
        flags: Flags { without_payloads, tenant_only: false },
        keys: keys.as_ref().map(|keys| keys.known().to_vec()).unwrap_or_default(),
    };
    let mut writer = ExportWriter::new(&head);
    let mut out = BufWriter::new(file);
    let mut cursor = reader.cursor(from).map_err(journal_failure)?;
    let shown = if without_payloads { Shown::WithoutPayload } else { Shown::Whole };
    while writer.next() <= through {
        let Some(batch) = cursor.next_batch().map_err(journal_failure)? else { break };
        for entry in batch.entries() {
            let entry = entry.map_err(journal_failure)?;
            if entry.seq > through {
                break;
            }
            writer.push(&entry, shown);
        }
        if writer.len() >= CHUNK_BYTES {
            out.write_all(&writer.take())?;
        }
    }
    let signed = keys.map(|keys| keys.checkpoint(through, writer.link()));
    if signed.is_none() {
        render::say(&format!("no key of the ledger in {}: the end of the file is not signed", directory.display()));
    }
    out.write_all(&writer.finish(signed))?;
    out.flush()?;
    Ok((from.0, through.0))
}
