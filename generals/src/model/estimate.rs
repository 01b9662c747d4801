//! How many tokens something is likely to be, before a provider has counted: on the safe side, for money is set aside by it.

use super::{Ask, Message};

/// Bytes of a token: about four in English prose, three in code and in most other writing.
const BYTES: u64 = 3;
/// Tokens around each message that providers add.
const AROUND: u64 = 8;

/// Tokens of so many bytes.
#[must_use]
pub fn of_bytes(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX).div_ceil(BYTES)
}

/// Tokens of a question.
#[must_use]
pub fn input(ask: &Ask) -> u64 {
    let messages = ask.messages.iter().map(|message| match message {
        Message::User(text) => text.len(),
        Message::Assistant { text, calls } => {
            text.len() + calls.iter().map(|call| call.name.len() + call.arguments.to_string().len()).sum::<usize>()
        }
        Message::Tool { call: _, name, output } => name.len() + output.len(),
    });
    let tools = ask
        .tools
        .iter()
        .map(|tool| tool.name.len() + tool.description.len() + tool.parameters.value().to_string().len());
    let schema = ask.schema.as_ref().map_or(0, |schema| schema.value().to_string().len());
    let parts = ask.messages.len() + ask.tools.len() + 1;
    let bytes = ask.system.len() + messages.sum::<usize>() + tools.sum::<usize>() + schema;
    of_bytes(bytes).saturating_add(AROUND.saturating_mul(parts as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_question_counts() {
        let short = input(&Ask::of("", "abc"));
        assert_eq!(short, 1 + 16);
        let mut long = Ask::of("abc", "abc");
        long.messages.push(Message::Tool { call: "1".to_owned(), name: "abc".to_owned(), output: "x".repeat(300) });
        assert_eq!(input(&long), (3 + 3 + 3 + 300) / 3 + 24);
    }
}
