//! Appends batches to a log in a real directory and prints what that takes.
//!
//! `cargo run --release -p mindos-journal --example append_bench -- [directory [records in a batch..]]`

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mindos_journal::{Frame, Log, Options, Payload, Preparation, RealDisk, chain};
use mindos_model::Seq;

const PAYLOAD_BYTES: usize = 1100;
const METADATA_BYTES: usize = 100;
const SECONDS: u64 = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("append-bench"), PathBuf::from);
    println!("records of {METADATA_BYTES} B metadata and {PAYLOAD_BYTES} B payload, {SECONDS} s each");
    println!("cpu: of the thread that appends, and of all; recycled: into used segments that are not in memory");
    println!("   batch  batches/s  records/s    MB/s  cpu us/record    all   p50 us   p99 us  p99.9 us   max us");
    let batches: Vec<u32> = std::env::args().skip(2).map(|batch| batch.parse()).collect::<Result<_, _>>()?;
    if !batches.is_empty() {
        for batch in batches {
            clear(&directory)?;
            append(&directory, batch, "")?;
            recycle(&directory)?;
            append(&directory, batch, "recycled")?;
        }
        return clear(&directory);
    }
    for batch in [1, 16, 64, 256, 400] {
        clear(&directory)?;
        append(&directory, batch, "")?;
    }
    for batch in [16, 400] {
        recycle(&directory)?;
        append(&directory, batch, "recycled")?;
    }
    small_records()?;
    replay(&directory)?;
    fs::remove_dir_all(&directory)?;
    Ok(())
}

/// Processor time of this thread so far.
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Processor time of all threads so far.
fn cpu_of_all() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn clear(directory: &PathBuf) -> Result<(), Box<dyn Error>> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    Ok(())
}

/// Makes spares of a log's segments, and has the system forget what is in them.
fn recycle(directory: &PathBuf) -> Result<(), Box<dyn Error>> {
    for (number, entry) in fs::read_dir(directory)?.enumerate() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "segment") {
            rustix::fs::fadvise(&fs::File::open(&path)?, 0, None, rustix::fs::Advice::DontNeed)?;
            fs::rename(&path, directory.join(format!("spare-{}", 1000 + number)))?;
        }
    }
    Ok(())
}

fn open(directory: &PathBuf) -> Result<Log<RealDisk>, Box<dyn Error>> {
    let options = Options { preparation: Preparation::Thread, spares_max: 100, ..Options::new([7; 16]) };
    Ok(Log::open(RealDisk::new(directory)?, options)?.0)
}

fn fill(frame: &mut Frame, batch: u32, payload: &[u8]) {
    frame.clear();
    for _ in 0..batch {
        frame.push_with(
            |bytes| bytes.extend_from_slice(&payload[..METADATA_BYTES]),
            Some(Payload { salt: &[1; 16], bytes: payload }),
        );
    }
}

fn append(directory: &PathBuf, batch: u32, note: &str) -> Result<(), Box<dyn Error>> {
    let mut log = open(directory)?;
    let payload: Vec<u8> = (0..PAYLOAD_BYTES).map(|at| (at * 31) as u8).collect();
    let mut frame = Frame::new();
    let mut took: Vec<Duration> = Vec::new();
    let (started, busy, all) = (Instant::now(), cpu(), cpu_of_all());
    while started.elapsed() < Duration::from_secs(SECONDS) {
        fill(&mut frame, batch, &payload);
        let before = Instant::now();
        log.append(log.end(), &mut frame)?;
        took.push(before.elapsed());
    }
    let (elapsed, busy) = (started.elapsed().as_secs_f64(), (cpu() - busy).as_secs_f64());
    let all = (cpu_of_all() - all).as_secs_f64();
    let records = log.end().0 as f64;
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_micros();
    println!(
        "{batch:>8}  {:>9.0}  {:>9.0}  {:>6.0}  {:>13.2}  {:>5.2}  {:>7}  {:>7}  {:>8}  {:>7}  {note}",
        took.len() as f64 / elapsed,
        records / elapsed,
        records * (PAYLOAD_BYTES + METADATA_BYTES) as f64 / elapsed / 1e6,
        busy * 1e6 / records,
        all * 1e6 / records,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
    );
    Ok(())
}

/// What a record costs without a disk: the share of encoding and of the chain.
fn small_records() -> Result<(), Box<dyn Error>> {
    const ROUNDS: u32 = 2000;
    const RECORDS: u32 = 500;
    for (name, metadata, payload) in [("lease", 100, None), ("event", 200, Some(1024)), ("settled", 60, Some(100))] {
        let metadata = vec![5; metadata];
        let payload = payload.map(|len| vec![6; len]);
        let (mut link, mut frame) = ([0; 32], Frame::new());
        let busy = cpu();
        for _ in 0..ROUNDS {
            frame.clear();
            for number in 0..RECORDS {
                let stored = payload.as_ref().map(|bytes| Payload { salt: &[1; 16], bytes });
                frame.push(&metadata, stored);
                let digest = payload.as_ref().map_or(chain::NO_PAYLOAD, |bytes| chain::payload_digest(&[1; 16], bytes));
                link = chain::link(&link, u64::from(number), &chain::leaf(&metadata, &digest));
            }
        }
        let each = (cpu() - busy).as_secs_f64() * 1e6 / f64::from(ROUNDS * RECORDS);
        println!("{name}: {each:.2} us a record for framing and chain (link {})", &chain::hex(&link)[..8]);
    }
    Ok(())
}

fn replay(directory: &PathBuf) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let log = open(directory)?;
    let reader = log.reader();
    println!("open: {:.1} ms with {} records", started.elapsed().as_secs_f64() * 1e3, log.end());
    let started = Instant::now();
    let mut cursor = reader.cursor(Seq(1))?;
    let mut records = 0_u64;
    while let Some(batch) = cursor.next_batch()? {
        records += batch.entries().filter(|entry| entry.is_ok()).count() as u64;
    }
    println!("replay: {:.0} records/s", records as f64 / started.elapsed().as_secs_f64());
    let started = Instant::now();
    const READS: u64 = 20_000;
    let mut bytes = 0;
    for number in 0..READS {
        let seq = Seq(1 + number * 7_919_173 % log.end().0);
        bytes += reader.read_payload(seq)?.map_or(0, |payload| payload.bytes.len());
    }
    println!("point reads: {:.0}/s ({bytes} bytes)", READS as f64 / started.elapsed().as_secs_f64());
    let started = Instant::now();
    let verified = reader.verify(Seq(1), log.end())?;
    println!("verify: {:.0} records/s", verified.records as f64 / started.elapsed().as_secs_f64());
    println!("files: {} MB for {} records", log.usage().used_bytes >> 20, log.end());
    Ok(())
}
