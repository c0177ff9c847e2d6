//! The memory backend keeps the promises, and the suite notices a backend that breaks one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tidelog_metadata_log::conformance::{Ground, LostReplies, Promise, Race, races, run_all};
use tidelog_metadata_log::{Append, LogError, MemoryLog, MetadataLog};
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

fn ground_of(log: impl MetadataLog + Clone) -> Ground {
    Ground::new(Arc::new(log.clone()), Arc::new(log))
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_every_promise() {
    run_all(&ground_of(MemoryLog::new())).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_has_one_winner_per_race() {
    let ground = ground_of(MemoryLog::new());
    let report = races::race(&ground, Race { writers: 32, rounds: 200 }).await.expect("one winner");
    assert_eq!((report.rounds, report.told_at_once, report.unknowns), (200, 200, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_is_decided_though_replies_are_lost() {
    // Enough lost replies per place that the winner is never told, so that all find out by repeating.
    let log = LostReplies::new(Arc::new(MemoryLog::new()), 40);
    let report = races::race(&ground_of(log), Race { writers: 32, rounds: 20 }).await.expect("one winner");
    assert_eq!((report.rounds, report.told_at_once, report.unknowns), (20, 0, 20 * 40));
}

/// One way to break a promise.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mistake {
    Overwrites,
    OverwritesAndSaysAppended,
    OccupiedSaysTheAsker,
    OccupiedIsEmpty,
    TakesTooMuch,
    TakesNothingness,
    RefusesWithoutNamingTheMaximum,
    CutsAtZero,
    SkipsHoles,
    StopsAtHundred,
    IgnoresLimit,
    MixesShards,
    MixesEpochs,
    RemoveFailsOnAbsent,
    RemoveTakesTheNext,
    RemoveLeavesTombstone,
    ReadsAreStale,
    AppendVanishes,
    TwoWinners,
    NobodyIsTold,
    NeverAnswers,
}

/// A backend that makes one mistake.
#[derive(Debug, Clone)]
struct Mistaken {
    mistake: Mistake,
    places: Arc<Mutex<BTreeMap<(ShardId, Place), Bytes>>>,
    stale: Arc<Mutex<BTreeMap<(ShardId, Place), Bytes>>>,
    appends: Arc<AtomicUsize>,
}

const BYTES_MAX: usize = 4096;

fn error(operation: &'static str, cause: &str, retryable: bool) -> LogError {
    LogError { operation, target: "mistaken".to_owned(), cause: cause.to_owned(), retryable }
}

impl Mistaken {
    fn new(mistake: Mistake) -> Self {
        Self { mistake, places: Arc::default(), stale: Arc::default(), appends: Arc::default() }
    }

    fn key(&self, shard: ShardId, place: Place) -> (ShardId, Place) {
        match self.mistake {
            Mistake::MixesShards => (ShardId::ZERO, place),
            // As a key without separators or padding would do: (1, 11) and (11, 1) are one.
            Mistake::MixesEpochs => (shard, Place::new(LogEpoch(place.epoch.0 % 1_000_000), place.seq)),
            _ => (shard, place),
        }
    }
}

#[async_trait]
impl MetadataLog for Mistaken {
    async fn append(&self, shard: ShardId, place: Place, mut bytes: Bytes) -> Append {
        use Mistake as M;
        let refused = |cause: String| Append::Unknown(error("append", &cause, false));
        match self.mistake {
            M::NeverAnswers => return Append::Unknown(error("append", "out of service", true)),
            M::RefusesWithoutNamingTheMaximum if !(1..=BYTES_MAX).contains(&bytes.len()) => {
                return refused("bad length".to_owned());
            }
            M::TakesTooMuch if !bytes.is_empty() => {}
            M::TakesNothingness if bytes.len() <= BYTES_MAX => {}
            _ if (1..=BYTES_MAX).contains(&bytes.len()) => {}
            _ => return refused(format!("allowed are 1 to {BYTES_MAX}")),
        }
        if self.mistake == M::CutsAtZero && bytes.len() > 1 {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            bytes.truncate(end.max(1));
        }
        let racing = self.appends.fetch_add(1, Ordering::Relaxed);
        let key = self.key(shard, place);
        let existing = self.places.lock().get(&key).cloned();
        // Between the check and the act others get their turn: the classical race, for the mistake that has it.
        if self.mistake == M::TwoWinners && racing.is_multiple_of(2) {
            tokio::task::yield_now().await;
        }
        let mut places = self.places.lock();
        match (self.mistake, existing) {
            (M::Overwrites, Some(existing)) => {
                places.insert(key, bytes);
                Append::Occupied(existing)
            }
            (M::OverwritesAndSaysAppended, Some(_)) => {
                places.insert(key, bytes);
                Append::Appended
            }
            (M::OccupiedSaysTheAsker, Some(_)) => Append::Occupied(bytes),
            (M::OccupiedIsEmpty, Some(_)) => Append::Occupied(Bytes::new()),
            (_, Some(existing)) => Append::Occupied(existing),
            (M::AppendVanishes, None) => Append::Appended,
            (M::NobodyIsTold, None) => {
                places.insert(key, bytes.clone());
                Append::Occupied(bytes)
            }
            (_, None) => {
                places.insert(key, bytes);
                Append::Appended
            }
        }
    }

    async fn read(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        use Mistake as M;
        let mut source = self.places.lock().clone();
        if self.mistake == M::ReadsAreStale {
            std::mem::swap(&mut source, &mut self.stale.lock());
        }
        let limit = match self.mistake {
            M::StopsAtHundred => limit.min(100),
            M::IgnoresLimit => usize::MAX,
            _ => limit,
        };
        let mut entries = Vec::new();
        let mut absent = 0;
        for seq in from.0.. {
            if entries.len() >= limit || absent > if self.mistake == M::SkipsHoles { 3 } else { 0 } {
                break;
            }
            match source.get(&self.key(shard, Place::new(epoch, LogSeq(seq)))) {
                Some(bytes) if !bytes.is_empty() || self.mistake == M::TakesNothingness => {
                    entries.push(bytes.clone());
                }
                _ => absent += 1,
            }
        }
        Ok(entries)
    }

    async fn remove(&self, shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError> {
        let mut places = self.places.lock();
        for seq in seqs {
            let key = self.key(shard, Place::new(epoch, *seq));
            let next = self.key(shard, Place::new(epoch, seq.next()));
            let removed = if self.mistake == Mistake::RemoveLeavesTombstone {
                places.insert(key, Bytes::new())
            } else {
                places.remove(&key)
            };
            if removed.is_none() && self.mistake == Mistake::RemoveFailsOnAbsent {
                return Err(error("remove", "not found", false));
            }
            if self.mistake == Mistake::RemoveTakesTheNext {
                places.remove(&next);
            }
        }
        Ok(())
    }

    fn entry_bytes_max(&self) -> usize {
        BYTES_MAX
    }

    fn describe(&self) -> String {
        format!("{:?}", self.mistake)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_notices_each_mistake() {
    use Mistake as M;
    use Promise as P;
    let rows = [
        (M::Overwrites, P::NeverOverwrites),
        (M::OverwritesAndSaysAppended, P::NeverOverwrites),
        (M::OccupiedSaysTheAsker, P::OccupiedHasTheBytes),
        (M::OccupiedIsEmpty, P::OccupiedHasTheBytes),
        (M::TakesTooMuch, P::BoundsEntries),
        (M::TakesNothingness, P::BoundsEntries),
        (M::RefusesWithoutNamingTheMaximum, P::BoundsEntries),
        (M::CutsAtZero, P::KeepsEveryByte),
        (M::SkipsHoles, P::ReadEndsAtFirstAbsentPlace),
        (M::StopsAtHundred, P::ReadEndsAtFirstAbsentPlace),
        (M::IgnoresLimit, P::ReadEndsAtFirstAbsentPlace),
        (M::MixesShards, P::KeepsShardsAndEpochsApart),
        (M::MixesEpochs, P::KeepsShardsAndEpochsApart),
        (M::RemoveFailsOnAbsent, P::RemovesExactly),
        (M::RemoveTakesTheNext, P::RemovesExactly),
        (M::RemoveLeavesTombstone, P::RemovesExactly),
        (M::AppendVanishes, P::CreatesIfAbsent),
        (M::NobodyIsTold, P::OneWinner),
    ];
    for (mistake, promise) in rows {
        let broken = run_all(&ground_of(Mistaken::new(mistake))).await.expect_err(&format!("{mistake:?}"));
        assert_eq!(broken.promise, promise, "{mistake:?}: {broken}");
        assert!(broken.to_string().contains(&promise.to_string()), "the message names the promise: {broken}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_notices_stale_reads_two_winners_and_silence() {
    let stale = ground_of(Mistaken::new(Mistake::ReadsAreStale));
    let broken = run_all(&stale).await.expect_err("stale reads");
    assert!(matches!(broken.promise, Promise::ReadsAfterWrites | Promise::CreatesIfAbsent), "{broken}");

    let split = ground_of(Mistaken::new(Mistake::TwoWinners));
    let broken = races::race(&split, Race { writers: 32, rounds: 200 }).await.expect_err("two winners");
    assert_eq!(broken.promise, Promise::OneWinner, "{broken}");
}

#[tokio::test(start_paused = true)]
async fn the_suite_gives_up_on_a_store_that_never_answers() {
    let broken = run_all(&ground_of(Mistaken::new(Mistake::NeverAnswers))).await.expect_err("silence");
    assert_eq!(broken.promise, Promise::Answers, "{broken}");
    assert!(broken.seen.contains("out of service"), "the last error is told: {broken}");
}
