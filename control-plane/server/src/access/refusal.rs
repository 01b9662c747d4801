//! Why somebody is not let in, as callers see it.
//!
//! Invariant: nothing here repeats a credential, or says whether something of another tenant is there.

use std::fmt;

use mindos_proto::convert::Invalid;
use mindos_proto::rpc::Status;
use tonic::Code;

use super::authenticate::TENANT_HEADER;
use super::jwt::JwtError;
use super::permission::Permission;
use super::principal::Principal;
use crate::grpc::status;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $reason:literal, $message:literal;)+) => {
        /// Why nobody is known by what a request shows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refused { $($(#[$doc])* $variant),+ }

        impl Refused {
            /// All of them, in order.
            pub const ALL: &'static [Refused] = &[$(Refused::$variant),+];

            /// The reason in `ErrorInfo`, which never changes.
            #[must_use]
            pub fn reason(self) -> &'static str {
                match self { $(Refused::$variant => concat!("UNAUTHENTICATED_", $reason)),+ }
            }

            fn message(self) -> &'static str {
                match self { $(Refused::$variant => $message),+ }
            }
        }
    };
}

reasons! {
    /// It shows nothing.
    NoCredential = "NO_CREDENTIAL", "no credential was sent: expected `authorization: Bearer` with an API token or a token of the identity provider";
    /// Another scheme than `Bearer`.
    Scheme = "SCHEME", "authorization: expected the scheme `Bearer`";
    /// Neither a token nor a JWT.
    Malformed = "MALFORMED", "authorization: expected one API token, `mindos_api_` and 43 characters, or one JSON Web Token";
    /// A join token, which is for agents.
    JoinToken = "JOIN_TOKEN", "authorization: a join token lets an agent join, and is no credential of the API";
    /// Revoked, or never made.
    Unknown = "TOKEN_UNKNOWN", "the API token is not known: it was revoked, or never made";
    /// Its time is over.
    Expired = "TOKEN_EXPIRED", "the API token has expired";
    /// No provider vouches for it.
    Jwt = "JWT_REFUSED", "the token of the identity provider is not accepted";
    /// The agent or its key is denied.
    Denied = "AGENT_DENIED", "the agent is denied";
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Status {
        Status::new(Code::Unauthenticated as i32, refused.message()).with_reason(refused.reason(), [])
    }
}

/// No identity provider vouches for who shows a token.
#[must_use]
pub fn jwt(error: &JwtError) -> Status {
    let reason = format!("UNAUTHENTICATED_{}", error.word());
    Status::new(Code::Unauthenticated as i32, error.to_string()).with_reason(&reason, [])
}

fn forbidden(message: String, reason: &str, principal: &str, permission: &str) -> Status {
    let info = [("permission", permission.to_owned()), ("principal", principal.to_owned())];
    let info = info.into_iter().filter(|(_, value)| !value.is_empty());
    Status::new(Code::PermissionDenied as i32, message).with_reason(reason, info)
}

/// The principal lacks what it takes.
#[must_use]
pub fn denied(permission: Permission, principal: &Principal) -> Status {
    let name = permission.name();
    let had_by = match permission {
        Permission::Surface(right) | Permission::Needs(right) => right.had_by(),
        Permission::Agent => "agents, by their certificates".to_owned(),
        Permission::Public | Permission::Anyone | Permission::Webhook => "everybody".to_owned(),
    };
    let Principal { name: who, tenant, .. } = principal;
    let message = format!("{who} lacks the permission {name} in tenant {tenant}: it takes {had_by}");
    forbidden(message, "PERMISSION_DENIED", who, name)
}

/// The principal has less than when its stream began.
#[must_use]
pub fn less(principal: &Principal) -> Status {
    let who = &principal.name;
    forbidden(format!("roles or sources of {who} have changed: dial again"), "ACCESS_CHANGED", who, "")
}

/// A page that a browser shows asks on its own account.
#[must_use]
pub fn browser(what: &str) -> Status {
    let message = format!("{what}: while nobody is asked who they are, pages of other sites may not call");
    forbidden(message, "OTHER_SITE", "", "")
}

/// The source of an event is not among those that were granted.
#[must_use]
pub fn source(principal: &Principal, source: &str) -> Status {
    let who = &principal.name;
    let message = format!("{who} may not publish events of source {source}: none of the patterns granted fits it");
    forbidden(message, "SOURCE_NOT_GRANTED", who, "events.publish")
}

/// The principal has no role in the tenant that it names, whether there is such a tenant or not.
#[must_use]
pub fn no_role(who: &str) -> Status {
    let message = format!("{who} has no role in the tenant that `{TENANT_HEADER}` names");
    forbidden(message, "TENANT_WITHOUT_ROLE", who, "")
}

/// The principal has roles in several tenants and does not say which is meant.
#[must_use]
pub fn ambiguous_tenant(who: &str) -> Status {
    let reason = format!("is required: {who} has roles in several tenants");
    status::invalid(Invalid::new(TENANT_HEADER, reason))
}

/// More tenants were chosen than may be.
#[must_use]
pub fn too_many_tenants(max: usize) -> Status {
    let message = format!("{max} tenants were named by `{TENANT_HEADER}` since the start: no more may be");
    Status::new(Code::ResourceExhausted as i32, message).with_reason("TENANTS_FULL", [("max", max.to_string())])
}

/// The tenant that is named is none.
#[must_use]
pub fn malformed_tenant() -> Status {
    let accepted = "expected the name of a tenant: 1 to 63 characters of a-z, 0-9, `-`, `.` and `_`, with a letter or digit at either end";
    status::invalid(Invalid::new(TENANT_HEADER, accepted))
}
