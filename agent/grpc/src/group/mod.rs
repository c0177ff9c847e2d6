//! `tidelog.v1.GroupService`.
//!
//! Map: this file the calls · `session` the stream · `request` what clients send · `response` what they get.

mod request;
mod response;
mod session;

use std::time::Duration;

use tidelog_agent::groups::Terms;
use tidelog_agent::groups::error::GroupError;
use tidelog_agent::{Agent, Groups};
use tidelog_proto::convert::group::group_name;
use tidelog_proto::convert::{self, InvalidField};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::group_service_server::GroupService;
use tidelog_proto::v1::{
    AssignPartitionsRequest, AssignPartitionsResponse, CommitOffsetsRequest, CommitOffsetsResponse,
    DeleteGroupRequest, DeleteGroupResponse, FetchOffsetsRequest, FetchOffsetsResponse, GetGroupRequest,
    GetGroupResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SessionRequest,
};
use tidelog_types::{Generation, GroupName};
use tonic::{Request, Response, Status, Streaming};

use crate::age::Leave;
use crate::error;
use crate::timed::timed;
use request::Member;
use session::{ResponseStream, Session};

/// Most milliseconds that a heartbeat waits for another assignment.
const HEARTBEAT_WAIT_MS_MAX: i32 = 10_000;

/// Serves consumer groups.
#[derive(Debug, Clone)]
pub(crate) struct Grouping {
    pub agent: Agent,
}

