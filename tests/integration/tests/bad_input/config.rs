//! Settings and stores that cannot be: the process refuses to start, in one line that names the key and what is allowed.

use std::time::Duration;

use tidelog_integration::{Said, Server, free_port, tidelog};
use tidelog_test_services::{Kind, require};
use tokio::time::Instant;

use crate::bed::{Bed, assert_calm};

/// How long a refusal may take, before a test fails: stores are asked a few times.
const REFUSED_WITHIN: Duration = Duration::from_secs(40);

/// Runs a command that has to fail with this exit code; its error has to be short, and to say each of these.
async fn fails(arguments: &[&str], code: i32, says: &[&str]) -> Said {
    let said = tokio::time::timeout(REFUSED_WITHIN, tidelog(None, arguments, Vec::new())).await;
    let said = said.unwrap_or_else(|_| panic!("{arguments:?} does not end"));
    println!("{arguments:?}: {:?} {}", said.code, said.err.trim());
    assert_eq!(said.code, Some(code), "{arguments:?}: {}", said.err);
    for text in says {
        assert!(said.err.contains(text), "{arguments:?} does not say {text:?}: {}", said.err);
    }
    assert!(said.out.is_empty(), "{arguments:?}: {}", said.text());
    for bad in ["panicked", "backtrace", "RUST_BACKTRACE", "Error {", "Custom {"] {
        assert!(!said.err.contains(bad), "{arguments:?}: {}", said.err);
    }
    // What is no mistake of the command line is one line; those have the usage below it.
    let errors = said.err.lines().filter(|line| !line.is_empty() && !line.starts_with('{')).count();
    assert!(code == 2 || errors == 1, "{arguments:?}: {}", said.err);
    said
}

#[tokio::test]
async fn settings_out_of_bounds_are_named() {
    for (key, value, says) in [
        ("--flush-interval", "250", "ms, s, m or h"),
        ("--flush-interval", "0ms", "1ms to 10s"),
        ("--flush-interval", "11s", "1ms to 10s"),
        ("--flush-interval", "1d", "ms, s, m or h"),
        ("--flush-interval", "1.5s", "no duration"),
        ("--flush-interval", "", "--flush-interval"),
        ("--flush-bytes", "0", "64KiB to 64MiB"),
        ("--flush-bytes", "65MiB", "64KiB to 64MiB"),
        ("--flush-bytes", "8MB", "KiB, MiB or GiB"),
        ("--flush-bytes", "99999999999GiB", "too large"),
        ("--buffer-memory", "0", "32MiB or more"),
        ("--buffer-memory", "31MiB", "32MiB or more"),
        ("--buffer-memory", "x", "no size"),
        ("--cache-memory", "1TB", "KiB, MiB or GiB"),
        ("--drain", "0s", "1s to 10m"),
        ("--drain", "11m", "1s to 10m"),
        ("--drain", "20", "no duration"),
        ("--listen", "localhost", "--listen"),
        ("--listen", "127.0.0.1:99999", "--listen"),
        ("--admin-listen", ":7071", "--admin-listen"),
        ("--log-format", "xml", "--log-format"),
        ("--nonsense", "1", "--nonsense"),
    ] {
        fails(&["dev", "--memory", key, value], 2, &[key, says]).await;
    }
    for key in ["--flush-bytes", "--flush-interval", "--buffer-memory"] {
        fails(&["dev", "--memory", &format!("{key}=-1")], 2, &[key]).await;
    }
}

