//! The client sends each request once, whatever comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidelog_metadata_dynamodb::{DynamoDbLog, DynamoDbUrl};
use tidelog_metadata_log::{Append, MetadataLog};
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Accepts requests, counts them, and ends each as told: with these bytes, or by closing the connection without a word.
async fn counting_server(answer: Option<&'static str>) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = vec![0; 64 * 1024];
            // Headers and the few bytes of body arrive within one or two reads; the first is enough to count.
            if connection.read(&mut request).await.is_ok_and(|length| length > 0) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            if let Some(answer) = answer {
                let _ = connection.write_all(answer.as_bytes()).await;
            }
        }
    });
    (port, requests)
}

const UNAVAILABLE: &str =
    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn an_append_is_one_request() {
    for answer in [None, Some(UNAVAILABLE)] {
        let (port, requests) = counting_server(answer).await;
        let url = DynamoDbUrl::parse(&format!(
            "dynamodb://tidelog?endpoint=http://127.0.0.1:{port}&region=us-east-1"
        ))
        .expect("a URL")
        .with_static_credentials("id", "secret");
        let log = DynamoDbLog::connect(&url).await.expect("a client");
        let outcome = log.append(ShardId::ZERO, Place::begin_of(LogEpoch::ZERO), "x".into()).await;
        assert!(matches!(&outcome, Append::Unknown(error) if error.retryable), "{outcome:?}");
        assert_eq!(requests.load(Ordering::SeqCst), 1, "{answer:?}");
        log.read(ShardId::ZERO, LogEpoch::ZERO, LogSeq::ZERO, 1).await.expect_err("not absent");
        assert_eq!(requests.load(Ordering::SeqCst), 2, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_within_seconds() {
    // Accepts and never answers. Virtual time jumps to the time-out as soon as everything waits.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let url =
        DynamoDbUrl::parse(&format!("dynamodb://tidelog?endpoint=http://127.0.0.1:{port}&region=us-east-1"))
            .expect("a URL")
            .with_static_credentials("id", "secret");
    let log = DynamoDbLog::connect(&url).await.expect("a client");
    let started = tokio::time::Instant::now();
    let outcome = log.append(ShardId::ZERO, Place::begin_of(LogEpoch::ZERO), "x".into()).await;
    assert!(matches!(&outcome, Append::Unknown(error) if error.retryable), "{outcome:?}");
    assert!(started.elapsed().as_secs() <= 4, "{:?}", started.elapsed());
}
