//! Messages on the wire to and from what the node says.

use tidelog_agent::groups::link::MemberBeat;
use tidelog_metadata_node::{AgentCard, FromLeader, LinkError, ToLeader};
use tidelog_metadata_state::Proposal;
use tidelog_metadata_state::group::command::MemberRun;
use tidelog_types::{
    AgentInstance, ClusterId, GroupName, GroupNameError, Incarnation, LogEpoch, LogIndex, LogSeq, MemberId,
    Place,
};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::v1;

/// Longest text about an agent.
const TEXT_BYTES_MAX: usize = 256;

/// Who listens to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    pub cluster: ClusterId,
    pub leader: AgentInstance,
    pub follower: AgentCard,
    pub from: Place,
}

pub(crate) fn bytes_of(id: Uuid) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id.as_bytes())
}

pub(crate) fn id(bytes: &[u8], field: &str) -> Result<Uuid, Status> {
    Uuid::from_slice(bytes)
        .map_err(|_| Status::invalid_argument(format!("{field} has {} bytes, not 16", bytes.len())))
}

impl From<Start> for v1::FollowRequest {
    fn from(start: Start) -> Self {
        let message = v1::follow_request::Message::Start(v1::FollowStart {
            cluster_id: bytes_of(start.cluster.0),
            leader: bytes_of(start.leader.0),
            follower: bytes_of(start.follower.instance.0),
            from_epoch: start.from.epoch.0,
            from_seq: start.from.seq.0,
            clients_at: start.follower.clients_at,
            version: start.follower.version,
        });
        Self { message: Some(message) }
    }
}

impl TryFrom<v1::FollowRequest> for Start {
    type Error = Status;

    fn try_from(request: v1::FollowRequest) -> Result<Self, Status> {
        let Some(v1::follow_request::Message::Start(start)) = request.message else {
            return Err(Status::invalid_argument("the first message is not start"));
        };
        Ok(Self {
            cluster: ClusterId(id(&start.cluster_id, "cluster_id")?),
            leader: AgentInstance(id(&start.leader, "leader")?),
            follower: AgentCard {
                instance: AgentInstance(id(&start.follower, "follower")?),
                clients_at: cut(start.clients_at),
                version: cut(start.version),
            },
            from: Place::new(LogEpoch(start.from_epoch), LogSeq(start.from_seq)),
        })
    }
}

/// What is only for people need not be long.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

pub(crate) fn to_request(message: ToLeader) -> v1::FollowRequest {
    use v1::follow_request::Message;
    let message = match message {
        ToLeader::Propose(proposals) => {
            let proposals = proposals.iter().map(Proposal::encode).collect();
            Message::Propose(v1::FollowPropose { proposals })
        }
        ToLeader::Confirm { number } => Message::Confirm(v1::FollowConfirm { number }),
        ToLeader::Position(applied) => Message::Position(v1::FollowPosition { applied: applied.0 }),
    };
    v1::FollowRequest { message: Some(message) }
}

/// What a follower says. It speaks for itself only.
pub(crate) fn from_request(request: v1::FollowRequest, follower: AgentInstance) -> Result<ToLeader, Status> {
    use v1::follow_request::Message;
    match request.message {
        Some(Message::Propose(propose)) => {
            let decode = |bytes: &bytes::Bytes| {
                let proposal = Proposal::decode(bytes)
                    .map_err(|error| Status::invalid_argument(format!("a proposal: {error}")))?;
                if proposal.agent == follower {
                    Ok(proposal)
                } else {
                    Err(Status::invalid_argument("a proposal of another agent"))
                }
            };
            Ok(ToLeader::Propose(propose.proposals.iter().map(decode).collect::<Result<_, _>>()?))
        }
        Some(Message::Confirm(confirm)) => Ok(ToLeader::Confirm { number: confirm.number }),
        Some(Message::Position(position)) => Ok(ToLeader::Position(LogIndex(position.applied))),
        Some(Message::Start(_)) => Err(Status::invalid_argument("start is not the first message")),
        None => Err(Status::invalid_argument("an empty message")),
    }
}

pub(crate) fn to_response(message: FromLeader) -> v1::FollowResponse {
    use v1::follow_response::Message;
    let message = match message {
        FromLeader::Entry { place, bytes } => {
            Message::Entry(v1::FollowEntry { epoch: place.epoch.0, seq: place.seq.0, entry: bytes })
        }
        FromLeader::Beat => Message::Beat(v1::FollowBeat {}),
        FromLeader::Confirmed { number, index } => {
            Message::Confirmed(v1::FollowConfirmed { number, index: Some(index.0) })
        }
        FromLeader::Unconfirmed { number } => Message::Confirmed(v1::FollowConfirmed { number, index: None }),
    };
    v1::FollowResponse { message: Some(message) }
}

