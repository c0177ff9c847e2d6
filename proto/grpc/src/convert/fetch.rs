//! How much a consumer wants, and how long it waits.

use std::time::Duration;

use super::{InvalidField, not_negative, positive, record_format};
use crate::limits::{FETCH_BYTES_MAX, FETCH_MIN_BYTES_DEFAULT, FETCH_WAIT_MS_DEFAULT, FETCH_WAIT_MS_MAX};
use crate::v1;

/// How much a Fetch wants, with defaults filled in and cut to the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchBounds {
    /// Bytes to wait for, at most `max_bytes`; 0 never waits.
    pub min_bytes: u32,
    /// Most bytes of records in the response, 1 to [`FETCH_BYTES_MAX`].
    pub max_bytes: u32,
    /// How long to wait, at most [`FETCH_WAIT_MS_MAX`].
    pub max_wait: Duration,
    /// The form of the records, never `Unspecified`.
    pub format: v1::RecordFormat,
}

impl TryFrom<&v1::FetchRequest> for FetchBounds {
    type Error = InvalidField;

    fn try_from(request: &v1::FetchRequest) -> Result<Self, InvalidField> {
        let max_bytes = max_bytes("max_bytes", request.max_bytes)?;
        let min_bytes = match request.min_bytes {
            Some(bytes) => not_negative("min_bytes", bytes)?,
            None => FETCH_MIN_BYTES_DEFAULT,
        };
        let wait_ms = match request.max_wait_ms {
            Some(ms) => not_negative("max_wait_ms", ms)?,
            None => FETCH_WAIT_MS_DEFAULT,
        };
        Ok(Self {
            min_bytes: min_bytes.min(max_bytes),
            max_bytes,
            max_wait: Duration::from_millis(wait_ms.min(FETCH_WAIT_MS_MAX).into()),
            format: record_format("format", request.format)?,
        })
    }
}

/// Most bytes of records wanted, of a response, a message or a partition: [`FETCH_BYTES_MAX`] if nothing or more was said.
pub fn max_bytes(field: &str, value: Option<i32>) -> Result<u32, InvalidField> {
    let limit = u32::try_from(FETCH_BYTES_MAX).unwrap_or(u32::MAX);
    match value {
        Some(bytes) => Ok(positive(field, bytes)?.min(limit)),
        None => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_a_default() {
        let bounds = FetchBounds::try_from(&v1::FetchRequest::default()).expect("valid");
        assert_eq!((bounds.min_bytes, bounds.max_bytes), (1, 16 * 1024 * 1024));
        assert_eq!(bounds.max_wait, Duration::from_millis(500));
        assert_eq!(bounds.format, v1::RecordFormat::Records);
    }

    #[test]
    fn what_is_too_much_is_cut() {
        let greedy = v1::FetchRequest {
            min_bytes: Some(i32::MAX),
            max_bytes: Some(i32::MAX),
            max_wait_ms: Some(i32::MAX),
            ..Default::default()
        };
        let bounds = FetchBounds::try_from(&greedy).expect("valid");
        assert_eq!((bounds.min_bytes, bounds.max_bytes), (16 * 1024 * 1024, 16 * 1024 * 1024));
        assert_eq!(bounds.max_wait, Duration::from_secs(30));
        let small = v1::FetchRequest { min_bytes: Some(100), max_bytes: Some(10), ..Default::default() };
        assert_eq!(FetchBounds::try_from(&small).map(|bounds| bounds.min_bytes), Ok(10));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let whole = v1::FetchRequest::default;
        for (bad, field) in [
            (v1::FetchRequest { min_bytes: Some(-1), ..whole() }, "min_bytes"),
            (v1::FetchRequest { max_bytes: Some(0), ..whole() }, "max_bytes"),
            (v1::FetchRequest { max_bytes: Some(-1), ..whole() }, "max_bytes"),
            (v1::FetchRequest { max_wait_ms: Some(i32::MIN), ..whole() }, "max_wait_ms"),
            (v1::FetchRequest { format: 7, ..whole() }, "format"),
        ] {
            assert_eq!(FetchBounds::try_from(&bad).map_err(|invalid| invalid.field), Err(field.into()));
        }
    }
}
