//! Errors as both sides handle them, and their way over the wire.
//!
//! An [`ApiError`] travels either as the gRPC status of a whole request, with `google.rpc` details, or as a [`v1::Error`] of one partition.
//! Both carry the same content; a text that is too long for a header is cut.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::v1::{self, ErrorReason};

/// The domain of `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "tidelog";

/// Longest message in bytes. This and the next limits keep an error below 8 KiB of HTTP/2 headers, which is all that some peers take;
/// what is longer is cut, what is more is left out.
const MESSAGE_BYTES_MAX: usize = 400;

/// Longest value of metadata, and longest description of a wrong field, in bytes.
const VALUE_BYTES_MAX: usize = 200;

/// Longest key of metadata, and longest path to a wrong field, in bytes.
const KEY_BYTES_MAX: usize = 100;

/// Most wrong fields, and most pairs of metadata.
const DETAILS_MAX: usize = 6;

/// Longest wait that an error can ask for: more is as good as never.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl ErrorReason {
    /// The gRPC code that belongs to the reason; [`Code::Unknown`] for [`ErrorReason::Unspecified`].
    pub fn code(self) -> Code {
        match self {
            Self::Unspecified => Code::Unknown,
            Self::InvalidRequest
            | Self::InvalidTopicName
            | Self::InvalidTopicConfig
            | Self::InvalidPartitionCount
            | Self::BatchTooLarge
            | Self::RequestTooLarge
            | Self::CorruptBatch
            | Self::InvalidGroupName => Code::InvalidArgument,
            Self::UnknownTopic | Self::UnknownPartition | Self::TopicIdMismatch | Self::UnknownGroup => {
                Code::NotFound
            }
            Self::TopicExists | Self::MemberExists => Code::AlreadyExists,
            Self::OffsetOutOfRange => Code::OutOfRange,
            Self::ProducerFenced
            | Self::UnknownProducer
            | Self::OutOfOrderSequence
            | Self::OffsetsExhausted
            | Self::GroupNotEmpty
            | Self::GroupFull => Code::FailedPrecondition,
            Self::EarlierAppendFailed | Self::UnknownMember | Self::StaleGeneration => Code::Aborted,
            Self::BufferFull | Self::PartitionLimitReached => Code::ResourceExhausted,
            Self::Draining | Self::StorageUnavailable | Self::MetadataUnavailable => Code::Unavailable,
            Self::OutcomeUnknown => Code::DeadlineExceeded,
            Self::StoredDataCorrupt => Code::DataLoss,
            Self::Unsupported => Code::Unimplemented,
            Self::Internal => Code::Internal,
        }
    }
}

/// What went wrong with a request, or with one partition of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The gRPC code; for errors of our own that of the reason.
    pub code: Code,
    /// Why, for machines; [`ErrorReason::Unspecified`] if the peer gave none or one that this version does not know.
    pub reason: ErrorReason,
    /// Why, for people.
    pub message: String,
    /// What the reason says about itself, see [`ErrorReason`].
    pub metadata: BTreeMap<String, String>,
    /// The wrong fields of the request, as (path, what is wrong and what is allowed). Lost on the way through [`v1::Error`].
    pub violations: Vec<(String, String)>,
    /// After which time trying again makes sense; `None` if repeating does not help or is not safe.
    pub retry_after: Option<Duration>,
}

impl std::error::Error for ApiError {}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            f.write_str(self.code.description())
        } else {
            f.write_str(&self.message)
        }
    }
}

