//! `mindos effects`: what generals want done outside, what came of it, and what to do about what failed.

use clap::{Args, Subcommand};
use mindos_model::EffectStatus;
use mindos_proto::effect::v1::{self as effect, Effect, EffectFilter};
use serde_json::json;

use super::filter::{PageArgs, ago};
use super::watch::{self, Printed};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table, clip, short_word};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos effects list --status failed
  mindos effects show e42
  mindos effects retry e42
  mindos effects cancel e42";

const LIST_EXAMPLES: &str = "\
Examples:
  mindos effects list
  mindos effects list --status waiting,failed --target octocat/hello-world
  mindos effects list --delivery d42.1 --output json";
const SHOW_EXAMPLES: &str = "\
Examples:
  mindos effects show e42
  mindos effects show e42 --output json";
const RETRY_EXAMPLES: &str = "\
Examples:
  mindos effects retry e42
  mindos effects retry e42 e57 --output json";
const CANCEL_EXAMPLES: &str = "\
Examples:
  mindos effects cancel e42
  mindos effects cancel e42 e57 --output json";
const WATCH_EXAMPLES: &str = "\
Examples:
  mindos effects watch
  mindos effects watch --status failed --output json";

#[derive(Debug, Subcommand)]
pub(crate) enum EffectsCommand {
    /// List effects, the newest first.
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one effect with its parameters and what came of it.
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Have effects that failed, or wait for their next try, tried at once.
    #[command(after_help = RETRY_EXAMPLES)]
    Retry(ChangeArgs),
    /// Cancel effects that have not ended, each with the later ones of its result.
    #[command(after_help = CANCEL_EXAMPLES)]
    Cancel(ChangeArgs),
    /// Follow the changes of effects as they become durable.
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(WatchArgs),
}

/// Which effects are meant.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Only with these statuses: waiting, failed, done, dry_run, cancelled or repeated.
    #[arg(long, value_delimiter = ',', value_name = "STATUS")]
    status: Vec<EffectStatus>,
    /// Only of the result of this delivery, such as `d42.1`.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DELIVERY")]
    delivery: String,
    /// Only of this event, by its number.
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "SEQ")]
    event: u64,
    /// Only of this kind, such as `comment` or `pull_request`.
    #[arg(long, default_value = "", hide_default_value = true)]
    kind: String,
    /// Only on this target, such as `octocat/hello-world#7`, or all that lie in a repository.
    #[arg(long, default_value = "", hide_default_value = true)]
    target: String,
    /// Only of the general of this name, in any cluster.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    general: String,
}

