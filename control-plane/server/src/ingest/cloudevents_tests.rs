use super::*;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    headers
}

const REQUIRED: [(&str, &str); 4] =
    [("ce-specversion", "1.0"), ("CE-Id", "a 1"), ("ce-source", "/s"), ("ce-type", "t.u")];

fn binary_with(extra: &[(&str, &str)], body: &'static str) -> Result<IncomingEvent, CloudEventError> {
    let pairs: Vec<_> = REQUIRED.iter().chain(extra).copied().collect();
    let received = receive(&headers(&pairs), &Bytes::from_static(body.as_bytes()))?;
    assert_eq!((received.mode, received.events.len()), (Mode::Binary, 1));
    Ok(received.events.into_iter().next().unwrap())
}

fn json(content_type: &str, body: &str) -> Result<Received, CloudEventError> {
    receive(&headers(&[("content-type", content_type)]), &Bytes::copy_from_slice(body.as_bytes()))
}

/// Reads a structured event of the required attributes and `members`.
fn structured_with(members: &str) -> Result<IncomingEvent, CloudEventError> {
    let body = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{members}}}"#);
    json("application/cloudevents+json; charset=UTF-8", &body).map(|mut received| received.events.remove(0))
}

fn refused_attribute(result: Result<IncomingEvent, CloudEventError>) -> String {
    match result.unwrap_err() {
        CloudEventError::Bad { attribute, .. }
        | CloudEventError::Missing { attribute, .. }
        | CloudEventError::Repeated { attribute } => attribute,
        other => panic!("{other}"),
    }
}