impl ApiError {
    /// An error with the reason's code.
    pub fn new(reason: ErrorReason, message: impl fmt::Display) -> Self {
        Self {
            code: reason.code(),
            reason,
            message: message.to_string(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: None,
        }
    }

    /// Adds a pair of metadata.
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says after which time to try again.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Names a wrong field of the request.
    pub fn violation(mut self, field: impl Into<String>, description: impl fmt::Display) -> Self {
        self.violations.push((field.into(), description.to_string()));
        self
    }

    /// Whether what was asked may have been done, or may yet be, so that a write that is repeated without a producer's stamp could appear
    /// twice. Errors of the service say it; those that come from anywhere else, such as a broken connection, are taken at their
    /// worst.
    pub fn outcome_unknown(&self) -> bool {
        match self.reason {
            ErrorReason::OutcomeUnknown | ErrorReason::Internal => true,
            ErrorReason::Unspecified => matches!(
                self.code,
                Code::Ok
                    | Code::Cancelled
                    | Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::Internal
                    | Code::Unavailable
                    | Code::DataLoss
            ),
            _ => false,
        }
    }

    /// Reads what a peer sent as the status of a whole request. Details that are damaged or foreign are ignored.
    pub fn from_status(status: &Status) -> Self {
        let mut error = Self {
            code: status.code(),
            reason: ErrorReason::Unspecified,
            message: status.message().to_owned(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: None,
        };
        if status.details().is_empty() {
            return error;
        }
        let details = status.get_error_details();
        if let Some(info) = details.error_info().filter(|info| info.domain == ERROR_DOMAIN) {
            error.reason = ErrorReason::from_str_name(&info.reason).unwrap_or(ErrorReason::Unspecified);
            error.metadata = info.metadata.clone().into_iter().collect();
        }
        if let Some(bad) = details.bad_request() {
            let violations = bad.field_violations.iter();
            error.violations = violations.map(|v| (v.field.clone(), v.description.clone())).collect();
        }
        error.retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        error
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut details = ErrorDetails::new();
        if error.reason != ErrorReason::Unspecified {
            let metadata: HashMap<_, _> = cut_metadata(error.metadata);
            details.set_error_info(error.reason.as_str_name(), ERROR_DOMAIN, metadata);
        }
        if !error.violations.is_empty() {
            let violations = error.violations.into_iter().take(DETAILS_MAX);
            let cut_violation =
                |(field, text)| FieldViolation::new(cut(field, KEY_BYTES_MAX), cut(text, VALUE_BYTES_MAX));
            details.set_bad_request(violations.map(cut_violation).collect::<Vec<_>>());
        }
        if let Some(wait) = error.retry_after {
            details.set_retry_info(Some(wait.min(RETRY_AFTER_MAX)));
        }
        Status::with_error_details(error.code, cut(error.message, MESSAGE_BYTES_MAX), details)
    }
}

impl From<ApiError> for v1::Error {
    fn from(error: ApiError) -> Self {
        let wait = error.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX).as_millis());
        Self {
            code: error.code.into(),
            reason: error.reason.into(),
            message: cut(error.message, MESSAGE_BYTES_MAX),
            metadata: cut_metadata(error.metadata),
            retry_after_ms: wait.and_then(|ms| i64::try_from(ms).ok()),
        }
    }
}

impl From<v1::Error> for ApiError {
    fn from(error: v1::Error) -> Self {
        let reason = ErrorReason::try_from(error.reason).unwrap_or(ErrorReason::Unspecified);
        let wait = error.retry_after_ms.and_then(|ms| u64::try_from(ms).ok());
        Self {
            code: Code::from_i32(error.code),
            reason,
            message: error.message,
            metadata: error.metadata,
            violations: Vec::new(),
            retry_after: wait.map(Duration::from_millis),
        }
    }
}

fn cut_metadata<M: FromIterator<(String, String)>>(metadata: BTreeMap<String, String>) -> M {
    let kept = metadata.into_iter().take(DETAILS_MAX);
    kept.map(|(key, value)| (cut(key, KEY_BYTES_MAX), cut(value, VALUE_BYTES_MAX))).collect()
}

