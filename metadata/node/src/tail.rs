//! The end of the log as a leader streams it to its followers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidelog_types::{LogIndex, Place};
use tokio::sync::Notify;

use crate::peers::{AgentCard, FollowerSeen, FromLeader, LinkError};

/// Entries kept for followers that are a little behind; older ones they read from the log.
const KEPT_ENTRIES: usize = 2_048;
/// Bytes of such entries.
const KEPT_BYTES: usize = 8 * 1024 * 1024;

/// The last entries of a leadership, and its signs of life. A leadership lasts from one election to the next, over any number
/// of epochs.
#[derive(Debug)]
pub(crate) struct Tail {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Numbers the leaderships of this process, from 1.
    leadership: u64,
    open: bool,
    /// By place.
    entries: VecDeque<(Place, Bytes)>,
    bytes: usize,
    /// What lies before has to be read from the log; `None` before the first leadership.
    from: Option<Place>,
    beats: u64,
    /// Woken whenever there is something to send; in an order, so that who is woken first does not depend on the process.
    readers: BTreeMap<u64, Reader>,
    joined: u64,
}

#[derive(Debug)]
struct Reader {
    changed: Arc<Notify>,
    seen: FollowerSeen,
}

impl Tail {
    pub fn new() -> Self {
        Self { inner: Mutex::default() }
    }

    fn update(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock();
        change(&mut inner);
        inner.readers.values().for_each(|reader| reader.changed.notify_one());
    }

    /// A leadership begins; its first entry will stand at `next`.
    pub fn open(&self, next: Place) {
        self.update(|inner| {
            inner.leadership += 1;
            inner.open = true;
            inner.entries.clear();
            inner.bytes = 0;
            inner.from = Some(next);
        });
    }

    /// The leadership is over. Followers get what is left, then the link ends.
    pub fn close(&self) {
        self.update(|inner| inner.open = false);
    }

    /// The leadership that lasts; `None` if this node does not lead.
    pub fn leadership(&self) -> Option<u64> {
        let inner = self.inner.lock();
        inner.open.then_some(inner.leadership)
    }

    /// An entry was appended and applied.
    pub fn push(&self, place: Place, bytes: Bytes) {
        if !self.inner.lock().open {
            return;
        }
        self.update(|inner| {
            inner.bytes += bytes.len();
            inner.entries.push_back((place, bytes));
            while inner.entries.len() > KEPT_ENTRIES || inner.bytes > KEPT_BYTES {
                let Some((dropped, bytes)) = inner.entries.pop_front() else { break };
                inner.bytes -= bytes.len();
                inner.from = Some(dropped.next());
            }
        });
    }

    /// The leader and its connection to the log live.
    pub fn beat(&self) {
        self.update(|inner| inner.beats += 1);
    }

    /// The followers that listen.
    pub fn followers_seen(&self) -> Vec<FollowerSeen> {
        self.inner.lock().readers.values().map(|reader| reader.seen.clone()).collect()
    }

    /// How many followers listen.
    pub fn followers(&self) -> usize {
        self.inner.lock().readers.len()
    }
}

/// What one follower gets.
#[derive(Debug)]
pub(crate) struct TailReader {
    tail: Arc<Tail>,
    id: u64,
    changed: Arc<Notify>,
    leadership: u64,
    next: Place,
    beats: u64,
}

impl TailReader {
    /// Begins to read at a place.
    pub fn join(tail: Arc<Tail>, from: Place, card: AgentCard) -> Result<Self, LinkError> {
        let changed = Arc::new(Notify::new());
        // There may be entries to send at once.
        changed.notify_one();
        let (leadership, beats, id) = {
            let mut inner = tail.inner.lock();
            if !inner.open {
                return Err(LinkError::NotLeader);
            }
            if inner.from.is_some_and(|first| from < first) {
                return Err(LinkError::TooFarBehind);
            }
            inner.joined += 1;
            let id = inner.joined;
            let seen = FollowerSeen { card, applied: LogIndex(0) };
            inner.readers.insert(id, Reader { changed: Arc::clone(&changed), seen });
            (inner.leadership, inner.beats, id)
        };
        Ok(Self { tail, id, changed, leadership, next: from, beats })
    }

    /// Notes how far the follower is.
    pub fn is_at(&self, applied: LogIndex) {
        if let Some(reader) = self.tail.inner.lock().readers.get_mut(&self.id) {
            reader.seen.applied = applied;
        }
    }

