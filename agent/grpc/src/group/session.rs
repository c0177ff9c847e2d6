//! A membership as one stream.
//!
//! Heartbeats are brought to the leader side by side, and answered in order. What changes something (joining again, commits,
//! assignments, leaving) is done one after the other, in the order in which it came.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tidelog_agent::Agent;
use tidelog_agent::groups::Terms;
use tidelog_agent::groups::error::GroupError;
use tidelog_agent::groups::watch::{MemberWatch, News};
use tidelog_proto::convert::InvalidField;
use tidelog_proto::v1::{
    self, ReconnectHint, SessionAssignment, SessionCommitted, SessionHeartbeatAck, SessionRequest,
    SessionResponse, session_request, session_response,
};
use tidelog_types::Generation;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::request::{self, Member};
use super::{failed, milliseconds, response};
use crate::age::{Leave, Left};
use crate::error;

pub(super) type ResponseStream = Pin<Box<dyn futures::Stream<Item = Result<SessionResponse, Status>> + Send>>;

/// Heartbeats that are under way at a time, and changes that wait; beyond that the stream is not read on.
const HEARTBEATS_MAX: usize = 4;
const CHANGES_MAX: usize = 2;
/// How long what is under way may take when the agent shuts down.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What came of a change.
enum Done {
    /// Something to say.
    Say(session_response::Message),
    /// New terms, after joining again.
    Terms(Terms),
    /// Nothing to say.
    Nothing,
    /// It has left.
    Left,
}

/// How a session ends.
enum End {
    /// By the client, or after it left.
    Fine,
    /// With this.
    With(Status),
}

pub(super) struct Session {
    agent: Agent,
    member: Member,
    terms: Terms,
    watch: MemberWatch,
    /// Gone once the client has ended its side, or has left.
    requests: Option<Streaming<SessionRequest>>,
    heartbeats: FuturesOrdered<BoxFuture<'static, Result<u64, GroupError>>>,
    last_heartbeat: u64,
    changes: VecDeque<session_request::Message>,
    changing: Option<BoxFuture<'static, Result<Done, Status>>>,
    /// The client's last message has come: it leaves.
    leaving: bool,
    leave: Leave,
    /// The agent shuts down: until then what is under way may end.
    closes_at: Option<Instant>,
    end: Option<End>,
}

fn message(message: session_response::Message) -> SessionResponse {
    SessionResponse { message: Some(message) }
}

impl Session {
    /// Waits for the first message, and joins.
    pub async fn begin(
        agent: Agent,
        mut requests: Streaming<SessionRequest>,
        leave: Leave,
    ) -> Result<Self, Status> {
        let first = requests.message().await?.and_then(|request| request.message);
        let Some(session_request::Message::Join(join)) = first else {
            return Err(InvalidField::new("join", "the first message has to be this").into());
        };
        let within = |invalid: InvalidField| invalid.within("join");
        let member = Member::try_from(join.member.as_ref()).map_err(within)?;
        let options = request::options(join.options).map_err(within)?;
        let groups = agent.groups();
        let terms = groups.join(&member.group, &member.who, options).await.map_err(failed)?;
        let watch = groups.watch(&member.group, &member.who, Generation::ZERO).await.map_err(failed)?;
        Ok(Self {
            agent,
            member,
            terms,
            watch,
            requests: Some(requests),
            heartbeats: FuturesOrdered::new(),
            last_heartbeat: 0,
            changes: VecDeque::new(),
            changing: None,
            leaving: false,
            leave,
            closes_at: None,
            end: None,
        })
    }

    /// The next message to the client; `None` ends the stream.
    pub async fn next(mut self) -> Option<(Result<SessionResponse, Status>, Self)> {
        loop {
            match self.end.take() {
                Some(End::Fine) => return None,
                Some(End::With(status)) => {
                    self.end = Some(End::Fine);
                    return Some((Err(status), self));
                }
                None => {}
            }
            match self.step().await {
                Ok(Some(message)) => return Some((Ok(message), self)),
                Ok(None) => {}
                Err(end) => self.end = Some(end),
            }
        }
    }

    async fn step(&mut self) -> Result<Option<SessionResponse>, End> {
        self.start_change();
        let idle = self.heartbeats.is_empty() && self.changing.is_none();
        if idle && self.closes_at.is_some() {
            return Err(End::With(error::draining().into()));
        }
        if idle && self.requests.is_none() {
            return Err(End::Fine);
        }
        let reads = self.heartbeats.len() < HEARTBEATS_MAX && self.changes.len() < CHANGES_MAX;
        let reading = async {
            match &mut self.requests {
                Some(requests) => requests.message().await,
                None => std::future::pending().await,
            }
        };
        let changing = async {
            match &mut self.changing {
                Some(changing) => changing.await,
                None => std::future::pending().await,
            }
        };
        let closes_at = self.closes_at;
        let draining = self.agent.draining().clone();
        tokio::select! {
            biased;
            () = draining.cancelled(), if closes_at.is_none() => {
                self.closes_at = Some(Instant::now() + LAST_WORDS);
                self.requests = None;
                self.changes.clear();
                let hint = ReconnectHint { closes_in_ms: 0 };
                Ok(Some(message(session_response::Message::Reconnect(hint))))
            }
            () = sleep_until(closes_at), if closes_at.is_some() => Err(End::With(error::draining().into())),
            done = changing => {
                self.changing = None;
                self.changed(done.map_err(End::With)?)
            }
            Some(beat) = self.heartbeats.next(), if !self.heartbeats.is_empty() => {
                match beat {
                    Ok(number) => {
                        let ack = SessionHeartbeatAck { number };
                        Ok(Some(message(session_response::Message::HeartbeatAck(ack))))
                    }
                    // It came too late, behind the leave that the client sent after it.
                    Err(GroupError::UnknownMember { .. }) if self.leaving => Ok(None),
                    Err(error) => Err(End::With(failed(error).into())),
                }
            }
            news = self.watch.next(), if closes_at.is_none() => match news {
                Ok(news) => Ok(Some(message(self.news(news)))),
                // That is the end which it wants.
                Err(_) if self.leaving && self.changing.is_some() => {
                    let done = self.finish_change().await?;
                    self.changed(done)
                }
                Err(gone) => Err(End::With(failed(gone).into())),
            },
            left = self.leave.next(), if closes_at.is_none() => match left {
                Left::Hint(hint) => Ok(Some(message(session_response::Message::Reconnect(hint)))),
                Left::Closed => Err(End::With(error::draining().into())),
            },
            read = reading, if reads => match read {
                Ok(Some(request)) => self.take(request).map(|()| None).map_err(|invalid| End::With(invalid.into())),
                Ok(None) => {
                    self.requests = None;
                    Ok(None)
                }
                Err(status) => Err(End::With(status)),
            },
        }
    }

