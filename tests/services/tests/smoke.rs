//! Each service starts, answers conditional writes as it should, and is gone afterwards.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use tidelog_test_services::{Kind, Service, require};

/// Create-if-absent, and its loser sees the winner's bytes.
async fn conditional_put(service: &Service) {
    let bucket = service.bucket("conditional").await.unwrap();
    let path = format!("/{bucket}/key");
    let if_absent = [("if-none-match", "*")];
    let first = service.s3("PUT", &path, &if_absent, b"first").await.unwrap();
    assert_eq!(first.status, 200, "{first}");
    let second = service.s3("PUT", &path, &if_absent, b"second").await.unwrap();
    assert_eq!(second.status, 412, "{second}");
    let found = service.s3("GET", &path, &[], b"").await.unwrap();
    assert_eq!((found.status, found.body.as_str()), (200, "first"));
    let other = service.bucket("conditional").await.unwrap();
    let absent = service.s3("GET", &format!("/{other}/key"), &[], b"").await.unwrap();
    assert_eq!(absent.status, 404, "buckets are apart: {absent}");
}

/// A conditional PutItem, and the existing item in the refusal.
async fn conditional_item(service: &Service) {
    let table = service.table("conditional");
    let create = format!(
        r#"{{"TableName":"{table}","BillingMode":"PAY_PER_REQUEST",
            "AttributeDefinitions":[{{"AttributeName":"k","AttributeType":"S"}}],
            "KeySchema":[{{"AttributeName":"k","KeyType":"HASH"}}]}}"#
    );
    let created = service.dynamodb("CreateTable", &create).await.unwrap();
    assert_eq!(created.status, 200, "{created}");
    let put = |value: &str| {
        format!(
            r#"{{"TableName":"{table}","Item":{{"k":{{"S":"place"}},"v":{{"S":"{value}"}}}},
                "ConditionExpression":"attribute_not_exists(k)","ReturnValuesOnConditionCheckFailure":"ALL_OLD"}}"#
        )
    };
    let first = service.dynamodb("PutItem", &put("first")).await.unwrap();
    assert_eq!(first.status, 200, "{first}");
    let second = service.dynamodb("PutItem", &put("second")).await.unwrap();
    assert_eq!(second.status, 400, "{second}");
    assert!(second.body.contains("ConditionalCheckFailedException"), "{second}");
    assert!(second.body.contains(r#""first""#), "the refusal holds the existing item: {second}");
}

#[tokio::test]
async fn minio_refuses_a_second_create() {
    let Some(minio) = require(Kind::Minio).await else { return };
    conditional_put(minio).await;
}

#[tokio::test]
async fn dynamodb_local_refuses_a_second_create() {
    let Some(dynamodb) = require(Kind::DynamoDbLocal).await else { return };
    conditional_item(dynamodb).await;
}

#[tokio::test]
async fn local_stack_refuses_a_second_create() {
    let Some(local_stack) = require(Kind::LocalStack).await else { return };
    conditional_put(local_stack).await;
    conditional_item(local_stack).await;
}

#[tokio::test]
async fn seaweed_fs_refuses_a_second_create() {
    let Some(seaweed_fs) = require(Kind::SeaweedFs).await else { return };
    conditional_put(seaweed_fs).await;
}

/// Runs one test of this file in a process of its own, with other settings.
fn run_again(test: &str, settings: &[(&str, &str)]) -> (bool, String) {
    let this_binary = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(this_binary);
    command.args(["--exact", test]).envs(settings.iter().copied());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn without_services_tests_pass_and_say_that_they_were_skipped() {
    let (passed, said) = run_again("minio_refuses_a_second_create", &[("TIDELOG_TEST_SERVICES", "none")]);
    assert!(passed, "{said}");
    assert!(said.contains("SKIPPED minio_refuses_a_second_create: needs minio"), "{said}");
}

#[test]
fn where_services_are_impossible_tests_fail_and_say_why() {
    // A file where the folder should be, so that nothing can be installed.
    let settings = [("TIDELOG_TEST_SERVICES", "native"), ("TIDELOG_SERVICES_DIR", "/dev/null")];
    let (passed, said) = run_again("minio_refuses_a_second_create", &settings);
    assert!(!passed, "{said}");
    assert!(said.contains("minio could not be installed by tests/services/install.sh"), "{said}");

    let (passed, said) = run_again("minio_refuses_a_second_create", &[("TIDELOG_TEST_SERVICES", "docker")]);
    assert!(!passed, "{said}");
    assert!(said.contains("allowed are auto, native, containers and none"), "{said}");
}
