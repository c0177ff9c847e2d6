//! Counting and timing calls.
//!
//! A call is noted by its handler, with [`timed`]. What never gets there (a message that is too large, or no protobuf; no room; no such
//! method) is noted around it, with [`refusals`], so that it is seen as well. Streams have no duration; of them, refusals alone are noted.

use std::cell::Cell;

use tidelog_agent::{Agent, Metrics};
use tokio::time::Instant;
use tonic::{Code, Response, Status};

tokio::task_local! {
    /// Whether the call that runs was noted by its handler.
    static NOTED: Cell<bool>;
}

/// The calls that are named; others cannot be told apart by whoever looks at the metrics, because a client can make up any number of names.
const NAMES: [(&str, &str); 25] = [
    ("/tidelog.v1.ProducerService/Produce", "produce"),
    ("/tidelog.v1.ProducerService/ProduceStream", "produce_stream"),
    ("/tidelog.v1.ProducerService/InitProducer", "init_producer"),
    ("/tidelog.v1.ConsumerService/Fetch", "fetch"),
    ("/tidelog.v1.ConsumerService/Subscribe", "subscribe"),
    ("/tidelog.v1.AdminService/CreateTopic", "create_topic"),
    ("/tidelog.v1.AdminService/GetTopic", "get_topic"),
    ("/tidelog.v1.AdminService/ListTopics", "list_topics"),
    ("/tidelog.v1.AdminService/UpdateTopic", "update_topic"),
    ("/tidelog.v1.AdminService/DeleteTopic", "delete_topic"),
    ("/tidelog.v1.AdminService/AddPartitions", "add_partitions"),
    ("/tidelog.v1.AdminService/ListOffsets", "list_offsets"),
    ("/tidelog.v1.AdminService/DeleteRecords", "delete_records"),
    ("/tidelog.v1.AdminService/GetServerInfo", "get_server_info"),
    ("/tidelog.v1.AdminService/DescribeCluster", "describe_cluster"),
    ("/tidelog.v1.GroupService/Session", "session"),
    ("/tidelog.v1.GroupService/JoinGroup", "join_group"),
    ("/tidelog.v1.GroupService/Heartbeat", "heartbeat"),
    ("/tidelog.v1.GroupService/LeaveGroup", "leave_group"),
    ("/tidelog.v1.GroupService/AssignPartitions", "assign_partitions"),
    ("/tidelog.v1.GroupService/CommitOffsets", "commit_offsets"),
    ("/tidelog.v1.GroupService/FetchOffsets", "fetch_offsets"),
    ("/tidelog.v1.GroupService/ListGroups", "list_groups"),
    ("/tidelog.v1.GroupService/GetGroup", "get_group"),
    ("/tidelog.v1.GroupService/DeleteGroup", "delete_group"),
];

/// The name of a call in metrics.
pub(crate) fn api_of(path: &str) -> &'static str {
    NAMES.iter().find(|(known, _)| *known == path).map_or("other", |(_, api)| api)
}

/// Runs what answers a call, and notes a refusal that no handler has noted.
pub(crate) async fn refusals<B, E>(
    metrics: Metrics,
    api: &'static str,
    call: impl Future<Output = Result<http::Response<B>, E>>,
) -> Result<http::Response<B>, E> {
    let started = Instant::now();
    let noting = async {
        let answer = call.await;
        (answer, NOTED.with(Cell::get))
    };
    let (answer, noted) = NOTED.scope(Cell::new(false), noting).await;
    // What fails before it has begun to answer says so in the headers.
    if let Ok(response) = &answer
        && !noted
        && let Some(status) = Status::from_header_map(response.headers())
        && status.code() != Code::Ok
    {
        metrics.request(api, "grpc", name(status.code()), started.elapsed());
    }
    answer
}

/// Runs a call, and notes how long it took and how it ended.
pub(crate) async fn timed<T>(
    agent: &Agent,
    api: &'static str,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    let started = Instant::now();
    let result = call.await;
    // Nobody asks where a handler is called by itself.
    let _ = NOTED.try_with(|noted| noted.set(true));
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
