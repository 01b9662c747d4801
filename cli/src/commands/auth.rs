//! `mindos auth`: signing in, and what one may do then.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use mindos_model::{Secret, Timestamp};
use mindos_proto::access::v1::{CanIRequest, PrincipalKind, WhoAmIRequest, WhoAmIResponse, can_i_request::What};
use serde_json::json;

use super::contexts::{done, set};
use super::words::{role_word, word};
use crate::client::Client;
use crate::contexts::{Contexts, Kept, Login};
use crate::failure::Failure;
use crate::oidc::{self, Provider};
use crate::options::Global;
use crate::render;
use crate::site::Site;

pub(crate) const EXAMPLES: &str = "\
Examples:
  mindos auth login --endpoint https://mindos.example.com:8090 --ca ca.pem --token-file admin-token
  mindos auth login --context prod --device --issuer https://login.example.com --client-id mindos
  mindos auth whoami
  mindos auth can-i routes.apply
  mindos auth logout";
const LOGIN_EXAMPLES: &str = "\
Examples:
  mindos auth login --endpoint https://mindos.example.com:8090 --ca ca.pem      asks for the token
  mindos auth login --context prod --token-file ./token
  vault read -field=token secret/mindos | mindos auth login --context prod
  mindos auth login --context prod --device --issuer https://login.example.com --client-id mindos

The token is tried, and then kept in the context (`default` when there is none yet), which becomes the current one. With --device a
browser on any machine confirms it, and the token is renewed by itself for as long as the provider allows.";
const CAN_I_EXAMPLES: &str = "\
Examples:
  mindos auth can-i routes.apply
  mindos auth can-i mindos.delivery.v1.DeliveryService/Cancel
  mindos auth can-i 'POST /events' --source https://github.com/acme/site

Ends with 0 where you may and with 3 where you may not.";

#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    /// Sign in at a control plane, with a token or at an identity provider.
    #[command(after_help = LOGIN_EXAMPLES)]
    Login(LoginArgs),
    /// Show who you are there, and what your roles are.
    #[command(after_help = "Examples:\n  mindos auth whoami\n  mindos auth whoami --tenant acme --output json")]
    Whoami,
    /// Ask whether you may do something.
    #[command(name = "can-i", after_help = CAN_I_EXAMPLES)]
    CanI(CanIArgs),
    /// Forget the token of a context. An API token stays good until it is revoked or ends.
    #[command(after_help = "Examples:\n  mindos auth logout\n  mindos auth logout --context prod")]
    Logout,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Sign in at an identity provider, by a code that is confirmed in a browser.
    #[arg(long, requires_all = ["issuer", "client_id"], conflicts_with = "token_file")]
    device: bool,
    /// Address of the identity provider, as the settings of the control plane have it.
    #[arg(long, value_name = "URL", requires = "device")]
    issuer: Option<String>,
    /// What this program is called there.
    #[arg(long, value_name = "ID", requires = "device")]
    client_id: Option<String>,
    /// File of certificates (PEM) that vouch for the identity provider. [default: whom the machine trusts]
    #[arg(long, value_name = "FILE", requires = "device")]
    issuer_ca: Option<PathBuf>,
    /// Scopes to ask for, with spaces between.
    #[arg(long, value_name = "SCOPES", requires = "device", default_value = "openid profile offline_access")]
    scope: String,
    /// Show the access token to the control plane, and not the ID token.
    #[arg(long, requires = "device")]
    access_token: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CanIArgs {
    /// A permission (`routes.apply`), an RPC by its full name, or a method and path (`POST /events`).
    what: String,
    /// Source of events that would be published.
    #[arg(long, value_name = "SOURCE", default_value = "")]
    source: String,
}

pub(crate) async fn run(command: AuthCommand, global: &Global) -> Result<(), Failure> {
    match command {
        AuthCommand::Login(args) => login(args, global).await,
        AuthCommand::Whoami => {
            let client = Client::connect(global).await?;
            let answer = who(&client).await?;
            show(&answer, global);
            Ok(())
        }
        AuthCommand::CanI(args) => can_i(args, global).await,
        AuthCommand::Logout => logout(global),
    }
}

async fn who(client: &Client) -> Result<WhoAmIResponse, Failure> {
    Ok(client.access().who_am_i(WhoAmIRequest {}).await.map_err(client.failed())?.into_inner())
}

async fn login(args: LoginArgs, global: &Global) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    let name = global.context.clone().or(contexts.current.clone()).unwrap_or_else(|| "default".to_owned());
    // What --token-file names is read now, and kept: the file may be a short-lived one.
    let without_file = Global { token_file: None, ..global.clone() };
    let mut context = set(contexts.contexts.get(&name).cloned(), &without_file).map_err(|failure| {
        failure.hint(
            "name the control plane with --endpoint https://HOST:PORT, or one of `mindos contexts list` with --context",
        )
    })?;
    let (token, login) = match args.device {
        true => device(args).await.map(|(token, login)| (token, Some(login)))?,
        false => (given(global)?, None),
    };
    let site = Site {
        endpoint: context.endpoint.clone(),
        ca: context.ca.clone(),
        token: Some(token.clone()),
        tenant: context.tenant.as_ref().map(|tenant| tenant.0.clone()),
    };
    let answer = who(&Client::dial(&site).await?).await?;
    context.forget();
    (context.token, context.login) = (Some(Kept(token)), login);
    contexts.contexts.insert(name.clone(), context);
    contexts.current = Some(name.clone());
    contexts.save()?;
    if !global.output.is_json() {
        render::print(&format!("signed in at {} as {}; context {name}", site.endpoint, answer.principal));
    }
    show(&answer, global);
    Ok(())
}

