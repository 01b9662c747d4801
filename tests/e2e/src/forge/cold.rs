//! A general that begins: how long until it is ready, and what it takes while it has nothing to do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::process::Process;
use crate::world::{World, free_address, http};

/// Types that are started; each of them several times.
const TYPES: [&str; 4] = ["code-review-general", "security-general", "triage-general", "coding-general"];
const TIMES: usize = 3;
/// How long it rests before its memory is looked at.
const REST: Duration = Duration::from_secs(1);
/// How long it may take at most, so that a broken one is told from a slow one.
const READY_MAX: Duration = Duration::from_secs(10);

/// Starts generals one after the other.
///
/// # Errors
/// When one does not become ready.
pub async fn run() -> Result<Value> {
    let world = World::new("cold", &[])?;
    let (mut starts, mut idle) = (Vec::new(), Vec::new());
    for r#type in TYPES {
        for _ in 0..TIMES {
            let listen = free_address()?;
            let words = ["general", "--type", r#type, "--listen", &listen].map(str::to_owned);
            let begun = Instant::now();
            let general = Process::start(world.folder(), r#type, &words)?;
            while !matches!(http(&listen, "GET", "/ready", &[], b"").await, Ok((200, _))) {
                ensure!(begun.elapsed() < READY_MAX, "{type} is not ready: {}", general.log_end());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            starts.push(begun.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(REST).await;
            idle.push(general.memory()?);
            general.kill()?;
        }
    }
    starts.sort_by(f64::total_cmp);
    let middle = starts.get(starts.len() / 2).context("some were started")?;
    let (least, most) = (starts.first(), starts.last());
    let tenths = |mb: f64| (mb * 10.0).round() / 10.0;
    let megabytes = |bytes: Option<&u64>| bytes.map(|bytes| tenths(*bytes as f64 / 1e6));
    Ok(json!({
        "starts": starts.len(), "ready_ms": {"least": least.map(|ms| tenths(*ms)), "median": tenths(*middle), "most": most.map(|ms| tenths(*ms))},
        "resident_idle_mb": {"least": megabytes(idle.iter().min()), "most": megabytes(idle.iter().max())},
    }))
}