fn failed(error: GroupError) -> ApiError {
    error::group(&error)
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

impl Grouping {
    fn groups(&self) -> &Groups {
        self.agent.groups()
    }

    async fn call<T>(
        &self,
        api: &'static str,
        call: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<Response<T>, Status> {
        timed(&self.agent, api, async {
            if self.agent.draining().is_cancelled() {
                return Err(error::draining().into());
            }
            call.await.map_err(Into::into)
        })
        .await
    }

    /// Waits for another assignment than the known one, but not longer than the agent lives.
    async fn heartbeat_answer(
        &self,
        member: &Member,
        known: Generation,
        patience: Duration,
    ) -> Result<HeartbeatResponse, GroupError> {
        let mut watch = self.groups().watch(&member.group, &member.who, known).await?;
        let draining = self.agent.draining().clone();
        let early = tokio::select! {
            biased;
            assignment = watch.assignment(patience) => Some(assignment?),
            () = draining.cancelled() => None,
        };
        let assignment = match early {
            Some(assignment) => assignment,
            None => watch.assignment(Duration::ZERO).await?,
        };
        let asked = watch.request()?;
        Ok(HeartbeatResponse {
            assignment: Some(response::assignment(assignment)),
            assignment_request: asked.map(response::assignment_request),
        })
    }
}

#[tonic::async_trait]
impl GroupService for Grouping {
    type SessionStream = ResponseStream;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        if self.agent.draining().is_cancelled() {
            return Err(error::draining().into());
        }
        let leave = Leave::new(&self.agent, request.extensions());
        let session = Session::begin(self.agent.clone(), request.into_inner(), leave).await?;
        Ok(Response::new(Box::pin(futures::stream::unfold(session, Session::next))))
    }

    async fn join_group(
        &self,
        request: Request<JoinGroupRequest>,
    ) -> Result<Response<JoinGroupResponse>, Status> {
        let request = request.into_inner();
        self.call("join_group", async {
            let member = Member::try_from(request.member.as_ref())?;
            let options = request::options(request.options)?;
            let joined = self.groups().join(&member.group, &member.who, options).await;
            let Terms { heartbeat_interval, session_timeout } = joined.map_err(failed)?;
            let watch = self.groups().watch(&member.group, &member.who, Generation::ZERO).await;
            let assignment = watch.map_err(failed)?.assignment(Duration::ZERO).await;
            Ok(JoinGroupResponse {
                assignment: Some(response::assignment(assignment.map_err(failed)?)),
                heartbeat_interval_ms: milliseconds(heartbeat_interval),
                session_timeout_ms: milliseconds(session_timeout),
            })
        })
        .await
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let request = request.into_inner();
        self.call("heartbeat", async {
            let member = Member::try_from(request.member.as_ref())?;
            let wait = Some(request.max_wait_ms).filter(|wait| (0..=HEARTBEAT_WAIT_MS_MAX).contains(wait));
            let wait = wait.and_then(|wait| u64::try_from(wait).ok()).ok_or_else(|| {
                let text = format!("it is {}, allowed are 0 to {HEARTBEAT_WAIT_MS_MAX}", request.max_wait_ms);
                InvalidField::new("max_wait_ms", text)
            })?;
            let owned = request::owned(self.groups(), &request.owned, request.known_generation)?;
            self.groups().heartbeat(&member.group, &member.who, &owned).await.map_err(failed)?;
            let (known, patience) = (Generation(request.known_generation), Duration::from_millis(wait));
            self.heartbeat_answer(&member, known, patience).await.map_err(failed)
        })
        .await
    }

    async fn leave_group(
        &self,
        request: Request<LeaveGroupRequest>,
    ) -> Result<Response<LeaveGroupResponse>, Status> {
        let request = request.into_inner();
        self.call("leave_group", async {
            let member = Member::try_from(request.member.as_ref())?;
            let left = self.groups().leave(&member.group, &member.who, request.permanently).await;
            left.map_err(failed)?;
            Ok(LeaveGroupResponse {})
        })
        .await
    }

    async fn assign_partitions(
        &self,
        request: Request<AssignPartitionsRequest>,
    ) -> Result<Response<AssignPartitionsResponse>, Status> {
        let request = request.into_inner();
        self.call("assign_partitions", async {
            let member = Member::try_from(request.member.as_ref())?;
            let given = request::given(self.groups(), &request.members)?;
            let generation = Generation(request.generation);
            let assigned = self.groups().assign(&member.group, &member.who, generation, given).await;
            assigned.map_err(failed)?;
            Ok(AssignPartitionsResponse {})
        })
        .await
    }

    async fn commit_offsets(
        &self,
        request: Request<CommitOffsetsRequest>,
    ) -> Result<Response<CommitOffsetsResponse>, Status> {
        let request = request.into_inner();
        self.call("commit_offsets", async {
            let group = group_name("group", &request.group)?;
            let by = match &request.member {
                None if request.number > 0 || request.generation > 0 => {
                    let field = if request.number > 0 { "number" } else { "generation" };
                    return Err(InvalidField::new(field, "is given without a member").into());
                }
                None => None,
                Some(identity) => {
                    let member = Member::try_from(Some(identity))?;
                    if member.group != group {
                        return Err(InvalidField::new("member.group", "is another one than group").into());
                    }
                    Some(request::committed_by(member.who, request.number, request.generation)?)
                }
            };
            let offsets = request::offsets(request.offsets)?;
            let committed = if offsets.sound.is_empty() {
                Ok(Vec::new())
            } else {
                self.groups().commit(&group, by, offsets.sound).await
            };
            let results = match committed {
                // What failed as a whole fails as a whole, unless some offsets have a fault of their own.
                Err(error) if offsets.invalid.iter().all(Option::is_none) => return Err(failed(error)),
                committed => response::commit_results(offsets.invalid, committed),
            };
            Ok(CommitOffsetsResponse { results })
        })
        .await
    }

    async fn fetch_offsets(
        &self,
        request: Request<FetchOffsetsRequest>,
    ) -> Result<Response<FetchOffsetsResponse>, Status> {
        let request = request.into_inner();
        self.call("fetch_offsets", async {
            let group = group_name("group", &request.group)?;
            let wanted = request::wanted(&request.partitions)?;
            let found = self.groups().offsets(&group, wanted.as_deref()).await.map_err(failed)?;
            Ok(FetchOffsetsResponse { offsets: found.into_iter().map(response::offset).collect() })
        })
        .await
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        let request = request.into_inner();
        self.call("list_groups", async {
            let page_size = convert::page_size(request.page_size)?;
            // The token is the last name of the page before, as for topics.
            let after = match request.page_token.as_str() {
                "" => None,
                token => Some(
                    GroupName::new(token)
                        .map_err(|_| InvalidField::new("page_token", "is not one of ours"))?,
                ),
            };
            let (groups, has_more) = self.groups().list(after.as_ref(), page_size).await.map_err(failed)?;
            let next_page_token = groups.last().filter(|_| has_more).map(|group| group.name.to_string());
            Ok(ListGroupsResponse {
                groups: groups.iter().map(response::summary).collect(),
                next_page_token: next_page_token.unwrap_or_default(),
            })
        })
        .await
    }

    async fn get_group(
        &self,
        request: Request<GetGroupRequest>,
    ) -> Result<Response<GetGroupResponse>, Status> {
        let request = request.into_inner();
        self.call("get_group", async {
            let group = group_name("group", &request.group)?;
            let found = self.groups().describe(&group).await.map_err(failed)?;
            Ok(GetGroupResponse { group: Some(response::group(found)) })
        })
        .await
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        let request = request.into_inner();
        self.call("delete_group", async {
            let group = group_name("group", &request.group)?;
            self.groups().delete(&group).await.map_err(failed)?;
            Ok(DeleteGroupResponse {})
        })
        .await
    }
}