/// The token that a person or a program gives.
fn given(global: &Global) -> Result<Secret, Failure> {
    if let Some(token) = global.token()? {
        return Ok(token);
    }
    let token = if std::io::stdin().is_terminal() {
        hidden("token: ")?
    } else {
        let mut text = String::new();
        std::io::stdin().take(64 << 10).read_to_string(&mut text)?;
        Secret::new(text)
    };
    if token.is_empty() {
        return Err(Failure::usage("no token was given")
            .hint("type it, send it on standard input, or name a file with --token-file"));
    }
    Ok(token)
}

/// Reads a line from the terminal that is not shown.
fn hidden(prompt: &str) -> Result<Secret, Failure> {
    use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, read};
    use crossterm::terminal::{disable_raw_mode, enable_raw_mode};

    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = disable_raw_mode();
            eprintln!();
        }
    }
    eprint!("{prompt}");
    enable_raw_mode()?;
    let _restore = Restore;
    let mut text = String::new();
    loop {
        let Event::Key(key) = read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match key.code {
            KeyCode::Enter => return Ok(Secret::new(text)),
            KeyCode::Esc => return Err(Failure::usage("nothing was typed")),
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Err(Failure::usage("nothing was typed"));
            }
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => text.clear(),
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char(letter) if text.len() < 64 << 10 => text.push(letter),
            _ => {}
        }
    }
}

async fn device(args: LoginArgs) -> Result<(Secret, Login), Failure> {
    let LoginArgs { device: _, issuer, client_id, issuer_ca, scope, access_token } = args;
    let ca = issuer_ca.map(std::path::absolute).transpose()?;
    let (issuer, client_id) = (issuer.unwrap_or_default(), client_id.unwrap_or_default());
    let provider = Provider { issuer, client_id, ca, scope, access_token };
    oidc::sign_in(&provider, |at, code, complete| {
        eprintln!("open {at} and enter {code}");
        if let Some(complete) = complete {
            eprintln!("or open {complete}");
        }
        eprintln!("waiting for you to confirm ...");
    })
    .await
}

fn show(answer: &WhoAmIResponse, global: &Global) {
    let WhoAmIResponse { principal, kind, tenant, roles, plane, tenants, any_source, sources, .. } = answer;
    let WhoAmIResponse { expires_at_ms, permissions, groups, .. } = answer;
    let kind =
        PrincipalKind::try_from(*kind).map(|kind| word(kind.as_str_name(), "PRINCIPAL_KIND_")).unwrap_or_default();
    let roles: Vec<String> = roles.iter().map(|role| role_word(*role)).collect();
    let expires = u64::try_from(*expires_at_ms).ok().filter(|at| *at > 0).map(|at| Timestamp(at).to_string());
    if global.output.is_json() {
        return render::print_json(&json!({
            "principal": principal,
            "kind": kind,
            "tenant": tenant,
            "roles": roles,
            "plane": plane,
            "tenants": tenants,
            "any_source": any_source,
            "sources": sources,
            "expires_at": expires,
            "permissions": permissions,
            "groups": groups,
        }));
    }
    let list = |items: &[String]| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    let of_plane = if *plane { ", of the whole plane" } else { "" };
    let mut lines = vec![
        format!("principal  {principal} ({kind})"),
        format!("tenant     {tenant}"),
        format!("roles      {}{of_plane}", list(&roles)),
    ];
    if tenants.len() > 1 {
        lines.push(format!("tenants    {}", list(tenants)));
    }
    if !groups.is_empty() {
        lines.push(format!("groups     {}", list(groups)));
    }
    if !any_source && !sources.is_empty() {
        lines.push(format!("sources    {}", list(sources)));
    }
    if let Some(expires) = expires {
        lines.push(format!("until      {expires}"));
    }
    let lines: Vec<String> = lines.iter().map(|line| render::clip(line, 2000)).collect();
    render::print(&lines.join("\n"));
}

async fn can_i(args: CanIArgs, global: &Global) -> Result<(), Failure> {
    let CanIArgs { what: asked, source } = args;
    let what = match asked.trim() {
        asked if asked.contains(' ') => What::Path(asked.to_owned()),
        asked if asked.starts_with('/') => {
            return Err(Failure::usage(format!("`{asked}`: expected a method before a path, such as `GET {asked}`")));
        }
        asked if asked.contains('/') => What::Rpc(asked.to_owned()),
        asked => What::Permission(asked.to_owned()),
    };
    let client = Client::connect(global).await?;
    let request = CanIRequest { what: Some(what), source };
    let answer = client.access().can_i(request).await.map_err(client.failed())?.into_inner();
    let value = json!({ "allowed": answer.allowed, "permission": answer.permission, "reason": answer.reason });
    if global.output.is_json() {
        render::print_json(&value);
    }
    if !answer.allowed {
        let reason = if answer.reason.is_empty() { answer.permission } else { answer.reason };
        return Err(Failure::refused(format!("no: {reason}")));
    }
    if !global.output.is_json() {
        let permission = match answer.permission.as_str() {
            "" => String::new(),
            permission => format!(" ({permission})"),
        };
        render::print(&format!("yes{permission}"));
    }
    Ok(())
}

fn logout(global: &Global) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    let name = global.context.clone().or(contexts.current.clone());
    let name = name.ok_or_else(|| Failure::not_found("there is no current context: name one with --context"))?;
    contexts.named(&name)?;
    let known = contexts.contexts.get_mut(&name).is_some_and(crate::contexts::Context::forget);
    if known {
        contexts.save()?;
    }
    let text = if known { "forgot its token" } else { "has no token" };
    done(global, &json!({ "context": name, "forgotten": known }), &format!("context {name} {text}"));
    Ok(())
}
