//! Client commands with input and addresses that are wrong: one line, an exit code of its own, and nothing half done in silence.

use std::time::Duration;

use tidelog_integration::{Said, Server, binary, free_port, tidelog};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::Instant;

use crate::bed::Bed;

/// The command failed with this code, and said why in lines that people can read, the last of them the cause.
fn failed(said: &Said, code: i32, says: &[&str]) {
    println!("{:?}: {}", said.code, said.err.trim());
    assert_eq!(said.code, Some(code), "{}", said.err);
    for text in says {
        assert!(said.err.contains(text), "it does not say {text:?}: {}", said.err);
    }
    for bad in ["panicked", "backtrace", "Error {", "Status {"] {
        assert!(!said.err.contains(bad), "{}", said.err);
    }
    assert_eq!(said.err.lines().filter(|line| line.starts_with("tidelog: ")).count(), 1, "{}", said.err);
}

async fn consumed(server: &Server, topic: &str) -> Vec<u8> {
    server.run(&["consume", topic, "--offset", "start", "--exit-at-end"], "").await.ok().out
}

#[tokio::test]
async fn input_that_cannot_be_read_is_named() {
    let mut bed = Bed::new().await;
    let own = tempfile::tempdir().expect("a directory");
    let missing = own.path().join("missing");
    let missing = missing.to_str().expect("a test's path");
    failed(&bed.server.run(&["produce", "t", missing], "").await, 3, &[missing]);
    let directory = own.path().to_str().expect("a test's path");
    failed(&bed.server.run(&["produce", "t", directory], "").await, 1, &[directory]);
    // A file that opens, and whose first page cannot be read.
    failed(&bed.server.run(&["produce", "t", "/proc/self/mem"], "").await, 1, &["/proc/self/mem"]);
    let empty = bed.server.run(&["produce", "t", ""], "").await;
    assert_eq!(empty.code, Some(2), "{}", empty.err);
    // A dash is standard input, which may be empty.
    bed.server.run(&["produce", "t", "-"], "a\nb").await.ok();
    bed.server.run(&["produce", "t", "-"], "").await.ok();
    assert_eq!(consumed(&bed.server, "t").await, b"a\nb\n");
    bed.is_well().await;
}

#[tokio::test]
async fn lines_that_are_too_long_or_no_text() {
    let mut bed = Bed::new().await;
    // 40 MiB without a newline, behind two lines that are sound.
    let mut huge = b"first\nsecond\n".to_vec();
    huge.resize(40 << 20, b'x');
    failed(&bed.server.run(&["produce", "huge"], huge).await, 1, &["line 3", "max.message.bytes"]);
    assert_eq!(consumed(&bed.server, "huge").await, b"first\nsecond\n", "what was read before is kept");

    // Values are bytes: no UTF-8, carriage returns and NUL come back as they were.
    let odd = b"\xff\xfe\r\n\0\n\n\xc3\x28\n".to_vec();
    bed.server.run(&["produce", "odd"], odd.clone()).await.ok();
    assert_eq!(consumed(&bed.server, "odd").await, odd);

    for (line, says) in [
        (b"{\"value\":\"\xff\"}\n".to_vec(), "line 1"),
        (b"{\"value\":\"a\"}\nnonsense\n".to_vec(), "line 2"),
        (b"{\"value\":\"a\",\"valeu\":\"b\"}\n".to_vec(), "line 1"),
        (b"{\"partition\":-1}\n".to_vec(), "line 1"),
        (b"{\"timestamp\":1e99}\n".to_vec(), "line 1"),
        ([b"[".repeat(100_000), b"\n".to_vec()].concat(), "line 1"),
    ] {
        failed(&bed.server.run(&["produce", "json", "--input", "json"], line).await, 1, &[says]);
    }
    failed(&bed.server.run(&["produce", "keyed", "-K", ":"], "a:b\nnone\n").await, 1, &["line 2"]);
    assert_eq!(consumed(&bed.server, "keyed").await, b"b\n");
    bed.is_well().await;
}

