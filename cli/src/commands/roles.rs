//! `mindos roles`: who may do what.

use clap::{Args, Subcommand};
use mindos_proto::access::v1::{
    BindRoleRequest, Binding, ListRolesRequest, Role as WireRole, UnbindRoleRequest, binding::Subject,
};
use serde_json::{Value, json};

use super::contexts::done;
use super::words::{Role, role_word};
use crate::client::Client;
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table};

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos roles bind --principal 'oidc:corp#alice' --role operator
  mindos roles bind --group 'oidc:corp#team-x' --role viewer --tenant acme
  mindos roles list
  mindos roles unbind --principal 'oidc:corp#alice' --role operator

Nobody may do anything that no role says.";
const BIND_EXAMPLES: &str = "\
Examples:
  mindos roles bind --principal 'oidc:corp#alice' --role operator
  mindos roles bind --group 'oidc:corp#ci' --role publisher --source 'https://github.com/acme/*'
  mindos roles bind --group 'oidc:corp#platform' --role admin --plane

`mindos auth whoami` shows people their own name and groups, which are as their identity provider has them.";

#[derive(Debug, Subcommand)]
pub(crate) enum RolesCommand {
    /// Give a role to a person, a program or a group; where it has the role, its sources become these.
    #[command(after_help = BIND_EXAMPLES)]
    Bind(BindArgs),
    /// Take a role away.
    #[command(after_help = "Examples:\n  mindos roles unbind --group 'oidc:corp#team-x' --role viewer --tenant acme")]
    Unbind(UnbindArgs),
    /// List the roles that were given.
    #[command(after_help = "Examples:\n  mindos roles list\n  mindos roles list --plane --output json")]
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct UnbindArgs {
    /// Who has it, by name.
    #[arg(long, value_name = "NAME", group = "subject", required_unless_present = "group")]
    principal: Option<String>,
    /// Which group has it.
    #[arg(long, value_name = "NAME", group = "subject")]
    group: Option<String>,
    /// The role.
    #[arg(long, value_enum)]
    role: Role,
    /// For all tenants.
    #[arg(long, conflicts_with = "tenant")]
    plane: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BindArgs {
    #[command(flatten)]
    who: UnbindArgs,
    /// Pattern of the sources that a publisher may name. May be given several times; none where it is left out.
    #[arg(long, value_name = "PATTERN")]
    source: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those that hold for all tenants.
    #[arg(long, conflicts_with = "tenant")]
    plane: bool,
}

impl UnbindArgs {
    fn binding(self, client: &Client, sources: Vec<String>) -> Binding {
        let UnbindArgs { principal, group, role, plane } = self;
        let subject = principal.map(Subject::Principal).or(group.map(Subject::Group));
        Binding { tenant: client.tenant(plane), subject, role: WireRole::from(role).into(), sources }
    }
}

pub(crate) async fn run(command: RolesCommand, global: &Global) -> Result<(), Failure> {
    let client = Client::connect(global).await?;
    let (mut access, failed) = (client.access(), client.failed());
    match command {
        RolesCommand::Bind(BindArgs { who, source }) => {
            let request = BindRoleRequest { binding: Some(who.binding(&client, source)) };
            let answer = access.bind_role(request).await.map_err(&failed)?.into_inner();
            let value = as_json(&answer.binding.unwrap_or_default());
            done(
                global,
                &value,
                &format!("{} is {} in {}", text(&value, "subject"), text(&value, "role"), text(&value, "tenant")),
            );
        }
        RolesCommand::Unbind(who) => {
            let binding = who.binding(&client, Vec::new());
            let value = as_json(&binding);
            access.unbind_role(UnbindRoleRequest { binding: Some(binding) }).await.map_err(&failed)?;
            let said = format!("{} is {} no more", text(&value, "subject"), text(&value, "role"));
            done(global, &json!({ "unbound": value }), &said);
        }
        RolesCommand::List(ListArgs { plane }) => {
            let mut bindings = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = ListRolesRequest { tenant: client.tenant(plane), page_size: 1000, page_token };
                let page = access.list_roles(request).await.map_err(&failed)?.into_inner();
                bindings.extend(page.bindings.iter().map(as_json));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            show(&bindings, global);
        }
    }
    Ok(())
}

fn show(bindings: &[Value], global: &Global) {
    if global.output.is_json() {
        return render::print_json(&json!({ "bindings": bindings }));
    }
    let mut table = Table::new(&["tenant", "who", "role", "sources"]);
    for binding in bindings {
        let sources: Vec<&str> =
            binding["sources"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        table.row(vec![text(binding, "tenant"), text(binding, "subject"), text(binding, "role"), sources.join(", ")]);
    }
    render::print(&table.text());
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn as_json(binding: &Binding) -> Value {
    let Binding { tenant, subject, role, sources } = binding;
    let (kind, subject) = match subject {
        Some(Subject::Principal(name)) => ("principal", name.clone()),
        Some(Subject::Group(name)) => ("group", name.clone()),
        None => ("", String::new()),
    };
    let shown = if kind == "group" { format!("group {subject}") } else { subject.clone() };
    json!({ "tenant": tenant, "kind": kind, "name": subject, "subject": shown, "role": role_word(*role), "sources": sources })
}
