//! Why somebody is not let in, as callers see it.
//!
//! Invariant: nothing here repeats a credential, or says whether something of another tenant is there.

use mindos_proto::convert::Invalid;
use mindos_proto::rpc::Status;
use tonic::Code;

use super::gate::TENANT_HEADER;
use super::permission::Permission;
use super::principal::Principal;
use crate::grpc::status;

/// The principal lacks what it takes.
#[must_use]
pub fn denied(permission: Permission, principal: &Principal) -> Status {
    let name = permission.name();
    let had_by = match permission {
        Permission::Surface(right) | Permission::Needs(right) => right.had_by(),
        Permission::Agent => "agents, by their certificates".to_owned(),
        Permission::Public | Permission::Anyone | Permission::Webhook => "everybody".to_owned(),
    };
    let message = format!(
        "{} has not the permission {name} for tenant {}: it is that of {had_by}",
        principal.name, principal.tenant
    );
    Status::new(Code::PermissionDenied as i32, message)
        .with_reason("PERMISSION_DENIED", [("permission", name.to_owned()), ("principal", principal.name.to_string())])
}

/// The source of an event is not among those that were granted.
#[must_use]
pub fn source(principal: &Principal, source: &str) -> Status {
    let message =
        format!("{} may not publish events of source {source}: it is granted to none of its patterns", principal.name);
    Status::new(Code::PermissionDenied as i32, message).with_reason(
        "SOURCE_NOT_GRANTED",
        [
            ("permission", "events.publish".to_owned()),
            ("source", source.to_owned()),
            ("principal", principal.name.to_string()),
        ],
    )
}

/// The tenant that is named is none.
#[must_use]
pub fn malformed_tenant() -> Status {
    let accepted = "expected the name of a tenant: 1 to 63 characters of a-z, 0-9, `-`, `.` and `_`, with a letter or digit at either end";
    status::invalid(Invalid::new(TENANT_HEADER, accepted))
}
