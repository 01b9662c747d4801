//! The agent's end of the stream: dials, frames messages, and drives the pure [`Agent`](mindos_sidecar_core::Agent).
//!
//! Made for those who bring their own way of doing work, such as the sidecar and load generators. Whoever writes a general in Rust
//! is better served by [`serve`](crate::serve()), which stands on this.
//!
//! ```text
//!   control plane ==frames==> decode -> Agent -> Adapter::start --+
//!                 <==frames== encode <- Agent <- Finish at once --+-- or later, through Handle::finished
//! ```
//! Everything runs in the one task that polls [`Connection::run`]; an adapter that answers at once costs no task, channel or lock
//! per delivery.

mod assignment;
mod codec;
mod decode;
mod driver;
mod encode;
mod inbox;
mod protobuf;

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use mindos_model::{DeliveryId, Token};
use mindos_sidecar_core as core;

pub(crate) use assignment::event;
pub use assignment::{Assignment, AssignmentError};
pub(crate) use decode::ceilings_of;
#[doc(hidden)]
pub use decode::probe;
pub use driver::{AgentError, Connection, Identity};
pub use inbox::Handle;

/// What work came to, beside its outcome.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// What the general produced, at most 256 KiB.
    pub output: Bytes,
    /// Media type of the output. Empty means `application/octet-stream`.
    pub content_type: Cow<'static, str>,
    /// Address of the blob with the output, where it is too large to be inline.
    pub output_ref: Option<String>,
    /// What models were used for.
    pub usage: Vec<core::Usage>,
    /// What is to be done outside.
    pub effects: Vec<crate::Effect>,
    /// How long the general worked, if known.
    pub duration: Option<Duration>,
}

/// How work ended and what it came to.
pub type Finish = core::Finish<Body>;

/// Does the work.
pub trait Adapter: Send {
    /// Starts work. Returns what it came to if that is known at once; otherwise [`Handle::finished`] has to be called for it, also
    /// after [`Adapter::stop`].
    fn start(&mut self, work: Start) -> Option<Finish>;

    /// Asks work to stop, and ends it by force when `grace` is over. Unknown work is ignored.
    fn stop(&mut self, delivery: DeliveryId, token: Token, grace: Duration);

    /// Says what work may use in all from here on, after it asked for more; as before where there is no more.
    fn granted(&mut self, delivery: DeliveryId, token: Token, ceilings: core::Ceilings) {
        let _ = (delivery, token, ceilings);
    }
}

/// Work to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// Which of the agent's generals is to do it.
    pub general: core::GeneralIndex,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Token of its lease.
    pub token: Token,
    /// The assignment, still encoded.
    pub assignment: Assignment,
}

#[cfg(test)]
mod tests;