/// Shortens a text to what fits, at a character's boundary.
fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_reason() -> impl Iterator<Item = ErrorReason> {
        (1..).map_while(|number| ErrorReason::try_from(number).ok())
    }

    fn full(reason: ErrorReason) -> ApiError {
        ApiError::new(reason, "offset 7 is outside 10 to 20 – ünïcode")
            .with("earliest", 10)
            .with("latest", 20)
            .retry_after(Duration::from_millis(250))
    }

    #[test]
    fn every_reason_survives_both_ways() {
        assert_eq!(every_reason().count(), 33);
        for reason in every_reason() {
            let error = full(reason);
            assert_eq!(ApiError::from(v1::Error::from(error.clone())), error);
            let error = error.violation("partitions[2].offset", "is 7, allowed are 10 to 20");
            let status = Status::from(error.clone());
            assert_eq!(status.code(), reason.code());
            assert_eq!(ApiError::from_status(&status), error);
        }
    }

    #[test]
    fn bare_foreign_and_damaged_statuses_are_read() {
        let bare = ApiError::from_status(&Status::unavailable("connection reset"));
        assert_eq!((bare.code, bare.reason), (Code::Unavailable, ErrorReason::Unspecified));
        assert!(bare.outcome_unknown());

        let mut details = ErrorDetails::new();
        details.set_error_info("ERROR_REASON_UNKNOWN_TOPIC", "elsewhere.example", HashMap::new());
        let foreign = Status::with_error_details(Code::NotFound, "x", details);
        assert_eq!(ApiError::from_status(&foreign).reason, ErrorReason::Unspecified);

        let mut details = ErrorDetails::new();
        details.set_error_info("ERROR_REASON_OF_2040", ERROR_DOMAIN, HashMap::new());
        let newer = Status::with_error_details(Code::NotFound, "x", details);
        assert_eq!(ApiError::from_status(&newer).code, Code::NotFound);

        // Every prefix and every changed byte of real details.
        let whole = Status::from(full(ErrorReason::OffsetOutOfRange).violation("a", "b"));
        for length in 0..whole.details().len() {
            let mut bytes = whole.details().to_vec();
            bytes[length] ^= 0xff;
            for damaged in [bytes, whole.details()[..length].to_vec()] {
                let status = Status::with_details(Code::OutOfRange, "x", damaged.into());
                assert_eq!(ApiError::from_status(&status).code, Code::OutOfRange);
            }
        }
    }

    #[test]
    fn errors_of_partitions_from_newer_or_broken_peers_are_read() {
        let error = v1::Error { code: 99, reason: 9999, retry_after_ms: Some(-5), ..Default::default() };
        let read = ApiError::from(error);
        assert_eq!(
            (read.code, read.reason, read.retry_after),
            (Code::Unknown, ErrorReason::Unspecified, None)
        );
        assert!(read.outcome_unknown());
        assert_eq!(read.to_string(), Code::Unknown.description());
    }

    #[test]
    fn only_definite_errors_allow_a_repeat() {
        for reason in every_reason() {
            let unknown = matches!(reason, ErrorReason::OutcomeUnknown | ErrorReason::Internal);
            assert_eq!(ApiError::new(reason, "").outcome_unknown(), unknown, "{reason:?}");
        }
        for (code, unknown) in [
            (Code::DeadlineExceeded, true),
            (Code::Cancelled, true),
            (Code::OutOfRange, false),
            (Code::ResourceExhausted, false),
            (Code::Unimplemented, false),
        ] {
            assert_eq!(ApiError::from_status(&Status::new(code, "")).outcome_unknown(), unknown, "{code:?}");
        }
    }

    #[test]
    fn the_largest_error_fits_a_header() {
        let long = "ü".repeat(10_000);
        let mut error = ApiError::new(ErrorReason::InvalidRequest, &long).retry_after(Duration::MAX);
        for i in 0..100 {
            error = error.with(&format!("{i}{long}"), &long).violation(long.clone(), &long);
        }
        let status = Status::from(error.clone());
        // Details travel as base64, the message percent-encoded, three bytes for each that is not ASCII.
        let header_bytes = status.details().len() * 4 / 3 + status.message().len() * 3;
        assert!(header_bytes < 8 * 1024, "{header_bytes} bytes");
        let read = ApiError::from_status(&status);
        assert_eq!(read.message, "ü".repeat(200));
        assert_eq!(read.violations.len(), DETAILS_MAX);
        assert_eq!(v1::Error::from(error).retry_after_ms, Some(86_400_000));
    }
}
