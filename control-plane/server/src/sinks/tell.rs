//! Notices of parked work: told to people where they already are, in the form of that place and at its pace.

use std::time::Duration;

use super::message::Notice;
use super::road::{Refused, judge};
use crate::notify::{Paces, Place, told};
use mindos_outgoing::{Outgoing, Request};

/// Tells of one delivery that was parked, once the place may be told of anything.
pub(super) async fn tell(
    place: &Place,
    paces: &Paces,
    client: &Outgoing,
    notice: &Notice,
    timeout: Duration,
) -> Result<(), Refused> {
    let message = notice.message.as_deref().unwrap_or_default();
    let request = notice.parked.and_then(|reason| place.parked(notice.delivery, reason, message, notice.at));
    let Some(request) = request else { return Ok(()) };
    paces.take(place).await;
    let origin = request.target.origin();
    judge(client.send(Request { timeout, ..request }).await, &origin, told)
}