#[test]
fn a_binary_event_is_its_headers_and_the_body_as_it_came() {
    let extra = [
        ("ce-subject", "caf%C3%A9 %22x%22 %"),
        ("ce-time", "2018-04-05T17:31:00Z"),
        ("ce-dataschema", "urn:x"),
        ("ce-lane", "o/r/pr/1"),
        ("content-type", "text/plain"),
        ("accept", "*/*"),
    ];
    let event = binary_with(&extra, "{ \"a\" :1 }").unwrap();
    assert_eq!((event.id.as_str(), event.source.as_str(), event.r#type.as_str()), ("a 1", "/s", "t.u"));
    assert_eq!(event.subject.as_deref(), Some("café \"x\" %"));
    assert_eq!(event.time, Some(Timestamp(1_522_949_460_000)));
    assert_eq!(event.datacontenttype.as_deref(), Some("text/plain"));
    assert_eq!(event.dataschema.as_deref(), Some("urn:x"));
    assert_eq!(event.extensions, BTreeMap::from([("lane".into(), ExtensionValue::String("o/r/pr/1".into()))]));
    assert_eq!(event.data, "{ \"a\" :1 }");
}

#[test]
fn header_values_are_unquoted_and_decoded_once() {
    for (sent, read) in [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%2541", "%41"),
        ("\"a\\\"b%20c\"", "a\"b c"),
        ("100%", "100%"),
        ("%4", "%4"),
        ("%zz", "%zz"),
    ] {
        assert_eq!(binary_with(&[("ce-subject", sent)], "").unwrap().subject.as_deref(), Some(read));
    }
    for bad in ["%ff", "%C3", "\"\\\"", "a%0Ab", "%EF%BF%BF"] {
        assert_eq!(refused_attribute(binary_with(&[("ce-subject", bad)], "")), "subject", "{bad}");
    }
}

#[test]
fn each_required_attribute_is_demanded_by_name() {
    for missing in ["specversion", "id", "source", "type"] {
        let pairs: Vec<_> =
            REQUIRED.iter().filter(|(name, _)| !name.to_lowercase().ends_with(missing)).copied().collect();
        let error = receive(&headers(&pairs), &Bytes::new()).unwrap_err();
        assert!(matches!(&error, CloudEventError::Missing { attribute, .. } if attribute == missing), "{error}");
        let body = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#.replace(missing, "other");
        let error = json("application/cloudevents+json", &body).unwrap_err();
        assert!(matches!(&error, CloudEventError::Missing { attribute, .. } if attribute == missing), "{error}");
    }
    let plain = json("application/json", r#"{"specversion":"1.0"}"#).unwrap_err();
    assert!(plain.to_string().contains("application/cloudevents+json"), "{plain}");
}

#[test]
fn attributes_that_are_not_well_formed_are_refused_by_name() {
    for (name, value) in [
        ("ce-time", "yesterday"),
        ("ce-time", "2018-04-05"),
        ("ce-subject", ""),
        ("ce-dataschema", "/relative"),
        ("ce-data", "x"),
        ("ce-under_score", "x"),
        ("content-type", "json"),
    ] {
        let attribute = refused_attribute(binary_with(&[(name, value)], ""));
        let expected = name.strip_prefix("ce-").unwrap_or("datacontenttype");
        assert_eq!(attribute, expected);
    }
    assert_eq!(refused_attribute(binary_with(&[("ce-subject", "a"), ("ce-subject", "b")], "")), "subject");
    assert_eq!(refused_attribute(binary_with(&[("ce-type", "b")], "")), "type");
    for (member, attribute) in [
        (r#","Upper":"x""#, "Upper"),
        (r#","a-b":"x""#, "a-b"),
        (r#","a":1.5"#, "a"),
        (r#","a":2147483648"#, "a"),
        (r#","a":{}"#, "a"),
        (r#","a":"x\u0000""#, "a"),
        (r#","subject":3"#, "subject"),
        (r#","time":3"#, "time"),
        (r#","":"x""#, ""),
    ] {
        assert_eq!(refused_attribute(structured_with(member)), attribute, "{member}");
    }
    let old = json("application/cloudevents+json", r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#);
    assert_eq!(old.unwrap_err(), bad("specversion", "1.0"));
    let spaced = json("application/cloudevents+json", r#"{"specversion":"1.0","id":"1","source":"a b","type":"t"}"#);
    assert!(matches!(spaced.unwrap_err(), CloudEventError::Bad { attribute, .. } if attribute == "source"));
    let long = "x".repeat(ATTRIBUTE_MAX + 1);
    assert_eq!(refused_attribute(structured_with(&format!(r#","subject":"{long}""#))), "subject");
}

#[test]
fn structured_data_keep_the_bytes_the_sender_wrote() {
    let data = |members: &str| structured_with(members).map(|event| (event.datacontenttype, event.data));
    let media = |text: &str| Some(text.to_owned());
    let written = r#"{"z":1, "a":12345678901234567890123 , "f":1.0}"#;
    assert_eq!(data(&format!(r#","data":{written}"#)), Ok((media("application/json"), Bytes::from(written))));
    assert_eq!(data(r#","datacontenttype":"text/xml","data":"<a>é</a>""#), Ok((media("text/xml"), "<a>é</a>".into())));
    assert_eq!(data(r#","data":"text""#), Ok((media("application/json"), "\"text\"".into())));
    assert_eq!(
        data(r#","datacontenttype":"application/vnd.x+json; v=1","data":"t""#),
        Ok((media("application/vnd.x+json; v=1"), "\"t\"".into()))
    );
    assert_eq!(data(r#","datacontenttype":"text/plain","data":[1]"#), Ok((media("text/plain"), "[1]".into())));
    assert_eq!(data(r#","data_base64":"AAEC""#), Ok((None, Bytes::from_static(&[0, 1, 2]))));
    assert_eq!(data(r#","data":null"#), Ok((None, Bytes::new())));
    assert_eq!(data(r#","data":1,"data_base64":"AAEC""#), Err(CloudEventError::TwoData));
    assert_eq!(data(r#","data_base64":"A""#), Err(CloudEventError::BadBase64));
    assert_eq!(data(r#","data_base64":7"#), Err(CloudEventError::BadBase64));
}

#[test]
fn extensions_keep_their_types_and_null_is_absent() {
    let event = structured_with(r#","a":true,"b":-7,"c":"x","d":null,"subject":null"#).unwrap();
    let expected = [
        ("a".to_owned(), ExtensionValue::Boolean(true)),
        ("b".to_owned(), ExtensionValue::Integer(-7)),
        ("c".to_owned(), ExtensionValue::String("x".to_owned())),
    ];
    assert_eq!((event.extensions, event.subject), (BTreeMap::from(expected), None));
    let many: String = (0..=EXTENSIONS_MAX).map(|index| format!(r#","x{index}":1"#)).collect();
    assert_eq!(structured_with(&many), Err(CloudEventError::TooManyExtensions));
}

#[test]
fn a_batch_is_taken_whole_or_not_at_all() {
    let one = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#;
    let batch = |body: &str| json("application/cloudevents-batch+json", body);
    assert_eq!(batch("[]").map(|received| (received.mode, received.events.len())), Ok((Mode::Batched, 0)));
    assert_eq!(batch(&format!("[{one},{one}]")).unwrap().events.len(), 2);
    let error = batch(&format!("[{one},{{}}]")).unwrap_err();
    assert_eq!(error.to_string(), "event 1 of the batch: attribute `specversion` is missing: expected 1.0");
    let many = vec![one; BATCH_EVENTS_MAX + 1].join(",");
    let error = batch(&format!("[{many}]")).unwrap_err();
    assert_eq!((error.http_status(), error), (413, CloudEventError::BatchTooLong { found: 1001 }));
}

#[test]
fn other_formats_and_broken_json_are_refused() {
    assert_eq!(json("application/cloudevents+avro", "").unwrap_err().http_status(), 415);
    assert_eq!(json("application/cloudevents+json; charset=utf-16", "{}").unwrap_err().http_status(), 415);
    let error = json("application/cloudevents+json", "{\"id\":\n x}").unwrap_err();
    assert!(matches!(error, CloudEventError::BadJson { line: 2, column: 2, .. }), "{error}");
    for body in ["", "[]", "1", "null", "[[", "{\"a\":1}}"] {
        assert_eq!(json("application/cloudevents+json", body).unwrap_err().http_status(), 400, "{body}");
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let seed = br#"[{"specversion":"1.0","id":"1","source":"/s","type":"t","a":-1,"data":{"x":[1,2]},"b":"\u00e9"}]"#;
    let mut state = 5u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..20_000 {
        let mut body = seed.to_vec();
        for _ in 0..next() % 6 {
            let at = (next() % body.len() as u64) as usize;
            body[at] = next() as u8;
        }
        body.truncate((next() % 120) as usize);
        let kind = ["application/cloudevents+json", "application/cloudevents-batch+json", "text/plain"][round % 3];
        let value = http::HeaderValue::from_bytes(&body).ok();
        let mut headers = headers(&[("content-type", kind)]);
        if let Some(value) = value {
            headers.insert("ce-subject", value);
        }
        let _ = receive(&headers, &Bytes::from(body));
    }
    let deep = format!(r#"{{"data":{}"#, "[".repeat(1_000_000));
    assert!(json("application/cloudevents+json", &deep).is_err());
}
