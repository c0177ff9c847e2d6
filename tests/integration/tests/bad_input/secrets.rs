//! Credentials: not on the command line, and never in a log.

use std::time::Duration;

use tidelog_integration::{Server, free_port, tidelog_with};
use tidelog_test_services::{Kind, require};

use crate::bed::assert_calm;
use crate::config::fails;
use crate::stand_in::{Fault, StandIn};

#[tokio::test]
async fn secrets_in_the_wrong_place_are_refused_and_not_repeated() {
    let good = "memory:";
    for (storage, metadata) in [
        ("s3://AKIA:hushhush@bucket", good),
        ("s3://AKIA:hush/hushhush@bucket", good),
        ("s3://bucket?endpoint=http://AKIA:hushhush@host", good),
        ("s3://bucket?endpoint=http://AKIA:hush/hush&hush@host", good),
        ("https://AKIA:hushhush@bucket", good),
        (good, "dynamodb://AKIA:hushhush@tidelog"),
        (good, "dynamodb://tidelog?endpoint=http://AKIA:hushhush@host"),
        (good, "postgres://AKIA:hushhush@host/db"),
    ] {
        for role in ["agent", "init", "doctor"] {
            let arguments = [role, "--storage", storage, "--metadata", metadata];
            let said = fails(&arguments, 2, &["credentials", "AWS_ACCESS_KEY_ID"]).await;
            assert!(!said.err.contains("hush"), "{}", said.err);
        }
    }
    // There is no flag and no key for them.
    let stores = ["--storage", good, "--metadata", good];
    for flag in ["--secret-access-key", "--aws-secret-access-key", "--access-key-id", "--password", "--token"]
    {
        let equals = format!("{flag}=hushhush");
        for secret in [vec![flag, "hushhush"], vec![equals.as_str()]] {
            let said = fails(&[["agent"].as_slice(), &stores, &secret].concat(), 2, &[flag]).await;
            assert!(!said.err.contains("hush"), "{}", said.err);
        }
    }
    let key = ["agent", "--storage", "s3://bucket?secret_access_key=hushhush", "--metadata", good];
    let said = fails(&key, 2, &["secret_access_key", "endpoint, region and path_style"]).await;
    assert!(!said.err.contains("hush"), "{}", said.err);
    for endpoint in ["http://me:hushhush@host", "https://me:hushhush@host", "me:hush/hush@host:7070"] {
        let said = fails(&["topic", "list", "--endpoint", endpoint], 2, &["endpoint", "credentials"]).await;
        assert!(!said.err.contains("hush"), "{}", said.err);
    }
}

/// A server that logs all that it can, on credentials that nobody else has: none of them is ever found in what it says.
#[tokio::test]
async fn credentials_are_never_logged() {
    let canaries = [
        ("AWS_ACCESS_KEY_ID", "AKIACANARYCANARY"),
        ("AWS_SECRET_ACCESS_KEY", "canary/secret+of+nobody"),
        ("AWS_SESSION_TOKEN", "canarytokenofnobody"),
    ];
    let store = StandIn::start().await;
    let storage = store.storage_url();
    // DynamoDB Local takes any credentials.
    let metadata = match require(Kind::DynamoDbLocal).await {
        Some(dynamodb) => dynamodb.metadata_url(&dynamodb.table("canary")),
        None => "storage".to_owned(),
    };
    let own = tempfile::tempdir().expect("a directory");
    let stores = ["--storage", storage.as_str(), "--metadata", &metadata];
    let traced = [stores.as_slice(), &["--log", "trace", "--drain", "1s"]].concat();
    let mut said = String::new();
    for (command, code) in [("init", 0), ("doctor", 0)] {
        let run = tidelog_with(&canaries, &[[command].as_slice(), &stores].concat(), Vec::new()).await;
        assert_eq!(run.code, Some(code), "{command}: {}", run.err);
        said += &(run.text() + &run.err);
    }
    let mut server = Server::spawn_with(free_port(), "agent", &traced, own.path(), &canaries);
    server.ready().await.expect("it starts");
    server.run(&["topic", "create", "t"], "").await.ok();
    server.run(&["produce", "t"], "canary of a record\n").await.ok();
    let read = server.run(&["consume", "t", "--offset", "start", "--exit-at-end"], "").await.ok();
    assert_eq!(read.text(), "canary of a record\n");
    // Refusals of the store are where a careless log would say with what it was asked.
    store.set(Fault::OtherSecret);
    let producing = server.run(&["produce", "t"], "lost\n");
    let written = tokio::time::timeout(Duration::from_secs(3), producing).await;
    assert!(written.is_err(), "it is tried again and again");
    server.terminate().await;
    assert_calm(&server);
    assert!(server.log().contains("SignatureDoesNotMatch"), "it logged what it was told: {}", server.log());
    said += &server.log();
    // And where it does not even start.
    let mut server = Server::spawn_with(free_port(), "agent", &traced, own.path(), &canaries);
    assert!(server.ready().await.is_err(), "no store, no start");
    said += &server.log();
    for (name, canary) in canaries.into_iter().skip(1).chain([("a record", "canary of a record")]) {
        if let Some(at) = said.find(canary) {
            panic!("{name} was logged: {}", &said[at.saturating_sub(300)..(at + 300).min(said.len())]);
        }
    }
}