pub(crate) fn from_response(response: v1::FollowResponse) -> Result<FromLeader, LinkError> {
    use v1::follow_response::Message;
    match response.message {
        Some(Message::Entry(entry)) => Ok(FromLeader::Entry {
            place: Place::new(LogEpoch(entry.epoch), LogSeq(entry.seq)),
            bytes: entry.entry,
        }),
        Some(Message::Beat(_)) => Ok(FromLeader::Beat),
        Some(Message::Confirmed(v1::FollowConfirmed { number, index })) => Ok(match index {
            Some(index) => FromLeader::Confirmed { number, index: LogIndex(index) },
            None => FromLeader::Unconfirmed { number },
        }),
        None => Err(LinkError::Failed("the leader sent an empty message".into())),
    }
}

pub(crate) fn to_beat(beat: &MemberBeat) -> v1::MemberBeat {
    v1::MemberBeat {
        group: beat.group.to_string(),
        member_id: beat.who.member.to_string(),
        incarnation: bytes_of(beat.who.incarnation.0),
    }
}

pub(crate) fn from_beat(beat: &v1::MemberBeat) -> Result<MemberBeat, Status> {
    let wrong = |error: GroupNameError| Status::invalid_argument(error.to_string());
    Ok(MemberBeat {
        group: GroupName::new(&beat.group).map_err(wrong)?,
        who: MemberRun {
            member: MemberId::new(&beat.member_id).map_err(wrong)?,
            incarnation: Incarnation(id(&beat.incarnation, "incarnation")?),
        },
    })
}

pub(crate) fn to_status(error: LinkError) -> Status {
    let text = error.to_string();
    match error {
        LinkError::NotLeader => Status::failed_precondition(text),
        LinkError::TooFarBehind => Status::out_of_range(text),
        LinkError::Refused(_) | LinkError::Failed(_) => Status::unavailable(text),
    }
}

pub(crate) fn from_status(status: &Status) -> LinkError {
    match status.code() {
        Code::FailedPrecondition => LinkError::NotLeader,
        Code::OutOfRange => LinkError::TooFarBehind,
        _ if is_reset(status) => LinkError::Refused(status.message().to_owned()),
        code => LinkError::Failed(format!("{code:?}: {}", status.message())),
    }
}

/// Whether a process that is gone is behind an error: nobody listens, or the connection was reset.
pub(crate) fn is_reset(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind;
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(io.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
        {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use tidelog_metadata_state::{Command, ProposalNumber};
    use tidelog_types::TimestampMs;

    use super::*;

    #[test]
    fn messages_come_back_as_they_were() {
        let follower = AgentInstance(Uuid::from_u128(7));
        let proposal = Proposal {
            agent: follower,
            number: ProposalNumber(3),
            lowest_unresolved: ProposalNumber(2),
            proposed_at: LogIndex(9),
            command: Command::ExpireProducers { proposer_time: TimestampMs(5) },
        };
        for message in
            [ToLeader::Propose(vec![proposal.clone(), proposal.clone()]), ToLeader::Confirm { number: 8 }]
        {
            let back = from_request(to_request(message.clone()), follower).expect("it is well formed");
            assert_eq!(back, message);
        }
        let place = Place::new(LogEpoch(4), LogSeq(2));
        for message in [
            FromLeader::Entry { place, bytes: bytes::Bytes::from_static(b"entry") },
            FromLeader::Beat,
            FromLeader::Confirmed { number: 1, index: LogIndex(0) },
            FromLeader::Unconfirmed { number: 2 },
        ] {
            assert_eq!(from_response(to_response(message.clone())), Ok(message));
        }
        let start = Start {
            cluster: ClusterId(Uuid::from_u128(1)),
            leader: AgentInstance(Uuid::nil()),
            follower: AgentCard { instance: follower, clients_at: "a:1".into(), version: "1.2.3".into() },
            from: place,
        };
        let back = Start::try_from(v1::FollowRequest::from(start.clone())).expect("it is well formed");
        assert_eq!(back, start);
    }

    #[test]
    fn a_follower_speaks_for_itself_only() {
        let other = Proposal {
            agent: AgentInstance(Uuid::from_u128(1)),
            number: ProposalNumber(1),
            lowest_unresolved: ProposalNumber(1),
            proposed_at: LogIndex(0),
            command: Command::InitProducer { existing: None },
        };
        let refused = from_request(to_request(ToLeader::Propose(vec![other])), AgentInstance(Uuid::nil()));
        assert_eq!(refused.expect_err("another's").code(), Code::InvalidArgument);
        let garbage = v1::FollowPropose { proposals: vec![bytes::Bytes::from_static(b"\xff\xff")] };
        let garbage = v1::FollowRequest { message: Some(v1::follow_request::Message::Propose(garbage)) };
        let refused = from_request(garbage, AgentInstance(Uuid::nil()));
        assert_eq!(refused.expect_err("no proposal").code(), Code::InvalidArgument);
    }

    #[test]
    fn ends_of_links_come_back_as_they_were() {
        for error in [LinkError::NotLeader, LinkError::TooFarBehind] {
            assert_eq!(from_status(&to_status(error.clone())), error);
        }
    }
}
