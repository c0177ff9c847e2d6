//! A leader's side of a link.

use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use tidelog_types::Place;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::handle::{Metadata, Request};
use crate::peers::{AgentCard, FromLeader, LinkError, ToLeader};
use crate::tail::TailReader;

/// After this a follower has long asked elsewhere.
const CONFIRM_MAX: Duration = Duration::from_secs(5);
/// Questions of one link at a time; a follower asks one after the other.
const CONFIRMS_MAX: usize = 16;

/// A follower that this node, which leads, is about to serve.
#[derive(Debug)]
pub struct Follower {
    metadata: Metadata,
    tail: TailReader,
}

impl Metadata {
    /// Takes up a follower that knows the log up to `from`, if this node leads and still holds what comes then.
    pub fn take_follower(&self, from: Place, card: AgentCard) -> Result<Follower, LinkError> {
        let tail = TailReader::join(self.shared.tail.clone(), from, card)?;
        Ok(Follower { metadata: self.clone(), tail })
    }
}

impl Follower {
    /// Serves it until either side ends. Signs of life are passed on as the node gives them: a node that stands still is
    /// silent, whatever becomes of this call.
    pub async fn serve(
        self,
        to_leader: impl Stream<Item = ToLeader> + Send,
        from_leader: mpsc::Sender<FromLeader>,
    ) -> LinkError {
        let Self { metadata, mut tail } = self;
        let mut to_leader = std::pin::pin!(to_leader);
        let mut confirms = FuturesUnordered::new();
        let gone = || LinkError::Failed("the follower has gone".into());
        loop {
            let answer = tokio::select! {
                biased;
                Some(answer) = confirms.next(), if !confirms.is_empty() => Some(answer),
                message = to_leader.next(), if confirms.len() < CONFIRMS_MAX => match message {
                    None => return gone(),
                    Some(ToLeader::Propose(proposals)) => {
                        let forward = Request::Forward { leadership: tail.leadership(), proposals };
                        if metadata.requests.send(forward).await.is_err() {
                            return LinkError::NotLeader;
                        }
                        None
                    }
                    Some(ToLeader::Position(applied)) => {
                        tail.is_at(applied);
                        None
                    }
                    Some(ToLeader::Confirm { number }) => {
                        let confirm = metadata.confirm(Instant::now() + CONFIRM_MAX);
                        confirms.push(async move {
                            match confirm.await {
                                Ok(index) => FromLeader::Confirmed { number, index },
                                Err(_) => FromLeader::Unconfirmed { number },
                            }
                        });
                        None
                    }
                },
                () = tail.changed() => None,
            };
            // The answer to a question comes behind the entries that it is about.
            loop {
                match tail.next() {
                    Err(error) => return error,
                    Ok(None) => break,
                    Ok(Some(message)) => {
                        if from_leader.send(message).await.is_err() {
                            return gone();
                        }
                    }
                }
            }
            if let Some(answer) = answer
                && from_leader.send(answer).await.is_err()
            {
                return gone();
            }
        }
    }
}
