//! Stores that are not there, belong to others or break their promises: the process refuses to start, and says what to do.

use tidelog_integration::{Server, free_port, tidelog};
use tidelog_test_services::{Kind, require};
use tokio::time::Instant;

use crate::bed::assert_calm;
use crate::config::{REFUSED_WITHIN, fails};
use crate::stand_in::{Fault, StandIn};

#[tokio::test]
async fn stores_that_are_not_initialised_are_told_how() {
    let own = tempfile::tempdir().expect("a directory");
    let storage = format!("file://{}", own.path().join("data").display());
    let arguments = ["--storage", &storage, "--metadata", "storage"];
    let ports = [format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port())];
    let agent =
        [["agent", "--listen", &ports[0], "--admin-listen", &ports[1]].as_slice(), &arguments].concat();
    let init = format!("tidelog init --storage '{storage}' --metadata 'storage'");
    fails(&agent, 3, &["not initialised", &init]).await;
    let doctor = tidelog(None, &[["doctor"].as_slice(), &arguments].concat(), Vec::new()).await;
    assert_eq!(doctor.code, Some(10), "{}", doctor.err);
    assert!(doctor.text().contains("tidelog init"), "{}", doctor.text());
    // What it says helps.
    tidelog(None, &[["init"].as_slice(), &arguments].concat(), Vec::new()).await.ok();
    let server = Server::start("agent", &arguments, own.path()).await;
    assert_calm(&server);
}

#[tokio::test]
async fn services_that_are_not_there_are_named() {
    let port = free_port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let storage = format!("s3://bucket/p?endpoint={endpoint}&region=us-east-1&path_style=true");
    let metadata = format!("dynamodb://tidelog?endpoint={endpoint}&region=us-east-1");
    let authority = format!("127.0.0.1:{port}");
    for (storage, metadata) in [(storage.as_str(), "storage"), ("memory:", &metadata), (&storage, &metadata)]
    {
        for command in ["agent", "init"] {
            let ports = [format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port())];
            let mut arguments = vec![command, "--storage", storage, "--metadata", metadata];
            if command == "agent" {
                arguments.extend(["--listen", &ports[0], "--admin-listen", &ports[1]]);
            }
            let started = Instant::now();
            let said = tokio::time::timeout(REFUSED_WITHIN, tidelog(None, &arguments, Vec::new())).await;
            let said = said.unwrap_or_else(|_| panic!("{arguments:?} does not end"));
            println!("{arguments:?}: {:?} after {:?}: {}", said.code, started.elapsed(), said.err.trim());
            assert!(said.code.is_some_and(|code| [1, 5, 10].contains(&code)), "{:?} {}", said.code, said.err);
            assert!(said.err.contains(&authority), "{arguments:?} does not name the host: {}", said.err);
            assert!(!said.err.contains("panicked"), "{}", said.err);
        }
    }
}

#[tokio::test]
async fn buckets_and_tables_that_are_not_there_are_named() {
    let (Some(minio), Some(dynamodb)) = (require(Kind::Minio).await, require(Kind::DynamoDbLocal).await)
    else {
        return;
    };
    let bucket = minio.bucket("bad-config").await.expect("a bucket");
    let storage = minio.storage_url(&bucket, "t");
    let table = dynamodb.table("bad-config");
    let metadata = dynamodb.metadata_url(&table);
    let missing_bucket = format!("{bucket}-missing");
    let missing = minio.storage_url(&missing_bucket, "t");
    let ports = [format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port())];
    let agent = |storage: &str, metadata: &str| {
        let mut arguments = vec!["agent".to_owned(), "--listen".into(), ports[0].clone()];
        arguments.extend(["--admin-listen".into(), ports[1].clone()]);
        arguments.extend(["--storage".into(), storage.into(), "--metadata".into(), metadata.into()]);
        arguments
    };
    let run = async |arguments: Vec<String>, codes: &[i32], says: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = tokio::time::timeout(REFUSED_WITHIN, tidelog(None, &arguments, Vec::new()))
            .await
            .expect("it ends");
        println!("{arguments:?}: {:?} {}", said.code, said.err.trim());
        assert!(
            said.code.is_some_and(|code| codes.contains(&code)),
            "{arguments:?}: {:?} {}",
            said.code,
            said.err
        );
        for text in says {
            assert!(said.err.contains(text), "{arguments:?} does not say {text:?}: {}", said.err);
        }
        assert!(!said.err.contains("panicked"), "{}", said.err);
    };
    let init = |storage: &str, metadata: &str| {
        ["init", "--storage", storage, "--metadata", metadata].map(str::to_owned).to_vec()
    };

    // No table, then no bucket, then neither initialised.
    run(agent(&storage, &metadata), &[3, 5, 10], &[&table]).await;
    run(init(&missing, &metadata), &[1, 5, 10], &[&missing_bucket]).await;
    run(agent(&missing, &metadata), &[3, 5, 10], &[]).await;
    run(agent(&storage, &metadata), &[3], &["not initialised", "tidelog init"]).await;
    run(init(&storage, &metadata), &[0], &[]).await;

    // A second cluster beside it.
    let other_storage = minio.storage_url(&bucket, "other");
    let other_metadata = dynamodb.metadata_url(&dynamodb.table("bad-config-other"));
    run(init(&other_storage, &other_metadata), &[0], &[]).await;
    run(agent(&storage, &other_metadata), &[6], &["belongs to cluster", "wrong"]).await;
    run(agent(&other_storage, &metadata), &[6], &["belongs to cluster", "wrong"]).await;
    run(init(&storage, &other_metadata), &[6], &["belongs to cluster"]).await;
    // A cluster's table with a prefix that is nobody's.
    run(agent(&minio.storage_url(&bucket, "nobody"), &metadata), &[6], &["storage URL"]).await;
    run(init(&minio.storage_url(&bucket, "nobody"), &metadata), &[6], &["storage URL"]).await;

    // A cluster's prefix, in use, with a table that is nobody's: a second log over the same objects.
    let own = tempfile::tempdir().expect("a directory");
    let mut server =
        Server::start("agent", &["--storage", &storage, "--metadata", &metadata], own.path()).await;
    server.run(&["topic", "create", "kept"], "").await.ok();
    server.run(&["produce", "kept"], "one\n").await.ok();
    let fresh = dynamodb.metadata_url(&dynamodb.table("bad-config-fresh"));
    run(init(&storage, &fresh), &[6], &["belongs to cluster"]).await;
    // The first is unharmed.
    let kept = server.run(&["consume", "kept", "--offset", "start", "--exit-at-end"], "").await.ok();
    assert_eq!(kept.text(), "one\n");
    assert_calm(&server);
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
}