    async fn finish_change(&mut self) -> Result<Done, End> {
        match self.changing.take() {
            Some(changing) => changing.await.map_err(End::With),
            None => Ok(Done::Nothing),
        }
    }

    fn changed(&mut self, done: Done) -> Result<Option<SessionResponse>, End> {
        match done {
            Done::Say(said) => Ok(Some(message(said))),
            Done::Terms(terms) => {
                self.terms = terms;
                Ok(None)
            }
            Done::Nothing => Ok(None),
            Done::Left => Err(End::Fine),
        }
    }

    fn news(&self, news: News) -> session_response::Message {
        match news {
            News::Assignment(assignment) => session_response::Message::Assignment(SessionAssignment {
                assignment: Some(response::assignment(assignment)),
                heartbeat_interval_ms: milliseconds(self.terms.heartbeat_interval),
                session_timeout_ms: milliseconds(self.terms.session_timeout),
            }),
            News::Asked(request) => {
                session_response::Message::AssignmentRequest(response::assignment_request(request))
            }
        }
    }

    /// Takes up a message of the client.
    fn take(&mut self, request: SessionRequest) -> Result<(), InvalidField> {
        use session_request::Message;
        match request.message {
            None => Err(InvalidField::missing("message")),
            Some(Message::Heartbeat(heartbeat)) => {
                self.heartbeat(heartbeat).map_err(|invalid| invalid.within("heartbeat"))
            }
            Some(change) => {
                if matches!(change, Message::Leave(_)) {
                    self.requests = None;
                    self.leaving = true;
                }
                self.changes.push_back(change);
                Ok(())
            }
        }
    }

    fn heartbeat(&mut self, heartbeat: v1::SessionHeartbeat) -> Result<(), InvalidField> {
        let number = heartbeat.number;
        if number <= self.last_heartbeat {
            let text =
                format!("it is {number}, allowed are numbers above the last one, {}", self.last_heartbeat);
            return Err(InvalidField::new("number", text));
        }
        self.last_heartbeat = number;
        let groups = self.agent.groups().clone();
        let owned = request::owned(&groups, &heartbeat.owned, heartbeat.known_generation)?;
        let Member { group, who } = self.member.clone();
        self.heartbeats.push_back(Box::pin(async move {
            groups.heartbeat(&group, &who, &owned).await?;
            Ok(number)
        }));
        Ok(())
    }

    fn start_change(&mut self) {
        if self.changing.is_none()
            && let Some(change) = self.changes.pop_front()
        {
            let (agent, member) = (self.agent.clone(), self.member.clone());
            self.changing = Some(Box::pin(perform(agent, member, change)));
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn perform(agent: Agent, member: Member, change: session_request::Message) -> Result<Done, Status> {
    use session_request::Message;
    let groups = agent.groups();
    let Member { group, who } = member;
    match change {
        Message::Join(join) => {
            let within = |invalid: InvalidField| invalid.within("join");
            let again = Member::try_from(join.member.as_ref()).map_err(within)?;
            if again != (Member { group: group.clone(), who: who.clone() }) {
                return Err(
                    InvalidField::new("join.member", "is another one than that of this stream").into()
                );
            }
            let options = request::options(join.options).map_err(within)?;
            Ok(Done::Terms(groups.join(&group, &who, options).await.map_err(failed)?))
        }
        Message::Commit(commit) => {
            let within = |invalid: InvalidField| invalid.within("commit");
            let number = commit.number;
            let by = request::committed_by(who, number, commit.generation).map_err(within)?;
            let offsets = request::offsets(commit.offsets).map_err(within)?;
            let committed = if offsets.sound.is_empty() {
                Ok(Vec::new())
            } else {
                groups.commit(&group, Some(by), offsets.sound).await
            };
            let results = response::commit_results(offsets.invalid, committed);
            Ok(Done::Say(session_response::Message::Committed(SessionCommitted { number, results })))
        }
        Message::Assign(assign) => {
            let given =
                request::given(groups, &assign.members).map_err(|invalid| invalid.within("assign"))?;
            match groups.assign(&group, &who, Generation(assign.generation), given).await {
                // It was asked for another one meanwhile, and has heard so or will.
                Ok(()) | Err(GroupError::StaleGeneration { .. }) => Ok(Done::Nothing),
                Err(error) => Err(failed(error).into()),
            }
        }
        Message::Leave(leave) => {
            groups.leave(&group, &who, leave.permanently).await.map_err(failed)?;
            Ok(Done::Left)
        }
        Message::Heartbeat(_) => Ok(Done::Nothing),
    }
}
