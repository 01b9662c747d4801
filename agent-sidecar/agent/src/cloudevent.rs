//! An event in the two forms that generals get it in: HTTP headers, and one JSON object.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue};
use mindos_sdk::{Event, base64};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The event's attributes as `ce-` headers of the HTTP binding, binary mode.
pub(crate) fn headers(event: &Event) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let fixed = [("id", event.id()), ("source", event.source()), ("specversion", "1.0"), ("type", event.ty())];
    for (name, value) in fixed {
        put(&mut headers, name, value);
    }
    for (name, value) in event.attributes() {
        // Travels as Content-Type.
        if name != "datacontenttype" {
            put(&mut headers, name, &value);
        }
    }
    headers
}

fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    let Ok(name) = HeaderName::try_from(format!("ce-{name}")) else { return };
    if let Ok(value) = HeaderValue::try_from(percent_encoded(value)) {
        headers.insert(name, value);
    }
}

/// As the HTTP binding wants it: printable ASCII stays, but for the space, the quote and the percent sign.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => {}
            0x21..=0x7e => {
                encoded.push(char::from(byte));
                continue;
            }
            _ => {}
        }
        write!(encoded, "%{byte:02X}").expect("a String grows");
    }
    encoded
}

/// The event's data as JSON: itself if it is JSON, else as text, else in base64.
pub(crate) fn data(event: &Event) -> Box<RawValue> {
    let bytes = event.bytes();
    let json = event.content_type().is_none_or(|media| is_json(&media));
    if json
        && let Ok(text) = std::str::from_utf8(&bytes)
        && let Ok(value) = RawValue::from_string(text.trim().to_owned())
    {
        return value;
    }
    let value = match std::str::from_utf8(&bytes) {
        Ok("") => Value::Null,
        Ok(text) => Value::from(text),
        Err(_) => Value::from(base64(&bytes)),
    };
    serde_json::value::to_raw_value(&value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The event as one JSON object, as the JSON format of CloudEvents has it.
pub(crate) fn json(event: &Event) -> Vec<u8> {
    let mut object = Map::new();
    let fixed = [("specversion", "1.0"), ("id", event.id()), ("source", event.source()), ("type", event.ty())];
    for (name, value) in fixed {
        object.insert(name.to_owned(), Value::from(value));
    }
    for (name, value) in event.attributes() {
        object.insert(name.to_owned(), Value::from(value.into_owned()));
    }
    let bytes = event.bytes();
    let mut text = Value::Object(object).to_string();
    if !bytes.is_empty() {
        text.pop();
        let (member, value) = match std::str::from_utf8(&bytes) {
            Ok(_) => ("data", data(event).get().to_owned()),
            Err(_) => ("data_base64", Value::from(base64(&bytes)).to_string()),
        };
        write!(text, ",\"{member}\":{value}}}").expect("a String grows");
    }
    text.into_bytes()
}

fn is_json(media: &str) -> bool {
    let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_follow_the_http_binding() {
        let event = Event::new("https://s", "a b", "t").subject("Euro € 100% \"x\"").json("{}");
        let headers = headers(&event);
        assert_eq!(headers["ce-specversion"], "1.0");
        assert_eq!(headers["ce-id"], "a%20b");
        assert_eq!(headers["ce-subject"], "Euro%20%E2%82%AC%20100%25%20%22x%22");
        assert!(!headers.contains_key("ce-datacontenttype"));
    }

    #[test]
    fn data_are_json_text_or_base64() {
        let event = Event::new("s", "1", "t");
        assert_eq!(data(&event).get(), "null");
        assert_eq!(data(&event.clone().json(" {\"a\":  1} ")).get(), "{\"a\":  1}");
        assert_eq!(data(&event.clone().json("{broken")).get(), "\"{broken\"");
        assert_eq!(data(&event.clone().data("text/plain", "17")).get(), "\"17\"");
        assert_eq!(data(&event.data("image/png", vec![0xff, 0xfe])).get(), "\"//4=\"");
    }

    #[test]
    fn the_json_form_is_one_object() {
        let event = Event::new("s", "1", "t").subject("x").json("{\"a\":1}");
        let value: Value = serde_json::from_slice(&json(&event)).unwrap();
        assert_eq!(value["data"]["a"], 1);
        assert_eq!((value["subject"].as_str(), value["specversion"].as_str()), (Some("x"), Some("1.0")));
        let binary: Value = serde_json::from_slice(&json(&Event::new("s", "1", "t").data("x/y", vec![0xff]))).unwrap();
        assert_eq!(binary["data_base64"], "/w==");
        let empty: Value = serde_json::from_slice(&json(&Event::new("s", "1", "t"))).unwrap();
        assert_eq!(empty.get("data"), None);
    }
}
