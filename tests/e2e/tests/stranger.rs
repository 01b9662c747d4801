//! A generic gRPC client that knows nothing but the address: buf curl, by reflection.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mindos_e2e::client;
use mindos_e2e::general::{self, Notes};
use mindos_e2e::world::World;

/// `buf` from the PATH, else from npm.
fn buf() -> Command {
    let on_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("buf")).any(|file: PathBuf| file.is_file())
    });
    if on_path {
        return Command::new("buf");
    }
    let mut command = Command::new("npx");
    command.args(["--yes", "--package=@bufbuild/buf@1.75.0", "--", "buf"]);
    command
}

fn curl(arguments: &[&str]) -> Result<Output> {
    let mut command = buf();
    command.args(["curl", "--protocol", "grpc", "--http2-prior-knowledge"]).args(arguments).stdin(Stdio::null());
    command.output().with_context(|| format!("failed to run {command:?}: buf or npx has to be there"))
}

fn text(output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "buf curl ended with {}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generic_client_lists_publishes_and_watches() -> Result<()> {
    let notes = Notes::new(1, 1);
    let world = World::started("stranger", &[]).await?;
    client::broadcast_to_workers(&world.channel()?).await?;
    let url = general::serve(notes.clone()).await?;
    let sidecar = world.sidecar("east", "east-0", 4, &url, None)?;
    world.fleet(1, 1).await?;
    let server = world.server();

    let services = text(&curl(&[&server, "--list-services"])?)?;
    for service in
        ["agent.v1.AgentService", "event.v1.EventService", "delivery.v1.DeliveryService", "ledger.v1.LedgerService"]
    {
        ensure!(
            service.starts_with("agent") || services.contains(&format!("mindos.{service}")),
            "{service} is not in:\n{services}"
        );
    }
    let methods = text(&curl(&[&server, "--list-methods"])?)?;
    ensure!(methods.contains("mindos.event.v1.EventService/Publish"), "{methods}");

    let event =
        r#"{"event":{"id":"1","source":"/stranger","specVersion":"1.0","type":"com.example.hello","textData":"hi"}}"#;
    let publish = format!("{server}/mindos.event.v1.EventService/Publish");
    let first = text(&curl(&["--data", event, &publish])?)?;
    ensure!(first.contains("\"seq\""), "{first}");
    let again = text(&curl(&["--data", event, &publish])?)?;
    ensure!(again.contains("\"duplicate\": true") || again.contains("\"duplicate\":true"), "{again}");
    let other = curl(&["--data", &event.replace("\"hi\"", "\"other\""), &publish])?;
    ensure!(String::from_utf8_lossy(&other.stderr).contains("already_exists"), "{other:?}");
    world.settled(1, Duration::from_secs(20)).await?;

    // A watch from the start shows the event; it has no end, so it is ended here.
    let watch = format!("{server}/mindos.event.v1.EventService/Watch");
    let mut command = buf();
    command.args(["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", r#"{"fromSeq":"1"}"#, &watch]);
    let file = world.folder().join("watch");
    let mut child =
        command.stdout(std::fs::File::create(&file)?).stdin(Stdio::null()).spawn().context("failed to watch")?;
    let begun = std::time::Instant::now();
    let seen = loop {
        let seen = std::fs::read_to_string(&file)?;
        if seen.contains("/stranger") || begun.elapsed() > Duration::from_secs(20) {
            break seen;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let _ = child.kill();
    let _ = child.wait();
    ensure!(seen.contains("/stranger"), "the watch shows {seen:?}");
    drop(sidecar);
    Ok(())
}