#[tokio::test]
async fn names_and_numbers_that_are_wrong_are_usage_errors() {
    let mut bed = Bed::new().await;
    bed.topic("t", 1, &[]).await;
    let long = "x".repeat(10 * 1024);
    for arguments in [
        vec!["topic", "create", ""],
        vec!["topic", "create", ".."],
        vec!["topic", "create", "a/b"],
        vec!["topic", "create", "caf\u{e9}"],
        vec!["topic", "create", &long],
        vec!["topic", "create", "n", "--partitions", "0"],
        vec!["topic", "create", "n", "--partitions", "-1"],
        vec!["topic", "create", "n", "--partitions", "2147483648"],
        vec!["topic", "create", "n", "--config", "max.message.bytes"],
        vec!["topic", "create", "n", "--config", "max.message.bytes=1"],
        vec!["topic", "create", "n", "--config", "nonsense=1"],
        vec!["topic", "trim", "t", "--partition", "0", "--before", "-1", "--yes"],
        vec!["topic", "trim", "t", "--partition", "-1", "--before", "end", "--yes"],
        vec!["produce", "a b"],
        vec!["produce", "t", "--partition", "-1"],
        vec!["produce", "t", "--compression", "rar"],
        vec!["produce", "t", "--header", "nocolon"],
        vec!["consume", "t", "--offset", "nonsense"],
        vec!["consume", "t", "--partition", "-1"],
        vec!["nonsense"],
        vec![],
    ] {
        let said = bed.server.run(&arguments, "").await;
        assert_eq!(said.code, Some(2), "{:.80?}: {}", arguments, said.err);
        assert!(said.out.is_empty() && !said.err.is_empty(), "{:.80?}", arguments);
        assert!(!said.err.contains("panicked"), "{}", said.err);
        assert!(said.err.len() < 16 * 1024, "{} bytes of error", said.err.len());
    }
    for arguments in [
        vec!["topic", "describe", "nowhere"],
        vec!["topic", "delete", "nowhere", "--yes"],
        vec!["topic", "configure", "nowhere", "max.message.bytes=2048"],
        vec!["consume", "nowhere", "--exit-at-end"],
        vec!["consume", "t", "--partition", "7", "--exit-at-end"],
        vec!["produce", "t", "--partition", "7"],
    ] {
        failed(&bed.server.run(&arguments, "x\n").await, 3, &[]);
    }
    failed(&bed.server.run(&["topic", "create", "t"], "").await, 6, &["t"]);
    bed.is_well().await;
}

#[tokio::test]
async fn what_destroys_has_to_be_confirmed() {
    let mut bed = Bed::new().await;
    bed.server.run(&["produce", "kept"], "one\n").await.ok();
    failed(&bed.server.run(&["topic", "delete", "kept"], "y\n").await, 2, &["kept", "--yes"]);
    let trim = ["topic", "trim", "kept", "--partition", "0", "--before", "end"];
    failed(&bed.server.run(&trim, "y\n").await, 2, &["kept", "--yes"]);
    assert_eq!(consumed(&bed.server, "kept").await, b"one\n");
    bed.server.run(&["topic", "delete", "kept", "--yes"], "").await.ok();
    failed(&bed.server.run(&["topic", "describe", "kept"], "").await, 3, &["kept"]);
    bed.is_well().await;
}

#[tokio::test]
async fn an_endpoint_where_nobody_answers_is_named_in_time() {
    // One that refuses, one that is silent, one that says something else.
    let refusing = format!("http://127.0.0.1:{}", free_port());
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let silent_url = format!("http://{}", silent.local_addr().expect("bound"));
    let http1 = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let http1_url = format!("http://{}", http1.local_addr().expect("bound"));
    let speaking = tokio::spawn(async move {
        while let Ok((mut socket, _)) = http1.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 64];
                let _ = socket.read(&mut asked).await;
                let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            });
        }
    });
    for (what, endpoint) in [("refusing", &refusing), ("silent", &silent_url), ("HTTP/1.1", &http1_url)] {
        let host = endpoint.trim_start_matches("http://");
        for arguments in [vec!["topic", "list"], vec!["produce", "t"], vec!["consume", "t", "--exit-at-end"]]
        {
            let started = Instant::now();
            let said = tokio::time::timeout(
                Duration::from_secs(100),
                tidelog(Some(endpoint), &arguments, b"x\n".to_vec()),
            );
            let said = said.await.unwrap_or_else(|_| panic!("{what}: {arguments:?} does not end"));
            println!("{what} {arguments:?} after {:?}", started.elapsed());
            failed(&said, 5, &[host]);
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "{what}: {arguments:?} took {:?}",
                started.elapsed()
            );
        }
    }
    speaking.abort();
    for endpoint in
        ["https://127.0.0.1:1", "ftp://x", "http://", "http://x:99999", "http://user:pw@x", "::", ""]
    {
        let said = tidelog(Some(endpoint), &["topic", "list"], Vec::new()).await;
        assert_eq!(said.code, Some(2), "{endpoint}: {}", said.err);
        assert!(!said.err.contains("panicked"), "{}", said.err);
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_panic() {
    let mut bed = Bed::new().await;
    let rows: String = (0..200_000).map(|n| format!("row {n}\n")).collect();
    bed.server.run(&["produce", "long"], rows).await.ok();
    let endpoint = bed.server.endpoint();
    for consume in [
        "consume long --offset start",
        "consume long --offset start --exit-at-end --format json",
        "topic list",
    ] {
        let script = format!(
            "'{}' {consume} --endpoint {endpoint} | head -n 1; echo ${{PIPESTATUS[0]}}",
            binary().display()
        );
        let output = Command::new("bash").args(["-c", &script]).kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_secs(30), output).await;
        let output = output.unwrap_or_else(|_| panic!("{consume} does not end")).expect("bash is there");
        let (said, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let code = said.lines().last().and_then(|code| code.parse::<i32>().ok()).expect("an exit code");
        println!("{consume}: {code} {error}");
        assert!(!error.contains("panicked") && !error.contains("backtrace"), "{error}");
        assert!(code <= 1 || code == 141, "{consume}: {code} {error}");
    }
    // A standard output that cannot be written to is a failure.
    let script = format!("'{}' topic list --endpoint {endpoint} > /dev/full", binary().display());
    let output = Command::new("bash").args(["-c", &script]).output().await.expect("bash is there");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("standard output"), "{error}");
    bed.is_well().await;
}
