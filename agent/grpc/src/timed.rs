//! Counting and timing calls.

use tidelog_agent::Agent;
use tokio::time::Instant;
use tonic::{Code, Response, Status};

/// Runs a call, and notes how long it took and how it ended.
pub(crate) async fn timed<T>(
    agent: &Agent,
    api: &'static str,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    let started = Instant::now();
    let result = call.await;
    let code = result.as_ref().err().map_or(Code::Ok, Status::code);
    agent.metrics().request(api, "grpc", name(code), started.elapsed());
    result.map(Response::new)
}

/// A code as metrics name it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
