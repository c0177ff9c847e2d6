//! Records as JSON, one object a line: what `consume --format json` writes and `produce --input json` reads.
//!
//! ```json
//! {"topic":"t","partition":0,"offset":7,"timestamp":1700000000000,"key":"k","value":"v","headers":[["name","value"]]}
//! ```
//!
//! Bytes that are UTF-8 are a string, and null is null, which is not the same as "". Other bytes are base64 (RFC 4648, with padding) under
//! `key_base64` and `value_base64`, which then stand in the place of `key` and `value`. A header is a pair of its name and its value: a string,
//! null, or `{"base64":"..."}`.
//!
//! On the way in, `value` or `value_base64` has to be there; all else may be left out. `topic` and `offset` are not used: the command says
//! where to, and the service gives the offset. An unknown field is an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use tidelog_client::{ConsumedRecord, Header};

#[derive(Serialize)]
struct Written<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    #[serde(flatten)]
    key: Key<'a>,
    #[serde(flatten)]
    value: Value<'a>,
    headers: Vec<(&'a str, HeaderValue<'a>)>,
}

#[derive(Serialize)]
enum Key<'a> {
    #[serde(rename = "key")]
    Text(Option<&'a str>),
    #[serde(rename = "key_base64", serialize_with = "as_base64")]
    Bytes(&'a [u8]),
}

#[derive(Serialize)]
enum Value<'a> {
    #[serde(rename = "value")]
    Text(Option<&'a str>),
    #[serde(rename = "value_base64", serialize_with = "as_base64")]
    Bytes(&'a [u8]),
}

#[derive(Serialize)]
#[serde(untagged)]
enum HeaderValue<'a> {
    Text(Option<&'a str>),
    Bytes {
        #[serde(serialize_with = "as_base64")]
        base64: &'a [u8],
    },
}

fn as_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

/// Text if the bytes are UTF-8, else the bytes.
fn text(bytes: Option<&Bytes>) -> Result<Option<&str>, &[u8]> {
    bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes.as_ref())).transpose()
}

