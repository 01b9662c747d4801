//! The words that every part of Mind OS shares: ids, names, times, limits and plain enums.
//!
//! Nothing here waits, allocates without need or knows a wire format, so the SDK stays small and both cores stay pure.

mod delivery;
mod id;
pub mod limits;
mod name;
mod role;
mod secret;
mod task;
mod time;

pub use delivery::{EffectStatus, FailureKind, ParkReason, Priority, Status, Strategy};
pub use id::{DeliveryId, EffectId, ParseIdError, Seq, Token};
pub use name::{
    BootId, BudgetName, ClusterName, GeneralName, GeneralType, InstanceId, NameError, Region, RouteName, TenantName,
};
pub use role::Role;
pub use secret::Secret;
pub use task::TaskMode;
pub use time::{ParseTimeError, Timestamp};
