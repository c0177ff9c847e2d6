//! Services end with the one who started them, however that one ends, and leave nothing behind but a log.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidelog_test_services::{Kind, Mode, Service, require};
use tokio::net::TcpStream;

/// A runner gives its service 5 s to end by itself before it kills it.
const GONE_WITHIN: Duration = Duration::from_secs(8);

/// The processes of the run that wrote this log: all of them inherited its mark.
fn processes_of(log: &Path) -> Vec<String> {
    let run = log.file_stem().unwrap().to_str().unwrap();
    let mark = format!("/run/{run}\0");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        // Processes end while we look.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        if environment
            .split_inclusive('\0')
            .any(|one| one.starts_with("TIDELOG_SERVICE_RUN=") && one.ends_with(&mark))
        {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&command).replace('\0', " "));
        }
    }
    found
}

/// What the service keeps while it runs.
fn data_of(log: &Path) -> std::path::PathBuf {
    log.parent().unwrap().with_file_name("run").join(log.file_stem().unwrap())
}

async fn assert_gone(authority: &str, log: &Path) {
    assert!(TcpStream::connect(authority).await.is_err(), "something still listens on {authority}");
    assert_eq!(processes_of(log), Vec::<String>::new());
    assert!(!data_of(log).exists(), "{} is left", data_of(log).display());
    assert!(log.exists(), "the log stays");
}

async fn stops(kind: Kind) {
    // Skips if services are switched off; the service it starts stays, so that one of two is stopped.
    if require(kind).await.is_none() {
        return;
    }
    let service = Service::start(kind).await.unwrap();
    let (authority, log) = (service.authority().to_owned(), service.log_file().to_owned());
    assert!(!processes_of(&log).is_empty(), "this test finds the processes of a running service");
    assert!(data_of(&log).exists());
    service.stop().await;
    assert_gone(&authority, &log).await;
    let other = require(kind).await.unwrap();
    assert!(TcpStream::connect(other.authority()).await.is_ok(), "the other {kind} runs on");
}

/// A starter that gets SIGKILL can clean up nothing.
async fn ends_with_a_killed_starter(kind: Kind) {
    if Mode::from_env().unwrap() == Mode::None {
        require(kind).await;
        return;
    }
    let mut starter = Command::new(env!("CARGO_BIN_EXE_tidelog-services"))
        .args(["up", kind.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // "# minio      http://127.0.0.1:20000   log /.../minio-1-0.log"
    let mut first_line = String::new();
    BufReader::new(starter.stdout.take().unwrap()).read_line(&mut first_line).unwrap();
    let words: Vec<&str> = first_line.split_whitespace().collect();
    let (authority, log) = (words[2].strip_prefix("http://").unwrap(), Path::new(words[4]));
    assert!(TcpStream::connect(authority).await.is_ok());

    starter.kill().unwrap();
    starter.wait().unwrap();
    let deadline = tokio::time::Instant::now() + GONE_WITHIN;
    while data_of(log).exists() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_gone(authority, log).await;
}

#[tokio::test]
async fn minio_ends() {
    stops(Kind::Minio).await;
    ends_with_a_killed_starter(Kind::Minio).await;
}

#[tokio::test]
async fn dynamodb_local_ends() {
    stops(Kind::DynamoDbLocal).await;
    ends_with_a_killed_starter(Kind::DynamoDbLocal).await;
}

#[tokio::test]
async fn local_stack_ends() {
    stops(Kind::LocalStack).await;
    ends_with_a_killed_starter(Kind::LocalStack).await;
}

#[tokio::test]
async fn seaweed_fs_ends() {
    stops(Kind::SeaweedFs).await;
    ends_with_a_killed_starter(Kind::SeaweedFs).await;
}
