//! The member's own clock: until when it may believe that it owns what it owns.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Heartbeats without an answer that are remembered; the stream is given up long before.
const UNANSWERED_MAX: usize = 1024;

/// Counts a session from when the last heartbeat that was answered had been *sent*. The service counts from when it received it, which is
/// later: so the member stops before the service gives its partitions to others.
#[derive(Debug)]
pub(super) struct SessionClock {
    timeout: Duration,
    unanswered: VecDeque<(u64, Instant)>,
    last_number: u64,
    /// When the last message was sent that has had its answer, or the first join, which has it with the first assignment.
    basis: Option<Instant>,
}

impl SessionClock {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, unanswered: VecDeque::new(), last_number: 0, basis: None }
    }

    /// A join is about to be sent. The first one counts: nothing tells which of several was carried out.
    pub(super) fn joining(&mut self, now: Instant) {
        self.basis.get_or_insert(now);
    }

    /// Takes over the timeout that the service says is in force.
    pub(super) fn in_force(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The number of a heartbeat that is about to be sent.
    pub(super) fn beating(&mut self, now: Instant) -> u64 {
        self.last_number += 1;
        self.unanswered.push_back((self.last_number, now));
        if self.unanswered.len() > UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
        self.last_number
    }

    /// A heartbeat was answered, in whatever order.
    pub(super) fn answered(&mut self, number: u64) {
        if let Some((_, sent)) = self.unanswered.iter().find(|(unanswered, _)| *unanswered == number) {
            self.basis = self.basis.max(Some(*sent));
            self.unanswered.retain(|(unanswered, _)| *unanswered > number);
        }
    }

    /// A heartbeat was answered that had no number.
    pub(super) fn answered_from(&mut self, sent: Instant) {
        self.basis = self.basis.max(Some(sent));
    }

    /// The stream is over; what was sent on it is answered no more.
    pub(super) fn stream_ended(&mut self) {
        self.unanswered.clear();
    }

    /// Since when an answer is outstanding.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.unanswered.front().map(|(_, sent)| *sent)
    }

    /// When the session ends if nothing more is answered.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.basis.map(|basis| basis + self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_session_counts_from_when_the_answered_heartbeat_was_sent() {
        let start = Instant::now();
        let mut clock = SessionClock::new(TIMEOUT);
        assert_eq!(clock.ends(), None);
        clock.joining(start);
        assert_eq!(clock.ends(), Some(after(start, 15)));
        let first = clock.beating(after(start, 3));
        let second = clock.beating(after(start, 6));
        assert_eq!(clock.waiting_since(), Some(after(start, 3)));
        assert_eq!(clock.ends(), Some(after(start, 15)), "sending prolongs nothing");
        clock.answered(first);
        assert_eq!((clock.ends(), clock.waiting_since()), (Some(after(start, 18)), Some(after(start, 6))));
        clock.answered(second);
        assert_eq!((clock.ends(), clock.waiting_since()), (Some(after(start, 21)), None));
        clock.answered(second);
        clock.answered(77);
        assert_eq!(clock.ends(), Some(after(start, 21)));
    }

    #[test]
    fn answers_that_overtake_each_other_take_nothing_away() {
        let start = Instant::now();
        let mut clock = SessionClock::new(TIMEOUT);
        clock.joining(start);
        let (first, second) = (clock.beating(after(start, 1)), clock.beating(after(start, 2)));
        clock.answered(second);
        clock.answered(first);
        assert_eq!(clock.ends(), Some(after(start, 17)));
        clock.answered_from(start);
        assert_eq!(clock.ends(), Some(after(start, 17)));
        clock.answered_from(after(start, 9));
        assert_eq!(clock.ends(), Some(after(start, 24)));
    }

    #[test]
    fn a_join_that_is_repeated_counts_from_the_first_time() {
        let start = Instant::now();
        let mut clock = SessionClock::new(TIMEOUT);
        clock.joining(start);
        clock.joining(after(start, 10));
        assert_eq!(clock.ends(), Some(after(start, 15)));
    }

    #[test]
    fn what_was_sent_on_another_stream_is_answered_no_more() {
        let start = Instant::now();
        let mut clock = SessionClock::new(TIMEOUT);
        clock.joining(start);
        let old = clock.beating(after(start, 5));
        clock.stream_ended();
        assert_eq!(clock.waiting_since(), None);
        clock.answered(old);
        assert_eq!(clock.ends(), Some(after(start, 15)));
        assert!(clock.beating(after(start, 6)) > old, "numbers go on rising");
        clock.in_force(Duration::from_secs(4));
        assert_eq!(clock.ends(), Some(after(start, 4)));
    }
}
