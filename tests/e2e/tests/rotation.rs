//! Certificates that live for seconds, under load; `cargo run --release -p mindos-e2e --bin rotation` is the long run.

use std::time::Duration;

use anyhow::Result;
use mindos_e2e::rotation::{self, Plan};

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_and_no_work_is_lost_to_rotation_or_stepped_clocks() -> Result<()> {
    let (load, life) = (Duration::from_secs(30), Duration::from_secs(10));
    let report = rotation::run(Plan { load, sidecars: 8, life, publishers: 4, rest: 40 }).await?;
    println!("{report:#}");
    Ok(())
}
