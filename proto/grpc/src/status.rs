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

/// Longest text in an error, in bytes; longer ones are cut. Details travel in an HTTP/2 header, and some peers take no more than 8 KiB.
const TEXT_BYTES_MAX: usize = 400;

/// Most field violations and most metadata pairs in an error; further ones are left out.
const DETAILS_MAX: usize = 8;

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
            | Self::CorruptBatch => Code::InvalidArgument,
            Self::UnknownTopic | Self::UnknownPartition | Self::TopicIdMismatch => Code::NotFound,
            Self::TopicExists => Code::AlreadyExists,
            Self::OffsetOutOfRange => Code::OutOfRange,
            Self::ProducerFenced
            | Self::UnknownProducer
            | Self::OutOfOrderSequence
            | Self::OffsetsExhausted => Code::FailedPrecondition,
            Self::EarlierAppendFailed => Code::Aborted,
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
            let cut_violation = |(field, text)| FieldViolation::new(cut(field), cut(text));
            details.set_bad_request(violations.map(cut_violation).collect::<Vec<_>>());
        }
        if let Some(wait) = error.retry_after {
            details.set_retry_info(Some(wait.min(RETRY_AFTER_MAX)));
        }
        Status::with_error_details(error.code, cut(error.message), details)
    }
}

impl From<ApiError> for v1::Error {
    fn from(error: ApiError) -> Self {
        let wait = error.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX).as_millis());
        Self {
            code: error.code.into(),
            reason: error.reason.into(),
            message: cut(error.message),
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
    metadata.into_iter().take(DETAILS_MAX).map(|(key, value)| (cut(key), cut(value))).collect()
}

/// Shortens a text to what fits, at a character's boundary.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}
