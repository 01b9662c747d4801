//! An answer as it is heard: pieces of a stream in, what was said out. Pure: no socket, no clock.
//!
//! ```text
//!   pieces --> Sse or Lines --> one JSON value each --> dialect --> Heard
//! ```
//! Invariants: an answer whose end the provider did not tell is cut, however whole it looks; what is gathered of one answer stays
//! within [`HEARD_MAX`] bytes and [`CALLS_MAX`] calls; nothing that comes makes it panic.

use serde_json::Value;

use super::dialect::{Dialect, anthropic, gemini, ollama, open_ai};
use super::failure::Kind;
use super::lines::{Lines, Sse, TooLong};
use super::{Stop, ToolCall};

/// Bytes of one event or line of a stream.
pub const PART_MAX: usize = 4 << 20;
/// Bytes of text and of arguments in one answer.
pub const HEARD_MAX: usize = 4 << 20;
/// Calls of tools in one answer.
pub const CALLS_MAX: usize = 128;

/// What a provider counted. Unset is what it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Read in all, from the cache or not.
    pub input: Option<u64>,
    /// Of these, read from the provider's cache.
    pub cached: u64,
    /// Of these, written into the provider's cache.
    pub stored: u64,
    /// Written, thoughts included.
    pub output: Option<u64>,
}

/// Why an answer is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    /// What is wrong, or the provider's own words.
    pub words: String,
}

impl Fault {
    pub(crate) fn new(kind: Kind, words: impl Into<String>) -> Fault {
        Fault { kind, words: words.into() }
    }

    pub(crate) fn protocol(words: impl Into<String>) -> Fault {
        Fault::new(Kind::Invalid, words)
    }
}

impl From<TooLong> for Fault {
    fn from(too_long: TooLong) -> Fault {
        Fault::protocol(too_long.to_string())
    }
}

/// What was heard of an answer so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    pub text: String,
    pub(crate) calls: Vec<Calling>,
    pub(crate) stop: Option<Stop>,
    pub tokens: Tokens,
    /// The provider says that this was all.
    pub(crate) ended: bool,
    /// Why the model would not answer.
    pub(crate) refused: Option<String>,
    /// Bytes gathered, thoughts that are not kept among them.
    pub(crate) bytes: usize,
}

/// A call of a tool, as it grows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Calling {
    /// The provider's number of it; its place where it has none.
    pub(crate) index: u64,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
    pub(crate) signature: Option<String>,
}

