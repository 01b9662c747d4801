//! How long it takes to verify an exported ledger, and whether harm done to it is found.
//!
//! `cargo run --release -p mindos-journal --example ledger_verify -- --records 10000000 [--file FILE] [--threads 2]`
//!
//! Seven records for each event, as with a broadcast to three generals; a payload of 400 bytes with each event and of 100 with each
//! result; a checkpoint every 10,000 records; the key rotated half way. Prints one JSON object.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mindos_core::access::{AccessRecord, AuthorityChange, Checkpoint, SigningKey};
use mindos_core::record::*;
use mindos_journal::chain::genesis;
use mindos_journal::encode;
use mindos_journal::export::{ExportWriter, Flags, Head, Report, Shown, VerifyOptions, verify};
use mindos_journal::keyring::Keyring;
use mindos_journal::signing::PublicKey;
use mindos_journal::{Entry as Stored, Payload as StoredPayload};
use mindos_model::{DeliveryId, Priority, Seq, Strategy, TenantName, Timestamp, Token};

const LOG: [u8; 16] = *b"ten million rows";
const CHECKPOINT_RECORDS: u64 = 10_000;
const AT: Timestamp = Timestamp(1_763_600_000_000);

fn main() -> Result<(), Box<dyn Error>> {
    let (mut records, mut path, mut threads) = (1_000_000_u64, None, 0_usize);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--records" => records = value()?.parse()?,
            "--file" => path = Some(PathBuf::from(value()?)),
            "--threads" => threads = value()?.parse()?,
            other => return Err(format!("{other}: expected --records, --file or --threads").into()),
        }
    }
    let records = records.max(1000);
    let folder = std::env::temp_dir().join(format!("mindos-ledger-verify-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let path = path.unwrap_or_else(|| folder.join("ledger.mindos-ledger"));
    let began = Instant::now();
    let mut keys = Keyring::open(&folder.join("authority"), LOG)?;
    let key = keys.current().public;
    make(&path, records, &mut keys)?;
    let make_ms = began.elapsed().as_millis();
    let bytes = std::fs::metadata(&path)?.len();

    let began = Instant::now();
    let report = check(&path, key, threads)?;
    let verify_ms = began.elapsed().as_millis();
    if let Some(fault) = &report.fault {
        return Err(format!("a sound file has a fault: {fault}").into());
    }
    let harms = harms(&path, key, threads)?;
    let _ = std::fs::remove_dir_all(&folder);
    println!(
        "{{\"records\": {}, \"bytes\": {bytes}, \"checkpoints\": {}, \"keys\": {}, \"make_ms\": {make_ms}, \"verify_ms\": {verify_ms}, \"records_per_second\": {}, \"harms\": [{}]}}",
        report.records,
        report.checkpoints,
        report.keys.len(),
        u128::from(report.records) * 1000 / verify_ms.max(1),
        harms.join(", ")
    );
    Ok(())
}

fn check(path: &Path, key: PublicKey, threads: usize) -> Result<Report, Box<dyn Error>> {
    let options = VerifyOptions { keys: vec![key], threads, ..VerifyOptions::default() };
    Ok(verify(BufReader::with_capacity(1 << 20, File::open(path)?), &options, |_| {})?)
}

/// Changes the middle of the file in one way after another, and says where each was found and how long that took.
fn harms(path: &Path, key: PublicKey, threads: usize) -> Result<Vec<String>, Box<dyn Error>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let middle = length / 2;
    let mut window = vec![0; 1 << 20];
    file.read_exact_at(&mut window, middle)?;
    let block = window.windows(4).position(|word| word == b"MDLB").ok_or("no block in the middle")?;
    let first = block + 24;
    let size = |at: usize| {
        let length = |at: usize| u32::from_le_bytes(window[at..at + 4].try_into().expect("four bytes")) as usize;
        17 + match window[at] {
            0 => 4 + length(at + 17),
            1 => 24 + length(at + 17) + length(at + 21),
            4 => 32,
            _ => 36 + length(at + 17),
        }
    };
    let seq = u64::from_le_bytes(window[first + 1..first + 9].try_into()?);
    let (one, two) = (size(first), size(first + size(first)));
    let mut found = Vec::new();
    let mut harm = |name: &str, expected: u64| -> Result<(), Box<dyn Error>> {
        let began = Instant::now();
        let report = check(path, key, threads)?;
        let took = began.elapsed().as_millis();
        let fault = report.fault.ok_or_else(|| format!("{name}: not found"))?;
        if fault.seq.0 != expected {
            return Err(format!("{name}: expected at record {expected}: {fault}").into());
        }
        found.push(format!("{{\"harm\": \"{name}\", \"found\": \"{fault}\", \"took_ms\": {took}}}"));
        Ok(())
    };
    // One byte of the first record of a block.
    let at = middle + (first + one) as u64 - 1;
    file.write_all_at(&[window[first + one - 1] ^ 1], at)?;
    harm("altered", seq)?;
    file.write_all_at(&[window[first + one - 1]], at)?;
    // The first two records of it in each other's place.
    let mut swapped = window[first..first + one + two].to_vec();
    swapped.rotate_left(one);
    file.write_all_at(&swapped, middle + first as u64)?;
    harm("swapped", seq)?;
    file.write_all_at(&window[first..first + one + two], middle + first as u64)?;
    // The end cut off within it.
    let mut tail = vec![0; usize::try_from(length - middle)?];
    file.read_exact_at(&mut tail, middle)?;
    file.set_len(middle + (first + one + 3) as u64)?;
    harm("truncated", seq + 1)?;
    // The first record of it left out: everything behind moves up.
    let mut rest = &file;
    rest.seek(SeekFrom::Start(middle + first as u64))?;
    rest.write_all(&tail[first + one..])?;
    file.set_len(length - one as u64)?;
    harm("dropped", seq)?;
    Ok(found)
}

