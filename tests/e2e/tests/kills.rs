//! Promises 1, 3 and 10 against kill -9, in short; `cargo run --release -p mindos-e2e --bin kills` is the long run.

use anyhow::Result;
use mindos_e2e::kills::{self, Plan};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_settled_twice_over_kills() -> Result<()> {
    let report = kills::run(Plan { control_planes: 3, sidecars: 3, seed: 1, publishers: 8, rest: 40 }).await?;
    println!("{report:#}");
    Ok(())
}