/// A store that overwrites would let two agents destroy each other's records.
#[tokio::test]
async fn stores_that_keep_no_condition_are_refused() {
    let store = StandIn::start().await;
    let storage = store.storage_url();
    let stores = ["--storage", storage.as_str(), "--metadata", "storage"];
    let ports = [format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port())];
    let agent = [["agent", "--listen", &ports[0], "--admin-listen", &ports[1]].as_slice(), &stores].concat();
    let remedy = "keeps If-None-Match on PutObject";
    for fault in [Fault::DropsCondition, Fault::KnowsNoCondition] {
        store.set(fault);
        let said = tidelog(None, &[["init"].as_slice(), &stores].concat(), Vec::new()).await;
        assert_eq!(said.code, Some(10), "{fault:?}: {}", said.err);
        assert!(said.err.contains("bad: ") && said.err.contains(remedy), "{fault:?}: {}", said.err);
        assert!(said.err.contains("nothing was initialised"), "{fault:?}: {}", said.err);
        let said = tidelog(None, &[["doctor"].as_slice(), &stores].concat(), Vec::new()).await;
        assert_eq!(said.code, Some(10), "{fault:?}: {}", said.err);
        assert!(said.text().contains(remedy), "{fault:?}: {}", said.text());
    }
    store.set(Fault::Nothing);
    fails(&agent, 3, &["not initialised"]).await;
    tidelog(None, &[["init"].as_slice(), &stores].concat(), Vec::new()).await.ok();
    // The same cluster behind a gateway that knows the header no more.
    for fault in [Fault::DropsCondition, Fault::KnowsNoCondition] {
        store.set(fault);
        fails(&agent, 10, &["the stores cannot be used", "storage: bad: ", remedy]).await;
    }
    store.set(Fault::Nothing);
    let own = tempfile::tempdir().expect("a directory");
    let mut server = Server::start("agent", &stores, own.path()).await;
    server.run(&["topic", "create", "kept"], "").await.ok();
    server.run(&["produce", "kept"], "one\n").await.ok();
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
}

#[tokio::test]
async fn a_wrong_region_or_secret_is_named_with_a_remedy() {
    let store = StandIn::start().await;
    let storage = store.storage_url();
    let stores = ["--storage", storage.as_str(), "--metadata", "storage"];
    let ports = [format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port())];
    let agent = [["agent", "--listen", &ports[0], "--admin-listen", &ports[1]].as_slice(), &stores].concat();
    for (fault, says) in
        [(Fault::OtherRegion, "expecting 'eu-west-1'"), (Fault::OtherSecret, "SignatureDoesNotMatch")]
    {
        store.set(fault);
        fails(&agent, 5, &["bucket", says, "tidelog doctor"]).await;
        let remedy = "check bucket, endpoint, region and credentials";
        let said = tidelog(None, &[["init"].as_slice(), &stores].concat(), Vec::new()).await;
        assert_eq!(said.code, Some(10), "{}", said.err);
        assert!(said.err.contains(says) && said.err.contains(remedy), "{}", said.err);
        let said = tidelog(None, &[["doctor"].as_slice(), &stores].concat(), Vec::new()).await;
        assert_eq!(said.code, Some(10), "{}", said.err);
        assert!(said.text().contains(says) && said.text().contains(remedy), "{}", said.text());
    }
}
