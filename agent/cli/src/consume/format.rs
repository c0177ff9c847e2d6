//! How `consume` writes a record: `raw`, `json`, or a template.

use std::io::Write;
use std::str::FromStr;

use tidelog_client::ConsumedRecord;

use crate::record_json;

/// How records are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordFormat {
    /// The value and a newline; a null value is an empty line.
    Raw,
    /// One JSON object a line.
    Json,
    /// What a template says, without a newline of its own.
    Template(Vec<Piece>),
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Written as it is.
    Text(Vec<u8>),
    /// `%t`
    Topic,
    /// `%p`
    Partition,
    /// `%o`
    Offset,
    /// `%T`: milliseconds since 1970-01-01 UTC.
    Timestamp,
    /// `%k`: the key's bytes; nothing for null.
    Key,
    /// `%v`: the value's bytes; nothing for null.
    Value,
    /// `%h`: `name=value` of each header, divided by commas; only `name` if the value is null.
    Headers,
}

impl FromStr for RecordFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "raw" => Ok(Self::Raw),
            "json" => Ok(Self::Json),
            _ if text.contains('%') => template(text).map(Self::Template),
            _ => {
                Err("expected raw, json, or a template with at least one of %t %p %o %T %k %v %h".to_owned())
            }
        }
    }
}

fn template(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut plain = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let piece = match character {
            '\\' => {
                plain.push(escaped(&mut characters)?);
                continue;
            }
            '%' => match characters.next() {
                Some('t') => Piece::Topic,
                Some('p') => Piece::Partition,
                Some('o') => Piece::Offset,
                Some('T') => Piece::Timestamp,
                Some('k') => Piece::Key,
                Some('v') => Piece::Value,
                Some('h') => Piece::Headers,
                Some('%') => {
                    plain.push(b'%');
                    continue;
                }
                Some(other) => {
                    return Err(format!("%{other} is unknown, expected %t %p %o %T %k %v %h or %%"));
                }
                None => return Err("there is nothing behind the last %".to_owned()),
            },
            other => {
                plain.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(piece);
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

fn escaped(characters: &mut std::str::Chars<'_>) -> Result<u8, String> {
    match characters.next() {
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('r') => Ok(b'\r'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits: String = characters.by_ref().take(2).collect();
            let two = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| two);
            byte.ok_or_else(|| format!("\\x{digits} is no byte, expected two hexadecimal digits"))
        }
        Some(other) => Err(format!("\\{other} is unknown, expected \\n \\t \\r \\0 \\\\ or \\xNN")),
        None => Err("there is nothing behind the last backslash".to_owned()),
    }
}

impl RecordFormat {
    /// Appends a record.
    pub fn write(&self, record: &ConsumedRecord, out: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            Self::Raw => {
                out.extend_from_slice(record.value.as_deref().unwrap_or_default());
                out.push(b'\n');
            }
            Self::Json => record_json::write(record, out)?,
            Self::Template(pieces) => pieces.iter().try_for_each(|piece| piece.write(record, out))?,
        }
        Ok(())
    }
}

impl Piece {
    fn write(&self, record: &ConsumedRecord, out: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            Self::Text(text) => out.extend_from_slice(text),
            Self::Topic => out.extend_from_slice(record.topic.as_str().as_bytes()),
            Self::Partition => write!(out, "{}", record.partition)?,
            Self::Offset => write!(out, "{}", record.offset)?,
            Self::Timestamp => write!(out, "{}", record.timestamp)?,
            Self::Key => out.extend_from_slice(record.key.as_deref().unwrap_or_default()),
            Self::Value => out.extend_from_slice(record.value.as_deref().unwrap_or_default()),
            Self::Headers => {
                for (position, header) in record.headers.iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(header.key.as_bytes());
                    if let Some(value) = &header.value {
                        out.push(b'=');
                        out.extend_from_slice(value);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidelog_client::{Header, Offset, PartitionIndex, TimestampMs, TopicName};

    use super::*;

    fn written(format: &str) -> Vec<u8> {
        let record = ConsumedRecord {
            topic: TopicName::new("orders").expect("a name"),
            partition: PartitionIndex::new(3).expect("in range"),
            offset: Offset::new(42).expect("in range"),
            timestamp: TimestampMs(-7),
            key: None,
            value: Some(Bytes::from_static(b"\xffv%k")),
            headers: vec![
                Header { key: "a".into(), value: Some("1".into()) },
                Header { key: "a".into(), value: None },
                Header { key: "b".into(), value: Some(Bytes::new()) },
            ],
        };
        let mut out = Vec::new();
        format.parse::<RecordFormat>().expect(format).write(&record, &mut out).expect("into memory");
        out
    }

    #[test]
    fn templates_are_filled_in() {
        assert_eq!(written("raw"), b"\xffv%k\n");
        assert_eq!(written(r"%t[%p]@%o %T\t"), b"orders[3]@42 -7\t");
        assert_eq!(written(r"%k|%v\n"), b"|\xffv%k\n");
        assert_eq!(written(r"%h %%\\\x41\0\r é%o"), "a=1,a,b= %\\A\0\r é42".as_bytes());
    }

    #[test]
    fn unknown_templates_are_refused() {
        for wrong in ["", "text", "%", "%x", r"%v\", r"%v\q", r"%v\x4", r"%v\xé1", r"%v\x+1", "%é"] {
            assert!(wrong.parse::<RecordFormat>().is_err(), "{wrong}");
        }
    }
}