impl Heard {
    pub(crate) fn say(&mut self, text: &str) -> Result<(), Fault> {
        self.count(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// Notes what is not kept but was paid for.
    pub(crate) fn count(&mut self, bytes: usize) -> Result<(), Fault> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes > HEARD_MAX {
            true => Err(Fault::protocol(format!("the answer has more than {HEARD_MAX} bytes"))),
            false => Ok(()),
        }
    }

    /// The call of that number, begun where there is none.
    pub(crate) fn call(&mut self, index: u64) -> Result<&mut Calling, Fault> {
        let place = match self.calls.iter().rposition(|call| call.index == index) {
            Some(place) => place,
            None if self.calls.len() >= CALLS_MAX => {
                return Err(Fault::protocol(format!("the answer has more than {CALLS_MAX} calls of tools")));
            }
            None => {
                self.calls.push(Calling { index, ..Calling::default() });
                self.calls.len() - 1
            }
        };
        Ok(&mut self.calls[place])
    }

    /// Adds to a call.
    pub(crate) fn calling(&mut self, index: u64, id: &str, name: &str, arguments: &str) -> Result<(), Fault> {
        self.count(id.len() + name.len() + arguments.len())?;
        let call = self.call(index)?;
        // Some servers repeat id and name in each piece, so they are set and not added to.
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        if call.name.is_empty() {
            name.clone_into(&mut call.name);
        }
        call.arguments.push_str(arguments);
        Ok(())
    }

    /// The calls, each with an id: `turn` tells those that we name from those of other turns.
    fn tool_calls(&mut self, turn: usize) -> Result<Vec<ToolCall>, Fault> {
        let named = |(place, call): (usize, Calling)| {
            let Calling { index: _, id, name, arguments, signature } = call;
            if name.is_empty() {
                return Err(Fault::protocol("the answer calls a tool without a name"));
            }
            let id = if id.is_empty() { format!("call_{turn}_{place}") } else { id };
            let arguments = match arguments.trim() {
                "" => Value::Object(serde_json::Map::new()),
                text => match serde_json::from_str(text) {
                    Ok(object @ Value::Object(_)) => object,
                    _ => Value::String(arguments),
                },
            };
            Ok(ToolCall { id, name, arguments, signature })
        };
        std::mem::take(&mut self.calls).into_iter().enumerate().map(named).collect()
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub stop: Stop,
    pub tokens: Tokens,
}

#[derive(Debug)]
enum Reader {
    Sse(Sse),
    Lines(Lines),
}

/// Hears one answer.
#[derive(Debug)]
pub struct Hearing {
    dialect: Dialect,
    reader: Reader,
    heard: Heard,
}

impl Hearing {
    /// Nothing heard yet.
    #[must_use]
    pub fn new(dialect: Dialect) -> Hearing {
        let reader = match dialect {
            Dialect::Ollama => Reader::Lines(Lines::new(PART_MAX)),
            Dialect::OpenAi | Dialect::Anthropic | Dialect::Gemini => Reader::Sse(Sse::new(PART_MAX)),
        };
        Hearing { dialect, reader, heard: Heard::default() }
    }

    /// What was heard so far.
    #[must_use]
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Whether the provider has said that this was all.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.heard.ended
    }

    /// Takes a piece of the stream.
    ///
    /// # Errors
    /// When the stream tells of a failure, or is none of the dialect.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let (dialect, heard) = (self.dialect, &mut self.heard);
        match &mut self.reader {
            Reader::Sse(sse) => sse.feed(piece, |data| hear(dialect, heard, data)),
            Reader::Lines(lines) => lines.feed(piece, |line| hear(dialect, heard, line)),
        }
    }

    /// The answer, when the stream has ended; `turn` is how far the conversation is.
    ///
    /// # Errors
    /// When it is cut, or the model would not answer.
    pub fn finish(mut self, turn: usize) -> Result<Answer, (Fault, Heard)> {
        // The last line needs no end: a body that is not streamed is a single one.
        if let Reader::Lines(lines) = &self.reader
            && let Err(fault) = hear(self.dialect, &mut self.heard, lines.rest())
        {
            let cut = || Fault::new(Kind::Cut, "the answer broke off within a line");
            return Err((if fault.kind == Kind::Invalid { cut() } else { fault }, self.heard));
        }
        if let Some(why) = self.heard.refused.take() {
            return Err((Fault::new(Kind::Refused, why), self.heard));
        }
        if !self.heard.ended {
            return Err((Fault::new(Kind::Cut, "the answer broke off before its end"), self.heard));
        }
        let calls = match self.heard.tool_calls(turn) {
            Ok(calls) => calls,
            Err(fault) => return Err((fault, self.heard)),
        };
        let stop = match self.heard.stop {
            _ if !calls.is_empty() => Stop::Tools,
            // Tools were promised and none came: what there is of it is all.
            Some(Stop::Tools) | None => Stop::End,
            Some(stop) => stop,
        };
        let Heard { text, tokens, .. } = self.heard;
        Ok(Answer { text, calls, stop, tokens })
    }
}

fn hear(dialect: Dialect, heard: &mut Heard, data: &[u8]) -> Result<(), Fault> {
    if data.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    // After the end nothing counts any more; but Gemini may count tokens after it has said why it stopped.
    if heard.ended && dialect != Dialect::Gemini {
        return Ok(());
    }
    if dialect == Dialect::OpenAi && data.trim_ascii() == b"[DONE]" {
        heard.ended = true;
        return Ok(());
    }
    let value: Value =
        serde_json::from_slice(data).map_err(|_| Fault::protocol("a part of the answer is not JSON"))?;
    match dialect {
        Dialect::OpenAi => open_ai::hear(heard, &value),
        Dialect::Anthropic => anthropic::hear(heard, &value),
        Dialect::Ollama => ollama::hear(heard, &value),
        Dialect::Gemini => gemini::hear(heard, &value),
    }
}

/// A text within a value, empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number within a value.
pub(crate) fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer).and_then(Value::as_u64)
}

/// A list within a value, empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
