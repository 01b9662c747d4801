//! `mindos sinks`: where results leave to, and how that fares.

use clap::Subcommand;
use http::StatusCode;
use serde_json::Value;

use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table, clip};
use crate::site::Site;
use crate::web::Web;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos sinks list
  mindos sinks list --output json

Sinks stand in the settings file of the control plane (--settings), which is read again when it changes:
  sinks:
    ops:
      url: https://example.com/hook
      format: cloudevents          # or webhook: the data alone, signed as Standard Webhooks say
      on: [parked]                 # succeeded, cancelled and parked unless it says otherwise
      routes: [pr-created]         # all of them unless it says otherwise
      secret: whsec_...            # and `previous`, while it is being changed
      headers: {Authorization: Bearer ...}
    bus:                           # in a build with `--features nats`
      url: tls://nats.example.com:4222
      subject: mindos.{outcome}.{route}   # also {kind}, {cluster} and {general}; a stream of JetStream has to take it
      user: mindos                 # or `token` alone
      password: {file: /run/secrets/nats}";

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum SinksCommand {
    /// List the sinks, how far they are, and what is wrong with those that take nothing.
    #[command(after_help = "Examples:\n  mindos sinks list\n  mindos sinks list --output json")]
    List,
}

pub(crate) async fn run(command: SinksCommand, global: &Global) -> Result<(), Failure> {
    let SinksCommand::List = command;
    let site = Site::of(global).await?;
    let (status, body) = Web::new(&site)?.get("/sinks").await?;
    if status != StatusCode::OK {
        return Err(Failure::world(format!("{} answered {status} for its sinks", site.endpoint)));
    }
    let sinks: Vec<Value> = serde_json::from_slice(&body)
        .map_err(|error| Failure::world(format!("{} did not answer with its sinks: {error}", site.endpoint)))?;
    if global.output.is_json() {
        render::print_json(&Value::Array(sinks));
        return Ok(());
    }
    let mut table =
        Table::new(&["sink", "state", ">sent", ">refused", ">failed attempts", ">records behind", "reason"]);
    for sink in &sinks {
        let text = |name: &str| match &sink[name] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let counts = ["sent", "refused", "attempts_failed", "lag_records"].map(text);
        let row = [vec![text("name"), text("state")], counts.into(), vec![clip(&text("reason"), 80)]];
        table.row(row.concat());
    }
    if table.is_empty() {
        render::print("no sinks are configured");
    } else {
        render::print(&table.text());
    }
    Ok(())
}
