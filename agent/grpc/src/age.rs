//! Connections end when they are old, so that load spreads when agents are added, and streams are told before.
//!
//! A balancer that knows connections only cannot move one. At its age a connection gets a GOAWAY, which sends new requests to a
//! new one, and each stream on it a reconnect hint; what is still open after a grace period is closed with it.

use std::time::Duration;

use http::Extensions;
use tidelog_agent::Agent;
use tidelog_proto::v1::ReconnectHint;
use tokio::time::{Instant, sleep_until};

use crate::gather::OpenedAt;

/// How long what is under way on an old connection may take to end.
pub(crate) const GRACE: Duration = Duration::from_secs(30);
/// Streams are told a little after the GOAWAY, so that the client's new stream finds it there.
const AFTER_GOAWAY: Duration = Duration::from_millis(200);
/// Between the hint and the end of the stream.
const NOTICE: Duration = Duration::from_secs(20);

/// When a stream is to be left.
#[derive(Debug)]
pub(crate) struct Leave {
    hint_at: Instant,
    /// Once the hint was given.
    closes_at: Option<Instant>,
}

/// What has come for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The client is to be told that the connection is old; the stream goes on for a while.
    Hint(ReconnectHint),
    /// The stream ends.
    Closed,
}

impl Leave {
    /// For a stream of a request with these extensions.
    pub fn new(agent: &Agent, extensions: &Extensions) -> Self {
        let opened = extensions.get::<OpenedAt>().map_or_else(Instant::now, |opened| opened.0);
        let hint_at = opened + agent.settings().connection_age + AFTER_GOAWAY;
        Self { hint_at, closes_at: None }
    }

    /// When the next thing comes.
    pub fn at(&self) -> Instant {
        self.closes_at.unwrap_or(self.hint_at)
    }

    /// What has come by now.
    pub fn now(&mut self) -> Option<Left> {
        let now = Instant::now();
        if now < self.at() {
            return None;
        }
        if self.closes_at.is_some() {
            return Some(Left::Closed);
        }
        self.closes_at = Some(now + NOTICE);
        Some(Left::Hint(ReconnectHint {
            closes_in_ms: i64::try_from(NOTICE.as_millis()).unwrap_or(i64::MAX),
        }))
    }

    /// Waits for the next thing.
    pub async fn next(&mut self) -> Left {
        loop {
            sleep_until(self.at()).await;
            if let Some(left) = self.now() {
                return left;
            }
        }
    }
}
