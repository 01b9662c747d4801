//! The control plane that a command talks to: where it is, whom to trust there, and as whom to call.
//!
//! ```text
//!   endpoint   --endpoint, MINDOS_SERVER   else the context's   else http://127.0.0.1:8090
//!   token      --token-file, MINDOS_TOKEN  else the context's, for the context's endpoint alone
//! ```
//! Invariant: what a context holds goes to its own endpoint, whatever else is named on the command line.

use std::path::PathBuf;
use std::time::Duration;

use mindos_model::{Secret, TenantName};
use mindos_sdk::{AddressError, Dialer, Roots, Tls};

use crate::contexts::{Context, Contexts, token_in};
use crate::failure::Failure;
use crate::oidc;
use crate::options::Global;

/// Where a control plane of this machine is.
const HERE: &str = "http://127.0.0.1:8090";
/// How long dialling may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A control plane and a caller.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) endpoint: String,
    /// Certificates that vouch for it; whom the machine trusts when unset.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) token: Option<Secret>,
    pub(crate) tenant: Option<TenantName>,
}

impl Site {
    /// One without credentials, such as one that was just started here.
    pub(crate) fn plain(endpoint: &str) -> Site {
        Site { endpoint: endpoint.to_owned(), ca: None, token: None, tenant: None }
    }

    /// What the command line, the environment and the contexts come to. Has a token of an identity provider renewed where it is about
    /// to end.
    pub(crate) async fn of(global: &Global) -> Result<Site, Failure> {
        let contexts = Contexts::load()?;
        let chosen = contexts.chosen(global.context.as_deref())?;
        let mut site = Site {
            endpoint: global
                .endpoint
                .clone()
                .or(chosen.map(|(_, context)| context.endpoint.clone()))
                .unwrap_or(HERE.to_owned()),
            ca: global.ca.clone(),
            token: global.token()?,
            tenant: global.tenant.clone(),
        };
        let Some((name, context)) = chosen.filter(|(_, context)| context.endpoint == site.endpoint) else {
            return Ok(site);
        };
        site.ca = site.ca.or_else(|| context.ca.clone());
        site.tenant = site.tenant.or_else(|| context.tenant.clone().map(|tenant| tenant.0));
        if site.token.is_none() {
            site.token = token_of(name, context).await?;
        }
        Ok(site)
    }

    /// How it is dialled.
    pub(crate) fn dialer(&self) -> Result<Dialer, Failure> {
        let Site { endpoint, ca, token, tenant } = self;
        let refused = |error: AddressError| Failure::usage(format!("--endpoint {}", chain(&error)));
        let mut dialer = Dialer::new(endpoint).map_err(refused)?.connect_max(CONNECT_WITHIN);
        if dialer.is_tls() {
            let roots = ca.as_deref().map_or(Ok(Roots::System), Roots::file);
            let tls = roots.and_then(|roots| Tls::new(&roots)).map_err(|error| match ca {
                Some(_) => Failure::usage(format!("--ca: {}", chain(&error))),
                None => Failure::usage(chain(&error)).hint("name a file of certificates with --ca or MINDOS_CA"),
            })?;
            dialer = dialer.tls(tls);
        }
        if let Some(token) = token {
            dialer = dialer.token(token).map_err(|error| match error {
                AddressError::Token(error) => Failure::usage(error.to_string()),
                other => refused(other),
            })?;
        }
        Ok(match tenant {
            Some(tenant) => dialer.tenant(tenant),
            None => dialer,
        })
    }
}

impl Global {
    /// The token that is named outside of contexts.
    pub(crate) fn token(&self) -> Result<Option<Secret>, Failure> {
        if let Some(path) = &self.token_file {
            return token_in(path).map(Some);
        }
        let token = std::env::var("MINDOS_TOKEN").ok().map(Secret::new);
        Ok(token.filter(|token| !token.is_empty()))
    }
}

impl Contexts {
    /// The context by that name, or the current one.
    pub(crate) fn chosen(&self, name: Option<&str>) -> Result<Option<(&str, &Context)>, Failure> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        let context = self.named(name)?;
        let (name, _) = self.contexts.get_key_value(name).expect("it was just found");
        Ok(Some((name, context)))
    }
}

/// The token that a context holds, renewed where it is about to end.
async fn token_of(name: &str, context: &Context) -> Result<Option<Secret>, Failure> {
    if let Some(path) = &context.token_file {
        return token_in(path).map(Some);
    }
    match &context.login {
        Some(login) if oidc::is_ending(login) => oidc::renew(name, login).await.map(Some),
        _ => Ok(context.token.clone().map(|kept| kept.0)),
    }
}

/// An error with all that it came from.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
