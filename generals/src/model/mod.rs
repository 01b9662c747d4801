//! Models: whatever provider one comes from, it is asked and answers in the same words.

mod ask;
mod failure;
mod meter;
mod models;
mod schema;

pub use ask::{Ask, Message, OUTPUT_TOKENS_MAX, Said, Stop, ToolCall, ToolSpec};
pub use failure::ModelFailure;
pub use meter::Meter;
pub use models::Models;
pub use schema::{Schema, SchemaError};
