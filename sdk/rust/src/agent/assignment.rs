//! An assignment as it came: encoded, and read only as far as somebody asks.

use bytes::Bytes;
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::wire::AssignWire;
use prost::Message;

/// An encoded `mindos.agent.v1.Assign`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub(super) encoded: Bytes,
    /// The encoded event, where an earlier assignment of the frame brought it.
    pub(super) event: Option<Bytes>,
}

/// Why an assignment cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AssignmentError {
    /// It is not the message that it should be.
    #[error("failed to decode the assignment")]
    Assign(#[source] prost::DecodeError),
    /// The event in it is not one.
    #[error("failed to decode the event")]
    Event(#[source] prost::DecodeError),
}

impl Assignment {
    /// The encoded message. Its event is missing where an earlier one of the same frame brought it: [`Assignment::decode`] puts it in.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The encoded event, where an earlier assignment of the same frame brought it and this one does not have it.
    #[must_use]
    pub fn shared_event(&self) -> Option<&Bytes> {
        self.event.as_ref()
    }

    /// The same in memory of its own: what it was cut from can be freed.
    #[must_use]
    pub fn detached(&self) -> Assignment {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        Assignment { encoded: copy(&self.encoded), event: self.event.as_ref().map(copy) }
    }

    /// All its fields, the event still encoded.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn decode(&self) -> Result<AssignWire, AssignmentError> {
        let mut assign = AssignWire::decode(self.encoded.clone()).map_err(AssignmentError::Assign)?;
        if let Some(event) = &self.event {
            assign.event = event.clone();
        }
        Ok(assign)
    }
}

/// Reads an encoded event.
pub(crate) fn event(encoded: Bytes) -> Result<CloudEvent, AssignmentError> {
    CloudEvent::decode(encoded).map_err(AssignmentError::Event)
}