impl From<FilterArgs> for EffectFilter {
    fn from(args: FilterArgs) -> EffectFilter {
        let FilterArgs { status, delivery, event, kind, target, general } = args;
        let statuses = status.into_iter().map(|status| effect::EffectStatus::from(status).into()).collect();
        EffectFilter { statuses, delivery_id: delivery, event_seq: event, kind, target, general }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Such as `e42`.
    #[arg(value_name = "EFFECT")]
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Such as `e42`.
    #[arg(value_name = "EFFECT", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Begin with the changes of this sequence; unset begins with the next one.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,
    /// End after this many changes; 0 goes on.
    #[arg(long, default_value_t = 0)]
    limit: u64,
}

pub(crate) async fn run(command: EffectsCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    match command {
        EffectsCommand::List(args) => list(args, global, &client).await,
        EffectsCommand::Show(args) => show(args, global, &client).await,
        EffectsCommand::Retry(args) => retry(args, global, &client).await,
        EffectsCommand::Cancel(args) => cancel(args, global, &client).await,
        EffectsCommand::Watch(args) => watch(args, global, &client).await,
    }
}

/// All effects that fit, page by page, as many as wanted.
pub(crate) async fn fetch(client: &Client, filter: &EffectFilter, page: PageArgs) -> Result<Vec<Effect>, Failure> {
    let mut effects: Vec<Effect> = Vec::new();
    let mut page_token = String::new();
    while let Some(page_size) = page.next_size(effects.len()) {
        let request = effect::ListEffectsRequest { filter: Some(filter.clone()), page_size, page_token };
        let answer = client.effects().list_effects(request).await.map_err(client.failed())?.into_inner();
        effects.extend(answer.effects);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(effects)
}

async fn list(args: ListArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let ListArgs { filter, page } = args;
    let effects = fetch(client, &filter.into(), page).await?;
    if global.output.is_json() {
        let values: Vec<_> = effects.iter().map(render::json).collect();
        render::print_json(&json!({"effects": values}));
        return Ok(());
    }
    let mut table = table();
    effects.iter().for_each(|effect| table.row(row(effect)));
    render::print(&table.text());
    Ok(())
}

async fn show(args: ShowArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let request = effect::GetEffectRequest { effect_id: args.id };
    let answer = client.effects().get_effect(request).await.map_err(client.failed())?.into_inner();
    let Some(effect) = answer.effect else { return Err(Failure::not_found("the effect is not there")) };
    let value = render::json(&effect);
    if global.output.is_json() {
        render::print_json(&value);
        return Ok(());
    }
    let line = |name: &str, text: &str| {
        if !text.is_empty() {
            render::print(&format!("{name:<12} {text}"));
        }
    };
    line("effect", &effect.effect_id);
    line("status", &standing(&effect));
    line("what", &format!("{} on {}", effect.kind, effect.target));
    line("key", &effect.key);
    line("general", &general(&effect));
    line("delivery", &effect.delivery_id);
    line("event", &effect.event_seq.to_string());
    line("position", &effect.position.to_string());
    line("waits for", &effect.behind);
    line("repeats", &effect.repeats);
    if effect.attempts > 0 {
        line("failed tries", &effect.attempts.to_string());
    }
    for name in ["intended_at", "not_before", "ended_at"] {
        line(name.trim_end_matches("_at"), value[name].as_str().unwrap_or_default());
    }
    line("message", &effect.message);
    line("by", &effect.by);
    line("observed", &effect.observed_json);
    if effect.redacted {
        line("parameters", "(redacted)");
    } else if let Ok(parameters) = serde_json::from_str::<serde_json::Value>(&effect.parameters_json) {
        render::print("");
        render::print(&format!("{parameters:#}"));
    }
    Ok(())
}

async fn retry(args: ChangeArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let mut values = Vec::new();
    for effect_id in args.ids {
        let request = effect::RetryEffectRequest { effect_id: effect_id.clone() };
        let answer = client.effects().retry_effect(request).await.map_err(client.failed())?.into_inner();
        if global.output.is_json() {
            values.extend(answer.effect.as_ref().map(render::json));
        } else {
            render::print(&format!("{effect_id} is tried again"));
        }
    }
    if global.output.is_json() {
        render::print_json(&json!({"effects": values}));
    }
    Ok(())
}

async fn cancel(args: ChangeArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let mut cancelled = Vec::new();
    for effect_id in args.ids {
        let request = effect::CancelEffectRequest { effect_id };
        let answer = client.effects().cancel_effect(request).await.map_err(client.failed())?.into_inner();
        cancelled.extend(answer.effect_ids);
    }
    if global.output.is_json() {
        render::print_json(&json!({"effect_ids": cancelled}));
        return Ok(());
    }
    let text = if cancelled.is_empty() { "none".to_owned() } else { cancelled.join(" ") };
    render::print(&format!("cancelled: {text}"));
    Ok(())
}

async fn watch(args: WatchArgs, global: &Global, client: &Client) -> Result<(), Failure> {
    let WatchArgs { filter, from, limit } = args;
    let filter = EffectFilter::from(filter);
    let open = async |from_seq| {
        let request = effect::WatchEffectsRequest { filter: Some(filter.clone()), from_seq };
        Ok(client.effects().watch_effects(request).await?.into_inner())
    };
    let printed = Printed::new(global, table, row);
    watch::follow(client, (from, limit), open, |message| (message.seq, message.effect), printed).await
}

pub(super) fn status_word(effect: &Effect) -> String {
    let status = effect::EffectStatus::try_from(effect.status).unwrap_or(effect::EffectStatus::Unspecified);
    short_word(status.as_str_name(), "EFFECT_STATUS_")
}

/// The status, and whether it is its turn.
fn standing(effect: &Effect) -> String {
    let word = status_word(effect);
    if effect.due { format!("{word}, due") } else { word }
}

fn general(effect: &Effect) -> String {
    effect.general.as_ref().map(|name| format!("{}/{}", name.cluster, name.name)).unwrap_or_default()
}

pub(super) fn table() -> Table {
    Table::new(&["effect", "status", "kind", "target", "general", "delivery", "asked for", ">tries", "note"])
}

pub(super) fn row(effect: &Effect) -> Vec<String> {
    let note = match (effect.message.as_str(), effect.behind.as_str(), effect.repeats.as_str()) {
        ("", "", "") => effect.observed_json.clone(),
        ("", "", repeats) => format!("as {repeats}"),
        ("", behind, _) => format!("after {behind}"),
        (message, _, _) => message.to_owned(),
    };
    vec![
        effect.effect_id.clone(),
        standing(effect),
        clip(&effect.kind, 20),
        clip(&effect.target, 60),
        general(effect),
        effect.delivery_id.clone(),
        format!("{} ago", ago(effect.intended_at.as_ref())),
        effect.attempts.to_string(),
        clip(&note, 60),
    ]
}
