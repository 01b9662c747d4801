//! The surface of the GitLens contract, held against the contract's tables by a client that knows nothing else.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mindos_e2e::process::Process;
use mindos_e2e::world::{World, free_address, http};

/// How long 22 generals and their sidecars may take to be there.
const FLEET_MAX: Duration = Duration::from_secs(120);

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}

async fn fleet(api: &str, up: &mut Process) -> Result<()> {
    let begun = Instant::now();
    loop {
        if let Ok((200, body)) = http(api, "GET", "/status", &[], b"").await {
            let status: serde_json::Value = serde_json::from_slice(&body)?;
            if status["generals_by_status"]["active"] == 22 {
                return Ok(());
            }
        }
        if let Some(status) = up.ended()? {
            anyhow::bail!("mindos up ended with {status}: {}", up.log_end());
        }
        ensure!(begun.elapsed() < FLEET_MAX, "22 generals are not there after {FLEET_MAX:?}: {}", up.log_end());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn check(arguments: &[String]) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("gitlens_contract.py");
    let arguments = arguments.to_vec();
    let checked = tokio::task::spawn_blocking(move || Command::new("python3").arg(script).args(arguments).output());
    let checked = checked.await?.context("failed to run python3")?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    println!("{}", String::from_utf8_lossy(&checked.stdout).trim());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_contract_find_what_it_says() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("mindos-e2e-gitlens-{}", std::process::id()));
    std::fs::create_dir_all(&folder).context("failed to make a folder")?;
    let (api, aggregator, discord) = (free_address()?, free_address()?, free_address()?);
    std::fs::write(folder.join("token"), "not-a-real-token\n")?;
    let settings = format!(
        "notify:\n  discord:\n    channels: {{ prs: \"1186000000000000001\" }}\n    token: {{ file: {} }}\n    api: http://{discord}\n",
        folder.join("token").display()
    );
    std::fs::write(folder.join("settings.yaml"), settings)?;
    let words = [
        "up".to_owned(),
        "--clusters=prod-us,dev".to_owned(),
        format!("--data-dir={}", folder.join("data").display()),
        format!("--port={}", port(&api)),
        "--agent-port=0".to_owned(),
        "--generals-port=0".to_owned(),
        "--slots=10".to_owned(),
        "--plain".to_owned(),
        format!("--control-plane-arg=--aggregator-address={aggregator}"),
        format!("--control-plane-arg=--settings={}", folder.join("settings.yaml").display()),
    ];
    let mut up = Process::start(&folder, "up", &words)?;
    fleet(&api, &mut up).await?;

    let arguments = [aggregator.clone(), api.clone(), port(&discord).to_owned()];
    check(&arguments).await?;
    let log = std::fs::read_to_string(folder.join("data/logs/control-plane.log")).unwrap_or_default();
    ensure!(!log.contains("not-a-real-token"), "the token stands in the log");
    up.terminate(Duration::from_secs(60))?;
    let _ = std::fs::remove_dir_all(folder);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_without_its_signature_where_a_secret_is_configured() -> Result<()> {
    let aggregator = free_address()?;
    let mut world = World::new("gitlens-signed", &["--aggregator-address", &aggregator, "--github-secret", "hub"])?;
    let (secret, settings) = (world.folder().join("secret"), world.folder().join("settings.yaml"));
    std::fs::write(&secret, "s3cret\n")?;
    std::fs::write(&settings, format!("gitlens: {{ secret: {{ file: {} }} }}\n", secret.display()))?;
    world.add_arguments(&["--settings", &settings.display().to_string()]);
    world.start_plane().await?;

    check(&["--signed".to_owned(), aggregator, "s3cret".to_owned(), "hub".to_owned()]).await
}
