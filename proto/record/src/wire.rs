//! Protobuf fields, read by hand from the front of a slice. Accepts what prost accepts.

use crate::varint;

/// A field's tag: its number and how it is encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag(pub(crate) u64);

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const START_GROUP: u64 = 3;
const END_GROUP: u64 = 4;
const FIXED32: u64 = 5;

/// Groups in groups; nobody writes them any more, but a skipped field may be one.
const GROUP_DEPTH_MAX: u32 = 64;

impl Tag {
    pub(crate) const fn varint(field: u32) -> Self {
        Self((field as u64) << 3 | VARINT)
    }

    pub(crate) const fn bytes(field: u32) -> Self {
        Self((field as u64) << 3 | LENGTH_DELIMITED)
    }

    fn field(self) -> u64 {
        self.0 >> 3
    }
}

/// Reads a number.
#[inline]
pub(crate) fn number(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    varint::read(bytes).ok_or("protobuf number does not end, or passes 64 bits")
}

/// Reads the tag of the next field.
#[inline]
pub(crate) fn tag(bytes: &mut &[u8]) -> Result<Tag, &'static str> {
    number(bytes).map(Tag)
}

/// Reads a length and that many bytes.
#[inline]
pub(crate) fn delimited<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = number(bytes)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (field, rest) = bytes.split_at_checked(length).ok_or("protobuf field is longer than its message")?;
    *bytes = rest;
    Ok(field)
}

/// Skips the field behind a tag that the message does not have. `known` is the highest number of a field that it has: one
/// of those comes here only with a wrong encoding.
#[cold]
pub(crate) fn skip_unknown(tag: Tag, known: u64, bytes: &mut &[u8]) -> Result<(), &'static str> {
    if (1..=known).contains(&tag.field()) {
        return Err("protobuf field has a wrong wire type");
    }
    skip(tag, GROUP_DEPTH_MAX, bytes)
}

fn skip(tag: Tag, depth_left: u32, bytes: &mut &[u8]) -> Result<(), &'static str> {
    if tag.field() == 0 || tag.0 > u64::from(u32::MAX) {
        return Err("protobuf field number is outside 1 to 536870911");
    }
    let fixed = match tag.0 & 7 {
        VARINT => return number(bytes).map(|_| ()),
        LENGTH_DELIMITED => return delimited(bytes).map(|_| ()),
        START_GROUP => return skip_group(tag, depth_left, bytes),
        FIXED64 => 8,
        FIXED32 => 4,
        END_GROUP => return Err("protobuf group ends that did not begin"),
        _ => return Err("protobuf wire type is 6 or 7, which do not exist"),
    };
    *bytes = bytes.get(fixed..).ok_or("protobuf field is longer than its message")?;
    Ok(())
}

fn skip_group(start: Tag, depth_left: u32, bytes: &mut &[u8]) -> Result<(), &'static str> {
    let depth_left = depth_left.checked_sub(1).ok_or("protobuf groups are nested too deep")?;
    loop {
        let inner = tag(bytes)?;
        if inner.0 & 7 == END_GROUP {
            let same = inner.field() == start.field();
            return if same { Ok(()) } else { Err("protobuf group ends that did not begin") };
        }
        skip(inner, depth_left, bytes)?;
    }
}
