//! Mirrors of the large messages, in which CloudEvents stay encoded.
//!
//! The control plane stores an event in its encoded form and sends it out unchanged, often several times. With these types it
//! copies bytes where the generated ones would build a tree of strings. Same tags, same bytes: the tests compare every field.
//! A mirrored event is not checked; whoever builds one takes the bytes from a decoded `CloudEvent` or from the journal.
//!
//! With the feature `server` this module holds server stubs for `AgentService` and `EventService` over these types. They serve the
//! same paths as those in `agent::v1` and `event::v1`.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use crate::agent::v1::{
    Call, Cancel, Ceilings, Configure, Drain, Extended, Lost, Mode, Reconcile, Reconciled, Settled, Welcome,
};
use crate::delivery::v1::Token;

#[cfg(feature = "server")]
pub use codec::StreamCodec;
pub use frame::{Assignment, Frame};
#[cfg(feature = "server")]
pub use stubs::{agent_service_server, event_service_server};

/// Mirrors `mindos.agent.v1.ConnectResponse`: a frame of messages from the control plane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectResponseWire {
    /// Number of the first of the messages.
    pub first_number: u64,
    /// The messages in order.
    pub messages: Vec<ControlMessageWire>,
    /// Messages behind those, encoded already; empty in what was read. [`Frame`] makes them.
    pub encoded: Bytes,
}

impl Message for ConnectResponseWire {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if self.first_number != 0 {
            encoding::uint64::encode(1, &self.first_number, buffer);
        }
        encoding::message::encode_repeated(2, &self.messages, buffer);
        buffer.put_slice(&self.encoded);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => encoding::uint64::merge(wire_type, &mut self.first_number, buffer, context),
            2 => encoding::message::merge_repeated(wire_type, &mut self.messages, buffer, context),
            _ => encoding::skip_field(wire_type, tag, buffer, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let number = if self.first_number == 0 { 0 } else { encoding::uint64::encoded_len(1, &self.first_number) };
        number + encoding::message::encoded_len_repeated(2, &self.messages) + self.encoded.len()
    }

    fn clear(&mut self) {
        *self = ConnectResponseWire::default();
    }
}

/// Mirrors `mindos.agent.v1.ControlMessage`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlMessageWire {
    /// The message.
    #[prost(oneof = "ControlWire", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub message: Option<ControlWire>,
}

/// Mirrors `mindos.agent.v1.control_message.Message`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ControlWire {
    /// Answers `Hello`.
    #[prost(message, tag = "1")]
    Welcome(Welcome),
    /// Gives work to a general.
    #[prost(message, tag = "2")]
    Assign(AssignWire),
    /// Extends a lease.
    #[prost(message, tag = "3")]
    Extended(Extended),
    /// Says that a lease is gone.
    #[prost(message, tag = "4")]
    Lost(Lost),
    /// Asks to stop work.
    #[prost(message, tag = "5")]
    Cancel(Cancel),
    /// Answers `Result`.
    #[prost(message, tag = "6")]
    Settled(Settled),
    /// Answers `Reconcile` of the agent side.
    #[prost(message, tag = "7")]
    Reconciled(Reconciled),
    /// Sends configuration.
    #[prost(message, tag = "8")]
    Configure(Configure),
    /// Asks the agent side to leave.
    #[prost(message, tag = "9")]
    Drain(Drain),
    /// Uses a capability of the agent side.
    #[prost(message, tag = "10")]
    Call(Call),
    /// Lists the leases that the control plane believes the agent side to hold.
    #[prost(message, tag = "11")]
    Reconcile(Reconcile),
}

impl From<ControlWire> for ControlMessageWire {
    fn from(message: ControlWire) -> Self {
        Self { message: Some(message) }
    }
}

/// Mirrors `mindos.agent.v1.Assign`; the .proto file says what the fields mean.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AssignWire {
    /// The delivery, such as `d42.1`.
    #[prost(string, tag = "1")]
    pub delivery_id: String,
    /// Fencing token of this lease.
    #[prost(message, optional, tag = "2")]
    pub token: Option<Token>,
    /// Name of the general.
    #[prost(string, tag = "3")]
    pub general: String,
    /// The encoded CloudEvent. Empty means unset.
    #[prost(bytes = "bytes", tag = "4")]
    pub event: Bytes,
    /// How long the lease runs. Unset means the lease of `Welcome`, which is the shorter message.
    #[prost(message, optional, tag = "5")]
    pub lease: Option<prost_types::Duration>,
    /// Which attempt this is, from 1.
    #[prost(uint32, tag = "6")]
    pub attempt: u32,
    /// The lane.
    #[prost(string, tag = "7")]
    pub lane: String,
    /// Its place in the lane.
    #[prost(uint64, tag = "8")]
    pub lane_place: u64,
    /// What the work leads to.
    #[prost(enumeration = "Mode", tag = "9")]
    pub mode: i32,
    /// What the attempt may use.
    #[prost(message, optional, tag = "10")]
    pub ceilings: Option<Ceilings>,
    /// Address of the blob with the encoded event.
    #[prost(string, tag = "11")]
    pub event_ref: String,
    /// W3C trace context.
    #[prost(string, tag = "12")]
    pub traceparent: String,
    /// W3C trace state.
    #[prost(string, tag = "13")]
    pub tracestate: String,
    /// When the attempt has to be done.
    #[prost(message, optional, tag = "14")]
    pub deadline: Option<prost_types::Timestamp>,
    /// The checkpoint of the attempt before.
    #[prost(bytes = "bytes", tag = "15")]
    pub checkpoint: Bytes,
    /// Sequence of the record that accepted the event.
    #[prost(uint64, tag = "16")]
    pub event_seq: u64,
    /// Name of the route.
    #[prost(string, tag = "17")]
    pub route: String,
}

/// Mirrors `mindos.event.v1.PublishRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishRequestWire {
    /// The encoded CloudEvent, as sent. Empty means unset.
    #[prost(bytes = "bytes", tag = "1")]
    pub event: Bytes,
    /// Whether the candidates of each delivery are wanted.
    #[prost(bool, tag = "2")]
    pub explain: bool,
}

/// Mirrors `mindos.event.v1.PublishStreamRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishStreamRequestWire {
    /// Number of the batch on this stream, from 1.
    #[prost(uint64, tag = "1")]
    pub batch: u64,
    /// The encoded CloudEvents, as sent.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub events: Vec<Bytes>,
    /// Whether the results name source, id and all deliveries.
    #[prost(bool, tag = "3")]
    pub explain: bool,
}

#[cfg(feature = "server")]
mod codec;
mod frame;

#[cfg(feature = "server")]
#[allow(clippy::all, missing_docs)]
mod stubs {
    include!(concat!(env!("OUT_DIR"), "/wire/mindos.agent.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/wire/mindos.event.v1.rs"));
}

#[cfg(all(test, feature = "client", feature = "server"))]
mod serve_tests;
#[cfg(test)]
mod tests;
