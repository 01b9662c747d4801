//! `mindos quotas`: what a tenant may use.

use clap::{Args, Subcommand};
use mindos_model::TenantName;
use mindos_proto::access::v1::{ListQuotasRequest, QuotaOfTenant, SetQuotaRequest, TenantQuota};
use serde_json::json;

use super::contexts::done;
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos quotas set acme --events-per-second 200 --open-max 50000
  mindos quotas set acme --clear
  mindos quotas list

`mindos budgets` limits money, tokens and time.";
const SET_EXAMPLES: &str = "\
Examples:
  mindos quotas set acme --events-per-second 200 --requests-per-second 100 --open-max 50000 --streams-max 500
  mindos quotas set acme --clear

What is left out has no limit of its own from then on.";

#[derive(Debug, Subcommand)]
pub(crate) enum QuotasCommand {
    /// Set what a tenant may use.
    #[command(after_help = SET_EXAMPLES)]
    Set(SetArgs),
    /// List the quotas.
    #[command(after_help = "Examples:\n  mindos quotas list\n  mindos quotas list --output json")]
    List,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true)))]
pub(crate) struct SetArgs {
    /// Name of the tenant.
    of: TenantName,
    /// Events it may publish in a second.
    #[arg(long, value_name = "COUNT", group = "what", value_parser = clap::value_parser!(u32).range(1..))]
    events_per_second: Option<u32>,
    /// Requests it may make in a second.
    #[arg(long, value_name = "COUNT", group = "what", value_parser = clap::value_parser!(u32).range(1..))]
    requests_per_second: Option<u32>,
    /// Deliveries that may be open at a time, up to 1,000,000.
    #[arg(long, value_name = "COUNT", group = "what", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    open_max: Option<u64>,
    /// Streams of agents at a time.
    #[arg(long, value_name = "COUNT", group = "what", value_parser = clap::value_parser!(u32).range(1..))]
    streams_max: Option<u32>,
    /// Take the quota away.
    #[arg(long, group = "what", conflicts_with_all = ["events_per_second", "requests_per_second", "open_max", "streams_max"])]
    clear: bool,
}

pub(crate) async fn run(command: QuotasCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    let (mut access, failed) = (client.access(), client.failed());
    match command {
        QuotasCommand::Set(args) => {
            let SetArgs { of, events_per_second, requests_per_second, open_max, streams_max, clear } = args;
            let quota = TenantQuota { events_per_second, requests_per_second, open_max, streams_max };
            let quota = (!clear).then_some(quota);
            access.set_quota(SetQuotaRequest { tenant: of.to_string(), quota }).await.map_err(&failed)?;
            let said = if clear { "has no quota" } else { "has this quota" };
            let value = as_json(&QuotaOfTenant { tenant: of.to_string(), quota });
            done(global, &value, &format!("tenant {of} {said}"));
        }
        QuotasCommand::List => {
            let (mut quotas, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = ListQuotasRequest { page_size: 1000, page_token };
                let page = access.list_quotas(request).await.map_err(&failed)?.into_inner();
                quotas.extend(page.quotas);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            show(&quotas, global);
        }
    }
    Ok(())
}

fn show(quotas: &[QuotaOfTenant], global: &Global) {
    if global.output.is_json() {
        return render::print_json(&json!({ "quotas": quotas.iter().map(as_json).collect::<Vec<_>>() }));
    }
    let mut table = Table::new(&["tenant", ">events/s", ">requests/s", ">open", ">streams"]);
    for QuotaOfTenant { tenant, quota } in quotas {
        let TenantQuota { events_per_second, requests_per_second, open_max, streams_max } = quota.unwrap_or_default();
        let shown = |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
        let (events, requests) = (events_per_second.map(u64::from), requests_per_second.map(u64::from));
        let streams = streams_max.map(u64::from);
        table.row(vec![tenant.clone(), shown(events), shown(requests), shown(open_max), shown(streams)]);
    }
    render::print(&table.text());
}

fn as_json(quota: &QuotaOfTenant) -> serde_json::Value {
    let QuotaOfTenant { tenant, quota } = quota;
    let quota = quota.map(|quota| {
        let TenantQuota { events_per_second, requests_per_second, open_max, streams_max } = quota;
        json!({
            "events_per_second": events_per_second,
            "requests_per_second": requests_per_second,
            "open_max": open_max,
            "streams_max": streams_max,
        })
    });
    json!({ "tenant": tenant, "quota": quota })
}
