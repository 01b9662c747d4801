//! What a model is asked, and what it said: the same words for every provider.

use std::path::PathBuf;

use mindos_sdk::Usage;
use serde_json::Value;

use super::Schema;

/// Tokens of an answer where the asker says nothing.
pub const OUTPUT_TOKENS_MAX: u32 = 4096;

/// One question to a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// What the model is and has to do. May be empty.
    pub system: String,
    /// The conversation so far; the last one is not the assistant's.
    pub messages: Vec<Message>,
    /// What the model may call.
    pub tools: Vec<ToolSpec>,
    /// What the answer has to look like, as JSON. [`super::Models::structured`] sets it and checks the answer.
    pub schema: Option<Schema>,
    /// Tokens that the answer may have. At least 1.
    pub output_tokens_max: u32,
    /// 0 to 2; unset leaves it to the provider.
    pub temperature: Option<f32>,
    /// Over 0 to 1; unset leaves it to the provider.
    pub top_p: Option<f32>,
    /// A single prompt is continued rather than a conversation, where the provider tells the two apart (Ollama's
    /// `/api/generate`, which the coding agent has always used). Needs one message of the user and no tools, else it is a conversation.
    pub completion: bool,
    /// Where a model that is a command runs; unset gives it an empty folder that is removed after it.
    pub directory: Option<PathBuf>,
}

impl Default for Ask {
    fn default() -> Ask {
        Ask {
            system: String::new(),
            messages: Vec::new(),
            tools: Vec::new(),
            schema: None,
            output_tokens_max: OUTPUT_TOKENS_MAX,
            temperature: None,
            top_p: None,
            completion: false,
            directory: None,
        }
    }
}

impl Ask {
    /// A question in one message.
    #[must_use]
    pub fn of(system: impl Into<String>, user: impl Into<String>) -> Ask {
        Ask { system: system.into(), messages: vec![Message::User(user.into())], ..Ask::default() }
    }

    /// The prompt, where it is one to be continued.
    pub(crate) fn prompt(&self) -> Option<&str> {
        match self.messages.as_slice() {
            [Message::User(prompt)] if self.completion && self.tools.is_empty() => Some(prompt),
            _ => None,
        }
    }
}

/// A turn of the conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    User(String),
    Assistant {
        text: String,
        calls: Vec<ToolCall>,
    },
    /// What a tool gave.
    Tool {
        /// [`ToolCall::id`].
        call: String,
        /// [`ToolCall::name`].
        name: String,
        output: String,
    },
}

impl Message {
    /// What a model said, as a turn of the conversation that goes on.
    #[must_use]
    pub fn said(said: &Said) -> Message {
        Message::Assistant { text: said.text.clone(), calls: said.calls.clone() }
    }
}

/// A tool that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSpec {
    /// 1 to 64 of `a-z A-Z 0-9 _ -`.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// What its arguments look like: an object.
    pub parameters: Schema,
}

/// A model wants a tool called.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Names the call within the conversation. Made by us where the provider gives none.
    pub id: String,
    pub name: String,
    /// An object; a string where the model wrote something that is none, which no tool's parameters accept.
    pub arguments: Value,
    /// What the provider wants back with the call, unread (Gemini's signature of its thoughts).
    pub signature: Option<String>,
}

/// What a model said.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub stop: Stop,
    /// What this call used; the meter has been told already.
    pub usage: Usage,
    /// The model, as `provider:name`.
    pub model: String,
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It had said all.
    End,
    /// It reached `output_tokens_max`: the text may be cut anywhere.
    Length,
    /// It wants tools called.
    Tools,
}
