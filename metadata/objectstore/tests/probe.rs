//! The probe on stores that need no service, good ones and bad ones.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tidelog_metadata_log::conformance::{Ground, Promise, run_all};
use tidelog_metadata_log::env::{Clock, Entropy, SystemClock};
use tidelog_metadata_log::{Append, Check, Finding, MetadataLog, Verdict};
use tidelog_metadata_objectstore::probe::{probe, probe_start};
use tidelog_metadata_objectstore::{DurableLocal, ObjectStoreLog};
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId, TimestampMs};

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The condition of a PUT is dropped, as gateways and proxies do that do not know the header.
    IgnoresCondition,
    /// The condition is looked at before the write and not with it.
    ChecksThenWrites,
    /// Conditional PUTs are answered "not implemented".
    KnowsNoCondition,
    /// Deletion is not allowed.
    RefusesDelete,
    /// Nothing is allowed.
    RefusesAll,
    /// Refuses every create as existing, and finds nothing: S3's 409.
    Conflicts,
    /// Fails to read odd places, though they are there.
    OddReadsFail,
}

#[derive(Debug)]
struct Faulty {
    inner: InMemory,
    fault: Fault,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store with fault {:?}", self.fault)
    }
}

fn faulty(fault: Fault) -> Arc<Faulty> {
    Arc::new(Faulty { inner: InMemory::new(), fault })
}