/// Appends a record as one line, newline included.
pub fn write(record: &ConsumedRecord, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let headers = record.headers.iter().map(|header| {
        let value = match text(header.value.as_ref()) {
            Ok(text) => HeaderValue::Text(text),
            Err(base64) => HeaderValue::Bytes { base64 },
        };
        (header.key.as_str(), value)
    });
    let written = Written {
        topic: record.topic.as_str(),
        partition: record.partition.get(),
        offset: record.offset.get(),
        timestamp: record.timestamp.0,
        key: text(record.key.as_ref()).map_or_else(Key::Bytes, Key::Text),
        value: text(record.value.as_ref()).map_or_else(Value::Bytes, Value::Text),
        headers: headers.collect(),
    };
    serde_json::to_writer(&mut *out, &written)?;
    out.push(b'\n');
    Ok(())
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Its partition, if the line names one.
    pub partition: Option<i32>,
    /// Its timestamp, if the line names one.
    pub timestamp: Option<i64>,
    /// Key; `None` is null.
    pub key: Option<Bytes>,
    /// Value; `None` is null.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "topic")]
    _topic: Option<String>,
    partition: Option<i32>,
    #[serde(rename = "offset")]
    _offset: Option<i64>,
    timestamp: Option<i64>,
    /// Outer `None`: the field is not there; inner: it is null.
    #[serde(default, deserialize_with = "present")]
    key: Option<Option<String>>,
    key_base64: Option<String>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Option<String>>,
    value_base64: Option<String>,
    #[serde(default)]
    headers: Vec<(String, ReadHeader)>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ReadHeader {
    Text(Option<String>),
    Bytes(ReadBase64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadBase64 {
    base64: String,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Reads one line.
pub fn read(line: &[u8]) -> Result<Parsed, String> {
    let read: Read = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let headers = read.headers.into_iter().map(|(key, value)| {
        let value = match value {
            ReadHeader::Text(text) => text.map(Bytes::from),
            ReadHeader::Bytes(ReadBase64 { base64 }) => Some(decode("headers", &base64)?),
        };
        Ok(Header { key, value })
    });
    Ok(Parsed {
        partition: read.partition,
        timestamp: read.timestamp,
        key: field("key", read.key, read.key_base64)?.flatten(),
        value: field("value", read.value, read.value_base64)?
            .ok_or("neither value nor value_base64 is there; \"value\":null makes a tombstone")?,
        headers: headers.collect::<Result<_, String>>()?,
    })
}

fn field(
    name: &str,
    text: Option<Option<String>>,
    base64: Option<String>,
) -> Result<Option<Option<Bytes>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_base64 are there")),
        (Some(text), None) => Ok(Some(text.map(Bytes::from))),
        (None, Some(base64)) => decode(name, &base64).map(|bytes| Some(Some(bytes))),
        (None, None) => Ok(None),
    }
}

fn decode(name: &str, base64: &str) -> Result<Bytes, String> {
    STANDARD.decode(base64).map(Bytes::from).map_err(|error| format!("{name} is no base64: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidelog_client::{Offset, PartitionIndex, TimestampMs, TopicName};

    use super::*;

    fn record(key: Option<Bytes>, value: Option<Bytes>, headers: Vec<Header>) -> ConsumedRecord {
        ConsumedRecord {
            topic: TopicName::new("t").expect("a name"),
            partition: PartitionIndex::new(3).expect("in range"),
            offset: Offset::new(i64::MAX).expect("in range"),
            timestamp: TimestampMs(-5),
            key,
            value,
            headers,
        }
    }

    fn line(record: &ConsumedRecord) -> String {
        let mut out = Vec::new();
        write(record, &mut out).expect("serializable");
        String::from_utf8(out).expect("JSON")
    }

    #[test]
    fn the_form_is_fixed() {
        let headers = vec![
            Header { key: "h".into(), value: Some("v".into()) },
            Header { key: "h".into(), value: None },
            Header { key: String::new(), value: Some(Bytes::from_static(b"\xff")) },
        ];
        assert_eq!(
            line(&record(None, Some(Bytes::new()), headers)),
            "{\"topic\":\"t\",\"partition\":3,\"offset\":9223372036854775807,\"timestamp\":-5,\"key\":null,\"value\":\"\",\
             \"headers\":[[\"h\",\"v\"],[\"h\",null],[\"\",{\"base64\":\"/w==\"}]]}\n"
        );
        let bytes = line(&record(Some(Bytes::from_static(b"\xfe")), None, Vec::new()));
        assert!(bytes.contains("\"key_base64\":\"/g==\",\"value\":null,\"headers\":[]"), "{bytes}");
    }

    #[test]
    fn what_is_not_exactly_that_is_refused() {
        for (wrong, why) in [
            ("", "EOF"),
            ("[]", "invalid"),
            ("{}", "neither value nor value_base64"),
            (r#"{"value":"a","valeu":"b"}"#, "unknown field"),
            (r#"{"value":"a","value_base64":"YQ=="}"#, "both value"),
            (r#"{"value":"a","value":"b"}"#, "duplicate"),
            (r#"{"value_base64":"Y"}"#, "no base64"),
            (r#"{"value":"a","headers":[["k"]]}"#, "tuple"),
            (r#"{"value":"a","headers":[["k",{"base65":""}]]}"#, "did not match"),
            (r#"{"value":"a"} x"#, "trailing"),
            (r#"{"value":"a","partition":3000000000}"#, "invalid value"),
        ] {
            let error = read(wrong.as_bytes()).expect_err(wrong);
            assert!(error.contains(why), "{wrong}: {error}");
        }
        assert_eq!(read(br#"{"value":null}"#).map(|parsed| parsed.value), Ok(None));
        assert_eq!(read(br#"{"value":""}"#).map(|parsed| parsed.value), Ok(Some(Bytes::new())));
    }

    fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
        // Text as often as bytes that are none.
        prop_oneof![
            Just(None),
            any::<String>().prop_map(|text| Some(text.into())),
            any::<Vec<u8>>().prop_map(|bytes| Some(bytes.into())),
        ]
    }

    proptest! {
        #[test]
        fn a_round_trip_changes_no_byte(
            key in any_bytes(),
            value in any_bytes(),
            headers in proptest::collection::vec((any::<String>(), any_bytes()), 0..4),
        ) {
            let headers: Vec<Header> = headers.into_iter().map(|(key, value)| Header { key, value }).collect();
            let written = record(key.clone(), value.clone(), headers.clone());
            let text = line(&written);
            prop_assert_eq!(text.matches('\n').count(), 1);
            let parsed = read(text.as_bytes());
            let expected = Parsed { partition: Some(3), timestamp: Some(-5), key, value, headers };
            prop_assert_eq!(parsed, Ok(expected));
        }

        #[test]
        fn no_bytes_panic(line in any::<Vec<u8>>()) {
            let _ = read(&line);
        }
    }
}
