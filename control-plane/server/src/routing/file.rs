//! The routes file: YAML or JSON as `mindos.route.v1.RouteTable`, read by the descriptor of that message.
//!
//! Fields have the names that they have there, words are the enum's values without their beginning and in lower case, spans
//! of time are written as `90s`. Invariant: every field of the message can be said in the file, stands in its schema, and is
//! written back; what is wrong is named with its line, its field and what is accepted.

use std::fmt;
use std::sync::LazyLock;

use mindos_proto::FILE_DESCRIPTOR_SET;
use mindos_proto::route::v1::RouteTable;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

mod read;
mod schema;
mod write;

pub use read::{check, parse, with_defaults};
pub use schema::schema;
pub use write::to_yaml;

/// The largest file, in bytes.
pub const FILE_MAX: usize = 4 << 20;
/// What may stand at the top besides: what `routes get` prints about a table.
const ABOUT: [&str; 4] = ["digest", "seq", "applied_by", "applied_at"];
const TABLE: &str = "mindos.route.v1.RouteTable";
const DURATION: &str = "google.protobuf.Duration";

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// From 1; unset where the place is not known.
    pub line: Option<usize>,
    /// Path of the field and what is wrong with it.
    pub message: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for FileError {}

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build wrote the descriptors"));

fn table() -> MessageDescriptor {
    POOL.get_message_by_name(TABLE).expect("the table is in the descriptors")
}

fn dynamic(table: &RouteTable) -> DynamicMessage {
    let encoded = table.encode_to_vec();
    DynamicMessage::decode(self::table(), encoded.as_slice()).expect("a table decodes as one")
}

fn is_span(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(of) if of.full_name() == DURATION)
}

/// The word of an enum's value; `None` for the one that says nothing.
fn words(of: &EnumDescriptor) -> Vec<(String, i32)> {
    let mut beginning = String::new();
    for letter in of.name().chars() {
        if letter.is_ascii_uppercase() && !beginning.is_empty() {
            beginning.push('_');
        }
        beginning.push(letter.to_ascii_uppercase());
    }
    beginning.push('_');
    let said = of.values().filter(|value| value.number() != 0);
    said.map(|value| (value.name().trim_start_matches(&beginning).to_ascii_lowercase(), value.number())).collect()
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
