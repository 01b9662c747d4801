//! `mindos generals`, `clusters` and `instances`: who is there, and who is to be left alone.

use std::time::Duration;

use clap::{Args, Subcommand};
use mindos_proto::fleet::v1::{self as fleet, FleetFilter, Hold, HoldKind, Liveness, target};
use mindos_proto::{convert, fleet::v1::Target};
use serde_json::json;

use super::filter::{ago, span};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table, short_word};

pub(crate) const GENERALS_EXAMPLES: &str = "\
Examples:
  mindos generals list --cluster eu
  mindos generals get eu/triage-general
  mindos generals drain eu/triage-general --reason 'new model'
  mindos generals pause eu/triage-general";
pub(crate) const CLUSTERS_EXAMPLES: &str = "\
Examples:
  mindos clusters list
  mindos clusters drain eu --reason maintenance";
pub(crate) const INSTANCES_EXAMPLES: &str = "\
Examples:
  mindos instances list --cluster eu
  mindos instances cordon eu/triage-general-0";
const LIST_EXAMPLES: &str = "\
Examples:
  mindos generals list
  mindos generals list --cluster eu --output json";
const CLUSTER_LIST_EXAMPLES: &str = "\
Examples:
  mindos clusters list
  mindos clusters list --region eu-west-1 --output json";
const INSTANCE_LIST_EXAMPLES: &str = "\
Examples:
  mindos instances list
  mindos instances list --liveness unknown,gone";
const GET_EXAMPLES: &str = "\
Examples:
  mindos generals get eu/triage-general
  mindos generals get eu/triage-general --output json";
const CLUSTER_GET_EXAMPLES: &str = "\
Examples:
  mindos clusters get eu
  mindos clusters get eu --output json";
const INSTANCE_GET_EXAMPLES: &str = "\
Examples:
  mindos instances get eu/triage-general-0
  mindos instances get eu/triage-general-0 --output json";
const CORDON_EXAMPLES: &str = "\
Examples:
  mindos generals cordon eu/triage-general --reason 'looks odd'
  mindos clusters cordon eu
  mindos instances cordon eu/triage-general-0";
const UNCORDON_EXAMPLES: &str = "\
Examples:
  mindos generals uncordon eu/triage-general
  mindos clusters uncordon eu
  mindos instances uncordon eu/triage-general-0";
const DRAIN_EXAMPLES: &str = "\
Examples:
  mindos generals drain eu/triage-general
  mindos clusters drain eu --reason maintenance
  mindos instances drain eu/triage-general-0";
const PAUSE_EXAMPLES: &str = "\
Examples:
  mindos generals pause eu/triage-general --reason 'out of budget'
  mindos clusters pause eu
  mindos routes pause pr-created";
const RESUME_EXAMPLES: &str = "\
Examples:
  mindos generals resume eu/triage-general
  mindos clusters resume eu
  mindos routes resume pr-created";

