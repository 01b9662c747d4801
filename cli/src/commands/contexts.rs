//! `mindos contexts`: the control planes that a person works with.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::contexts::{self, Context, Contexts, TenantText};
use crate::failure::Failure;
use crate::options::Global;
use crate::render::{self, Table};
use crate::site::Site;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos contexts set prod --endpoint https://mindos.example.com:8090 --ca /etc/mindos/ca.pem
  mindos contexts use prod
  mindos contexts list
  mindos contexts delete prod

They are kept in ~/.config/mindos/config.yaml (XDG_CONFIG_HOME and MINDOS_CONFIG say otherwise), which nobody else may read.";
const SET_EXAMPLES: &str = "\
Examples:
  mindos contexts set prod --endpoint https://mindos.example.com:8090
  mindos contexts set prod --endpoint https://mindos.example.com:8090 --ca /etc/mindos/ca.pem --tenant acme
  mindos contexts set ci --endpoint https://mindos.example.com:8090 --token-file /run/secrets/mindos

`mindos auth login` keeps a token in it. Another endpoint makes it forget its token.";

#[derive(Debug, Subcommand)]
pub(crate) enum ContextsCommand {
    /// List the contexts.
    #[command(after_help = "Examples:\n  mindos contexts list\n  mindos contexts list --output json")]
    List,
    /// Make a context the current one.
    #[command(after_help = "Examples:\n  mindos contexts use prod")]
    Use(NameArgs),
    /// Make a context, or change one: what --endpoint, --ca, --tenant and --token-file say.
    #[command(after_help = SET_EXAMPLES)]
    Set(NameArgs),
    /// Forget a context, and the token in it.
    #[command(after_help = "Examples:\n  mindos contexts delete prod")]
    Delete(NameArgs),
}

/// A context by its name.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Name of the context: 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`.
    #[arg(value_parser = contexts::name)]
    name: String,
}

pub(crate) fn run(command: ContextsCommand, global: &Global) -> Result<(), Failure> {
    let mut known = Contexts::load()?;
    match command {
        ContextsCommand::List => {
            list(&known, global);
            Ok(())
        }
        ContextsCommand::Use(NameArgs { name }) => {
            known.named(&name)?;
            known.current = Some(name.clone());
            known.save()?;
            done(global, &json!({ "current": name }), &format!("{name} is the current context"));
            Ok(())
        }
        ContextsCommand::Set(NameArgs { name }) => {
            let context = set(known.contexts.remove(&name), global).map_err(|failure| match failure.hint {
                None => failure.hint("see `mindos contexts set --help`"),
                Some(_) => failure,
            })?;
            known.contexts.insert(name.clone(), context);
            // The first one is meant.
            known.current = known.current.or_else(|| Some(name.clone()));
            known.save()?;
            let shown = as_json(&name, &known.contexts[&name], known.current.as_ref() == Some(&name));
            done(global, &shown, &format!("context {name} is {}", known.contexts[&name].endpoint));
            Ok(())
        }
        ContextsCommand::Delete(NameArgs { name }) => {
            known.named(&name)?;
            known.contexts.remove(&name);
            known.current = known.current.filter(|current| *current != name);
            known.save()?;
            done(global, &json!({ "deleted": name }), &format!("context {name} is forgotten"));
            Ok(())
        }
    }
}

/// A context with what the command line says in place of what it said before.
pub(crate) fn set(before: Option<Context>, global: &Global) -> Result<Context, Failure> {
    let mut context = match (before, &global.endpoint) {
        (Some(context), None) => context,
        (Some(context), Some(endpoint)) if context.endpoint == *endpoint => context,
        // Credentials are for one control plane, and so is who vouches for it.
        (_, Some(endpoint)) => Context::new(endpoint.clone()),
        (None, None) => return Err(Failure::usage("--endpoint is needed for a context that is not there yet")),
    };
    let absolute = |path: &std::path::PathBuf| {
        std::path::absolute(path).map_err(|error| Failure::usage(format!("`{}`: {error}", path.display())))
    };
    if let Some(ca) = &global.ca {
        context.ca = Some(absolute(ca)?);
    }
    if let Some(tenant) = &global.tenant {
        context.tenant = Some(TenantText(tenant.clone()));
    }
    if let Some(path) = &global.token_file {
        context.forget();
        context.token_file = Some(absolute(path)?);
    }
    // Says what is wrong with it before it is kept.
    let site = Site { endpoint: context.endpoint.clone(), ca: context.ca.clone(), token: None, tenant: None };
    site.dialer()?;
    Ok(context)
}

fn list(known: &Contexts, global: &Global) {
    let is_current = |name: &String| known.current.as_ref() == Some(name);
    if global.output.is_json() {
        let all = known.contexts.iter().map(|(name, context)| as_json(name, context, is_current(name)));
        return render::print_json(&json!({ "contexts": all.collect::<Vec<_>>() }));
    }
    let mut table = Table::new(&["", "name", "endpoint", "tenant", "signed in with"]);
    for (name, context) in &known.contexts {
        let mark = if is_current(name) { "*" } else { "" };
        let tenant = context.tenant.as_ref().map(|tenant| tenant.0.to_string()).unwrap_or_default();
        table.row(vec![mark.to_owned(), name.clone(), context.endpoint.clone(), tenant, how(context).to_owned()]);
    }
    render::print(&table.text());
}

/// By what a context signs in. Says nothing of the secret.
fn how(context: &Context) -> &'static str {
    match (&context.token_file, &context.login, &context.token) {
        (Some(_), ..) => "token file",
        (_, Some(_), _) => "identity provider",
        (.., Some(_)) => "token",
        (None, None, None) => "",
    }
}

fn as_json(name: &str, context: &Context, current: bool) -> serde_json::Value {
    let Context { endpoint, ca, tenant, token: _, token_file, login } = context;
    json!({
        "name": name,
        "endpoint": endpoint,
        "ca": ca,
        "tenant": tenant.as_ref().map(|tenant| tenant.0.as_str()),
        "signed_in_with": how(context),
        "token_file": token_file,
        "issuer": login.as_ref().map(|login| &login.issuer),
        "current": current,
    })
}

/// Says what was done.
pub(super) fn done(global: &Global, value: &serde_json::Value, text: &str) {
    match global.output.is_json() {
        true => render::print_json(value),
        false => render::print(text),
    }
}
