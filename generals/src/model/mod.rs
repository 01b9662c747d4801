//! Models: whatever provider one comes from, it is asked and answers in the same words.
//!
//! ```text
//!   Ask --> Models: order, waits --> Provider: places, limits, meter --> dialect: encode --> mindos-outgoing
//!   Said <-- checked, repaired once <---- charged, told apart <----------- hearing: pieces <------+
//! ```
//! `dialect`, `hearing`, `lines`, `schema` and `prices` are pure; `provider` and `command` do what has to be done outside. A provider is added
//! as a dialect: how a question is written, and how one value of its stream is heard. Client crates were looked at and left:
//! ARCHITECTURE.md says why.

mod answer;
mod ask;
mod command;
pub mod dialect;
pub mod estimate;
mod failure;
pub mod hearing;
pub mod lines;
mod meter;
mod models;
pub mod prices;
mod provider;
mod schema;
mod settings;

pub use ask::{Ask, Message, OUTPUT_TOKENS_MAX, Said, Stop, ToolCall, ToolSpec};
pub use failure::{Kind, ModelFailure};
pub use meter::Meter;
pub use models::{Models, read};
pub use schema::{Schema, SchemaError};
pub use settings::{Lookup, ModelOptions, ModelSetting, ModelSettings, ModelSettingsError, Reached, environment};
