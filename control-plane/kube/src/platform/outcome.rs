//! What a Job tells at its end: by the message of its container's termination, or by the last lines of its log.
//!
//! ```text
//! {"exitCode":0,"pullRequestUrl":"..","branch":"..","sessionId":"..","costUsd":0.42,"inputTokens":9,"outputTokens":3,"message":""}
//! mindos-outcome: { the same, as a line of the log }
//! {"type":"result", .. "total_cost_usd":0.42, "session_id":"..", "usage":{..}}      the agent's own last line
//! ```
//! Invariant: what a Job says is data of its run: an address that is no http(s) one is not taken, and numbers are bounded.

use serde_json::Value;

/// How much of a log is kept with a result, in bytes.
pub const LOG_MAX: usize = 48 << 10;
/// The word before the outcome in a log.
const PREFIX: &str = "mindos-outcome: ";

/// What an attempt told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub exit_code: Option<i32>,
    pub pull_request_url: Option<String>,
    pub branch: Option<String>,
    pub session_id: Option<String>,
    /// In millionths of US dollars.
    pub cost_micros: Option<u64>,
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    /// What went wrong, for people.
    pub message: Option<String>,
}

impl Outcome {
    /// Reads what there is; of several the first that says something counts: termination message, line of the log, the agent's line.
    #[must_use]
    pub fn read(termination: Option<&str>, log: &str) -> Outcome {
        let mut outcome = Outcome::default();
        let from_message = termination.and_then(|text| serde_json::from_str::<Value>(text.trim()).ok());
        // A termination message may be the end of the log.
        let lines = log.lines().rev().chain(termination.unwrap_or_default().lines().rev());
        let from_log =
            lines.clone().find_map(|line| serde_json::from_str::<Value>(line.trim().strip_prefix(PREFIX)?).ok());
        for told in [from_message, from_log].into_iter().flatten() {
            outcome.add(&Outcome::of_script(&told));
        }
        let result = lines.filter(|line| line.contains("\"result\"")).find_map(|line| {
            let value: Value = serde_json::from_str(line.trim()).ok()?;
            (value["type"] == "result").then_some(value)
        });
        if let Some(result) = result {
            outcome.add(&Outcome::of_agent(&result));
        }
        outcome
    }

    fn of_script(told: &Value) -> Outcome {
        Outcome {
            exit_code: told["exitCode"].as_i64().and_then(|code| i32::try_from(code).ok()),
            pull_request_url: text(&told["pullRequestUrl"]).filter(|url| is_address(url)),
            branch: text(&told["branch"]),
            session_id: text(&told["sessionId"]),
            cost_micros: cost(&told["costUsd"]),
            input_tokens: count(&told["inputTokens"]),
            output_tokens: count(&told["outputTokens"]),
            message: text(&told["message"]),
        }
    }

    fn of_agent(result: &Value) -> Outcome {
        let usage = &result["usage"];
        let cached = ["cache_creation_input_tokens", "cache_read_input_tokens"];
        let cached: u64 = cached.iter().filter_map(|name| count(&usage[*name])).sum();
        Outcome {
            session_id: text(&result["session_id"]),
            cost_micros: cost(&result["total_cost_usd"]),
            input_tokens: count(&usage["input_tokens"]).map(|fresh| fresh + cached),
            output_tokens: count(&usage["output_tokens"]),
            ..Outcome::default()
        }
    }

    fn add(&mut self, other: &Outcome) {
        let Outcome {
            exit_code,
            pull_request_url,
            branch,
            session_id,
            cost_micros,
            input_tokens,
            output_tokens,
            message,
        } = other.clone();
        self.exit_code = self.exit_code.or(exit_code);
        self.pull_request_url = self.pull_request_url.take().or(pull_request_url);
        self.branch = self.branch.take().or(branch);
        self.session_id = self.session_id.take().or(session_id);
        self.cost_micros = self.cost_micros.or(cost_micros);
        self.input_tokens = self.input_tokens.or(input_tokens);
        self.output_tokens = self.output_tokens.or(output_tokens);
        self.message = self.message.take().or(message);
    }
}

fn text(value: &Value) -> Option<String> {
    let text = value.as_str().map(str::trim).filter(|text| !text.is_empty())?;
    Some(text.chars().filter(|letter| !letter.is_control()).take(1024).collect())
}

fn is_address(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://")) && url.bytes().all(|byte| byte.is_ascii_graphic())
}

fn cost(value: &Value) -> Option<u64> {
    value.as_f64().filter(|dollars| (0.0..1e6).contains(dollars)).map(|dollars| (dollars * 1e6).round() as u64)
}

fn count(value: &Value) -> Option<u64> {
    value.as_u64().filter(|count| *count < 1 << 40)
}

/// The last part of a log, from the beginning of a line, without control characters that move a terminal.
#[must_use]
pub fn tail(log: &str, max: usize) -> String {
    let mut from = log.len().saturating_sub(max);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    if from > 0
        && let Some(line) = log[from..].find('\n')
        && line + 1 < log.len() - from
    {
        from += line + 1;
    }
    log[from..].chars().filter(|letter| !letter.is_control() || matches!(letter, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = r#"{"type":"result","subtype":"success","total_cost_usd":0.4213,"session_id":"s-1","usage":{"input_tokens":10,"cache_read_input_tokens":5,"output_tokens":3},"result":"ok"}"#;

    #[test]
    fn an_outcome_is_read_wherever_it_stands() {
        let told = r#"{"exitCode":0,"pullRequestUrl":"https://github.com/a/b/pull/7","branch":"feature/x","sessionId":"","costUsd":null,"inputTokens":null,"outputTokens":null,"message":""}"#;
        let log = format!("hello\n{AGENT}\nmindos: pushed\nmindos-outcome: {told}\n");
        for (termination, log) in [(Some(told), AGENT), (None, log.as_str()), (Some(log.as_str()), "")] {
            let outcome = Outcome::read(termination, log);
            assert_eq!(outcome.pull_request_url.as_deref(), Some("https://github.com/a/b/pull/7"));
            assert_eq!((outcome.exit_code, outcome.cost_micros), (Some(0), Some(421_300)));
            assert_eq!((outcome.input_tokens, outcome.output_tokens), (Some(15), Some(3)));
            assert_eq!((outcome.session_id.as_deref(), outcome.message), (Some("s-1"), None));
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_taken() {
        let told = r#"{"exitCode":99999999999,"pullRequestUrl":"javascript:x","costUsd":-1,"inputTokens":1e30,"message":"a\u001b[2Jb"}"#;
        let outcome = Outcome::read(Some(told), "mindos-outcome: {broken\n{\"type\":\"result\"");
        assert_eq!(outcome, Outcome { message: Some("a[2Jb".into()), ..Outcome::default() });
        assert_eq!(Outcome::read(None, ""), Outcome::default());
    }

    #[test]
    fn a_tail_begins_with_a_line_and_is_bounded() {
        let log = "first\nsecond \u{1b}[1mline\nthird\n";
        assert_eq!(tail(log, 1000), "first\nsecond [1mline\nthird\n");
        assert_eq!(tail(log, 12), "third\n");
        assert_eq!(tail(&"\u{4e16}".repeat(10), 10), "\u{4e16}".repeat(3));
    }
}
