//! Words of the model and the enum values that stand for them.

use mindos_model::{EffectStatus, ParkReason, Priority, Status, Strategy};

use super::Invalid;
use crate::{delivery, effect, route};

/// Both ways between a word and its enum value, and from the number on the wire.
macro_rules! word {
    ($model:ident, $message:ty, $field:literal, { $($variant:ident),+ }) => {
        impl From<$model> for $message {
            fn from(word: $model) -> Self {
                match word {
                    $($model::$variant => Self::$variant),+
                }
            }
        }

        impl TryFrom<$message> for $model {
            type Error = Invalid;

            fn try_from(value: $message) -> Result<Self, Invalid> {
                match value {
                    $(<$message>::$variant => Ok($model::$variant),)+
                    other => Err(Invalid::new($field, format_args!("{} is not accepted here", other.as_str_name()))),
                }
            }
        }
    };
}

word!(Status, delivery::v1::DeliveryStatus, "status", { Waiting, Leased, Parked, Succeeded, Cancelled });
word!(ParkReason, delivery::v1::ParkReason, "park_reason", {
    Poison, TooLarge, AttemptsExhausted, Blocked, BacklogFull, OverBudget, Delayed, Guarded
});
word!(EffectStatus, effect::v1::EffectStatus, "status", { Waiting, Failed, Done, DryRun, Cancelled, Repeated });
word!(Strategy, route::v1::Strategy, "strategy", {
    Broadcast, RoundRobin, LoadBalanced, Sticky, Failover, Race, Split, Shadow
});
word!(Priority, route::v1::Priority, "priority", { Low, Normal, High });

/// Reads the number of an enum value as a word; unspecified is `None`.
///
/// # Errors
/// When the number is not known, or the word is not accepted.
pub fn word<M, W>(number: i32, field: &'static str) -> Result<Option<W>, Invalid>
where
    M: TryFrom<i32>,
    W: TryFrom<M, Error = Invalid>,
{
    if number == 0 {
        return Ok(None);
    }
    let value = M::try_from(number).map_err(|_| Invalid::new(field, format_args!("value {number} is not known")))?;
    W::try_from(value).map(Some).map_err(|error| Invalid::new(field, error.reason))
}
