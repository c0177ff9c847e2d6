//! The fake's front end for groups.

use std::time::Duration;

use futures::StreamExt;
use tidelog_proto::v1::group_service_server::GroupService;
use tidelog_proto::v1::session_request::Message as Say;
use tidelog_proto::v1::session_response::Message as Hear;
use tidelog_proto::v1::{self, ErrorReason};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::group::{CommitFate, Group, failed, listed};
use super::{Fake, Messages};

/// How often a session looks for what is new, and for members whose time is over.
const TICK: Duration = Duration::from_millis(50);

fn in_force(options: &v1::MemberOptions, assignment: v1::Assignment) -> v1::SessionAssignment {
    v1::SessionAssignment {
        assignment: Some(assignment),
        heartbeat_interval_ms: (options.session_timeout_ms / 5).clamp(200, 3_000),
        session_timeout_ms: options.session_timeout_ms,
    }
}

/// Serves one session until its stream ends.
async fn serve(
    fake: Fake,
    mut said: Streaming<v1::SessionRequest>,
    hear: mpsc::Sender<Result<v1::SessionResponse, Status>>,
) -> Result<(), Status> {
    let Some(Ok(v1::SessionRequest { message: Some(Say::Join(join)) })) = said.next().await else {
        return Err(failed(ErrorReason::InvalidRequest).into());
    };
    let (who, options) = (join.member.expect("it says who"), join.options.expect("it says what"));
    fake.groups.lock().join(&who, &options)?;
    let mut breaks = fake.break_sessions.subscribe();
    let mut tick = tokio::time::interval(TICK);
    let (mut told, mut asked) = (None, None);
    loop {
        let mut news = Vec::new();
        {
            let mut groups = fake.groups.lock();
            groups.expire();
            let assignment = groups.assignment(&who);
            let assignment = assignment.ok_or_else(|| failed(ErrorReason::UnknownMember))?;
            let state = (assignment.generation, assignment.waiting);
            if told != Some(state) && !groups.deaf {
                told = Some(state);
                news.push(Hear::Assignment(in_force(&options, assignment)));
            }
            let wanted = groups.groups[&who.group].asked.clone().filter(|(id, _)| *id == who.member_id);
            if wanted.is_some() && asked != wanted {
                news.push(Hear::AssignmentRequest(groups.request(&who.group)));
                asked = wanted;
            }
        }
        for message in news {
            let _ = hear.send(Ok(v1::SessionResponse { message: Some(message) })).await;
        }
        let message = tokio::select! {
            biased;
            broken = breaks.recv() => match broken {
                Ok(true) => {
                    let hint = Hear::Reconnect(v1::ReconnectHint { closes_in_ms: 1_000 });
                    let _ = hear.send(Ok(v1::SessionResponse { message: Some(hint) })).await;
                    continue;
                }
                _ => return Err(Status::unavailable("broken")),
            },
            message = said.next() => message,
            _ = tick.tick() => continue,
        };
        let Some(Ok(v1::SessionRequest { message: Some(message) })) = message else { return Ok(()) };
        match message {
            Say::Heartbeat(beat) => {
                let answered = fake.groups.lock().beat(&who, &beat.owned, beat.known_generation)?;
                if answered {
                    let ack = Hear::HeartbeatAck(v1::SessionHeartbeatAck { number: beat.number });
                    let _ = hear.send(Ok(v1::SessionResponse { message: Some(ack) })).await;
                }
            }
            Say::Assign(assign) => {
                // One that comes too late is not wanted any more; another was asked for.
                let _ = fake.groups.lock().assigned(&who, assign.generation, &assign.members);
            }
            Say::Leave(leave) => {
                fake.groups.lock().leave(&who, leave.permanently);
                return Ok(());
            }
            Say::Join(_) | Say::Commit(_) => panic!("the client does not send this"),
        }
    }
}

fn state(group: &Group) -> v1::GroupState {
    if group.members.is_empty() { v1::GroupState::Empty } else { v1::GroupState::Stable }
}

fn offsets(group: &Group) -> impl Iterator<Item = v1::CommittedOffset> {
    group.offsets.iter().map(|((topic, partition), (offset, metadata))| v1::CommittedOffset {
        topic: topic.clone(),
        topic_id: 1,
        partition: *partition,
        offset: *offset,
        metadata: metadata.clone(),
        committed_at_ms: 1,
    })
}