#[tokio::test]
async fn urls_that_are_none_are_named() {
    let good = ("memory:", "memory:");
    for (storage, metadata, says) in [
        (
            "s3://bucket?endpont=http://x",
            good.1,
            vec!["--storage", "\"endpont\"", "endpoint, region and path_style"],
        ),
        ("s3://bucket?region=a&region=b", good.1, vec!["--storage", "twice"]),
        ("s3://bucket?path_style=maybe", good.1, vec!["path_style", "true or false"]),
        ("s3://Bucket", good.1, vec!["--storage", "lower case"]),
        ("s3://bucket/../x", good.1, vec!["--storage", "prefix"]),
        ("gs://bucket", good.1, vec!["--storage", "expected s3://"]),
        ("file://relative", good.1, vec!["--storage", "file:///PATH"]),
        ("file:///x?region=y", good.1, vec!["--storage", "\"region\""]),
        ("", good.1, vec!["--storage"]),
        (good.0, "dynamodb://tidelog?endpont=x", vec!["--metadata", "\"endpont\"", "endpoint and region"]),
        (good.0, "dynamodb://t", vec!["--metadata", "3 to 255"]),
        (good.0, "dynamodb://tidelog?endpoint=127.0.0.1:8000", vec!["--metadata", "expected http://"]),
        (good.0, "postgres://x", vec!["--metadata", "expected dynamodb://"]),
        (good.0, "", vec!["--metadata"]),
    ] {
        for role in ["agent", "init", "doctor"] {
            fails(&[role, "--storage", storage, "--metadata", metadata], 2, &says).await;
        }
    }
    fails(&["agent", "--storage", good.0], 2, &["--metadata"]).await;
}

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

#[tokio::test]
async fn ports_that_are_taken_are_named() {
    let mut first = Bed::new().await;
    let taken = format!("127.0.0.1:{}", first.server.port());
    let free = || format!("127.0.0.1:{}", free_port());
    let listen = ["dev", "--memory", "--listen", &taken, "--admin-listen", &free()];
    fails(&listen, 6, &[&taken, "--listen", "in use"]).await;
    let listen = ["dev", "--memory", "--listen", &free(), "--admin-listen", &taken];
    fails(&listen, 6, &[&taken, "--admin-listen", "in use"]).await;
    let foreign = ["dev", "--memory", "--listen", "192.0.2.1:7070", "--admin-listen", &free()];
    fails(&foreign, 6, &["192.0.2.1:7070", "--listen"]).await;
    first.is_well().await;
}

#[tokio::test]
async fn a_directory_belongs_to_one_process() {
    let mut first = Bed::new().await;
    first.produce(crate::bed::records("kept", vec![crate::bed::value("one")])).await.expect("sound");
    let data = first.data();
    let path = data.to_str().expect("a test's path");
    let ports = || [format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port())];
    let pid = first.server.pid().to_string();
    let [listen, admin] = ports();
    let second = ["dev", "--data-dir", path, "--listen", &listen, "--admin-listen", &admin];
    fails(&second, 5, &[path, &pid, "in use"]).await;
    let url = format!("file://{path}");
    let agent =
        ["agent", "--storage", &url, "--metadata", "storage", "--listen", &listen, "--admin-listen", &admin];
    fails(&agent, 5, &[path, &pid, "in use"]).await;
    fails(&["init", "--storage", &url, "--metadata", "storage"], 5, &[path, &pid, "in use"]).await;
    fails(&["doctor", "--storage", &url, "--metadata", "storage"], 5, &[path, &pid, "in use"]).await;
    assert_eq!(first.records("kept", 0, 0).await.len(), 1);
    first.is_well().await;
}

#[tokio::test]
async fn directories_that_cannot_be_used_are_named() {
    let own = tempfile::tempdir().expect("a directory");
    let file = own.path().join("file");
    std::fs::write(&file, b"x").expect("the test's own");
    let below = file.join("data");
    for path in
        [file.as_path(), &below, std::path::Path::new("/proc/tidelog"), std::path::Path::new("/dev/null/x")]
    {
        let path = path.to_str().expect("a test's path");
        let ports = [format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port())];
        fails(&["dev", "--data-dir", path, "--listen", &ports[0], "--admin-listen", &ports[1]], 5, &[path])
            .await;
    }
    let long = format!("/tmp/{}", "x/".repeat(3000));
    let ports = [format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port())];
    fails(
        &["dev", "--data-dir", &long, "--listen", &ports[0], "--admin-listen", &ports[1]],
        5,
        &["too long"],
    )
    .await;
}

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
