//! Access: who may do what, which agents may join, and what a tenant may use, as the records say.
//!
//! Invariants: nothing but [`Access::fold`] changes it; a thing that is pointed to by its hash or its target is there; each list
//! stays within its bound of [`mindos_model::limits`].

mod authority;
mod binding;
mod change;
mod check;
mod denial;
mod error;
mod identity;
mod issuer;
mod join;
mod quota;
mod record;
mod state;
mod token;

pub use authority::{AuthorityChange, Checkpoint, KeyId, SigningKey};
pub use binding::{Binding, Scope, Subject};
pub use change::AccessChange;
pub use denial::{Denial, DenialId, DenialTarget, KeyHash};
pub use error::{AccessError, JoinRefusal, JoinRefused};
pub use identity::{Identity, IdentityError, IdentityHolder};
pub use issuer::{Issuer, IssuerGrant};
pub use join::{Join, Presented};
pub use quota::TenantQuota;
pub use record::{AccessRecord, JoinedBy};
pub use state::{Access, AccessItem};
pub use token::{ApiToken, Holder, JoinToken, TokenHash, TokenId};

#[cfg(test)]
mod tests;
