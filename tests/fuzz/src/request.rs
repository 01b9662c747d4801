//! HTTP requests as one text: header lines, an empty line, the body.
//!
//! Invariant: any bytes are a request; lines that are no header are left out.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers and body of `input`.
#[must_use]
pub fn parse(input: &[u8]) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let mut rest = input;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        // As many as a server lets through.
        if let (Ok(name), Ok(value)) = (name, value)
            && headers.len() < 100
        {
            headers.append(name, value);
        }
    }
    (headers, Bytes::copy_from_slice(rest))
}

/// The text of a request.
#[must_use]
pub fn write(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in headers {
        text.extend_from_slice(format!("{name}: {value}\n").as_bytes());
    }
    text.push(b'\n');
    text.extend_from_slice(body);
    text
}

/// Where the body of `input` begins.
#[must_use]
pub fn body_at(input: &[u8]) -> usize {
    if input.first() == Some(&b'\n') {
        return 1;
    }
    input.windows(2).position(|pair| pair == b"\n\n").map_or(input.len(), |at| at + 2)
}
