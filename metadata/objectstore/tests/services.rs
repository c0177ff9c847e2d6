//! The conformance suite and the probe on real S3 services.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{Error, PutMode};
use tidelog_metadata_log::conformance::{Ground, Race, races, run_all};
use tidelog_metadata_log::env::{Entropy, SystemClock};
use tidelog_metadata_log::{Append, Check, MetadataLog, Verdict};
use tidelog_metadata_objectstore::probe::{probe, probe_start};
use tidelog_metadata_objectstore::{ObjectStoreLog, S3Url, StorageUrl};
use tidelog_test_services::{ACCESS_KEY_ID, Kind, SECRET_ACCESS_KEY, Service, require};
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

fn url_of(service: &Service, bucket: &str) -> S3Url {
    match StorageUrl::parse(&service.storage_url(bucket, "clusters/one")) {
        Ok(StorageUrl::S3(url)) => url.with_static_credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY),
        other => panic!("the service's URL: {other:?}"),
    }
}

fn log_of(url: &S3Url) -> ObjectStoreLog {
    ObjectStoreLog::new(url.log_store().expect("a client"), &Path::default())
}

/// Two clients with connections of their own, on a fresh bucket; both views are probed on the way.
async fn conformance_on(kind: Kind, long_race: Race) {
    let Some(service) = require(kind).await else { return };
    let bucket = service.bucket("conformance").await.expect("a bucket");
    let url = url_of(service, &bucket);

    let data = url.data_store().expect("a client");
    let findings = probe(&*data, &SystemClock, &Entropy::seeded(1)).await;
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:#?}");
    assert_eq!(findings.len(), 6, "{findings:#?}");
    for _ in 0..2 {
        let findings = probe_start(&*data).await;
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:#?}");
    }

    let ground = Ground::new(Arc::new(log_of(&url)), Arc::new(log_of(&url)));
    run_all(&ground).await.expect("every promise is kept");
    let report = races::race(&ground, long_race).await.expect("one winner");
    assert_eq!(report.rounds, long_race.rounds);
    println!("{kind}: {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_on_minio() {
    conformance_on(Kind::Minio, Race { writers: 32, rounds: 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_on_localstack() {
    conformance_on(Kind::LocalStack, Race { writers: 32, rounds: 200 }).await;
}

/// Fewer writers: a race for one key takes seconds there.
#[tokio::test(flavor = "multi_thread")]
async fn conformance_on_seaweedfs() {
    conformance_on(Kind::SeaweedFs, Race { writers: 8, rounds: 20 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_created_once_and_a_missing_one_is_named() {
    let Some(service) = require(Kind::Minio).await else { return };
    let url = url_of(service, "created-by-init");
    let data = url.data_store().expect("a client");

    let findings = probe(&*data, &SystemClock, &Entropy::seeded(1)).await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!((findings[0].check, findings[0].verdict), (Check::Reachable, Verdict::Bad), "{}", findings[0]);
    assert!(findings[0].remedy.is_some_and(|remedy| remedy.contains("--create-bucket")), "{}", findings[0]);
    let append = log_of(&url).append(ShardId::ZERO, Place::begin_of(LogEpoch::ZERO), "x".into()).await;
    assert!(matches!(append, Append::Unknown(_)), "{append:?}");
    let read =
        log_of(&url).read(ShardId::ZERO, LogEpoch::ZERO, LogSeq::ZERO, 1).await.expect_err("not absent");
    assert!(!read.retryable && read.cause.contains("bucket"), "{read}");

    assert!(url.create_bucket().await.expect("created"));
    assert!(!url.create_bucket().await.expect("there already"));
    let findings = probe_start(&*data).await;
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_want_an_operator_and_are_not_repeated() {
    let Some(service) = require(Kind::Minio).await else { return };
    let bucket = service.bucket("credentials").await.expect("a bucket");
    let url = url_of(service, &bucket).with_static_credentials(ACCESS_KEY_ID, "not-the-secret-of-anybody");
    let log = log_of(&url);
    let append = log.append(ShardId::ZERO, Place::begin_of(LogEpoch::ZERO), "x".into()).await;
    assert!(matches!(&append, Append::Unknown(error) if !error.retryable), "{append:?}");
    let read = log.read(ShardId::ZERO, LogEpoch::ZERO, LogSeq::ZERO, 1).await.expect_err("not absent");
    assert!(!read.retryable, "{read}");
    assert!(!format!("{append:?} {read}").contains("not-the-secret"), "secrets are not told");
}

/// The prefix keeps two clusters in one bucket apart, and keys are where the documentation says.
#[tokio::test(flavor = "multi_thread")]
async fn keys_lie_below_the_prefix() {
    let Some(service) = require(Kind::Minio).await else { return };
    let bucket = service.bucket("prefix").await.expect("a bucket");
    let url = url_of(service, &bucket);
    let place = Place::new(LogEpoch(12), LogSeq(345));
    assert_eq!(log_of(&url).append(ShardId(7), place, "x".into()).await, Append::Appended);
    let path = format!("/{bucket}/clusters/one/meta/log/0007/0000000012/0000000345");
    let found = service.s3("GET", &path, &[], b"").await.expect("answered");
    assert_eq!((found.status, found.body.as_str()), (200, "x"));

    let data = url.data_store().expect("a client");
    let key = Path::from("wal/one");
    data.put_opts(&key, "1".into(), PutMode::Create.into()).await.expect("created");
    let second = data.put_opts(&key, "2".into(), PutMode::Create.into()).await;
    assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
}