    /// Which leadership it listens to.
    pub fn leadership(&self) -> u64 {
        self.leadership
    }

    /// The next thing to send; `None` if there is nothing at the moment.
    pub fn next(&mut self) -> Result<Option<FromLeader>, LinkError> {
        let inner = self.tail.inner.lock();
        if inner.leadership != self.leadership {
            return Err(LinkError::NotLeader);
        }
        if inner.from.is_none_or(|first| self.next < first) {
            return Err(LinkError::TooFarBehind);
        }
        let at = inner.entries.partition_point(|(place, _)| *place < self.next);
        if let Some((place, bytes)) = inner.entries.get(at) {
            // The place after this one, or the first of the next epoch: whatever comes is larger.
            self.next = place.next();
            return Ok(Some(FromLeader::Entry { place: *place, bytes: bytes.clone() }));
        }
        if !inner.open {
            return Err(LinkError::NotLeader);
        }
        if inner.beats != self.beats {
            self.beats = inner.beats;
            return Ok(Some(FromLeader::Beat));
        }
        Ok(None)
    }

    /// Returns when there may be something to send.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        self.tail.inner.lock().readers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use tidelog_types::{AgentInstance, LogEpoch, LogSeq};

    use super::*;

    fn join(tail: &Arc<Tail>, from: Place) -> Result<TailReader, LinkError> {
        let instance = AgentInstance(uuid::Uuid::nil());
        let card = AgentCard { instance, clients_at: String::new(), version: String::new() };
        TailReader::join(Arc::clone(tail), from, card)
    }

    fn place(epoch: u64, seq: u64) -> Place {
        Place::new(LogEpoch(epoch), LogSeq(seq))
    }

    #[test]
    fn entries_come_in_order_and_from_where_they_were_asked_for() {
        let tail = Arc::new(Tail::new());
        assert!(matches!(join(&tail, place(1, 1)), Err(LinkError::NotLeader)));
        tail.open(place(1, 1));
        assert!(matches!(join(&tail, place(0, 1)), Err(LinkError::TooFarBehind)));
        let mut ahead = join(&tail, place(1, 2)).expect("it leads");
        let mut all = join(&tail, place(1, 1)).expect("it leads");
        assert_eq!(tail.followers(), 2);
        assert_eq!(all.next(), Ok(None));
        for (at, bytes) in [(place(1, 1), "a"), (place(1, 2), "seal"), (place(2, 0), "begin")] {
            tail.push(at, Bytes::from_static(bytes.as_bytes()));
        }
        tail.beat();
        let said = |reader: &mut TailReader| match reader.next() {
            Ok(Some(FromLeader::Entry { bytes, .. })) => String::from_utf8(bytes.to_vec()).expect("text"),
            other => format!("{other:?}"),
        };
        assert_eq!([said(&mut ahead), said(&mut ahead)], ["seal", "begin"]);
        tail.close();
        assert_eq!([said(&mut all), said(&mut all), said(&mut all)], ["a", "seal", "begin"]);
        assert_eq!(all.next(), Err(LinkError::NotLeader));
        drop((all, ahead));
        assert_eq!(tail.followers(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_slow_reader_is_told() {
        let tail = Arc::new(Tail::new());
        tail.open(place(1, 1));
        let mut slow = join(&tail, place(1, 1)).expect("it leads");
        for seq in 1..=KEPT_ENTRIES as u64 + 1 {
            tail.push(place(1, seq), Bytes::from_static(b"entry"));
        }
        assert_eq!(slow.next(), Err(LinkError::TooFarBehind));
        let mut second = join(&tail, place(1, 2)).expect("it is kept");
        assert!(matches!(second.next(), Ok(Some(FromLeader::Entry { place: at, .. })) if at == place(1, 2)));
        tail.push(place(2, 0), Bytes::from(vec![0; KEPT_BYTES + 1]));
        assert_eq!(second.next(), Err(LinkError::TooFarBehind));
    }

    #[test]
    fn a_new_leadership_ends_the_links_of_the_old_one() {
        let tail = Arc::new(Tail::new());
        tail.open(place(1, 1));
        let mut reader = join(&tail, place(1, 1)).expect("it leads");
        tail.close();
        tail.open(place(3, 1));
        tail.push(place(3, 1), Bytes::new());
        assert_eq!(reader.next(), Err(LinkError::NotLeader));
    }
}
