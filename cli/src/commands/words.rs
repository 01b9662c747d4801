//! Words of access, as people write them.

use clap::ValueEnum;
use mindos_model::Timestamp;
use mindos_proto::access::v1 as wire;
use mindos_proto::convert;

use crate::render::short_word;

/// What a principal may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// Reads what belongs to its tenant.
    Viewer,
    /// Publishes events of the sources it is granted; reads nothing.
    Publisher,
    /// All of a viewer; cancels, redrives, holds, replays, sets routes and budgets, lets agents join and turns them away.
    Operator,
    /// Everything within its tenant.
    Admin,
}

impl From<Role> for wire::Role {
    fn from(role: Role) -> wire::Role {
        match role {
            Role::Viewer => wire::Role::Viewer,
            Role::Publisher => wire::Role::Publisher,
            Role::Operator => wire::Role::Operator,
            Role::Admin => wire::Role::Admin,
        }
    }
}

/// The word of an enum's value.
pub(super) fn word(name: &str, prefix: &str) -> String {
    short_word(name, prefix).replace('_', "-")
}

/// The word of a role.
pub(super) fn role_word(role: i32) -> String {
    wire::Role::try_from(role).map_or_else(|_| role.to_string(), |role| word(role.as_str_name(), "ROLE_"))
}

/// A time, as it is shown; empty where there is none.
pub(super) fn at(at: Option<&prost_types::Timestamp>) -> String {
    at.and_then(|at| convert::timestamp(at, "at").ok()).map(|at: Timestamp| at.to_string()).unwrap_or_default()
}