#[tonic::async_trait]
impl GroupService for Fake {
    type SessionStream = Messages<v1::SessionResponse>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (hear, heard) = mpsc::channel(16);
        let fake = self.clone();
        tokio::spawn(async move {
            if let Err(status) = serve(fake, request.into_inner(), hear.clone()).await {
                let _ = hear.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(heard))))
    }

    async fn join_group(
        &self,
        _: Request<v1::JoinGroupRequest>,
    ) -> Result<Response<v1::JoinGroupResponse>, Status> {
        Err(Status::unimplemented("the client uses sessions"))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let who = request.member.expect("it says who");
        let answered = self.groups.lock().beat(&who, &request.owned, request.known_generation)?;
        if !answered {
            std::future::pending::<()>().await;
        }
        let assignment = self.groups.lock().assignment(&who);
        Ok(Response::new(v1::HeartbeatResponse { assignment, assignment_request: None }))
    }

    async fn leave_group(
        &self,
        request: Request<v1::LeaveGroupRequest>,
    ) -> Result<Response<v1::LeaveGroupResponse>, Status> {
        let request = request.into_inner();
        self.groups.lock().leave(&request.member.expect("it says who"), request.permanently);
        Ok(Response::new(v1::LeaveGroupResponse {}))
    }

    async fn assign_partitions(
        &self,
        _: Request<v1::AssignPartitionsRequest>,
    ) -> Result<Response<v1::AssignPartitionsResponse>, Status> {
        Err(Status::unimplemented("the client uses sessions"))
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let request = request.into_inner();
        let fate = self.groups.lock().commit_fates.pop_front().unwrap_or(CommitFate::Answer);
        if fate == CommitFate::Unavailable {
            return Err(failed(ErrorReason::MetadataUnavailable).into());
        }
        let results = self.groups.lock().commit(&request);
        if fate == CommitFate::LoseAnswer {
            return Err(Status::unavailable("broken"));
        }
        Ok(Response::new(v1::CommitOffsetsResponse { results }))
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        let request = request.into_inner();
        let groups = self.groups.lock();
        let Some(group) = groups.groups.get(&request.group) else {
            return Ok(Response::new(v1::FetchOffsetsResponse::default()));
        };
        let asked = |offset: &v1::CommittedOffset| {
            let names = |list: &v1::TopicPartitions| {
                list.topic == offset.topic && list.partitions.contains(&offset.partition)
            };
            request.partitions.is_empty() || request.partitions.iter().any(names)
        };
        Ok(Response::new(v1::FetchOffsetsResponse { offsets: offsets(group).filter(asked).collect() }))
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        // One group a page, whatever was asked for.
        let after = request.into_inner().page_token;
        let groups = self.groups.lock();
        let mut left = groups.groups.iter().filter(|(name, _)| after.is_empty() || **name > after);
        let page = left.next().map(|(name, group)| v1::GroupSummary {
            group: name.clone(),
            state: state(group).into(),
            member_count: i32::try_from(group.members.len()).expect("few"),
        });
        let next_page_token = match (&page, left.next()) {
            (Some(page), Some(_)) => page.group.clone(),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListGroupsResponse { groups: page.into_iter().collect(), next_page_token }))
    }

    async fn get_group(
        &self,
        request: Request<v1::GetGroupRequest>,
    ) -> Result<Response<v1::GetGroupResponse>, Status> {
        let name = request.into_inner().group;
        let groups = self.groups.lock();
        let group = groups.groups.get(&name).ok_or_else(|| failed(ErrorReason::UnknownGroup))?;
        let members = group.members.iter().map(|(id, member)| v1::GroupMember {
            member_id: id.clone(),
            instance_id: member.options.instance_id.clone(),
            client_id: member.options.client_id.clone(),
            topics: member.options.topics.clone(),
            owned: listed(group.owners.iter().filter(|(_, (owner, _))| owner == id).map(|(at, _)| at)),
            away: member.away,
            topic_pattern: member.options.topic_pattern.clone(),
            ..Default::default()
        });
        let described = v1::Group {
            group: name,
            state: state(group).into(),
            generation: 7,
            assignor: v1::Assignor::Sticky.into(),
            members: members.collect(),
            offsets: offsets(group).collect(),
        };
        Ok(Response::new(v1::GetGroupResponse { group: Some(described) }))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let name = request.into_inner().group;
        let mut groups = self.groups.lock();
        let group = groups.groups.get(&name).ok_or_else(|| failed(ErrorReason::UnknownGroup))?;
        if !group.members.is_empty() {
            return Err(failed(ErrorReason::GroupNotEmpty).into());
        }
        groups.groups.remove(&name);
        Ok(Response::new(v1::DeleteGroupResponse {}))
    }
}
