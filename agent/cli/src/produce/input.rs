//! What a line of input means as a record.

use bytes::Bytes;
use tidelog_client::{Header, PartitionIndex, ProducerRecord, TimestampMs, TopicName};

use crate::record_json;

/// How lines are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum InputFormat {
    /// One record a line: its value, byte for byte.
    #[default]
    Raw,
    /// One JSON object a line, as `consume --format json` writes.
    Json,
}

/// What the command line says about all records.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Where to.
    pub topic: TopicName,
    /// How lines are read.
    pub format: InputFormat,
    /// The key of each record.
    pub key: Option<Bytes>,
    /// What divides key and value in a line.
    pub key_delimiter: Option<Bytes>,
    /// Headers of each record.
    pub headers: Vec<Header>,
    /// The partition of each record.
    pub partition: Option<PartitionIndex>,
    /// The timestamp of each record.
    pub timestamp: Option<TimestampMs>,
}

impl Shape {
    /// The record that a line stands for; an error says what is wrong with the line.
    pub fn record(&self, line: Bytes) -> Result<ProducerRecord, String> {
        let mut record = ProducerRecord {
            topic: self.topic.clone(),
            partition: self.partition,
            timestamp: self.timestamp,
            key: self.key.clone(),
            value: None,
            headers: Vec::new(),
        };
        match self.format {
            InputFormat::Raw => self.fill_raw(&mut record, line)?,
            InputFormat::Json => self.fill_json(&mut record, &line)?,
        }
        record.headers.extend(self.headers.iter().cloned());
        Ok(record)
    }

    fn fill_raw(&self, record: &mut ProducerRecord, line: Bytes) -> Result<(), String> {
        let Some(delimiter) = &self.key_delimiter else {
            record.value = Some(line);
            return Ok(());
        };
        let at = line
            .windows(delimiter.len())
            .position(|window| window == delimiter)
            .ok_or_else(|| format!("there is no key delimiter {:?}", String::from_utf8_lossy(delimiter)))?;
        record.key = Some(line.slice(..at));
        record.value = Some(line.slice(at + delimiter.len()..));
        Ok(())
    }

    fn fill_json(&self, record: &mut ProducerRecord, line: &[u8]) -> Result<(), String> {
        let parsed = record_json::read(line)?;
        if record.key.is_none() {
            record.key = parsed.key;
        }
        record.value = parsed.value;
        record.headers = parsed.headers;
        if let (None, Some(partition)) = (record.partition, parsed.partition) {
            record.partition = Some(PartitionIndex::new(partition).map_err(|error| error.to_string())?);
        }
        record.timestamp = record.timestamp.or(parsed.timestamp.map(TimestampMs));
        Ok(())
    }
}

/// Reads `--header NAME:VALUE`.
pub fn header(text: &str) -> Result<Header, String> {
    let (key, value) = text.split_once(':').ok_or("expected NAME:VALUE")?;
    Ok(Header { key: key.to_owned(), value: Some(Bytes::copy_from_slice(value.as_bytes())) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(format: InputFormat) -> Shape {
        Shape {
            topic: TopicName::new("t").expect("a name"),
            format,
            key: None,
            key_delimiter: None,
            headers: Vec::new(),
            partition: None,
            timestamp: None,
        }
    }

    #[test]
    fn a_raw_line_is_a_value() {
        let record =
            shape(InputFormat::Raw).record(Bytes::from_static(b"\xff a\r")).expect("any line is a value");
        assert_eq!((record.key, record.value), (None, Some(Bytes::from_static(b"\xff a\r"))));
        let empty = shape(InputFormat::Raw).record(Bytes::new()).expect("any line is a value");
        assert_eq!(empty.value, Some(Bytes::new()));
    }

    #[test]
    fn the_first_delimiter_divides_key_and_value() {
        let shape = Shape { key_delimiter: Some("::".into()), ..shape(InputFormat::Raw) };
        let record = shape.record("k::v::w".into()).expect("has a delimiter");
        assert_eq!((record.key, record.value), (Some("k".into()), Some("v::w".into())));
        let record = shape.record("::".into()).expect("has a delimiter");
        assert_eq!((record.key, record.value), (Some(Bytes::new()), Some(Bytes::new())));
        assert!(shape.record("k:v".into()).is_err());
    }

    #[test]
    fn the_command_line_goes_before_the_json() {
        let line = Bytes::from_static(
            br#"{"partition":2,"timestamp":9,"key":"k","value":"v","headers":[["a","1"]]}"#,
        );
        let record = shape(InputFormat::Json).record(line.clone()).expect("valid");
        assert_eq!(record.partition.map(PartitionIndex::get), Some(2));
        assert_eq!(record.timestamp, Some(TimestampMs(9)));
        let shape = Shape {
            key: Some("other".into()),
            partition: PartitionIndex::new(0).ok(),
            timestamp: Some(TimestampMs(1)),
            headers: vec![header("b:2:3").expect("valid")],
            ..shape(InputFormat::Json)
        };
        let record = shape.record(line).expect("valid");
        assert_eq!(record.partition.map(PartitionIndex::get), Some(0));
        assert_eq!((record.timestamp, record.key), (Some(TimestampMs(1)), Some("other".into())));
        let headers: Vec<_> = record.headers.into_iter().map(|header| (header.key, header.value)).collect();
        assert_eq!(headers, [("a".to_owned(), Some("1".into())), ("b".to_owned(), Some("2:3".into()))]);
    }
}
