//! Bytes of produce requests are reserved before they are read.
//!
//! A gRPC message begins with its length. The body of a produce call is wrapped so that nothing of a message is read beyond the frame
//! that holds this length before the agent's budget has room for it: a call that stands alone is refused if there is none, a
//! stream waits, and its client is slowed down by HTTP/2's flow control. A message that was admitted has to arrive: one that
//! stalls is given up, so that nobody holds room for what never comes. Nor may it unfold: its entries are counted as they come by.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tidelog_agent::{Budget, Overloaded, Reservation};
use tidelog_proto::limits::REQUEST_BYTES_MAX;
use tokio::time::{Duration, Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use crate::entries::Entries;
use crate::error;

/// Compressed flag and length, before each message.
const PREFIX_BYTES: usize = 5;
/// How long an admitted message may stand still.
const STALL_MAX: Duration = Duration::from_secs(10);
/// How long an admitted message may take for each MiB, beside [`STALL_MAX`]: 512 KiB/s.
const TIME_PER_MIB: Duration = Duration::from_secs(2);

/// The reservations of a call's messages, in their order; an extension of the request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reservations(Arc<Mutex<VecDeque<Reservation>>>);

impl Reservations {
    /// The reservation of the message that was just decoded.
    pub fn next(&self) -> Reservation {
        self.0.lock().pop_front().unwrap_or_else(Reservation::none)
    }
}

/// What is called, which decides what happens where the budget has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// `Produce`: is refused.
    Unary,
    /// `ProduceStream`: is read on when there is room.
    Stream,
    /// Any other, whose messages are small: nothing is reserved, they only have to arrive.
    Bare,
}

type Waiting = Pin<Box<dyn Future<Output = Result<Reservation, Overloaded>> + Send>>;

/// A request body whose messages are admitted one by one.
struct Admitted {
    body: Body,
    budget: Budget,
    call: Call,
    reservations: Reservations,
    prefix: Vec<u8>,
    /// Bytes of the present message that are still to come.
    message_left: usize,
    entries: Entries,
    arrival: Option<Arrival>,
    /// A frame of which a part waits for room.
    held: Option<Bytes>,
    waiting: Option<Waiting>,
}

/// Wraps the body of a call.
pub(crate) fn admit(request: http::Request<Body>, budget: &Budget, call: Call) -> http::Request<Body> {
    let reservations = Reservations::default();
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(reservations.clone());
    let admitted = Admitted {
        body,
        budget: budget.clone(),
        call,
        reservations,
        prefix: Vec::with_capacity(PREFIX_BYTES),
        message_left: 0,
        entries: Entries::of(call),
        arrival: None,
        held: None,
        waiting: None,
    };
    http::Request::from_parts(parts, Body::new(admitted))
}

impl Admitted {
    /// Walks over the frame's bytes; returns how many of them belong to messages that have been admitted. Stops behind the prefix of
    /// the first message that has to wait.
    fn walk(&mut self, bytes: &[u8]) -> Result<usize, Status> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.message_left > 0 {
                let here = self.message_left.min(rest.len());
                if self.arrival.is_some() {
                    self.entries.count(&rest[..here])?;
                }
                self.message_left -= here;
                rest.advance(here);
                if self.message_left == 0 {
                    self.arrival = None;
                }
                continue;
            }
            let missing = (PREFIX_BYTES - self.prefix.len()).min(rest.len());
            self.prefix.extend_from_slice(&rest[..missing]);
            rest.advance(missing);
            if let [_, a, b, c, d] = *self.prefix.as_slice() {
                self.prefix.clear();
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.message_left = length;
                // A longer message is refused by whoever decodes it, before it is read.
                if length <= REQUEST_BYTES_MAX {
                    self.entries = Entries::of(self.call);
                    let waits = self.reserve(length)?;
                    self.arrival = (length > 0).then(|| Arrival::new(length));
                    if waits {
                        break;
                    }
                }
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Reserves a message's bytes; returns whether they have to be waited for.
    fn reserve(&mut self, length: usize) -> Result<bool, Status> {
        if self.call == Call::Bare {
            return Ok(false);
        }
        match self.budget.try_reserve(length) {
            Ok(reservation) => {
                self.reservations.0.lock().push_back(reservation);
                Ok(false)
            }
            Err(full) if self.call == Call::Unary => Err(error::overloaded(&full).into()),
            Err(_) => {
                let budget = self.budget.clone();
                self.waiting = Some(Box::pin(async move { budget.reserve(length).await }));
                Ok(true)
            }
        }
    }
}

/// An admitted message on its way.
struct Arrival {
    /// When it has to be there.
    until: Instant,
    progress: Instant,
    /// Looks again then; not moved with each frame.
    look: Pin<Box<Sleep>>,
}

impl Arrival {
    fn new(bytes: usize) -> Self {
        let now = Instant::now();
        let mib = u32::try_from(bytes / (1024 * 1024)).unwrap_or(u32::MAX);
        let until = now + STALL_MAX + TIME_PER_MIB.saturating_mul(mib);
        Self { until, progress: now, look: Box::pin(tokio::time::sleep_until(now + STALL_MAX)) }
    }

    /// Ready when the message has been waited for long enough.
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            let until = self.until.min(self.progress + STALL_MAX);
            if Instant::now() >= until {
                return Poll::Ready(Status::deadline_exceeded(
                    "the request's message did not arrive in time",
                ));
            }
            self.look.as_mut().reset(until);
        }
    }
}

impl Admitted {
    /// The next frame, unless the message that is on its way stalls.
    #[allow(clippy::type_complexity)]
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Result<Frame<Bytes>, Status>>, Status>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(arrival) = &mut self.arrival {
            if polled.is_ready() {
                arrival.progress = Instant::now();
            }
            if let Poll::Ready(given_up) = arrival.poll_given_up(cx) {
                return Poll::Ready(Err(given_up));
            }
        }
        polled.map(Ok)
    }
}

impl HttpBody for Admitted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(waiting) = &mut this.waiting {
            let reserved = ready!(waiting.as_mut().poll(cx));
            this.waiting = None;
            this.arrival = (this.message_left > 0).then(|| Arrival::new(this.message_left));
            match reserved {
                Ok(reservation) => this.reservations.0.lock().push_back(reservation),
                Err(full) => return Poll::Ready(Some(Err(error::overloaded(&full).into()))),
            }
        }
        let mut data = match this.held.take() {
            Some(held) => held,
            None => match this.poll_body(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(stalled)) => return Poll::Ready(Some(Err(stalled))),
                Poll::Ready(Ok(frame)) => match frame {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => data,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                    Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                    None => return Poll::Ready(None),
                },
            },
        };
        match this.walk(&data) {
            Ok(admitted) => {
                let rest = data.split_off(admitted);
                if !rest.is_empty() {
                    this.held = Some(rest);
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(status) => Poll::Ready(Some(Err(status))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