/// Writes the file.
fn make(path: &Path, records: u64, keys: &mut Keyring) -> Result<(), Box<dyn Error>> {
    let tenant = TenantName::default_tenant();
    let general =
        Arc::new(GeneralKey { tenant: tenant.clone(), cluster: "prod-us".parse()?, name: "security".parse()? });
    let instance = Arc::new(InstanceKey {
        tenant: tenant.clone(),
        cluster: "prod-us".parse()?,
        instance: "security-6d5f7c9b8d-x2x7k".parse()?,
    });
    let planned = PlannedDelivery { general: Some(general.clone()), parked: None, terms: None, degraded: None };
    let event = EventAccepted {
        tenant,
        source: Arc::from("/acme/widgets"),
        id: Arc::from("72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ty: Arc::from("com.github.pull_request.opened"),
        kind: Arc::from("pr_created"),
        subject: Some(Arc::from("acme/widgets/pr/42")),
        lane: Arc::from("acme/widgets/pr/42"),
        repository: Some(Arc::from("acme/widgets")),
        priority: Priority::Normal,
        actor: Some(Arc::from("octocat")),
        time: Some(AT),
        key: [1; 16],
        digest: [2; 16],
        payload: Payload { salt: [7; 16], bytes: Bytes::from(vec![42; 400]) },
        route: Some("pr-created".parse()?),
        strategy: Some(Strategy::Broadcast),
        judgement: None,
        deliveries: vec![planned; 3],
        fell_back_from: None,
        about: None,
    };
    let event = Record::EventAccepted(Box::new(event));
    let leased = |delivery| {
        Record::DeliveryLeased(Box::new(DeliveryLeased {
            delivery,
            token: Token::new(3, 1),
            general: general.clone(),
            instance: instance.clone(),
            boot: "6f1c0a52-8a7e".parse().expect("a boot id"),
            attempt: 1,
            lease_ms: 25_000,
            choice: Choice::default(),
            reservation: None,
            degraded: None,
            variant: None,
        }))
    };
    let output = Payload { salt: [9; 16], bytes: Bytes::from(vec![43; 100]) };
    let settled = |delivery| {
        Record::DeliverySettled(Box::new(DeliverySettled {
            delivery,
            token: Token::new(3, 1),
            output: Some(output.clone()),
            output_type: Some(Arc::from("application/json")),
            output_ref: None,
            usage: Vec::new(),
            took_ms: 1200,
            charged: None,
        }))
    };
    let known = keys.known().to_vec();
    let flags = Flags::default();
    let head = Head { log_id: LOG, first: Seq(1), previous: genesis(&LOG), made: AT, flags, keys: known };
    let mut writer = ExportWriter::new(&head);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut metadata = Vec::new();
    let mut accepted = Seq(1);
    for seq in (1..=records).map(Seq) {
        let record = if seq.0 == records / 2 {
            let known = *keys.rotate(seq)?;
            let key = SigningKey { id: known.public.id(), public: known.public.0, since: seq };
            let what = AuthorityChange::SigningKey { key, signed_by_old: known.by_old.map(|(_, signature)| signature) };
            let access = AccessRecord::AuthorityChanged { what, by: Arc::from(""), from: Arc::from("") };
            Record::Access(Box::new(access))
        } else if seq.0.is_multiple_of(CHECKPOINT_RECORDS) {
            let signed = keys.checkpoint(Seq(seq.0 - 1), writer.link());
            let (through, link, key, signature) = (signed.through, signed.link, signed.key, signed.signature);
            Record::Access(Box::new(AccessRecord::CheckpointSigned(Checkpoint { through, link, key, signature })))
        } else {
            match seq.0 % 7 {
                0 => {
                    accepted = seq;
                    event.clone()
                }
                place @ 1..=3 => leased(DeliveryId::new(accepted, place as u32)),
                place => settled(DeliveryId::new(accepted, place as u32 - 3)),
            }
        };
        let entry = Entry { seq, at: AT, record };
        metadata.clear();
        encode::encode(&entry, &mut metadata);
        let payload = entry.record.payload();
        let payload = payload.map(|body| StoredPayload { salt: &body.salt, bytes: &body.bytes });
        writer.push(&Stored { seq, metadata: &metadata, payload, redacted: None }, Shown::Whole);
        if writer.len() >= 1 << 20 {
            out.write_all(&writer.take())?;
        }
    }
    let signed = keys.checkpoint(Seq(records), writer.link());
    out.write_all(&writer.finish(Some(signed)))?;
    out.flush()?;
    Ok(())
}
