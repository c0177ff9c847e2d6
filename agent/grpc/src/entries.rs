//! Counts the entries of a produce request while its bytes come by.
//!
//! Two bytes of protobuf are an empty entry, and become a struct of more than a hundred: a request of 16 MiB could unfold to 2 GiB before
//! anybody has looked at it. So the entries are counted before they are decoded.

use tidelog_proto::limits::PARTITIONS_PER_REQUEST_MAX;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::ErrorReason;
use tonic::Status;

use crate::admission::Call;

/// Entries that are decoded. Requests with more than are allowed get an error from whoever has decoded them, which names them; this is
/// for those that must not be decoded.
const ENTRIES_MAX: usize = 4 * PARTITIONS_PER_REQUEST_MAX;

/// Number of the field that holds the entries: of `ProduceRequest`, and of `ProduceStreamAppend`.
const PRODUCE_ENTRIES: u64 = 1;
const APPEND_ENTRIES: u64 = 2;
/// Number of the field of `ProduceStreamRequest` that holds the append.
const STREAM_APPEND: u64 = 2;

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy)]
enum At {
    Tag,
    /// A number that is a field's value.
    Number,
    /// The length of this field.
    Length(u64),
    /// That many bytes of a value.
    Value(u64),
    /// Something that is no protobuf; whoever decodes it says so.
    Lost,
}

/// The entries of one message, so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entries {
    call: Call,
    at: At,
    /// The number that is being read, and how many of its bits are known.
    number: u64,
    bits: u32,
    /// Bytes of the append that are still to come, where a stream's message holds one.
    append_left: u64,
    found: usize,
}

impl Entries {
    /// For the next message of a call.
    pub fn of(call: Call) -> Self {
        // Other messages are small.
        let at = if call == Call::Bare { At::Lost } else { At::Tag };
        Self { call, at, number: 0, bits: 0, append_left: 0, found: 0 }
    }

    /// Counts the entries that begin in the next bytes; an error if there are too many.
    pub fn count(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.at {
                At::Lost => return Ok(()),
                At::Value(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[here..];
                    self.append_left = self.append_left.saturating_sub(here as u64);
                    self.at = At::value(left - here as u64);
                }
                At::Tag | At::Number | At::Length(_) => {
                    bytes = rest;
                    let is_inside = self.append_left > 0;
                    self.append_left = self.append_left.saturating_sub(1);
                    if let Some(number) = self.number(byte) {
                        self.at = self.after(number, is_inside)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The number that ends with this byte.
    fn number(&mut self, byte: u8) -> Option<u64> {
        if self.bits > 63 {
            self.at = At::Lost;
            return None;
        }
        self.number |= u64::from(byte & 0x7f) << self.bits;
        self.bits += 7;
        if byte & 0x80 != 0 {
            return None;
        }
        self.bits = 0;
        Some(std::mem::take(&mut self.number))
    }

    /// What follows on a number.
    fn after(&mut self, number: u64, is_inside: bool) -> Result<At, Status> {
        Ok(match self.at {
            At::Tag => match number & 7 {
                0 => At::Number,
                1 => At::Value(8),
                2 => At::Length(number >> 3),
                // The bounds of a group; what is in it looks like any other field.
                3 | 4 => At::Tag,
                5 => At::Value(4),
                _ => At::Lost,
            },
            At::Length(field) => {
                let is_entry = match self.call {
                    Call::Bare => false,
                    Call::Unary => field == PRODUCE_ENTRIES,
                    Call::Stream => is_inside && field == APPEND_ENTRIES,
                };
                self.found += usize::from(is_entry);
                if self.found > ENTRIES_MAX {
                    return Err(too_many());
                }
                if self.call == Call::Stream && !is_inside && field == STREAM_APPEND {
                    self.append_left = number;
                    return Ok(At::Tag);
                }
                At::value(number)
            }
            At::Number | At::Value(_) | At::Lost => At::Tag,
        })
    }
}

impl At {
    fn value(left: u64) -> Self {
        if left == 0 { Self::Tag } else { Self::Value(left) }
    }
}

fn too_many() -> Status {
    let text =
        format!("the request has more than {ENTRIES_MAX} entries, allowed are {PARTITIONS_PER_REQUEST_MAX}");
    ApiError::new(ErrorReason::RequestTooLarge, text).with("limit", PARTITIONS_PER_REQUEST_MAX).into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;
    use tidelog_proto::v1::produce_partition::Payload;
    use tidelog_proto::v1::produce_stream_request::Message as Append;
    use tidelog_proto::v1::{
        ProducePartition, ProduceRequest, ProduceStreamAppend, ProduceStreamConfig, ProduceStreamRequest,
    };

    use super::*;

    /// Entries whose bytes would be entries themselves if they were taken for such.
    fn partitions(count: usize) -> Vec<ProducePartition> {
        let payload = Some(Payload::Batch(Bytes::from([0x0a, 0, 0x12, 0].repeat(20))));
        (0..count)
            .map(|_| ProducePartition { topic: "t".into(), payload: payload.clone(), ..Default::default() })
            .collect()
    }

    fn found(call: Call, message: &[u8], piece: usize) -> Option<usize> {
        let mut entries = Entries::of(call);
        for piece in message.chunks(piece) {
            entries.count(piece).ok()?;
        }
        Some(entries.found)
    }

    #[test]
    fn entries_are_counted_however_the_bytes_are_cut() {
        let request = ProduceRequest { partitions: partitions(37) }.encode_to_vec();
        let append = ProduceStreamAppend { client_sequence: u64::MAX, partitions: partitions(37) };
        let append = ProduceStreamRequest { message: Some(Append::Append(append)) }.encode_to_vec();
        for piece in [1, 2, 3, 7, 64, 1_000_000] {
            assert_eq!(found(Call::Unary, &request, piece), Some(37));
            assert_eq!(found(Call::Stream, &append, piece), Some(37));
            // Several fields of one kind become one, or the last of them.
            assert_eq!(found(Call::Stream, &append.repeat(3), piece), Some(3 * 37));
        }
        let config = ProduceStreamConfig { client_id: "x".repeat(100) };
        let config = ProduceStreamRequest { message: Some(Append::Config(config)) }.encode_to_vec();
        assert_eq!(found(Call::Stream, &config, 5), Some(0));
    }

    #[test]
    fn too_many_are_refused_before_the_message_is_whole() {
        let mut entries = Entries::of(Call::Unary);
        assert!(entries.count(&[0x0a, 0].repeat(ENTRIES_MAX)).is_ok());
        assert!(entries.count(&[0x0a]).is_ok());
        let refused = ApiError::from_status(&entries.count(&[0]).expect_err("one too many"));
        assert_eq!(refused.reason, ErrorReason::RequestTooLarge);
        let mut append = vec![0x12, 0xff, 0xff, 0xff, 0x07];
        append.extend([0x12, 0].repeat(ENTRIES_MAX + 1));
        assert_eq!(found(Call::Stream, &append, 1000), None);
    }

    #[test]
    fn what_is_no_protobuf_is_left_to_the_decoder() {
        for bytes in [
            &[0xff; 100][..],
            &[7; 100],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0x0a, 0],
        ] {
            assert!(found(Call::Unary, bytes, 3).is_some() && found(Call::Stream, bytes, 3).is_some());
        }
    }
}
