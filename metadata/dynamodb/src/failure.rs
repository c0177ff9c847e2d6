//! What an error of the service means for the log, in our words.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

/// An operation that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The service's code, such as `ThrottlingException`, if it answered with one.
    pub(crate) code: Option<String>,
    /// What it said.
    pub(crate) text: String,
    /// Whether the same may succeed later.
    pub(crate) retryable: bool,
}

/// Codes that want an operator. All else may pass: throttling, time-outs, connections, 5xx, expired credentials (which
/// are renewed).
const NOT_RETRYABLE: [&str; 9] = [
    "AccessDeniedException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "ResourceNotFoundException",
    "UnrecognizedClientException",
    "ValidationException",
    "InvalidClientTokenId",
    "OptInRequired",
];

impl Failure {
    pub(crate) fn new(text: impl Into<String>, retryable: bool) -> Self {
        Self { code: None, text: text.into(), retryable }
    }

    pub(crate) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl<E, R> From<SdkError<E, R>> for Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    fn from(error: SdkError<E, R>) -> Self {
        let code = error.as_service_error().and_then(|service| service.meta().code()).map(str::to_owned);
        let text = match (&error, error.as_service_error()) {
            (_, Some(service)) => {
                let message = service.meta().message().unwrap_or("no message");
                format!("{}: {message}", code.as_deref().unwrap_or("error without a code"))
            }
            (SdkError::TimeoutError(_), _) => "no answer in time".to_owned(),
            // Connection errors and missing credentials explain themselves only in their chain of causes.
            _ => causes(&error),
        };
        let retryable = match &code {
            Some(code) => !NOT_RETRYABLE.contains(&code.as_str()),
            // Built wrongly: it will not get better. Credentials that cannot be had end up as a dispatch failure.
            None => !matches!(error, SdkError::ConstructionFailure(_)),
        };
        Self { code, text, retryable }
    }
}

fn causes<E, R>(error: &SdkError<E, R>) -> String
where
    E: std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = inner.source();
    }
    said
}
