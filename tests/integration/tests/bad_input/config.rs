//! Settings that cannot be: the process refuses to start, in one line that names the key and what is allowed.

use std::time::Duration;

use tidelog_integration::{Said, free_port, tidelog};

use crate::bed::Bed;

/// How long a refusal may take, before a test fails: stores are asked a few times.
pub const REFUSED_WITHIN: Duration = Duration::from_secs(40);

/// Runs a command that has to fail with this exit code; its error has to be short, and to say each of these.
pub async fn fails(arguments: &[&str], code: i32, says: &[&str]) -> Said {
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