#[derive(Debug, Subcommand)]
pub(crate) enum GeneralsCommand {
    /// List generals.
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one general.
    #[command(after_help = GET_EXAMPLES)]
    Get(NameArgs),
    #[command(flatten)]
    Hold(HoldCommand),
    #[command(flatten)]
    Pause(PauseCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClustersCommand {
    /// List clusters.
    #[command(after_help = CLUSTER_LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one cluster.
    #[command(after_help = CLUSTER_GET_EXAMPLES)]
    Get(NameArgs),
    #[command(flatten)]
    Hold(HoldCommand),
    #[command(flatten)]
    Pause(PauseCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum InstancesCommand {
    /// List instances.
    #[command(after_help = INSTANCE_LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one instance.
    #[command(after_help = INSTANCE_GET_EXAMPLES)]
    Get(NameArgs),
    #[command(flatten)]
    Hold(HoldCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum HoldCommand {
    /// Keep new work away; what is under way goes on.
    #[command(after_help = CORDON_EXAMPLES)]
    Cordon(HoldArgs),
    /// End cordon and drain.
    #[command(after_help = UNCORDON_EXAMPLES)]
    Uncordon(HoldArgs),
    /// Keep new work away; agents of a cluster or instance leave when they hold nothing.
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain(DrainArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PauseCommand {
    /// Start no work; events are accepted and wait.
    #[command(after_help = PAUSE_EXAMPLES)]
    Pause(HoldArgs),
    /// End the pause.
    #[command(after_help = RESUME_EXAMPLES)]
    Resume(HoldArgs),
}

#[derive(Debug, Default, Args)]
pub(crate) struct ListArgs {
    /// Cluster.
    #[arg(long)]
    cluster: Option<String>,
    /// Name of the general.
    #[arg(long)]
    general: Option<String>,
    /// Type of the general.
    #[arg(long = "type", value_name = "TYPE")]
    general_type: Option<String>,
    /// Region of the cluster.
    #[arg(long)]
    region: Option<String>,
    /// What is known of its life; several with commas.
    #[arg(long, value_delimiter = ',', value_enum)]
    liveness: Vec<LivenessWord>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum LivenessWord {
    Connected,
    Unknown,
    Draining,
    Gone,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// `cluster/name`; a cluster by its name alone.
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct HoldArgs {
    /// `cluster/name`; a cluster or route by its name alone.
    name: String,
    /// Why, for the ledger.
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    hold: HoldArgs,
    /// Taken, and without effect yet.
    #[arg(long, value_parser = span, value_name = "SPAN")]
    grace: Option<Duration>,
}

/// What a name on the command line stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Noun {
    Cluster,
    General,
    Instance,
    Route,
}

impl Noun {
    fn target(self, name: &str) -> Result<Target, Failure> {
        let pair = || {
            name.split_once('/').map(|(cluster, name)| (cluster.to_owned(), name.to_owned())).ok_or_else(|| {
                Failure::usage(format!("`{name}` does not say which cluster: expected CLUSTER/NAME, such as eu/{name}"))
            })
        };
        let target = match self {
            Noun::Cluster => target::Target::Cluster(name.to_owned()),
            Noun::Route => target::Target::Route(name.to_owned()),
            Noun::General => {
                let (cluster, name) = pair()?;
                target::Target::General(fleet::GeneralName { cluster, name })
            }
            Noun::Instance => {
                let (cluster, instance_id) = pair()?;
                target::Target::Instance(fleet::InstanceName { cluster, instance_id })
            }
        };
        Ok(Target { target: Some(target) })
    }
}

pub(crate) async fn generals(command: GeneralsCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    match command {
        GeneralsCommand::List(args) => {
            let generals = all_generals(&client, args.into()).await?;
            if global.output.is_json() {
                let values: Vec<_> = generals.iter().map(render::json).collect();
                render::print_json(&json!({"generals": values}));
                return Ok(());
            }
            let mut table = Table::new(&[
                "general",
                "type",
                "liveness",
                ">instances",
                ">in use",
                ">slots",
                ">waiting",
                ">parked",
                "holds",
            ]);
            for general in &generals {
                table.row(vec![
                    format!("{}/{}", general.cluster, general.name),
                    general.r#type.clone(),
                    liveness_word(general.liveness),
                    general.instances_connected.to_string(),
                    general.slots_in_use.to_string(),
                    general.slots.to_string(),
                    general.waiting.to_string(),
                    general.parked.to_string(),
                    holds_text(&general.holds),
                ]);
            }
            render::print(&table.text());
            Ok(())
        }
        GeneralsCommand::Get(NameArgs { name }) => {
            let Some(target::Target::General(name)) = Noun::General.target(&name)?.target else { return Ok(()) };
            let request = fleet::GetGeneralRequest { name: Some(name) };
            let answer = client.fleet().get_general(request).await.map_err(client.failed())?.into_inner();
            print_object(answer.general.as_ref().map(render::json), global)
        }
        GeneralsCommand::Hold(command) => hold(command, Noun::General, global, &client).await,
        GeneralsCommand::Pause(command) => pause(command, Noun::General, global, &client).await,
    }
}

pub(crate) async fn clusters(command: ClustersCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    match command {
        ClustersCommand::List(args) => {
            let clusters = all_clusters(&client, args.into()).await?;
            if global.output.is_json() {
                let values: Vec<_> = clusters.iter().map(render::json).collect();
                render::print_json(&json!({"clusters": values}));
                return Ok(());
            }
            let mut table = Table::new(&["cluster", "region", ">generals", ">connected", ">unknown", "holds"]);
            for cluster in &clusters {
                table.row(vec![
                    cluster.name.clone(),
                    cluster.region.clone(),
                    cluster.generals.to_string(),
                    cluster.instances_connected.to_string(),
                    cluster.instances_unknown.to_string(),
                    holds_text(&cluster.holds),
                ]);
            }
            render::print(&table.text());
            Ok(())
        }
        ClustersCommand::Get(NameArgs { name }) => {
            let request = fleet::GetClusterRequest { name };
            let answer = client.fleet().get_cluster(request).await.map_err(client.failed())?.into_inner();
            print_object(answer.cluster.as_ref().map(render::json), global)
        }
        ClustersCommand::Hold(command) => hold(command, Noun::Cluster, global, &client).await,
        ClustersCommand::Pause(command) => pause(command, Noun::Cluster, global, &client).await,
    }
}

pub(crate) async fn instances(command: InstancesCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    match command {
        InstancesCommand::List(args) => {
            let instances = all_instances(&client, args.into()).await?;
            if global.output.is_json() {
                let values: Vec<_> = instances.iter().map(render::json).collect();
                render::print_json(&json!({"instances": values}));
                return Ok(());
            }
            let mut table =
                Table::new(&["instance", "generals", "liveness", ">leases", ">slots", "version", "heard", "holds"]);
            for instance in &instances {
                let names: Vec<&str> = instance.generals.iter().map(|general| general.name.as_str()).collect();
                table.row(vec![
                    format!("{}/{}", instance.cluster, instance.instance_id),
                    names.join(","),
                    liveness_word(instance.liveness),
                    instance.generals.iter().map(|general| general.leases).sum::<u32>().to_string(),
                    instance.generals.iter().map(|general| general.capacity).sum::<u32>().to_string(),
                    instance.version.clone(),
                    ago(instance.heard_at.as_ref()),
                    holds_text(&instance.holds),
                ]);
            }
            render::print(&table.text());
            Ok(())
        }
        InstancesCommand::Get(NameArgs { name }) => {
            let Some(target::Target::Instance(name)) = Noun::Instance.target(&name)?.target else { return Ok(()) };
            let request = fleet::GetInstanceRequest { name: Some(name) };
            let answer = client.fleet().get_instance(request).await.map_err(client.failed())?.into_inner();
            print_object(answer.instance.as_ref().map(render::json), global)
        }
        InstancesCommand::Hold(command) => hold(command, Noun::Instance, global, &client).await,
    }
}

macro_rules! all {
    ($name:ident, $item:ty, $rpc:ident, $request:ident, $field:ident) => {
        /// All that fit, page by page.
        pub(crate) async fn $name(client: &Client, filter: FleetFilter) -> Result<Vec<$item>, Failure> {
            let mut found = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = fleet::$request { filter: Some(filter.clone()), page_size: 1000, page_token };
                let answer = client.fleet().$rpc(request).await.map_err(client.failed())?.into_inner();
                found.extend(answer.$field);
                page_token = answer.next_page_token;
                if page_token.is_empty() {
                    return Ok(found);
                }
            }
        }
    };
}

all!(all_clusters, fleet::Cluster, list_clusters, ListClustersRequest, clusters);
all!(all_generals, fleet::General, list_generals, ListGeneralsRequest, generals);
all!(all_instances, fleet::Instance, list_instances, ListInstancesRequest, instances);

/// One object: JSON on demand, else a line for each field.
fn print_object(value: Option<serde_json::Value>, global: &Global) -> Result<(), Failure> {
    let Some(value) = value else { return Err(Failure::not_found("it is not there")) };
    if global.output.is_json() {
        render::print_json(&value);
        return Ok(());
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(items) if items.is_empty() => continue,
            serde_json::Value::Object(fields) if fields.is_empty() => continue,
            other => other.to_string(),
        };
        if !text.is_empty() {
            render::print(&format!("{name:<20} {text}"));
        }
    }
    Ok(())
}

async fn hold(command: HoldCommand, noun: Noun, global: &Global, client: &Client) -> Result<(), Failure> {
    let mut fleet = client.fleet();
    let (word, changed, leases) = match command {
        HoldCommand::Cordon(HoldArgs { name, reason }) => {
            let request = fleet::CordonRequest { target: Some(noun.target(&name)?), reason };
            ("cordoned", fleet.cordon(request).await.map_err(client.failed())?.into_inner().changed, None)
        }
        HoldCommand::Uncordon(HoldArgs { name, reason }) => {
            let request = fleet::UncordonRequest { target: Some(noun.target(&name)?), reason };
            ("uncordoned", fleet.uncordon(request).await.map_err(client.failed())?.into_inner().changed, None)
        }
        HoldCommand::Drain(DrainArgs { hold: HoldArgs { name, reason }, grace }) => {
            let target = Some(noun.target(&name)?);
            let request = fleet::DrainRequest { target, reason, grace: grace.map(convert::span) };
            let answer = fleet.drain(request).await.map_err(client.failed())?.into_inner();
            ("draining", answer.changed, Some(answer.leases))
        }
    };
    print_changed(word, changed, leases, global);
    Ok(())
}

/// Pauses or resumes a cluster, general or route.
pub(crate) async fn pause(command: PauseCommand, noun: Noun, global: &Global, client: &Client) -> Result<(), Failure> {
    let mut fleet = client.fleet();
    let (word, changed) = match command {
        PauseCommand::Pause(HoldArgs { name, reason }) => {
            let request = fleet::PauseRequest { target: Some(noun.target(&name)?), reason };
            ("paused", fleet.pause(request).await.map_err(client.failed())?.into_inner().changed)
        }
        PauseCommand::Resume(HoldArgs { name, reason }) => {
            let request = fleet::ResumeRequest { target: Some(noun.target(&name)?), reason };
            ("resumed", fleet.resume(request).await.map_err(client.failed())?.into_inner().changed)
        }
    };
    print_changed(word, changed, None, global);
    Ok(())
}

fn print_changed(word: &str, changed: bool, leases: Option<u64>, global: &Global) {
    if global.output.is_json() {
        return render::print_json(&json!({"state": word, "changed": changed, "leases": leases}));
    }
    let unchanged = if changed { "" } else { " (was so before)" };
    match leases {
        Some(leases) => render::print(&format!("{word}{unchanged}, {leases} leases held there")),
        None => render::print(&format!("{word}{unchanged}")),
    }
}

pub(crate) fn liveness_word(liveness: i32) -> String {
    let liveness = Liveness::try_from(liveness).unwrap_or(Liveness::Unspecified);
    short_word(liveness.as_str_name(), "LIVENESS_")
}

pub(crate) fn holds_text(holds: &[Hold]) -> String {
    let words: Vec<String> = holds
        .iter()
        .map(|hold| {
            let kind = HoldKind::try_from(hold.kind).unwrap_or(HoldKind::Unspecified);
            short_word(kind.as_str_name(), "HOLD_KIND_")
        })
        .collect();
    words.join(",")
}

impl From<ListArgs> for FleetFilter {
    fn from(args: ListArgs) -> FleetFilter {
        let ListArgs { cluster, general, general_type, region, liveness } = args;
        let liveness = liveness.into_iter().map(|word| match word {
            LivenessWord::Connected => Liveness::Connected.into(),
            LivenessWord::Unknown => Liveness::Unknown.into(),
            LivenessWord::Draining => Liveness::Draining.into(),
            LivenessWord::Gone => Liveness::Gone.into(),
        });
        FleetFilter {
            cluster: cluster.unwrap_or_default(),
            general: general.unwrap_or_default(),
            r#type: general_type.unwrap_or_default(),
            region: region.unwrap_or_default(),
            liveness: liveness.collect(),
        }
    }
}
