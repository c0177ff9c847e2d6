//! The conformance suite, table creation and probe, on real services.

use std::sync::Arc;

use tidelog_metadata_dynamodb::{CreateTableError, DynamoDbLog, DynamoDbUrl};
use tidelog_metadata_log::conformance::{Ground, Race, races, run_all};
use tidelog_metadata_log::env::Entropy;
use tidelog_metadata_log::{Append, Check, MetadataLog, Verdict};
use tidelog_test_services::{ACCESS_KEY_ID, Kind, SECRET_ACCESS_KEY, Service, require};
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

fn url_of(service: &Service, table: &str) -> DynamoDbUrl {
    DynamoDbUrl::parse(&service.metadata_url(table))
        .expect("the service's URL")
        .with_static_credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY)
}

async fn connect(url: &DynamoDbUrl) -> DynamoDbLog {
    DynamoDbLog::connect(url).await.expect("a client")
}

/// Two clients with connections of their own, on a fresh table.
async fn ground_on(service: &Service, table: &str) -> Ground {
    let url = url_of(service, &service.table(table));
    let log = connect(&url).await;
    assert_eq!(log.create_table().await, Ok(true));
    Ground::new(Arc::new(log), Arc::new(connect(&url).await))
}

async fn conformance_on(kind: Kind) {
    let Some(service) = require(kind).await else { return };
    let ground = ground_on(service, "conformance").await;
    run_all(&ground).await.expect("every promise is kept");
    let report = races::race(&ground, Race { writers: 32, rounds: 200 }).await.expect("one winner");
    assert_eq!(report.rounds, 200);
    println!("{kind}: {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_on_dynamodb_local() {
    conformance_on(Kind::DynamoDbLocal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_on_localstack() {
    conformance_on(Kind::LocalStack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_is_idempotent_and_a_foreign_table_is_refused() {
    let Some(service) = require(Kind::DynamoDbLocal).await else { return };
    let url = url_of(service, &service.table("creation"));
    let log = connect(&url).await;

    let missing = log.probe_access().await;
    assert_eq!((missing.check, missing.verdict), (Check::Reachable, Verdict::Bad), "{missing}");
    assert!(missing.remedy.is_some_and(|remedy| remedy.contains("tidelog init")), "{missing}");
    let append = log.append(ShardId::ZERO, Place::begin_of(LogEpoch::ZERO), "x".into()).await;
    assert!(matches!(&append, Append::Unknown(error) if !error.retryable), "{append:?}");

    assert_eq!(log.create_table().await, Ok(true));
    assert_eq!(log.create_table().await, Ok(false));
    let findings = log.probe(&Entropy::seeded(1)).await;
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:#?}");
    assert_eq!(findings.len(), 5);

    let foreign = service.table("foreign");
    let create = format!(
        r#"{{"TableName":"{foreign}","BillingMode":"PAY_PER_REQUEST",
            "KeySchema":[{{"AttributeName":"id","KeyType":"HASH"}},{{"AttributeName":"n","KeyType":"RANGE"}}],
            "AttributeDefinitions":[{{"AttributeName":"id","AttributeType":"S"}},{{"AttributeName":"n","AttributeType":"N"}}]}}"#
    );
    let answer = service.dynamodb("CreateTable", &create).await.expect("answered");
    assert_eq!(answer.status, 200, "{answer}");
    let log = connect(&url_of(service, &foreign)).await;
    assert!(matches!(log.create_table().await, Err(CreateTableError::OtherSchema { .. })));
    let finding = log.probe_access().await;
    assert_eq!((finding.check, finding.verdict), (Check::TableSchema, Verdict::Bad), "{finding}");
}

#[tokio::test(flavor = "multi_thread")]
async fn time_to_live_is_found() {
    let Some(service) = require(Kind::DynamoDbLocal).await else { return };
    let table = service.table("expiring");
    let log = connect(&url_of(service, &table)).await;
    log.create_table().await.expect("created");
    let switch_on = format!(
        r#"{{"TableName":"{table}","TimeToLiveSpecification":{{"AttributeName":"expires","Enabled":true}}}}"#
    );
    let answer = service.dynamodb("UpdateTimeToLive", &switch_on).await.expect("answered");
    assert_eq!(answer.status, 200, "{answer}");
    let findings = log.probe(&Entropy::seeded(2)).await;
    let settings = findings.iter().find(|finding| finding.check == Check::TableSettings).expect("looked at");
    assert_eq!(settings.verdict, Verdict::Bad, "{settings}");
}

/// 200 entries of the largest length are 12.5 MiB: more than one answer may carry when asked for by hundreds.
#[tokio::test(flavor = "multi_thread")]
async fn large_entries_are_read_over_several_answers() {
    let Some(service) = require(Kind::DynamoDbLocal).await else { return };
    let log = connect(&url_of(service, &service.table("large"))).await;
    log.create_table().await.expect("created");
    let large = |seq: u64| bytes::Bytes::from(vec![seq as u8; log.entry_bytes_max()]);
    for seq in 0..200 {
        let outcome = log.append(ShardId::ZERO, Place::new(LogEpoch::ZERO, LogSeq(seq)), large(seq)).await;
        assert_eq!(outcome, Append::Appended);
    }
    let read = log.read(ShardId::ZERO, LogEpoch::ZERO, LogSeq::ZERO, 1000).await.expect("read");
    assert_eq!(read.len(), 200);
    assert!((0..).zip(&read).all(|(seq, entry)| *entry == large(seq)));
}

#[tokio::test]
async fn a_store_that_is_not_there_is_unknown_within_bounds() {
    // A port that nobody listens on: bound, and closed again.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let url =
        DynamoDbUrl::parse(&format!("dynamodb://tidelog?endpoint=http://127.0.0.1:{port}&region=us-east-1"))
            .expect("a URL")
            .with_static_credentials("a", "b");
    let log = connect(&url).await;
    let started = tokio::time::Instant::now();
    let outcome = log.append(ShardId::ZERO, Place::begin_of(LogEpoch::ZERO), "x".into()).await;
    assert!(matches!(&outcome, Append::Unknown(error) if error.retryable), "{outcome:?}");
    let read = log.read(ShardId::ZERO, LogEpoch::ZERO, LogSeq::ZERO, 10).await.expect_err("not absent");
    assert!(read.retryable && read.to_string().contains(&port.to_string()), "{read}");
    let finding = log.probe_access().await;
    assert_eq!((finding.check, finding.verdict), (Check::Reachable, Verdict::Bad), "{finding}");
    assert!(started.elapsed().as_secs() < 10);
}
