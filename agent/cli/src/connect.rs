//! Reaching the service, and what its errors mean for the exit code.

use tidelog_client::{
    Client, ClientOptions, CommitError, ConnectError, ConsumeError, Endpoint, GroupError, ProduceError,
    RequestError,
};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::ErrorReason;

use crate::failure::{Exit, Failure};

/// Connects as a client command does. `endpoint`: one address, or several divided by commas.
pub async fn connect(endpoint: &str, options: ClientOptions) -> Result<Client, Failure> {
    let endpoints = Endpoint::parse_list(endpoint).map_err(connect_failure)?;
    Client::connect(&endpoints, options).await.map_err(connect_failure)
}

/// The options of a client command.
pub fn options(command: &str) -> ClientOptions {
    let mut options = ClientOptions::default();
    options.client_id = format!("tidelog {command}");
    options
}

fn connect_failure(error: ConnectError) -> Failure {
    let exit = match &error {
        ConnectError::InvalidEndpoint { .. } => Exit::Usage,
        ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } => Exit::Unavailable,
    };
    Failure::new(exit, error.to_string())
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let exit = match &error {
            RequestError::Connect(error) => return connect_failure(error.clone()),
            RequestError::NotFound(_) => Exit::NotFound,
            RequestError::Conflict(_) => Exit::Conflict,
            RequestError::Invalid(_) => Exit::Usage,
            RequestError::Denied(_) => Exit::Auth,
            RequestError::Unavailable(_) | RequestError::OutcomeUnknown(_) => Exit::Unavailable,
            // No error of ours: whoever listens there is something else.
            RequestError::Failed(error) if error.reason == ErrorReason::Unspecified => Exit::Unavailable,
            RequestError::Failed(_) | RequestError::Protocol(_) => Exit::Failure,
        };
        Self::new(exit, one_line(&error.to_string()))
    }
}

impl From<ProduceError> for Failure {
    fn from(error: ProduceError) -> Self {
        let exit = match &error {
            ProduceError::Topic { topic, cause } => {
                let failure = Self::from(cause.clone());
                return Self::new(failure.exit, format!("topic {topic}: {}", failure.message));
            }
            ProduceError::UnknownPartition { .. } => Exit::NotFound,
            ProduceError::Refused(error) if error.code == tonic::Code::NotFound => Exit::NotFound,
            ProduceError::Fenced(_) => Exit::Conflict,
            ProduceError::TimedOut { .. } | ProduceError::OutcomeUnknown { .. } => Exit::Unavailable,
            ProduceError::TooLarge { .. }
            | ProduceError::Encode(_)
            | ProduceError::Refused(_)
            | ProduceError::Closed => Exit::Failure,
        };
        Self::new(exit, one_line(&error.to_string()))
    }
}

impl From<ConsumeError> for Failure {
    fn from(error: ConsumeError) -> Self {
        let exit = match &error {
            ConsumeError::Request(error) => return error.clone().into(),
            ConsumeError::OffsetOutOfRange { .. } => Exit::NotFound,
            ConsumeError::Partition { error, .. } if error.code == tonic::Code::NotFound => Exit::NotFound,
            ConsumeError::Unavailable { .. } => Exit::Unavailable,
            ConsumeError::Partition { .. } | ConsumeError::Corrupt { .. } => Exit::Failure,
        };
        Self::new(exit, one_line(&error.to_string()))
    }
}

impl From<GroupError> for Failure {
    fn from(error: GroupError) -> Self {
        let exit = match &error {
            GroupError::Consume(error) => return error.clone().into(),
            GroupError::NoOffset { .. } => Exit::NotFound,
            GroupError::Refused(error) => refusal(error),
            GroupError::Unavailable { .. } => Exit::Unavailable,
            _ => Exit::Failure,
        };
        Self::new(exit, one_line(&error.to_string()))
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        let exit = match &error {
            CommitError::Request(error) => return error.clone().into(),
            CommitError::Partitions(refused) => {
                refused.first().map_or(Exit::Failure, |(_, error)| refusal(error))
            }
            CommitError::NotMember => Exit::Conflict,
            CommitError::Closed => Exit::Failure,
        };
        Self::new(exit, one_line(&error.to_string()))
    }
}

/// What it means that the service refuses something for good.
fn refusal(error: &ApiError) -> Exit {
    match error.code {
        tonic::Code::NotFound => Exit::NotFound,
        tonic::Code::InvalidArgument | tonic::Code::Unimplemented => Exit::Usage,
        tonic::Code::AlreadyExists | tonic::Code::FailedPrecondition | tonic::Code::Aborted => Exit::Conflict,
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Exit::Auth,
        _ => Exit::Failure,
    }
}

/// What a peer says may have any form; an error of ours is one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