fn denied(location: &Path) -> Error {
    Error::PermissionDenied { path: location.to_string(), source: "access denied".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.fault {
            Fault::IgnoresCondition => self.inner.put(location, payload).await,
            Fault::ChecksThenWrites => {
                if self.inner.head(location).await.is_ok() {
                    return self.inner.put_opts(location, payload, options).await;
                }
                tokio::task::yield_now().await;
                self.inner.put(location, payload).await
            }
            Fault::KnowsNoCondition if options.mode == PutMode::Create => Err(Error::NotImplemented {
                operation: "conditional put".to_owned(),
                implementer: self.to_string(),
            }),
            Fault::RefusesAll => Err(denied(location)),
            Fault::Conflicts => {
                Err(Error::AlreadyExists { path: location.to_string(), source: "409 Conflict".into() })
            }
            _ => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let odd = location.as_ref().ends_with(['1', '3', '5', '7', '9']);
        match self.fault {
            Fault::RefusesAll => Err(denied(location)),
            Fault::OddReadsFail if odd => {
                Err(Error::Generic { store: "faulty", source: "503 slow down".into() })
            }
            _ => self.inner.get_opts(location, options).await,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if matches!(self.fault, Fault::RefusesDelete | Fault::RefusesAll) {
            return locations.map(|location| Err(denied(&location?))).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

async fn probed(store: &dyn ObjectStore) -> Vec<Finding> {
    probe(store, &SystemClock, &Entropy::seeded(7)).await
}

fn worst(findings: &[Finding]) -> Vec<(Check, Verdict)> {
    let not_good = findings.iter().filter(|finding| finding.verdict != Verdict::Good);
    not_good.map(|finding| (finding.check, finding.verdict)).collect()
}

#[tokio::test]
async fn good_stores_are_found_good_and_left_clean() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let local = DurableLocal::open(directory.path()).expect("opens");
    let stores: [Arc<dyn ObjectStore>; 2] = [Arc::new(InMemory::new()), Arc::new(local)];
    for store in stores {
        let findings = probed(&*store).await;
        let checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
        let all = [
            Check::Reachable,
            Check::ReadAfterWrite,
            Check::CreateIfAbsent,
            Check::Clock,
            Check::CreateRace,
            Check::Delete,
        ];
        assert_eq!(checks, all);
        assert!(worst(&findings).is_empty(), "{findings:#?}");
        assert_eq!(store.list(None).count().await, 0, "nothing is left behind");

        for _ in 0..2 {
            assert!(worst(&probe_start(&*store).await).is_empty());
        }
        assert_eq!(store.list(None).count().await, 1, "starts leave one object, however many there are");
    }
}

#[tokio::test]
async fn bad_stores_are_found_with_a_remedy() {
    let rows: [(Fault, &[(Check, Verdict)]); 5] = [
        (
            Fault::IgnoresCondition,
            &[(Check::CreateIfAbsent, Verdict::Bad), (Check::CreateRace, Verdict::Bad)],
        ),
        (Fault::ChecksThenWrites, &[(Check::CreateRace, Verdict::Bad)]),
        (Fault::KnowsNoCondition, &[(Check::Reachable, Verdict::Bad)]),
        (Fault::RefusesDelete, &[(Check::Delete, Verdict::Note)]),
        (Fault::RefusesAll, &[(Check::Reachable, Verdict::Bad)]),
    ];
    for (fault, wanted) in rows {
        let findings = probed(&*faulty(fault)).await;
        assert_eq!(worst(&findings), wanted, "{fault:?}: {findings:#?}");
        for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Good) {
            assert!(finding.remedy.is_some(), "{finding}");
        }
    }
}

#[tokio::test]
async fn a_start_refuses_what_would_overwrite() {
    for (fault, check) in [
        (Fault::IgnoresCondition, Check::CreateIfAbsent),
        (Fault::KnowsNoCondition, Check::Reachable),
        (Fault::RefusesAll, Check::Reachable),
    ] {
        let findings = probe_start(&*faulty(fault)).await;
        assert_eq!(worst(&findings), [(check, Verdict::Bad)], "{fault:?}: {findings:#?}");
    }
}

/// A clock that is off by so many milliseconds.
#[derive(Debug)]
struct Off(i64);

impl Clock for Off {
    fn now(&self) -> TimestampMs {
        SystemClock.now().saturating_add_ms(self.0)
    }
}

#[tokio::test]
async fn a_clock_that_is_off_is_found() {
    let rows = [
        (0, Verdict::Good),
        (25_000, Verdict::Good),
        (-45_000, Verdict::Note),
        (45_000, Verdict::Note),
        (90_000, Verdict::Bad),
        (-3_600_000, Verdict::Bad),
    ];
    for (off_ms, verdict) in rows {
        let findings = probe(&InMemory::new(), &Off(off_ms), &Entropy::seeded(1)).await;
        let clock = findings.iter().find(|finding| finding.check == Check::Clock).expect("looked at");
        assert_eq!(clock.verdict, verdict, "{off_ms}: {clock}");
        let side = if off_ms > 0 { "behind" } else { "ahead of" };
        assert!(off_ms == 0 || clock.seen.contains(side), "{off_ms}: {clock}");
    }
}

fn log_on(store: Arc<Faulty>) -> ObjectStoreLog {
    ObjectStoreLog::new(store, &Path::default())
}

const EPOCH: LogEpoch = LogEpoch(3);

#[tokio::test]
async fn the_suite_notices_a_store_that_ignores_the_condition() {
    let store = faulty(Fault::IgnoresCondition);
    let ground = Ground::new(Arc::new(log_on(Arc::clone(&store))), Arc::new(log_on(store)));
    let broken = run_all(&ground).await.expect_err("noticed");
    assert_eq!(broken.promise, Promise::NeverOverwrites, "{broken}");
}

#[tokio::test]
async fn existing_and_then_not_found_is_unknown() {
    let outcome =
        log_on(faulty(Fault::Conflicts)).append(ShardId::ZERO, Place::begin_of(EPOCH), "x".into()).await;
    assert!(matches!(&outcome, Append::Unknown(error) if error.retryable), "{outcome:?}");
}

#[tokio::test]
async fn a_place_that_cannot_be_read_is_not_absent() {
    let store = faulty(Fault::OddReadsFail);
    let log = log_on(Arc::clone(&store));
    for seq in [0, 1, 2] {
        assert_eq!(
            log.append(ShardId::ZERO, Place::new(EPOCH, LogSeq(seq)), "x".into()).await,
            Append::Appended
        );
    }
    let error = log.read(ShardId::ZERO, EPOCH, LogSeq(0), 10).await.expect_err("not the end");
    assert!(error.retryable && error.to_string().contains("0000000001"), "{error}");
    // Behind the end nobody cares: 2 is there, 3 (which fails) is not asked for.
    assert_eq!(log.read(ShardId::ZERO, EPOCH, LogSeq(2), 1).await.map(|found| found.len()), Ok(1));

    // A window of two: 4 is absent and ends the read, whatever became of 5.
    let mut window = log.read(ShardId::ZERO, EPOCH, LogSeq(4), 10).await;
    assert_eq!(window.as_mut().map(|found| found.len()), Ok(0));

    // And one that is occupied but cannot be read back is unknown, not occupied by nothing.
    let taken = log.append(ShardId::ZERO, Place::new(EPOCH, LogSeq(1)), "y".into()).await;
    assert!(matches!(taken, Append::Unknown(_)), "{taken:?}");
}

#[tokio::test]
async fn what_is_no_entry_is_an_error_and_costs_no_memory() {
    let store = Arc::new(InMemory::new());
    let log = ObjectStoreLog::new(Arc::clone(&store) as _, &Path::default());
    for (seq, length) in [(0, 0), (1, 257 * 1024), (2, 8 << 20)] {
        let key = Path::from(format!("meta/log/0000/0000000003/{seq:010}"));
        store.put(&key, vec![0; length].into()).await.expect("put");
        let error = log.read(ShardId::ZERO, EPOCH, LogSeq(seq), 1).await.expect_err("no entry");
        assert!(!error.retryable && error.cause.contains(&length.to_string()), "{error}");
    }
}

/// A store that never answers.
#[derive(Debug)]
struct Silent;

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("silent store")
    }
}

#[async_trait]
impl ObjectStore for Silent {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        std::future::pending().await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        std::future::pending().await
    }

    async fn get_opts(&self, _: &Path, _: GetOptions) -> Result<GetResult> {
        std::future::pending().await
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        futures::stream::pending().boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        futures::stream::pending().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        std::future::pending().await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_unknown_within_bounds() {
    let log = ObjectStoreLog::new(Arc::new(Silent), &Path::default());
    let started = tokio::time::Instant::now();
    let outcome = log.append(ShardId::ZERO, Place::begin_of(EPOCH), "x".into()).await;
    assert!(matches!(&outcome, Append::Unknown(error) if error.retryable), "{outcome:?}");
    assert!(log.read(ShardId::ZERO, EPOCH, LogSeq::ZERO, 100).await.is_err());
    assert!(log.remove(ShardId::ZERO, EPOCH, &[LogSeq(1), LogSeq(2)]).await.is_err());
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());

    let findings = probed(&Silent).await;
    assert_eq!(worst(&findings), [(Check::Reachable, Verdict::Bad)]);
}
